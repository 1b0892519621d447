"""A config as text: YAML with the descriptions of the config reference as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

import nvae_bio
from nvae_bio.config import (
    CountsSettings,
    DatasetSettings,
    FeaturesSettings,
    ImagesSettings,
    ModelSettings,
    ReportSettings,
    RunSettings,
    SplitSettings,
    TrainingSettings,
)
from nvae_bio.init.columns import Role
from nvae_bio.init.propose import Proposal

WIDTH = 100
KINDS: dict[str, type[DatasetSettings]] = {
    "counts": CountsSettings, "images": ImagesSettings, "features": FeaturesSettings
}  # fmt: skip
MEANING = {"kind": "what the samples are: counts, images or features", "dataset": "name of an entry of `datasets`"}
SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSettings, "training": TrainingSettings, "report": ReportSettings, "split": SplitSettings
}  # fmt: skip
MOST_SHOWN = 6  # candidates of a role


def render(proposal: Proposal, output: str) -> str:
    """The whole file."""
    lines = [
        f"# Written by `nvae-bio init` {nvae_bio.__version__}; change what is wrong.",
        f"# Then: nvae-bio check {output}, and nvae-bio run {output}",
        "# `nvae-bio run --list` ends with the place of a file that explains every key.",
    ]
    if proposal.undecided:
        lines += ["#", "# TO DECIDE", *_wrapped("- ", proposal.undecided)]
    lines += ["", "datasets:", f"  {proposal.name}:"]
    lines += [f"    {line}" if line else "" for line in _dataset(proposal)][:-1]
    lines += ["", "runs:", f"  {proposal.name}:"]
    lines += [f"    {line}" if line else "" for line in _run(proposal)]
    return "\n".join(lines) + "\n"


def _wrapped(head: str, texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"# {head}",
            subsequent_indent="#   ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _described(model: type[BaseModel], key: str) -> Iterator[str]:
    """The description of a key, as comments."""
    description = model.model_fields[key].description or MEANING.get(key, "")
    yield from _wrapped("", [description])


def _value(value: Any) -> str:
    """As it stands behind a key, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _dataset(proposal: Proposal) -> Iterator[str]:
    model = KINDS[proposal.dataset["kind"]]
    roles: dict[str, Role] = {
        "label_key": "label",
        "donor_key": "donor",
        "condition_key": "condition",
        "batch_key": "batch",
    }
    for key in sorted(model.model_fields, key=lambda name: name != "kind"):  # then in the order of the reference
        if key not in proposal.dataset and key not in proposal.offers and key not in roles:
            continue
        if key in proposal.dataset or key in proposal.offers or key in roles:
            yield from _described(model, key)
        yield from _wrapped("", [f"{line[0].upper()}{line[1:]}" for line in proposal.why.get(key, [])])
        if key in roles:
            yield from _ranked(proposal, roles[key])
        if key in proposal.dataset:
            yield from _entry(key, proposal.dataset[key])
        else:
            yield f"# {key}: {_value(proposal.offers.get(key, 'COLUMN'))}"
        yield ""


def _ranked(proposal: Proposal, role: Role) -> Iterator[str]:
    found = proposal.ranked.get(role, [])
    if not found:
        yield "# candidates: none by name" if role != "label" else "# candidates: none"
        return
    yield "# candidates, the likeliest first:"
    yield from _wrapped("- ", [str(one) for one in found[:MOST_SHOWN]])
    if len(found) > MOST_SHOWN:
        yield f"# - and {len(found) - MOST_SHOWN} more"


def _entry(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, list) and key == "paths":
        yield f"{key}:"
        yield from (f"  - {_value(one)}" for one in value)
    else:
        yield f"{key}: {_value(value)}"


def _run(proposal: Proposal) -> Iterator[str]:
    yield f"dataset: {_value(proposal.run['dataset'])}"
    yield ""
    yield from _described(RunSettings, "seeds")
    yield "seeds: [0, 1, 2]"
    for section, model in SECTIONS.items():
        values = proposal.run.get(section)
        if values is None or section == "split":
            continue
        yield ""
        yield f"{section}:"
        for key, value in values.items():
            yield from (f"  {line}" for line in _described(model, key))
            yield from (f"  {line}" for line in _wrapped("", proposal.why.get(f"{section}.{key}", [])))
            yield f"  {key}: {_value(value)}"
    refits = ReportSettings.model_fields["n_refits"]
    yield ""
    yield "report:"
    yield from (f"  {line}" for line in _wrapped("", [str(refits.description)]))
    yield "  # The default; a first look can do with 4, in which hardly anything can be called"
    yield f"  n_refits: {refits.default}"
