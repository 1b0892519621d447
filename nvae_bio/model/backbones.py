"""Networks that know no probability: dense and convolutional trunks, and the table that picks them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from nvae_bio.errors import UserError

ImageShape = tuple[int, int, int]  # channels, height, width


def dense_layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear and ReLU between each pair of `widths`; maps (batch, widths[0]) to (batch, widths[-1]).

    Without layer norm: with it, held-out bounds on counts were several nats lower, and private blocks took up more of
    the shared variation.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class DenseTrunk(nn.Sequential):
    """`dense_layers` whose first one takes an offset before its ReLU: what covariates add to it."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(*dense_layers(widths))

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Features, (batch, widths[-1]), of x (batch, widths[0]) and an offset (…, widths[1])."""
        first, *layers = self
        hidden: Tensor = first(x) if offset is None else first(x) + offset
        for layer in layers:
            hidden = layer(hidden)
        return hidden


def halved_sizes(image: ImageShape, n_stages: int) -> list[tuple[int, int]]:
    """Height and width before the first stage and after each; a stage halves, rounding up.

    Raises:
        UserError: a side would be 1 before the last stage, which could then halve nothing.

    >>> halved_sizes((1, 28, 28), 2)
    [(28, 28), (14, 14), (7, 7)]
    """
    sizes = [image[1:]]
    for stage in range(n_stages):
        height, width = sizes[-1]
        if min(height, width) < 2:
            raise UserError(
                f"model.channels: {n_stages} stages are too many for images of {image[1]}×{image[2]} pixels, "
                f"each halves them; at most {stage}"
            )
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class ConvTrunk(nn.Module):
    """Stride-2 convolutions, then dense layers; maps (batch, channels·height·width) to (batch, hidden[-1])."""

    def __init__(self, image: ImageShape, channels: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.image = image
        widths = [image[0], *channels]
        stages = [
            nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.GroupNorm(1, n_out), nn.ReLU())
            for n_in, n_out in pairwise(widths)
        ]
        self.stages = nn.Sequential(*stages, nn.Flatten())
        self.dense = DenseTrunk([channels[-1] * math.prod(halved_sizes(image, len(channels))[-1]), *hidden])

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Features of the images, (batch, hidden[-1]); the offset goes to the first dense layer."""
        features: Tensor = self.dense(self.stages(x.reshape(-1, *self.image)), offset)
        return features


class ConvHead(nn.Module):
    """The mirror of `ConvTrunk`, any size by cropping; maps (batch, hidden[0]) and a bias to (batch, pixels)."""

    def __init__(self, image: ImageShape, channels: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.sizes = halved_sizes(image, len(channels))[::-1]
        self.start = (channels[-1], *self.sizes[0])
        self.dense = dense_layers([*hidden, math.prod(self.start)])
        widths = [*channels[::-1], image[0]]
        self.stages = nn.ModuleList(
            nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, bias=index < len(channels) - 1)
            for index, (n_in, n_out) in enumerate(pairwise(widths))
        )

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """One output a pixel and channel, flattened channel by channel, row by row."""
        x: Tensor = self.dense(hidden).reshape(-1, *self.start)
        for index, stage in enumerate(self.stages):
            height, width = self.sizes[index + 1]
            x = stage(x if index == 0 else F.relu(x))[:, :, :height, :width]
        return x.flatten(1) + bias


class DenseHead(nn.Sequential):
    """Dense layers and a last linear one; maps (batch, hidden[0]) and a bias (n_outputs,) to (batch, n_outputs)."""

    def __init__(self, hidden: Sequence[int], n_outputs: int) -> None:
        super().__init__(*dense_layers(hidden), nn.Linear(hidden[-1], n_outputs, bias=False))

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """One output a feature; the bias is added within the product."""
        *layers, last = self
        for layer in layers:
            hidden = layer(hidden)
        assert isinstance(last, nn.Linear)
        return F.linear(hidden, last.weight, bias)


def make_trunk(
    backbone: str, n_features: int, image: ImageShape | None, hidden: Sequence[int], channels: Sequence[int]
) -> nn.Module:
    """A network from samples, and an offset of its first dense layer, to (batch, hidden[-1])."""
    if backbone == "conv":
        assert image is not None
        return ConvTrunk(image, channels, hidden)
    return DenseTrunk([n_features, *hidden])


def make_head(
    backbone: str, n_outputs: int, image: ImageShape | None, hidden: Sequence[int], channels: Sequence[int]
) -> nn.Module:
    """A network from (batch, hidden[-1]) and a bias (n_outputs,) to (batch, n_outputs), the mirror of the trunk."""
    mirrored = list(hidden[::-1])
    if backbone == "conv":
        assert image is not None
        return ConvHead(image, channels, mirrored)
    return DenseHead(mirrored, n_outputs)
