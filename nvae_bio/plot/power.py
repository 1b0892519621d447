"""How large a programme must be to be found in a class: in words, and as a curve."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from nvae_bio import schema
from nvae_bio.config import PowerSettings
from nvae_bio.plot.panels import error_bars, settings_of, table_of
from nvae_bio.plot.style import OKABE_ITO


def power_of(report: AnnData, name: str) -> pd.DataFrame:
    """The power of one class: a row a fold change, rising; none where it was not measured."""
    table = table_of(report, schema.POWER)
    if table.empty:
        return table
    return table[(table["class"].astype(str) == name).to_numpy()].sort_values("fold_change")


def power_line(report: AnnData, name: str) -> str:
    """How often programmes planted into this class are found; empty where that cannot be measured."""
    table = power_of(report, name)
    if table.empty:
        return "Power was not measured." if report.uns[schema.MODEL]["kind"] == "counts" else ""
    points = [f"{found} of {runs} runs at {change:g}-fold" for change, found, runs in
              zip(table["fold_change"], table["n_found"], table["n_runs"], strict=True)]  # fmt: skip
    genes, share = int(table["n_genes"].iloc[0]), float(table["share"].iloc[0])
    return (
        f"Power: a programme of {genes} genes in {100 * share:g} % of {name} would be found in {', in '.join(points)}."
    )


def plot_power(ax: Axes, report: AnnData, name: str) -> None:
    """Share of the runs that find a planted programme, by its fold change, with the exact binomial interval.

    A dashed line is the share that is needed, where the report has kept its settings of power.

    Args:
        ax: panel.
        report: factor report with power of this class.
        name: of the class.
    """
    table, settings = power_of(report, name), report.uns[schema.MODEL].get(schema.POWER_SETTINGS)
    change, power = (table[key].to_numpy(float) for key in ("fold_change", "power"))
    ends = table[["lower", "upper"]].to_numpy(float).T
    ax.errorbar(
        change, power, yerr=error_bars(power, ends), color=OKABE_ITO[0], marker="o", markersize=4, linewidth=1.2,
        elinewidth=0.8, capsize=2, clip_on=False,
    )  # fmt: skip
    if settings is not None:
        planted = PowerSettings.model_validate_json(settings)
        said = f"needed: {100 * planted.needed:g} % at {planted.reference_fold_change:g}-fold"
        ax.axhline(planted.needed, color="0.4", linestyle="--", linewidth=0.9, label=said)
        ax.legend(fontsize=6, loc="lower right")
    ax.set(ylim=(0, 1), yticks=[0, 0.5, 1], xticks=change, xticklabels=[f"{value:g}" for value in change])
    ax.margins(x=0.1)
    ax.tick_params(labelsize=7)
    ax.set_xlabel("fold change", fontsize=7)
    ax.set_ylabel(f"share of runs\n({100 * settings_of(report).confidence:g} % interval)", fontsize=7)
    genes, share = int(table["n_genes"].iloc[0]), float(table["share"].iloc[0])
    ax.set_title(f"power: {genes} genes in {100 * share:g} % of the cells", fontsize=8)
