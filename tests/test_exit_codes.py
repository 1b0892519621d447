"""The exit codes of docs/cli.md, each as a process gives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvae_bio.data.files import write_anndata
from tests.toys import prepared_counts

ROOT = Path(__file__).parent.parent
LISTED = dict(re.findall(r"^\| ([\d+ n]+) \| (.+) \|$", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE))


def started(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def command(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return started("-m", "nvae_bio", *arguments, folder=folder)


def done(folder: Path) -> int:
    process = command("completion", "fish", folder=folder)
    assert process.communicate()[0]
    return process.returncode


def own_error(folder: Path) -> int:
    program = "import nvae_bio.cli.complete as c, nvae_bio.cli as m; c.SHELLS; m.setup.script = lambda _: 1 / 0; "
    process = started(
        "-c", f"{program} import sys; sys.argv = ['x', 'completion', 'bash']; sys.exit(m.main())", folder=folder
    )
    assert "ZeroDivisionError" in process.communicate()[1]
    return process.returncode


def bad_input(folder: Path) -> int:
    process = command("check", "no.yaml", folder=folder)
    assert process.communicate()[1].count("\n") == 1
    return process.returncode


def stopped(folder: Path, number: signal.Signals, *options: str) -> int:
    """A long training that gets a signal once it has begun."""
    write_anndata(prepared_counts(), folder / "data.h5ad")
    settings = json.dumps({"training": {"max_epochs": 100_000, "patience": None, "batch_size": 16}})
    files = ["--data", "data.h5ad", "--weights", "m.safetensors", "--card", "m.json", "--history", "h.parquet"]
    process = command(
        "train",
        *files,
        "--settings",
        settings,
        "--checkpoint",
        "saved",
        "--checkpoint-seconds",
        "0",
        *options,
        folder=folder,
    )
    end = time.monotonic() + 240
    while not list(folder.glob("saved/*.safetensors")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert not (folder / "m.json").exists()
    return process.returncode


def killed(folder: Path) -> int:
    """By a shell, which tells the signal as 128 + n."""
    program = (
        "import os, signal; from nvae_bio.guard import guarded; guarded(lambda: os.kill(os.getpid(), signal.SIGKILL))"
    )
    shell = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{program}"; exit $?'],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return shell.returncode


CASES: dict[str, Callable[[Path], int]] = {
    "0": done,
    "1": own_error,
    "2": bad_input,
    "75": lambda folder: stopped(folder, signal.SIGTERM),
    "130": lambda folder: stopped(folder, signal.SIGINT),
    "128 + n": killed,
}


def test_every_code_that_is_documented_has_a_case() -> None:
    assert set(LISTED) == set(CASES)


@pytest.mark.parametrize("code", CASES)
def test_processes_end_with_the_code_that_is_documented(code: str, tmp_path: Path) -> None:
    expected = 128 + signal.SIGKILL if "n" in code else int(code)
    assert CASES[code](tmp_path) == expected
