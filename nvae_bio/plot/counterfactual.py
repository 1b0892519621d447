"""What a change does to samples: pictures before and after, or the features that move most."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

from nvae_bio import schema
from nvae_bio.plot.factors import plot_bars
from nvae_bio.plot.images import MAX_CLASSES, as_picture, plot_rows
from nvae_bio.plot.style import make_panels

N_PICTURES = 12  # samples shown, at most
COLUMNS = ("as it is", "changed", "lower", "upper")


def plot_counterfactual(changed: AnnData, n_top: int = 8) -> Figure:
    """Pictures as they are, changed, and the ends of the interval, a row a sample; of counts and features the largest
    effects with intervals, a panel a class.

    Args:
        changed: what `change_samples` gives.
        n_top: features in each direction.
    """
    model, n_refused = changed.uns[schema.MODEL], int(changed.uns[schema.COUNTERFACTUAL]["n_refused"])
    shown = changed[changed.obs[schema.IS_SUPPORTED].to_numpy(dtype=bool)]
    refused = f"; {n_refused} of {changed.n_obs} samples refused: outside of what their class has" if n_refused else ""
    return _pictures(shown, refused) if model["kind"] == "images" else _bars(shown, refused, n_top)


def _pictures(shown: AnnData, refused: str) -> Figure:
    shape, part = [int(size) for size in shown.uns[schema.MODEL]["image_shape"]], shown[:N_PICTURES]
    values = [part.layers["factual"], part.X, part.layers["lower"], part.layers["upper"]]
    rows = [[as_picture(np.asarray(one[row]), shape) for one in values] for row in range(part.n_obs)]
    to = part.obs[schema.AS_CLASS].astype(str)
    names = [
        f"{own} → {new}" if own != new else own for own, new in zip(part.obs[schema.LABEL].astype(str), to, strict=True)
    ]
    figure, ax = plot_rows(rows, names, f"{len(rows)} of {shown.n_obs} samples{refused}", 0.7)
    step = rows[0][0].shape[1] + 1
    ax.set_xticks([step * (place + 0.5) for place in range(len(COLUMNS))], COLUMNS, fontsize=6)
    return figure


def _bars(shown: AnnData, refused: str, n_top: int) -> Figure:
    groups = list(shown.obs.groupby(schema.LABEL, observed=True))[:MAX_CLASSES]
    keys = ("effect", schema.EFFECT_LOWER, schema.EFFECT_UPPER)
    means = {key: np.stack([np.asarray(shown[part.index].layers[key]).mean(0) for _, part in groups]) for key in keys}
    table = AnnData(
        means["effect"], var=pd.DataFrame(index=shown.var_names), layers={key: means[key] for key in keys[1:]}
    )
    figure, axes = make_panels(len(groups), 2.9, 2.6, 4)
    for row, (ax, (name, part)) in enumerate(zip(axes, groups, strict=True)):
        plot_bars(ax, table, row, n_top)
        target = str(part[schema.AS_CLASS].iloc[0])
        ax.set_title(f"{name}{f' → {target}' if target != name else ''} ({len(part)})", fontsize=8)
    unit = shown.uns[schema.MODEL]["effect_unit"]
    figure.suptitle(f"mean effect and interval ({unit}){refused}", fontsize=8)
    return figure
