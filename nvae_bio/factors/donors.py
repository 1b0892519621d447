"""Tests over donors: samples of one donor are no replicates of a condition, donors are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

MIN_DONORS = 3  # that have all levels, or of each level
MIN_DONORS_RANKED = 6  # for a rank correlation


@dataclass(frozen=True)
class OverDonors:
    """A test of one column over donors, for some factors.

    Attributes:
        said: which test, over how many donors; or why there is none.
        effect: (factors,): difference of means in standard deviations of the score within classes, of more than two
            levels that of the largest and the smallest; of numbers Spearman's rho. NaN without a test.
        p: (factors,), NaN without a test.
        n_donors: donors with samples.
    """

    said: str
    effect: np.ndarray
    p: np.ndarray
    n_donors: int

    @classmethod
    def untested(cls, why: str, n_factors: int, n_donors: int) -> OverDonors:
        """No test of so many factors."""
        unknown = np.full(n_factors, np.nan)
        return cls(why, unknown, unknown, n_donors)


def over_donors(
    score: np.ndarray, values: np.ndarray, label: np.ndarray, donor: np.ndarray, is_numeric: bool, is_signed: bool
) -> OverDonors:
    """Whether scores go with a column over donors, each of which counts once.

    Scores less the mean of their class, over the standard deviation within classes, are averaged for each donor and
    level. Paired over donors that have all levels, where there are 3: t test, or F test of two-way ANOVA with more than
    two levels. Else unpaired, where each level has 3 donors: Welch's t test, or one-way ANOVA. A column of numbers, of
    which each donor has one: Spearman's rho, where there are 6 donors.

    Args:
        score: (m, factors).
        values: of the column, or the numbers of its levels, (m,).
        label: number of the class of each sample, (m,).
        donor: number of the donor of each sample, (m,); -1 where unknown.
        is_numeric: whether the column has no levels.
        is_signed: whether it has two.
    """
    rows = donor >= 0
    names, donor = np.unique(donor[rows], return_inverse=True)
    if not len(names):
        return OverDonors.untested("no donor to compare", score.shape[1], 0)
    mean_free, values = _standardized(score[rows], label[rows]), values[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of scores that do not vary: p is NaN, or 0
        found = _of_numbers(mean_free, values, donor) if is_numeric else _of_levels(mean_free, values, donor, is_signed)
    if isinstance(found, str):
        return OverDonors.untested(found, score.shape[1], len(names))
    return OverDonors(*found, len(names))


def _standardized(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Scores less the mean of their class, over the standard deviation within classes; NaN where that is 0."""
    centred = score - pd.DataFrame(score).groupby(label).transform("mean").to_numpy()
    std = np.sqrt(np.square(centred).sum(0) / max(len(score) - len(np.unique(label)), 1))
    return np.asarray(centred / np.where(std > 0, std, np.nan))


Found = tuple[str, np.ndarray, np.ndarray] | str  # what is said, effect and p; or why there is no test


def _of_numbers(score: np.ndarray, values: np.ndarray, donor: np.ndarray) -> Found:
    """Spearman's rho of the donors' mean scores with numbers of which each donor has one."""
    by_donor = pd.Series(values).groupby(donor)
    if by_donor.nunique().max() > 1:
        return "varies within donors"
    if len(by_donor) < MIN_DONORS_RANKED:
        return f"fewer than {MIN_DONORS_RANKED} donors"
    means, number = pd.DataFrame(score).groupby(donor).mean().to_numpy(), by_donor.first().to_numpy()
    rho, p = np.array([stats.spearmanr(mean, number) for mean in means.T]).T
    return f"rank correlation, {len(number)} donors", rho, p


def _of_levels(score: np.ndarray, values: np.ndarray, donor: np.ndarray, is_signed: bool) -> Found:
    """Paired if enough donors have all levels, else unpaired if each level has enough."""
    levels, level = np.unique(values, return_inverse=True)
    grouped = pd.DataFrame(score).groupby([donor, level]).mean()
    place = tuple(grouped.index.get_level_values(i) for i in (0, 1))
    means = np.full((donor.max() + 1, len(levels), score.shape[1]), np.nan)
    there = np.zeros(means.shape[:2], bool)
    means[place], there[place] = grouped.to_numpy(), True
    complete = there.all(1)
    if len(levels) > 1 and complete.sum() >= MIN_DONORS:
        arms, said, test = [*means[complete].swapaxes(0, 1)], f"paired, {complete.sum()} donors", _paired_p
    elif len(levels) > 1 and there.sum(0).min() >= MIN_DONORS:
        arms, test = [means[there[:, i], i] for i in range(len(levels))], _unpaired_p
        said = f"unpaired, {' vs '.join(str(len(arm)) for arm in arms)} donors"
    else:
        return f"fewer than {MIN_DONORS} donors an arm"
    by_level = np.array([arm.mean(0) for arm in arms])
    return said, by_level[1] - by_level[0] if is_signed else np.ptp(by_level, axis=0), test(arms)


def _paired_p(arms: Sequence[np.ndarray]) -> np.ndarray:
    """t test of two levels, F test of more, blocked by donor; an arm is (donors, factors)."""
    if len(arms) == 2:
        return np.asarray(stats.ttest_rel(*arms).pvalue)
    means = np.array(arms) - np.mean(arms, axis=0)  # (levels, donors, factors)
    n_levels, n_donors, _ = means.shape
    effect = means.mean(1, keepdims=True)
    between = n_donors * np.square(effect).sum((0, 1)) / (n_levels - 1)
    rest = np.square(means - effect).sum((0, 1)) / ((n_levels - 1) * (n_donors - 1))
    return np.asarray(stats.f.sf(between / rest, n_levels - 1, (n_levels - 1) * (n_donors - 1)))


def _unpaired_p(arms: Sequence[np.ndarray]) -> np.ndarray:
    """Welch's t test of two levels, one-way ANOVA of more; an arm is (donors, factors)."""
    test = stats.ttest_ind(*arms, equal_var=False) if len(arms) == 2 else stats.f_oneway(*arms)
    return np.asarray(test.pvalue)
