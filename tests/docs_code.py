"""The code in the documentation: its blocks, and what a block of each language is held against."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from snakemake.cli import get_argument_parser

from nvae_bio.cli import cli
from nvae_bio.config import CountsSimulation, DatasetSettings, RunSettings, WorkflowSettings, load_config
from nvae_bio.config.datasets import CountsSettings, FeaturesSettings, ImagesSettings

ROOT = Path(__file__).resolve().parent.parent
FOUND = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb")]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *FOUND]
    if not {"_build", ".ipynb_checkpoints"} & set(path.parts)
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its language, its text."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a shell block, without its redirections."""

    where: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(word if "…" in word else shlex.quote(word) for word in self.words)

    @property
    def program(self) -> str:
        """Its name, without the folder that it is in."""
        return Path(self.words[0]).name

    @property
    def arguments(self) -> list[str] | None:
        """Of nvae-bio, started in whatever way; None for another program."""
        words = list(self.words)
        if words[0] == "nvae-bio":
            return words[1:]
        for place in range(len(words) - 1):
            if words[place : place + 2] == ["-m", "nvae_bio"]:
                return words[place + 2 :]
        return None


# --- blocks ----------------------------------------------------------------------------------------------------------


def text_of(page: str) -> str:
    """A page in Markdown; of a notebook the cells that are."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if not page.endswith(".ipynb"):
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


@cache
def parsed(page: str) -> list[Token]:
    """What a page is made of; it is asked for often."""
    return MarkdownIt().parse(text_of(page))


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, or those of a language; the cells of a notebook page have another, `{code-cell}`."""
    fences = [token for token in parsed(page) if token.type == "fence"]
    found = [Block(page, token.map[0] + 1, token.info.split(" ")[0], token.content) for token in fences if token.map]
    return [block for block in found if language in (None, block.language)]


def inline_code(page: str) -> list[str]:
    """What stands between single backticks."""
    inline = [child for token in parsed(page) for child in token.children or []]
    return [child.content for child in inline if child.type == "code_inline"]


# --- yaml ------------------------------------------------------------------------------------------------------------

DATASET = {"kind": "counts", "paths": "cells.h5ad", "label_key": "cell_type", "batch_key": "batch"}


def as_config(values: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """A whole config of a fragment: of one, of an entry of `runs`, `datasets` or `simulations`, or of a part of a run.

    Args:
        values: what a page shows.
        base: sections of the config that the page speaks of, for fragments that lean on it.

    Raises:
        ValueError: no class of settings has these keys.
    """
    kinds = [CountsSettings, ImagesSettings, FeaturesSettings, DatasetSettings]
    if not set(values) <= set(WorkflowSettings.model_fields):
        if set(values) <= set(RunSettings.model_fields):
            values = {"runs": {"mine": {"dataset": "mine", **values}}}
        elif any(set(values) <= set(kind.model_fields) for kind in kinds):
            values = {"datasets": {"mine": {**DATASET, **values}}}
        elif set(values) <= set(CountsSimulation.model_fields):
            known = {"kind": "counts", "source": {"builtin": "pbmc68k"}, "classes": {"a": 9, "b": 9}}
            values = {"simulations": {"mine": {**known, **values}}}
        else:
            raise ValueError(f"neither a config nor a part of one: {', '.join(values)}")
    values = {**(base or {}), **values}
    runs = values.get("runs") or {}
    used = {run["dataset"] for run in runs.values()} - set(values.get("datasets", {}))
    datasets = {**values.get("datasets", {}), **dict.fromkeys(used, DATASET)}
    if not runs and "study" not in values:
        datasets = datasets or {"mine": DATASET}
        runs = {name: {"dataset": name} for name in datasets}
    return {**values, "datasets": datasets} | ({"runs": runs} if runs else {})


def check_yaml_block(block: Block, folder: Path, base: dict[str, Any] | None = None) -> None:
    """Validate a block as `nvae-bio check` and the workflow do.

    Raises:
        UserError: a key or a value that is not allowed.
        ValueError: nothing of a config.
    """
    file = folder / "block.yaml"
    file.write_text(yaml.safe_dump(as_config(yaml.safe_load(block.text), base), sort_keys=False), encoding="utf-8")
    load_config(file)


# --- shell -----------------------------------------------------------------------------------------------------------


def commands(text: str, where: str = "") -> Iterator[Command]:
    """The commands of a shell block: comments, variables that are set before one, and redirections are left out.

    >>> [one.text for one in commands("A=1 nvae-bio init x.h5ad \\\\\\n  --force >log 2>&1 # why\\nls | wc -l")]
    ['nvae-bio init x.h5ad --force', 'ls', 'wc -l']
    """
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        is_target = False
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>"):
                is_target = bool(set(word) & set("<>"))
                words = words[:-1] if is_target and words and words[-1].isdigit() else words
                if not is_target and words:
                    yield Command(where, tuple(words))
                    words = []
            elif is_target:
                is_target = False
            elif words or not re.fullmatch(r"[A-Z_]+=.*|export|then|do|done|fi", word):
                words.append(word)


def check_arguments(arguments: list[str]) -> None:
    """Hold a call of nvae-bio against its command: options, values, what is required.

    `…` stands for the value of the option before it, or for options that are left out.

    Raises:
        ClickException: what a user who typed it would be told.
    """
    pairs = zip(arguments, ["", *arguments], strict=False)
    given = [word for word, before in pairs if word != "…" or before.startswith("--")]
    try:
        name, command, rest = cli.resolve_command(click.Context(cli), given)
        assert command is not None
        command.make_context(name, rest)
    except click.MissingParameter:
        if "…" not in arguments:
            raise
    if given[0] == "run" and "--" in given:
        check_snakemake(given[given.index("--") + 1 :])


def check_snakemake(words: list[str]) -> None:
    """Hold a call against Snakemake's own parser; a config that it names must be there, or be the reader's.

    Raises:
        ValueError: an option or a file that is not there.
    """
    try:
        given = get_argument_parser().parse_args(words)
    except SystemExit:
        raise ValueError(f"snakemake {shlex.join(words)}: not understood by Snakemake") from None
    for path in given.configfile or []:
        if len(path.parts) > 1 and not (ROOT / path).is_file():
            raise ValueError(f"snakemake: no {path}")


def check_make(words: list[str]) -> None:
    """Targets and variables of the Makefile.

    Raises:
        ValueError: one that it does not have.
    """
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    variables = set(re.findall(r"^([A-Z]+) \?=", text, re.MULTILINE))
    for word in words:
        if word.partition("=")[0] not in (variables if "=" in word else targets):
            raise ValueError(f"make: no {word!r}")


@cache
def _help(*words: str) -> str:
    """What `python … --help` says, without a process of its own, which would import everything again."""
    said, before = io.StringIO(), sys.argv
    sys.argv = [words[-1], "--help"] if words[0] != "-m" else [words[1], *words[2:], "--help"]
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a module that a test has imported
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=False)
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    except SystemExit as stopped:
        if stopped.code:
            raise ValueError(f"python {shlex.join(words)} --help: exit code {stopped.code}") from None
    except ImportError as error:
        raise ValueError(f"python {shlex.join(words)}: {error}") from None
    finally:
        sys.argv = before
    return said.getvalue()


def check_python(words: list[str]) -> None:
    """A module or tool of the repository: that it is there, and that its help lists the options.

    Raises:
        ValueError: no such module, subcommand or option.
    """
    what, rest = (words[:2], words[2:]) if words[0] == "-m" else (words[:1], words[1:])
    if what == ["-m", "pip"]:
        check_pip(rest)
        return
    said = _help(*what)
    names = re.search(r"\{([\w,-]+)\}", said)
    if rest and names and rest[0] in names[1].split(","):
        said = _help(*what, rest[0])
    for word in rest:
        option = word.partition("=")[0]
        if option.startswith("-") and not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", said):
            raise ValueError(f"python {shlex.join(what)}: no {option} in its help")


def check_pip(words: list[str]) -> None:
    """Extras of this package.

    Raises:
        ValueError: one that pyproject.toml does not have.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        for extra in set(extras.split(",")) - set(project["optional-dependencies"]):
            raise ValueError(f"pip: no extra {extra!r}")


CHECKS = {"snakemake": check_snakemake, "make": check_make, "python": check_python, "pip": check_pip}


def check_inline(code: str) -> None:
    """Hold a command in running text against what there is: names may stand for others, and much may be left out.

    Raises:
        ValueError: a command, an option, a target or a module that is not there.
    """
    (command,) = commands(re.sub(r"[\[\]]", " ", code)) if not re.search(r"[|<>;]", code) else [None]
    if command is None:
        return
    arguments = command.arguments
    if arguments is None:
        if command.program in CHECKS:
            CHECKS[command.program]([word for word in command.words[1:] if word != "…"])
        return
    name = next((word for word in arguments if not word.startswith("-")), "")
    if name and not name.isupper() and name not in cli.commands:
        raise ValueError(f"nvae-bio: no command {name!r}")
    of = [cli.commands[name]] if name in cli.commands else [cli, *cli.commands.values()]
    known = {option for one in of for parameter in one.params for option in parameter.opts} | {"--help", "--no-report"}
    mine = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for word in mine:
        if word.startswith("--") and word.partition("=")[0] not in known:
            raise ValueError(f"nvae-bio {name}: no option {word}")
