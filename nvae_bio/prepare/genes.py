"""Quality control of cells, and the choice of genes on training cells; scanpy does the work."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scanpy
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import CountsSettings, QcSettings
from nvae_bio.data.removed import RemovalLog
from nvae_bio.errors import UserError

N_GENES, N_COUNTS, MITO_SHARE, KEPT = "n_genes", "n_counts", "mito_share", "kept"


def cell_quality(counts: AnnData, settings: QcSettings, where: str) -> pd.DataFrame:
    """Detected genes, counts and mitochondrial share (0 to 1; NaN without such genes) of each cell; (n, 3).

    Raises:
        UserError: a limit on the mitochondrial share where no gene name has the prefix.
    """
    mito = counts.var_names.str.upper().str.startswith(settings.mito_prefix.upper())
    if settings.max_mito_share < 1 and not mito.any():
        raise UserError(
            f"{where}: qc.mito_prefix: no gene name begins with {settings.mito_prefix!r} "
            f"(first gene: {counts.var_names[0]!r}); set the prefix, or max_mito_share: 1"
        )
    plain = AnnData(counts.X, var=pd.DataFrame({"mito": mito}, index=counts.var_names))
    cells, _ = scanpy.pp.calculate_qc_metrics(plain, qc_vars=["mito"], percent_top=None, log1p=False, inplace=False)
    share = cells["pct_counts_mito"].to_numpy(dtype=np.float64) / 100 if mito.any() else np.full(len(cells), np.nan)
    return pd.DataFrame(
        {
            N_GENES: cells["n_genes_by_counts"].to_numpy(dtype=np.int64),
            N_COUNTS: cells["total_counts"].to_numpy(dtype=np.float64),
            MITO_SHARE: share,
        },
        index=counts.obs_names,
    )


def good_cells(quality: pd.DataFrame, settings: QcSettings, log: RemovalLog, where: str) -> np.ndarray:
    """Which cells pass every limit, (n,); one row of the log a limit.

    Raises:
        UserError: no cell is left; names the limit that took the last ones.
    """
    keep = np.ones(len(quality), dtype=bool)
    for key, reason, good in (
        ("min_counts", f"fewer than {settings.min_counts} counts", quality[N_COUNTS] >= settings.min_counts),
        ("min_genes", f"fewer than {settings.min_genes} genes", quality[N_GENES] >= settings.min_genes),
        (
            "max_mito_share",
            f"mitochondrial share above {settings.max_mito_share:g}",
            ~(quality[MITO_SHARE] > settings.max_mito_share),
        ),
    ):
        left = keep & good.to_numpy()
        log.add(f"qc.{key}", "cells", reason, int(keep.sum() - left.sum()), int(left.sum()))
        if not left.any():
            raise UserError(
                f"{where}: qc.{key} {getattr(settings, key)} leaves none of {int(keep.sum())} cells ({reason}); "
                f"allowed: a limit that keeps some"
            )
        keep = left
    return keep


def choose_genes(counts: AnnData, train: np.ndarray, settings: CountsSettings, log: RemovalLog, where: str) -> AnnData:
    """The model's genes: seen in `qc.min_cells` training cells, and the most variable of these.

    Args:
        counts: cells × genes; `obs["batch"]` is used where it is there.
        train: (n,) the cells that the choice may look at.
        settings: `qc.min_cells`, `n_top_genes`.
        log: takes two rows.
        where: the source, for messages.

    Returns:
        All cells × the chosen genes, in the source's order.

    Raises:
        UserError: no gene is left, or variable genes cannot be told from so few cells or genes.
    """
    min_cells = settings.qc.min_cells
    seen, _ = scanpy.pp.filter_genes(counts[train].copy(), min_cells=max(min_cells, 0), inplace=False)
    log.add("qc.min_cells", "genes", f"in fewer than {min_cells} training cells", int((~seen).sum()), int(seen.sum()))
    if not seen.any():
        raise UserError(
            f"{where}: qc.min_cells {min_cells} leaves none of {counts.n_vars} genes ({int(train.sum())} training "
            "cells); allowed: a limit that keeps some"
        )
    counts = counts[:, seen].copy()
    n_top = settings.n_top_genes
    chosen = np.ones(counts.n_vars, dtype=bool)
    if n_top is not None and n_top < counts.n_vars:
        chosen = _variable(counts[train].copy(), n_top, where)
    said = "all genes are kept" if n_top is None else f"not among the {n_top} most variable (seurat_v3, training cells)"
    log.add("n_top_genes", "genes", said, int((~chosen).sum()), int(chosen.sum()))
    return counts[:, chosen].copy()


def _variable(train: AnnData, n_top: int, where: str) -> np.ndarray:
    """The `n_top` most variable genes by Seurat v3's rule (Stuart et al. 2019), per batch; (genes,) booleans."""
    batch_key = schema.BATCH if schema.BATCH in train.obs else None
    try:
        with warnings.catch_warnings():  # divisions by zero of genes that are constant in a batch; checked below
            warnings.simplefilter("ignore")
            table = scanpy.pp.highly_variable_genes(
                train, flavor="seurat_v3", n_top_genes=n_top, batch_key=batch_key, inplace=False
            )
        reason = "" if np.isfinite(table["variances_norm"]).all() else "variances are not finite"
    except (ValueError, ZeroDivisionError, FloatingPointError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
    if reason:
        batches = "" if batch_key is None else f" of {train.obs[batch_key].nunique()} batches (batch_key)"
        raise UserError(
            f"{where}: n_top_genes {n_top}: the loess fit of seurat_v3 failed on {train.n_obs} training cells{batches} "
            f"× {train.n_vars} genes ({reason}); too few for it: set n_top_genes: null to keep all genes"
        )
    chosen: np.ndarray = table["highly_variable"].to_numpy(dtype=bool)
    return chosen
