"""p(x | decoder outputs): what a sample is scored with, drawn from, and how the encoder reads it.

A likelihood turns decoder outputs of shape (batch, n_outputs) into a distribution over (batch, n_features). To add one:
subclass `Likelihood`, add its name to `nvae_bio.config.LIKELIHOODS` and to `LIKELIHOOD_CLASSES`, and test it against SciPy.
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
STIRLING_FROM = 64.0  # above this, log-gamma differences lose digits in float32 and Stirling's series has them


def log_rising_ratio(x: Tensor, log_dispersion: Tensor) -> Tensor:
    """log Γ(x+θ) − log Γ(θ) − x log θ = Σ_{j<x} log(1 + j/θ), without cancellation at large θ.

    Args:
        x: counts, (batch, features).
        log_dispersion: log θ, broadcastable to `x`.
    """
    dispersion = log_dispersion.exp()
    direct = torch.lgamma(x + dispersion) - torch.lgamma(dispersion) - x * log_dispersion
    shifted = dispersion + x
    series = (shifted - 0.5) * torch.log1p(x / dispersion) - x
    series = series + (1 / shifted - 1 / dispersion) / 12 - (shifted**-3 - dispersion**-3) / 360
    return torch.where(dispersion > STIRLING_FROM, series, direct)


def negative_binomial_log_prob(x: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """log NB(x; mean μ, dispersion θ), in nats; Var[x] = μ + μ²/θ. Exact from θ → 0 to the Poisson limit θ → ∞.

    Args:
        x: counts, (batch, features).
        log_mean: log μ, (batch, features).
        log_dispersion: log θ, broadcastable to `x`.
    """
    ratio = F.softplus(log_mean - log_dispersion)  # log(1 + μ/θ)
    power = x * log_mean - (log_dispersion.exp() + x) * ratio
    return power + log_rising_ratio(x, log_dispersion) - torch.lgamma(x + 1)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """x log p + (1−x) log(1−p) from logits of p, in nats; for x strictly between 0 and 1 a cross-entropy."""
    return x * logits - F.softplus(logits)


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

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """What the networks read instead of x, (batch, n_features)."""
        return x

    def effect(self, low: FeatureDistribution, high: FeatureDistribution) -> Tensor:
        """Change of the decoded mean from `low` to `high`, (batch, n_features), in `effect_unit`."""
        return high.mean - low.mean


class NegativeBinomial(Likelihood):
    """Counts: mean = library × rate, gene-wise dispersion θ.

    rate = softmax over the model's genes and one rest term that stands for all genes outside the model, so that one
    induced gene does not push every other gene down.
    """

    effect_unit = "log2 fold change"
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
        """Log of each gene's share of all counts, and of the rest's; sets the encoder's scale too."""
        assert library is not None
        self.log_reference.copy_(library.median().log())
        counts, total = x.sum(0), library.sum()
        rest = (total - counts.sum()).clamp_min(0)
        return ((torch.cat([counts, rest[None]]) + 1) / (total + self.n_outputs)).log()

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """log(1 + counts per median library)."""
        assert library is not None
        return torch.log1p(x * (self.log_reference - library.log()).exp()[:, None])

    def effect(self, low: FeatureDistribution, high: FeatureDistribution) -> Tensor:
        """log2 fold change of the expected counts."""
        assert isinstance(low, NegativeBinomialCounts)
        assert isinstance(high, NegativeBinomialCounts)
        return (high.log_mean - low.log_mean) / math.log(2)


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


LIKELIHOOD_CLASSES: dict[str, type[Likelihood]] = {
    "negative_binomial": NegativeBinomial,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}
