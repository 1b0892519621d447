"""What went into a prepared data set, and what was left out."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nvae_bio import schema
from nvae_bio.plot.style import OKABE_ITO, colors_of, make_panels

QC_AXES = {"n_counts": "counts a cell", "n_genes": "detected genes a cell", "mito_share": "mitochondrial share"}
QC_LIMITS = {"n_counts": "min_counts", "n_genes": "min_genes", "mito_share": "max_mito_share"}


def plot_data(prepared: AnnData) -> Figure:
    """Filters with their victims, class sizes by split, and QC histograms (counts) or mean pictures (images)."""
    data = prepared.uns[schema.DATA]
    measured = [c for c in QC_AXES if not data["qc"][c].isna().all()] if data["kind"] == "counts" else []
    figure, axes = make_panels(2 + len(measured) + (data["kind"] == "images"), 4.2, 3.4, 3)
    _plot_removed(axes[0], data["removed"])
    _plot_classes(axes[1], prepared.obs)
    if data["kind"] == "counts":
        limits = json.loads(data["settings"])["qc"]
        for ax, column in zip(axes[2:], measured, strict=True):
            _plot_qc(ax, data["qc"], column, QC_AXES[column], limits[QC_LIMITS[column]])
    elif data["kind"] == "images":
        _plot_mean_images(axes[2], prepared)
    return figure


def _plot_removed(ax: Axes, removed: pd.DataFrame) -> None:
    """One bar a filter, labelled with how many it removed and how many were left."""
    places = np.arange(len(removed))[::-1]
    ax.barh(places, removed["n_removed"], color=OKABE_ITO[5])
    texts = [f"{reason} ({what})" for reason, what in zip(removed["reason"], removed["what"], strict=True)]
    names = [textwrap.fill(text, 36) for text in texts]
    ax.set_yticks(places, names, fontsize=6)
    for place, gone, left in zip(places, removed["n_removed"], removed["n_left"], strict=True):
        ax.annotate(f" −{gone}, {left} left", (gone, place), va="center", fontsize=6)
    ax.set_xlabel("removed")
    ax.set_title("filters")
    ax.set_xlim(0, 1.6 * max(1, removed["n_removed"].max()))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _plot_classes(ax: Axes, obs: pd.DataFrame) -> None:
    """Stacked bars: samples of each class in each split."""
    label = obs[schema.LABEL].astype(object).where(obs[schema.LABEL].notna(), "unlabeled")
    sizes = pd.crosstab(label, obs[schema.SPLIT]).reindex(columns=list(schema.SPLITS), fill_value=0)
    left = np.zeros(len(sizes))
    for split, color in colors_of(schema.SPLITS).items():
        ax.barh(sizes.index, sizes[split], left=left, color=color, label=split)
        left += sizes[split].to_numpy()
    ax.invert_yaxis()
    ax.tick_params(axis="y", labelsize=7 if len(sizes) <= 15 else 5)
    ax.set_xlabel("samples")
    ax.set_title("classes and splits")
    ax.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.08), columnspacing=1)


def _plot_qc(ax: Axes, qc: pd.DataFrame, column: str, title: str, limit: float) -> None:
    """Histogram of the cells before QC, kept and dropped, with the limit that was set."""
    values = qc[column].to_numpy(float)
    log = column != "mito_share" and values.max() > 0
    low = max(values[values > 0].min(), 1) if log else 0
    bins = np.geomspace(low, values.max() + 1, 40) if log else np.linspace(0, max(values.max(), 0.01), 40)
    for kept, name, color in ((True, "kept", OKABE_ITO[0]), (False, "dropped", OKABE_ITO[5])):
        ax.hist(values[qc["kept"].to_numpy(bool) == kept], bins=bins.tolist(), color=color, alpha=0.8, label=name)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if bins[0] <= limit <= bins[-1]:
        ax.axvline(limit, color="black", linestyle=":", linewidth=1, label="limit")
    ax.set_xlabel(title)
    ax.set_ylabel("cells before QC")
    ax.legend(fontsize=7)


def _plot_mean_images(ax: Axes, prepared: AnnData) -> None:
    """The mean training picture of each class, side by side."""
    from nvae_bio.plot.images import as_picture, tile

    shape = [int(size) for size in prepared.uns[schema.DATA]["image_shape"]]
    train = prepared[(prepared.obs[schema.SPLIT] == "train").to_numpy()]
    classes = [str(name) for name in prepared.uns[schema.DATA]["classes"]]
    means = [np.asarray(train[(train.obs[schema.LABEL] == name).to_numpy()].X).mean(0) for name in classes]
    n_columns = int(np.ceil(np.sqrt(len(means))))
    blank = np.ones_like(as_picture(means[0], shape))
    pictures = [as_picture(mean, shape) for mean in means]
    pictures += [blank] * (-len(pictures) % n_columns)
    rows = [pictures[start : start + n_columns] for start in range(0, len(pictures), n_columns)]
    ax.imshow(tile(rows), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title("mean training picture, classes in order")
