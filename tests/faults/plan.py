"""Which trials there are, and the table of their outcomes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.faults import trials, workflow_trials
from tests.faults.jobs import MORE_JOBS
from tests.faults.reference import Lost, Reference
from tests.faults.trials import AT_REST, Trial

COLUMNS = ("fault", "step", "trial", "seed", "outcome")


@dataclass(frozen=True)
class Fault:
    """What can happen.

    Attributes:
        run: a trial of it.
        on: names of the steps, or of the files at rest, that it can happen to.
        per: kills for each trial of it.
    """

    run: Callable[[Trial], None]
    on: Callable[[Reference], Sequence[str]]
    per: int


def _steps(reference: Reference) -> Sequence[str]:
    return reference.steps


def _rules(reference: Reference) -> Sequence[str]:
    """Steps that are rules of the small workflow."""
    return [step for step in reference.steps if step not in {job.name for job in MORE_JOBS}]


def _files(_: Reference) -> Sequence[str]:
    return list(AT_REST)


def _results(_: Reference) -> Sequence[str]:
    return [name for name in AT_REST if name != "checkpoint"]


FAULTS = {
    "kill": Fault(trials.kill, _steps, 1),
    "interrupt_twice": Fault(trials.interrupt_twice, _steps, 12),
    "two_at_once": Fault(trials.two_at_once, _steps, 12),
    "disk_full": Fault(trials.disk_full, _steps, 12),
    "read_only": Fault(trials.read_only, _steps, 12),
    "truncated": Fault(trials.truncated, _files, 9),
    "flipped": Fault(trials.flipped, _files, 9),
    "kill_workflow": Fault(workflow_trials.kill_workflow, _rules, 12),
    "interrupt_workflow_twice": Fault(workflow_trials.interrupt_workflow_twice, _rules, 38),
    "two_workflows": Fault(workflow_trials.two_workflows, _rules, 38),
    "disk_full_workflow": Fault(workflow_trials.disk_full_workflow, _rules, 38),
    "damaged_workflow": Fault(workflow_trials.damaged_workflow, _results, 38),
}


class Outcome(NamedTuple):
    """A row of the table."""

    fault: str
    step: str
    trial: int
    seed: int
    outcome: str


def planned(
    fault: str, n_trials: int, reference: Reference, seed: int, only: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """Step and seed of each of so many trials of a fault: all its steps in random order, and again; or some of them."""
    random = np.random.default_rng([seed, list(FAULTS).index(fault)])
    steps = [step for step in FAULTS[fault].on(reference) if not only or step in only]
    if not steps:
        return
    for start in range(0, n_trials, len(steps)):
        for step in random.permutation(steps)[: n_trials - start]:
            yield str(step), int(random.integers(2**31))


def n_trials_of(fault: str, n_kills: int) -> int:
    """How often a fault is tried beside so many kills."""
    return math.ceil(n_kills / FAULTS[fault].per)


def tried(fault: str, step: str, seed: int, reference: Reference, folder: Path) -> str | None:
    """One trial, in a folder that is deleted; None, or what was lost.

    Raises:
        NoDisk: it needs one, and none can be mounted.
    """
    try:
        FAULTS[fault].run(Trial(reference, step, folder, np.random.default_rng(seed)))
    except (Lost, TimeoutError) as error:
        return str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None
