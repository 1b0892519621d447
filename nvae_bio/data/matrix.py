"""Which matrix of an AnnData is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio.data.names import listed
from nvae_bio.errors import UserError


def pick_matrix(adata: AnnData, key: str, where: str) -> tuple[Any, pd.DataFrame]:
    """The values and the var table that `X`, `raw` or `layers/NAME` stands for.

    Returns:
        Dense or sparse (n, features), numeric; and its var.

    Raises:
        UserError: no such matrix (those that exist are named), not numeric, or without samples or features.
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
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise UserError(f"{where}: matrix {key!r} is of type {values.dtype}; allowed: numbers")
    if 0 in values.shape:
        raise UserError(
            f"{where}: matrix {key!r} has {values.shape[0]} samples × {values.shape[1]} features; allowed: above 0"
        )
