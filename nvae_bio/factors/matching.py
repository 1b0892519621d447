"""Factors of several seeds that are one: matched by what they do to the features.

Two models of the same data name their dims at random and point them either way. What stays is the effect on the
features, so factors are compared by |cos| of their effects, one to one within a pair of models (Kuhn 1955,
doi:10.1002/nav.3800020109), and those of all seeds are clustered around their mean effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

MAX_ROUNDS = 20


@dataclass
class Cluster:
    """Factors of different seeds that are one.

    Attributes:
        rows: seed (its place) -> place of its factor among those of the seed.
        signs: seed -> 1, or −1 where its factor points the other way.
    """

    rows: dict[int, int] = field(default_factory=dict)
    signs: dict[int, int] = field(default_factory=dict)

    def center(self, units: Sequence[np.ndarray]) -> np.ndarray:
        """Mean effect of its members, each of length 1 and turned to the first, scaled to length 1; (features,)."""
        total = np.sum([self.signs[seed] * units[seed][row] for seed, row in self.rows.items()], axis=0)
        return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12))


def units_of(effect: np.ndarray) -> np.ndarray:
    """Effects scaled to length 1, (factors, features); unknown ones count as 0."""
    known = np.nan_to_num(effect.astype(float))
    return np.asarray(known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-12))


def _assign(clusters: list[Cluster], units: Sequence[np.ndarray], seed: int, agreement: float) -> list[Cluster]:
    """The clusters with the factors of one more seed in them, each in a cluster that is like it or in a new one."""
    own, result = units[seed], clusters
    centers = np.array([cluster.center(units) for cluster in clusters]).reshape(len(clusters), own.shape[1])
    cos, matched = centers @ own.T, set()
    alike = np.abs(cos) >= agreement  # a pair that is none may not cost another its match
    for place, row in zip(*linear_sum_assignment(np.where(alike, -np.abs(cos), 0)), strict=True):
        if alike[place, row]:
            clusters[place].rows[seed], clusters[place].signs[seed] = int(row), 1 if cos[place, row] > 0 else -1
            matched.add(int(row))
    return result + [Cluster({seed: row}, {seed: 1}) for row in range(len(own)) if row not in matched]


def match_factors(effects: Sequence[np.ndarray], agreement: float) -> list[Cluster]:
    """Cluster the factors of several seeds, at most one of each seed in a cluster.

    The factors of one seed after the other are matched to the clusters so far, at best total |cos|; then each seed's
    are taken out and matched anew, until nothing changes, so that the order of the seeds hardly matters.

    Args:
        effects: of each seed, (factors, features); seeds may have different numbers of factors, or none.
        agreement: |cos| with the mean effect of a cluster from which on a factor belongs to it, 0 to 1.

    Returns:
        Clusters, those of most seeds first; every factor is in one. The sign of a cluster is that of its first seed.

    >>> one = np.array([[1.0, 0.0, 0.1], [0.0, 1.0, 0.0]])
    >>> [(cluster.rows, cluster.signs) for cluster in match_factors([one, -one[::-1]], 0.7)]
    [({0: 0, 1: 1}, {0: 1, 1: -1}), ({0: 1, 1: 0}, {0: 1, 1: -1})]
    """
    units: list[np.ndarray] = [units_of(effect) for effect in effects]
    clusters: list[Cluster] = []
    for seed in range(len(units)):
        clusters = _assign(clusters, units, seed, agreement)
    for _ in range(MAX_ROUNDS):
        before = [dict(cluster.rows) for cluster in clusters]
        for seed in range(len(units)):
            for cluster in clusters:
                cluster.rows.pop(seed, None)
                cluster.signs.pop(seed, None)
            clusters = _assign([cluster for cluster in clusters if cluster.rows], units, seed, agreement)
        clusters.sort(key=lambda cluster: sorted(cluster.rows.items()))
        if [cluster.rows for cluster in clusters] == sorted(before, key=lambda rows: sorted(rows.items())):
            break
    for cluster in clusters:
        first = min(cluster.rows)
        if cluster.signs[first] < 0:
            cluster.signs = {seed: -sign for seed, sign in cluster.signs.items()}
        cluster.rows, cluster.signs = (dict(sorted(part.items())) for part in (cluster.rows, cluster.signs))
    return sorted(clusters, key=lambda cluster: (-len(cluster.rows), sorted(cluster.rows.items())))


def agreements(cluster: Cluster, effects: Sequence[np.ndarray]) -> dict[int, float]:
    """|cos| of each member's effect with the mean of the others', by seed; NaN for a member that is alone."""
    units, found = [units_of(effect) for effect in effects], {}
    for seed, row in cluster.rows.items():
        others = Cluster(*({s: v for s, v in part.items() if s != seed} for part in (cluster.rows, cluster.signs)))
        found[seed] = abs(float(others.center(units) @ units[seed][row])) if others.rows else float("nan")
    return found
