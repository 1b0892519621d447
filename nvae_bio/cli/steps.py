"""Commands from raw samples to a model and what it makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from nvae_bio.cli.base import checkpoint_options, cli, file_option, model_options, settings_option, store_option
from nvae_bio.config import (
    EmbeddingSettings,
    FitSettings,
    NullKind,
    QuerySettings,
    load_dataset,
    load_settings,
    load_simulation,
)
from nvae_bio.errors import UserError


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
@store_option("folder to pack counts into besides; they are then never held whole in memory")
def prepare(settings: str, output: Path, store: Path | None) -> None:
    """Read raw samples, check and filter them, choose features, split.

    \b
    Examples:
      nvae-bio prepare --settings '{"kind": "counts", "builtin": "pbmc68k", "label_key": "bulk_labels"}' \\
          --output pbmc.h5ad
      nvae-bio prepare --settings config/config.yaml:datasets.digits --output digits.h5ad
    """
    from nvae_bio.prepare import prepare as run

    run(load_dataset(settings), output, store)


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="prepared data set (.h5ad), or a store")
@file_option("--weights", "weights to write (.safetensors); once a seed", multiple=True)
@file_option("--card", "settings and provenance of the model to write (.json); once a seed", multiple=True)
@file_option("--history", "training history to write (.parquet); once a seed", multiple=True)
@settings_option("`model` and `training`", "runs.digits")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=(0,), show_default=True, multiple=True,
    help="random seed; several are trained side by side",
)  # fmt: skip
@checkpoint_options
def train(
    data: Path,
    weights: tuple[Path, ...],
    card: tuple[Path, ...],
    history: tuple[Path, ...],
    settings: str,
    seed: tuple[int, ...],
    checkpoint: Path | None,
    checkpoint_seconds: float,
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
    run(data, outputs, load_settings(settings, FitSettings), seed, checkpoint, checkpoint_seconds)


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@model_options()
@click.option(
    "--output", type=click.Path(path_type=Path), required=True,
    help="embedded data set to write (.h5ad; with --store .zarr as well)",
)  # fmt: skip
@settings_option("`embedding` of a run", "runs.digits")
@store_option("store of the same data: samples are then read and written some at a time")
def embed(data: Path, weights: Path, card: Path, output: Path, settings: str, store: Path | None) -> None:
    """Embed every sample and decode the effect of every factor.

    \b
    Example:
      nvae-bio embed --data pbmc.h5ad --weights model.safetensors --card model.json --output embedded.h5ad
    """
    from nvae_bio.embed import embed as run

    run(data, weights, card, output, load_settings(settings, EmbeddingSettings), store)


@cli.command()
@file_option("--data", "prepared data set of the model (.h5ad)")
@model_options()
@file_option("--output", "mapped samples to write (.h5ad)")
@settings_option("the new samples (`paths` and how they are read)", "runs.mine.queries.new", required=True)
def query(data: Path, weights: Path, card: Path, output: Path, settings: str) -> None:
    """Place new samples in a trained model: latents, classes and how sure they are, what is new.

    \b
    Example:
      nvae-bio query --data pbmc.h5ad --weights model.safetensors --card model.json --output mapped.h5ad \\
          --settings '{"paths": "new.h5ad"}'
    """
    from nvae_bio.query import query as run

    run(data, weights, card, output, load_settings(settings, QuerySettings))


@cli.command()
@file_option("--data", "prepared data set (.h5ad)")
@model_options("base model")
@file_option("--output", "what the detector finds, to write (.parquet)")
@settings_option("`model` and `training` of the run", "runs.digits")
@click.option(
    "--kind", type=click.Choice(get_args(NullKind)), default="no_private", show_default=True, help="of null data"
)
@click.option(
    "--refit", type=click.IntRange(0), default=(0,), show_default=True, multiple=True,
    help="number of a refit: its seed, whatever the others are",
)  # fmt: skip
@checkpoint_options
def null(
    data: Path,
    weights: Path,
    card: Path,
    output: Path,
    settings: str,
    kind: NullKind,
    refit: tuple[int, ...],
    checkpoint: Path | None,
    checkpoint_seconds: float,
) -> None:
    """Train again on data in which no class has a factor of its own.

    The base model is one of the same data with `variant: cvae`, which has no private latents, and with as many shared
    dims as the run's model has shared and private ones of a class.

    \b
    Example:
      nvae-bio null --data pbmc.h5ad --weights base.safetensors --card base.json --refit 0 --refit 1 \\
          --settings config/config.yaml:runs.pbmc68k --output 0.parquet
    """
    from nvae_bio.factors.null import null as run

    parsed = load_settings(settings, FitSettings)
    run(data, weights, card, output, parsed, kind, refit, checkpoint, checkpoint_seconds)
