"""Completion in a shell: click's own, with the entries of a config behind `FILE:`, in bash too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from nvae_bio.config import load_config
from nvae_bio.errors import UserError

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_NVAE_BIO_COMPLETE"


@add_completion_class
class Bash(BashComplete):
    """bash takes a colon for the end of a word; entries of configs have one (`config.yaml:runs.mine`)."""

    source_template = BashComplete.source_template.replace(
        'COMP_WORDS="${COMP_WORDS[*]}"', 'NVAE_BIO_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDS="${COMP_WORDS[*]}"'
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor and the one at it, split at spaces alone."""
        line = os.environ.get("NVAE_BIO_LINE")
        if line is None:
            return super().get_completion_args()
        words = split_arg_string(line)[1:]
        is_new = not words or line[-1:].isspace()
        return (words, "") if is_new else (words[:-1], words[-1])

    def format_completion(self, item: CompletionItem) -> str:
        """The line that the script reads; of a word with a colon, what stands behind it."""
        _, incomplete = self.get_completion_args()
        before, colon, _ = incomplete.rpartition(":")
        value = item.value.removeprefix(before + colon) if item.type == "plain" else item.value
        return f"{item.type},{value}"


def script(shell: str) -> str:
    """The script that a shell is to read."""
    from nvae_bio.cli.base import cli

    found = get_completion_class(shell)
    assert found is not None
    if shell == "bash":  # click would start a bash to ask for its version
        bash = Bash(cli, {}, "nvae-bio", VARIABLE)
        return f"{bash.source_template % bash.source_vars()}\n"
    return f"{found(cli, {}, 'nvae-bio', VARIABLE).source()}\n"


def entries_of(config: str, section: str = "") -> list[str]:
    """Names of the entries of a config, `runs.mine` and so on; none of a file that is no config."""
    try:
        settings = load_config(config)
    except (UserError, OSError):
        return []
    named: dict[str, Any] = {"datasets": settings.datasets, "runs": settings.runs, "simulations": settings.simulations}
    return [f"{part}.{name}" for part, entries in named.items() for name in entries if section in ("", part)]


def complete_settings(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A file; behind its name and a colon, the entries that this command takes."""
    path, colon, entry = incomplete.partition(":")
    if not colon or not Path(path).is_file():
        return [CompletionItem(incomplete, type="file")]
    section = {"prepare": "datasets", "simulate": "simulations"}.get(context.info_name or "", "runs")
    return [CompletionItem(f"{path}:{one}") for one in entries_of(path, section) if one.startswith(entry)]


def complete_runs(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the runs of the config that is given, or of config/config.yaml."""
    given = [context.params.get("config"), *context.args]  # an option without its value leaves the rest unparsed
    config = next((str(one) for one in given if one is not None), "config/config.yaml")
    names = [one.removeprefix("runs.") for one in entries_of(config, "runs")]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
