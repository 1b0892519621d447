"""Commands of studies: scores of a run, of other methods, and all of them together."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from nvae_bio.cli.base import cli, file_option
from nvae_bio.cli.complete import complete_settings
from nvae_bio.config import (
    BASELINES,
    Baseline,
    Calls,
    ConditionSettings,
    Evaluated,
    EvaluationSettings,
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
@file_option(
    "--weights", "condition, held-out response, and model with --settings: weights; once for each seed",
    required=False, multiple=True,
)  # fmt: skip
@file_option("--card", "of the same: card of the model", required=False, multiple=True)
@click.option(
    "--settings",
    default=None,
    shell_complete=complete_settings,
    help="`study.condition`, or of kind model `runs.NAME.evaluation` of a config: JSON text or a YAML file",
)
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
    read: ConditionSettings | EvaluationSettings | None = None
    if settings is not None and kind == "model":
        read = load_settings(settings, EvaluationSettings)
    elif settings is not None:
        read = load_settings(settings, ConditionSettings)
    run(kind, files, output, read, dataset, variant)


@cli.command()
@click.option("--method", type=click.Choice(get_args(Baseline)), required=True, help="what is fitted")
@file_option("--data", "prepared counts (.h5ad)")
@click.option(
    "--kind",
    type=click.Choice(list(BASELINES)),
    default="condition",
    show_default=True,
    help="what is scored: a condition, published factors, or the embedding as that of a model",
)
@file_option("--truth", "factors: what is planted in the data (.h5ad)", required=False)
@click.option("--n-latent", type=click.IntRange(1), default=None, help="condition, model: dims of its latent")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=(0,), show_default=True, multiple=True, help="random seed"
)
@click.option(
    "--settings",
    default=None,
    shell_complete=complete_settings,
    help="condition: `study.condition`; model: `evaluation` of a run; JSON text or a YAML file",
)
@file_option("--output", "scores to write (.csv)")
@DATASET
@VARIANT
def baseline(
    method: Baseline,
    data: Path,
    kind: Evaluated,
    truth: Path | None,
    n_latent: int | None,
    seed: tuple[int, ...],
    settings: str | None,
    output: Path,
    dataset: str,
    variant: str,
) -> None:
    """Fit another method on the training samples and score it as a model is scored.

    By where it keeps a condition (pca, nmf, scvi, scanvi), by the factors that it publishes (drvi, cnmf), or by what
    its embedding tells (pca, ica, nmf, scvi, scanvi, drvi).

    \b
    Examples:
      nvae-bio baseline --method pca --data cells.h5ad --n-latent 10 --output scores.csv \\
          --settings '{"control": "ctrl", "treated": "stim"}'
      nvae-bio baseline --kind factors --method cnmf --data cells.h5ad --truth cells.truth.h5ad --output scores.csv
    """
    from nvae_bio.evaluate import baseline as run
    from nvae_bio.evaluate import embed_baseline, peer

    names = (dataset, variant)
    if method not in BASELINES[kind]:
        allowed = ", ".join(BASELINES[kind])
        raise UserError(f"baseline: method {method!r} has no scores of kind {kind!r}; allowed: {allowed}")
    if kind == "factors":
        if truth is None:
            raise UserError("baseline: kind 'factors' needs --truth, which only simulated data have")
        peer(method, data, truth, seed, output, names)
        return
    if n_latent is None or settings is None:
        raise UserError(f"baseline: kind {kind!r} needs --n-latent and --settings")
    if kind == "model":
        embed_baseline(method, data, seed, n_latent, output, load_settings(settings, EvaluationSettings), names)
    else:
        run(method, data, seed, n_latent, output, load_settings(settings, ConditionSettings), names)


@cli.command()
@file_option("--scores", "scores of a run (.csv); once for each", multiple=True)
@file_option("--table", "all scores to write (.csv)")
@file_option("--page", "page of which the marked table is written (.md)")
@file_option("--figure", "figure to write (.png)")
@click.option(
    "--keep",
    type=(Path, Path),
    multiple=True,
    metavar="FROM TO",
    help="a figure of a run, and where it is copied to, for the page to show",
)
@click.option("--settings", required=True, help="`study` of a config: JSON text or a YAML file")
def study(
    scores: tuple[Path, ...],
    table: Path,
    page: Path,
    figure: Path,
    keep: tuple[tuple[Path, Path], ...],
    settings: str,
) -> None:
    """Gather the scores of a study in a table, a figure and a page.

    \b
    Example:
      nvae-bio study --scores a/scores.csv --scores b/scores.csv --table mine.csv --page mine.md --figure mine.png \\
          --settings study.yaml
    """
    from nvae_bio.evaluate import study as run

    run(scores, table, page, figure, load_settings(settings, StudySettings), keep)
