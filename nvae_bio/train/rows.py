"""Which samples each step of a training takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nvae_bio.config import FitSettings
from nvae_bio.data.samples import Samples, Windows, balanced_order, epoch_order, even_parts


@dataclass(frozen=True)
class TrainingRows:
    """The training samples of a model.

    Attributes:
        labelled: rows of those with a class, (n_labelled,).
        label: their classes, (n_labelled,).
        unlabelled: rows of those without, (n_unlabelled,).
        class_size: labelled samples of each class, (C,), on the device of the model.
        windows: what an epoch is shuffled in; None where all samples are shuffled at once.
    """

    labelled: Tensor
    label: Tensor
    unlabelled: Tensor
    class_size: Tensor
    windows: Windows | None = None

    @classmethod
    def of(
        cls, samples: Samples, labelled: Tensor, unlabelled: Tensor | None, n_classes: int, device: torch.device
    ) -> TrainingRows:
        """Of a data set; without unlabelled rows if None."""
        label = samples.label[labelled]
        size = torch.bincount(label.cpu(), minlength=n_classes).to(device)
        return cls(labelled, label, labelled[:0] if unlabelled is None else unlabelled, size, samples.windows)

    def class_log_prior(self, settings: FitSettings) -> Tensor:
        """log p(y) of the bound on log p(x), (C,), nats.

        The share of each class among the labelled samples (with one sample more each, so that none is 0), or the same
        for all where classes are balanced; 0 where the decoder sees no class.
        """
        size, n_classes = self.class_size.float(), len(self.class_size)
        if settings.model.variant == "vae":
            return torch.zeros_like(size)
        if settings.training.class_balance == "balanced":
            return torch.full_like(size, -math.log(n_classes))
        return ((size + 1) / (size.sum() + n_classes)).log()

    def n_likeliest(self, settings: FitSettings) -> int:
        """M, classes that an unlabelled sample is decoded under; 1 where the decoder sees none."""
        return 1 if settings.model.variant == "vae" else min(settings.training.unlabeled_classes, len(self.class_size))

    def steps(self, seeds: Sequence[int], epoch: int, settings: FitSettings) -> list[tuple[Tensor, Tensor]]:
        """Rows of labelled and of unlabelled samples of each step of an epoch, (seeds, rows) each.

        With unlabelled samples every step has an even part of both kinds, whose sizes differ by one at most over steps.
        """
        batch_size, balanced = settings.training.batch_size, settings.training.class_balance == "balanced"
        assert batch_size is not None
        labelled = torch.stack([self._order(self.labelled, balanced, seed, epoch) for seed in seeds])
        if not len(self.unlabelled):
            return [(part, part[:, :0]) for part in labelled.split(batch_size, dim=-1)]
        unlabelled = torch.stack([self._order(self.unlabelled, False, seed, epoch, 1) for seed in seeds])
        n_steps = -(-(len(self.labelled) + len(self.unlabelled)) // batch_size)
        return list(zip(even_parts(labelled, n_steps), even_parts(unlabelled, n_steps), strict=True))

    def _order(self, rows: Tensor, balanced: bool, *seeds: int) -> Tensor:
        """Rows in the order of an epoch."""
        if balanced:
            order = balanced_order(self.label.numpy(force=True), *seeds)
        elif self.windows is not None:
            return self.windows.order(rows, *seeds)
        else:
            order = epoch_order(len(rows), *seeds)
        return rows[order.to(rows.device)]
