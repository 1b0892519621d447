"""The panel of a factor against its null: what was tested, seed by seed, and the values that its p is counted among."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nvae_bio import schema
from nvae_bio.factors.decide import kind_of_null, of_kind, pooled
from nvae_bio.factors.usage import training_sizes
from nvae_bio.plot.panels import classes_of, say_in, settings_of, short, table_of
from nvae_bio.plot.style import MISSING, OKABE_ITO

STATISTICS = {
    "own_dim": "tested: bound added beyond chance (nats)",
    "shared": "tested: KL (nats)",
    "hidden": "tested: information beyond other classes (nats)",
}


def member_tests(report: AnnData, factor: int) -> pd.DataFrame:
    """The tests of a factor's members: a row a seed with statistic, class, dim, value, null_median (nats), p and q.

    A private member was tested by its dim of the own block; a shared one by its usage in the class that the factor is
    shown in, or, in a private factor, by what the class has there alone.
    """
    members, tests = table_of(report, schema.MEMBERS), table_of(report, schema.TESTS)
    if members.empty or tests.empty:
        return pd.DataFrame()
    own = members[(members["factor"].astype(str) == report.obs_names[factor]).to_numpy()]
    private, label = (own["kind"] == "private").to_numpy(), own["class"].astype(str).to_numpy()
    of_shared = "shared" if report.obs["kind"].iloc[factor] == "shared" else "hidden"
    keys = own[["seed", "dim"]].astype(int)
    keys["statistic"] = np.where(private, "own_dim", of_shared)
    keys["class"] = np.where(private, label, str(report.obs["kl_class"].iloc[factor]))
    typed = tests.astype({"seed": int, "dim": int, "statistic": str, "class": str})
    found: pd.DataFrame = keys.merge(typed, on=list(keys)).sort_values("seed", ignore_index=True)
    return found


def pooled_null(report: AnnData, embedded: AnnData, statistic: str, name: str) -> pd.DataFrame:
    """The null values that p of a statistic in a class was computed from, by the same rule.

    They are those of all dims and refits, in this class and in all of like size. Shared usages are compared with refits
    on data without any factor, all else with the kind that the settings name.

    Args:
        report: factor report.
        embedded: samples of the run, whose labels and split give the sizes.
        statistic: own_dim, shared or hidden.
        name: of the class.

    Returns:
        A row a value: class (its place) and value (nats), besides others; none where null values are not kept.
    """
    table, classes = table_of(report, schema.NULL), classes_of(report)
    if table.empty:
        return table
    kind = kind_of_null(int(report.uns[schema.MODEL]["n_shared"]) > 0, settings_of(report))
    table = of_kind(table.astype({"kind": str, "statistic": str}), kind)
    table = table.assign(**{"class": pd.Categorical(table["class"].astype(str), categories=classes).codes})
    asked = pd.DataFrame({"statistic": [statistic], "class": [classes.index(name)]})
    (places,) = pooled(asked, table.assign(value=np.arange(len(table))), training_sizes(embedded.obs, classes))
    return table.iloc[places]


def _plot_values(ax: Axes, null: pd.DataFrame, found: pd.DataFrame) -> None:
    """The null as a histogram, on the scale of null and observed values; its median alone where it is not kept."""
    if len(null):
        n_classes, values = null["class"].nunique(), null["value"].to_numpy(float)
        both = np.concatenate([values, found["value"].to_numpy(float)])
        pool = f"{n_classes} classes of like size" if n_classes > 1 else "this class"
        label = f"null: {len(null):,} values of {pool}"
        ax.hist(values, bins=30, range=(both.min(), both.max()), color=MISSING, label=label)
        ax.set_ylabel("null values", fontsize=7)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        return
    median = float(np.median(found["null_median"]))
    known = bool(np.isfinite(median))
    ax.set(yticks=[], ylim=(0, 1))
    if known:
        ax.axvline(median, color="0.6", linewidth=3, label="median of the null")
    ax.text(0.5, 0.5, "null values not kept" if known else "no null", ha="center", fontsize=7, transform=ax.transAxes)


def _q_text(report: AnnData, factor: int, name: str) -> str:
    """What the report says of a factor in a class, of all its seeds together."""
    q, n_seeds = np.nan, int(report.obs["n_found"].iloc[factor])
    if schema.Q_BY_CLASS in report.obsm:
        q = float(report.obsm[schema.Q_BY_CLASS][factor, classes_of(report).index(name)])
    if not np.isfinite(q):
        return "no q"
    return f"q {q:.2g}" + (f" over {n_seeds} seeds" if n_seeds > 1 else "")


def plot_null(ax: Axes, report: AnnData, embedded: AnnData, factor: int) -> None:
    """The statistic of each seed, a line, against the null values that its p was computed from, a histogram.

    Members of a private factor may be tested by two statistics, as some lie in z_s: that of most of them is drawn.

    Args:
        ax: panel.
        report: factor report.
        embedded: samples of the run.
        factor: place of the factor.
    """
    tests = member_tests(report, factor)
    if tests.empty:
        say_in(ax, "Not tested: the report has no test of this factor's members.")
        return
    statistic, name = tests[["statistic", "class"]].value_counts().index[0]
    found = tests[(tests["statistic"] == statistic) & (tests["class"] == name)]
    _plot_values(ax, pooled_null(report, embedded, statistic, name), found)
    seeds = f"{len(found)} seed" + "s" * (len(found) != 1)
    seeds += f" of {len(tests)}, tested like this" if len(found) < len(tests) else ""
    for i, value in enumerate(found["value"].to_numpy(float)):
        ax.axvline(value, color=OKABE_ITO[5], linewidth=1.2, label=seeds if i == 0 else None)
    ax.margins(x=0.08)
    ax.tick_params(labelsize=7)
    ax.set_xlabel(STATISTICS.get(statistic, statistic), fontsize=7)
    ax.set_title(f"against its null in {short(name, 26)}\n{_q_text(report, factor, name)}", fontsize=8)
    ax.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.22))
