"""The 8-bit pixel likelihood against SciPy and plain sums, and which pixels a likelihood takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from nvae_bio.config import ImagesSettings
from nvae_bio.data.packed import pack
from nvae_bio.data.samples import check_pixels
from nvae_bio.errors import UserError
from nvae_bio.model import DiscretizedLogistic, FeatureMoments
from nvae_bio.model.distributions import LogisticPixels
from nvae_bio.model.likelihoods import LOG_SCALE_RANGE
from nvae_bio.model.pixel_kernels import discretized_logistic_log_prob
from nvae_bio.prepare import prepare_data
from tests.small_models import make_generator
from tests.toys import raw_images

LEVELS = torch.arange(256, dtype=torch.float64) / 255
LOCATIONS = [-50.0, -0.3, 0.0, 1 / 510, 0.5, 0.77, 1.0, 1.4, 50.0]
LOG_SCALES = [*LOG_SCALE_RANGE, -5.0, -3.0, -1.0]


def score(location: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """One value an entry, each with a scale of its own."""
    location, log_scale, x = torch.broadcast_tensors(location, log_scale, x)
    return discretized_logistic_log_prob(location[..., None, None], log_scale[..., None], x[..., None, None])[..., 0]


def grid() -> tuple[Tensor, Tensor, Tensor]:
    return torch.meshgrid(*(torch.tensor(axis).double() for axis in (LOCATIONS, LOG_SCALES)), LEVELS, indexing="ij")


# --- values and gradients --------------------------------------------------------------------------------------------


def test_the_grey_levels_share_one() -> None:
    location, log_scale, x = grid()
    assert (score(location, log_scale, x).exp().sum(-1) - 1).abs().max() < 1e-12
    single = score(location.float(), log_scale.float(), x.float())
    assert single.dtype == torch.float32
    assert (single.double().exp().sum(-1) - 1).abs().max() < 2e-4  # (x − m)/s in float32 where s is 1/1100


def test_agrees_with_scipys_distribution_function() -> None:
    location, log_scale, x = (part.numpy() for part in grid())
    frozen = scipy.stats.logistic(location, np.exp(log_scale))
    upper, lower = np.where(x == 1, np.inf, x + 1 / 510), np.where(x == 0, -np.inf, x - 1 / 510)
    high = x > location  # the tail that is short: a difference near 1 has no digits
    chance = np.where(high, frozen.sf(lower) - frozen.sf(upper), frozen.cdf(upper) - frozen.cdf(lower))
    found = score(*grid()).numpy()
    seen = chance > 1e-250
    assert seen.mean() > 0.5
    np.testing.assert_allclose(found[seen], np.log(chance[seen]), rtol=1e-8, atol=1e-8)


def test_far_tails_fall_as_the_logistic_does() -> None:
    # log P(k) → log(e^(h/s) − 1) − (x + h/2 − m)/s for m far below x: what a difference of two sigmoids rounds to 0
    x, log_scale = LEVELS[1:255], torch.tensor(LOG_SCALE_RANGE[0]).double()
    width = math.exp(-LOG_SCALE_RANGE[0]) / 255
    expected = math.log(math.expm1(width)) - (x + 1 / 510 + 40) * math.exp(-LOG_SCALE_RANGE[0])
    torch.testing.assert_close(score(torch.tensor(-40.0).double(), log_scale, x), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_autograd(dtype: torch.dtype) -> None:
    generator = make_generator(0)
    shape = (2, 5, 40)
    x = (255 * torch.rand(shape, generator=generator)).round() / 255
    x[0, :, :10], x[1, :, :10] = 0, 1
    location = (x + 0.1 * torch.randn(shape, generator=generator)).double()
    log_scale = torch.empty(2, 40).uniform_(-4, 0.5, generator=generator).double()
    weights = torch.linspace(-1, 2, 10).view(2, 5).double()

    def textbook(location: Tensor, log_scale: Tensor) -> Tensor:
        scale, exact = log_scale.exp()[:, None], x.double()
        below = torch.where(exact == 1, 1.0, ((exact + 1 / 510 - location) / scale).sigmoid())
        above = torch.where(exact == 0, 0.0, ((exact - 1 / 510 - location) / scale).sigmoid())
        return (below - above).log().sum(-1)

    found = []
    for function, kind in ((textbook, torch.float64), (None, dtype)):
        inputs = [part.to(kind).clone().requires_grad_() for part in (location, log_scale)]
        value = textbook(*inputs) if function else discretized_logistic_log_prob(*inputs, x.to(kind))
        (value * weights.to(kind)).sum().backward()
        found.append([value.detach(), *(part.grad for part in inputs)])
    error = 1e-9 if dtype == torch.float64 else 2e-5
    for expected, one in zip(*found, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), expected, rtol=error, atol=error * 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_scale", [-60.0, *LOG_SCALE_RANGE, 60.0])
def test_extremes_are_finite(log_scale: float, dtype: torch.dtype) -> None:
    likelihood = DiscretizedLogistic(256 * 9).to(dtype)
    torch.nn.init.constant_(likelihood.log_scale, log_scale)
    location, _, x = (part[:, :1].reshape(1, -1).to(dtype) for part in grid())
    location = location.clone().requires_grad_()
    scales = likelihood.log_scale.detach().clamp(*LOG_SCALE_RANGE).requires_grad_()
    value = discretized_logistic_log_prob(location, scales, x)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(location.grad).all() and torch.isfinite(scales.grad).all()
    pushed = (location < x - 0.1) & (x > 0)
    assert (location.grad[pushed] > 0).all()  # a pixel that is far off still says where it is


def test_a_second_backward_pass_is_refused_and_autocast_changes_no_bit() -> None:
    location, log_scale, x = torch.rand(3, 8, requires_grad=True), torch.zeros(8), torch.ones(3, 8)
    value = discretized_logistic_log_prob(location, log_scale, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(discretized_logistic_log_prob(location, log_scale, x), value)
    value.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


# --- the distribution ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_the_mean_is_that_of_the_grey_levels(log_scale: float) -> None:
    location = torch.linspace(-2, 3, 1001, dtype=torch.float64)
    chance = score(location[:, None], torch.tensor(log_scale).double(), LEVELS).exp()
    mean = LogisticPixels(location[:, None], torch.tensor([log_scale]).double()).mean[:, 0]
    assert (mean - chance @ LEVELS).abs().max() < 0.1 / 255


@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_draws_are_grey_levels_as_often_as_their_probability_says(log_scale: float) -> None:
    n = 40_000
    for location in (-0.02, 0.4, 1.1):
        pixels = LogisticPixels(torch.full((n, 1), location), torch.tensor([log_scale]))
        draws = pixels.sample(make_generator(3))[:, 0].double()
        level = (255 * draws).round()
        assert torch.allclose(draws, level / 255, atol=1e-7) and level.min() >= 0 and level.max() <= 255
        chance = score(*(torch.tensor(value).double() for value in (location, log_scale)), LEVELS).exp()
        seen = torch.bincount(level.long(), minlength=256) / n
        assert ((seen - chance).abs() <= 5 * (chance / n).sqrt() + 5 / n).all()
        mean, square = (chance * LEVELS).sum(), (chance * LEVELS**2).sum()
        assert (draws.mean() - mean).abs() <= 5 * ((square - mean**2) / n).sqrt() + 1e-7


def test_starts_at_the_mean_and_the_spread_of_the_pixels() -> None:
    x = (torch.rand(500, 4, generator=make_generator(0)) * torch.tensor([1.0, 0.3, 0.0, 1.0])).double()
    likelihood, moments = DiscretizedLogistic(4).double(), FeatureMoments.of(x, None)
    likelihood.fit_scales(moments)
    std = likelihood.log_scale.exp() * math.pi / math.sqrt(3)
    torch.testing.assert_close(std[:2], moments.var[:2].sqrt())
    torch.testing.assert_close(std[2], moments.var.mean().sqrt() / 10)  # the floor
    mean = likelihood(likelihood.initial_outputs(moments)[None], None).mean[0]
    torch.testing.assert_close(mean, moments.mean.clamp_min(1e-3))


# --- which pixels ----------------------------------------------------------------------------------------------------


def prepared_x(**settings: object) -> np.ndarray:
    values = {"kind": "images", "image_shape": (1, 8, 8), **settings}
    return np.asarray(prepare_data(ImagesSettings.model_validate(values), raw_images()).X)


def test_binarised_pixels_are_those_from_the_threshold_on() -> None:
    grey, threshold = prepared_x(), 0.4
    assert len(np.unique(grey)) > 1000
    np.testing.assert_array_equal(prepared_x(binarise=threshold), (grey >= threshold).astype(np.float32))
    exact = float(np.float32(grey[3, 7]))
    assert prepared_x(binarise=exact)[3, 7] == 1


def test_likelihoods_refuse_pixels_without_a_probability() -> None:
    grey = prepared_x()
    binary, bytes_ = (grey > 0.5).astype(np.float32), (grey * 255).round().astype(np.float32) / np.float32(255)
    allowed = {
        "bernoulli": [binary],
        "discretized_logistic": [binary, bytes_],
        "cross_entropy": [binary, bytes_, grey],
        "gaussian": [binary, bytes_, grey],
    }
    for name, matrices in allowed.items():
        for matrix in (binary, bytes_, grey):
            packed = pack(matrix, is_counts=False)
            if any(matrix is one for one in matrices):
                check_pixels(packed, name)
                continue
            with pytest.raises(
                UserError, match=rf"model\.likelihood: '{name}' needs pixels of .*cross_entropy, gaussian"
            ):
                check_pixels(packed, name)
