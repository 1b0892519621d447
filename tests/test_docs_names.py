"""The pages of the model name code, settings and keys: each of these names exists, and what is public is on a page."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

from nvae_bio import config
from nvae_bio.config import ModelSettings, RunSettings
from nvae_bio.config.models import LIKELIHOODS, Independence, LikelihoodName, Variant
from nvae_bio.config.reports import NullKind
from nvae_bio.model import CovariateForm, build_nvae, decoders
from nvae_bio.model.independence import PENALTIES
from nvae_bio.model.likelihoods import LIKELIHOOD_CLASSES

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("model", "likelihoods", "detector")}
WHOLE = "\n".join(PAGES.values())
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "nvae_bio").rglob("*.py")))
FILES = ("embedded.h5ad", "model.json")  # that a run writes
SENTENCES = (  # of readings, with the numbers of an example
    "shared: blocks of 4 classes have like effects; S is too small",
    "private to b",
    "private to a, b, with like effects",
    "hidden in z_s: private to b",
    "used by 3 of 4 classes",
)
PLAIN = ("x", "network.state_dict()", "images_rot17")  # arguments, torch's method, a row of a study


def spans(text: str) -> list[str]:
    """What stands between backticks, outside of equations; a line break in it is a space."""
    text = re.sub(r"^\$\$$.*?^\$\$$", "", text, flags=re.DOTALL | re.MULTILINE)
    return sorted({" ".join(span.replace("\\|", "|").split()) for span in re.findall(r"`([^`]+)`", text)})


@cache
def settings_classes() -> tuple[type[BaseModel], ...]:
    """All models of settings."""

    def below(one: type[BaseModel]) -> set[type[BaseModel]]:
        return {one}.union(*(below(child) for child in one.__subclasses__()))

    importlib.import_module("nvae_bio.config.workflow")
    return tuple(below(config.base.Settings))


@cache
def weights() -> frozenset[str]:
    """Names of the weights of networks of all forms."""
    names: set[str] = set()
    for likelihood, decoder in (
        ("negative_binomial", "linear"),
        ("gaussian", "network"),
        ("discretized_logistic", None),
    ):
        settings = ModelSettings(decoder=decoder, hidden=(4,))
        network = build_nvae(settings, likelihood, 6, 2, covariates=CovariateForm([[0.5, 0.5]], 1))
        names |= set(network.state_dict())
    return frozenset(names)


def resolve(name: str) -> Any:
    """The module, function, class, method or field of a dotted name.

    Raises:
        AttributeError: there is none.
    """
    parts, found = name.split("."), None
    for place in range(len(parts), 0, -1):  # a step and its module may have one name: modules first
        try:
            found = importlib.import_module(".".join(parts[:place]))
            break
        except ModuleNotFoundError:
            continue
    for part in parts[place:]:
        fields = {key for one in getattr(found, "__mro__", ()) for key in vars(one).get("__annotations__", {})}
        found = None if part in fields else getattr(found, part)
    return found


def is_key_of_run(name: str) -> bool:
    """Whether it is a key of a run, dots between sections; NAME stands for a name of one's own."""
    at: Any = RunSettings
    for part in name.split("."):
        if part == "NAME":
            continue
        found = [one.model_fields[part].annotation for one in _models_in(at) if part in one.model_fields]
        if not found:
            return False
        at = found[0]
    return True


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def is_setting(span: str) -> bool:
    """Whether it is `key: value` with a value that such a key allows, or the name of a key, or a value of a choice."""
    key, _, value = span.partition(": ")
    fields = [one.model_fields[key] for one in settings_classes() if key in one.model_fields]
    if value:
        return any(_allows(field.annotation, yaml.safe_load(value)) for field in fields)
    choices = {
        str(value)
        for one in settings_classes()
        for field in one.model_fields.values()
        for value in _choices(field.annotation)
    }
    return bool(fields) or span in choices or span in get_args(NullKind)


def _allows(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def _choices(annotation: Any) -> list[Any]:
    parts = get_args(annotation)
    return [value for part in parts for value in ([part] if isinstance(part, str) else _choices(part))]


def is_known(span: str) -> bool:
    """Whether what stands between backticks is there."""
    if span in (*FILES, *SENTENCES, *PLAIN):
        return True
    if re.fullmatch(r"nvae_bio(\.\w+)*", span):
        try:
            resolve(span)
        except AttributeError:
            return False
        return True
    if "/" in span:
        return (ROOT / span).exists()
    if keys := re.findall(r'\["(\w+)"\]', span):
        return all(f'"{key}"' in CODE for key in keys)
    if re.fullmatch(r"[\w-]+", span) and f'"{span}"' in CODE:  # a column, an outcome
        return True
    return span in weights() or is_key_of_run(span) or is_setting(span)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_exists(page: str) -> None:
    assert [span for span in spans(PAGES[page]) if not is_known(span)] == []


def test_names_that_do_not_exist_are_noticed() -> None:
    wrong = [
        "nvae_bio.model.nope", "nvae_bio.model.ElboTerms.nope", "nvae_bio.nope.Nope", "nvae_bio/model/nope.py",
        "model.nope", "decoder.composition.nope", "independence: nope", "nope", 'obsm["nope_nope"]', "report.nope",
    ]  # fmt: skip
    assert [span for span in wrong if is_known(span)] == []
    right = [
        "nvae_bio.model.ElboTerms.kl_own",
        "nvae_bio.model.DiagonalGaussian.mean",
        "queries.NAME.error",
        "rotation: varimax",
    ]
    assert all(map(is_known, right))


def test_names_that_need_no_proof_are_on_a_page() -> None:
    assert set(FILES + SENTENCES + PLAIN) <= set(spans(WHOLE))


def test_each_equation_is_followed_by_its_code() -> None:
    for page, text in PAGES.items():
        parts = re.split(r"^\$\$$", text, flags=re.MULTILINE)
        assert len(parts) % 2 == 1, f"{page}: an equation does not end"
        for place in range(1, len(parts), 2):
            after = "".join(parts[place + 1 :: 2])
            near = after.split("\n#")[0]
            assert "`nvae_bio." in near, f"{page}: no code after {parts[place]}"


def test_all_that_is_public_is_on_a_page() -> None:
    said = set(spans(WHOLE))
    choices = [*get_args(LikelihoodName), *get_args(Variant), *get_args(Independence), *get_args(NullKind)]
    private_kl = get_args(ModelSettings.model_fields["private_kl"].annotation)
    assert [name for name in (*choices, *private_kl) if name not in said] == []
    assert {name for names in LIKELIHOODS.values() for name in names} == set(get_args(LikelihoodName))
    for kind in ("linear", "network"):
        assert f"decoder: {kind}" in said
    classes = [
        f"nvae_bio.model.decoders.{name}"
        for name, one in vars(decoders).items()
        if inspect.isclass(one) and issubclass(one, nn.Module) and one.__module__ == decoders.__name__
    ]
    classes += [f"nvae_bio.model.{one.__name__}" for one in LIKELIHOOD_CLASSES.values()]
    functions = [f"nvae_bio.model.independence.{name}" for name in PENALTIES]
    assert [name for name in (*classes, *functions) if name not in said] == []
