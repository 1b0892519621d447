"""Cases run in child processes: a time and a memory limit each, and a crash is one case's alone."""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nvae_bio.errors import UserError
from nvae_bio.guard import data_bytes, guarded
from tests.fuzz.mutations import change_folder
from tests.fuzz.readers import Reader

SECONDS = 15.0  # a case may take
BYTES = 2**30  # a case may ask for, beyond what the process has
BATCH = 25  # cases a child, so that a case does not pay for a fork
LONGEST = 5000  # characters of a line: a name of the file may be in it
OUTCOMES = ("refused", "read", "crashed_in_library", "uncaught", "hung", "over_memory")


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: its number.
        outcome: one of `OUTCOMES`.
        said: the line, or what else tells of it.
    """

    case: int
    outcome: str
    said: str


def limit_memory() -> None:
    """What this process may have: what it has, and `BYTES`."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, ((data_bytes() or 0) + BYTES, hard))


def judge(reader: Reader, folder: Path, case: int, done: str = "") -> Outcome:
    """Read the files of a folder, in this process."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder)
    except UserError as error:
        line = str(error)
        if not line or len(line.splitlines()) > 1 or len(line) > LONGEST:
            return Outcome(case, "uncaught", f"{done}: no single line, or a long one: {line[:500]!r}")
        return Outcome(case, "over_memory" if "memory" in line else "refused", line)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in where if "nvae_bio/" in frame.filename]
        text = " ".join(str(error).split())[:300]
        return Outcome(case, "uncaught", f"{done}: {type(error).__name__}: {text} ({' '.join(own)}; {where[-1]})")
    return Outcome(case, "read", done)


def make_case(reader: Reader, seeds: Sequence[Path], folder: Path, seed: int, case: int) -> str:
    """The files of a case, which follow from its number: returns what was changed."""
    rng = np.random.default_rng((seed, case))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds[case % len(seeds)], folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = change_folder(folder, rng)
        if reader.sign is not None and rng.random() < 0.7:
            reader.sign(folder)
    return done


def _work(reader: Reader, seeds: Sequence[Path], folder: Path, seed: int, cases: range, write: int) -> None:
    """The child: an outcome a line, for each case."""
    for case in cases:
        done = make_case(reader, seeds, folder, seed, case)
        limit_memory()
        outcome = judge(reader, folder, case, done)
        os.write(write, (json.dumps([outcome.case, outcome.outcome, outcome.said]) + "\n").encode())


def _lines(read: int, pid: int) -> Iterator[str | None]:
    """Lines of a child as they come; None, and the child is killed, where one takes too long."""
    text = b""
    while True:
        until = time.monotonic() + SECONDS
        while b"\n" not in text:
            if not select.select([read], [], [], max(until - time.monotonic(), 0))[0]:
                os.kill(pid, signal.SIGKILL)
                yield None
                return
            more = os.read(read, 65536)
            if not more:
                return
            text += more
        line, _, text = text.partition(b"\n")
        yield line.decode()


def _child(reader: Reader, seeds: Sequence[Path], folder: Path, seed: int, cases: range) -> list[Outcome]:
    """Outcomes of the first of these cases: up to one that kills the child, or all."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            _work(reader, seeds, folder, seed, cases, write)
        finally:
            os._exit(0)
    os.close(write)
    outcomes, hung = [], False
    for line in _lines(read, pid):
        hung = line is None
        if line is not None:
            outcomes.append(Outcome(*json.loads(line)))
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    if len(outcomes) < len(cases):
        died = signal.Signals(status & 0x7F).name if status & 0x7F else f"exit code {status >> 8}"
        outcomes.append(_at_the_door(reader, folder, cases[len(outcomes)], "hung" if hung else "crashed", died))
    return outcomes


def _at_the_door(reader: Reader, folder: Path, case: int, what: str, died: str) -> Outcome:
    """A case that killed its child, read again as the command line reads: its user is to see one line."""
    lines = folder.with_name("lines")
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(lines, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os._exit(guarded(lambda: _exit_code(reader, folder), seconds=SECONDS / 3))
    status = os.waitpid(pid, 0)[1]
    told = [line for line in lines.read_text(errors="replace").splitlines() if line.startswith("nvae-bio: ")]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 2 and len(told) == 1:
        return Outcome(case, "crashed_in_library", f"{died}: {told[0]}")
    return Outcome(case, "hung" if what == "hung" else "uncaught", f"{died}, and {told} at the door")


def _exit_code(reader: Reader, folder: Path) -> int:
    outcome = judge(reader, folder, 0)
    print(f"nvae-bio: {outcome.said}", file=sys.stderr)
    return 0 if outcome.outcome == "read" else 2


def run(reader: Reader, seeds: Sequence[Path], scratch: Path, seed: int, n: int) -> list[Outcome]:
    """The outcomes of n cases."""
    gc.freeze()  # what is there stays where it is: children share its memory
    outcomes: list[Outcome] = []
    while len(outcomes) < n:
        start = len(outcomes)
        outcomes += _child(reader, seeds, scratch / "case", seed, range(start, min(start + BATCH, n)))
    return outcomes


def make_seeds(reader: Reader, folder: Path) -> list[Path]:
    """The unchanged files, each seed's in a folder of its own.

    Raises:
        AssertionError: the reader refuses them.
    """
    seeds = []
    for number in range(reader.n):
        (folder / str(number)).mkdir(parents=True)
        reader.make(folder / str(number), number)
        seeds.append(folder / str(number))
        outcome = judge(reader, seeds[-1], 0)
        assert outcome.outcome == "read", outcome
    return seeds


def count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of each kind."""
    found = Counter(outcome.outcome for outcome in outcomes)
    return {name: found[name] for name in OUTCOMES}
