"""Cell-cycle scores: how much a cell expresses the genes of S and of G2/M phase.

Genes: Tirosh et al. 2016, doi:10.1126/science.aad0501, 43 of S and 54 of G2/M, by their human names. Mouse genes are
the same in other case.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema

S_GENES = [
    "MCM5", "PCNA", "TYMS", "FEN1", "MCM2", "MCM4", "RRM1", "UNG", "GINS2", "MCM6", "CDCA7", "DTL", "PRIM1", "UHRF1",
    "MLF1IP", "HELLS", "RFC2", "RPA2", "NASP", "RAD51AP1", "GMNN", "WDR76", "SLBP", "CCNE2", "UBR7", "POLD3", "MSH2",
    "ATAD2", "RAD51", "RRM2", "CDC45", "CDC6", "EXO1", "TIPIN", "DSCC1", "BLM", "CASP8AP2", "USP1", "CLSPN", "POLA1",
    "CHAF1B", "BRIP1", "E2F8",
]  # fmt: skip
G2M_GENES = [
    "HMGB2", "CDK1", "NUSAP1", "UBE2C", "BIRC5", "TPX2", "TOP2A", "NDC80", "CKS2", "NUF2", "CKS1B", "MKI67", "TMPO",
    "CENPF", "TACC3", "FAM64A", "SMC4", "CCNB2", "CKAP2L", "CKAP2", "AURKB", "BUB1", "KIF11", "ANP32E", "TUBB4B",
    "GTSE1", "KIF20B", "HJURP", "CDCA3", "HN1", "CDC20", "TTK", "CDC25C", "KIF2C", "RANGAP1", "NCAPD2", "DLGAP5",
    "CDCA2", "CDCA8", "ECT2", "KIF23", "HMMR", "AURKA", "PSRC1", "ANLN", "LBR", "CKAP5", "CENPE", "CTCF", "NEK2",
    "G2E3", "GAS2L3", "CBX5", "CENPA",
]  # fmt: skip
RENAMED = {"CENPU": "MLF1IP", "PIMREG": "FAM64A", "JPT1": "HN1"}  # today's name -> that of the lists
PHASES = {"s_score": S_GENES, "g2m_score": G2M_GENES}
MIN_GENES = 5  # of each list; fewer say nothing of the phase
SCALE = 10_000.0  # counts: the field's scale of log1p(CP10k)
MIN_OTHERS = 20  # genes of neither list, to compare with
GENES_PER_BIN = 60  # of like mean expression: more than are in a list, so that there are others to compare with
MAX_BINS = 25  # the field's number of such bins


def cycle_genes(names: pd.Index) -> dict[str, list[str]]:
    """The genes of each phase among some gene names, in their order; upper and lower case are one.

    >>> cycle_genes(pd.Index(["Pcna", "ACTB", "CENPU", "Mki67"]))
    {'s_score': ['Pcna', 'CENPU'], 'g2m_score': ['Mki67']}
    """
    upper = [str(name).upper() for name in names]
    old = [RENAMED.get(name, name) for name in upper]
    return {
        score: [str(name) for name, known in zip(names, old, strict=True) if known in genes]
        for score, genes in PHASES.items()
    }


def no_cycle_reason(names: pd.Index) -> str:
    """Why there are no scores for data with these genes; empty where there are.

    >>> no_cycle_reason(pd.Index(["ACTB"]))
    'cell cycle: 0 genes of S phase and 0 of G2/M are among the features; 5 of each are needed'
    """
    n_s, n_g2m = (len(genes) for genes in cycle_genes(names).values())
    if min(n_s, n_g2m) < MIN_GENES:
        return (
            f"cell cycle: {n_s} genes of S phase and {n_g2m} of G2/M are among the features; {MIN_GENES} of each are "
            "needed"
        )
    n_others = len(names) - n_s - n_g2m
    if n_others < MIN_OTHERS:
        return f"cell cycle: {n_others} other genes to compare with; {MIN_OTHERS} are needed"
    return ""


def cycle_scores(counts: AnnData) -> pd.DataFrame | None:
    """Scores of S and of G2/M phase: mean log1p(CP10k) of its genes minus that of genes of like mean expression.

    Counts are divided by `obs["library"]` where it is there, else by the sum over the genes given.

    Args:
        counts: cells × genes, dense or sparse; never changed.

    Returns:
        Columns s_score and g2m_score, (n, 2), the same in every call; None where `no_cycle_reason` says why.

    Reference: Tirosh et al. 2016, doi:10.1126/science.aad0501; Satija et al. 2015, doi:10.1038/nbt.3192.
    """
    reason = no_cycle_reason(counts.var_names)
    if reason:
        return None
    import scanpy

    genes = cycle_genes(counts.var_names)
    scored = AnnData(_log_cp10k(counts), obs=counts.obs[[]].copy(), var=counts.var[[]].copy())
    n_bins = int(np.clip(counts.n_vars // GENES_PER_BIN, 2, MAX_BINS))
    state = np.random.get_state()  # noqa: NPY002  # scanpy seeds the global one, which is the caller's
    try:
        scanpy.tl.score_genes_cell_cycle(
            scored, s_genes=genes["s_score"], g2m_genes=genes["g2m_score"], n_bins=n_bins, ctrl_as_ref=False
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return pd.DataFrame({"s_score": scored.obs["S_score"], "g2m_score": scored.obs["G2M_score"]})


def _log_cp10k(counts: AnnData) -> sparse.csr_matrix:
    """log(1 + 10,000 · counts / library), (n, G); 0 in a cell without counts."""
    x = sparse.csr_matrix(counts.X, dtype=np.float64)
    total = np.asarray(
        counts.obs[schema.LIBRARY] if schema.LIBRARY in counts.obs else x.sum(axis=1), dtype=float
    ).ravel()
    return (sparse.diags(SCALE / np.maximum(total, 1)) @ x).tocsr().log1p()
