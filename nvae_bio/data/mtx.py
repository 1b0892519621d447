"""10x mtx folders, of Cell Ranger 2 (genes.tsv) and 3 (features.tsv.gz), compressed or not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.io import mmread

from nvae_bio.data.files import read_file
from nvae_bio.errors import UserError

WHAT = "a 10x mtx folder (matrix.mtx, barcodes.tsv and genes.tsv or features.tsv, each plain or .gz)"


def read_mtx_folder(folder: Path) -> AnnData:
    """Cells × features of a 10x mtx folder; var has `gene_ids`, and `feature_types` for version 3.

    Raises:
        UserError: a file of the three is missing or broken, or they do not belong together.
    """
    old = _find(folder, "genes.tsv")
    files = {"matrix.mtx": _find(folder, "matrix.mtx"), "barcodes.tsv": _find(folder, "barcodes.tsv")}
    files["genes.tsv" if old is not None else "features.tsv"] = old or _find(folder, "features.tsv")
    found = [path for path in files.values() if path is not None]
    if len(found) < len(files):
        missing = next(name for name, path in files.items() if path is None)
        raise UserError(f"{folder}: no {missing} or {missing}.gz in it; expected {WHAT}")
    matrix = read_file(found[0], lambda path: sparse.csr_matrix(mmread(path).T), WHAT)
    barcodes, features = (read_file(path, _text_table, WHAT) for path in found[1:])
    if matrix.shape != (len(barcodes), len(features)):
        raise UserError(
            f"{found[0]}: {matrix.shape[1]} features × {matrix.shape[0]} cells, but {found[2].name} has "
            f"{len(features)} lines and {found[1].name} {len(barcodes)}; allowed: one line each"
        )
    if features.shape[1] < 2:
        raise UserError(f"{found[2]}: {features.shape[1]} column; allowed: at least 2, ID and name, with tabs between")
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=pd.Index(features[1].to_numpy(), dtype=object))
    if old is None and features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    return AnnData(matrix, obs=pd.DataFrame(index=pd.Index(barcodes[0].to_numpy(), dtype=object)), var=var)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _text_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
