"""The certificate of a shared factor: which classes use it, and whether it means the same in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nvae_bio.factors.matching import units_of


def effect_agreement(effects: np.ndarray, used: np.ndarray) -> np.ndarray:
    """cos of the effect in each class with the mean effect in the other classes that use the factor, (C,).

    Args:
        effects: of one factor in each class, (C, features); NaN where a class had no samples.
        used: classes that use it, (C,), bool.

    Returns:
        NaN for a class that does not use it, and where no other does.

    >>> effects = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    >>> effect_agreement(effects, np.array([True, True, True, False])).round(2)
    array([0.71, 0.71, 0.  ,  nan])
    """
    units, found = units_of(effects), np.full(len(effects), np.nan)
    for y in np.flatnonzero(used):
        others = used.copy()
        others[y] = False
        if others.any():
            mean = units[others].sum(0)
            found[y] = units[y] @ mean / max(float(np.linalg.norm(mean)), 1e-12)
    return found


def certificate(agreement: np.ndarray, used: np.ndarray, classes: Sequence[str], limit: float) -> str:
    """The verdict in words.

    A class means the same by the factor as the others do where its agreement is `limit` or more.

    Args:
        agreement: as `effect_agreement` gives it, (C,).
        used: classes that use it, (C,), bool.
        classes: names.
        limit: of the cos, 0 to 1.

    >>> names = ["a", "b", "c", "d"]
    >>> certificate(np.array([0.9, 0.9, 0.1, np.nan]), np.array([True, True, True, False]), names, 0.7)
    'shared by 2 of 4 classes; means something else in c'
    >>> certificate(np.array([0.1, 0.1, np.nan, np.nan]), np.array([True, True, False, False]), names, 0.7)
    'means different things in different classes'
    """
    n_used, n_classes = int(used.sum()), len(classes)
    if n_used == 0:
        return "used by no class"
    if n_used == 1:
        return f"used by {classes[int(np.flatnonzero(used)[0])]} alone of {n_classes} classes"
    alike = used & (np.nan_to_num(agreement) >= limit)
    if alike.sum() * 2 < n_used:
        return "means different things in different classes"
    others = [name for name, is_used, is_alike in zip(classes, used, alike, strict=True) if is_used and not is_alike]
    said = f"shared by {int(alike.sum())} of {n_classes} classes"
    return f"{said}; means something else in {', '.join(others)}" if others else said
