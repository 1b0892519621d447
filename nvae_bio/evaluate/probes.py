"""How much of the class can be read off an embedding."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from nvae_bio.factors.probes import ProbeName, make_probe

SCORES: dict[str, ProbeName] = {"leakage_linear": "linear", "leakage_knn": "neighbours"}


def leakage(embedding: np.ndarray, label: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Balanced accuracy of fresh probes of the class, fitted on training samples and scored on held-out ones.

    Dims are standardised on the training samples. The probes: a logistic regression (L2, C = 1), and a vote of the 15
    nearest training samples.

    Args:
        embedding: (n, d).
        label: class of each sample, (n,).
        train, test: rows to fit on and rows to score, (n,), bool.

    Returns:
        leakage_linear, leakage_knn, and leakage_chance: one over the number of classes.
    """
    scores = {"leakage_chance": 1 / len(set(label[train]))}
    for score, name in SCORES.items():
        fitted = make_probe(name, int(train.sum())).fit(embedding[train], label[train])
        scores[score] = float(balanced_accuracy_score(label[test], fitted.predict(embedding[test])))
    return scores
