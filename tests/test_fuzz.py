"""Changed files and configs end in one clear line or a right answer: the short form of `make fuzz`, and the config."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nvae_bio.config import Dataset, FitSettings, WorkflowSettings, load_config, load_dataset, load_settings
from nvae_bio.errors import UserError
from tests.fuzz import child
from tests.fuzz.child import OUTCOMES, run
from tests.fuzz.readers import READERS, ROOT, Reader

N_CASES = 20
CONFIGS = sorted(path for path in (ROOT / "config").rglob("*.yaml"))


# --- readers ---------------------------------------------------------------------------------------------------------


def test_changed_files_of_every_reader(tmp_path: Path) -> None:
    """In a process of its own, for it forks."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(N_CASES), "--output", str(tmp_path / "fuzz.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = pd.read_csv(tmp_path / "fuzz.csv").set_index("reader")
    assert list(table.index) == list(READERS)
    assert (table[list(OUTCOMES)].sum(axis=1) == N_CASES).all()
    assert (table["refused"] > 0).all()
    assert table["read"].sum() > N_CASES  # changes are not all so coarse that nothing is read


def test_the_table_of_the_long_form() -> None:
    table = pd.read_csv(ROOT / "docs" / "fuzz.csv").set_index("reader")
    assert list(table.columns) == ["cases", *OUTCOMES, "seed"]
    assert list(table.index) == list(READERS)
    assert (table["cases"] >= 2000).all()
    assert (table[list(OUTCOMES)].sum(axis=1) == table["cases"]).all()
    assert not table[["uncaught", "hung"]].to_numpy().any()


def crash(_: Path) -> None:
    faulthandler.disable()  # pytest's
    ctypes.string_at(0)


def hang(_: Path) -> None:
    while True:
        time.sleep(0.01)


def refuse(line: str) -> Callable[[Path], None]:
    def read(_: Path) -> None:
        raise UserError(line)

    return read


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (lambda folder: (folder / "a.txt").read_bytes(), "read"),
        (refuse("a.txt: one line"), "refused"),
        (refuse("a.txt: " + "A" * 9000), "uncaught"),
        (lambda _: 1 // 0, "uncaught"),
        (lambda _: sys.exit(3), "uncaught"),
        (lambda _: np.ones(2**28), "uncaught"),  # 2 GiB: MemoryError
        (crash, "uncaught"),  # outside of what the guard sees as reading
        (hang, "hung"),
    ],
)
def test_the_harness_tells_them_apart(
    read: Callable[[Path], Any], outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "SECONDS", 0.5)
    monkeypatch.setattr(child, "_at_the_door", lambda _r, _f, case, what, died: child.Outcome(
        case, "hung" if what == "hung" else "uncaught", died
    ))  # fmt: skip
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "a.txt").write_text("text")
    found = run(Reader(lambda *_: None, read), [tmp_path / "seed"], tmp_path, 0, 2)
    assert [each.outcome for each in found] == [outcome] * 2, found


def test_cases_follow_from_their_seed(tmp_path: Path) -> None:
    reader = READERS["scores .csv"]
    seeds = child.make_seeds(reader, tmp_path / "seeds")

    def content(seed: int, case: int) -> bytes:
        child.make_case(reader, seeds, tmp_path / "case", seed, case)
        return (tmp_path / "case" / "scores.csv").read_bytes()

    assert content(0, 5) == content(0, 5)
    assert len({content(seed, case) for seed in range(2) for case in range(10)}) > 15


# --- config ----------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
    | st.sampled_from(["counts", "images", "features", "auto", "nvae", "off", "on", "0", "1e3", "~", "*"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in nested mappings and lists."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for step, inner in steps for place in places(inner, (*here, step)))]


def with_value(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    changed = value.copy()
    changed[place[0]] = with_value(changed[place[0]], place[1:], new)
    return changed


def refusal(read: Callable[[], object]) -> str:
    """What is said where settings are refused; nothing where they are read."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


def is_clear(said: str) -> bool:
    """Whether a refusal is one line of words; so is none."""
    return not said or ("\n" not in said and 10 < len(said) < 3000)


@settings(max_examples=150)
@given(data=st.data(), path=st.sampled_from(CONFIGS))
def test_a_changed_config_is_read_or_refused_in_one_line(
    data: st.DataObject, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = yaml.safe_load(path.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        values = with_value(values, data.draw(st.sampled_from(places(values)[1:] or [()])), data.draw(VALUES))
    changed = tmp_path_factory.getbasetemp() / "changed.yaml"
    changed.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    assert is_clear(refusal(lambda: load_config(changed)))
    entry = f"{changed}:runs.{next(iter(values.get('runs') or 'x'), 'x')}"
    assert is_clear(refusal(lambda: load_settings(entry, FitSettings)))


@settings(max_examples=150)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_config(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    said = refusal(lambda: load_config(path))
    assert said
    assert is_clear(said)


@settings(max_examples=150)
@given(text=st.text(max_size=60), values=st.dictionaries(st.text(max_size=10) | st.just("kind"), VALUES, max_size=4))
def test_any_text_as_settings(text: str, values: dict[str, Any]) -> None:
    for source in (text, "{" + text, json.dumps(values)):
        assert is_clear(refusal(lambda source=source: load_settings(source, FitSettings)))
        assert is_clear(refusal(lambda source=source: load_dataset(source)))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=80)
@given(
    kind=st.sampled_from(["counts", "images", "features"]),
    label=NAMES,
    joined=st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=3), max_size=2),
    n=st.integers(2, 10**6),
)
def test_settings_that_are_read_are_read_again_from_what_is_written(
    kind: str, label: str, joined: dict[str, list[str]], n: int
) -> None:
    given_values = {"kind": kind, "paths": "x", "label_key": label, "join_classes": joined, "min_samples_per_class": n}
    read: list[Dataset] = []
    said = refusal(lambda: read.append(load_dataset(json.dumps(given_values))))
    assert is_clear(said)
    if not said:
        assert load_dataset(read[0].model_dump_json()) == read[0]
        assert read[0].label_key == label


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_of_ours_are_read_and_read_again(path: Path) -> None:
    first = load_config(path)
    assert isinstance(first, WorkflowSettings)
    again = load_settings(first.model_dump_json(), WorkflowSettings)
    assert {name: run.model_dump() for name, run in again.runs.items()} == {
        name: run.model_dump() for name, run in first.runs.items()
    }
