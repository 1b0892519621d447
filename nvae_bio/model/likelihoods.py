"""p(x | decoder outputs): what a sample is scored with, drawn from, and how the encoder reads it.

A likelihood turns decoder outputs of shape (batch, n_outputs) into a distribution over (batch, n_features). To add
one: subclass `Likelihood`, add its name to `nvae_bio.config.LIKELIHOODS` and to `LIKELIHOOD_CLASSES`, and test it
against SciPy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_DISPERSION_RANGE = (-10.0, 16.0)
LOG_STD_RANGE = (-6.0, 6.0)
STIRLING_FROM = 20.0  # above this θ, log-gamma differences lose digits in float32 and Stirling's series has them


def log_rising_ratio(x: Tensor, log_dispersion: Tensor) -> Tensor:
    """log Γ(x+θ) − log Γ(θ) − x log θ = Σ_{j<x} log(1 + j/θ), without cancellation at large θ.

    Each of the two forms is computed at a θ where it is finite, or the gradient of the unused one could be 0 · ∞.

    Args:
        x: counts, (batch, features).
        log_dispersion: log θ, broadcastable to `x`.
    """
    dispersion = log_dispersion.exp()
    small, large = dispersion.clamp(max=STIRLING_FROM), dispersion.clamp(min=STIRLING_FROM)
    direct = torch.lgamma(x + small) - torch.lgamma(small) - x * log_dispersion
    series = (large + x - 0.5) * torch.log1p(x / large) - x + stirling_rest(large + x) - stirling_rest(large)
    return torch.where(dispersion > STIRLING_FROM, series, direct)


def stirling_rest(z: Tensor) -> Tensor:
    """log Γ(z) − [(z − ½) log z − z + ½ log 2π] for z ≥ 20, to 1e-12."""
    inverse = 1 / z
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


def negative_binomial_log_prob(x: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """log NB(x; mean μ, dispersion θ), in nats; Var[x] = μ + μ²/θ. Good from θ = 1e-5 to the Poisson limit θ = 1e7.

    In float32 the error is a few 1e-7 of x·|log θ| or x·log x, whichever is larger (.05 nats at 20,000 counts).

    Args:
        x: counts, (batch, features).
        log_mean: log μ, (batch, features).
        log_dispersion: log θ, broadcastable to `x`.
    """
    ratio = -F.logsigmoid(log_dispersion - log_mean)  # log(1 + μ/θ)
    power = x * log_mean - (log_dispersion.exp() + x) * ratio
    return power + log_rising_ratio(x, log_dispersion) - torch.lgamma(x + 1)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """x log p + (1−x) log(1−p) from logits of p, in nats; for x strictly between 0 and 1 a cross-entropy."""
    return x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(x; mean, std²), in nats."""
    return -0.5 * ((x - mean) * (-log_std).exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class NegativeBinomialCounts:
    """Independent negative binomials; `log_mean` (batch, genes), `log_dispersion` (genes,)."""

    log_mean: Tensor
    log_dispersion: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected counts, (batch, genes)."""
        return self.log_mean.exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of each sample, (batch,), in nats."""
        return negative_binomial_log_prob(x, self.log_mean, self.log_dispersion).sum(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Counts, (batch, genes): a Poisson with a gamma-distributed rate."""
        shape = self.log_dispersion.exp().expand_as(self.log_mean)
        rate = torch._standard_gamma(shape, generator=generator) * (self.log_mean - self.log_dispersion).exp()
        return torch.poisson(rate, generator=generator)


@dataclass(frozen=True)
class BernoulliPixels:
    """Independent Bernoullis from `logits`, (batch, pixels)."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """Probability of each pixel, (batch, pixels)."""
        return self.logits.sigmoid()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of each sample, (batch,), in nats; a cross-entropy for grey pixels."""
        return bernoulli_log_prob(x, self.logits).sum(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Zeros and ones, (batch, pixels)."""
        return torch.bernoulli(self.mean, generator=generator)


@dataclass(frozen=True)
class GaussianFeatures:
    """Independent Gaussians; `mean` (batch, features), `log_std` (features,)."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each sample, (batch,), in nats."""
        return gaussian_log_prob(x, self.mean, self.log_std).sum(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Values, (batch, features)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.log_std.exp() * noise


FeatureDistribution = NegativeBinomialCounts | BernoulliPixels | GaussianFeatures


class Likelihood(nn.Module, ABC):
    """From decoder outputs to a distribution over the features of a sample.

    Args:
        n_features: features of a sample.
    """

    effect_unit: ClassVar[str]  # unit of `effect`

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_outputs = n_features

    @abstractmethod
    def forward(self, outputs: Tensor, library: Tensor | None) -> FeatureDistribution:
        """The distribution; `outputs` (batch, n_outputs), `library` (batch,) in counts or None."""

    @abstractmethod
    def initial_outputs(self, x: Tensor, library: Tensor | None) -> Tensor:
        """Outputs that fit the mean of the training samples `x` (n, n_features): the decoder's first bias."""

    def fit_scales(self, x: Tensor, library: Tensor | None) -> None:
        """Set what depends on the scale of the training samples `x`, once and before training."""

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """What the networks read instead of x, (batch, n_features)."""
        return x

    def effect(self, low: FeatureDistribution, high: FeatureDistribution) -> Tensor:
        """Change of the decoded mean from `low` to `high`, (batch, n_features), in `effect_unit`."""
        return high.mean - low.mean


class NegativeBinomial(Likelihood):
    """Counts: mean = library × rate, gene-wise dispersion θ.

    rate = softmax over the model's genes and one rest term, the last output, that stands for all genes outside the
    model; the library counts them too. So the rates of the model's genes sum to less than 1, and raising one output
    lowers every other rate, the rest's too, by one factor: where most counts are the rest's, hardly at all.
    """

    effect_unit = "log2 fold change of 1 + counts per 10,000"
    log_reference: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.n_outputs = n_features + 1
        self.log_dispersion = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("log_reference", torch.zeros(()))  # log of the median library, sets the encoder's scale

    def forward(self, outputs: Tensor, library: Tensor | None) -> NegativeBinomialCounts:
        """Negative binomials; `library` is required."""
        assert library is not None
        log_rate = F.log_softmax(outputs, dim=-1)[:, :-1]
        return NegativeBinomialCounts(
            log_rate + library.log()[:, None], self.log_dispersion.clamp(*LOG_DISPERSION_RANGE)
        )

    def initial_outputs(self, x: Tensor, library: Tensor | None) -> Tensor:
        """Log of each gene's share of all counts, and of the rest's, each with one count more."""
        assert library is not None
        counts, total = x.sum(0), library.sum()
        rest = (total - counts.sum()).clamp_min(0)
        return ((torch.cat([counts, rest[None]]) + 1) / (total + self.n_outputs)).log()

    def fit_scales(self, x: Tensor, library: Tensor | None) -> None:
        """The median library is what the encoder scales each sample to."""
        assert library is not None
        self.log_reference.copy_(library.median().log())

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """log(1 + counts per median library)."""
        assert library is not None
        return torch.log1p(x * (self.log_reference - library.log()).exp()[:, None])

    def effect(self, low: FeatureDistribution, high: FeatureDistribution) -> Tensor:
        """log2 fold change of 1 + expected counts: the 1 keeps genes of a few stray counts from leading the list."""
        return (torch.log1p(high.mean) - torch.log1p(low.mean)) / math.log(2)


class Bernoulli(Likelihood):
    """Pixels in [0, 1]; a cross-entropy unless they are binary."""

    effect_unit = "change of pixel intensity"

    def forward(self, outputs: Tensor, library: Tensor | None) -> BernoulliPixels:
        """Bernoullis with the outputs as logits."""
        return BernoulliPixels(outputs)

    def initial_outputs(self, x: Tensor, library: Tensor | None) -> Tensor:
        """Logits of the mean image."""
        return torch.logit(x.mean(0).clamp(1e-3, 1 - 1e-3))


class Gaussian(Likelihood):
    """Real-valued features with a learned standard deviation each."""

    effect_unit = "change in feature units"

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_std = nn.Parameter(torch.zeros(n_features))

    def forward(self, outputs: Tensor, library: Tensor | None) -> GaussianFeatures:
        """Gaussians with the outputs as means."""
        return GaussianFeatures(outputs, self.log_std.clamp(*LOG_STD_RANGE))

    def initial_outputs(self, x: Tensor, library: Tensor | None) -> Tensor:
        """The mean of each feature."""
        return x.mean(0)

    @torch.no_grad()
    def fit_scales(self, x: Tensor, library: Tensor | None) -> None:
        """The standard deviation of each feature; for one that hardly varies, a tenth of the root mean variance."""
        var = x.var(0, correction=0)
        self.log_std.copy_((0.5 * var.maximum(0.01 * var.mean()).log()).clamp(*LOG_STD_RANGE))


LIKELIHOOD_CLASSES: dict[str, type[Likelihood]] = {
    "negative_binomial": NegativeBinomial,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}
