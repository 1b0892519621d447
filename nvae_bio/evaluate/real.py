"""Scores of the factors that the seeds of a run agree on, of real data: what is known of them without a truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import ConditionSettings
from nvae_bio.evaluate.condition import gene_set_scores
from nvae_bio.factors.capacity import is_active

ONE_DONOR = 0.8  # share of a factor's squares within a class from which on it is one donor's alone


def donor_share(score: np.ndarray, donor: np.ndarray) -> float:
    """Of the squares of a score about its median, the largest share that one donor's samples have, 0 to 1.

    Args:
        score: of the samples of a class, (n,).
        donor: of the same, (n,).

    >>> donor_share(np.array([0.0, 0, 0, 0, 3, 4]), np.array(["a", "a", "b", "b", "c", "c"]))
    1.0
    """
    squares = pd.Series((score - np.median(score)) ** 2).groupby(np.asarray(donor)).sum()
    return float(squares.max() / max(squares.sum(), 1e-12))


def condition_factor_scores(report: AnnData, settings: ConditionSettings) -> dict[str, float]:
    """The shared factor that goes along with a condition.

    Returns:
        condition_tagged: 1 where an active shared factor has the tag `condition`, else 0; and of the active shared
        factor with the strongest association with it NAME_auroc and NAME_top20 of each gene set, its effect turned so
        that it rises with the treatment. Without active shared factors the first alone.
    """
    active, table = is_active(report, "shared"), report.uns[schema.MODEL][schema.ASSOCIATIONS]
    scores = {"condition_tagged": float((report.obs["tag"][active] == "condition").any())}
    found = table[(table["role"] == "condition") & table["factor"].isin(report.obs_names[active])]
    if found.empty:
        return scores
    strongest = found.loc[found["effect"].abs().idxmax()]
    first = str(strongest["levels"]).split(" → ")[0]
    sign = np.sign(strongest["effect"]) * (1 if first == settings.control else -1)
    effect = np.asarray(report[str(strongest["factor"])].X, dtype=float).ravel() * sign
    return scores | dict(gene_set_scores(effect, report.var_names.to_numpy(), settings.gene_sets))


def private_factor_scores(report: AnnData, samples: AnnData) -> dict[str, float]:
    """How many private factors are called, and how many of them are one donor's alone.

    Returns:
        private_factors: active ones. private_of_one_donor: those of which one donor has 80 % or more of the squares in
        the class (`donor_share`), where donors are known.
    """
    rows = np.flatnonzero(is_active(report, "private"))
    scores = {"private_factors": float(len(rows))}
    if schema.DONOR in samples.obs:
        donor, shares = samples.obs[schema.DONOR].astype(str).to_numpy(), []
        for row in rows:
            score = np.asarray(samples.obsm[schema.FACTORS][:, row], dtype=float)
            shares.append(donor_share(score[np.isfinite(score)], donor[np.isfinite(score)]))
        scores["private_of_one_donor"] = float(np.sum(np.array(shares) >= ONE_DONOR))
    return scores


def real_scores(report: AnnData, samples: AnnData, condition: ConditionSettings | None) -> dict[str, float]:
    """All scores of a run on data of which the truth is not known.

    Args:
        report: consensus factors.
        samples: with their consensus scores.
        condition: what is known of a treatment; None for nothing.
    """
    scores = {"shared_factors": float(is_active(report, "shared").sum())}
    if condition is not None and schema.CONDITION in samples.obs:
        scores |= condition_factor_scores(report, condition)
    return scores | private_factor_scores(report, samples)
