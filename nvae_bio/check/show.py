"""What `nvae-bio check` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from nvae_bio.check.costs import Job
from nvae_bio.check.data import DataFacts
from nvae_bio.check.step import Checked, CheckedRun

SHOWN_CLASSES = 6


def lines(checked: Checked) -> Iterator[str]:
    """Data sets, runs with a table each, and what all takes."""
    for facts in checked.data:
        yield from _data_lines(facts)
    for run in checked.runs:
        yield ""
        yield from _run_lines(checked, run)
    if checked.runs:
        yield ""
        yield from _summary(checked)
    for note in checked.notes:
        yield f"note: {note}"


def _data_lines(facts: DataFacts) -> Iterator[str]:
    state = "problems, see below" if facts.problems else "ok"
    if facts.obs is None:
        yield f"data set {facts.name}: {facts.kind}; {state if facts.problems else 'not there yet'}"
    else:
        split = ", ".join(f"{facts.part(part):,} {part}" for part in ("train", "validation", "test"))
        size = f"{facts.n:,} samples × {facts.n_features:,} features"
        yield f"data set {facts.name}: {facts.kind}, {size}; {split}; {state}"
        sizes = sorted(facts.sizes.items(), key=lambda one: one[1])
        shown = ", ".join(f"{name} {n:,}" for name, n in sizes[:SHOWN_CLASSES])
        yield f"  {len(sizes)} classes, the smallest: {shown}"
        if facts.kind == "counts":
            yield "  (before quality control, which may leave out more)"
    for note in facts.notes:
        yield f"  note: {note}"


def _run_lines(checked: Checked, run: CheckedRun) -> Iterator[str]:
    units = run.units
    how = f"{1000 * units.step:.1f} ms a training step, {'timed here' if units.is_measured else 'by the formula'}"
    yield f"run {run.name}: {len(run.settings.seeds)} seeds; {how}"
    jobs = [checked.preparations[run.settings.dataset], *run.jobs]
    rows = [_row(job, *_before(job, run)) for job in jobs]
    table = pd.DataFrame(rows)
    shown = table.loc[:, (table != "").any()]  # no column of what ran before, where nothing did
    yield from shown.to_string(index=False).splitlines()


def _row(job: Job, before: str, before_mb: str) -> dict[str, object]:
    seconds = duration(job.seconds) + (f" to {duration(job.most)}" if job.most > 1.1 * job.seconds else "")
    return {
        "rule": job.rule, "jobs": job.n, "time of one": seconds, "all": duration(job.n * job.seconds),
        "MB of memory": f"{job.peak_mb:,.0f}", "took before": before, "MB before": before_mb,
    }  # fmt: skip


def _before(job: Job, run: CheckedRun) -> tuple[str, str]:
    """What jobs of the rule took when they ran here before, by Snakemake's own record of them."""
    name = run.settings.dataset if job.rule == "prepare_data" else run.name
    files = [path for path in Path("benchmarks", job.rule).glob("*.tsv") if f"{path.name}".split(".")[0] == name]
    try:
        found = pd.concat(pd.read_csv(path, sep="\t") for path in files)
        return duration(float(found["s"].mean())), f"{pd.to_numeric(found['max_rss']).max():,.0f}"
    except (ValueError, KeyError, OSError):  # none, or none that Snakemake wrote
        return "", ""


def _summary(checked: Checked) -> Iterator[str]:
    jobs = [job for run in checked.runs for job in run.jobs] + list(checked.preparations.values())
    likely, most = sum(job.n * job.seconds for job in jobs), sum(job.n * job.most for job in jobs)
    n = sum(job.n for job in jobs)
    yield f"all {n} jobs, one after the other: about {duration(likely)}, at most {duration(most)}"
    free = "unknown" if checked.memory_mb is None else f"{checked.memory_mb:,.0f} MB are free"
    yield f"memory of the largest job: about {max(job.peak_mb for job in jobs):,.0f} MB; {free}"
    yield f"disk: about {checked.needed_mb:,.0f} MB; {checked.disk_mb:,.0f} MB are free"
    timed = any(run.units.is_measured for run in checked.runs)
    how = ", with training steps, embedding and audit as timed here" if timed else "; nothing was timed here"
    yield f"These are estimates: a formula fitted to measured jobs{how}."
    yield "A training ends early or not: the first time is likely, the second where it goes on to its last epoch."


def duration(seconds: float) -> str:
    """Seconds, minutes or hours.

    >>> duration(4.2), duration(300), duration(9000)
    ('4 s', '5 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
