"""Which column of obs could be the class, the batch, the donor, the condition: by its name and by what it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from nvae_bio.data.names import as_text

Role = Literal["label", "donor", "batch", "condition"]
ROLES: tuple[Role, ...] = ("label", "donor", "condition", "batch")  # in the order in which columns are given away
MOST_LEVELS = 200  # of a class, a batch, a donor
SMALLEST = 20  # samples of a class that is not rare (`min_samples_per_class`)
STRONG, WEAK = 3.0, 1.5  # what a name is worth that says it outright, and one that hints at it
EXACT = 0.25  # and more where it is that word and no more
PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}  # what the levels of a split are called
NAMES: dict[Role, tuple[str, str]] = {  # what says it outright, and what hints at it
    "label": (
        r"cell_?type|cell_?ontology|cell_?class|annotation|labels?|classes|class|species|digit|target|phenotype|identity|y",
        r"clusters?|louvain|leiden|seurat|type|subject|person|group|instrument|kind|lineage|state|subset",
    ),
    "donor": (
        r"donor|patient|individual|participant|subject",
        r"mouse|animal|sample|replicate|ind|specimen|orig_?ident|person",
    ),
    "batch": (
        r"batch|plate|lane|chemistry|library_?(id|prep)|technology|protocol|platform|assay|sequencing_?run",
        r"run|chip|channel|pool|capture|dataset|study|site|lab|centre|center|tech|sample",
    ),
    "condition": (
        r"condition|stim(ulation|ulus)?|treatment|treated|disease|diagnosis|genotype|perturbation|infection",
        r"status|time_?point|time|day|dose|phase|group|state|sex|gender|tissue|stage",
    ),
}
UNKNOWN = re.compile(r"(un(known|assigned|labell?ed|classified|annotated|defined)|n/?a|nan|none|not assigned|\?)", re.I)


@dataclass(frozen=True)
class Column:
    """What a column of obs holds.

    Attributes:
        name: of it.
        n_levels: different values.
        n_missing: samples without one.
        n: samples.
        sizes: samples of each level, by its text, the most frequent first; of at most `MOST_LEVELS` levels.
        is_measure: numbers that are not whole: a measurement, no levels.
        is_number: numbers.
    """

    name: str
    n_levels: int
    n_missing: int
    n: int
    sizes: dict[str, int]
    is_measure: bool
    is_number: bool

    @property
    def has_levels(self) -> bool:
        """Whether it could tell groups of samples apart."""
        return 2 <= self.n_levels <= min(MOST_LEVELS, max(self.n // 2, 2)) and not self.is_measure

    @property
    def is_split(self) -> bool:
        """Whether it is the source's own split."""
        return (
            {"train", "training"} & {level.lower() for level in self.sizes} != set()
            and self.n_levels >= 2
            and {level.lower() for level in self.sizes} <= PARTS
        )

    @property
    def unknown(self) -> list[str]:
        """Levels that seem to say that nothing is known."""
        return [level for level in self.sizes if UNKNOWN.fullmatch(level)]

    @property
    def rare(self) -> dict[str, int]:
        """Levels of fewer samples than a class needs, but for those of nothing known."""
        return {level: n for level, n in self.sizes.items() if n < SMALLEST and level not in self.unknown}

    def __str__(self) -> str:
        missing = f"{self.n_missing:,} missing" if self.n_missing else "none missing"
        return f"{self.name} ({self.n_levels} levels, {missing})"


@dataclass(frozen=True)
class Candidate:
    """A column for a role, its rank and what speaks against it.

    Attributes:
        column: what it holds.
        score: the higher, the likelier.
        by_name: whether its name says so.
        against: why it is not taken by itself; empty for nothing.
    """

    column: Column
    score: float
    by_name: bool
    against: str = ""

    def __str__(self) -> str:
        return f"{self.column}{f': {self.against}' if self.against else ''}"


def look_at_columns(obs: pd.DataFrame) -> list[Column]:
    """What each column holds."""
    return [_column(str(name), obs.iloc[:, place]) for place, name in enumerate(obs.columns)]


def _column(name: str, values: pd.Series) -> Column:
    is_number = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
    known = values.dropna()
    is_measure = bool(is_number and len(known) and (known % 1 != 0).any())
    n_levels = int(known.nunique())
    sizes: dict[str, int] = {}
    if n_levels <= MOST_LEVELS and not is_measure:
        counts = as_text(values).value_counts()
        sizes = {str(level): int(n) for level, n in counts.items()}
        n_levels = len(sizes)
    n_missing = len(values) - sum(sizes.values()) if sizes else int(values.isna().sum())
    return Column(name, n_levels, n_missing, len(values), sizes, is_measure, is_number)


def candidates(columns: Iterable[Column], role: Role) -> list[Candidate]:
    """The columns that could have a role, the likeliest first.

    A class can be any column with levels; the others need a name that says so. More missing values, classes too small
    to train on, or numbers where one would expect words, count against a column.
    """
    found = []
    for column in columns:
        by_name = _by_name(column.name, role)
        if not column.has_levels or column.is_split or (role != "label" and not by_name):
            continue
        score = by_name - 2 * column.n_missing / max(column.n, 1)
        if role == "label":
            score += _as_class(column, by_name)
        found.append(Candidate(column, score, by_name > 0))
    return sorted(found, key=lambda one: (-one.score, one.column.n_levels, one.column.name))


def _as_class(column: Column, by_name: float) -> float:
    """What speaks for a column as the class, and against it, besides its name."""
    n_rare = len(column.rare)
    n_large = column.n_levels - n_rare
    score = 0.5 * (2 <= n_large <= 60) - n_rare / max(column.n_levels, 1) - 2.0 * (n_large < 2)
    score -= 0.5 * (column.is_number and not by_name)
    others = (_by_name(column.name, "batch"), _by_name(column.name, "donor"), _by_name(column.name, "condition"))
    return score - max(others) / STRONG


def _by_name(name: str, role: Role) -> float:
    """What the name says of the role: nothing, a hint, or all."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    words = re.sub(r"[^a-z0-9]+", "_", words)
    outright, hint = NAMES[role]
    if re.search(rf"(^|_)({outright})(_|s?$|\d)", words):
        return STRONG + EXACT * bool(re.fullmatch(rf"({outright})s?", words))
    return WEAK if re.search(rf"(^|_)({hint})(_|s?$|\d)", words) else 0.0


def is_nested(obs: pd.DataFrame, inner: str, outer: str) -> bool:
    """Whether each level of one column has one level of another alone.

    >>> frame = pd.DataFrame({"donor": ["a", "a", "b"], "sex": ["f", "f", "m"]})
    >>> is_nested(frame, "donor", "sex")
    True
    """
    pairs = pd.DataFrame({"inner": as_text(obs[inner]), "outer": as_text(obs[outer])}).dropna().drop_duplicates()
    return bool(len(pairs)) and not pairs["inner"].duplicated().any()


def nesting(obs: pd.DataFrame, columns: Sequence[Column]) -> list[str]:
    """Which columns lie within others, in words: levels of a finer one, or two names for one thing."""
    said = []
    for place, one in enumerate(columns):
        for other in columns[place + 1 :]:
            within, around = is_nested(obs, one.name, other.name), is_nested(obs, other.name, one.name)
            if within and around:
                said.append(f"{one.name} and {other.name} say the same")
            elif within or around:
                fine, coarse = (one, other) if within else (other, one)
                said.append(f"each level of {fine.name} has one level of {coarse.name} alone")
    return said
