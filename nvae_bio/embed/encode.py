"""The posterior of every sample, the bound, and what single latent dims add to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nvae_bio.data.samples import UNLABELED, Samples, make_generator
from nvae_bio.model import NVAE, DiagonalGaussian

CHUNK = 2048  # samples a pass
GAIN_DRAWS = 10  # at most, over which a gain is averaged


@dataclass(frozen=True)
class Encoded:
    """Posterior of all samples, on the CPU.

    Attributes:
        shared: q(z_s|x), mean and log std (n, S).
        private: q(z_c|x), (n, C, K).
        class_probability: q(y|x) at the model's temperature, (n, C).
        label: the sample's class, the likeliest one where it has none, (n,).
        elbo: bound on log p(x|y), nats, (n,).
        gain: what each dim of the own block adds to the bound, nats, (n, K): E_q[log p(x|y,z) − log p(x|y,z with the
            dim at 0)] − KL.
        block_gain: the same of the whole block, (n,).
    """

    shared: DiagonalGaussian
    private: DiagonalGaussian
    class_probability: Tensor
    label: Tensor
    elbo: Tensor
    gain: Tensor
    block_gain: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Tensor) -> Encoded:
        """Of some samples."""
        shared, private = (DiagonalGaussian(one.mean[rows], one.log_std[rows]) for one in (self.shared, self.private))
        rest = (self.class_probability, self.label, self.elbo, self.gain, self.block_gain)
        return Encoded(shared, private, *(column[rows] for column in rest))


Room = Callable[[tuple[int, ...], torch.dtype], Tensor]


def in_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for a column of `Encoded`."""
    return torch.empty(shape, dtype=dtype)


@torch.no_grad()
def encode(
    model: NVAE, samples: Samples, n_draws: int, seed: int, temperature: float = 1.0, room: Room = in_memory
) -> Encoded:
    """Posterior, class and bound of every sample, with its own covariates.

    Args:
        model: on any device.
        samples: any number of rows; unlabelled ones are scored under their likeliest class.
        n_draws: draws of z a sample, over which the bound is averaged, and the gains over the first `GAIN_DRAWS`.
        seed: of the draws.
        temperature: T of q(y|x).
        room: makes the tensors that are filled.
    """
    device = model.device
    generator = make_generator(device, seed)
    masks = _kept_dims(model.n_private, device)
    columns: list[Tensor] = []
    done = 0
    for chunk in samples.chunks(CHUNK):
        batch = chunk.to(device)
        posterior, class_log_prob = model.infer(batch)
        probability = F.softmax(class_log_prob / temperature, dim=-1)
        label = torch.where(batch.label == UNLABELED, probability.argmax(1), batch.label)
        block = model.block(label)
        own = posterior.own(block)
        log_likelihood, lost = torch.zeros(batch.n, device=device), torch.zeros(len(masks), batch.n, device=device)
        n_gains = min(n_draws, GAIN_DRAWS)
        for number in range(n_draws):
            noise = torch.randn(batch.n, model.n_shared + model.n_private, generator=generator, device=device)
            drawn_shared, drawn_own = model.draw(posterior, own, noise)
            outputs = model.decoder(drawn_shared, drawn_own, block, batch.covariates)
            found = model.likelihood.log_prob(outputs, batch)
            log_likelihood += found
            for row, mask in zip(lost, masks if number < n_gains else (), strict=False):
                without = model.decoder(drawn_shared, drawn_own * mask, block, batch.covariates)
                row += found - model.likelihood.log_prob(without, batch)
        kl = own.kl()
        elbo = log_likelihood / n_draws - posterior.shared.kl().sum(-1) - kl.sum(-1)
        # of one dim the block is the dim; of none, nothing is lost
        gain, block_gain = lost[: model.n_private].T / n_gains - kl, lost[-1:].sum(0) / n_gains - kl.sum(-1)
        shared, private = posterior.shared, posterior.private
        of_posterior = (shared.mean, shared.log_std, private.mean, private.log_std)
        parts = (*of_posterior, probability, label, elbo, gain, block_gain)
        columns = columns or [room((len(samples), *part.shape[1:]), part.dtype) for part in parts]
        for column, part in zip(columns, parts, strict=True):
            column[done : done + batch.n] = part.cpu()
        done += batch.n
    return Encoded(DiagonalGaussian(*columns[:2]), DiagonalGaussian(*columns[2:4]), *columns[4:])


def _kept_dims(n_private: int, device: torch.device) -> Tensor:
    """What stays of the own block when each dim, and then all of it, is set to 0: (rows, K), one row for one dim."""
    each = 1 - torch.eye(n_private, device=device)
    return each if n_private < 2 else torch.cat([each, torch.zeros(1, n_private, device=device)])


@torch.no_grad()
def shared_gain(model: NVAE, samples: Samples, rows: Tensor, n_draws: int, seed: int) -> Tensor:
    """What each dim of z_s adds to the bound of some samples, nats, (rows, S).

    E_q[log p(x|y,z) − log p(x|y,z with the dim at 0, the mean of its prior)] − KL of the dim.

    Args:
        model: on any device.
        samples: all rows.
        rows: labelled ones, (rows,).
        n_draws: draws of z a sample, at most `GAIN_DRAWS`.
        seed: of the draws.
    """
    device, n_draws = model.device, min(n_draws, GAIN_DRAWS)
    generator, parts = make_generator(device, seed, 1), [torch.zeros(0, model.n_shared)]
    for chunk in samples.chunks(CHUNK, rows.to(samples.label.device)):
        batch = chunk.to(device)
        posterior, block = model.infer(batch)[0], model.block(batch.label)
        own, lost = posterior.own(block), torch.zeros(batch.n, model.n_shared, device=device)
        for _ in range(n_draws):
            noise = torch.randn(batch.n, model.n_shared + model.n_private, generator=generator, device=device)
            shared, private = model.draw(posterior, own, noise)
            found = model.likelihood.log_prob(model.decoder(shared, private, block, batch.covariates), batch)
            for dim in range(model.n_shared):
                without = shared.clone()
                without[:, dim] = 0
                outputs = model.decoder(without, private, block, batch.covariates)
                lost[:, dim] += found - model.likelihood.log_prob(outputs, batch)
        parts.append((lost / n_draws - posterior.shared.kl()).cpu())
    return torch.cat(parts)
