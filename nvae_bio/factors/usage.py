"""The usage map: how many nats each latent dim spends in each class, and what is tested of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

OWN_BLOCK = "own_block"  # KL of a class's whole block: does the class have a factor of its own?
OWN_DIM = "own_dim"  # KL of one dim of it
SHARED = "shared"  # KL of a shared dim in a class
HIDDEN = "hidden"  # what a class spends on its most exclusive shared dim above the median of the other classes
USED_SHARE = 0.1  # a class that spends less than this share of the largest user's KL on a dim does not use it


@dataclass(frozen=True)
class Usage:
    """Mean KL over the held-out samples of each class, in nats.

    Attributes:
        shared: K[y, s] = E_{x|y} KL(q(z_s|x) ‖ N(0, 1)), (C, S).
        own: the same of the dims of the class's own block, (C, K).
    """

    shared: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, shared: np.ndarray, private: np.ndarray, label: np.ndarray) -> Usage:
        """Averages of single samples.

        Args:
            shared: KL of each sample and shared dim, (n, S).
            private: of each private dim of each block, (n, blocks, K).
            label: class of each sample, (n,); every class has one at least.
        """
        n_classes = int(label.max()) + 1
        own = private[np.arange(len(label)), label if private.shape[1] > 1 else 0]
        return cls(*(np.stack([part[label == y].mean(0) for y in range(n_classes)]) for part in (shared, own)))

    @property
    def n_classes(self) -> int:
        """C."""
        return int(self.shared.shape[0])

    def exclusive(self) -> np.ndarray:
        """K[y, s] above the median of the other classes, (C, S); 0 where there is one class only."""
        if self.n_classes < 2:
            return np.zeros_like(self.shared)
        others = [np.median(np.delete(self.shared, y, axis=0), axis=0) for y in range(self.n_classes)]
        return np.asarray(self.shared - np.stack(others))

    def used(self, min_kl: float) -> np.ndarray:
        """Whether a class uses a shared dim, by size alone, (C, S)."""
        largest = self.shared.max(0, keepdims=True)
        return np.asarray((self.shared >= USED_SHARE * largest) & (self.shared >= min_kl))

    def statistics(self) -> pd.DataFrame:
        """All that is tested: columns statistic, class (its index), dim, value (nats)."""
        rows: list[tuple[str, int, int, float]] = []
        exclusive = self.exclusive()
        for y in range(self.n_classes):
            if self.own.shape[1]:
                rows.append((OWN_BLOCK, y, -1, float(self.own[y].sum())))
            rows += [(OWN_DIM, y, dim, float(value)) for dim, value in enumerate(self.own[y])]
            rows += [(SHARED, y, dim, float(value)) for dim, value in enumerate(self.shared[y])]
            if self.shared.shape[1]:
                dim = int(exclusive[y].argmax())
                rows.append((HIDDEN, y, dim, float(exclusive[y, dim])))
        return pd.DataFrame(rows, columns=["statistic", "class", "dim", "value"])


def few(n_classes: int) -> int:
    """So many classes are a minority: a factor that no more of them have is private to them, else it is shared.

    >>> [few(n) for n in (2, 3, 5, 10)]
    [1, 1, 2, 4]
    """
    return max(1, (n_classes - 1) // 2)
