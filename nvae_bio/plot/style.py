"""Colours, panels and files that all figures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nvae_bio.data.atomic import atomic_path

FORMATS = ("png", "svg")
DPI = 110
MISSING = "#bdbdbd"  # samples without a value
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C00")
KL_CMAP = "mako_r"
EFFECT_CMAP = "vlag"
RC: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "nvae-bio",
    "svg.fonttype": "none",
}


def colors_of(names: Sequence[str]) -> dict[str, Any]:
    """One colour a name: safe for colour-blind readers up to eight, distinct beyond."""
    if len(names) <= len(OKABE_ITO):
        return dict(zip(names, OKABE_ITO, strict=False))
    palette = "tab20" if len(names) <= 20 else "husl"
    return dict(zip(names, sns.color_palette(palette, len(names)), strict=True))


def make_panels(n_panels: int, width: float, height: float, n_columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with `n_panels` axes in rows of at most `n_columns`; `width` and `height` of one panel in inches."""
    n_columns = max(1, min(n_columns, n_panels))
    n_rows = -(-n_panels // n_columns)
    figure = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    axes = list(np.ravel(figure.subplots(n_rows, n_columns, squeeze=False)))
    for ax in axes[n_panels:]:
        ax.remove()
    return figure, axes[:n_panels]


def height_of_rows(n_rows: int) -> float:
    """Inches that a panel of `seed_rows` needs for its labels."""
    return 0.6 + 0.2 * n_rows


def seed_rows(ax: Axes, rows: Mapping[str, np.ndarray], bar: float | None = None) -> None:
    """A row a name: a dot a seed, and a bar at the mean; the value to reach, where there is one, is dashed."""
    for row, values in enumerate(rows.values()):
        shifts = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(values, row + shifts, s=9, color=OKABE_ITO[0], alpha=0.6, linewidths=0)
        ax.plot([values.mean()] * 2, [row - 0.35, row + 0.35], color=OKABE_ITO[6], linewidth=1.5)
    if bar is not None:
        ax.axvline(bar, color=OKABE_ITO[5], linestyle="--", linewidth=1)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), labels=list(rows))
    ax.locator_params(axis="x", nbins=4)


def say(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    return figure


def scatter(ax: Axes, points: np.ndarray, groups: pd.Series, legend: bool = True) -> None:
    """Points coloured by group in shuffled order, (n, 2); missing groups in grey, below the others."""
    names = sorted(groups.dropna().astype(str).unique())
    colors: Mapping[str, Any] = colors_of(names)
    size = float(np.clip(4000 / max(len(points), 1), 2, 22))
    values = groups.astype(object).where(groups.notna(), None).to_numpy()
    present = np.array([value is not None for value in values])
    if (~present).any():
        ax.scatter(
            points[~present, 0], points[~present, 1], s=size, c=MISSING, linewidths=0, rasterized=True, label="missing"
        )
    order = np.random.default_rng(0).permutation(np.flatnonzero(present))
    shades = [colors[str(values[i])] for i in order]
    ax.scatter(points[order, 0], points[order, 1], s=size, c=shades, linewidths=0, alpha=0.8, rasterized=True)
    ax.set_xticks([])
    ax.set_yticks([])
    if legend and len(names) <= 40:
        for name in names:
            ax.scatter([], [], s=18, color=[colors[name]], label=name)
        ax.legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, ncols=1 + len(names) // 20, handletextpad=0.1
        )


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write `figure` as folder/name.png and .svg, each whole or not at all."""
    for suffix in FORMATS:
        with atomic_path(folder / f"{name}.{suffix}") as part:
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(part, format=suffix, dpi=DPI, metadata=metadata)


def house_style() -> Any:
    """A context in which figures look alike."""
    return mpl.rc_context(RC)
