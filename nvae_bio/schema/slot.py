"""What a description of a file is made of."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Where = Literal["X", "raw", "layers", "obs", "var", "obsm", "varm", "uns", "column"]

SYMBOLS = {
    "n": "samples",
    "G": "features",
    "C": "classes",
    "S": "shared dims",
    "K": "private dims of a class",
    "F": "factors",
    "P": "planted items",
}
ANY = "…"  # a length that nothing tells
EFFECT_UNIT = "effect unit"  # of the kind of data, told in uns["nvae"]["effect_unit"]


@dataclass(frozen=True)
class Slot:
    """One key of a kind of file, or one column of a table.

    Attributes:
        where: part of the AnnData, or `column` of a table.
        key: a part in braces stands for what differs from file to file; in uns `/` leads into a mapping.
        shape: lengths in symbols, as `n, S + C·K`; empty for one value.
        meaning: in words.
        unit: of its numbers; empty for none.
        when: where it is there; empty for always.
        columns: of a table, each its name, and its meaning behind `: ` where the name does not tell it.
    """

    where: Where
    key: str
    shape: str
    meaning: str
    unit: str = ""
    when: str = ""
    columns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is written in Python.

        >>> Slot("uns", "nvae/classes", "C", "names").name
        'uns["nvae"]["classes"]'
        """
        if self.where in ("X", "raw"):
            return self.where
        if self.where == "column":
            return self.key
        return self.where + "".join(f'["{part}"]' for part in self.key.split("/"))

    @property
    def column_names(self) -> list[str]:
        """Of a table, without their meanings."""
        return [column.partition(": ")[0] for column in self.columns]

    def matches(self, where: str, key: str) -> bool:
        """Whether a key of a file is this one.

        >>> Slot("varm", "effect_class_{i}", "G, K", "effects").matches("varm", "effect_class_12")
        True
        """
        pattern = re.sub(r"\\\{(\w+)\\\}", lambda of: r"\d+" if of[1] == "i" else ".+", re.escape(self.key))
        return where == self.where and re.fullmatch(pattern, key) is not None

    def lengths(self, sizes: Mapping[str, int]) -> tuple[int | None, ...]:
        """The shape in numbers; None for a length that nothing tells.

        >>> Slot("obsm", "X_nvae", "n, S + C·K", "latents").lengths({"n": 9, "S": 2, "C": 3, "K": 4})
        (9, 14)
        """
        parts = self.shape.split(", ") if self.shape else []
        return tuple(None if part == ANY else _length(part, sizes) for part in parts)


def _length(text: str, sizes: Mapping[str, int]) -> int:
    factors = [[int(one) if one.isdigit() else sizes[one] for one in term.split("·")] for term in text.split(" + ")]
    return sum(math.prod(term) for term in factors)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the kind; of a table that of its file.
        rows, columns: what these are; a table has no `columns`.
        slots: its own keys.
        inherited: keys that it has from the file that it was made of.
    """

    name: str
    rows: str
    columns: str
    slots: tuple[Slot, ...]
    inherited: tuple[Slot, ...] = ()

    @property
    def all_slots(self) -> tuple[Slot, ...]:
        """Its own keys before those that are taken over."""
        return self.slots + self.inherited

    def find(self, where: str, key: str) -> Slot | None:
        """The description of a key, a full name before a template."""
        found = [slot for slot in self.all_slots if slot.matches(where, key)]
        return min(found, key=lambda slot: "{" in slot.key, default=None)


def obs(key: str, meaning: str, unit: str = "", when: str = "") -> Slot:
    """A column of obs."""
    return Slot("obs", key, "n", meaning, unit, when)


def obsm(key: str, shape: str, meaning: str, unit: str = "", when: str = "") -> Slot:
    """A table of samples; `shape` without the n before it."""
    return Slot("obsm", key, f"n, {shape}", meaning, unit, when)


def var(key: str, meaning: str, unit: str = "", when: str = "") -> Slot:
    """A column of var."""
    return Slot("var", key, "G", meaning, unit, when)


def column(key: str, meaning: str, unit: str = "", when: str = "") -> Slot:
    """A column of a table."""
    return Slot("column", key, "", meaning, unit, when)


def of_factors(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """The same where the rows of the file are factors."""
    return tuple(replace(slot, shape=re.sub(r"^n\b", "F", slot.shape)) for slot in slots)


def at(where: Where, slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """Those of one part of the AnnData."""
    return tuple(slot for slot in slots if slot.where == where)
