"""What the compiled loops of `nvae_bio.model` share: how one is run, and exp and log1p for them to call.

exp and log1p are computed here, for a library's would be called number by number; both are good to 2 units in the last
place of float32 in the range that occurs (polynomials of Cephes, S. Moshier 1992). Numba's cache looks at the file of a
loop alone: after a change here, delete the `__pycache__` beside it.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
import torch
from numba import float32, int32, njit, types
from numba.extending import intrinsic
from torch import Tensor

EXACT = {"contract"}  # a·b + c in one step; the order of additions is kept
SUMS = {"contract", "reassoc", "nsz"}  # a sum in any fixed order
# what a loop calls is made a part of it: compiled apart, its sums have another order, and a loop would call that where
# it was just compiled, but its own copy where it is read from Numba's cache
part_of_loop = partial(njit, forceinline=True)


@intrinsic
def _float_of(typing_context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda c, builder, s, values: builder.bitcast(values[0], ir.FloatType())


@intrinsic
def _bits_of(typing_context: Any, number: Any) -> Any:
    return types.int32(types.float32), lambda c, builder, s, values: builder.bitcast(values[0], ir.IntType(32))


@njit(inline="always")
def exp(x: Any) -> Any:
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
def log1p(t: Any) -> Any:
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


@part_of_loop(fastmath=EXACT, error_model="numpy")
def log1p_of(t: Any, out: Any) -> None:
    """log(1 + t) of t ≥ 0; compiled, for other loops to call."""
    for g in range(t.shape[0]):
        out[g] = log1p(t[g])


def run_loop(loop: Callable[..., None], *parts: Tensor | bool) -> None:
    """A loop over rows, on as many threads as torch has; each row is done by one, so their number changes no result."""
    n_threads = torch.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    loop(*(part if isinstance(part, bool) else part.detach().contiguous().numpy() for part in parts))
    if torch.get_num_threads() != n_threads:  # they share OpenMP, and Numba's first call sets its threads to all
        torch.set_num_threads(n_threads)
