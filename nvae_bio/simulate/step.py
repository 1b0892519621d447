"""The step: simulate, and write the data and their truth."""

from __future__ import annotations

import logging
from pathlib import Path

from nvae_bio import schema
from nvae_bio.config import ImagesSimulation, Simulation, SoundsSimulation
from nvae_bio.data.files import write_anndata
from nvae_bio.simulate.counts import simulate_counts
from nvae_bio.simulate.images import simulate_images
from nvae_bio.simulate.sounds import simulate_sounds

logger = logging.getLogger(__name__)


def simulate(settings: Simulation, output: Path, truth: Path) -> None:
    """Simulate a data set and write it, and its truth beside it, as .h5ad, each whole or not at all.

    Args:
        settings: the simulation, with `builtin` or `paths` in its source.
        output: the data, which hold nothing of the truth.
        truth: what is planted, in samples and features of the same names.

    Raises:
        UserError: as `simulate_counts` and `simulate_images`.
    """
    if isinstance(settings, ImagesSimulation):
        data, known = simulate_images(settings)
    elif isinstance(settings, SoundsSimulation):
        data, known = simulate_sounds(settings)
    else:
        data, known = simulate_counts(settings)
    write_anndata(known, truth)
    write_anndata(data, output)
    logger.info("%d samples × %d features, with %d planted", *data.shape, known.obsm[schema.ACTIVITY].shape[1])
