"""Test support: conda environments made for real, without any conda channel (a local channel and a stand-in conda)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .make_channel import make_channel

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = ("snakemake", "--cores", "8", "--use-conda")

LAUNCHER = '#!/bin/sh\nexec {python} {program} {root} "$@"\n'

ACTIVATE = """\
# To be sourced by bash: puts the environment $1 first on the path.
export CONDA_PREFIX="$1" CONDA_DEFAULT_ENV="$1" PATH="$1/bin:$PATH"
"""

# what a job in the environment sees of it; `probe.py` is beside the workflow
PROBE = """
include: "Snakefile"


rule probe:
    output:
        "probe.json",
    conda:
        "environment.yml"
    shell:
        "python {workflow.basedir}/probe.py >{output}"
"""
PROBE_SCRIPT = """
import json, shutil, sys
from importlib.metadata import distributions
import anndata, nvae_bio, scanpy, torch

print(json.dumps({
    "prefix": sys.prefix,
    "path": sys.path,
    "programs": {name: shutil.which(name) for name in ("python", "python3", "pip", "nvae-bio")},
    "modules": {name: sys.modules[name].__file__ for name in ("anndata", "nvae_bio", "scanpy", "torch")},
    "libraries": sorted({line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "/" in line}),
    "versions": {found.name: found.version for found in distributions()},
}))
"""


@dataclass(frozen=True)
class Conda:
    """A conda installation in a folder: the stand-in program and its channel."""

    root: Path

    @property
    def environments(self) -> Path:
        """Where Snakemake keeps what it makes."""
        return self.root / "environments"

    @property
    def prefix(self) -> Path:
        """The environment of environment.yml."""
        (found,) = (path for path in self.environments.iterdir() if path.is_dir())
        return found

    def environ(self, environments: Path | None = None) -> dict[str, str]:
        """Variables: the stand-in and the system's own programs on the path, and no trace of what runs the tests."""
        left_out = ("PYTHON", "VIRTUAL_ENV", "CONDA")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        path = f"{self.root / 'bin'}{os.pathsep}{os.defpath}"
        made_in = str(environments or self.environments)
        return kept | {"PATH": path, "SNAKEMAKE_CONDA_PREFIX": made_in, "PIP_NO_COMPILE": "1"}

    def run(self, *command: str, folder: Path, environments: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in a folder."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=self.environ(environments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def make_environment(self) -> None:
        """Let Snakemake make the environment of environment.yml: a gigabyte."""
        what = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", str(ROOT / "config" / "config.yaml"))
        made = self.run(*COMMAND, "--conda-create-envs-only", *what, folder=self.root)
        assert made.returncode == 0, made.stdout[-10_000:]

    def sees_nothing_else(self, seen: dict[str, Any], code: Path) -> None:
        """Fail where a probe saw anything but the environment and the workflow's own folder."""
        prefix = self.prefix
        assert Path(seen["prefix"]) == prefix
        assert seen["programs"] == {
            "python": str(prefix / "bin" / "python"),
            "python3": str(prefix / "bin" / "python3"),
            "pip": str(prefix / "bin" / "pip"),
            "nvae-bio": None,
        }
        assert Path(seen["modules"]["nvae_bio"]).parent == code / "nvae_bio"
        for name in ("anndata", "scanpy", "torch"):
            assert Path(seen["modules"][name]).is_relative_to(prefix / "lib")
        for folder in seen["path"]:
            assert any(Path(folder).is_relative_to(known) for known in (prefix, code))
        for file in seen["libraries"]:
            assert not Path(file).is_relative_to(ROOT)
            assert not Path(file).is_relative_to(sys.prefix)


def why_not() -> str | None:
    """Why no environment can be made here; None where one can."""
    if sys.version_info[:2] != (3, 11) or "posix_local" in sysconfig.get_scheme_names():
        return "the local channel holds the python that runs the tests: 3.11 is needed, and not Debian's own"
    return None


def install_conda(root: Path) -> None:
    """Make a conda installation in `root`: the channel, and the two programs in `bin` that Snakemake looks for."""
    make_channel(root / "channel")
    program = Path(__file__).with_name("stand_in.py")
    words = {"python": sys.executable, "program": str(program), "root": str(root)}
    (root / "bin").mkdir()
    (root / "bin" / "conda").write_text(LAUNCHER.format(**{name: shlex.quote(word) for name, word in words.items()}))
    (root / "bin" / "conda").chmod(0o755)
    (root / "bin" / "activate").write_text(ACTIVATE)
