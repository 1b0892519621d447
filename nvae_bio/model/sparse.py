"""Encoder inputs of which most are 0, on the CPU: only the others go through the first layer.

Products are sums in a fixed order, each done by one thread, so that the number of threads changes no result. Compiled
by Numba, as `nvae_bio.model.fused` is.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor, nn

from nvae_bio.model.loops import EXACT, log1p_of, run_loop


@njit(parallel=True, cache=True)
def _count(x: Any, length: Any) -> None:
    for row in prange(x.shape[0]):
        n = 0
        for g in range(x.shape[1]):
            n += x[row, g] != 0
        length[row] = n


@njit(parallel=True, cache=True)
def _fill(x: Any, scale: Any, start: Any, place: Any, value: Any) -> None:
    for row in prange(x.shape[0]):
        counts, first, n = x[row], start[row], 0
        found = np.empty(x.shape[1] + 1, np.int32)
        for g in range(x.shape[1]):  # without a branch, which the processor could not foresee
            found[n] = g
            n += int(counts[g] != 0)
        scaled = np.empty(n, np.float32)
        for i in range(n):
            place[first + i] = found[i]
            scaled[i] = counts[found[i]] * scale[row]
        log1p_of(scaled, value[first : first + n])


@njit(cache=True)
def _turn(start: Any, place: Any, value: Any, turned_start: Any, turned_place: Any, turned_value: Any) -> None:
    turned_start[:] = 0
    for k in range(place.shape[0]):
        turned_start[place[k] + 1] += 1
    for column in range(turned_start.shape[0] - 1):
        turned_start[column + 1] += turned_start[column]
    free = turned_start.copy()
    for row in range(start.shape[0] - 1):
        for k in range(start[row], start[row + 1]):
            to = free[place[k]]
            free[place[k]] += 1
            turned_place[to] = row
            turned_value[to] = value[k]


@njit(parallel=True, fastmath=EXACT, cache=True)
def _product(start: Any, place: Any, value: Any, dense: Any, out: Any) -> None:
    for row in prange(out.shape[0]):
        total = out[row]
        total[:] = 0
        for k in range(start[row], start[row + 1]):
            factor, other = value[k], dense[place[k]]
            for j in range(total.shape[0]):
                total[j] += factor * other[j]


class Compressed(NamedTuple):
    """A matrix without its zeros, line by line: rows, or the columns of one that is turned.

    Attributes:
        start: where each line starts, (lines + 1,), int64.
        place: along the line, (n_entries,), int32.
        value: (n_entries,), float32.
    """

    start: Tensor
    place: Tensor
    value: Tensor

    def turned(self, n_lines: int) -> Compressed:
        """The transposed matrix, of `n_lines` lines."""
        turned = Compressed(torch.empty(n_lines + 1, dtype=torch.int64), *map(torch.empty_like, self[1:]))
        run_loop(_turn, *self, *turned)
        return turned

    def __matmul__(self, dense: Tensor) -> Tensor:
        """The product with a dense matrix, (lines, width)."""
        out = dense.new_empty(len(self.start) - 1, dense.shape[1])
        run_loop(_product, *self, dense, out)
        return out


@dataclass(frozen=True)
class SparseInputs:
    """What the encoder and the classifier read of a batch of counts, in place of a matrix of (batch, features).

    Attributes:
        rows: one line a sample.
        n_features: columns.
        center, scale: what each feature is less and divided by, (features,); None where it stays as it is.
    """

    rows: Compressed
    n_features: int
    center: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def log1p_scaled(cls, x: Tensor, scale: Tensor) -> SparseInputs:
        """log(1 + x · scale) of x ≥ 0, (batch, features), float32 on the CPU, and a scale a row, (batch,)."""
        start = torch.zeros(len(x) + 1, dtype=torch.int64)
        length = start[1:]
        run_loop(_count, x, length)
        torch.cumsum(length, 0, out=length)
        n = int(start[-1])
        rows = Compressed(start, torch.empty(n, dtype=torch.int32), torch.empty(n))
        run_loop(_fill, x, scale, *rows)
        return cls(rows, x.shape[1])

    def standardised(self, center: Tensor, scale: Tensor) -> SparseInputs:
        """The same, each feature less a center and divided by a scale, (features,): zeros still need not be stored."""
        return replace(self, center=center, scale=scale)

    @cached_property
    def columns(self) -> Compressed:
        """One line a feature."""
        return self.rows.turned(self.n_features)

    def __len__(self) -> int:
        return len(self.rows.start) - 1


Inputs = Tensor | SparseInputs


class _Product(torch.autograd.Function):
    """Inputs (batch, features) times weights (features, width); a gradient by the weights alone."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, inputs: SparseInputs) -> Tensor:
        ctx.inputs = inputs
        return inputs.rows @ weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.inputs.columns @ gradient, None


class FirstLayer(nn.Module):
    """A dense layer for both forms of inputs, with the same result but for rounding.

    The weights of an input lie side by side, (n_in, n_out), for a sparse product reads and writes them input by input.
    They start as those of `torch.nn.Linear`.

    Args:
        n_in: features.
        n_out: hidden units.
        is_empty: whether all start at 0 instead.
    """

    def __init__(self, n_in: int, n_out: int, *, is_empty: bool = False) -> None:
        super().__init__()
        start = nn.Linear(n_in, n_out)
        self.weight, self.bias = nn.Parameter(start.weight.detach().t().contiguous()), start.bias
        if is_empty:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Inputs) -> Tensor:
        """Hidden units, (batch, n_out), of x (batch, n_in)."""
        if isinstance(x, Tensor):
            return torch.addmm(self.bias, x, self.weight)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if x.center is not None and x.scale is not None:
            weight = weight / x.scale[:, None]
            bias = bias - x.center @ weight
        product: Tensor = _Product.apply(weight, x)  # type: ignore[no-untyped-call]
        return product + bias
