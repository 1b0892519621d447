"""How much of the class can be read off an embedding."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

N_NEIGHBORS = 15
MAX_ITERATIONS = 1000


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
    probes = {
        "leakage_linear": LogisticRegression(max_iter=MAX_ITERATIONS),
        "leakage_knn": KNeighborsClassifier(min(N_NEIGHBORS, int(train.sum()))),
    }
    scores = {"leakage_chance": 1 / len(set(label[train]))}
    for name, probe in probes.items():
        fitted = make_pipeline(StandardScaler(), probe).fit(embedding[train], label[train])
        scores[name] = float(balanced_accuracy_score(label[test], fitted.predict(embedding[test])))
    return scores
