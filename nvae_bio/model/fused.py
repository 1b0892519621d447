"""The count likelihoods of `nvae_bio.model.kernels` for the CPU, one row at a time in the first-level cache.

The same sums as there, compiled by Numba: each loop reads few arrays and has no branch, so that it becomes vector
instructions. exp and log1p are computed here, for a library's would be called number by number; both are good to 2
units in the last place of float32 in the range that occurs (polynomials of Cephes, S. Moshier 1992).
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
import torch
from numba import float32, int32, njit, prange, types, uint32
from numba.extending import intrinsic
from torch import Tensor

# every function that a loop calls is made a part of it (forceinline): compiled apart, its sums have another order, and
# a loop would call that where it was just compiled, but its own copy where it is read from Numba's cache
EXACT = {"contract"}  # a·b + c in one step; the order of additions is kept
SUMS = {"contract", "reassoc", "nsz"}  # a sum in any fixed order
LANES = 64  # numbers compared side by side
F = np.float32


@intrinsic
def _float_of(typing_context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda c, builder, s, values: builder.bitcast(values[0], ir.FloatType())


@intrinsic
def _bits_of(typing_context: Any, number: Any) -> Any:
    return types.int32(types.float32), lambda c, builder, s, values: builder.bitcast(values[0], ir.IntType(32))


@njit(inline="always")
def _exp(x: Any) -> Any:
    """exp of x ≤ 0; 1e-38 where less."""
    x = max(x, float32(-87.0))
    n = np.floor(x * float32(1.44269504) + float32(0.5))
    r = x - n * float32(0.693359375) + n * float32(2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    return (p * r * r + r + float32(1)) * _float_of(int32(int32(int32(n) + int32(127)) << int32(23)))


@njit(inline="always")
def _log1p(t: Any) -> Any:
    """log(1 + t) of t ≥ 0; what 1 + t rounds away is added back."""
    u = float32(1) + t
    lost = (t - (u - float32(1))) / u
    bits = _bits_of(u)
    exponent = int32(int32(bits - int32(0x3F3504F3)) >> int32(23))
    f = _float_of(int32(bits - int32(exponent << int32(23)))) - float32(1)
    p = float32(7.0376836292e-2)
    p = p * f + float32(-1.1514610310e-1)
    p = p * f + float32(1.1676998740e-1)
    p = p * f + float32(-1.2420140846e-1)
    p = p * f + float32(1.4249322787e-1)
    p = p * f + float32(-1.6668057665e-1)
    p = p * f + float32(2.0000714765e-1)
    p = p * f + float32(-2.4999993993e-1)
    p = p * f + float32(3.3333331174e-1)
    e = float32(exponent)
    small = f * f * f * p - e * float32(2.12194440e-4) - float32(0.5) * f * f
    return (f + small) + e * float32(0.693359375) + lost


@njit(forceinline=True)
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


@njit(fastmath=EXACT, forceinline=True)
def _exp_above(z: Any, shift: Any, out: Any) -> None:
    for i in range(z.shape[0]):
        out[i] = _exp(z[i] - shift)


@njit(fastmath=SUMS, forceinline=True)
def _sum(x: Any) -> Any:
    total = float32(0)
    for i in range(x.shape[0]):
        total += x[i]
    return total


@njit(fastmath=EXACT, forceinline=True)
def _ratio(p: Any, scale: Any, inverse: Any, t: Any) -> None:
    for g in range(t.shape[0]):
        t[g] = p[g] * scale * inverse[g]


@njit(fastmath=EXACT, error_model="numpy", forceinline=True)
def log1p_of(t: Any, out: Any) -> None:
    """log(1 + t) of t ≥ 0; compiled, for other loops to call."""
    for g in range(t.shape[0]):
        out[g] = _log1p(t[g])


@njit(fastmath=EXACT, forceinline=True)
def _places(stored: Any, start: Any, out: Any) -> None:
    for g in range(out.shape[0]):
        out[g] = uint32(start[g] + uint32(stored[g]))


@njit(fastmath=SUMS, forceinline=True)
def _power_terms(x: Any, z: Any, shift: Any, dispersion: Any, log1p_t: Any) -> Any:
    """Σ x log μ − (θ+x) log(1+t)."""
    total = float32(0)
    for g in range(x.shape[0]):
        total += x[g] * (z[g] + shift) - (x[g] + dispersion[g]) * log1p_t[g]
    return total


@njit(fastmath=SUMS, forceinline=True)
def _sum_at(table: Any, place: Any) -> Any:
    total = float32(0)
    for g in range(place.shape[0]):
        total += table[place[g]]
    return total


@njit(fastmath=EXACT, error_model="numpy", forceinline=True)
def _pulled(x: Any, dispersion: Any, t: Any) -> None:
    """(θ+x) r, in the place of t."""
    for g in range(x.shape[0]):
        t[g] = (x[g] + dispersion[g]) * (t[g] / (float32(1) + t[g]))


@njit(fastmath=EXACT, forceinline=True)
def _by_dispersion(table: Any, place: Any, pulled: Any, dispersion: Any, log1p_t: Any, out: Any) -> None:
    for g in range(place.shape[0]):
        out[g] = table[place[g]]
    for g in range(place.shape[0]):
        out[g] += pulled[g] - dispersion[g] * log1p_t[g]


@njit(fastmath=SUMS, forceinline=True)
def _by_log_mean(x: Any, pulled: Any) -> Any:
    """x − pulled, in the place of pulled; and its sum."""
    total = float32(0)
    for g in range(x.shape[0]):
        pulled[g] = x[g] - pulled[g]
        total += pulled[g]
    return total


@njit(fastmath=EXACT, forceinline=True)
def _by_logits(by_log_mean: Any, p: Any, factor: Any, out: Any) -> None:
    for g in range(by_log_mean.shape[0]):
        out[g] = by_log_mean[g] - p[g] * factor


@njit(fastmath=SUMS, error_model="numpy")
def _inflated_terms(x: Any, z: Any, shift: Any, dispersion: Any, log1p_t: Any, gate: Any) -> Any:
    """`_power_terms` with zero inflation: in place of log NB(0) at x = 0 its log-sum with the gate, and log(1−π)."""
    total = float32(0)
    for g in range(x.shape[0]):
        absent = -dispersion[g] * log1p_t[g]
        zero = max(gate[g], absent) + _log1p(_exp(-abs(gate[g] - absent)))
        seen = x[g] * (z[g] + shift - log1p_t[g]) + absent
        log_norm = max(gate[g], float32(0)) + _log1p(_exp(-abs(gate[g])))
        total += (zero if x[g] == float32(0) else seen) - log_norm
    return total


@njit(fastmath=EXACT, error_model="numpy", forceinline=True)
def _zero_weights(x: Any, dispersion: Any, log1p_t: Any, gate: Any, weight: Any) -> None:
    """Probability that a zero is the negative binomial's own; 1 of other counts."""
    for g in range(x.shape[0]):
        log_odds = -dispersion[g] * log1p_t[g] - gate[g]
        small = _exp(-abs(log_odds))
        own = (float32(1) if log_odds > 0 else small) / (float32(1) + small)
        weight[g] = own if x[g] == float32(0) else float32(1)


@njit(fastmath=EXACT, error_model="numpy", forceinline=True)
def _by_gate(weight: Any, gate: Any, out: Any) -> None:
    for g in range(weight.shape[0]):
        small = _exp(-abs(gate[g]))
        out[g] = (float32(1) - weight[g]) - (float32(1) if gate[g] > 0 else small) / (float32(1) + small)


@njit(fastmath=EXACT, forceinline=True)
def _times(weight: Any, out: Any) -> None:
    for g in range(weight.shape[0]):
        out[g] *= weight[g]


@njit(forceinline=True)
def _scale_of(z: Any, log_library: Any, normalised: Any, p: Any) -> Any:
    """p = exp(z − peak); the factor from p to means, the shift from z to log means, Σ p (0 if not normalised)."""
    peak = _largest(z)
    _exp_above(z, peak, p)
    if not normalised:
        return F(math.exp(log_library + peak)), log_library, float32(0)
    norm = _sum(p)
    return F(math.exp(log_library) / norm), F(log_library - peak - math.log(norm)), norm


@njit(forceinline=True)
def _through_rates(by_log_mean: Any, total: Any, p: Any, norm: Any, out: Any) -> None:
    """Gradient by the logits, the rest's too, from those by log means and their total."""
    factor = F(total / norm) if norm > 0 else F(0)
    _by_logits(by_log_mean, p, factor, out)
    for g in range(by_log_mean.shape[0], out.shape[0]):
        out[g] = -p[g] * factor


@njit(forceinline=True)
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


@njit(fastmath=SUMS, forceinline=True)
def _poisson_terms(x: Any, z: Any, shift: Any, p: Any, scale: Any) -> Any:
    """Σ x log μ − μ."""
    total = float32(0)
    for g in range(x.shape[0]):
        total += x[g] * (z[g] + shift) - p[g] * scale
    return total


@njit(fastmath=SUMS, forceinline=True)
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


@njit(fastmath=EXACT, forceinline=True)
def _scale(x: Any, weight: Any, out: Any) -> None:
    for g in range(x.shape[0]):
        out[g] = x[g] * weight


@njit(parallel=True, cache=True)
def _log1p_scaled(x: Any, scale: Any, out: Any) -> None:
    for row in prange(x.shape[0]):
        scaled = np.empty(x.shape[1], F)
        _scale(x[row], scale[row], scaled)
        log1p_of(scaled, out[row])


def run_loop(loop: Callable[..., None], *parts: Tensor | bool) -> None:
    """A loop over rows, on as many threads as torch has; each row is done by one, so their number changes no result."""
    n_threads = torch.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    loop(*(part if isinstance(part, bool) else part.detach().contiguous().numpy() for part in parts))
    if torch.get_num_threads() != n_threads:  # they share OpenMP, and Numba's first call sets its threads to all
        torch.set_num_threads(n_threads)


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
                rising[i, j] = _log1p(step[j] * inverse)
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
