"""p(x | decoder outputs): what a sample is scored with, drawn from, and how the encoder reads it.

A likelihood turns decoder outputs of shape (batch, n_outputs) into a distribution over (batch, n_features). To add
one: subclass `Likelihood`, add its name to `nvae_bio.config.LIKELIHOODS` and to `LIKELIHOOD_CLASSES`, and test it
against SciPy. `docs/likelihoods.md` says which to choose.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvae_bio.config import ModelSettings
from nvae_bio.data.batch import Batch, Counts
from nvae_bio.data.packed import counts_of
from nvae_bio.errors import UserError
from nvae_bio.model.distributions import (
    BernoulliPixels,
    FeatureDistribution,
    GaussianFeatures,
    LogisticPixels,
    NegativeBinomialCounts,
    PoissonCounts,
    ZeroInflatedCounts,
)
from nvae_bio.model.kernels import in_full_precision, log1p_scaled, negative_binomial_log_prob, poisson_log_prob
from nvae_bio.model.moments import FeatureMoments
from nvae_bio.model.pixel_kernels import bernoulli_log_prob, discretized_logistic_log_prob, gaussian_log_prob
from nvae_bio.model.sparse import SparseInputs

LOG_DISPERSION_RANGE = (-10.0, 16.0)
LOG_STD_RANGE = (-6.0, 6.0)
LOG_SCALE_RANGE = (-7.0, 2.0)  # of pixels in [0, 1]: from a quarter of a grey level to no information
MIN_INPUT_STD = 0.1  # of log(1 + counts): a gene of a few stray counts is not blown up
PRIOR_COUNTS, PRIOR_SAMPLES = 3.0, 3.0  # by which a class's first means are drawn to those of all
FIRST_GATE = -4.0  # logit of π, 1.8 %: few extra zeros before the data ask for them


class Likelihood(nn.Module, ABC):
    """From decoder outputs to a distribution over the features of a sample.

    Args:
        n_features: features of a sample.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_outputs = n_features

    @abstractmethod
    def forward(self, outputs: Tensor, library: Tensor | None, group: Tensor | None = None) -> FeatureDistribution:
        """The distribution.

        Args:
            outputs: (batch, n_outputs).
            library: all counts of each sample, or its size factor, (batch,); None unless the data are counts.
            group: level of each sample's batch, (batch,); -1 where unknown, None where all are.
        """

    @abstractmethod
    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Log-probability of each sample, (…, batch), in nats; `outputs` (…, batch, n_outputs)."""

    @abstractmethod
    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Outputs that fit the mean of the training samples: the decoder's first bias."""

    def class_outputs(self, moments: FeatureMoments) -> Tensor:
        """What outputs that fit the mean of each class have over `initial_outputs`, (C, n_outputs): where a linear
        decoder's intercepts start. A class counts `PRIOR_SAMPLES` samples more, with the mean of all.
        """
        assert moments.by_class is not None
        total, n, _ = moments.by_class
        means = (total + PRIOR_SAMPLES * moments.mean) / (n + PRIOR_SAMPLES)[:, None]
        overall = self.initial_outputs(moments)
        return torch.stack([self.initial_outputs(replace(moments, mean=mean)) - overall for mean in means])

    def fit_scales(self, moments: FeatureMoments) -> None:
        """Set what depends on the scale of the training samples, once and before training."""

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """What the networks read instead of x, (…, batch, n_features)."""
        return x

    def effect(self, low: FeatureDistribution, high: FeatureDistribution) -> Tensor:
        """Change of the decoded mean from `low` to `high`, (batch, n_features)."""
        return high.mean - low.mean


class CountLikelihood(Likelihood):
    """Counts whose mean is library × rate.

    rate = softmax over the model's genes and one rest term, the last output, that stands for all genes outside the
    model; the library counts them too. So the rates of the model's genes sum to less than 1, and raising one output
    lowers every other rate, the rest's too, by one factor: where most counts are the rest's, hardly at all.

    Where samples come with size factors, these take the library's place, and rate = exp(output): no gene's rate
    depends on another's, and there is no rest.

    Args:
        n_features: genes.
        normalised: whether rates are a softmax.
        standardised: whether the encoder reads each gene with mean 0 and variance 1 over the training samples.
    """

    log_reference: Tensor
    input_mean: Tensor
    input_std: Tensor

    def __init__(self, n_features: int, *, normalised: bool = True, standardised: bool = False) -> None:
        super().__init__(n_features)
        self.normalised, self.standardised = normalised, standardised
        self.n_outputs = n_features + normalised
        self.register_buffer("log_reference", torch.zeros(()))  # log of the median library, sets the encoder's scale
        if standardised:
            self.register_buffer("input_mean", torch.zeros(n_features))
            self.register_buffer("input_std", torch.ones(n_features))

    def log_mean(self, outputs: Tensor, library: Tensor | None) -> Tensor:
        """Log of expected counts, (batch, genes), from the outputs for means, (batch, genes or genes + 1)."""
        assert library is not None
        log_rate = F.log_softmax(outputs, dim=-1)[:, :-1] if self.normalised else outputs
        return log_rate + library.log()[:, None]

    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Log of each gene's share of all counts, and of the rest's, each with one count more."""
        assert moments.library is not None
        counts, total = moments.n * moments.mean, moments.library.sum()
        if self.normalised:
            counts = torch.cat([counts, (total - counts.sum()).clamp_min(0)[None]])
        return ((counts + 1) / (total + len(counts))).log()

    def class_outputs(self, moments: FeatureMoments) -> Tensor:
        """Log of each gene's count in a class over what its library lets expect, and of the rest's; of logits of π, 0.

        Both have `PRIOR_COUNTS` more, so that a gene of a few stray counts differs little.
        """
        assert moments.by_class is not None and moments.library is not None
        total, _, library = moments.by_class
        overall = moments.n * moments.mean
        if self.normalised:
            total = torch.cat([total, (library - total.sum(1)).clamp_min(0)[:, None]], dim=1)
            overall = torch.cat([overall, (moments.library.sum() - overall.sum()).clamp_min(0)[None]])
        expected = library[:, None] * overall / moments.library.sum()
        ratio = ((total + PRIOR_COUNTS) / (expected + PRIOR_COUNTS)).log()
        return F.pad(ratio, (0, self.n_outputs - ratio.shape[1]))

    def fit_scales(self, moments: FeatureMoments) -> None:
        """The median library is what the encoder scales each sample to; by the genes' moments it standardises."""
        assert moments.library is not None
        self.log_reference.copy_(moments.library.median().log())
        if self.standardised:
            assert moments.log_mean is not None and moments.log_std is not None
            self.input_mean.copy_(moments.log_mean)
            self.input_std.copy_(moments.log_std.clamp_min(MIN_INPUT_STD))

    def encoder_input(self, x: Tensor, library: Tensor | None) -> Tensor:
        """log(1 + counts per median library), standardised or not."""
        scaled = log1p_scaled(x, self._scale(library))
        if not self.standardised:
            return scaled
        return scaled.sub_(self.input_mean[..., None, :]).div_(self.input_std[..., None, :])

    def sparse_input(self, x: Tensor, library: Tensor | None) -> SparseInputs:
        """The same without its zeros, of x (batch, n_features), float32 on the CPU."""
        scaled = SparseInputs.log1p_scaled(x, self._scale(library))
        return scaled.standardised(self.input_mean, self.input_std) if self.standardised else scaled

    def _scale(self, library: Tensor | None) -> Tensor:
        assert library is not None
        return (self.log_reference[..., None] - library.log()).exp()

    def effect(self, low: FeatureDistribution, high: FeatureDistribution) -> Tensor:
        """log2 fold change of 1 + expected counts: the 1 keeps genes of a few stray counts from leading the list."""
        return (torch.log1p(high.mean) - torch.log1p(low.mean)) / math.log(2)


def _known_counts(batch: Batch) -> Counts:
    return counts_of(batch.x) if batch.counts is None else batch.counts


class Poisson(CountLikelihood):
    """Counts with a variance equal to their mean."""

    def forward(self, outputs: Tensor, library: Tensor | None, group: Tensor | None = None) -> PoissonCounts:
        """Poissons; `library` is required."""
        return PoissonCounts(self.log_mean(outputs, library))

    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of counts: `batch.library` is required, `batch.counts` made if it is not there."""
        assert batch.library is not None
        log_factorial = _known_counts(batch).log_factorial
        return poisson_log_prob(outputs, batch.x, log_factorial, batch.library.log(), normalised=self.normalised)


class NegativeBinomial(CountLikelihood):
    """Counts with variance μ + μ²/θ; the dispersion θ is a gene's, or a gene's in each batch.

    A sample of an unknown batch has the geometric mean of θ over batches.

    Args:
        n_features: genes.
        n_batches: batches with a dispersion each; 0: one for all.
        form: further arguments of `CountLikelihood`.
    """

    def __init__(self, n_features: int, *, n_batches: int = 0, **form: bool) -> None:
        super().__init__(n_features, **form)
        self.n_batches = n_batches
        self.log_dispersion = nn.Parameter(torch.zeros((n_batches, n_features) if n_batches else n_features))

    def _dispersions(self) -> Tensor:
        """log θ, (…, genes), or (…, n_batches + 1, genes), the last row for unknown batches."""
        log_dispersion = self.log_dispersion.clamp(*LOG_DISPERSION_RANGE)
        if not self.n_batches:
            return log_dispersion
        return torch.cat([log_dispersion, log_dispersion.mean(-2, keepdim=True)], dim=-2)

    def _row(self, level: Tensor) -> Tensor:
        """Row of the dispersions for each level, -1 where unknown."""
        return torch.where(level < 0, self.n_batches, level)

    def forward(self, outputs: Tensor, library: Tensor | None, group: Tensor | None = None) -> FeatureDistribution:
        """Negative binomials; `library` is required."""
        log_dispersion = self._dispersions()
        if self.n_batches:
            level = torch.full(outputs.shape[:1], -1, device=outputs.device) if group is None else group
            log_dispersion = log_dispersion[self._row(level)]
        return NegativeBinomialCounts(self.log_mean(outputs, library), log_dispersion)

    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of counts: `batch.library` is required, `batch.counts` made if it is not there."""
        assert batch.library is not None
        group = None
        if self.n_batches:
            known = batch.covariates
            group = self._row(torch.full_like(batch.label, -1) if known is None else known.level[..., 0])
        return negative_binomial_log_prob(
            outputs, self._dispersions(), batch.x, _known_counts(batch), batch.library.log(), group,
            normalised=self.normalised,
        )  # fmt: skip


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """As `NegativeBinomial`, but a count is 0 with probability π whatever its mean; logits of π are outputs."""

    def __init__(self, n_features: int, *, n_batches: int = 0, **form: bool) -> None:
        super().__init__(n_features, n_batches=n_batches, **form)
        self.n_outputs += n_features

    def forward(self, outputs: Tensor, library: Tensor | None, group: Tensor | None = None) -> ZeroInflatedCounts:
        """Negative binomials with zeros mixed in; `library` is required."""
        of_means, gate = outputs.split([self.n_outputs - self.n_features, self.n_features], dim=-1)
        counts = super().forward(of_means, library, group)
        assert isinstance(counts, NegativeBinomialCounts)
        return ZeroInflatedCounts(counts, gate)

    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Means as of the negative binomial but for the zeros that are mixed in, and a low π."""
        gate = moments.mean.new_full((self.n_features,), FIRST_GATE)
        counted = replace(moments, mean=moments.mean / (-gate).sigmoid())
        return torch.cat([super().initial_outputs(counted), gate])


class Bernoulli(Likelihood):
    """Pixels as Bernoulli trials: a likelihood (`bernoulli`) of binary ones, a `cross_entropy` of grey ones."""

    def forward(self, outputs: Tensor, library: Tensor | None, group: Tensor | None = None) -> BernoulliPixels:
        """Bernoullis with the outputs as logits."""
        return BernoulliPixels(outputs)

    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of binary pixels; minus the cross-entropy of grey ones."""
        return bernoulli_log_prob(outputs, batch.x)

    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Logits of the mean image."""
        return torch.logit(moments.mean.clamp(1e-3, 1 - 1e-3))


class DiscretizedLogistic(Likelihood):
    """Pixels of 8 bits: a logistic around the output, rounded to grey levels, with a learned scale for each pixel."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_scale = nn.Parameter(torch.zeros(n_features))

    def forward(self, outputs: Tensor, library: Tensor | None, group: Tensor | None = None) -> LogisticPixels:
        """Rounded logistics with the outputs as locations."""
        return LogisticPixels(outputs, self.log_scale.clamp(*LOG_SCALE_RANGE))

    def log_prob(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of grey levels k/255."""
        return discretized_logistic_log_prob(outputs, self.log_scale.clamp(*LOG_SCALE_RANGE), batch.x)

    def initial_outputs(self, moments: FeatureMoments) -> Tensor:
        """Locations at which the mean image is expected: `LogisticPixels.mean` solved for m, at the present scales."""
        mean, scale = moments.mean.clamp(1e-3, 1 - 1e-3), self.log_scale.clamp(*LOG_SCALE_RANGE).exp()
        return mean + scale * (torch.expm1(-mean / scale).neg().log() - torch.expm1((mean - 1) / scale).neg().log())

    @torch.no_grad()
    def fit_scales(self, moments: FeatureMoments) -> None:
        """Scales s by the variance of each pixel, s² π²/3."""
        self.log_scale.copy_((_log_std(moments.var) + 0.5 * math.log(3 / math.pi**2)).clamp(*LOG_SCALE_RANGE))


def _log_std(var: Tensor) -> Tensor:
    """Log standard deviation of each feature; of one that hardly varies, of a tenth of the root mean variance."""
    return 0.5 * var.maximum(0.01 * var.mean()).log()


class Gaussian(Likelihood):
    """Real-valued features with a learned standard deviation each."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_std = nn.Parameter(torch.zeros(n_features))

    def forward(self, outputs: Tensor, library: Tensor | None, group: Tensor | None = None) -> GaussianFeatures:
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
        """The standard deviation of each feature."""
        self.log_std.copy_(_log_std(moments.var).clamp(*LOG_STD_RANGE))


LIKELIHOOD_CLASSES: dict[str, type[Likelihood]] = {
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "cross_entropy": Bernoulli,
    "bernoulli": Bernoulli,
    "discretized_logistic": DiscretizedLogistic,
    "gaussian": Gaussian,
}


def make_likelihood(name: str, n_features: int, settings: ModelSettings, n_batches: int = 0) -> Likelihood:
    """A likelihood as the settings want it.

    Args:
        name: a key of `LIKELIHOOD_CLASSES`.
        n_features: features of a sample.
        settings: `size`, `dispersion` and `decoder`.
        n_batches: levels of the data set's batch; 0 where it has none.

    Raises:
        UserError: a dispersion for each batch, without batches.
    """
    found, options = LIKELIHOOD_CLASSES[name], dict[str, Any]()
    if issubclass(found, CountLikelihood):
        options["normalised"] = settings.size == "library"
        options["standardised"] = settings.has_linear_decoder(name)
    if settings.dispersion == "gene_batch":
        if not n_batches:
            raise UserError("model.dispersion: 'gene_batch' needs data with batches; set batch_key, or allowed: gene")
        options["n_batches"] = n_batches
    return found(n_features, **options)
