"""Settings of data sets: where samples come from and how they are prepared."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from nvae_bio.config.base import Seed, Settings, Share

BUILTINS = {"pbmc68k": "counts", "digits": "images"}


def _truth_as_text(value: Any) -> Any:
    """true and false as columns of these are read: `True`, `False`."""
    if isinstance(value, list):
        return [_truth_as_text(one) for one in value]
    return str(value) if isinstance(value, bool) else value


Values = Annotated[str | list[str], BeforeValidator(_truth_as_text)]  # of an obs column, one or several


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
    test: Share = Field(0.2, description="share of samples for test, 0 to below 1; 0 where `hold_out` makes that part")
    n_folds: int = Field(
        5, ge=3, description="number of group folds when split by donor; at least 3, at most the number of donors"
    )
    test_fold: NonNegativeInt = Field(
        0, description="the fold that is the test part when split by donor; the next one is validation"
    )
    seed: Seed = Field(0, description="random seed of the split")

    @model_validator(mode="after")
    def _check(self) -> SplitSettings:
        if self.validation + self.test > 0.8:
            raise ValueError(
                f"validation {self.validation} + test {self.test} leave too little to train on; at most 0.8 together"
            )
        if self.validation == 0:
            raise ValueError("validation must be above 0: it says when to stop")
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
        None,
        description="obs column of the technical batch; of joined files: `batch`, made from their names. The decoder "
        "is told it (`model.covariates`), so that what differs between batches is no factor: name no column that holds "
        "what you look for",
    )
    donor_key: str | None = Field(None, description="obs column of the donor, the unit of resampling")
    condition_key: str | None = Field(None, description="obs column of a condition that figures are coloured by")
    categorical_covariates: list[str] = Field(
        [],
        description="obs columns of further covariates with levels, such as a protocol; the decoder is told them as it "
        "is the batch; a missing value is an unknown level",
    )
    continuous_covariates: list[str] = Field(
        [],
        description="obs columns of covariates that are numbers, such as an age, or `mito_share` and `n_genes` that "
        "`prepare` makes of counts; a missing or infinite value counts as the mean",
    )
    join_classes: dict[str, list[str]] = Field({}, description="coarser classes: new name -> labels that it takes in")
    min_samples_per_class: int = Field(20, ge=5, description="a class with fewer samples is rare (samples); at least 5")
    rare_classes: Literal["error", "drop", "unlabeled"] = Field(
        "error", description="what is done with the samples of rare classes"
    )
    max_samples: PositiveInt | None = Field(
        None, description="keep a random part of at most so many samples, stratified by class"
    )
    drop: dict[str, Values] = Field(
        {},
        description="obs column -> value, or several: samples with one of these in any column are left out, such as "
        "doublets; allowed besides text: true, false",
    )
    make_unique: bool = Field(
        False, description="make duplicated barcodes and feature names unique by a suffix, instead of refusing them"
    )
    split: SplitSettings = SplitSettings()
    hold_out: dict[str, Values] = Field(
        {},
        description="obs column -> value, or several: samples with one of these in each column neither train nor "
        "validate, they are `test`; "
        "such as the treated cells of one type, to be foretold from the other types",
    )

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_source(self) -> DatasetSettings:
        if self.builtin is not None and self.paths:
            raise ValueError("give either `builtin` or `paths`, and not both")
        if self.split.test == 0 and not self.hold_out:
            raise ValueError(
                "split.test must be above 0, or hold_out name samples: the report is made on some not seen before"
            )
        kind = getattr(self, "kind", None)
        if self.builtin is not None and BUILTINS[self.builtin] != kind:
            raise ValueError(f"built-in {self.builtin!r} is of kind {BUILTINS[self.builtin]!r}, not {kind!r}")
        taken = [label for labels in self.join_classes.values() for label in labels]
        twice = sorted({label for label in taken if taken.count(label) > 1})
        if twice:
            raise ValueError(f"join_classes: {twice[0]!r} is in more than one class")
        if self.split.by == "donor" and self.donor_key is None:
            raise ValueError("split.by: donor needs donor_key")
        self._check_covariates()
        return self

    def _check_covariates(self) -> None:
        taken = {self.label_key: "is the class (label_key)"}
        if self.batch_key is not None or self.makes_batches:
            taken[self.batch_key or "batch"] = "is the batch, one already"
        for setting in ("categorical_covariates", "continuous_covariates"):
            for name in getattr(self, setting):
                if name in taken:
                    raise ValueError(f"{setting}: {name!r} {taken[name]}; allowed: another column")
                taken[name] = "is named twice"

    @property
    def obs_keys(self) -> set[str]:
        """All obs columns that are named."""
        keys = [self.label_key, self.batch_key, self.donor_key, self.condition_key, self.split.key]
        keys += [*self.categorical_covariates, *self.continuous_covariates, *self.drop, *self.hold_out]
        return {key for key in keys if key is not None}

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
    size_factor_key: str | None = Field(
        None,
        description="obs column with a size factor of each cell, above 0, for models with `size: size_factor`; scaled "
        "so that the median over training cells is that of the library (counts)",
    )
    storage: Literal["memory", "disk"] = Field(
        "memory",
        description="`disk`: cells are read some thousand at a time, packed into a store beside the prepared file, and "
        "trained on and embedded from there; for more cells than fit in memory",
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
    binarise: float | None = Field(
        None, gt=0, lt=1, description="pixels from this value on become 1, all others 0 (0 to 1); for `bernoulli`"
    )

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
