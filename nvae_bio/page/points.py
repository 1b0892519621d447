"""The samples that a page holds: which of them, where they lie, and by what they can be coloured, packed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import PageSettings
from nvae_bio.page.results import RunResults
from nvae_bio.plot.panels import is_of_one, scores_of

SEED = 0  # of the choice of samples
LEAST = 50  # samples of a class that are shown, if it has them
MAX_LEVELS = 48  # of a column, each with a colour and a shape of its own
MISSING = 65535  # code of no value
FIRST = (schema.LABEL, schema.SPLIT, schema.CONDITION, schema.BATCH, schema.DONOR, schema.LIBRARY, "n_genes",
         "mito_share", schema.PREDICTED, schema.CONFIDENCE, schema.ELBO, schema.GAIN)  # fmt: skip
TITLES = {
    schema.PREDICTED: "likeliest class, by q(y|x)",
    schema.CONFIDENCE: "its probability",
    schema.ELBO: "ELBO: bound on log p(x|y) (nats)",
    schema.GAIN: "gain of the own block (nats)",
    schema.LIBRARY: "library (counts)",
    "n_genes": "detected genes",
    "mito_share": "mitochondrial share",
    "nvae_suspicion": "suspicion of the audit",
    "nvae_log_odds": "log odds of another label (nats)",
    "nvae_borrowed_gain": "gain of a borrowed block (nats)",
    "nvae_doublet_gain": "gain of a second class (nats)",
    "nvae_unlike": "share of its class that fits as badly",
    "nvae_n_seeds": "seeds that suspect the sample",
}


@dataclass(frozen=True)
class Views:
    """Places of all samples.

    Attributes:
        shared: in the shared embedding, (n, 2); NaN where they have none.
        shared_axes: what its axes are.
        specific: in the own block, (n, 2).
        specific_axes: what its axes are.
    """

    shared: np.ndarray
    shared_axes: tuple[str, str]
    specific: np.ndarray
    specific_axes: tuple[str, str]


def views_of(results: RunResults) -> Views:
    """Where samples lie: the UMAP of the shared embedding, or its two principal axes; and the own blocks."""
    scores, embedded, n = results.scores, results.embedded, results.scores.n_obs
    shared, shared_axes = np.full((n, 2), np.nan), ("", "")
    if schema.UMAP in scores.obsm and np.isfinite(scores.obsm[schema.UMAP]).all(1).any():
        shared, shared_axes = np.asarray(scores.obsm[schema.UMAP], float), ("UMAP 1", "UMAP 2")
    elif schema.SHARED in embedded.obsm:
        shared = principal(np.asarray(embedded.obsm[schema.SHARED], float))
        shared_axes = ("principal axis 1 of z_s", "principal axis 2 of z_s")
    specific, specific_axes = np.full((n, 2), np.nan), ("", "")
    if schema.SPECIFIC in embedded.obsm:
        specific, specific_axes = _specific(embedded)
    return Views(shared, shared_axes, specific, specific_axes)


def _specific(embedded: AnnData) -> tuple[np.ndarray, tuple[str, str]]:
    """The two dims of the own block, one dim beside chance, or a plane of more dims."""
    mean = np.asarray(embedded.obsm[schema.SPECIFIC], float)
    if mean.shape[1] == 1:
        beside = np.random.default_rng(SEED).uniform(-1, 1, len(mean))
        return np.column_stack([mean[:, 0], beside]), ("dim 0 of the own block (prior SD)", "spread by chance")
    if mean.shape[1] == 2:
        return mean, ("dim 0 of the own block (prior SD)", "dim 1 of the own block (prior SD)")
    if schema.SPECIFIC_UMAP in embedded.obsm:
        return np.asarray(embedded.obsm[schema.SPECIFIC_UMAP], float), ("UMAP 1 of the class", "UMAP 2 of the class")
    places, label = np.full((len(mean), 2), np.nan), own_class(embedded.obs)
    for name in np.unique(label[label != ""]):
        places[label == name] = principal(mean[label == name])
    return places, ("principal axis 1 of the own block", "principal axis 2 of the own block")


def own_class(obs: pd.DataFrame) -> np.ndarray:
    """The class whose block a sample has: its label, or what is likeliest where it has none; text, (n,)."""
    label = obs[schema.LABEL].astype(object)
    if schema.PREDICTED in obs:
        label = label.where(label.notna(), obs[schema.PREDICTED].astype(object))
    return np.asarray(label.where(label.notna(), ""), dtype=object).astype(str)


def principal(values: np.ndarray) -> np.ndarray:
    """Values, (n, dims), along their two principal axes, (n, 2); 0 along what they do not have; signs are fixed.

    >>> principal(np.array([[-1.0, 0.0], [1.0, 0.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    known = np.isfinite(values).all(1)
    found = np.full((len(values), 2), np.nan)
    if not known.any():
        return found
    centred = values[known] - values[known].mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    found[known] = 0.0
    found[np.flatnonzero(known)[:, None], np.arange(len(axes))] = centred @ axes.T
    return found + 0.0


def choose(places: Views, label: np.ndarray, n: int) -> np.ndarray:
    """Rows that a page holds: of those with a place all, or a random part of each class as large as its share.

    A class keeps 50 samples if it has them and there is room.

    Args:
        places: of the samples.
        label: class of each, text, (n,).
        n: at most so many.

    Returns:
        Rows in the order of the data, (at most n,).
    """
    drawn = np.isfinite(places.shared).all(1)
    there = np.flatnonzero(drawn if drawn.any() else np.isfinite(places.specific).all(1))
    if len(there) <= n:
        return there
    names, counts = np.unique(label[there], return_counts=True)
    least = np.minimum(counts, min(LEAST, n // len(names)))
    quota = least + np.floor((n - least.sum()) * (counts - least) / max((counts - least).sum(), 1)).astype(int)
    rng = np.random.default_rng(SEED)
    parts = [rng.permutation(there[label[there] == name])[:size] for name, size in zip(names, quota, strict=True)]
    return np.sort(np.concatenate(parts))


def pack(values: np.ndarray) -> dict[str, Any]:
    """Numbers as 16-bit places between their least and largest, base64; `MISSING` where there is none.

    >>> pack(np.array([0.0, 1.0, np.nan]))
    {'low': 0.0, 'high': 1.0, 'codes': 'AAD+////'}
    """
    known = np.isfinite(values)
    low, high = (float(f"{end(values[known]):.6g}") if known.any() else 0.0 for end in (np.min, np.max))
    span = high - low or 1.0
    codes = np.full(len(values), MISSING, dtype="<u2")
    codes[known] = np.clip(np.rint((values[known] - low) / span * (MISSING - 1)), 0, MISSING - 1)
    return {"low": low, "high": high, "codes": base64.b64encode(codes.tobytes()).decode()}


def pack_levels(values: pd.Series, levels: Sequence[str]) -> dict[str, Any]:
    """Levels as 16-bit numbers, base64; `MISSING` where a value is none of them."""
    codes = pd.Categorical(values.astype(object).where(values.notna(), None), categories=list(levels)).codes
    packed = np.where(codes < 0, MISSING, codes).astype("<u2")
    return {"levels": list(levels), "codes": base64.b64encode(packed.tobytes()).decode()}


def columns_of(results: RunResults, rows: np.ndarray, settings: PageSettings) -> tuple[list[dict[str, Any]], list[str]]:
    """Columns of obs by which samples can be coloured, packed, and what was left out, in words."""
    obs = results.scores.obs
    names = [name for name in FIRST if name in obs] + [str(name) for name in obs if name not in FIRST]
    found, left_out = list[dict[str, Any]](), list[str]()
    for name in names:
        column = _column(obs[name], rows)
        if column is None:
            left_out.append(f"{name}: a level for nearly every sample, or no value at all")
        elif len(found) == settings.max_columns:
            left_out.append(f"{name}: only the first {settings.max_columns} columns are here")
        else:
            found.append({"name": str(name), "title": TITLES.get(name, str(name)), "group": "samples", **column})
    return found, left_out


def _column(values: pd.Series, rows: np.ndarray) -> dict[str, Any] | None:
    """One column of the chosen rows; None where its levels name single samples, or there are none.

    Of many levels the largest are kept, and the rest is one.
    """
    values = values.iloc[rows]
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.to_numpy(float, na_value=np.nan)
        return {"kind": "number", **pack(numbers)} if np.isfinite(numbers).any() else None
    text = values.astype(object).where(values.notna(), None).map(lambda value: None if value is None else str(value))
    text = text.where(text != "", None)
    sizes = text.value_counts()
    if sizes.empty or len(sizes) > max(MAX_LEVELS, len(rows) // 2):
        return None
    levels = _in_order(values, sizes)
    if len(levels) > MAX_LEVELS:
        kept = sorted(sizes.sort_index().sort_values(ascending=False, kind="stable").index[: MAX_LEVELS - 1])
        other = f"{len(levels) - len(kept)} others"
        text = text.where(text.isin(kept) | text.isna(), other)
        levels = [*kept, other]
    return {"kind": "levels", **pack_levels(text, levels)}


def _in_order(values: pd.Series, sizes: pd.Series) -> list[str]:
    """Levels in the order that a categorical column gives them, else sorted."""
    known = (
        list(map(str, values.cat.categories)) if isinstance(values.dtype, pd.CategoricalDtype) else sorted(sizes.index)
    )
    return [name for name in known if name in sizes.index]


def scored_factors(report: AnnData, n: int) -> np.ndarray:
    """Places of the factors that are shown: published ones first, then by what is lost without them, (at most n,)."""
    weight = (
        report.obs["loss"].to_numpy(float) if report.obs["loss"].notna().any() else report.obs["kl"].to_numpy(float)
    )
    published = report.obs["published"].to_numpy(bool)
    order = np.lexsort((np.arange(len(weight)), -np.nan_to_num(weight, nan=-np.inf), ~is_of_one(report), ~published))
    return np.sort(order[:n])


def pack_points(results: RunResults, settings: PageSettings) -> dict[str, Any]:
    """All that the embeddings of a page hold.

    Returns:
        Names, places (two views), columns of obs and scores of the chosen samples; how many of how many they are; and
        what was left out, in words.
    """
    places, label = views_of(results), own_class(results.scores.obs)
    rows = choose(places, label, settings.max_samples)
    report, scores = results.factors, scores_of(results.factors, results.scores)
    columns, left_out = columns_of(results, rows, settings)
    shown = scored_factors(report, settings.max_factors)
    if len(shown) < report.n_obs:
        left_out.append(f"scores of {report.n_obs - len(shown)} factors, which are not published or worth less")
    factors = [
        {"name": f"factor-{place}", "title": str(report.obs_names[place]), "kind": "number", "signed": True,
         "group": f"scores of {report.obs['kind'].iloc[place]} factors (prior SD)", **pack(scores[rows, place])}
        for place in shown
        if np.isfinite(scores[rows, place]).any()
    ]  # fmt: skip
    drawn = int(np.isfinite(places.shared).all(1).sum()) if places.shared_axes[0] else results.scores.n_obs
    classes = [name for name in results.classes if name in set(label[rows])]
    n_private = results.embedded.obsm[schema.SPECIFIC].shape[1] if schema.SPECIFIC in results.embedded.obsm else 0
    with_block = [name for name in classes if np.isfinite(places.specific[rows][label[rows] == name]).all(1).any()]
    return {
        "n": len(rows), "n_all": results.scores.n_obs, "n_with_place": drawn, "seed": results.seed,
        "names": [str(name) for name in results.scores.obs_names[rows]],
        "own_class": pack_levels(pd.Series(label[rows]), classes), "with_block": with_block,
        "n_private": n_private, "on_prior_scale": n_private in (1, 2),
        "shared": [pack(axis) for axis in places.shared[rows].T], "shared_axes": places.shared_axes,
        "specific": [pack(axis) for axis in places.specific[rows].T], "specific_axes": places.specific_axes,
        "columns": columns + factors, "left_out": left_out,
    }  # fmt: skip
