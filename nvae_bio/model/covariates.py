"""What the covariates of a sample add to the hidden units of a layer, before its ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nvae_bio.data.batch import Covariates


class CovariateForm(NamedTuple):
    """What must be known of covariates to build the networks that are told them.

    Attributes:
        shares: of each categorical covariate, the share of each level among the training samples.
        n_continuous: how many are numbers.
    """

    shares: Sequence[Sequence[float]]
    n_continuous: int


class LevelEffect(nn.Module):
    """One categorical covariate: a row of hidden units for each level, T[l], or embedded, E[l] M.

    An unknown level adds the mean of all rows, weighted by the share of each level among the training samples, so that
    such a sample is decoded as an average one. All rows start at 0: a model begins as if it had no covariates.

    Args:
        share: of each level; sums to 1.
        width: hidden units.
        n_dims: of the embedding; None: no embedding, every level has weights of its own.
    """

    share: Tensor

    def __init__(self, share: Sequence[float], width: int, n_dims: int | None) -> None:
        super().__init__()
        self.map = None if n_dims is None else nn.Parameter(torch.zeros(n_dims, width))
        self.table = nn.Parameter(torch.zeros(len(share), width) if n_dims is None else torch.randn(len(share), n_dims))
        self.register_buffer("share", torch.tensor(share))

    def forward(self, level: Tensor | None) -> Tensor:
        """Hidden units, (batch, width), of levels (batch,), -1 where unknown; of None: of an unknown one, (width,)."""
        average = self.share @ self.table
        if level is None:
            rows = average
        else:
            place = torch.where(level < 0, len(self.table), level)
            rows = torch.cat([self.table, average[None]]).index_select(0, place)
        return rows if self.map is None else rows @ self.map


class CovariateEffect(nn.Module):
    """The sum over all covariates: a row for each level, and a slope for each standardised number.

    Args:
        form: of the covariates.
        width: hidden units.
        max_one_hot: levels up to which a covariate is not embedded.
        n_dims: of the embedding of one with more.
    """

    def __init__(self, form: CovariateForm, width: int, max_one_hot: int, n_dims: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            LevelEffect(share, width, n_dims if len(share) > max_one_hot else None) for share in form.shares
        )
        self.slope = nn.Parameter(torch.zeros(form.n_continuous, width))

    def forward(self, covariates: Covariates | None) -> Tensor:
        """Hidden units, (batch, width); where None is told, those of an average sample, (width,)."""
        total = self.slope.new_zeros(self.slope.shape[1]) if covariates is None else covariates.value @ self.slope
        for place, effect in enumerate(self.levels):
            total = total + effect(None if covariates is None else covariates.level[..., place])
        return total
