"""Small data sets, and files of them as the real libraries write them."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import h5py
import idx2numpy
import numpy as np
import pandas as pd
import scipy.io
from anndata import AnnData
from scipy import sparse

from nvae_bio.config import CountsSettings, Dataset, FeaturesSettings, ImagesSettings

KINDS = {"counts": CountsSettings, "images": ImagesSettings, "features": FeaturesSettings}


def settings(kind: str = "counts", **values: Any) -> Dataset:
    """Settings of a data set; for counts, all genes are kept and classes may be small, unless told otherwise."""
    defaults = {"n_top_genes": None, "label_key": "cell_type"} if kind == "counts" else {}
    return KINDS[kind](kind=kind, **{"min_samples_per_class": 5, **defaults, **values})


def toy_counts(n_cells: int = 90, n_genes: int = 40, n_classes: int = 3, n_donors: int = 6, seed: int = 0) -> AnnData:
    """Counts with classes, donors and a batch; every cell and gene has counts."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n_cells) % n_classes
    rate = rng.gamma(2, 1, size=(n_classes, n_genes))
    counts = rng.poisson(rate[classes]).astype(np.float32)
    counts[:, 0] += 1
    counts[rng.integers(0, n_cells, n_genes), np.arange(n_genes)] += 1
    donors = rng.permutation(n_cells) % n_donors
    obs = pd.DataFrame(
        {
            "cell_type": [f"type {c}" for c in classes],
            "person": [f"donor {d}" for d in donors],
            "run": [f"run {d % 2}" for d in donors],
            "depth": rng.normal(size=n_cells),
        },
        index=[f"cell-{i}" for i in range(n_cells)],
    )
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"GENE{g}" for g in range(n_genes)]))


def toy_features(n: int = 60, n_features: int = 5, seed: int = 0) -> pd.DataFrame:
    """A table with a class, a text column and real-valued features."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(3, 2, size=(n, n_features)), columns=[f"f{i}" for i in range(n_features)])
    return table.assign(label=[("acid", "base")[i % 2] for i in range(n)], smiles=[f"C{i}" for i in range(n)])


def toy_pixels(n: int = 40, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(n, *shape), dtype=np.uint8)


def write_labels(adata: AnnData, path: Path) -> Path:
    """A label table as pandas writes it, by barcode."""
    adata.obs.to_csv(path, index_label="barcode", sep="\t" if ".tsv" in path.name else ",")
    return path


def write_10x_h5(adata: AnnData, path: Path, version: int, feature_types: list[str] | None = None) -> Path:
    """Cell Ranger's HDF5: genes × cells in columns."""
    matrix = sparse.csc_matrix(adata.X.T.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"] = np.array(matrix.shape)
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        ids, names = [np.array([f"{p}{n}" for n in adata.var_names], dtype="S") for p in ("ENSG_", "")]
        if version == 3:
            features = group.create_group("features")
            features["id"], features["name"] = ids, names
            features["feature_type"] = np.array(feature_types or ["Gene Expression"] * adata.n_vars, dtype="S")
            features["genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")
        else:
            group["genes"], group["gene_names"] = ids, names
    return path


def write_mtx(adata: AnnData, folder: Path, version: int, compress: bool) -> Path:
    """Cell Ranger's mtx folder, version 2 (genes.tsv) or 3 (features.tsv), plain or gzipped."""
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(adata.X.T.astype(np.int32)), field="integer")
    features = pd.DataFrame({"id": "ENSG_" + adata.var_names, "name": adata.var_names})
    if version == 3:
        features["type"] = "Gene Expression"
    features.to_csv(folder / ("features.tsv" if version == 3 else "genes.tsv"), sep="\t", header=False, index=False)
    pd.Series(adata.obs_names).to_csv(folder / "barcodes.tsv", header=False, index=False)
    if compress:
        for path in list(folder.iterdir()):
            pack(path)
    return folder


def pack(path: Path) -> Path:
    """gzip a file in place, with `.gz` added to its name."""
    target = path.with_name(path.name + ".gz")
    with path.open("rb") as plain, gzip.open(target, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    path.unlink()
    return target


def write_idx(array: np.ndarray, path: Path) -> Path:
    """IDX as idx2numpy writes it; gzipped where the name says so."""
    data = idx2numpy.convert_to_string(array)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(data)
    return path
