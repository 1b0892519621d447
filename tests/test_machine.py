"""What the machine offers is seen, what is decided by it is written down, and torch is left as it was found."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from nvae_bio import machine, train_model
from nvae_bio.cli import main
from nvae_bio.config import FitSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.data.samples import to_samples
from nvae_bio.errors import UserError
from nvae_bio.machine import BATCH_SIZE, available_threads, fits, matmul_precision, pick_device, reproducible
from nvae_bio.train.loop import evaluate
from nvae_bio.train.step import labelled_rows
from nvae_bio.trained import TrainedModel, load_model
from tests.toys import CLASSES, fit_settings, prepared_counts, trained


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of 64 CPUs without a limit; the folder is that of its control group."""
    for name in machine.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    files = ((tmp_path / "cpu.max",), (tmp_path / "quota", tmp_path / "period"))
    monkeypatch.setattr(machine.cgroup_quota, "__defaults__", (files,))
    return tmp_path


# --- threads ---------------------------------------------------------------------------------------------------------


def test_all_cpus_are_offered_where_nothing_limits_them(wide: Path) -> None:
    assert available_threads() == 64


@pytest.mark.parametrize("name", ["SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"])
@pytest.mark.parametrize(
    ("value", "expected"), [("6", 6), ("1", 1), ("0", 1), ("99", 64), ("", 64), ("many", 64), ("-3", 64), ("4,2", 64)]
)
def test_variables_limit_threads(
    name: str, value: str, expected: int, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert available_threads() == expected


def test_affinity_limits_threads(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7})
    assert available_threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_threads() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_threads() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", 64),
        ("150000 100000\n", 2),
        ("200000 100000", 2),
        ("1000 100000", 1),
        ("9900000 100000", 64),
        ("", 64),
        ("150000", 64),
        ("1 2 3", 64),
        ("150000 fast", 64),
        ("150000 0", 64),
    ],
)
def test_the_control_group_limits_threads(text: str, expected: int, wide: Path) -> None:
    (wide / "cpu.max").write_text(text)
    assert available_threads() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("250000", 3), ("100000", 1), ("none", 64)])
def test_the_control_group_of_version_1_limits_threads(quota: str, expected: int, wide: Path) -> None:
    (wide / "quota").write_text(f"{quota}\n")
    (wide / "period").write_text("100000\n")
    assert available_threads() == expected
    (wide / "period").unlink()
    assert available_threads() == 64


def test_the_least_limit_counts(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wide / "cpu.max").write_text("450000 100000")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert available_threads() == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert available_threads() == 3


def test_threads_of_this_machine_are_a_number() -> None:
    assert 1 <= available_threads() <= (os.cpu_count() or 1)


# --- torch is left as it was -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["highest", "high"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_precision_of_products_is_restored(before: str, fails: bool) -> None:
    with matmul_precision(before):
        try:
            with matmul_precision("medium"):
                assert torch.get_float32_matmul_precision() == "medium"
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        assert torch.get_float32_matmul_precision() == before


def test_threads_and_kernels_are_restored_after_an_error() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(KeyError), reproducible(threads + 1):
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        raise KeyError
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize("before", [False, True])
def test_numbers_below_the_normal_range_are_zero_in_the_block_alone(before: bool) -> None:
    def is_flushed() -> bool:
        return torch.tensor(1e-30).mul(1e-10).item() == 0.0

    torch.set_flush_denormal(before)
    try:
        with reproducible(1):
            assert is_flushed()
        assert is_flushed() == before
    finally:
        torch.set_flush_denormal(False)
    assert not is_flushed()


def test_validation_is_in_full_precision_whatever_training_has() -> None:
    samples, model = to_samples(prepared_counts(), CLASSES), trained("counts")
    rows, found = labelled_rows(prepared_counts(), samples, "validation"), []
    for precision in ("highest", "medium"):
        with reproducible(1), matmul_precision(precision):
            found += evaluate(model.network, samples, rows, model.card.settings)
            assert torch.get_float32_matmul_precision() == precision
    assert astuple(found[0]) == astuple(found[1])


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "has_gpu", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_devices_are_picked(name: str, has_gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert pick_device(name).type == expected


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^device: 'cuda' is not here; allowed: auto, cpu$"):
        pick_device("cuda")


def test_data_stay_on_a_gpu_as_long_as_they_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1000, 5000))
    assert fits(799, torch.device("cuda")) and not fits(801, torch.device("cuda"))
    assert fits(10**15, torch.device("cpu"))


# --- what is decided is written down ---------------------------------------------------------------------------------


def make_settings(**training: object) -> FitSettings:
    return FitSettings.model_validate({"model": {"hidden": [16]}, "training": {"max_epochs": 2, **training}})


def check_saved(model: TrainedModel) -> None:
    """The card names a batch size and a number of threads, not what was left open."""
    training = json.loads(model.card.model_dump_json())["settings"]["training"]
    assert isinstance(training["batch_size"], int) and isinstance(training["n_threads"], int)


def test_the_batch_size_of_the_device_is_recorded() -> None:
    settings = make_settings(device="cpu")
    assert settings.training.batch_size is None
    model = train_model(prepared_counts(), settings, 0)
    check_saved(model)
    assert model.card.settings.training.batch_size == BATCH_SIZE["cpu"] == 128
    asked = train_model(prepared_counts(), make_settings(device="cpu", batch_size=128), 0)
    assert model.history.equals(asked.history) and model.card == asked.card


@pytest.mark.parametrize("fastest", [1, 2])
def test_the_faster_number_of_threads_is_taken_recorded_and_said(
    fastest: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # a clock by which the steps on `fastest` threads take one second a trial, and all others nine
    passed = [0.0]

    def clock() -> float:
        passed[0] += 1.0 if torch.get_num_threads() == fastest else 9.0
        return passed[0]

    monkeypatch.setattr("nvae_bio.train.step.available_threads", lambda: 2)
    monkeypatch.setattr("nvae_bio.train.step.time", SimpleNamespace(perf_counter=clock))
    threads = torch.get_num_threads()
    with caplog.at_level(logging.INFO, "nvae_bio"):
        model = train_model(prepared_counts(), make_settings(device="cpu", n_threads="auto", batch_size=16), 0)
    check_saved(model)
    assert model.card.settings.training.n_threads == fastest
    assert torch.get_num_threads() == threads
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"threads: {fastest} (a step with 1: ") and ", 2: " in said[0]
    asked = train_model(prepared_counts(), make_settings(device="cpu", n_threads=fastest, batch_size=16), 0)
    assert model.history.equals(asked.history) and model.card == asked.card  # the trial leaves no trace


def test_one_cpu_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("nvae_bio.train.step.available_threads", lambda: 1)
    monkeypatch.setattr("nvae_bio.train.step.train_steps", refuse)
    model = train_model(prepared_counts(), make_settings(n_threads="auto"), 0)
    check_saved(model)
    assert model.card.settings.training.n_threads == 1


# --- several seeds on the command line -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with prepared counts."""
    monkeypatch.chdir(tmp_path)
    write_anndata(prepared_counts(), tmp_path / "data.h5ad")
    return tmp_path


def make_arguments(seeds: list[int], **n_files: int) -> list[str]:
    """Of `train`; one file of each kind for each seed unless told otherwise."""
    arguments = ["train", "--data", "data.h5ad", "--settings", fit_settings(2).model_dump_json()]
    for option, name in (("weights", "model.safetensors"), ("card", "model.json"), ("history", "history.parquet")):
        for place in range(n_files.get(option, len(seeds))):
            arguments += [f"--{option}", f"{place}/{name}"]
    for seed in seeds:
        arguments += ["--seed", str(seed)]
    return arguments


def test_several_seeds_write_one_model_each(folder: Path) -> None:
    assert main(make_arguments([7, 2])) == 0
    for place, seed in enumerate([7, 2]):
        files = sorted(path.name for path in (folder / str(place)).iterdir())
        assert files == ["history.parquet", "model.json", "model.safetensors"]
        found = load_model(folder / f"{place}/model.safetensors", folder / f"{place}/model.json")
        assert found.card.seed == seed and found.card.stacked_seeds == [7, 2]
        alone = train_model(prepared_counts(), fit_settings(2), seed)
        for name, value in alone.network.state_dict().items():
            torch.testing.assert_close(found.network.state_dict()[name], value, rtol=1e-3, atol=1e-3)
        history = pd.read_parquet(folder / f"{place}/history.parquet")
        assert history["elbo"].tolist() == pytest.approx(alone.history["elbo"].tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("seeds", "n_files", "said"),
    [
        ([1, 2], {"weights": 1}, "--weights: given 1 times for 2 seeds; give it once for each --seed"),
        ([1, 2], {"card": 3}, "--card: given 3 times for 2 seeds; give it once for each --seed"),
        ([1], {"history": 2}, "--history: given 2 times for 1 seeds; give it once for each --seed"),
        ([], {"weights": 2, "card": 2, "history": 2}, "--weights: given 2 times for 1 seeds"),
        ([4, 0, 4], {}, "seeds: 4, 0, 4; at least one, and different from each other"),
    ],
)
def test_seeds_without_files_of_their_own_are_refused(
    seeds: list[int], n_files: dict[str, int], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(make_arguments(seeds, **n_files)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"nvae-bio: {said}")
    assert [path.name for path in folder.iterdir()] == ["data.h5ad"]
