"""Features, and size factors of cells, on one scale, by what training samples say."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import FeaturesSettings
from nvae_bio.data.join import free_name
from nvae_bio.data.removed import RemovalLog
from nvae_bio.errors import UserError

MEAN, STD = schema.FEATURE_MEAN, schema.FEATURE_STD


def scale_features(
    features: AnnData, train: np.ndarray, settings: FeaturesSettings, log: RemovalLog, where: str
) -> AnnData:
    """Features that vary over the training samples; standardised by them where the settings say so.

    Args:
        features: X (n, features) float64.
        train: (n,) the training samples.
        settings: `standardize`.
        log: takes one row.
        where: the source, for messages.

    Returns:
        X float32; var has `mean` and `std` (of the training samples, in the feature's unit) if standardised.

    Raises:
        UserError: no feature varies, or one is beyond the range of 32-bit numbers.
    """
    varies = features.X[train].max(axis=0) > features.X[train].min(axis=0)
    log.add("constant", "features", "constant on training samples", int((~varies).sum()), int(varies.sum()))
    if not varies.any():
        raise UserError(
            f"{where}: none of {features.n_vars} features varies over the training samples; allowed: at least 1"
        )
    values = features.X[:, varies]
    var = features.var[varies].copy()
    with np.errstate(all="ignore"):
        mean, std = values[train].mean(axis=0), values[train].std(axis=0)
        single = ((values - mean) / std if settings.standardize else values).astype(np.float32)
    if settings.standardize:
        var = var.rename(columns={name: free_name(name, var.columns) for name in (MEAN, STD) if name in var})
        var[MEAN], var[STD] = mean, std
    wrong = np.flatnonzero(~(np.isfinite(single).all(axis=0) & np.isfinite(std)))
    if len(wrong):
        name, column = var.index[wrong[0]], values[:, wrong[0]]
        raise UserError(
            f"{where}: feature {name!r}: values from {column.min():g} to {column.max():g} are too far apart, or too "
            "near, for 32-bit numbers; scale it, or leave it out"
        )
    return AnnData(single, obs=features.obs, var=var)


def scale_size_factors(given: pd.Series, library: pd.Series, train: np.ndarray, where: str) -> np.ndarray:
    """Size factors on the scale of the library: their median over training cells is that of the library.

    Args:
        given: (n,) as the source has them; its name is the key.
        library: (n,) all counts of each cell.
        train: (n,) the training cells.
        where: the source, for messages.

    Returns:
        (n,) float64, counts.

    Raises:
        UserError: one that is no number above 0.
    """
    factors = read_size_factors(given, where)
    scaled: np.ndarray = factors * (np.median(library[train]) / np.median(factors[train]))
    return scaled


def read_size_factors(given: pd.Series, where: str) -> np.ndarray:
    """Size factors as the source has them, (n,) float64.

    Raises:
        UserError: one that is no number above 0.
    """
    factors: np.ndarray = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(factors) & (factors > 0)))
    if len(wrong):
        raise UserError(
            f"{where}: size_factor_key: {given.name!r} of cell {given.index[wrong[0]]!r} is {given.iloc[wrong[0]]} "
            f"({len(wrong)} such cells); allowed: finite numbers above 0"
        )
    return factors


def size_factor_scale(obs: pd.DataFrame, key: str) -> float:
    """What `scale_size_factors` multiplied those of a prepared data set by.

    Args:
        obs: of prepared cells; the source's own column is there beside ours, unless both are the same.
        key: name of that column in the source.
    """
    source = f"source_{key}" if f"source_{key}" in obs else key
    return float((obs[schema.SIZE_FACTOR] / pd.to_numeric(obs[source])).median())
