"""Real images, transformed: all classes alike, or some classes alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import ndimage

from nvae_bio import schema
from nvae_bio.config import ImagesSimulation, Transformation
from nvae_bio.data.pixels import image_shape, pack_images
from nvae_bio.data.source import source_names
from nvae_bio.errors import UserError, listed
from nvae_bio.prepare import prepare_data
from nvae_bio.simulate.planted import amounts, draw_activities, named, provenance, stream, truth_record

NEIGHBOURS = (3, 3)  # of a pixel, for thickness


def affine_maps(n: int, total: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where each image's pixels go, as (row, column) from the centre: slanted, scaled, turned, then shifted.

    Args:
        n: number of images.
        total: as from `amounts`.

    Returns:
        Matrices (n, 2, 2) and shifts (n, 2).

    >>> affine_maps(1, {"rotation": np.array([90.0])})[0].round(6).tolist()
    [[[0.0, -1.0], [1.0, 0.0]]]
    """
    zero = np.zeros(n)
    angle, slant, scale = np.radians(total.get("rotation", zero)), total.get("slant", zero), total.get("scale", zero)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lean = np.array([[zero + 1, zero], [-slant, zero + 1]])
    matrix = np.einsum("ijn,jkn,n->nik", turn, lean, np.exp(scale))
    return matrix, np.stack([total.get("shift_down", zero), total.get("shift_right", zero)], axis=1)


def _move(plane: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """One channel under an affine map about its centre, interpolated by cubic splines; what comes in is 0."""
    if np.array_equal(matrix, np.eye(2)) and not shift.any():
        return plane
    centre, inverse = (np.array(plane.shape) - 1) / 2, np.linalg.inv(matrix)
    moved: np.ndarray = ndimage.affine_transform(plane, inverse, centre - inverse @ (centre + shift), order=3)
    return moved


def _thicken(plane: np.ndarray, amount: float) -> np.ndarray:
    """A mixture of a channel and its grey dilation (above 0) or erosion (below 0) over 3 × 3 pixels."""
    if amount == 0:
        return plane
    extreme = ndimage.grey_dilation if amount > 0 else ndimage.grey_erosion
    weight = min(abs(amount), 1.0)
    mixed: np.ndarray = (1 - weight) * plane + weight * extreme(plane, NEIGHBOURS)
    return mixed


def transform_images(images: np.ndarray, activity: np.ndarray, transformations: Sequence[Transformation]) -> np.ndarray:
    """Each image as its activities say: thickness first, then all moves at once, then brightness.

    Args:
        images: (n, channels, height, width), in [0, 1], 0 is the background.
        activity: (n, transformations).
        transformations: what the columns are.

    Returns:
        The same shape, float32 in [0, 1]; an image whose activities are all 0 keeps every bit.
    """
    n, zero = len(images), np.zeros(len(images))
    total = amounts(activity, transformations)
    matrix, shift = affine_maps(n, total)
    thickness, gain = total.get("thickness", zero), np.exp(total.get("brightness", zero))
    changed = np.empty(images.shape, dtype=np.float32)
    for i, channel in np.ndindex(images.shape[:2]):
        plane = _move(_thicken(images[i, channel], float(thickness[i])), matrix[i], shift[i])
        changed[i, channel] = np.clip(plane * np.float32(gain[i]), 0, 1)
    return changed


def _choose(prepared: AnnData, settings: ImagesSimulation, where: str) -> np.ndarray:
    """Rows of the source, at random: as many of each class as the settings ask for, class after class.

    Where originals are fewer, each is there as often as the others, or once more.

    Raises:
        UserError: a class that the source does not have, or more images than it has of it.
    """
    label, rows = prepared.obs[schema.LABEL], []
    for name, n in settings.classes.items():
        members, n_originals = np.flatnonzero((label == name).to_numpy()), min(n, settings.n_originals or n)
        if n_originals > len(members):
            raise UserError(
                f"{where}: classes.{name}: {n_originals} images are asked for; the source has {len(members)} of this "
                f"class; classes of the source: {listed(label.cat.categories)}"
            )
        originals = stream(settings.seed, f"images of {name}").choice(members, n_originals, replace=False)
        rows.append(np.resize(originals, n))
    return np.concatenate(rows)


def _distinct(names: pd.Index) -> pd.Index:
    """A name that is there again gets the number of times that it was there before.

    >>> _distinct(pd.Index(["a", "b", "a", "a"])).tolist()
    ['a', 'b', 'a.1', 'a.2']
    """
    before = pd.Series(names).groupby(names).cumcount()
    return pd.Index([f"{name}.{n}" if n else name for name, n in zip(names, before, strict=True)])


def simulate_images(settings: ImagesSimulation, source: AnnData | None = None) -> tuple[AnnData, AnnData]:
    """Images whose transformations are known.

    Args:
        settings: the simulation.
        source: real images to use instead of `settings.source.builtin` or `.paths`; never changed.

    Returns:
        The data as a user has them: X pixels float32 in [0, 1], var `channel`, `row`, `column`, obs `label`; samples
        have the source's names, with a number behind that of a picture which is there again. And the truth of the same
        samples: obs `label`, obsm["activity"] (n, transformations), uns["nvae_truth"].

    Raises:
        UserError: a source that cannot be prepared, or that has too few images of a class.
    """
    in_memory = source is not None
    prepared = prepare_data(settings.source, source)
    rows = _choose(prepared, settings, listed(source_names(settings.source, in_memory), limit=3))
    names, classes = _distinct(prepared.obs_names[rows]), list(settings.classes)
    label = np.repeat(np.arange(len(classes)), list(settings.classes.values()))
    activity = draw_activities(label, names, settings.transformations, settings)
    pixels = prepared.X[rows].reshape(-1, *image_shape(prepared.var))
    obs = pd.DataFrame({schema.LABEL: named(label, classes)}, index=names)
    data = pack_images(transform_images(pixels, activity.to_numpy(), settings.transformations), obs)
    data.uns[schema.SIMULATION] = provenance(settings, in_memory)
    truth = AnnData(
        obs=obs, var=data.var, obsm={schema.ACTIVITY: activity}, uns={schema.TRUTH: truth_record(settings, in_memory)}
    )
    return data, truth
