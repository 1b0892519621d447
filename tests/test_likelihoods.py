"""Likelihoods against SciPy and brute force: values, sums, gradients, draws, and what the rest term does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio.data.batch import Batch, Counts, Entries
from nvae_bio.data.packed import BYTE, counts_of
from nvae_bio.model import Bernoulli, FeatureMoments, Gaussian, NegativeBinomial
from nvae_bio.model.distributions import (
    BernoulliPixels,
    GaussianFeatures,
    LogisticPixels,
    NegativeBinomialCounts,
    PoissonCounts,
    ZeroInflatedCounts,
)
from nvae_bio.model.kernels import negative_binomial_log_prob
from nvae_bio.model.likelihoods import LIKELIHOOD_CLASSES, LOG_DISPERSION_RANGE, LOG_SCALE_RANGE, LOG_STD_RANGE
from nvae_bio.model.pixel_kernels import bernoulli_log_prob, gaussian_log_prob
from tests.small_models import law, make_batch, make_generator, make_moments

COUNTS = [0, 1, 2, 7, 60, 700, 20000]
MEANS = [1e-6, 1e-3, 0.4, 5.0, 300.0, 1e5]
DISPERSIONS = [1e-4, 1e-2, 0.5, 3.0, 19.9, 20.1, 1e3, 1e5, 1e7]


def grid(*axes: list[float]) -> tuple[np.ndarray, ...]:
    """All combinations, one array an axis."""
    return tuple(part.ravel() for part in np.meshgrid(*(np.array(axis, float) for axis in axes), indexing="ij"))


def tensors(*arrays: np.ndarray, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.tensor(array, dtype=dtype) for array in arrays]


def brute_negative_binomial(count: float, mean: float, dispersion: float) -> float:
    """log [Π_{j<x} (θ+j) · μ^x θ^θ / (x! (θ+μ)^(θ+x))], one factor at a time and without any gamma function."""
    j = np.arange(int(count))
    growth = math.fsum(np.log1p(j / dispersion)) - math.fsum(np.log1p(j))
    return growth + count * math.log(mean) - (dispersion + count) * math.log1p(mean / dispersion)


def negative_binomials(x: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """The kernel, one number at a time: each is a sample of one feature, half of whose counts are the rest's.

    The rest's logit goes down as the feature's goes up, so that the gradient by `log_mean` is that by the log rate.
    """
    x, log_mean, log_dispersion = torch.broadcast_tensors(x, log_mean, log_dispersion)
    middle = log_mean.detach()
    counts, library = counts_of(x[:, None]), middle + math.log(2)
    logits = torch.stack([log_mean, 2 * middle - log_mean], dim=1)
    group = torch.arange(len(x))
    return negative_binomial_log_prob(logits, log_dispersion[:, None], x[:, None], counts, library, group)


def check_gradient(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-4) -> None:
    """Of values that each depend on one entry of `at`: by autograd as by fourth-order differences."""
    at = at.detach().clone().requires_grad_()
    function(at).sum().backward()
    with torch.no_grad():
        near, far = (function(at + k * step) - function(at - k * step) for k in (1, 2))
    torch.testing.assert_close(at.grad, (8 * near - far) / (12 * step), rtol=1e-6, atol=1e-7)


# --- negative binomial -----------------------------------------------------------------------------------------------


def test_negative_binomial_agrees_with_scipy() -> None:
    # SciPy's own form loses digits where 1 - p is tiny; there the next test takes over
    x, mean, dispersion = grid(COUNTS, [0.05, 0.4, 5.0, 300.0, 1e5], [1e-4, 1e-2, 0.5, 3.0, 19.9, 20.1, 1e3])
    expected = scipy.stats.nbinom.logpmf(x, dispersion, dispersion / (dispersion + mean))
    found = negative_binomials(*tensors(x, np.log(mean), np.log(dispersion)))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 3e-15), (torch.float32, 5e-7)])
def test_negative_binomial_agrees_with_brute_force_at_extremes(dtype: torch.dtype, error: float) -> None:
    x, mean, dispersion = grid(COUNTS, MEANS, DISPERSIONS)
    x, log_mean, log_dispersion = tensors(x, np.log(mean), np.log(dispersion), dtype=dtype)
    seen_mean = ((log_mean + math.log(2)).double() - math.log(2)).exp()  # the library is rounded, too
    dispersions = log_dispersion.double().exp()
    expected = np.array(
        [
            brute_negative_binomial(*row)
            for row in zip(x.tolist(), seen_mean.tolist(), dispersions.tolist(), strict=True)
        ]
    )
    found = negative_binomials(x, log_mean, log_dispersion)
    assert found.dtype == dtype
    size = x * (log_mean.abs() + log_dispersion.abs() + torch.log1p(x)) + log_mean.exp() + 1
    gamma = torch.lgamma(x.double() + dispersions).abs()  # the sum of a listed count is a difference of two
    allowed = error * size.double() + 1e-11 + torch.where(x > BYTE, 2e-16 * gamma, 0.0)
    assert ((found.double() - torch.from_numpy(expected)).abs() <= allowed).all()


def test_negative_binomial_goes_to_poisson_as_its_expansion_says() -> None:
    # log NB = log Poisson + ((x - μ)² - x) / 2θ + O(θ^-2)
    x, mean = grid([0, 1, 4, 30, 120], [1e-6, 0.1, 3.0, 50.0, 100.0])
    poisson = scipy.stats.poisson.logpmf(x, mean)
    limit = negative_binomials(*tensors(x, np.log(mean)), torch.tensor(math.log(1e14), dtype=torch.float64))
    np.testing.assert_allclose(limit, poisson, rtol=1e-9, atol=1e-9)
    near = negative_binomials(*tensors(x, np.log(mean)), torch.tensor(16.0, dtype=torch.float64))
    np.testing.assert_allclose(near.numpy() - poisson, ((x - mean) ** 2 - x) / 2 / math.exp(16), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("mean", [1e-6, 0.3, 8.0, 200.0])
@pytest.mark.parametrize("dispersion", [0.3, 2.0, 19.0, 21.0, 1e4, 8e6])
def test_negative_binomial_sums_to_one_and_has_its_moments(mean: float, dispersion: float) -> None:
    x = torch.arange(30000, dtype=torch.float64)
    p = negative_binomials(x, torch.tensor(mean).double().log(), torch.tensor(dispersion).double().log()).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    assert (p * x).sum().item() == pytest.approx(mean, rel=1e-6)
    assert (p * (x - mean) ** 2).sum().item() == pytest.approx(mean + mean**2 / dispersion, rel=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-8), (torch.float32, 2e-5)])
def test_negative_binomial_is_one_function_where_the_form_changes(dtype: torch.dtype, error: float) -> None:
    # a count on the ladder and the same count in the list have one value and one gradient
    x, log_dispersion = tensors(*grid([1, 7, 60, 255], np.log(DISPERSIONS).tolist()), dtype=dtype)
    on_ladder, n = counts_of(x[:, None]), len(x)
    listed = Entries(torch.arange(n), torch.zeros(n, dtype=torch.int64), x.float())
    in_list = Counts(torch.zeros_like(on_ladder.step), on_ladder.ladder, on_ladder.log_factorial, listed)
    assert not len(on_ladder.listed.row)
    found = []
    for counts in (on_ladder, in_list):
        logits, theta = torch.zeros(n, 2, dtype=dtype, requires_grad=True), log_dispersion[:, None].clone()
        library = torch.full((n,), math.log(40), dtype=dtype)
        theta.requires_grad_()
        value = negative_binomial_log_prob(logits, theta, x[:, None], counts, library, torch.arange(n))
        value.sum().backward()
        found.append((value.detach(), logits.grad, theta.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=error, atol=100 * error)


def test_negative_binomial_gradients_equal_numeric_ones() -> None:
    x, mean, dispersion = grid([0, 1, 9, 80, 300], [1e-3, 2.0, 90.0], [1e-4, 0.1, 3.0, 19.0, 21.0, 1e4])
    x, log_mean, log_dispersion = tensors(x, np.log(mean), np.log(dispersion))
    check_gradient(lambda value: negative_binomials(x, value, log_dispersion), log_mean)
    check_gradient(lambda value: negative_binomials(x, log_mean, value), log_dispersion)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 3e-3)])
def test_negative_binomial_gradients_at_extremes(dtype: torch.dtype, tolerance: float) -> None:
    # d/dlog μ = (x - μ) θ / (θ + μ);  d/dlog θ = θ [ψ(x+θ) - ψ(θ) - log(1 + μ/θ) + (μ - x) / (θ + μ)]
    x, mean, dispersion = grid(COUNTS, MEANS, DISPERSIONS)
    log_mean, log_dispersion = tensors(np.log(mean), np.log(dispersion), dtype=dtype)
    log_mean.requires_grad_(), log_dispersion.requires_grad_()
    negative_binomials(torch.tensor(x, dtype=dtype), log_mean, log_dispersion).sum().backward()
    by_mean = (x - mean) * dispersion / (dispersion + mean)
    np.testing.assert_allclose(log_mean.grad, by_mean, rtol=tolerance, atol=tolerance * (1 + x).max() ** 0.5)
    assert torch.isfinite(log_dispersion.grad).all()
    growth = scipy.special.digamma(x + dispersion) - scipy.special.digamma(dispersion)
    by_dispersion = dispersion * (growth - np.log1p(mean / dispersion) + (mean - x) / (dispersion + mean))
    moderate = dispersion < 1e4  # above, float64 digammas lose what is left of the difference
    np.testing.assert_allclose(
        log_dispersion.grad[moderate], by_dispersion[moderate], rtol=tolerance, atol=30 * tolerance
    )


@pytest.mark.parametrize("log_dispersion", [-60.0, -30.0, 40.0, 60.0])
def test_negative_binomial_gradients_are_finite_beyond_the_clamped_range(log_dispersion: float) -> None:
    assert not LOG_DISPERSION_RANGE[0] <= log_dispersion <= LOG_DISPERSION_RANGE[1]
    parameter = torch.full((), log_dispersion, requires_grad=True)
    negative_binomials(torch.tensor([0.0, 1.0, 50.0]), torch.zeros(3), parameter).sum().backward()
    assert torch.isfinite(parameter.grad)


@pytest.mark.parametrize(("mean", "dispersion"), [(0.5, 0.2), (4.0, 1.0), (30.0, 80.0), (3.0, 8e6)])
def test_negative_binomial_draws_have_its_moments(mean: float, dispersion: float) -> None:
    n = 100_000
    counts = NegativeBinomialCounts(torch.full((n, 1), mean).log(), torch.full((1,), dispersion).log())
    draws = counts.sample(make_generator(0)).double()
    assert torch.equal(draws, draws.round()) and (draws >= 0).all()
    frozen = scipy.stats.nbinom(dispersion, dispersion / (dispersion + mean))
    var, kurtosis = (float(moment) for moment in frozen.stats("vk"))
    assert draws.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var / n))
    assert draws.var().item() == pytest.approx(var, abs=5 * var * math.sqrt((kurtosis + 2) / n))
    torch.testing.assert_close(counts.mean[0, 0].item(), mean, rtol=1e-6, atol=0)


# --- Bernoulli and Gaussian ------------------------------------------------------------------------------------------


def scipy_bernoulli(x: float | np.ndarray, logits: float | np.ndarray) -> np.ndarray:
    """From the probability of the less likely outcome, so that SciPy never sees a rounded 1 - p."""
    unlikely = np.where(np.asarray(logits) < 0, x, 1 - np.asarray(x))
    return np.asarray(scipy.stats.bernoulli.logpmf(unlikely, scipy.special.expit(-np.abs(logits))))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_bernoulli_agrees_with_scipy(dtype: torch.dtype, error: float) -> None:
    x, logits = grid([0, 1], [-50, -30, -15, -2, 0, 0.3, 15, 30, 50])
    x_column, logits_column = (column[:, None] for column in tensors(x, logits, dtype=dtype))
    found = bernoulli_log_prob(logits_column, x_column)
    np.testing.assert_allclose(found, scipy_bernoulli(x, logits), rtol=error, atol=0)


@law
@given(st.floats(0, 1), st.floats(-50, 50))
def test_soft_targets_give_the_cross_entropy(x: float, logit: float) -> None:
    found = bernoulli_log_prob(*tensors(np.array([[logit]]), np.array([[x]]))).item()
    assert found == pytest.approx(x * scipy_bernoulli(1, logit) + (1 - x) * scipy_bernoulli(0, logit), rel=1e-12)


def test_bernoulli_gradient_is_the_residual() -> None:
    x, logits = tensors(*grid([0, 0.3, 1], [-50, -3, 0, 2, 50]))
    bernoulli_log_prob(logits.requires_grad_()[:, None], x[:, None]).sum().backward()
    torch.testing.assert_close(logits.grad, x - logits.detach().sigmoid())


def test_bernoulli_draws_have_its_mean() -> None:
    pixels = BernoulliPixels(torch.tensor([-2.0, 0.0, 3.0]).expand(100_000, 3))
    draws = pixels.sample(make_generator(0))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(draws.mean(0), torch.tensor([-2.0, 0.0, 3.0]).sigmoid(), atol=0.008, rtol=0)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_gaussian_agrees_with_scipy(dtype: torch.dtype, error: float) -> None:
    x, mean, log_std = grid([-40, -1, 0, 0.5, 300], [-3, 0, 250], [LOG_STD_RANGE[0], -1, 0, LOG_STD_RANGE[1]])
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_std))
    columns = (column[:, None] for column in tensors(mean, log_std, x, dtype=dtype))
    np.testing.assert_allclose(gaussian_log_prob(*columns), expected, rtol=error, atol=1e-6)


@pytest.mark.parametrize("log_std", [-40.0, *LOG_STD_RANGE, 40.0])
def test_gaussian_is_finite_at_extremes(log_std: float) -> None:
    likelihood = Gaussian(3)
    torch.nn.init.constant_(likelihood.log_std, log_std)
    outputs = torch.tensor([[0.0, 1e4, -1e4]], requires_grad=True)
    value = likelihood.log_prob(outputs, Batch(torch.tensor([[0.0, -1e4, 1e4]]), torch.zeros(1)))
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(outputs.grad).all()
    assert torch.isfinite(likelihood.log_std.grad).all()
    x = np.array([0.0, -1e4, 1e4])
    std = math.exp(min(max(log_std, LOG_STD_RANGE[0]), LOG_STD_RANGE[1]))
    expected = scipy.stats.norm.logpdf(x, -x, std).sum()
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-6)


def test_gaussian_draws_have_its_moments() -> None:
    features = GaussianFeatures(torch.tensor([[1.0, -3.0]]).expand(100_000, 2), torch.tensor([0.0, -2.0]))
    draws = features.sample(make_generator(0))
    std = torch.tensor([1.0, math.exp(-2)])
    assert ((draws.mean(0) - torch.tensor([1.0, -3.0])).abs() < 5 * std / 100_000**0.5).all()
    torch.testing.assert_close(draws.std(0), std, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", LIKELIHOOD_CLASSES)
def test_a_sample_is_the_sum_of_its_features(name: str) -> None:
    batch = make_batch(name)
    likelihood = LIKELIHOOD_CLASSES[name](6).double()
    outputs = torch.randn(7, likelihood.n_outputs, generator=make_generator(3), dtype=torch.float64)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.copy_(torch.linspace(-1, 1, 6))
        distribution, found = likelihood(outputs, batch.library), likelihood.log_prob(outputs, batch)
    x = batch.x.numpy()
    if isinstance(distribution, NegativeBinomialCounts):
        mean, theta = distribution.mean.numpy(), distribution.log_dispersion.exp().numpy()
        parts = scipy.stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    elif isinstance(distribution, ZeroInflatedCounts):
        mean, theta = distribution.counts.mean.numpy(), distribution.counts.log_dispersion.exp().numpy()
        extra = distribution.gate.sigmoid().numpy()
        parts = np.log(extra * (x == 0) + (1 - extra) * scipy.stats.nbinom.pmf(x, theta, theta / (theta + mean)))
    elif isinstance(distribution, PoissonCounts):
        parts = scipy.stats.poisson.logpmf(x, distribution.mean.numpy())
    elif isinstance(distribution, LogisticPixels):
        frozen = scipy.stats.logistic(distribution.location.numpy(), distribution.log_scale.exp().numpy())
        upper, lower = np.where(x == 1, np.inf, x + 1 / 510), np.where(x == 0, -np.inf, x - 1 / 510)
        parts = np.log(frozen.cdf(upper) - frozen.cdf(lower))
    elif isinstance(distribution, BernoulliPixels):
        logits = distribution.logits.numpy()
        parts = x * scipy_bernoulli(1, logits) + (1 - x) * scipy_bernoulli(0, logits)
    else:
        parts = scipy.stats.norm.logpdf(x, distribution.mean.numpy(), distribution.log_std.exp().numpy())
    np.testing.assert_allclose(found, parts.sum(1), rtol=1e-10)


@pytest.mark.parametrize("name", LIKELIHOOD_CLASSES)
def test_scales_beyond_their_range_count_as_its_ends(name: str) -> None:
    batch, likelihood = make_batch(name), LIKELIHOOD_CLASSES[name](6).double()
    outputs = torch.randn(7, likelihood.n_outputs, generator=make_generator(3), dtype=torch.float64)
    ends = {"log_dispersion": LOG_DISPERSION_RANGE, "log_std": LOG_STD_RANGE, "log_scale": LOG_SCALE_RANGE}
    for key, parameter in likelihood.named_parameters():
        for side, end in zip((-1, 1), ends[key], strict=True):
            found = []
            for value in (end, end + side * 7):
                torch.nn.init.constant_(parameter, value)
                found.append(likelihood.log_prob(outputs, batch))
            assert torch.equal(*found)
    assert sorted(ends.keys() & dict(likelihood.named_parameters())) == sorted(dict(likelihood.named_parameters()))


# --- rates, the rest term and the start of training ------------------------------------------------------------------


def rates(outputs: Tensor) -> Tensor:
    """Rates of the genes of one cell: its means at a library of 1."""
    likelihood = NegativeBinomial(len(outputs) - 1).double()
    return likelihood(outputs[None], torch.ones(1, dtype=torch.float64)).mean[0]


outputs_lists = st.lists(st.floats(-8, 8), min_size=2, max_size=8).map(lambda values: torch.tensor(values).double())


@law
@given(outputs_lists, st.floats(-5, 5), st.data())
def test_raising_one_gene_takes_from_all_others_and_the_rest_by_one_factor(
    outputs: Tensor, shift: float, data: st.DataObject
) -> None:
    # rate_g → rate_g e^δ / f and every other rate, the rest's too, → rate / f, with f = 1 + rate_g (e^δ - 1)
    gene = data.draw(st.integers(0, len(outputs) - 2))
    raised = outputs.clone()
    raised[gene] += shift
    before, after = rates(outputs), rates(raised)
    factor = 1 + before[gene] * math.expm1(shift)
    expected = before / factor
    expected[gene] = before[gene] * math.exp(shift) / factor
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(1 - after.sum(), (1 - before.sum()) / factor, rtol=1e-6, atol=1e-12)


@law
@given(outputs_lists)
def test_rates_of_the_model_genes_sum_to_less_than_one(outputs: Tensor) -> None:
    assert 0 < rates(outputs).sum() < 1
    torch.testing.assert_close(rates(outputs).sum(), 1 - outputs.softmax(0)[-1])


def test_a_large_rest_shields_the_other_genes() -> None:
    shielded, bare = torch.tensor([0.0, 0.0, 0.0, 8.0]).double(), torch.tensor([0.0, 0.0, 0.0, -30.0]).double()
    induced = torch.tensor([math.log(8), 0.0, 0.0, 0.0]).double()
    assert (rates(shielded + induced) / rates(shielded))[1] > 0.99
    assert (rates(bare + induced) / rates(bare))[1] == pytest.approx(0.3)  # 3 / (8 + 2)


def test_counts_outside_the_model_only_move_the_library() -> None:
    # a gene induced outside the model adds to the library and to nothing else: the rates stay
    outputs = torch.randn(4, 6, generator=make_generator(0))
    library = torch.tensor([100.0, 200.0, 50.0, 1e4])
    likelihood = NegativeBinomial(5)
    mean = likelihood(outputs, library).mean
    torch.testing.assert_close(mean, library[:, None] * outputs.softmax(-1)[:, :5])
    torch.testing.assert_close(likelihood(outputs, 3 * library).mean, 3 * mean)


def test_initial_outputs_reproduce_the_share_of_each_gene() -> None:
    batch = make_batch("negative_binomial", n=40)
    likelihood = NegativeBinomial(6).double()
    outputs = likelihood.initial_outputs(FeatureMoments.of(batch.x * 1000, batch.library * 1000))
    share = batch.x.sum(0) / batch.library.sum()
    torch.testing.assert_close(rates(outputs), share, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs.exp().sum().item(), 1.0)


def test_initial_outputs_are_finite_without_rest_and_for_a_silent_gene() -> None:
    x = torch.tensor([[3.0, 0.0], [5.0, 0.0]])
    assert torch.isfinite(NegativeBinomial(2).initial_outputs(FeatureMoments.of(x, x.sum(1)))).all()
    black_and_white = torch.tensor([[0.0, 1.0]]).expand(5, 2)
    assert torch.isfinite(Bernoulli(2).initial_outputs(FeatureMoments.of(black_and_white, None))).all()


@pytest.mark.parametrize("name", ["cross_entropy", "bernoulli", "gaussian", "discretized_logistic"])
def test_initial_outputs_reproduce_the_mean_sample(name: str) -> None:
    batch, likelihood = make_batch(name, n=50), LIKELIHOOD_CLASSES[name](6).double()
    mean = likelihood(likelihood.initial_outputs(make_moments(batch))[None], None).mean[0]
    torch.testing.assert_close(mean, batch.x.mean(0))


def test_gaussian_starts_at_the_spread_of_the_features() -> None:
    x = torch.randn(500, 3, generator=make_generator(0)) * torch.tensor([1.0, 20.0, 0.0])
    likelihood = Gaussian(3)
    likelihood.fit_scales(FeatureMoments.of(x, None))
    root_mean_var = x.var(0, correction=0).mean().sqrt().item()
    std = likelihood.log_std.exp()
    torch.testing.assert_close(std[1], x[:, 1].std(correction=0))
    torch.testing.assert_close(std[[0, 2]], torch.full((2,), root_mean_var / 10))  # the floor
    likelihood.fit_scales(FeatureMoments.of(torch.ones(4, 3), None))
    torch.testing.assert_close(likelihood.log_std.detach(), torch.full((3,), LOG_STD_RANGE[0]))


def test_encoder_reads_counts_at_the_median_library() -> None:
    batch = make_batch("negative_binomial", n=9)
    likelihood = NegativeBinomial(6).double()
    likelihood.fit_scales(make_moments(batch))
    seen = likelihood.encoder_input(batch.x, batch.library)
    torch.testing.assert_close(likelihood.encoder_input(batch.x * 7, batch.library * 7), seen)  # depth is divided out
    middle = batch.library.argsort()[4]
    torch.testing.assert_close(seen[middle], torch.log1p(batch.x[middle]))


def test_effects_are_fold_changes_for_counts_and_differences_elsewhere() -> None:
    log_mean = torch.randn(3, 4, generator=make_generator(0))
    low, high = (NegativeBinomialCounts(log_mean + math.log(k), torch.zeros(4)) for k in (1, 8))
    fold = (1 + 8 * log_mean.exp()) / (1 + log_mean.exp())
    torch.testing.assert_close(NegativeBinomial(4).effect(low, high), fold.log2())
    logits = torch.tensor([[0.0, 2.0]])
    change = Bernoulli(2).effect(BernoulliPixels(-logits), BernoulliPixels(logits))
    torch.testing.assert_close(change, torch.tanh(logits / 2))  # σ(l) - σ(-l)
