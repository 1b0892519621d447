"""The command line: one command a step; it parses, calls one function and maps errors to exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import click

import nvae_bio
from nvae_bio.config import (
    BASELINES,
    AuditSettings,
    Baseline,
    Calls,
    ConditionSettings,
    EmbeddingSettings,
    Evaluated,
    FactorSettings,
    FitSettings,
    GenerationSettings,
    NullKind,
    PlantingSettings,
    StudySettings,
    load_dataset,
    load_settings,
    load_simulation,
)
from nvae_bio.errors import UserError

Command = Callable[..., None]
Option = Callable[[Command], Command]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def file_option(name: str, text: str, *, required: bool = True, multiple: bool = False) -> Option:
    """An option that takes a file."""
    return click.option(name, type=FILE, required=required, multiple=multiple, help=text)


def settings_option(section: str, entry: str, *, required: bool = False) -> Option:
    """The `--settings` option: JSON text, a YAML file, or one entry of a config file."""
    text = f"{section}: JSON text, a YAML file, or an entry of a config such as config.yaml:{entry}"
    return click.option("--settings", required=required, default=None if required else "{}", help=text)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(nvae_bio.__version__, prog_name="nvae-bio")
def cli() -> None:
    """Shared and class-specific factors of biological data with the N-VAE.

    The steps in order: prepare, train, embed, audit, null, power, factors, plot; suggest proposes settings for a
    re-run, generate draws samples from a trained model, simulate makes data of which the truth is known, evaluate
    scores a run, baseline other methods beside it, and study gathers the scores.
    """


@cli.command()
@settings_option("the simulation", "simulations.rotated", required=True)
@file_option("--output", "simulated data set to write (.h5ad)")
@file_option("--truth", "what is planted in it, to write (.h5ad)")
def simulate(settings: str, output: Path, truth: Path) -> None:
    """Make a data set with a known truth from a real one.

    \b
    Example:
      nvae-bio simulate --settings config/simulated.yaml:simulations.rotated --output rotated.h5ad \\
          --truth rotated.truth.h5ad
    """
    from nvae_bio.simulate import simulate as run

    run(load_simulation(settings), output, truth)


@cli.command()
@settings_option("the data set", "datasets.digits", required=True)
@file_option("--output", "prepared data set to write (.h5ad)")
def prepare(settings: str, output: Path) -> None:
    """Read raw samples, check and filter them, choose features, split.

    \b
    Examples:
      nvae-bio prepare --settings '{"kind": "counts", "builtin": "pbmc68k", "label_key": "bulk_labels"}' \\
          --output pbmc.h5ad
      nvae-bio prepare --settings config/config.yaml:datasets.digits --output digits.h5ad
    """
    from nvae_bio.prepare import prepare as run

    run(load_dataset(settings), output)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@file_option("--weights", "weights to write (.safetensors); once a seed", multiple=True)
@file_option("--card", "settings and provenance of the model to write (.json); once a seed", multiple=True)
@file_option("--history", "training history to write (.parquet); once a seed", multiple=True)
@settings_option("`model` and `training`", "runs.digits")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=(0,), show_default=True, multiple=True,
    help="random seed; several are trained side by side",
)  # fmt: skip
def train(
    data: Path,
    weights: tuple[Path, ...],
    card: tuple[Path, ...],
    history: tuple[Path, ...],
    settings: str,
    seed: tuple[int, ...],
) -> None:
    """Train an N-VAE on a prepared data set.

    \b
    Example:
      nvae-bio train --data pbmc.h5ad --weights model.safetensors --card model.json --history history.parquet \\
          --settings '{"model": {"n_shared": 8}, "training": {"max_epochs": 100}}' --seed 1
    """
    from nvae_bio.train import train as run
    from nvae_bio.train.step import Outputs

    for name, values in (("--weights", weights), ("--card", card), ("--history", history)):
        if len(values) != len(seed):
            raise UserError(f"{name}: given {len(values)} times for {len(seed)} seeds; give it once for each --seed")
    outputs = [Outputs(*files) for files in zip(weights, card, history, strict=True)]
    run(data, outputs, load_settings(settings, FitSettings), seed)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@file_option("--weights", "weights of the model (.safetensors)")
@file_option("--card", "card of the model (.json)")
@file_option("--output", "embedded data set to write (.h5ad)")
@settings_option("`embedding` of a run", "runs.digits")
def embed(data: Path, weights: Path, card: Path, output: Path, settings: str) -> None:
    """Embed every sample and decode the effect of every factor.

    \b
    Example:
      nvae-bio embed --data pbmc.h5ad --weights model.safetensors --card model.json --output embedded.h5ad
    """
    from nvae_bio.embed import embed as run

    run(data, weights, card, output, load_settings(settings, EmbeddingSettings))


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@file_option("--weights", "weights of the base model (.safetensors)")
@file_option("--card", "card of the base model (.json)")
@file_option("--output", "what the detector finds, to write (.parquet)")
@settings_option("`model` and `training` of the run", "runs.digits")
@click.option(
    "--kind", type=click.Choice(get_args(NullKind)), default="no_private", show_default=True, help="of null data"
)
@click.option(
    "--refit", type=click.IntRange(0), default=(0,), show_default=True, multiple=True,
    help="number of a refit: its seed, whatever the others are",
)  # fmt: skip
def null(
    data: Path, weights: Path, card: Path, output: Path, settings: str, kind: NullKind, refit: tuple[int, ...]
) -> None:
    """Train again on data in which no class has a factor of its own.

    The base model is one of the same data with `variant: cvae`, which has no private latents, and with as many shared
    dims as the run's model has shared and private ones of a class.

    \b
    Example:
      nvae-bio null --data pbmc.h5ad --weights base.safetensors --card base.json --refit 0 --refit 1 \\
          --settings config/config.yaml:runs.pbmc68k --output 0.parquet
    """
    from nvae_bio.factors import null as run

    run(data, weights, card, output, load_settings(settings, FitSettings), kind, refit)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@file_option("--weights", "weights of the model (.safetensors)")
@file_option("--card", "card of the model (.json)")
@file_option("--output", "what is said of each sample, to write (.parquet)")
@settings_option("`audit` of a run", "runs.digits")
def audit(data: Path, weights: Path, card: Path, output: Path, settings: str) -> None:
    """Hold each sample's label against the model: other labels, other classes' factors, doublets.

    \b
    Example:
      nvae-bio audit --data pbmc.h5ad --weights model.safetensors --card model.json --output audit.parquet
    """
    from nvae_bio.audit import audit as run

    run(data, weights, card, output, load_settings(settings, AuditSettings))


@cli.command()
@file_option("--data", "prepared counts (.h5ad)")
@file_option("--output", "what the detector finds of planted programmes, to write (.parquet)")
@settings_option("`model`, `training` and `power` of the run", "runs.pbmc68k")
@click.option(
    "--planting", type=click.IntRange(0), default=(0,), show_default=True, multiple=True,
    help="number of a planting: its seed, whatever the others are",
)  # fmt: skip
def power(data: Path, output: Path, settings: str, planting: tuple[int, ...]) -> None:
    """Plant programmes of known size into the counts, train again, and see whether they are found.

    \b
    Example:
      nvae-bio power --data pbmc.h5ad --planting 0 --planting 1 --output power/0.parquet \\
          --settings '{"power": {"fold_changes": [1.5, 2, 3]}}'
    """
    from nvae_bio.factors import power as run

    parsed = load_settings(settings, PlantingSettings)
    run(data, output, parsed, parsed.power, planting)


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
    from nvae_bio.factors import Evidence, Written
    from nvae_bio.factors import factors as run

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


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@file_option("--weights", "weights of the model (.safetensors)")
@file_option("--card", "card of the model (.json)")
@file_option("--samples", "ancestral samples to write (.h5ad)")
@file_option("--traversals", "traversals of all factors to write (.h5ad)")
@settings_option("`generation` of a run", "runs.digits")
def generate(data: Path, weights: Path, card: Path, samples: Path, traversals: Path, settings: str) -> None:
    """Draw samples of each class and traverse each factor.

    \b
    Example:
      nvae-bio generate --data digits.h5ad --weights model.safetensors --card model.json --samples samples.h5ad \\
          --traversals traversals.h5ad --settings '{"sigmas": [1.0, 1.4]}'
    """
    from nvae_bio.generate import generate as run

    run(data, weights, card, samples, traversals, load_settings(settings, GenerationSettings))


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
@file_option("--embedded", "embedded data set → embedding_shared, embedding_specific", required=False)
@file_option("--samples", "samples of an image model → samples", required=False)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 with one line on standard error for bad input."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("nvae_bio").setLevel(logging.INFO)
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="nvae-bio", standalone_mode=False)
    except UserError as error:
        print(f"nvae-bio: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"nvae-bio: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    except click.Abort:
        return 130
    except OSError as error:
        if error.filename is None:
            raise
        print(f"nvae-bio: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0
