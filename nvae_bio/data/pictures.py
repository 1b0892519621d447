"""Folders of pictures, read with Pillow."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from nvae_bio import schema
from nvae_bio.config import ImagesSettings
from nvae_bio.data.files import read_file
from nvae_bio.data.inside import check_links
from nvae_bio.data.pixels import fit_images, pack_images, to_unit
from nvae_bio.data.removed import RemovalLog
from nvae_bio.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
COLOUR = {
    "P": "RGBA",
    "PA": "RGBA",
    "LA": "RGBA",
    "RGBA": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}


def read_folder(folder: Path, settings: ImagesSettings, log: RemovalLog) -> AnnData:
    """PNG, JPEG or TIFF pictures, one subfolder a class; names are paths inside the folder.

    Other files are left out and counted, hidden ones are overlooked.

    Raises:
        UserError: no pictures, links out of the folder, one that cannot be read, or differing shapes.
    """
    check_links(folder)
    files = sorted(path for path in folder.glob("*/*") if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in ENDINGS]
    if not pictures:
        raise UserError(f"{folder}: no pictures; expected one subfolder a class with {', '.join(ENDINGS)} in it")
    log.add("read", "samples", f"no picture ({', '.join(ENDINGS)})", len(files) - len(pictures), len(pictures))
    first = read_picture(pictures[0], settings)
    images = np.empty((len(pictures), *first.shape), dtype=np.float32)
    for index, path in enumerate(pictures):
        image = read_picture(path, settings)
        if image.shape != first.shape:
            raise UserError(differing(str(pictures[0]), first.shape, str(path), image.shape))
        images[index] = image
    labels = [path.parent.name for path in pictures]
    names = [path.relative_to(folder).as_posix() for path in pictures]
    return pack_images(images, pd.DataFrame({schema.LABEL: labels}, index=names))


def differing(one: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> str:
    """The message for two images that cannot stand in one matrix; shapes are (channels, height, width)."""
    shown = ["×".join(map(str, s)) for s in (shape, other_shape)]
    return (
        f"{other}: image of {shown[1]} (channels × height × width), but {one} has {shown[0]}; "
        "allowed: one shape; set resize: [height, width] (and grey: true for mixed colours)"
    )


def read_picture(path: Path, settings: ImagesSettings) -> np.ndarray:
    """One picture, (channels, height, width) float32 in [0, 1].

    Palettes become RGB; transparent pixels become black; 16-bit grey keeps its depth, 16-bit colour is read as 8-bit.

    Raises:
        UserError: several frames, an unknown kind of pixel, or a broken file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # no picture of samples is that large
        pixels = read_file(path, _pixels, "a picture")
    stack = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    fitted: np.ndarray = fit_images(to_unit(stack, str(path))[None], settings, str(path))[0]
    return fitted


def _pixels(path: Path) -> np.ndarray:
    """(height, width) or (height, width, 3), as stored."""
    with Image.open(path) as image:
        n_frames = getattr(image, "n_frames", 1)
        if n_frames > 1:
            raise UserError(f"{path}: {n_frames} frames in one file; allowed: one image a file")
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)
        if image.mode == "I":
            raise UserError(f"{path}: 32-bit integer pixels; allowed: 8- or 16-bit, or floats in [0, 1]")
        mode = image.mode
        converted = image.convert(COLOUR[mode]) if mode in COLOUR else image.copy()
    if converted.mode == "RGBA":
        black = Image.new("RGBA", converted.size, (0, 0, 0, 255))
        converted = Image.alpha_composite(black, converted).convert("L" if mode == "LA" else "RGB")
    return np.asarray(converted)
