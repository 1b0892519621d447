"""Training speed, memory and held-out fit of nvae-bio beside a peer, in one pair of processes.

    python -m benchmarks.train --peer scvi --cells 30000 --genes 2000 --classes 10     one line, printed
    python -m benchmarks.train --suite                                                 all of results/train.csv

Needs the extra: pip install --constraint constraints.txt --editable '.[benchmark]'. Digits (peer
conv_vae) and real cells (kang) are read from the folder that the variable NVAE_BIO_DATA names.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pandas as pd

from benchmarks.data import digits, resampled, simulated
from benchmarks.pairs import device_name, row, run_pair
from benchmarks.workers import Task
from nvae_bio.data.atomic import atomic_path

RESULTS = Path(__file__).parent / "results" / "train.csv"
N_TURNS = 6  # the first warms up
EPOCHS = {3_000: 60, 30_000: 6, 300_000: 6}  # of all turns together, by cells


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    peer: str
    n_cells: int = 30_000
    n_genes: int = 2000
    n_classes: int = 10
    batch_size: int = 128
    threads: int = 2
    precision: str = "high"
    is_real: bool = False

    @property
    def key(self) -> dict[str, Any]:
        """The columns of the table that name the case."""
        names = ("peer", "n_cells", "n_genes", "n_classes", "batch_size", "threads")
        return {name: getattr(self, name) for name in names} | {"device": device_name(self.precision)}


BASE = Case("scvi")
SUITE = [
    *(replace(BASE, peer=peer, batch_size=size) for peer in ("scvi", "scanvi") for size in (128, 512)),
    *(replace(BASE, peer=peer, batch_size=size, precision="medium")
      for peer in ("scvi", "scanvi") for size in (128, 512)),
    *(replace(BASE, peer=peer, threads=1) for peer in ("scvi", "scanvi")),
    *(replace(BASE, peer=peer, n_cells=3_000) for peer in ("scvi", "scanvi")),
    *(replace(BASE, n_genes=n_genes) for n_genes in (1000, 5000)),
    *(replace(BASE, peer="scanvi", n_classes=n_classes) for n_classes in (5, 30, 100)),
    *(replace(BASE, peer=peer, n_genes=1287, n_classes=8, is_real=True) for peer in ("scvi", "scanvi")),
    Case("conv_vae", n_genes=784),
    *(replace(BASE, peer=peer, n_cells=300_000) for peer in ("scvi", "scanvi")),
]  # fmt: skip


def measure(case: Case, folder: Path) -> dict[Any, Any]:
    """Write the data of a case, run its pair, and remove them."""
    if case.peer == "conv_vae":
        adata = digits(Path(os.environ["NVAE_BIO_DATA"]), case.n_cells)
    elif case.is_real:
        adata = resampled(Path(os.environ["NVAE_BIO_DATA"]), case.n_cells)
    else:
        adata = simulated(case.n_cells, case.n_genes, case.n_classes)
    path = folder / "benchmark.h5ad"
    adata.write_h5ad(path)
    shape = (case.n_cells, adata.n_vars, adata.obs["label"].nunique())
    del adata
    n_epochs = EPOCHS.get(case.n_cells, N_TURNS)
    task = Task(
        path, n_epochs, case.batch_size, case.threads, precision=case.precision, is_image=case.peer == "conv_vae"
    )
    try:
        return row(task, case.peer, shape, run_pair(task, case.peer, n_epochs // N_TURNS))
    finally:
        path.unlink()


@click.command(help=__doc__)
@click.option("--peer", type=click.Choice(["scvi", "scanvi", "conv_vae"]), default="scvi")
@click.option("--cells", type=click.IntRange(1000), default=30_000)
@click.option("--genes", type=click.IntRange(10), default=2000)
@click.option("--classes", type=click.IntRange(2), default=10)
@click.option("--batch-size", type=click.IntRange(1), default=128)
@click.option("--threads", type=click.IntRange(1), default=2)
@click.option("--precision", type=click.Choice(["highest", "high", "medium"]), default="high")
@click.option("--kang", is_flag=True, help="real cells, resampled")
@click.option("--suite", is_flag=True, help="all lines of results/train.csv; those there already are kept")
def main(
    peer: str, cells: int, genes: int, classes: int, batch_size: int, threads: int, precision: str, kang: bool,
    suite: bool,
) -> None:  # fmt: skip
    """Run one case, or all."""
    cases = SUITE if suite else [Case(peer, cells, genes, classes, batch_size, threads, precision, kang)]
    rows: dict[Case, dict[Any, Any]] = known_rows() if suite else {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if case in rows:
                continue
            rows[case] = measure(case, Path(folder))
            click.echo(pd.DataFrame([rows[case]]).to_string(index=False))
            if suite:
                ordered = [rows[known] for known in SUITE if known in rows]
                with atomic_path(RESULTS) as part:
                    pd.DataFrame(ordered).to_csv(part, index=False)


def known_rows() -> dict[Case, dict[Any, Any]]:
    """The lines of the table that are there already, by the case that each is of."""
    found = pd.read_csv(RESULTS).to_dict("records") if RESULTS.exists() else []
    return {case: line for case in SUITE for line in found if all(line[key] == case.key[key] for key in case.key)}


if __name__ == "__main__":
    main()
