"""Log-likelihoods of whole samples with analytic gradients: the inner loop of training.

Each kernel is an `autograd.Function` from decoder outputs of shape (…, batch, outputs) to (…, batch) nats. The forward
pass computes value and gradient together, and the backward pass only weighs them: it can be taken once. All is done in
float32 (float64 where the outputs are), whatever autocast says outside. Another likelihood follows the same form.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nvae_bio.data.batch import CountLadder, Counts, Entries
from nvae_bio.model import fused


def in_full_precision(outputs: Tensor) -> Tensor:
    """The outputs in float32 where they are shorter, or as they are."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _is_fused(number: Tensor) -> bool:
    return number.device.type == "cpu" and number.dtype == torch.float32


def log1p_scaled(x: Tensor, scale: Tensor) -> Tensor:
    """log(1 + x · scale) of counts x (…, features) and a scale for each sample (…,), without a gradient."""
    if not _is_fused(x):
        return torch.log1p(x * scale[..., None])
    return fused.log1p_scaled(x.reshape(-1, x.shape[-1]), scale.reshape(-1)).view_as(x)


# --- negative binomial -----------------------------------------------------------------------------------------------


def climb(ladder: CountLadder, log_dispersion: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Σ_{j<x} log(1 + j/θ) at every place of the ladder, and its derivative by log θ, −Σ_{j<x} j/(θ+j).

    The sum is log Γ(x+θ) − log Γ(θ) − x log θ without a gamma function, and without cancellation at any θ.

    Args:
        ladder: steps of each feature.
        log_dispersion: log θ, (groups, features).
        with_gradient: whether the derivative is wanted.

    Returns:
        Two tensors of (groups, steps); the second is None if not wanted.
    """
    if _is_fused(log_dispersion):
        return fused.climb(ladder.start, ladder.step, log_dispersion.exp(), with_gradient=with_gradient)
    dispersion = log_dispersion.exp()[:, ladder.feature]
    step, place = ladder.step.to(dispersion.dtype), ladder.step.long()
    shape = (len(dispersion), len(ladder.start), ladder.width)
    below = torch.ones(ladder.width, ladder.width, dtype=torch.float64, device=step.device).triu(1)

    def sums(increment: Tensor) -> Tensor:
        """Sum of the increments of the lower steps of the same feature: a product, which every device repeats."""
        table = torch.zeros(shape, dtype=torch.float64, device=step.device)
        table[:, ladder.feature, place] = increment.double()
        return (table @ below)[:, ladder.feature, place].to(increment.dtype)

    return sums(torch.log1p(step / dispersion)), sums(-step / (dispersion + step)) if with_gradient else None


def _negative_binomial(
    logits: Tensor,
    log_library: Tensor,
    x: Tensor,
    place: Tensor,
    dispersion: Tensor,
    rising: Tensor,
    by_rising: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """log NB + log x! of each row, and its gradients by logits and by log θ of each entry.

    With rate p = softmax(logits), μ = library · p, t = μ/θ and r = t/(1+t):
    log NB = Σ x log μ − (θ+x) log(1+t) + Σ_{j<x} log(1+j/θ) − log x!,  d/dlog μ = x − (θ+x) r,
    d/dlog θ = (θ+x) r − θ log(1+t) − Σ_{j<x} j/(θ+j).

    Args:
        logits: (n, features + 1).
        log_library: (n,).
        x: (n, features).
        place: of each count among all steps of all groups, (n, features).
        dispersion: θ of each row, (n or 1, features).
        rising: Σ_{j<x} log(1+j/θ) of each step, (all steps,).
        by_rising: its derivative by log θ; None where no gradients are wanted.
    """
    log_norm = logits.logsumexp(-1, keepdim=True)
    log_mean = logits[:, :-1] + (log_library[:, None] - log_norm)
    t = log_mean.exp() / dispersion
    log1p_t, total = torch.log1p(t), x + dispersion
    value = (x * log_mean - total * log1p_t + rising[place]).sum(-1)
    if by_rising is None:
        return value, None, None
    pulled = total * (t / (1 + t))
    by_log_mean = x - pulled
    by_logits = -(logits - log_norm).exp() * by_log_mean.sum(-1, keepdim=True)
    by_logits[:, :-1] += by_log_mean
    return value, by_logits, by_rising[place] + pulled - dispersion * log1p_t


class _NegativeBinomial(torch.autograd.Function):
    """logits (n, features + 1), log θ (groups, features), and the group of each row, (n,)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, log_dispersion: Tensor, x: Tensor, counts: Counts, log_library: Tensor, group: Tensor
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        tables = climb(counts.ladder, log_dispersion, with_gradient=wanted)
        dispersion, start = log_dispersion.exp(), counts.ladder.start
        if _is_fused(logits):
            found = fused.negative_binomial(logits, log_library, x, counts.step, start, group, dispersion, *tables)
        else:
            place = counts.step + start + group[:, None] * tables[0].shape[1]
            rising, by_rising = tables
            by_rising = None if by_rising is None else by_rising.view(-1)
            found = _negative_binomial(logits, log_library, x, place, dispersion[group], rising.view(-1), by_rising)
        value, by_logits, by_dispersion = found
        value = (value - counts.log_factorial).to(logits.dtype)
        if len(counts.listed.row):
            log_theta = log_dispersion[group[counts.listed.row], counts.listed.column].double()
            _add_listed(value, by_dispersion, counts.listed, log_theta)
        ctx.save_for_backward(by_logits, by_dispersion, group)
        ctx.n_groups = len(log_dispersion)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        by_logits, by_dispersion, group = ctx.saved_tensors
        weighed = by_dispersion.mul_(gradient[:, None])
        if ctx.n_groups == 1:
            by_group = weighed.sum(0, keepdim=True)
        else:
            by_group = weighed.new_zeros(ctx.n_groups, weighed.shape[1]).index_add_(0, group, weighed)
        return by_logits.mul_(gradient[:, None]), by_group, None, None, None, None


def _add_listed(value: Tensor, by_dispersion: Tensor | None, listed: Entries, log_theta: Tensor) -> None:
    """Add the sum over each listed count, and its derivative: by gamma functions, in float64 as its `log_theta` is."""
    x, theta = listed.value.double(), log_theta.exp()
    rising = torch.lgamma(x + theta) - torch.lgamma(theta) - x * log_theta
    value.index_add_(0, listed.row, rising.to(value.dtype))
    if by_dispersion is not None:
        by_rising = theta * (torch.digamma(x + theta) - torch.digamma(theta)) - x
        by_dispersion[listed.row, listed.column] += by_rising.to(value.dtype)


def negative_binomial_log_prob(
    logits: Tensor, log_dispersion: Tensor, x: Tensor, counts: Counts, log_library: Tensor, group: Tensor | None = None
) -> Tensor:
    """log NB(x; mean library · softmax(logits), dispersion θ) of each sample, in nats; Var = μ + μ²/θ.

    log Γ(x+θ) − log Γ(θ) is Σ_{j<x} log(θ+j) for a count: it is tabulated for each feature and looked up, so that no
    gamma function is computed over batch × features; the few listed counts use one.

    Args:
        logits: (…, batch, features + 1); the last one stands for all features outside the model.
        log_dispersion: log θ, (…, features), or (…, groups, features) where `group` is given.
        x: counts, (…, batch, features).
        counts: where they lie on the ladder.
        log_library: log of all counts of each sample, (…, batch).
        group: which θ each sample has (that of its batch, say), (…, batch).

    Returns:
        (…, batch), in float32, or in float64 where the logits are.
    """
    logits = in_full_precision(logits)
    shape, n_features = logits.shape[:-1], x.shape[-1]
    if group is None:
        group, log_dispersion = torch.zeros(shape, dtype=torch.int64, device=x.device), log_dispersion[..., None, :]
    n_leading, n_groups = shape[:-1].numel(), log_dispersion.shape[-2]
    group = group + n_groups * torch.arange(n_leading, device=x.device).view(*shape[:-1], 1)
    step, log_factorial = counts.step.reshape(-1, n_features), counts.log_factorial.reshape(-1)
    counts = Counts(step, counts.ladder, log_factorial, counts.listed)
    with torch.autocast(logits.device.type, enabled=False):
        value: Tensor = _NegativeBinomial.apply(
            logits.reshape(-1, n_features + 1), log_dispersion.to(logits.dtype).reshape(-1, n_features),
            x.to(logits.dtype).reshape(-1, n_features), counts, log_library.to(logits.dtype).reshape(-1),
            group.reshape(-1),
        )  # type: ignore[no-untyped-call]  # fmt: skip
    return value.view(shape)


# --- Bernoulli -------------------------------------------------------------------------------------------------------


class _Bernoulli(torch.autograd.Function):
    """logits and x, (n, features)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        tail = logits.abs().neg_().exp_().log1p_()  # what softplus(logits) has above max(logits, 0)
        value = (logits * x).sub_(logits.clamp_min(0)).sub_(tail).sum(-1)
        ctx.save_for_backward(x - logits.sigmoid() if ctx.needs_input_grad[0] else None)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (by_logits,) = ctx.saved_tensors
        return by_logits.mul_(gradient[:, None]), None


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """Σ x log p + (1−x) log(1−p) of each sample, p = sigmoid(logits), in nats; a cross-entropy for 0 < x < 1.

    Args:
        logits: (…, batch, features).
        x: in [0, 1], of the same shape.

    Returns:
        (…, batch), in float32, or in float64 where the logits are.
    """
    logits = in_full_precision(logits)
    with torch.autocast(logits.device.type, enabled=False):
        value: Tensor = _Bernoulli.apply(  # type: ignore[no-untyped-call]
            logits.reshape(-1, logits.shape[-1]), x.to(logits.dtype).reshape(-1, x.shape[-1])
        )
    return value.view(logits.shape[:-1])


# --- Gaussian --------------------------------------------------------------------------------------------------------


def gaussian_log_prob(mean: Tensor, log_std: Tensor, x: Tensor) -> Tensor:
    """log N(x; mean, std²) of each sample, in nats; three products need no kernel of their own.

    Args:
        mean: (…, batch, features).
        log_std: broadcastable to `mean`.
        x: of the same shape as `mean`.

    Returns:
        (…, batch).
    """
    standard = (x - mean) * (-log_std).exp()
    return (-0.5 * standard.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
