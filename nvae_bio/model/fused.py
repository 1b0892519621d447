"""The count likelihoods of `nvae_bio.model.kernels` for the CPU, one row at a time in the first-level cache.

The same sums as there, compiled by Numba: each loop reads few arrays and has no branch, so that it becomes vector
instructions.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import float32, njit, prange, uint32
from torch import Tensor

from nvae_bio.model.loops import EXACT, SUMS, exp, log1p, log1p_of, part_of_loop, run_loop

LANES = 64  # numbers compared side by side
F = np.float32


@part_of_loop()
def _largest(z: Any) -> Any:
    lanes, whole = np.full(LANES, z[0], F), z.shape[0] // LANES * LANES
    for first in range(0, whole, LANES):
        for lane in range(LANES):
            seen = z[first + lane]
            lanes[lane] = seen if seen > lanes[lane] else lanes[lane]
    largest = lanes[0]
    for lane in range(LANES):
        largest = max(largest, lanes[lane])
    for i in range(whole, z.shape[0]):
        largest = max(largest, z[i])
    return largest


@part_of_loop(fastmath=EXACT)
def _exp_above(z: Any, shift: Any, out: Any) -> None:
    for i in range(z.shape[0]):
        out[i] = exp(z[i] - shift)


@part_of_loop(fastmath=SUMS)
def _sum(x: Any) -> Any:
    total = float32(0)
    for i in range(x.shape[0]):
        total += x[i]
    return total


@part_of_loop(fastmath=EXACT)
def _ratio(p: Any, scale: Any, inverse: Any, t: Any) -> None:
    for g in range(t.shape[0]):
        t[g] = p[g] * scale * inverse[g]


@part_of_loop(fastmath=EXACT)
def _places(stored: Any, start: Any, out: Any) -> None:
    for g in range(out.shape[0]):
        out[g] = uint32(start[g] + uint32(stored[g]))


@part_of_loop(fastmath=SUMS)
def _power_terms(x: Any, z: Any, shift: Any, dispersion: Any, log1p_t: Any) -> Any:
    """Σ x log μ − (θ+x) log(1+t)."""
    total = float32(0)
    for g in range(x.shape[0]):
        total += x[g] * (z[g] + shift) - (x[g] + dispersion[g]) * log1p_t[g]
    return total


@part_of_loop(fastmath=SUMS)
def _sum_at(table: Any, place: Any) -> Any:
    total = float32(0)
    for g in range(place.shape[0]):
        total += table[place[g]]
    return total


@part_of_loop(fastmath=EXACT, error_model="numpy")
def _pulled(x: Any, dispersion: Any, t: Any) -> None:
    """(θ+x) r, in the place of t."""
    for g in range(x.shape[0]):
        t[g] = (x[g] + dispersion[g]) * (t[g] / (float32(1) + t[g]))


@part_of_loop(fastmath=EXACT)
def _by_dispersion(table: Any, place: Any, pulled: Any, dispersion: Any, log1p_t: Any, out: Any) -> None:
    for g in range(place.shape[0]):
        out[g] = table[place[g]]
    for g in range(place.shape[0]):
        out[g] += pulled[g] - dispersion[g] * log1p_t[g]


@part_of_loop(fastmath=SUMS)
def _by_log_mean(x: Any, pulled: Any) -> Any:
    """x − pulled, in the place of pulled; and its sum."""
    total = float32(0)
    for g in range(x.shape[0]):
        pulled[g] = x[g] - pulled[g]
        total += pulled[g]
    return total


@part_of_loop(fastmath=EXACT)
def _by_logits(by_log_mean: Any, p: Any, factor: Any, out: Any) -> None:
    for g in range(by_log_mean.shape[0]):
        out[g] = by_log_mean[g] - p[g] * factor


@part_of_loop(fastmath=SUMS, error_model="numpy")
def _inflated_terms(x: Any, z: Any, shift: Any, dispersion: Any, log1p_t: Any, gate: Any) -> Any:
    """`_power_terms` with zero inflation: in place of log NB(0) at x = 0 its log-sum with the gate, and log(1−π)."""
    total = float32(0)
    for g in range(x.shape[0]):
        absent = -dispersion[g] * log1p_t[g]
        zero = max(gate[g], absent) + log1p(exp(-abs(gate[g] - absent)))
        seen = x[g] * (z[g] + shift - log1p_t[g]) + absent
        log_norm = max(gate[g], float32(0)) + log1p(exp(-abs(gate[g])))
        total += (zero if x[g] == float32(0) else seen) - log_norm
    return total


@part_of_loop(fastmath=EXACT, error_model="numpy")
def _zero_weights(x: Any, dispersion: Any, log1p_t: Any, gate: Any, weight: Any) -> None:
    """Probability that a zero is the negative binomial's own; 1 of other counts."""
    for g in range(x.shape[0]):
        log_odds = -dispersion[g] * log1p_t[g] - gate[g]
        small = exp(-abs(log_odds))
        own = (float32(1) if log_odds > 0 else small) / (float32(1) + small)
        weight[g] = own if x[g] == float32(0) else float32(1)


@part_of_loop(fastmath=EXACT, error_model="numpy")
def _by_gate(weight: Any, gate: Any, out: Any) -> None:
    for g in range(weight.shape[0]):
        small = exp(-abs(gate[g]))
        out[g] = (float32(1) - weight[g]) - (float32(1) if gate[g] > 0 else small) / (float32(1) + small)


@part_of_loop(fastmath=EXACT)
def _times(weight: Any, out: Any) -> None:
    for g in range(weight.shape[0]):
        out[g] *= weight[g]


@part_of_loop()
def _scale_of(z: Any, log_library: Any, normalised: Any, p: Any) -> Any:
    """p = exp(z − peak); the factor from p to means, the shift from z to log means, Σ p (0 if not normalised)."""
    peak = _largest(z)
    _exp_above(z, peak, p)
    if not normalised:
        return F(math.exp(log_library + peak)), log_library, float32(0)
    norm = _sum(p)
    return F(math.exp(log_library) / norm), F(log_library - peak - math.log(norm)), norm


@part_of_loop()
def _through_rates(by_log_mean: Any, total: Any, p: Any, norm: Any, out: Any) -> None:
    """Gradient by the logits, the rest's too, from those by log means and their total."""
    factor = F(total / norm) if norm > 0 else F(0)
    _by_logits(by_log_mean, p, factor, out)
    for g in range(by_log_mean.shape[0], out.shape[0]):
        out[g] = -p[g] * factor


@part_of_loop()
def _row(
    outputs: Any, normalised: Any, log_library: Any, x: Any, stored: Any, start: Any, dispersion: Any, inverse: Any,
    rising: Any, by_rising: Any, by_outputs: Any, by_dispersion: Any,
) -> Any:  # fmt: skip
    n = x.shape[0]
    n_means = n + 1 if normalised else n
    z, gate, inflated = outputs[:n_means], outputs[n_means:], outputs.shape[0] > n_means
    p, t, log1p_t, place = np.empty(n_means, F), np.empty(n, F), np.empty(n, F), np.empty(n, np.uint32)
    scale, shift, norm = _scale_of(z, log_library, normalised, p)
    _ratio(p, scale, inverse, t)
    log1p_of(t, log1p_t)
    _places(stored, start, place)
    value = _sum_at(rising, place)
    if inflated:
        value += _inflated_terms(x, z, shift, dispersion, log1p_t, gate)
    else:
        value += _power_terms(x, z, shift, dispersion, log1p_t)
    if by_outputs.shape[0] > 0:
        _pulled(x, dispersion, t)
        _by_dispersion(by_rising, place, t, dispersion, log1p_t, by_dispersion)
        total = _by_log_mean(x, t)
        if inflated:
            weight = np.empty(n, F)
            _zero_weights(x, dispersion, log1p_t, gate, weight)
            _by_gate(weight, gate, by_outputs[n_means:])
            _times(weight, t)
            _times(weight, by_dispersion)
            total = _sum(t)
        _through_rates(t, total, p, norm, by_outputs[:n_means])
    return value


@njit(parallel=True, cache=True)
def _rows(
    outputs: Any, normalised: Any, log_library: Any, x: Any, stored: Any, start: Any, index: Any, dispersion: Any,
    inverse: Any, rising: Any, by_rising: Any, value: Any, by_outputs: Any, by_dispersion: Any,
) -> None:  # fmt: skip
    for row in prange(x.shape[0]):
        i = index[row]
        value[row] = _row(
            outputs[row], normalised, log_library[row], x[row], stored[row], start, dispersion[i], inverse[i],
            rising[i], by_rising[i], by_outputs[row], by_dispersion[row],
        )  # fmt: skip


@part_of_loop(fastmath=SUMS)
def _poisson_terms(x: Any, z: Any, shift: Any, p: Any, scale: Any) -> Any:
    """Σ x log μ − μ."""
    total = float32(0)
    for g in range(x.shape[0]):
        total += x[g] * (z[g] + shift) - p[g] * scale
    return total


@part_of_loop(fastmath=SUMS)
def _residuals(x: Any, p: Any, scale: Any, out: Any) -> Any:
    """x − μ; and its sum."""
    total = float32(0)
    for g in range(x.shape[0]):
        out[g] = x[g] - p[g] * scale
        total += out[g]
    return total


@njit(parallel=True, cache=True)
def _poisson_rows(logits: Any, normalised: Any, log_library: Any, x: Any, value: Any, by_logits: Any) -> None:
    for row in prange(x.shape[0]):
        z, p = logits[row], np.empty(logits.shape[1], F)
        scale, shift, norm = _scale_of(z, log_library[row], normalised, p)
        value[row] = _poisson_terms(x[row], z, shift, p, scale)
        if by_logits.shape[1] > 0:
            residual = np.empty(x.shape[1], F)
            total = _residuals(x[row], p, scale, residual)
            _through_rates(residual, total, p, norm, by_logits[row])


@part_of_loop(fastmath=EXACT)
def _scale(x: Any, weight: Any, out: Any) -> None:
    for g in range(x.shape[0]):
        out[g] = x[g] * weight


@njit(parallel=True, cache=True)
def _log1p_scaled(x: Any, scale: Any, out: Any) -> None:
    for row in prange(x.shape[0]):
        scaled = np.empty(x.shape[1], F)
        _scale(x[row], scale[row], scaled)
        log1p_of(scaled, out[row])


def log1p_scaled(x: Tensor, scale: Tensor) -> Tensor:
    """log(1 + x · scale) of x ≥ 0, (n, features), and a scale a row, (n,); float32 on the CPU, without a gradient."""
    out = torch.empty(x.shape)
    run_loop(_log1p_scaled, x, scale, out)
    return out


@njit(cache=True)
def _climb(start: Any, step: Any, dispersion: Any, rising: Any, by_rising: Any) -> None:
    n_features, n_steps, wanted = start.shape[0], step.shape[0], by_rising.shape[1] > 0
    for i in range(dispersion.shape[0]):
        for g in range(n_features):
            first, last = start[g], start[g + 1] if g + 1 < n_features else n_steps
            theta, inverse = dispersion[i, g], float32(1) / dispersion[i, g]
            for j in range(first, last):
                rising[i, j] = log1p(step[j] * inverse)
            total = 0.0
            for j in range(first, last):
                above = total + rising[i, j]
                rising[i, j] = total
                total = above
            if wanted:
                total = 0.0
                for j in range(first, last):
                    by_rising[i, j] = total
                    total -= step[j] / (theta + step[j])


def climb(start: Tensor, step: Tensor, dispersion: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """`kernels.climb` for float32 on the CPU: `start` (features,), `step` (steps,), `dispersion` (groups, features)."""
    rising = torch.empty(len(dispersion), len(step))
    by_rising = torch.empty_like(rising) if with_gradient else None
    unwanted = torch.empty(len(dispersion), 0)
    run_loop(_climb, start, step, dispersion, rising, unwanted if by_rising is None else by_rising)
    return rising, by_rising


def negative_binomial(
    outputs: Tensor, normalised: bool, log_library: Tensor, x: Tensor, stored: Tensor, start: Tensor, index: Tensor,
    dispersion: Tensor, rising: Tensor, by_rising: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """log p(x) + log x! of each row, and its gradients by outputs and by log θ of each entry; see `kernels`.

    Args:
        outputs: (n, n_outputs), float32 on the CPU, as all others.
        normalised: whether means are a softmax of the outputs, the rest's last.
        log_library: (n,).
        x: (n, features).
        stored: its places above `start`, (n, features), uint8.
        start: (features,), int32.
        index: which θ each row has, (n,), int64.
        dispersion: θ, (groups, features).
        rising: (groups, steps).
        by_rising: (groups, steps); None where no gradients are wanted.
    """
    value = torch.empty(len(outputs))
    shapes = ((len(x), 0), (len(x), 0)) if by_rising is None else (outputs.shape, x.shape)
    by_outputs, by_dispersion = (torch.empty(shape) for shape in shapes)
    unwanted = rising if by_rising is None else by_rising
    run_loop(
        _rows, outputs, normalised, log_library, x, stored, start.view(torch.uint32), index, dispersion,
        dispersion.reciprocal(), rising, unwanted, value, by_outputs, by_dispersion,
    )  # fmt: skip
    return (value, None, None) if by_rising is None else (value, by_outputs, by_dispersion)


def poisson(
    logits: Tensor, normalised: bool, log_library: Tensor, x: Tensor, *, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """log p(x) + log x! of each row, and its gradient by the logits; arguments as of `negative_binomial`."""
    value, by_logits = torch.empty(len(logits)), torch.empty(logits.shape if with_gradient else (len(logits), 0))
    run_loop(_poisson_rows, logits, normalised, log_library, x, value, by_logits)
    return value, by_logits if with_gradient else None
