"""Importance-weighted log-likelihood: against the exact one of a linear Gaussian model, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import Tensor

from nvae_bio.data.packed import pack
from nvae_bio.data.samples import Samples
from nvae_bio.evaluate.likelihood import LogLikelihood, importance_weighted
from nvae_bio.model import NVAE
from tests.small_models import law, make_model, randomize

N, N_FEATURES = 9, 6


def make_gaussian(variant: str = "nvae", seed: int = 0, **settings: int) -> NVAE:
    """A model whose p(x|y) is a Gaussian: a linear decoder, and Gaussian noise; its q(z|x) is wider than the prior."""
    dims = {"n_shared": 2, "n_private": 1} | settings
    model = randomize(make_model(variant, "gaussian", N_FEATURES, decoder="linear", seed=seed, **dims), seed).float()
    with torch.no_grad():
        for layer in (model.encoder.moments, model.encoder.linear):
            assert layer is not None
            layer.weight.zero_()
        model.encoder.moments.bias.fill_(0.2)
    return model


def make_samples(seed: int = 1) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, N_FEATURES, generator=generator)
    return Samples(pack(x.numpy(), is_counts=False), torch.arange(N) % 3, None)


def exact(model: NVAE, samples: Samples, label: int) -> np.ndarray:
    """log N(x; b_y, W Wᵀ + diag(σ²)) of every sample, from the decoder at 0 and at unit vectors."""
    n = model.n_shared + model.n_private
    z = torch.cat([torch.zeros(1, n), torch.eye(n)])
    of = model.decode(z[:, : model.n_shared], z[:, model.n_shared :], torch.full((n + 1,), label), None)
    mean = of.mean.detach().double().numpy()
    weight, noise = mean[1:] - mean[0], np.exp(2 * of.log_std.detach().double().numpy())
    covariance = weight.T @ weight + np.diag(noise * np.ones(N_FEATURES))
    x = next(samples.chunks(N)).x.numpy()
    return np.asarray(multivariate_normal(mean[0], covariance).logpdf(x))


LOG_PRIOR = torch.tensor([0.5, 0.3, 0.2]).log()


def estimated(model: NVAE, n_draws: int, seed: int = 0, rows: Tensor | None = None, **options: bool) -> LogLikelihood:
    rows = torch.arange(N) if rows is None else rows
    return importance_weighted(model, make_samples(), rows, LOG_PRIOR, n_draws, seed, **options)


@pytest.mark.parametrize(
    ("variant", "dims"), [("nvae", {}), ("cvae", {"n_private": 0}), ("per_class", {"n_shared": 0})]
)
def test_it_is_the_exact_log_likelihood_of_a_linear_gaussian_model(variant: str, dims: dict[str, int]) -> None:
    model = make_gaussian(variant, **dims)
    found, samples = estimated(model, 4_000), make_samples()
    known = np.stack([exact(model, samples, y) for y in range(3)], axis=1)
    np.testing.assert_allclose(found.by_class.numpy(), known, atol=0.15)
    own = known[np.arange(N), np.arange(N) % 3]
    np.testing.assert_allclose(found.given_label.numpy(), own, atol=0.15)
    prior = LOG_PRIOR.numpy()
    np.testing.assert_allclose(found.joint.numpy(), own + prior[np.arange(N) % 3], atol=0.15)
    np.testing.assert_allclose(found.marginal.numpy(), np.log(np.exp(known + prior).sum(1)), atol=0.15)


def test_a_model_that_sees_no_label_has_one_likelihood() -> None:
    model = make_gaussian("vae", n_private=0)
    found = estimated(model, 4_000)
    np.testing.assert_allclose(found.marginal.numpy(), exact(model, make_samples(), 0), atol=0.15)
    assert torch.equal(found.marginal, found.given_label) and torch.equal(found.marginal, found.joint)


@law
@given(st.integers(0, 50))
def test_more_draws_give_more_on_average_and_one_draw_is_a_bound(seed: int) -> None:
    model = make_gaussian(seed=seed)
    few, many = (torch.stack([estimated(model, n, s).given_label for s in range(200 // n)]).mean() for n in (1, 20))
    assert few <= many + 0.05


def test_other_classes_are_not_asked_where_they_are_not_needed() -> None:
    model = make_gaussian()
    one, all_classes = estimated(model, 7, all_classes=False), estimated(model, 7)
    assert torch.equal(one.given_label, all_classes.given_label)
    assert int(one.by_class.isnan().sum()) == 2 * N and not all_classes.by_class.isnan().any()


def test_the_draws_are_those_of_the_seed_and_rows_may_be_some() -> None:
    model = make_gaussian()
    assert torch.equal(estimated(model, 5, 3).by_class, estimated(model, 5, 3).by_class)
    assert not torch.equal(estimated(model, 5, 3).by_class, estimated(model, 5, 4).by_class)
    some = estimated(model, 2000, rows=torch.tensor([4, 1]))
    np.testing.assert_allclose(some.by_class, estimated(model, 2000).by_class[[4, 1]], atol=0.6)
    assert some.label.tolist() == [1, 1] and math.isfinite(float(some.marginal.sum()))
