"""A posterior fitted to single samples, the decoder frozen: what each would be as another class.

The encoder cannot tell it: its block of a class was trained on samples of that class, and towards the prior on all
others, so that another class's block would always lose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nvae_bio.data.batch import Batch
from nvae_bio.model import NVAE, DiagonalGaussian

STEP_SIZE = 0.5  # of Adam at the first step; it falls along half a cosine, and a mean can move by 12 in 50 steps
BETAS = (0.7, 0.9)  # of Adam: moments that follow within a few steps


@dataclass(frozen=True)
class Reading:
    """As what samples are decoded: with the intercept of one class, and the loadings of its block and of others'.

    Attributes:
        base: hidden units at z = 0, (rows, width).
        loadings: of all blocks, (rows, blocks · K, width).
    """

    base: Tensor
    loadings: Tensor

    @classmethod
    def of(cls, model: NVAE, batch: Batch, label: Tensor, blocks: Tensor) -> Reading:
        """With the intercept of class `label` (rows,), the blocks of `blocks` (rows, blocks) and a row's covariates."""
        composition = model.decoder.composition
        shared, own = (batch.x.new_zeros(batch.n, n) for n in (model.n_shared, model.n_private))
        loadings = composition.class_weight[blocks].flatten(1, 2)
        return cls(composition(shared, own, label, batch.covariates), loadings)

    def outputs(self, model: NVAE, shared: Tensor, private: Tensor) -> Tensor:
        """Decoder outputs, (rows, n_outputs), from z_s (rows, S) and all blocks (rows, blocks · K)."""
        hidden = torch.addmm(self.base, shared, model.decoder.composition.shared_weight)
        return model.decoder.outputs(torch.baddbmm(hidden[:, None], private[:, None], self.loadings).squeeze(1))


@dataclass(frozen=True)
class Fitted:
    """Outcome of a fit.

    Attributes:
        bound: on log p(x) under the reading, nats, (rows,).
        outputs: of the decoder at the mean of q, (rows, n_outputs).
    """

    bound: Tensor
    outputs: Tensor


def matched_draws(n_dims: int, rng: np.random.Generator) -> Tensor:
    """2·D draws that have the moments of N(0, I) exactly, up to the third: D orthogonal directions, forth and back.

    The mean over them of any function that is quadratic in z has no error at all, and that of a smooth one little. All
    samples have the same draws, so that their order does not matter and readings differ by no noise of their own.

    Args:
        n_dims: D, at least 1.
        rng: turns the directions at random.

    Returns:
        (2·D, D); a draw at an odd place is minus the one before it.

    Reference: Julier & Uhlmann (2004), the sigma points of doi:10.1109/JPROC.2003.823141, turned at random.
    """
    axes, _ = np.linalg.qr(rng.normal(size=(n_dims, n_dims)))
    forth = torch.from_numpy(math.sqrt(n_dims) * axes.astype(np.float32))
    return torch.stack([forth, -forth], dim=1).flatten(0, 1)


def fit_bound(
    model: NVAE, batch: Batch, start: DiagonalGaussian, reading: Reading, draws: Tensor, n_steps: int
) -> Fitted:
    """Fit a diagonal Gaussian q(z_s, blocks) to each row: maximise E_q log p(x|z) − KL(q ‖ N(0, I)) by Adam.

    Each step takes one of `draws` in turn, the bound at the end all of them. Rows do not touch each other.

    Args:
        model: with parameters that need no gradient.
        batch: the sample of each row.
        start: q(z_s) of each row to begin with, (rows, S); blocks begin at their prior.
        reading: what each row is decoded as.
        draws: from `matched_draws`, for z_s and all blocks.
        n_steps: of Adam.
    """
    dims = [start.mean.shape[1], reading.loadings.shape[1]]
    prior = start.mean.new_zeros(batch.n, dims[1])
    parts = [torch.cat([part, prior], dim=1).requires_grad_() for part in start]
    posterior = DiagonalGaussian(*parts)

    def bound(noises: Tensor) -> Tensor:
        drawn = (posterior.rsample(noise).split(dims, dim=1) for noise in noises)
        log_likelihood = [model.likelihood.log_prob(reading.outputs(model, *z), batch) for z in drawn]
        return torch.stack(log_likelihood).mean(0) - posterior.kl().sum(1)

    optimizer = torch.optim.Adam(parts, lr=STEP_SIZE, betas=BETAS)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = STEP_SIZE * (1 + math.cos(math.pi * step / n_steps)) / 2
        optimizer.zero_grad()
        (-bound(draws[step % len(draws), None])).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return Fitted(bound(draws), reading.outputs(model, *posterior.mean.split(dims, dim=1)))
