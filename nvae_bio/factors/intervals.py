"""Bootstrap intervals of means, over samples or over donors."""

from __future__ import annotations

import numpy as np
import pandas as pd

MIN_DONORS = 6  # below, an interval over donors means nothing and samples are resampled instead
CHUNK = 100  # bootstrap resamples drawn at a time


def bootstrap_interval(
    values: np.ndarray, units: np.ndarray | None, n_resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean of each column.

    Args:
        values: one row a sample, (n, columns).
        units: what is resampled, such as the donor of each sample, (n,); None for the samples themselves.
        n_resamples: bootstrap resamples.
        confidence: level of the interval, such as 0.95.
        rng: source of randomness.

    Returns:
        Lower and upper end, each (columns,); NaN where there are fewer than two units.

    Reference: Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    counts, sums = np.ones(len(values)), values
    if units is not None:
        codes, names = pd.factorize(units)
        counts = np.bincount(codes, minlength=len(names)).astype(float)
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, codes, values)
    n_units = len(sums)
    if n_units < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    means = []
    for start in range(0, n_resamples, CHUNK):
        size = min(CHUNK, n_resamples - start)
        drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=size).astype(float)
        means.append((drawn @ sums) / (drawn @ counts)[:, None])
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return lower, upper


def resampled_units(donors: np.ndarray | None) -> tuple[np.ndarray | None, str]:
    """What to resample for the mean over some samples, and how the report calls it.

    Args:
        donors: of each sample, (n,); None where no donor is known.

    >>> resampled_units(np.array(["a", "b"]))
    (None, 'samples; donor interval not estimable')
    """
    if donors is None:
        return None, "samples"
    if len(set(donors)) < MIN_DONORS:
        return None, "samples; donor interval not estimable"
    return donors, "donors"
