"""Errors that a user can mend, told in one line."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]


class UserError(Exception):
    """Bad input. The message is one line: the file, the key, the value, and what is allowed (exit code 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names of files, and values, may have line breaks


LONGEST = 150  # characters of a name in a message


def listed(names: Iterable[object], limit: int = 30) -> str:
    """Names for an error message, cut where there are too many to read, or one is too long.

    >>> listed(["a", "b", "c"], limit=2)
    'a, b, … (3 in all)'
    """
    shown = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in map(str, names)]
    return ", ".join(shown) if len(shown) <= limit else f"{', '.join(shown[:limit])}, … ({len(shown)} in all)"


class Interrupted(Exception):
    """A job was asked to stop and did; what it had done is saved (exit code 75: try again)."""


class WorkflowFailed(Exception):
    """The workflow ended with an error; the message is one line that names the log of the job.

    Attributes:
        code: the exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(" ".join(message.splitlines()))
        self.code = code


@contextmanager
def about(where: str) -> Iterator[None]:
    """Whatever is wrong within the block is so in `where`: its line begins with that."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint at the allowed name that looks most like `name`, or nothing.

    >>> nearest("sead", ["seed", "dataset"])
    "did you mean 'seed'? "
    """
    near = difflib.get_close_matches(name, list(allowed), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def one_line(error: ValidationError, model: Any, source: str) -> str:
    """A settings error as one line: where, which key, which value, what is allowed.

    Args:
        error: what pydantic raised.
        model: the type (a settings class, or a union of them) that was being read, to name the allowed keys.
        source: the file (or argument) that the settings came from.
    """
    found = [_explain(details, model) for details in error.errors(include_url=False)]
    first = found[0][0]
    first = next(
        (key for key, _, _ in found if key.startswith(f"{first}.")), first
    )  # a union's member that fits better
    value = next(value for key, value, _ in found if key == first)
    messages = dict.fromkeys(message for key, _, message in found if key == first)
    others = len({key for key, _, _ in found if not f"{first}.".startswith(f"{key}.")} - {""})
    more = f" (and {others} more)" if others else ""
    text = ": ".join(part for part in (source, first, value, " or ".join(messages) + more) if part)
    return " ".join(text.split())


def all_lines(error: ValidationError, model: Any, source: str) -> list[str]:
    """Every settings error as a line of its own, in the form of `one_line`."""
    lines: dict[str, str] = {}
    for details in error.errors(include_url=False):
        key, value, message = _explain(details, model)
        text = ": ".join(part for part in (source, key, value, message) if part)
        if key not in lines or not key:
            lines[key or message] = " ".join(text.split())
    deepest = {key for key in lines if not any(other.startswith(f"{key}.") for other in lines)}
    return [line for key, line in lines.items() if key in deepest]


def _explain(details: ErrorDetails, model: Any) -> tuple[str, str, str]:
    """The key, spelled as in the file; the value, where it tells more than the key; and what is allowed."""
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        steps, parent = _walk(model, details["loc"][:-1])
        name = str(details["loc"][-1])
        allowed = sorted({field for candidate in models_in(parent) for field in candidate.model_fields})
        return _join([*steps, name]), "", f"unknown key; {nearest(name, allowed)}allowed: {', '.join(allowed)}"
    steps, annotation = _walk(model, details["loc"])
    if kind == "missing":
        return _join(steps), "", "this key is required"
    if kind.startswith("union_tag_"):
        tags = ", ".join(map(repr, _tags(annotation)))
        given = f"{details['ctx']['tag']!r} is not allowed" if kind == "union_tag_invalid" else "this key is required"
        return _join([*steps, "kind"]), "", f"{given}; allowed: {tags}"
    message = details["msg"].replace("valid tuple", "valid list").replace(" after validation", "")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "should be a mapping of keys to values"
    message = re.sub(r"^(Value error, |(Input|String|List|Tuple|Dictionary) (?=should ))", "", message)
    if isinstance(value, dict) and value:  # the message tells which of its keys
        return _join(steps), "", message
    shown = "null" if value is None else textwrap.shorten(repr(value), 80)
    return _join(steps), f"{shown} is not allowed", message


def _join(steps: Iterable[int | str]) -> str:
    return ".".join(map(str, steps))


def _walk(annotation: Any, location: Location) -> tuple[list[int | str], Any]:
    """The steps of pydantic's location that stand in the file, and the type at its end.

    Pydantic also puts in the tag of a union's member (`counts`), or its type (`list[str]`), and `[key]` behind a key.
    """
    steps: list[int | str] = []
    for step in location:
        annotation = _bare(annotation)
        members = _members(annotation)
        if len(members) > 1:
            annotation = next((m for m in members if step in (_label(m), *_tags(m))), annotation)
            continue
        member = members[0]
        arguments = get_args(member)
        if step == "[key]":
            break
        steps.append(step)
        if isinstance(member, type) and issubclass(member, BaseModel):
            field = member.model_fields.get(str(step))
            annotation = field.annotation if field is not None else Any
        elif get_origin(member) is tuple and Ellipsis not in arguments and isinstance(step, int):
            annotation = arguments[step] if step < len(arguments) else Any
        else:
            annotation = next((a for a in reversed(arguments) if a is not Ellipsis), Any)
    return steps, annotation


def _bare(annotation: Any) -> Any:
    """A type without `Annotated` and `RootModel` around it, neither of which has a step of its own."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _bare(annotation.model_fields["root"].annotation)
    return annotation


def _members(annotation: Any) -> list[Any]:
    """The members of a union but None; any other type is its own only member."""
    if get_origin(annotation) in (Union, UnionType):
        return [member for member in get_args(annotation) if member is not type(None)]
    return [annotation]


def _label(annotation: Any) -> str:
    """What pydantic calls the member of a union that has no tag."""
    arguments = ",".join(_label(argument) for argument in get_args(annotation))
    name = getattr(get_origin(annotation) or annotation, "__name__", str(annotation))
    return f"{name}[{arguments}]" if arguments else name


def _tags(annotation: Any) -> list[str]:
    """The kinds that the settings classes in a type are for."""
    fields = [model.model_fields.get("kind") for model in models_in(annotation)]
    return [tag for field in fields if field is not None for tag in _literals(field.annotation)]


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """All settings models named in a type annotation, however nested."""
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]
