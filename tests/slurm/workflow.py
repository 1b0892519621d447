"""The workflow on a small config, here and on a cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import yaml

from . import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
PROFILE = ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"
SNAKEFILE = ROOT / "Snakefile"
POLLING = Path(__file__).with_name("polling.py")
MODEL = "results/cells/0/model.safetensors"
CONFIG: dict[str, Any] = {
    "checkpoint_seconds": 0.2,
    "datasets": {
        "cells": {
            "kind": "counts",
            "builtin": "pbmc68k",
            "label_key": "bulk_labels",
            "min_samples_per_class": 30,
            "rare_classes": "drop",
            "n_top_genes": 100,
        }
    },
    "runs": {
        "cells": {
            "dataset": "cells",
            "seeds": [0, 1],
            "model": {"n_shared": 3, "n_private": 1, "hidden": [16]},
            "training": {"max_epochs": 60, "patience": None},
            "embedding": {"umap": False},
            "audit": False,
            "power": {"fold_changes": [3], "n_runs": 2, "runs_per_job": 2, "n_genes": 5},
            "report": {"n_bootstrap": 100, "n_refits": 2, "n_shared_refits": 1, "refits_per_job": 2},
        }
    },
}
TRAININGS = ("train_model", "train_base", "refit_null", "plant_programmes")
QUICK = {  # what a test cannot wait for; all else is the shipped profile's
    "slurm-init-seconds-before-status-checks": 1,
    "latency-wait": 5,
    "slurm-status-command": "squeue",
    "default-resources": {"slurm_partition": "cpu", "slurm_account": "lab", "mem_mb": 3000, "runtime": 10},
}


def write_config(folder: Path, **training: Any) -> None:
    """The config, in a folder."""
    values = yaml.safe_load(yaml.safe_dump(CONFIG))
    values["runs"]["cells"]["training"] |= training
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def write_profile(folder: Path, conda: bool = False, **resources: dict[str, Any]) -> Path:
    """The profile's folder: as it is shipped, with the resources of this cluster, and of rules as given."""
    values = yaml.safe_load(PROFILE.read_text()) | QUICK
    if not conda:
        del values["software-deployment-method"]
    small = {"mem_mb": "3000 * attempt", "runtime": 10}
    for rule in (*TRAININGS, *resources):
        values["set-resources"][rule] = values["set-resources"][rule] | small | resources.get(rule, {})
    (folder / "profile").mkdir()
    (folder / "profile" / "config.yaml").write_text(yaml.safe_dump(values))
    return folder / "profile"


def environment() -> dict[str, str]:
    """Jobs find this Python first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def command(folder: Path, *more: str | Path, snakefile: Path) -> list[str]:
    """Arguments of Snakemake, for the config of a folder."""
    start = ["--snakefile", str(snakefile), "--directory", str(folder)]
    return [*start, *map(str, more), "--configfile", str(folder / "config.yaml")]


def run_here(folder: Path, *more: str | Path) -> None:
    """Snakemake on this machine alone, to its end, with the `python` that is found first."""
    words = ["python", "-m", "snakemake", *command(folder, *more, snakefile=SNAKEFILE)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]


def on_slurm(
    folder: Path, *more: str | Path, snakefile: Path | None = None, environ: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Snakemake, submitting, with the profile of a folder; it is not waited for."""
    words = command(folder, *more, "--workflow-profile", folder / "profile", snakefile=snakefile or SNAKEFILE)
    return subprocess.Popen(
        [sys.executable, str(POLLING), *words],
        env=environ or environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it said, at its end."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output[-6000:]
    return output


def copy_prepared(before: Path, folder: Path) -> None:
    """Spare a folder the preparing of data."""
    shutil.copytree(before / "resources" / "prepared", folder / "resources" / "prepared")


def same_files(folder: Path, other: Path, names: Iterable[str]) -> None:
    """Fail where a file does not have the same bits in both."""
    different = [name for name in names if (folder / name).read_bytes() != (other / name).read_bytes()]
    assert not different


def trainings(folder: Path) -> list[psutil.Process]:
    """Of the command `train` in jobs of a folder, the Pythons that train."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "nvae_bio", "train"] and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def log_of(folder: Path) -> str:
    """What the newest training says."""
    file = folder / "logs" / "train_model" / "cells.0.log"
    return file.read_text() if file.exists() else ""


def went_on(folder: Path) -> bool:
    """Whether the newest training began where another was."""
    return re.search(r"training goes on from epoch", log_of(folder)) is not None


def in_training(folder: Path, snakemake: subprocess.Popen[str], *gone: psutil.Process) -> list[psutil.Process]:
    """Wait until a training has saved itself, or goes on where one that is gone was; returns its processes."""
    saved = folder / "resources" / "checkpoints" / "cells" / "0" / "seed_0.safetensors"

    def found() -> bool:
        new = set(trainings(folder)) - set(gone)
        return snakemake.poll() is not None or (bool(new) and (went_on(folder) if gone else saved.exists()))

    wait_until(found, 180, "no training has saved itself, or goes on")
    assert snakemake.poll() is None, snakemake.communicate()[0]
    return trainings(folder)
