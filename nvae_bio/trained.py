"""A trained model: its network, what it was trained on and how, and its two files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from anndata import AnnData
from pydantic import ValidationError

from nvae_bio import schema
from nvae_bio.config import FitSettings, LikelihoodName, Settings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.covariates import CovariateSet
from nvae_bio.data.files import read_file
from nvae_bio.data.samples import Samples, check_pixels, to_samples
from nvae_bio.data.store import Store
from nvae_bio.errors import UserError, one_line
from nvae_bio.model import NVAE, CovariateForm, build_nvae


class Calibration(Settings):
    """Temperature of q(y|x), fitted on the labelled validation samples, and how the classifier does on them.

    Attributes:
        temperature: T; calibrated probabilities are softmax(log q(y|x) / T).
        n: samples.
        cross_entropy: mean of −log q of the true class with T, nats.
        cross_entropy_before: the same with T = 1.
        calibration_error: expected calibration error with T, 0 to 1.
        calibration_error_before: the same with T = 1.
    """

    temperature: float
    n: int
    cross_entropy: float
    cross_entropy_before: float
    calibration_error: float
    calibration_error_before: float


class ModelCard(Settings):
    """What must be known to rebuild a network and to use it on data; `model.json`."""

    version: str
    settings: FitSettings
    kind: str
    likelihood: LikelihoodName
    classes: list[str]
    features: list[str]
    image_shape: tuple[int, int, int] | None
    covariates: CovariateSet = CovariateSet()
    seed: int
    stacked_seeds: list[int]
    fingerprint: str
    device: str
    best_epoch: int
    calibration: Calibration | None = None
    weights_sha256: str = ""
    card_sha256: str = ""

    @property
    def checksum(self) -> str:
        """sha256 of all else in the card."""
        return hashlib.sha256(self.model_dump_json(exclude={"card_sha256"}).encode()).hexdigest()

    @property
    def temperature(self) -> float:
        """That of q(y|x); 1 where it is not calibrated."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def samples_of(self, prepared: AnnData | Store) -> Samples:
        """A prepared data set as a model with this card takes it.

        Raises:
            UserError: without the size that the model needs, or with pixels that its likelihood cannot score.
        """
        samples = to_samples(prepared, self.classes, self.covariates, size=self.settings.model.size)
        check_pixels(samples.matrix, self.likelihood)
        return samples

    def build(self) -> NVAE:
        """An untrained network of this form."""
        return build_nvae(
            self.settings.model, self.likelihood, len(self.features), len(self.classes), self.image_shape,
            CovariateForm([one.share for one in self.covariates.categorical], len(self.covariates.continuous)),
            self.covariates.n_batches, is_sparse=self.settings.training.first_layer == "sparse",
        )  # fmt: skip


@dataclass(frozen=True)
class TrainedModel:
    """The outcome of `train_model`.

    Attributes:
        network: the N-VAE with its best weights, on the CPU, in evaluation mode.
        card: settings, classes, features and provenance.
        history: one row an epoch and split, terms in nats per sample; empty where the model was loaded from files.
    """

    network: NVAE
    card: ModelCard
    history: pd.DataFrame

    def check_data(self, prepared: AnnData | Store) -> None:
        """Refuse data of another kind, with other features, or without a covariate that the model is told.

        Raises:
            UserError: naming the first feature that differs, or the column that lacks.
        """
        kind = prepared.uns[schema.DATA]["kind"]
        if kind != self.card.kind:
            raise UserError(f"the data are of kind {kind!r}, the model was trained on {self.card.kind!r}")
        names = list(prepared.var_names)
        if names != self.card.features:
            differing = next((a for a, b in zip(names, self.card.features, strict=False) if a != b), None)
            raise UserError(
                f"the data have {len(names)} features, the model {len(self.card.features)}; "
                f"they must be the same in the same order (first that differs: {differing})"
            )
        for name in self.card.covariates.names:
            if name not in prepared.obs:
                raise UserError(
                    f"obs has no column {name!r}, a covariate of the model; allowed: such a column, missing values "
                    "where unknown"
                )


def save_model(trained: TrainedModel, weights: str | Path, card: str | Path) -> None:
    """Write the weights (safetensors) and the card (JSON), which holds the checksums of the weights and of itself."""
    content = safetensors.torch.save({name: value.contiguous() for name, value in trained.network.state_dict().items()})
    full = trained.card.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    full = full.model_copy(update={"card_sha256": full.checksum})
    with atomic_path(Path(weights)) as weights_part, atomic_path(Path(card)) as card_part:
        weights_part.write_bytes(content)
        card_part.write_text(full.model_dump_json(indent=1) + "\n")


def load_card(card: Path) -> ModelCard:
    """Read the card of a model, without its weights.

    Raises:
        UserError: it is missing, broken, or changed since it was written.
    """
    text = read_file(card, Path.read_text, "the card of a model")
    try:
        read = ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise UserError(one_line(error, ModelCard, str(card))) from None
    if read.card_sha256 != read.checksum:
        raise UserError(f"{card}: changed since it was written (checksum differs); train again")
    return read


def load_model(weights: str | Path, card: str | Path) -> TrainedModel:
    """Read a model that `save_model` wrote; no code in the files is run.

    Raises:
        UserError: a file is missing, broken, or the two do not belong together.
    """
    weights, card = Path(weights), Path(card)
    read = load_card(card)

    def reader(path: Path) -> NVAE:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != read.weights_sha256:
            raise UserError(f"{path}: not the weights that {card} describes (checksum differs); train again")
        values = safetensors.torch.load(content)
        with torch.device("meta"):  # without memory
            form = read.build().state_dict()
        differing = [name for name in {*form, *values} if name not in form or name not in values]
        differing += [name for name in form if name in values and form[name].shape != values[name].shape]
        if differing:
            raise UserError(f"{path}: not the weights that {card} describes ({min(differing)!r} differs); train again")
        network = read.build()
        network.load_state_dict(values)
        return network.eval()

    return TrainedModel(read_file(weights, reader, "the weights of a model"), read, pd.DataFrame())
