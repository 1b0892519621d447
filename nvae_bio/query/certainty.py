"""How sure a class is, and how strange a sample: both held against reference samples that did not train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from nvae_bio.audit.suspects import adjusted_bound
from nvae_bio.query.distance import Distances
from nvae_bio.query.score import Scores

RIDGE = 1e-3  # on the intercepts of classes, squared, a reference sample
LEAST_OF_CLASS = 30  # reference samples of a class that have a line of their own


@dataclass(frozen=True)
class ClassPosterior:
    """p(y|x) ∝ exp(a · log q(y|x) + b · bound on log p(x|y) + c_y), fitted to reference samples.

    The classifier and the decoder err apart: one looks at what tells classes from each other, the other at all of a
    sample. With b = 0 and c = 0 this is temperature scaling of the classifier (Guo et al. 2017, arXiv:1706.04599).

    Attributes:
        of_classifier: a, 0 or above.
        of_bound: b, 0 or above; 0 where the decoder sees no class.
        intercept: c, (C,).
    """

    of_classifier: float
    of_bound: float
    intercept: np.ndarray

    @classmethod
    def fit(cls, scores: Scores, label: np.ndarray) -> ClassPosterior:
        """By the least cross-entropy; the intercepts are held near 0, and that of a class without samples at it.

        Args:
            scores: of the reference samples.
            label: index of the class of each, (n,).
        """
        n_classes, rows = scores.class_log_prob.shape[1], np.arange(len(label))
        has_bound = scores.bound.shape[1] > 1
        features = [scores.class_log_prob, scores.bound - scores.bound.max(1, keepdims=True) if has_bound else None]
        there = np.bincount(label, minlength=n_classes) > 0
        hot = np.zeros((len(label), n_classes))
        hot[rows, label] = 1

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            slopes, intercept = np.exp(values[:2]), values[2:] * there
            logits = slopes[0] * features[0] + intercept
            if features[1] is not None:
                logits = logits + slopes[1] * features[1]
            log_prob = log_softmax(logits, axis=1)
            residual = (np.exp(log_prob) - hot) / len(label)
            of_slopes = [
                0.0 if one is None else float((residual * one).sum()) * slope
                for one, slope in zip(features, slopes, strict=True)
            ]
            gradient = np.concatenate([of_slopes, residual.sum(0) * there + 2 * RIDGE * intercept])
            return float(-log_prob[rows, label].mean() + RIDGE * (intercept**2).sum()), gradient

        start = np.concatenate([[-1.0, -3.0], np.zeros(n_classes)])
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-8, 2)] * 2 + [(None, None)] * n_classes).x
        return cls(float(np.exp(found[0])), float(np.exp(found[1])) if has_bound else 0.0, found[2:] * there)

    def log_prob(self, scores: Scores) -> np.ndarray:
        """log p(y|x) of each class, (n, C)."""
        logits = self.of_classifier * scores.class_log_prob + self.intercept
        if scores.bound.shape[1] > 1:
            logits = logits + self.of_bound * (scores.bound - scores.bound.max(1, keepdims=True))
        return np.asarray(log_softmax(logits, axis=1))


def conformal_p(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(1 + reference values at least as large) / (1 + reference values), (n,): a p-value for samples like those.

    Vovk et al. 2005, doi:10.1007/b106715.

    >>> conformal_p(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 9.0])).tolist()
    [1.0, 0.75, 0.25]
    """
    larger = len(known) - np.searchsorted(np.sort(known), asked, side="left")
    return np.asarray((1 + larger) / (1 + len(known)))


def class_p(known: np.ndarray, label: np.ndarray, asked: np.ndarray, error: float) -> np.ndarray:
    """Of each sample and class, the share of the class's reference samples that are no likelier to be of it, (n, C).

    A set of all classes above `error` misses the class of at most that share of samples, class by class (conformal
    prediction, conditional on the label: Vovk et al. 2005, doi:10.1007/b106715, section 4.5). A class of so few
    reference samples that no sample could be kept out of it is compared with all reference samples.

    Args:
        known: probability of each class for reference samples, (m, C).
        label: their class, (m,).
        asked: the same for others, (n, C).
        error: share of samples.
    """
    strange, found = 1 - known[np.arange(len(label)), label], np.empty_like(asked)
    for y in range(asked.shape[1]):
        own = strange[label == y]
        found[:, y] = conformal_p(own if len(own) + 1 >= 1 / error else strange, 1 - asked[:, y])
    return found


class Strangeness(NamedTuple):
    """Ways for a sample to be strange, each larger the stranger, (n,).

    Attributes:
        misfit: the bound of the likeliest class is low for a sample of that class and depth, standard deviations.
        distance: from the nearest class, with its like, as in `Distances`.
        isolation: from all training samples, with its like, as in `Distances`.
    """

    misfit: np.ndarray
    distance: np.ndarray
    isolation: np.ndarray

    @classmethod
    def of(
        cls, asked: Scores, likeliest: np.ndarray, known: Scores, label: np.ndarray, distances: Distances
    ) -> Strangeness:
        """Of samples, each under its likeliest class.

        Args:
            asked: scores of the samples.
            likeliest: their likeliest classes, (n,).
            known: scores of the reference samples.
            label: their classes, (m,).
            distances: of the samples.
        """
        misfit = np.empty(len(likeliest))
        for y in np.unique(likeliest):
            own = label == y
            own = own if own.sum() >= LEAST_OF_CLASS else np.ones(len(label), dtype=bool)
            misfit[likeliest == y] = _misfit(asked, likeliest == y, known, own, label, int(y))
        return cls(misfit, *distances)

    def p_values(self, known: Strangeness) -> np.ndarray:
        """Of each way, (n, ways), among the reference samples."""
        return np.stack([conformal_p(one, of) for one, of in zip(known, self, strict=True)], axis=1)


def _misfit(asked: Scores, rows: np.ndarray, known: Scores, own: np.ndarray, label: np.ndarray, y: int) -> np.ndarray:
    """How far below its class's line in depth the bound of each sample lies, in standard deviations about the line."""
    column = np.minimum(label[own], known.bound.shape[1] - 1)
    of_known = known.bound[own, column]
    of_asked = asked.bound[rows, min(y, asked.bound.shape[1] - 1)]
    bound, is_known = np.concatenate([of_known, of_asked]), np.arange(len(of_known) + len(of_asked)) < len(of_known)
    depth = None
    if known.log_library is not None and asked.log_library is not None:
        depth = np.concatenate([known.log_library[own], asked.log_library[rows]])
    adjusted = adjusted_bound(bound, depth, is_known)
    of_known = adjusted[is_known]
    return np.asarray((np.median(of_known) - adjusted[~is_known]) / max(float(of_known.std()), 1e-12))


def novelty(asked: Strangeness, known: Strangeness) -> tuple[np.ndarray, np.ndarray]:
    """How strange samples are, all ways together, and the share of reference samples as strange, (n,) each.

    The p-values of all ways go together by Fisher's sum of −log p; as they depend on each other, it is held against the
    sums of the reference samples themselves.

    Args:
        asked: of the samples.
        known: of the reference samples.
    """
    n = len(known.misfit)
    own = (known.p_values(known) * (n + 1) - 1) / n  # a reference sample is no reference of itself
    sums, of_known = -np.log(asked.p_values(known)).sum(1), -np.log(own).sum(1)
    return sums, conformal_p(of_known, sums)
