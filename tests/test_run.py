"""`nvae-bio run`: what it refuses, what Snakemake is called with, signals, and what it says of a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from nvae_bio.cli import main
from nvae_bio.config import load_config
from nvae_bio.errors import UserError
from nvae_bio.shipped import Example, examples, profile_folder, profiles, workflow_folder

ROOT = Path(__file__).resolve().parent.parent
# in place of Snakemake: it notes how it was called, and does what it is told
FAKE = """
import json, os, pathlib, signal, subprocess, sys, time

here = pathlib.Path(os.environ["FAKE"])
does = (here / "does").read_text() if (here / "does").exists() else ""
log = here / "calls"
with log.open("a") as file:
    file.write(json.dumps([sys.argv[1:], os.getcwd(), os.environ["PATH"], os.environ["XDG_CACHE_HOME"]]) + "\\n")
if does.startswith("exit "):
    sys.exit(int(does[5:]))
if does == "kill":
    os.kill(os.getpid(), signal.SIGKILL)

def note(number, _):
    with (here / "signals").open("a") as file:
        file.write(f"{os.getpid() == MAIN} {signal.Signals(number).name}\\n")
    time.sleep(0 if os.getpid() == MAIN else 0.5)  # a job needs a while to save itself
    if os.getpid() != MAIN:
        (here / "saved").touch()
    os._exit(1)

MAIN = os.getpid()
if does == "wait":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, note)
    if os.fork() == 0:
        (here / "started").touch()
    time.sleep(60)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for Snakemake, and beside it the working folder, which is the current one."""
    folder = tmp_path / "fake"
    (folder / "snakemake").mkdir(parents=True)
    (folder / "snakemake" / "__init__.py").touch()
    (folder / "snakemake" / "__main__.py").write_text(FAKE)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    return folder


def calls(fake: Path) -> list[list[str]]:
    """The arguments of each call of Snakemake."""
    return [json.loads(line)[0] for line in (fake / "calls").read_text().splitlines()]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nvae-bio: ")
    return line


# --- what comes with it ----------------------------------------------------------------------------------------------


def test_an_example_of_a_run_is_that_run_of_the_default_config() -> None:
    default = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    found = examples()
    assert list(default["runs"]) == list(found)[: len(default["runs"])]
    for name, run in default["runs"].items():
        dataset = run["dataset"]
        own = yaml.safe_load(found[name].text)
        assert own == {"datasets": {dataset: default["datasets"][dataset]}, "runs": {name: run}}


def test_a_changed_default_config_of_a_checkout_has_examples_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvae_bio.shipped.workflow_folder", lambda: tmp_path)
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "config.yaml"
    values = {"datasets": {"d": {"kind": "images", "builtin": "digits"}}, "runs": {"r": {"dataset": "d", "seeds": [1]}}}
    for flow in (True, False):
        file.write_text(yaml.safe_dump(values, default_flow_style=flow))
        assert yaml.safe_load(examples()["r"].text) == values
    file.write_text("runs: {}\n")
    with pytest.raises(UserError, match="datasets: this key is required"):
        examples()


@pytest.mark.parametrize("example", examples().values(), ids=lambda example: example.name)
def test_every_example_is_a_config_and_has_a_sentence(example: Example, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(example.text)
    assert load_config(file).runs
    assert len(example.about) > 20
    assert "\n" not in example.about and not example.about.endswith(".")


def test_every_shipped_config_but_the_studies_is_an_example() -> None:
    files = {file.stem for pattern in ("*.yaml", "examples/*.yaml") for file in (ROOT / "config").glob(pattern)}
    assert files - {"config"} == set(examples()) - set(load_config(ROOT / "config" / "config.yaml").runs)


def test_examples_and_profiles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"{example.name} " in said and example.about in said for example in examples().values())
    assert all(name in said for name in profiles())
    assert (workflow_folder() / "config" / "README.md").is_file()


def test_an_example_and_a_profile_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--example", "kang", "--copy", "mine.yaml"]) == 0
    assert Path("mine.yaml").read_text() == (ROOT / "config" / "examples" / "kang.yaml").read_text()
    assert main(["run", "--profile", "slurm", "--copy", "ours"]) == 0
    assert Path("ours/config.yaml").read_text() == (profiles()["slurm"] / "config.yaml").read_text()
    assert profile_folder("ours") == tmp_path / "ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "ours"]
    assert main(["run", "--example", "kang", "--copy", "mine.yaml"]) == 2
    assert "mine.yaml is there already" in told(capsys)


def test_the_workflow_is_found_around_or_inside_the_package(tmp_path: Path) -> None:
    assert workflow_folder() == ROOT
    package = tmp_path / "nvae_bio"
    with pytest.raises(UserError, match="the workflow's files are missing"):
        workflow_folder(package)
    for folder in (tmp_path, package / "_workflow"):  # the package's own goes before what lies beside it
        (folder / "workflow" / "rules").mkdir(parents=True)
        (folder / "Snakefile").touch()
        assert workflow_folder(package) == folder


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run: give a CONFIG or an --example (--list); there is no config/config.yaml here, either"),
        (["none.yaml"], "none.yaml: cannot be read: No such file or directory"),
        (["bad.yaml"], "bad.yaml: runs: this key is required"),
        (
            ["--example", "pbmc"],
            "--example: 'pbmc' is no example; did you mean 'pbmc68k'? allowed: pbmc68k, digits",
        ),
        (["bad.yaml", "--example", "digits"], "run: CONFIG and --example are both given; allowed: one of them"),
        (["--example", "digits", "--cores", "0"], "'0' is not allowed: should be a number from 1 on, or all"),
        (
            ["--example", "digits", "--profile", "sge"],
            "sge: no folder with a config.yaml; allowed, too: slurm",
        ),
        (
            ["--example", "digits", "--profile", "./pbs"],
            "executor 'pbs' is not installed: pip install 'snakemake-",
        ),
        (["--example", "digits", "--folder", "bad.yaml"], "bad.yaml' is a file"),
        (["--example", "kang"], "resources/examples/kang.yaml: datasets.kang.paths: data/kang_muscat_ctrl_stim/kang"),
        (["--copy", "x"], "--copy: give either --example or --profile, which is copied"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_ends_in_one_line(
    arguments: list[str], said: str, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text("datasets: {digits: {kind: images, builtin: digits}}\n")
    Path("pbs").mkdir()
    Path("pbs/config.yaml").write_text("executor: pbs\n")
    assert main(["run", *arguments]) == 2
    assert said in told(capsys)
    assert not (fake / "calls").exists()


def test_without_snakemake_one_line_says_so(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nvae_bio.run.find_spec", lambda name: None)
    assert main(["run", "--example", "digits"]) == 2
    assert "run: Snakemake is not installed: pip install 'snakemake>=9.14'" in told(capsys)


def test_jobs_need_a_python_of_that_name(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.executable", str(fake / "python3"))
    assert main(["run", "--example", "digits"]) == 2
    assert "install nvae-bio into a virtual environment" in told(capsys)


# --- what Snakemake is called with -----------------------------------------------------------------------------------


def test_a_run_and_its_report(fake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("results/digits").mkdir(parents=True)
    Path("results/digits/report.html").touch()
    assert main(["run", "--example", "digits"]) == 0
    config = str(Path("resources/examples/digits.yaml").resolve())
    given = ["--configfile", config, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path / "work")]
    assert calls(fake) == [
        [*given, "--cores", "all"],
        [*given, "--quiet", "all", "--report", "report.html"],
    ]
    assert capsys.readouterr().out == "Results:\n  results/digits/report.html\n  results/digits/\n"
    _, folder, path, _ = json.loads((fake / "calls").read_text().splitlines()[0])
    assert folder == str(tmp_path / "work")
    assert path.split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert Path(config).read_text() == examples()["digits"].text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cores", "3", "--no-report"], [["--cores", "3"]]),
        (["--", "a", "--forceall"], [["--cores", "all", "a", "--forceall"]]),
        (["--report", "--", "-k"], [["--cores", "all", "-k"], ["--quiet", "all", "--report", "report.html"]]),
        (["--dry-run"], [["--cores", "all", "--dry-run"]]),
        (["--profile", "own", "--no-report"], [["--workflow-profile", "{here}/own"]]),
        (["--profile", "own", "--cores", "2", "--no-report"], [["--cores", "2", "--workflow-profile", "{here}/own"]]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_options_are_passed_on(arguments: list[str], expected: list[list[str]], fake: Path) -> None:
    Path("own").mkdir()
    Path("own/config.yaml").write_text("jobs: 2\n")
    Path("digits.yaml").write_text(examples()["digits"].text)
    assert main(["run", "digits.yaml", "--folder", "there", *arguments]) == 0
    here = Path.cwd()
    assert [call[6:] for call in calls(fake)] == [[word.format(here=here) for word in words] for words in expected]
    assert all(call[1] == str(here / "digits.yaml") and call[5] == str(here / "there") for call in calls(fake))


def test_the_default_config_is_that_of_the_folder_and_a_dry_run_leaves_nothing(fake: Path) -> None:
    assert main(["run", "--example", "digits", "--dry-run"]) == 0
    assert not list(Path().iterdir())
    Path("config").mkdir()
    Path("config/config.yaml").write_text(examples()["digits"].text)
    assert main(["run", "--no-report"]) == 0
    assert calls(fake)[-1][1] == str(Path("config/config.yaml").resolve())


def test_a_user_without_a_home_has_a_cache_in_the_folder(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fake / "cache"
    for home, expected in ((fake, cache), ("/proc/none", Path(".snakemake/cache").resolve())):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(home))
        if home == fake:
            monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        assert main(["run", "--example", "digits", "--no-report"]) == 0
        assert json.loads((fake / "calls").read_text().splitlines()[-1])[3] == str(expected)


@pytest.mark.parametrize(
    ("does", "code", "said"), [("exit 1", 1, "exit code 1"), ("exit 2", 2, "exit code 2"), ("kill", 137, "SIGKILL")]
)
def test_an_end_without_a_log_is_told(
    does: str, code: int, said: str, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fake / "does").write_text(does)
    assert main(["run", "--example", "digits"]) == code
    assert said in told(capsys)
    assert len(calls(fake)) == 1


# --- signals ---------------------------------------------------------------------------------------------------------


@contextmanager
def started(*arguments: str, ready: Path) -> Iterator[subprocess.Popen[str]]:
    """`nvae-bio run` in the current folder, once there is a file that tells how far it is."""
    command = [sys.executable, "-m", "nvae_bio", "run", *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        try:
            until = time.monotonic() + 300
            while not ready.exists():
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("number", "code", "passed_on"),
    [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 75, "SIGTERM"), (signal.SIGHUP, 75, "SIGTERM")],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_signals_reach_snakemake_and_its_jobs_once_and_the_last_is_waited_for(
    number: signal.Signals, code: int, passed_on: str, fake: Path
) -> None:
    (fake / "does").write_text("wait")
    with started("--example", "digits", ready=fake / "started") as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in said
    assert sorted((fake / "signals").read_text().split("\n")[:-1]) == [f"False {passed_on}", f"True {passed_on}"]
    assert (fake / "saved").exists()
    assert len(calls(fake)) == 1  # no report


# --- with Snakemake itself -------------------------------------------------------------------------------------------

LONG = """
checkpoint_seconds: 0.2
datasets: {digits: {kind: images, builtin: digits, max_samples: 200}}
runs:
  digits:
    dataset: digits
    seeds: [0]
    model: {n_shared: 2, n_private: 1, hidden: [8]}
    training: {max_epochs: 100000, patience: null}
"""
TARGET = "results/digits/0/model.safetensors"


def test_a_failure_names_the_log_of_the_job_and_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(LONG.replace("max_samples: 200", "min_samples_per_class: 5000, rare_classes: error"))
    assert main(["run", "bad.yaml", "--cores", "1"]) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("nvae-bio: rule prepare_data failed; its log is logs/prepare_data/digits.log: ")
    assert "min_samples_per_class" in said
    assert not Path("report.html").exists()
    assert main(["run", "bad.yaml", "--cores", "1", "--", "nothing.txt"]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("nvae-bio: Snakemake ended with exit code 1")


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_stopped_one_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("long.yaml").write_text(LONG)
    checkpoints = tmp_path / "resources" / "checkpoints" / "digits" / "0"
    with started("long.yaml", "--cores", "1", "--", TARGET, ready=checkpoints) as process:
        assert main(["run", "long.yaml", "--cores", "1", "--", TARGET]) == 2
        assert f"{tmp_path}: another run works on the same files here" in capfd.readouterr().err.splitlines()[-1]
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 75
    assert said.splitlines()[-1] == "nvae-bio: stopped; trainings are saved, and the same call goes on from there"
    assert list(checkpoints.iterdir())
    assert not Path(TARGET).exists()
    log = Path("logs/train_model/digits.0.log").read_text()
    assert "SIGTERM: training stopped in epoch" in log
    Path("long.yaml").write_text(LONG.replace("0.2", "300"))  # no parameter of the training
    assert main(["run", "long.yaml", "--cores", "1", "--dry-run", "--", TARGET]) == 0  # no lock is left
