"""A model of some of its features: what it says of samples in which the others were not measured."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nvae_bio.errors import UserError
from nvae_bio.model.backbones import DenseHead
from nvae_bio.model.covariates import CovariateEffect, LevelEffect
from nvae_bio.model.decoders import Decoder, LinearDecoder
from nvae_bio.model.likelihoods import CountLikelihood, Likelihood, ZeroInflatedNegativeBinomial
from nvae_bio.model.nvae import NVAE

NEVER = -1e4  # log rate of what cannot be counted; no infinity, of which a product with 0 is no number


@torch.no_grad()
def measured_part(network: NVAE, measured: Tensor, *, rest: bool = True) -> NVAE:
    """The same model with a decoder of the measured features alone; encoder and classifier still read all of them.

    Rates of counts are shares of a cell's counts. Those of the measured genes (and of the rest, where genes outside the
    model were counted too) are taken relative to their sum, which is what is expected of counts in which the others are
    left out; the library is then the sum of the counts that are there.

    Args:
        network: a whole model; not changed.
        measured: which features, (features,) booleans.
        rest: whether genes outside the model were counted.

    Raises:
        UserError: features are missing from images that a convolution decodes.
    """
    part = copy.deepcopy(network)
    old = network.likelihood
    if not bool(measured.all()):
        outputs = _outputs_of(old, measured)
        _keep_outputs(part, outputs)
        part.likelihood = _likelihood_of(old, measured)
    if isinstance(part.likelihood, CountLikelihood) and part.likelihood.normalised and not rest:
        _silence(part, int(measured.sum()))
    return part.eval()


def _outputs_of(likelihood: Likelihood, measured: Tensor) -> Tensor:
    """Places of the decoder outputs that the measured features need: of means, of the rest, of gates."""
    n, kept = likelihood.n_features, measured.nonzero().squeeze(1)
    parts = [kept]
    n_means = n
    if isinstance(likelihood, CountLikelihood) and likelihood.normalised:
        parts.append(torch.tensor([n], device=kept.device))
        n_means = n + 1
    if isinstance(likelihood, ZeroInflatedNegativeBinomial):
        parts.append(n_means + kept)
    return torch.cat(parts)


def _keep_outputs(part: NVAE, outputs: Tensor) -> None:
    """Leave some outputs of its decoder, in place."""
    decoder = part.decoder
    decoder.output_bias = nn.Parameter(decoder.output_bias[outputs])
    if isinstance(decoder, LinearDecoder):
        composition = decoder.composition
        for name in ("shared_weight", "class_weight", "class_bias"):
            setattr(composition, name, nn.Parameter(getattr(composition, name)[..., outputs]))
        if composition.effect is not None:
            _change_columns(composition.effect, lambda table: table[:, outputs])
    else:
        last = _last_layer(decoder)
        last.weight = nn.Parameter(last.weight[outputs])
        last.out_features = len(outputs)


def _change_columns(effect: CovariateEffect, change: Callable[[Tensor], Tensor]) -> None:
    """Change what covariates add to each output, in place."""
    effect.slope = nn.Parameter(change(effect.slope))
    for level in effect.levels:
        assert isinstance(level, LevelEffect)
        if isinstance(level.map, nn.Parameter):
            level.map = nn.Parameter(change(level.map))
        else:
            level.table = nn.Parameter(change(level.table))


def _likelihood_of(old: Likelihood, measured: Tensor) -> Likelihood:
    """The likelihood of the measured features."""
    new, n = copy.deepcopy(old), int(measured.sum())
    for name, value in [*old.named_parameters(recurse=False), *old.named_buffers(recurse=False)]:
        if value.dim() and value.shape[-1] == old.n_features:
            kept = value.detach()[..., measured]
            setattr(new, name, nn.Parameter(kept) if isinstance(value, nn.Parameter) else kept)
    new.n_features = n
    new.n_outputs = len(_outputs_of(old, measured))
    return new


def _silence(part: NVAE, rest: int) -> None:
    """Give output number `rest`, of the genes outside the model, no share of the counts, in place."""

    def without(table: Tensor) -> Tensor:
        table = table.detach().clone()
        table[..., rest] = 0
        return table

    decoder = part.decoder
    decoder.output_bias[rest] = NEVER
    if isinstance(decoder, LinearDecoder):
        composition = decoder.composition
        for name in ("shared_weight", "class_weight", "class_bias"):
            setattr(composition, name, nn.Parameter(without(getattr(composition, name))))
        if composition.effect is not None:
            _change_columns(composition.effect, without)
    else:
        _last_layer(decoder).weight[rest] = 0


def _last_layer(decoder: Decoder) -> nn.Linear:
    """Of a dense decoder.

    Raises:
        UserError: a convolution, which decodes images whole.
    """
    if not isinstance(decoder.head, DenseHead):
        raise UserError("features are missing from images, which a convolution decodes whole; allowed: all pixels")
    last = decoder.head[-1]
    assert isinstance(last, nn.Linear)
    return last
