"""Scores of the factors that the seeds of a run agree on, of real data: what is known of them without a truth."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import ConditionSettings
from nvae_bio.evaluate.condition import gene_set_scores
from nvae_bio.factors.capacity import is_active

ONE_DONOR = 0.5  # one donor's alone is a factor of which it has more squares than all others together
LARGER = 3.0  # and each of its samples on average so many times as many


def is_of_one_donor(score: np.ndarray, donor: np.ndarray) -> bool:
    """Whether a score varies, or is high, in the samples of one donor alone.

    Of the squares of the score about the median of the other donors, a donor then has more than all others together,
    and its samples three times as many each.

    Args:
        score: of the samples of a class, (n,).
        donor: of the same, (n,).

    >>> donor = np.repeat(["a", "b", "c"], 2)
    >>> is_of_one_donor(np.array([0.0, 0, 0, 1, 3, 4]), donor), is_of_one_donor(np.array([0.0, 3, 0, 4, 3, 0]), donor)
    (True, False)
    """
    for name in np.unique(donor):
        own = donor == name
        squares = (score - np.median(score[~own])) ** 2 if not own.all() else np.zeros(len(score))
        mine, others = squares[own], squares[~own]
        if mine.sum() > ONE_DONOR * squares.sum() and mine.mean() >= LARGER * others.mean():
            return True
    return False


def condition_factor_scores(report: AnnData, settings: ConditionSettings | None) -> dict[str, float]:
    """The shared factor that goes along with a condition.

    Returns:
        condition_tagged: 1 where an active shared factor has the tag `condition`, else 0. Of the active shared factor
        with the strongest association with it: condition_effect (|eta|), condition_donor_p and condition_donors where
        it was tested over donors; and NAME_auroc and NAME_top20 of each gene set, its effect turned so that it rises
        with the treatment, where the levels are those of the settings. Without active shared factors the first alone.
    """
    active, table = is_active(report, "shared"), report.uns[schema.MODEL][schema.ASSOCIATIONS]
    scores = {"condition_tagged": float((report.obs["tag"][active] == "condition").any())}
    found = table[(table["role"] == "condition") & table["factor"].isin(report.obs_names[active])]
    if found.empty:
        return scores
    strongest = found.loc[found["effect"].abs().idxmax()]
    scores["condition_effect"] = float(abs(strongest["effect"]))
    if np.isfinite(strongest["donor_p"]):
        scores |= {"condition_donor_p": float(strongest["donor_p"]), "condition_donors": float(strongest["n_donors"])}
    levels = str(strongest["levels"]).split(" → ")
    if settings is None or set(levels) != {settings.control, settings.treated}:
        return scores
    sign = np.sign(strongest["effect"]) * (1 if levels[0] == settings.control else -1)
    effect = np.asarray(report[str(strongest["factor"])].X, dtype=float).ravel() * sign
    return scores | dict(gene_set_scores(effect, report.var_names.to_numpy(), settings.gene_sets))


def private_factor_scores(report: AnnData, samples: AnnData) -> dict[str, float]:
    """How many private factors are called, and how many of them are one donor's alone.

    Returns:
        private_factors: active ones. private_of_one_donor: those that are one donor's alone (`is_of_one_donor`), where
        donors are known.
    """
    rows = np.flatnonzero(is_active(report, "private"))
    scores = {"private_factors": float(len(rows))}
    if schema.DONOR in samples.obs:
        donor, found = samples.obs[schema.DONOR].astype(str).to_numpy(), []
        for row in rows:
            score = np.asarray(samples.obsm[schema.FACTORS][:, row], dtype=float)
            found.append(is_of_one_donor(score[np.isfinite(score)], donor[np.isfinite(score)]))
        scores["private_of_one_donor"] = float(sum(found))
    return scores


def real_scores(report: AnnData, samples: AnnData, condition: ConditionSettings | None) -> dict[str, float]:
    """All scores of a run on data of which the truth is not known.

    Args:
        report: consensus factors.
        samples: with their consensus scores.
        condition: what is known of a treatment, if its levels are these; None for nothing.
    """
    scores = {"shared_factors": float(is_active(report, "shared").sum())}
    if schema.CONDITION in samples.obs:
        scores |= condition_factor_scores(report, condition)
    return scores | private_factor_scores(report, samples)
