"""Readers of counts. Each returns cells × genes as CSR float32 whole numbers, with the cell's library beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy
from anndata import AnnData
from scipy import sparse

from nvae_bio.config import CountsSettings
from nvae_bio.data.files import read_file, read_h5ad, read_zarr
from nvae_bio.data.inside import check_hdf5
from nvae_bio.data.join import join_parts
from nvae_bio.data.matrix import check_sparse, pick_matrix
from nvae_bio.data.mtx import read_mtx_folder
from nvae_bio.data.names import names_may_repeat, part_names, unique_names
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.tables import TABLE_ENDINGS, check_once, read_frame, text_column
from nvae_bio.errors import UserError, listed

LIBRARY_COLUMN = (
    "__library__"  # obs column between reader and prepared file; the source may have a `library` of its own
)
EXACT = 2**24  # largest count below which float32 holds every whole number
ALLOWED = "counts must be whole numbers, 0 or above"


def read_counts(settings: CountsSettings, log: RemovalLog) -> AnnData:
    """All files of the settings, joined over the genes that they share; the library counts all genes of each file.

    Raises:
        UserError: a file that is missing, broken, of an unknown kind, or holds no counts.
    """
    names = part_names(settings.paths)
    with names_may_repeat():
        parts = [
            counts_from_anndata(read_count_file(Path(path), settings, log), settings, path)
            for path in settings.data_paths
        ]
    return join_parts(parts, names, settings, log, what="genes")


def counts_from_anndata(adata: AnnData, settings: CountsSettings, where: str) -> AnnData:
    """The matrix that the settings name, checked, in a new object.

    Args:
        adata: cells × genes; not changed.
        settings: `matrix`, `library_key`, `make_unique`.
        where: the file, for messages.

    Returns:
        X CSR float32 whole numbers; obs with `LIBRARY_COLUMN`, counts.

    Raises:
        UserError: no such matrix, no counts in it, or repeated names.
    """
    values, var = pick_matrix(adata, settings.matrix, where)
    matrix = clean_counts(values, f"{where}: matrix {settings.matrix!r}")
    obs = adata.obs.copy()
    obs.index = unique_names(adata.obs_names, "barcode", where, settings.make_unique)
    var = var.set_axis(unique_names(var.index, "gene", where, settings.make_unique), axis=0)
    return with_library(AnnData(matrix, obs=obs, var=var), library_of(obs, row_sums(matrix), settings, where))


def clean_counts(values: sparse.spmatrix | np.ndarray, where: str) -> sparse.csr_matrix:
    """Some rows of counts as CSR float32, columns in order and no zeros stored; a copy.

    Raises:
        UserError: what no count can be.
    """
    matrix = sparse.csr_matrix(values, copy=True)
    matrix.sum_duplicates()
    check_counts(matrix.data, where)
    matrix = sparse.csr_matrix(matrix, dtype=np.float32)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def row_sums(matrix: sparse.csr_matrix) -> np.ndarray:
    """All counts of each row, (n,), float64."""
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()


def check_counts(values: np.ndarray, where: str) -> None:
    """Refuse what no count can be.

    Raises:
        UserError: NaN, infinite, negative, fractional or too large values.
    """
    for said, wrong in (("NaN", np.isnan), ("infinite", np.isinf), ("negative", lambda x: x < 0)):
        n_wrong = int(wrong(values).sum())
        if n_wrong:
            raise UserError(f"{where}: {n_wrong} values are {said}; {ALLOWED}")
    fractional = values[values != np.round(values)]
    if len(fractional):
        raise UserError(
            f"{where}: {len(fractional)} values are no whole numbers (such as {fractional[0]:g}): "
            "looks log-normalised: pass raw counts, or set kind: features"
        )
    if len(values) and values.max() > EXACT:
        raise UserError(f"{where}: a count of {values.max():g}; allowed: at most {EXACT}")


def with_library(counts: AnnData, library: np.ndarray) -> AnnData:
    """`counts` with the library (n,) in the obs column that carries it to the prepared file."""
    counts.obs[LIBRARY_COLUMN] = np.asarray(library, dtype=np.float64)
    return counts


def library_of(obs: pd.DataFrame, in_file: np.ndarray, settings: CountsSettings, where: str) -> np.ndarray:
    """All counts of each cell, (n,): of its genes in the file, or as `library_key` says.

    Args:
        obs: of the file.
        in_file: all counts of each cell in the file, (n,).
        settings: `library_key`.
        where: the file, for messages.

    Raises:
        UserError: no such column, or a library that is less than the counts in the file.
    """
    key = settings.library_key
    if key is None:
        return in_file
    if key not in obs:
        raise UserError(f"{where}: library_key: no obs column {key!r}; allowed: {listed(obs.columns)}")
    library: np.ndarray = pd.to_numeric(obs[key], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(library) | (library < in_file))
    if len(wrong):
        cell = wrong[0]
        raise UserError(
            f"{where}: library_key: {key!r} of cell {obs.index[cell]!r} is {obs[key].iloc[cell]}; "
            f"allowed: numbers that are at least the cell's counts in the file ({in_file[cell]:g})"
        )
    return library


def _read_10x_h5(path: Path) -> AnnData:
    check_hdf5(path)
    return scanpy.read_10x_h5(path, gex_only=False)


def _genes_only(counts: AnnData, where: str, log: RemovalLog) -> AnnData:
    """Of a 10x file with several types of features (antibodies, guides) only gene expression; one row of the log."""
    if "feature_types" not in counts.var:
        return counts
    check_sparse(counts.X, where)
    is_gene = (counts.var["feature_types"] == "Gene Expression").to_numpy()
    if not is_gene.any():
        found = listed(sorted(counts.var["feature_types"].astype(str).unique()))
        raise UserError(f"{where}: no feature of type 'Gene Expression'; found {found}")
    log.add("read", "features", f"no gene expression ({where})", int((~is_gene).sum()), int(is_gene.sum()))
    return AnnData(sparse.csr_matrix(counts.X)[:, is_gene], obs=counts.obs, var=counts.var[is_gene])


FORMATS: dict[str, Callable[[Path], AnnData]] = {
    ".h5ad": read_h5ad,
    ".zarr": read_zarr,
    ".h5": partial(read_file, reader=_read_10x_h5, what="a 10x .h5 file"),
}


def read_count_file(path: Path, settings: CountsSettings, log: RemovalLog) -> AnnData:
    """One file of counts, by its ending; a folder without a known ending is a 10x mtx folder."""
    for ending, reader in FORMATS.items():
        if path.name.lower().endswith(ending):
            counts = reader(path)
            return _genes_only(counts, str(path), log) if ending == ".h5" else counts
    if path.name.lower().endswith(TABLE_ENDINGS):
        return _read_table(path, settings)
    if path.is_dir():
        return _genes_only(read_mtx_folder(path), str(path), log)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; expected {listed([*FORMATS, *TABLE_ENDINGS])} or a 10x mtx folder"
        )
    raise UserError(f"{path}: unknown file ending; allowed: {listed([*FORMATS, *TABLE_ENDINGS])} or a 10x mtx folder")


def _read_table(path: Path, settings: CountsSettings) -> AnnData:
    """A table of counts: the first column names the rows; text columns and those named in the settings go to obs."""
    first = text_column(path)
    frame = read_frame(path, first)
    if isinstance(frame.index, pd.RangeIndex) and not pd.api.types.is_numeric_dtype(frame.iloc[:, 0]):
        frame = frame.set_axis(pd.Index(frame.iloc[:, 0].astype(str)), axis=0).iloc[:, 1:]
    if settings.transpose:
        frame = frame.T
    keys = settings.obs_keys | {settings.library_key, settings.size_factor_key}
    numeric = np.array([pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes], dtype=bool)
    is_obs = np.array([name in keys for name in frame.columns], dtype=bool) | ~numeric
    check_once(frame.columns[is_obs], str(path))
    genes = frame.loc[:, ~is_obs]
    if genes.empty:
        raise UserError(f"{path}: no column of numbers; for genes as rows set transpose: true")
    return AnnData(
        sparse.csr_matrix(genes.to_numpy(dtype=np.float64, na_value=np.nan)),
        obs=frame.loc[:, is_obs].set_axis(frame.index.astype(str), axis=0),
        var=pd.DataFrame(index=genes.columns.astype(str)),
    )
