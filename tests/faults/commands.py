"""Commands as processes of their own, forked from one that has all imported: a start takes no seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from nvae_bio.cli import main
from tests.faults.jobs import Job
from tests.warm import run_imported

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["tests.faults.imported"])
SECONDS = 120  # in which any command ends


@dataclass(frozen=True)
class Running:
    """A command that was started.

    Attributes:
        process: the first of its group.
        output: file of all that it says.
    """

    process: ForkServerProcess
    output: Path

    def send(self, number: signal.Signals) -> None:
        """A signal to the whole group; a process that is over gets none."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, number)

    def wait(self) -> int:
        """Its exit code, below 0 of a signal.

        Raises:
            TimeoutError: it does not end; it is killed.
        """
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"it does not end: {self.said}")
        return self.process.exitcode

    @property
    def said(self) -> str:
        """All that it said."""
        return self.output.read_text(errors="replace")


def start(job: Job, folder: Path, output: Path) -> Running:
    """Start a job's command in a folder, in a session of its own; checkpoints are written all the time."""
    often = ("--checkpoint-seconds=0.02",) if "--checkpoint" in job.arguments else ()
    process = SERVER.Process(target=_command, args=([*job.arguments, *often], folder, output))
    with _one_thread():
        process.start()
    running = Running(process, output)
    _wait_for_group(running)
    return running


def run(job: Job, folder: Path, output: Path) -> int:
    """Run a job's command to its end; its exit code."""
    return start(job, folder, output).wait()


def _command(arguments: list[str], folder: Path, output: Path) -> None:
    """Run a command in a session of its own."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os._exit(run_imported(lambda: sys.exit(main(arguments)), folder, {1: file, 2: file}))


def _wait_for_group(running: Running) -> None:
    """Until it leads its group, so that a signal to that reaches it."""
    pid = running.process.pid or 0
    while running.process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                return
        time.sleep(0.001)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The environment that the server of the processes starts with: as that of a job with one thread."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
