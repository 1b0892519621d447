"""From statistics and their nulls to p- and q-values, in families."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK, OWN_DIM, SHARED

LIKE_SIZE = 2.0  # classes with at most so many times fewer or more training samples share one null


def pooled_p(observed: pd.DataFrame, null: pd.DataFrame, sizes: np.ndarray) -> np.ndarray:
    """Monte Carlo p-values: (1 + null values that are as large) / (1 + null values), one an observed row.

    A null is pooled over refits, over dims, and over classes of like size: the encoder's noise, and so the KL of a dim
    that codes nothing, depends on how many samples a class has.

    Args:
        observed: columns statistic, class, dim, value.
        null: the same columns; rows of all refits.
        sizes: training samples of each class, (C,).

    Returns:
        (n,); NaN where the null has no values of the statistic.
    """
    by_statistic = {str(name): part for name, part in null.groupby("statistic")}
    p = np.full(len(observed), np.nan)
    for row, (statistic, label, value) in enumerate(
        zip(observed["statistic"], observed["class"], observed["value"], strict=True)
    ):
        if statistic in by_statistic:
            part = by_statistic[statistic]
            ratio = sizes[part["class"]] / sizes[label]
            pool = part["value"].to_numpy()[(ratio <= LIKE_SIZE) & (ratio >= 1 / LIKE_SIZE)]
            p[row] = (1 + (pool >= value).sum()) / (1 + len(pool))
    return p


def adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values of one family; NaN stays NaN and is no member."""
    q, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


def q_values(observed: pd.DataFrame, fdr: float) -> np.ndarray:
    """q of each row of `observed`, which has a column p.

    The families: the C own blocks; the C exclusive shared dims; the S × C shared usages. Dims of a block are tested
    only where the block is called, at a level that makes up for the choice of blocks (Benjamini & Bogomolov 2014,
    doi:10.1111/rssb.12028): the q of a dim is that within its block, times C over the number of called blocks, and
    at least the block's. In a block that is not called it is 1.
    """
    q = np.full(len(observed), np.nan)
    rows = {name: (observed["statistic"] == name).to_numpy() for name in (OWN_BLOCK, OWN_DIM, SHARED, HIDDEN)}
    p, label = observed["p"].to_numpy(), observed["class"].to_numpy()
    for name in (OWN_BLOCK, SHARED, HIDDEN):
        q[rows[name]] = adjusted(p[rows[name]])
    of_block = dict(zip(label[rows[OWN_BLOCK]], q[rows[OWN_BLOCK]], strict=True))
    called = [y for y, value in of_block.items() if value <= fdr]
    for y, block_q in of_block.items():
        dims = rows[OWN_DIM] & (label == y)
        if np.isnan(block_q):
            continue
        within = adjusted(p[dims]) * len(of_block) / max(len(called), 1)
        q[dims] = np.minimum(np.maximum(within, block_q), 1) if y in called else 1.0
    return q
