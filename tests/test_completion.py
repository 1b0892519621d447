"""Completion, asked of a real bash that has read the script; of zsh and fish where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nvae_bio.cli import main
from nvae_bio.cli.complete import entries_of, script

ROOT = Path(__file__).parent.parent
ASK = """
source {script}
COMP_LINE={line!r}
COMP_POINT=${{#COMP_LINE}}
words=({words})
COMP_WORDS=("${{words[@]}}")
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
compopt() {{ printf 'compopt %s %s\\n' "$1" "$2"; }}
_nvae_bio_completion nvae-bio
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config, the script, and the command on the path."""
    command = tmp_path / "bin" / "nvae-bio"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m nvae_bio "$@"\n')
    command.chmod(0o755)
    (tmp_path / "script").write_text(script("bash"))
    (tmp_path / "test.yaml").write_text((ROOT / "config" / "test.yaml").read_text())
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(folder: Path, line: str) -> list[str]:
    """What bash offers for a line; it takes a colon for a word of its own, as it does where a user types."""
    words = line.replace(":", " : ").split() + ([""] if line[-1].isspace() else [])
    quoted = " ".join(f"'{word}'" for word in words)
    program = ASK.format(script=folder / "script", line=line, words=quoted)
    done = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, text=True, cwd=folder)
    assert not done.stderr, done.stderr
    return done.stdout.split("\n")[:-1]


def test_bash_completes_commands_options_and_choices(folder: Path) -> None:
    assert offered(folder, "nvae-bio ex") == ["export"]
    assert {"init", "check", "doctor", "train"} <= set(offered(folder, "nvae-bio "))
    assert "--model-card" in offered(folder, "nvae-bio export --mo")
    assert offered(folder, "nvae-bio completion f") == ["fish"]
    assert offered(folder, "nvae-bio null --kind no_f") == ["no_factor"]


def test_bash_completes_files_and_behind_a_colon_the_entries_of_a_config(folder: Path) -> None:
    assert offered(folder, "nvae-bio train --data ") == ["compopt -o default", ""]
    assert offered(folder, "nvae-bio train --settings te") == ["compopt -o default", ""]
    assert offered(folder, "nvae-bio train --settings test.yaml:") == ["runs.cells", "runs.digits", "runs.cvae"]
    assert offered(folder, "nvae-bio train --settings test.yaml:runs.cv") == ["runs.cvae"]
    assert offered(folder, "nvae-bio prepare --settings test.yaml:datasets.d") == ["datasets.digits"]
    assert offered(folder, "nvae-bio simulate --settings test.yaml:") == ["simulations.rotated"]
    assert offered(folder, "nvae-bio train --settings script:") == [""]  # no config


def test_bash_completes_runs_of_the_config_that_is_given(folder: Path) -> None:
    assert offered(folder, "nvae-bio check test.yaml --run c") == ["cells", "cvae"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_read_by_their_shells(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "_NVAE_BIO_COMPLETE" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(text)
    done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("shell", "expected"), [("zsh", "plain\nexport\n"), ("fish", "plain,export\t")])
def test_the_other_shells_are_answered_in_their_form(
    shell: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"_NVAE_BIO_COMPLETE": f"{shell}_complete", "COMP_WORDS": "nvae-bio ex", "COMP_CWORD": "1"}
    asked["COMP_CWORD"] = "ex" if shell == "fish" else "1"
    environment = os.environ | asked | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "nvae_bio"], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith(expected), done.stdout + done.stderr


def test_entries_of_a_config() -> None:
    assert entries_of(str(ROOT / "config" / "config.yaml"), "runs") == ["runs.pbmc68k", "runs.digits"]
    assert entries_of("no.yaml") == []
