"""Cost of the factor report: `python -m benchmarks.report` writes results/report.csv.

Simulated counts of 2,000 genes and 20 classes with several sizes, five seeds, eight donors, two batches, a condition
and 50 gene sets. Models are trained for a few epochs only: what is measured is what comes after. Each step is a command
of its own on one thread, with its wall time and the peak of its memory; the first row of each size is the training
itself, per epoch, to compare with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks.data import simulated
from benchmarks.pairs import exponent
from nvae_bio import schema
from nvae_bio.data.files import write_csv

RESULTS = Path(__file__).parent / "results" / "report.csv"
SIZES, N_GENES, N_CLASSES, N_SEEDS, N_EPOCHS, N_SETS = (2_500, 5_000, 10_000), 2000, 20, 5, 4, 50
FIT = json.dumps({"model": {}, "training": {"max_epochs": N_EPOCHS, "patience": None}})
CHILD = (  # runs a command, and prints its peak memory
    "import sys; from benchmarks.memory import peak_mb; from nvae_bio.cli import main; "
    "code = main(sys.argv[1:]); print(peak_mb()); sys.exit(code)"
)


def run(*arguments: str) -> tuple[float, float]:
    """Seconds and peak memory (MB) of one command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"nvae-bio {arguments[0]} failed: {done.stderr}")
    return time.perf_counter() - start, float(done.stdout.split()[-1])


def make_data(n_cells: int, gene_sets: Path) -> AnnData:
    """Prepared counts with all that the report compares factors with, and gene sets."""
    adata, rng = simulated(n_cells, N_GENES, N_CLASSES), np.random.default_rng(5)
    for name, n_levels in ((schema.DONOR, 8), (schema.BATCH, 2), (schema.CONDITION, 2)):
        adata.obs[name] = pd.Categorical([f"{name}{i}" for i in rng.integers(0, n_levels, adata.n_obs)])
    sets = [rng.choice(adata.var_names, 100, replace=False) for _ in range(N_SETS)]
    gene_sets.write_text("".join(f"set{i}\tmade up\t{chr(9).join(genes)}\n" for i, genes in enumerate(sets)))
    return adata


def steps(n_cells: int, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Step, seconds and MB: of one seed, or of the report of all."""
    data, gene_sets = str(folder / "data.h5ad"), folder / "sets.gmt"
    make_data(n_cells, gene_sets).write_h5ad(data)
    for seed in range(N_SEEDS):
        model = [f"--weights={folder}/{seed}.safetensors", f"--card={folder}/{seed}.json"]
        history = f"--history={folder}/{seed}.parquet"
        seconds, peak = run("train", f"--data={data}", *model, history, f"--settings={FIT}", f"--seed={seed}")
        yield "train, an epoch", seconds / N_EPOCHS, peak
        output = f"--output={folder}/{seed}.h5ad"
        yield "embed", *run("embed", f"--data={data}", *model, output, '--settings={"umap": false}')
        yield "audit", *run("audit", f"--data={data}", *model, f"--output={folder}/{seed}.audit.parquet")
    base = [f"--weights={folder}/base.safetensors", f"--card={folder}/base.json", f"--history={folder}/base.parquet"]
    cvae = json.dumps({"model": {"variant": "cvae", "n_shared": 11}, "training": {"max_epochs": N_EPOCHS}})
    run("train", f"--data={data}", *base, f"--settings={cvae}")
    for kind in ("no_private", "no_factor"):
        refit = [f"--output={folder}/{kind}.parquet", f"--kind={kind}", f"--settings={FIT}"]
        run("null", f"--data={data}", *base[:2], *refit)
    evidence = [f"--embedded={folder}/{seed}.h5ad" for seed in range(N_SEEDS)]
    evidence += [f"--audit={folder}/{seed}.audit.parquet" for seed in range(N_SEEDS)]
    evidence += [f"--null={folder}/{kind}.parquet" for kind in ("no_private", "no_factor")]
    written = {"report": "f.h5ad", "table": "f.parquet", "seeds": "s.h5ad", "scores": "e.h5ad", "summary": "s.md"}
    settings = "--settings=" + json.dumps({"report": {"gene_sets": str(gene_sets)}})
    outputs = [f"--{k}={folder}/{v}" for k, v in written.items()]
    yield "factors, all seeds", *run("factors", *evidence, settings, *outputs)
    pages = [f"--report={folder}/f.h5ad", f"--scores={folder}/e.h5ad", f"--output={folder}/pages"]
    yield "plot, all pages", *run("plot", *pages)


@click.command(help=__doc__)
def main() -> None:
    """All sizes; per step the median over seeds, and the exponent of its time."""
    rows = []
    for n_cells in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows += [(n_cells, *found) for found in steps(n_cells, Path(folder))]
    table = pd.DataFrame(rows, columns=["n_cells", "step", "seconds", "peak_mb"])
    table = table.groupby(["step", "n_cells"], sort=False).median().round(1).reset_index()
    table.insert(1, "n_genes", N_GENES)
    table.insert(2, "n_classes", N_CLASSES)
    table.insert(3, "n_seeds", N_SEEDS)
    for step, of_step in table.groupby("step"):
        table.loc[table["step"] == step, "exponent"] = round(
            exponent(list(of_step["n_cells"]), list(of_step["seconds"])), 2
        )
    write_csv(table, RESULTS)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
