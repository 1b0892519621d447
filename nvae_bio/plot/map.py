"""The map of a run: every factor against every class, with how strong it is and how many a class has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nvae_bio.errors import listed
from nvae_bio.plot.panels import (
    KIND_COLOR,
    check_report,
    classes_of,
    error_bars,
    is_of_one,
    outcomes,
    short,
    weak_classes,
)
from nvae_bio.plot.style import OKABE_ITO, say

MAX_FACTORS = 40
MAX_CLASSES = 40
DOTS: dict[str, dict[str, Any]] = {
    "active": {"marker": "o", "facecolors": "black", "edgecolors": "black"},
    "inactive": {"marker": "o", "facecolors": "white", "edgecolors": "0.55"},
    "under-powered": {"marker": "x", "color": "0.3"},
}
GROUP_GAP = 0.6  # columns left free between shared, private and those that are listed apart
DOUBTFUL = ("technical", "batch", "donor")  # how tags begin that tell against biology


@dataclass(frozen=True)
class _Shown:
    """What a map has room for.

    Attributes:
        factors: places in the report, left to right, (n,).
        x: where each is drawn, (n,).
        n_published: how many of them, from the left, are published.
        classes: places in the list of classes, top to bottom.
        said: what was left out, empty if nothing.
    """

    factors: np.ndarray
    x: np.ndarray
    n_published: int
    classes: np.ndarray
    said: str


def strength(report: AnnData) -> tuple[np.ndarray, np.ndarray, str]:
    """How strong each factor is: log-likelihood lost without it or, where that was not measured, its KL.

    Returns:
        Value of each factor in nats a sample, (F,); lower and upper end of its interval, (2, F); what it is.
    """
    name, title = (
        ("kl", "KL (nats)") if report.obs["loss"].isna().all() else ("loss", "lost without it\n(nats a sample)")
    )
    ends = np.array([report.obs[f"{name}_{end}"] for end in ("lower", "upper")], dtype=float)
    return report.obs[name].to_numpy(float), ends, title


def _choose(report: AnnData) -> _Shown:
    """Published before others, shared before private; the strongest factors and busiest classes where room ends."""
    obs, found = report.obs, outcomes(report)
    published, private = obs["published"].to_numpy(bool), (obs["kind"] == "private").to_numpy()
    weight = -np.nan_to_num(strength(report)[0], nan=-np.inf)
    kept = np.lexsort((weight, (obs["outcome"] != "active").to_numpy(), ~published))[:MAX_FACTORS]
    names = classes_of(report)
    place = np.array([names.index(name) if name in names else -1 for name in obs["class"].astype(str)])
    kept = kept[np.lexsort((kept, place[kept], private[kept], ~published[kept]))]
    group = 2 * ~published[kept] + private[kept]
    x = np.arange(len(kept)) + GROUP_GAP * np.cumsum(np.diff(group, prepend=group[0]) != 0)
    n_used = ((found == "active") & published[:, None]).sum(0)
    classes = np.sort(np.argsort(-n_used, kind="stable")[:MAX_CLASSES])
    said = [f"the {len(kept)} strongest of {report.n_obs} factors"] if len(kept) < report.n_obs else []
    said += [f"the {len(classes)} busiest of {len(names)} classes"] if len(classes) < len(names) else []
    return _Shown(kept, x, int(published[kept].sum()), classes, " and ".join(said))


def _label(factor: pd.Series, name: str) -> str:
    """Name over seeds and tag."""
    found = f"{factor['n_found']}/{factor['n_seeds']} seeds"
    return "\n".join([short(name, 24), f"{found}, {short(factor['tag'], 20)}" if factor["tag"] else found])


def _class_labels(report: AnnData) -> list[str]:
    """Names of the classes, and which of those without a factor of their own could not have shown one."""
    weak = weak_classes(report) or set()
    return [short(name, 28) + (" (under-powered)" if name in weak else "") for name in classes_of(report)]


def _plot_matrix(ax: Axes, report: AnnData, shown: _Shown) -> None:
    found = outcomes(report)[np.ix_(shown.factors, shown.classes)]
    for row in range(0, len(shown.classes), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="0.95", linewidth=0, zorder=0)
    for x, column in zip(shown.x, found, strict=True):
        used = np.flatnonzero(column == "active")
        if len(used) > 1:
            ax.plot([x, x], [used[0], used[-1]], color="black", linewidth=1.2, zorder=1)
    for name, dot in DOTS.items():
        columns, rows = np.nonzero(found == name)
        ax.scatter(shown.x[columns], rows, s=30, linewidths=0.9, label=name, zorder=2, **dot)
    ax.set_ylim(len(shown.classes) - 0.5, -0.5)
    names = _class_labels(report)
    ax.set_yticks(range(len(shown.classes)), [names[i] for i in shown.classes], fontsize=8)
    texts = [_label(report.obs.iloc[i], str(report.obs_names[i])) for i in shown.factors]
    ax.set_xticks(shown.x, texts, rotation=90, fontsize=7, multialignment="right")
    for label, row in zip(ax.get_xticklabels(), shown.factors, strict=True):
        if str(report.obs["tag"].iloc[row]).startswith(DOUBTFUL):
            label.set_color(OKABE_ITO[5])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _plot_strength(ax: Axes, report: AnnData, shown: _Shown) -> None:
    value, ends, title = strength(report)
    value, ends = value[shown.factors], ends[:, shown.factors]
    kinds = report.obs["kind"].iloc[shown.factors]
    bars = ax.bar(shown.x, value, width=0.7, color=[KIND_COLOR[kind] for kind in kinds])
    ax.errorbar(shown.x, value, yerr=error_bars(value, ends), fmt="none", ecolor="black", elinewidth=0.8)
    for bar in bars[shown.n_published :]:
        bar.set_alpha(0.4)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylabel(title, fontsize=8)
    ax.tick_params(axis="x", length=0, labelbottom=False)
    ax.tick_params(axis="y", labelsize=7)
    ax.spines["bottom"].set_visible(False)


def _plot_counts(ax: Axes, report: AnnData, shown: _Shown) -> None:
    """Published factors that are active in each class: shared ones, and beyond them private ones."""
    active = (outcomes(report) == "active") & is_of_one(report)[:, None]
    left = np.zeros(len(shown.classes))
    for kind, color in KIND_COLOR.items():
        counts = active[(report.obs["kind"] == kind).to_numpy()].sum(0)[shown.classes]
        ax.barh(range(len(counts)), counts, left=left, height=0.7, color=color)
        left += counts
    ax.set_xlim(0, max(left.max(), 1) * 1.05)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.tick_params(axis="y", length=0, labelleft=False)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_xlabel("active factors", fontsize=8)
    ax.spines["left"].set_visible(False)


def _plot_legend(ax: Axes, matrix: Axes) -> None:
    ax.axis("off")
    kinds = [Patch(color=color, label=kind) for kind, color in KIND_COLOR.items()]
    ax.legend(handles=kinds + matrix.get_legend_handles_labels()[0], loc="center left", fontsize=7, handlelength=1.2)


def _title(report: AnnData, shown: _Shown) -> str:
    published, counted = report.obs["published"].to_numpy(bool), is_of_one(report)
    counts = report.obs["kind"][counted].value_counts()
    text = f"{counts.get('shared', 0)} shared and {counts.get('private', 0)} private factors"
    n_spilled = int((published & ~counted).sum())
    text += f", {n_spilled} private dims with what most classes share" if n_spilled else ""
    text += f"; shown: {shown.said}" if shown.said else ""
    if shown.n_published < len(shown.factors):
        text += "\npale, right of the dotted line: found in too few seeds to be published"
    return text


def plot_factor_map(report: AnnData) -> Figure:
    """Factors × classes over everything: who uses what, how strongly, and what it may be besides biology.

    A dot is filled where the class was found to use the factor, hollow where it was not, a cross where its samples are
    too few to tell; no dot where it cannot have the factor. The name of a class says so where it has no factor of its
    own and could not have shown one. Bars above: log-likelihood of held-out samples lost without the factor (nats a
    sample; the KL where that was not measured) with interval. Bars at the right: published factors active in each
    class. Below each factor the seeds that found it and its tag; red tags speak of technique.

    Args:
        report: factors × features, as the verb `factors` writes it. At most 40 factors and 40 classes are drawn, and
            the title says which.

    Raises:
        UserError: the report has no consensus over seeds.
    """
    check_report(report)
    if report.n_obs == 0:
        weak = sorted(weak_classes(report) or set())
        said = f"\nUnder-powered, so that this says little: {listed(weak, 8)}." if weak else ""
        return say(f"No factor was found in this run, not even one to list apart.{said}")
    shown = _choose(report)
    texts = [_label(report.obs.iloc[i], str(report.obs_names[i])) for i in shown.factors]
    below = 0.085 * max(len(line) for text in texts for line in text.split("\n"))
    beside = 0.085 * max(len(label) for label in _class_labels(report))
    span = max(float(shown.x[-1]) + 1.6, 8.0)  # columns; few factors are not drawn wide
    widths, heights = [0.3 * span, 1.3], [1.3, max(0.24 * len(shown.classes), 0.6)]
    size = (max(sum(widths) + beside + 0.6, 6.0), sum(heights) + below + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=widths, height_ratios=heights)
    matrix = figure.add_subplot(grid[1, 0])
    top, right = figure.add_subplot(grid[0, 0], sharex=matrix), figure.add_subplot(grid[1, 1], sharey=matrix)
    _plot_matrix(matrix, report, shown)
    _plot_strength(top, report, shown)
    _plot_counts(right, report, shown)
    _plot_legend(figure.add_subplot(grid[0, 1]), matrix)
    matrix.set_xlim(-0.8, span - 0.8)
    if 0 < shown.n_published < len(shown.factors):
        border = shown.x[shown.n_published - 1 : shown.n_published + 1].mean()
        for ax in (top, matrix):
            ax.axvline(border, color="0.4", linestyle=":", linewidth=1)
    figure.suptitle(_title(report, shown), fontsize=9)
    return figure
