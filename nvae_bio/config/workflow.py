"""Settings of a whole config file, which joins runs to data sets."""

from __future__ import annotations

from functools import cached_property
from typing import Any, get_args

from pydantic import Field, ValidationError, model_validator

from nvae_bio.config.base import Name, Settings
from nvae_bio.config.datasets import CountsSettings, Dataset
from nvae_bio.config.models import ModelSettings, check_model_fits
from nvae_bio.config.runs import RunSettings
from nvae_bio.config.simulations import Simulation
from nvae_bio.config.studies import Picture, SeedFigure, StudyRun, StudySettings, expanded, simulated_by
from nvae_bio.errors import listed


class WorkflowSettings(Settings):
    """A whole config file."""

    study: StudySettings | None = Field(
        None, description="many runs from a few lines, with one table of their scores; `snakemake` makes that table"
    )
    datasets: dict[Name, Dataset] = Field(min_length=1, description="named data sets")
    runs: dict[Name, RunSettings] = Field(min_length=1, description="named runs")
    checkpoint_seconds: float | None = Field(
        300,
        ge=0,
        description="a training is saved every so many seconds, and when it is told to stop; one that was killed goes "
        "on from there when the workflow is called again; null: when it is told to stop, alone",
    )
    simulations: dict[Name, Simulation] = Field(
        {}, description="named simulations; a data set reads one from `resources/simulated/NAME.h5ad`"
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_study(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("study") is None:
            return values
        try:
            return expanded(values, StudySettings.model_validate(values["study"]))
        except (ValidationError, KeyError, TypeError):
            return values  # told by the fields themselves

    @model_validator(mode="after")
    def _check_runs(self) -> WorkflowSettings:
        for name, dataset in self.datasets.items():
            if not dataset.has_source:
                raise ValueError(f"datasets.{name}: give either `builtin` or `paths`")
        for name, simulation in self.simulations.items():
            if simulation.source_settings is not None and not simulation.source_settings.has_source:
                raise ValueError(f"simulations.{name}.source: give either `builtin` or `paths`")
        for name, run in list(self.runs.items()):
            if run.dataset not in self.datasets:
                raise ValueError(
                    f"runs.{name}.dataset: {run.dataset!r} is no data set; allowed: {listed(self.datasets)}"
                )
            self.runs[name] = run = run.for_kind(self.datasets[run.dataset].kind)
            check_model_fits(run.model, self.datasets[run.dataset].kind, f"runs.{name}.model.")
            if run.power is not None and self.datasets[run.dataset].kind != "counts":
                raise ValueError(
                    f"runs.{name}.power: programmes are planted into counts; datasets.{run.dataset} is of kind "
                    f"{self.datasets[run.dataset].kind!r}; allowed: off"
                )
            if run.power is not None and run.report.n_refits == 0:
                raise ValueError(
                    f"runs.{name}.power: without a null nothing planted is found; allowed: off, or report.n_refits of "
                    "1 or more"
                )
            if run.report.gene_sets is not None and self.datasets[run.dataset].kind == "images":
                raise ValueError(f"runs.{name}.report.gene_sets: pixels are no genes; allowed for images: null")
            for query, one in run.queries.items():
                if not one.paths:
                    raise ValueError(f"runs.{name}.queries.{query}: paths: none; allowed: the files of new samples")
            if run.queries and run.model.variant == "vae":
                raise ValueError(f"runs.{name}.queries: variant 'vae' is told no classes; allowed: the other variants")
            _check_columns(run.model, self.datasets[run.dataset], f"runs.{name}.model.", f"datasets.{run.dataset}")
        for study_run in self.study_runs.values():
            self._check_condition(study_run)
            self._check_figures(study_run)
        return self

    def _check_figures(self, run: StudyRun) -> None:
        """Refuse pictures of data that are none."""
        kept = self.study.figures.get(run.variant, []) if self.study is not None else []
        pictures = [figure for figure in kept if figure in get_args(Picture)]
        kind = self.datasets[run.own_dataset].kind
        if pictures and kind != "images":
            raise ValueError(
                f"study.figures.{run.variant}: {pictures[0]!r} is of pictures; row {run.row!r} has data of kind "
                f"{kind!r}; allowed: {', '.join(get_args(SeedFigure))}"
            )

    def _check_condition(self, run: StudyRun) -> None:
        """Refuse a row whose condition is not named, or whose held-out response cannot be scored."""
        if self.study is None or self.study.evaluate != "condition":
            return
        dataset, where = self.datasets[run.own_dataset], f"study.rows.{run.row}"
        if dataset.condition_key is None:
            raise ValueError(f"{where}: evaluate 'condition' needs datasets.{run.dataset}.condition_key")
        if dataset.kind != "counts" and (run.baseline is not None or dataset.hold_out):
            raise ValueError(
                f"{where}: baselines and held-out responses are scored on counts alone; datasets.{run.dataset} is of "
                f"kind {dataset.kind!r}"
            )
        if dataset.hold_out and run.baseline is None and not self.runs[run.name].model.n_shared:
            raise ValueError(f"{where}.variants.{run.variant}: without z_s there is no response to carry over")

    @cached_property
    def simulated(self) -> dict[str, str]:
        """Data set -> simulation that it reads."""
        return simulated_by({name: dataset.model_dump() for name, dataset in self.datasets.items()}, self.simulations)

    @property
    def _kinds(self) -> dict[str, str]:
        """Data set -> its kind."""
        return {name: dataset.kind for name, dataset in self.datasets.items()}

    @cached_property
    def study_runs(self) -> dict[str, StudyRun]:
        """Every run of the study by its name; none without a study."""
        return {run.name: run for run in self.study.runs(self.simulated, self._kinds)} if self.study is not None else {}

    @cached_property
    def trained_as(self) -> dict[str, str]:
        """Run -> the run whose models and null it uses.

        Runs of a study that differ in their report alone are trained once, as the first of them; any other run is
        trained as itself.
        """
        first: dict[str, str] = {}
        alike = {
            name: run.model_dump_json(exclude={"report", "evaluation", "page", "export", "queries", "counterfactuals"})
            for name, run in self.runs.items()
            if name in self.study_runs
        }
        return {name: first.setdefault(alike[name], name) if name in alike else name for name in self.runs}


def _check_columns(model: ModelSettings, dataset: Dataset, where: str, source: str) -> None:
    """Refuse a model that needs a column which the data set does not name."""
    if model.size == "size_factor" and isinstance(dataset, CountsSettings) and dataset.size_factor_key is None:
        raise ValueError(f"{where}size: 'size_factor' needs {source}.size_factor_key; allowed without: library")
    if model.dispersion == "gene_batch" and dataset.batch_key is None and not dataset.makes_batches:
        raise ValueError(f"{where}dispersion: 'gene_batch' needs {source}.batch_key; allowed without: gene")
