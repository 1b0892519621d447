"""The certificate of a shared factor: which classes use it, and whether it means the same in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from nvae_bio.errors import listed
from nvae_bio.factors.matching import units_of

MAX_NAMED = 8  # classes that a certificate names


def effect_agreement(effects: np.ndarray, used: np.ndarray, limit: float) -> np.ndarray:
    """cos of the effect in each class with the mean effect in the other classes that agree, (C,).

    Those that agree are the largest group of classes whose effects have a mean cos of `limit` or more, by average
    linkage (Sokal & Michener 1958); of groups as large the tightest. So one class that differs, or that has the factor
    upside down, does not blur what the others have in common.

    Args:
        effects: of one factor in each class, (C, features); NaN where a class had no samples.
        used: classes that use it, (C,), bool.
        limit: 0 to 1.

    Returns:
        NaN for a class that does not use it, and where no other does. Where no two agree, the others are all.

    >>> effects = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    >>> effect_agreement(effects, np.array([True, True, True, False]), 0.7)
    array([ 1.,  1.,  0., nan])
    """
    units, found, places = units_of(effects), np.full(len(effects), np.nan), np.flatnonzero(used)
    if len(places) < 2:
        return found
    group = places[_largest_group(units[places], limit)]
    for y in places:
        others = group[group != y]
        mean = units[others].sum(0)
        found[y] = units[y] @ mean / max(float(np.linalg.norm(mean)), 1e-12)
    return found


def _largest_group(units: np.ndarray, limit: float) -> np.ndarray:
    """Rows of the largest group that agrees, or all where no two do, bool."""
    cos = np.clip(units @ units.T, -1, 1)
    distance = squareform(1 - cos, checks=False)
    number = fcluster(linkage(distance, "average"), 1 - limit + 1e-9, "distance")
    groups = [number == one for one in np.unique(number)]
    best = max(groups, key=lambda rows: (rows.sum(), cos[np.ix_(rows, rows)].mean()))
    return best if best.sum() > 1 else np.ones(len(units), dtype=bool)


def certificate(agreement: np.ndarray, outcome: np.ndarray, classes: Sequence[str], limit: float) -> str:
    """The verdict in words.

    A class means the same by the factor as the others do where its agreement is `limit` or more, the opposite where it
    is −`limit` or less, else something else.

    Args:
        agreement: as `effect_agreement` gives it, (C,).
        outcome: `active` where a class uses it, `under-powered` where that cannot be told, `inactive`, (C,).
        classes: names.
        limit: of the cos, 0 to 1.

    >>> names, outcome = ["a", "b", "c", "d"], np.array(["active", "active", "active", "under-powered"])
    >>> certificate(np.array([0.9, 0.9, 0.1, np.nan]), outcome, names, 0.7)
    'shared by 2 of 4 classes; means something else in c; not to be judged in d'
    >>> certificate(np.array([0.1, 0.1, 0.1, np.nan]), outcome, names, 0.7)
    'means different things in different classes; not to be judged in d'
    """
    used, agreement = outcome == "active", np.nan_to_num(agreement)
    alike, opposite = used & (agreement >= limit), used & (agreement <= -limit)
    if used.sum() == 0:
        said = "used by no class"
    elif used.sum() == 1:
        said = f"used by {classes[int(np.flatnonzero(used)[0])]} alone of {len(classes)} classes"
    elif alike.sum() * 2 < used.sum():
        said = "means different things in different classes"
    else:
        said = f"shared by {int(alike.sum())} of {len(classes)} classes"
        for rows, what in ((opposite, "means the opposite"), (used & ~alike & ~opposite, "means something else")):
            said += f"; {what} in {_names(rows, classes)}" if rows.any() else ""
    weak = outcome == "under-powered"
    return f"{said}; not to be judged in {_names(weak, classes)}" if weak.any() else said


def _names(rows: np.ndarray, classes: Sequence[str]) -> str:
    return listed([name for name, is_named in zip(classes, rows, strict=True) if is_named], MAX_NAMED)
