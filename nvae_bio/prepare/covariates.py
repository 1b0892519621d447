"""Covariates: what a model may be told of a sample besides its class."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from nvae_bio import schema
from nvae_bio.config import Dataset
from nvae_bio.data.join import free_name
from nvae_bio.data.names import as_text
from nvae_bio.errors import UserError, listed
from nvae_bio.prepare.genes import MITO_SHARE, N_GENES
from nvae_bio.prepare.record import same_values

logger = logging.getLogger(__name__)

MADE = (schema.LIBRARY, N_GENES, MITO_SHARE)  # of counts, by the steps before


def read_covariates(
    obs: pd.DataFrame, known: pd.DataFrame, train: np.ndarray, settings: Dataset, where: str
) -> pd.DataFrame:
    """The covariates of each sample, the batch first where there is one.

    A batch of one level over the training samples tells nothing and is left out.

    Args:
        obs: (n, …) the source's columns.
        known: (n, …) columns that mean something to nvae-bio, under their names of `schema`.
        train: (n,) the training samples.
        settings: `categorical_covariates`, `continuous_covariates`.
        where: the source, for messages.

    Returns:
        (n, covariates): categorical ones text, missing where unknown; continuous ones float64, not finite where
        unknown. A column has the name that it gets in the prepared obs: its own, or `source_<name>` where that is
        taken by other values.

    Raises:
        UserError: no such column, one value over all training samples, or text where numbers should be.
    """
    found: dict[str, pd.Series] = {}
    if schema.BATCH in known:
        batch = _as_levels(known[schema.BATCH])
        if _n_values(batch[train]) > 1:
            found[schema.BATCH] = batch
    for setting in ("categorical_covariates", "continuous_covariates"):
        for key in getattr(settings, setting):
            values = _column(obs, known, key, f"{where}: {setting}")
            values = _as_levels(values) if setting.startswith("categorical") else _as_numbers(values, key, where)
            if _n_values(values[train]) < 2:
                raise UserError(
                    f"{where}: {setting}: column {key!r} has fewer than 2 values over the {int(train.sum())} training "
                    "samples; allowed: at least 2"
                )
            found[_free_column(key, values, known)] = values
    for name, values in found.items():
        _tell(name, values, known[schema.LABEL], where)
    return pd.DataFrame(found, index=obs.index)


def covariate_table(covariates: pd.DataFrame) -> pd.DataFrame:
    """What each covariate is, for the record: `column` (of obs) and `kind` (categorical, continuous)."""
    is_levels = [isinstance(dtype, pd.CategoricalDtype) for dtype in covariates.dtypes]
    kinds = np.where(is_levels, "categorical", "continuous").astype(object)
    return pd.DataFrame({"column": covariates.columns.to_numpy(dtype=object), "kind": kinds}).rename(index=str)


def _column(obs: pd.DataFrame, known: pd.DataFrame, key: str, where: str) -> pd.Series:
    if key in obs:
        return obs[key]
    made = [name for name in MADE if name in known]
    if key not in made:
        raise UserError(f"{where}: no column {key!r}; allowed: {listed([*obs.columns, *made])}")
    return known[key]


def _as_levels(values: pd.Series) -> pd.Series:
    text = as_text(values)
    return pd.Series(pd.Categorical(text, categories=sorted(text.dropna().unique())), index=values.index)


def _as_numbers(values: pd.Series, key: str, where: str) -> pd.Series:
    numbers = pd.to_numeric(values.astype(object), errors="coerce").astype(np.float64)
    bad = values[numbers.isna() & values.notna()]
    if len(bad):
        raise UserError(
            f"{where}: continuous_covariates: column {key!r} holds {bad.iloc[0]!r}; allowed: numbers; for levels use "
            "categorical_covariates"
        )
    return numbers


def _n_values(values: pd.Series) -> int:
    return int(values.replace([np.inf, -np.inf], np.nan).nunique()) if values.dtype.kind == "f" else values.nunique()


def _free_column(key: str, values: pd.Series, known: pd.DataFrame) -> str:
    name = key.replace("/", "_")
    taken = name in known and not same_values(known[name], values)
    return free_name(name, known.columns) if taken or (name in schema.RESERVED_OBS and name not in known) else name


def _tell(name: str, values: pd.Series, label: pd.Series, where: str) -> None:
    """Say what a user should know of a covariate: missing values, and that it may stand for the class."""
    n_missing = int((~np.isfinite(values)).sum() if values.dtype.kind == "f" else values.isna().sum())
    if n_missing:
        logger.info("%s: covariate %r is unknown for %d of %d samples", where, name, n_missing, len(values))
    if values.dtype.kind != "f" and label.groupby(values, observed=True).nunique().le(1).all():
        logger.warning(
            "%s: covariate %r: each level has samples of one class only; what belongs to a class cannot be told from "
            "what the covariate does", where, name,
        )  # fmt: skip
