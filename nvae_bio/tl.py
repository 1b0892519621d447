"""Tools for notebooks, in the manner of scanpy: each reads and writes the slots of an AnnData.

model = nvae_bio.tl.fit(adata, "cell_type")     # → obsm["X_nvae_shared"], obs["nvae_label"], …
nvae_bio.tl.factors(adata, model)               # → obsm["X_nvae_factors"], uns["nvae_factors"]
nvae_bio.tl.map_query(new, model)               # → the same slots of new samples, and how sure that is
"""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.notebook import NVAE, add_slots, rows_at

__all__ = ["factors", "fit", "map_query"]


def fit(adata: AnnData, label_key: str = "label", *, progress: bool | None = None, **options: Any) -> NVAE:
    """Fit one model a seed, and write the embedding of the first into `adata`.

    Args:
        adata: samples × features.
        label_key: column of obs with the class.
        progress: as `NVAE.fit`.
        options: as `NVAE`.

    Returns:
        The fitted object.

    Raises:
        UserError: as `NVAE`.
    """
    model = NVAE(adata, label_key, **options).fit(progress=progress)
    model.embed()
    return model


def factors(adata: AnnData, model: NVAE, n_refits: int | None = None) -> None:
    """Write the scores of the factors that the seeds agree on, and the report as a table.

    Args:
        adata: gets obsm X_nvae_factors (NaN where a class cannot have a factor) and its deviations over seeds, their
            names in uns["nvae_factor_names"], and the table uns["nvae_factors"].
        model: a fitted one.
        n_refits: as `NVAE.factors`.

    Raises:
        UserError: as `NVAE.factors`.
    """
    report = model.factors(n_refits)
    scored = report.embedded
    for key in (schema.FACTORS, schema.FACTORS_STD):
        if key in scored.obsm:
            adata.obsm[key] = rows_at(scored.obsm[key], scored.obs_names, adata.obs_names)
    adata.uns[schema.FACTOR_COLUMNS] = np.array(report.factors.obs_names, dtype=object)
    adata.uns[schema.FACTOR_TABLE] = report.factors.obs.copy()


def map_query(adata: AnnData, model: NVAE, **settings: Any) -> None:
    """Write latents, classes with their certainty, and novelty of new samples into their AnnData.

    Args:
        adata: new samples; gets the keys of `nvae_bio.map_query` in obs, obsm and uns.
        model: a fitted one.
        settings: of a query, as in a config.

    Raises:
        UserError: as `nvae_bio.map_query`.
    """
    mapped = model.map_query(adata, settings)
    add_slots(adata, mapped, [key for key in mapped.obs if str(key).startswith("nvae_")])
    adata.uns[schema.QUERY] = mapped.uns[schema.QUERY]
