"""Several processes train what one would: the same batches, draws and bounds, and the first one writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio.data.files import write_anndata
from nvae_bio.errors import UserError
from nvae_bio.train.ranks import ALONE, Ranks, _from_slurm, _from_torchrun, joined_ranks
from nvae_bio.trained import load_model
from tests import rank_worker
from tests.small_models import law
from tests.toys import fit_settings, prepared_counts

ROOT = Path(__file__).parent.parent


def run_ranks(n: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        started(n, *arguments), env=os.environ | environment, capture_output=True, text=True, cwd=ROOT
    )


def started(n: int, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *arguments]


@cache
def alone(case: str) -> list[pd.DataFrame]:
    data, settings, seeds = rank_worker.CASES[case]
    return [model.history for model in rank_worker.train_models(data(), settings, seeds)]


@pytest.mark.parametrize("n", [2, 4])
def test_they_train_to_what_one_process_does(n: int, tmp_path: Path, warm_programs: Path) -> None:
    python = str(warm_programs / "bin" / "python")  # imports once for all of them
    done = run_ranks(n, "-m", "tests.rank_worker", str(tmp_path), PYTHON_EXEC=python)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 8  # each once: by the first process
    for case, (_, _, seeds) in rank_worker.CASES.items():
        for seed, expected in zip(seeds, alone(case), strict=True):
            found = pd.read_csv(tmp_path / f"{case}.{seed}.csv")
            first = expected["epoch"] == 0
            for column in ("objective", "elbo", "log_likelihood", "elbo_unlabeled"):
                np.testing.assert_allclose(found[column][first], expected[column][first], rtol=1e-5, err_msg=case)
            numbers = expected.select_dtypes("number").columns
            np.testing.assert_allclose(found[numbers], expected[numbers], rtol=2e-3, atol=2e-3, err_msg=case)
            assert not np.array_equal(found["elbo"], found["elbo"].mean())


def test_one_that_dies_ends_them_all_at_once_with_its_traceback(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run_ranks(2, "-m", "tests.rank_worker", str(tmp_path), DIES="1")
    assert done.returncode == 1
    assert "RuntimeError: rank 1 dies" in done.stderr
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - start < 120  # not the half hour that they would wait for it


def test_the_command_in_two_processes_stops_and_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "counts.h5ad"
    write_anndata(prepared_counts(), data)
    settings = fit_settings(30).with_training(patience=None).model_dump_json()
    files = {name: tmp_path / name for name in ("weights", "card", "history")}
    arguments = ["-m", "nvae_bio", "train", f"--data={data}", f"--settings={settings}"]
    arguments += [f"--{name}={path}" for name, path in files.items()]
    kept = tmp_path / "kept"
    whole = run_ranks(2, *arguments)
    assert whole.returncode == 0, whole.stderr
    assert whole.stderr.count("processes train together") == 1
    before = {name: path.read_bytes() for name, path in files.items()}
    assert load_model(files["weights"], files["card"]).card.best_epoch > 0

    for path in files.values():
        path.unlink()
    arguments += [f"--checkpoint={kept}", "--checkpoint-seconds=0.05"]
    process = subprocess.Popen(started(2, *arguments), stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not (kept / "seed_0.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    launcher = psutil.Process(process.pid)
    for each in [*launcher.children(recursive=True), launcher]:
        each.kill()
    process.communicate()
    assert not any(path.exists() for path in files.values())
    done = run_ranks(2, *arguments)
    assert done.returncode == 0, done.stderr
    assert "training goes on from" in done.stderr
    assert {name: path.read_bytes() for name, path in files.items()} == before
    assert not kept.exists()


@law
@given(n=st.integers(0, 40), size=st.integers(1, 6))
def test_the_parts_are_even_and_make_the_whole(n: int, size: int) -> None:
    rows = torch.arange(n)
    parts = [Ranks(rank, size).part(rows) for rank in range(size)]
    assert torch.equal(torch.cat(parts), rows)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_alone_nothing_is_exchanged() -> None:
    rows = torch.randn(3, 2)
    with joined_ranks() as ranks:
        assert ranks is ALONE
        assert ranks.whole(rows, 3, 0) is rows
        assert ranks.from_first("it") == ranks.any_of("it") == "it"
    assert not torch.distributed.is_initialized()


SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n2,n5",
    "SLURM_JOB_ID": "12345",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


def test_what_torchrun_and_srun_say_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # a SLURM that runs here would be asked where n2 is
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}
    assert _from_torchrun(torchrun) == (Ranks(2, 4), 0, "env://")
    assert _from_torchrun({"WORLD_SIZE": "1"}) is None
    assert _from_slurm(SLURM) == (Ranks(3, 4), 1, "tcp://n2:22345")
    assert _from_slurm(SLURM | {"MASTER_ADDR": "n9", "MASTER_PORT": "7"}) == (Ranks(3, 4), 1, "tcp://n9:7")
    assert _from_slurm({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None  # the shell of a job, not a step of it


@pytest.mark.parametrize("lacking", ["RANK", "LOCAL_RANK", "MASTER_ADDR"])
def test_half_a_start_is_refused(lacking: str) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}
    del given[lacking]
    with pytest.raises(UserError, match=f"WORLD_SIZE 2, but no {lacking}; start it with torchrun"):
        _from_torchrun(given)
