"""Latent dims and β_c for a re-run, from what the factor report says of this one (verb `suggest`)."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import yaml
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import EMPTY_NATS, FitSettings, ModelSettings, parse_settings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import read_report
from nvae_bio.errors import UserError, listed
from nvae_bio.factors.capacity import capacity, is_active, is_hidden, is_published
from nvae_bio.factors.reading import is_spilled

logger = logging.getLogger(__name__)

SPARE = 3  # dims of z_s above those in use, at least
SPARE_SHARE = 0.5  # the same as a share of those in use
LESS_BETA = 0.75  # β_c is multiplied by it
MIN_BETA = 0.5  # below, shared factors go into the blocks of all classes

Found = tuple[dict[str, int | float], list[str]]  # changes, and reasons


@dataclass(frozen=True)
class Suggestion:
    """What to change in `model` of a run.

    Attributes:
        changes: key of `ModelSettings` -> its new value; empty where nothing is to change.
        reasons: a sentence each; also what cannot be told.
    """

    changes: dict[str, int | float]
    reasons: list[str]


def suggest_settings(report: AnnData, where: str = "report") -> Suggestion:
    """S, K and β_c for a re-run.

    - S (`n_shared`) too small, by the readings of the factors: twice as many. The rest is left to the re-run, as blocks
      that hold a shared factor tell neither K nor β_c.
    - S larger than needed: 3, or half, more than the active shared factors, where all other dims are empty. Room in z_s
      is what lets a factor of one class hide there.
    - K (`n_private`): one more than the class with most private factors has, those in z_s among them. One dim is left
      over, so that a re-run shows whether there is one factor more. It is lowered only where no factor that could not
      be judged is in the way.
    - β_c (`beta_private`): where an active private factor lies in z_s in half of the seeds or more, and S stays as it
      is, three quarters of it, but not below 0.5.

    S and K so chosen stay as they are in a re-run that finds the same factors.

    Args:
        report: consensus factors of a run.
        where: what messages call it.

    Raises:
        UserError: no consensus report, or settings of another version.
    """
    model = _model_of(report, where)
    changes, reasons = _n_shared(report, model)
    is_raised = changes.get("n_shared", 0) > model.n_shared
    for found, why in (
        ({}, []) if is_raised else _n_private(report, model),
        _beta_private(report, model, is_moved="n_shared" in changes),
    ):
        changes, reasons = changes | found, reasons + why
    if not changes:
        reasons.append("nothing to change: n_shared, n_private and beta_private fit what was found")
    return Suggestion(changes, reasons)


def _model_of(report: AnnData, where: str) -> ModelSettings:
    known = report.uns[schema.MODEL]
    missing = [key for key in ("settings", "n_shared", "n_private", schema.MEMBERS) if key not in known]
    if missing:
        raise UserError(
            f"{where}: no uns['nvae'][{missing[0]!r}]; allowed: a consensus report, as `nvae-bio factors` writes it"
        )
    return parse_settings(json.loads(known["settings"]), FitSettings, f"{where}: uns['nvae']['settings']").model


def _n_shared(report: AnnData, model: ModelSettings) -> Found:
    """Twice S where it is too small, less where dims are empty."""
    n = model.n_shared
    if not n:
        return {}, []
    published = report.obs[report.obs["published"].to_numpy(bool)]
    if is_spilled(published).any():
        return {"n_shared": 2 * n}, [f"n_shared {n} -> {2 * n}: a shared factor lies in the blocks of most classes"]
    active = is_active(report, "shared")
    spare = report.obs[(report.obs["kind"] == "shared").to_numpy() & ~active]
    n_used = int(active.sum())
    enough = n_used + max(SPARE, math.ceil(SPARE_SHARE * n_used))
    if not n_used and (spare["outcome"] == "under-powered").any():
        return {}, ["n_shared: no shared factor could be judged, so that S cannot be; see n_refits of the report"]
    if enough >= n or (spare["kl"] >= EMPTY_NATS).any():
        return {}, []
    return {"n_shared": enough}, [
        f"n_shared {n} -> {enough}: {n_used} shared factors are active and the other dims are empty; a private factor "
        "may hide in the room"
    ]


def _n_private(report: AnnData, model: ModelSettings) -> Found:
    """One dim more than any class needs."""
    n = model.n_private
    if not n:
        return {}, []
    table = capacity(report)
    n_used = int(table["n_used"].max())
    enough = n_used + 1
    if enough > n:
        having = listed(table.loc[table["n_used"] == n_used, "class"], 5)
        why = f"private factors of {having}: {n_used}, and their blocks have no room to show another"
        return {"n_private": enough}, [f"n_private {n} -> {enough}: {why}"]
    unsure = is_published(report, "private") & (report.obs["outcome"] == "under-powered").to_numpy()
    unsure &= (report.obs["kl"] >= EMPTY_NATS).to_numpy()
    if enough == n:
        return {}, []
    if unsure.any():
        return {}, [f"n_private: {int(unsure.sum())} private factors could not be judged, so that K is not lowered"]
    return {"n_private": enough}, [f"n_private {n} -> {enough}: private factors of a class: {n_used} at most"]


def _beta_private(report: AnnData, model: ModelSettings, *, is_moved: bool) -> Found:
    """Less where private factors lie in z_s, and S does not change."""
    hidden = report.obs_names[is_active(report, "private") & is_hidden(report)]
    if hidden.empty or not (model.n_shared and model.n_private):
        return {}, []
    what = f"{', '.join(hidden)}: private to a class but in z_s in half of the seeds or more"
    beta = model.beta_private
    less = max(MIN_BETA, round(LESS_BETA * beta, 4))
    if is_moved:
        return {}, [f"beta_private stays {beta:g}, as n_shared changes first; {what}"]
    if less >= beta:
        return {}, [f"beta_private stays {beta:g}: with less, shared factors go into the blocks; {what}"]
    return {"beta_private": less}, [f"beta_private {beta:g} -> {less:g}: {what}"]


def suggested_yaml(suggestion: Suggestion, model: ModelSettings) -> str:
    """The section `model` of a run with what is to change in it, and the reasons as comments before it.

    It has the keys of `model` that differ from the defaults, and those that change.

    >>> print(suggested_yaml(Suggestion({"n_private": 2}, ["class a uses all"]), ModelSettings(n_shared=8)), end="")
    # class a uses all
    model:
      n_shared: 8
      n_private: 2
    """
    changed = ModelSettings.model_validate(model.model_dump() | suggestion.changes).model_dump(mode="json")
    kept = set(model.model_dump(exclude_defaults=True)) | set(suggestion.changes)
    values = {key: value for key, value in changed.items() if key in kept}
    comments = "".join(f"# {' '.join(reason.split())}\n" for reason in suggestion.reasons)
    return comments + yaml.safe_dump({"model": values}, sort_keys=False, allow_unicode=True, width=120)


def suggest(report: Path, output: Path | None = None) -> str:
    """Read a factor report; the section `model` for a re-run as YAML, also written where `output` is given.

    The text stands below the name of a run in a config (`runs.NAME`), and is settings of `nvae-bio train`.

    Raises:
        UserError: a file that is no consensus report.
    """
    read = read_report(report)
    suggestion = suggest_settings(read, str(report))
    text = suggested_yaml(suggestion, _model_of(read, str(report)))
    if output is not None:
        with atomic_path(output) as part:
            part.write_text(text, encoding="utf-8")
    logger.info("%d changes: %s", len(suggestion.changes), "; ".join(suggestion.reasons))
    return text
