"""Where the time of the whole workflow goes: `python -m benchmarks.workflow`.

Runs the Snakefile from raw data to the last figure in a folder of its own: once on the default config, and once on
100,000 simulated cells × 2,000 genes × 30 classes. Snakemake's own record of each job is summed by rule. Written to
results/workflow.csv.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import pandas as pd
import yaml

from benchmarks.data import simulated
from nvae_bio import schema
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import write_anndata

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "workflow.csv"
N_CELLS, N_GENES, N_CLASSES, N_EPOCHS = 100_000, 2_000, 30, 20


def large_config(folder: Path) -> Path:
    """A config of one seed on simulated cells, and their raw file beside it."""
    raw = simulated(N_CELLS, N_GENES, N_CLASSES)
    raw.obs, raw.uns = raw.obs[[schema.LABEL]].rename(columns={schema.LABEL: "cell_type"}), {}
    write_anndata(raw, folder / "large.h5ad")
    dataset = {"kind": "counts", "paths": "large.h5ad", "label_key": "cell_type", "n_top_genes": None}
    run = {"dataset": "large", "seeds": [0], "training": {"max_epochs": N_EPOCHS, "patience": None}}
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"large": dataset}, "runs": {"large": run}}))
    return path


def seconds_by_rule(folder: Path, config: Path, name: str, cores: int) -> pd.DataFrame:
    """Run the workflow in `folder`; one row a rule: its jobs, their seconds together, and the largest memory of one."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(config), "--cores", str(cores), "--quiet", "all"]
    subprocess.run([sys.executable, *command], check=True, env=environment)
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "benchmarks").glob("*/*.tsv")):
        job = pd.read_csv(path, sep="\t").iloc[0]
        rows.append({"workflow": name, "rule": path.parent.name, "seconds": job["s"], "peak_mb": job["max_rss"]})
    jobs = pd.DataFrame(rows).groupby(["workflow", "rule"], as_index=False)
    table = jobs.agg(jobs=("seconds", "size"), seconds=("seconds", "sum"), peak_mb=("peak_mb", "max"))
    return table.sort_values("seconds", ascending=False).round({"seconds": 1, "peak_mb": 0})


@click.command(help=__doc__)
@click.option("--cores", type=click.IntRange(1), default=1, help="1: jobs do not disturb each other")
def main(cores: int) -> None:
    """Both workflows."""
    tables = []
    with tempfile.TemporaryDirectory() as name:
        for part, config in (("default", ROOT / "config" / "config.yaml"), ("large", None)):
            folder = Path(name) / part
            folder.mkdir()
            tables.append(seconds_by_rule(folder, config or large_config(folder), part, cores))
    found = pd.concat(tables)
    with atomic_path(RESULTS) as path:
        found.to_csv(path, index=False)
    click.echo(found.to_string(index=False))


if __name__ == "__main__":
    main()
