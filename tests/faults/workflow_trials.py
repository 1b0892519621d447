"""Trials of Snakemake and its jobs: what is done to them, `--unlock` where a lock stays, and the same call again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

from tests.faults import disk
from tests.faults.jobs import Job, environment, snakemake, snakemake_command
from tests.faults.reference import Lost
from tests.faults.trials import AIMED, AT_REST, Trial, flip, harm_file, seen_of

OVERHEAD = 6.0  # seconds: Snakemake, and the imports of its job, about
SECONDS = 300  # in which it ends


def kill_workflow(trial: Trial) -> None:
    """SIGKILL to Snakemake and its job at once."""
    job, process = _started(trial)
    _wait_for_a_moment(trial, job, process)
    _signal(process, signal.SIGKILL)
    process.wait(SECONDS)
    _finish(trial, job)


def interrupt_workflow_twice(trial: Trial) -> None:
    """Ctrl-C in the terminal in which Snakemake runs, and again after a moment."""
    job, process = _started(trial)
    _wait_for_a_moment(trial, job, process)
    for _ in range(2):
        _signal(process, signal.SIGINT)
        trial.a_while(0.5)
    process.wait(SECONDS)
    _finish(trial, job)


def two_workflows(trial: Trial) -> None:
    """Snakemake twice in one folder, the second a while after the first: one at least ends well."""
    job, process = _started(trial)
    _wait_a_while(trial, job)
    codes = [snakemake(trial.folder, *_request(job)).returncode, process.wait(SECONDS)]
    if 0 not in codes:
        raise Lost(f"both fail, with exit codes {codes}: {trial.output.read_text()}")
    _finish(trial, job)


def disk_full_workflow(trial: Trial) -> None:
    """A disk that gets full at some time while Snakemake runs."""
    with disk.mounted(trial.folder):
        job, process = _started(trial, int(trial.random.integers(1, 64)))
        process.wait(SECONDS)
        disk.set_options(trial.folder, f"size={disk.ROOMY}")
        _finish(trial, job)


def damaged_workflow(trial: Trial) -> None:
    """A file at rest has changed bits: a log names it, and with it deleted the same call makes it again."""
    path = AT_REST[trial.step]
    readers = trial.reference.readers_of(path)
    job = readers[trial.random.integers(len(readers))]
    trial.reference.before(job, trial.folder)
    harm_file(trial, trial.folder / path, lambda content: flip(content, trial.random))
    if snakemake(trial.folder, *_request(job)).returncode:
        logs = [log.read_text() for log in (trial.folder / "logs").rglob("*.log")]
        if not any(line.startswith("nvae-bio: ") and path in line for log in logs for line in log.splitlines()):
            raise Lost(f"{path} was damaged, and no log says so: {logs}")
        harmed = trial.folder / path
        shutil.rmtree(harmed) if harmed.is_dir() else harmed.unlink()
    _finish(trial, job)


def _request(job: Job) -> list[str]:
    return [*job.outputs, "--cores=1"]


def _started(trial: Trial, n_blocks: int | None = None) -> tuple[Job, subprocess.Popen[str]]:
    """Snakemake, asked for the outputs of a job of the step; on a disk with so many blocks left."""
    job = trial.pick()
    trial.reference.before(job, trial.folder)
    if n_blocks is not None:
        disk.leave_room(trial.folder, n_blocks)
    with trial.output.open("w") as output:
        process = subprocess.Popen(
            snakemake_command(trial.folder, *_request(job)), cwd=trial.folder, env=environment(), stdout=output,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    return job, process


def _wait_a_while(trial: Trial, job: Job) -> None:
    trial.a_while(OVERHEAD + trial.reference.seconds[job.name])


def _wait_for_a_moment(trial: Trial, job: Job, process: subprocess.Popen[str]) -> None:
    """Any, or just when a file is written."""
    if trial.random.random() >= AIMED:
        _wait_a_while(trial, job)
        return
    seen = seen_of(trial.folder, job)
    while seen_of(trial.folder, job) == seen and process.poll() is None:
        time.sleep(0.001)
    trial.a_while(0.05)


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """To its whole group; one that is over gets none."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def _finish(trial: Trial, job: Job) -> None:
    """The same call again, and all is as in the clean run.

    Raises:
        Lost: it is not.
    """
    trial.reference.check_whole(trial.folder)
    done = snakemake(trial.folder, *_request(job))
    if "LockException" in done.stdout + done.stderr:
        snakemake(trial.folder, "--unlock")
        done = snakemake(trial.folder, *_request(job))
    if done.returncode:
        raise Lost(f"the same call again fails: {(done.stdout + done.stderr)[-3000:]}")
    trial.reference.check_same(trial.folder, job)
