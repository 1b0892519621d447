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

from nvae_bio.data.batch import Batch
from nvae_bio.data.packed import counts_of
from nvae_bio.model.kernels import (
    bernoulli_log_prob,
    gaussian_log_prob,
    in_full_precision,
    log1p_scaled,
    negative_binomial_log_prob,
)

LOG_DISPERSION_RANGE = (-10.0, 16.0)
LOG_STD_RANGE = (-6.0, 6.0)


@dataclass(frozen=True)
class FeatureMoments:
    """Of the training samples: where a model starts.

    Attributes:
        n: samples.
        mean: of each feature, (features,).
        var: of each feature, (features,).
        library: all counts of each sample, (n,); None unless the data are counts.
    """

    n: int
    mean: Tensor
    var: Tensor
    library: Tensor | None

    @classmethod
    def of(cls, x: Tensor, library: Tensor | None) -> FeatureMoments:
        """Of samples x, (n, features)."""
        return cls(len(x), x.mean(0), x.var(0, correction=0), library)


@dataclass(frozen=True)
class NegativeBinomialCounts:
    """Independent negative binomials; `log_mean` (batch, genes), `log_dispersion` (genes,)."""

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
class GaussianFeatures:
    """Independent Gaussians; `mean` (batch, features), `log_std` (features,)."""

    mean: Tensor
    log_std: Tensor

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
    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Log-probability of each sample, (…, batch), in nats; `outputs` (…, batch, n_outputs)."""

    @abstractmethod
    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Outputs that fit the mean of the training samples: the decoder's first bias."""

    def fit_scales(self, moments: FeatureMoments) -> None:
        """Set what depends on the scale of the training samples, once and before training."""

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """What the networks read instead of x, (…, batch, n_features)."""
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

    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of counts: `batch.library` is required, `batch.counts` made if it is not there."""
        assert batch.library is not None
        counts = counts_of(batch.x) if batch.counts is None else batch.counts
        log_dispersion = self.log_dispersion.clamp(*LOG_DISPERSION_RANGE)
        return negative_binomial_log_prob(outputs, log_dispersion, batch.x, counts, batch.library.log())

    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Log of each gene's share of all counts, and of the rest's, each with one count more."""
        assert moments.library is not None
        counts, total = moments.n * moments.mean, moments.library.sum()
        rest = (total - counts.sum()).clamp_min(0)
        return ((torch.cat([counts, rest[None]]) + 1) / (total + self.n_outputs)).log()

    def fit_scales(self, moments: FeatureMoments) -> None:
        """The median library is what the encoder scales each sample to."""
        assert moments.library is not None
        self.log_reference.copy_(moments.library.median().log())

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """log(1 + counts per median library)."""
        assert library is not None
        return log1p_scaled(x, (self.log_reference[..., None] - library.log()).exp())

    def effect(self, low: FeatureDistribution, high: FeatureDistribution) -> Tensor:
        """log2 fold change of 1 + expected counts: the 1 keeps genes of a few stray counts from leading the list."""
        return (torch.log1p(high.mean) - torch.log1p(low.mean)) / math.log(2)


class Bernoulli(Likelihood):
    """Pixels in [0, 1]; a cross-entropy unless they are binary."""

    effect_unit = "change of pixel intensity"

    def forward(self, outputs: Tensor, library: Tensor | None) -> BernoulliPixels:
        """Bernoullis with the outputs as logits."""
        return BernoulliPixels(outputs)

    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of pixels; a cross-entropy for grey ones."""
        return bernoulli_log_prob(outputs, batch.x)

    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Logits of the mean image."""
        return torch.logit(moments.mean.clamp(1e-3, 1 - 1e-3))


class Gaussian(Likelihood):
    """Real-valued features with a learned standard deviation each."""

    effect_unit = "change in feature units"

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_std = nn.Parameter(torch.zeros(n_features))

    def forward(self, outputs: Tensor, library: Tensor | None) -> GaussianFeatures:
        """Gaussians with the outputs as means."""
        return GaussianFeatures(outputs, self.log_std.clamp(*LOG_STD_RANGE))

    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Log-density of each sample."""
        log_std = self.log_std.clamp(*LOG_STD_RANGE)[..., None, :]
        return gaussian_log_prob(in_full_precision(outputs), log_std, batch.x)

    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """The mean of each feature."""
        return moments.mean

    @torch.no_grad()
    def fit_scales(self, moments: FeatureMoments) -> None:
        """The standard deviation of each feature; for one that hardly varies, a tenth of the root mean variance."""
        var = moments.var
        self.log_std.copy_((0.5 * var.maximum(0.01 * var.mean()).log()).clamp(*LOG_STD_RANGE))


LIKELIHOOD_CLASSES: dict[str, type[Likelihood]] = {
    "negative_binomial": NegativeBinomial,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}
