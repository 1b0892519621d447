"""Zero inflation, Poisson, size factors and dispersions by batch: values and gradients, each by a second way."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio.config import ModelSettings
from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.data.packed import counts_of, pack
from nvae_bio.errors import UserError
from nvae_bio.model import FeatureMoments, NegativeBinomial, Poisson, Stack, ZeroInflatedNegativeBinomial, elbo_terms
from nvae_bio.model.distributions import NegativeBinomialCounts, PoissonCounts, ZeroInflatedCounts
from nvae_bio.model.kernels import negative_binomial_log_prob, poisson_log_prob
from nvae_bio.model.likelihoods import FIRST_GATE, LIKELIHOOD_CLASSES, make_likelihood
from tests.kernel_cases import DISPERSIONS, POISSONLIKE, Case, entries_by_sums, make_case, make_weights
from tests.small_models import law, make_batch, make_generator, make_model, make_moments, make_noise

COUNTS = ["negative_binomial", "zero_inflated_negative_binomial", "poisson"]
GATES = [-50.0, -4.0, 0.0, 3.0, 50.0]


class Outcome(NamedTuple):
    """A value of each sample, and gradients of its sum weighed by `make_weights`; by θ also where there is none."""

    value: Tensor
    by_outputs: Tensor
    by_dispersion: Tensor


def make_outputs(case: Case, name: str, normalised: bool, seed: int = 0) -> Tensor:
    """The case's logits, or logits of counts of the same size, with gates behind them where the model has some."""
    generator, (n, n_features) = make_generator(seed), case.x.shape
    logits = case.logits if normalised else case.logits[:, :-1].log_softmax(-1)
    if name != "zero_inflated_negative_binomial":
        return logits
    gate = torch.tensor(GATES)[torch.randint(len(GATES), (n, n_features), generator=generator)].double()
    return torch.cat([logits, gate], dim=1)


def found_by_kernel(name: str, outputs: Tensor, case: Case, normalised: bool) -> Outcome:
    outputs, theta = outputs.clone().requires_grad_(), case.log_dispersion.clone().requires_grad_()
    counts = counts_of(case.x)
    if name == "poisson":
        value = poisson_log_prob(outputs, case.x, counts.log_factorial, case.log_library, normalised=normalised)
    else:
        value = negative_binomial_log_prob(outputs, theta, case.x, counts, case.log_library, normalised=normalised)
    (value * make_weights(len(value)).to(value.dtype)).sum().backward()
    return Outcome(value.detach(), outputs.grad, torch.zeros_like(theta) if theta.grad is None else theta.grad)


def log_means(outputs: Tensor, case: Case, normalised: bool) -> tuple[Tensor, Tensor]:
    """log μ, and the gates."""
    logits, gate = outputs.tensor_split([case.x.shape[1] + normalised], dim=1)
    log_rate = logits.log_softmax(-1)[:, :-1] if normalised else logits
    return log_rate + case.log_library[:, None], gate


def found_by_autograd(name: str, outputs: Tensor, case: Case, normalised: bool) -> Outcome:
    """As in a textbook, in float64; good up to θ of about 1e4."""
    outputs, log_theta = outputs.clone().requires_grad_(), case.log_dispersion.clone().requires_grad_()
    log_mean, gate = log_means(outputs, case, normalised)
    x, theta, mean = case.x, log_theta.exp(), log_mean.exp()
    if name == "poisson":
        terms = torch.distributions.Poisson(mean).log_prob(x) + 0 * log_theta
    else:
        terms = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        terms = terms + x * (log_mean - (theta + mean).log()) - theta * torch.log1p(mean / theta)
    if gate.shape[1]:
        log_extra, log_counted = torch.nn.functional.logsigmoid(gate), torch.nn.functional.logsigmoid(-gate)
        terms = torch.where(x == 0, torch.logaddexp(log_extra, log_counted + terms), log_counted + terms)
    value = terms.sum(-1)
    (value * make_weights(len(value))).sum().backward()
    return Outcome(value.detach(), outputs.grad, log_theta.grad)


def found_by_sums(outputs: Tensor, case: Case, normalised: bool) -> Outcome:
    """Of the zero-inflated negative binomial: one factor at a time, gradients by hand; good at any θ."""
    log_mean, gate = log_means(outputs, case, normalised)
    value, by_log_mean, by_log_theta = (table.numpy() for table in entries_by_sums(case, log_mean))
    log_extra, log_counted = scipy.special.log_expit(gate.numpy()), scipy.special.log_expit(-gate.numpy())
    is_zero = case.x.numpy() == 0
    mixed = np.where(is_zero, np.logaddexp(log_extra, log_counted + value), log_counted + value)
    own = np.where(is_zero, np.exp(np.where(is_zero, log_counted + value - mixed, 0)), 1)
    by_gate = np.where(is_zero, np.exp(np.where(is_zero, log_extra - mixed, 0)), 0) - np.exp(log_extra)
    by_logits = own * by_log_mean
    if normalised:
        logits = outputs[:, : case.x.shape[1] + 1]
        pull = -logits.softmax(-1).numpy() * by_logits.sum(1, keepdims=True)
        pull[:, :-1] += by_logits
        by_logits = pull
    weights = make_weights(len(value)).numpy()[:, None]
    by_outputs = np.concatenate([by_logits, by_gate], axis=1) * weights
    return Outcome(*map(torch.from_numpy, (mixed.sum(1), by_outputs, (own * by_log_theta * weights).sum(0))))


def assert_near(found: Outcome, expected: Outcome, relative: float) -> None:
    """Off by no more than `relative` of the largest number of its kind that the sums are made of."""
    for name, one, other in zip(Outcome._fields, found, expected, strict=True):
        assert torch.isfinite(one).all(), name
        off = (one.double() - other).abs() / (1 + other.abs().max())
        assert off.max() <= relative, (name, off.max())


# --- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("name", COUNTS)
def test_values_and_gradients_are_those_of_autograd(name: str, normalised: bool) -> None:
    case = make_case(6, 40, DISPERSIONS, 3)
    outputs = make_outputs(case, name, normalised)
    expected = found_by_autograd(name, outputs, case, normalised)
    for one, other in zip(found_by_kernel(name, outputs, case, normalised), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("dispersions", [DISPERSIONS, POISSONLIKE])
def test_zero_inflation_is_that_of_plain_sums(dispersions: list[float], normalised: bool) -> None:
    case = make_case(5, 60, dispersions, 5)
    outputs = make_outputs(case, "zero_inflated_negative_binomial", normalised)
    expected = found_by_sums(outputs, case, normalised)
    found = found_by_kernel("zero_inflated_negative_binomial", outputs, case, normalised)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("spread", [0.1, 4.0, 25.0])
@pytest.mark.parametrize(("n", "n_features"), [(1, 1), (3, 63), (2, 64), (5, 65), (4, 200)])
@pytest.mark.parametrize("name", COUNTS)
def test_fused_is_the_plain_form_but_for_rounding(
    name: str, n: int, n_features: int, spread: float, normalised: bool
) -> None:
    case = make_case(n, n_features, [*DISPERSIONS, *POISSONLIKE], n_features, spread=spread)
    outputs = make_outputs(case, name, normalised).float().double()
    case = case.to(torch.float32).to(torch.float64)
    found = found_by_kernel(name, outputs.float(), case.to(torch.float32), normalised)
    assert all(part.dtype == torch.float32 for part in found)
    assert_near(found, found_by_kernel(name, outputs, case, normalised), 2e-5)


def test_zero_inflation_of_one_entry_is_off_by_rounding_alone() -> None:
    # one entry a sample: whether a zero is NB's own is decided by e^gate against NB(0), at all sizes of both
    log_mean, log_theta, gate = (
        torch.tensor(column).float()
        for column in np.stack(np.meshgrid([-14, -2, 0, 4, 11], [-9, -1, 0, 3, 9, 16], GATES)).reshape(3, -1)
    )
    x = torch.zeros(len(gate), 1)
    outputs, zero = torch.stack([log_mean, gate], dim=1), torch.zeros(len(gate))
    found = []
    for dtype in (torch.float32, torch.float64):
        both = outputs.to(dtype).clone().requires_grad_()
        value = negative_binomial_log_prob(
            both, log_theta.to(dtype)[:, None], x, counts_of(x), zero, torch.arange(len(gate)), normalised=False
        )
        value.sum().backward()
        found.append((value.detach().double(), both.grad.double()))
    size = 1 + outputs.abs().sum(1).double()
    for one, other in zip(*found, strict=True):
        allowed = 1e-7 * (size if one.dim() == 1 else size[:, None]) * (1 + other.abs())
        assert ((one - other).abs() <= allowed).all()
    mean, theta, odds = (part.double().numpy() for part in (log_mean.exp(), log_theta.exp(), gate))
    absent = -theta * np.log1p(mean / theta)
    expected = np.logaddexp(scipy.special.log_expit(odds), scipy.special.log_expit(-odds) + absent)
    np.testing.assert_allclose(found[1][0], expected, rtol=1e-5, atol=1e-10)


@law
@given(st.integers(0, 5000), st.floats(-12, 12), st.floats(-9, 6), st.floats(-50, 50))
def test_zero_inflation_agrees_with_scipy(count: int, log_mean: float, log_theta: float, gate: float) -> None:
    x, outputs = torch.tensor([[float(count)]]), torch.tensor([[log_mean, gate]], dtype=torch.float64)
    theta = torch.tensor([log_theta], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    found = negative_binomial_log_prob(outputs, theta, x, counts_of(x), zero, normalised=False).item()
    mean, shape = math.exp(log_mean), math.exp(log_theta)
    counted = scipy.special.log_expit(-gate) + scipy.stats.nbinom.logpmf(count, shape, shape / (shape + mean))
    expected = counted if count else np.logaddexp(scipy.special.log_expit(gate), counted)
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-9)


@law
@given(st.integers(0, 20000), st.floats(-50, 12))
def test_poisson_agrees_with_scipy(count: int, log_mean: float) -> None:
    x, outputs = torch.tensor([[float(count)]]), torch.tensor([[log_mean]], dtype=torch.float64)
    factorial, zero = counts_of(x).log_factorial, torch.zeros(1, dtype=torch.float64)
    expected = scipy.stats.poisson.logpmf(count, math.exp(log_mean))
    found = poisson_log_prob(outputs, x, factorial, zero, normalised=False).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    single = poisson_log_prob(outputs.float(), x, factorial, zero, normalised=False).item()
    assert single == pytest.approx(expected, rel=1e-5, abs=1e-6 * (1 + math.exp(log_mean) + count * abs(log_mean)))


def test_the_negative_binomial_goes_to_poisson() -> None:
    case = make_case(4, 30, [1e14], 2)
    case = case._replace(x=case.x.clamp_max(60))
    one = found_by_kernel("negative_binomial", case.logits, case, True)
    other = found_by_kernel("poisson", case.logits, case, True)
    torch.testing.assert_close(one.value, other.value, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(one.by_outputs, other.by_outputs, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_a_size_factor_is_the_library_of_rates_that_are_known(name: str) -> None:
    case = make_case(5, 40, DISPERSIONS, 1)
    known = make_outputs(case, name, True)
    free = torch.cat([known[:, :41].log_softmax(-1)[:, :-1], known[:, 41:]], dim=1)
    one, other = found_by_kernel(name, known, case, True), found_by_kernel(name, free, case, False)
    torch.testing.assert_close(one.value, other.value, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(one.by_dispersion, other.by_dispersion, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("name", COUNTS)
def test_extremes_are_finite(name: str, normalised: bool, dtype: torch.dtype) -> None:
    for level in (-50.0, 50.0):
        case = make_case(6, 50, [*DISPERSIONS, *POISSONLIKE], 4).to(dtype)
        outputs = make_outputs(case, name, normalised).to(dtype)
        outputs[::2, :20] = level
        outputs[1::2, 10:40] = -level
        for part in found_by_kernel(name, outputs, case, normalised):
            assert torch.isfinite(part).all()


@pytest.mark.parametrize("where", [0, 64, 65, 70, 129])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COUNTS[1:])
def test_broken_outputs_give_broken_values(name: str, dtype: torch.dtype, bad: float, where: int) -> None:
    case = make_case(3, 65, DISPERSIONS).to(dtype)
    outputs = make_outputs(case, name, True).to(dtype)
    outputs[1, where % outputs.shape[1]] = bad
    value = found_by_kernel(name, outputs, case, True).value
    assert torch.isfinite(value).tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COUNTS)
def test_autocast_changes_no_bit_and_a_second_backward_is_refused(name: str, dtype: torch.dtype) -> None:
    case = make_case(4, 30, DISPERSIONS).to(dtype)
    outputs = make_outputs(case, name, False).to(dtype)
    plain = found_by_kernel(name, outputs, case, False)
    with torch.autocast("cpu", torch.bfloat16):
        within = found_by_kernel(name, outputs, case, False)
    assert all(torch.equal(one, other) for one, other in zip(plain, within, strict=True))
    likelihood = LIKELIHOOD_CLASSES[name](30, normalised=False).to(dtype)
    value = likelihood.log_prob(outputs.requires_grad_(), Batch(case.x, torch.zeros(4), case.log_library.exp())).sum()
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COUNTS)
def test_leading_dimensions_are_models_apart(name: str, dtype: torch.dtype) -> None:
    flat = make_case(24, 33, DISPERSIONS).to(dtype)
    outputs, matrix = make_outputs(flat, name, True).to(dtype), pack(flat.x.numpy(), is_counts=True)
    index = torch.arange(24).flip(0).reshape(2, 3, 4)
    tables = make_case(6, 33, DISPERSIONS, 1).logits[:, :-1].reshape(2, 3, 33).to(dtype)

    def score(outputs: Tensor, tables: Tensor, rows: Tensor) -> Tensor:
        x, counts = matrix.rows(rows)
        library = flat.log_library[rows]
        if name == "poisson":
            return poisson_log_prob(outputs, x, counts.log_factorial, library)
        return negative_binomial_log_prob(outputs, tables, x, counts, library)

    together = score(outputs[index], tables, index)
    assert together.shape == (2, 3, 4)
    for i, j in np.ndindex(2, 3):
        assert torch.equal(together[i, j], score(outputs[index[i, j]], tables[i, j], index[i, j]))


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "theta", "gate"), [(0.5, 0.4, -1.0), (6.0, 2.0, 0.5), (40.0, 1e4, -3.0)])
def test_zero_inflation_sums_to_one_and_draws_have_its_moments(mean: float, theta: float, gate: float) -> None:
    x = torch.arange(4000.0).double()[:, None]
    outputs = torch.tensor([[math.log(mean), gate]]).double().expand(4000, 2)
    log_theta, zero = torch.tensor([theta]).double().log(), torch.zeros(4000).double()
    p = negative_binomial_log_prob(outputs, log_theta, x, counts_of(x), zero, normalised=False).exp()
    extra = scipy.special.expit(gate)
    expected, square = (1 - extra) * mean, (1 - extra) * (mean + mean**2 / theta + mean**2)
    assert p.sum().item() == pytest.approx(1, abs=1e-7)
    assert (p * x[:, 0]).sum().item() == pytest.approx(expected, rel=1e-5)
    assert (p * x[:, 0] ** 2).sum().item() == pytest.approx(square, rel=1e-4)
    n, fourth = 200_000, (p * (x[:, 0] - expected) ** 4).sum().item()
    counts = NegativeBinomialCounts(torch.full((n, 1), mean).log(), log_theta.float())
    distribution = ZeroInflatedCounts(counts, torch.full((n, 1), gate))
    draws, var = distribution.sample(make_generator(0)).double(), square - expected**2
    assert distribution.mean[0].item() == pytest.approx(expected, rel=1e-6)
    assert draws.mean().item() == pytest.approx(expected, abs=5 * math.sqrt(var / n))
    assert draws.var().item() == pytest.approx(var, abs=5 * math.sqrt((fourth - var**2) / n))
    assert (draws == 0).double().mean().item() == pytest.approx(p[0].item(), abs=5 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("mean", [0.02, 3.0, 500.0])
def test_poisson_draws_have_its_moments(mean: float) -> None:
    n = 100_000
    draws = PoissonCounts(torch.full((n, 1), mean).log()).sample(make_generator(1)).double()
    assert torch.equal(draws, draws.round())
    assert draws.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(mean / n))
    assert draws.var().item() == pytest.approx(mean, abs=5 * math.sqrt((mean + 2 * mean**2) / n))


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("name", COUNTS)
def test_the_first_outputs_give_the_mean_of_each_gene(name: str, normalised: bool) -> None:
    batch = make_batch(name, n=40)
    likelihood = LIKELIHOOD_CLASSES[name](6, normalised=normalised).double()
    moments = FeatureMoments.of(batch.x * 1000, batch.library * 1000)
    outputs = likelihood.initial_outputs(moments)
    assert outputs.shape == (likelihood.n_outputs,)
    mean = likelihood(outputs[None], torch.ones(1).double()).mean[0]
    torch.testing.assert_close(mean, batch.x.sum(0) / batch.library.sum(), rtol=1e-4, atol=1e-6)
    if name == "zero_inflated_negative_binomial":
        assert (outputs[-6:] == FIRST_GATE).all()


def test_an_unshared_rate_moves_no_other_gene() -> None:
    likelihood, outputs = Poisson(4, normalised=False), torch.randn(1, 4, generator=make_generator(0))
    raised, size = outputs + torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([30.0])
    before, after = likelihood(outputs, size).mean[0], likelihood(raised, size).mean[0]
    assert torch.equal(before[1:], after[1:])
    torch.testing.assert_close(before, 30 * outputs[0].exp())
    torch.testing.assert_close(after[0] / before[0], torch.tensor(2.0).exp())


# --- dispersions by batch --------------------------------------------------------------------------------------------

LEVELS = torch.tensor([0, 2, -1, 1, 0, 2, -1])
DISPERSED = {"negative_binomial": NegativeBinomial, "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial}


def make_covariates(level: Tensor) -> Covariates:
    """Of samples with that batch, and with one more categorical covariate."""
    return Covariates(torch.stack([level, torch.ones_like(level)], dim=-1), torch.zeros(*level.shape, 0))


def make_dispersed(name: str, n_batches: int = 3) -> tuple[NegativeBinomial, Tensor, Batch]:
    likelihood = DISPERSED[name](6, n_batches=n_batches).double()
    with torch.no_grad():
        likelihood.log_dispersion.copy_(torch.linspace(-2, 3, n_batches * 6).view(n_batches, 6))
    outputs = torch.randn(7, likelihood.n_outputs, generator=make_generator(5), dtype=torch.float64)
    return likelihood, outputs, make_batch(name)._replace(covariates=make_covariates(LEVELS))


def make_plain(name: str, log_dispersion: Tensor) -> NegativeBinomial:
    plain = DISPERSED[name](6).double()
    plain.log_dispersion.data.copy_(log_dispersion)
    return plain


@pytest.mark.parametrize("name", DISPERSED)
def test_each_batch_has_a_dispersion_of_its_own_and_an_unknown_one_their_mean(name: str) -> None:
    likelihood, outputs, batch = make_dispersed(name)
    table = likelihood.log_dispersion.detach()
    found = likelihood.log_prob(outputs, batch)
    for level in (-1, 0, 1, 2):
        rows = level == LEVELS
        plain = make_plain(name, table.mean(0) if level < 0 else table[level])
        apart = plain.log_prob(outputs[rows], Batch(batch.x[rows], batch.label[rows], batch.library[rows]))
        torch.testing.assert_close(found[rows], apart)
        decoded = likelihood(outputs[rows], batch.library[rows], LEVELS[rows])
        counts = decoded.counts if isinstance(decoded, ZeroInflatedCounts) else decoded
        torch.testing.assert_close(counts.log_dispersion, plain.log_dispersion.expand(int(rows.sum()), 6))
    nowhere = likelihood.log_prob(outputs, batch._replace(covariates=None))
    torch.testing.assert_close(nowhere, make_plain(name, table.mean(0)).log_prob(outputs, batch))
    without = likelihood(outputs, batch.library)
    counts = without.counts if isinstance(without, ZeroInflatedCounts) else without
    torch.testing.assert_close(counts.log_dispersion, table.mean(0).expand(7, 6))


def test_an_unknown_batch_teaches_every_batch_alike() -> None:
    likelihood, outputs, batch = make_dispersed("negative_binomial")
    likelihood.log_prob(outputs, batch)[2].backward()
    gradient = likelihood.log_dispersion.grad
    assert gradient.all() and torch.equal(gradient[0], gradient[1]) and torch.equal(gradient[0], gradient[2])
    likelihood.log_dispersion.grad = None
    likelihood.log_prob(outputs, batch)[3].backward()
    assert likelihood.log_dispersion.grad[1].all() and not likelihood.log_dispersion.grad[[0, 2]].any()


@pytest.mark.parametrize("name", DISPERSED)
def test_dispersions_by_batch_in_a_stack_are_those_of_each_model(name: str) -> None:
    dims = {"n_shared": 3, "n_private": 2, "dispersion": "gene_batch"}
    models = [make_model("nvae", name, seed=seed, n_batches=3, **dims) for seed in range(3)]
    for seed, model in enumerate(models):
        model.fit_output_bias(make_moments(make_batch(name, n=20, seed=seed)))
        torch.nn.init.normal_(model.likelihood.log_dispersion, generator=make_generator(seed))
    levels = torch.stack([LEVELS, LEVELS.flip(0), LEVELS.roll(1)])
    batches = [make_batch(name, seed=i)._replace(covariates=make_covariates(levels[i])) for i in range(3)]
    noises, stack = [make_noise(model, 7, i) for i, model in enumerate(models)], Stack(models)
    assert stack.likelihood.log_dispersion.shape == (3, 3, 6)
    x, label, library = (torch.stack([batch[i] for batch in batches]) for i in range(3))
    side_by_side = Batch(x, label, library, counts_of(x), make_covariates(levels))
    together = elbo_terms(stack, side_by_side, torch.stack(noises)).log_likelihood
    together.sum().backward()
    for place, model in enumerate(models):
        apart = elbo_terms(model, batches[place], noises[place]).log_likelihood
        apart.sum().backward()
        torch.testing.assert_close(together[place], apart)
        gradient = model.likelihood.log_dispersion.grad
        torch.testing.assert_close(stack.likelihood.log_dispersion.grad[place], gradient)
        model.load_state_dict(stack.state_of(place))


def test_dispersions_by_batch_need_batches() -> None:
    settings = ModelSettings(dispersion="gene_batch")
    assert make_likelihood("negative_binomial", 6, settings, 4).log_dispersion.shape == (4, 6)
    with pytest.raises(UserError, match=r"model\.dispersion: 'gene_batch' needs data with batches; set batch_key"):
        make_likelihood("negative_binomial", 6, settings)
    assert make_likelihood("negative_binomial", 6, ModelSettings(), 4).log_dispersion.shape == (6,)


def test_planted_dispersions_of_two_batches_are_found() -> None:
    generator, n = make_generator(0), 3000
    level, theta = torch.arange(n) % 2, torch.tensor([[0.5, 8.0], [4.0, 0.8]])
    mean = torch.full((n, 2), 5.0)
    x = NegativeBinomialCounts(mean.log(), theta.log()[level]).sample(generator)
    likelihood = NegativeBinomial(2, normalised=False, n_batches=2)
    batch = Batch(x, level, torch.ones(n), counts_of(x), make_covariates(level))
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (-likelihood.log_prob(mean.log(), batch).mean()).backward()
        optimizer.step()
    torch.testing.assert_close(likelihood.log_dispersion.detach(), theta.log(), rtol=0, atol=0.2)
