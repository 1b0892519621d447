"""Settings of queries: new samples that a trained model is asked about."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveInt, field_validator

from nvae_bio.config.base import Settings


class QuerySettings(Settings):
    """New samples, and how a trained model reads them."""

    paths: list[str] | dict[str, str] = Field(
        [], description="file(s) or folder(s) of the new samples, in the form of the data set's own, as there"
    )
    dataset: dict[str, Any] = Field(
        {},
        description="keys of the data set that are other for the new samples, such as `matrix`, `batch_key` or "
        "`label_key`; all others are those of the data set that the model was trained on. Labels may lack; where they "
        "are there, they serve to look at and decide nothing",
    )
    feature_key: str | None = Field(
        None, description="column of var with the names of the features as the model has them; null: the index"
    )
    min_coverage: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the model's features, weighted by their counts in the reference samples (each alike "
        "where the data are no counts), that the new samples must have (0 to 1); with less they are refused. Images "
        "must have all",
    )
    error: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="how often the set of classes of a sample may miss its class, for samples like the reference ones "
        "(0 to 1)",
    )
    novelty_level: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="a sample is called novel where at most this share of the reference samples is as strange (0 to "
        "1): of samples like those, that share is called so by chance",
    )
    max_novel: float = Field(
        0.9,
        gt=0,
        le=1,
        description="where more than this share of the new samples is novel, all are refused (0 to 1; 1: never): the "
        "model knows nothing of such data",
    )
    n_draws: PositiveInt = Field(10, description="draws of z a sample and class for the bound on log p(x|y)")
    adapt: bool = Field(
        False,
        description="fit what a new batch adds to the decoder, and nothing else, to the new samples first; for models "
        "that are told a batch",
    )
    adapt_steps: PositiveInt = Field(300, description="steps of this fit, of 512 samples each")

    @property
    def path_list(self) -> list[str]:
        """All paths of the new samples."""
        return list(self.paths.values()) if isinstance(self.paths, dict) else list(self.paths)

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value
