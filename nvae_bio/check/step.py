"""The step: a config and its data, held against each other and against this machine, before any run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nvae_bio.check.costs import Job, estimate_preparation, estimate_run, unmeasured
from nvae_bio.check.data import DataFacts, check_dataset
from nvae_bio.check.trial import Units, measure_units
from nvae_bio.config import RunSettings, WorkflowSettings, config_problems, load_config
from nvae_bio.errors import UserError, listed, nearest
from nvae_bio.guard import free_memory
from nvae_bio.places import FOLDERS, free_mb, unwritable

TRIAL_SECONDS = 3.0  # of a run; of all runs together at most
ALL_TRIALS = 15.0
BUSY = 1.5  # by the clock over by the processor from which on the machine is said to be busy


@dataclass
class CheckedRun:
    """A run and what it takes.

    Attributes:
        name: of it.
        settings: of it.
        units: of its trial, or of the formula.
        jobs: one entry a rule.
    """

    name: str
    settings: RunSettings
    units: Units
    jobs: list[Job]


@dataclass
class Checked:
    """What was found of a config.

    Attributes:
        config: the file.
        problems: what has to be mended, a line each.
        notes: what should be known.
        data: its data sets.
        runs: those that could be estimated.
        preparations: by data set.
        memory_mb: free memory, None where unknown.
        disk_mb: free room.
    """

    config: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: list[DataFacts] = field(default_factory=list)
    runs: list[CheckedRun] = field(default_factory=list)
    preparations: dict[str, Job] = field(default_factory=dict)
    memory_mb: float | None = None
    disk_mb: float = 0.0

    @property
    def needed_mb(self) -> float:
        """Room that the files of all runs take, about."""
        jobs = [job for run in self.runs for job in run.jobs]
        return sum(job.disk_mb for job in [*jobs, *self.preparations.values()])


def check(config: Path, runs: tuple[str, ...] = (), *, trial: bool = True) -> Checked:
    """Validate a config, open its data cheaply, and estimate what its runs take.

    Args:
        config: file.
        runs: names of those that are looked at; all if none is given.
        trial: whether training steps are timed, for some seconds; else times come from the formula alone.

    Returns:
        All problems, and what could be found beside them.

    Raises:
        UserError: the file cannot be read, or has no such run.
    """
    checked = Checked(config, problems=config_problems(config))
    if checked.problems:
        return checked
    settings = load_config(config)
    wanted = _wanted(settings, runs, config)
    for name in dict.fromkeys(run.dataset for run in wanted.values()):
        facts = check_dataset(name, settings.datasets[name], settings.simulated.get(name))
        checked.data.append(facts)
        checked.problems += [f"{config}: datasets.{name}: {problem}" for problem in facts.problems]
    by_name = {facts.name: facts for facts in checked.data}
    seconds = min(TRIAL_SECONDS, ALL_TRIALS / max(len(wanted), 1)) if trial else 0.0
    for name, run in wanted.items():
        facts = by_name[run.dataset]
        checked.problems += [f"{config}: runs.{name}.{line}" for line in run_problems(run, facts)]
        if facts.obs is not None and not facts.problems:
            _estimate(checked, name, run, facts, seconds)
    _check_machine(checked)
    return checked


def _wanted(settings: WorkflowSettings, names: tuple[str, ...], config: Path) -> dict[str, RunSettings]:
    for name in names:
        if name not in settings.runs:
            hint = nearest(name, settings.runs)
            raise UserError(f"{config}: no run {name!r}; {hint}allowed: {listed(settings.runs)}")
    return {name: run for name, run in settings.runs.items() if not names or name in names}


def run_problems(run: RunSettings, facts: DataFacts) -> list[str]:
    """What a run asks for and its data set has not, a line each."""
    lines = []
    gene_sets = run.report.gene_sets
    if gene_sets is not None and not Path(gene_sets).is_file():
        lines.append(f"report.gene_sets: {gene_sets}: no such file")
    lines += [
        f"queries.{name}: {path}: no such file or folder"
        for name, query in run.queries.items()
        for path in query.path_list
        if not Path(path).exists()
    ]
    if facts.obs is None:
        return lines
    made = {"label", "split", "library", "n_genes", "mito_share", "batch", "donor", "condition"}
    columns = {*map(str, facts.obs.columns), *made}
    asked = [("report.associate", name) for name in run.report.associate]
    if run.evaluation is not None:
        asked += [("evaluation.factor_keys", name) for name in run.evaluation.factor_keys]
        keys = {"finer": run.evaluation.finer_key, "decision": run.evaluation.decision_key}
        asked += [(f"evaluation.{key}_key", name) for key, name in keys.items() if name is not None]
    lines += [
        f"{key}: no column {name!r}; {nearest(name, columns)}allowed: {listed(sorted(columns))}"
        for key, name in asked
        if name not in columns
    ]
    per_class = run.generation.n_per_class
    unknown = [name for name in per_class if name not in facts.sizes] if isinstance(per_class, dict) else []
    if unknown:
        lines.append(f"generation.n_per_class: no class {unknown[0]!r}; allowed: {listed(facts.sizes)}")
    lacking = [name for name in run.generation.samples if name not in set(facts.names)]
    if lacking:
        lines.append(f"generation.samples: no sample {lacking[0]!r} in data set {facts.name!r}")
    return lines


def _estimate(checked: Checked, name: str, run: RunSettings, facts: DataFacts, seconds: float) -> None:
    try:
        units, _ = measure_units(facts, run, seconds)
    except UserError as error:
        checked.problems.append(f"{checked.config}: runs.{name}: {error}")
        return
    if not units.is_measured:
        units = unmeasured(units, facts, run)
    checked.runs.append(CheckedRun(name, run, units, estimate_run(units, facts, run)))
    checked.preparations[facts.name] = estimate_preparation(facts, run)
    if facts.part("test") == 0:
        checked.problems.append(f"{checked.config}: runs.{name}: no labelled test sample: the report has none to judge")


def _check_machine(checked: Checked) -> None:
    """May the outputs be written, and is there room and memory for them?"""
    checked.problems += [line for folder in FOLDERS if (line := unwritable(Path(folder))) is not None]
    checked.disk_mb = free_mb(Path())
    free = free_memory()
    checked.memory_mb = None if free is None else free / 1e6
    if checked.needed_mb > checked.disk_mb:
        checked.problems.append(
            f"{Path().absolute()}: the files take about {checked.needed_mb:,.0f} MB, but {checked.disk_mb:,.0f} MB are "
            "free"
        )
    peak = max(
        [job.peak_mb for run in checked.runs for job in run.jobs]
        + [job.peak_mb for job in checked.preparations.values()],
        default=0.0,
    )
    if checked.memory_mb is not None and peak > checked.memory_mb:
        checked.notes.append(
            f"a job takes about {peak:,.0f} MB of memory, but {checked.memory_mb:,.0f} MB are free here: take a larger "
            "machine, `storage: disk`, or max_samples"
        )
    busy = max((run.units.busy for run in checked.runs), default=1.0)
    if busy > BUSY:
        checked.notes.append(
            f"the machine is busy: steps took {busy:.1f} times as long as on a free one; the times are for a free one"
        )
