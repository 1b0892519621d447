"""Tables of a page: text in cells, links, and marks that say the same in a word and a sign."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Link(NamedTuple):
    """A cell that leads to a place of the page."""

    text: str
    href: str


class Mark(NamedTuple):
    """A word with the class of its colour: active, inactive, under-powered, pass, fail, undecided."""

    text: str
    kind: str


Cell = str | Link | Mark


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        head: names of the columns; the first column names the rows.
        rows: cells, as many in each row as there are columns.
        numbers: columns that are aligned as numbers.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = field(default_factory=frozenset)


def make_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], numbers: Iterable[int] = ()) -> Table:
    """A table of what any iterable gives."""
    return Table(caption, head, list(rows), frozenset(numbers))


def number(value: Any, digits: int = 2) -> str:
    """A number as the report has it; a dash where there is none.

    >>> [number(value) for value in (1.236, -0.001, float("nan"), None)]
    ['1.24', '0.00', '–', '–']
    """
    if value is None or not np.isfinite(float(value)):
        return "–"
    return f"{round(float(value), digits) + 0.0:.{digits}f}"


def with_interval(value: Any, lower: Any, upper: Any) -> str:
    """A number with its interval, where that is known.

    >>> with_interval(1.5, 1, 2), with_interval(1.5, float("nan"), 2)
    ('1.50 [1.00, 2.00]', '1.50')
    """
    known = np.isfinite([float(lower), float(upper)]).all()
    return f"{number(value)} [{number(lower)}, {number(upper)}]" if known else number(value)


def small(value: Any) -> str:
    """A p or q.

    >>> [small(value) for value in (0.0312, 2e-7, 1.0, float("nan"))]
    ['0.031', '2e-07', '1', '–']
    """
    if not np.isfinite(float(value)):
        return "–"
    return f"{float(value):.2g}"


def count(value: Any) -> str:
    """A whole number.

    >>> count(12345)
    '12,345'
    """
    return f"{int(value):,}"


def text_of(value: Any) -> str:
    """Whatever a table has, as text; nothing where it is missing."""
    return "" if value is None or (not isinstance(value, str) and bool(pd.isna(value))) else str(value)


def flattened(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Settings as lines: key, with dots between the levels, and value as JSON.

    >>> list(flattened({"model": {"n_shared": 8, "hidden": [16]}, "seed": None}))
    [('model.n_shared', '8'), ('model.hidden', '[16]'), ('seed', 'null')]
    """
    for key, value in values.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from flattened(value, name)
        else:
            yield name, json.dumps(value, ensure_ascii=False)
