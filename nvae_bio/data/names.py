"""Names of samples, features and classes: text, and where they must be each only once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from nvae_bio.errors import UserError


@contextmanager
def names_may_repeat() -> Iterator[None]:
    """No warning about repeated names while a file is read: `unique_names` decides on them afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(Variable|Observation) names are not unique")
        yield


def as_text(values: pd.Series) -> pd.Series:
    """Values as text, missing or empty ones as None; 3.0 is `3`.

    >>> as_text(pd.Series([3.0, float("nan")])).tolist()
    ['3', None]
    """
    missing = values.isna().to_numpy()
    text = [None if gone else _text(value) for value, gone in zip(values.astype(object), missing, strict=True)]
    return pd.Series(text, index=values.index, dtype=object)


def _text(value: object) -> str | None:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return whole_text(str(value)) or None


def whole_text(text: str) -> str:
    """Text that HDF5 can hold: it ends at a character 0, which stands in damaged files alone.

    >>> whole_text("T\\0cell")
    'T\ufffdcell'
    """
    return text.replace("\0", "\ufffd")


def unique_names(names: pd.Index, what: str, where: str, make_unique: bool) -> pd.Index:
    """The names as text, each only once.

    Args:
        names: names of samples or features.
        what: what they name, for the message.
        where: the file they come from, for the message.
        make_unique: add `-1`, `-2`, … to repeated names.

    Raises:
        UserError: a name stands twice, and `make_unique` is off.
    """
    text: pd.Index = pd.Index([whole_text(name) for name in names.astype(str)], dtype=object)
    twice = text[text.duplicated()].unique()
    if twice.empty:
        return text
    if not make_unique:
        raise UserError(
            f"{where}: {what} {twice[0]!r} stands more than once ({len(twice)} such names); "
            "make_unique: true adds a suffix to repeated ones"
        )
    with warnings.catch_warnings():  # anndata warns that a suffixed name may look like another name
        warnings.simplefilter("ignore")
        unique: pd.Index = pd.Index(make_index_unique(text), dtype=object)
    return unique


def stem(path: Path) -> str:
    """File name without its endings.

    >>> stem(Path("data/donor_1.csv.gz"))
    'donor_1'
    """
    name = path.name
    while (ending := Path(name).suffix.lower()) in (
        *(".gz", ".csv", ".tsv", ".txt", ".parquet", ".h5ad", ".h5", ".zarr", ".npz"),
    ):
        name = name[: -len(ending)]
    return name


def part_names(paths: list[str] | dict[str, str]) -> list[str]:
    """A name for each of several files: the given one, or as much of the path's end as tells them apart.

    Raises:
        UserError: the same path twice.

    >>> part_names(["a/counts.csv", "b/counts.csv"])
    ['a_counts', 'b_counts']
    """
    if isinstance(paths, dict):
        return list(paths)
    resolved = [Path(path).absolute() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in paths if paths.count(path) > 1 or resolved.count(Path(path).absolute()) > 1)
        raise UserError(f"paths: {twice!r} stands twice")
    for depth in range(1, 1 + max(len(path.parts) for path in resolved)):
        names = ["_".join([*path.parts[-depth:-1], stem(path)]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [path.as_posix() for path in resolved]
