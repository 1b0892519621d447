"""What is known of the training samples before training: where a model starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from nvae_bio.model.kernels import log1p_scaled


class ClassSums(NamedTuple):
    """Sums over the labelled training samples of each class.

    Attributes:
        total: of each feature, (C, features).
        n: samples, (C,).
        library: all their counts, (C,); of data that are no counts the same as `n`.
    """

    total: Tensor
    n: Tensor
    library: Tensor


@dataclass(frozen=True)
class FeatureMoments:
    """Of the training samples: where a model starts.

    Attributes:
        n: samples.
        mean: of each feature, (features,).
        var: of each feature, (features,).
        library: all counts of each sample, (n,); None unless the data are counts.
        log_mean, log_std: mean and standard deviation of log(1 + counts per median library), (features,); None unless
            the data are counts.
        by_class: of the labelled ones; None where not known.
    """

    n: int
    mean: Tensor
    var: Tensor
    library: Tensor | None
    log_mean: Tensor | None = None
    log_std: Tensor | None = None
    by_class: ClassSums | None = None

    @classmethod
    def of(cls, x: Tensor, library: Tensor | None) -> FeatureMoments:
        """Of samples x, (n, features), of which no class is known."""
        log_mean, log_std = None, None
        if library is not None:
            scaled = log1p_scaled(x, library.median() / library)
            log_mean, log_std = scaled.mean(0), scaled.std(0, correction=0)
        return cls(len(x), x.mean(0), x.var(0, correction=0), library, log_mean, log_std)
