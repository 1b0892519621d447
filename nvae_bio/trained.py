"""A trained model: its network, what it was trained on and how, and its two files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.card import ModelCard, load_card
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import read_file
from nvae_bio.data.store import Store
from nvae_bio.errors import UserError
from nvae_bio.model import NVAE


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
