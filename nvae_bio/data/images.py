"""Readers of images. Each returns one column a pixel, scaled to [0, 1]."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import idx2numpy
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import ImagesSettings
from nvae_bio.data.files import read_file, read_h5ad
from nvae_bio.data.join import join_parts
from nvae_bio.data.matrix import check_sparse
from nvae_bio.data.names import names_may_repeat, part_names, unique_names
from nvae_bio.data.pictures import differing, read_folder
from nvae_bio.data.pixels import fit_images, image_shape, pack_images, to_unit
from nvae_bio.data.removed import RemovalLog
from nvae_bio.errors import UserError, listed

IDX_NAME = re.compile(r"(ubyte|\.idx\d?)(\.gz)?$", re.IGNORECASE)
FORMATS = "IDX (…-ubyte, .idx, plain or .gz), .npz, .h5ad, or a folder with one subfolder a class"
PARTS = {"train": "train", "t10k": "test", "test": "test", "val": "validation"}  # how file names and keys begin


def read_images(settings: ImagesSettings, log: RemovalLog) -> AnnData:
    """All files of the settings, one after the other; `obs["batch"]` only where the settings name the files.

    Raises:
        UserError: a file that is missing, broken, of an unknown kind, or whose images differ in shape from the others'.
    """
    names, paths = part_names(settings.paths), settings.data_paths
    if settings.label_paths and len(settings.label_paths) != len(paths):
        raise UserError(f"label_paths: {len(settings.label_paths)} files for {len(paths)} in paths; allowed: one each")
    labels: list[str] | list[None] = settings.label_paths or [None] * len(paths)
    with names_may_repeat():
        parts = [_read(Path(path), label, settings, log) for path, label in zip(paths, labels, strict=True)]
    for path, part in zip(paths, parts, strict=True):
        part.obs_names = unique_names(part.obs_names, "sample", path, settings.make_unique)
        if image_shape(part.var) != image_shape(parts[0].var):
            raise UserError(differing(paths[0], image_shape(parts[0].var), path, image_shape(part.var)))
    return join_parts(parts, names, settings, log, what="features")


def _read(path: Path, label_path: str | None, settings: ImagesSettings, log: RemovalLog) -> AnnData:
    name = path.name.lower()
    if IDX_NAME.search(name):
        return _read_idx(path, label_path, settings)
    if name.endswith(".npz"):
        return _read_npz(path, settings)
    if name.endswith(".h5ad"):
        return images_from_anndata(read_h5ad(path), settings, str(path))
    if path.is_dir():
        return read_folder(path, settings, log)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected {FORMATS}")
    raise UserError(f"{path}: unknown file ending; allowed: {FORMATS}")


def images_from_anndata(adata: AnnData, settings: ImagesSettings, where: str) -> AnnData:
    """Packed images in a new object; `adata` is not changed.

    Args:
        adata: one column a pixel; var has channel, row, column, or `settings.image_shape` says how columns run
            (channel by channel, row by row).
        settings: `image_shape`, `grey`, `crop`, `resize`, `binarise`.
        where: the file, for messages.

    Raises:
        UserError: columns that do not make up an image, or pixels of another scale.
    """
    if adata.X is None or 0 in adata.shape:
        raise UserError(f"{where}: X holds no images")
    check_sparse(adata.X, f"{where}: matrix 'X'")
    values = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    axes = [schema.CHANNEL, schema.ROW, schema.COLUMN]
    if set(axes) <= set(adata.var.columns):
        order = np.lexsort([adata.var[axis].to_numpy() for axis in reversed(axes)])
        shape = image_shape(adata.var)
        grid = np.indices(shape).reshape(3, -1).T
        if not np.array_equal(adata.var[axes].to_numpy()[order], grid):
            raise UserError(f"{where}: var {listed(axes)} do not name each pixel of one {shape} image once")
        values = values[:, order]
    elif settings.image_shape is None:
        raise UserError(f"{where}: var has no {listed(axes)}; set image_shape: [channels, height, width]")
    else:
        shape = settings.image_shape
        if np.prod(shape) != adata.n_vars:
            raise UserError(
                f"{where}: image_shape: {list(shape)} is {np.prod(shape)} pixels, but X has {adata.n_vars} columns"
            )
    images = to_unit(values, where).reshape(-1, *shape)
    obs = adata.obs.set_axis(unique_names(adata.obs_names, "sample", where, settings.make_unique), axis=0)
    return pack_images(fit_images(images, settings, where), obs.copy())


def _pack(images: np.ndarray, obs: pd.DataFrame, settings: ImagesSettings, where: str) -> AnnData:
    """Images (n, height, width) or (n, height, width, channels) of any accepted type, packed."""
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"{where}: images of shape {images.shape}; allowed: (n, height, width) or (n, height, width, channels)"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(f"{where}: images of shape {images.shape} seem to have channels first; allowed: channels last")
    stack = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return pack_images(fit_images(to_unit(stack, where), settings, where), obs)


def _part(name: str) -> str | None:
    return next((part for start, part in PARTS.items() if name.lower().startswith(start)), None)


def _read_idx(path: Path, label_path: str | None, settings: ImagesSettings) -> AnnData:
    """IDX images with labels from their own file; `obs["source_split"]` by MNIST's file names."""
    images = read_file(path, idx_array, "IDX images")
    if label_path is None:
        beside = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
        if beside == path.name:
            raise UserError(f"{path}: no MNIST name to find its labels by; set label_paths")
        labels_at = path.with_name(beside)
    else:
        labels_at = Path(label_path)
    labels = read_file(labels_at, idx_array, "IDX labels")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{labels_at}: labels of shape {labels.shape} for {len(images)} images in {path}; allowed: one each"
        )
    prefix = re.split(r"[-.]", path.name)[0]
    obs = pd.DataFrame({schema.LABEL: labels}, index=[f"{prefix}-{i}" for i in range(len(labels))])
    part = _part(path.name)
    if part is not None:
        obs[schema.SOURCE_SPLIT] = part
    return _pack(images, obs, settings, str(path))


def idx_array(path: Path) -> np.ndarray:
    """All of an IDX file, plain or .gz."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        array: np.ndarray = idx2numpy.convert_from_file(file)
    return array


def _read_npz(path: Path, settings: ImagesSettings) -> AnnData:
    """MedMNIST's arrays (`train_images`, `train_labels`, …), or `image_key` with 1-D arrays of its length in obs."""
    arrays = read_file(path, _load_npz, "an .npz file of numpy arrays")
    parts = [name for name in ("train", "val", "test") if f"{name}_images" in arrays]
    if settings.image_key is None and parts:
        images = [arrays[f"{name}_images"] for name in parts]
        if len({image.shape[1:] for image in images}) > 1:
            raise UserError(
                f"{path}: {parts[0]}_images has shape {images[0].shape}, the others differ; allowed: one shape"
            )
        medmnist_obs = pd.concat([_medmnist_obs(arrays, name, str(path)) for name in parts])
        return _pack(np.concatenate(images), medmnist_obs, settings, str(path))
    key = settings.image_key
    if key is None or key not in arrays:
        raise UserError(f"{path}: image_key: no array {key!r}; allowed: {listed(arrays)}")
    columns = {
        name: values for name, values in arrays.items() if name != key and values.shape[:1] == arrays[key].shape[:1]
    }
    flat = {name: values.reshape(-1) for name, values in columns.items() if values.size == len(values)}
    flat = {name: values.astype(str) if values.dtype.kind == "S" else values for name, values in flat.items()}
    obs = pd.DataFrame(flat, index=[str(i) for i in range(len(arrays[key]))])
    return _pack(arrays[key], obs, settings, str(path))


def _medmnist_obs(arrays: dict[str, np.ndarray], name: str, where: str) -> pd.DataFrame:
    n_images, key = len(arrays[f"{name}_images"]), f"{name}_labels"
    if key not in arrays or arrays[key].size != n_images:
        shape = arrays[key].shape if key in arrays else None
        raise UserError(f"{where}: {key} has shape {shape}; allowed: one label for each of {n_images} images")
    index = [f"{name}-{i}" for i in range(n_images)]
    return pd.DataFrame({schema.LABEL: arrays[key].reshape(-1), schema.SOURCE_SPLIT: PARTS[name]}, index=index)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays but those that hold Python objects: these would run code when loaded. What is no array is left out."""
    arrays = {}
    with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
        for name in loaded.files:
            try:
                values = loaded[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
            else:
                if isinstance(values, np.ndarray):  # numpy gives the bytes of other members
                    arrays[name] = values
    return arrays
