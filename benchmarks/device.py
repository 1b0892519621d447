"""Training on a GPU beside one CPU core: `python -m benchmarks.device` writes results/device.csv.

Simulated counts of 2,000 genes and 10 classes, resident on the device; epochs of the product's own loop with one thread
of the host. Needs a CUDA device.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import click
import pandas as pd
import torch

from benchmarks.data import simulated
from benchmarks.workers import Ours, Task
from nvae_bio.data.files import write_csv

RESULTS = Path(__file__).parent / "results" / "device.csv"
N_GENES, N_CLASSES = 2000, 10


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    n_cells: int
    batch_size: int
    device: str
    n_epochs: int


CASES = [
    *(Case(30_000, size, device, 4 if device == "cuda" else 3) for size in (128, 512) for device in ("cuda", "cpu")),
    *(Case(100_000, size, "cuda", epochs) for size, epochs in ((512, 4), (2048, 6), (8192, 6))),
]


def measure(case: Case, path: Path) -> dict[str, Any]:
    """Cells a second, the median over epochs after the first."""
    device = torch.device(case.device)
    ours = Ours(Task(path, case.n_epochs, case.batch_size, threads=1), given_label=True)
    ours.samples, ours.model = ours.samples.to(device), ours.model.to(device)
    ours.rows = {split: rows.to(device) for split, rows in ours.rows.items()}
    marks = [time.perf_counter()]
    for _ in ours.epochs():
        if case.device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    rate = ours.n_cells / median(end - start for start, end in pairwise(marks[1:]))
    name = torch.cuda.get_device_name() if case.device == "cuda" else "one CPU core"
    return {
        "device": name, "torch": torch.__version__, "n_cells": case.n_cells, "n_genes": N_GENES, "n_classes": N_CLASSES,
        "batch_size": case.batch_size, "cells_per_s": round(rate), "ms_a_step": round(1000 * case.batch_size / rate, 1),
    }  # fmt: skip


@click.command(help=__doc__)
def main() -> None:
    """All cases."""
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA device")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_cells in sorted({case.n_cells for case in CASES}):
            path = Path(folder) / f"{n_cells}.h5ad"
            simulated(n_cells, N_GENES, N_CLASSES).write_h5ad(path)
            rows += [measure(case, path) for case in CASES if case.n_cells == n_cells]
    table = pd.DataFrame(rows)
    write_csv(table, RESULTS)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
