"""Embeddings as features for a decision: small classifiers that can be read, on held-out samples."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from nvae_bio import schema
from nvae_bio.errors import UserError
from nvae_bio.train.calibration import binned_error

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # C of the L1 penalty, of which validation chooses
DEPTHS = (1, 2, 3)  # of a tree, likewise
MIN_LEAF = 20  # samples
N_BINS = 10  # of the expected calibration error
MAX_ITERATIONS = 2000


def calibration_error(probability: np.ndarray, is_right: np.ndarray) -> float:
    """Expected calibration error: mean |share right − confidence| over ten bins of confidence, weighted by size.

    Args:
        probability: of the class that is foretold, (n,).
        is_right: whether it is the true one, (n,).

    >>> calibration_error(np.array([0.75] * 4), np.array([1, 1, 1, 0]))
    0.0
    """
    return binned_error(probability, is_right, N_BINS)


def _candidates() -> dict[str, list[Pipeline]]:
    """Unfitted classifiers of each kind, the plainest first."""
    shared = {"l1_ratio": 1, "solver": "saga", "max_iter": MAX_ITERATIONS, "random_state": 0}
    linear = [LogisticRegression(C=c, **shared) for c in PENALTIES]
    trees = [DecisionTreeClassifier(max_depth=depth, min_samples_leaf=MIN_LEAF, random_state=0) for depth in DEPTHS]
    return {
        "linear": [make_pipeline(StandardScaler(), one) for one in linear],
        "tree": [make_pipeline(one) for one in trees],
    }


def _used(fitted: Pipeline) -> np.ndarray:
    """How much each dim counts, (d,): |weight| or impurity removed, as shares; 0 where it is not read."""
    last = fitted[-1]
    weight = np.abs(last.coef_).sum(0) if hasattr(last, "coef_") else last.feature_importances_
    return np.asarray(weight / max(weight.sum(), 1e-12))


def decision_scores(adata: AnnData, key: str, latents: dict[str, np.ndarray]) -> dict[str, float]:
    """A sparse logistic regression and a tree of depth 3 at most; validation samples choose penalty and depth.

    Args:
        adata: prepared samples; those without a value of the column are left out.
        key: column of obs with what is to be decided.
        latents: embeddings (n, d), by what is put behind the name of a metric.

    Returns:
        decision_accuracy_CLASSIFIER (balanced), decision_auroc_CLASSIFIER (of two values), decision_log_loss_CLASSIFIER
        (nats), decision_calibration_CLASSIFIER (expected calibration error), decision_dims_CLASSIFIER (number of dims
        that it reads) and decision_weight_CLASSIFIER[DIM] (their shares), of held-out samples.

    Raises:
        UserError: no such column, or fewer than two values among training or held-out samples.
    """
    if key not in adata.obs:
        raise UserError(f"evaluation.decision_key: {key!r} is no column of obs; allowed: {', '.join(adata.obs)}")
    known, value = adata.obs[key].notna().to_numpy(), adata.obs[key].astype(str).to_numpy()
    train, validation, test = (known & (adata.obs[schema.SPLIT] == part).to_numpy() for part in schema.SPLITS)
    for part, rows in (("train", train), ("test", test)):
        if len(there := np.unique(value[rows])) < 2:
            raise UserError(
                f"evaluation.decision_key: obs[{key!r}] has {len(there)} value in split {part!r}; allowed: 2 or more"
            )
    scores: dict[str, float] = {}
    for end, z in latents.items():
        for name, candidates in _candidates().items():
            fitted = [one.fit(z[train], value[train]) for one in candidates]
            losses = [
                log_loss(value[validation], one.predict_proba(z[validation]), labels=one.classes_) for one in fitted
            ]
            best = fitted[int(np.argmin(losses))]
            scores |= _scores_of(best, z[test], value[test], f"{name}{end}")
    return scores


def _scores_of(fitted: Pipeline, z: np.ndarray, value: np.ndarray, name: str) -> dict[str, float]:
    """All scores of one classifier on some samples."""
    probability, told, used = fitted.predict_proba(z), fitted.predict(z), _used(fitted)
    scores = {
        f"decision_accuracy_{name}": float(balanced_accuracy_score(value, told)),
        f"decision_log_loss_{name}": float(log_loss(value, probability, labels=fitted.classes_)),
        f"decision_calibration_{name}": calibration_error(probability.max(1), told == value),
        f"decision_dims_{name}": float((used > 0).sum()),
    }
    if len(fitted.classes_) == 2:
        scores[f"decision_auroc_{name}"] = float(roc_auc_score(value == fitted.classes_[1], probability[:, 1]))
    return scores | {f"decision_weight_{name}[{dim}]": float(share) for dim, share in enumerate(used) if share > 0}
