"""Classifiers that never saw the model: what a class looks like to them, and what they learn from artificial data.

Of pictures two nets. `small` is that of the logs that artificial data are compared with (Lesort et al. 2018,
arXiv:1806.10840): two convolutions of 5 × 5, dropout, one hidden layer. `strong` has twice the depth, batch norm, and
strides in place of pooling. Of anything else, and of pictures too small for these, `linear`: a logistic regression,
trained as the nets are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvae_bio.config import Classifier

BATCH = 128
CHUNK = 1000  # samples scored at a time
LEARNING_RATE = 1e-3
LEAST_SIDE = 16  # pixels, of pictures that nets are for
LAYOUT: dict[str, Any] = {"memory_format": torch.channels_last}  # convolutions of a CPU are faster so
Judge = Callable[[np.ndarray], np.ndarray]  # samples (n, features) → index of the class that is seen (n,)
Batches = Iterator[tuple[np.ndarray, np.ndarray]]  # samples (batch, features) and classes (batch,)


@dataclass(frozen=True)
class Known:
    """Samples with their classes.

    Attributes:
        x: (n, features).
        label: index of the class of each, (n,).
    """

    x: np.ndarray
    label: np.ndarray

    def batches(self, *seeds: int) -> Batches:
        """All samples again and again without end, in orders that are a function of the seeds."""
        rng, size = np.random.default_rng(seeds), min(BATCH, len(self.x))
        while True:
            order = rng.permutation(len(self.x))
            for start in range(0, len(order) - size + 1, size):
                rows = np.sort(order[start : start + size])
                yield self.x[rows], self.label[rows]


@dataclass(frozen=True)
class Form:
    """What a classifier takes and tells.

    Attributes:
        shape: channels, height, width; of no pictures (1, 1, features).
        n_classes: of the labels.
        small_channels: of the two convolutions of the `small` net.
    """

    shape: tuple[int, int, int]
    n_classes: int
    small_channels: tuple[int, int] = (10, 20)


def usable(names: Sequence[Classifier], image_shape: tuple[int, int, int] | None) -> tuple[Classifier, ...]:
    """The classifiers that the data allow: `linear` alone unless they are pictures of 16 pixels a side."""
    if image_shape is None or min(image_shape[1:]) < LEAST_SIDE:
        return ("linear",)
    return tuple(names)


def make_net(name: Classifier, form: Form) -> nn.Module:
    """An untrained classifier of samples (n, channels, height, width), its weights from torch's global random state."""
    (channels, *size), n_classes = form.shape, form.n_classes
    if name == "linear":
        n = channels * size[0] * size[1]
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(n, affine=False), nn.Linear(n, n_classes))
    if name == "small":
        height, width = (((side - 4) // 2 - 4) // 2 for side in size)
        first, second = form.small_channels
        return nn.Sequential(
            nn.Conv2d(channels, first, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(first, second, 5), nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(second * height * width, 50), nn.ReLU(), nn.Dropout(), nn.Linear(50, n_classes),
        )  # fmt: skip

    def block(n_in: int, n_out: int) -> list[nn.Module]:
        parts: list[nn.Module] = []
        for source, stride in ((n_in, 2), (n_out, 1)):
            parts += [nn.Conv2d(source, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        return parts

    height, width = (-(-side // 4) for side in size)
    return nn.Sequential(
        *block(channels, 24), *block(24, 48),
        nn.Flatten(), nn.Linear(48 * height * width, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, n_classes),
    )  # fmt: skip


def fit_classifier(
    name: Classifier,
    batches: Batches,
    n_steps: int,
    form: Form,
    seed: int,
) -> Judge:
    """A classifier trained by Adam, its step falling to 0 along a half cosine.

    Args:
        name: which.
        batches: as many as there are steps, at least.
        n_steps: of training.
        form: what it takes and tells.
        seed: of weights and dropout.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make_net(name, form).to(**LAYOUT)
        optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
        net.train()
        for x, label in islice(batches, n_steps):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(net(_as_tensor(x, form.shape)), torch.from_numpy(label)).backward()
            optimiser.step()
            schedule.step()
    net.eval()

    @torch.no_grad()
    def judge(x: np.ndarray) -> np.ndarray:
        parts = [net(_as_tensor(x[start : start + CHUNK], form.shape)).argmax(1) for start in range(0, len(x), CHUNK)]
        return np.asarray(torch.cat(parts).numpy()) if parts else np.zeros(0, dtype=int)

    return judge


def _as_tensor(values: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    x = torch.from_numpy(np.asarray(values, dtype=np.float32)).reshape(-1, *shape)
    return x.contiguous(**LAYOUT)


def mixed(real: Known, made: Known, share: float, seed: int) -> Batches:
    """Batches of real samples, of which each is replaced by an artificial one with probability `share`.

    As in Lesort et al. 2018.
    """
    rng, of_real, of_made = np.random.default_rng((seed, 2)), real.batches(seed, 0), made.batches(seed, 1)
    while True:
        yield next(of_made if rng.random() < share else of_real)


def artificial_scores(
    real: Known,
    test: Known,
    made: Known,
    form: Form,
    shares: Sequence[float],
    names: Sequence[Classifier],
    n_steps: int,
    seed: int,
    of_real: Mapping[Classifier, Judge] | None = None,
) -> dict[str, float]:
    """Accuracy on held-out real samples of classifiers trained on a mixture of real and artificial ones.

    Args:
        real: training samples.
        test: held out.
        made: artificial ones.
        form: what a classifier takes and tells.
        shares: τ, share of artificial batches; 0 is scored as `accuracy_real_NAME`.
        names: which classifiers.
        n_steps: of training, whatever the share.
        seed: of weights and batches.
        of_real: classifiers that are trained already as share 0 would be.

    Returns:
        accuracy_real_NAME, accuracy_tau_SHARE_NAME.
    """
    scores, known = {}, of_real or {}
    for name in names:
        for share in shares:
            if share or name not in known:
                judge = fit_classifier(name, mixed(real, made, share, seed), n_steps, form, seed)
            else:
                judge = known[name]
            metric = f"accuracy_tau_{float(share)}_{name}" if share else f"accuracy_real_{name}"
            scores[metric] = float((judge(test.x) == test.label).mean())
    return scores
