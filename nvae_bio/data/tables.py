"""Tables as text or parquet, read with pandas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nvae_bio.data.files import read_file
from nvae_bio.errors import UserError

TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def is_table(path: Path) -> bool:
    """Whether the file's ending is one that `read_frame` knows."""
    return path.name.lower().endswith(TABLE_ENDINGS)


def _check_ending(path: Path) -> None:
    if not is_table(path):
        raise UserError(f"{path}: unknown file ending for a table; allowed: {', '.join(TABLE_ENDINGS)}")


def _separator(path: Path) -> str:
    return "\t" if ".tsv" in path.name.lower() else ","


def _is_text(path: Path) -> bool:
    return not path.name.lower().endswith(".parquet")


def text_column(path: Path, key: str | None = None) -> str | None:
    """The column with the names of the rows, to be read as text so that `007` stays `007`.

    Args:
        path: a table.
        key: its name; default: the first column.

    Returns:
        Its name; None for parquet (which has types of its own) and where the first column has no header.
    """
    _check_ending(path)
    if not _is_text(path):
        return None
    head = read_file(path, lambda file: pd.read_csv(file, sep=_separator(path), nrows=5), "a csv or tsv table")
    if key is not None:
        return key
    return str(head.columns[0]) if isinstance(head.index, pd.RangeIndex) and len(head.columns) else None


def read_frame(path: Path, text: str | None = None) -> pd.DataFrame:
    """A .csv/.tsv(.gz) or .parquet table.

    Args:
        path: the table.
        text: a column to be read as text, whatever it holds.

    Returns:
        (rows, columns), with column names as they stand in the file, repeated ones included.

    Raises:
        UserError: no such file, unknown ending, not a table, no rows, or several names a row or column.
    """
    _check_ending(path)
    frame = read_file(path, pd.read_parquet if not _is_text(path) else lambda file: _read_text(file, text), "a table")
    if frame.empty:
        raise UserError(f"{path}: the table has no rows or no columns")
    for axis, what in ((frame.index, "row"), (frame.columns, "column")):
        if axis.nlevels > 1:
            raise UserError(
                f"{path}: each {what} has {axis.nlevels} names; allowed: one (has a line more values than the first?)"
            )
    return frame


def check_once(columns: pd.Index, where: str) -> None:
    """Refuse repeated columns: which of them is meant?

    Raises:
        UserError: naming the first one.
    """
    twice = columns[columns.duplicated()]
    if len(twice):
        raise UserError(f"{where}: column {str(twice[0])!r} stands more than once; allowed: once")


def _read_text(path: Path, text: str | None) -> pd.DataFrame:
    separator = _separator(path)
    frame = pd.read_csv(path, sep=separator, dtype=None if text is None else {text: str}, low_memory=False)
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    names = [str(name) for name in header]
    if len(names) == len(frame.columns) and len(set(names)) < len(names):
        frame.columns = pd.Index(
            names
        )  # pandas renames repeated columns; whether that is allowed is the caller's to say
    return frame
