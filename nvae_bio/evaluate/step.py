"""The step: score a run, and write its table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import anndata
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.data.files import read_embedded, read_file, read_report, write_csv
from nvae_bio.errors import UserError
from nvae_bio.evaluate.planted import planted_scores

logger = logging.getLogger(__name__)

COLUMNS = ["dataset", "variant", "seed", "metric", "value"]


def score_table(scores: dict[int, dict[str, float]], dataset: str, variant: str) -> pd.DataFrame:
    """Seed → metric → value as a long table: dataset, variant, seed, metric, value."""
    rows = [(dataset, variant, seed, *item) for seed, found in scores.items() for item in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def read_truth(path: Path) -> AnnData:
    """Read what is planted in a simulation.

    Raises:
        UserError: unreadable, or not written by `nvae-bio simulate`.
    """
    truth = read_file(path, anndata.read_h5ad, "an .h5ad file")
    if schema.TRUTH not in truth.uns:
        raise UserError(f"{path}: no uns[{schema.TRUTH!r}]; was it written as --truth by `nvae-bio simulate`?")
    return truth


def evaluate(
    kind: str, report: Path, embedded: Sequence[Path], truth: Path | None, output: Path, dataset: str, variant: str
) -> None:
    """Score every seed of a run, and write dataset, variant, seed, metric, value as .csv.

    Args:
        kind: what is scored, `planted`: against the truth of a simulation.
        report: factor report of the run.
        embedded: a file a seed.
        truth: what is planted in the data.
        output: the table.
        dataset, variant: what it calls the data and the model.

    Raises:
        UserError: no truth, or files that are not of one run.
    """
    if truth is None:
        raise UserError(f"evaluate: kind {kind!r} needs --truth, which only simulated data have")
    factors, known, scores = read_report(report), read_truth(truth), {}
    for path in embedded:
        adata = read_embedded(path)
        scores[int(adata.uns[schema.MODEL]["seed"])] = planted_scores(factors, adata, known)
    table = score_table(scores, dataset, variant)
    write_csv(table, output)
    logger.info("%s, %s: %d scores", dataset, variant, len(table))
