"""Plots for notebooks, in the manner of scanpy: each draws on `ax`, can `save` and `show`, and returns the axes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from anndata import AnnData
from matplotlib.axes import Axes

from nvae_bio import schema
from nvae_bio.errors import UserError, listed
from nvae_bio.factors.report import FactorReport
from nvae_bio.notebook import NVAE
from nvae_bio.plot.factors import plot_bars, plot_effect
from nvae_bio.plot.images import as_picture, show_rows
from nvae_bio.plot.style import EFFECT_CMAP, KL_CMAP

__all__ = ["factor", "history", "kl_heatmap", "traversal", "umap"]

Reported: TypeAlias = "AnnData | FactorReport | NVAE"


def umap(
    adata: AnnData,
    color: str | Sequence[str] | None = None,
    *,
    basis: str = schema.UMAP,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
    **options: Any,
) -> Axes | list[Axes]:
    """An embedding in two dimensions, by scanpy's `pl.embedding`; samples that were not laid out are left out.

    Args:
        adata: with a layout of `embed`.
        color: columns of obs, or features.
        basis: key of obsm; `X_nvae_specific_umap` is of the private blocks, of which each class has its own.
        show: show the figure now; None: where matplotlib is interactive and the figure is new.
        save: a file to write the figure to.
        ax: where to draw; a new figure if None.
        options: of scanpy's function.

    Raises:
        UserError: no such layout.
    """
    import scanpy as sc

    if basis not in adata.obsm:
        raise UserError(
            f"pl.umap: no obsm[{basis!r}]; allowed: {listed(adata.obsm)} (embed with `umap: true` lays out)"
        )
    shown = adata[np.isfinite(np.asarray(adata.obsm[basis])).all(1)].copy()  # scanpy writes colours into it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of matplotlib, about what scanpy calls
        drawn: Axes | list[Axes] | None = sc.pl.embedding(
            shown, basis.removeprefix("X_"), color=color, ax=ax, show=False, **options
        )
    axes = plt.gcf().axes if drawn is None else drawn
    _finish(axes[0] if isinstance(axes, list) else axes, _shows(show, ax), save)
    return axes


def kl_heatmap(
    report: Reported, *, show: bool | None = None, save: str | Path | None = None, ax: Axes | None = None
) -> Axes:
    """KL of each factor in each class, nats; the class of a private factor, and where a shared one is used.

    Args:
        report: of `NVAE.factors`, or what it is of.
        show, save, ax: as `umap`.

    Raises:
        UserError: no report, or one without factors.
    """
    factors = _factors(report)
    if factors.n_obs == 0:
        raise UserError("pl.kl_heatmap: the report has no factor; the seeds agree on none")
    classes = [str(name) for name in factors.uns[schema.MODEL]["classes"]]
    values = np.asarray(factors.obsm[schema.KL_BY_CLASS], dtype=float)
    table = pd.DataFrame(values, index=factors.obs_names, columns=classes)
    show, ax = _shows(show, ax), _axes(ax, (0.5 * len(classes) + 3, 0.28 * len(table) + 1.5))
    _heatmap(ax, table, KL_CMAP, "KL (nats)")
    ax.set(xlabel="class", ylabel="factor")
    return _finish(ax, show, save)


def factor(
    report: Reported,
    name: str,
    *,
    n_top: int = 10,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What a factor does: its features with intervals, from −2 to +2 SD; of images the effect as a picture.

    Args:
        report: of `NVAE.factors`, or what it is of.
        name: of the factor, as in `report.obs_names`.
        n_top: features in each direction.
        show, save, ax: as `umap`.

    Raises:
        UserError: no report, or no such factor.
    """
    factors = _factors(report)
    if name not in factors.obs_names:
        raise UserError(f"pl.factor: no factor {name!r}; allowed: {listed(factors.obs_names)}")
    row, model = factors.obs_names.get_loc(name), factors.uns[schema.MODEL]
    is_picture = model["kind"] == "images"
    show, ax = _shows(show, ax), _axes(ax, (4, 3.2 if is_picture else 0.2 * min(2 * n_top, factors.n_vars) + 1))
    if is_picture:
        image = plot_effect(ax, np.asarray(factors.X[row]), [int(size) for size in model["image_shape"]])
        plt.colorbar(image, ax=ax, label=str(model["effect_unit"]))
    else:
        plot_bars(ax, factors, row, n_top)
        ax.tick_params(axis="y", labelsize=8)
        ax.set_xlabel(f"effect ({model['effect_unit']})")
    ax.set_title(f"{name}: {factors.obs['outcome'].iloc[row]}")
    return _finish(ax, show, save)


def traversal(
    model: NVAE,
    dim: int,
    label: str,
    *,
    kind: str = "shared",
    n_top: int = 20,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One dim of the first seed's model from low to high, all others at 0: pictures, or the features that move most.

    Args:
        model: a fitted one.
        dim: of z_s or of the block, from 0.
        label: class that is decoded.
        kind: `shared` or `private`.
        n_top: features.
        show, save, ax: as `umap`.

    Raises:
        UserError: not fitted, or no such dim or class.
    """
    steps = model.traverse()
    rows = (steps.obs["kind"] == kind) & (steps.obs["dim"] == dim) & (steps.obs[schema.LABEL] == label)
    if not rows.any():
        dims = sorted(set(steps.obs.loc[steps.obs["kind"] == kind, "dim"]))
        raise UserError(
            f"pl.traversal: no {kind} dim {dim} in class {label!r}; allowed: dims {listed(dims)}, classes "
            f"{listed(model.classes)}"
        )
    part, values = steps[rows.to_numpy()], steps.obs["value"][rows].to_numpy()
    if model.dataset.kind == "images":
        shape = [int(size) for size in steps.uns[schema.MODEL]["image_shape"]]
        pictures = [as_picture(row, shape) for row in np.asarray(part.X)]
        show, ax = _shows(show, ax), _axes(ax, (1 + 0.7 * len(pictures), 1.4))
        show_rows(ax, [pictures], [""])
        ax.set_xticks([(pictures[0].shape[1] + 1) * (i + 0.5) for i in range(len(values))], [f"{v:g}" for v in values])
    else:
        change = np.asarray(part.X) - np.asarray(part.X).mean(0)
        scaled = change / np.maximum(np.abs(change).max(0), 1e-12)
        top = np.argsort(-np.asarray(part.X).std(0) / np.maximum(np.asarray(part.X).mean(0), 1e-12) ** 0.5)[:n_top]
        table = pd.DataFrame(scaled[:, top].T, index=part.var_names[top], columns=[f"{v:g}" for v in values])
        show, ax = _shows(show, ax), _axes(ax, (0.4 * len(values) + 3, 0.22 * n_top + 1))
        _heatmap(ax, table, EFFECT_CMAP, "decoded mean, of its own range", (-1, 1))
    ax.set(title=f"{kind} dim {dim} in {label}, seed {model.settings.seeds[0]}", xlabel="value (prior SD)")
    return _finish(ax, show, save)


def history(
    model: NVAE,
    term: str = "elbo",
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A term of the bound by epoch, a colour a seed, training and validation apart.

    Args:
        model: a fitted one.
        term: column of `model.history`, nats.
        show, save, ax: as `umap`.

    Raises:
        UserError: not fitted, or no such term.
    """
    table = model.history
    if term not in table:
        raise UserError(f"pl.history: no term {term!r}; allowed: {listed(table.columns)}")
    show, ax = _shows(show, ax), _axes(ax, (5, 3.2))
    sns.lineplot(table, x="epoch", y=term, hue=table["seed"].astype(str), style="split", ax=ax, errorbar=None)
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), frameon=False)  # beside the curves
    ax.set_ylabel(f"{term} (nats)")
    return _finish(ax, show, save)


def _heatmap(
    ax: Axes, table: pd.DataFrame, cmap: str, label: str, limits: tuple[float | None, float | None] = (None, None)
) -> None:
    """A table with names; seaborn's colours, but not its heatmap, which calls what matplotlib is giving up."""
    image = ax.imshow(table, sns.color_palette(cmap, as_cmap=True), aspect="auto", vmin=limits[0], vmax=limits[1])
    ax.set_xticks(range(table.shape[1]), table.columns, rotation=90)
    ax.set_yticks(range(table.shape[0]), table.index)
    plt.colorbar(image, ax=ax, label=label)


def _factors(report: Reported) -> AnnData:
    if isinstance(report, NVAE):
        if report.report is None:
            raise UserError("pl: no factor report; call factors() first")
        report = report.report
    return report.factors if isinstance(report, FactorReport) else report


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _shows(show: bool | None, ax: Axes | None) -> bool:
    """Whether to show the figure: by default not one that others may still draw on."""
    return plt.isinteractive() and ax is None if show is None else show


def _finish(ax: Axes, show: bool, save: str | Path | None) -> Axes:
    if save is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(save, bbox_inches="tight")
    if show:
        plt.show()
    return ax
