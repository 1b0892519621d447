"""How far the probabilities of the classifier can be believed, and the temperature that makes them so."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from nvae_bio.card import Calibration

N_BINS = 15
TEMPERATURES = (0.05, 100.0)  # where the best one is looked for


def cross_entropy(log_prob: np.ndarray, label: np.ndarray) -> float:
    """Mean of −log q of the true class, in nats.

    Args:
        log_prob: log q(y|x), (n, C).
        label: index of the true class, (n,).
    """
    return float(-log_prob[np.arange(len(label)), label].mean())


def calibration_error(log_prob: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error: |accuracy − mean confidence| in 15 equal bins of the confidence, weighted by size.

    Guo et al. 2017, arXiv:1706.04599, eq. 3.

    Args:
        log_prob: log q(y|x), (n, C).
        label: index of the true class, (n,).
    """
    return binned_error(np.exp(log_prob.max(1)), log_prob.argmax(1) == label, N_BINS)


def binned_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int) -> float:
    """|share correct − mean confidence| in equal bins of the confidence, weighted by size.

    Args:
        confidence: probability of what is told, (n,).
        correct: whether that is right, (n,).
        n_bins: bins from 0 to 1.

    >>> binned_error(np.array([0.75] * 4), np.array([1, 1, 1, 0]), 10)
    0.0
    """
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def fit_temperature(log_prob: np.ndarray, label: np.ndarray) -> float:
    """T > 0 with the least cross-entropy of softmax(log q(y|x) / T) (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    1 where the class of every sample is the likeliest one: the cross-entropy then falls without end as T goes to 0.

    Args:
        log_prob: log q(y|x) of held-out samples, (n, C).
        label: index of the true class, (n,).
    """
    if (log_prob.argmax(1) == label).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        return cross_entropy(log_softmax(log_prob / math.exp(log_temperature), axis=1), label)

    low, high = map(math.log, TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x)


def calibrate(log_prob: np.ndarray, label: np.ndarray) -> Calibration:
    """The temperature of a classifier, and how it did on the same samples before and after.

    One temperature serves all classes, so one without samples here takes that of the others.

    Args:
        log_prob: log q(y|x) of the labelled validation samples, (n, C).
        label: index of the true class, (n,).
    """
    log_prob = log_prob.astype(np.float64)
    temperature = fit_temperature(log_prob, label)
    after = log_softmax(log_prob / temperature, axis=1)
    return Calibration(
        temperature=temperature,
        n=len(label),
        cross_entropy=cross_entropy(after, label),
        cross_entropy_before=cross_entropy(log_prob, label),
        calibration_error=calibration_error(after, label),
        calibration_error_before=calibration_error(log_prob, label),
    )
