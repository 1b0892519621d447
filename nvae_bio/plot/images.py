"""Pictures that a trained model of images makes: traversals of its factors and ancestral samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nvae_bio import schema
from nvae_bio.plot.style import make_panels, say

MAX_CLASSES = 12
MAX_COLUMNS = 12
MAX_SHARED = 12


def as_picture(row: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """One sample, (channels·height·width,), as (height, width) or, with three channels, (height, width, 3)."""
    channels, height, width = shape
    picture = row.reshape(channels, height, width)
    return picture.transpose(1, 2, 0) if channels == 3 else picture.mean(0)


def tile(rows: Sequence[Sequence[np.ndarray]], gap: int = 1) -> np.ndarray:
    """Pictures of one shape, row by row, with a white gap between them."""

    def padded(picture: np.ndarray) -> np.ndarray:
        edges = [(0, gap), (0, gap)] + [(0, 0)] * (picture.ndim - 2)
        return np.pad(picture, edges, constant_values=1.0)

    return np.concatenate([np.concatenate([padded(p) for p in row], axis=1) for row in rows], axis=0)


def show_rows(ax: Axes, rows: Sequence[Sequence[np.ndarray]], names: Sequence[str]) -> None:
    """Rows of pictures, each with its name."""
    ax.imshow(tile(rows).clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    height = rows[0][0].shape[0] + 1
    ax.set_yticks([height * (i + 0.5) for i in range(len(rows))], list(names), fontsize=6)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _shape(adata: AnnData) -> list[int]:
    return [int(size) for size in adata.uns[schema.MODEL]["image_shape"]]


def _kl_of(report: AnnData, seed: int, kind: str, name: str) -> pd.Series:
    """Mean KL of the factors of one seed, kind and class, by dim, in nats."""
    obs = report.obs
    rows = obs[(obs["seed"] == seed) & (obs["kind"] == kind) & (obs["class"] == name)]
    return pd.Series(rows["kl"].to_numpy(float), index=rows["dim"].to_numpy())


def _traversal_rows(
    traversals: AnnData, kind: str, name: str, dims: Sequence[int], kl: pd.Series
) -> tuple[list[list[np.ndarray]], list[str]]:
    obs, shape = traversals.obs, _shape(traversals)
    rows = []
    for dim in dims:
        chosen = ((obs["kind"] == kind) & (obs["dim"] == dim) & (obs[schema.LABEL] == name)).to_numpy()
        rows.append([as_picture(row, shape) for row in np.asarray(traversals.X[chosen])])
    return rows, [f"dim {dim}, KL {kl[dim]:.2f}" for dim in dims]


def _plot_traversals(traversals: AnnData, report: AnnData, kind: str, max_dims: int, n_classes: int) -> Figure:
    obs, model = traversals.obs, traversals.uns[schema.MODEL]
    part = obs[obs["kind"] == kind]
    if len(part) == 0:
        return say(f"This run has no {kind} factors (variant {model['variant']}).")
    seed = int(model["seed"])
    classes = [str(name) for name in model["classes"]][:n_classes]
    n_dims, n_steps = min(part["dim"].nunique(), max_dims), part["value"].nunique()
    _, height, width = _shape(traversals)
    panel_width = 4.2
    panel_height = 0.35 + (panel_width - 0.9) * n_dims * (height + 1) / (n_steps * (width + 1))
    figure, axes = make_panels(len(classes), panel_width, panel_height, 2 if kind == "shared" else 3)
    for ax, name in zip(axes, classes, strict=True):
        kl = _kl_of(report, seed, kind, "" if kind == "shared" else name)
        dims = [int(dim) for dim in kl.sort_values(ascending=False, kind="stable").index[:n_dims]]
        show_rows(ax, *_traversal_rows(traversals, kind, name, dims, kl))
        ax.set_title(name, fontsize=8)
    span = part["value"].max()
    figure.suptitle(
        f"seed {seed}: one {kind} factor from −{span:g} to +{span:g} prior SD, all others 0; largest KL (nats) first",
        fontsize=8,
    )
    return figure


def plot_shared_traversals(traversals: AnnData, report: AnnData) -> Figure:
    """Rows of pictures along each shared factor, for the first four classes."""
    return _plot_traversals(traversals, report, "shared", MAX_SHARED, 4)


def plot_private_traversals(traversals: AnnData, report: AnnData) -> Figure:
    """Rows of pictures along each private factor, one panel a class (the first twelve)."""
    return _plot_traversals(traversals, report, "private", MAX_SHARED, MAX_CLASSES)


def plot_rows(rows: list[list[np.ndarray]], names: Sequence[str], title: str, head: float) -> tuple[Figure, Axes]:
    """Rows of pictures in one panel, `head` inches higher than they need."""
    width, (n_down, n_across) = 4.6, rows[0][0].shape[:2]
    height = head + (width - 0.6) * len(rows) * (n_down + 1) / (len(rows[0]) * (n_across + 1))
    figure, (ax,) = make_panels(1, width, height, 1)
    show_rows(ax, rows, names)
    ax.set_title(title, fontsize=8)
    return figure, ax


def plot_interpolations(interpolations: AnnData) -> Figure:
    """Pictures on the way from one sample to another, a row a pair, under its class."""
    obs, shape, rows, names = interpolations.obs, _shape(interpolations), [], []
    pairs = obs.drop_duplicates("pair")["pair"].tolist()[: MAX_CLASSES * 2]
    for pair in pairs:
        chosen = (obs["pair"] == pair).to_numpy()
        rows.append([as_picture(row, shape) for row in np.asarray(interpolations.X[chosen])])
        names.append(str(obs.loc[chosen, schema.LABEL].iloc[0]))
    return plot_rows(rows, names, "from one held-out sample to another of its class", 0.5)[0]


def plot_swaps(swaps: AnnData) -> Figure:
    """Samples as every class, a row a sample and a column a class; where both are one it is the reconstruction."""
    obs, shape = swaps.obs, _shape(swaps)
    classes = [str(name) for name in swaps.uns[schema.MODEL]["classes"]][:MAX_CLASSES]
    rows, names = [], []
    for sample in obs.drop_duplicates("sample")["sample"].tolist()[: MAX_CLASSES * 2]:
        own = (obs["sample"] == sample).to_numpy()
        places = [np.flatnonzero(own & (obs[schema.LABEL] == name).to_numpy())[0] for name in classes]
        rows.append([as_picture(row, shape) for row in np.asarray(swaps.X[places])])
        names.append(str(obs.loc[own, "sample_label"].iloc[0]))
    figure, ax = plot_rows(rows, names, "samples (rows, by their class) decoded as every class (columns)", 0.6)
    step = rows[0][0].shape[1] + 1
    ax.set_xticks([step * (place + 0.5) for place in range(len(classes))], classes, fontsize=6)
    return figure


def plot_samples(samples: AnnData) -> Figure:
    """Ancestral samples (the decoder's mean), one panel a σ and one row a class."""
    shape, obs = _shape(samples), samples.obs
    classes = [str(name) for name in samples.uns[schema.MODEL]["classes"]][:MAX_CLASSES]
    sigmas = sorted(obs["sigma"].unique())
    counts = obs.groupby("sigma", observed=True)[schema.LABEL].value_counts()
    n_columns = min(MAX_COLUMNS, int(counts.max()))
    classes = [name for name in classes if (obs[schema.LABEL] == name).any()]
    panel_height = 0.4 + 3.6 * len(classes) * (shape[1] + 1) / (n_columns * (shape[2] + 1))
    figure, axes = make_panels(len(sigmas), 4.4, panel_height, 2)
    for ax, sigma in zip(axes, sigmas, strict=True):
        rows = []
        for name in classes:
            chosen = np.flatnonzero(((obs["sigma"] == sigma) & (obs[schema.LABEL] == name)).to_numpy())[:n_columns]
            row = [as_picture(row, shape) for row in np.asarray(samples.layers["mean"][chosen])]
            rows.append(row + [np.ones_like(row[0])] * (n_columns - len(row)))
        show_rows(ax, rows, classes)
        ax.set_title(f"z ~ N(0, σ²), σ = {sigma:g}", fontsize=8)
    return figure
