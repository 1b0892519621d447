"""What a page is made of, and whether all of it is of one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.card import ModelCard
from nvae_bio.errors import UserError, listed
from nvae_bio.plot.panels import check_report, classes_of, scores_of

GENERATED = ("samples", "traversals", "interpolations", "swaps")
TABLES = (schema.MEMBERS, schema.ASSOCIATIONS, schema.LEAKAGE, schema.CAPACITY)


@dataclass(frozen=True)
class RunResults:
    """All that a page tells of a run.

    Attributes:
        prepared: the data set, as `prepare_data` gives it.
        factors: what the seeds agree on, as `report_factors` gives it (`.factors`).
        scores: the samples with their consensus scores (`.embedded` of the same).
        embedded: the samples as one seed embeds them; its own blocks are shown.
        cards: of the models, a seed each.
        histories: of their trainings, in the same order.
        evaluation: scores of the run, as `scores.csv` has them; None where it was not evaluated.
        generated: of images, what one seed draws: samples, traversals, interpolations and swaps, any of them.
    """

    prepared: AnnData
    factors: AnnData
    scores: AnnData
    embedded: AnnData
    cards: Sequence[ModelCard]
    histories: Sequence[pd.DataFrame]
    evaluation: pd.DataFrame | None = None
    generated: Mapping[str, AnnData] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Of the data: counts, images or features."""
        return str(self.factors.uns[schema.MODEL]["kind"])

    @property
    def variant(self) -> str:
        """Of the model."""
        return str(self.factors.uns[schema.MODEL]["variant"])

    @property
    def seed(self) -> int:
        """The seed whose embedding is shown."""
        return int(self.embedded.uns[schema.MODEL]["seed"])

    @property
    def classes(self) -> list[str]:
        """Names, in the order of all that is told by class."""
        return classes_of(self.factors)


def check_results(results: RunResults) -> None:
    """Refuse results that are not all of one run.

    Raises:
        UserError: one of them is of other data, classes, seeds, factors or settings, or lacks what a page tells.
    """
    check_report(results.factors)
    model = results.factors.uns[schema.MODEL]
    missing = [key for key in (*TABLES, "report", "settings", "notes", "seeds") if key not in model]
    if missing:
        raise UserError(f"page: the factor report has no uns[{schema.MODEL!r}][{missing[0]!r}]; make it again")
    _check_data(results)
    _check_models(results, [int(seed) for seed in np.ravel(model["seeds"])])
    for name, adata in results.generated.items():
        _check_generated(results, name, adata)
    if results.evaluation is not None:
        seeds, known = set(results.evaluation["seed"].astype(int)), {card.seed for card in results.cards}
        if not seeds <= known:
            raise UserError(
                f"page: the scores are of seeds {listed(sorted(seeds))}; allowed: {listed(sorted(known))}, the run's"
            )


def _check_data(results: RunResults) -> None:
    """The same samples everywhere."""
    wanted = str(results.factors.uns[schema.MODEL]["fingerprint"])
    found = {
        "prepared data": results.prepared.uns[schema.DATA],
        "samples with scores": results.scores.uns[schema.MODEL],
        "embedded samples": results.embedded.uns[schema.MODEL],
    }
    for what, uns in found.items():
        if str(uns.get("fingerprint")) != wanted:
            raise _of_another(what, "data", str(uns.get("fingerprint"))[:12], wanted[:12])
    for what, adata in (("samples with scores", results.scores), ("embedded samples", results.embedded)):
        if not adata.obs_names.equals(results.prepared.obs_names):
            raise UserError(f"page: the {what} are not those of the prepared data; give files of one run")
    factors = [str(name) for name in results.scores.uns[schema.MODEL].get(schema.FACTOR_NAMES, [])]
    scores_of(results.factors, results.scores)
    if sorted(factors) != sorted(map(str, results.factors.obs_names)):
        raise _of_another("samples with scores", "factors", listed(factors, 3), listed(results.factors.obs_names, 3))


def _check_models(results: RunResults, seeds: list[int]) -> None:
    """The models that the report is about, each with its history."""
    model = results.factors.uns[schema.MODEL]
    if len(results.histories) != len(results.cards):
        raise UserError(f"page: {len(results.cards)} cards and {len(results.histories)} histories; one of each a seed")
    if sorted(card.seed for card in results.cards) != sorted(seeds):
        raise _of_another("cards", "seeds", listed(card.seed for card in results.cards), listed(seeds))
    if results.seed not in seeds:
        raise _of_another("embedded samples", "seed", str(results.seed), listed(seeds))
    settings = json.loads(str(model["settings"]))["model"]
    for card, history in zip(results.cards, results.histories, strict=True):
        where = f"card of seed {card.seed}"
        if card.fingerprint != str(model["fingerprint"]):
            raise _of_another(where, "data", card.fingerprint[:12], str(model["fingerprint"])[:12])
        own = card.settings.model.model_dump(mode="json")
        differing = [key for key, value in own.items() if key in settings and settings[key] != value]
        if differing:
            key = differing[0]
            raise _of_another(where, f"model.{key}", str(own[key]), str(settings[key]))
        lacking = [key for key in ("epoch", "split", "is_best", "kl_weight", "elbo") if key not in history]
        if lacking:
            raise UserError(f"page: the history of seed {card.seed} has no column {lacking[0]!r}")
        kept = history.loc[history["is_best"].astype(bool), "epoch"]
        if kept.empty or int(kept.iloc[-1]) != card.best_epoch:
            said = "no epoch" if kept.empty else f"epoch {int(kept.iloc[-1])}"
            raise _of_another(f"history of seed {card.seed}", "kept epoch", said, f"epoch {card.best_epoch}")


def _check_generated(results: RunResults, name: str, adata: AnnData) -> None:
    """What a model of the run drew."""
    if name not in GENERATED:
        raise UserError(f"page: {name!r} is nothing that is drawn; allowed: {', '.join(GENERATED)}")
    uns = adata.uns[schema.MODEL]
    if int(uns["seed"]) not in {card.seed for card in results.cards}:
        raise _of_another(name, "seed", str(uns["seed"]), listed(card.seed for card in results.cards))
    classes = [str(label) for label in uns["classes"]]
    if classes != results.classes:
        raise _of_another(name, "classes", listed(classes, 5), listed(results.classes, 5))
    if not adata.var_names.equals(results.factors.var_names):
        raise UserError(f"page: the {name} have other features than the factor report; give files of one run")


def _of_another(what: str, key: str, found: str, wanted: str) -> UserError:
    return UserError(f"page: {what}: {key} {found}; allowed: {wanted}, as in the factor report; give files of one run")
