"""Which variation a class has for itself, in a model without private latents: what null data must not show.

The decoder knows the class, so that a private factor may lie in a shared dim that means something else to the other
classes, and across several dims. So not dims are judged but directions: does the class change its features along one as
the other classes do along theirs?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nvae_bio.data.samples import Samples
from nvae_bio.embed import EFFECT_LIBRARY, EFFECT_SD, Encoded, class_effects
from nvae_bio.factors.usage import INFORMED
from nvae_bio.model import NVAE, DiagonalGaussian

N_EFFECT_SAMPLES = 30  # of a class, over which its effects are averaged
OWN_SHARE = 0.5  # share of a direction's squared effect outside the others' spans from which on it is the class's own


@dataclass(frozen=True)
class Held:
    """A linear map of z_s in each class, which leaves a part of its variation about the class mean.

    Attributes:
        center: mean of the posterior means of the class, (C, S).
        kept: z − center becomes kept (z − center), (C, S, S).
    """

    center: Tensor
    kept: Tensor

    def apply(self, z: Tensor, label: Tensor) -> Tensor:
        """z_s of each sample, (n, S), without what is held."""
        center = self.center[label]
        return center + torch.einsum("nij,nj->ni", self.kept[label], z - center)


@dataclass(frozen=True)
class ClassVariation:
    """z_s within a class, whitened: z = center + root ξ, where ξ has unit variance over the class's samples and draws.

    Attributes:
        center: mean of the posterior means, (S,).
        root: symmetric root of the covariance of draws z_s, (S, S).
        informed: orthonormal directions of ξ of which the posterior means have a share, (S, directions).
    """

    center: Tensor
    root: Tensor
    informed: Tensor

    @classmethod
    def of(cls, posterior: DiagonalGaussian) -> ClassVariation:
        """Of the samples of one class, (n, S)."""
        center = posterior.mean.mean(0)
        deviation = (posterior.mean - center).double()
        of_means = deviation.T @ deviation / len(deviation)
        size, axes = torch.linalg.eigh(of_means + (2 * posterior.log_std.double()).exp().mean(0).diag())
        root, inverse = (axes * size.sqrt()) @ axes.T, (axes / size.sqrt()) @ axes.T
        share, directions = torch.linalg.eigh(inverse @ of_means @ inverse)
        return cls(center, root, directions[:, share >= INFORMED])


def common_projections(effects: Sequence[np.ndarray], informed: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each class the projection of ξ onto what it has in common with the others, (S, S).

    Of the effect EᵀE of a class, N = Eᵀ(I − P̄)E lies outside those of the others: P̄ is the mean over them of the
    projections onto the spans of what their informed directions do. An eigenvector of N is held where that is half of
    its effect or more. So is a factor that a minority of the classes has; one that all have, each with some changes of
    its own, is kept.

    Args:
        effects: of one unit of each dim of ξ in each class, E, (G, S).
        informed: as in `ClassVariation`.
    """
    spans = [np.linalg.qr(effect @ axes)[0] for effect, axes in zip(effects, informed, strict=True)]
    kept = []
    for y, effect in enumerate(effects):
        whole = effect.T @ effect
        inside = [span.T @ effect for other, span in enumerate(spans) if other != y] or [effect]
        own, directions = np.linalg.eigh(whole - np.mean([part.T @ part for part in inside], axis=0))
        size = np.square(effect @ directions).sum(0)
        held = directions[:, (own >= OWN_SHARE * size) & (size > 0)]
        kept.append(np.eye(len(whole)) - held @ held.T)
    return kept


def _effect(model: NVAE, mean: Tensor, label: int, variation: ClassVariation, library: float | None) -> np.ndarray:
    """Effect of one unit of each dim of ξ in a class, (G, S): the mean over some of its samples."""
    step = EFFECT_SD * variation.root.square().sum(0).sqrt().float()
    picked = mean[torch.linspace(0, len(mean) - 1, min(N_EFFECT_SAMPLES, len(mean))).long()]
    effects = class_effects(
        model, picked, picked[:, :0], torch.full((len(picked),), label),
        None if library is None else torch.full((len(picked),), library),
        variation.center - step, variation.center + step,
    )  # fmt: skip
    return np.asarray((effects.mean(0) / (2 * step)).double() @ variation.root)


def hold_private(model: NVAE, samples: Samples, encoded: Encoded) -> Held:
    """Holds the variation that a class has for itself.

    Args:
        model: without private latents, on the CPU.
        samples: all rows.
        encoded: their posterior; every class has a sample.
    """
    library = None if samples.library is None else EFFECT_LIBRARY
    variations, effects = [], []
    for label in range(model.n_classes):
        posterior = encoded.shared.take((encoded.label == label).nonzero().squeeze(1))
        variations.append(ClassVariation.of(posterior))
        effects.append(_effect(model, posterior.mean, label, variations[-1], library))
    common = common_projections(effects, [one.informed.numpy() for one in variations])
    kept = [
        one.root @ torch.from_numpy(projection) @ torch.linalg.inv(one.root)
        for one, projection in zip(variations, common, strict=True)
    ]
    return Held(torch.stack([one.center for one in variations]), torch.stack(kept).float())


def hold_all(encoded: Encoded) -> Held:
    """Holds all variation within the classes, of which each has a sample."""
    n_classes = encoded.class_probability.shape[1]
    center = torch.stack([encoded.shared.mean[encoded.label == label].mean(0) for label in range(n_classes)])
    return Held(center, torch.zeros(n_classes, center.shape[1], center.shape[1]))
