"""A look into whatever the readers take: by ending, and by what a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from nvae_bio.data.images import IDX_NAME
from nvae_bio.data.look import Look, look_into_anndata
from nvae_bio.data.look_images import look_into_idx, look_into_npz, look_into_pictures, picture_files
from nvae_bio.data.look_tables import look_into_10x, look_into_mtx, look_into_table
from nvae_bio.data.tables import TABLE_ENDINGS
from nvae_bio.errors import UserError, listed

BY_ENDING: dict[str, Callable[[Path], Look]] = {
    ".h5ad": look_into_anndata,
    ".zarr": look_into_anndata,
    ".h5": look_into_10x,
    ".npz": look_into_npz,
    **dict.fromkeys(TABLE_ENDINGS, look_into_table),
}
FORMATS = [
    *BY_ENDING,
    "IDX (…-ubyte, .idx, plain or .gz)",
    "a 10x mtx folder",
    "a folder of pictures, a subfolder a class",
]
IDX_LABELS = ("labels", "idx1")  # what names of IDX files of labels have in them


def look_at(path: Path, labels: Path | None = None, keys: Collection[str] = ()) -> Look:
    """What is in a file or folder, without reading it whole.

    Args:
        path: of any form that a reader takes.
        labels: of an IDX file, where its labels are not beside it under MNIST's name.
        keys: columns of a table that are no features.

    Raises:
        UserError: no such file, of no known form, or unreadable.
    """
    check_there(path)
    name = path.name.lower()
    if IDX_NAME.search(name) and path.is_file():
        return look_into_idx(path, labels)
    if name.endswith(TABLE_ENDINGS):
        return look_into_table(path, keys)
    for ending, look in BY_ENDING.items():
        if name.endswith(ending):
            return look(path)
    if path.is_dir() and _is_mtx(path):
        return look_into_mtx(path)
    if path.is_dir():
        return look_into_pictures(path)
    raise UserError(f"{path}: unknown file ending; allowed: {listed(FORMATS)}")


def check_there(path: Path) -> None:
    """Refuse a path at which nothing is.

    Raises:
        UserError: it is such.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected {listed(FORMATS)}")


def sources_in(paths: Iterable[Path]) -> list[Path]:
    """The data sets that are meant: a folder of files stands for those in it; labels of IDX files go with their images.

    Raises:
        UserError: a folder with nothing in it that a reader takes, or with files of several forms.
    """
    found: list[Path] = []
    for path in paths:
        found += _files_in(path) if path.is_dir() and not _is_one(path) else [path]
    kept = [path for path in found if not _is_idx_labels(path)]
    if found and not kept:
        raise UserError(f"{found[0]}: labels alone; give the IDX file of the images")
    return kept


def _is_one(folder: Path) -> bool:
    """Whether a folder is one data set by itself."""
    return folder.name.lower().endswith(".zarr") or _is_mtx(folder) or bool(picture_files(folder))


def _is_mtx(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("matrix.mtx", "matrix.mtx.gz"))


def _is_idx_labels(path: Path) -> bool:
    name = path.name.lower()
    return bool(IDX_NAME.search(name)) and any(word in name for word in IDX_LABELS)


def _files_in(folder: Path) -> list[Path]:
    known = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and _form(path))
    forms = {_form(path) for path in known}
    if not known:
        raise UserError(f"{folder}: nothing in it that can be read; allowed: {listed(FORMATS)}")
    if len(forms) > 1:
        raise UserError(f"{folder}: files of several forms ({listed(sorted(forms))}); name those that are meant")
    return known


def _form(path: Path) -> str:
    """What a file of a folder is, by its ending; empty for nothing known."""
    if path.is_file() and IDX_NAME.search(path.name.lower()):
        return "IDX"
    if path.is_dir() and _is_mtx(path):
        return "10x mtx"
    return next((ending.removesuffix(".gz") for ending in BY_ENDING if path.name.lower().endswith(ending)), "")


def common_names(looks: Sequence[Look], matrix: str) -> int:
    """Features that all files have by name; those of the first where the names are not known."""
    parts = [one.names for look in looks for one in look.matrices if one.name == matrix]
    if not parts or any(part.empty for part in parts):
        return min((one.n_features for look in looks for one in look.matrices if one.name == matrix), default=0)
    common = parts[0]
    for part in parts[1:]:
        common = common[common.isin(part)]
    return len(common)
