"""Data sets that come with the dependencies: no file, no network."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scanpy
from anndata import AnnData
from scipy import sparse
from sklearn.datasets import load_digits

from nvae_bio.data.pixels import pack_images
from nvae_bio.errors import UserError

SCALE = 1e4  # counts to which pbmc68k was normalised before log1p
TOLERANCE = 2e-3  # largest distance of a recovered count from a whole number, relative to the count


def pbmc68k() -> tuple[AnnData, np.ndarray]:
    """700 blood cells × 765 genes from scanpy's wheel, with their exact counts.

    `.raw` holds `log1p(1e4 × count / library)`, so a count of 1 is each cell's smallest positive value: dividing by it
    gives whole numbers. The cell was normalised before its genes were selected, so 1e4 / that value is the library over
    all genes of the experiment, not only over those in the file.

    Returns:
        Counts as CSR float32 (700, 765) with obs `bulk_labels` (10 labels) and `phase`; and the library (700,), counts.

    Raises:
        UserError: this version of scanpy's file does not give whole numbers.
    """
    with warnings.catch_warnings():  # an old file format, and names of old pandas classes
        warnings.simplefilter("ignore")
        reduced = scanpy.datasets.pbmc68k_reduced()
    scaled = sparse.csr_matrix(reduced.raw.X, dtype=np.float64).expm1()
    if np.diff(scaled.indptr).min() == 0:
        raise UserError("built-in pbmc68k: a cell without counts; another version of scanpy's file?")
    unit = np.minimum.reduceat(scaled.data, scaled.indptr[:-1])  # (cells,), value of one count
    ratio = scaled.data / np.repeat(unit, np.diff(scaled.indptr))
    whole, library = ratio.round(), (SCALE / unit).round()
    counts = sparse.csr_matrix((whole.astype(np.float32), scaled.indices, scaled.indptr), shape=scaled.shape)
    if np.abs(ratio / whole - 1).max() > TOLERANCE or np.any(library < np.asarray(counts.sum(axis=1)).ravel()):
        raise UserError("built-in pbmc68k: exact counts cannot be recovered; another version of scanpy's file?")
    obs = reduced.obs[["bulk_labels", "phase"]].copy()
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=reduced.raw.var_names.astype(str))), library


def digits() -> AnnData:
    """1797 handwritten digits of 8×8 pixels from scikit-learn, scaled to [0, 1] (source: 0 to 16), obs `label`."""
    bunch = load_digits()
    obs = pd.DataFrame({"label": bunch.target.astype(str)}, index=[str(i) for i in range(len(bunch.target))])
    return pack_images(bunch.images[:, None].astype(np.float32) / np.float32(16), obs)
