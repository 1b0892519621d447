"""Prepared samples as tensors, and the order in which a training run sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from nvae_bio import schema
from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.data.covariates import CovariateSet
from nvae_bio.data.packed import PackedMatrix, pack
from nvae_bio.data.store import Store, StoredMatrix
from nvae_bio.errors import UserError

UNLABELED = -1


@dataclass(frozen=True)
class Windows:
    """How an epoch is shuffled where samples lie in blocks on the disk, in random order already.

    The blocks are put in random order, and the samples of each `n_blocks` blocks are shuffled together.

    Attributes:
        block_rows: samples of a block.
        n_blocks: of a window, at most.
    """

    block_rows: int
    n_blocks: int = 16

    def order(self, rows: Tensor, *seeds: int) -> Tensor:
        """`rows`, ascending, in the order of an epoch: a function of its seeds alone."""
        random, own = np.random.default_rng(seeds), rows.numpy(force=True)
        blocks = np.split(own, np.flatnonzero(np.diff(own // self.block_rows)) + 1)
        turn, parts = random.permutation(len(blocks)), []
        for start in range(0, len(turn), self.n_blocks):
            window = np.concatenate([blocks[block] for block in turn[start : start + self.n_blocks]])
            parts.append(random.permutation(window))
        return torch.from_numpy(np.concatenate(parts)).to(rows.device)


@dataclass(frozen=True)
class Samples:
    """A data set on one device.

    Attributes:
        matrix: counts, pixels or features, packed; or counts in a store.
        label: index of the class, (n,); -1 where unlabeled.
        library: all counts of each sample, or its size factor, (n,), float32; None unless the data are counts.
        covariates: of each sample, (n, …); None where the model has none.
        windows: what an epoch is shuffled in; None where all samples are shuffled at once.
    """

    matrix: PackedMatrix | StoredMatrix
    label: Tensor
    library: Tensor | None
    covariates: Covariates | None = None
    windows: Windows | None = None

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`, of any shape (…, rows)."""
        x, counts = self.matrix.rows(index)
        library = None if self.library is None else self.library[index]
        covariates = None if self.covariates is None else self.covariates.take(index)
        return Batch(x, self.label[index], library, counts, covariates)

    def to(self, device: torch.device) -> Samples:
        """The same on `device`."""
        library = None if self.library is None else self.library.to(device)
        covariates = None if self.covariates is None else self.covariates.to(device)
        return Samples(self.matrix.to(device), self.label.to(device), library, covariates, self.windows)

    def chunks(self, size: int, rows: Tensor | None = None) -> Iterator[Batch]:
        """All rows in order, or those named, `size` at a time."""
        rows = torch.arange(len(self), device=self.label.device) if rows is None else rows
        parts = rows.split(size)
        with self.matrix.reading(parts):
            for part in parts:
                yield self.take(part)


def sizes_of(obs: pd.DataFrame, size: str) -> pd.Series:
    """What the means of each sample are proportional to, counts: `library` or `size_factor`, from `obs`.

    Raises:
        UserError: the data set was prepared without.
    """
    if size not in obs:
        raise UserError(f"model.size: {size!r}: the data have no obs[{size!r}]; set {size}_key and prepare them again")
    sizes: pd.Series = obs[size]
    return sizes


def class_index(obs: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Index of the class of each sample, (n,), int64; -1 where it has none of these."""
    return np.asarray(pd.Categorical(obs[schema.LABEL].astype(object), categories=list(classes)).codes, dtype=np.int64)


def to_samples(
    prepared: AnnData | Store,
    classes: Sequence[str],
    covariates: CovariateSet | None = None,
    *,
    size: str = schema.LIBRARY,
) -> Samples:
    """A prepared data set, packed; its matrix may lie in a file that is open.

    Args:
        prepared: with `obs["label"]`, and `obs[size]` where the data are counts; or a store.
        classes: class names in the order of the model; a label that is none of them becomes -1.
        covariates: those that the model is told; None for none.
        size: `library` or `size_factor`, as the model's settings say.

    Raises:
        UserError: counts without that size.
    """
    is_counts, library = prepared.uns[schema.DATA]["kind"] == "counts", None
    if is_counts:
        library = torch.from_numpy(sizes_of(prepared.obs, size).to_numpy(np.float32).copy())
    told = covariates.read(prepared.obs) if covariates else None
    label = torch.from_numpy(class_index(prepared.obs, classes))
    if isinstance(prepared, Store):
        return Samples(prepared.matrix, label, library, told, Windows(prepared.matrix.block_rows))
    return Samples(pack(prepared.X, is_counts=is_counts), label, library, told)


def check_pixels(matrix: PackedMatrix | StoredMatrix, likelihood: str) -> None:
    """Refuse pixels that a likelihood has no probability for.

    Raises:
        UserError: naming the likelihood, and the others.
    """
    if likelihood == "bernoulli" and not matrix.is_binary:
        raise UserError(
            "model.likelihood: 'bernoulli' needs pixels of 0 and 1 (set the data set's `binarise`; prepare again); "
            "allowed for grey ones: cross_entropy, gaussian"
        )
    if likelihood == "discretized_logistic" and not matrix.is_bytes:
        raise UserError(
            "model.likelihood: 'discretized_logistic' needs pixels of 8 bits, k/255, which resized ones are not; "
            "allowed for these: cross_entropy, gaussian"
        )


def make_generator(device: torch.device, *seeds: int) -> torch.Generator:
    """A random generator that is a pure function of its seeds: of (seed, epoch), say."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def epoch_order(n_samples: int, *seeds: int) -> Tensor:
    """The order of all samples in an epoch, (n_samples,): a function of its seeds alone, of (seed, epoch), say."""
    return torch.from_numpy(np.random.default_rng(seeds).permutation(n_samples))


def balanced_order(label: np.ndarray, seed: int, epoch: int) -> Tensor:
    """As many samples of each class (but for one) in random order: a function of seed and epoch alone.

    Each class goes round its samples, in an order of its own, and an epoch goes on where the one before it ended. So
    those of rare classes repeat, and those of common ones all have their turn.

    Args:
        label: class of each sample, (n,), no sample unlabelled.
        seed: of the orders.
        epoch: 0, 1, …

    Returns:
        Places in `label`, (n,).
    """
    n, classes = len(label), np.unique(label)
    slot = epoch * n + np.arange(n)  # counted over all epochs; the classes take turns
    drawn = np.empty(n, np.int64)
    for turn, name in enumerate(classes.tolist()):
        mine = slot % len(classes) == turn
        members = np.random.default_rng((seed, name)).permutation(np.flatnonzero(label == name))
        drawn[mine] = members[(slot[mine] // len(classes)) % len(members)]
    return torch.from_numpy(drawn)[epoch_order(n, seed, epoch)]


def even_parts(order: Tensor, n_parts: int) -> tuple[Tensor, ...]:
    """The last dimension in parts whose sizes differ by one at most, larger ones spread evenly; some may be empty."""
    n = order.shape[-1]
    return order.tensor_split([part * n // n_parts for part in range(1, n_parts)], dim=-1)
