"""Private dims of a network decoder, shifted and scaled to the prior's moments.

Moving a latent dim by m and scaling it by s changes nothing that is decoded if the decoder's first layer takes it back,
z = m + s z'. The KL of a dim, averaged over samples, is ½(E[μ² + σ²] − 1) − E[log σ]; of all such changes it is least
where the aggregate posterior has mean 0 and variance 1, the prior's moments, and falls by ½(m² + s² − 1) − log s ≥ 0
nats. Training does not get there by itself where it also pays for blocks of other classes (eq. 7 of arXiv:1901.09415 as
written), whose posterior the same weights make; that part of the KL, which no decoder sees, grows a little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvae_bio.model.decoders import Decoder
from nvae_bio.model.nvae import NVAE


def is_free_to_scale(model: NVAE) -> bool:
    """Whether the scale of private dims is anyone's: a linear decoder's loadings settle it."""
    return model.n_private > 0 and isinstance(model.decoder, Decoder)


@torch.no_grad()
def move_private(model: NVAE, mean: Tensor, std: Tensor) -> None:
    """Make (z − mean) / std of each private dim the dim itself; weights change in place.

    What is decoded of any sample under any class stays the same but for rounding, as long as no log σ is at a bound.

    Args:
        model: with a network decoder.
        mean: of each dim, (blocks, K), float64.
        std: the same, above 0.
    """
    composition, moments = model.decoder.composition, model.encoder.moments
    weight = composition.class_weight.double()
    composition.class_bias.add_((mean[:, :, None] * weight).sum(1))
    composition.class_weight.copy_(weight * std[:, :, None])
    n_latent = len(moments.weight) // 2
    of_mean, of_log_std = slice(model.n_shared, n_latent), slice(n_latent + model.n_shared, None)
    mean, std = mean.flatten(), std.flatten()
    moments.weight[of_mean] = moments.weight[of_mean] / std[:, None]
    moments.bias[of_mean] = (moments.bias[of_mean] - mean) / std
    moments.bias[of_log_std] -= std.log()
