"""Distributions over the features of a sample, (batch, features): each has a mean and can be drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nvae_bio.model.pixel_kernels import N_STEPS


@dataclass(frozen=True)
class PoissonCounts:
    """Independent Poissons; `log_mean` (batch, genes)."""

    log_mean: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected counts, (batch, genes)."""
        return self.log_mean.exp()

    def sample(self, generator: torch.Generator) -> Tensor:
        """Counts, (batch, genes)."""
        return torch.poisson(self.mean, generator=generator)


@dataclass(frozen=True)
class NegativeBinomialCounts:
    """Independent negative binomials; `log_mean` (batch, genes), `log_dispersion` (genes,) or (batch, genes)."""

    log_mean: Tensor
    log_dispersion: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected counts, (batch, genes)."""
        return self.log_mean.exp()

    def sample(self, generator: torch.Generator) -> Tensor:
        """Counts, (batch, genes): a Poisson with a gamma-distributed rate."""
        shape = self.log_dispersion.exp().expand_as(self.log_mean)
        rate = torch._standard_gamma(shape, generator=generator) * (self.log_mean - self.log_dispersion).exp()
        return torch.poisson(rate, generator=generator)


@dataclass(frozen=True)
class ZeroInflatedCounts:
    """`counts`, or 0 with probability π = sigmoid(`gate`), (batch, genes)."""

    counts: NegativeBinomialCounts
    gate: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected counts, zeros of both kinds included, (batch, genes)."""
        return (-self.gate).sigmoid() * self.counts.mean

    def sample(self, generator: torch.Generator) -> Tensor:
        """Counts, (batch, genes)."""
        return self.counts.sample(generator) * torch.bernoulli((-self.gate).sigmoid(), generator=generator)


@dataclass(frozen=True)
class BernoulliPixels:
    """Independent Bernoullis from `logits`, (batch, pixels)."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """Probability of each pixel, (batch, pixels)."""
        return self.logits.sigmoid()

    def sample(self, generator: torch.Generator) -> Tensor:
        """Zeros and ones, (batch, pixels)."""
        return torch.bernoulli(self.mean, generator=generator)


@dataclass(frozen=True)
class LogisticPixels:
    """Independent logistics, rounded to the 256 grey levels; `location` (batch, pixels), `log_scale` (pixels,).

    What lies below 0 counts as 0, and what lies above 1 as 1.
    """

    location: Tensor
    log_scale: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected pixel before it is rounded, (batch, pixels): s log(1+e^(m/s)) − s log(1+e^((m−1)/s)).

        Rounding moves it by less than a tenth of a grey level, at the smallest scale that is allowed.
        """
        scale = self.log_scale.exp()
        above = F.logsigmoid((1 - self.location) / scale) - F.logsigmoid(-self.location / scale)
        return (scale * above).clamp(0, 1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Grey levels k/255, (batch, pixels)."""
        like = self.location
        uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        drawn = like + self.log_scale.exp() * uniform.logit()
        return (drawn.clamp(0, 1) * N_STEPS).round() / N_STEPS


@dataclass(frozen=True)
class GaussianFeatures:
    """Independent Gaussians; `mean` (batch, features), `log_std` (features,)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Values, (batch, features)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.log_std.exp() * noise


FeatureDistribution = (
    PoissonCounts | NegativeBinomialCounts | ZeroInflatedCounts | BernoulliPixels | LogisticPixels | GaussianFeatures
)
