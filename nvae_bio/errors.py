"""Errors that a user can mend, told in one line."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


class UserError(Exception):
    """Bad input. The message is one line: the file, the key, the value, and what is allowed (exit code 2)."""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """All settings models named in a type annotation, however nested."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _allowed_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys that are allowed beside the offending one, by walking the error's location through the models."""
    candidates = [model]
    for step in location[:-1]:
        tagged = [
            m for m in candidates if "kind" in m.model_fields and step in get_args(m.model_fields["kind"].annotation)
        ]
        if tagged:
            candidates = tagged
            continue
        found = [
            m for c in candidates if step in c.model_fields for m in _models_in(c.model_fields[str(step)].annotation)
        ]
        candidates = found or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def one_line(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """A settings error as one line: where, which key, which value, what is allowed.

    Args:
        error: what pydantic raised.
        model: the settings class that was being read, to name the allowed keys.
        source: the file (or argument) that the settings came from.
    """
    first, *others = error.errors(include_url=False)
    location = tuple(step for step in first["loc"])
    key = ".".join(str(step) for step in location if step not in ("counts", "images", "features"))
    if first["type"] == "extra_forbidden":
        allowed = _allowed_keys(model, location)
        near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        said = f"unknown key; {hint}allowed: {', '.join(allowed)}"
    elif first["type"] == "missing":
        said = "this key is required"
    elif first["type"] == "union_tag_invalid":
        key, said = f"{key}.kind", f"{first['ctx']['tag']!r} is not allowed; allowed: {first['ctx']['expected_tags']}"
    else:
        value = first.get("input")
        shown = f"{value!r} is not allowed: " if isinstance(value, (str, int, float, bool, type(None))) else ""
        said = shown + first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    more = f" (and {len(others)} more)" if others else ""
    return ": ".join(part for part in (source, key, said + more) if part).replace("\n", " ")
