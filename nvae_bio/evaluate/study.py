"""The scores of all runs of a study → its table, its figure, and the made parts of its page."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from nvae_bio.config import StudySettings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import read_scores, write_csv
from nvae_bio.errors import UserError
from nvae_bio.plot.style import DPI, height_of_rows, house_style, say, seed_rows

logger = logging.getLogger(__name__)

START = "# Study: {name}\n\n<!-- table -->\n<!-- end -->\n\n![Scores of every seed]({figure})\n"
DIGITS = 6  # of a value in the table


def of_metric(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric's value of each data set, variant and seed; the mean of `METRIC[...]` where there is no plain one."""
    found = scores[scores["metric"] == metric]
    if found.empty:
        found = scores[scores["metric"].str.startswith(f"{metric}[")]
    return found.groupby(["dataset", "variant", "seed"], sort=False)[["value"]].mean().reset_index()


def summary(scores: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """A row a data set and variant: number of seeds, and mean ± standard deviation over seeds of each metric.

    A metric that no line has is left out.
    """
    places = scores[["dataset", "variant"]].drop_duplicates()
    table = places.assign(seeds=[scores[_at(scores, *place)]["seed"].nunique() for place in places.to_numpy()])
    for metric in metrics:
        found = of_metric(scores, metric)
        if len(found):
            table[metric] = [_mean_and_spread(found[_at(found, *place)]["value"]) for place in places.to_numpy()]
    return table


def _at(table: pd.DataFrame, dataset: str, variant: str) -> pd.Series:
    return (table["dataset"] == dataset) & (table["variant"] == variant)


def _mean_and_spread(values: pd.Series) -> str:
    """`mean ± sd`, to three decimals, or one where values are large; a dash for none."""
    values = values.dropna()
    if values.empty:
        return "–"
    digits = 3 if values.abs().max() < 100 else 1
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown.

    >>> print(markdown(pd.DataFrame({"a": [1], "b": ["x"]})))
    | a | b |
    |---|---|
    | 1 | x |
    """
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in table.astype(object).to_numpy())])


def notes(scores: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Which methods saw the labels, and by what library of which version each metric is that is not our own.

    Args:
        scores: of the study.
        metrics: that its page shows.
    """
    saw = scores.groupby("variant", sort=False)["saw_labels"].any()
    seeing, others = (", ".join(f"`{name}`" for name in saw.index[of]) for of in (saw, ~saw))
    if seeing:
        said = [f"Saw the labels (the classes): {seeing}" + (f"; did not: {others}." if others else ".")]
    else:
        said = [f"Did not see the labels (the classes): {others}."]
    plain = scores["metric"].str.replace(r"\[.*\]$", "", regex=True)
    shown = scores[plain.isin(metrics) & (scores["package"] != "")]
    for package, found in plain[shown.index].groupby(shown["package"], sort=False):
        said.append(f"By {package}: {', '.join(f'`{metric}`' for metric in found.unique())}.")
    return " ".join(said)


def _panels(scores: pd.DataFrame, metrics: dict[str, float | None]) -> dict[str, tuple[pd.DataFrame, float | None]]:
    """What each panel shows, by its title, and the bar to reach: a metric, of the lines that have it.

    A log-probability is compared within a data set alone: of several, each has its own panel.
    """
    panels: dict[str, tuple[pd.DataFrame, float | None]] = {}
    for metric, bar in metrics.items():
        found = of_metric(scores, metric).dropna(subset="value")
        sets = found["dataset"].unique()
        if metric.startswith("log_p") and len(sets) > 1:
            panels |= {f"{metric}, {name}": (found[found["dataset"] == name], bar) for name in sets}
        else:
            panels[metric] = (found, bar)
    return panels


def plot_scores(scores: pd.DataFrame, metrics: dict[str, float | None]) -> Figure:
    """Panels of metrics: a line a data set and variant, a dot a seed, a bar the mean; the bar to reach is dashed.

    A panel has the lines that have its metric; a metric that but one of several lines has is in the table alone.
    """
    panels = _panels(scores, metrics)
    places = {title: of[["dataset", "variant"]].drop_duplicates().to_numpy() for title, (of, _) in panels.items()}
    needed = min(2, len(scores[["dataset", "variant"]].drop_duplicates()))
    drawn = [title for title in panels if len(places[title]) >= needed]
    if not drawn:
        return say("No score of the metrics that this study names.")
    rows = [drawn[start : start + 2] for start in range(0, len(drawn), 2)]
    heights = [height_of_rows(max(len(places[title]) for title in row)) for row in rows]
    width = 2.6 + 0.07 * max(len(" · ".join(place)) for title in drawn for place in places[title])  # inches a panel
    figure = Figure(figsize=(width * 2, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 2, height_ratios=heights)
    for number, row in enumerate(rows):
        for column, title in enumerate(row):
            axes = figure.add_subplot(grid[number, column])
            of, bar = panels[title]
            lines = {" · ".join(place): of[_at(of, *place)]["value"].to_numpy() for place in places[title]}
            seed_rows(axes, lines, bar)
            axes.set_title(title)
    return figure


def page_text(before: str | None, table: pd.DataFrame, name: str, below: str = "") -> str:
    """The page with its table, and what stands below it, made anew; a page that is not there yet is started.

    Raises:
        UserError: the markers are not there, once.
    """
    text = START.format(name=name, figure=f"{name}.png") if before is None else before
    try:
        return fill_marked(text, "table", f"{markdown(table)}\n\n{below}".strip())
    except ValueError as error:
        raise UserError(f"{name}.md: {error}") from None


def marked(name: str) -> re.Pattern[str]:
    """What stands from the line `<!-- NAME -->` of a page to its `<!-- end -->`."""
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_marked(text: str, name: str, made: str) -> str:
    """A page with `made` between its lines `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: these are not there, once.
    """
    text, n_found = marked(name).subn(lambda found: f"{found[1]}\n{made}\n\n{found[2]}", text)
    if n_found != 1:
        raise ValueError(f"the lines <!-- {name} --> and <!-- end --> are there {n_found} times; needed: once")
    return text


def by_title(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with simulated data sets of one title, TITLE.0, TITLE.1 and so on, under that title.

    >>> by_title(pd.DataFrame({"dataset": ["fc1.5.0", "fc1.5.12", "real"]}))["dataset"].tolist()
    ['fc1.5', 'fc1.5', 'real']
    """
    return scores.assign(dataset=scores["dataset"].str.replace(r"\.\d+$", "", regex=True))


def _keep(source: Path, target: Path) -> None:
    """Copy a figure, whole or not at all."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be kept as {target}: {error.strerror or error}") from None
    with atomic_path(target) as part:
        part.write_bytes(content)


def study(
    scores: Sequence[Path],
    table: Path,
    page: Path,
    figure: Path,
    settings: StudySettings,
    kept: Sequence[tuple[Path, Path]] = (),
) -> None:
    """Gather the scores of all runs: write the long table, the figure, and the table of the page.

    Args:
        scores: tables of runs.
        table, page, figure: what is written; of the page, what is between its markers.
        settings: of the study.
        kept: figures of runs, and where each is copied to.

    Raises:
        UserError: a table that is not one of scores, a page without its markers, or a figure that cannot be read.
    """
    for source, target in kept:
        _keep(source, target)
    found = read_scores(scores)
    before = page.read_text(encoding="utf-8") if page.exists() else None
    shown = by_title(found) if settings.evaluate == "factors" else found
    metrics = list(settings.metrics)
    text = page_text(before, summary(shown, metrics), settings.name, notes(shown, metrics))
    with house_style():
        drawn = plot_scores(shown, settings.metrics)
        with atomic_path(figure) as part:
            drawn.savefig(part, format="png", dpi=DPI)
    found.insert(0, "study", settings.name)
    write_csv(found.round({"value": DIGITS}), table)
    with atomic_path(page) as part:
        part.write_text(text, encoding="utf-8")
    logger.info("%s: %d scores of %d tables", settings.name, len(found), len(scores))
