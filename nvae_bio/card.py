"""The card of a model: what must be known of it to use it, in the file `model.json`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from anndata import AnnData
from pydantic import ValidationError

from nvae_bio.config import FitSettings, LikelihoodName, Settings
from nvae_bio.data.covariates import CovariateSet
from nvae_bio.data.files import read_file
from nvae_bio.errors import UserError, one_line

if TYPE_CHECKING:
    from nvae_bio.data.samples import Samples
    from nvae_bio.data.store import Store
    from nvae_bio.model import NVAE


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
        from nvae_bio.data.samples import check_pixels, to_samples  # loads torch; most readers of a card need none

        samples = to_samples(prepared, self.classes, self.covariates, size=self.settings.model.size)
        check_pixels(samples.matrix, self.likelihood)
        return samples

    def build(self) -> NVAE:
        """An untrained network of this form."""
        from nvae_bio.model import CovariateForm, build_nvae

        return build_nvae(
            self.settings.model, self.likelihood, len(self.features), len(self.classes), self.image_shape,
            CovariateForm([one.share for one in self.covariates.categorical], len(self.covariates.continuous)),
            self.covariates.n_batches, is_sparse=self.settings.training.first_layer == "sparse",
        )  # fmt: skip


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
