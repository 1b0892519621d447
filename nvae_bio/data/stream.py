"""Counts that are read some cells at a time, so that a matrix larger than the memory is never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

from nvae_bio.config import CountsSettings
from nvae_bio.data.counts import (
    LIBRARY_COLUMN,
    clean_counts,
    counts_from_anndata,
    library_of,
    read_count_file,
    row_sums,
)
from nvae_bio.data.files import read_file, unreadable
from nvae_bio.data.inside import check_hdf5, check_links
from nvae_bio.data.join import join_label_table, join_parts
from nvae_bio.data.matrix import check_exists, check_numbers, check_sparse
from nvae_bio.data.names import names_may_repeat, part_names, unique_names
from nvae_bio.data.removed import RemovalLog

CHUNK = 4096  # cells at a time
DENSE_BYTES = 64 * 2**20  # of a dense matrix at a time, at most


@dataclass(frozen=True)
class CountRows:
    """Cells × genes, gone through from the start as often as is asked for.

    Attributes:
        read: begins to read the cells in order, CSR float32 whole numbers, some at a time.
        rows: which cells are taken, (n,) booleans; None for all.
    """

    read: Callable[[], Iterator[sparse.csr_matrix]]
    rows: np.ndarray | None = None

    def __iter__(self) -> Iterator[sparse.csr_matrix]:
        done = 0
        for chunk in self.read():
            here = slice(done, done + chunk.shape[0])
            done = here.stop
            taken = chunk if self.rows is None else chunk[self.rows[here]]
            if taken.shape[0]:
                yield taken

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> CountRows:
        """Of a matrix in memory."""
        return cls(lambda: (matrix[start : start + CHUNK] for start in range(0, matrix.shape[0], CHUNK)))


@dataclass
class CountSource:
    """Counts as a reader finds them, checked but not yet filtered.

    Attributes:
        obs: of all cells, without `LIBRARY_COLUMN`.
        var: of the genes that all files share.
        cells: the counts; what no count can be is found while they are gone through.
        library: all counts of each cell (n,), once the cells have been gone through.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    cells: CountRows
    library: Callable[[], np.ndarray]

    @classmethod
    def of(cls, counts: AnnData) -> CountSource:
        """What `read_counts` and the like return."""
        library, obs = counts.obs[LIBRARY_COLUMN].to_numpy(), counts.obs.drop(columns=LIBRARY_COLUMN)
        return cls(obs, counts.var, CountRows.of(counts.X), lambda: library)


@dataclass
class _Part:
    """One file: `table` has its obs and var and no matrix."""

    table: AnnData
    read: Callable[[], Iterator[Any]]
    settings: CountsSettings
    where: str
    in_file: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.obs = self.table.obs.copy()  # the table's own changes where files are joined

    def chunks(self, genes: np.ndarray) -> Iterator[sparse.csr_matrix]:
        """The counts of some genes, and beside it all counts of each cell are summed."""
        self.in_file = []
        for values in self.read():
            counts = clean_counts(values, f"{self.where}: matrix {self.settings.matrix!r}")
            self.in_file.append(row_sums(counts))
            if not np.array_equal(genes, np.arange(counts.shape[1])):
                counts = counts[:, genes]
                counts.sort_indices()
            yield counts

    def library(self) -> np.ndarray:
        """All counts of each cell, once the cells have been gone through."""
        return library_of(self.obs, np.concatenate(self.in_file), self.settings, self.where)


def open_counts(settings: CountsSettings, log: RemovalLog, scratch: Path) -> CountSource:
    """All files of the settings, joined as `read_counts` joins them, whose matrices stay on the disk.

    .h5ad and .zarr whose matrix is stored by cells are read in place; any other file is read once, by itself, and laid
    out by cells in `scratch`.

    Args:
        settings: with `paths`.
        log: takes a row for whatever is left out.
        scratch: a folder that is there for as long as the source is used.

    Raises:
        UserError: a file that is missing, broken, of an unknown kind, or has no such matrix; and, while the cells are
            gone through, one that holds no counts.
    """
    names = part_names(settings.paths)
    with names_may_repeat():
        parts = [
            _open_part(Path(path), settings, log, scratch / f"{number}.h5ad")
            for number, path in enumerate(settings.data_paths)
        ]
    genes = [part.table.var_names for part in parts]
    joined = join_parts([part.table for part in parts], names, settings, log, what="genes")
    if settings.label_table is not None:
        join_label_table(joined, settings, log)
    columns = [of_part.get_indexer(joined.var_names) for of_part in genes]

    def read() -> Iterator[sparse.csr_matrix]:
        for part, own in zip(parts, columns, strict=True):
            yield from part.chunks(own)

    def library() -> np.ndarray:
        return np.concatenate([part.library() for part in parts])

    return CountSource(joined.obs, joined.var, CountRows(read), library)


def _open_part(path: Path, settings: CountsSettings, log: RemovalLog, scratch: Path) -> _Part:
    """One file, in place if its matrix can be read by cells."""
    place = _place_of(settings.matrix)
    if path.suffix.lower() in (".h5ad", ".zarr") and path.exists():
        found = read_file(path, lambda path: _look_into(path, settings.matrix), "AnnData")
        if found is not None:
            obs, var = found
            obs.index = unique_names(obs.index, "barcode", str(path), settings.make_unique)
            var.index = unique_names(var.index, "gene", str(path), settings.make_unique)
            table = AnnData(obs=obs, var=var)
            return _Part(table, lambda: stored_rows(path, place), settings, str(path))
    counts = counts_from_anndata(read_count_file(path, settings, log), settings, str(path))
    with h5py.File(scratch, "w") as file:
        write_elem(file, "X", counts.X)
    table = AnnData(obs=counts.obs.drop(columns=LIBRARY_COLUMN), var=counts.var)
    return _Part(table, lambda: stored_rows(scratch, "X"), settings, str(path))


def _place_of(matrix: str) -> str:
    return "raw/X" if matrix == "raw" else matrix


def _look_into(path: Path, matrix: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """obs and var of the matrix; None where it is stored in a way that cannot be read by cells.

    Raises:
        UserError: no such matrix, no numbers, or nothing in it.
    """
    check_links(path) if path.is_dir() else check_hdf5(path)
    with opened(path) as group:
        existing = [name for name in ("X", "raw") if name in group]
        check_exists(matrix, existing + [f"layers/{name}" for name in group.get("layers", ())], str(path))
        values = stored_matrix(group[_place_of(matrix)])
        if values is None:
            return None
        check_numbers(values, matrix, str(path))
        return read_elem(group["obs"]), read_elem(group["raw/var" if matrix == "raw" else "var"])


def stored_matrix(stored: Any) -> Any:
    """The matrix as something that gives rows when it is sliced; None where that would mean reading all of it."""
    if isinstance(stored, (h5py.Dataset, zarr.Array)):
        return stored if stored.ndim == 2 else None
    if stored.attrs.get("encoding-type") == "csr_matrix":
        rows = sparse_dataset(stored)
        return rows if len(rows.shape) == 2 else None
    return None


def stored_rows(path: Path, place: str) -> Iterator[Any]:
    """The rows of a matrix in a file, some at a time."""
    with opened(path) as group:
        stored = stored_matrix(group[place])
        size = CHUNK
        if not isinstance(group[place], (h5py.Group, zarr.Group)):
            size = int(np.clip(DENSE_BYTES // max(stored.shape[1] * stored.dtype.itemsize, 1), 1, CHUNK))
        for start in range(0, stored.shape[0], size):
            yield _read_rows(path, stored, slice(start, start + size))


def _read_rows(path: Path, stored: Any, rows: slice) -> Any:
    try:
        values = stored[rows]
    except Exception as error:  # a library's complaint about the file, whatever its type
        raise unreadable(path, "AnnData", error) from error
    check_sparse(values, str(path))
    return values


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The root group of an .h5ad or .zarr, open within the block."""
    if path.suffix.lower() == ".zarr":
        yield zarr.open_group(path, mode="r")
        return
    with h5py.File(path, "r") as file:
        yield file
