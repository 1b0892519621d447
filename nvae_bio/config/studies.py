"""Settings of studies: many runs from a few lines, scored alike and gathered in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field, PositiveInt, ValidationError, model_validator

from nvae_bio.config.base import Name, Seed, Settings
from nvae_bio.config.evaluation import EvaluationSettings
from nvae_bio.config.models import ModelSettings
from nvae_bio.config.runs import RunSettings
from nvae_bio.errors import listed, one_line

Overrides = dict[str, Any]
SIMULATED = "resources/simulated/{}.h5ad"  # where a simulation is written
OF_ROWS = {"dataset", "seeds"}  # keys of a run that a row sets
BASELINE = "baseline"  # key of a variant that is no model of ours
N_LATENT = "n_latent"  # its dims
CALLS = "calls"  # key of a variant that reads the run of another one in another way
Baseline = Literal["pca", "ica", "nmf", "scvi", "scanvi", "drvi", "cnmf"]
Calls = Literal["consensus", "one-seed", "kl-threshold"]
SeedFigure = Literal["posterior", "embedding_shared", "embedding_specific"]
Picture = Literal["samples", "traversals_shared", "traversals_private", "interpolations", "swaps"]
Evaluated = Literal["planted", "factors", "condition", "model"]
BASELINES: dict[str, tuple[Baseline, ...]] = {
    "condition": ("pca", "nmf", "scvi", "scanvi"),
    "factors": ("drvi", "cnmf"),
    "model": ("pca", "ica", "nmf", "scvi", "scanvi", "drvi"),
}
SEE_LABELS: tuple[Baseline, ...] = ("scanvi",)  # baselines that are told the classes


class ConditionSettings(Settings):
    """Two values of a data set's `condition_key`, and what is known to set them apart."""

    control: str = Field(description="value of the untreated samples")
    treated: str = Field(description="value of the treated samples; samples with any other value are not scored")
    gene_sets: dict[Name, list[str]] = Field(
        {}, description="name -> genes known to rise with the treatment; scored as NAME_auroc and NAME_top20"
    )

    @model_validator(mode="after")
    def _check(self) -> ConditionSettings:
        if self.control == self.treated:
            raise ValueError(f"control and treated are both {self.control!r}; allowed: two values")
        return self


class StudyRow(Settings):
    """A data set with the variants that are trained on it."""

    dataset: Name | None = Field(None, description="name of an entry of `datasets`; null: that of the row's own name")
    title: Name | None = Field(
        None, description="what the table calls the row; rows of one title are one there; null: the row's own name"
    )
    base: Overrides = Field(
        {}, description="keys of a run that this row changes of the study's `base`; variants go over it"
    )
    variants: dict[Name, PositiveInt | list[Seed]] = Field(
        min_length=1, description="variant -> its seeds: how many, from 0 on, or which"
    )

    def seeds_of(self, variant: str) -> list[int]:
        """Seeds of a variant, in order."""
        seeds = self.variants[variant]
        return list(range(seeds)) if isinstance(seeds, int) else list(seeds)


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        name: of the run.
        row: of the study.
        title, variant: what it is called in the table.
        dataset: entry of `datasets` that the row reads.
        number: of the simulated data set, the seed that it is made with; None of data that are not simulated.
        seeds: of training; of a baseline its own.
        baseline: the method, where it is none of our models.
        n_latent: dims of a baseline; None of a model of ours, and of a method that chooses them itself.
        evaluation: what of a baseline's embedding is scored; of `model` alone.
        calls: which calls of the run are scored.
        scored: the run whose files are scored: itself, or another one that is trained alike.
    """

    name: str
    row: str
    title: str
    variant: str
    dataset: str
    number: int | None
    seeds: list[int]
    baseline: Baseline | None
    n_latent: int | None
    evaluation: EvaluationSettings | None
    calls: Calls
    scored: str

    @property
    def own_dataset(self) -> str:
        """The entry of `datasets` that the run itself reads."""
        return self.dataset if self.number is None else f"{self.dataset}.{self.number}"

    @property
    def is_trained(self) -> bool:
        """Whether it is a run of the config, and no baseline or other reading of one."""
        return self.baseline is None and self.scored == self.name


class StudySettings(Settings):
    """Runs of several variants on several data sets, scored and gathered in one table and page."""

    name: Name = Field(description="name of the study, and of its files")
    evaluate: Evaluated = Field(
        description="what is scored: `planted`, every seed against the truth of the simulations; `factors`, what all "
        "seeds of a run agree on against the same truth; `condition`, where the models keep a condition that they were "
        "never told; `model`, the fit, the use of the latents and how much of the class z_s tells "
        "(docs/studies/README.md)"
    )
    n_seeds: PositiveInt = Field(
        1,
        description="factors: seeds of training of each simulated data set; of data set k they are k · n_seeds and the "
        "following ones",
    )
    condition: ConditionSettings | None = Field(
        None, description="what `evaluate: condition` needs to know, and `factors` of data that are not simulated may"
    )
    folder: str = Field(
        "docs/studies", description="where NAME.csv, NAME.md and NAME.png are written; of the page, the marked parts"
    )
    metrics: dict[str, float | None] = Field(
        min_length=1,
        description="metrics of the page's table and figure -> a bar to draw, null for none; `METRIC` stands for all "
        "`METRIC[...]`, averaged, where there is none of the plain name",
    )
    figures: dict[Name, list[SeedFigure | Picture]] = Field(
        {},
        description="variant -> figures of a seed's folder that are kept beside the page, as "
        "NAME.figures/ROW.VARIANT.FIGURE.png in `folder`: of the first seed of each row that has the variant",
    )
    base: Overrides = Field({}, description="keys of a run, but `dataset` and `seeds`, that all variants have")
    variants: dict[Name, Overrides] = Field(
        min_length=1,
        description="variant -> keys of a run that it changes; or `baseline: METHOD`, another method (pca, nmf, scvi, "
        "scanvi of a condition; drvi, cnmf of factors; pca, ica, nmf, scvi, scanvi, drvi of a model), with `n_latent` "
        "dims if not as many as z_s; or, of factors, with `calls: one-seed` or `calls: kl-threshold` other calls of "
        "the run that the same keys without it make",
    )
    rows: dict[Name, StudyRow] = Field(min_length=1, description="named rows of the study")

    @model_validator(mode="after")
    def _check(self) -> StudySettings:
        if self.evaluate == "condition" and self.condition is None:
            raise ValueError("condition: needed; it goes with evaluate 'condition'")
        if self.condition is not None and self.evaluate not in ("condition", "factors"):
            raise ValueError(f"condition: not read by evaluate {self.evaluate!r}; it goes with evaluate 'condition'")
        if self.evaluate != "factors" and self.n_seeds > 1:
            raise ValueError(f"n_seeds: evaluate {self.evaluate!r} allows 1; more go with evaluate 'factors'")
        for name, values in self.variants.items():
            if BASELINE in values:
                self._check_baseline(name)
            else:
                self._check_calls(name)
                self._check_run(self.settings_of(name), f"variants.{name}")
        for name in self.rows:
            self._check_row(name)
        for name in self.figures:
            if name not in self.variants or self.baseline_of(name) is not None:
                models = [variant for variant in self.variants if self.baseline_of(variant) is None]
                raise ValueError(f"figures: {name!r} is no variant that is trained; allowed: {listed(models)}")
        return self

    def _check_row(self, name: str) -> None:
        """Refuse a row of variants or seeds that are not there, or whose own base does not fit them."""
        row = self.rows[name]
        for variant in row.variants:
            where = f"rows.{name}.variants.{variant}"
            if variant not in self.variants:
                raise ValueError(f"rows.{name}.variants: {variant!r} is no variant; allowed: {listed(self.variants)}")
            if not row.seeds_of(variant):
                raise ValueError(f"{where}: at least one seed is needed")
            if self.baseline_of(variant) is not None:
                self._check_run(self.base_of(row), f"rows.{name}.base")
                if self.evaluate != "factors" and not self.n_latent_of(variant, row, kind=""):
                    raise ValueError(f"{where}: base.model.n_shared, its dims, is 0; allowed: above 0")
                continue
            if row.base:
                self._check_run(self.settings_of(variant, row), where)
            source = self.source_of(variant)
            lacking = set(row.seeds_of(variant)) - set(row.seeds_of(source) if source in row.variants else [])
            if lacking:
                raise ValueError(f"{where}: seed {min(lacking)} is none of {source!r}, whose run it reads")

    @staticmethod
    def _check_run(settings: Overrides, where: str) -> None:
        """Refuse settings that are no run's, or that set what rows set."""
        if given := sorted(OF_ROWS & set(settings)):
            raise ValueError(f"{where}.{given[0]}: this key is set by the rows")
        try:
            RunSettings.model_validate(settings | {"dataset": "any"})
        except ValidationError as error:
            raise ValueError(one_line(error, RunSettings, where)) from None

    def _check_baseline(self, name: str) -> None:
        """Refuse a baseline that is none, that sets more, or that has no scores."""
        values, allowed = self.variants[name], BASELINES.get(self.evaluate, ())
        if not allowed:
            raise ValueError(
                f"variants.{name}.{BASELINE}: evaluate {self.evaluate!r} has none; allowed: {', '.join(BASELINES)}"
            )
        if values[BASELINE] not in allowed:
            raise ValueError(f"variants.{name}.{BASELINE}: {values[BASELINE]!r} is not allowed: {', '.join(allowed)}")
        if others := sorted(set(values) - {BASELINE, N_LATENT}):
            raise ValueError(
                f"variants.{name}.{others[0]}: a baseline has no keys of a run; allowed: {BASELINE}, {N_LATENT}"
            )
        if N_LATENT in values and (self.evaluate == "factors" or not _is_number(values[N_LATENT])):
            raise ValueError(
                f"variants.{name}.{N_LATENT}: {values[N_LATENT]!r}; allowed: a whole number above 0, of methods whose "
                "embedding is scored"
            )

    def _check_calls(self, name: str) -> None:
        """Refuse calls that are none, that are not scored, or that no other variant trains for."""
        values, where = self.variants[name], f"variants.{name}.{CALLS}"
        if CALLS not in values:
            return
        if self.evaluate != "factors":
            raise ValueError(f"{where}: not read by evaluate {self.evaluate!r}; it goes with evaluate 'factors'")
        if values[CALLS] not in get_args(Calls):
            raise ValueError(f"{where}: {values[CALLS]!r} is not allowed: {', '.join(get_args(Calls))}")
        if self.source_of(name) == name:
            raise ValueError(f"{where}: no variant has the same keys without {CALLS!r}, and so a run to read")

    def base_of(self, row: StudyRow | None) -> Overrides:
        """`base` with the changes of a row."""
        return merged(self.base, row.base if row else {})

    def n_latent_of(self, variant: str, row: StudyRow, kind: str) -> int:
        """Dims of a baseline: its own, or S of the models that change nothing of the row's base, on data of a kind."""
        default = ModelSettings.model_validate(self.base_of(row).get("model", {})).for_kind(kind).n_shared
        return int(self.variants[variant].get(N_LATENT, default))

    def evaluation_of(self, row: StudyRow) -> EvaluationSettings:
        """What is scored of a row's baselines: what its base says, else leakage alone and known factors."""
        found = RunSettings.model_validate(self.base_of(row) | {"dataset": "any"}).evaluation
        return found or EvaluationSettings(scores=("factors",))

    def baseline_of(self, variant: str) -> Baseline | None:
        """The method of a variant that is a baseline, None of a model of ours."""
        return self.variants[variant].get(BASELINE)

    def changes_of(self, variant: str) -> Overrides:
        """Keys of a run that a variant changes."""
        return {key: value for key, value in self.variants[variant].items() if key != CALLS}

    def source_of(self, variant: str) -> str:
        """The variant whose run is scored: itself, or with `calls` the one of the same keys without."""
        if CALLS not in self.variants[variant]:
            return variant
        return next((name for name, keys in self.variants.items() if keys == self.changes_of(variant)), variant)

    def settings_of(self, variant: str, row: StudyRow | None = None) -> Overrides:
        """`base` with the changes of a row and of a variant."""
        return merged(self.base_of(row), self.changes_of(variant))

    def runs(self, simulated: Mapping[str, str], kinds: Mapping[str, str]) -> Iterator[StudyRun]:
        """Every run.

        Args:
            simulated: data set -> simulation that it reads, of data sets that read one.
            kinds: data set -> its kind.
        """
        for row_name, row in self.rows.items():
            dataset = row.dataset or row_name
            for variant in row.variants:
                seeds = row.seeds_of(variant)
                parts = {seed: self._seeds_of(variant, seed) for seed in seeds} if dataset in simulated else {}
                for number, its_seeds in parts.items() or [(None, seeds)]:
                    yield self._run(row_name, variant, number, its_seeds, kinds.get(dataset, ""))

    def _seeds_of(self, variant: str, number: int) -> list[int]:
        """Seeds of a variant on the simulated data set of a number; a baseline has one."""
        if self.baseline_of(variant) is not None:
            return [number]
        return list(range(number * self.n_seeds, (number + 1) * self.n_seeds))

    def _run(self, row_name: str, variant: str, number: int | None, seeds: list[int], kind: str) -> StudyRun:
        """A run of a row; the table of factors calls each simulated data set by a name of its own."""
        row, end = self.rows[row_name], "" if number is None else f".{number}"
        title, baseline = row.title or row_name, self.baseline_of(variant)
        return StudyRun(
            name=f"{row_name}.{variant}{end}",
            row=row_name,
            title=f"{title}{end}" if self.evaluate == "factors" else title,
            variant=variant,
            dataset=row.dataset or row_name,
            number=number,
            seeds=seeds,
            baseline=baseline,
            n_latent=self.n_latent_of(variant, row, kind) if baseline and self.evaluate != "factors" else None,
            evaluation=self.evaluation_of(row) if baseline and self.evaluate == "model" else None,
            calls=self.variants[variant].get(CALLS, "consensus"),
            scored=f"{row_name}.{self.source_of(variant)}{end}",
        )


def _is_number(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def merged(base: Overrides, changes: Overrides) -> Overrides:
    """`base` with `changes` laid over it, mappings within mappings too; neither is changed.

    >>> merged({"model": {"n_shared": 3, "hidden": [8]}}, {"model": {"n_shared": 6}})
    {'model': {'n_shared': 6, 'hidden': [8]}}
    """
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(dict(result[key]), dict(value)) if both else value
    return result


def simulated_by(datasets: Mapping[str, Any], simulations: Mapping[str, Any]) -> dict[str, str]:
    """Data set -> simulation that it reads, of plain values.

    >>> simulated_by({"a": {"paths": "resources/simulated/s.h5ad"}, "b": {"builtin": "digits"}}, {"s": {}})
    {'a': 's'}
    """
    places = {SIMULATED.format(name): name for name in simulations}
    found = {}
    for dataset, values in datasets.items():
        paths = values.get("paths") if isinstance(values, Mapping) else None
        (path,) = paths if isinstance(paths, list) and len(paths) == 1 else (paths,)
        if isinstance(path, str) and path in places:
            found[dataset] = places[path]
    return found


def expanded(values: dict[str, Any], study: StudySettings) -> dict[str, Any]:
    """A config, as plain values, with the simulations, data sets and runs that its study stands for.

    A data set that reads a simulation is made anew for each seed: seed 3 of row `r` and variant `v` is the simulation
    and the data set with `.3` behind their names, and the run `r.v.3` with that one seed, or with `n_seeds` seeds of
    its own. On other data, `r.v` is one run with all seeds.

    Raises:
        ValueError: a row of a data set that is not there, or that is not simulated where the truth is needed.
    """
    simulations, datasets = dict(values.get("simulations") or {}), dict(values["datasets"])
    simulated, runs = simulated_by(datasets, simulations), dict(values.get("runs") or {})
    kinds = {name: str(dict(dataset).get("kind")) for name, dataset in datasets.items()}
    for run in study.runs(simulated, kinds):
        if run.dataset not in datasets:
            raise ValueError(
                f"study.rows.{run.row}: {run.dataset!r} is no data set; allowed: {listed(values['datasets'])}"
            )
        if run.number is None and study.evaluate == "factors" and (run.baseline or run.calls != "consensus"):
            raise ValueError(
                f"study.rows.{run.row}.variants.{run.variant}: {run.dataset!r} is not simulated, and without a truth "
                f"only what all seeds agree on is scored; allowed: {listed(simulated) or 'none of this config'}"
            )
        if run.number is not None:
            source = simulated[run.dataset]
            simulations[f"{source}.{run.number}"] = dict(simulations[source]) | {"seed": run.number}
            paths = SIMULATED.format(f"{source}.{run.number}")
            datasets[run.own_dataset] = dict(datasets[run.dataset]) | {"paths": paths}
        if run.is_trained:
            settings = study.settings_of(run.variant, study.rows[run.row])
            runs[run.name] = settings | {"dataset": run.own_dataset, "seeds": run.seeds}
    return values | {"simulations": simulations, "datasets": datasets, "runs": runs}
