"""The covariates that a model is told: their levels and scales on the training samples, and how they are read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import Settings
from nvae_bio.data.names import as_text

if TYPE_CHECKING:
    from nvae_bio.data.batch import Covariates
    from nvae_bio.data.store import Store

logger = logging.getLogger(__name__)


class CategoricalCovariate(Settings):
    """Levels of the training samples, sorted, and how many of these samples have each."""

    name: str
    levels: list[str]
    n_samples: list[int]

    @property
    def share(self) -> list[float]:
        """Of each level among the training samples whose level is known."""
        return [n / sum(self.n_samples) for n in self.n_samples]


class ContinuousCovariate(Settings):
    """Mean and standard deviation over the training samples."""

    name: str
    mean: float
    std: float


class CovariateSet(Settings):
    """The covariates of a model, in the order in which it reads them; the batch, if any, is the first of all."""

    categorical: tuple[CategoricalCovariate, ...] = ()
    continuous: tuple[ContinuousCovariate, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.categorical or self.continuous)

    @property
    def names(self) -> list[str]:
        """Columns of the prepared obs."""
        return [one.name for one in self.categorical] + [one.name for one in self.continuous]

    @property
    def n_batches(self) -> int:
        """Levels of the batch, which is the first categorical covariate wherever it is one; 0 without."""
        first = next(iter(self.categorical), None)
        return len(first.levels) if first is not None and first.name == schema.BATCH else 0

    @classmethod
    def of(cls, prepared: AnnData | Store) -> CovariateSet:
        """Those of a prepared data set, as its training samples have them, labelled or not."""
        table = prepared.uns[schema.DATA].get(schema.COVARIATES)
        train = prepared.obs[prepared.obs[schema.SPLIT] == "train"]
        categorical, continuous = [], []
        for name, kind in () if table is None else table[["column", "kind"]].itertuples(index=False):
            if kind == "categorical":
                counts = as_text(train[name]).value_counts().sort_index()
                categorical.append(
                    CategoricalCovariate(name=name, levels=list(counts.index), n_samples=counts.tolist())
                )
            else:
                values = _finite(train[name])
                continuous.append(ContinuousCovariate(name=name, mean=np.nanmean(values), std=np.nanstd(values)))
        return cls(categorical=tuple(categorical), continuous=tuple(continuous))

    def read(self, obs: pd.DataFrame) -> Covariates:
        """Of each sample; unknown are missing values and levels that no training sample had, which are counted."""
        level = np.empty((len(obs), len(self.categorical)), dtype=np.int64)
        value = np.empty((len(obs), len(self.continuous)), dtype=np.float32)
        for place, one in enumerate(self.categorical):
            level[:, place] = pd.Categorical(as_text(obs[one.name]), categories=one.levels).codes
            _tell_unknown(one.name, level[:, place] < 0)
        for place, other in enumerate(self.continuous):
            standardised = (_finite(obs[other.name]) - other.mean) / other.std
            value[:, place] = np.nan_to_num(standardised)
            _tell_unknown(other.name, np.isnan(standardised))
        import torch  # here, for the card of a model is read without

        from nvae_bio.data.batch import Covariates

        return Covariates(torch.from_numpy(level), torch.from_numpy(value))


def _finite(values: pd.Series) -> np.ndarray:
    """float64, NaN where missing, infinite or no number."""
    numbers = pd.to_numeric(values.astype(object), errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _tell_unknown(name: str, unknown: np.ndarray) -> None:
    if unknown.any():
        logger.info(
            "covariate %r: %d of %d samples have no value, or one that no training sample has; they are decoded as an "
            "average of the training samples", name, unknown.sum(), len(unknown),
        )  # fmt: skip
