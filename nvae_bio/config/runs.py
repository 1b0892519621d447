"""Settings of runs: how a model is trained, used and reported."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from nvae_bio.config.base import Name, Seed, Settings
from nvae_bio.config.counterfactuals import CounterfactualSettings
from nvae_bio.config.evaluation import OptionalEvaluation
from nvae_bio.config.exports import OptionalExport
from nvae_bio.config.models import LikelihoodName, ModelSettings, Variant
from nvae_bio.config.queries import QuerySettings
from nvae_bio.config.reports import (
    AuditSettings,
    FactorSettings,
    NullKind,
    OptionalAudit,
    OptionalPage,
    OptionalPower,
    PageSettings,
    PowerSettings,
    ReportSettings,
)

MAX_EPOCHS, MAX_SAMPLES = 400, 8_000_000  # passes by default, and samples in all of them


class TrainingSettings(Settings):
    """How the model is fitted."""

    max_epochs: PositiveInt | None = Field(
        None,
        description="passes over the training samples, at most; null: 400, of more than 20,000 samples as many as make "
        "8 million in all; the card of the model says how many",
    )
    batch_size: PositiveInt | None = Field(
        None, description="samples a step; null: 128 on a CPU, 512 on a GPU; the model's card says which it was"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam step size; above 0")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="`cosine`: it falls along half a cosine, to 0 at the end of `max_epochs`; set those to what the "
        "training needs, such as 100 for a few thousand samples",
    )
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
    unlabeled: Literal["use", "ignore"] = Field(
        "use",
        description="`use`: training samples without a class train by the bound on log p(x), in which q(y|x) weighs "
        "the classes; `ignore`: they do not train",
    )
    unlabeled_classes: PositiveInt = Field(
        10,
        description="likeliest classes that this bound sums over, all if there are no more; its cost grows with them",
    )
    class_balance: Literal["none", "balanced"] = Field(
        "none",
        description="`balanced`: an epoch has as many labelled samples as ever but the same number of each class: "
        "those of rare classes repeat, those of common ones take turns over epochs",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: a GPU if there is one")
    n_threads: PositiveInt | Literal["auto"] = Field(
        1,
        description="CPU threads; part of the settings because it changes the last bits of a result. `auto`: one, or "
        "all that the job may use (SLURM's share, affinity, control group), whichever is faster in a trial of some "
        "steps; the model's card says which it was",
    )
    n_ranks: PositiveInt | None = Field(
        None,
        description="processes that train together, each on its part of every batch, on one node or several; part of "
        "the settings because it changes the last bits of a result. null: one in the workflow, and as many as torchrun "
        "or srun start of the command; the model's card says how many. Seeds are then not stacked",
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "high",
        description="of float32 matrix products in training, by torch's names: `highest`: float32; `high`: TF32 on a "
        "GPU; `medium`: bfloat16 where the processor has it. Likelihood, KL and all that is reported are float32",
    )
    first_layer: Literal["auto", "dense", "sparse"] = Field(
        "auto",
        description="of encoder and classifier. `sparse`: on a CPU, counts that are 0 do not go through it, which "
        "changes the last bits of a result; elsewhere, and where seeds are trained as a stack, it is `dense`. `auto`: "
        "whichever is faster at the data's share of counts that are not 0; the model's card says which it was",
    )
    stack_seeds: bool = Field(
        False,
        description="train all seeds of a run in one job, which costs less work than one job a seed but is not spread "
        "over cores; where steps are small they are trained as a stack, which changes the last bits of a result (the "
        "model's card says whether)",
    )

    @property
    def epochs(self) -> int:
        """Passes at most; the most that there are by default as long as the number of samples is not known."""
        return self.max_epochs or MAX_EPOCHS

    @property
    def threads(self) -> int:
        """The number of threads; 1 as long as `auto` is not decided."""
        return 1 if self.n_threads == "auto" else self.n_threads


def usual_epochs(n_samples: int) -> int:
    """Passes over so many training samples, at most, where the settings say nothing.

    >>> [usual_epochs(n) for n in (1_000, 20_000, 50_000)]
    [400, 400, 160]
    """
    return max(1, min(MAX_EPOCHS, round(MAX_SAMPLES / n_samples)))


class EmbeddingSettings(Settings):
    """What is computed for each sample from a trained model."""

    n_draws: PositiveInt = Field(10, description="draws of z a sample for the bound on log p(x|y)")
    n_effect_samples: PositiveInt = Field(100, description="samples a class over which decoded effects are averaged")
    umap: bool = Field(True, description="lay the embeddings out in two dimensions with scanpy")
    umap_max_samples: int = Field(
        20_000, ge=100, description="a random part of at most so many samples is laid out; at least 100"
    )


class GenerationSettings(Settings):
    """Samples and traversals drawn from the model."""

    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0, 1.4), min_length=1, description="scales of the prior noise; above 0"
    )
    n_per_class: PositiveInt | dict[str, NonNegativeInt] = Field(
        16, description="samples for each sigma: of each class, or class -> its number, 0 for those not named"
    )
    n_steps: int = Field(9, ge=3, description="steps of a traversal or an interpolation; at least 3")
    span: float = Field(
        2.5, gt=0, description="a traversal goes from -span to +span (standard deviations of the prior)"
    )
    n_pairs: PositiveInt = Field(
        2, description="interpolations of each class, between two of its held-out samples each"
    )
    n_swapped: PositiveInt = Field(1, description="held-out samples of each class that are decoded as every class")
    samples: list[str] = Field(
        [],
        description="names of samples to take instead: interpolations are between the first and second, third and "
        "fourth and so on, swaps of each",
    )


FitType = TypeVar("FitType", bound="FitSettings")


class FitSettings(Settings):
    """What `train` depends on."""

    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()

    def for_kind(self: FitType, kind: str) -> FitType:
        """The same with the defaults of `model` that a kind of data has (`ModelSettings.for_kind`)."""
        return self.model_copy(update={"model": self.model.for_kind(kind)})

    @property
    def base(self) -> FitSettings:
        """Of the model from which null data are drawn: S + K shared dims and no private ones.

        With S alone it would lack the shared factors that S has no room for, and the null what they leave in blocks.
        """
        if not self.model.n_private:
            return self.alone
        values = self.model.model_dump() | {"variant": "cvae", "n_private": 0, "n_shared": self.model.n_latent}
        return FitSettings(model=ModelSettings.model_validate(values), training=self.alone.training)

    @property
    def alone(self: FitType) -> FitType:
        """The same for one process."""
        return self.model_copy(update={"training": self.training.model_copy(update={"n_ranks": None})})

    def with_likelihood(self: FitType, likelihood: LikelihoodName) -> FitType:
        """The same with this likelihood, where none is set."""
        if self.model.likelihood is not None:
            return self
        return self.model_copy(update={"model": self.model.model_copy(update={"likelihood": likelihood})})

    def with_training(self, **values: float | str) -> FitSettings:
        """The same with other values of `training`."""
        return self.model_copy(update={"training": self.training.model_copy(update=values)})


class PlantingSettings(FitSettings):
    """What `power` depends on."""

    power: PowerSettings = PowerSettings()


class RunSettings(FitSettings):
    """A data set, a model, how it is trained and reported, and the seeds."""

    dataset: str = Field(description="name of an entry of `datasets`")
    seeds: list[Seed] = Field([0, 1, 2], min_length=1, description="random seeds; one model is trained for each")
    embedding: EmbeddingSettings = EmbeddingSettings()
    audit: OptionalAudit = Field(AuditSettings(), description="`off`, `on` or its keys: labels held against the model")
    power: OptionalPower = Field(
        None,
        description="`off`, `on` or its keys: whether planted programmes are found, in counts",
    )
    report: ReportSettings = ReportSettings()
    generation: GenerationSettings = GenerationSettings()
    counterfactuals: dict[Name, CounterfactualSettings] = Field(
        {}, description="named changes of samples that each trained model decodes"
    )
    queries: dict[Name, QuerySettings] = Field(
        {}, description="named sets of new samples that each trained model maps; of a model that is told classes"
    )
    evaluation: OptionalEvaluation = Field(
        None, description="`off`, `on` or its keys: scores of the model on held-out samples, beside the report"
    )
    page: OptionalPage = Field(
        PageSettings(),
        description="`off`, `on` or its keys: one page about the run, `report.html`, to open in a browser",
    )
    export: OptionalExport = Field(
        None,
        description="`off`, `on` or its keys: the run as tidy tables, a file for the CELLxGENE explorer, and a card of "
        "each model in words",
    )

    @property
    def refits(self) -> dict[NullKind, list[range]]:
        """The refits of each kind that the report needs, by number, job by job.

        Without a shared latent there is one kind: null data without any factor. Without a label, no class has a factor
        of its own.
        """
        n, shared = self.report.n_refits, self.report.n_shared_refits
        shared = -(-n // 2) if shared is None else shared
        by_variant: dict[Variant, dict[NullKind, int]] = {"per_class": {"no_factor": n}, "vae": {"no_factor": shared}}
        numbers = by_variant.get(self.model.variant, {self.report.null_kind: n, "no_factor": shared})
        size = self.report.refits_per_job
        jobs = {
            kind: [range(first, min(first + size, n)) for first in range(0, n, size)] for kind, n in numbers.items()
        }
        return {kind: parts for kind, parts in jobs.items() if parts}

    @property
    def fit(self) -> FitSettings:
        """The part that `train` depends on."""
        return FitSettings(model=self.model, training=self.training)

    @property
    def is_audited(self) -> bool:
        """Whether labels are held against the model: not by one that is told none."""
        return self.audit is not None and self.model.variant != "vae"

    @property
    def factors(self) -> FactorSettings:
        """The part that `factors` depends on."""
        return FactorSettings(report=self.report, power=self.power)

    @property
    def planting(self) -> PlantingSettings:
        """The part that `power` depends on; the report alone asks how often is enough."""
        power = (self.power or PowerSettings()).model_copy(update={"reference": None, "needed": 0.8, "runs_per_job": 5})
        return PlantingSettings(model=self.model, training=self.training, power=power)

    @property
    def plantings(self) -> list[range]:
        """The plantings that measure power, by number, job by job; none where it is off."""
        if self.power is None:
            return []
        n, size = self.power.n_runs, self.power.runs_per_job
        return [range(first, min(first + size, n)) for first in range(0, n, size)]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("seeds must differ from each other")
        return value
