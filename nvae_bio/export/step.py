"""The step: the files of a run read, and written again for other programs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nvae_bio import schema
from nvae_bio.card import load_card
from nvae_bio.config import ExportSettings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import read_embedded, read_factors, read_scores, read_table, write_anndata, write_arrow
from nvae_bio.errors import UserError
from nvae_bio.export.card import describe_model
from nvae_bio.export.explorer import explorer_data
from nvae_bio.export.tables import export_tables

logger = logging.getLogger(__name__)

EXPLORER = "explorer.h5ad"


def export(
    embedded: Sequence[Path],
    output: Path,
    settings: ExportSettings,
    report: Path | None = None,
    scores: Path | None = None,
) -> None:
    """Read what a run made and write its tables (.parquet) and a file for the CELLxGENE explorer into a folder.

    Args:
        embedded: embedded data set of each seed; the explorer shows the first.
        output: folder.
        settings: which samples the explorer gets.
        report: factor report.
        scores: samples with consensus scores.

    Raises:
        UserError: files of different data, or nothing to draw.
    """
    seeds = [read_embedded(path) for path in embedded]
    factors = None if report is None else read_factors(report)
    consensus = None if scores is None else read_embedded(scores)
    tables = export_tables(seeds, factors, consensus)
    for_explorer = explorer_data(seeds[0], factors, consensus, settings)
    for name, table in tables.items():
        write_arrow(table, output / f"{name}.parquet")
    write_anndata(for_explorer, output / EXPLORER)
    rows = ", ".join(f"{name} {table.num_rows:,}" for name, table in tables.items())
    logger.info("rows of tables: %s; %d samples for the explorer", rows, for_explorer.n_obs)


def export_card(
    card: Path,
    output: Path,
    embedded: Path | None = None,
    history: Path | None = None,
    evaluation: Path | None = None,
    report: Path | None = None,
) -> None:
    """Read the card of a model and what is known of it, and write a card in words (.md).

    Args:
        card: of the model (.json).
        output: to write.
        embedded: its samples, embedded or prepared.
        history: of its training.
        evaluation: scores of its run.
        report: factor report of its run.

    Raises:
        UserError: a file that is no such thing, or of other data than the model.
    """
    read = load_card(card)
    data = None if embedded is None else read_embedded(embedded)
    factors = None if report is None else read_factors(report)
    for path, part in ((embedded, data), (report, factors)):
        if part is not None and str(part.uns[schema.MODEL]["fingerprint"]) != read.fingerprint:
            raise UserError(f"{path}: of other data than {card} (their fingerprints differ); allowed: of one run")
    text = describe_model(
        read, data, None if history is None else read_table(history),
        None if evaluation is None else read_scores([evaluation]), factors,
    )  # fmt: skip
    with atomic_path(output) as part_path:
        part_path.write_text(text, encoding="utf-8")
    logger.info("card of the model in words: %s", output)
