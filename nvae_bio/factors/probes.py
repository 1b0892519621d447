"""Probes: small fresh models that read something off an embedding."""

from __future__ import annotations

from typing import Literal

from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

ProbeName = Literal["linear", "neighbours"]

PROBES: tuple[ProbeName, ...] = ("linear", "neighbours")
N_NEIGHBORS = 15
MAX_ITERATIONS = 1000


def make_probe(name: ProbeName, n_train: int, *, of_levels: bool = True) -> Pipeline:
    """A probe that is not fitted yet. Dims are standardised on the samples that it is fitted to.

    Args:
        name: `linear`: a logistic regression (L2, C = 1), or ridge regression (penalty 1); `neighbours`: a vote, or the
            mean, of the 15 nearest training samples.
        n_train: training samples.
        of_levels: what it reads is one of some levels; else it is a number.
    """
    n_neighbors = min(N_NEIGHBORS, n_train)
    if name == "linear":
        probe = LogisticRegression(max_iter=MAX_ITERATIONS) if of_levels else Ridge()
    else:
        probe = KNeighborsClassifier(n_neighbors) if of_levels else KNeighborsRegressor(n_neighbors)
    return make_pipeline(StandardScaler(), probe)
