"""Quality control of cells, and the choice of genes on training cells; both read cells some thousand at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scanpy
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import CountsSettings, QcSettings
from nvae_bio.data.removed import RemovalLog
from nvae_bio.errors import UserError

N_GENES, N_COUNTS, MITO_SHARE, KEPT = schema.N_GENES, "n_counts", schema.MITO_SHARE, "kept"


def cell_quality(
    chunks: Iterable[sparse.csr_matrix], obs_names: pd.Index, var_names: pd.Index, settings: QcSettings, where: str
) -> pd.DataFrame:
    """Detected genes, counts and mitochondrial share (0 to 1; NaN without such genes) of each cell; (n, 3).

    Args:
        chunks: cells × genes, some cells at a time.
        obs_names: of all cells.
        var_names: of the genes.
        settings: `mito_prefix`, `max_mito_share`.
        where: the source, for messages.

    Raises:
        UserError: a limit on the mitochondrial share where no gene name has the prefix.
    """
    mito = var_names.str.upper().str.startswith(settings.mito_prefix.upper())
    if settings.max_mito_share < 1 and not mito.any():
        raise UserError(
            f"{where}: qc.mito_prefix: no gene name begins with {settings.mito_prefix!r} "
            f"(first gene: {var_names[0]!r}); set the prefix, or max_mito_share: 1"
        )
    var, parts = pd.DataFrame({"mito": mito}, index=var_names), []
    for chunk in chunks:
        plain = AnnData(chunk, var=var)
        cells, _ = scanpy.pp.calculate_qc_metrics(plain, qc_vars=["mito"], percent_top=None, log1p=False, inplace=False)
        share = cells["pct_counts_mito"].to_numpy(dtype=np.float64) / 100 if mito.any() else np.full(len(cells), np.nan)
        n_genes, n_counts = cells["n_genes_by_counts"].to_numpy(np.int64), cells["total_counts"].to_numpy(np.float64)
        parts.append(pd.DataFrame({N_GENES: n_genes, N_COUNTS: n_counts, MITO_SHARE: share}))
    return pd.concat(parts).set_axis(obs_names, axis=0)


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


def choose_genes(
    chunks: Iterable[sparse.csr_matrix],
    var_names: pd.Index,
    batch: pd.Series | None,
    settings: CountsSettings,
    log: RemovalLog,
    where: str,
) -> np.ndarray:
    """The model's genes: seen in `qc.min_cells` training cells, and the most variable of these.

    Args:
        chunks: training cells × genes, some cells at a time; may be gone through twice.
        var_names: of the genes.
        batch: of the training cells, (n,) text; None where there are no batches.
        settings: `qc.min_cells`, `n_top_genes`.
        log: takes two rows.
        where: the source, for messages.

    Returns:
        Which genes are kept, (genes,) booleans.

    Raises:
        UserError: no gene is left, or variable genes cannot be told from so few cells or genes.
    """
    min_cells, n_top = settings.qc.min_cells, settings.n_top_genes
    moments = GeneMoments.of(chunks, len(var_names), batch)
    seen = moments.n_cells >= min_cells
    log.add("qc.min_cells", "genes", f"in fewer than {min_cells} training cells", int((~seen).sum()), int(seen.sum()))
    if not seen.any():
        raise UserError(
            f"{where}: qc.min_cells {min_cells} leaves none of {len(seen)} genes ({moments.n} training "
            "cells); allowed: a limit that keeps some"
        )
    chosen = seen.copy()
    if n_top is not None and n_top < seen.sum():
        chosen[seen] = _most_variable(chunks, moments, seen, n_top, where)
    said = "all genes are kept" if n_top is None else f"not among the {n_top} most variable (seurat_v3, training cells)"
    log.add("n_top_genes", "genes", said, int(seen.sum() - chosen.sum()), int(chosen.sum()))
    return chosen


@dataclass(frozen=True)
class GeneMoments:
    """Of the training cells, gene by gene; sums of whole numbers in float64, so that no order of cells changes a bit.

    Attributes:
        member: which batch each cell is of, (batches, n), 1 or 0; one batch where there are none.
        size: cells of each batch, (batches,).
        total: counts, (batches, genes).
        square: sums of their squares, (batches, genes).
        n_cells: cells with a count above 0, (genes,).
    """

    member: sparse.csr_matrix
    size: np.ndarray
    total: np.ndarray
    square: np.ndarray
    n_cells: np.ndarray

    @classmethod
    def of(cls, chunks: Iterable[sparse.csr_matrix], n_genes: int, batch: pd.Series | None) -> GeneMoments:
        """From one pass over the training cells; those without a batch count in `n_cells` alone."""
        parts = [0] if batch is None else sorted(batch.dropna().unique())
        total, square = np.zeros((len(parts), n_genes)), np.zeros((len(parts), n_genes))
        n_cells, members = np.zeros(n_genes, np.int64), []
        done = 0
        for chunk in chunks:
            n = chunk.shape[0]
            codes = np.zeros(n, int) if batch is None else pd.Categorical(batch.iloc[done : done + n], parts).codes
            member = _member(np.asarray(codes), len(parts))
            counts = chunk.astype(np.float64)
            total += (member @ counts).toarray()
            square += (member @ counts.power(2)).toarray()
            n_cells += np.bincount(chunk.indices, minlength=n_genes)
            members.append(member)
            done += n
        member = sparse.hstack(members, format="csr")
        return cls(member, np.asarray(member.sum(1)).ravel(), total, square, n_cells)

    @property
    def n(self) -> int:
        """Training cells."""
        return int(self.member.shape[1])


def _member(codes: np.ndarray, n: int) -> sparse.csr_matrix:
    known = np.flatnonzero(codes >= 0)
    return sparse.csr_matrix((np.ones(len(known)), (codes[known], known)), shape=(n, len(codes)))


def _most_variable(
    chunks: Iterable[sparse.csr_matrix], moments: GeneMoments, seen: np.ndarray, n_top: int, where: str
) -> np.ndarray:
    """The `n_top` most variable of the genes seen by Seurat v3's rule, per batch; (seen genes,) booleans.

    The rule of Stuart et al. 2019 (doi:10.1016/j.cell.2019.05.031), as scanpy's `seurat_v3` has it, on sums over cells
    that are read in parts: a gene's variance, of counts clipped at √n standard deviations above the mean, over what a
    loess fit of log variance on log mean expects. Of several batches it takes the median rank, and then the number of
    batches in which a gene is among the top.
    """
    n, total, square = moments.size[:, None], moments.total[:, seen], moments.square[:, seen]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # of genes that are constant; checked below
            warnings.simplefilter("ignore")
            mean = total / n
            variance = (square / n - mean**2) * n / (n - 1)
            spread = np.stack([_expected_sd(*of_batch) for of_batch in zip(mean, variance, strict=True)])
            clipped, clipped_square = _clipped_sums(chunks, moments, seen, spread * np.sqrt(n) + mean)
            scaled = (n * mean**2 + clipped_square - 2 * clipped * mean) / ((n - 1) * spread**2)
        reason = "" if np.isfinite(scaled).all() else "variances are not finite"
    except (ValueError, ZeroDivisionError, FloatingPointError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
    if reason:
        batches = "" if len(total) == 1 else f" of {len(total)} batches (batch_key)"
        raise UserError(
            f"{where}: n_top_genes {n_top}: the loess fit of seurat_v3 failed on {moments.n} training cells{batches} "
            f"× {int(seen.sum())} genes ({reason}); too few for it: set n_top_genes: null to keep all genes"
        )
    rank = np.argsort(np.argsort(-scaled, axis=1), axis=1).astype(np.float32)
    rank[rank >= n_top] = np.nan
    n_batches = np.isfinite(rank).sum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")  # of genes at the top nowhere
        middle = np.nanmedian(rank, axis=0)
    order = np.lexsort([-n_batches, middle])  # NaN is last
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[:n_top]] = True
    return chosen


def _expected_sd(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """What a loess fit of log10 variance on log10 mean expects, (genes,); 1 for constant genes."""
    from skmisc.loess import loess

    varies, expected = variance > 0, np.zeros(len(mean))
    fit = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=0.3, degree=2)
    fit.fit()
    expected[varies] = fit.outputs.fitted_values
    return np.asarray(np.sqrt(10**expected))


def _clipped_sums(
    chunks: Iterable[sparse.csr_matrix], moments: GeneMoments, seen: np.ndarray, limit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the counts and of their squares, where counts above the gene's limit are the limit: (batches, genes).

    Args:
        chunks: training cells × genes.
        moments: of all of them.
        seen: the genes that are asked for.
        limit: (batches, seen genes).
    """
    total, square = np.zeros_like(limit), np.zeros_like(limit)
    n_above, done = np.zeros_like(limit), 0
    for chunk in chunks:
        counts = sparse.csr_matrix(chunk[:, seen], dtype=np.float64)
        member = moments.member[:, done : done + counts.shape[0]]
        for batch in np.flatnonzero(np.diff(member.indptr)):
            own = counts[member[batch].indices]
            above = own.data > limit[batch][own.indices]
            n_above[batch] += np.bincount(own.indices[above], minlength=len(limit[batch]))
            own.data[above] = 0
            total[batch] += np.asarray(own.sum(0)).ravel()
            square[batch] += np.asarray(own.power(2).sum(0)).ravel()
        done += counts.shape[0]
    return total + n_above * limit, square + n_above * limit**2
