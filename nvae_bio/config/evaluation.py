"""Settings of the evaluation of a trained model: what is scored beside the factor report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from nvae_bio.config.base import Settings
from nvae_bio.config.reports import switched

ScoreGroup = Literal[
    "likelihood", "prior", "factors", "samples", "artificial", "counts", "finer", "scib", "decision", "query"
]
Classifier = Literal["linear", "small", "strong"]

USUAL: tuple[ScoreGroup, ...] = ("likelihood", "prior", "factors", "samples", "counts")


class EvaluationSettings(Settings):
    """Scores of a trained model on held-out samples: these keys, or `on` for all defaults, or `off`, the default."""

    scores: tuple[ScoreGroup, ...] = Field(
        USUAL,
        min_length=1,
        description="groups of scores; those that the data cannot have are left out. `likelihood`: log p(x|y), "
        "log p(x, y) and log p(x); `prior`: the aggregate posterior beside the prior; `factors`: known factors read "
        "off the latents; `samples`: ancestral samples beside held-out ones; `artificial`: classifiers trained on "
        "artificial data; `counts`: mean, variance and zeros of the genes; `finer`: labels finer than the classes; "
        "`scib`: scib-metrics; `decision`: small classifiers of `decision_key`; `query`: held-out samples as new ones, "
        "their classes and what is novel. `finer` and `scib` need the extra `benchmark`",
    )
    max_samples: PositiveInt = Field(
        2000, description="held-out samples, at most, that a score is of: a random part, the same for each seed"
    )
    n_draws: PositiveInt = Field(100, description="draws of z a sample for log p by importance weighting")
    factor_keys: list[str] = Field(
        [], description="columns of obs with known numbers that the model was not told; pictures have their moments"
    )
    finer_key: str | None = Field(
        None, description="column of obs with labels finer than the classes, which no model saw; for `finer`"
    )
    decision_key: str | None = Field(
        None, description="column of obs that small classifiers decide from the embedding; for `decision`"
    )
    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.7, 1.0, 1.4, 2.0), min_length=1, description="scales of the prior noise of ancestral samples; above 0"
    )
    classifiers: tuple[Classifier, ...] = Field(
        ("small", "strong"),
        min_length=1,
        description="trained on artificial data: of pictures the `small` net of two convolutions and a `strong` one; "
        "`linear`, a logistic regression, of anything else and of pictures below 16 pixels, whatever is named",
    )
    small_channels: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]] = Field(
        (10, 20),
        description="channels of the two convolutions of the `small` net: 10 and 20 as for digits in the logs of "
        "Lesort et al. 2018, 16 and 32 as there for Fashion-MNIST",
    )
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.4, 1.0), min_length=1, description="shares of artificial data, τ, that they are trained on, 0 to 1"
    )
    artificial: Literal["drawn", "means"] = Field(
        "drawn",
        description="artificial pictures and features are `drawn`, pictures about the decoded means with the noise "
        "that training samples leave; or they are `means`. Counts are drawn",
    )
    n_artificial: PositiveInt = Field(
        50_000, description="artificial samples, and real ones at most, that classifiers are trained on"
    )
    classifier_steps: PositiveInt = Field(
        6000, description="steps of 128 samples in which a classifier is trained, whatever the data"
    )

    @model_validator(mode="after")
    def _check_finer(self) -> EvaluationSettings:
        if "finer" in self.scores and self.finer_key is None:
            raise ValueError("scores: 'finer' needs finer_key, a column of obs")
        if "decision" in self.scores and self.decision_key is None:
            raise ValueError("scores: 'decision' needs decision_key, a column of obs")
        return self


OptionalEvaluation = Annotated[EvaluationSettings | None, BeforeValidator(switched)]
