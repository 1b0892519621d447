"""Checkpoints: whatever stops a training, it goes on and ends with the same bits, or says why it starts anew."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from nvae_bio import train_models
from nvae_bio.cli import main
from nvae_bio.config import FitSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.errors import Interrupted
from nvae_bio.train import checkpoint as module
from nvae_bio.train.checkpoint import Checkpoints, Keeping, read_checkpoint, stop_request
from nvae_bio.train.state import State
from nvae_bio.trained import TrainedModel
from tests.small_models import law
from tests.toys import fit_settings, prepared_counts, prepared_features, prepared_images, stored_counts

SEEDS = {"alone": [3], "as a stack": [3, 5, 6]}
PATIENT = {"max_epochs": 30, "patience": 2, "learning_rate": 0.02}  # so that models leave the stack one by one


def make_settings(max_epochs: int = 3, model: dict[str, Any] | None = None, **training: Any) -> FitSettings:
    settings = fit_settings(max_epochs, **(model or {}))
    return settings.with_training(**training)


CASES: dict[str, tuple[Any, FitSettings]] = {
    "counts": (prepared_counts, make_settings()),
    "from a store": (stored_counts, make_settings(batch_size=40)),
    "linear decoder, turned": (prepared_counts, make_settings(4, {"decoder": "linear"}, warmup_share=0.25)),
    "penalty": (prepared_features, make_settings(3, {"independence": "mmd", "independence_weight": 10.0})),
    "images": (prepared_images, make_settings(8)),
    "balanced": (prepared_counts, make_settings(class_balance="balanced", learning_rate_schedule="cosine")),
    "stops early": (prepared_features, make_settings(**PATIENT)),
}


class Alarm:
    """A stop request of which the n-th look is the one that finds a signal."""

    def __init__(self, n: int) -> None:
        self.left = n

    @property
    def name(self) -> str | None:
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


def stopping(folder: Path, n_steps: int) -> Keeping:
    return Keeping(folder, 1e9, Alarm(n_steps))  # type: ignore[arg-type]


def assert_same(one: list[TrainedModel], other: list[TrainedModel]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.card == b.card
        pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
        for name, value in a.network.state_dict().items():
            assert torch.equal(value, b.network.state_dict()[name]), name


def train_to_the_end(data: AnnData, settings: FitSettings, seeds: list[int], folder: Path, stops: list[int]) -> Any:
    """Stopped after so many steps, each time of a new start."""
    for n_steps in stops:
        with pytest.raises(Interrupted, match="SIGTERM: training stopped in epoch"):
            train_models(data, settings, seeds, keeping=stopping(folder, n_steps))
    return train_models(data, settings, seeds, keeping=Keeping(folder))


@pytest.mark.parametrize("together", list(SEEDS))
@pytest.mark.parametrize("case", list(CASES))
def test_stopped_at_any_step_it_ends_with_the_same_bits(case: str, together: str, tmp_path: Path) -> None:
    data, settings = CASES[case][0](), CASES[case][1]
    whole = train_models(data, settings, SEEDS[together])
    assert_same(train_to_the_end(data, settings, SEEDS[together], tmp_path, [0, 1, 4, 3]), whole)


def test_unlabelled_samples_go_on_too(tmp_path: Path) -> None:
    data = prepared_counts().copy()
    hidden = np.random.default_rng(0).random(data.n_obs) < 0.5
    data.obs["label"] = data.obs["label"].where(~(hidden & (data.obs["split"] == "train")))
    whole = train_models(data, fit_settings(), [1])
    assert np.isfinite(whole[0].history["elbo_unlabeled"]).any()
    assert_same(train_to_the_end(data, fit_settings(), [1], tmp_path, [2, 3]), whole)


@settings(law, max_examples=8)
@given(stops=st.lists(st.integers(0, 12), max_size=3))
def test_at_any_steps_that_hypothesis_thinks_of(stops: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    early, folder = CASES["stops early"][1], tmp_path_factory.mktemp("checkpoints")
    whole = train_models(prepared_features(), early, [0, 1])
    assert_same(train_to_the_end(prepared_features(), early, [0, 1], folder, stops), whole)


def test_models_that_are_done_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvae_bio.train.step.STACKED_NUMBERS", 0)  # one after the other
    data, settings = prepared_counts(), fit_settings()
    n_steps = 3 * -(-int((data.obs["split"] == "train").sum()) // 128)
    first = train_to_the_end(data, settings, [0, 1], tmp_path, [n_steps + 1])  # in the second model
    assert_same(first, train_models(data, settings, [0, 1]))

    monkeypatch.setattr("nvae_bio.train.loop._steps", lambda *_: pytest.fail("a step was taken"))
    assert_same(train_models(data, settings, [0, 1], keeping=Keeping(tmp_path)), first)


def saved_in(folder: Path, n_steps: int = 4) -> Path:
    """A folder with two checkpoints of a training of seed 0, one step apart."""
    for n in (n_steps, 0):
        with pytest.raises(Interrupted):
            train_models(prepared_counts(), fit_settings(), [0], keeping=stopping(folder, n))
    assert sorted(path.name for path in folder.iterdir()) == ["seed_0.before.safetensors", "seed_0.safetensors"]
    return folder / "seed_0.safetensors"


def resumed(folder: Path, caplog: pytest.LogCaptureFixture, settings: FitSettings | None = None) -> list[str]:
    """What is told of the checkpoints by a training to the end, which gives what it gives without any."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "nvae_bio"):
        outcome = train_models(prepared_counts(), settings or fit_settings(), [0], keeping=Keeping(folder))
    assert_same(outcome, train_models(prepared_counts(), settings or fit_settings(), [0]))
    return [line for line in caplog.messages if str(folder) in line]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "harm", ["truncated", "empty", "flipped in the header", "flipped in the middle", "flipped at the end"]
)
def test_of_a_broken_checkpoint_the_one_before_is_used(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved_in(tmp_path)
    size = path.stat().st_size
    if harm in ("truncated", "empty"):
        os.truncate(path, size // 2 if harm == "truncated" else 0)
    else:
        flip(path, {"header": 40, "middle": size // 2, "end": size - 1}[harm.split()[-1]])
    lines = resumed(tmp_path, caplog)
    assert f"{path}: cannot be read as a checkpoint" in lines[0]
    assert lines[0].endswith("; not used")
    assert f"{path.with_suffix('.before.safetensors')}" not in lines[0]
    assert "training goes on from epoch" in lines[1]


def test_where_both_are_broken_it_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved_in(tmp_path)
    for each in (path, path.with_suffix(".before.safetensors")):
        os.truncate(each, 100)
    lines = resumed(tmp_path, caplog)
    assert len(lines) == 2
    assert all(line.endswith("; not used") for line in lines)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = saved_in(tmp_path)
    content, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(len(content), size=60):
        path.write_bytes(content)
        flip(path, int(place))
        with pytest.raises(Exception):  # noqa: B017 (a library's, of any type, or ours)
            read_checkpoint(path)
    path.write_bytes(content)
    assert read_checkpoint(path).position["step"] > 0


def test_a_checkpoint_of_other_settings_or_data_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved_in(tmp_path)
    other = fit_settings().with_training(learning_rate=0.002)
    lines = resumed(tmp_path, caplog, other)
    assert lines[0] == f"{path}: of another training (settings.training.learning_rate 0.001, now 0.002); not used"
    assert len(lines) == 2  # that before it, likewise

    kept = Checkpoints(Keeping(saved_in(tmp_path / "more").parent), fit_settings(), [0], "other", "cpu")
    assert kept.saved is None
    assert "; data " in caplog.messages[-1] or "(data " in caplog.messages[-1]


def test_a_full_disk_is_told_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = saved_in(tmp_path)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    monkeypatch.setattr(module.os, "fsync", full)
    with caplog.at_level(logging.INFO, "nvae_bio"):
        outcome = train_models(prepared_counts(), fit_settings(), [0], keeping=Keeping(tmp_path, 0.0))
    assert f"{path}: checkpoint not written (No space left on device); training goes on" in caplog.messages
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
    assert_same(outcome, train_models(prepared_counts(), fit_settings(), [0]))
    with pytest.raises(Interrupted, match="no checkpoint could be written"):
        train_models(prepared_counts(), fit_settings(), [0], keeping=stopping(tmp_path / "more", 1))


def test_the_number_of_threads_is_that_of_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvae_bio.train.step._faster_threads", lambda *_: 2)
    settings = fit_settings().with_training(n_threads="auto")
    with pytest.raises(Interrupted):
        train_models(prepared_counts(), settings, [0], keeping=stopping(tmp_path, 2))
    monkeypatch.setattr("nvae_bio.train.step._faster_threads", lambda *_: pytest.fail("measured again"))
    (model,) = train_models(prepared_counts(), settings, [0], keeping=Keeping(tmp_path))
    assert model.card.settings.training.n_threads == 2


def test_it_saves_every_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    saved: list[tuple[int, int]] = []
    save = Checkpoints.save

    def noted(self: Checkpoints, state: State) -> bool:
        saved.append((state.epoch, state.step))
        return save(self, state)

    monkeypatch.setattr(Checkpoints, "save", noted)
    train_models(prepared_counts(), fit_settings(), [0], keeping=Keeping(tmp_path, 3))
    n_steps = -(-int((prepared_counts().obs["split"] == "train").sum()) // 64)
    done = [epoch * n_steps + step for epoch, step in saved]
    assert set(np.diff(done[:-1])) == {3}  # a tick a step
    assert saved[-1] == (3, 0)  # at the end, in any case


def test_signals_are_noted_once_and_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in module.SIGNALS}
    with stop_request() as stop:
        assert stop.name is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.name == "SIGUSR1"
        assert {number: signal.getsignal(number) for number in module.SIGNALS} == before
    assert {number: signal.getsignal(number) for number in module.SIGNALS} == before


def test_what_is_saved_is_all_there_is(tmp_path: Path) -> None:
    """A state restored from a checkpoint has the tensors and the position of the one that was saved."""
    saved = read_checkpoint(saved_in(tmp_path))
    model = train_models(prepared_counts(), fit_settings(), [0])[0]
    fresh = State.start([model.card.build()], [0], fit_settings().training)
    fresh.restore(saved.tensors, saved.position)
    assert fresh.position() == saved.position
    assert fresh.tensors().keys() == saved.tensors.keys()
    assert all(torch.equal(value, saved.tensors[name]) for name, value in fresh.tensors().items())


# the command, as a process that is killed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "counts.h5ad"
    write_anndata(prepared_counts(), path)
    return path


def command(data: Path, folder: Path, *more: str) -> list[str]:
    files = [f"--{name}={folder / name}" for name in ("weights", "card", "history")]
    settings = fit_settings(40).with_training(patience=None).model_dump_json()
    return ["train", f"--data={data}", *files, f"--settings={settings}", *more]


def outcome_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("weights", "card", "history")}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    assert main(command(data, folder)) == 0
    return outcome_of(folder)


def started(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "nvae_bio", *arguments], stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.01)
    pytest.fail(f"{path} never came")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_stops_with_exit_code_75(
    number: signal.Signals, data: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    arguments = command(data, tmp_path, f"--checkpoint={kept}", "--checkpoint-seconds=0.01")
    process = started(arguments)
    wait_for(kept / "seed_0.safetensors", process)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == os.EX_TEMPFAIL, errors
    assert errors.splitlines()[-1].startswith(f"nvae-bio: {number.name}: training stopped in epoch ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]

    assert main(arguments) == 0
    assert outcome_of(tmp_path) == whole
    assert not kept.exists()


@pytest.fixture
def killed(data: Path, tmp_path: Path) -> Iterator[list[str]]:
    """The command, killed some times at random moments."""
    arguments = command(data, tmp_path, f"--checkpoint={tmp_path / 'kept'}", "--checkpoint-seconds=0.01")
    random = np.random.default_rng(0)
    for _ in range(4):
        process = started(arguments)
        wait_for(tmp_path / "kept" / "seed_0.safetensors", process)
        time.sleep(float(random.random() * 0.3))
        process.kill()
        process.communicate()
    yield arguments


def test_killed_at_random_it_ends_with_the_same_bits(
    killed: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert main(killed) == 0
    assert outcome_of(tmp_path) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card", "history", "weights"]
