"""Counts to measure on: simulated, or real cells resampled with noise."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import idx2numpy
import numpy as np
import pandas as pd
import scipy.sparse
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import CountsSettings
from nvae_bio.data.removed import RemovalLog

SPLITS = ("train", "validation", "test")
HELD_OUT = 1000  # samples of the test part, at most
CHUNK = 20_000  # cells simulated at a time
MNIST = ("mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz")
KANG = "kang_ctrl_8donors/kang_ctrl_8donors.h5ad"


def simulated(n_cells: int, n_genes: int, n_classes: int, seed: int = 0) -> AnnData:
    """Gamma-Poisson counts of `n_classes` cell types with two shared programmes; about one in seven is not 0."""
    rng = np.random.default_rng((seed, 1))
    profile = rng.gamma(0.25, 1.0, n_genes)
    rate = profile * rng.gamma(4.0, 0.25, (n_classes, n_genes))
    rate /= rate.sum(1, keepdims=True)
    programmes = rng.normal(scale=0.5, size=(2, n_genes)) * (rng.random((2, n_genes)) < 0.1)
    label = rng.integers(0, n_classes, n_cells)
    parts = []
    for start in range(0, n_cells, CHUNK):
        part = label[start : start + CHUNK]
        mean = rate[part] * np.exp(rng.normal(size=(len(part), 2)) @ programmes)
        library = rng.lognormal(np.log(1200.0), 0.4, (len(part), 1)) * n_genes / 2000
        noisy = rng.gamma(5.0, 0.2, mean.shape)
        parts.append(scipy.sparse.csr_matrix(rng.poisson(library * mean * noisy).astype(np.float32)))
    return as_prepared(scipy.sparse.vstack(parts, format="csr"), label, seed)


def resampled(folder: Path, n_cells: int, seed: int = 0) -> AnnData:
    """Cells of Kang 2018 (8 donors, control) drawn with replacement, each count redrawn around itself."""
    source = anndata.read_h5ad(folder / KANG)
    rng = np.random.default_rng((seed, 2))
    rows = rng.integers(0, source.n_obs, n_cells)
    counts = scipy.sparse.csr_matrix(source.X)[rows]
    depth = np.repeat(rng.lognormal(0.0, 0.1, n_cells), np.diff(counts.indptr))
    counts.data = rng.poisson(counts.data * depth).astype(np.float32)
    counts.eliminate_zeros()
    return as_prepared(counts, source.obs["cell_type"].cat.codes.to_numpy()[rows], seed)


def digits(folder: Path, n_images: int, seed: int = 0) -> AnnData:
    """Images of MNIST, pixels in [0, 1]."""
    arrays = []
    for name in MNIST:
        with gzip.open(folder / name) as file:
            arrays.append(idx2numpy.convert_from_file(file))
    rows = np.random.default_rng((seed, 4)).permutation(len(arrays[0]))[:n_images]
    pixels = arrays[0][rows].reshape(len(rows), -1).astype(np.float32) / np.float32(255)
    adata = as_prepared(pixels, arrays[1][rows], seed)
    adata.uns[schema.DATA] |= {"kind": "images", "image_shape": np.array([1, 28, 28])}
    return adata


def as_prepared(counts: scipy.sparse.csr_matrix | np.ndarray, label: np.ndarray, seed: int) -> AnnData:
    """A prepared data set of these samples, without those that have no count."""
    keep = np.asarray(counts.sum(1)).ravel() > 0
    counts, label = counts[keep], label[keep]
    n, classes = counts.shape[0], [f"c{i}" for i in range(label.max() + 1)]
    place, n_held_out = np.random.default_rng((seed, 3)).permutation(n), min(HELD_OUT, n // 5)
    split = np.select([place < n_held_out, place < n_held_out + 64], ["test", "validation"], "train")
    obs = pd.DataFrame(
        {
            schema.LABEL: pd.Categorical([classes[i] for i in label], categories=classes),
            schema.SPLIT: pd.Categorical(split, categories=SPLITS),
            schema.LIBRARY: np.asarray(counts.sum(1), np.float32).ravel(),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(counts.shape[1])])
    data = {
        "kind": "counts", "classes": np.array(classes, dtype=object), "fingerprint": f"benchmark {seed}",
        "settings": CountsSettings(kind="counts").model_dump_json(), "removed": RemovalLog().table(),
    }  # fmt: skip
    return AnnData(counts, obs=obs, var=var, uns={schema.DATA: data})
