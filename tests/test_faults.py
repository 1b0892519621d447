"""Whatever happens to a step, nothing is lost: some trials of each fault, and the table of the many."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.faults.disk import NoDisk
from tests.faults.jobs import ROOT, environment, snakemake, snakemake_command
from tests.faults.plan import COLUMNS, FAULTS, planned, tried
from tests.faults.reference import Lost, Reference
from tests.faults.trials import AT_REST, Trial, flip

TABLE = ROOT / "docs" / "faults.csv"
N_TRIALS = {"kill": 8} | {fault: 1 for fault in FAULTS if "workflow" in fault}
CASES = [pytest.param(fault, marks=pytest.mark.slow if "workflow" in fault else ()) for fault in FAULTS]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.made_in(tmp_path_factory.mktemp("faults") / "clean")


@pytest.mark.parametrize("fault", CASES)
def test_a_step_recovers_to_the_same_bits(fault: str, reference: Reference, tmp_path: Path) -> None:
    for step, seed in planned(fault, N_TRIALS.get(fault, 2), reference, seed=1):
        try:
            assert tried(fault, step, seed, reference, tmp_path / "trial") is None, (step, seed)
        except NoDisk as error:
            pytest.skip(str(error))


@pytest.mark.slow
def test_what_snakemake_was_making_when_it_was_killed_is_made_again(reference: Reference, tmp_path: Path) -> None:
    """A folder of pages that is half full, with nothing but Snakemake's own record to tell."""
    (job,), folder = reference.named("plot_pages"), tmp_path / "pages"
    reference.before(job, folder)
    call = [*job.outputs, "--cores=1"]
    process = subprocess.Popen(
        snakemake_command(folder, *call), cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not list((folder / job.outputs[0]).glob("[!.]*")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(Lost, match="missing"):
        reference.check_same(folder, job)
    assert "LockException" in snakemake(folder, *call).stderr
    snakemake(folder, "--unlock")
    done = snakemake(folder, *call)
    assert done.returncode == 0, done.stderr
    reference.check_same(folder, job)


def test_the_trials_see_what_is_half_lost_or_left_over(reference: Reference, tmp_path: Path) -> None:
    folder, last = tmp_path / "copy", reference.jobs[-1]
    shutil.copytree(reference.folder, folder)
    report = folder / "results" / "cells" / "factors.h5ad"
    whole, left = report.read_bytes(), report.with_name(".factors.vm.1.part.h5ad")
    reference.check_whole(folder)
    reference.check_same(folder, last)
    with pytest.raises(Lost, match="left over"):  # what comes after this step is there
        reference.check_same(folder, reference.named("report_factors")[0])

    left.write_bytes(whole[:100])
    reference.check_whole(folder)
    with pytest.raises(Lost, match=r"\.part\.h5ad: left over"):
        reference.check_same(folder, last)
    left.unlink()
    for content in (whole[:-1], flip(whole, np.random.default_rng(0)), b""):
        report.write_bytes(content)
        with pytest.raises(Lost, match=r"results/cells/factors\.h5ad"):
            reference.check_whole(folder)
    report.unlink()
    reference.check_whole(folder)
    with pytest.raises(Lost, match=r"factors\.h5ad: missing"):
        reference.check_same(folder, last)


def test_a_command_that_ends_in_another_way_than_one_line_is_seen(reference: Reference, tmp_path: Path) -> None:
    """The trial of a damaged file fails where its reader says nothing of it: here another file lacks."""
    trial = Trial(reference, "prepared", tmp_path / "trial", np.random.default_rng(0))
    job = next(job for job in reference.named("embed_data") if "results/cells/0/embedded.h5ad" in job.outputs)
    reference.before(job, trial.folder)
    (trial.folder / job.inputs[1]).unlink()
    with pytest.raises(Lost, match="exit code 2, without a line on"):
        trial.refused(trial.start(job), job.inputs[0])
    assert trial.refused(trial.start(job), job.inputs[1])


def test_every_step_and_file_is_one_of_the_small_workflow(reference: Reference) -> None:
    rules = {rule for file in (ROOT / "workflow" / "rules").glob("*.smk") for rule in _rules(file)}
    # of other configs: pictures, several processes, other methods, the benchmark's extra
    other = {
        "plot_images",
        "plot_swaps",
        "train_ranks",
        "evaluate_baseline",
        "evaluate_peer",
        "evaluate_run_with_extra",
    }
    assert rules - other <= {re.sub("_stacked$", "", step) for step in reference.steps}
    for name, path in AT_REST.items():
        assert name == "checkpoint" or reference.readers_of(path), name
        assert (reference.folder / path).exists() == (name != "checkpoint")


def _rules(file: Path) -> list[str]:
    return re.findall(r"^ *(?:use )?rule (?:\w+ as )?(\w+)(?: with)?:", file.read_text(), re.MULTILINE)


def test_the_table_has_every_fault_and_nothing_lost(reference: Reference) -> None:
    table = pd.read_csv(TABLE)
    assert tuple(table.columns) == COLUMNS
    assert set(table["outcome"]) == {"recovered"}
    assert table["trial"].tolist() == list(range(1, len(table) + 1))
    tried_on = table.groupby("fault")["step"].unique()
    assert set(tried_on.index) == set(FAULTS)
    assert (table["fault"] == "kill").sum() >= 200
    assert set(tried_on["kill"]) == set(reference.steps)
    assert set(tried_on["flipped"]) == set(tried_on["truncated"]) == set(AT_REST)


def test_the_page_says_what_the_table_says() -> None:
    table, page = pd.read_csv(TABLE), (ROOT / "docs" / "faults.md").read_text()
    told = {fault: int(count) for fault, count in re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|", page, re.MULTILINE)}
    assert told == table["fault"].value_counts().to_dict()
