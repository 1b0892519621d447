"""Inputs of the negative binomial kernel, what it must give for them, and what float32 may be off by."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nvae_bio.data.packed import counts_of
from nvae_bio.model.kernels import negative_binomial_log_prob
from tests.small_models import make_generator

COUNTS = [0, 1, 2, 7, 15, 16, 60, 255, 256, 700, 20000]
DISPERSIONS = [1e-4, 1e-2, 0.5, 3.0, 19.9, 1e3, 1e4]
POISSONLIKE = [1e5, 1e6, 1e7]
EPS = torch.finfo(torch.float32).eps
LEAST_EXP = 1.7e-38  # exp of -87, which stands for all that is less


class Case(NamedTuple):
    """Inputs of the negative binomial, in float64; all numbers can be told in float32."""

    logits: Tensor
    log_dispersion: Tensor
    x: Tensor
    log_library: Tensor

    def to(self, dtype: torch.dtype) -> Case:
        return Case(*(part.to(dtype) for part in self))


class Found(NamedTuple):
    """A value of each sample, and gradients of its sum weighed by `make_weights`."""

    value: Tensor
    by_logits: Tensor
    by_dispersion: Tensor


def make_case(
    n: int, n_features: int, dispersions: list[float], seed: int = 0, counts: bool = True, spread: float = 3.0
) -> Case:
    """Each count of `COUNTS` and each dispersion as often as there is room for, at libraries of about their sum."""
    generator = make_generator(seed)

    def pick(values: list[float], *shape: int) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[torch.randint(len(values), shape, generator=generator)]

    logits = spread * torch.randn(n, n_features + 1, generator=generator)
    x = pick(COUNTS, n, n_features) if counts else torch.zeros(n, n_features)
    library = x.sum(1) * (1 + torch.rand(n, generator=generator)) + 100
    return Case(logits, pick(dispersions, n_features).log(), x, library.log()).to(torch.float64)


def make_weights(n: int) -> Tensor:
    """What backward is given: of both signs, and of 5 or more one 0."""
    return torch.linspace(-1.5, 2.5, n, dtype=torch.float64) * (torch.arange(n) != 4)


def found_by(function: Any, case: Case, weights: Tensor | None = None, **more: Any) -> Found:
    logits, log_dispersion = (part.clone().requires_grad_() for part in case[:2])
    value = function(logits, log_dispersion, case.x, case.log_library, **more)
    weights = make_weights(len(value)) if weights is None else weights
    (value * weights.to(value.dtype)).sum().backward()
    return Found(value.detach(), logits.grad, log_dispersion.grad)


def kernel(logits: Tensor, log_dispersion: Tensor, x: Tensor, log_library: Tensor, **more: Any) -> Tensor:
    counts = more.pop("counts", None) or counts_of(x)
    return negative_binomial_log_prob(logits, log_dispersion, x, counts, log_library, **more)


def by_autograd(logits: Tensor, log_dispersion: Tensor, x: Tensor, log_library: Tensor) -> Tensor:
    """As in a textbook; torch's gamma functions have the digits for it in float64 and up to θ of about 1e4."""
    log_mean = logits.log_softmax(-1)[:, :-1] + log_library[:, None]
    theta, mean = log_dispersion.exp(), log_mean.exp()
    gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return (gamma + x * (log_mean - (theta + mean).log()) - theta * torch.log1p(mean / theta)).sum(-1)


def entries_by_sums(case: Case, log_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log NB of each entry, d/dlog μ and d/dlog θ, one factor at a time and without a gamma function."""
    value, by_log_mean, by_log_theta = (torch.zeros_like(case.x) for _ in range(3))
    for row, column in np.ndindex(*case.x.shape):
        x, mu, theta = (
            float(v[row, column]) for v in (case.x, log_mean.exp(), case.log_dispersion.exp().expand_as(case.x))
        )
        j = np.arange(int(x))
        rising, factorial = math.fsum(np.log1p(j / theta)), math.fsum(np.log1p(j))
        value[row, column] = rising - factorial + x * math.log(mu) - (theta + x) * math.log1p(mu / theta)
        by_log_mean[row, column] = (x - mu) * theta / (theta + mu)
        pulled = (theta + x) * mu / (theta + mu)
        by_log_theta[row, column] = pulled - theta * math.log1p(mu / theta) - math.fsum(j / (theta + j))
    return value, by_log_mean, by_log_theta


def by_sums(case: Case) -> Found:
    """What `entries_by_sums` says of whole samples; gradients by hand."""
    weights = make_weights(len(case.x))
    log_mean = case.logits.log_softmax(-1)[:, :-1] + case.log_library[:, None]
    value, by_log_mean, by_log_theta = entries_by_sums(case, log_mean)
    by_logits = -case.logits.softmax(-1) * by_log_mean.sum(-1, keepdim=True)
    by_logits[:, :-1] += by_log_mean
    return Found(value.sum(1), by_logits * weights[:, None], (by_log_theta * weights[:, None]).sum(0))


def float32_errors(case: Case) -> Found:
    """What float32 may be off by: its spacing at the size of the largest terms, whose difference is the result.

    log μ comes from a difference of logits, so that the spacing at that counts too; and no rate is below `LEAST_EXP`.
    """
    weights = make_weights(len(case.x)).abs()
    log_mean = case.logits.log_softmax(-1)[:, :-1] + case.log_library[:, None]
    theta, mean = case.log_dispersion.exp(), log_mean.exp()
    ratio = torch.log1p(mean / theta)
    steep = 1 + (case.logits - case.logits.max(-1, keepdim=True).values).abs()
    depth = steep[:, :-1] + case.log_library[:, None] + case.log_dispersion.abs()
    pulled = (theta + case.x) * (mean / (theta + mean))
    value = case.x * (log_mean.abs() + torch.log1p(case.x / theta)) + pulled * depth + (theta + case.x) * ratio
    value = value + torch.lgamma(case.x + 1)
    by_mean = case.x + pulled * depth
    by_theta = case.x + pulled * depth + theta * ratio
    by_logits = case.logits.softmax(-1) * steep * by_mean.sum(-1, keepdim=True)
    by_logits[:, :-1] += by_mean
    floor = LEAST_EXP * (theta + case.x) * case.log_library.exp()[:, None] / theta
    by_logits_floor = (LEAST_EXP * by_mean.sum(-1, keepdim=True)).expand_as(by_logits).clone()
    by_logits_floor[:, :-1] += floor
    return Found(
        4 * EPS * value.sum(1) + floor.sum(1),
        (4 * EPS * by_logits + by_logits_floor) * weights[:, None],
        ((4 * EPS * by_theta + floor) * weights[:, None]).sum(0),
    )


def assert_within(found: Found, expected: Found, error: Found) -> None:
    for name, one, other, most in zip(Found._fields, found, expected, error, strict=True):
        off = (one.double() - other).abs() - most
        assert (off <= 0).all(), (name, off.max(), one.flatten()[off.argmax()], other.flatten()[off.argmax()])
