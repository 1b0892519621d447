"""What each sample would be as another class, with another class's block, or as two cells in one drop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nvae_bio.audit.fit import Fitted, Reading, fit_bound, matched_draws
from nvae_bio.data.batch import Batch
from nvae_bio.data.samples import UNLABELED, Samples
from nvae_bio.model import NVAE, DiagonalGaussian
from nvae_bio.model.likelihoods import CountLikelihood, Likelihood

LOOK_CHUNK = 2048  # samples a pass of the first look
FIT_NUMBERS = 2**21  # decoder outputs a pass of the fit: all rows together
SHARES = (0.3, 0.5, 0.7)  # of the first class in a doublet


@dataclass(frozen=True)
class FirstLook:
    """What can be seen of every sample without a fit.

    Attributes:
        own: class of the sample, the likeliest one where it has none, (n,).
        shared: q(z_s|x) of the encoder, mean and log std (n, S).
        class_probability: q(y|x) at the model's temperature, (n, C).
        log_joint: log p(x|y, z_s at its mean, block at 0) + log p(y), nats, (n, C).
        score: how much each block would help the own class's intercept: sum over its dims of g² / (1 + mean of g²),
            with g the derivative of log p(x) by the dim at 0, and the mean over all samples, (n, C); 0 where K = 0.
    """

    own: Tensor
    shared: DiagonalGaussian
    class_probability: Tensor
    log_joint: Tensor
    score: Tensor


def first_look(model: NVAE, samples: Samples, log_prior: Tensor, temperature: float) -> FirstLook:
    """Every sample under every class, one pass each.

    Args:
        model: with parameters that need no gradient.
        samples: any number of rows.
        log_prior: log p(y), (C,).
        temperature: T of q(y|x).
    """
    parts = []
    for batch in samples.chunks(LOOK_CHUNK):
        posterior, class_log_prob = model.infer(batch)
        probability = F.softmax(class_log_prob / temperature, dim=-1)
        own = torch.where(batch.label == UNLABELED, probability.argmax(1), batch.label)
        mean, zero = posterior.shared.mean, batch.x.new_zeros(batch.n, model.n_private)
        by_class = [
            model.likelihood.log_prob(model.decoder(mean, zero, torch.full_like(own, y), batch.covariates), batch)
            for y in range(model.n_classes)
        ]
        log_joint = torch.stack(by_class, dim=1) + log_prior
        slope = _slopes(model, batch, mean, own)
        parts.append((own, *posterior.shared, probability, log_joint, slope))
    own, mean, log_std, probability, log_joint, slope = (torch.cat(part) for part in zip(*parts, strict=True))
    squared = slope.square()
    score = (squared / (1 + squared.mean(0))).sum(2)
    return FirstLook(own, DiagonalGaussian(mean, log_std), probability, log_joint, score)


def _slopes(model: NVAE, batch: Batch, shared: Tensor, own: Tensor) -> Tensor:
    """Derivative of log p(x) by each dim of each block, at the own class's intercept and 0, (n, C, K)."""
    zero, composition = shared.new_zeros(batch.n, model.n_private), model.decoder.composition
    hidden = composition(shared, zero, own, batch.covariates).requires_grad_()
    log_likelihood = model.likelihood.log_prob(model.decoder.outputs(hidden), batch)
    (slope,) = torch.autograd.grad(log_likelihood.sum(), hidden)
    return torch.einsum("nw,ckw->nck", slope, composition.class_weight)


def likeliest(score: Tensor, own: Tensor, n: int, first: Tensor | None = None) -> Tensor:
    """The `n` classes of the highest score but the own one, (samples, n), or all others where they are fewer.

    Args:
        score: (samples, C).
        own: (samples,).
        n: how many.
        first: a class that is among them whatever its score, where it is not the own one, (samples,).
    """
    ranked = score.clone()
    if first is not None:
        ranked.scatter_(1, first[:, None], torch.inf)
    ranked.scatter_(1, own[:, None], -torch.inf)
    return ranked.topk(min(n, score.shape[1] - 1), dim=1).indices


@dataclass(frozen=True)
class Readings:
    """What was fitted to each sample: M other classes, and the blocks of M' other classes beside the own block.

    Attributes:
        candidate: the own class, then the others it was read as, (n, 1 + M).
        class_bound: bound on log p(x|y) as each of these, nats, (n, 1 + M).
        lender: classes whose block was added to the own one, (n, M'); M' is 0 without private blocks.
        block_bound: bound with each of these, nats, (n, M').
        partner: class of the second cell of the likeliest doublet with the own class, (n,).
        doublet_gain: log p(x) as that doublet above that as one cell, of any class and with any block, all at the means
            of the fitted posteriors, nats, (n,); NaN where the data are no counts.
    """

    candidate: np.ndarray
    class_bound: np.ndarray
    lender: np.ndarray
    block_bound: np.ndarray
    partner: np.ndarray
    doublet_gain: np.ndarray


def read_samples(
    model: NVAE, samples: Samples, look: FirstLook, n_candidates: int, n_steps: int, rng: np.random.Generator
) -> Readings:
    """Fit every sample as its own class, as the likeliest others, and with the blocks that promise most.

    Args:
        model: with parameters that need no gradient.
        samples: any number of rows.
        look: of the same samples.
        n_candidates: other classes, and blocks of other classes, at most.
        n_steps: of each fit.
        rng: of the draws.
    """
    others = likeliest(look.log_joint, look.own, n_candidates, look.class_probability.argmax(1))
    candidate = torch.cat([look.own[:, None], others], dim=1)
    lender = likeliest(look.score, look.own, n_candidates if model.n_private else 0)
    own = look.own[:, None].expand_as(lender)
    blocks = torch.stack([own, lender], dim=2)
    draws, more_draws = (matched_draws(model.n_shared + n * model.n_private, rng) for n in (1, 2))
    n_numbers, parts = candidate.shape[1] * model.likelihood.n_outputs, []
    for row in torch.arange(len(samples)).split(max(FIT_NUMBERS // n_numbers, 1)):
        start = model, samples, row, look.shared, n_steps
        as_class = _fit_rows(*start, candidate[row], candidate[row][..., None], draws)
        lent = _fit_rows(*start, own[row], blocks[row], more_draws)
        doublets = _doublets(model.likelihood, samples, row, as_class.outputs, lent.outputs)
        parts.append((as_class.bound, lent.bound, *doublets))
    class_bound, block_bound, second, gain = (torch.cat(part) for part in zip(*parts, strict=True))
    partner = candidate.gather(1, second[:, None]).squeeze(1)
    return Readings(*(part.numpy() for part in (candidate, class_bound, lender, block_bound, partner, gain)))


def _fit_rows(
    model: NVAE,
    samples: Samples,
    row: Tensor,
    shared: DiagonalGaussian,
    n_steps: int,
    label: Tensor,
    blocks: Tensor,
    draws: Tensor,
) -> Fitted:
    """The samples at `row` under several readings each: `label` (rows, readings), `blocks` (rows, readings, blocks).

    Bounds come back as (rows, readings), outputs as (rows, readings, n_outputs).
    """
    n_readings = label.shape[1]
    if n_readings == 0:
        return Fitted(torch.zeros(len(row), 0), torch.zeros(len(row), 0, model.likelihood.n_outputs))
    repeated = row.repeat_interleave(n_readings)
    batch = samples.take(repeated)
    reading = Reading.of(model, batch, label.flatten(), blocks.flatten(0, 1))
    fitted = fit_bound(model, batch, shared.take(repeated), reading, draws, n_steps)
    return Fitted(fitted.bound.view(-1, n_readings), fitted.outputs.view(len(row), n_readings, -1))


def mixed_outputs(likelihood: CountLikelihood, first: Tensor, second: Tensor, share: float) -> Tensor:
    """Outputs whose rates are share · (those of `first`) + (1 − share) · (those of `second`), of any equal shape.

    Logits of extra zeros, which have no mean to be mixed, are averaged with the same weights.
    """
    n_rates = likelihood.n_features + likelihood.normalised
    (rate, gate), (other_rate, other_gate) = (part.tensor_split([n_rates], dim=-1) for part in (first, second))
    if likelihood.normalised:
        rate, other_rate = F.log_softmax(rate, dim=-1), F.log_softmax(other_rate, dim=-1)
    mixed = torch.logaddexp(rate + math.log(share), other_rate + math.log(1 - share))
    return torch.cat([mixed, share * gate + (1 - share) * other_gate], dim=-1)


def _doublets(
    likelihood: Likelihood, samples: Samples, row: Tensor, outputs: Tensor, lent: Tensor
) -> tuple[Tensor, Tensor]:
    """Which candidate makes the likeliest doublet with the own class, (rows,), and its gain, nats, (rows,).

    Args:
        likelihood: only counts have doublets; the gain of others is NaN.
        samples: all of them.
        row: which are meant, (rows,).
        outputs: as each candidate, the own class first, (rows, 1 + M, n_outputs).
        lent: with the block of each lender, (rows, M', n_outputs).
    """
    if not isinstance(likelihood, CountLikelihood):
        return torch.zeros_like(row), torch.full(row.shape, torch.nan)
    single = _scored(likelihood, samples, row, torch.cat([outputs, lent], dim=1)).amax(1)
    first, others = outputs[:, :1].expand_as(outputs[:, 1:]), outputs[:, 1:]
    pairs = [_scored(likelihood, samples, row, mixed_outputs(likelihood, first, others, share)) for share in SHARES]
    best, second = torch.stack(pairs).amax(0).max(1)
    return second + 1, best - single


def _scored(likelihood: Likelihood, samples: Samples, row: Tensor, outputs: Tensor) -> Tensor:
    """log p(x) of each of the rows by each of its outputs, nats, (rows, readings), of (rows, readings, n_outputs)."""
    n = outputs.shape[1]
    return likelihood.log_prob(outputs.flatten(0, 1), samples.take(row.repeat_interleave(n))).view(-1, n)
