"""Commands that draw: samples, figures and the page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from nvae_bio.cli.base import FOLDER, cli, file_option, model_options, settings_option
from nvae_bio.config import (
    CounterfactualSettings,
    GenerationSettings,
    PageSettings,
    load_settings,
)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@model_options()
@file_option("--samples", "ancestral samples to write (.h5ad)", required=False)
@file_option("--traversals", "traversals of all factors to write (.h5ad)", required=False)
@file_option("--interpolations", "steps between samples of a class to write (.h5ad)", required=False)
@file_option("--swaps", "samples as every class, to write (.h5ad)", required=False)
@settings_option("`generation` of a run", "runs.digits")
def generate(data: Path, weights: Path, card: Path, settings: str, **outputs: Path | None) -> None:
    """Draw samples of each class, traverse each factor, go from one sample to another, or swap their class.

    \b
    Examples:
      nvae-bio generate --data digits.h5ad --weights model.safetensors --card model.json --samples samples.h5ad \\
          --traversals traversals.h5ad --settings '{"sigmas": [1.0, 1.4]}'
      nvae-bio generate --data cells.h5ad --weights model.safetensors --card model.json --swaps swaps.h5ad \\
          --settings '{"samples": ["AAACATACAACCAC-1"]}'
    """
    from nvae_bio.generate import generate as run

    run(data, weights, card, load_settings(settings, GenerationSettings), **outputs)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@model_options()
@file_option("--output", "changed samples to write (.h5ad)")
@file_option("--table", "what the change does to each feature, to write (.parquet)", required=False)
@settings_option("which samples, and what is changed", "runs.mine.counterfactuals.up", required=True)
def counterfactual(data: Path, weights: Path, card: Path, output: Path, table: Path | None, settings: str) -> None:
    """Decode samples as another class, with a factor moved, or in another batch; with intervals.

    \b
    Examples:
      nvae-bio counterfactual --data cells.h5ad --weights model.safetensors --card model.json --output up.h5ad \\
          --table up.parquet --settings '{"factors": {"shared 0": 2}, "where": {"label": "B cells"}}'
      nvae-bio counterfactual --data digits.h5ad --weights model.safetensors --card model.json --output as3.h5ad \\
          --settings '{"as_class": "3"}'
    """
    from nvae_bio.counterfactual import counterfactual as run

    run(data, weights, card, output, load_settings(settings, CounterfactualSettings), table)


@cli.command()
@click.option("--output", type=FOLDER, required=True, help="folder of the figures (.png and .svg)")
@file_option("--data", "prepared data set → data", required=False)
@file_option(
    "--history", "history of a seed, in a folder of its name; once a seed → training", required=False, multiple=True
)
@file_option("--report", "factor report → factor_map, top_features", required=False)
@file_option("--seeds", "what each seed has → kl_private, kl_shared", required=False)
@file_option(
    "--scores", "samples with consensus scores, with --report → a page a class and shared factor", required=False
)
@file_option("--embedded", "embedded data set → embedding_shared, embedding_specific, posterior", required=False)
@file_option("--evaluation", "scores of a run (.csv) → scores", required=False)
@file_option("--changed", "samples with something changed → a figure of its name", required=False)
@file_option("--samples", "samples of an image model → samples", required=False)
@file_option("--interpolations", "interpolations of an image model → interpolations", required=False)
@file_option("--swaps", "swaps of an image model → swaps", required=False)
@file_option(
    "--traversals",
    "traversals of an image model, with --seeds → traversals_shared, traversals_private",
    required=False,
)
def plot(output: Path, data: Path | None, history: tuple[Path, ...], **files: Path | None) -> None:
    """Draw every figure whose input is given.

    \b
    Examples:
      nvae-bio plot --report factors.h5ad --history 0/history.parquet --history 1/history.parquet --output figures
      nvae-bio plot --report factors.h5ad --scores embedded.h5ad --output figures/pages
      nvae-bio plot --embedded 0/embedded.h5ad --output 0/figures
    """
    from nvae_bio.plot import plot as run

    run(output, data, history, **files)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@file_option("--report", "factor report, what the seeds agree on (.h5ad)")
@file_option("--scores", "samples with consensus scores, of the run (.h5ad)")
@file_option("--embedded", "embedded data set of the seed that is shown (.h5ad)")
@file_option("--card", "card of a model (.json); once a seed", multiple=True)
@file_option("--history", "training history, in the same order (.parquet); once a seed", multiple=True)
@file_option("--evaluation", "scores of the run (.csv)", required=False)
@file_option("--samples", "samples of an image model (.h5ad)", required=False)
@file_option("--traversals", "traversals of an image model (.h5ad)", required=False)
@file_option("--interpolations", "interpolations of an image model (.h5ad)", required=False)
@file_option("--swaps", "swaps of an image model (.h5ad)", required=False)
@file_option("--output", "page to write (.html)")
@click.option("--name", help="name of the run, for the title; that of the report's folder if not given")
@settings_option("`page` of a run", "runs.digits")
def page(
    data: Path,
    report: Path,
    scores: Path,
    embedded: Path,
    card: tuple[Path, ...],
    history: tuple[Path, ...],
    evaluation: Path | None,
    output: Path,
    name: str | None,
    settings: str,
    **generated: Path | None,
) -> None:
    """Write one page about a run: it opens in a browser, without Python and without a network.

    \b
    Example:
      nvae-bio page --data pbmc.h5ad --report factors.h5ad --scores embedded.h5ad --embedded 0/embedded.h5ad \\
          --card 0/model.json --history 0/history.parquet --output report.html
    """
    from nvae_bio.page.step import RunFiles
    from nvae_bio.page.step import page as run

    drawn = {key: path for key, path in generated.items() if path is not None}
    files = RunFiles(data, report, scores, embedded, card, history, evaluation, drawn)
    run(files, output, load_settings(settings, PageSettings), name)
