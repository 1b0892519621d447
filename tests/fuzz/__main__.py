"""The long form: `python -m tests.fuzz` reads changed files thousands of times and writes docs/fuzz.csv."""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path

import click
import pandas as pd

from nvae_bio.data.files import write_csv
from tests.fuzz.child import count, make_seeds, run
from tests.fuzz.readers import READERS

BAD = ("uncaught", "hung")


@click.command()
@click.option("--cases", default=2000, show_default=True, help="of each reader")
@click.option("--seed", default=0, show_default=True, help="of all changes")
@click.option("--reader", "names", multiple=True, help="only these, whose rows are replaced; default: all")
@click.option("--output", type=click.Path(path_type=Path), default=Path("docs/fuzz.csv"), show_default=True)
@click.option("--lines", is_flag=True, help="print what each case ended with")
def main(cases: int, seed: int, names: tuple[str, ...], output: Path, lines: bool) -> None:
    """Count what becomes of changed files; exit code 1 where a case ends in anything but a line or an answer."""
    before = pd.read_csv(output).to_dict("records") if names and output.exists() else []
    rows = {row["reader"]: row for row in before}
    for name in names or READERS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seeds = make_seeds(READERS[name], Path(scratch) / "seeds")
            outcomes = run(READERS[name], seeds, Path(scratch), seed, cases)
        rows[name] = {"reader": name, "cases": cases, **count(outcomes), "seed": seed}
        for each in outcomes:
            if lines or each.outcome in (*BAD, "crashed_in_library"):
                click.echo(f"{name} {each.case}: {each.outcome}: {each.said}")
        click.echo(f"{name}: {count(outcomes)} in {time.monotonic() - started:.0f} s")
        write_csv(pd.DataFrame([rows[name] for name in READERS if name in rows]), output)
    sys.exit(int(any(row[key] for row in rows.values() for key in BAD)))


if __name__ == "__main__":
    main()
