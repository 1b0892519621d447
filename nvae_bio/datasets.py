"""Data to start with: real, small, and part of the packages that nvae-bio needs, so that no network is asked.

adata = nvae_bio.datasets.pbmc68k()
model = nvae_bio.NVAE(adata, dataset={"library_key": "library", "n_top_genes": None})
"""

from __future__ import annotations

from types import MappingProxyType

from anndata import AnnData

from nvae_bio import schema
from nvae_bio.data import builtin

__all__ = ["digits", "pbmc68k"]

PBMC68K_CLASSES = MappingProxyType(
    {
        "CD19+ B": "B cells",
        "Dendritic": "Dendritic cells",
        "CD14+ Monocyte": "Monocytes",
        "CD56+ NK": "NK cells",
        "CD4+/CD25 T Reg": "CD4 T cells",
        "CD4+/CD45RA+/CD25- Naive T": "CD4 T cells",
        "CD4+/CD45RO+ Memory": "CD4 T cells",
        "CD8+ Cytotoxic T": "CD8 T cells",
        "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T cells",
    }
)  # as `join_classes` of the default config has them; of CD34+ there are too few cells for a class


def pbmc68k() -> AnnData:
    """700 blood cells × 765 genes (Zheng et al. 2017), a part of the data that scanpy comes with, as raw counts.

    Returns:
        X: counts, CSR float32, exact. obs: `bulk_labels`, the ten published labels; `label`, six classes made of nine
        of them, missing in the 13 CD34+ cells, which are too few for a class; `phase` of the cell cycle; `library`, all
        counts of the cell over all genes of the experiment, of which the file has a choice (`library_key`).

    Raises:
        UserError: another version of scanpy's file, from which exact counts cannot be had.
    """
    adata, library = builtin.pbmc68k()
    label = adata.obs["bulk_labels"].astype(str).map(PBMC68K_CLASSES)
    adata.obs.insert(0, schema.LABEL, label.astype("category"))
    adata.obs[schema.LIBRARY] = library
    return adata


def digits() -> AnnData:
    """1,797 handwritten digits of 8 × 8 pixels, the test part of UCI's set, that scikit-learn comes with.

    Returns:
        X: pixels in [0, 1], a multiple of 1/16 each, float32. obs: `label`, `0` to `9`. var: `channel`, `row`, `column`
        of each pixel, by which pictures are made of a row of X.
    """
    return builtin.digits()
