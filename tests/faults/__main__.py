"""Many trials of each fault; see docs/faults.md.

python -m tests.faults [--trials KILLS] [--fault NAME] [--step NAME] [--seed SEED] [--table docs/faults.csv]
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from tests.faults.disk import NoDisk
from tests.faults.plan import COLUMNS, FAULTS, Outcome, n_trials_of, planned, tried
from tests.faults.reference import Reference


@click.command()
@click.option(
    "--trials", type=click.IntRange(1), default=240, show_default=True, help="kills; other faults are tried less often"
)
@click.option(
    "--fault", type=click.Choice(list(FAULTS)), multiple=True, default=list(FAULTS), help="only this one; several times"
)
@click.option("--step", multiple=True, help="only this step; several times")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="of steps and moments")
@click.option(
    "--table", type=click.Path(path_type=Path, dir_okay=False), required=True, help="outcomes to write (.csv)"
)
def main(trials: int, fault: tuple[str, ...], step: tuple[str, ...], seed: int, table: Path) -> None:
    """Do what goes wrong on real machines to each step of a small workflow; exit code 1 where anything is lost."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        reference = Reference.made_in(Path(scratch) / "clean")
        print(f"clean run of {len(reference.jobs)} commands: {time.monotonic() - start:.0f} s", flush=True)
        outcomes = list(_outcomes(fault, step, trials, seed, reference, Path(scratch) / "trial"))
    with table.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *outcomes])
    n_lost = sum(outcome.outcome == "lost" for outcome in outcomes)
    print(f"{len(outcomes)} trials, {n_lost} lost, {time.monotonic() - start:.0f} s; table in {table}")
    raise SystemExit(bool(n_lost))


def _outcomes(
    faults: tuple[str, ...], steps: tuple[str, ...], n_kills: int, seed: int, reference: Reference, folder: Path
) -> Iterator[Outcome]:
    """All trials, one after the other, told as they end."""
    number = 0
    for fault in faults:
        for step, own in planned(fault, n_trials_of(fault, n_kills), reference, seed, steps):
            start = time.monotonic()
            try:
                lost = tried(fault, step, own, reference, folder)
            except NoDisk as error:
                print(f"{fault} is left out: {error}", flush=True)
                break
            number += 1
            outcome = Outcome(fault, step, number, own, "recovered" if lost is None else "lost")
            print(*outcome, f"{time.monotonic() - start:.1f} s", lost or "", flush=True)
            yield outcome


if __name__ == "__main__":
    main()
