"""Trials of single commands: each does one thing to a step, and raises `Lost` where that does not recover from it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faults import commands, disk
from tests.faults.jobs import Job
from tests.faults.reference import CHECKPOINTS, Lost, Reference, is_below

AS_IT_WAS = b"of an earlier run"
MOST_KILLS = 2
MOST_BITS = 16
AIMED = 1 / 3  # of kills, at the moment when a file is written
AT_REST = {  # step of a trial → file, or folder of files, that is damaged
    "simulated": "resources/simulated/cells.h5ad",
    "prepared": "resources/prepared/cells.h5ad",
    "store": "resources/prepared/stored.store",
    "weights": "results/cells/0/model.safetensors",
    "card": "results/cells/0/model.json",
    "history": "results/cells/0/history.parquet",
    "embedded": "results/cells/0/embedded.h5ad",
    "audit": "results/cells/0/audit.parquet",
    "refits": "results/cells/null/no_private/0.parquet",
    "power": "results/cells/power/0.parquet",
    "factors": "results/cells/factors.h5ad",
    "seed_factors": "results/cells/seed_factors.h5ad",
    "checkpoint": f"{CHECKPOINTS}/cells/0/seed_0.safetensors",
}


@dataclass(frozen=True)
class Trial:
    """Where a trial takes place.

    Attributes:
        reference: the clean run.
        step: name of a job, or of a file of `AT_REST`.
        folder: of the trial, that is not there yet.
        random: draws of all that is left to chance.
    """

    reference: Reference
    step: str
    folder: Path
    random: np.random.Generator

    @property
    def output(self) -> Path:
        """What the command says."""
        return self.folder.with_suffix(".txt")

    def pick(self) -> Job:
        """One of the jobs of the step."""
        jobs = self.reference.named(self.step)
        return jobs[self.random.integers(len(jobs))]

    def a_while(self, seconds: float) -> None:
        """Wait, for as long at most."""
        time.sleep(float(self.random.uniform(0, seconds)))

    def start(self, job: Job) -> commands.Running:
        return commands.start(job, self.folder, self.output)

    def finish(self, job: Job) -> None:
        """The same command again, and all is as in the clean run.

        Raises:
            Lost: it is not.
        """
        running = self.start(job)
        if running.wait():
            raise Lost(f"{job.name} fails when it is run again: {running.said}")
        self.reference.check_same(self.folder, job)

    def refused(self, running: commands.Running, what: str) -> bool:
        """Whether a command ended with one line on `what` and exit code 2; False where it ended well.

        Raises:
            Lost: it ended in any other way.
        """
        code, said = running.wait(), running.said
        if code == 0:
            return False
        last = (said.splitlines() or [""])[-1]
        if code != 2 or not last.startswith("nvae-bio: ") or what not in last or "Traceback" in said:
            raise Lost(f"exit code {code}, without a line on {what}: {said}")
        return True


# commands


def kill(trial: Trial) -> None:
    """SIGKILL at a random moment, or just when a file is written; once or twice; also where there are old outputs."""
    job = trial.pick()
    trial.reference.before(job, trial.folder)
    if trial.random.random() < 0.5:
        _put_old_outputs(trial, job)
    for _ in range(trial.random.integers(1, MOST_KILLS + 1)):
        seen = seen_of(trial.folder, job)
        running = trial.start(job)
        if trial.random.random() < AIMED:
            while seen_of(trial.folder, job) == seen and running.process.exitcode is None:
                time.sleep(0.0005)
            trial.a_while(0.01)
        else:
            trial.a_while(trial.reference.seconds[job.name])
        running.send(signal.SIGKILL)
        running.wait()
        trial.reference.check_whole(trial.folder, AS_IT_WAS)
    trial.finish(job)


def _put_old_outputs(trial: Trial, job: Job) -> None:
    """Outputs of an earlier run, but for folders and what a step adds to."""
    for output in job.outputs:
        path = trial.folder / output
        if path.suffix not in ("", ".md", ".store"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(AS_IT_WAS)


def seen_of(folder: Path, job: Job) -> set[tuple[str, int]]:
    """Files beside and in the outputs of a job, with their times."""
    places = {folder / output for output in job.outputs} | {(folder / output).parent for output in job.outputs}
    found = set()
    for place in places:
        try:
            found |= {(path.name, path.stat().st_mtime_ns) for path in place.iterdir()}
        except OSError:  # not there, no folder, or gone in this moment
            continue
    return found


def interrupt_twice(trial: Trial) -> None:
    """SIGINT, and again after a moment."""
    job = trial.pick()
    trial.reference.before(job, trial.folder)
    running = trial.start(job)
    trial.a_while(trial.reference.seconds[job.name])
    for _ in range(2):
        running.send(signal.SIGINT)
        trial.a_while(0.1)
    running.wait()
    trial.reference.check_whole(trial.folder)
    trial.finish(job)


def two_at_once(trial: Trial) -> None:
    """The same command twice in one folder, the second a while after the first: both end well."""
    job = trial.pick()
    trial.reference.before(job, trial.folder)
    first = trial.start(job)
    trial.a_while(trial.reference.seconds[job.name])
    second = commands.start(job, trial.folder, trial.output.with_suffix(".second.txt"))
    for running in (first, second):
        if running.wait():
            raise Lost(f"one of two fails: {running.said}")
    trial.reference.check_same(trial.folder, job)


def disk_full(trial: Trial) -> None:
    """Too few blocks for the outputs."""
    job = trial.pick()
    with disk.mounted(trial.folder):
        trial.reference.before(job, trial.folder)
        sizes = [len(content) for path, content in trial.reference.files.items() if is_below(path, job.outputs)]
        disk.leave_room(trial.folder, int(trial.random.integers(sum(-(-size // disk.BLOCK) for size in sizes))))
        if not trial.refused(trial.start(job), "cannot be written ("):
            raise Lost(f"{job.name} ends well on a full disk")
        trial.reference.check_whole(trial.folder)
        disk.set_options(trial.folder, f"size={disk.ROOMY}")
        trial.finish(job)


def read_only(trial: Trial) -> None:
    """A disk that cannot be written."""
    job = trial.pick()
    with disk.mounted(trial.folder):
        trial.reference.before(job, trial.folder)
        disk.set_options(trial.folder, "ro")
        if not trial.refused(trial.start(job), "ead-only file system"):
            raise Lost(f"{job.name} ends well on a read-only disk")
        trial.reference.check_whole(trial.folder)
        disk.set_options(trial.folder, "rw")
        trial.finish(job)


# files at rest


def truncated(trial: Trial) -> None:
    """A file lost its end, or all."""
    _damaged(trial, lambda content: content[: int(trial.random.integers(len(content)))])


def flipped(trial: Trial) -> None:
    """Some bits of a file changed."""

    _damaged(trial, lambda content: flip(content, trial.random))


def flip(content: bytes, random: np.random.Generator) -> bytes:
    """With some bits turned."""
    changed = bytearray(content)
    for place in random.integers(len(content), size=random.integers(1, MOST_BITS + 1)):
        changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _damaged(trial: Trial, harm: Callable[[bytes], bytes]) -> None:
    """Who reads the file refuses it in one line, or finds in it what was there; made again it is as it was."""
    if trial.step == "checkpoint":
        _damaged_checkpoint(trial, harm)
        return
    path = AT_REST[trial.step]
    readers, maker = trial.reference.readers_of(path), trial.reference.maker_of(path)
    job = readers[trial.random.integers(len(readers))]
    trial.reference.before(job, trial.folder)
    harm_file(trial, trial.folder / path, harm)
    if trial.refused(trial.start(job), path):
        for gone in job.outputs:
            if (trial.folder / gone).is_file():
                raise Lost(f"{gone}: made of a damaged {path}")
    elif any(
        (trial.folder / made).read_bytes() != content
        for made, content in trial.reference.files.items()
        if is_below(made, job.outputs)
    ):
        raise Lost(f"{path} was damaged, and {job.name} took it for whole")
    if commands.run(maker, trial.folder, trial.output):
        raise Lost(f"{maker.name} fails: {trial.output.read_text()}")
    trial.finish(job)


def harm_file(trial: Trial, path: Path, harm: Callable[[bytes], bytes]) -> None:
    """To a file, or to one of those in a folder."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    file = files[trial.random.integers(len(files))]
    before = file.stat()
    file.write_bytes(harm(file.read_bytes()))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # nothing tells that it changed


def _damaged_checkpoint(trial: Trial, harm: Callable[[bytes], bytes]) -> None:
    """Of a training that was killed; the newest, the one before it, or both."""
    path = trial.folder / AT_REST[trial.step]
    (job,) = (job for job in trial.reference.named("train_model") if "results/cells/0/model.json" in job.outputs)
    both = [path, path.with_suffix(".before.safetensors")]
    while True:
        trial.reference.before(job, trial.folder)
        running = trial.start(job)
        while not both[1].exists() and running.process.exitcode is None:
            time.sleep(0.001)
        running.send(signal.SIGKILL)
        running.wait()
        if all(each.exists() for each in both):
            break
        shutil.rmtree(trial.folder)
    for each in both if trial.random.random() < 0.5 else [both[trial.random.integers(2)]]:
        each.write_bytes(harm(each.read_bytes()))
    trial.finish(job)
