"""Whether a latent lies where a class has samples: elsewhere the decoder only guesses."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from nvae_bio.query import conformal_p

N_NEIGHBORS = 10  # to the last of which a distance is taken


def support_p(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Share of the known points that lie as far from the others as each asked one lies from them, (n,).

    Distances are to the tenth neighbour (to the last one of fewer); the share is `conformal_p`. 1 where latents have no
    dims.

    Args:
        known: latents of training samples of a class, (m, d), at least 2.
        asked: latents, (n, d).

    >>> support_p(np.arange(99.0)[:, None], np.array([[50.0], [500.0]])).round(2).tolist()
    [1.0, 0.01]
    """
    if known.shape[1] == 0:
        return np.ones(len(asked))
    k = min(N_NEIGHBORS, len(known) - 1)
    neighbors = NearestNeighbors().fit(known)
    usual = neighbors.kneighbors(n_neighbors=k)[0][:, -1]  # without the point itself
    return conformal_p(usual, neighbors.kneighbors(asked, n_neighbors=k)[0][:, -1])
