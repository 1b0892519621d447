"""How far samples lie from those that trained, each taken together with its like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from nvae_bio.query.read import Query
from nvae_bio.trained import TrainedModel

N_COMPONENTS = 30  # of the inputs of training samples, in which distances are taken
N_OWN_COMPONENTS = 20  # of a set's own inputs, in which the like of its samples are sought
TOGETHER = (15, 7, 3, 1)  # samples that are taken together: the most of these that there are
N_NEAREST = 15  # the training sample that says how isolated a place is
MAX_VALUES = 50_000_000  # of inputs at a time
MAX_SOUGHT = 20_000  # samples among which the like of one are sought
LEAST_STD = 0.1  # of a feature, by the largest: one that hardly varies is not blown up
MOST = 0.99  # quantile of squared distances, above which one counts as much and no more
TINY = 1e-12


class Distances(NamedTuple):
    """Logs of distances of samples, in standard deviations about those of the reference samples, (n,).

    Attributes:
        distance: to the nearest mean of a class (Mahalanobis; Lee et al. 2018, arXiv:1807.03888, eq. 2).
        isolation: to the fifteenth nearest training sample (Sun et al. 2022, arXiv:2204.06507).
    """

    distance: np.ndarray
    isolation: np.ndarray


@dataclass(frozen=True)
class Classed:
    """Samples with a class each, their own or the likeliest.

    Attributes:
        query: the samples.
        label: index of the class, (n,).
    """

    query: Query
    label: np.ndarray


def training_distances(
    trained: TrainedModel, train: Classed, known: Classed, asked: Classed, adapted: np.ndarray | None = None
) -> tuple[Distances, Distances]:
    """How far reference samples and others lie from the training samples.

    A sample's like are the nearest samples of its own set and class. Each is replaced by the mean of itself and its
    like: what is small but there in all of them then shows, while most of the distance of one cell is counting noise.
    Where there are fewer than fifteen of a class among the others, fewer are taken together, and in the other two sets
    as well. All lie in the principal components of the standardised inputs of the training samples; what counting noise
    adds to a distance is divided out.

    Args:
        trained: the model, whose encoder reads the inputs.
        train: training samples.
        known: reference samples, each with the class that it would be given.
        asked: the others, likewise.
        adapted: which others are of batches that the model was adapted to, (n,), bool: what they differ by in most
            classes is taken off.

    Returns:
        Of the reference samples, and of the others.
    """
    rates = [_Rates(one.query, trained) for one in (train, known, asked)]
    space = _Space(rates[0].some())
    sets = [_Gathered(of, one.label, space) for of, one in zip(rates, (train, known, asked), strict=True)]
    count = np.bincount(asked.label)[asked.label]
    n_together = np.max([np.where(count >= n, n, 0) for n in TOGETHER], axis=0)
    found = np.empty((2, len(asked.label)))
    for n in np.unique(n_together):  # the largest comes last, and what it gives of the reference samples stays
        (of_train, _), (of_known, known_depth), (of_asked, depth) = (one.together(int(n)) for one in sets)
        metric, rows = _Metric(of_train, train.label), n_together == n
        if adapted is not None:
            of_asked[adapted] -= _shift(of_asked[adapted], asked.label[adapted], of_train, train.label)
        usual, far = metric.squared_distances(of_known), metric.squared_distances(of_asked[rows])
        for one, other in zip(usual, far, strict=True):
            fixed, noise = _noise(one, known_depth, known.label)
            one /= fixed + noise / known_depth
            other /= fixed + noise / depth[rows]
        usual, far = np.log(usual), np.log(far)
        centre, spread = np.median(usual, axis=1, keepdims=True), np.maximum(usual.std(1, keepdims=True), TINY)
        found[:, rows] = (far - centre) / spread
    return Distances(*((usual - centre) / spread)), Distances(*found)


def _shift(places: np.ndarray, label: np.ndarray, of_train: np.ndarray, train_label: np.ndarray) -> np.ndarray:
    """What samples differ by from training samples, the median of the classes, (d,)."""
    classes = np.intersect1d(label, train_label)
    return np.asarray(np.median([places[label == y].mean(0) - of_train[train_label == y].mean(0) for y in classes], 0))


def _noise(squared: np.ndarray, depth: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """a and b of squared distances a + b / depth, the second what counting noise adds; the mean a of all classes.

    Args:
        squared: distances of reference samples, (m,).
        depth: their counts, (m,).
        label: their classes, (m,).
    """
    of_class = (label[:, None] == np.unique(label)).astype(float)
    scale = depth.mean()
    found = nnls(np.column_stack([of_class, scale / depth]), np.minimum(squared, np.quantile(squared, MOST)))[0]
    return max(float(of_class.mean(0) @ found[:-1]), TINY), float(found[-1] * scale)


class _Metric:
    """Whitened places of training samples and of their classes.

    Args:
        places: of training samples, (n, d).
        label: their classes, (n,).
    """

    def __init__(self, places: np.ndarray, label: np.ndarray) -> None:
        classes, of_class = np.unique(label, return_inverse=True)
        means = np.stack([places[of_class == y].mean(0) for y in range(len(classes))])
        within = LedoitWolf(assume_centered=True).fit(places - means[of_class])
        self._root = np.linalg.cholesky(within.precision_)
        self._means = means @ self._root
        self._near = NearestNeighbors(n_neighbors=min(N_NEAREST, len(places))).fit(places @ self._root)

    def squared_distances(self, places: np.ndarray) -> np.ndarray:
        """Of others (m, d): from the nearest class, and from the fifteenth nearest training sample, (2, m)."""
        white = places @ self._root
        found = np.stack([cdist(white, self._means).min(1), self._near.kneighbors(white)[0][:, -1]])
        return np.asarray(np.maximum(found**2, TINY))


class _Rates:
    """Values of samples that are as of one where the mean of several is taken: counts over the library, or as they are.

    Args:
        query: a set.
        trained: the model.
    """

    def __init__(self, query: Query, trained: TrainedModel) -> None:
        self._samples, self._measured = trained.card.samples_of(query.adata), query.measured
        self._likelihood = trained.network.likelihood
        self.at_once = max(1, MAX_VALUES // int(query.measured.sum()))

    def of(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Of some samples, (rows, all features), and their depth, (rows,), 1 where there are no counts."""
        batch = self._samples.take(torch.from_numpy(rows))
        if batch.library is None:
            return batch.x, np.ones(len(rows))
        return batch.x / batch.library[:, None], batch.library.numpy().astype(float)

    def inputs(self, rates: Tensor) -> np.ndarray:
        """What the encoder reads of such values, measured features alone, (rows, features)."""
        library = None if self._samples.library is None else torch.ones(len(rates))
        with torch.no_grad():
            x = self._likelihood.encoder_input(rates, library)
        return np.asarray(x.reshape(len(x), -1).numpy()[:, self._measured])

    def some(self) -> np.ndarray:
        """Inputs of as many samples as there may be at once."""
        rows = np.random.default_rng(0).permutation(len(self._samples))[: self.at_once]
        return self.inputs(self.of(np.sort(rows))[0])


class _Space:
    """Principal components of the standardised inputs of training samples.

    Args:
        x: inputs of training samples, (n, features).
    """

    def __init__(self, x: np.ndarray) -> None:
        std = x.std(0)
        self._mean, self._std = x.mean(0), np.maximum(std, LEAST_STD * max(float(std.max()), TINY))
        self._components = self.components(x, N_COMPONENTS)

    def standardised(self, x: np.ndarray) -> np.ndarray:
        """Inputs with mean 0 and variance 1 over the training samples."""
        return np.asarray((x - self._mean) / self._std)

    def components(self, x: np.ndarray, n: int) -> PCA:
        """Of inputs, n or as many as can be."""
        return PCA(min(n, *x.shape), random_state=0).fit(self.standardised(x))

    def places(self, x: np.ndarray) -> np.ndarray:
        """Of samples in the components of the training samples, (rows, 30 or fewer)."""
        return np.asarray(self._components.transform(self.standardised(x)), dtype=float)


class _Gathered:
    """Samples and the like of each: the nearest of its class in the set, from near to far.

    Args:
        rates: of a set.
        label: classes of the same, (n,).
        space: where they lie.
    """

    def __init__(self, rates: _Rates, label: np.ndarray, space: _Space) -> None:
        self._rates, self._space = rates, space
        some = rates.some()
        own = space.components(some, N_OWN_COMPONENTS) if len(some) > 1 else None
        self._near: list[tuple[np.ndarray, np.ndarray]] = []
        for y in np.unique(label):
            of_class = np.flatnonzero(label == y)
            for rows in np.array_split(of_class, -(-len(of_class) // min(MAX_SOUGHT, rates.at_once))):
                self._near.append((rows, self._nearest(own, rows)))

    def _nearest(self, own: PCA | None, rows: np.ndarray) -> np.ndarray:
        if own is None:
            return np.zeros((1, 1), dtype=int)
        z = own.transform(self._space.standardised(self._rates.inputs(self._rates.of(rows)[0])))
        near = NearestNeighbors(n_neighbors=min(TOGETHER[0], len(rows))).fit(z)
        return np.asarray(near.kneighbors(z)[1])

    def together(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The place of each sample with its n - 1 nearest like, or as many as there are, (m, d), and their depth."""
        order = np.argsort(np.concatenate([rows for rows, _ in self._near]))
        places, depth = zip(*(self._mean(rows, near[:, :n]) for rows, near in self._near), strict=True)
        return np.concatenate(places)[order], np.concatenate(depth)[order]

    def _mean(self, rows: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rates, depth = self._rates.of(rows)
        mean = torch.zeros_like(rates)
        for places in near.T:
            mean += rates[places] / near.shape[1]
        return self._space.places(self._rates.inputs(mean)), depth[near].mean(1)
