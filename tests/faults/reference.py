"""The small workflow where nothing goes wrong, and copies of its folder to do harm in."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.faults.commands import run
from tests.faults.jobs import Job, jobs_of, write_config

MADE = ("resources", "results", "page")  # folders with all that is made
CHECKPOINTS = "resources/checkpoints"
KIND = re.compile(r"\.(part|old|scratch)\b")  # in the name of what is not whole
STAMP = ".snakemake_timestamp"  # Snakemake's own mark in an output that is a folder


class Lost(Exception):
    """A trial in which something was lost, or half a file taken for a whole one."""


def files_in(folder: Path) -> dict[str, bytes]:
    """What is made there: path → bytes."""
    places = [path for name in MADE for path in (folder / name).rglob("*")]
    found = sorted(path for path in places if path.is_file() and path.name != STAMP)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def is_temporary(path: str) -> bool:
    """Whether a name says that the file is not whole."""
    return any(part.startswith(".") and KIND.search(part) for part in Path(path).parts)


def is_below(path: str, outputs: Iterable[str]) -> bool:
    """Whether a file is one of the outputs, or in one that is a folder."""
    return any(path == output or path.startswith(f"{output}/") for output in outputs)


@dataclass(frozen=True)
class Reference:
    """The clean run.

    Attributes:
        folder: of the workflow.
        jobs: each after those that it needs.
        seconds: that each took, of those with the same name the least.
    """

    folder: Path
    jobs: list[Job]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def made_in(cls, folder: Path) -> Reference:
        """Run all jobs, one after the other.

        Raises:
            RuntimeError: one fails.
        """
        folder.mkdir(parents=True)
        write_config(folder)
        reference = cls(folder, jobs_of(folder))
        for job in reference.jobs:
            output, start = folder / "output.txt", time.monotonic()
            if run(job, folder, output):
                raise RuntimeError(f"{job.name}: {output.read_text()}")
            seconds = time.monotonic() - start
            reference.seconds[job.name] = min(seconds, reference.seconds.get(job.name, seconds))
        return reference

    @cached_property
    def files(self) -> dict[str, bytes]:
        """All that is made: path → bytes."""
        return files_in(self.folder)

    @property
    def steps(self) -> list[str]:
        """Names of the jobs, each once."""
        return list(dict.fromkeys(job.name for job in self.jobs))

    def named(self, step: str) -> list[Job]:
        """The jobs of a step."""
        return [job for job in self.jobs if job.name == step]

    def maker_of(self, path: str) -> Job:
        """The job that makes a file."""
        return next(job for job in self.jobs if path in job.outputs)

    def readers_of(self, path: str) -> list[Job]:
        """The jobs that read a file."""
        return [job for job in self.jobs if path in job.inputs]

    def after(self, job: Job) -> list[str]:
        """Outputs of the job and of all that need them, and so on."""
        gone = list(job.outputs)
        for later in self.jobs:
            if set(later.inputs) & set(gone):
                gone += later.outputs
        return gone

    def before(self, job: Job, folder: Path) -> None:
        """A copy, at its times, of all that is there before a job runs."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".snakemake"), dirs_exist_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        for output in self.after(job):
            path = folder / output
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def check_whole(self, folder: Path, allowed: bytes | None = None) -> None:
        """Each file that does not say that it is temporary is a whole one.

        Raises:
            Lost: one is not.
        """
        for path, content in files_in(folder).items():
            known = self.files.get(path)
            if not is_temporary(path) and not path.startswith(CHECKPOINTS) and content not in (known, allowed):
                raise Lost(f"{path}: {len(content)} bytes that are not those of the clean run")

    def check_same(self, folder: Path, job: Job) -> None:
        """All is there as after the job in the clean run, to the byte, and nothing else.

        Raises:
            Lost: it is not.
        """
        later = [output for output in self.after(job) if output not in job.outputs]
        expected = {path: content for path, content in self.files.items() if not is_below(path, later)}
        found = files_in(folder)
        for path in sorted({*expected, *found}):
            if found.get(path) != expected.get(path):
                what = "missing" if path not in found else "other bytes" if path in expected else "left over"
                raise Lost(f"{path}: {what}")
