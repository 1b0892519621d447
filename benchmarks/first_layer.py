"""A training step with a dense first layer and with a sparse one, along density: `python -m benchmarks.first_layer`.

The product's own steps on the same counts, in turns: one epoch with each form of the layer. Written to
results/first_layer.csv; `SPARSE_DENSITY` of nvae_bio/train/step.py was chosen by it.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pandas as pd
import scipy.sparse
import torch

from benchmarks.data import as_prepared
from nvae_bio.config import FitSettings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.samples import to_samples
from nvae_bio.machine import matmul_precision, reproducible
from nvae_bio.model import NVAE, build_nvae
from nvae_bio.train.loop import train_steps
from nvae_bio.train.moments import feature_moments
from nvae_bio.train.step import labelled_rows

RESULTS = Path(__file__).parent / "results" / "first_layer.csv"
N_CELLS, N_CLASSES, BATCH, HIDDEN = 4_096, 5, 128, 128
GENES = (2_000, 5_000)
DENSITIES = (0.01, 0.02, 0.05, 0.07, 0.1, 0.15)
THREADS, N_TURNS = (1, 2), 8


class Case:
    """Counts of one size and density, and a model of each form that starts at the same weights."""

    def __init__(self, n_genes: int, density: float) -> None:
        rng = np.random.default_rng(0)
        shape = (N_CELLS, n_genes)
        counts = np.where(rng.random(shape) < density, 1 + rng.poisson(1, shape), 0).astype(np.float32)
        prepared = as_prepared(scipy.sparse.csr_matrix(counts), rng.integers(0, N_CLASSES, N_CELLS), 0)
        self.samples = to_samples(prepared, list(prepared.uns["nvae_data"]["classes"]))
        self.rows = labelled_rows(prepared, self.samples, "train")
        values = {"model": {"hidden": [HIDDEN], "decoder": "network"}, "training": {"batch_size": BATCH}}
        self.settings = FitSettings.model_validate(values)
        self.dense, self.sparse = (self._model(is_sparse=is_sparse) for is_sparse in (False, True))

    def _model(self, *, is_sparse: bool) -> NVAE:
        torch.manual_seed(0)
        n_genes = self.samples.matrix.n_features
        model = build_nvae(self.settings.model, "negative_binomial", n_genes, N_CLASSES, is_sparse=is_sparse)
        model.fit_output_bias(feature_moments(self.samples, self.rows, N_CLASSES))
        return model

    def seconds(self, model: NVAE) -> float:
        """Of one step, over an epoch."""
        start = time.perf_counter()
        n_steps = sum(1 for _ in train_steps([model], self.samples, self.rows, self.settings, [0]))
        return (time.perf_counter() - start) / n_steps


def line(threads: int, n_genes: int, density: float) -> dict[str, Any]:
    """Medians over turns, and the spread of the ratio; the first turn warms up."""
    with reproducible(threads), matmul_precision("high"):
        case = Case(n_genes, density)
        turns = [(case.seconds(case.dense), case.seconds(case.sparse)) for _ in range(N_TURNS)][1:]
    dense, sparse = (1e6 * median(part) for part in zip(*turns, strict=True))
    ratios = [b / a for a, b in turns]
    return {
        "threads": threads, "n_genes": n_genes, "density": density, "batch_size": BATCH, "hidden": HIDDEN,
        "dense_us": round(dense), "sparse_us": round(sparse), "ratio": round(median(ratios), 2),
        "ratio_low": round(min(ratios), 2), "ratio_high": round(max(ratios), 2),
    }  # fmt: skip


@click.command(help=__doc__)
def main() -> None:
    """All lines."""
    rows = [line(*case) for case in itertools.product(THREADS, GENES, DENSITIES)]
    with atomic_path(RESULTS) as part:
        pd.DataFrame(rows).to_csv(part, index=False)
    click.echo(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
