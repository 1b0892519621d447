"""Prepared samples as tensors, and the order in which a training run sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from anndata import AnnData
from torch import Tensor

from nvae_bio import schema

UNLABELED = -1


@dataclass(frozen=True)
class Samples:
    """Rows of a data set on one device.

    Attributes:
        x: counts, pixels or features, (n, features), float32.
        label: index of the class, (n,); -1 where unlabeled.
        library: all counts of each sample, (n,), float32; None unless the data are counts.
    """

    x: Tensor
    label: Tensor
    library: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor | slice) -> Samples:
        """The rows at `index`."""
        return Samples(self.x[index], self.label[index], None if self.library is None else self.library[index])

    def to(self, device: torch.device) -> Samples:
        """The same rows on `device`."""
        library = None if self.library is None else self.library.to(device)
        return Samples(self.x.to(device), self.label.to(device), library)

    def chunks(self, size: int) -> Iterator[Samples]:
        """The rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def to_samples(prepared: AnnData, classes: Sequence[str]) -> Samples:
    """Tensors of a prepared data set.

    Args:
        prepared: with `obs["label"]`, and `obs["library"]` where the data are counts.
        classes: class names in the order of the model; a label that is none of them becomes -1.
    """
    matrix = prepared.X
    dense = matrix.toarray() if scipy.sparse.issparse(matrix) else np.asarray(matrix)
    codes = pd.Categorical(prepared.obs[schema.LABEL].astype(object), categories=list(classes)).codes
    library = None
    if prepared.uns[schema.DATA]["kind"] == "counts":
        library = torch.from_numpy(prepared.obs[schema.LIBRARY].to_numpy(np.float32).copy())
    x = torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32))
    return Samples(x, torch.from_numpy(codes.astype(np.int64)), library)


def make_generator(device: torch.device, *seeds: int) -> torch.Generator:
    """A random generator that is a pure function of its seeds: of (seed, epoch), say."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def epoch_order(n_samples: int, seed: int, epoch: int) -> Tensor:
    """The order of all samples in an epoch, (n_samples,): a function of seed and epoch alone."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n_samples))
