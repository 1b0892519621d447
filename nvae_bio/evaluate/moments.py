"""Shared factors of pictures that can be measured without a label: moments of the brightness."""

from __future__ import annotations

import numpy as np
import pandas as pd

LEAST = 1e-6  # brightness of an empty picture


def image_moments(pixels: np.ndarray, shape: tuple[int, int, int]) -> pd.DataFrame:
    """Slant, width, height and intensity of each picture, (n, 4).

    With brightness as mass about its centre: intensity is the mean pixel; slant is the slope of x on y, Σxy / Σy², in
    pixels to the right a row upwards, by which an affine map makes the picture upright; height is the standard
    deviation of y, and width that of x once the picture is upright, in pixels. Channels are averaged.

    Args:
        pixels: (n, features), one column a pixel, channel by channel.
        shape: channels, height and width.

    >>> bar = np.eye(5)[::-1].reshape(1, 25)  # leans to the right
    >>> image_moments(bar, (1, 5, 5)).round(2).to_dict("records")
    [{'slant': 1.0, 'width': 0.0, 'height': 1.41, 'intensity': 0.2}]
    """
    channels, height, width = shape
    mass = pixels.reshape(-1, channels, height, width).mean(1).astype(float)
    total = np.maximum(mass.sum((1, 2)), LEAST)
    up, right = np.arange(height)[::-1, None] + np.zeros((1, width)), np.arange(width)[None, :] + np.zeros((height, 1))
    y, x = (values - ((mass * values).sum((1, 2)) / total)[:, None, None] for values in (up[None], right[None]))
    xx, xy, yy = ((mass * part).sum((1, 2)) / total for part in (x * x, x * y, y * y))
    slant = xy / np.maximum(yy, LEAST)
    upright = np.maximum(xx - slant * xy, 0)
    return pd.DataFrame(
        {"slant": slant, "width": np.sqrt(upright), "height": np.sqrt(yy), "intensity": mass.mean((1, 2))}
    )
