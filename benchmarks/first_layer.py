"""A dense first layer against a sparse one, along density: `python -m benchmarks.first_layer`.

Each turn takes a batch of counts from memory, scales it by log(1 + x), multiplies it with the first layer's weights and
forms the gradient of those weights: once from bytes through dense products, and once from compressed rows through
sparse ones. One thread. Written to results/first_layer.csv.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nvae_bio.data.files import atomic_path
from nvae_bio.data.packed import SparseRows
from nvae_bio.model.kernels import log1p_scaled

RESULTS = Path(__file__).parent / "results" / "first_layer.csv"
N_ROWS, BATCH, WIDTH = 4_096, 128, 256  # two trunks of 128 units read the same input
GENES = (2_000, 5_000)
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2)
N_TURNS, N_STEPS = 7, 40


def starts(place: Tensor, n: int) -> Tensor:
    """Where each of n rows starts among entries that lie row by row, (n + 1,), from the row of each entry."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(place, minlength=n).cumsum(0)])


class Case:
    """Counts of one size and density, in both forms, and what a step of either does with them."""

    def __init__(self, n_genes: int, density: float) -> None:
        rng = np.random.default_rng(0)
        self.bytes = torch.from_numpy(
            np.where(rng.random((N_ROWS, n_genes)) < density, 1 + rng.poisson(1, (N_ROWS, n_genes)), 0).astype(np.uint8)
        )
        sparse = self.bytes.to_sparse_csr()
        self.rows = SparseRows(sparse.crow_indices(), sparse.col_indices(), sparse.values())
        self.weight, self.gradient = torch.randn(WIDTH, n_genes), torch.randn(BATCH, WIDTH)
        self.transposed = self.weight.T.contiguous()
        self.scale = torch.ones(BATCH)
        self.order = torch.from_numpy(rng.permutation(N_ROWS))

    def dense(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden units and the gradient of the weights, (BATCH, WIDTH) and (WIDTH, genes)."""
        x = log1p_scaled(self.bytes.index_select(0, rows).float(), self.scale)
        return x @ self.weight.T, self.gradient.T @ x

    def sparse(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The same, the gradient as (genes, WIDTH)."""
        taken, shape = self.rows.take(rows), (len(rows), self.bytes.shape[1])
        value, by_column = torch.log1p(taken.value.float()), torch.argsort(taken.column, stable=True)
        x = torch.sparse_csr_tensor(starts(taken.row, shape[0]), taken.column, value, shape, check_invariants=False)
        turned = torch.sparse_csr_tensor(
            starts(taken.column, shape[1]), taken.row[by_column], value[by_column], shape[::-1], check_invariants=False
        )
        return x @ self.transposed, turned @ self.gradient

    def check(self) -> None:
        """Both ways give the same numbers."""
        for ours, theirs in zip(self.dense(self.order[:BATCH]), self.sparse(self.order[:BATCH]), strict=True):
            assert torch.allclose(ours, theirs if ours.shape == theirs.shape else theirs.T, atol=1e-3)

    def seconds(self, step: Callable[[Tensor], object]) -> float:
        """Of one step, over `N_STEPS` batches."""
        start = time.perf_counter()
        for number in range(N_STEPS):
            place = number * BATCH % N_ROWS
            step(self.order[place : place + BATCH])
        return (time.perf_counter() - start) / N_STEPS


def line(n_genes: int, density: float) -> dict[str, Any]:
    """Medians over turns; the first turn warms up."""
    case = Case(n_genes, density)
    case.check()
    turns = [(case.seconds(case.dense), case.seconds(case.sparse)) for _ in range(N_TURNS)][1:]
    dense, sparse = (1e6 * median(part) for part in zip(*turns, strict=True))
    return {
        "n_genes": n_genes, "density": density, "batch_size": BATCH, "width": WIDTH, "dense_us": round(dense),
        "sparse_us": round(sparse), "ratio": round(median(b / a for a, b in turns), 2),
    }  # fmt: skip


@click.command(help=__doc__)
def main() -> None:
    """All lines."""
    torch.set_num_threads(1)
    rows = [line(n_genes, density) for n_genes in GENES for density in DENSITIES]
    with atomic_path(RESULTS) as part:
        pd.DataFrame(rows).to_csv(part, index=False)
    click.echo(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
