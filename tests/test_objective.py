"""The bound where the evidence is known, the two equations of the paper, and the warm-up."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from nvae_bio.data.batch import Batch
from nvae_bio.model import NVAE, DiagonalGaussian, ElboTerms, Gaussian, Posterior, elbo_terms, kl_weight
from tests.small_models import law, make_batch, make_generator, make_model, make_terms

N, G, C, S, K, STD = 7, 9, 3, 2, 2, 0.6  # samples, features, classes, dims and noise of the linear model


# --- a model whose evidence is known ---------------------------------------------------------------------------------


class LinearModel:
    """x = b_y + A z_s + B_y z_y + noise; the columns of [A, B_y] are orthogonal, so that the posterior is diagonal."""

    def __init__(self, seed: int = 0) -> None:
        generator = make_generator(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        directions = torch.linalg.qr(draw(G, S + C * K)).Q[:, torch.randperm(S + C * K, generator=generator)]
        self.shared = directions[:, :S] * draw(S)  # (G, S)
        self.private = (directions[:, S:] * draw(C * K)).reshape(G, C, K).permute(1, 0, 2)  # (C, G, K)
        self.bias = draw(C, G)
        self.label = torch.arange(N) % C
        self.x = draw(N, G) * 2

    def loading(self, label: int) -> Tensor:
        return torch.cat([self.shared, self.private[label]], dim=1)

    def evidence(self) -> Tensor:
        """log p(x | y), in closed form."""
        values = []
        for x, label in zip(self.x, self.label.tolist(), strict=True):
            covariance = self.loading(label) @ self.loading(label).T + STD**2 * torch.eye(G, dtype=torch.float64)
            values.append(MultivariateNormal(self.bias[label], covariance).log_prob(x))
        return torch.stack(values)

    def posterior(self) -> Posterior:
        """p(z_s, z_y | x, y), and for the other blocks what they would be: the bound must not care."""
        means, log_stds = [], []
        for x, label in zip(self.x, self.label.tolist(), strict=True):
            rows = [self._moments(x - self.bias[label], self.shared)]
            rows += [self._moments(x - self.bias[label], self.private[c]) for c in range(C)]
            means.append(torch.cat([mean for mean, _ in rows]))
            log_stds.append(torch.cat([log_std for _, log_std in rows]))
        mean, log_std = torch.stack(means), torch.stack(log_stds)
        return Posterior(
            DiagonalGaussian(mean[:, :S], log_std[:, :S]),
            DiagonalGaussian(mean[:, S:].reshape(N, C, K), log_std[:, S:].reshape(N, C, K)),
        )

    def _moments(self, residual: Tensor, loading: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.eye(loading.shape[1], dtype=torch.float64) + loading.T @ loading / STD**2
        covariance = torch.linalg.inv(precision)
        torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()))
        return covariance @ loading.T @ residual / STD**2, 0.5 * covariance.diagonal().log()


class GivenPosterior(nn.Module):
    n_shared, n_classes, n_private = S, C, K

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor, covariates: None) -> Posterior:
        return self.posterior


class UniformClassifier(nn.Module):
    def forward(self, x: Tensor, covariates: None) -> Tensor:
        return torch.full((len(x), C), -math.log(C), dtype=torch.float64)


class LinearDecoder(nn.Module):
    def __init__(self, linear: LinearModel) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, shared: Tensor, own: Tensor, label: Tensor, covariates: None) -> Tensor:
        private = torch.stack([self.linear.private[c] @ z for c, z in zip(label.tolist(), own, strict=True)])
        return self.linear.bias[label] + shared @ self.linear.shared.T + private


def mean_terms(linear: LinearModel, posterior: Posterior) -> ElboTerms:
    """`elbo_terms`, averaged over z exactly: log p(x|z) is a square in z, so 2D sigma points give its expectation."""
    likelihood = Gaussian(G).double()
    nn.init.constant_(likelihood.log_std, math.log(STD))
    model = NVAE(GivenPosterior(posterior), UniformClassifier(), LinearDecoder(linear), likelihood, uses_label=True)
    axes = math.sqrt(S + K) * torch.eye(S + K, dtype=torch.float64)
    batch = Batch(linear.x, linear.label)
    draws = [elbo_terms(model, batch, z.expand(N, -1)) for z in torch.cat([axes, -axes])]
    means = {
        field.name: torch.stack([getattr(draw, field.name).double() for draw in draws]).mean(0)
        for field in fields(ElboTerms)
    }
    return ElboTerms(**means)


@pytest.mark.parametrize("seed", range(3))
def test_bound_equals_the_evidence_at_the_exact_posterior(seed: int) -> None:
    linear = LinearModel(seed)
    terms = mean_terms(linear, linear.posterior())
    torch.testing.assert_close(terms.elbo(), linear.evidence())
    eq_7 = terms.objective(1.0, 1.0, "own", 1.0)
    torch.testing.assert_close(eq_7, linear.evidence() - math.log(C))


def test_all_blocks_at_the_prior_make_the_two_readings_of_the_private_kl_one() -> None:
    linear = LinearModel()
    exact = linear.posterior()
    own = torch.nn.functional.one_hot(linear.label, C)[:, :, None]
    silent = Posterior(exact.shared, DiagonalGaussian(exact.private.mean * own, exact.private.log_std * own))
    terms = mean_terms(linear, silent)
    torch.testing.assert_close(terms.objective(1.0, 1.0, "all", 0.0), linear.evidence())
    loud = mean_terms(linear, exact)
    assert (loud.objective(1.0, 1.0, "all", 0.0) < linear.evidence()).all()


@law
@given(st.sampled_from(["shared", "private"]), st.floats(-2, 2), st.floats(-1.5, 1.0))
def test_a_wrong_posterior_loses_its_divergence_from_the_exact_one(part: str, shift: float, stretch: float) -> None:
    # log p(x|y) - bound = KL(q || exact posterior), of the shared dims and the own block alone
    linear = LinearModel()
    exact = linear.posterior()
    moved = DiagonalGaussian(getattr(exact, part).mean + shift, getattr(exact, part).log_std + stretch)
    wrong = Posterior(moved, exact.private) if part == "shared" else Posterior(exact.shared, moved)
    gap = linear.evidence() - mean_terms(linear, wrong).elbo()

    def normal(latent: DiagonalGaussian) -> Normal:
        return Normal(latent.mean, latent.log_std.exp())

    expected = kl_divergence(normal(wrong.shared), normal(exact.shared)).sum(1)
    expected = expected + kl_divergence(normal(wrong.own(linear.label)), normal(exact.own(linear.label))).sum(1)
    torch.testing.assert_close(gap, expected, rtol=1e-6, atol=1e-9)
    if abs(shift) > 1e-3 or abs(stretch) > 1e-3:
        assert (gap > 0).all()


# --- the equations ---------------------------------------------------------------------------------------------------


def make_elbo_terms(seed: int = 0) -> ElboTerms:
    generator = make_generator(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    kl_private = draw(N, C, K)
    own = kl_private[torch.arange(N), torch.arange(N) % C]
    return ElboTerms(
        torch.arange(N) % C, -9 * draw(N), draw(N, S), draw(N, S), draw(N, S), draw(N, S), kl_private, own, draw(N),
        -draw(N), draw(N) > 0.5,
    )  # fmt: skip


def test_equation_7_at_beta_1_is_equation_6() -> None:
    terms = make_elbo_terms()
    whole_kl = torch.cat([terms.kl_shared, terms.kl_private.flatten(1)], dim=1).sum(1)  # KL(q(z|x) ‖ p(z))
    equation_6 = terms.log_likelihood - whole_kl + terms.log_class
    torch.testing.assert_close(terms.objective(1.0, 1.0, "all", 1.0), equation_6)


def test_the_two_readings_of_the_private_kl_differ_by_the_other_blocks() -> None:
    terms = make_elbo_terms()
    others = torch.stack([terms.kl_private[i, [c for c in range(C) if c != i % C]].sum() for i in range(N)])
    gap = terms.objective(1.0, 3.0, "own", 1.0) - terms.objective(1.0, 3.0, "all", 1.0)
    torch.testing.assert_close(gap, 3 * others)


def test_what_pulls_other_blocks_is_their_square_and_grows_away_from_the_point_at_0() -> None:
    terms = make_elbo_terms()
    gap = terms.objective(0.5, 3.0, "own", 1.0) - terms.objective(0.5, 3.0, "pulled", 1.0)
    torch.testing.assert_close(gap, 1.5 * terms.off_square)
    model, batch = make_model(n_shared=3, n_private=2), make_batch()
    found, posterior = make_terms(model, batch), model.infer(batch)[0]
    square = posterior.private.mean**2 + (2 * posterior.private.log_std).exp()
    others = 1 - torch.nn.functional.one_hot(batch.label, 3)[:, :, None]
    torch.testing.assert_close(found.off_square, (square * others).sum((1, 2)))


def test_kl_own_is_the_block_of_the_label() -> None:
    terms, batch = make_terms(make_model(n_shared=3, n_private=2), make_batch()), make_batch()
    mask = torch.nn.functional.one_hot(batch.label, 3)[:, :, None]
    torch.testing.assert_close((terms.kl_private * mask).sum(1), terms.kl_own)


@law
@given(st.floats(0, 1), st.floats(0.1, 4), st.floats(0, 3), st.sampled_from(["all", "own"]))
def test_objective_is_linear_in_its_weights(weight: float, beta: float, classifier: float, reading: str) -> None:
    terms = make_elbo_terms()
    w, b, c = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (weight, beta, classifier))
    by_weight, by_beta, by_classifier = torch.autograd.grad(terms.objective(w, b, reading, c).sum(), [w, b, c])
    private = (terms.kl_private if reading == "all" else terms.kl_own).sum()
    torch.testing.assert_close(by_weight, -(terms.kl_shared.sum() + beta * private))
    torch.testing.assert_close(by_beta, -weight * private)
    torch.testing.assert_close(by_classifier, terms.log_class.sum())
    torch.testing.assert_close(terms.objective(0.0, beta, reading, 0.0), terms.log_likelihood)


def test_bound_pays_for_no_block_that_the_decoder_does_not_see() -> None:
    terms = make_elbo_terms()
    torch.testing.assert_close(terms.elbo(), terms.objective(1.0, 1.0, "own", 0.0))
    assert (terms.elbo() > terms.objective(1.0, 1.0, "all", 0.0)).all()


def test_terms_of_a_sample_do_not_depend_on_its_batch() -> None:
    model, batch = make_model(n_shared=3, n_private=2), make_batch()
    noise = torch.randn(7, 5, generator=make_generator(0), dtype=torch.float64)
    whole = elbo_terms(model, batch, noise)
    order = torch.tensor([4, 0, 6, 2])
    part = elbo_terms(model, Batch(batch.x[order], batch.label[order]), noise[order])
    for field in fields(ElboTerms):
        torch.testing.assert_close(getattr(part, field.name), getattr(whole, field.name)[order])


# --- warm-up ---------------------------------------------------------------------------------------------------------


@law
@given(st.sampled_from([50, 50_000]), st.integers(1, 1024), st.integers(1, 300), st.floats(0, 0.5))
def test_warm_up_ends_at_exactly_one_and_in_time(n_samples: int, batch_size: int, epochs: int, share: float) -> None:
    n_steps = epochs * math.ceil(n_samples / batch_size)
    end = max(math.floor(n_steps * share), 1)  # steps in the warm-up
    looked_at = sorted({*range(0, n_steps, max(n_steps // 300, 1)), end - 2, end - 1, end, n_steps - 1} - {-1, n_steps})
    weights = [kl_weight(step, n_steps, share) for step in looked_at]
    assert all(0 < a <= b <= 1 for a, b in zip(weights, [*weights[1:], 1.0], strict=True))
    assert [weight == 1.0 for weight in weights] == [step >= end - 1 for step in looked_at]
    assert end <= max(n_steps / 2, 1)  # well before the last step
    assert weights[-1] == 1.0


def test_warm_up_rises_evenly() -> None:
    assert [kl_weight(step, 40, 0.25) for step in range(12)] == [(step + 1) / 10 for step in range(10)] + [1.0, 1.0]
    assert kl_weight(0, 1000, 0.0) == 1.0
