"""Log-likelihoods of counts, whole samples at a time, with analytic gradients: the inner loop of training.

Each kernel is an `autograd.Function` from decoder outputs of shape (…, batch, outputs) to (…, batch) nats. The forward
pass computes value and gradient together, and the backward pass only weighs them: it can be taken once. All is done in
float32 (float64 where the outputs are), whatever autocast says outside. Another likelihood follows the same form.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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


def _log_means(logits: Tensor, log_library: Tensor, normalised: bool) -> tuple[Tensor, Tensor | None]:
    """log μ (n, features), and log Σ exp of the logits (n, 1), None unless normalised."""
    if not normalised:
        return logits + log_library[:, None], None
    log_norm = logits.logsumexp(-1, keepdim=True)
    return logits[:, :-1] + (log_library[:, None] - log_norm), log_norm


def _through_rates(logits: Tensor, log_norm: Tensor | None, by_log_mean: Tensor) -> Tensor:
    """Gradient by the logits from that by log μ."""
    if log_norm is None:
        return by_log_mean
    by_logits = -(logits - log_norm).exp() * by_log_mean.sum(-1, keepdim=True)
    by_logits[:, :-1] += by_log_mean
    return by_logits


def _negative_binomial(
    outputs: Tensor,
    normalised: bool,
    log_library: Tensor,
    x: Tensor,
    place: Tensor,
    dispersion: Tensor,
    rising: Tensor,
    by_rising: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """log p(x) + log x! of each row, and its gradients by outputs and by log θ of each entry.

    With t = μ/θ and r = t/(1+t):
    log NB = Σ x log μ − (θ+x) log(1+t) + Σ_{j<x} log(1+j/θ) − log x!,  d/dlog μ = x − (θ+x) r,
    d/dlog θ = (θ+x) r − θ log(1+t) − Σ_{j<x} j/(θ+j).
    With zero inflation, π = sigmoid(gate): log p(x) = log NB(x) − log(1+e^gate) of x > 0, and
    log p(0) = log(e^gate + NB(0)) − log(1+e^gate), of which NB has the share NB(0) / (e^gate + NB(0)).

    Args:
        outputs: (n, n_outputs), see `negative_binomial_log_prob`.
        normalised: whether means are a softmax of the outputs.
        log_library: (n,).
        x: (n, features).
        place: of each count among all steps of all groups, (n, features).
        dispersion: θ of each row, (n or 1, features).
        rising: Σ_{j<x} log(1+j/θ) of each step, (all steps,).
        by_rising: its derivative by log θ; None where no gradients are wanted.
    """
    logits, gate = outputs.tensor_split([x.shape[1] + normalised], dim=1)
    inflated, is_zero = gate.shape[1] > 0, x == 0
    log_mean, log_norm = _log_means(logits, log_library, normalised)
    t = log_mean.exp() / dispersion
    log1p_t, total = torch.log1p(t), x + dispersion
    absent = -dispersion * log1p_t
    terms = x * log_mean - total * log1p_t + rising[place]
    if inflated:
        terms = torch.where(is_zero, torch.logaddexp(gate, absent), terms) + F.logsigmoid(-gate)
    value = terms.sum(-1)
    if by_rising is None:
        return value, None, None
    pulled = total * (t / (1 + t))
    by_log_mean, by_dispersion = x - pulled, by_rising[place] + pulled + absent
    if not inflated:
        return value, _through_rates(logits, log_norm, by_log_mean), by_dispersion
    own = torch.where(is_zero, (absent - gate).sigmoid(), 1)
    by_gate = (1 - own) - gate.sigmoid()
    by_logits = _through_rates(logits, log_norm, own * by_log_mean)
    return value, torch.cat([by_logits, by_gate], dim=1), own * by_dispersion


class _NegativeBinomial(torch.autograd.Function):
    """outputs (n, n_outputs), log θ (groups, features), and the group of each row, (n,)."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: Tensor,
        log_dispersion: Tensor,
        x: Tensor,
        counts: Counts,
        log_library: Tensor,
        group: Tensor,
        normalised: bool,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        tables = climb(counts.ladder, log_dispersion, with_gradient=wanted)
        dispersion, start = log_dispersion.exp(), counts.ladder.start
        if _is_fused(outputs):
            known = (outputs, normalised, log_library, x)
            found = fused.negative_binomial(*known, counts.step, start, group, dispersion, *tables)
        else:
            place = counts.step + start + group[:, None] * tables[0].shape[1]
            rising, by_rising = tables
            by_rising = None if by_rising is None else by_rising.view(-1)
            known = (outputs, normalised, log_library, x)
            found = _negative_binomial(*known, place, dispersion[group], rising.view(-1), by_rising)
        value, by_outputs, by_dispersion = found
        value = (value - counts.log_factorial).to(outputs.dtype)
        if len(counts.listed.row):
            log_theta = log_dispersion[group[counts.listed.row], counts.listed.column].double()
            _add_listed(value, by_dispersion, counts.listed, log_theta)
        ctx.save_for_backward(by_outputs, by_dispersion, group)
        ctx.n_groups = len(log_dispersion)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        by_outputs, by_dispersion, group = ctx.saved_tensors
        weighed = by_dispersion.mul_(gradient[:, None])
        if ctx.n_groups == 1:
            by_group = weighed.sum(0, keepdim=True)
        else:
            by_group = weighed.new_zeros(ctx.n_groups, weighed.shape[1]).index_add_(0, group, weighed)
        return by_outputs.mul_(gradient[:, None]), by_group, None, None, None, None, None


def _add_listed(value: Tensor, by_dispersion: Tensor | None, listed: Entries, log_theta: Tensor) -> None:
    """Add the sum over each listed count, and its derivative: by gamma functions, in float64 as its `log_theta` is."""
    x, theta = listed.value.double(), log_theta.exp()
    rising = torch.lgamma(x + theta) - torch.lgamma(theta) - x * log_theta
    value.index_add_(0, listed.row, rising.to(value.dtype))
    if by_dispersion is not None:
        by_rising = theta * (torch.digamma(x + theta) - torch.digamma(theta)) - x
        by_dispersion[listed.row, listed.column] += by_rising.to(value.dtype)


def negative_binomial_log_prob(
    outputs: Tensor,
    log_dispersion: Tensor,
    x: Tensor,
    counts: Counts,
    log_library: Tensor,
    group: Tensor | None = None,
    *,
    normalised: bool = True,
) -> Tensor:
    """log NB(x; mean μ, dispersion θ) of each sample, in nats, Var = μ + μ²/θ; zero-inflated with outputs for it.

    μ = library · softmax(outputs) of `features` + 1 outputs, the last one for all features outside the model; or, not
    `normalised`, μ = library · exp(outputs) of `features` outputs. `features` more are the logits of π, the share of
    zeros that are none of the negative binomial: p(x) = π [x = 0] + (1−π) NB(x).

    log Γ(x+θ) − log Γ(θ) is Σ_{j<x} log(θ+j) for a count: it is tabulated for each feature and looked up, so that no
    gamma function is computed over batch × features; the few listed counts use one.

    Args:
        outputs: (…, batch, n_outputs).
        log_dispersion: log θ, (…, features), or (…, groups, features) where `group` is given.
        x: counts, (…, batch, features).
        counts: where they lie on the ladder.
        log_library: log of all counts of each sample, or of its size factor, (…, batch).
        group: which θ each sample has (that of its batch, say), (…, batch).
        normalised: whether rates are a softmax.

    Returns:
        (…, batch), in float32, or in float64 where the outputs are.
    """
    outputs = in_full_precision(outputs)
    shape, n_features = outputs.shape[:-1], x.shape[-1]
    if group is None:
        group, log_dispersion = torch.zeros(shape, dtype=torch.int64, device=x.device), log_dispersion[..., None, :]
    n_leading, n_groups = shape[:-1].numel(), log_dispersion.shape[-2]
    group = group + n_groups * torch.arange(n_leading, device=x.device).view(*shape[:-1], 1)
    step, log_factorial = counts.step.reshape(-1, n_features), counts.log_factorial.reshape(-1)
    counts = Counts(step, counts.ladder, log_factorial, counts.listed)
    with torch.autocast(outputs.device.type, enabled=False):
        value: Tensor = _NegativeBinomial.apply(
            outputs.reshape(-1, outputs.shape[-1]), log_dispersion.to(outputs.dtype).reshape(-1, n_features),
            x.to(outputs.dtype).reshape(-1, n_features), counts, log_library.to(outputs.dtype).reshape(-1),
            group.reshape(-1), normalised,
        )  # type: ignore[no-untyped-call]  # fmt: skip
    return value.view(shape)


# --- Poisson ---------------------------------------------------------------------------------------------------------


class _Poisson(torch.autograd.Function):
    """logits (n, features + 1), or (n, features) if not normalised; x (n, features); log x! and log library (n,)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, x: Tensor, log_factorial: Tensor, log_library: Tensor, normalised: bool
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        if _is_fused(logits):
            value, by_logits = fused.poisson(logits, normalised, log_library, x, with_gradient=wanted)
        else:
            log_mean, log_norm = _log_means(logits, log_library, normalised)
            mean = log_mean.exp()
            value = (x * log_mean - mean).sum(-1)
            by_logits = _through_rates(logits, log_norm, x - mean) if wanted else None
        ctx.save_for_backward(by_logits)
        return (value - log_factorial).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (by_logits,) = ctx.saved_tensors
        return by_logits.mul_(gradient[:, None]), None, None, None, None


def poisson_log_prob(
    logits: Tensor, x: Tensor, log_factorial: Tensor, log_library: Tensor, *, normalised: bool = True
) -> Tensor:
    """Σ x log μ − μ − log x! of each sample, in nats: the negative binomial with θ → ∞.

    Args:
        logits: (…, batch, features + 1), or (…, batch, features) if not `normalised`; μ as in the negative binomial.
        x: counts, (…, batch, features).
        log_factorial: Σ log x! of each sample, (…, batch).
        log_library: log of all counts of each sample, or of its size factor, (…, batch).
        normalised: whether rates are a softmax.

    Returns:
        (…, batch), in float32, or in float64 where the logits are.
    """
    logits = in_full_precision(logits)
    with torch.autocast(logits.device.type, enabled=False):
        value: Tensor = _Poisson.apply(
            logits.reshape(-1, logits.shape[-1]), x.to(logits.dtype).reshape(-1, x.shape[-1]),
            log_factorial.reshape(-1), log_library.to(logits.dtype).reshape(-1), normalised,
        )  # type: ignore[no-untyped-call]  # fmt: skip
    return value.view(logits.shape[:-1])
