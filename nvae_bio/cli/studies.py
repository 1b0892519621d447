"""Commands of studies: scores of a run, of other methods, and all of them together."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from nvae_bio.cli.base import cli, file_option
from nvae_bio.config import (
    BASELINES,
    Baseline,
    Calls,
    ConditionSettings,
    Evaluated,
    StudySettings,
    load_settings,
)
from nvae_bio.errors import UserError

DATASET = click.option("--dataset", default="data", show_default=True, help="what the table calls the data set")
VARIANT = click.option("--variant", default="model", show_default=True, help="what the table calls the model")


@cli.command()
@click.option("--kind", type=click.Choice(get_args(Evaluated)), required=True, help="what is scored")
@file_option("--embedded", "embedded data set of a seed (.h5ad); once for each seed", multiple=True)
@file_option("--report", "factor report (.h5ad)", required=False)
@file_option("--truth", "planted, factors: what is planted in the data (.h5ad)", required=False)
@click.option(
    "--calls",
    type=click.Choice(get_args(Calls)),
    default="consensus",
    show_default=True,
    help="factors: those of all seeds, for which --embedded and --report are those of the run; or of single seeds",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="factors: what the table calls all seeds together",
)
@file_option("--weights", "condition, held-out response: weights; once for each seed", required=False, multiple=True)
@file_option("--card", "condition, held-out response: card of the model", required=False, multiple=True)
@click.option("--settings", default=None, help="`study.condition` of a config: JSON text or a YAML file")
@file_option("--output", "scores to write (.csv)")
@DATASET
@VARIANT
def evaluate(
    kind: Evaluated,
    embedded: tuple[Path, ...],
    report: Path | None,
    truth: Path | None,
    calls: Calls,
    seed: int,
    weights: tuple[Path, ...],
    card: tuple[Path, ...],
    settings: str | None,
    output: Path,
    dataset: str,
    variant: str,
) -> None:
    """Score a run: against what was planted, where it keeps a condition, or its fit and latents alone.

    \b
    Examples:
      nvae-bio evaluate --kind planted --report factors.h5ad --embedded 0/embedded.h5ad --truth mine.truth.h5ad \\
          --output scores.csv
      nvae-bio evaluate --kind condition --embedded 0/embedded.h5ad --weights 0/model.safetensors --card 0/model.json \\
          --settings '{"control": "ctrl", "treated": "stim"}' --output scores.csv
    """
    from nvae_bio.evaluate import ScoredRun
    from nvae_bio.evaluate import evaluate as run

    if len(weights) != len(card):
        raise UserError(f"--weights: given {len(weights)} times, --card {len(card)} times; give both once a seed")
    files = ScoredRun(embedded, report, truth, list(zip(weights, card, strict=True)), calls, seed)
    condition = None if settings is None else load_settings(settings, ConditionSettings)
    run(kind, files, output, condition, dataset, variant)


@cli.command()
@click.option("--method", type=click.Choice(get_args(Baseline)), required=True, help="what is fitted")
@file_option("--data", "prepared counts (.h5ad)")
@file_option("--truth", "drvi, cnmf: what is planted in the data (.h5ad)", required=False)
@click.option("--n-latent", type=click.IntRange(1), default=None, help="dims of its latent; all but drvi, cnmf")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=(0,), show_default=True, multiple=True, help="random seed"
)
@click.option(
    "--settings", default=None, help="`study.condition` of a config: JSON text or a YAML file; all but drvi, cnmf"
)
@file_option("--output", "scores to write (.csv)")
@DATASET
@VARIANT
def baseline(
    method: Baseline,
    data: Path,
    truth: Path | None,
    n_latent: int | None,
    seed: tuple[int, ...],
    settings: str | None,
    output: Path,
    dataset: str,
    variant: str,
) -> None:
    """Fit another method on the training samples and score it as a model is scored.

    pca, nmf, scvi and scanvi by where they keep a condition; drvi and cnmf by the factors that they find.

    \b
    Examples:
      nvae-bio baseline --method pca --data cells.h5ad --n-latent 10 --output scores.csv \\
          --settings '{"control": "ctrl", "treated": "stim"}'
      nvae-bio baseline --method cnmf --data cells.h5ad --truth cells.truth.h5ad --output scores.csv
    """
    from nvae_bio.evaluate import baseline as run
    from nvae_bio.evaluate import peer

    if method in BASELINES["factors"]:
        if truth is None:
            raise UserError(f"baseline: method {method!r} needs --truth, which only simulated data have")
        peer(method, data, truth, seed, output, (dataset, variant))
        return
    if n_latent is None or settings is None:
        raise UserError(f"baseline: method {method!r} needs --n-latent and --settings, which name control and treated")
    run(method, data, seed, n_latent, output, load_settings(settings, ConditionSettings), (dataset, variant))


@cli.command()
@file_option("--scores", "scores of a run (.csv); once for each", multiple=True)
@file_option("--table", "all scores to write (.csv)")
@file_option("--page", "page of which the marked table is written (.md)")
@file_option("--figure", "figure to write (.png)")
@click.option("--settings", required=True, help="`study` of a config: JSON text or a YAML file")
def study(scores: tuple[Path, ...], table: Path, page: Path, figure: Path, settings: str) -> None:
    """Gather the scores of a study in a table, a figure and a page.

    \b
    Example:
      nvae-bio study --scores a/scores.csv --scores b/scores.csv --table mine.csv --page mine.md --figure mine.png \\
          --settings study.yaml
    """
    from nvae_bio.evaluate import study as run

    run(scores, table, page, figure, load_settings(settings, StudySettings))
