"""Moments of pictures, known factors, and the aggregate posterior: each against what it must be by construction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from nvae_bio.evaluate.aggregate import mmd, mmd_ratio, moment_kl, moment_kl_ratio
from nvae_bio.evaluate.disentangle import dci, factor_scores, mig, r2_scores, sap
from nvae_bio.evaluate.moments import image_moments
from tests.small_models import law

# --- moments ---------------------------------------------------------------------------------------------------------


def make_bar(slant: float = 0.0, width: float = 1.5, height: float = 5.0, grey: float = 1.0) -> np.ndarray:
    """A Gaussian blob of 41 × 41 pixels: of these standard deviations, and slanted."""
    y, x = np.mgrid[20:-21:-1, -20:21].astype(float)
    return (grey * np.exp(-0.5 * (((x - slant * y) / width) ** 2 + (y / height) ** 2))).reshape(1, -1)


@law
@given(st.floats(-0.8, 0.8), st.floats(1.0, 2.5), st.floats(2.0, 4.0), st.floats(0.2, 1.0))
def test_moments_are_those_of_a_blob(slant: float, width: float, height: float, grey: float) -> None:
    (found,) = image_moments(make_bar(slant, width, height, grey), (1, 41, 41)).to_dict("records")
    assert found["slant"] == pytest.approx(slant, abs=0.02)
    assert found["width"] == pytest.approx(width, rel=0.03)
    assert found["height"] == pytest.approx(height, rel=0.03)
    assert found["intensity"] == pytest.approx(make_bar(slant, width, height, grey).mean())


def test_moments_move_with_the_picture_and_an_empty_one_has_none() -> None:
    bar = make_bar(0.3).reshape(41, 41)
    moved = ndimage.shift(bar, (3, -4), order=1)
    one, other = (image_moments(part.reshape(1, -1), (1, 41, 41)) for part in (bar, moved))
    pd.testing.assert_frame_equal(one, other, rtol=0.01)
    assert np.isfinite(image_moments(np.zeros((2, 12)), (1, 3, 4)).to_numpy()).all()
    coloured = image_moments(np.tile(make_bar(0.3), (1, 3)), (3, 41, 41))
    pd.testing.assert_frame_equal(coloured, one)


# --- known factors ---------------------------------------------------------------------------------------------------


def make_known(n: int = 2000, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    factors = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 2)), columns=["slant", "width"])
    return factors.to_numpy().copy(), factors


def test_a_factor_a_dim_is_perfect_and_noise_is_nothing() -> None:
    z, factors = make_known()
    assert mig(z, factors.to_numpy()) > 0.8 and sap(z, factors.to_numpy()) > 0.98
    assert min(dci(z, factors.to_numpy()).values()) > 0.95
    noise = np.random.default_rng(9).normal(size=z.shape)
    assert mig(noise, factors.to_numpy()) < 0.05 and sap(noise, factors.to_numpy()) < 0.01
    assert dci(noise, factors.to_numpy())["dci_disentanglement"] < 0.1


def test_turned_axes_hold_all_and_tell_nothing_apart() -> None:
    z, factors = make_known()
    turned = z @ np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    train = np.arange(len(z)) % 2 == 0
    assert r2_scores(turned, factors, train, ~train)["r2_slant"] > 0.99
    assert sap(turned, factors.to_numpy()) < 0.05 and mig(turned, factors.to_numpy()) < 0.05
    assert dci(turned, factors.to_numpy())["dci_disentanglement"] < 0.05


def test_only_held_out_samples_with_the_factor_are_scored() -> None:
    z, factors = make_known()
    train = np.arange(len(z)) % 2 == 0
    factors.loc[~train & (z[:, 1] > 0), "width"] = np.nan
    z[train] = np.random.default_rng(1).normal(size=(train.sum(), 2))  # nothing can be learnt there
    found = factor_scores(z, factors, train, ~train)
    assert found["r2_slant"] < 0.05 and found["r2_slant_knn"] < 0.05
    assert found["mig"] > 0.7  # of the held-out samples alone
    assert "mig" not in factor_scores(z, factors[["slant"]], train, ~train)


# --- aggregate posterior ---------------------------------------------------------------------------------------------


@law
@given(st.integers(1, 6), st.integers(0, 100))
def test_draws_of_the_prior_have_a_ratio_near_one(d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, label = rng.normal(size=(600, d)), rng.integers(0, 3, 600)
    assert 0.3 < mmd_ratio(z, rng) < 3
    assert 0.2 < moment_kl_ratio(z, label, rng) < 3


def test_what_is_not_the_prior_is_further_from_it() -> None:
    rng = np.random.default_rng(0)
    z, label = rng.normal(size=(600, 3)), np.repeat([0, 1, 2], 200)
    assert mmd_ratio(z + 1, rng) > 10 and mmd_ratio(0.5 * z, rng) > 5
    apart = z + 2 * (label[:, None] - 1)  # its moments over all classes say less than those within
    assert moment_kl_ratio(apart, label, rng) > 20
    assert np.isnan(moment_kl_ratio(z[:6], np.arange(6), rng))


@law
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=2), st.floats(0.3, 2.0))
def test_moment_kl_is_that_of_gaussians(mean: list[float], sd: float) -> None:
    z = np.random.default_rng(0).normal(size=(50_000, 2)) * sd + mean
    known = 0.5 * (2 * sd**2 + np.square(mean).sum() - 2 - 4 * np.log(sd))
    assert moment_kl(z) == pytest.approx(known, abs=0.06)


def test_mmd_is_a_distance_of_samples() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(300, 4)), rng.normal(size=(200, 4)) + 0.5
    assert mmd(left, right) == pytest.approx(mmd(right, left)) and mmd(left, right) > 0
    assert mmd(left, left[::-1]) == pytest.approx(0, abs=1e-9)
