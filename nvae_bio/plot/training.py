"""Training curves."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from nvae_bio.plot.style import colors_of, make_panels

PANELS = {
    "elbo": "bound on log p(x|y) (nats)",
    "log_likelihood": "log p(x|y,z) (nats)",
    "kl_shared": "KL of z_s (nats)",
    "kl_private": "KL of the own block (nats)",
    "kl_off_block": "KL of all other blocks (nats)",
    "accuracy": "accuracy of q(y|x)",
}
STYLES = {"train": "-", "validation": ":"}


def plot_history(histories: dict[str, pd.DataFrame]) -> Figure:
    """A panel a term, a colour a seed; training drawn through, validation dotted, a dot at the weights that were kept.

    Args:
        histories: name of the seed → its history table (one row an epoch and split).
    """
    figure, axes = make_panels(len(PANELS), 3.6, 2.6, 3)
    colors = colors_of(list(histories))
    for ax, (column, title) in zip(axes, PANELS.items(), strict=True):
        shown = []
        for name, history in histories.items():
            for split, style in STYLES.items():
                part = history[history["split"] == split]
                ax.plot(part["epoch"], part[column], style, color=colors[name], linewidth=1.1)
                shown.append(part.loc[part["epoch"] >= 0.05 * part["epoch"].max(), column])
            kept = history[(history["split"] == "validation") & history["is_best"]].iloc[-1]
            ax.plot(kept["epoch"], kept[column], "o", color=colors[name], markersize=4)
            warmup = history.loc[history["kl_weight"] < 1, "epoch"]
            ax.axvline(warmup.max() if len(warmup) else 0, color="0.7", linewidth=0.8, zorder=0)
        values = pd.concat(shown)
        if values.max() > values.min():
            margin = 0.05 * (values.max() - values.min())
            ax.set_ylim(values.min() - margin, values.max() + margin)
        ax.set_title(title)
        ax.set_xlabel("epoch")
    for name in histories:
        axes[0].plot([], [], color=colors[name], label=name)
    for split, style in STYLES.items():
        axes[0].plot([], [], style, color="0.3", label=split)
    axes[0].plot([], [], color="0.7", linewidth=0.8, label="end of warm-up")
    axes[0].legend(fontsize=7)
    return figure
