"""Ten seeds trained side by side against ten trained one after the other: `python -m benchmarks.seeds`.

Two measures, each on one thread: an epoch of steps as a stack and one model after the other, in turns within one
process; and the wall time of the command `nvae-bio train`, once with ten seeds and ten times with one. Written to
results/seeds.csv.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import pandas as pd
import torch

from benchmarks.data import simulated
from nvae_bio.config import FitSettings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.samples import Samples, to_samples
from nvae_bio.model import NVAE, build_nvae
from nvae_bio.train.loop import train_steps
from nvae_bio.train.moments import feature_moments
from nvae_bio.train.step import labelled_rows

RESULTS = Path(__file__).parent / "results" / "seeds.csv"
N_SEEDS, N_TURNS = 10, 6  # the first turn warms up
STEPS = [(640, 200, 32), (640, 765, 128), (2_000, 2000, 128)]  # cells, genes, hidden units
COMMANDS = [(700, 765, 128, 60), (3_000, 1000, 128, 30)]  # and epochs


def make_models(samples: Samples, rows: torch.Tensor, settings: FitSettings, n_classes: int) -> list[NVAE]:
    """Untrained, one a seed."""
    moments, models = feature_moments(samples, rows, n_classes), []
    for seed in range(N_SEEDS):
        torch.manual_seed(seed)
        model = build_nvae(settings.model, "negative_binomial", samples.matrix.n_features, n_classes)
        model.fit_output_bias(moments)
        models.append(model)
    return models


def time_steps(models: list[NVAE], samples: Samples, rows: torch.Tensor, settings: FitSettings) -> float:
    """Seconds of one epoch of all models together."""
    start = time.perf_counter()
    for _ in train_steps(models, samples, rows, settings, range(len(models))):
        pass
    return time.perf_counter() - start


def steps(n_cells: int, n_genes: int, hidden: int) -> dict[str, Any]:
    """Turns of one epoch: all seeds in a stack, then one after the other."""
    torch.set_num_threads(1)
    prepared = simulated(n_cells, n_genes, 5)
    classes = list(prepared.uns["nvae_data"]["classes"])
    samples = to_samples(prepared, classes)
    rows = labelled_rows(prepared, samples, "train")
    values = {"model": {"hidden": [hidden], "decoder": "network"}, "training": {"batch_size": 128}}
    settings = FitSettings.model_validate(values)
    models = make_models(samples, rows, settings, len(classes))
    together, apart = [], []
    for _ in range(N_TURNS):
        together.append(time_steps(models, samples, rows, settings))
        apart.append(sum(time_steps([model], samples, rows, settings) for model in models))
    return line("steps", n_cells, n_genes, hidden, together[1:], apart[1:])


def command(path: Path, folder: Path, seeds: list[int], settings: str) -> float:
    """Seconds of one `nvae-bio train`."""
    files = [
        f"--{option}={folder}/{seed}.{suffix}"
        for seed in seeds
        for option, suffix in (("weights", "safetensors"), ("card", "json"), ("history", "parquet"))
    ]
    options = [*files, *(f"--seed={seed}" for seed in seeds), f"--settings={settings}", f"--data={path}"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nvae_bio", "train", *options], check=True, capture_output=True)
    return time.perf_counter() - start


def commands(n_cells: int, n_genes: int, hidden: int, n_epochs: int) -> dict[str, Any]:
    """Turns of one command for ten seeds, then ten commands."""
    training = f'{{"max_epochs": {n_epochs}, "patience": null}}'
    settings = f'{{"model": {{"hidden": [{hidden}], "decoder": "network"}}, "training": {training}}}'
    seeds, together, apart = list(range(N_SEEDS)), [], []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "benchmark.h5ad"
        simulated(n_cells, n_genes, 5).write_h5ad(path)
        for _ in range(3):
            together.append(command(path, Path(name), seeds, settings))
            apart.append(sum(command(path, Path(name), [seed], settings) for seed in seeds))
    return line("command", n_cells, n_genes, hidden, together, apart)


def line(
    what: str, n_cells: int, n_genes: int, hidden: int, together: list[float], apart: list[float]
) -> dict[str, Any]:
    """A row of the table: medians over turns, and the spread of the share."""
    shares = [a / b for a, b in zip(together, apart, strict=True)]
    return {
        "measure": what, "n_cells": n_cells, "n_genes": n_genes, "hidden": hidden, "n_seeds": N_SEEDS,
        "together_s": round(median(together), 3), "apart_s": round(median(apart), 3), "share": round(median(shares), 3),
        "share_low": round(min(shares), 3), "share_high": round(max(shares), 3),
    }  # fmt: skip


@click.command(help=__doc__)
def main() -> None:
    """All lines."""
    rows = [steps(*case) for case in STEPS] + [commands(*case) for case in COMMANDS]
    with atomic_path(RESULTS) as part:
        pd.DataFrame(rows).to_csv(part, index=False)
    click.echo(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
