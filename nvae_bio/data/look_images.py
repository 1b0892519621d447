"""A look into pictures: IDX and .npz files, folders."""

from __future__ import annotations

import gzip
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from nvae_bio import schema
from nvae_bio.data.files import read_file
from nvae_bio.data.images import PARTS, idx_array
from nvae_bio.data.inside import check_links
from nvae_bio.data.look import Look
from nvae_bio.data.pictures import ENDINGS
from nvae_bio.errors import UserError

SEEN_PICTURES = 40  # of a folder whose sizes are looked at
MEDMNIST = ("train", "val", "test")


def look_into_idx(path: Path, labels: Path | None = None) -> Look:
    """The header of an IDX file of pictures, and the labels that lie beside it under MNIST's name."""
    sizes = read_file(path, _idx_sizes, "IDX images")
    if len(sizes) not in (3, 4):
        raise UserError(f"{path}: {len(sizes)} dimensions; expected IDX images, 3 or 4")
    beside = labels or path.with_name(
        path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    )
    notes: tuple[str, ...] = ()
    obs = pd.DataFrame(index=range(sizes[0]))
    if beside == path or not beside.is_file():
        notes = (f"{path.name}: its labels are not beside it under MNIST's name: name them in label_paths",)
    else:
        obs[schema.LABEL] = read_file(beside, idx_array, "IDX labels").reshape(-1)
        part = next((part for start, part in PARTS.items() if path.name.lower().startswith(start)), None)
        if part is not None:
            obs[schema.SOURCE_SPLIT] = part
    shape = (sizes[3] if len(sizes) == 4 else 1, sizes[1], sizes[2])
    return Look(path, "images", "IDX images", sizes[0], obs, shape=shape, notes=notes)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _idx_sizes(path: Path) -> tuple[int, ...]:
    with _open(path) as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0":
            raise ValueError("no IDX header")
        return tuple(int(size) for size in np.frombuffer(file.read(4 * magic[3]), ">i4"))


def look_into_npz(path: Path) -> Look:
    """The shapes of the arrays of an .npz, and those of one number a picture."""
    shapes = read_file(path, _npz_shapes, "an .npz file of numpy arrays")
    parts = [part for part in MEDMNIST if f"{part}_images" in shapes]
    if parts:
        pieces = []
        for part in parts:
            label = _npz_array(path, f"{part}_labels").reshape(-1) if f"{part}_labels" in shapes else None
            one = pd.DataFrame(
                {schema.LABEL: label, schema.SOURCE_SPLIT: PARTS[part]}, index=range(shapes[f"{part}_images"][0])
            )
            pieces.append(one)
        obs = pd.concat(pieces, ignore_index=True)
        return Look(
            path, "images", "MedMNIST's .npz", len(obs), obs, shape=_picture_shape(shapes[f"{parts[0]}_images"])
        )
    images = {name: shape for name, shape in shapes.items() if len(shape) in (3, 4)}
    if not images:
        raise UserError(f"{path}: no array of pictures in it (n, height, width[, channels]); found {', '.join(shapes)}")
    key = max(images, key=lambda name: np.prod(images[name]))
    n = images[key][0]
    flat = [name for name, shape in shapes.items() if shape[:1] == (n,) and np.prod(shape) == n]
    columns = {name: _npz_array(path, name).reshape(-1) for name in flat}
    obs = pd.DataFrame({name: values for name, values in columns.items() if len(values) == n}, index=range(n))
    obs = obs.apply(lambda column: column.str.decode("utf-8", "replace") if _is_bytes(column) else column)
    settings = {"image_key": key}
    return Look(path, "images", "pictures in an .npz", n, obs, shape=_picture_shape(images[key]), settings=settings)


def _is_bytes(column: pd.Series) -> bool:
    return len(column) > 0 and isinstance(column.iloc[0], bytes)


def _picture_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[3] if len(shape) == 4 else 1, shape[1], shape[2])


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of numbers or text, from the headers alone."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                if not name.endswith(".npy"):
                    continue
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if not dtype.hasobject:
                shapes[name.removesuffix(".npy")] = shape
    return shapes


def _npz_array(path: Path, name: str) -> np.ndarray:
    def reader(path: Path) -> np.ndarray:
        with np.load(path, allow_pickle=False) as loaded:
            values: np.ndarray = loaded[name]
        return values

    return read_file(path, reader, "an .npz file of numpy arrays")


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder with one subfolder a class."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.suffix.lower() in ENDINGS]


def look_into_pictures(folder: Path) -> Look:
    """The classes of a folder of pictures, and the sizes of some of them."""
    check_links(folder)
    files = picture_files(folder)
    if not files:
        raise UserError(f"{folder}: no pictures; expected one subfolder a class with {', '.join(ENDINGS)} in it")
    step = max(len(files) // SEEN_PICTURES, 1)
    shapes = Counter(read_file(path, _picture_form, "a picture") for path in files[::step])
    shape, notes = shapes.most_common(1)[0][0], []
    settings: dict[str, Any] = {}
    if len({channels for channels, _, _ in shapes}) > 1:
        notes.append("some pictures are grey and some in colour: all are made grey")
        settings["grey"] = True
        shape = (1, *shape[1:])
    if len({sizes[1:] for sizes in shapes}) > 1:
        low, high = min(sizes[1:] for sizes in shapes), max(sizes[1:] for sizes in shapes)
        notes.append(f"pictures differ in size, from {low[0]}×{low[1]} to {high[0]}×{high[1]} pixels: all are resized")
        settings["resize"] = list(shape[1:])
    obs = pd.DataFrame({schema.LABEL: [path.parent.name for path in files]})
    return Look(
        folder, "images", "a folder of pictures", len(files), obs, shape=shape, settings=settings, notes=tuple(notes)
    )


def _picture_form(path: Path) -> tuple[int, int, int]:
    """Channels, height and width of a picture, from its header."""
    with Image.open(path) as image:
        grey = image.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I", "F")
        return (1 if grey else 3, image.height, image.width)
