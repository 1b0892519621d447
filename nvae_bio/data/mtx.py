"""10x mtx folders, of Cell Ranger 2 (genes.tsv) and 3 (features.tsv.gz), compressed or not."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from functools import partial
from pathlib import Path

import scanpy
from anndata import AnnData

from nvae_bio.data.files import read_file
from nvae_bio.data.names import names_may_repeat
from nvae_bio.errors import UserError

WHAT = "a 10x mtx folder (matrix.mtx, barcodes.tsv and genes.tsv or features.tsv, each plain or .gz)"


def read_mtx_folder(folder: Path) -> AnnData:
    """Cells × features of a 10x mtx folder; var has `feature_types` for version 3.

    scanpy reads version 2 uncompressed and version 3 compressed; other folders are first brought into that form.

    Raises:
        UserError: a file of the three is missing or broken.
    """
    old = _find(folder, "genes.tsv")
    features = old if old is not None else _find(folder, "features.tsv")
    files = {"matrix.mtx": _find(folder, "matrix.mtx"), "barcodes.tsv": _find(folder, "barcodes.tsv")}
    files["genes.tsv" if old is not None else "features.tsv"] = features
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise UserError(f"{folder}: no {missing[0]} or {missing[0]}.gz in it; expected {WHAT}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in files.items():
            assert path is not None
            read_file(path, partial(_bring, folder=Path(scratch), name=name, compress=old is None), WHAT)
        return read_file(folder, lambda _: _read(Path(scratch)), WHAT)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _bring(source: Path, folder: Path, name: str, compress: bool) -> None:
    """Put `source` into `folder` as `name`, compressed or not; a link where it is so already."""
    if (source.suffix == ".gz") == compress:
        (folder / source.name).symlink_to(source.absolute())
        return
    opener_in, opener_out = (open, gzip.open) if compress else (gzip.open, open)
    with opener_in(source, "rb") as plain, opener_out(folder / (name + ".gz" * compress), "wb") as target:
        shutil.copyfileobj(plain, target)


def _read(folder: Path) -> AnnData:
    with names_may_repeat():
        return scanpy.read_10x_mtx(folder, make_unique=False, gex_only=False)
