"""Scores of the models of a run, seed by seed."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nvae_bio.plot.style import OKABE_ITO, height_of_rows, make_panels, say, seed_rows

SAMPLES = {"samples_told": "class told", "precision": "precision", "recall": "recall", "coverage": "coverage"}
PRIOR = {
    "prior_mmd_ratio": "MMD", "prior_moment_kl_ratio": "moment KL",
    "prior_mmd_ratio_shared": "MMD, z_s", "prior_moment_kl_ratio_shared": "moment KL, z_s",
}  # fmt: skip
LIKELIHOOD = {"log_px_given_y": "log p(x|y)", "log_pxy": "log p(x,y)", "log_px": "log p(x)", "elbo_test": "bound"}
LEAKAGE = {"leakage_linear": "linear", "leakage_knn": "neighbours", "leakage_chance": "chance"}
Panel = Callable[[Axes, pd.DataFrame], None]


def _by_name(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The metrics named, with their labels as column `name`, in the order given."""
    found = table[table["metric"].isin(names)].assign(name=lambda part: part["metric"].map(names))
    return found.sort_values("metric", key=lambda part: part.map(list(names).index), kind="stable")


def _by_pattern(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """The metrics that a pattern matches in full, with its groups as columns."""
    found = table["metric"].str.extract(f"^{pattern}$")
    return table.join(found)[found.notna().all(axis=1)]


def _lines(ax: Axes, table: pd.DataFrame, x: str, line: str) -> None:
    """A line a value of a column: its mean over seeds, and a dot a seed."""
    for color, (name, part) in zip(OKABE_ITO, table.groupby(line, sort=False), strict=False):
        mean = part.groupby(x)["value"].mean()
        ax.plot(mean.index, mean.to_numpy(), color=color, linewidth=1.2, label=str(name))
        ax.scatter(part[x], part["value"], color=color, s=9, linewidths=0)
    ax.set_xticks(sorted(table[x].unique()))
    ax.legend(fontsize=7)


def _sigma_panel(ax: Axes, table: pd.DataFrame) -> None:
    _lines(ax, table.assign(name=table["metric_of"].map(SAMPLES)), "sigma", "name")
    ax.set(title="ancestral samples", xlabel="σ of the prior noise", ylim=(0, 1.05))


def _share_panel(ax: Axes, table: pd.DataFrame) -> None:
    _lines(ax, table, "share", "classifier")
    ax.set(title="trained on artificial data", xlabel="τ, share of artificial batches", ylabel="accuracy on real ones")


def plot_run_scores(table: pd.DataFrame) -> Figure:
    """Scores of a run: a panel a group that it has, a dot a seed.

    Args:
        table: dataset, variant, seed, metric, value, package, saw_labels; that of one run.
    """
    panels: list[tuple[Panel, pd.DataFrame]] = []
    sigma = _by_pattern(table, rf"(?P<metric_of>{'|'.join(SAMPLES)})_(?P<sigma>[\d.]+)")
    if not sigma.empty:
        panels.append((_sigma_panel, sigma.astype({"sigma": float})))
    share = _by_pattern(table.replace({"metric": {r"^accuracy_real_": "accuracy_tau_0_"}}, regex=True),
                        r"accuracy_tau_(?P<share>[\d.]+)_(?P<classifier>\w+)")  # fmt: skip
    if not share.empty:
        panels.append((_share_panel, share.astype({"share": float})))
    groups = (
        ("held-out log-likelihood (nats a sample)", LIKELIHOOD, None),
        ("aggregate posterior ÷ prior draws", PRIOR, 1.0),
        ("class read off z_s (balanced accuracy)", LEAKAGE, None),
    )
    for title, names, bar in groups:
        _add(panels, title, _by_name(table, names), bar)
    known = _by_pattern(table, r"r2_(?P<name>\w+)")
    known = known.assign(name=known["name"].str.replace("_within", " within").str.replace("_knn", ", neighbours"))
    _add(panels, "known factors from z_s (R²)", known, None)
    finer = _by_pattern(table, r"(?P<of>lms_smi|lms_spn)\[(?P<class>.+)\]")
    _add(panels, "finer labels", finer.assign(name=finer["of"] + ", " + finer["class"]) if len(finer) else finer, None)
    if not panels:
        return say("No scores that a figure shows.")
    n_rows = max((part["name"].nunique() for _, part in panels if "name" in part), default=0)
    figure, axes = make_panels(len(panels), 3.6, max(2.6, height_of_rows(n_rows)), 3)
    for ax, (draw, part) in zip(axes, panels, strict=True):
        draw(ax, part)
    return figure


def _add(panels: list[tuple[Panel, pd.DataFrame]], title: str, part: pd.DataFrame, bar: float | None) -> None:
    """A panel of rows of dots, where there is something to draw."""
    if part.empty:
        return

    def draw(ax: Axes, table: pd.DataFrame) -> None:
        seed_rows(ax, {str(name): of["value"].to_numpy() for name, of in table.groupby("name", sort=False)}, bar)
        ax.set_title(title)

    panels.append((draw, part))
