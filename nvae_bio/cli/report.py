"""Commands that judge: audit, power, the factor report, and what to change."""

from __future__ import annotations

from pathlib import Path

import click

from nvae_bio.cli.base import checkpoint_options, cli, file_option, model_options, settings_option
from nvae_bio.config import (
    AuditSettings,
    FactorSettings,
    PlantingSettings,
    load_settings,
)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@model_options()
@file_option("--output", "what is said of each sample, to write (.parquet)")
@settings_option("`audit` of a run", "runs.digits")
def audit(data: Path, weights: Path, card: Path, output: Path, settings: str) -> None:
    """Hold each sample's label against the model: other labels, other classes' factors, doublets.

    \b
    Example:
      nvae-bio audit --data pbmc.h5ad --weights model.safetensors --card model.json --output audit.parquet
    """
    from nvae_bio.audit.step import audit as run

    run(data, weights, card, output, load_settings(settings, AuditSettings))


@cli.command()
@file_option("--data", "prepared counts (.h5ad)")
@file_option("--output", "what the detector finds of planted programmes, to write (.parquet)")
@settings_option("`model`, `training` and `power` of the run", "runs.pbmc68k")
@click.option(
    "--planting", type=click.IntRange(0), default=(0,), show_default=True, multiple=True,
    help="number of a planting: its seed, whatever the others are",
)  # fmt: skip
@checkpoint_options
def power(
    data: Path,
    output: Path,
    settings: str,
    planting: tuple[int, ...],
    checkpoint: Path | None,
    checkpoint_seconds: float,
) -> None:
    """Plant programmes of known size into the counts, train again, and see whether they are found.

    \b
    Example:
      nvae-bio power --data pbmc.h5ad --planting 0 --planting 1 --output power/0.parquet \\
          --settings '{"power": {"fold_changes": [1.5, 2, 3]}}'
    """
    from nvae_bio.factors.power import power as run

    parsed = load_settings(settings, PlantingSettings)
    run(data, output, parsed, parsed.power, planting, checkpoint, checkpoint_seconds)


@cli.command()
@file_option("--embedded", "embedded data set of a seed (.h5ad); once for each seed", multiple=True)
@file_option("--null", "what refits on null data found (.parquet); once for each file", multiple=True, required=False)
@file_option("--audit", "audit of a seed (.parquet), in the same order; once for each", multiple=True, required=False)
@file_option("--planted", "what plantings found (.parquet); once for each file", multiple=True, required=False)
@file_option("--report", "factor report to write (.h5ad)")
@file_option("--table", "the same as a table to write (.parquet)", required=False)
@file_option("--seeds", "what each seed has, to write (.h5ad)", required=False)
@file_option("--scores", "samples with their consensus scores, to write (.h5ad)", required=False)
@file_option("--suspects", "samples to look at, to write (.csv)", required=False)
@file_option("--summary", "the report in words, to write (.md)", required=False)
@settings_option("`report` and `power` of a run", "runs.digits")
def factors(
    embedded: tuple[Path, ...],
    null: tuple[Path, ...],
    audit: tuple[Path, ...],
    planted: tuple[Path, ...],
    report: Path,
    table: Path | None,
    seeds: Path | None,
    scores: Path | None,
    suspects: Path | None,
    summary: Path | None,
    settings: str,
) -> None:
    """Report which factors the seeds agree on, in which class, through which features, and how sure that is.

    Without --null nothing is called active.

    \b
    Example:
      nvae-bio factors --embedded 0/embedded.h5ad --embedded 1/embedded.h5ad --null null/0.parquet \\
          --null null/1.parquet --report factors.h5ad --summary summary.md
    """
    from nvae_bio.factors.step import Evidence, Written
    from nvae_bio.factors.step import factors as run

    written = Written(report, table, seeds, scores, suspects, summary)
    run(Evidence(embedded, null, audit, planted), written, load_settings(settings, FactorSettings))


@cli.command()
@file_option("--report", "factor report (.h5ad)")
@file_option("--output", "settings to write (.yaml); else they are printed", required=False)
def suggest(report: Path, output: Path | None) -> None:
    """Propose S, K and β_c for a re-run, from what the report says of this one.

    \b
    Example:
      nvae-bio suggest --report factors.h5ad
    """
    from nvae_bio.suggest import suggest as run

    text = run(report, output)
    if output is None:
        click.echo(text)
