"""The command that writes a run for other programs and people."""

from __future__ import annotations

from pathlib import Path

import click

from nvae_bio.cli.base import FOLDER, cli, file_option, settings_option
from nvae_bio.config import ExportSettings, load_settings
from nvae_bio.errors import UserError


@cli.command()
@file_option("--embedded", "embedded data set of a seed (.h5ad); once for each seed", multiple=True, required=False)
@file_option("--report", "factor report (.h5ad)", required=False)
@file_option("--scores", "samples with their consensus scores (.h5ad)", required=False)
@click.option("--output", type=FOLDER, help="folder to write tables (.parquet) and explorer.h5ad into")
@file_option("--card", "with --model-card: card of a model (.json)", required=False)
@file_option("--history", "with --model-card: history of its training (.parquet)", required=False)
@file_option("--evaluation", "with --model-card: scores of its run (.csv)", required=False)
@file_option("--model-card", "card of the model in words, to write (.md)", required=False)
@settings_option("`export` of a run", "runs.digits")
def export(
    embedded: tuple[Path, ...],
    report: Path | None,
    scores: Path | None,
    output: Path | None,
    card: Path | None,
    history: Path | None,
    evaluation: Path | None,
    model_card: Path | None,
    settings: str,
) -> None:
    """Write a run as tidy tables, as a file for the CELLxGENE explorer, and a model as a card in words.

    \b
    Examples:
      nvae-bio export --embedded 0/embedded.h5ad --embedded 1/embedded.h5ad --report factors.h5ad \\
          --scores embedded.h5ad --output export
      nvae-bio export --card 0/model.json --history 0/history.parquet --embedded 0/embedded.h5ad \\
          --model-card 0/model_card.md
    """
    from nvae_bio.export import export as run
    from nvae_bio.export import export_card

    if output is None and model_card is None:
        raise UserError("export: nothing to write; give --output, --model-card or both")
    if output is not None and not embedded:
        raise UserError("export: --output needs --embedded, once for each seed")
    if model_card is not None and (card is None or len(embedded) > 1):
        raise UserError("export: --model-card needs --card, and the --embedded of that seed alone, if any")
    if output is not None:
        run(embedded, output, load_settings(settings, ExportSettings), report, scores)
    if model_card is not None and card is not None:
        export_card(card, model_card, embedded[0] if embedded else None, history, evaluation, report)
