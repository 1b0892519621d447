"""Settings of the factor report: what is called, what is said of it, and what is measured besides."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from nvae_bio.config.base import Settings

NullKind = Literal["no_private", "no_factor", "permuted_labels", "permuted_features"]


class ReportSettings(Settings):
    """The factor report."""

    n_bootstrap: int = Field(1000, ge=100, description="bootstrap resamples of an interval; at least 100")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the intervals, 0.5 to 1")
    null_kind: Literal["no_private", "permuted_labels", "permuted_features"] = Field(
        "no_private",
        description="data on which the run is refitted, to see what its detector finds where no class has a factor of "
        "its own. `no_private`: drawn from a model without private latents; the other two are wrong (the first lets "
        "factors pass that S has no room for, the second destroys shared factors too) and are here to show it",
    )
    n_refits: NonNegativeInt = Field(
        20,
        description="refits on null data, at most; each is a training of its own. Their values are pooled over classes "
        "of like size, so the smallest p is about 1 / (refits × such classes): a factor of one class alone takes "
        "1 / `fdr` refits at least. 0: no private factor is called",
    )
    n_shared_refits: NonNegativeInt | None = Field(
        None,
        description="refits on data without any factor, by which the usage of shared dims is tested; null: half of "
        "`n_refits`; 0: none is called",
    )
    refits_per_job: PositiveInt = Field(
        5, description="refits that one job of the workflow makes, one after the other; no result depends on it"
    )
    fdr: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="false discovery rate of the calls, above 0 to 0.5; in families, see docs/detector.md",
    )
    agreement: float = Field(
        0.7,
        gt=0,
        le=1,
        description="|cos| of effects from which on factors count as one, to 1: those of different seeds, private ones "
        "of different classes, and a shared one in the classes that use it",
    )
    min_kl: float = Field(
        0.01,
        ge=0,
        description="a factor with less is never called active (nats); at 0.01 the mean has 2 % of the variance",
    )
    min_gain: float = Field(
        0.1,
        ge=0,
        description="a factor that adds less to the bound on log p(x|y) of held-out samples (a private one above the "
        "median of its null, a shared one above chance) is never called active (nats a sample): a small p may be that "
        "of a gain too small to matter",
    )
    n_top_features: PositiveInt = Field(10, description="features named for each direction of a factor")
    seed_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the seeds in which a factor must be found to be published, above 0 to 1; those of fewer "
        "are listed apart",
    )
    gene_sets: str | None = Field(
        None, description="gene sets (.gmt) whose genes the top genes of each factor are tested for; null: none"
    )
    n_enriched: PositiveInt = Field(50, description="top genes of each direction that are tested for gene sets")
    associate: list[str] = Field(
        [],
        description="columns of obs that factors are compared with, besides depth, detected genes, mitochondrial "
        "share, cell cycle, batch, donor and condition",
    )
    min_association: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="strength of association (|rank correlation|, or the square root of a share of variance) from "
        "which on a factor is tagged with the column, 0 to 1",
    )
    max_leakage: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the way from chance to certainty that a probe may go before the leakage audit fails, 0 "
        "to 1; of depth, R²",
    )


class AuditSettings(Settings):
    """Labels held against the model: these keys, or `on` for all defaults, or `off`; on unless told otherwise."""

    n_candidates: PositiveInt = Field(
        3, description="other classes a sample is fitted under: the likeliest, by a first look"
    )
    n_steps: PositiveInt = Field(50, description="steps in which the posterior of a sample is fitted to it")
    min_log_odds: float = Field(
        3.0,
        ge=0,
        description="a sample is a suspect where another reading has a bound higher by so many nats, at least",
    )
    tail: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="a sample is unlike every class where its best bound is lower than in this share of its class",
    )


class PowerSettings(Settings):
    """Programmes of known size, planted into counts and looked for: these keys, or `on`, or `off`, the default."""

    n_genes: PositiveInt = Field(30, description="genes of a planted programme")
    fold_changes: list[float] = Field(
        [1.5, 2.0, 3.0], min_length=1, description="its fold changes, one point of the curve each; above 1"
    )
    share: float = Field(0.2, gt=0, lt=1, description="share of the samples of a class in which it is on")
    n_runs: PositiveInt = Field(
        10, description="plantings of each fold change; each is a training of its own, with a programme in every class"
    )
    min_mean: float = Field(
        0.5, gt=0, description="least mean of its genes in the class (counts a cell); the most expressed if too few"
    )
    reference: float | None = Field(
        None,
        description="fold change that must be found for a class to have power; null: the second of `fold_changes`, or "
        "the only one",
    )
    needed: float = Field(
        0.8, gt=0, le=1, description="share of the runs that must find it, or the class is under-powered"
    )
    runs_per_job: PositiveInt = Field(5, description="plantings that one job of the workflow makes")

    @field_validator("fold_changes")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if min(value) <= 1 or sorted(set(value)) != value:
            raise ValueError("fold changes must be above 1, each larger than the one before")
        return value

    @property
    def reference_fold_change(self) -> float:
        """`reference`, or what stands for it."""
        return self.reference if self.reference is not None else self.fold_changes[:2][-1]

    @model_validator(mode="after")
    def _check(self) -> PowerSettings:
        if self.reference is not None and self.reference not in self.fold_changes:
            raise ValueError(f"reference {self.reference:g} is none of fold_changes")
        return self


class PageSettings(Settings):
    """One page about the run, to open in a browser: these keys, or `on`, the default, or `off`."""

    max_samples: int = Field(
        20_000,
        ge=100,
        description="samples that the page holds of the embeddings, a random part of each class where there are more; "
        "at least 100. The page says how many",
    )
    max_columns: PositiveInt = Field(40, description="columns of obs by which its samples can be coloured")
    max_factors: PositiveInt = Field(
        60,
        description="factors that have pictures, and scores by which samples can be coloured: published ones first",
    )


def switched(value: Any) -> Any:
    """`on` and `off` of a file, which YAML reads as booleans, as all defaults, and nothing; so if they are quoted."""
    meaning: dict[Any, Any] = {True: {}, False: None, "on": {}, "off": None}
    return meaning.get(value, value) if isinstance(value, bool | str) else value


OptionalAudit = Annotated[AuditSettings | None, BeforeValidator(switched)]
OptionalPower = Annotated[PowerSettings | None, BeforeValidator(switched)]
OptionalPage = Annotated[PageSettings | None, BeforeValidator(switched)]


class FactorSettings(Settings):
    """What `factors` depends on."""

    report: ReportSettings = ReportSettings()
    power: OptionalPower = Field(None, description="what is planted; `off` where nothing is")
