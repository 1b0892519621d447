"""Intervals of effects pooled over seeds."""

import numpy as np
import pytest
from scipy.stats import norm, t

from nvae_bio.factors.intervals import rubin_interval


def make_seeds(n_seeds: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Estimates around 1 and their standard errors, (n_seeds, size) each."""
    rng = np.random.default_rng(seed)
    return rng.normal(1, 0.5, (n_seeds, size)), rng.uniform(0.1, 0.4, (n_seeds, size))


def test_one_seed_has_the_normal_interval() -> None:
    means, errors = make_seeds(1, 20)
    mean, lower, upper = rubin_interval(means, errors, 0.9)
    wanted = norm.interval(0.9, means[0], errors[0])
    np.testing.assert_allclose([mean, lower, upper], [means[0], *wanted], rtol=1e-12)


def test_seeds_that_agree_have_the_normal_interval_of_the_mean_variance() -> None:
    errors = make_seeds(4, 20)[1]
    means = np.tile(np.linspace(-1, 1, 20), (4, 1))
    _, lower, upper = rubin_interval(means, errors, 0.95)
    wanted = norm.interval(0.95, means[0], np.sqrt((errors**2).mean(0)))
    np.testing.assert_allclose([lower, upper], wanted, rtol=1e-12)


@pytest.mark.parametrize("n_seeds", [2, 3, 10])
def test_seeds_without_errors_have_the_interval_of_one_more_seed(n_seeds: int) -> None:
    means = make_seeds(n_seeds, 20)[0]
    mean, lower, upper = rubin_interval(means, np.zeros_like(means), 0.95)
    error = means.std(0, ddof=1) * np.sqrt(1 + 1 / n_seeds)
    np.testing.assert_allclose([lower, upper], t.interval(0.95, n_seeds - 1, means.mean(0), error), rtol=1e-12)
    np.testing.assert_allclose(mean, means.mean(0))


def test_a_case_by_hand() -> None:
    """B = 1, W = 1 and m = 3: T = 1 + 4/3, with 2 (7/4)² degrees of freedom."""
    mean, lower, upper = rubin_interval(np.array([1.0, 2.0, 3.0]), np.ones(3), 0.95)
    np.testing.assert_allclose([mean, lower, upper], [2, *t.interval(0.95, 6.125, 2, np.sqrt(7 / 3))], rtol=1e-12)


def test_no_variance_at_all_has_an_interval_of_no_width() -> None:
    mean, lower, upper = rubin_interval(np.ones((3, 2)), np.zeros((3, 2)), 0.95)
    np.testing.assert_array_equal([mean, lower, upper], np.ones((3, 2)))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(
    ("n_seeds", "between", "within"), [(3, 1.0, 0.5), (5, 0.5, 1.0), (5, 1.0, 0.0), (10, 1.0, 1.0)]
)
def test_coverage_of_what_one_more_seed_finds_in_other_samples(
    n_seeds: int, between: float, within: float, confidence: float
) -> None:
    rng, n = np.random.default_rng(3), 20_000
    truth = rng.normal(0, between, n)  # one more draw of the same models
    sampling = rng.normal(0, within, n)  # the samples are the same for all seeds
    means = rng.normal(0, between, (n_seeds, n)) + sampling
    _, lower, upper = rubin_interval(means, np.full_like(means, within), confidence)
    covered = float(((lower <= truth) & (truth <= upper)).mean())
    short = 0.035 if n_seeds == 3 else 0.015  # the t distribution is an approximation, coarse for few seeds
    assert confidence - short < covered < confidence + 0.015


def test_width_grows_with_the_variance_between() -> None:
    means, errors = make_seeds(5, 20)
    center = means.mean(0)
    spread = [rubin_interval(center + scale * (means - center), errors, 0.95) for scale in (0, 0.5, 1, 2)]
    assert (np.diff([upper - lower for _, lower, upper in spread], axis=0) > 0).all()


def test_the_order_of_seeds_does_not_matter_and_units_scale() -> None:
    means, errors = make_seeds(5, 20)
    wanted = np.stack(rubin_interval(means, errors, 0.95))
    np.testing.assert_allclose(np.stack(rubin_interval(means[::-1], errors[::-1], 0.95)), wanted, rtol=1e-12)
    np.testing.assert_allclose(np.stack(rubin_interval(3 * means, 3 * errors, 0.95)), 3 * wanted, rtol=1e-12)
    table = np.stack(rubin_interval(means.reshape(5, 4, 5), errors.reshape(5, 4, 5), 0.95))
    np.testing.assert_allclose(table.reshape(3, 20), wanted, rtol=1e-12)
