"""What a model takes of some rows of a data set: values, classes, covariates, and where counts lie on their ladder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


def joined_ranges(start: Tensor, length: Tensor) -> Tensor:
    """start[0], start[0] + 1, … (length[0] values), then those of start[1], …: one vector of integers.

    >>> joined_ranges(torch.tensor([5, 0]), torch.tensor([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    shift = torch.repeat_interleave(start - length.cumsum(0) + length, length)
    return shift + torch.arange(len(shift), device=start.device)


@dataclass(frozen=True)
class Entries:
    """Entries of some rows of a matrix: `row` (from 0 among these rows), `column` and `value`, each (n_entries,)."""

    row: Tensor
    column: Tensor
    value: Tensor

    def to(self, device: torch.device) -> Entries:
        """The same on `device`."""
        return Entries(self.row.to(device), self.column.to(device), self.value.to(device))


@dataclass(frozen=True)
class CountLadder:
    """Where the sum Σ_{j<x} of a count x lies: the steps j = 0 … limit of each feature, one feature after another.

    A feature has as many steps as its largest unlisted count needs, so the ladder is short where counts are.

    Attributes:
        start: place of step 0 of each feature, (features,), int32.
        feature: feature of each step, (steps,).
        step: j, (steps,), float32.
        width: steps of the longest feature.
    """

    start: Tensor
    feature: Tensor
    step: Tensor
    width: int

    @classmethod
    def up_to(cls, largest: Tensor) -> CountLadder:
        """The ladder for counts of 0 … largest[g], an int64 vector."""
        length = largest + 1
        feature = torch.repeat_interleave(torch.arange(len(largest), device=largest.device), length)
        step = joined_ranges(torch.zeros_like(length), length)
        return cls((length.cumsum(0) - length).int(), feature, step.float(), int(length.max()) if len(length) else 1)

    def to(self, device: torch.device) -> CountLadder:
        """The same on `device`."""
        return CountLadder(self.start.to(device), self.feature.to(device), self.step.to(device), self.width)


@dataclass(frozen=True)
class Counts:
    """What a count likelihood needs of some rows besides the counts themselves.

    Attributes:
        step: step of each count above the start of its feature, (…, rows, features), uint8: the count, or 0 if listed.
        ladder: shared by all rows.
        log_factorial: Σ log x! of each row, (…, rows), float64.
        listed: counts above the limit; `row` counts through all leading dimensions.
    """

    step: Tensor
    ladder: CountLadder
    log_factorial: Tensor
    listed: Entries

    def to(self, device: torch.device) -> Counts:
        """The same on `device`."""
        return Counts(
            self.step.to(device), self.ladder.to(device), self.log_factorial.to(device), self.listed.to(device)
        )


class Covariates(NamedTuple):
    """What a decoder is told of each sample besides its class.

    Attributes:
        level: of each categorical covariate, (…, rows, n_categorical), int64; -1 where unknown.
        value: of each continuous covariate, standardised, (…, rows, n_continuous), float32; 0 where unknown.
    """

    level: Tensor
    value: Tensor

    def to(self, device: torch.device) -> Covariates:
        """The same on `device`."""
        return Covariates(self.level.to(device), self.value.to(device))

    def take(self, index: Tensor) -> Covariates:
        """Of the samples at `index`, of any shape (…, rows)."""
        return Covariates(self.level[index], self.value[index])


class Batch(NamedTuple):
    """Rows of a data set, as a model takes them; leading dimensions (…) are models trained side by side.

    Attributes:
        x: counts, pixels or features, (…, rows, features), float32.
        label: index of the class, (…, rows); -1 where unlabeled.
        library: all counts of each sample, or its size factor, (…, rows), float32; None unless the data are counts.
        counts: what a count likelihood needs besides; if None, such a likelihood makes it.
        covariates: None where the model has none.
    """

    x: Tensor
    label: Tensor
    library: Tensor | None = None
    counts: Counts | None = None
    covariates: Covariates | None = None

    @property
    def n(self) -> int:
        """Samples, of each model."""
        return self.label.shape[-1]

    def to(self, device: torch.device) -> Batch:
        """The same on `device`; itself where it lies there."""
        if self.x.device == device:
            return self
        library, counts, covariates = self.library, self.counts, self.covariates
        return Batch(
            self.x.to(device), self.label.to(device), None if library is None else library.to(device),
            None if counts is None else counts.to(device), None if covariates is None else covariates.to(device),
        )  # fmt: skip
