"""Settings of simulations: data sets of which the truth is known, made from a real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from nvae_bio.config.base import Name, Seed, Settings, Share
from nvae_bio.config.datasets import CountsSettings, ImagesSettings

Positive = Annotated[float, Field(gt=0)]


class Planted(Settings):
    """Variation within classes that a simulation plants: who has it, and how much of it a sample has."""

    name: Name = Field(description="name of it in the truth file")
    kind: Literal["shared", "private"] = Field(
        description="`shared`: in all classes; `private`: in those named in `classes` alone"
    )
    classes: list[str] = Field(
        [],
        description="classes that have it, one or several (4 of 6: a majority shares it); for `private` and only there",
    )
    activity: Literal["binary", "normal", "uniform"] = Field(
        "binary", description="activity of a sample in which it is on: 1, drawn from N(0, 1), or from -1 to 1; else 0"
    )
    share: float = Field(
        1.0, gt=0, le=1, description="share of the samples of a class in which it is on, above 0 to 1; binary: below 1"
    )
    class_shift: float = Field(
        0.0,
        ge=0,
        description="shared: classes differ in its mean, by even steps from -class_shift to class_shift in random "
        "order; added to the activity, or if binary to the logit of the share",
    )

    @model_validator(mode="after")
    def _check(self) -> Planted:
        if (self.kind == "private") != bool(self.classes):
            raise ValueError(f"kind {self.kind!r} needs {'`classes`' if self.kind == 'private' else 'no `classes`'}")
        if self.kind == "private" and self.class_shift:
            raise ValueError("class_shift is for kind 'shared'")
        if self.activity == "binary" and self.share == 1:
            raise ValueError("a binary activity needs a share below 1: on in every sample it is no variation")
        return self

    def classes_of(self, names: Sequence[str]) -> list[int]:
        """Positions in `names` of the classes that have it."""
        return [index for index, name in enumerate(names) if self.kind == "shared" or name in self.classes]


class Programme(Planted):
    """One of a list: genes that rise or fall together."""

    n_genes: PositiveInt = Field(
        description="number of its genes, drawn at random; no gene is in two programmes. With `genes`, left out"
    )
    genes: list[str] = Field([], description="names of its genes, whatever their means, in place of drawn ones")
    fold_change: Positive = Field(description="fold change of its genes at activity 1; of activity a it is to power a")
    direction: Literal["same", "both"] = Field(
        "same", description="`same`: all its genes change by fold_change; `both`: every second one by its inverse"
    )
    min_mean: Positive | None = Field(
        None, description="least mean of its genes, in place of the simulation's `min_mean` (counts a cell); above 0"
    )
    follows: Literal["none", "condition", "batch", "donor", "depth"] = Field(
        "none",
        description="what its activity is made of, in the classes that have it, in place of a draw for each sample. "
        "`condition`: 0 in the first arm, 1, 2, … in the next; `batch`, `donor`: a value for each level, drawn from "
        "N(0, 1) and standardised; `depth`: the standardised log of the cell's library. Its `activity` is `normal`",
    )
    follows_noise: float = Field(
        0.3, ge=0, description="standard deviation of what is added for each sample to an activity that follows; normal"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """`n_genes` may be left out where the genes are named, `activity` where it follows something."""
        if not isinstance(values, dict):
            return values
        named, filled = values.get("genes"), dict[str, Any]()
        if isinstance(named, list) and named:
            filled["n_genes"] = len(named)
        if values.get("follows", "none") != "none":
            filled["activity"] = "normal"
        return filled | values

    @model_validator(mode="after")
    def _check_programme(self) -> Programme:
        twice = [name for index, name in enumerate(self.genes) if name in self.genes[:index]]
        if twice:
            raise ValueError(f"genes: {twice[0]!r} stands twice")
        if self.genes and self.n_genes != len(self.genes):
            raise ValueError(f"n_genes {self.n_genes} is not the number of `genes` ({len(self.genes)}); leave it out")
        if self.genes and self.min_mean is not None:
            raise ValueError("min_mean is for genes that are drawn, not for those named in `genes`")
        if self.follows != "none" and (self.activity != "normal" or self.share < 1 or self.class_shift):
            raise ValueError(f"follows {self.follows!r} takes activity 'normal', share 1 and no class_shift")
        return self


class Change(Planted):
    """A change of a whole sample, by an amount that goes with its activity."""

    factors: ClassVar[tuple[str, ...]] = ()  # of what changes, amounts that multiply; all others add
    what: str = Field(description="what changes")
    amount: float = Field(description="how much at activity 1")

    @model_validator(mode="after")
    def _check_amount(self) -> Change:
        if self.what in self.factors and self.amount <= 0:
            raise ValueError(f"amount {self.amount:g} is no factor of {self.what}; it must be above 0")
        return self


class Transformation(Change):
    """One of a list: a change of the whole picture."""

    factors: ClassVar[tuple[str, ...]] = ("scale", "brightness")
    what: Literal["rotation", "scale", "slant", "shift_right", "shift_down", "thickness", "brightness"] = Field(
        description="what changes"
    )
    amount: float = Field(
        description="at activity 1, else in proportion; rotation: degrees counter-clockwise; scale, brightness: a "
        "factor, above 0, to the power of the activity; slant: columns to the right a row upwards; shift: pixels; "
        "thickness: weight of the picture dilated (below 0: eroded) by a pixel, at most 1"
    )


class Modulation(Change):
    """One of a list: a change of a tone."""

    factors: ClassVar[tuple[str, ...]] = ("attack", "vibrato")
    what: Literal["pitch", "loudness", "brightness", "noise", "attack", "vibrato"] = Field(description="what changes")
    amount: float = Field(
        description="at activity 1, else in proportion; pitch: semitones; loudness, noise: decibels; brightness: "
        "decibels an octave; attack, vibrato: a factor of its time and of its width, above 0, to the power of the "
        "activity"
    )


class Levels(Settings):
    """Batches or donors, spread evenly over the cells of each class."""

    n: PositiveInt = Field(1, description="number of levels")
    effect_sd: float = Field(
        0.0, ge=0, description="standard deviation of the log effect of a level on a gene (natural log)"
    )
    depth_ratio: Positive = Field(
        1.0, description="depth of the last level over that of the first; even steps of the log between; above 0"
    )

    @model_validator(mode="after")
    def _check(self) -> Levels:
        if self.n == 1 and (self.effect_sd or self.depth_ratio != 1):
            raise ValueError("n 1 has no effect_sd and no depth_ratio; they need at least 2 levels")
        return self


class Conditions(Settings):
    """Arms of a treatment; what they do is said by programmes with `follows: condition`."""

    names: list[str] = Field(
        ["control", "treated"], min_length=2, description="names of the arms; the first is the untreated one"
    )
    design: Literal["paired", "unpaired"] = Field(
        "paired",
        description="`paired`: every donor has cells of every arm, evenly in each class; `unpaired`: each donor is of "
        "one arm, as many donors in each as that goes",
    )

    @field_validator("names")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("each arm stands once")
        return value


class CountsSource(CountsSettings):
    """The real counts: an entry of `datasets`, in which all genes are kept unless told otherwise."""

    kind: Literal["counts"] = Field("counts", description="may be left out")
    n_top_genes: PositiveInt | None = Field(
        None, description="number of highly variable genes (seurat_v3, per batch, on training cells); null: all genes"
    )


class ImagesSource(ImagesSettings):
    """The real images: an entry of `datasets`."""

    kind: Literal["images"] = Field("images", description="may be left out")


class SimulationSettings(Settings):
    """What every kind of simulation has."""

    classes: dict[str, PositiveInt] = Field(
        min_length=2,
        description="class -> its number of samples; names of the source's classes, unless `class_profiles: shared`",
    )
    seed: Seed = Field(0, description="random seed of everything that is drawn")

    def _check_planted(self, planted: Sequence[Planted], key: str) -> None:
        """Names stand once, and the classes exist."""
        names = [item.name for item in planted]
        for index, item in enumerate(planted):
            if item.name in names[:index]:
                raise ValueError(f"{key}: {item.name!r} stands twice")
            unknown = [name for name in item.classes if name not in self.classes]
            if unknown:
                raise ValueError(
                    f"{key}.{index}.classes: {unknown[0]!r} is no class; allowed: {', '.join(self.classes)}"
                )


class CountsSimulation(SimulationSettings):
    """Counts with planted programmes; means, dispersions and library sizes are those of real cells."""

    kind: Literal["counts"]
    source: CountsSource = Field(description="the real cells; all their genes are kept unless it says `n_top_genes`")
    class_profiles: Literal["source", "shared"] = Field(
        "source",
        description="`source`: each class has the means and libraries of the source's class of its name; `shared`: all "
        "classes have those of all source cells",
    )
    n_genes: PositiveInt | None = Field(
        None, description="number of genes: those detected in most source cells; null: all of the source"
    )
    n_marker_genes: NonNegativeInt = Field(0, description="genes a class that are raised in it, and in no other class")
    marker_fold_change: Positive = Field(3.0, description="fold change of marker genes in their class; above 0")
    programmes: list[Programme] = Field([], description="planted programmes")
    min_mean: Positive = Field(
        0.1,
        description="least mean of a gene of a programme, or of a marker gene, in every class that has it (counts a "
        "cell, in the source, times `depth`); above 0",
    )
    depth: Positive = Field(
        1.0, description="factor on the library of every cell: how much deeper than the source is sequenced; above 0"
    )
    batches: Levels = Levels()
    donors: Levels = Levels()
    conditions: Conditions | None = Field(None, description="arms of a treatment; null: none")
    depth_sd: float = Field(
        0.0, ge=0, description="standard deviation of a log factor on the library of each cell (natural log)"
    )
    label_swaps: float = Field(
        0.0, ge=0, lt=0.5, description="share of the cells of each class whose label is that of another; below 0.5"
    )
    doublets: Share = Field(
        0.0,
        description="doublets to add, as a share of the cells: the counts of two cells of different classes, summed",
    )

    @property
    def planted(self) -> Sequence[Planted]:
        """The programmes."""
        return self.programmes

    @property
    def source_settings(self) -> CountsSettings:
        """The source."""
        return self.source

    @model_validator(mode="after")
    def _check(self) -> CountsSimulation:
        self._check_planted(self.programmes, "programmes")
        owner: dict[str, str] = {}
        for index, item in enumerate(self.programmes):
            self._check_follows(item.follows, f"programmes.{index}.follows")
            for gene in item.genes:
                if owner.setdefault(gene, item.name) != item.name:
                    raise ValueError(f"programmes.{index}.genes: {gene!r} is a gene of {owner[gene]!r} already")
        if self.conditions and self.conditions.design == "unpaired" and self.donors.n < len(self.conditions.names):
            raise ValueError(
                f"conditions: design 'unpaired' needs a donor for each of {len(self.conditions.names)} arms; "
                f"donors.n is {self.donors.n}"
            )
        return self

    def _check_follows(self, follows: str, key: str) -> None:
        """What is followed varies; whether depth does is known with the source."""
        if follows == "condition" and self.conditions is None:
            raise ValueError(f"{key}: 'condition' needs `conditions`")
        levels = {"batch": self.batches.n, "donor": self.donors.n}
        if levels.get(follows, 2) < 2:
            raise ValueError(f"{key}: {follows!r} needs at least 2 levels of it; n is 1")


class ImagesSimulation(SimulationSettings):
    """Real images, transformed."""

    kind: Literal["images"]
    source: ImagesSource = Field(description="the real images")
    n_originals: PositiveInt | None = Field(
        None,
        description="so many pictures of each class, drawn at random, are what its images are made from in turn; null: "
        "each image from a picture of its own. With 1 a class varies by what is planted alone, so that the truth is "
        "complete: real pictures of a class vary among themselves, and some of that is private to the class",
    )
    transformations: list[Transformation] = Field([], description="planted transformations")

    @property
    def planted(self) -> Sequence[Planted]:
        """The transformations."""
        return self.transformations

    @property
    def source_settings(self) -> ImagesSettings:
        """The source."""
        return self.source

    @model_validator(mode="after")
    def _check(self) -> ImagesSimulation:
        self._check_planted(self.transformations, "transformations")
        return self


class SoundsSimulation(SimulationSettings):
    """Tones of instruments, synthesised, as a table of audio features; an instrument is a class."""

    kind: Literal["sounds"]
    classes: dict[str, PositiveInt] = Field(
        min_length=2, description="instrument -> its number of tones; names are free, and the timbre is drawn by name"
    )
    modulations: list[Modulation] = Field([], description="planted changes")

    @property
    def planted(self) -> Sequence[Planted]:
        """The modulations."""
        return self.modulations

    @property
    def source_settings(self) -> None:
        """None: it is made from nothing."""
        return None

    @model_validator(mode="after")
    def _check(self) -> SoundsSimulation:
        self._check_planted(self.modulations, "modulations")
        return self


Simulation = Annotated[CountsSimulation | ImagesSimulation | SoundsSimulation, Field(discriminator="kind")]
