"""How good ancestral samples are: where they lie beside real ones, kept classes, artificial data to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from nvae_bio.evaluate.classifiers import Judge
from nvae_bio.evaluate.subject import Subject

SPAN = 3.0  # standard deviations of the prior that a traversal goes to each side
N_STEPS = 7
N_NEIGHBORS = 5  # of precision, recall, density and coverage
N_COMPONENTS = 10  # of a mixture fitted to each class
PER_COMPONENT = 20  # samples, at least
Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # classes (n,) → latents (n, S + K)


def from_prior(n_latent: int, sigma: float = 1.0) -> Draw:
    """z ~ N(0, σ² I), whatever the class."""
    return lambda label, rng: sigma * rng.normal(size=(len(label), n_latent))


def from_mixture(z: np.ndarray, label: np.ndarray, seed: int) -> Draw:
    """z from a mixture of 10 Gaussians fitted to each class (fewer where it has few samples).

    Args:
        z: draws of the aggregate posterior, (n, S + K).
        label: class of each, (n,).
        seed: of the fits.

    Reference: the ex-post density of Ghosh et al. 2020, arXiv:1903.12436.
    """
    mixtures = {}
    for y in np.unique(label):
        own = z[label == y]
        n = max(min(N_COMPONENTS, len(own) // PER_COMPONENT), 1)
        mixtures[int(y)] = GaussianMixture(n, random_state=seed).fit(own)

    def draw(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        result = np.zeros((len(label), z.shape[1]))
        for y in np.unique(label):
            rows = np.flatnonzero(label == y)
            mixture = mixtures[int(y)]
            mixture.random_state = int(rng.integers(2**31))
            result[rows] = rng.permutation(mixture.sample(len(rows))[0])
        return result

    return draw


def classes_in_turn(subject: Subject, n: int) -> np.ndarray:
    """n labels: as many of each class that has training samples as of all others."""
    there = np.unique(subject.label[subject.rows("train", len(subject.label))])
    return np.asarray(there[np.arange(n) % len(there)])


def class_preserved(subject: Subject, judge: Judge, rows: np.ndarray) -> float:
    """Share of steps of shared traversals, ±3 SD from held-out samples, at which a classifier still sees the class.

    Args:
        subject: the model.
        judge: a classifier trained on real samples.
        rows: held-out samples; those whose own reconstruction is not told right do not count.

    Returns:
        NaN where none is told right, or without shared dims.
    """
    z, label = subject.latent(rows), subject.label[rows]
    right = judge(subject.made(z, label, 0)) == label
    z, label, kept = z[right], label[right], []
    if not right.any() or not subject.trained.network.n_shared:
        return float("nan")
    for dim in range(subject.trained.network.n_shared):
        for value in np.linspace(-SPAN, SPAN, N_STEPS):
            moved = z.copy()
            moved[:, dim] = value
            kept.append(judge(subject.made(moved, label, dim)) == label)
    return float(np.mean(kept))


def sample_scores(subject: Subject, judge: Judge, sigmas: Sequence[float], seed: int) -> dict[str, float]:
    """Ancestral samples beside held-out ones, one of its class for each.

    Neighbours are looked for among the first 30 principal components of training samples.

    Args:
        subject: the model.
        judge: a classifier trained on real samples.
        sigmas: scales of the prior noise.
        seed: of the draws.

    Returns:
        Of each σ: samples_told_σ (share whose class the judge sees; of a decoder that is told it), samples_distance_σ
        (mean distance to the nearest training sample, over that of held-out samples), precision_σ, recall_σ, density_σ
        and coverage_σ. Of σ = 1 with a mixture in place of the prior: the same with `_mixture`, and ex_post_gap, how
        much more coverage that has.
        class_preserved.
    """
    train, test = subject.rows("train", 5 * subject.max_samples), subject.rows("test")
    n_latent, label = subject.n_latent, subject.label[test]
    of_train, of_test = (subject.components.transform(subject.real(rows)) for rows in (train, test))
    nearest = NearestNeighbors(n_neighbors=1).fit(of_train)
    usual = float(nearest.kneighbors(of_test)[0].mean())
    draws = {f"{sigma:g}": from_prior(n_latent, sigma) for sigma in {*sigmas, 1.0}}
    noise = np.random.default_rng((seed, 11))
    draws["mixture"] = from_mixture(subject.latent(train, noise), subject.label[train], seed)
    scores, is_told = {}, subject.trained.network.uses_label
    for name, draw in draws.items():
        made = subject.made(draw(label, np.random.default_rng((seed, 12))), label, seed)
        placed = subject.components.transform(made)
        if is_told or name == "mixture":
            scores[f"samples_told_{name}"] = float((judge(made) == label).mean())
        scores[f"samples_distance_{name}"] = float(nearest.kneighbors(placed)[0].mean()) / usual
        scores |= {f"{metric}_{name}": value for metric, value in prdc(of_test, placed).items()}
    scores["ex_post_gap"] = scores["coverage_mixture"] - scores["coverage_1"]
    kept = class_preserved(subject, judge, test)
    return scores if np.isnan(kept) else scores | {"class_preserved": kept}


def prdc(real: np.ndarray, made: np.ndarray, k: int = N_NEIGHBORS) -> dict[str, float]:
    """Precision, recall, density and coverage of made samples beside real ones, by balls of k nearest neighbours.

    Args:
        real: features of held-out samples, (n, d).
        made: of artificial ones, (m, d).
        k: neighbours.

    Reference: Naeem et al. 2020, arXiv:2002.09797; Kynkäänniemi et al. 2019, arXiv:1904.06991.
    """
    radius_real, radius_made = (
        NearestNeighbors(n_neighbors=min(k + 1, len(part))).fit(part).kneighbors(part)[0][:, -1]
        for part in (real, made)
    )
    distance = np.sqrt(np.maximum((real**2).sum(1)[:, None] + (made**2).sum(1) - 2 * real @ made.T, 0))
    in_real = distance <= radius_real[:, None]
    return {
        "precision": float(in_real.any(0).mean()),
        "recall": float((distance <= radius_made).any(1).mean()),
        "density": float(in_real.sum(0).mean() / k),
        "coverage": float((distance.min(1) <= radius_real).mean()),
    }
