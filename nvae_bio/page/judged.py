"""What a page tells of factors: the map, a section each, the audits, and what the report says in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import PageSettings, PowerSettings
from nvae_bio.errors import listed
from nvae_bio.factors.summary import leakage_lines, summary
from nvae_bio.page.pictures import Picture, factor_picture, power_picture, traversal_pictures
from nvae_bio.page.points import scored_factors
from nvae_bio.page.results import RunResults
from nvae_bio.page.tables import Cell, Link, Mark, Table, make_table, number, small, text_of, with_interval
from nvae_bio.plot.panels import outcomes, settings_of, table_of, weak_classes
from nvae_bio.plot.power import power_line, power_of

N_FEATURES = 10  # of each direction, in a table
N_SETS = 5  # of each direction
MAX_SUSPECTS = 200
SIGNS = {"active": "●", "inactive": "○", "under-powered": "?", "": ""}
LINE = re.compile(r"- \*\*(?P<name>.*?)\*\*: (?P<text>.*)", re.DOTALL)
VERDICTS = ("fail", "undecided", "pass")


@dataclass(frozen=True)
class Factor:
    """A section of a factor.

    Attributes:
        anchor: its place in the page.
        name, outcome, sentence: as in the report.
        facts: name and value.
        tables: what it does to features, where, and with what it goes along.
        picture: its panels; None where there is no room for it.
        strips: of images, a class and its traversal each.
        power: how often planted programmes are found in its class; empty where that was not measured.
    """

    anchor: str
    name: str
    outcome: str
    sentence: str
    facts: list[tuple[str, str]]
    tables: list[Table]
    picture: Picture | None
    strips: list[tuple[str, Picture]]
    power: str


def words(results: RunResults) -> dict[str, list[str]]:
    """The lines of summary.md by their headings; what stands above them under an empty one."""
    power = results.factors.uns[schema.MODEL].get(schema.POWER_SETTINGS)
    parsed = None if power is None else PowerSettings.model_validate_json(str(power))
    found: dict[str, list[str]] = {}
    heading = ""
    for line in summary(results.factors, parsed):
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line and not line.startswith("# "):
            found.setdefault(heading, []).append(line.removeprefix("- ") if "**" not in line[:4] else line)
    return found


def sentences(results: RunResults) -> dict[str, str]:
    """What summary.md says of each factor that it names."""
    matches = [LINE.fullmatch(line) for lines in words(results).values() for line in lines]
    known = set(map(str, results.factors.obs_names))
    return {match["name"]: match["text"] for match in matches if match is not None and match["name"] in known}


def anchor(place: int) -> str:
    """Where a page tells of the factor at this place of the report."""
    return f"factor-{place}"


@dataclass(frozen=True)
class MapCell:
    """A factor in a class.

    Attributes:
        sign: of the outcome.
        text: KL, nats.
        title: all of it in words.
        shade: 0 to 1, from no KL to the largest.
        outcome: in the class; empty where it is not asked.
    """

    sign: str
    text: str
    title: str
    shade: float
    outcome: str


def factor_map(results: RunResults) -> list[tuple[str, str, str, list[MapCell | None]]]:
    """A row a published factor: anchor, name, kind, and a cell a class; None where the class cannot have it."""
    report, classes = results.factors, results.classes
    found, kl = outcomes(report), np.asarray(report.obsm[schema.KL_BY_CLASS], float)
    loss = np.asarray(report.obsm.get(schema.LOSS_BY_CLASS, np.full(kl.shape, np.nan)), float)
    published = np.flatnonzero(report.obs["published"].to_numpy(bool))
    most = max(float(np.nanmax(kl[published], initial=0.0)), 1e-9) if len(published) else 1.0
    rows = []
    for place in published:
        obs, cells = report.obs.iloc[place], list[MapCell | None]()
        for i, name in enumerate(classes):
            if (obs["kind"] == "private" and str(obs["class"]) != name and not found[place, i]) or np.isnan(
                kl[place, i]
            ):
                cells.append(None)
                continue
            said = (
                f"{report.obs_names[place]} in {name}: {found[place, i] or 'not asked'}, KL {number(kl[place, i])} nats"
            )
            said += f", worth {number(loss[place, i])} nats a sample" if np.isfinite(loss[place, i]) else ""
            shade = float(np.sqrt(max(kl[place, i], 0) / most))
            cells.append(
                MapCell(SIGNS[found[place, i]], number(kl[place, i]), said, round(min(shade, 1), 3), found[place, i])
            )
        rows.append((anchor(int(place)), str(report.obs_names[place]), str(obs["kind"]), cells))
    return rows


def factor_sections(results: RunResults, settings: PageSettings) -> list[Factor]:
    """A section each of the published factors, the strongest of them with pictures."""
    report, said = results.factors, sentences(results)
    drawn = set(scored_factors(report, settings.max_factors).tolist())
    places = np.flatnonzero(report.obs["published"].to_numpy(bool)).tolist()
    return [_section(results, place, place in drawn, said) for place in places]


def _section(results: RunResults, place: int, drawn: bool, said: dict[str, str]) -> Factor:
    report = results.factors
    obs, name = report.obs.iloc[place], str(report.obs_names[place])
    tables = [*_feature_tables(results, place), *_class_table(results, place), *_set_tables(report, name),
              *_association_tables(report, name), *_member_tables(report, name)]  # fmt: skip
    power = power_line(report, str(obs["class"])) if obs["kind"] == "private" else ""
    return Factor(
        anchor(place), name, str(obs["outcome"]), said.get(name, str(obs["reading"])), factor_facts(obs), tables,
        factor_picture(results, place) if drawn else None, traversal_pictures(results, place) if drawn else [], power,
    )  # fmt: skip


def factor_facts(obs: pd.Series) -> list[tuple[str, str]]:
    """What a report's obs says of a factor."""
    private = obs["kind"] == "private"
    found = [
        ("kind", f"private to {obs['class']}" if private else "shared"),
        ("seeds", f"{obs['n_found']} of {obs['n_seeds']}"),
        ("agreement over seeds", number(obs["agreement"])),
        (f"KL in {obs['kl_class']} (nats)", with_interval(obs["kl"], obs["kl_lower"], obs["kl_upper"])),
        ("lost without it (nats a sample)", with_interval(obs["loss"], obs["loss_lower"], obs["loss_upper"])),
    ]
    found += [("gain (nats)", number(obs["gain"]))] if "gain" in obs else []
    found += [("p", small(obs["p"]))] if "p" in obs and private else []
    found += [("q", small(obs["q"]))] if "q" in obs else []
    texts = {
        "certificate": "certificate",
        "reading": "reading",
        "tag": "goes along with",
        "resampled": "intervals over",
    }
    return found + [(title, text_of(obs[key])) for key, title in texts.items() if key in obs and text_of(obs[key])]


def _feature_tables(results: RunResults, place: int) -> Iterator[Table]:
    """The features that rise and fall most; not of pictures, whose pixels have no names."""
    report = results.factors
    effect = np.asarray(report.X[place], float)
    if results.kind == "images" or not np.isfinite(effect).any():
        return
    ends = [np.asarray(report.layers[key][place], float) for key in (schema.EFFECT_LOWER, schema.EFFECT_UPPER)]
    order, unit = np.argsort(-np.nan_to_num(effect), kind="stable"), report.uns[schema.MODEL]["effect_unit"]
    what = "Genes" if results.kind == "counts" else "Features"
    for title, chosen in (("rise", order[effect[order] > 0]), ("fall", order[::-1][effect[order[::-1]] < 0])):
        rows = [[str(report.var_names[i]), number(effect[i]), f"{number(ends[0][i])} to {number(ends[1][i])}"]
                for i in chosen[:N_FEATURES]]  # fmt: skip
        if rows:
            caption = f"{what} that {title} most from −2 to +2 SD ({unit})"
            yield make_table(caption, (what[:-1].lower(), "effect", "interval"), rows, (1, 2))


def _class_table(results: RunResults, place: int) -> Iterator[Table]:
    """Of a shared factor, each class."""
    report = results.factors
    if report.obs["kind"].iloc[place] != "shared":
        return
    nothing = np.full((report.n_obs, len(results.classes)), np.nan)
    values = {key: np.asarray(report.obsm.get(key, nothing), float)[place] for key in (
        *(f"{what}_by_class{end}" for what in ("kl", "loss") for end in ("", "_lower", "_upper")),
        schema.Q_BY_CLASS, schema.AGREEMENT_BY_CLASS,
    )}  # fmt: skip
    found, rows = outcomes(report)[place], list[list[Cell]]()
    for i, name in enumerate(results.classes):
        kl, loss = ([values[f"{what}_by_class{end}"][i] for end in ("", "_lower", "_upper")] for what in ("kl", "loss"))
        outcome: Cell = Mark(found[i], found[i]) if found[i] else "not asked"
        rows.append([name, outcome, with_interval(*kl), with_interval(*loss), small(values[schema.Q_BY_CLASS][i]),
                     number(values[schema.AGREEMENT_BY_CLASS][i])])  # fmt: skip
    head = ("class", "outcome", "KL (nats)", "lost without it (nats a sample)", "q", "agreement of its effect")
    yield make_table("In each class", head, rows, (2, 3, 4, 5))


def _of(report: AnnData, key: str, name: str) -> pd.DataFrame:
    """Rows of a table that are about one factor."""
    table = table_of(report, key)
    return table if table.empty else table[(table["factor"].astype(str) == name).to_numpy()]


def _set_tables(report: AnnData, name: str) -> Iterator[Table]:
    """The gene sets most enriched in each direction."""
    own = _of(report, schema.ENRICHMENT, name)
    if own.empty:
        return
    fdr, rows = settings_of(report).fdr, list[list[Cell]]()
    for direction in ("up", "down"):
        best = own[(own["direction"] == direction).to_numpy()].sort_values("q", kind="stable").head(N_SETS)
        for _, row in best.iterrows():
            called: Cell = Mark(f"q ≤ {fdr:g}", "active") if row["q"] <= fdr else "no"
            genes = text_of(row.get("genes"))
            rows.append(
                [str(row["set"]), direction, f"{row['n_overlap']} of {row['n_set']}", small(row["q"]), called, genes]
            )
    head = ("gene set", "direction", "genes in it", "q", "enriched", "which")
    yield make_table(f"Gene sets, the best {N_SETS} of each direction", head, rows, (3,))


def _association_tables(report: AnnData, name: str) -> Iterator[Table]:
    """What the scores go along with, strongest first."""
    own = _of(report, schema.ASSOCIATIONS, name)
    own = own[own["effect"].notna().to_numpy()] if len(own) else own
    if own.empty:
        return
    own = own.sort_values("effect", key=lambda effect: -effect.abs(), kind="stable")
    has_donors = "donor_p" in own and bool(own["donor_p"].notna().any())
    rows = [
        [str(row["column"]), str(row["role"]), str(row["measure"]), number(row["effect"]), small(row["q"]),
         *([_over_donors(row)] * has_donors)]
        for _, row in own.iterrows()
    ]  # fmt: skip
    head = ("column", "role", "measure", "effect", "q", *(["over donors"] * has_donors))
    yield make_table("What its scores go along with", head, rows, (3, 4))


def _over_donors(row: pd.Series) -> str:
    """The test of an association over donors."""
    return f"{text_of(row['donor_test'])}, q {small(row['donor_q'])}" if pd.notna(row["donor_p"]) else "–"


def _member_tables(report: AnnData, name: str) -> Iterator[Table]:
    """What it is in each seed."""
    rows = [
        [f"seed {row['seed']}", f"{row['kind']} dim {row['dim']}" + (f" of {row['class']}" if row["class"] else ""),
         "+" if row["sign"] > 0 else "−", number(row["agreement"]), str(row["outcome"])]
        for _, row in _of(report, schema.MEMBERS, name).iterrows()
    ]  # fmt: skip
    if rows:
        yield make_table("In each seed", ("seed", "dim", "sign", "agreement", "outcome"), rows, (3,))


def apart_table(results: RunResults) -> Table | None:
    """Factors that too few seeds found; None where there are none."""
    obs = results.factors.obs
    rows = [
        [str(name), str(row["outcome"]), f"{row['n_found']} of {row['n_seeds']}",
         with_interval(row["kl"], row["kl_lower"], row["kl_upper"]),
         with_interval(row["loss"], row["loss_lower"], row["loss_upper"]), str(row["kl_class"]), *_tops(results, row)]
        for name, row in obs[~obs["published"].to_numpy(bool)].iterrows()
    ]  # fmt: skip
    head = ("factor", "outcome", "seeds", "KL (nats)", "lost without it (nats a sample)", "in",
            *(["up", "down"] if results.kind != "images" else []))  # fmt: skip
    return make_table("Found in too few seeds to be published", head, rows, (3, 4)) if rows else None


def _tops(results: RunResults, row: pd.Series) -> list[str]:
    return [] if results.kind == "images" else [listed(str(row[key]).split(", "), 4) for key in ("top_up", "top_down")]


def leakage_verdicts(results: RunResults) -> list[tuple[Mark, str]]:
    """A verdict and the line of the report, a target and latent each."""
    table = table_of(results.factors, schema.LEAKAGE)
    if table.empty:
        return []
    found = []
    for line, (_, rows) in zip(
        leakage_lines(table), table.groupby(["target", "latent"], sort=False, observed=True), strict=True
    ):
        worst = next((name for name in VERDICTS if (rows["verdict"] == name).any()), "not audited")
        found.append((Mark(worst, worst.replace(" ", "-")), line))
    return found


def leakage_table(results: RunResults) -> Table | None:
    """Every probe of every seed; None where nothing was audited."""
    table = table_of(results.factors, schema.LEAKAGE)
    table = table[table["score"].notna().to_numpy()] if len(table) else table
    rows: list[list[Cell]] = [
        [f"{row['target']} from {row['latent']}", str(row["seed"]), str(row["probe"]),
         with_interval(row["score"], row["lower"], row["upper"]), number(row["chance"]), number(row["limit"]),
         Mark(str(row["verdict"]), str(row["verdict"]))]
        for _, row in table.iterrows()
    ]  # fmt: skip
    head = (
        "what is read from which latent",
        "seed",
        "probe",
        "score on held-out samples",
        "chance",
        "limit",
        "verdict",
    )
    return make_table("Every probe", head, rows, (3, 4, 5)) if rows else None


def capacity_table(results: RunResults) -> Table | None:
    """How many private factors each class has, and how many there is room for."""
    table, weak = table_of(results.factors, schema.CAPACITY), weak_classes(results.factors) or set()
    if table.empty or not table["n_private"].any():
        return None
    columns = {"n_private": "private dims", "n_used": "private factors", "n_hidden": "of them in z_s",
               "n_spilled": "dims with what most classes share", "n_found_once": "found in one seed alone",
               "room_left": "room for more"}  # fmt: skip
    told: dict[bool, Cell] = {True: Mark("no: under-powered", "under-powered"), False: "yes"}
    rows = [
        [str(row["class"]), *(str(int(row[key])) for key in columns), told[str(row["class"]) in weak]]
        for _, row in table.iterrows()
    ]
    head = ("class", *columns.values(), "could one be told?")
    return make_table("Private factors of each class", head, rows, range(1, 7))


def power_parts(results: RunResults) -> list[tuple[str, str, Picture]]:
    """A class, how often planted programmes are found in it in words, and the curve; none where not measured."""
    measured = [name for name in results.classes if not power_of(results.factors, name).empty]
    return [(name, power_line(results.factors, name), power_picture(results, name)) for name in measured]


def suspects_table(results: RunResults) -> tuple[Table | None, str]:
    """The strongest suspects of the audit, and how many there are; None where the audit is off or has none."""
    model = results.factors.uns[schema.MODEL]
    if schema.SUSPECTS not in model:
        return None, "Labels were not held against the model (audit: off), or it is told none."
    table = model[schema.SUSPECTS]
    if table.empty:
        return None, "No sample is a suspect."
    sizes = ", ".join(f"{n} {name}" for name, n in table["suspicion"].value_counts(sort=False).items() if n)
    rows: list[list[Cell]] = [
        [str(row["sample"]), str(row["label"]), str(row["suspicion"]), text_of(row["other_class"]), number(row["nats"]),
         str(row["n_seeds"])]
        for _, row in table.head(MAX_SUSPECTS).iterrows()
    ]  # fmt: skip
    shown = f" The table has the first {MAX_SUSPECTS}; suspects.csv has all." if len(table) > MAX_SUSPECTS else ""
    head = ("sample", "label", "suspicion", "other class", "nats", "seeds that suspect it")
    return make_table(
        "Samples to look at, strongest first", head, rows, (4, 5)
    ), f"{len(table)} in all: {sizes}.{shown}"


def linked_words(results: RunResults, heading: str) -> list[tuple[Link | None, str]]:
    """Lines of summary.md under a heading; those of a published factor begin with a link to its section."""
    places = {str(name): place for place, name in enumerate(results.factors.obs_names)}
    published, found = results.factors.obs["published"].to_numpy(bool), list[tuple[Link | None, str]]()
    for line in words(results).get(heading, []):
        match: Any = LINE.fullmatch(line)
        place = places.get(match["name"]) if match is not None else None
        if place is None or match is None or not published[place]:
            found.append((None, line.removeprefix("- ").replace("**", "") if match is not None else line))
        else:
            found.append((Link(match["name"], f"#{anchor(place)}"), match["text"]))
    return found
