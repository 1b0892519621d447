"""Counts that depend on the class, a shared factor, a batch, a continuous covariate and one of many levels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio.config import CountsSettings
from nvae_bio.prepare import prepare_data
from tests.toys import CLASSES

N_GENES = 40


def raw_covariates(n: int = 900, n_plates: int = 40, seed: int = 0) -> AnnData:
    """(n, 40), balanced over 3 classes × 2 runs; genes 0–9 follow a shared factor; batch effects are multiplicative.

    obs: label, run (a, b), age (years), plate (p0, …; its effect, on genes 20–39, is varm["plate"]), true_shared.
    """
    rng = np.random.default_rng(seed)
    label, run, plate = np.arange(n) % 3, np.arange(n) // 3 % 2, rng.permutation(n) % n_plates
    shared, age = rng.normal(size=n), rng.normal(50, 10, size=n)
    log_rate = rng.normal(size=(3, N_GENES))[label]
    log_rate[:, :10] += shared[:, None]
    log_rate += 0.5 * np.outer(run, rng.normal(size=N_GENES))
    log_rate += 0.4 * np.outer((age - 50) / 10, rng.normal(size=N_GENES))
    by_plate = np.zeros((n_plates, N_GENES))
    by_plate[:, 20:] = 0.4 * rng.normal(size=(n_plates, N_GENES - 20))
    log_rate += by_plate[plate]
    rate = np.exp(log_rate)
    library = rng.integers(800, 2400, n)
    x = rng.poisson(library[:, None] * rate / rate.sum(1, keepdims=True)).astype(np.float32)
    obs = pd.DataFrame({"label": [CLASSES[i] for i in label], "run": np.array(["a", "b"])[run]})
    obs["plate"], obs["age"], obs["true_shared"] = [f"p{i}" for i in plate], age, shared
    obs.index = pd.Index([f"s{i}" for i in range(n)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    return AnnData(x, obs=obs, var=var, varm={"plate": by_plate.T})


def covariate_settings(**more: Any) -> CountsSettings:
    return CountsSettings(kind="counts", n_top_genes=None, **more)


@cache
def prepared_covariates() -> AnnData:
    """With the batch, 40 plates and the age as covariates."""
    settings = covariate_settings(
        batch_key="run", categorical_covariates=["plate"], continuous_covariates=["age"], split={"test": 0.4}
    )
    return prepare_data(settings, raw_covariates())
