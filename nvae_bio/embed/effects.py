"""What each factor does to each feature: decoded, for samples of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nvae_bio.data.samples import Samples
from nvae_bio.embed.encode import Encoded
from nvae_bio.model import NVAE, DiagonalGaussian

EFFECT_SD = 2.0  # a factor is moved from −2 to +2 standard deviations of its aggregate posterior
EFFECT_LIBRARY = 10_000.0  # counts: effects are decoded at this library, the field's scale of log1p(CP10k)
Z_95 = 1.959964  # normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Effects:
    """Change of the decoded mean when one factor moves from −2 to +2 SD, with a 95 % interval of its mean.

    Attributes:
        mean: (features, factors), in the likelihood's effect unit.
        lower: lower end, (features, factors).
        upper: upper end, (features, factors).
    """

    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class DecodedEffects(NamedTuple):
    """Effects of all factors.

    Attributes:
        shared: of z_s, the mean over classes.
        by_class: of z_s in each class, by its index; classes without samples are left out.
        private: of the own block in each class, likewise.
    """

    shared: Effects
    by_class: dict[int, Effects]
    private: dict[int, Effects]


def _aggregate(posterior: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the aggregate posterior over samples: Var = Var(mean) + E(var)."""
    center = posterior.mean.mean(0)
    variance = (posterior.mean - center).square().mean(0) + (2 * posterior.log_std).exp().mean(0)
    return center, variance.sqrt()


@torch.no_grad()
def class_effects(
    model: NVAE, shared: Tensor, own: Tensor, label: Tensor, library: Tensor | None, low: Tensor, high: Tensor
) -> Tensor:
    """Effect of every factor on every feature for each sample: (samples, features, S + K)."""
    effects, n_shared = [], model.n_shared
    for factor in range(len(low)):
        moved = []
        for value in (low[factor], high[factor]):
            z = torch.cat([shared, own], dim=1)
            z[:, factor] = value
            moved.append(model.decode(z[:, :n_shared], z[:, n_shared:], label, library))
        effects.append(model.likelihood.effect(*moved))
    return torch.stack(effects, dim=-1)


def _interval(means: Tensor, variances: Tensor) -> Effects:
    """Effects from the mean over groups of their means, and the squared standard errors of these."""
    mean, half = means.mean(0), Z_95 * variances.sum(0).sqrt() / len(means)
    return Effects(mean.numpy(), (mean - half).numpy(), (mean + half).numpy())


def decoded_effects(
    model: NVAE, samples: Samples, encoded: Encoded, n_effect_samples: int, seed: int
) -> DecodedEffects:
    """What moving a factor does to each feature, the other factors staying at the sample's posterior mean.

    Shared factors move by the SD of all samples and are averaged over classes with equal weight; private ones move by
    the SD of their own class. The interval is that of a mean over samples, for one trained model: it knows nothing of
    how the model would differ with other data or seeds. All is decoded at the average of the covariates, so that an
    effect is not one batch's.

    Args:
        model: on the CPU.
        samples: all rows, on the CPU.
        encoded: their posterior.
        n_effect_samples: samples a class, at most.
        seed: of their choice.
    """
    rng = np.random.default_rng(seed)
    center, spread = _aggregate(encoded.shared)
    shared_means, shared_variances, n_shared = [], [], model.n_shared
    by_class, private = {}, {}
    for index in range(encoded.class_probability.shape[1]):
        rows = (samples.label == index).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        own = DiagonalGaussian(*(part[rows, index if model.uses_label else 0] for part in _moments(encoded.private)))
        own_center, own_spread = _aggregate(own)
        middle, step = torch.cat([center, own_center]), EFFECT_SD * torch.cat([spread, own_spread])
        chosen = torch.from_numpy(np.sort(rng.permutation(len(rows))[:n_effect_samples]))
        picked = rows[chosen]
        library = None if samples.library is None else torch.full((len(picked),), EFFECT_LIBRARY)
        effects = class_effects(
            model, encoded.shared.mean[picked], own.mean[chosen], samples.label[picked], library,
            middle - step, middle + step,
        )  # fmt: skip
        mean, error = effects.mean(0), effects.var(0, correction=0) / len(picked)
        shared_means.append(mean[:, :n_shared])
        shared_variances.append(error[:, :n_shared])
        by_class[index] = _interval(mean[None, :, :n_shared], error[None, :, :n_shared])
        private[index] = _interval(mean[None, :, n_shared:], error[None, :, n_shared:])
    return DecodedEffects(_interval(torch.stack(shared_means), torch.stack(shared_variances)), by_class, private)


def _moments(gaussian: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    return gaussian.mean, gaussian.log_std
