"""A look into files of samples: what is in them and how much, without reading a matrix whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from nvae_bio import schema
from nvae_bio.data.counts import EXACT
from nvae_bio.data.files import read_file
from nvae_bio.data.inside import check_hdf5, check_links
from nvae_bio.data.stream import opened, stored_matrix
from nvae_bio.errors import UserError

SEEN_VALUES = 200_000  # of a matrix that are looked at, about: from its start, its middle and its end
SEEN_ROWS = 1_500  # samples that are taken as examples
PLACES = 3  # where it is looked at
AXES = (schema.CHANNEL, schema.ROW, schema.COLUMN)


@dataclass(frozen=True)
class MatrixLook:
    """One matrix of a file.

    Attributes:
        name: `X`, `raw` or `layers/NAME`, as `matrix` of a data set names it.
        n_features: its columns.
        n_stored: values that the file stores of it: all, or those that are not 0.
        values: some of these, from several places, (values,).
        rows: some samples, CSR or dense, (rows, features); None where reading them would mean reading all.
        names: of the features.
    """

    name: str
    n_features: int
    n_stored: int
    values: np.ndarray
    rows: Any = None
    names: pd.Index = field(default_factory=lambda: pd.Index([]))

    @property
    def wrong(self) -> str | None:
        """Why these are no counts; None where all that were seen could be."""
        return not_counts(self.values)


@dataclass(frozen=True)
class Look:
    """What was seen of one file or folder.

    Attributes:
        path: of it.
        kind: `images`, or `matrix` of counts or features.
        form: what the file is, in words.
        n_samples: how many.
        obs: of all samples: the columns that could say something of them; it may have none.
        matrices: those that could hold counts or features; none of images.
        shape: of images: channels, height, width; None of others.
        settings: keys of a data set that reading this file takes, such as `image_key`.
        notes: what a user should know of it.
    """

    path: Path
    kind: str
    form: str
    n_samples: int
    obs: pd.DataFrame
    matrices: tuple[MatrixLook, ...] = ()
    shape: tuple[int, int, int] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def not_counts(values: np.ndarray) -> str | None:
    """Why values are no counts, with an example; None where they could be.

    >>> not_counts(np.array([0.0, 1.5]))
    'not whole (such as 1.5)'
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        return "missing or infinite, some of them"
    if (values < 0).any():
        return f"negative, some of them (such as {values[values < 0][0]:.4g})"
    fractional = values[values != np.round(values)]
    if len(fractional):
        return f"not whole (such as {fractional[0]:.4g})"
    return f"above {EXACT}" if len(values) and values.max() > EXACT else None


def pieces(n: int, size: int) -> Iterator[slice]:
    """Slices of the start, the middle and the end of `n`, of `size` together at most.

    >>> [(piece.start, piece.stop) for piece in pieces(100, 30)]
    [(0, 10), (45, 55), (90, 100)]
    """
    if n <= size:
        yield slice(0, n)
        return
    each = max(size // PLACES, 1)
    for place in range(PLACES):
        start = round(place * (n - each) / (PLACES - 1))
        yield slice(start, start + each)


def look_into_anndata(path: Path) -> Look:
    """What is in an .h5ad or .zarr; obs is read whole, of each matrix a few rows.

    Raises:
        UserError: unreadable, or with data in other files.
    """
    return read_file(path, _look_into_anndata, "AnnData")


def _look_into_anndata(path: Path) -> Look:
    check_links(path) if path.is_dir() else check_hdf5(path)
    with opened(path) as group:
        if "obs" not in group or "var" not in group:
            raise UserError(f"{path}: no obs and var; expected AnnData")
        obs, var = _frame(group["obs"]), _frame(group["var"])
        matrices = tuple(_matrices(group, var))
    form = "AnnData in a .zarr folder" if path.is_dir() else "AnnData in an .h5ad file"
    if not matrices:
        raise UserError(f"{path}: holds no matrix of numbers; allowed: X, raw or a layer")
    if set(AXES) <= set(var.columns):
        shape = tuple(int(var[axis].max()) + 1 for axis in AXES)
        return Look(path, "images", form, len(obs), obs, matrices, (shape[0], shape[1], shape[2]))
    return Look(path, "matrix", form, len(obs), obs, matrices)


def _frame(stored: Any) -> pd.DataFrame:
    """obs or var."""
    frame: pd.DataFrame = read_elem(stored)
    return frame


def _matrices(group: Any, var: pd.DataFrame) -> Iterator[MatrixLook]:
    """Every matrix of numbers, X first, then layers, then raw."""
    places = {"X": "X"} | {f"layers/{name}": f"layers/{name}" for name in group.get("layers", ())}
    if "raw" in group and "X" in group["raw"]:
        places["raw"] = "raw/X"
    for name, place in places.items():
        if place not in group:
            continue
        names = _frame(group["raw/var"]).index if name == "raw" and "var" in group["raw"] else var.index
        found = _matrix_of(group[place], name, names.astype(str))
        if found is not None:
            yield found


def _matrix_of(stored: Any, name: str, names: pd.Index) -> MatrixLook | None:
    """What a dense or sparse matrix of a file holds; None where it holds no numbers."""
    if isinstance(stored, h5py.Dataset | zarr.Array):
        if stored.ndim != 2 or stored.dtype.kind not in "iufb" or 0 in stored.shape:
            return None
        n_rows = max(min(SEEN_ROWS, 10 * SEEN_VALUES // stored.shape[1]), PLACES)
        rows = np.concatenate([np.asarray(stored[piece]) for piece in pieces(stored.shape[0], n_rows)])
        return MatrixLook(name, stored.shape[1], int(np.prod(stored.shape)), rows.ravel(), rows, names)
    shape = stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
    if shape is None or "data" not in stored or stored["data"].dtype.kind not in "iufb" or 0 in tuple(shape):
        return None
    data = stored["data"]
    values = np.concatenate([np.asarray(data[piece]) for piece in pieces(data.shape[0], SEEN_VALUES)])
    rows = _sparse_rows(stored, int(shape[0]))
    return MatrixLook(name, int(shape[1]), int(data.shape[0]), values, rows, names)


def _sparse_rows(stored: Any, n: int) -> Any:
    """Some rows of a matrix that is stored by rows; None of one stored by columns."""
    with suppress(KeyError, ValueError, TypeError):
        if stored_matrix(stored) is not None:
            opened_rows = sparse_dataset(stored)
            return sparse.vstack([opened_rows[piece] for piece in pieces(n, SEEN_ROWS)], format="csr")
    return None
