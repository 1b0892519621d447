"""Settings from JSON text and YAML files, with one clear line where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, RootModel, ValidationError

from nvae_bio.config.datasets import Dataset, DatasetSettings
from nvae_bio.config.runs import RunSettings
from nvae_bio.config.simulations import Simulation, SimulationSettings
from nvae_bio.config.workflow import WorkflowSettings
from nvae_bio.errors import UserError, all_lines, listed, models_in, nearest, one_line

SettingsType = TypeVar("SettingsType", bound=BaseModel)


MOST_BYTES, MOST_VALUES = 2_000_000, 100_000  # of a config: a study of hundreds of runs has a hundredth of that


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error, not a silent overwrite."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, f"over {MOST_VALUES} keys merged", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # what `<<` brings gives way
        for key in _twice(self.construct_object(key, deep=True) for key in own):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key in _twice(key for key, _ in pairs):
        raise ValueError(f"key {key!r} stands twice")
    return dict(pairs)


def _twice(keys: Iterable[Any]) -> Iterator[Any]:
    seen = set()
    for key in keys:
        if isinstance(key, Hashable):  # the parser refuses others itself
            if key in seen:
                yield key
            seen.add(key)


def _check_size(value: Any) -> Any:
    """The values, if they are not too many: a few lines of aliases of aliases stand for billions.

    Raises:
        ValueError: they are.
    """
    left, n = [value], 0
    while left:
        one = left.pop()
        n += 1
        if n > MOST_VALUES:
            raise ValueError(f"over {MOST_VALUES} values")
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
    return value


def parse_settings(values: Any, model: type[SettingsType], source: str) -> SettingsType:
    """Validated settings from plain values.

    Raises:
        UserError: one line naming the source, the key, the value and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(one_line(error, model, source)) from None


def load_settings(source: str, model: type[SettingsType]) -> SettingsType:
    """Settings from JSON text, from a YAML file, or from one entry of a config file.

    Args:
        source: text that starts with `{`; the path of a file; or `PATH:datasets.NAME`, `PATH:runs.NAME`,
            `PATH:simulations.NAME`. Of a run, a model takes the keys that it has, or is one of its parts: one entry
            serves every step.
        model: a settings class.

    Raises:
        UserError: no such file or entry, not YAML, or settings that are not allowed.

    >>> from nvae_bio.config import TrainingSettings
    >>> load_settings('{"max_epochs": 3}', TrainingSettings).max_epochs
    3
    """
    path, colon, entry = source.rpartition(":")
    if source.lstrip().startswith("{"):
        return parse_settings(_read_values(source, "--settings", _parse_json), model, "--settings")
    if colon and "/" not in entry and not Path(source).exists():
        return _take_entry(load_config(path), entry, model, path)
    return parse_settings(_read_values(source, source, _parse_yaml_file), model, source)


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_json_object)


def _parse_yaml_file(path: str) -> Any:
    with Path(path).open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"over {MOST_BYTES} bytes")
    values = yaml.load(content.decode("utf-8"), Loader=_StrictLoader)
    return {} if values is None else _check_size(values)


def _read_values(text: str, source: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        form = "JSON" if parse is _parse_json else "YAML"
        raise UserError(f"{source}: not valid {form}: {' '.join(str(error).split())}") from None


def _take_entry(config: WorkflowSettings, key: str, model: type[SettingsType], path: str) -> SettingsType:
    """One data set, run or simulation of a config, or the part of a run that is of type `model`."""
    entries: dict[str, BaseModel] = {f"datasets.{name}": dataset for name, dataset in config.datasets.items()}
    entries |= {f"runs.{name}": run for name, run in config.runs.items()}
    entries |= {f"simulations.{name}": simulation for name, simulation in config.simulations.items()}
    if key not in entries:
        raise UserError(f"{path}: no entry {key!r}; {nearest(key, entries)}there are: {listed(entries)}")
    entry = entries[key]
    for wanted in models_in(model):
        if isinstance(entry, wanted):
            return parse_settings({name: getattr(entry, name) for name in wanted.model_fields}, model, path)
        for _, part in entry if isinstance(entry, RunSettings) else ():
            if isinstance(part, wanted):
                return parse_settings(part, model, path)
    homes = {DatasetSettings: "datasets", SimulationSettings: "simulations"}
    section = next((name for home, name in homes.items() if issubclass(models_in(model)[0], home)), "runs")
    raise UserError(f"{path}:{key}: an entry of `{section}` is needed here")


def load_dataset(source: str) -> Dataset:
    """Settings of a data set of any kind, from what `load_settings` takes."""
    return load_settings(source, _AnyDataset).root


def read_dataset(values: Any, source: str) -> Dataset:
    """Settings of a data set of any kind, from plain values.

    Raises:
        UserError: as `parse_settings`.
    """
    return parse_settings(values, _AnyDataset, source).root


class _AnyDataset(RootModel[Dataset]):
    pass


def load_simulation(source: str) -> Simulation:
    """Settings of a simulation of any kind, from what `load_settings` takes."""
    return load_settings(source, _AnySimulation).root


class _AnySimulation(RootModel[Simulation]):
    pass


def check_yaml(path: str | Path) -> None:
    """Refuse a file in which a key stands twice, which Snakemake's own reader lets pass.

    Raises:
        UserError: unreadable, not YAML, or a key that stands twice in one mapping.
    """
    _read_values(str(path), str(path), _parse_yaml_file)


def load_config(path: str | Path) -> WorkflowSettings:
    """A whole config file, validated."""
    return load_settings(str(path), WorkflowSettings)


def config_problems(path: str | Path) -> list[str]:
    """Everything that is wrong with a config file, a line each; none where it is right.

    What joins runs to data sets is looked at run by run, once all keys by themselves are right.

    Raises:
        UserError: unreadable, or not YAML.
    """
    source = str(path)
    values = _read_values(source, source, _parse_yaml_file)
    lines = _problems(values, source)
    if isinstance(values, dict) and isinstance(values.get("runs"), dict) and lines and not values.get("study"):
        for name, run in values["runs"].items():
            lines += _problems(values | {"runs": {name: run}}, source)
    return list(dict.fromkeys(lines))


def _problems(values: Any, source: str) -> list[str]:
    try:
        WorkflowSettings.model_validate(values)
    except ValidationError as error:
        return all_lines(error, WorkflowSettings, source)
    return []


def iter_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a settings model with its field, depth first; a nested model's own keys follow it."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from iter_fields(nested, f"{prefix}{name}.")
        else:
            yield prefix + name, field
