"""The whole workflow, by Snakemake (verb `run`)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

from nvae_bio.config import WorkflowSettings, check_yaml, load_config
from nvae_bio.errors import Interrupted, UserError, WorkflowFailed
from nvae_bio.shipped import workflow_folder

REPORT = "report.html"
HERE = ("local", "dryrun", "touch")  # executors that are part of Snakemake
# what a job is told, for each signal that is passed on: a closed terminal is no reason to leave files half-written
PASSED_ON = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
SECONDS = 60  # that jobs are waited for which were told to stop


@dataclass(frozen=True)
class Call:
    """What Snakemake is called with.

    Attributes:
        config: the config file.
        folder: the working folder: paths of the config begin there, and results are made there.
        cores: how many, or `all`; None for what the profile says.
        profile: folder of a profile of the workflow; None for the default one.
        dry_run: tell what would be done, and do nothing.
        report: whether report.html is made in the end.
        options: further options and targets, as Snakemake has them.
    """

    config: Path
    folder: Path = Path()
    cores: str | None = "all"
    profile: Path | None = None
    dry_run: bool = False
    report: bool = True
    options: Sequence[str] = ()

    def command(self, *more: str) -> list[str]:
        """Snakemake, for this workflow in this folder."""
        given = ["--snakefile", str(workflow_folder() / "Snakefile"), "--directory", str(self.folder.resolve())]
        return [sys.executable, "-m", "snakemake", "--configfile", str(self.config.resolve()), *given, *more]

    @property
    def run_options(self) -> list[str]:
        """Options of the run itself."""
        cores = [] if self.cores is None else ["--cores", self.cores]
        profile = [] if self.profile is None else ["--workflow-profile", str(self.profile)]
        return [*cores, *profile, *(["--dry-run"] if self.dry_run else []), *self.options]


def run(call: Call) -> list[str]:
    """Run the workflow; returns a line for each place where results are.

    Raises:
        UserError: a config, profile or installation that is not right, before anything is started; a folder in which
            another run works; files that are not there.
        WorkflowFailed: Snakemake ended with an error; the message names the log of the job.
        Interrupted: SIGTERM or SIGHUP stopped it; trainings are saved.
        KeyboardInterrupt: SIGINT stopped it.
    """
    settings = load_config(call.config)
    _check_installation(call.profile)
    if not call.options:
        _check_files(settings, call)
    try:
        call.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--folder: {call.folder}: {error.strerror}") from None
    before = _logs(call.folder)
    _finish(call, _snakemake(call.command(*call.run_options), call.folder), before)
    if call.dry_run:
        return []
    if call.report:
        code = _snakemake(call.command("--quiet", "all", "--report", REPORT), call.folder)
        _finish(call, code, before)
    return _places(settings, call)


# --- before ----------------------------------------------------------------------------------------------------------


def _check_installation(profile: Path | None) -> None:
    """Refuse what would end in a traceback, or in jobs that do not find their Python."""
    if find_spec("snakemake") is None:
        raise UserError("run: Snakemake is not installed: pip install 'snakemake>=9.14'")
    if not (Path(sys.executable).parent / "python").exists():
        raise UserError(
            f"run: there is no `python` beside {sys.executable}, by which jobs call it; "
            "install nvae-bio into a virtual environment"
        )
    if profile is None or not (profile / "config.yaml").is_file():
        return
    check_yaml(profile / "config.yaml")
    values = yaml.safe_load((profile / "config.yaml").read_text(encoding="utf-8"))
    executor = values.get("executor", HERE[0]) if isinstance(values, dict) else HERE[0]
    plugin = f"snakemake_executor_plugin_{str(executor).replace('-', '_')}"
    if executor not in HERE and find_spec(plugin) is None:
        extra = "nvae-bio[slurm]" if executor == "slurm" else plugin.replace("_", "-")
        raise UserError(f"--profile: {profile}: executor {executor!r} is not installed: pip install '{extra}'")


def _check_files(settings: WorkflowSettings, call: Call) -> None:
    """Refuse a config whose files are not there, before Snakemake does in more lines."""
    used = {run.dataset for run in settings.runs.values()}
    used |= {run.own_dataset for run in settings.study_runs.values()}
    simulated = {settings.simulated[name] for name in used if name in settings.simulated}
    sources = [(f"simulations.{name}.source", settings.simulations[name].source_settings) for name in simulated]
    read = [(f"datasets.{name}", settings.datasets[name]) for name in used if name not in settings.simulated]
    for where, source in sorted([*read, *sources], key=lambda each: each[0]):
        for path in [] if source is None else source.path_list:
            if not (call.folder / path).exists():
                raise UserError(f"{call.config}: {where}.paths: {path}: no such file in {call.folder.resolve()}")


# --- while it runs ---------------------------------------------------------------------------------------------------


def _snakemake(command: list[str], folder: Path) -> int:
    """Call Snakemake in a process group of its own, so that each signal comes once; returns its exit code.

    Raises:
        Interrupted, KeyboardInterrupt: it was told to stop.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # jobs call `python`
    environment = os.environ | {"PATH": path, "PYTHONSAFEPATH": "1", "XDG_CACHE_HOME": str(_cache(folder))}
    with _signals() as (pass_on_to, got):
        process = subprocess.Popen(command, cwd=folder, env=environment, process_group=0)
        pass_on_to(process.pid)
        code = process.wait()
        if got:
            _wait_for_group(process.pid)
    if signal.SIGINT in got:
        raise KeyboardInterrupt
    if got:
        raise Interrupted("stopped; trainings are saved, and the same call goes on from there")
    return code


def _cache(folder: Path) -> Path:
    """Where Snakemake and its jobs keep what they compile: the user's own, or of the run where that cannot be written.

    A container often has a user without a home, and Snakemake ends in a traceback there.
    """
    with suppress(OSError, RuntimeError):
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        own.mkdir(parents=True, exist_ok=True)
        if os.access(own, os.W_OK | os.X_OK):
            return own
    return folder.resolve() / ".snakemake" / "cache"


@contextmanager
def _signals() -> Iterator[tuple[Callable[[int], None], list[int]]]:
    """Pass signals on to a process group, once it is named, and note them; one that is ignored stays so."""
    group, got = 0, list[int]()

    def pass_on_to(process: int) -> None:
        nonlocal group
        group = process
        for number in got:
            send(number)

    def send(number: int) -> None:
        with suppress(ProcessLookupError):
            if group:
                os.killpg(group, number)

    def pass_on(number: int, _: object) -> None:
        got.append(PASSED_ON[signal.Signals(number)])
        send(got[-1])

    def pause(*_: object) -> None:
        send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # goes on here with SIGCONT
        send(signal.SIGCONT)

    handlers: dict[int, Callable[..., None]] = {**dict.fromkeys(PASSED_ON, pass_on), signal.SIGTSTP: pause}
    heard = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield pass_on_to, got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_group(group: int, seconds: float = SECONDS) -> None:
    """Wait until no process of the group is left: a training that saves itself outlives its shell."""
    until = time.monotonic() + seconds
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.05)


# --- after -----------------------------------------------------------------------------------------------------------


def _logs(folder: Path) -> set[Path]:
    """Snakemake's own logs of all its calls in a folder."""
    return set((folder / ".snakemake" / "log").glob("*.log"))


def _finish(call: Call, code: int, before: set[Path]) -> None:
    """Say in one line why Snakemake failed, by its log; nothing where it did not.

    Raises:
        UserError: another run works in the folder, or files are missing.
        WorkflowFailed: anything else; with the exit code of Snakemake, or 128 and the signal that ended it.
    """
    if code == 0:
        return
    text = "".join(log.read_text(errors="replace") for log in sorted(_logs(call.folder) - before))
    failed = re.findall(r"^Error in (?:rule|group) (\S+):\n((?: {4}.*\n)*)", text, re.MULTILINE)
    if failed:
        raise WorkflowFailed(_what_failed(failed, call.folder))
    if "LockException" in text:
        raise UserError(
            f"{call.folder.resolve()}: another run works on the same files here; or one was killed: if none is left, "
            "free the folder by the same call with `-- --unlock`"
        )
    missing = re.search(r"^Missing input files for rule (\w+):\n(?: {4}.*\n)*? {4}affected files:\n +(.*)$", text, re.M)
    if missing:
        raise UserError(f"{call.config}: {missing[2]}: no such file in {call.folder.resolve()}, for rule {missing[1]}")
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise WorkflowFailed(f"Snakemake ended with {ended}; what it said is above", code if code > 0 else 128 - code)


def _what_failed(failed: list[tuple[str, str]], folder: Path) -> str:
    """The rule that failed first, its log and what stands there, if that is a line of ours."""
    rule, block = failed[0]
    found = re.search(r"^ {4}log: (.*?)(?:, | \(check|$)", block, re.MULTILINE)
    others = len({block for _, block in failed}) - 1
    more = f" (and {others} more)" if others else ""
    if found is None:
        return f"rule {rule} failed{more}; what Snakemake said is above"
    log, said = folder / found[1], ""
    with suppress(OSError, IndexError):
        said = log.read_text(errors="replace").splitlines()[-1]
    own = said.removeprefix("nvae-bio: ") if said.startswith("nvae-bio: ") else ""
    return f"rule {rule} failed{more}; its log is {log}" + (f": {own}" if own else "")


def _places(settings: WorkflowSettings, call: Call) -> list[str]:
    """What lies where, of what is there: the page of each run first, Snakemake's report last."""
    found = []
    if settings.study is not None:
        found += [
            call.folder / settings.study.folder / f"{settings.study.name}{end}" for end in (".md", ".csv", ".png")
        ]
    else:
        folders = [call.folder / "results" / name for name in settings.runs]
        found += [*(folder / REPORT for folder in folders), *folders]
    found += [call.folder / REPORT] if call.report else []
    return [f"{path}/" if path.is_dir() else str(path) for path in found if path.exists()]
