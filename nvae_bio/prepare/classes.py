"""Class labels: taken from obs, joined, and only those kept that have enough samples."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nvae_bio.config import Dataset
from nvae_bio.data.names import as_text
from nvae_bio.data.removed import RemovalLog
from nvae_bio.errors import UserError, listed
from nvae_bio.prepare.named import check_column


def read_labels(obs: pd.DataFrame, settings: Dataset, where: str) -> pd.Series:
    """The class of each sample, after `unlabeled_values` and `join_classes`.

    Returns:
        (n,) text, None where unlabeled.

    Raises:
        UserError: no such column, or a label named in the settings that no sample has.
    """
    check_column(obs, settings.label_key, "label_key", where)
    label = as_text(obs[settings.label_key])
    existing = sorted(label.dropna().unique())
    for key, named in (
        ("unlabeled_values", settings.unlabeled_values),
        ("join_classes", [old for labels in settings.join_classes.values() for old in labels]),
    ):
        unknown = [name for name in named if name not in existing]
        if unknown:
            raise UserError(f"{where}: {key}: no sample has label {unknown[0]!r}; allowed: {listed(existing)}")
    new_names = _new_names(settings)
    label[label.isin(settings.unlabeled_values)] = None
    clash = sorted(set(new_names.values()) & (set(label.dropna().unique()) - set(new_names)))
    if clash:
        raise UserError(
            f"{where}: join_classes: {clash[0]!r} is also a label of its own; list it among those it takes in"
        )
    return settled_labels(label, settings)


def settled_labels(label: pd.Series, settings: Dataset) -> pd.Series:
    """Labels as text after `unlabeled_values` and `join_classes`, (n,), None where unlabeled; any may lack."""
    new_names = _new_names(settings)
    known = label.copy()
    known[known.isin(settings.unlabeled_values)] = None
    return known.map(lambda name: new_names.get(name, name), na_action="ignore")


def _new_names(settings: Dataset) -> dict[str, str]:
    """Label → the class that takes it in."""
    return {old: new for new, labels in settings.join_classes.items() for old in labels}


def settle_rare(label: pd.Series, settings: Dataset, log: RemovalLog, where: str) -> tuple[pd.Series, np.ndarray]:
    """Decide on classes with fewer than `min_samples_per_class` samples.

    Returns:
        The labels (n,), None where unlabeled, and which samples are kept (n,).

    Raises:
        UserError: rare classes while `rare_classes` is `error`, or fewer than two classes.
    """
    sizes = label.value_counts().sort_index()
    rare = sizes[sizes < settings.min_samples_per_class]
    if len(rare) and settings.rare_classes == "error":
        named = listed(f"{name!r} ({size})" for name, size in rare.items())
        raise UserError(
            f"{where}: {settings.label_key!r}: classes with fewer than min_samples_per_class "
            f"{settings.min_samples_per_class} samples: {named}; set rare_classes: drop or unlabeled, "
            "join them by join_classes, or lower min_samples_per_class"
        )
    is_rare = label.isin(rare.index).to_numpy()
    said = f"rare class, fewer than {settings.min_samples_per_class} samples" + (
        f" ({listed(rare.index)})" * bool(len(rare))
    )
    if settings.rare_classes == "unlabeled" and len(rare):
        label = label.mask(is_rare, None)
        log.add("rare_classes", "samples", f"{said}: {int(is_rare.sum())} samples made unlabeled", 0, len(label))
        keep = np.ones(len(label), dtype=bool)
    else:
        keep = ~is_rare
        log.add("rare_classes", "samples", said, int(is_rare.sum()), int(keep.sum()))
    classes = sorted(label[keep].dropna().unique())
    if len(classes) < 2:
        raise UserError(
            f"{where}: {settings.label_key!r} has {len(classes)} classes of enough samples"
            f"{f' ({listed(classes)})' if classes else ''}; allowed: at least 2"
        )
    return label, keep


def allot(sizes: np.ndarray, floors: np.ndarray, total: int) -> np.ndarray:
    """How many of each group to keep so that there are `total`: in proportion, but at least `floors`.

    Args:
        sizes: samples of each group.
        floors: at most `sizes`; their sum is at most `total`.
        total: samples to keep.

    >>> allot(np.array([900, 90, 10]), np.array([10, 10, 10]), 100).tolist()
    [80, 10, 10]
    """
    if sizes.sum() <= total:
        return sizes
    fixed = np.zeros(len(sizes), dtype=bool)
    while True:
        free = total - floors[fixed].sum()
        share = np.where(fixed, floors, sizes * (free / max(sizes[~fixed].sum(), 1)))
        low = ~fixed & (share < floors)
        if not low.any():
            break
        fixed |= low
    kept = np.floor(share).astype(int)
    rest = np.argsort(kept - share, kind="stable")[: total - kept.sum()]
    kept[rest] += 1
    return kept


def sample_part(label: pd.Series, settings: Dataset, keys: np.ndarray, log: RemovalLog, where: str) -> np.ndarray:
    """A random part of at most `max_samples` samples, stratified by class; unlabeled ones are one more stratum.

    Args:
        label: (n,) text, None where unlabeled.
        settings: `max_samples`, `min_samples_per_class`.
        keys: (n,) random numbers; those with the smallest are kept.
        log: takes one row.
        where: the source, for messages.

    Returns:
        Which samples are kept, (n,).

    Raises:
        UserError: `max_samples` has no room for `min_samples_per_class` of each class.
    """
    total = settings.max_samples
    keep = np.ones(len(label), dtype=bool)
    if total is not None and total < len(label):
        strata = label.fillna("").to_numpy(dtype=object)
        names, codes, sizes = np.unique(strata.astype(str), return_inverse=True, return_counts=True)
        floors = np.where(names == "", 0, np.minimum(sizes, settings.min_samples_per_class))
        if floors.sum() > total:
            raise UserError(
                f"{where}: max_samples: {total} is too few for {int((names != '').sum())} classes of "
                f"min_samples_per_class {settings.min_samples_per_class}; allowed: at least {int(floors.sum())}"
            )
        kept = allot(sizes, floors, total)
        rank = pd.Series(keys).groupby(codes).rank(method="first").to_numpy()
        keep = rank <= kept[codes]
    said = "random part" if total is None else f"random part of at most {total}"
    log.add("max_samples", "samples", said, int((~keep).sum()), int(keep.sum()))
    return keep
