"""The group of commands, and the options that many of them have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

import nvae_bio
from nvae_bio.cli.complete import complete_settings

Command = Callable[..., None]
Option = Callable[[Command], Command]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def file_option(name: str, text: str, *, required: bool = True, multiple: bool = False) -> Option:
    """An option that takes a file."""
    return click.option(name, type=FILE, required=required, multiple=multiple, help=text)


def store_option(text: str) -> Option:
    """`--store`, a folder."""
    return click.option("--store", type=FOLDER, help=text)


def model_options(what: str = "model") -> Option:
    """`--weights` and `--card` of a trained model."""
    weights = file_option("--weights", f"weights of the {what} (.safetensors)")
    card = file_option("--card", f"card of the {what} (.json)")
    return lambda command: weights(card(command))


def settings_option(section: str, entry: str, *, required: bool = False) -> Option:
    """The `--settings` option: JSON text, a YAML file, or one entry of a config file."""
    text = f"{section}: JSON text, a YAML file, or an entry of a config such as config.yaml:{entry}"
    default = None if required else "{}"
    return click.option("--settings", required=required, default=default, help=text, shell_complete=complete_settings)


def checkpoint_options(command: Command) -> Command:
    """`--checkpoint` and `--checkpoint-seconds` of what trains."""
    folder = click.option(
        "--checkpoint", type=FOLDER,
        help="folder to save trainings in now and then, and on SIGTERM and SIGUSR1; the same command goes on from it",
    )  # fmt: skip
    seconds = click.option(
        "--checkpoint-seconds", type=click.FloatRange(0), default=300, show_default=True,
        envvar="NVAE_BIO_CHECKPOINT_SECONDS", show_envvar=True, help="between two checkpoints",
    )  # fmt: skip
    return folder(seconds(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(nvae_bio.__version__, prog_name="nvae-bio")
def cli() -> None:
    """Shared and class-specific factors of biological data with the N-VAE.

    First, init writes a config for your files, check tries it, doctor looks at the machine, and completion is for the
    shell. `run` is the whole way, by Snakemake. Its steps in order: prepare, train, embed, audit, null, power, factors,
    plot, page; suggest proposes settings for a re-run, generate draws samples from a trained model, query places new
    samples in one, counterfactual decodes samples with something changed, export writes a run for other programs;
    simulate makes data of which the truth is known, evaluate scores a run, baseline other methods beside it, and study
    gathers the scores.
    """
