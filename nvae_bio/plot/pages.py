"""One page a class and one a shared factor: what it is, how sure that is, and in which samples it shows."""

from __future__ import annotations

import re
import textwrap
import unicodedata

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure, SubFigure

from nvae_bio import schema
from nvae_bio.errors import UserError, listed
from nvae_bio.plot.null import plot_null
from nvae_bio.plot.panels import (
    check_report,
    classes_of,
    is_of_one,
    outcomes,
    plot_associations,
    plot_class_bars,
    plot_examples,
    plot_features,
    plot_score_map,
    scores_of,
    settings_of,
    short,
    table_of,
    weak_classes,
)
from nvae_bio.plot.power import plot_power, power_line, power_of

MAX_PRIVATE = 6  # private factors of a class with panels of their own
MAX_LISTED = 14  # rows of a list
MAX_CLASSES = 40  # bars
WIDTH = 15.0  # inches, of a page
PANELS_HEIGHT = 3.5  # inches, of the panels of a factor
LINE_HEIGHT = 0.19  # inches, of a row of a list
POWER_SIZE = (3.0, 1.9)  # inches, of the curve beside a list
WRAPPED = 190  # characters a line
TITLE_WRAPPED = 130
LIST_PLACES = {  # where each column begins, as a share of the width
    "factor": 0.0, "outcome": 0.18, "KL (nats)": 0.295, "loss (nats a sample)": 0.41, "seeds": 0.53, "agreement": 0.58,
    "tag": 0.645, "reading": 0.76,
}  # fmt: skip
SLUG_LENGTH = 60


def _number(value: float, lower: float, upper: float) -> str:
    """A value with its interval, as far as they are known."""
    if not np.isfinite(value):
        return "–"
    ends = f" [{lower:.2f}, {upper:.2f}]" if np.isfinite([lower, upper]).all() else ""
    return f"{value:.2f}{ends}"


def _in_class(report: AnnData, key: str, factor: int, place: int) -> str:
    """A quantity of a factor in one class with its interval: kl or loss."""
    keys = [f"{key}_by_class{end}" for end in ("", "_lower", "_upper")]
    return _number(*(float(report.obsm[k][factor, place]) if k in report.obsm else np.nan for k in keys))


def _plural(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def _page(lines: list[str], heights: list[float]) -> tuple[Figure, list[SubFigure]]:
    """A page with `lines` above, the first of them in bold, and a part below for each of `heights`, in inches."""
    wrapped = [part for line in lines[1:] for part in textwrap.wrap(line, WRAPPED)]
    title = textwrap.wrap(lines[0], TITLE_WRAPPED, break_on_hyphens=False)
    above = 0.3 * len(title) + 0.17 * len(wrapped) + 0.1
    figure = Figure(figsize=(WIDTH, above + sum(heights)))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.05, wspace=0.03)
    head, *parts = figure.subfigures(1 + len(heights), 1, height_ratios=[above, *heights], squeeze=False).ravel()
    head.text(0.01, 1 - 0.1 / above, "\n".join(title), fontsize=13, weight="bold", va="top")
    head.text(0.01, 1 - (0.1 + 0.27 * len(title)) / above, "\n".join(wrapped), fontsize=9, va="top", linespacing=1.3)
    return figure, parts


def _list_height(rows: pd.DataFrame, said: str) -> float:
    """Of a table as text, in inches."""
    return LINE_HEIGHT * (len(rows) + 1 + bool(said)) + 0.1


def _plot_list(part: SubFigure, rows: pd.DataFrame, said: str, height: float) -> None:
    """A table as text, a line a factor, from the top of a part of so many inches."""
    ax = part.add_axes((0.01, 0.0, 0.98, 1.0))
    ax.axis("off")
    n_lines = len(rows) + 1 + bool(said)
    ax.set(xlim=(0, 1), ylim=(n_lines * height / _list_height(rows, said), 0))
    for column, x in LIST_PLACES.items():
        ax.text(x, 0.5, column, fontsize=8, weight="bold", va="center")
        for i, text in enumerate(rows[column]):
            color = "0.45" if rows["outcome"].iloc[i] == "inactive" else "black"
            ax.text(x, i + 1.5, text, fontsize=8, va="center", color=color)
    if said:
        ax.text(0, n_lines - 0.5, said, fontsize=8, va="center", style="italic")


def _listed(report: AnnData, factors: np.ndarray, place: int) -> pd.DataFrame:
    """What a list says of each factor in one class."""
    found = outcomes(report)
    rows = []
    for factor in factors:
        obs = report.obs.iloc[factor]
        reading = str(obs["certificate"] if obs["kind"] == "shared" else obs["reading"])
        agreement = "–" if pd.isna(obs["agreement"]) else f"{obs['agreement']:.2f}"
        kl, loss = (_in_class(report, key, factor, place) for key in ("kl", "loss"))
        outcome = found[factor, place] + ("" if obs["published"] else ", apart")
        texts = [short(str(report.obs_names[factor]), 30), outcome, kl, loss]
        texts += [f"{obs['n_found']} of {obs['n_seeds']}", agreement, short(str(obs["tag"]), 22), short(reading, 46)]
        rows.append(dict(zip(LIST_PLACES, texts, strict=True)))
    return pd.DataFrame(rows, columns=list(LIST_PLACES))


def _enriched(report: AnnData, factor: int) -> str:
    """The two gene sets most enriched in each direction."""
    table = table_of(report, schema.ENRICHMENT)
    if table.empty:
        return "Gene sets: none were tested." if report.uns[schema.MODEL]["kind"] == "counts" else ""
    fdr = settings_of(report).fdr
    own = table[(table["factor"].astype(str) == report.obs_names[factor]).to_numpy()]
    if own.empty:
        apart = "" if report.obs["published"].iloc[factor] else ", as it is listed apart"
        return f"Gene sets: none were tested{apart}."
    own = own[(own["q"] <= fdr).to_numpy()]
    said = []
    for direction in ("up", "down"):
        best = own[own["direction"] == direction].sort_values("q", kind="stable").head(2)
        sets = [f"{short(str(s), 44)} ({k} of {n}, q {q:.1g})" for s, k, n, q in
                zip(best["set"], best["n_overlap"], best["n_set"], best["q"], strict=True)]  # fmt: skip
        said += [f"{direction}: {', '.join(sets)}"] if sets else []
    return f"Gene sets {'; '.join(said)}." if said else f"Gene sets: none at q ≤ {fdr:g}."


def _plot_factor(part: SubFigure, report: AnnData, embedded: AnnData, factor: int, rows: np.ndarray) -> None:
    """The five panels of a factor, with what is known of it above; `rows` are the samples shown, (n,), bool."""
    obs, scores = report.obs.iloc[factor], scores_of(report, embedded)
    about = [f"{report.obs_names[factor]} · {obs['outcome']}", f"found by {obs['n_found']} of {obs['n_seeds']} seeds"]
    about += [] if pd.isna(obs["agreement"]) else [f"agreement {obs['agreement']:.2f}"]
    about += [f"KL {_number(obs['kl'], obs['kl_lower'], obs['kl_upper'])} nats in {short(str(obs['kl_class']), 24)}"]
    about += [f"lost without it {_number(obs['loss'], obs['loss_lower'], obs['loss_upper'])} nats a sample"]
    about += [f"tag: {obs['tag']}"] if obs["tag"] else []
    about += [] if obs["published"] else ["not published: found in too few seeds"]
    lines = [", ".join(about), _enriched(report, factor)]
    text = "\n".join(part for line in lines for part in textwrap.wrap(line, WRAPPED))
    part.suptitle(text, x=0.01, ha="left", fontsize=8.5)
    axes = part.subplots(1, 5, width_ratios=[3.3, 2.4, 2.4, 0.8, 3.3])
    plot_score_map(axes[0], embedded, scores, factor, rows)
    plot_features(axes[1], report, factor)
    plot_null(axes[2], report, embedded, factor)
    plot_associations(axes[3], report, factor)
    plot_examples(axes[4], report, embedded, scores[:, factor], factor, rows)


def _headline(report: AnnData, private: np.ndarray, place: int) -> str:
    """What a class has, in one line; that it has nothing is not said plainly where it could not have shown it."""
    name, found = classes_of(report)[place], outcomes(report)[:, place]
    published, weak = is_of_one(report), weak_classes(report)
    own = pd.Series(found[private][published[private]]).value_counts()
    n_active = int(own.get("active", 0))
    counted = [_plural(n_active, "active private factor") if n_active else "no active private factor"]
    asked = found if weak is None else found[private]  # shared factors have a null of their own
    if not n_active and (name in (weak or ()) or "under-powered" in asked):
        counted[0] += "; too few samples or refits to tell (under-powered)"
        own = own.drop("under-powered", errors="ignore")  # it is said
    counted += [f"{own[key]} {key}" for key in ("under-powered", "inactive") if key in own]
    n_spilled = int((report.obs["published"].to_numpy(bool) & ~published)[private].sum())
    counted += [f"{_plural(n_spilled, 'private dim')} with what most classes share"] if n_spilled else []
    shared = published & (report.obs["kind"] == "shared").to_numpy()
    uses = f"uses {(found[shared] == 'active').sum()} of {_plural(int(shared.sum()), 'shared factor')}"
    return f"{name}: {', '.join(counted)}; {uses if shared.any() else 'no shared factor'}"


def _own_factors(report: AnnData, place: int) -> np.ndarray:
    """Places of the private factors of a class, best first.

    Published come before others, active before under-powered and inactive, and then those with a larger KL.
    """
    found, obs = outcomes(report)[:, place], report.obs
    places = np.flatnonzero((obs["class"].astype(str) == classes_of(report)[place]).to_numpy())
    rank = pd.Series(found[places]).map({"active": 0, "under-powered": 1}).fillna(2)
    keys = (-obs["kl"].to_numpy(float)[places], rank, ~obs["published"].to_numpy(bool)[places])
    return places[np.lexsort(keys)]


def plot_class_page(report: AnnData, embedded: AnnData, name: str) -> Figure:
    """All about one class: what it has, the list of its factors, and panels of its first six private factors.

    Beside the list is the power curve of the class, where power was measured. A factor has five panels: samples by
    score (others in grey), features with intervals, its statistic against its null, association with columns of obs,
    and example samples from both ends. A panel whose input is missing says so.

    Args:
        report: consensus factors × features, as the verb `factors` writes it.
        embedded: samples with consensus scores, of the same run. At most 20,000 samples are drawn, and the title says
            so.
        name: of the class.

    Raises:
        UserError: no such class, no consensus report, or an embedded file of another run.
    """
    check_report(report)
    classes = classes_of(report)
    if name not in classes:
        raise UserError(f"plot: no class {name!r}; allowed: {listed(classes)}")
    place, obs = classes.index(name), embedded.obs
    private = _own_factors(report, place)
    shared = np.flatnonzero((report.obs["kind"] == "shared").to_numpy() & (outcomes(report)[:, place] == "active"))
    rows = (obs[schema.LABEL].astype(object) == name).to_numpy()
    n_held_out = int((rows & (obs[schema.SPLIT] != "train").to_numpy()).sum())
    lines = [_headline(report, private, place), f"{_plural(int(rows.sum()), 'sample')}, {n_held_out} of them held out."]
    lines += [text for text in [power_line(report, name)] if text]
    if len(private) == 0:
        lines.append("No private factor was found in this class, by any seed: there are no panels to draw.")
    if len(private) > MAX_PRIVATE:
        lines.append(f"Panels: the first {MAX_PRIVATE} of {len(private)} private factors.")
    every = np.concatenate([private, shared])
    said = f"and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else ""
    table = _listed(report, every[:MAX_LISTED], place)
    has_power = not power_of(report, name).empty
    height = max(_list_height(table, said), POWER_SIZE[1] * has_power)
    figure, (top, *parts) = _page(lines, [height] + [PANELS_HEIGHT] * min(len(private), MAX_PRIVATE))
    if has_power:
        widths = [WIDTH - POWER_SIZE[0], POWER_SIZE[0]]
        top, right = top.subfigures(1, 2, width_ratios=widths, squeeze=False).ravel()
        plot_power(right.subplots(), report, name)
    _plot_list(top, table, said, height)
    for part, factor in zip(parts, private, strict=False):
        _plot_factor(part, report, embedded, int(factor), rows)
    return figure


def _plot_classes(part: SubFigure, report: AnnData, factor: int, places: np.ndarray) -> None:
    """KL, loss and agreement of the effect, each class a bar."""
    names, found = [classes_of(report)[i] for i in places], outcomes(report)[factor, places]
    titles = {
        "kl": "KL by class (nats)",
        "loss": "lost without it (nats a sample)",
        "agreement": "effect: cos with the classes that agree",
    }
    axes = part.subplots(1, 3)
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        nothing = np.full((report.n_obs, len(classes_of(report))), np.nan)
        value, *ends = (
            np.asarray(report.obsm.get(f"{key}_by_class{end}", nothing), float)[factor, places]
            for end in ("", "_lower", "_upper")
        )
        plot_class_bars(ax, names, value, np.array(ends), found, title)
    handles, labels = axes[0].get_legend_handles_labels()
    part.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=3)


def plot_shared_page(report: AnnData, embedded: AnnData, factor: str) -> Figure:
    """All about one shared factor: its certificate, the five panels of a factor, and its usage by class.

    Args:
        report: consensus factors × features, as the verb `factors` writes it.
        embedded: samples with consensus scores, of the same run.
        factor: its name, such as `shared 1`.

    Raises:
        UserError: no such shared factor, no consensus report, or an embedded file of another run.
    """
    check_report(report)
    allowed = [str(name) for name in report.obs_names[(report.obs["kind"] == "shared").to_numpy()]]
    if factor not in allowed:
        raise UserError(
            f"plot: no shared factor {factor!r}; allowed: {listed(allowed) or 'none, there is no shared one'}"
        )
    place, classes = report.obs_names.get_loc(factor), classes_of(report)
    obs = report.obs.iloc[place]
    used = [short(name, 24) for name, found in zip(classes, outcomes(report)[place], strict=True) if found == "active"]
    lines = [f"{factor}: {obs['certificate'] or 'no certificate'}"]
    lines += [f"Used by {len(used)} of {len(classes)} classes: {listed(used, 20)}." if used else "Used by no class."]
    least = obs["effect_agreement"]
    agreement = "" if pd.isna(least) else f"; the least agreement of its effect between them is {least:.2f}"
    lines += [f"Reading: {obs['reading']}{agreement}."]
    kl = np.nan_to_num(report.obsm[schema.KL_BY_CLASS][place])
    shown = np.sort(np.argsort(-kl, kind="stable")[:MAX_CLASSES])
    if len(shown) < len(classes):
        lines.append(f"Bars: the {len(shown)} classes with the largest KL.")
    figure, (panels, bars) = _page(lines, [PANELS_HEIGHT, max(1.8, 0.7 + 0.19 * len(shown))])
    _plot_factor(panels, report, embedded, place, np.ones(embedded.n_obs, bool))
    _plot_classes(bars, report, place, shown)
    return figure


def _slug(text: str) -> str:
    """Text as part of a file name: a–z, 0–9 and single hyphens; empty where nothing is left.

    >>> _slug("CD4⁺ T / naïve")
    'cd4-t-naive'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:SLUG_LENGTH].strip("-")


def _unique(names: list[str]) -> list[str]:
    """Names with -2, -3, … where one stands a second time."""
    taken: list[str] = []
    for name in names:
        free, number = name, 1
        while free in taken or (number > 1 and free in names):
            number += 1
            free = f"{name}-{number}"
        taken.append(free)
    return taken


def plot_pages(report: AnnData, embedded: AnnData) -> dict[str, Figure]:
    """A page a class and one a published shared factor, by a name that is fit for a file.

    The names are `class-nk-cells` and `shared-1`: lower-case letters, digits and hyphens, each only once. A class whose
    name has no such letters has its number.

    Raises:
        UserError: as `plot_class_page` and `plot_shared_page`.
    """
    check_report(report)
    classes = classes_of(report)
    shared = (report.obs["kind"] == "shared") & report.obs["published"].astype(bool)
    factors = [str(name) for name in report.obs_names[shared.to_numpy()]]
    names = [f"class-{_slug(name) or number}" for number, name in enumerate(classes, 1)]
    names = _unique(names + [_slug(name) for name in factors])
    figures = [plot_class_page(report, embedded, name) for name in classes]
    figures += [plot_shared_page(report, embedded, name) for name in factors]
    return dict(zip(names, figures, strict=True))
