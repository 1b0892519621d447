"""Which matrix of an AnnData is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio.errors import UserError, listed


def check_sparse(values: Any, where: str) -> None:
    """Refuse a sparse matrix whose entries lie outside of it: libraries trust a file in that, and crash.

    Raises:
        UserError: it has such entries.
    """
    if isinstance(values, sparse.csr_matrix | sparse.csr_array | sparse.csc_matrix | sparse.csc_array):
        try:
            if values.indices.dtype.kind != "i" or values.indptr.dtype.kind != "i":
                raise ValueError(f"indices of type {values.indices.dtype}")
            values.check_format(full_check=True)
            if (values.indptr[1:] < values.indptr[:-1]).any():  # overlooked by scipy where the last one is 0
                raise ValueError("row pointers decrease")
        except ValueError as error:
            raise UserError(f"{where}: the sparse matrix is damaged ({' '.join(str(error).split())})") from None


def pick_matrix(adata: AnnData, key: str, where: str) -> tuple[Any, pd.DataFrame]:
    """The values and the var table that `X`, `raw` or `layers/NAME` stands for.

    Returns:
        Dense or sparse (n, features), numeric, its entries within its bounds; and its var.

    Raises:
        UserError: no such matrix (those that exist are named), not numeric, without samples or features, or damaged.
    """
    existing = ["X"] if adata.X is not None else []
    existing += ["raw"] if adata.raw is not None else []
    existing += [f"layers/{name}" for name in adata.layers]
    check_exists(key, existing, where)
    if key == "X":
        values, var = adata.X, adata.var
    elif key == "raw":
        values, var = adata.raw.X, adata.raw.var
    else:
        values, var = adata.layers[key.removeprefix("layers/")], adata.var
    check_numbers(values, key, where)
    check_sparse(values, f"{where}: matrix {key!r}")
    return values, var


def check_exists(key: str, existing: Sequence[str], where: str) -> None:
    """Refuse the name of a matrix that is not there.

    Raises:
        UserError: naming those that exist.
    """
    if key not in existing:
        raise UserError(f"{where}: matrix: no {key!r}; allowed: {listed(existing) or 'nothing, it holds no matrix'}")


def check_numbers(values: Any, key: str, where: str) -> None:
    """Refuse a matrix, in memory or in a file, that has no numbers.

    Raises:
        UserError: of another type, or without samples or features.
    """
    if values.dtype.kind not in "iufb":
        raise UserError(f"{where}: matrix {key!r} is of type {values.dtype}; allowed: real numbers")
    if 0 in values.shape:
        raise UserError(
            f"{where}: matrix {key!r} has {values.shape[0]} samples × {values.shape[1]} features; allowed: above 0"
        )
