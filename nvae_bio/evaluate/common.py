"""Scores that need no truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.data.files import SCORE_COLUMNS
from nvae_bio.errors import UserError
from nvae_bio.evaluate.extra import scored_by
from nvae_bio.evaluate.probes import leakage

ACTIVE_UNIT = 0.01  # prior variances; Burda et al. 2016, arXiv:1509.00519, section 5.2


def score_table(scores: dict[int, dict[str, float]], dataset: str, variant: str, *, saw_labels: bool) -> pd.DataFrame:
    """Seed → metric → value as a long table.

    Args:
        scores: of each seed.
        dataset, variant: what it calls the data and the method.
        saw_labels: whether the method was told the classes of the samples that it was fitted on.

    Returns:
        dataset, variant, seed, metric, value, package, saw_labels.
    """
    rows = [
        (dataset, variant, seed, metric, value, scored_by(metric), saw_labels)
        for seed, found in scores.items()
        for metric, value in found.items()
    ]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def dense(adata: AnnData, rows: np.ndarray) -> np.ndarray:
    """Values of some samples, (rows, features), float32."""
    part = adata.X[rows]
    return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float32)


def labelled(embedded: AnnData, split: str) -> np.ndarray:
    """Which samples have a class and are in a part of the split, (n,), bool."""
    return np.asarray((embedded.obs[schema.SPLIT] == split) & embedded.obs[schema.LABEL].notna())


def of_seed(report: AnnData, seed: int) -> AnnData:
    """The factors of one seed of a report of seeds.

    Raises:
        UserError: a report of what seeds agree on.
    """
    if "seed" not in report.obs:
        raise UserError("evaluate: the report has no obs['seed']; allowed: the --seeds of `nvae-bio factors`")
    return report[(report.obs["seed"] == seed).to_numpy()]


def model_scores(embedded: AnnData, report: AnnData) -> dict[str, float]:
    """Scores of one seed that need no truth.

    Args:
        embedded: of the seed.
        report: the factors of the seed.

    Returns:
        elbo_test (nats; mean bound on log p(x|y) of held-out samples), kl_shared_share (of the KL of z_s and the own
        block, held out), active_units_shared (dims of z_s whose posterior mean has a variance above 0.01 over held-out
        samples), active_shared (shared dims called active; left out where none was tested), and of z_s leakage_linear,
        leakage_knn, leakage_chance. What a model without z_s cannot have is left out.
    """
    test = labelled(embedded, "test")
    scores = {"elbo_test": float(embedded.obs.loc[test, schema.ELBO].mean())}
    if schema.SHARED not in embedded.obsm:
        return scores
    kl_shared = float(embedded.obsm[schema.KL_SHARED][test].sum(1).mean())
    scores["kl_shared_share"] = kl_shared / (kl_shared + _own_kl(embedded, test))
    variance = embedded.obsm[schema.SHARED][test].var(axis=0)
    scores["active_units_shared"] = float((variance > ACTIVE_UNIT).sum())
    found = report.obs.loc[report.obs["kind"] == "shared", "outcome"]
    if not (found == "under-powered").all():
        scores["active_shared"] = float((found == "active").sum())
    label = embedded.obs[schema.LABEL].astype(str).to_numpy()
    return scores | leakage(embedded.obsm[schema.SHARED], label, labelled(embedded, "train"), test)


def block_kl(embedded: AnnData, rows: np.ndarray) -> np.ndarray:
    """KL of each private block of some samples, (rows, blocks), nats."""
    kl = np.asarray(embedded.obsm[schema.KL_PRIVATE])[rows]
    return np.asarray(kl.reshape(len(kl), -1, int(embedded.uns[schema.MODEL]["n_private"])).sum(2))


def _own_kl(embedded: AnnData, rows: np.ndarray) -> float:
    """Mean KL of the own block over some samples, nats; 0 without blocks."""
    if schema.KL_PRIVATE not in embedded.obsm:
        return 0.0
    classes, blocks = [str(name) for name in embedded.uns[schema.MODEL]["classes"]], block_kl(embedded, rows)
    label = embedded.obs.loc[rows, schema.LABEL].astype(str).map(classes.index).to_numpy(dtype=int)
    return float(blocks[np.arange(len(blocks)), label if blocks.shape[1] > 1 else 0].mean())
