"""Readers of tables of features: samples × real numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio.config import FeaturesSettings
from nvae_bio.data.files import read_h5ad
from nvae_bio.data.join import join_parts
from nvae_bio.data.matrix import pick_matrix
from nvae_bio.data.names import names_may_repeat, part_names, unique_names
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.tables import TABLE_ENDINGS, check_once, is_table, read_frame, text_column
from nvae_bio.errors import UserError, listed


def read_features(settings: FeaturesSettings, log: RemovalLog) -> AnnData:
    """All files of the settings, joined over the features that they share.

    Raises:
        UserError: a file that is missing, broken or of an unknown kind, or a value that is no finite number.
    """
    names = part_names(settings.paths)
    with names_may_repeat():
        parts = [_read(Path(path), settings) for path in settings.data_paths]
    return join_parts(parts, names, settings, log, what="features")


def features_from_anndata(adata: AnnData, settings: FeaturesSettings, where: str) -> AnnData:
    """The matrix that the settings name, checked, as dense float64 in a new object; `adata` is not changed.

    Raises:
        UserError: no such matrix, repeated names, or NaN or infinite values (column and count are named).
    """
    values, var = pick_matrix(adata, settings.matrix, where)
    dense = np.array(values.toarray() if sparse.issparse(values) else values, dtype=np.float64)
    wrong = (~np.isfinite(dense)).sum(axis=0)  # (features,)
    if wrong.any():
        column = int(np.argmax(wrong > 0))
        raise UserError(
            f"{where}: feature {str(var.index[column])!r}: {wrong[column]} values are missing, NaN or infinite "
            f"({int((wrong > 0).sum())} such features); allowed: finite numbers"
        )
    obs = adata.obs.set_axis(unique_names(adata.obs_names, "sample", where, settings.make_unique), axis=0)
    var = var.set_axis(unique_names(var.index, "feature", where, settings.make_unique), axis=0)
    return AnnData(dense, obs=obs.copy(), var=var.copy())


def _read(path: Path, settings: FeaturesSettings) -> AnnData:
    if path.name.lower().endswith(".h5ad"):
        return features_from_anndata(read_h5ad(path), settings, str(path))
    if not is_table(path):
        raise UserError(f"{path}: unknown file ending; allowed: {listed(['.h5ad', *TABLE_ENDINGS])}")
    text = settings.index_column if settings.index_column is None else text_column(path, settings.index_column)
    frame = read_frame(path, text)
    if settings.index_column is not None:
        if settings.index_column not in frame:
            raise UserError(f"{path}: index_column: no {settings.index_column!r}; allowed: {listed(frame.columns)}")
        frame = frame.set_index(settings.index_column)
    chosen = _feature_columns(frame, settings, str(path))
    check_once(frame.columns[~chosen], str(path))
    table = AnnData(
        frame.loc[:, chosen].to_numpy(dtype=np.float64, na_value=np.nan),
        obs=frame.loc[:, ~chosen].set_axis(frame.index.astype(str), axis=0),
        var=pd.DataFrame(index=frame.columns[chosen].astype(str)),
    )
    return features_from_anndata(table, settings.model_copy(update={"matrix": "X"}), str(path))


def _feature_columns(frame: pd.DataFrame, settings: FeaturesSettings, where: str) -> np.ndarray:
    """Which columns are features: those named, or all numeric ones but the keys; (columns,) booleans."""
    numeric = np.array([pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes], dtype=bool)
    if settings.feature_columns:
        for name in settings.feature_columns:
            if name not in frame:
                raise UserError(f"{where}: feature_columns: no column {name!r}; allowed: {listed(frame.columns)}")
            if not numeric[frame.columns == name].all():
                raise UserError(f"{where}: feature_columns: column {name!r} holds text; allowed: numbers")
        return np.asarray(frame.columns.isin(settings.feature_columns))
    chosen = numeric & ~np.asarray(frame.columns.isin(list(settings.obs_keys)))
    if not chosen.any():
        raise UserError(
            f"{where}: no column of numbers but the keys named in the settings; found {listed(frame.columns)}"
        )
    return chosen
