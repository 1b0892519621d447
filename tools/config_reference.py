"""The reference of all config keys, made from the settings classes.

python tools/config_reference.py            write config/README.md
python tools/config_reference.py --check    exit code 1 where it is not up to date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from nvae_bio.config import (
    CountsSettings,
    CountsSimulation,
    DatasetSettings,
    FeaturesSettings,
    ImagesSettings,
    ImagesSimulation,
    Planted,
    RunSettings,
    SimulationSettings,
    SoundsSimulation,
    StudySettings,
    WorkflowSettings,
)
from tools.generated import write_or_check

TARGET = Path(__file__).resolve().parent.parent / "config" / "README.md"
HEAD = """\
# Config reference

<!-- Written by `python tools/config_reference.py`; change the descriptions in nvae_bio/config/ instead. -->

A config file has two mappings: `datasets` (where samples come from and how they are prepared) and `runs` (a data set, a
model, how it is trained, which seeds); a third, `simulations`, is for data sets with a known truth ([what is
drawn](../docs/simulate.md)), and a `study` stands for many runs ([how](../docs/studies/README.md)). Names of data sets,
runs and simulations are yours: letters, digits, `-`, `_` and dots. A key that is not in this list is an error, and so
is a value outside its limits. `snakemake --configfile FILE` runs a config of your own in place of `config/config.yaml`;
`nvae-bio VERB --settings FILE:runs.NAME` calls one step on one entry of it.
"""
KINDS = (CountsSettings, ImagesSettings, FeaturesSettings)
SIMULATIONS = (CountsSimulation, ImagesSimulation, SoundsSimulation)
SCALARS = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any value"}
LIMITS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


BESIDE = ("checkpoint_seconds",)  # keys of a file that are no section


def render() -> str:
    """The whole text."""
    parts = [HEAD, *_sections("datasets.NAME", DatasetSettings, kinds=KINDS)]
    for model in KINDS:
        parts += _sections("datasets.NAME", model, skip=DatasetSettings, title=f"datasets.NAME` with `{_kind(model)}")
    parts += _sections("runs.NAME", RunSettings)
    parts += _sections("simulations.NAME", SimulationSettings, kinds=SIMULATIONS)
    for simulation in SIMULATIONS:
        title = f"simulations.NAME` with `{_kind(simulation)}"
        parts += _sections("simulations.NAME", simulation, skip=SimulationSettings, title=title)
    parts += _sections("study", StudySettings)
    parts += ["## Beside these", "", *_table(_row(name, WorkflowSettings.model_fields[name]) for name in BESIDE), ""]
    return "\n".join(parts)


def _sections(
    path: str,
    model: type[BaseModel],
    skip: type[BaseModel] | None = None,
    title: str | None = None,
    kinds: Sequence[type[BaseModel]] = (),
) -> Iterator[str]:
    """A table of the plain keys of `model`, then a section for each key that holds more keys.

    Args:
        path: how the section is found in a file, dots between the keys.
        model: its settings.
        skip: a base class whose keys stand elsewhere.
        title: heading in place of `path`.
        kinds: models of which the key `kind` is told here, and each one's own keys in sections of their own.
    """
    fields = {
        name: field for name, field in model.model_fields.items() if skip is None or name not in skip.model_fields
    }
    nested = {name: kept for name, field in fields.items() if (kept := _as_model(field.annotation)) is not None}
    rows = [
        _row(name, field)
        for name, field in fields.items()
        if name not in nested and (name != "kind" or issubclass(model, Planted))
    ]
    if kinds:
        allowed = ", ".join(f"`{get_args(kind.model_fields['kind'].annotation)[0]}`" for kind in kinds)
        rows.insert(0, f"| `kind` | what the samples are; each kind has more keys, below | {allowed} | required |")
    yield "\n".join([f"## `{title or path}`", "", _first_line(model), "", *_table(rows), ""])
    for name, section in nested.items():
        is_named = get_origin(fields[name].annotation) is dict
        yield from _sections(f"{path}.{name}.NAME" if is_named else f"{path}.{name}", section)


def _table(rows: Iterable[str]) -> list[str]:
    return ["| key | meaning | value | default |", "|---|---|---|---|", *rows]


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{_spell(field.get_default(call_default_factory=True))}`"
    cells = [f"`{name}`", field.description or "", describe(field.annotation, field.metadata), default]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def describe(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """A type and its limits in words.

    >>> describe(int, [Ge(3)])
    'whole number ≥ 3'
    >>> describe(tuple[int, ...] | None)
    'list of: whole number; or null'
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], [*annotation.__metadata__, *metadata])
    if origin in (Union, UnionType):
        return "; or ".join("null" if a is type(None) else describe(a, metadata) for a in arguments)
    if origin is Literal:
        return ", ".join(f"`{_spell(a)}`" for a in arguments)
    if origin is dict:
        return f"mapping of {describe(arguments[0])} to {describe(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, DatasetSettings):
        return f"the keys of a `datasets.NAME` with `{_kind(annotation)}`"
    if origin in (list, tuple):
        fixed = origin is tuple and Ellipsis not in arguments
        count = f"{len(arguments)} values" if fixed else f"list{''.join(_lengths(metadata))}"
        return f"{count} of: {describe(arguments[0])}"
    return SCALARS[annotation] + " and".join(_limits(metadata))


def _limits(metadata: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    for constraint in metadata:
        if isinstance(constraint, FieldInfo):  # of an annotated type
            yield from _limits(constraint.metadata)
        elif type(constraint) in LIMITS:
            sign, attribute = LIMITS[type(constraint)]
            limit = getattr(constraint, attribute)
            yield f" {sign} {limit if isinstance(limit, int) else format(limit, 'g')}"
        elif getattr(constraint, "pattern", None) is not None:
            yield f" like `{constraint.pattern}`"


def _lengths(metadata: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    for constraint in metadata:
        if isinstance(constraint, MinLen):
            yield f" (at least {constraint.min_length})"
        elif isinstance(constraint, MaxLen):
            yield f" (at most {constraint.max_length})"


def _as_model(annotation: Any) -> type[BaseModel] | None:
    """The settings that a key holds, alone, listed or named; None of a data set, whose keys have a section already."""
    if get_origin(annotation) in (Union, UnionType) and len(get_args(annotation)) == 2:  # or null
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) in (list, dict):
        annotation = get_args(annotation)[-1]
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model and not issubclass(annotation, DatasetSettings) else None


def _kind(model: type[BaseModel]) -> str:
    return f"kind: {get_args(model.model_fields['kind'].annotation)[0]}"


def _spell(value: Any) -> str:
    """A value as it would stand in YAML."""
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def main(argv: list[str] | None = None) -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    args = parser.parse_args(argv)
    return write_or_check({TARGET: render()}, "tools/config_reference.py", check=args.check)


if __name__ == "__main__":
    sys.exit(main())
