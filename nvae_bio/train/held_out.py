"""What the validation samples say of a trained model: how sure its classifier may be, and which latents are empty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nvae_bio.config import EMPTY_NATS, ModelSettings
from nvae_bio.data.samples import Samples
from nvae_bio.model import NVAE
from nvae_bio.train.state import CHUNK


@dataclass(frozen=True)
class HeldOut:
    """Of labelled samples that a model was not trained on.

    Attributes:
        label: index of the class, (n,).
        class_log_prob: log q(y|x), (n, C).
        kl_shared: KL of z_s, nats, (n,).
        kl_own: KL of the own block, nats, (n,).
    """

    label: np.ndarray
    class_log_prob: np.ndarray
    kl_shared: np.ndarray
    kl_own: np.ndarray


@torch.no_grad()
def held_out(model: NVAE, samples: Samples, rows: Tensor) -> HeldOut:
    """Of the samples at `rows`, all labelled."""
    device, parts = model.device, []
    for chunk in samples.chunks(CHUNK, rows):
        batch = chunk.to(device)
        posterior, class_log_prob = model.infer(batch)
        own = posterior.own(model.block(batch.label))
        parts.append((batch.label, class_log_prob, posterior.shared.kl().sum(-1), own.kl().sum(-1)))
    return HeldOut(*(torch.cat(column).numpy(force=True) for column in zip(*parts, strict=True)))


def empty_latents(found: HeldOut, settings: ModelSettings) -> list[str]:
    """A line for z_s and one for the private blocks where a model has them but does not use them."""
    lines, shared = [], float(found.kl_shared.mean())
    if settings.n_shared and shared < EMPTY_NATS:
        penalty = "a smaller independence_weight, " if settings.has_penalty else ""
        lines.append(
            f"z_s is empty: {shared:.3f} nats in all its dims; what classes share may lie in their private blocks. "
            f"Try {penalty}a larger beta_private, a smaller n_private, or more epochs"
        )
    private = max(float(found.kl_own[found.label == name].mean()) for name in np.unique(found.label))
    if settings.n_private and private < EMPTY_NATS:
        lines.append(
            f"all private blocks are empty: at most {private:.3f} nats in the own block of a class; right if no class "
            "has a factor of its own. Else try a smaller beta_private, a smaller n_shared, or an independence term"
        )
    return lines
