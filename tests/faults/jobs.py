"""A small workflow with each kind of step, and the commands that its rules run, as Snakemake itself prints them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG_NAME = "config.yaml"
TRAINING = {"max_epochs": 25, "batch_size": 32, "patience": None}
SMALL = {
    "dataset": "cells",
    "seeds": [0, 1],
    "model": {"n_shared": 2, "n_private": 1, "hidden": [16]},
    "training": TRAINING,
    "embedding": {"umap": False},
    "audit": {"n_steps": 3, "n_candidates": 1},
    "report": {"n_bootstrap": 100, "n_refits": 1, "n_shared_refits": 1},
    "generation": {"n_per_class": 3, "n_steps": 3},
}
CELLS = {
    "kind": "counts", "paths": "resources/simulated/cells.h5ad", "library_key": "library", "n_top_genes": None,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "checkpoint_seconds": 0.05,
    "simulations": {
        "cells": {
            "kind": "counts",
            "source": {"builtin": "pbmc68k", "label_key": "bulk_labels", "rare_classes": "drop"},
            "class_profiles": "shared",
            "n_genes": 40,
            "classes": {"a": 40, "b": 40, "c": 40},
            "programmes": [
                {"name": "own", "kind": "private", "classes": ["a"], "share": 0.3, "n_genes": 10, "fold_change": 3}
            ],
        }
    },
    "datasets": {"cells": CELLS, "stored": {**CELLS, "storage": "disk"}},
    "runs": {
        "cells": {
            **SMALL,
            "power": {"fold_changes": [3], "n_runs": 1, "n_genes": 5},
            "evaluation": {"scores": ["likelihood", "prior"], "n_draws": 5},
            "export": "on",
            "queries": {
                "again": {
                    "paths": "resources/simulated/cells.h5ad",
                    "dataset": {"library_key": "library"},
                    "max_novel": 1,
                }
            },
            "counterfactuals": {
                "up": {"factors": {"shared 0": 0.5}, "n_per_class": 3, "n_draws": 20, "support_level": 0}
            },
        },
        "stacked": {**SMALL, "training": {**TRAINING, "stack_seeds": True}},
        "stored": {**SMALL, "dataset": "stored", "seeds": [0]},
    },
}
OF_THEIR_OWN = {  # of these runs only some steps are of their own kind
    "results/stacked/": ("train_seeds",),
    "results/stored/": ("train_model", "embed_data"),
}


@dataclass(frozen=True)
class Job:
    """One call of the command line.

    Attributes:
        name: its rule, or the like.
        arguments: of `python -m nvae_bio`.
        inputs, outputs: files and folders, relative to that of the workflow.
    """

    name: str
    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


STUDY = {
    "name": "cells", "evaluate": "model", "folder": "page", "metrics": {"bound": None},
    "variants": {"nvae": {}}, "rows": {"cells": {"variants": {"nvae": [0, 1]}}},
}  # fmt: skip
MORE_JOBS = (
    # a study has a config of its own; its step is called here as its rule would
    Job(
        "gather_study",
        (
            *("study", "--scores=results/cells/scores.csv", "--table=page/cells.csv", "--page=page/cells.md"),
            *("--figure=page/cells.png", "--keep", "results/cells/figures/data.png", "page/data.png"),
            f"--settings={json.dumps(STUDY)}",
        ),
        ("results/cells/scores.csv", "results/cells/figures/data.png"),
        ("page/cells.csv", "page/cells.md", "page/cells.png", "page/data.png"),
    ),
)


def write_config(folder: Path) -> None:
    """The config of the small workflow, into its folder."""
    (folder / CONFIG_NAME).write_text(yaml.safe_dump(CONFIG, sort_keys=False))


def snakemake_command(folder: Path, *arguments: str) -> list[str]:
    """Snakemake, for the workflow in a folder."""
    given = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [sys.executable, "-m", "snakemake", *given, *arguments, "--configfile", str(folder / CONFIG_NAME)]


def environment() -> dict[str, str]:
    """Jobs find this Python first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = snakemake_command(folder, *arguments)
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


def jobs_of(folder: Path) -> list[Job]:
    """The jobs of the workflow in a folder where nothing is made yet, each after those that it needs.

    Raises:
        RuntimeError: Snakemake refuses.
    """
    done = snakemake(folder, "--dry-run", "--printshellcmds", "--cores=1")
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    printed = re.split(r"\n\[[^\n]*\]\n(?=rule )", done.stdout)
    found = [_job(text) for text in printed if "-m nvae_bio " in text]
    return [job for job in found if _is_of_its_own(job)] + list(MORE_JOBS)


def _is_of_its_own(job: Job) -> bool:
    """Whether no other run has such a step."""
    names = next((names for place, names in OF_THEIR_OWN.items() if job.outputs[0].startswith(place)), ("",))
    return job.name.startswith(names)


def _job(text: str) -> Job:
    """What a dry run prints of a job."""
    files = dict(re.findall(r"^    (input|output): (.*)$", text, re.MULTILINE))
    name, command = text.split(":", 1)[0].removeprefix("rule "), text.split("Shell command:", 1)[1]
    command = command.split("\n\n[", 1)[0].split(">logs/", 1)[0]
    words = shlex.split(command.replace("\\\n", " "))
    start = words.index("nvae_bio") + 1  # before it: variables, python -m
    inputs, outputs = (tuple(files.get(key, "").split(", ")) if key in files else () for key in ("input", "output"))
    return Job(name, tuple(words[start:]), inputs, outputs)
