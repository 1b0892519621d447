"""The step: everything that a model makes, each kind in a file of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from anndata import AnnData

from nvae_bio.config import GenerationSettings
from nvae_bio.data.files import read_prepared, write_anndata
from nvae_bio.errors import UserError
from nvae_bio.generate.draw import generate_samples, traverse_factors
from nvae_bio.generate.real import interpolate_samples, swap_classes
from nvae_bio.trained import load_model

logger = logging.getLogger(__name__)

KINDS: dict[str, Callable[..., AnnData]] = {
    "samples": generate_samples,
    "traversals": traverse_factors,
    "interpolations": interpolate_samples,
    "swaps": swap_classes,
}


def generate(data: Path, weights: Path, card: Path, settings: GenerationSettings, **outputs: Path | None) -> None:
    """Read a prepared file and its model; write each kind that has an output as .h5ad, all of them or none.

    Args:
        data: prepared file.
        weights, card: the model.
        settings: how many of each.
        outputs: of `samples`, `traversals`, `interpolations` and `swaps`; None for none.

    Raises:
        UserError: no output, or data that do not fit the model.
    """
    wanted = {name: path for name, path in outputs.items() if path is not None}
    if not wanted:
        raise UserError(f"generate: nothing to make; give {', '.join(f'--{name}' for name in KINDS)}")
    prepared, trained = read_prepared(data), load_model(weights, card)
    made = {name: KINDS[name](trained, prepared, settings) for name in wanted}
    for name, adata in made.items():
        write_anndata(adata, wanted[name])
    logger.info("%s", ", ".join(f"{adata.n_obs} {name}" for name, adata in made.items()))
