"""Held-out log-likelihood by importance sampling: log p(x|y), log p(x,y) and log p(x).

Equation 6 of the paper has log q(y|x) in it, which is no log p(y): its value is no bound on log p(x, y), and models are
not compared by it. What is compared is estimated with z ~ q(z|x) as proposal,

    log p(x|y) ≈ log 1/M Σ_m p(x|y,z_m) p(z_m) / q(z_m|x)

over z_s and the block of y alone, for no other block reaches the decoder. It is a bound that is tight for large M
(Burda et al. 2016, arXiv:1509.00519). log p(x,y) = log p(x|y) + log p(y), with the share of y among training samples,
and log p(x) = log Σ_y p(x,y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nvae_bio.data.batch import Batch
from nvae_bio.data.samples import Samples, make_generator
from nvae_bio.model import NVAE, DiagonalGaussian, Posterior

CHUNK = 512  # samples a pass


@dataclass(frozen=True)
class LogLikelihood:
    """Estimates of each sample, nats.

    Attributes:
        by_class: log p(x|y) for each y, (n, C); one column where the decoder sees no class.
        log_prior: log p(y), (C,); 0 where the decoder sees no class.
        label: class of each sample, (n,).
    """

    by_class: Tensor
    log_prior: Tensor
    label: Tensor

    @property
    def _column(self) -> Tensor:
        """That of each sample's own class, (n,)."""
        return self.label if self.by_class.shape[1] > 1 else torch.zeros_like(self.label)

    @property
    def given_label(self) -> Tensor:
        """log p(x|y) at the label, (n,); log p(x) where the decoder sees no class."""
        return self.by_class.gather(1, self._column[:, None]).squeeze(1)

    @property
    def joint(self) -> Tensor:
        """log p(x, y), (n,)."""
        return self.given_label + self.log_prior[self._column]

    @property
    def marginal(self) -> Tensor:
        """log p(x), (n,)."""
        return torch.logsumexp(self.by_class + self.log_prior, dim=1)


def _log_ratio(gaussian: DiagonalGaussian, noise: Tensor) -> Tensor:
    """log p(z) − log q(z|x) of z = mean + std · noise, nats, (batch,)."""
    z = gaussian.rsample(noise)
    return (0.5 * (noise**2 - z**2) + gaussian.log_std).sum(-1)


def _weights(model: NVAE, batch: Batch, posterior: Posterior, label: Tensor, noise: Tensor) -> Tensor:
    """log p(x|y,z) + log p(z) − log q(z|x) at one draw, (batch,)."""
    block = model.block(label)
    own = posterior.own(block)
    shared_noise, own_noise = noise.split([model.n_shared, model.n_private], dim=-1)
    shared, private = posterior.shared.rsample(shared_noise), own.rsample(own_noise)
    outputs = model.decoder(shared, private, block, batch.covariates)
    ratio = _log_ratio(posterior.shared, shared_noise) + _log_ratio(own, own_noise)
    return model.likelihood.log_prob(outputs, batch) + ratio


@torch.no_grad()
def importance_weighted(
    model: NVAE, samples: Samples, rows: Tensor, log_prior: Tensor, n_draws: int, seed: int, *, all_classes: bool = True
) -> LogLikelihood:
    """log p(x|y) of some labelled samples, for their own class or for each.

    Args:
        model: on any device.
        samples: all rows.
        rows: labelled ones, (rows,).
        log_prior: log p(y), (C,).
        n_draws: M. Too few make it too low, the more the worse q(z|x) fits.
        seed: of the draws, which are the same for each class.
        all_classes: whether every class is asked, for log p(x); else the own one alone, and the other columns are NaN.
    """
    device, n_classes = model.device, model.n_classes if model.uses_label else 1
    generator, parts, labels = make_generator(device, seed, 2), [], []
    for chunk in samples.chunks(CHUNK, rows.to(samples.label.device)):
        batch = chunk.to(device)
        posterior, _ = model.infer(batch)
        asked = [batch.label] if not all_classes or n_classes == 1 else _each_class(batch.label, n_classes)
        total = torch.full((len(asked), batch.n), -math.inf, device=device)
        for _ in range(n_draws):
            noise = torch.randn(batch.n, model.n_shared + model.n_private, generator=generator, device=device)
            found = torch.stack([_weights(model, batch, posterior, label, noise) for label in asked])
            total = torch.logaddexp(total, found)
        total = total - math.log(n_draws)
        by_class = torch.full((batch.n, n_classes), math.nan, device=device)
        if len(asked) == n_classes:
            by_class = total.T
        else:
            by_class.scatter_(1, batch.label[:, None], total[0][:, None])
        parts.append(by_class.cpu())
        labels.append(batch.label.cpu())
    return LogLikelihood(torch.cat(parts), log_prior.cpu() if n_classes > 1 else torch.zeros(1), torch.cat(labels))


def _each_class(label: Tensor, n_classes: int) -> list[Tensor]:
    return [torch.full_like(label, y) for y in range(n_classes)]
