"""Images as arrays: scale, colour, crop, resize, and one column a pixel."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from nvae_bio import schema
from nvae_bio.config import ImagesSettings
from nvae_bio.errors import UserError

EDGE, NEAR_BINARY = 0.1, 0.5  # how near 0 and 1 are, and the share of such pixels (MNIST .91, Fashion-MNIST .60)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as Pillow's mode L


def to_unit(pixels: np.ndarray, where: str) -> np.ndarray:
    """Pixels as float32 in [0, 1]: 8- and 16-bit integers by their range, booleans as 0 and 1, floats as they are.

    Raises:
        UserError: another type, or floats outside [0, 1], NaN or infinite.
    """
    if pixels.dtype in (np.uint8, np.uint16):
        scaled: np.ndarray = np.divide(pixels, np.iinfo(pixels.dtype).max, dtype=np.float32)
        return scaled
    if pixels.dtype == bool:
        return pixels.astype(np.float32)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UserError(f"{where}: pixels of type {pixels.dtype}; allowed: uint8, uint16, bool, or floats in [0, 1]")
    if not np.isfinite(pixels).all():
        raise UserError(f"{where}: {int((~np.isfinite(pixels)).sum())} pixels are NaN or infinite; allowed: 0 to 1")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        raise UserError(f"{where}: float pixels from {low:g} to {high:g}; allowed: 0 to 1, or 8- or 16-bit integers")
    return pixels.astype(np.float32)


def fit_images(images: np.ndarray, settings: ImagesSettings, where: str) -> np.ndarray:
    """Grey, then the central crop, the resize and the threshold that the settings ask for.

    Args:
        images: (n, channels, height, width), in [0, 1].
        settings: `grey`, `crop`, `resize` and `binarise`.
        where: the file, for messages.

    Returns:
        (n, channels, height, width) float32, in [0, 1].

    Raises:
        UserError: a crop larger than the image, or a grey of other than 1 or 3 channels.
    """
    if settings.grey and images.shape[1] != 1:
        if images.shape[1] != len(LUMA):
            raise UserError(f"{where}: grey: needs 3 channels (RGB), not {images.shape[1]}")
        images = np.tensordot(images, LUMA, axes=(1, 0))[:, None]
    if settings.crop is not None:
        (height, width), (rows, columns) = images.shape[2:], settings.crop
        if rows > height or columns > width:
            raise UserError(f"{where}: crop: {rows}×{columns} is larger than the image of {height}×{width} pixels")
        top, left = (height - rows) // 2, (width - columns) // 2
        images = images[:, :, top : top + rows, left : left + columns]
    if settings.resize is not None and images.shape[2:] != settings.resize:
        images = _resize(images, settings.resize)
    fitted: np.ndarray = np.clip(images, 0, 1)  # weights of a filter add up to 1 only to rounding
    return fitted if settings.binarise is None else (fitted >= settings.binarise).astype(np.float32)


def _resize(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pillow's bilinear filter, which averages over source pixels when it shrinks; channel by channel in float32."""
    resized = np.empty((*images.shape[:2], *shape), dtype=np.float32)
    for index in np.ndindex(images.shape[:2]):
        plane = Image.fromarray(np.ascontiguousarray(images[index], dtype=np.float32))
        resized[index] = np.asarray(plane.resize(shape[::-1], Image.Resampling.BILINEAR))
    return resized


def pack_images(images: np.ndarray, obs: pd.DataFrame) -> AnnData:
    """Images with one column a pixel: channel by channel, row by row.

    Args:
        images: (n, channels, height, width) float32, in [0, 1].
        obs: one row an image, index = names.

    Returns:
        X (n, channels × height × width) and var with channel, row and column.
    """
    channel, row, column = (axis.ravel() for axis in np.indices(images.shape[1:]))
    names = [f"{c}-{r}-{k}" for c, r, k in zip(channel, row, column, strict=True)]
    var = pd.DataFrame({schema.CHANNEL: channel, schema.ROW: row, schema.COLUMN: column}, index=names)
    return AnnData(np.ascontiguousarray(images.reshape(len(images), -1), dtype=np.float32), obs=obs, var=var)


def is_near_binary(pixels: np.ndarray) -> bool:
    """Whether pixels in [0, 1] are mostly ink or paper: half of them below 0.1 or above 0.9."""
    return float(np.mean((pixels < EDGE) | (pixels > 1 - EDGE))) >= NEAR_BINARY


def image_shape(var: pd.DataFrame) -> tuple[int, int, int]:
    """(channels, height, width) of packed images."""
    channels, height, width = (int(var[key].max()) + 1 for key in (schema.CHANNEL, schema.ROW, schema.COLUMN))
    return channels, height, width
