"""Which samples train, which choose, which are only judged on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from nvae_bio import schema
from nvae_bio.config import SplitSettings
from nvae_bio.errors import UserError, listed

TRAIN, VALIDATION, TEST = schema.SPLITS
SAID_AS = {
    **{"train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST},
    **{"val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION},
}


def random_keys(names: pd.Index, rng: np.random.Generator) -> np.ndarray:
    """One random number a sample, (n,), that depends on the set of names and not on their order."""
    keys = np.empty(len(names))
    keys[np.argsort(names.to_numpy(dtype=str), kind="stable")] = rng.random(len(names))
    return keys


def split_samples(
    label: pd.Series,
    donor: pd.Series | None,
    source: pd.Series | None,
    settings: SplitSettings,
    where: str,
    held_out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The split of each sample, from the source's own, by donor, or by sample.

    Samples held out take no part in it: they are `test`, and of the fold that is tested.

    Args:
        label: (n,) text, None where unlabeled; its index has the sample names.
        donor: (n,) text, None where unknown.
        source: (n,) values of `settings.key`.
        settings: how.
        where: the source, for messages.
        held_out: (n,), bool; None for none.

    Returns:
        (n,) `train`, `validation` or `test`; and the donors' fold (n,), if split by donor.

    Raises:
        UserError: an unknown split value, a class without training samples, or too few donors.
    """
    rest = np.ones(len(label), dtype=bool) if held_out is None else ~held_out
    split, fold = np.full(len(label), TEST, dtype=object), np.full(len(label), settings.test_fold)
    drawn, drawn_fold = _split_rest(
        label[rest], None if donor is None else donor[rest], None if source is None else source[rest], settings, where
    )
    split[rest] = drawn
    if drawn_fold is not None:
        fold[rest] = drawn_fold
    missing = sorted(set(label.dropna()) - set(label[split == TRAIN].dropna()))
    if missing:
        raise UserError(f"{where}: split: class {missing[0]!r} has no training samples; allowed: at least 1 a class")
    for part in schema.SPLITS:
        if not (split == part).any():
            raise UserError(
                f"{where}: split: no samples for {part}; allowed: at least 1; change split.n_folds or split.key"
            )
    return split, None if drawn_fold is None else fold


def _split_rest(
    label: pd.Series, donor: pd.Series | None, source: pd.Series | None, settings: SplitSettings, where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Split and fold of the samples that are not held out."""
    fold = None
    rng = np.random.default_rng([settings.seed, 0])
    if source is not None:
        split = _complete(label, donor, _source_split(source, str(settings.key), where), settings, rng, where)
    elif settings.by == "donor":
        assert donor is not None
        split, fold = _by_donor(label, donor, settings, where)
    else:
        shares = {TEST: settings.test, VALIDATION: settings.validation}
        split = draw_parts(label, donor, shares, rng)
    return split, fold


def draw_parts(
    label: pd.Series, donor: pd.Series | None, shares: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Parts of given shares, the rest `train`: stratified by class, and within a class spread evenly over donors.

    Each class is put in order of donors, randomly within a donor, and every so many-th sample is taken (systematic
    sampling). Each class gets at least one sample in each part, as far as one is left to train on; unlabeled samples
    are one more stratum, without that promise.

    Returns:
        (n,) names of parts.
    """
    split = np.full(len(label), TRAIN, dtype=object)
    keys = random_keys(label.index, rng)
    within = np.zeros(len(label)) if donor is None else pd.factorize(donor, sort=True)[0]
    order = np.lexsort([keys, within])
    codes, classes = pd.factorize(label, sort=True)  # -1: unlabeled
    for code in range(-1, len(classes)):
        rest = order[codes[order] == code]
        for part, number in _numbers(len(rest), shares, labeled=code >= 0).items():
            taken = _every(len(rest), number, rng)
            split[rest[taken]] = part
            rest = np.delete(rest, taken)
    return split


def _numbers(n: int, shares: dict[str, float], labeled: bool) -> dict[str, int]:
    """Samples for each part out of `n`; at least one is left over."""
    numbers = {part: max(round(n * share), int(labeled and share > 0)) for part, share in shares.items()}
    while sum(numbers.values()) > max(n - 1, 0):
        largest = max(numbers, key=lambda part: numbers[part])
        numbers[largest] -= 1
    return numbers


def _every(n: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """`number` of `n` positions at even distances from a random start."""
    start = rng.random()  # drawn also where nothing is taken, so that one class does not shift the next
    return np.floor((start + np.arange(number)) * n / max(number, 1)).astype(int)


def _source_split(values: pd.Series, key: str, where: str) -> np.ndarray:
    said = values.astype(object).map(lambda value: str(value).strip().lower(), na_action="ignore")
    split = said.map(SAID_AS)
    if split.isna().any():
        unknown = values[split.isna()].iloc[0]
        said_so = "no value for a sample" if pd.isna(unknown) else f"value {unknown!r}"
        raise UserError(f"{where}: split.key: column {key!r} has {said_so}; allowed: {', '.join(SAID_AS)}")
    return split.to_numpy(dtype=object)


def _complete(
    label: pd.Series,
    donor: pd.Series | None,
    split: np.ndarray,
    settings: SplitSettings,
    rng: np.random.Generator,
    where: str,
) -> np.ndarray:
    """Parts that the source lacks, taken from its training samples."""
    shares = {TEST: settings.test, VALIDATION: settings.validation}
    shares = {part: share for part, share in shares.items() if not (split == part).any()}
    train = split == TRAIN
    if not train.any():
        raise UserError(f"{where}: split.key: column {settings.key!r} names no training samples; allowed: {TRAIN}")
    small = label[train].value_counts().sort_index()
    small = small[small < len(shares) + 1]
    if len(small):
        raise UserError(
            f"{where}: split.key: class {small.index[0]!r} has {small.iloc[0]} training samples; too few to take "
            f"{listed(shares)} from; allowed: at least {len(shares) + 1}"
        )
    split[train] = draw_parts(label[train], None if donor is None else donor[train], shares, rng)
    return split


def _by_donor(label: pd.Series, donor: pd.Series, settings: SplitSettings, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Whole donors in `n_folds` folds of like class sizes; one fold is the test part, the next one validation."""
    if donor.isna().any():
        raise UserError(f"{where}: donor_key: {int(donor.isna().sum())} samples have no donor; allowed: one each")
    n_donors = donor.nunique()
    if n_donors < settings.n_folds:
        raise UserError(
            f"{where}: split.n_folds: {settings.n_folds} folds for {n_donors} donors "
            f"({listed(sorted(donor.unique()))}); allowed: at most the number of donors"
        )
    folds = StratifiedGroupKFold(settings.n_folds, shuffle=True, random_state=settings.seed)
    fold = np.zeros(len(label), dtype=int)
    strata = label.fillna("").to_numpy(dtype=str)
    with warnings.catch_warnings():  # a class with fewer samples than folds; what matters is checked by the caller
        warnings.filterwarnings("ignore", message="The least populated class")
        for number, (_, held_out) in enumerate(folds.split(strata, strata, donor.to_numpy(dtype=str))):
            fold[held_out] = number
    split = np.full(len(label), TRAIN, dtype=object)
    split[fold == settings.test_fold] = TEST
    split[fold == (settings.test_fold + 1) % settings.n_folds] = VALIDATION
    return split, fold
