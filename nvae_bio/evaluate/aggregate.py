"""How far the aggregate posterior of [z_s, own block] is from the prior, beside two draws of the prior.

Ancestral samples are good where the aggregate posterior q(z|y) = E_x q(z|x,y) is the prior they are drawn from. Both
statistics are above 0 for finite samples even where it is; so each is divided by what it is for draws of the prior of
the same number: 1 is as near as can be told.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernels; those of Tolstikhin et al. 2018, arXiv:1711.01558
N_NULLS = 10  # pairs of prior draws that a statistic is compared with
MAX_SAMPLES = 2000  # of a kernel matrix


def _imq(left: np.ndarray, right: np.ndarray) -> float:
    """Mean of Σ_s C_s / (C_s + ‖a − b‖²) over all pairs, C_s = 2 d s."""
    squared, d = cdist(left, right, "sqeuclidean"), left.shape[1]
    return float(sum((2 * d * s / (2 * d * s + squared)).mean() for s in SCALES))


def mmd(left: np.ndarray, right: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two samples, with inverse multiquadratic kernels; at least 0.

    That of the empirical distributions (the V-statistic), so that it is above 0 for two samples of one distribution.

    Args:
        left: (n, d).
        right: (m, d).

    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> bool(abs(mmd(x, x)) < 1e-12), bool(mmd(x, x + 3) > 1)
    (True, True)
    """
    return _imq(left, left) + _imq(right, right) - 2 * _imq(left, right)


def moment_kl(z: np.ndarray) -> float:
    """KL to N(0, I) of the Gaussian with the mean and covariance of a sample (n, d), nats; n above d.

    >>> round(moment_kl(np.random.default_rng(0).normal(size=(100_000, 2)) + [1.0, 0.0]), 2)
    0.5
    """
    mean, covariance = z.mean(0), np.atleast_2d(np.cov(z, rowvar=False, ddof=0))
    _, log_det = np.linalg.slogdet(covariance)
    return float(0.5 * (np.trace(covariance) + mean @ mean - z.shape[1] - log_det))


def mmd_ratio(z: np.ndarray, rng: np.random.Generator) -> float:
    """MMD² of a sample and draws of N(0, I), over the mean of that of pairs of such draws.

    Args:
        z: draws of the aggregate posterior, (n, d); 2,000 at most are taken, at random.
        rng: source of randomness.
    """
    z = z[np.sort(rng.permutation(len(z))[:MAX_SAMPLES])]
    return _over_null(lambda sample: mmd(sample, rng.normal(size=z.shape)), z, rng)


def moment_kl_ratio(z: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> float:
    """Mean over classes of `moment_kl`, over the mean of that of draws of N(0, I), as many of each class.

    Args:
        z: draws of the aggregate posterior, (n, d).
        label: class of each, (n,); a class of d + 1 samples or fewer does not count.
        rng: source of randomness.

    Returns:
        NaN where no class has enough.
    """
    names, counts = np.unique(label, return_counts=True)
    rows = [label == name for name in names[counts > z.shape[1] + 1]]
    if not rows:
        return float("nan")
    return _over_null(lambda sample: float(np.mean([moment_kl(sample[part]) for part in rows])), z, rng)


def _over_null(statistic: Callable[[np.ndarray], float], z: np.ndarray, rng: np.random.Generator) -> float:
    """A statistic of z over its mean for draws of the prior of the same shape."""
    found = float(np.mean([statistic(z) for _ in range(N_NULLS)]))
    return found / float(np.mean([statistic(rng.normal(size=z.shape)) for _ in range(N_NULLS)]))
