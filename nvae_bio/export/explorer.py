"""A run as a file that the CELLxGENE explorer opens, and scanpy."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.colors import to_hex
from pandas.api import types
from scipy import sparse

import nvae_bio
from nvae_bio import schema
from nvae_bio.config import ExportSettings
from nvae_bio.errors import UserError
from nvae_bio.plot.style import MISSING, colors_of

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # the level of a missing value: the explorer has no missing levels
SCALE = 1e4  # counts a cell to which X is normalised
LAYOUTS = (schema.UMAP, schema.SPECIFIC_UMAP, schema.SHARED, schema.JOINT)
RESERVED = "__"  # how names of columns begin that the explorer keeps for itself


def explorer_data(
    embedded: AnnData, report: AnnData | None = None, scores: AnnData | None = None,
    settings: ExportSettings | None = None,
) -> AnnData:  # fmt: skip
    """Samples with their layouts, embeddings and factor scores, in the types that the explorer takes.

    Args:
        embedded: of one seed, what `embed_data` returns.
        report: factor report; scores of its published factors become columns of obs.
        scores: samples with their consensus scores and the audit, in the same order.
        settings: which samples.

    Returns:
        X: of counts log1p(10,000 · count / library), CSC float32, with the counts in `raw`; pixels and features as they
        are, float32. obs: no 64-bit numbers, text as levels, missing levels as `unknown`. obsm: X_umap,
        X_nvae_shared (n, S), X_nvae (n, S + C·K), X_nvae_specific_umap, those of at least 2 dims that are there. uns:
        title, colours of the label, version and fingerprint.

    Raises:
        UserError: no layout or embedding of two dims, no sample with a layout, or scores of other samples.
    """
    settings = settings or ExportSettings()
    obs = embedded.obs.copy()
    if scores is not None:
        if not scores.obs_names.equals(embedded.obs_names):
            raise UserError("export: the samples of --scores are not those of --embedded; allowed: of one run")
        obs = obs.join(scores.obs[[name for name in scores.obs if name not in obs]])
        obs = obs.assign(**_factor_columns(scores, report))
    layouts = _layouts(embedded)
    keep = _laid_out(embedded, layouts, settings)
    clean = _clean(obs)[keep]
    values, raw = _values(embedded, keep)
    var = _clean(embedded.var)
    made = AnnData(values, obs=_used_levels(clean), var=var, obsm={key: table[keep] for key, table in layouts.items()})
    if raw is not None:
        made.raw = AnnData(raw, obs=made.obs[[]].copy(), var=var.copy())
    made.uns.update(_about(embedded, made))
    return made


def _layouts(embedded: AnnData) -> dict[str, np.ndarray]:
    """What can be drawn: two dims or more, finite or missing, not all missing."""
    found = {}
    for key in LAYOUTS:
        if key not in embedded.obsm:
            continue
        values = np.asarray(embedded.obsm[key], dtype=np.float32)
        if values.ndim == 2 and values.shape[1] >= 2 and not np.isinf(values).any() and np.isfinite(values).any():
            found[key] = values
    if not found:
        raise UserError(
            "export: no layout of two dims: z_s has fewer, and embedding.umap is off; allowed: embedding.umap: true"
        )
    return found


def _laid_out(embedded: AnnData, layouts: dict[str, np.ndarray], settings: ExportSettings) -> np.ndarray:
    """Which samples are kept, (n,) booleans: those that the UMAP has room for, or all."""
    keep = np.ones(embedded.n_obs, dtype=bool)
    if settings.samples == "laid_out" and schema.UMAP in layouts:
        keep = np.isfinite(layouts[schema.UMAP]).all(1)
        if not keep.all():
            logger.info(
                "explorer: %d of %d samples have no place in X_umap and are left out; export.samples: all keeps them",
                (~keep).sum(), len(keep),
            )  # fmt: skip
    return keep


def _values(embedded: AnnData, keep: np.ndarray) -> tuple[Any, Any]:
    """X, and the counts where X is made from some."""
    values = embedded.X[keep]
    if str(embedded.uns[schema.DATA]["kind"]) != "counts":
        dense = values.toarray() if sparse.issparse(values) else np.asarray(values)
        return dense.astype(np.float32), None
    counts = sparse.csr_matrix(values, dtype=np.float32)
    library = embedded.obs[schema.LIBRARY].to_numpy(dtype=np.float64)[keep]
    scaled = sparse.diags(SCALE / np.maximum(library, 1)) @ counts.astype(np.float64)
    return sparse.csc_matrix(scaled.log1p(), dtype=np.float32), counts


def _factor_columns(scores: AnnData, report: AnnData | None) -> dict[str, np.ndarray]:
    """Scores of published factors, by the names of columns; of all where there is no report."""
    if schema.FACTORS not in scores.obsm:
        return {}
    names = [str(name) for name in np.ravel(scores.uns[schema.MODEL][schema.FACTOR_NAMES])]
    values = np.asarray(scores.obsm[schema.FACTORS], dtype=np.float32)
    shown = set(names) if report is None else set(report.obs_names[report.obs["published"].to_numpy(dtype=bool)])
    return {f"factor {name}": values[:, place] for place, name in enumerate(names) if name in shown}


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of the types that the explorer takes: booleans, int32, float32, levels of text."""
    columns: dict[str, Any] = {}
    for name in frame:
        own = str(name)
        while own.startswith(RESERVED):
            own = own.removeprefix("_")
        while own in columns:
            own += "_"
        columns[own] = _clean_column(frame[name])
    return pd.DataFrame(columns, index=pd.Index(frame.index.astype(str), dtype=object))


def _clean_column(values: pd.Series) -> Any:
    if types.is_bool_dtype(values.dtype) and not values.isna().any():
        return values.to_numpy(dtype=bool)
    if types.is_numeric_dtype(values.dtype) and not types.is_bool_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        is_whole = values.dtype.kind in "iu" and (np.abs(numbers) < 2**31).all()
        return numbers.astype(np.int32) if is_whole else np.where(np.isinf(numbers), np.nan, numbers).astype(np.float32)
    text = values.astype(object).where(values.notna(), UNKNOWN).astype(str)
    text = text.where(text != "", UNKNOWN)
    return pd.Categorical(text)


def _used_levels(obs: pd.DataFrame) -> pd.DataFrame:
    """Without levels that no sample has."""
    levels = [str(name) for name in obs if isinstance(obs[name].dtype, pd.CategoricalDtype)]
    return obs.assign(**{name: obs[name].cat.remove_unused_categories() for name in levels})


def _about(embedded: AnnData, made: AnnData) -> dict[str, Any]:
    model = embedded.uns[schema.MODEL]
    names = [str(name) for name in made.obs[schema.LABEL].cat.categories]
    colors = colors_of([name for name in names if name != UNKNOWN]) | {UNKNOWN: MISSING}
    told = {key: str(model[key]) for key in ("fingerprint", "kind", "variant", "seed") if key in model}
    return {
        "title": f"nvae-bio: {', '.join(map(str, np.ravel(embedded.uns[schema.DATA].get('source', ['']))))}",
        f"{schema.LABEL}_colors": np.array([to_hex(colors[name]) for name in names], dtype=object),
        "nvae": {"version": nvae_bio.__version__, **told},
    }
