"""The workflow's own files, of a checkout or of an installed wheel: the Snakefile, examples of configs, profiles.

None is ever written to: an installed package may belong to someone else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from nvae_bio.config import load_config
from nvae_bio.errors import UserError, nearest

PACKAGE = Path(__file__).resolve().parent
WHOLE = ("examples/*.yaml", "simulated.yaml", "test.yaml")  # configs that are an example each, in config/


@dataclass(frozen=True)
class Example:
    """A config that comes with nvae-bio.

    Attributes:
        name: what `nvae-bio run --example` calls it.
        about: one sentence.
        text: the config, in YAML.
    """

    name: str
    about: str
    text: str


def workflow_folder(package: Path = PACKAGE) -> Path:
    """The folder of the Snakefile: in an installed package one of its own, in a checkout the one around it.

    Raises:
        UserError: there is neither.
    """
    for folder in (package / "_workflow", package.parent):
        if (folder / "Snakefile").is_file() and (folder / "workflow" / "rules").is_dir():
            return folder
    raise UserError(f"{package}: the workflow's files are missing; install nvae-bio from a wheel, or use a checkout")


def examples() -> dict[str, Example]:
    """Every example by its name: each run of the default config, and each other config.

    Raises:
        UserError: the default config, of a checkout, was changed and is not valid.

    >>> sorted(examples())
    ['digits', 'kang', 'mnist', 'pbmc68k', 'simulated', 'test', 'yale']
    """
    folder = workflow_folder() / "config"
    found = list(_runs_of(folder / "config.yaml"))
    for file in (file for pattern in WHOLE for file in sorted(folder.glob(pattern))):
        text = file.read_text(encoding="utf-8")
        comment = re.match(r"(?:#.*\n)*", text)
        about = " ".join(line.lstrip("# ") for line in (comment[0] if comment else "").splitlines())
        found.append(Example(file.stem, re.split(r"(?<=\.) (?=[A-Z])", about)[0].rstrip("."), text))
    return {example.name: example for example in found}


def example(name: str) -> Example:
    """One of them.

    Raises:
        UserError: there is none of this name.
    """
    found = examples()
    if name not in found:
        hint = nearest(name, found)
        raise UserError(f"--example: {name!r} is no example; {hint}allowed: {', '.join(found)}")
    return found[name]


def _runs_of(file: Path) -> Iterator[Example]:
    """Each run of a config with its data set, as a config of its own; comments are kept where each key has its line."""
    load_config(file)  # in a checkout it may have been changed
    text = file.read_text(encoding="utf-8")
    values, entries = yaml.safe_load(text), _entries(text)
    for name, run in values["runs"].items():
        dataset = run["dataset"]
        own = {"datasets": {dataset: values["datasets"][dataset]}, "runs": {name: run}}
        lines = ["datasets:", *entries["datasets"][dataset], "", "runs:", *entries["runs"][name]]
        about = lines[1].partition(" # ")[2] or f"run {name} of the default config"
        with suppress(yaml.YAMLError):
            if yaml.safe_load("\n".join(lines)) == own:
                yield Example(name, about, "\n".join([f"# {about}", *lines]) + "\n")
                continue
        yield Example(name, about, yaml.safe_dump(own, sort_keys=False))


def _entries(text: str) -> dict[str, dict[str, list[str]]]:
    """Section of a config -> name of an entry -> its lines."""
    lines, found = text.splitlines(), {}
    root = yaml.compose(text)
    for section, block in [] if root is None else root.value:
        keys = [key for key, _ in block.value]
        starts = [key.start_mark.line for key in keys]
        ends = [*starts[1:], block.end_mark.line]
        parts = ("\n".join(lines[a:b]).rstrip().split("\n") for a, b in zip(starts, ends, strict=True))
        found[section.value] = dict(zip((key.value for key in keys), parts, strict=True))
    return found


def profiles() -> dict[str, Path]:
    """Every profile that comes with nvae-bio: its name, and its folder."""
    return {path.name: path for path in sorted((workflow_folder() / "workflow" / "profiles").iterdir())}


def profile_folder(name: str) -> Path:
    """The folder of a profile: of one that comes with nvae-bio by its name, or of the user's own by its path.

    Raises:
        UserError: there is none.
    """
    folder = Path(name) if "/" in name else profiles().get(name, Path(name))
    if not any(folder.glob("config*.yaml")):  # Snakemake knows names with a version, too
        raise UserError(f"--profile: {name}: no folder with a config.yaml; allowed, too: {', '.join(profiles())}")
    return folder.resolve()
