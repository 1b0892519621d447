"""Figures of the factor report: KL maps, and the features of each factor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from nvae_bio import schema
from nvae_bio.plot.images import as_picture
from nvae_bio.plot.style import EFFECT_CMAP, KL_CMAP, OKABE_ITO, make_panels, say

MAX_FACTORS = 24
MARK = {"active": "*", "inactive": "", "under-powered": "?"}


def _heatmap(ax: Axes, kl: np.ndarray, rows: Sequence[str], columns: Sequence[str], vmax: float) -> None:
    small = kl.size <= 240
    sns.heatmap(
        kl, ax=ax, cmap=KL_CMAP, vmin=0, vmax=vmax, annot=small, fmt=".2f", annot_kws={"size": 6}, linewidths=0.3,
        xticklabels=list(columns), yticklabels=list(rows), cbar_kws={"label": "KL (nats)", "shrink": 0.7},
    )  # fmt: skip
    size = 7 if max(kl.shape) <= 20 else 5
    ax.tick_params(axis="x", labelsize=size, rotation=90)
    ax.tick_params(axis="y", labelsize=size, rotation=0)


def _kl_panels(report: AnnData, kind: str, transpose: bool) -> Figure:
    classes = [str(name) for name in report.uns[schema.MODEL]["classes"]]
    table = report.obs[report.obs["kind"] == kind]
    if len(table) == 0:
        return say(f"This run has no {kind} factors (variant {report.uns[schema.MODEL]['variant']}).")
    kl = report.obsm[schema.KL_BY_CLASS][(report.obs["kind"] == kind).to_numpy()]
    seeds = sorted(table["seed"].unique())
    n_factors = len(table) // len(seeds)
    sizes = (n_factors, len(classes)) if transpose else (len(classes), n_factors)
    width, height = (2.2 + 0.3 * min(sizes[0], 40), 1.7 + 0.24 * min(sizes[1], 40))
    figure, axes = make_panels(len(seeds), max(width, 4.2), max(height, 2.8), 3)
    for ax, seed in zip(axes, seeds, strict=True):
        rows = (table["seed"] == seed).to_numpy()
        part = table[rows]
        names = [
            f"{MARK[out]} {name} d{dim}" if name else f"{MARK[out]} d{dim}"
            for out, name, dim in zip(part["outcome"], part["class"], part["dim"], strict=True)
        ]
        values = kl[rows]
        if transpose:
            _heatmap(ax, values.T, classes, names, kl.max())
            ax.set(xlabel="block and dim", ylabel="samples of class")
        else:
            _heatmap(ax, values, names, classes, kl.max())
            ax.set(xlabel="samples of class", ylabel="shared dim")
        ax.set_title(f"seed {seed}")
    return figure


def plot_private_kl(report: AnnData) -> Figure:
    """Class × block heat map of the private KL, a panel a seed; * marks an active factor, ? an under-powered one."""
    return _kl_panels(report, "private", transpose=True)


def plot_shared_kl(report: AnnData) -> Figure:
    """KL of each shared factor in each class, a panel a seed; marks as in `plot_private_kl`."""
    return _kl_panels(report, "shared", transpose=False)


def plot_top_features(report: AnnData, n_top: int = 8) -> Figure:
    """What each published factor does: bars of its top features with intervals; for images, the effect as a picture.

    Args:
        report: what `report_factors` gives.
        n_top: features shown in each direction.
    """
    table = report.obs.assign(row=np.arange(report.n_obs))[report.obs["published"].to_numpy(dtype=bool)]
    model = report.uns[schema.MODEL]
    if len(table) == 0:
        return say("No factor to show: the seeds agree on none.")
    said = f"{len(table)} factors" + (f", the first {MAX_FACTORS}" if len(table) > MAX_FACTORS else "")
    table = table.head(MAX_FACTORS)
    shape = [int(size) for size in model["image_shape"]] if model["kind"] == "images" else None
    figure, axes = make_panels(len(table), 2.9, 2.6, 4 if shape is None else 6)
    for ax, (name, factor) in zip(axes, table.iterrows(), strict=True):
        row = int(factor["row"])
        if shape is None:
            plot_bars(ax, report, row, n_top)
        else:
            plot_effect(ax, np.asarray(report.X[row]), shape)
        ax.set_title(f"{MARK[factor['outcome']]} {name}: {factor['loss']:.2f} nats".strip(), fontsize=8)
    figure.suptitle(f"{said}; effect from −2 to +2 SD ({model['effect_unit']})", fontsize=8)
    return figure


def plot_effect(ax: Axes, effect: np.ndarray, shape: Sequence[int]) -> AxesImage:
    """An effect on pixels, (channels·height·width,), folded back into a picture; the mean over channels."""
    limit = max(float(np.abs(effect).max()), 1e-9)
    picture = as_picture(effect, shape)
    ax.set(xticks=[], yticks=[])
    return ax.imshow(picture if picture.ndim == 2 else picture.mean(-1), cmap=EFFECT_CMAP, vmin=-limit, vmax=limit)


def plot_bars(ax: Axes, report: AnnData, row: int, n_top: int) -> None:
    """Bars with intervals of the `n_top` features that fall and rise most with the factor in this row of the report."""
    effect = np.asarray(report.X[row])
    order = np.argsort(effect)
    chosen = np.concatenate([order[:n_top], order[-n_top:]]) if len(order) > 2 * n_top else order
    lower, upper = (np.asarray(report.layers[key][row]) for key in (schema.EFFECT_LOWER, schema.EFFECT_UPPER))
    values, places = effect[chosen], np.arange(len(chosen))
    errors = np.array([values - lower[chosen], upper[chosen] - values]).clip(min=0)
    colors = [OKABE_ITO[5] if value > 0 else OKABE_ITO[0] for value in values]
    ax.barh(places, values, xerr=errors, color=colors, error_kw={"linewidth": 0.6})
    ax.set_yticks(places, [str(report.var_names[i]) for i in chosen], fontsize=6)
    ax.axvline(0, color="black", linewidth=0.5)
