"""Log-likelihoods of pixels and features, in the form of `nvae_bio.model.kernels`; torch operations on every device."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nvae_bio.model.kernels import in_full_precision

N_STEPS = 255  # from one of the 256 grey levels of 8 bits to the next

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


# --- discretised logistic --------------------------------------------------------------------------------------------


class _DiscretizedLogistic(torch.autograd.Function):
    """mean (…, batch, features), log_scale (…, 1, features), x as mean.

    With a, b = (x ± h/2 − m)/s at the edges of a grey level of width h:
    σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(−h/s)); the first factor is left out of x = 1, the second of x = 0, the third of
    both, so that the outer levels are open-ended.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
        inverse, below_top, above_zero = (-log_scale).exp(), (x < 1).to(mean.dtype), (x > 0).to(mean.dtype)
        width, inner = inverse / N_STEPS, below_top * above_zero
        center = (x - mean) * inverse
        upper, lower = center + width / 2, center - width / 2
        terms = below_top * F.logsigmoid(upper) + above_zero * F.logsigmoid(-lower)
        value = (terms + inner * (-torch.expm1(-width)).log()).sum(-1)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            by_upper, by_lower = below_top * (-upper).sigmoid(), -above_zero * lower.sigmoid()
            by_scale = -upper * by_upper - lower * by_lower - inner * (width / torch.expm1(width))
            ctx.save_for_backward(-(by_upper + by_lower) * inverse, by_scale)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        by_mean, by_scale = ctx.saved_tensors
        weight = gradient[..., None]
        return by_mean.mul_(weight), by_scale.mul_(weight).sum(-2, keepdim=True), None


def discretized_logistic_log_prob(mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """log P(x) of 8-bit pixels under a logistic that is rounded to grey levels, in nats.

    P(x = k/255) = σ((k + ½)/255 − m)/s) − σ((k − ½)/255 − m)/s), all that is below counting as 0 and all above as 1:
    the 256 probabilities sum to one (Salimans et al. 2017, arXiv:1701.05517, with one component).

    Args:
        mean: m, (…, batch, features); may lie outside [0, 1].
        log_scale: log s, (…, features).
        x: whole multiples of 1/255 in [0, 1], as `mean`.

    Returns:
        (…, batch), in float32, or in float64 where the means are.
    """
    mean = in_full_precision(mean)
    with torch.autocast(mean.device.type, enabled=False):
        value: Tensor = _DiscretizedLogistic.apply(  # type: ignore[no-untyped-call]
            mean, log_scale.to(mean.dtype)[..., None, :], x.to(mean.dtype)
        )
    return value
