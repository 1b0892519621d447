"""Scores of latent dims against known factors: R², MIG, DCI and SAP.

The factors are numbers, so that each score is in its form for these (Locatello et al. 2019, arXiv:1811.12359, of whose
definitions ours differ where noted).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.metrics import mutual_info_score, r2_score

from nvae_bio.factors.probes import PROBES, make_probe

N_BINS = 20  # of a dim and a factor, for mutual information
N_TREES = 50
MAX_FITTED = 5000  # samples that trees are fitted to
SUFFIX = {"linear": "", "neighbours": "_knn"}


def r2_scores(z: np.ndarray, factors: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """R² of each factor read off z by fresh probes, on held-out samples.

    Args:
        z: posterior means, (n, d).
        factors: known numbers, (n, F); a sample that lacks one is left out.
        train, test: rows to fit on and rows to score, (n,), bool.

    Returns:
        r2_FACTOR (ridge regression) and r2_FACTOR_knn (mean of 15 neighbours).
    """
    scores = {}
    for name in factors:
        value = factors[name].to_numpy(float)
        fit, score = train & np.isfinite(value), test & np.isfinite(value)
        for probe in PROBES:
            fitted = make_probe(probe, int(fit.sum()), of_levels=False).fit(z[fit], value[fit])
            scores[f"r2_{name}{SUFFIX[probe]}"] = float(r2_score(value[score], fitted.predict(z[score])))
    return scores


def _bins(values: np.ndarray) -> np.ndarray:
    """Each column in 20 bins of like many samples."""
    edges = np.quantile(values, np.linspace(0, 1, N_BINS + 1)[1:-1], axis=0)
    return np.stack([np.searchsorted(edge, column) for edge, column in zip(edges.T, values.T, strict=True)], axis=1)


def mutual_information(z: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mutual information of each dim with each factor, (d, F), and the entropy of each factor, (F,); nats, in bins."""
    dims, known = _bins(z), _bins(factors)
    found = np.array([[mutual_info_score(dim, factor) for factor in known.T] for dim in dims.T])
    return found, np.array([mutual_info_score(factor, factor) for factor in known.T])


def _gap(values: np.ndarray) -> np.ndarray:
    """The largest less the second largest of each column; of one dim itself."""
    ranked = np.sort(values, axis=0)[::-1]
    return np.asarray(ranked[0] - (ranked[1] if len(ranked) > 1 else 0))


def mig(z: np.ndarray, factors: np.ndarray) -> float:
    """Mutual information gap: (I of the best dim − I of the second) / H of the factor, mean over factors; 0 to 1.

    Bins have like many samples and not like widths. Reference: Chen et al. 2018, arXiv:1802.04942.
    """
    information, entropy = mutual_information(z, factors)
    return float((_gap(information) / entropy).mean())


def sap(z: np.ndarray, factors: np.ndarray) -> float:
    """Separated attribute predictability: r² of the best single dim less that of the second, mean over factors; 0 to 1.

    Reference: Kumar et al. 2018, arXiv:1711.00848.
    """
    r = np.corrcoef(z, factors, rowvar=False)[: z.shape[1], z.shape[1] :]
    return float(_gap(np.nan_to_num(r) ** 2).mean())


def dci(z: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Disentanglement (does a dim hold one factor?) and completeness (is a factor in one dim?), each 0 to 1.

    From how much each dim matters to a forest of extremely randomised trees that predicts the factor (its authors take
    random forests). Reference: Eastwood & Williams 2018, openreview By-7dz-AZ.

    Returns:
        dci_disentanglement, dci_completeness.
    """
    rows = np.random.default_rng(seed).permutation(len(z))[:MAX_FITTED]
    columns = []
    for factor in factors.T:
        forest = ExtraTreesRegressor(N_TREES, min_samples_leaf=5, random_state=seed).fit(z[rows], factor[rows])
        columns.append(forest.feature_importances_)
    importance = np.stack(columns, axis=1)
    weight = importance.sum(1) / importance.sum()
    of_dims = 1 - _entropy(importance.T) / np.log(max(factors.shape[1], 2))
    of_factors = 1 - _entropy(importance) / np.log(max(z.shape[1], 2))
    return {
        "dci_disentanglement": float((weight * of_dims).sum()),
        "dci_completeness": float(of_factors.mean()),
    }


def _entropy(columns: np.ndarray) -> np.ndarray:
    """Entropy of each column, scaled to add up to 1; nats."""
    total = columns.sum(0)
    share = np.divide(columns, total, out=np.full_like(columns, 1 / len(columns)), where=total > 0)
    return np.asarray(-(share * np.log(np.maximum(share, 1e-12))).sum(0))


def factor_scores(z: np.ndarray, factors: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """All of them: R² by probes fitted on training samples; the others of held-out samples with all factors known."""
    scores = r2_scores(z, factors, train, test)
    known = test & np.isfinite(factors.to_numpy(float)).all(1)
    value = factors.to_numpy(float)[known]
    if value.shape[1] > 1 and len(value):
        scores |= {"mig": mig(z[known], value), "sap": sap(z[known], value)} | dci(z[known], value)
    return scores
