"""Tables and figure of docs/speed.md and docs/scale.md, from results/: `python -m benchmarks.page` (or `--check`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.pairs import exponent
from nvae_bio.evaluate.study import fill_marked

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE, SCALE_PAGE = ROOT / "docs" / "speed.md", ROOT / "docs" / "scale.md"
FIGURE = ROOT / "docs" / "speed_scaling.png"
AXES = {"n_cells": "cells", "n_genes": "genes", "n_classes": "classes"}
BASE = {"device": "cpu", "threads": 2, "batch_size": 128, "n_cells": 30_000, "n_genes": 2000, "n_classes": 10}
PEERS = {"n_cells": "scvi", "n_genes": "scvi", "n_classes": "scanvi"}


def read(name: str) -> pd.DataFrame:
    """One of the committed tables."""
    return pd.read_csv(RESULTS / f"{name}.csv")


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in table.astype(object).to_numpy())])


def pair_table() -> str:
    """results/train.csv, a line a pair."""
    found = read("train")
    ratio = found["ratio"].map("{:.1f}".format)
    spread = found["ratio_low"].map("{:.1f}".format) + "–" + found["ratio_high"].map("{:.1f}".format)
    shown = pd.DataFrame(
        {
            "device": found["device"], "threads": found["threads"], "samples": found["n_cells"].map("{:,}".format),
            "features": found["n_genes"], "classes": found["n_classes"], "batch": found["batch_size"],
            "peer": found["peer"], "ours /s": found["ours_cells_per_s"].map("{:,}".format),
            "peer /s": found["peer_cells_per_s"].map("{:,}".format), "ratio": ratio + " (" + spread + ")",
            "held-out gain": (found["ours_log_likelihood"] - found["peer_log_likelihood"]).map("{:+.1f}".format),
            "MB, ours / peer": found["ours_peak_mb"].astype(str) + " / " + found["peer_peak_mb"].astype(str),
        }
    )  # fmt: skip
    return markdown(shown)


def along(axis: str) -> pd.DataFrame:
    """The lines of train.csv that differ from the base case in one axis, sorted by it, with seconds per 1M samples."""
    found = read("train")
    same = found["peer"] == PEERS[axis]
    for name, value in BASE.items():
        same &= (found[name] == value) | (name == axis)
    if axis == "n_genes":
        same &= found["n_classes"] == BASE["n_classes"]
    chosen = found[same].sort_values(axis).drop_duplicates(axis)
    factor = chosen["n_cells"] if axis == "n_cells" else 1e6
    return chosen.assign(ours=factor / chosen["ours_cells_per_s"], peer_s=factor / chosen["peer_cells_per_s"])


def exponent_table() -> str:
    """Growth of the time of an epoch with each axis."""
    rows = []
    for axis, name in AXES.items():
        chosen = along(axis)
        sizes = chosen[axis].tolist()
        shown = ", ".join(f"{size:,}" for size in sizes)
        ours, peer = (exponent(sizes, chosen[column].tolist()) for column in ("ours", "peer_s"))
        rows.append({"time grows with": name, "measured at": shown, "ours": f"{ours:.2f}", PEERS[axis]: f"{peer:.2f}"})
    return markdown(pd.DataFrame(rows).rename(columns={"scvi": "SCVI", "scanvi": "SCANVI"}).fillna("–"))


def _with_spread(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of medians with the least and the largest value beside each, which have columns of their own."""
    middle, low, high = (table[column + end].map("{:.2f}".format) for end in ("", "_low", "_high"))
    shown = table.assign(**{column: middle + " (" + low + "–" + high + ")"})
    return shown.drop(columns=[column + "_low", column + "_high"])


def seeds_table() -> str:
    """results/seeds.csv."""
    return markdown(_with_spread(read("seeds"), "share"))


def quality_table() -> str:
    """results/quality.csv."""
    found = read("quality").astype(object)
    return markdown(found.where(found.notna(), "missed"))


def first_layer_table() -> str:
    """results/first_layer.csv."""
    return markdown(_with_spread(read("first_layer"), "ratio"))


def workflow_table() -> str:
    """results/workflow.csv: the five slowest rules of each workflow, and all others together."""
    rows = []
    for name, found in read("workflow").groupby("workflow", sort=False):
        ranked = found.sort_values("seconds", ascending=False)
        total, rest = ranked["seconds"].sum(), ranked.iloc[5:]
        shown = ranked.head(5)[["workflow", "rule", "jobs", "seconds", "peak_mb"]].to_dict("records")
        shown.append(
            {"workflow": name, "rule": "all others", "jobs": rest["jobs"].sum(), "seconds": rest["seconds"].sum(),
             "peak_mb": rest["peak_mb"].max()}
        )  # fmt: skip
        rows += [{**row, "share": f"{row['seconds'] / total:.0%}"} for row in shown]
    return markdown(pd.DataFrame(rows).round(1).astype({"peak_mb": int}))


def report_table() -> str:
    """results/report.csv: seconds of each size beside each other, and the memory of the largest."""
    found = read("report")
    largest = int(found["n_cells"].max())
    seconds = found.pivot_table(index="step", columns="n_cells", values="seconds", sort=False)
    shown = seconds.rename(columns=lambda n: f"s, {n:,} cells").reset_index()
    last = found[found["n_cells"] == largest].set_index("step").loc[shown["step"]]
    shown["time grows as cells to the"] = last["exponent"].map("{:.2f}".format).to_numpy()
    shown[f"MB, {largest:,} cells"] = last["peak_mb"].round().astype(int).to_numpy()
    return markdown(shown)


def page_load_table() -> str:
    """results/page_load.csv, as it is."""
    found = read("page_load")
    found["n_cells"] = found["n_cells"].map("{:,}".format)
    return markdown(found)


def device_table() -> str:
    """results/device.csv, as it is."""
    found = read("device")
    found["n_cells"] = found["n_cells"].map("{:,}".format)
    return markdown(found.drop(columns="torch"))


def scale_memory_table() -> str:
    """results/scale_memory.csv, a line a step and number of cells."""
    found = read("scale_memory")
    for column in ("cells", "source_mb", "h5ad_mb", "store_mb", "seconds", "peak_mb"):
        found[column] = found[column].map("{:,}".format)
    return markdown(found)


def scale_speed_table() -> str:
    """results/scale_speed.csv: medians over turns, with the least and the largest ratio."""
    found = read("scale_speed")
    low, middle, high = (f"{value:.2f}" for value in found["ratio"].quantile([0, 0.5, 1]))
    speeds = found[["memory_cells_per_s", "store_cells_per_s", "read_cells_per_s"]].median().map("{:,.0f}".format)
    row = {"cells": f"{found['cells'][0]:,}", **speeds, "ratio": f"{middle} ({low}–{high})"}
    return markdown(pd.DataFrame([row]))


def plan_table() -> str:
    """What `N_PLANNED` cells take: the figures of the largest measured number of cells, in proportion."""
    memory, device = read("scale_memory"), read("device")
    of_step = {str(step): found.set_index("cells").sort_index() for step, found in memory.groupby("step", sort=False)}
    largest, factor = memory["cells"].max(), N_PLANNED / memory["cells"].max()
    read_speed = read("scale_speed")["read_cells_per_s"].median()
    card = device[device["device"].str.contains("H100")].sort_values("cells_per_s").iloc[-1]
    gpu, batch = float(card["cells_per_s"]), int(card["batch_size"])
    prepared = of_step["prepare"].loc[largest]
    rows = [
        ("source, prepared file, store", " + ".join(
            f"{prepared[name] * factor / 1e6:.2f}" for name in ("source_mb", "h5ad_mb", "store_mb")) + " TB"),
        *((f"`{step}`, hours of one core", f"{found.loc[largest, 'seconds'] * factor / 3600:.0f}")
          for step, found in of_step.items()),
        *((f"`{step}`, memory", f"{_memory_at(found['peak_mb'], N_PLANNED) / 1024:.0f} GB")
          for step, found in of_step.items()),
        *((f"an epoch, {n} × {gpu:,.0f} cells/s (batch {batch * n:,})", f"{N_PLANNED / gpu / n / 60:.1f} min")
          for n in (1, 4, 16)),
        ("the same, if each process reads all blocks", f"at least {N_PLANNED / read_speed / 60:.1f} min"),
        ("exchanged a step and GPU", f"{N_WEIGHTS * 4 / 1e6:.1f} MB"),
    ]  # fmt: skip
    return markdown(pd.DataFrame(rows, columns=["what", f"{N_PLANNED:,} cells"]))


def _memory_at(peak: pd.Series, n: int) -> float:
    """MB of n cells, on the line through the smallest and the largest number measured."""
    sizes, values = peak.index.to_numpy(float), peak.to_numpy(float)
    slope = (values[-1] - values[0]) / (sizes[-1] - sizes[0])
    return float(values[0] + slope * (n - sizes[0]))


def plot_scaling() -> Figure:
    """Time of an epoch along each axis, ours and the peer's."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for place, (panel, (axis, name)) in enumerate(zip(figure.subplots(1, 3), AXES.items(), strict=True)):
        chosen = along(axis)
        panel.loglog(chosen[axis], chosen["ours"], "o-", color="#0072B2", label="nvae-bio")
        panel.loglog(chosen[axis], chosen["peer_s"], "s--", color="#D55E00", label=PEERS[axis].upper())
        panel.set_xlabel(name)
        panel.set_xticks(chosen[axis], labels=chosen[axis].map("{:,}".format))
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter("{x:g}")
        for direction in (panel.xaxis, panel.yaxis):
            direction.set_minor_locator(NullLocator())
        panel.set_ylabel("seconds an epoch" if axis == "n_cells" else "seconds a million cells" if place == 1 else "")
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


TABLES = {
    "train": pair_table, "exponents": exponent_table, "seeds": seeds_table, "quality": quality_table,
    "workflow": workflow_table, "first_layer": first_layer_table, "report": report_table,
    "page_load": page_load_table, "device": device_table,
}  # fmt: skip
SCALE_TABLES = {"scale_memory": scale_memory_table, "scale_speed": scale_speed_table, "plan": plan_table}
N_PLANNED = 10**8
N_WEIGHTS = 643_001  # of a model of 2,000 genes with the default widths and eight classes
SOURCES = {"exponents": "train", "plan": "scale_speed"}  # of a table with another name than its file


def render(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The page with every table made anew."""
    for name, table in tables.items():
        is_measured = (RESULTS / f"{SOURCES.get(name, name)}.csv").exists()
        text = fill_marked(text, name, table() if is_measured else "Not measured yet.")
    return text


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="exit code 1 where the page is not up to date; write nothing")
def main(check: bool) -> None:
    """Write the page and the figure, or compare the page."""
    pages = {PAGE: TABLES, SCALE_PAGE: SCALE_TABLES}
    after = {page: render(page.read_text(), tables) for page, tables in pages.items()}
    if check:
        sys.exit(int(any(page.read_text() != text for page, text in after.items())))
    for page, text in after.items():
        page.write_text(text)
    plot_scaling().savefig(FIGURE, dpi=150)


if __name__ == "__main__":
    main()
