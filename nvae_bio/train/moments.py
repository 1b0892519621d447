"""Moments of the training samples and of their posteriors, summed some samples at a time and in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from nvae_bio.data.batch import Batch
from nvae_bio.data.samples import UNLABELED, Samples
from nvae_bio.model import NVAE, ClassSums, FeatureMoments
from nvae_bio.model.kernels import log1p_scaled
from nvae_bio.train.state import CHUNK

MOMENT_ROWS = 256  # samples at a time


def feature_moments(samples: Samples, rows: Tensor, n_classes: int) -> FeatureMoments:
    """Of the samples at `rows`, and of each class among them; counts have their moments on a log scale too."""
    library = None if samples.library is None else samples.library[rows]
    plain, logged, by_class = _Sums(), _Sums(), _ClassTotals(n_classes, samples.matrix.n_features, rows.device)
    for chunk in samples.chunks(MOMENT_ROWS, rows):
        by_class.add(chunk)
        if library is not None:
            assert chunk.library is not None
            logged.add(log1p_scaled(chunk.x, library.median() / chunk.library))
        plain.add(chunk.x)
    mean, var = plain.moments(len(rows))
    if library is None:
        return FeatureMoments(len(rows), mean, var, None, by_class=by_class.sums)
    log_mean, log_var = logged.moments(len(rows))
    return FeatureMoments(len(rows), mean, var, library, log_mean, log_var.sqrt(), by_class.sums)


@torch.no_grad()
def private_moments(model: NVAE, samples: Samples, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the aggregate posterior of each private dim over the samples of its class.

    The prior counts as one more sample, so that a class of few is near it, and one of none has its moments.

    Args:
        model: a trained one.
        samples: all samples.
        rows: labelled ones to take, (n,).

    Returns:
        Two of (blocks, K), float64.
    """
    device, shape = model.device, (model.n_blocks, model.n_private)
    n = torch.ones(shape[0], 1, dtype=torch.float64, device=device)
    total, square = torch.zeros(shape, dtype=n.dtype, device=device), torch.ones(shape, dtype=n.dtype, device=device)
    for chunk in samples.chunks(CHUNK, rows):
        batch = chunk.to(device)
        block = model.block(batch.label)
        own = model.encoder(model.inputs(batch.x, batch.library), batch.covariates).own(block)
        n.index_add_(0, block, torch.ones(len(block), 1, dtype=n.dtype, device=device))
        total.index_add_(0, block, own.mean.double())
        square.index_add_(0, block, own.square().double())
    mean = total / n
    return mean, (square / n - mean.square()).sqrt()


class _Sums:
    """Sums of features and of their squares, in float64."""

    total: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Some samples, (n, features), which are squared in place."""
        self.total = self.total + x.sum(0, dtype=torch.float64)
        self.square = self.square + x.square_().sum(0, dtype=torch.float64)

    def moments(self, n: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of each feature over n samples, (features,), float32."""
        mean, square = torch.as_tensor(self.total) / n, torch.as_tensor(self.square) / n
        return mean.float(), (square - mean.square()).clamp_min(0).float()


class _ClassTotals:
    """`ClassSums` in float64, chunk by chunk."""

    def __init__(self, n_classes: int, n_features: int, device: torch.device) -> None:
        self.total = torch.zeros(n_classes, n_features, dtype=torch.float64, device=device)
        self.n, self.library = (torch.zeros(n_classes, dtype=torch.float64, device=device) for _ in range(2))

    def add(self, chunk: Batch) -> None:
        """Some samples; those without a class are left out."""
        rows = (chunk.label != UNLABELED).nonzero().squeeze(1)
        label, ones = chunk.label[rows], torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        self.total.index_add_(0, label, chunk.x[rows].double())
        self.n.index_add_(0, label, ones)
        self.library.index_add_(0, label, ones if chunk.library is None else chunk.library[rows].double())

    @property
    def sums(self) -> ClassSums:
        """In float32."""
        return ClassSums(self.total.float(), self.n.float(), self.library.float())
