"""Settings of counterfactuals: samples as they would be with something changed."""

from __future__ import annotations

import re

from pydantic import Field, PositiveInt, field_validator, model_validator

from nvae_bio.config.base import Settings

FACTOR = re.compile(r"^(shared|private) (\d+)$")


class CounterfactualSettings(Settings):
    """Which samples, and what is changed in them: the class, factors, the batch, or several at once."""

    samples: list[str] = Field([], description="names of the samples; else those of `where`")
    where: dict[str, str | list[str]] = Field(
        {}, description="obs column -> value, or several: all samples with one of these in each column"
    )
    n_per_class: PositiveInt = Field(
        20, description="held-out samples of each class, at random, where neither `samples` nor `where` names any"
    )
    as_class: str | None = Field(None, description="the class that the samples are decoded as; null: their own")
    factors: dict[str, float] = Field(
        {},
        description="`shared N` or `private N` (dim N of z_s or of the own block, from 0) -> by how much it is moved, "
        "in standard deviations of the dim over training samples of the class",
    )
    covariates: dict[str, str] = Field(
        {}, description="column of obs that the model is told, such as `batch` -> the level to decode with"
    )
    n_draws: PositiveInt = Field(200, ge=20, description="draws of z a sample, from which intervals are; at least 20")
    interval: float = Field(0.95, gt=0, lt=1, description="probability inside the intervals (0 to 1)")
    support_level: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="a sample is refused where at most this share of the class's training samples lies as far from the "
        "others (0 to 1; 0: never)",
    )

    @field_validator("factors")
    @classmethod
    def _named(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if FACTOR.match(name) is None:
                raise ValueError(f"{name!r}; allowed: 'shared N' and 'private N', N from 0")
        return value

    @model_validator(mode="after")
    def _check(self) -> CounterfactualSettings:
        if self.samples and self.where:
            raise ValueError("give either `samples` or `where`, and not both")
        if self.as_class is None and not self.factors and not self.covariates:
            raise ValueError("nothing is changed; give as_class, factors or covariates")
        if self.as_class is not None and any(name.startswith("private") for name in self.factors):
            raise ValueError("factors: of a sample as another class the own block is not known; allowed: 'shared N'")
        return self

    @property
    def moves(self) -> list[tuple[str, int, float]]:
        """(shared or private, dim, by how much) of each factor that is moved."""
        found = []
        for name, by in self.factors.items():
            match = FACTOR.match(name)
            assert match is not None
            found.append((match[1], int(match[2]), by))
        return found
