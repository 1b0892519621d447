"""The usage map: how many nats each latent dim spends in each class, and what is tested of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nvae_bio import schema
from nvae_bio.errors import UserError

OWN_BLOCK = "own_block"  # excess gain by a class's whole block: does the class have a factor of its own?
OWN_DIM = "own_dim"  # excess gain by one dim of it
SHARED = "shared"  # KL of a shared dim in a class
HIDDEN = "hidden"  # what a class tells by its most exclusive shared dim above the median of the other classes
STATISTICS = (OWN_BLOCK, OWN_DIM, SHARED, HIDDEN)
INFORMED = 0.3  # share of a factor's variance in a class that the posterior means must have for it to be one
MIN_SPREAD = 0.1  # variance of a shared dim within a class, in prior variances, below which the class does not use it
TOLD = 0.05  # share of the variance of z that x tells: a sample of which less is told counts as if it were this
EXCLUSIVE = 0.5  # of what a class tells by a shared dim, the share that the other classes may tell where it is its own


def held_out_rows(obs: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Places of the labelled samples that do not train: validation chooses an epoch, of a run and of its null alike.

    Raises:
        UserError: a class has none.
    """
    rows = ((obs[schema.SPLIT] != "train") & obs[schema.LABEL].notna()).to_numpy()
    there = set(obs.loc[rows, schema.LABEL].astype(str))
    for name in classes:
        if name not in there:
            raise UserError(
                f"class {name!r} has no held-out sample (split 'validation' or 'test'); its factors cannot be judged"
            )
    return np.flatnonzero(rows)


def training_sizes(obs: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Training samples of each class, (C,): by them classes share a null."""
    train = obs.loc[obs[schema.SPLIT] == "train", schema.LABEL].astype(object)
    return np.array([(train == name).sum() for name in classes])


@dataclass(frozen=True)
class Usage:
    """Of the held-out samples of each class, in nats.

    Attributes:
        shared: K[y, s] = E_{x|y} KL(q(z_s|x) ‖ N(0, 1)), (C, S).
        excess: what a dim of the class's own block adds to the bound on log p(x|y) above what it would add if it held
            nothing of these samples (`chance_gain`), (C, K).
        block_excess: the same of the whole block, (C,).
        within: I[y, s] = ½ log Var(z_s|y) − E_{x|y} log σ(x), what a dim tells of a sample within its class if z_s is
            Gaussian there, (C, S). Unlike K, it does not grow where the class lies far from the prior's mean.
        spread: Var(z_s|y) without the scatter that noise gives posterior means (`true_variance`), (C, S). A dim that
            is constant in a class has none, however much the data would tell of it.
        shared_excess: what a dim of z_s adds to the bound above `chance_gain`, (C, S); NaN where it was not measured.
    """

    shared: np.ndarray
    excess: np.ndarray
    block_excess: np.ndarray
    within: np.ndarray
    spread: np.ndarray
    shared_excess: np.ndarray

    @classmethod
    def of(
        cls,
        mean: np.ndarray,
        std: np.ndarray,
        own_std: np.ndarray,
        gain: np.ndarray,
        block_gain: np.ndarray,
        label: np.ndarray,
        shared_gain: np.ndarray | None = None,
    ) -> Usage:
        """From single samples.

        Args:
            mean: of q(z_s|x), (n, S).
            std: of the same, (n, S).
            own_std: of the own block, (n, K).
            gain: what each dim of the own block adds to the bound, (n, K).
            block_gain: the same of the own block, (n,).
            label: class of each sample, (n,); every class has one at least.
            shared_gain: what each dim of z_s adds to the bound, (n, S); None where it was not measured.
        """
        mean, std = mean.astype(float), std.astype(float)
        kl = (mean**2 + std**2 - 1) / 2 - np.log(std)
        chance = chance_gain(own_std.astype(float))
        unknown = np.full(mean.shape, np.nan)
        above = (unknown if shared_gain is None else shared_gain) - chance_gain(std)
        shared, of_dims, of_block, within, spread, excess = [], [], [], [], [], []
        for rows in (label == y for y in range(int(label.max()) + 1)):
            shared.append(kl[rows].mean(0))
            of_dims.append((gain - chance)[rows].mean(0))
            of_block.append((block_gain - chance.sum(1))[rows].mean())
            variance = mean[rows].var(0) + (std[rows] ** 2).mean(0)
            within.append(np.log(variance) / 2 - np.log(std[rows]).mean(0))
            spread.append(true_variance(mean[rows], std[rows]))
            excess.append(above[rows].mean(0))
        by_class = (shared, of_dims, of_block, within, spread, excess)
        return cls(*(np.stack(values) for values in by_class))

    @property
    def n_classes(self) -> int:
        """C."""
        return int(self.shared.shape[0])

    def exclusive(self) -> np.ndarray:
        """I[y, s] above the median of the other classes, (C, S); 0 where the dim is not the class's own.

        It is where the median is at most half of I[y, s], and that is no less than -½ log(1 − 0.3) = 0.18 nats. How
        much a shared factor changes a class differs by class, so that less than half is no sign of a private one.
        """
        if self.n_classes < 2:
            return np.zeros_like(self.within)
        others = np.stack([np.median(np.delete(self.within, y, axis=0), axis=0) for y in range(self.n_classes)])
        own = (self.within >= -np.log(1 - INFORMED) / 2) & (others <= EXCLUSIVE * self.within)
        return np.where(own, self.within - others, 0.0)

    def statistics(self) -> pd.DataFrame:
        """All that is tested: columns statistic, class (its index), dim, value (nats)."""
        rows: list[tuple[str, int, int, float]] = []
        exclusive = self.exclusive()
        for y in range(self.n_classes):
            if self.excess.shape[1]:
                rows.append((OWN_BLOCK, y, -1, float(self.block_excess[y])))
            rows += [(OWN_DIM, y, dim, float(value)) for dim, value in enumerate(self.excess[y])]
            rows += [(SHARED, y, dim, float(value)) for dim, value in enumerate(self.shared[y])]
            if self.shared.shape[1]:
                dim = int(exclusive[y].argmax())
                rows.append((HIDDEN, y, dim, float(exclusive[y, dim])))
        return pd.DataFrame(rows, columns=["statistic", "class", "dim", "value"])


def true_variance(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Variance of each latent dim among some samples, in prior variances, (dims,); below 0 by chance alone.

    Under the prior N(0, 1) and noise of variance s² in what x tells of z, the posterior has σ² = s² / (1 + s²) and the
    mean (1 − σ²) ẑ, where ẑ = z + noise. So Var(z) = Var(mean / (1 − σ²)) − E[σ² / (1 − σ²)], whatever the class's own
    distribution of z is. Samples of which a dim tells little (σ² near 1) hardly bear on it: ẑ is weighted by 1 − σ²,
    which counts as 0.05 at least.

    Args:
        mean: of q(z|x), (n, dims).
        std: of the same, (n, dims).

    >>> rng = np.random.default_rng(0)
    >>> z, noise = 0.5 * rng.normal(size=(9999, 1)), rng.normal(size=(9999, 1))  # s² = 1, σ² = ½
    >>> true_variance((z + noise) / 2, np.full_like(z, 0.5**0.5)).round(1)
    array([0.2])
    """
    weight = np.maximum(1 - std**2, TOLD)
    estimate, noise = mean / weight, (1 - weight) / weight
    total = weight.sum(0)
    center = (weight * estimate).sum(0) / total
    return np.asarray((weight * ((estimate - center) ** 2 - noise)).sum(0) / total)


def chance_gain(std: np.ndarray) -> np.ndarray:
    """Gain of a dim, in nats, that holds nothing of a sample: ½(1 − σ² + log σ²), below 0.

    So it is for a decoder linear in the dim, Gaussian noise and the posterior N(m, σ²) that belongs to them: with
    loadings w and noise covariance Ψ, J = wᵀΨ⁻¹w, σ² = 1 / (1 + J) and m = σ² wᵀΨ⁻¹x. The gain is ½(m²/σ² + log σ²),
    and m has variance σ² (1 − σ²) where x is noise alone. Blocks are compared by what they gain above that: else one
    that fits its training samples closely would seem to hold less than one that fits nothing.

    Args:
        std: σ, of any shape.

    >>> chance_gain(np.array([1.0, 0.5])).round(3)
    array([ 0.   , -0.318])
    """
    return np.asarray((1 - std**2 + 2 * np.log(std)) / 2)


def few(n_classes: int) -> int:
    """So many classes are a minority: a factor that no more of them have is private to them, else it is shared.

    >>> [few(n) for n in (2, 3, 5, 10)]
    [1, 1, 2, 4]
    """
    return max(1, (n_classes - 1) // 2)
