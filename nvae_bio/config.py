"""Settings: the only schema of a config file.

A config lists `datasets` (where samples come from and how they are prepared) and `runs` (a data set, a model, how it is
trained, which seeds). Everything is frozen and refuses unknown keys. This module imports neither torch nor scanpy, so
that Snakemake can validate a config before any job.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    RootModel,
    ValidationError,
    field_validator,
    model_validator,
)

from nvae_bio.errors import UserError, models_in, nearest, one_line

Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Variant = Literal["nvae", "cvae", "vae", "per_class"]
LikelihoodName = Literal["negative_binomial", "bernoulli", "gaussian"]
LIKELIHOODS: dict[str, tuple[LikelihoodName, ...]] = {
    "counts": ("negative_binomial",),
    "images": ("bernoulli", "gaussian"),
    "features": ("gaussian",),
}
BUILTINS = {"pbmc68k": "counts", "digits": "images"}


class Settings(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


# --- data sets -------------------------------------------------------------------------------------------------------


class SplitSettings(Settings):
    """Which samples train the model, which choose (validation), and which are only ever judged on (test)."""

    by: Literal["sample", "donor"] = Field(
        "sample",
        description="`sample`: stratified by class and donor; `donor`: whole donors are held out, in group folds",
    )
    key: str | None = Field(
        None,
        description="obs column that holds the source's own split (train, validation or val, test); `source_split` for "
        "the files of MNIST and MedMNIST; a part that is missing is taken from train",
    )
    validation: Share = Field(0.1, description="share of samples for validation, 0 to below 1")
    test: Share = Field(0.2, description="share of samples for test, 0 to below 1")
    n_folds: int = Field(
        5, ge=3, description="number of group folds when split by donor; at least 3, at most the number of donors"
    )
    test_fold: NonNegativeInt = Field(
        0, description="the fold that is the test part when split by donor; the next one is validation"
    )
    seed: NonNegativeInt = Field(0, description="random seed of the split")

    @model_validator(mode="after")
    def _check(self) -> SplitSettings:
        if self.validation + self.test > 0.8:
            raise ValueError(
                f"validation {self.validation} + test {self.test} leave too little to train on; at most 0.8 together"
            )
        if self.test == 0 or self.validation == 0:
            raise ValueError(
                "validation and test must both be above 0: the report is made on samples the model did not see"
            )
        if self.test_fold >= self.n_folds:
            raise ValueError(f"test_fold {self.test_fold} must be below n_folds {self.n_folds}")
        if self.key is not None and self.by == "donor":
            raise ValueError("give either `key` (the source's own split) or `by: donor`, and not both")
        return self


class QcSettings(Settings):
    """Which cells and genes are dropped before anything else; each limit's victims are counted in the prepared file."""

    min_genes: NonNegativeInt = Field(0, description="cells with fewer detected genes are dropped (genes)")
    min_counts: PositiveInt = Field(
        1,
        description="cells with fewer counts in the file are dropped (counts); at least 1, an empty cell tells nothing",
    )
    max_mito_share: float = Field(
        1.0, gt=0, le=1, description="cells with a larger mitochondrial share of counts are dropped (0 to 1)"
    )
    mito_prefix: str = Field("MT-", description="prefix of mitochondrial gene names, upper or lower case")
    min_cells: NonNegativeInt = Field(3, description="genes seen in fewer training cells are dropped (cells)")


class DatasetSettings(Settings):
    """What every kind of data set has."""

    builtin: Literal["pbmc68k", "digits"] | None = Field(
        None, description="a data set that needs no file; instead of `paths`"
    )
    paths: list[str] | dict[str, str] = Field(
        [],
        description="file(s) or folder(s), from the working folder; a mapping `name: path` names the batches of joined "
        "files",
    )
    label_key: str = Field(
        "label",
        description="obs column (or array of an .npz, or column of a table) with the class of each sample; IDX files, "
        "image folders and MedMNIST's .npz have it as `label`",
    )
    label_table: str | None = Field(
        None, description="csv, tsv or parquet table joined to obs by barcode; may hold label, batch, donor"
    )
    label_table_key: str | None = Field(
        None, description="column of the label table with the barcodes; default: its first column"
    )
    unlabeled_values: list[str] = Field([], description="labels that mean `unlabeled`, besides missing ones")
    batch_key: str | None = Field(
        None, description="obs column of the technical batch; of joined files: `batch`, made from their names"
    )
    donor_key: str | None = Field(None, description="obs column of the donor, the unit of resampling")
    condition_key: str | None = Field(None, description="obs column of a condition that figures are coloured by")
    join_classes: dict[str, list[str]] = Field({}, description="coarser classes: new name -> labels that it takes in")
    min_samples_per_class: int = Field(20, ge=5, description="a class with fewer samples is rare (samples); at least 5")
    rare_classes: Literal["error", "drop", "unlabeled"] = Field(
        "error", description="what is done with the samples of rare classes"
    )
    max_samples: PositiveInt | None = Field(
        None, description="keep a random part of at most so many samples, stratified by class"
    )
    make_unique: bool = Field(
        False, description="make duplicated barcodes and feature names unique by a suffix, instead of refusing them"
    )
    split: SplitSettings = SplitSettings()

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_source(self) -> DatasetSettings:
        if self.builtin is not None and self.paths:
            raise ValueError("give either `builtin` or `paths`, and not both")
        kind = getattr(self, "kind", None)
        if self.builtin is not None and BUILTINS[self.builtin] != kind:
            raise ValueError(f"built-in {self.builtin!r} is of kind {BUILTINS[self.builtin]!r}, not {kind!r}")
        taken = [label for labels in self.join_classes.values() for label in labels]
        twice = sorted({label for label in taken if taken.count(label) > 1})
        if twice:
            raise ValueError(f"join_classes: {twice[0]!r} is in more than one class")
        if self.split.by == "donor" and self.donor_key is None:
            raise ValueError("split.by: donor needs donor_key")
        return self

    @property
    def has_source(self) -> bool:
        """Whether a data set is named; only AnnData in memory, from Python, can do without."""
        return self.builtin is not None or bool(self.paths)

    @property
    def makes_batches(self) -> bool:
        """Whether the reader writes obs["batch"], one batch a file."""
        return isinstance(self.paths, dict) or len(self.paths) > 1

    @property
    def data_paths(self) -> list[str]:
        """The paths that hold samples, in order."""
        return list(self.paths.values()) if isinstance(self.paths, dict) else list(self.paths)

    @property
    def path_list(self) -> list[str]:
        """All paths that this data set reads, label table included."""
        return self.data_paths + ([self.label_table] if self.label_table is not None else [])


class CountsSettings(DatasetSettings):
    """A matrix of counts: .h5ad, .zarr, 10x .h5, 10x mtx folder, .csv/.tsv(.gz), .parquet."""

    kind: Literal["counts"]
    matrix: str = Field(
        "X",
        pattern=r"^(X|raw|layers/.+)$",
        description="where the counts are in .h5ad/.zarr: `X`, `raw` or `layers/NAME`",
    )
    transpose: bool = Field(False, description="the table has genes as rows and cells as columns")
    library_key: str | None = Field(
        None, description="obs column with all counts of the cell (counts), where the file holds only some of its genes"
    )
    qc: QcSettings = QcSettings()
    n_top_genes: PositiveInt | None = Field(
        2000, description="number of highly variable genes (seurat_v3, per batch, on training cells); null: all genes"
    )


class ImagesSettings(DatasetSettings):
    """Images: IDX (.gz), .npz, a folder with one subfolder a class, .h5ad."""

    kind: Literal["images"]
    image_key: str | None = Field(None, description=".npz: name of the image array; default: MedMNIST's keys")
    label_paths: list[str] = Field([], description="IDX: label files, in the order of `paths`; default: MNIST's naming")
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        None, description=".h5ad without var columns channel, row, column: (channels, height, width) in pixels"
    )
    resize: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="height and width after resizing (pixels), 8 to 96 for conv"
    )
    crop: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="height and width of a central crop before resizing (pixels)"
    )
    grey: bool = Field(False, description="turn colour into grey")

    @property
    def makes_batches(self) -> bool:
        """Only where files are named: those of MNIST are parts of one data set, no batches."""
        return isinstance(self.paths, dict)

    @property
    def path_list(self) -> list[str]:
        """All paths that this data set reads, label files included."""
        return [*super().path_list, *self.label_paths]


class FeaturesSettings(DatasetSettings):
    """A table of real-valued features: .csv/.tsv(.gz), .parquet, .h5ad."""

    kind: Literal["features"]
    matrix: str = Field(
        "X", pattern=r"^(X|raw|layers/.+)$", description="where the features are in .h5ad: `X`, `raw` or `layers/NAME`"
    )
    feature_columns: list[str] = Field(
        [], description="table: columns to use; default: all numeric ones but the keys named here"
    )
    index_column: str | None = Field(
        None, description="table: column with the names of the samples; default: the row number"
    )
    standardize: bool = Field(
        True, description="shift and scale each feature to mean 0, variance 1 on the training samples"
    )


Dataset = Annotated[CountsSettings | ImagesSettings | FeaturesSettings, Field(discriminator="kind")]


# --- runs ------------------------------------------------------------------------------------------------------------


class ModelSettings(Settings):
    """N-VAE (Antorán & Miguel 2019, arXiv:1901.09415) and its baselines, from one code."""

    variant: Variant = Field(
        "nvae",
        description="`nvae`: shared and private latents; `cvae`: no private ones; `vae`: no label either; `per_class`: "
        "no shared ones",
    )
    n_shared: NonNegativeInt = Field(
        10, description="S, dims of the shared latent z_s; 0 for `per_class` and only there"
    )
    n_private: NonNegativeInt = Field(
        2, description="K, dims of each class's private block of z_c; 0 for `cvae` and `vae` and only there"
    )
    beta_private: float = Field(1.0, gt=0, description="β_c of eq. 7, weight of the private KL; above 0")
    private_kl: Literal["all", "own"] = Field(
        "all", description="`all`: eq. 7 as written, the KL of every block; `own`: only of the sample's own block"
    )
    classifier_weight: float = Field(
        1.0, ge=0, description="weight of log q(y|x); its network is separate from the generative part"
    )
    likelihood: LikelihoodName | None = Field(
        None, description="default by kind: negative_binomial for counts, bernoulli for images, gaussian for features"
    )
    backbone: Literal["mlp", "conv"] = Field("mlp", description="networks; `conv` for images of 8×8 to 96×96 pixels")
    hidden: tuple[PositiveInt, ...] = Field(
        (128, 128), min_length=1, description="units of the dense layers of the encoder; mirrored in the decoder"
    )
    channels: tuple[PositiveInt, ...] = Field(
        (32, 64), min_length=1, description="conv: channels of each stage, each halves the image"
    )

    @model_validator(mode="before")
    @classmethod
    def _dims_by_variant(cls, values: Any) -> Any:
        if isinstance(values, dict):
            empty = {"cvae": "n_private", "vae": "n_private", "per_class": "n_shared"}.get(
                values.get("variant", "nvae")
            )
            if empty is not None and empty not in values:
                return {**values, empty: 0}
        return values

    @model_validator(mode="after")
    def _check_dims(self) -> ModelSettings:
        private, shared = self.variant in ("nvae", "per_class"), self.variant != "per_class"
        for name, wanted, value in (("n_shared", shared, self.n_shared), ("n_private", private, self.n_private)):
            if wanted != (value > 0):
                raise ValueError(
                    f"{name} {value} does not fit variant {self.variant!r}: it must be {'above 0' if wanted else '0'}"
                )
        return self


class TrainingSettings(Settings):
    """How the model is fitted."""

    max_epochs: PositiveInt = Field(200, description="passes over the training samples, at most")
    batch_size: PositiveInt = Field(128, description="samples a step")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam step size; above 0")
    warmup_share: float = Field(
        0.25,
        ge=0,
        le=0.5,
        description="share of all steps over which the KL weight rises from 0 to exactly 1; 0 to 0.5",
    )
    patience: PositiveInt | None = Field(
        30,
        description="epochs without a better validation ELBO before training stops, counted after the warm-up; null: "
        "never",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: a GPU if there is one")
    n_threads: PositiveInt = Field(
        1, description="CPU threads; part of the settings because it changes the last bits of a result"
    )


class EmbeddingSettings(Settings):
    """What is computed for each sample from a trained model."""

    n_draws: PositiveInt = Field(10, description="draws of z a sample for the bound on log p(x|y)")
    n_effect_samples: PositiveInt = Field(100, description="samples a class over which decoded effects are averaged")
    umap: bool = Field(True, description="lay the embeddings out in two dimensions with scanpy")


class ReportSettings(Settings):
    """The factor report."""

    n_bootstrap: int = Field(1000, ge=100, description="bootstrap resamples of an interval; at least 100")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the intervals, 0.5 to 1")
    null_quantile: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="quantile of the KL of structurally empty dims that a factor must pass, 0.5 to 1",
    )
    min_kl: float = Field(
        0.01,
        ge=0,
        description="a factor with less is never called active (nats); at 0.01 the mean has 2 % of the variance",
    )
    n_top_features: PositiveInt = Field(10, description="features named for each direction of a factor")


class GenerationSettings(Settings):
    """Samples and traversals drawn from the model."""

    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0, 1.4), min_length=1, description="scales of the prior noise; above 0"
    )
    n_per_class: PositiveInt = Field(16, description="samples for each class and each sigma")
    n_steps: int = Field(9, ge=3, description="steps of a traversal; at least 3")
    span: float = Field(
        2.5, gt=0, description="a traversal goes from -span to +span (standard deviations of the prior)"
    )


class FitSettings(Settings):
    """What `train` depends on."""

    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


class RunSettings(FitSettings):
    """A data set, a model, how it is trained and reported, and the seeds."""

    dataset: str = Field(description="name of an entry of `datasets`")
    seeds: list[NonNegativeInt] = Field(
        [0, 1, 2], min_length=1, description="random seeds; one model is trained for each"
    )
    embedding: EmbeddingSettings = EmbeddingSettings()
    report: ReportSettings = ReportSettings()
    generation: GenerationSettings = GenerationSettings()

    @property
    def fit(self) -> FitSettings:
        """The part that `train` depends on."""
        return FitSettings(model=self.model, training=self.training)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("seeds must differ from each other")
        return value


class WorkflowSettings(Settings):
    """A whole config file."""

    datasets: dict[Name, Dataset] = Field(min_length=1, description="named data sets")
    runs: dict[Name, RunSettings] = Field(min_length=1, description="named runs")

    @model_validator(mode="after")
    def _check_runs(self) -> WorkflowSettings:
        for name, dataset in self.datasets.items():
            if not dataset.has_source:
                raise ValueError(f"datasets.{name}: give either `builtin` or `paths`")
        for name, run in self.runs.items():
            if run.dataset not in self.datasets:
                raise ValueError(
                    f"runs.{name}.dataset: {run.dataset!r} is no data set; allowed: {', '.join(self.datasets)}"
                )
            check_model_fits(run.model, self.datasets[run.dataset].kind, f"runs.{name}.model.")
        return self


def check_model_fits(model: ModelSettings, kind: str, where: str = "") -> LikelihoodName:
    """The likelihood that `model` has on data of `kind`.

    Raises:
        ValueError: the likelihood or backbone cannot model data of that kind.
    """
    allowed = LIKELIHOODS[kind]
    likelihood = model.likelihood or allowed[0]
    if likelihood not in allowed:
        raise ValueError(
            f"{where}likelihood: {likelihood!r} does not fit data of kind {kind!r}; allowed: {', '.join(allowed)}"
        )
    if model.backbone == "conv" and kind != "images":
        raise ValueError(f"{where}backbone: 'conv' needs data of kind 'images', not {kind!r}; allowed: mlp")
    return likelihood


# --- reading ---------------------------------------------------------------------------------------------------------

SettingsType = TypeVar("SettingsType", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error, not a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # what `<<` brings gives way
        for key in _twice(self.construct_object(key, deep=True) for key in own):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key in _twice(key for key, _ in pairs):
        raise ValueError(f"key {key!r} stands twice")
    return dict(pairs)


def _twice(keys: Iterable[Any]) -> list[Any]:
    found = list(keys)
    return [key for key in found if found.count(key) > 1]


def parse_settings(values: Any, model: type[SettingsType], source: str) -> SettingsType:
    """Validated settings from plain values.

    Raises:
        UserError: one line naming the source, the key, the value and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(one_line(error, model, source)) from None


def load_settings(source: str, model: type[SettingsType]) -> SettingsType:
    """Settings from JSON text, from a YAML file, or from one entry of a config file.

    Args:
        source: text that starts with `{`; the path of a file; or `PATH:datasets.NAME`, `PATH:runs.NAME`. Of a run, a
            model takes the keys that it has, or is one of its parts: one entry serves every step.
        model: a settings class.

    Raises:
        UserError: no such file or entry, not YAML, or settings that are not allowed.

    >>> load_settings('{"max_epochs": 3}', TrainingSettings).max_epochs
    3
    """
    path, colon, entry = source.rpartition(":")
    if source.lstrip().startswith("{"):
        return parse_settings(_read_values(source, "--settings", _parse_json), model, "--settings")
    if colon and "/" not in entry and not Path(source).exists():
        return _take_entry(load_config(path), entry, model, path)
    return parse_settings(_read_values(source, source, _parse_yaml_file), model, source)


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_json_object)


def _parse_yaml_file(path: str) -> Any:
    values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
    return {} if values is None else values


def _read_values(text: str, source: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        form = "JSON" if parse is _parse_json else "YAML"
        raise UserError(f"{source}: not valid {form}: {' '.join(str(error).split())}") from None


def _take_entry(config: WorkflowSettings, key: str, model: type[SettingsType], path: str) -> SettingsType:
    """One data set or run of a config, or the part of it that is of type `model`."""
    entries: dict[str, BaseModel] = {f"datasets.{name}": dataset for name, dataset in config.datasets.items()}
    entries |= {f"runs.{name}": run for name, run in config.runs.items()}
    if key not in entries:
        raise UserError(f"{path}: no entry {key!r}; {nearest(key, entries)}there are: {', '.join(entries)}")
    entry = entries[key]
    for wanted in models_in(model):
        if isinstance(entry, wanted):
            return parse_settings({name: getattr(entry, name) for name in wanted.model_fields}, model, path)
        for _, part in entry:
            if isinstance(part, wanted):
                return parse_settings(part, model, path)
    section = "datasets" if key.startswith("runs.") else "runs"
    raise UserError(f"{path}:{key}: an entry of `{section}` is needed here")


def load_dataset(source: str) -> Dataset:
    """Settings of a data set of any kind, from what `load_settings` takes."""
    return load_settings(source, _AnyDataset).root


class _AnyDataset(RootModel[Dataset]):
    pass


def load_config(path: str | Path) -> WorkflowSettings:
    """A whole config file, validated."""
    return load_settings(str(path), WorkflowSettings)


def iter_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a settings model with its field, depth first; a nested model's own keys follow it."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from iter_fields(nested, f"{prefix}{name}.")
        else:
            yield prefix + name, field
