"""Panels of a page about one factor: where it varies, through what, with what, and in whom; and what all pages ask."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import scipy.sparse
from anndata import AnnData
from matplotlib.axes import Axes

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.errors import UserError
from nvae_bio.factors.reading import is_spilled
from nvae_bio.plot.factors import plot_bars, plot_effect
from nvae_bio.plot.images import as_picture, tile
from nvae_bio.plot.style import EFFECT_CMAP, OKABE_ITO

MAX_POINTS = 20_000
MAX_COLUMNS = 14  # of obs, in a strip of associations
N_EXAMPLES = 20  # cells at each end
N_PICTURES = 6  # a row, of which each end has two
N_FEATURES = 7  # each direction
SCALE = 10_000  # counts are shown as log1p of counts per so many
NEEDED = ("published", "loss", "n_found", "outcome", "tag", "certificate")  # columns of obs
KIND_COLOR = {"shared": OKABE_ITO[0], "private": OKABE_ITO[1]}
BARS: dict[str, dict[str, Any]] = {  # by outcome
    "active": {"color": OKABE_ITO[0]},
    "inactive": {"color": "0.8"},
    "under-powered": {"color": "white", "hatch": "////"},
    "": {"color": "0.9"},
}


def check_report(report: AnnData) -> None:
    """Refuse what is no consensus report.

    Raises:
        UserError: it lacks one of its columns or keys.
    """
    missing = [f"obs[{name!r}]" for name in NEEDED if name not in report.obs]
    missing += [f"obsm[{key!r}]" for key in (schema.OUTCOME_BY_CLASS, schema.KL_BY_CLASS) if key not in report.obsm]
    if missing:
        raise UserError(f"plot: the factor report has no {missing[0]}; give the factors.h5ad that `factors` wrote")


def classes_of(report: AnnData) -> list[str]:
    """Names of the classes, in the order of all that is told by class."""
    return [str(name) for name in report.uns[schema.MODEL]["classes"]]


def outcomes(report: AnnData) -> np.ndarray:
    """Outcome of each factor in each class, (F, C) of text; empty where the class cannot have it or was not asked.

    A private factor is no other class's to have, so that it is not inactive there.
    """
    table = pd.DataFrame(report.obsm[schema.OUTCOME_BY_CLASS]).astype(object)
    found = table.where(table.notna(), "").to_numpy().astype(str)
    private = (report.obs["kind"] == "private").to_numpy()[:, None]
    other = report.obs["class"].astype(str).to_numpy()[:, None] != np.array(classes_of(report), dtype=object)
    return np.where(private & other & (found != "active"), "", found)


def table_of(report: AnnData, key: str) -> pd.DataFrame:
    """A table in uns["nvae"]; an empty one where it is not there."""
    found = report.uns[schema.MODEL].get(key)
    return found if isinstance(found, pd.DataFrame) else pd.DataFrame()


def settings_of(report: AnnData) -> ReportSettings:
    """What the report was made with."""
    return ReportSettings.model_validate_json(report.uns[schema.MODEL]["report"])


def is_of_one(report: AnnData) -> np.ndarray:
    """Which published factors count as what their kind says, not as a shared one that spilled into blocks, bool."""
    return np.asarray(report.obs["published"].to_numpy(bool) & ~is_spilled(report.obs))


def weak_classes(report: AnnData) -> set[str] | None:
    """Classes that have no factor of their own and could not have shown one; None where the report does not say."""
    table = table_of(report, schema.CAPACITY)
    if "under_powered" not in table:
        return None
    weak = table["under_powered"].to_numpy(bool) & (table["n_used"] == 0).to_numpy()
    return set(table.loc[weak, "class"].astype(str))


def short(name: str, limit: int) -> str:
    """The name or, where it is longer than `limit` characters, its beginning and its end.

    >>> short("plasmacytoid dendritic cells 2", 16)
    'plasmacyto…lls 2'
    """
    if len(name) <= limit:
        return name
    n_last = limit // 3
    return f"{name[: limit - n_last - 1]}…{name[-n_last:]}"


def error_bars(value: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Lengths below and above `value`, (2, n), of intervals with the given `ends`, (2, n); 0 where not known."""
    return np.asarray(np.nan_to_num(np.array([value - ends[0], ends[1] - value]).clip(min=0)))


def say_in(ax: Axes, text: str) -> None:
    """Fill a panel with why there is nothing to draw."""
    ax.axis("off")
    ax.text(
        0.5, 0.5, textwrap.fill(text, 30), ha="center", va="center", fontsize=8, color="0.35", transform=ax.transAxes
    )


def scores_of(report: AnnData, embedded: AnnData) -> np.ndarray:
    """Consensus score of each sample on each factor of the report, (n, F), in its order; NaN where it has none.

    Raises:
        UserError: the embedded file has no such scores, or of other factors.
    """
    if schema.FACTORS not in embedded.obsm:
        raise UserError(f"plot: the embedded file has no obsm[{schema.FACTORS!r}]; give the one of the whole run")
    names = [str(name) for name in embedded.uns[schema.MODEL][schema.FACTOR_NAMES]]
    missing = [name for name in report.obs_names if name not in names]
    if missing:
        raise UserError(f"plot: the embedded file has no scores of factor {missing[0]!r}; give files of one run")
    return np.asarray(embedded.obsm[schema.FACTORS], float)[:, [names.index(name) for name in report.obs_names]]


def _layout(embedded: AnnData, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Places of the samples, (n, 2), and names of the axes: the UMAP, or the first two scores that `rows` have."""
    if schema.UMAP in embedded.obsm and np.isfinite(embedded.obsm[schema.UMAP][rows]).all(1).any():
        return np.asarray(embedded.obsm[schema.UMAP]), ("UMAP 1", "UMAP 2")
    there = np.flatnonzero(np.isfinite(scores[rows]).any(0))[:2]
    names = [str(name) for name in embedded.uns[schema.MODEL][schema.FACTOR_NAMES]]
    if len(there) < 2:
        return np.full((len(scores), 2), np.nan), ("", "")
    return scores[:, there], (f"score of {names[there[0]]}", f"score of {names[there[1]]}")


def plot_score_map(ax: Axes, embedded: AnnData, scores: np.ndarray, factor: int, rows: np.ndarray) -> None:
    """Samples in two dimensions, coloured by their score; those that have none, or are not of `rows`, in grey.

    Args:
        ax: panel.
        embedded: samples with, if there is one, a UMAP; without, the axes are the first two scores.
        scores: of each sample and factor, (n, F), in the order of the report.
        factor: place of the factor.
        rows: samples to be coloured, (n,), bool.
    """
    rows = rows & np.isfinite(scores[:, factor])
    points, names = _layout(embedded, scores, rows)
    seen = np.flatnonzero(np.isfinite(points).all(1))
    if not rows[seen].any():
        say_in(ax, "No map: no sample has a score." if not rows.any() else "No map: no UMAP, and a single score.")
        return
    title = "samples by score"
    if len(seen) > MAX_POINTS:
        title += f", {MAX_POINTS:,} of {len(seen):,} drawn"
        seen = np.random.default_rng(0).permutation(seen)[:MAX_POINTS]
    style: dict[str, Any] = {"s": float(np.clip(4000 / len(seen), 2, 18)), "linewidths": 0, "rasterized": True}
    other, own = seen[~rows[seen]], seen[rows[seen]]
    ax.scatter(points[other, 0], points[other, 1], color="0.88", **style)
    limit = max(float(np.quantile(np.abs(scores[rows, factor]), 0.99)), 1e-9)
    shades: dict[str, Any] = {"c": scores[own, factor], "cmap": EFFECT_CMAP, "vmin": -limit, "vmax": limit}
    found = ax.scatter(points[own, 0], points[own, 1], **shades, **style | {"s": 1.5 * style["s"]})
    bar = ax.figure.colorbar(found, ax=ax, shrink=0.7, pad=0.02)
    bar.set_label("score (prior SD)", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(short(names[0], 34), fontsize=7)
    ax.set_ylabel(short(names[1], 34), fontsize=7)
    ax.set_title(title, fontsize=8)


def plot_features(ax: Axes, report: AnnData, factor: int) -> None:
    """What rises and falls with the factor: bars with intervals, or the effect folded back into a picture."""
    model = report.uns[schema.MODEL]
    if not np.isfinite(np.asarray(report.X[factor])).any():
        say_in(ax, "No effect: no sample to decode it from.")
        return
    if model["kind"] == "images":
        image = plot_effect(ax, np.asarray(report.X[factor]), [int(size) for size in model["image_shape"]])
        ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02).ax.tick_params(labelsize=6)
        ax.set_title(f"effect from −2 to +2 SD ({model['effect_unit']})", fontsize=8)
        return
    plot_bars(ax, report, factor, N_FEATURES)
    ax.set_yticks(ax.get_yticks(), [short(label.get_text(), 18) for label in ax.get_yticklabels()], fontsize=7)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_xlabel(f"{model['effect_unit']}", fontsize=7)
    ax.set_title("effect from −2 to +2 SD", fontsize=8)


def plot_associations(ax: Axes, report: AnnData, factor: int) -> None:
    """|effect| of each column of obs, strongest first; * where its q is low, † where that of its donor test is too."""
    table = table_of(report, schema.ASSOCIATIONS)
    if not table.empty:
        table = table[(table["factor"].astype(str) == report.obs_names[factor]).to_numpy() & table["effect"].notna()]
    if table.empty:
        say_in(ax, "No associations: none of its columns was compared.")
        return
    fdr = settings_of(report).fdr
    table = table.sort_values("effect", key=lambda effect: -effect.abs(), kind="stable")
    more = f", {MAX_COLUMNS} of {len(table)}" if len(table) > MAX_COLUMNS else ""
    table = table.head(MAX_COLUMNS)
    effect = table["effect"].to_numpy(float)
    donor_q = table["donor_q"].to_numpy(float) if "donor_q" in table else np.full(len(table), np.nan)
    ax.imshow(np.abs(effect)[:, None], cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for i, (value, q, of_donors) in enumerate(zip(effect, table["q"].to_numpy(float), donor_q, strict=True)):
        text = f"{value:.2f} " + ("*" if q <= fdr else "") + ("†" if of_donors <= fdr else "")
        ax.text(0, i, text, ha="center", va="center", fontsize=7, color="white" if abs(value) > 0.5 else "black")
    ax.set_yticks(range(len(table)), [short(str(name), 18) for name in table["column"]], fontsize=7)
    ax.set_xticks([])
    ax.tick_params(length=0)
    donors = "\n† donors too" if np.isfinite(donor_q).any() else ""
    ax.set_title(f"association{more}\n* q ≤ {fdr:g}{donors}", fontsize=8)


def _ends(score: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """The samples of `rows` with the n lowest scores, then those with the n highest; fewer where there are fewer."""
    places = np.flatnonzero(rows & np.isfinite(score))
    places = places[np.argsort(score[places], kind="stable")]
    n = min(n, len(places) // 2)
    return np.concatenate([places[:n], places[len(places) - n :]])


def plot_examples(
    ax: Axes, report: AnnData, embedded: AnnData, score: np.ndarray, factor: int, rows: np.ndarray
) -> None:
    """Samples at both ends of the score: pictures, or a heat map of the features that the factor changes most.

    Args:
        ax: panel.
        report: factor report.
        embedded: samples with their counts, pixels or features.
        score: of each sample on the factor, (n,); NaN where it has none.
        factor: place of the factor.
        rows: samples to choose from, (n,), bool.
    """
    images = report.uns[schema.MODEL]["kind"] == "images"
    chosen = _ends(score, rows, 2 * N_PICTURES if images else N_EXAMPLES)
    if len(chosen) == 0:
        say_in(ax, "No examples: fewer than two samples have a score.")
    elif images:
        _plot_pictures(
            ax, report, embedded, chosen if len(chosen) == 4 * N_PICTURES else _ends(score, rows, N_PICTURES)
        )
    else:
        _plot_cells(ax, report, embedded, chosen, factor)


def _plot_pictures(ax: Axes, report: AnnData, embedded: AnnData, chosen: np.ndarray) -> None:
    """The lowest above the highest, in rows of six or, where there are fewer, in one row."""
    shape = [int(size) for size in report.uns[schema.MODEL]["image_shape"]]
    pictures, n = [as_picture(row, shape) for row in _dense(embedded.X[chosen])], len(chosen) // 2
    starts = range(0, n, N_PICTURES)
    low, high = (tile([part[i : min(i + N_PICTURES, n)] for i in starts]) for part in (pictures[:n], pictures[n:]))
    between = np.ones_like(low[: 1 + shape[1] // 4])
    ax.imshow(np.concatenate([low, between, high]).clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    places = [len(low) / 2, 1.5 * len(low) + len(between)]
    ax.set_yticks(places, ["lowest", "highest"], fontsize=7, rotation=90, va="center")
    ax.set(xticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{n} pictures at each end of the score", fontsize=8)


def _dense(x: Any) -> np.ndarray:
    return np.asarray(x.todense() if scipy.sparse.issparse(x) else x, dtype=float)


def _plot_cells(ax: Axes, report: AnnData, embedded: AnnData, chosen: np.ndarray, factor: int) -> None:
    """Heat map: features by samples, lowest scores at the left."""
    order = np.argsort(-np.nan_to_num(np.asarray(report.X[factor])), kind="stable")
    features = order if len(order) <= 2 * N_FEATURES else np.concatenate([order[:N_FEATURES], order[-N_FEATURES:]])
    columns = embedded.var_names.get_indexer(report.var_names[features])
    values, unit, cmap = _dense(embedded.X[chosen][:, columns]), "value", EFFECT_CMAP
    limits = {"vmin": -np.abs(values).max(), "vmax": np.abs(values).max()}
    if report.uns[schema.MODEL]["kind"] == "counts":
        library = embedded.obs[schema.LIBRARY].to_numpy(float)[chosen]
        values, unit, cmap, limits = np.log1p(values * (SCALE / library)[:, None]), "log1p CP10k", "viridis", {}
    image = ax.imshow(values.T, cmap=mpl.colormaps[cmap], aspect="auto", interpolation="nearest", **limits)
    n = len(chosen) // 2
    ax.axvline(n - 0.5, color="white", linewidth=2)
    ax.set_yticks(range(len(features)), [short(str(report.var_names[i]), 18) for i in features], fontsize=7)
    ax.set_xticks([(n - 1) / 2, n + (n - 1) / 2], [f"{n} lowest", f"{n} highest"], fontsize=7)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02)
    bar.set_label(unit, fontsize=7)
    bar.ax.tick_params(labelsize=6)
    ax.set_title("samples at both ends of the score", fontsize=8)


def plot_class_bars(
    ax: Axes, names: Sequence[str], value: np.ndarray, ends: np.ndarray | None, outcome: np.ndarray, title: str
) -> None:
    """A bar a class with interval: filled where active, grey where inactive, hatched where under-powered.

    Args:
        ax: panel.
        names: of the classes, top to bottom.
        value: of each, (C,); NaN draws nothing.
        ends: lower and upper end of its interval, (2, C), or None.
        outcome: of each, (C,) of text.
        title: what is drawn, with its unit.
    """
    if not np.isfinite(value).any():
        say_in(ax, f"No {title}: not measured.")
        return
    places = np.arange(len(names))
    for name in (name for name in BARS if (outcome == name).any()):
        rows = outcome == name
        ax.barh(places[rows], value[rows], height=0.7, edgecolor="0.4", linewidth=0.5, label=name, **BARS[name])
    if ends is not None:
        ax.errorbar(value, places, xerr=error_bars(value, ends), fmt="none", ecolor="black", elinewidth=0.8)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(places, [short(name, 24) for name in names], fontsize=7)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_title(title, fontsize=8)
