"""Whether the parts that a report is made of belong together: seeds of one run, their audits and plantings."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.audit.suspects import COLUMNS as AUDIT_COLUMNS
from nvae_bio.config import PowerSettings
from nvae_bio.errors import UserError, about
from nvae_bio.factors.usage import held_out_rows

SAME = ("fingerprint", "classes", "variant", "n_shared", "n_private")  # of the seeds of a run, in uns["nvae"]
PLANTED = (
    "run", "fold_change", "class", "own_block", "hidden", "r_block", "r_hidden", "n_genes", "mean_count",
)  # fmt: skip
SHOWN = 60  # characters of a value that a message shows


def check_seeds(embedded: Sequence[AnnData], names: Sequence[str] | None = None) -> None:
    """Refuse embedded data sets that are not seeds of one run, or in which a class cannot be judged.

    Args:
        embedded: one a seed.
        names: what a message calls each; None: their places.

    Raises:
        UserError: none given, other data, samples, features, classes or settings, a seed twice, or a class without
            held-out samples.
    """
    if not embedded:
        raise UserError("factors: at least one embedded data set is needed")
    names = [f"embedded data set {place}" for place in range(1, len(embedded) + 1)] if names is None else names
    first, numbers = embedded[0], [int(adata.uns[schema.MODEL]["seed"]) for adata in embedded]
    for adata, name in zip(embedded, names, strict=True):
        with about(name):
            _check_same(first, adata, names[0])
            held_out_rows(adata.obs, [str(label) for label in adata.uns[schema.MODEL]["classes"]])
    for place, number in enumerate(numbers):
        if number in numbers[:place]:
            raise UserError(
                f"{names[place]}: two of the embedded data sets have the same seed, {number}: "
                f"{names[numbers.index(number)]} is the other; give each seed of a run once"
            )


def _check_same(first: AnnData, other: AnnData, name: str) -> None:
    """Refuse what is not another seed of the run that `first`, called `name`, is of."""
    for key in SAME:
        here, there = (_plain(adata.uns[schema.MODEL].get(key)) for adata in (other, first))
        if here != there:
            raise UserError(
                f"the embedded data sets differ in uns['nvae'][{key!r}]: {_shown(here)} here, {_shown(there)} in "
                f"{name}; give seeds of one run"
            )
    if _model(first) != _model(other):
        raise UserError(
            f"the embedded data sets differ in the model's settings (uns['nvae']['settings']) from {name}; "
            "give seeds of one run"
        )
    for here, there, what in (
        (other.obs_names, first.obs_names, "samples"),
        (other.var_names, first.var_names, "features"),
    ):
        if not here.equals(there):
            raise UserError(f"other {what}, or in another order, than in {name}; give seeds of one run, as embedded")


def _plain(value: object) -> object:
    """Arrays as lists, so that they can be compared."""
    return value.tolist() if hasattr(value, "tolist") else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _model(embedded: AnnData) -> object:
    return json.loads(embedded.uns[schema.MODEL].get("settings", "{}")).get("model")


def check_audit(audit: pd.DataFrame, embedded: AnnData) -> None:
    """Refuse an audit that lacks a column, or is of other samples than the embedded data.

    Raises:
        UserError: it is such.
    """
    missing = [name for name in AUDIT_COLUMNS if name not in audit]
    if missing:
        raise UserError(f"no column {missing[0]!r}; allowed: an audit as `nvae-bio audit` writes it")
    if not audit.index.equals(embedded.obs_names):
        raise UserError("an audit is of other samples than the embedded data sets, or in another order; audit these")


def check_planted(planted: pd.DataFrame, power: PowerSettings, classes: Sequence[str]) -> None:
    """Refuse plantings that are there twice, in other classes than these, or without the reference.

    Args:
        planted: what `plant_and_find` returned, all runs together.
        power: what was planted.
        classes: names.

    Raises:
        UserError: they are such.
    """
    missing = [name for name in PLANTED if name not in planted]
    if missing:
        raise UserError(f"power: no column {missing[0]!r} in the plantings; allowed: tables of `nvae-bio power`")
    there = set(planted["class"].astype(int))
    if not there <= set(range(len(classes))):
        raise UserError(
            f"power: something was planted in class number {max(there, key=abs)} of {len(classes)} classes; plant with "
            "this model"
        )
    lacking = [name for place, name in enumerate(classes) if place not in there]
    if lacking:
        raise UserError(f"power: nothing was planted in class {lacking[0]!r}; plant with this model, in all classes")
    twice = planted[planted.duplicated(["run", "fold_change", "class"]).to_numpy()]
    if len(twice):
        raise UserError(f"power: planting {twice['run'].iloc[0]} is there twice; give each once")
    changes = sorted(set(planted["fold_change"]))
    if power.reference_fold_change not in changes:
        raise UserError(
            f"power: nothing was planted at the reference fold change {power.reference_fold_change:g}; allowed: "
            f"{', '.join(f'{value:g}' for value in changes)}"
        )
