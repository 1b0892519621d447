"""How large must a factor be to be found? Programmes of known size are planted and looked for (verb `power`).

The run's own model is trained on data with a programme in every class (`nvae_bio.factors.planting`), once for each
planting and fold change. A programme counts as found where the detector would call the class's own block, or a shared
dim that it has for itself, and that latent follows the planted activity: what is called for another reason is no find.
A class whose programmes of a reference size are missed too often is under-powered: that nothing is called in it says
little.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import FitSettings, PowerSettings
from nvae_bio.data.files import read_prepared, write_table
from nvae_bio.errors import UserError
from nvae_bio.factors.null import Detected, detect
from nvae_bio.factors.planting import Planting, check_plantable, plant
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK, held_out_rows
from nvae_bio.train import SECONDS, Keeping, kept_in

logger = logging.getLogger(__name__)

FIRST_NUMBER = 1_000_000  # of trainings on planted data: none that a refit of the null has
STRIDE = 1000  # from the number of a run to the next: more than there are fold changes


def best_correlation(activity: np.ndarray, means: np.ndarray) -> float:
    """Largest |r| of an activity, (n,), with a column of posterior means, (n, dims); 0 where nothing varies.

    NaN where there is no dim.

    >>> round(best_correlation(np.array([0.0, 0.0, 1.0]), np.array([[5.0, 1.0], [5.0, 2.0], [5.0, 0.0]])), 3)
    0.866
    """
    if not means.shape[1]:
        return math.nan
    one, others = activity - activity.mean(), means - means.mean(0)
    scale = np.linalg.norm(one) * np.linalg.norm(others, axis=0)
    return float((np.abs(one @ others) / np.where(scale > 0, scale, 1)).max())


def _rows(detected: Detected, planting: Planting) -> pd.DataFrame:
    """What a training on planted data shows, a row a class."""
    found = detected.usage.statistics()
    by_class = {name: found[(found["statistic"] == name).to_numpy()].set_index("class") for name in (OWN_BLOCK, HIDDEN)}
    hidden_dim, activity = by_class[HIDDEN]["dim"], planting.activity[detected.rows]
    r_block, r_hidden = [], []
    for y in range(detected.usage.n_classes):
        rows = detected.label == y
        exclusive = detected.shared[rows][:, [hidden_dim[y]] if y in hidden_dim else []]
        r_block.append(best_correlation(activity[rows], detected.own[rows]))
        r_hidden.append(best_correlation(activity[rows], exclusive))
    table = pd.DataFrame({"class": range(detected.usage.n_classes)})
    for name, of_statistic in by_class.items():
        table[name] = of_statistic["value"].reindex(table["class"]).to_numpy()
    return table.assign(
        r_block=r_block, r_hidden=r_hidden, n_genes=planting.genes.shape[1], mean_count=planting.mean_count
    )


def plant_and_find(
    prepared: AnnData,
    settings: FitSettings,
    power: PowerSettings,
    runs: Sequence[int] = (0,),
    keeping: Keeping | None = None,
) -> pd.DataFrame:
    """Plant a programme in every class, train the model of a run, and see what its detector finds.

    Args:
        prepared: the counts of the run.
        settings: of the run.
        power: what is planted.
        runs: numbers of the plantings, from 0. Genes and cells are those of the number, whatever the fold change;
            number and place of the fold change are the seed of the training, whatever the others are.
        keeping: where checkpoints of the trainings are kept.

    Returns:
        A row a run, fold change and class: run, fold_change, class (its index), own_block and hidden (nats, see
        `Usage.statistics`; NaN without such latents), r_block and r_hidden (absolute correlation of planted activity
        in the held-out cells of the class with the posterior means: the best dim of the own block, and the shared dim
        of `hidden`), n_genes, mean_count (of these genes in the class before planting, counts a cell), n_cells (of the
        class).

    Raises:
        UserError: no run or one twice, no counts, too few genes, or a class without held-out samples.
    """
    if not runs or len(set(runs)) < len(runs):
        raise UserError(f"runs: {', '.join(map(str, runs)) or 'none'}; at least one, and different from each other")
    check_plantable(prepared, power)
    classes, tables = [str(name) for name in prepared.uns[schema.DATA]["classes"]], []
    held_out_rows(prepared.obs, classes)
    n_cells = prepared.obs[schema.LABEL].astype(object).value_counts().reindex(classes).to_numpy()
    for run in runs:
        for index, fold_change in enumerate(power.fold_changes):
            planted, planting = plant(prepared, power, fold_change, run)
            for note in planting.notes if index == 0 else ():
                logger.warning("planting %d: %s", run, note)
            table = _rows(detect(planted, settings, FIRST_NUMBER + STRIDE * run + index, keeping), planting)
            table.insert(0, "run", run)
            table.insert(1, "fold_change", fold_change)
            tables.append(table.assign(n_cells=n_cells))
            r = np.fmax(table["r_block"], table["r_hidden"])
            logger.info(
                "planting %d, %g-fold: |r| with the programmes %.2f to %.2f", run, fold_change, r.min(), r.max()
            )
    return pd.concat(tables, ignore_index=True)


def power(
    data: Path,
    output: Path,
    settings: FitSettings,
    planted: PowerSettings,
    runs: Sequence[int] = (0,),
    checkpoint: Path | None = None,
    checkpoint_seconds: float = SECONDS,
) -> None:
    """Read prepared counts, plant programmes and look for them, and write what is found as .parquet."""
    with kept_in(checkpoint, checkpoint_seconds) as keeping:
        write_table(plant_and_find(read_prepared(data), settings, planted, runs, keeping), output)
