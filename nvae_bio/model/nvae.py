"""The N-VAE of Antorán & Miguel (ICMLA 2019, arXiv:1901.09415): encoder, classifier, composed decoder.

The latent is z = [z_c, z_s]: z_c has a private block of K dims for each of C classes, z_s has S shared dims. The
decoder sees z_s and vec(c_y ⊙ [1, z_c]): the one-hot class and only the block of the sample's class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvae_bio.config import ModelSettings
from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.model.backbones import ImageShape, make_head, make_trunk
from nvae_bio.model.covariates import CovariateEffect, CovariateForm
from nvae_bio.model.decoders import FIRST_LOADING, Composition, Decoder, LinearDecoder, log_prior
from nvae_bio.model.distributions import FeatureDistribution
from nvae_bio.model.kernels import is_fused
from nvae_bio.model.likelihoods import CountLikelihood, Likelihood, make_likelihood
from nvae_bio.model.moments import FeatureMoments
from nvae_bio.model.rotation import TURNED, turn_axes
from nvae_bio.model.sparse import FirstLayer, Inputs

LOG_STD_RANGE = (-8.0, 3.0)


class DiagonalGaussian(NamedTuple):
    """N(mean, diag(exp(log_std)²)), of any shape."""

    mean: Tensor
    log_std: Tensor

    def rsample(self, noise: Tensor) -> Tensor:
        """mean + std · noise."""
        return self.mean + self.log_std.exp() * noise

    def kl(self) -> Tensor:
        """KL to N(0, 1) of each dim, in nats: ½(μ² + σ² − 1) − log σ."""
        return 0.5 * (self.mean**2 + torch.expm1(2 * self.log_std)) - self.log_std

    def square(self) -> Tensor:
        """μ² + σ² of each dim, its distance from a point at 0."""
        return self.mean**2 + (2 * self.log_std).exp()

    def take(self, row: Tensor) -> DiagonalGaussian:
        """Of the samples at `row`, (rows,)."""
        return DiagonalGaussian(self.mean.index_select(0, row), self.log_std.index_select(0, row))


class Posterior(NamedTuple):
    """q(z | x): `shared` (…, batch, S) and `private` (…, batch, C, K)."""

    shared: DiagonalGaussian
    private: DiagonalGaussian

    def own(self, block: Tensor) -> DiagonalGaussian:
        """One private block of each sample, (batch, K), by its index (batch,): `NVAE.block` of the label."""
        return DiagonalGaussian(of_block(self.private.mean, block), of_block(self.private.log_std, block))


def of_block(table: Tensor, block: Tensor) -> Tensor:
    """One block of each sample, (batch, K), of (batch, C, K): the one at its index, (batch,)."""
    # gather refuses a negative index, where plain indexing would take the last block
    return table.gather(1, block[:, None, None].expand(-1, 1, table.shape[2])).squeeze(1)


def rows_of_decodes(n: int, n_labelled: int, n_likeliest: int, device: torch.device) -> Tensor:
    """Sample of each row that is decoded: the labelled samples once each, then every other one `n_likeliest` times.

    >>> rows_of_decodes(4, 2, 3, torch.device("cpu")).tolist()
    [0, 1, 2, 2, 2, 3, 3, 3]
    """
    sample = torch.arange(n, device=device)
    return torch.cat([sample[:n_labelled], sample[n_labelled:].repeat_interleave(n_likeliest)])


class Pass(NamedTuple):
    """What the networks make of a batch; leading dimensions (…) are models trained side by side.

    A labelled sample has one row; an unlabelled one has a row for each class that it is decoded under.

    Attributes:
        label: class that the row is decoded under, (…, rows).
        shared: q(z_s|x), (…, rows, S).
        draw: z_s, (…, rows, S).
        kl_shared: KL of each shared dim, nats, (…, rows, S).
        kl_private: KL of each private dim of every block, nats, (…, rows, C, K).
        kl_own: the same of the block of the row's class, (…, rows, K).
        off_square: mean² + std² summed over the dims of all other blocks, (…, rows).
        outputs: of the decoder at one draw, (…, rows, n_outputs).
        class_log_prob: log q(y|x), (…, rows, C).
    """

    label: Tensor
    shared: DiagonalGaussian
    draw: Tensor
    kl_shared: Tensor
    kl_private: Tensor
    kl_own: Tensor
    off_square: Tensor
    outputs: Tensor
    class_log_prob: Tensor


class Encoder(nn.Module):
    """q(z_s, z_c | x), not conditioned on the class.

    Args:
        trunk: network from (batch, features) to (batch, width).
        width: its outputs.
        n_shared: S.
        n_classes: C, blocks of z_c.
        n_private: K, dims of a block.
        effect: of the covariates on the trunk's first dense layer; None where the encoder is not told them.
        linear: from (batch, features) to what is added to all posterior means, (batch, S + C·K); None for nothing.
    """

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        n_shared: int,
        n_classes: int,
        n_private: int,
        effect: CovariateEffect | None = None,
        linear: FirstLayer | None = None,
    ) -> None:
        super().__init__()
        self.trunk, self.effect, self.linear = trunk, effect, linear
        self.n_shared, self.n_classes, self.n_private = n_shared, n_classes, n_private
        self.moments = nn.Linear(width, 2 * (n_shared + n_classes * n_private))

    def forward(self, x: Inputs, covariates: Covariates | None = None) -> Posterior:
        """The posterior of each sample of x, (batch, features)."""
        offset = None if self.effect is None else self.effect(covariates)
        mean, log_std = self.moments(self.trunk(x, offset)).chunk(2, dim=-1)
        mean = mean if self.linear is None else mean + self.linear(x)
        flat = DiagonalGaussian(mean, log_std.clamp(*LOG_STD_RANGE))
        n, blocks = self.n_shared, (len(x), self.n_classes, self.n_private)
        return Posterior(
            DiagonalGaussian(flat.mean[:, :n], flat.log_std[:, :n]),
            DiagonalGaussian(flat.mean[:, n:].reshape(blocks), flat.log_std[:, n:].reshape(blocks)),
        )


class Classifier(nn.Module):
    """log q(y | x), on a trunk of its own; arguments as those of `Encoder`."""

    def __init__(self, trunk: nn.Module, width: int, n_classes: int, effect: CovariateEffect | None = None) -> None:
        super().__init__()
        self.trunk, self.effect = trunk, effect
        self.logits = nn.Linear(width, n_classes)

    def forward(self, x: Inputs, covariates: Covariates | None = None) -> Tensor:
        """Log-probabilities, (batch, C)."""
        offset = None if self.effect is None else self.effect(covariates)
        return F.log_softmax(self.logits(self.trunk(x, offset)), dim=-1)


class NVAE(nn.Module):
    """All parts together; the bound on them is in `nvae_bio.model.objective`.

    Args:
        encoder: q(z_s, z_c | x).
        classifier: log q(y | x).
        decoder: outputs for the likelihood.
        likelihood: p(x | outputs).
        uses_label: False for `vae`, whose decoder sees one class for all.
        is_sparse: whether only counts that are not 0 go through the first layer, where it reads float32 on the CPU.
    """

    def __init__(
        self,
        encoder: Encoder,
        classifier: Classifier,
        decoder: Decoder | LinearDecoder,
        likelihood: Likelihood,
        uses_label: bool,
        is_sparse: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.classifier, self.decoder, self.likelihood = encoder, classifier, decoder, likelihood
        self.uses_label, self.is_sparse = uses_label, is_sparse

    @property
    def n_shared(self) -> int:
        """S."""
        return self.encoder.n_shared

    @property
    def n_private(self) -> int:
        """K."""
        return self.encoder.n_private

    @property
    def n_classes(self) -> int:
        """C."""
        return self.classifier.logits.out_features

    @property
    def n_blocks(self) -> int:
        """C, or 1 where the decoder sees no label."""
        return self.encoder.n_classes

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def forward(
        self, inputs: Inputs, label: Tensor, noise: Tensor, covariates: Covariates | None = None, n_likeliest: int = 1
    ) -> Pass:
        """All networks at one draw of the shared latent and of the own block.

        Args:
            inputs: what `NVAE.inputs` gives, (batch, features): first the labelled samples, then the unlabelled ones.
            label: class of each labelled sample, (labelled,).
            noise: standard normal, (batch, S + K).
            covariates: of each sample, (batch, …); None where the model has none.
            n_likeliest: M, classes that an unlabelled sample is decoded under; their rows follow each other.
        """
        posterior, class_log_prob = self.encoder(inputs, covariates), self.classifier(inputs, covariates)
        if len(label) < len(inputs):
            row = rows_of_decodes(len(inputs), len(label), n_likeliest, noise.device)
            likeliest = class_log_prob[len(label) :].topk(n_likeliest, dim=-1).indices
            label = torch.cat([label, likeliest.flatten()])
            posterior = Posterior(posterior.shared.take(row), posterior.private.take(row))
            class_log_prob, noise = class_log_prob.index_select(0, row), noise.index_select(0, row)
            covariates = None if covariates is None else covariates.take(row)
        block = self.block(label)
        own_posterior = posterior.own(block)
        shared, own = self.draw(posterior, own_posterior, noise)
        outputs, kl = self.decoder(shared, own, block, covariates), posterior.private.kl()
        off_square = posterior.private.square().sum((1, 2)) - own_posterior.square().sum(1)
        return Pass(
            label, posterior.shared, shared, posterior.shared.kl(), kl, of_block(kl, block), off_square, outputs,
            class_log_prob,
        )  # fmt: skip

    def inputs(self, x: Tensor, library: Tensor | None) -> Inputs:
        """What the encoder and the classifier read of x, (batch, features)."""
        if self.is_sparse and isinstance(self.likelihood, CountLikelihood) and is_fused(x):
            return self.likelihood.sparse_input(x, library)
        return self.likelihood.encoder_input(x, library)

    def infer(self, batch: Batch) -> tuple[Posterior, Tensor]:
        """q(z | x), and log q(y | x), (batch, C), of samples as they lie in the data."""
        inputs = self.inputs(batch.x, batch.library)
        return self.encoder(inputs, batch.covariates), self.classifier(inputs, batch.covariates)

    def draw(self, posterior: Posterior, own: DiagonalGaussian, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z_s (batch, S) and the own block (batch, K) from standard normal noise (batch, S + K)."""
        shared_noise, own_noise = noise.split([self.n_shared, self.n_private], dim=-1)
        return posterior.shared.rsample(shared_noise), own.rsample(own_noise)

    def block(self, label: Tensor) -> Tensor:
        """Index of each sample's private block, (batch,)."""
        return label if self.uses_label else torch.zeros_like(label)

    def decode(
        self, shared: Tensor, own: Tensor, label: Tensor, library: Tensor | None, covariates: Covariates | None = None
    ) -> FeatureDistribution:
        """p(x | y, z) for z_s (batch, S) and the own block (batch, K) of class `label` (batch,).

        Without covariates it is that of an average training sample: an unknown level, and the mean of each number.
        """
        outputs = self.decoder(shared, own, self.block(label), covariates)
        group = covariates.level[..., 0] if covariates is not None and covariates.level.shape[-1] else None
        return self.likelihood(outputs, library, group)  # type: ignore[no-any-return]

    @property
    def has_prior(self) -> bool:
        """Whether the decoder's weights have a prior: a linear one of counts."""
        return isinstance(self.decoder, LinearDecoder) and isinstance(self.likelihood, CountLikelihood)

    def log_prior(self, settings: ModelSettings) -> Tensor:
        """That of the decoder's weights, nats but for a constant, ()."""
        of = self.decoder.composition
        return log_prior(of.shared_weight, of.class_weight, of.class_bias, settings.loading_sd, settings.intercept_sd)

    def turn_axes(self) -> list[Tensor]:
        """Turn the axes of a linear decoder's latents to simple structure; what has changed, nothing in a network."""
        if not isinstance(self.decoder, LinearDecoder):
            return []
        weights = {name: value for name, value in self.named_parameters() if name in TURNED}
        turn_axes(weights)
        return list(weights.values())

    @torch.no_grad()
    def fit_output_bias(self, moments: FeatureMoments) -> None:
        """Start the decoder at the mean of the training samples, and the likelihood at their scale.

        A linear decoder starts at the mean of each class: its intercepts would take thousands of steps to get there,
        and z_s would tell the class in the meantime.
        """
        self.likelihood.fit_scales(moments)
        self.decoder.output_bias.copy_(self.likelihood.initial_outputs(moments))
        if isinstance(self.decoder, LinearDecoder) and self.uses_label and moments.by_class is not None:
            self.decoder.composition.class_bias.copy_(self.likelihood.class_outputs(moments))


def build_nvae(
    settings: ModelSettings,
    likelihood: str,
    n_features: int,
    n_classes: int,
    image: Sequence[int] | None = None,
    covariates: CovariateForm | None = None,
    n_batches: int = 0,
    *,
    is_sparse: bool = False,
) -> NVAE:
    """An untrained model, its weights drawn from torch's global random state.

    Args:
        settings: variant, dims, networks, and what the likelihood depends on.
        likelihood: a key of `LIKELIHOOD_CLASSES`.
        n_features: features of a sample.
        n_classes: classes, C.
        image: (channels, height, width) in pixels, for the `conv` backbone.
        covariates: what the data set has; which networks are told them is a setting.
        n_batches: levels of the data set's batch, for a dispersion in each; 0 where it has none.
        is_sparse: whether zeros among counts are left out of the first layer.

    Raises:
        UserError: the images are too small for so many conv stages, or batches are needed and there are none.
    """
    shape: ImageShape | None = None if image is None else (image[0], image[1], image[2])
    backbone, hidden, channels, width = settings.backbone, settings.hidden, settings.channels, settings.hidden[-1]
    n_shared, n_private = settings.n_shared, settings.n_private
    uses_label = settings.variant != "vae"
    n_blocks = n_classes if uses_label else 1
    likelihood_part = make_likelihood(likelihood, n_features, settings, n_batches)
    n_outputs, is_linear = likelihood_part.n_outputs, settings.has_linear_decoder(likelihood)
    trunks = [make_trunk(backbone, n_features, shape, hidden, channels) for _ in range(2)]
    linear = FirstLayer(n_features, n_shared + n_blocks * n_private, is_empty=True) if is_linear else None
    head = None if is_linear else make_head(backbone, n_outputs, shape, hidden, channels)

    def effect(on: int, *, told: bool) -> CovariateEffect | None:
        if not told or covariates is None or not (covariates.shares or covariates.n_continuous):
            return None
        return CovariateEffect(covariates, on, settings.max_one_hot, settings.covariate_dims)

    def decoder() -> Decoder | LinearDecoder:
        on, bound = (n_outputs, FIRST_LOADING) if is_linear else (width, None)
        composition = Composition(n_shared, n_blocks, n_private, on, effect(on, told=decoded), bound)
        if head is None:
            return LinearDecoder(composition, n_outputs)
        return Decoder(composition, head, n_outputs)

    both, decoded = settings.covariates == "both", settings.covariates != "none"
    return NVAE(
        Encoder(trunks[0], width, n_shared, n_blocks, n_private, effect(hidden[0], told=both), linear),
        Classifier(trunks[1], width, n_classes, effect(hidden[0], told=both)),
        decoder(),
        likelihood_part,
        uses_label,
        is_sparse,
    )
