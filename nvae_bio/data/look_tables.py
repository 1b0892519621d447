"""A look into matrices of counts and features that are no AnnData: 10x files and folders, tables."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from nvae_bio.data.files import read_file
from nvae_bio.data.inside import check_hdf5
from nvae_bio.data.look import SEEN_VALUES, Look, MatrixLook, pieces
from nvae_bio.errors import UserError

SEEN_LINES = 2_000  # of a table whose values are looked at
NO_OBS = "the file says nothing of its cells: give the classes in a table of barcodes (label_table)"
FEW_COLUMNS = 50  # numeric columns from which on a table of whole numbers is one of counts
MITO = ("MT-", "mt-")  # how names of genes begin that tell rows of genes from rows of cells


def look_into_10x(path: Path) -> Look:
    """What is in a 10x .h5, of Cell Ranger 2 or 3: its sizes, and some of its values."""
    return read_file(path, _look_into_10x, "a 10x .h5 file")


def _look_into_10x(path: Path) -> Look:
    check_hdf5(path)
    with h5py.File(path, "r") as file:
        group = next((one for one in file.values() if isinstance(one, h5py.Group) and "barcodes" in one), None)
        if group is None or not {"data", "shape"} <= set(group):
            raise UserError(f"{path}: no matrix with barcodes in it; expected a 10x .h5 file")
        n_genes, n_cells = (int(size) for size in group["shape"][:])
        data = group["data"]
        values = np.concatenate([data[piece] for piece in pieces(len(data), SEEN_VALUES)])
        names = group["features/name"] if "features" in group else group["gene_names"]
        genes = pd.Index([name.decode() for name in names[:]])
        obs = pd.DataFrame(index=[name.decode() for name in group["barcodes"][:]])
        matrix = MatrixLook("X", n_genes, len(data), values, names=genes)
    return Look(path, "matrix", "a 10x .h5 file", n_cells, obs, (matrix,), notes=(NO_OBS,))


def look_into_mtx(folder: Path) -> Look:
    """What is in a 10x mtx folder: the header of its matrix, and its first values."""
    path = next((found for name in ("matrix.mtx", "matrix.mtx.gz") if (found := folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no matrix.mtx or matrix.mtx.gz in it; expected a 10x mtx folder")
    n_genes, n_cells, n_stored, values = read_file(path, _mtx_head, "a matrix of a 10x mtx folder")
    barcodes = next((found for name in ("barcodes.tsv", "barcodes.tsv.gz") if (found := folder / name).is_file()), None)
    if barcodes is None:
        raise UserError(f"{folder}: no barcodes.tsv or barcodes.tsv.gz in it; expected a 10x mtx folder")
    names = read_file(barcodes, lambda path: pd.read_csv(path, sep="\t", header=None, dtype=str)[0], "barcodes")
    matrix = MatrixLook("X", n_genes, n_stored, values)
    obs = pd.DataFrame(index=pd.Index(names.to_numpy(dtype=object)))
    return Look(folder, "matrix", "a 10x mtx folder", n_cells, obs, (matrix,), notes=(NO_OBS,))


def _mtx_head(path: Path) -> tuple[int, int, int, np.ndarray]:
    with _text(path) as file:
        lines = (line for line in file if not line.startswith("%"))
        n_genes, n_cells, n_stored = (int(word) for word in next(lines).split())
        values = [float(line.split()[2]) for line in islice(lines, SEEN_VALUES)]
    return n_genes, n_cells, n_stored, np.array(values)


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield file


def look_into_table(path: Path, keys: Collection[str] = ()) -> Look:
    """What is in a .csv, .tsv (plain or .gz) or .parquet: some lines, and the columns that are no features.

    Columns of text, those named in `keys`, and without keys those of few whole numbers, are read whole: they may say
    something of the samples.
    """
    return read_file(path, lambda path: _look_into_table(path, keys), "a table")


def _look_into_table(path: Path, keys: Collection[str]) -> Look:
    is_parquet = path.name.lower().endswith(".parquet")
    head, n_rows = _parquet_head(path) if is_parquet else _text_head(path)
    if head.empty or not len(head.columns):
        raise UserError(f"{path}: the table has no rows or no columns")
    is_number = np.array([pd.api.types.is_numeric_dtype(kind) for kind in head.dtypes], dtype=bool)
    is_number &= ~head.columns.isin(list(keys))
    features = head.loc[:, is_number]
    described = [str(name) for name in head.columns[~is_number]]
    if not keys and features.shape[1] < FEW_COLUMNS:
        described += [str(name) for name in features if _could_be_levels(features[name])]
    obs = _columns(path, described, is_parquet)
    if described and not is_number[0]:
        obs = obs.set_index(obs[str(head.columns[0])].astype(str).rename(None))
    if not features.shape[1]:
        raise UserError(f"{path}: no column of numbers; expected a table of counts or features")
    rows = features.to_numpy(dtype=np.float64)
    names = features.columns.astype(str)
    matrix = MatrixLook("X", features.shape[1], n_rows * features.shape[1], rows.ravel(), rows, names)
    first = head.iloc[:, 0].astype(str) if not is_number[0] else pd.Series(head.index.astype(str))
    turned = first.str.startswith(MITO).any() and not names.str.startswith(MITO).any()
    if turned:
        note = "rows are called as genes are: read as genes × cells (transpose)"
        cells = pd.DataFrame(index=names)
        matrix = MatrixLook("X", n_rows, matrix.n_stored, rows.ravel(), rows.T, pd.Index(first))
        turned_on = {"transpose": True}
        return Look(path, "matrix", "a table of counts", len(names), cells, (matrix,), None, turned_on, (note, NO_OBS))
    return Look(path, "matrix", "a table", n_rows, obs, (matrix,))


def _could_be_levels(values: pd.Series) -> bool:
    """Whether a numeric column could be one of levels, such as a digit or a plate: few whole numbers."""
    known = values.dropna()
    return len(known) > 0 and bool((known == known.round()).all()) and known.nunique() <= 30


def _text_head(path: Path) -> tuple[pd.DataFrame, int]:
    """The first lines, and the number of all."""
    head = pd.read_csv(path, sep=_separator(path), nrows=SEEN_LINES)
    if len(head) < SEEN_LINES:
        return head, len(head)
    with _text(path) as file:
        return head, sum(bool(line.strip()) for line in file) - 1


def _parquet_head(path: Path) -> tuple[pd.DataFrame, int]:
    file = pq.ParquetFile(path)
    batch = next(file.iter_batches(batch_size=SEEN_LINES), None)
    return (pd.DataFrame() if batch is None else batch.to_pandas()), int(file.metadata.num_rows)


def _columns(path: Path, names: list[str], is_parquet: bool) -> pd.DataFrame:
    """Some columns, whole."""
    if is_parquet:
        found: pd.DataFrame = pq.read_table(path, columns=names).to_pandas()
        return found
    options: dict[str, Any] = {"sep": _separator(path), "low_memory": False}
    frame: pd.DataFrame = pd.read_csv(path, usecols=lambda name: str(name) in names, **options)
    return frame


def _separator(path: Path) -> str:
    return "\t" if ".tsv" in path.name.lower() else ","
