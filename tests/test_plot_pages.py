"""The map and the pages of a report: what is drawn is what the report says, and what lacks is said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from anndata import AnnData, read_h5ad
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import binomtest

from nvae_bio import report_factors, schema
from nvae_bio.config import FactorSettings, FitSettings, PowerSettings, ReportSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.errors import UserError
from nvae_bio.factors.enrichment import enrich, read_gene_sets
from nvae_bio.factors.usage import HIDDEN, OWN_DIM, SHARED
from nvae_bio.plot import plot_class_page, plot_factor_map, plot_pages, plot_shared_page
from nvae_bio.plot.map import MAX_FACTORS
from nvae_bio.plot.null import STATISTICS, member_tests, plot_null, pooled_null
from nvae_bio.plot.pages import LIST_PLACES, MAX_PRIVATE
from nvae_bio.plot.panels import (
    MAX_POINTS,
    outcomes,
    plot_associations,
    plot_class_bars,
    plot_examples,
    plot_features,
    plot_score_map,
)
from nvae_bio.plot.style import house_style
from tests.toys import embedded as embedded_toy

CLASSES = ["CD4 T cells", "NK cells", "FCGR3A+ monocytes", "β cells"]
OUTCOMES = ("active", "inactive", "under-powered")
N_SEEDS = 3


@pytest.fixture(autouse=True)
def styled() -> Iterator[None]:
    with house_style():
        yield


def make_factors(classes: list[str], n_shared: int, n_private: dict[str, int]) -> pd.DataFrame:
    """Names, kinds and classes, in the order of a report."""
    rows = [(f"shared {i + 1}", "shared", "") for i in range(n_shared)]
    rows += [(f"{name} {i + 1}", "private", name) for name in classes for i in range(n_private.get(name, 0))]
    return pd.DataFrame(rows, columns=["factor", "kind", "class"]).set_index("factor")


def make_outcomes(obs: pd.DataFrame, classes: list[str], rng: np.random.Generator) -> np.ndarray:
    """Any outcome of a shared factor in each class; of a private one in its own; none elsewhere."""
    found = rng.choice(OUTCOMES, (len(obs), len(classes)), p=[0.6, 0.25, 0.15]).astype(object)
    private = (obs["kind"] == "private").to_numpy()
    other = obs["class"].to_numpy()[:, None] != np.array(classes)
    found[private[:, None] & other] = ""
    return found


def make_tables(obs: pd.DataFrame, classes: list[str], rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Members, tests, null, associations, enrichment and power, such that each factor has all of them."""
    members, tests, null, associations, enrichment = [], [], [], [], []
    for dim, (name, factor) in enumerate(obs.iterrows()):
        for seed in range(N_SEEDS):
            members.append((name, seed, factor["kind"], factor["class"], dim, 1, 0.9, "active"))
            statistic = SHARED if factor["kind"] == "shared" else OWN_DIM
            tests.append((seed, statistic, factor["kl_class"], dim, rng.gamma(4.0), 0.1, 0.001, 0.01))
        for column, role in (
            ("log_library", "technical"),
            ("phase_S", "cell cycle"),
            ("donor", "donor"),
            ("stim", "condition"),
        ):
            effect, q = rng.uniform(-0.8, 0.8), rng.uniform(0, 0.1)
            associations.append((name, column, role, effect, "spearman", 300, q, q, "", 0.01, 0.03, 8))
        for direction in ("up", "down"):
            enrichment.append((name, direction, f"HALLMARK_RESPONSE_{dim}", 9, 97, 50, 1e-6, 2e-5, "G1, G2"))
    for name in classes:
        for statistic, kind in ((SHARED, "no_factor"), (OWN_DIM, "no_private"), (SHARED, "no_private")):
            null += [(kind, statistic, name, value) for value in rng.gamma(1.0, 0.1, 60)]
    power = []
    for fold_change, found in ((1.5, 3), (2.0, 8), (3.0, 10)):
        ends = binomtest(found, 10).proportion_ci(method="exact")
        power += [(name, fold_change, 10, found, found / 10, *ends, 30, 0.2) for name in classes]
    columns = {
        "members": "factor seed kind class dim sign agreement outcome",
        "tests": "seed statistic class dim value null_median p q",
        "null": "kind statistic class value",
        "associations": "factor column role effect measure n p q donor_test donor_p donor_q n_donors",
        "enrichment": "factor direction set n_overlap n_set n_top p q genes",
        "power": "class fold_change n_runs n_found power lower upper n_genes share",
    }
    rows = [members, tests, null, associations, enrichment, power]
    return {key: pd.DataFrame(r, columns=c.split()) for (key, c), r in zip(columns.items(), rows, strict=True)}


def make_report(
    kind: str = "counts",
    classes: list[str] = CLASSES,
    n_shared: int = 3,
    n_private: dict[str, int] | None = None,
    n_features: int = 30,
    seed: int = 0,
) -> AnnData:
    """A consensus report with all its parts, of made-up numbers; the last factor is listed apart."""
    rng = np.random.default_rng(seed)
    obs = make_factors(classes, n_shared, {"NK cells": 2, classes[0]: 1} if n_private is None else n_private)
    n, found = len(obs), make_outcomes(obs, classes, rng)
    by_class = {key: rng.gamma(2.0, 0.8, (n, len(classes))) * (found == "active") + 0.02 for key in ("kl", "loss")}
    own = [classes.index(name) if name else int(by_class["kl"][i].argmax()) for i, name in enumerate(obs["class"])]
    rows = np.arange(n)
    obs["kl_class"] = [classes[i] for i in own]
    for key, values in by_class.items():
        obs[key] = values[rows, own]
        obs[f"{key}_lower"], obs[f"{key}_upper"] = obs[key] * 0.8, obs[key] * 1.3
    obs["outcome"] = found[rows, own]
    obs["n_found"], obs["n_seeds"], obs["agreement"] = N_SEEDS, N_SEEDS, rng.uniform(0.7, 1, n)
    obs["published"] = rows < n - (n > 1)
    obs.loc[~obs["published"], ["n_found", "agreement"]] = 1, np.nan
    obs["effect_agreement"] = rng.uniform(0.5, 1, n)
    used = [f"{(row == 'active').sum()} of {len(classes)} classes" for row in found]
    obs["certificate"] = [f"shared by {of}" if row < n_shared else "" for row, of in enumerate(used)]
    obs["reading"] = [
        f"used by {of}" if row < n_shared else f"private to {name}"
        for row, (of, name) in enumerate(zip(used, obs["class"], strict=True))
    ]
    obs["tag"] = [("", "technical: depth", "cell cycle", "condition")[i % 4] for i in range(n)]
    effect = rng.normal(size=(n, n_features)).astype(np.float32)
    report = AnnData(effect, obs=obs, var=pd.DataFrame(index=make_genes(n_features)))
    report.layers["effect_lower"], report.layers["effect_upper"] = effect - 0.3, effect + 0.3
    for key, values in by_class.items():
        report.obsm[f"{key}_by_class"] = values
        report.obsm[f"{key}_by_class_lower"], report.obsm[f"{key}_by_class_upper"] = values * 0.8, values * 1.3
    report.obsm["agreement_by_class"] = rng.uniform(0.4, 1, (n, len(classes)))
    report.obsm["q_by_class"] = np.where(found == "active", 0.012, 0.34)
    report.obsm["outcome_by_class"] = pd.DataFrame(
        found, index=obs.index, columns=[f"{i}" for i in range(len(classes))]
    )
    report.uns["nvae"] = {
        "classes": np.array(classes, dtype=object),
        "kind": kind,
        "variant": "nvae",
        "n_shared": n_shared,
    }
    report.uns["nvae"] |= {"effect_unit": "log rate", "report": ReportSettings().model_dump_json()}
    report.uns["nvae"] |= {"settings": FitSettings().model_dump_json(), **make_tables(obs, classes, rng)}
    if kind == "images":
        report.uns["nvae"]["image_shape"] = np.array([1, 8, n_features // 8])
    return report


def make_genes(n: int) -> list[str]:
    first = ["IFI27", "ISG15", "HLA-DRB1", "MT-CO1", "ENSG00000211592.8_IGKC-201", "S100A9", "NKG7", "GNLY"]
    return (first + [f"GENE{i}" for i in range(n)])[:n]


def make_embedded(report: AnnData, n: int = 240, seed: int = 0) -> AnnData:
    """Samples of the report's classes in turn, with scores and a UMAP; a private score is NaN in other classes."""
    rng = np.random.default_rng((seed, 1))
    classes = [str(name) for name in report.uns["nvae"]["classes"]]
    label = np.array(classes, dtype=object)[np.arange(n) % len(classes)]
    scores = rng.normal(size=(n, report.n_obs))
    own = report.obs["class"].astype(str).to_numpy()
    scores[(own != "") & (own != label[:, None])] = np.nan
    kind = report.uns["nvae"]["kind"]
    x = rng.random((n, report.n_vars)) if kind == "images" else rng.poisson(3.0, (n, report.n_vars)).astype(float)
    obs = pd.DataFrame({"label": pd.Categorical(label), "split": rng.choice(["train", "test"], n, p=[0.8, 0.2])})
    obs["library"] = 1000 + np.arange(n)
    obs.index = pd.Index([f"s{i}" for i in range(n)])
    adata = AnnData(scipy.sparse.csr_matrix(x) if kind == "counts" else x, obs=obs, var=report.var.copy())
    centers = rng.normal(size=(len(classes), 2)) * 6
    adata.obsm["X_umap"] = centers[np.arange(n) % len(classes)] + rng.normal(size=(n, 2))
    adata.obsm["X_nvae_factors"], adata.obsm["nvae_factors_std"] = scores, np.full_like(scores, 0.2)
    adata.uns["nvae"] = {"factors": np.array(report.obs_names, dtype=object), "classes": report.uns["nvae"]["classes"]}
    adata.uns["nvae_data"] = {"kind": kind}
    return adata


def make_texts(figure: Figure) -> str:
    """All that is written in a figure."""
    return " | ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def make_axes() -> Axes:
    return Figure(layout="constrained").subplots()


def make_dots(ax: Axes, outcome: str) -> set[tuple[float, float]]:
    """Places of the dots of one outcome in a map."""
    found = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_label() == outcome]
    return {(float(x), float(y)) for dots in found for x, y in dots.get_offsets()}


def check_inside(figure: Figure) -> None:
    """Nothing that is drawn runs off the page."""
    FigureCanvasAgg(figure).draw()
    (x0, y0), (x1, y1) = figure.get_tightbbox().get_points()
    width, height = figure.get_size_inches()
    parts = [part.get_tightbbox() for part in figure.findobj(Axes)]  # pixels
    assert min(x0, y0) >= -0.02 and x1 <= width + 0.02 and y1 <= height + 0.02
    for box in (box for box in parts if box is not None):
        assert min(box.x0, box.y0) >= -2 and box.x1 <= figure.bbox.x1 + 2 and box.y1 <= figure.bbox.y1 + 2


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_dot_stands_exactly_where_the_report_says_so(outcome: str) -> None:
    report = make_report()
    matrix = plot_factor_map(report).axes[0]
    places = matrix.get_xticks()
    said = report.obsm["outcome_by_class"].to_numpy() == outcome
    assert make_dots(matrix, outcome) == {(places[i], float(j)) for i, j in np.argwhere(said)} != set()


def test_a_private_factor_is_not_inactive_in_other_classes() -> None:
    report = make_report()
    found = report.obsm["outcome_by_class"]
    report.obsm["outcome_by_class"] = found.mask(found == "", "inactive")
    assert np.array_equal(outcomes(report), outcomes(make_report()))


def test_a_line_joins_the_classes_that_use_a_factor() -> None:
    report = make_report()
    matrix = plot_factor_map(report).axes[0]
    joined = {
        float(line.get_xdata()[0]): tuple(line.get_ydata()) for line in matrix.lines if len(set(line.get_ydata())) == 2
    }
    joined = {x: y for x, y in joined.items() if x in matrix.get_xticks()}
    used = [np.flatnonzero(row) for row in outcomes(report) == "active"]
    wanted = {x: (rows[0], rows[-1]) for x, rows in zip(matrix.get_xticks(), used, strict=True) if len(rows) > 1}
    assert joined == wanted != {}


def test_bars_of_the_map_are_losses_and_numbers_of_active_factors() -> None:
    report = make_report()
    _, top, right, _ = plot_factor_map(report).axes
    np.testing.assert_allclose([bar.get_height() for bar in top.patches], report.obs["loss"])
    active = (outcomes(report) == "active") & report.obs["published"].to_numpy()[:, None]
    private = (report.obs["kind"] == "private").to_numpy()
    widths = [[bar.get_width() for bar in bars] for bars in right.containers]
    assert widths == [active[~private].sum(0).tolist(), active[private].sum(0).tolist()]


def test_without_losses_the_map_shows_kl_with_its_interval() -> None:
    report = make_report()
    report.obs[["loss", "loss_lower", "loss_upper"]] = np.nan
    top = plot_factor_map(report).axes[1]
    assert top.get_ylabel() == "KL (nats)"
    np.testing.assert_allclose([bar.get_height() for bar in top.patches], report.obs["kl"])
    ends = np.sort([segment[:, 1] for segment in top.collections[0].get_segments()], axis=1)
    np.testing.assert_allclose(ends, report.obs[["kl_lower", "kl_upper"]])


def test_factors_of_too_few_seeds_stand_right_of_all_others() -> None:
    report = make_report()
    report.obs["published"] = [False, True, True, False, True, True]
    matrix = plot_factor_map(report).axes[0]
    names = [label.get_text().split("\n")[0] for label in matrix.get_xticklabels()]
    assert names == [*report.obs_names[[1, 2, 4, 5]], *report.obs_names[[0, 3]]]
    assert "too few seeds" in make_texts(matrix.figure)


def test_a_large_map_keeps_the_strongest_factors_and_says_so() -> None:
    classes = [f"class {i}" for i in range(45)]
    report = make_report(classes=classes, n_shared=15, n_private=dict.fromkeys(classes, 1))
    report.obs[["published", "outcome", "loss"]] = [True, "active", 1.0]
    report.obs.iloc[::2, list(report.obs).index("loss")] = 2.0
    figure = plot_factor_map(report)
    bars = [bar.get_height() for bar in figure.axes[1].patches]
    assert len(bars) == MAX_FACTORS and bars.count(2.0) == 30
    said = make_texts(figure)
    assert "the 40 strongest of 60 factors and the 40 busiest of 45 classes" in said


def test_a_map_of_no_factor_says_so() -> None:
    assert "No factor" in make_texts(plot_factor_map(make_report()[:0].copy()))


def test_the_headline_counts_what_the_report_has() -> None:
    report = make_report()
    found = report.obsm["outcome_by_class"].to_numpy().copy()
    found[:3, 1], found[report.obs["class"] == "NK cells", 1] = ["active", "inactive", "active"], "active"
    report.obsm["outcome_by_class"][:] = found
    said = make_texts(plot_class_page(report, make_embedded(report), "NK cells"))
    n_listed_apart = (~report.obs["published"]).sum()
    assert n_listed_apart == 1
    assert "NK cells: 1 active private factor; uses 2 of 3 shared factors" in said
    assert "in 20 % of NK cells would be found in 3 of 10 runs at 1.5-fold" in said


def make_capacity(report: AnnData, **values: list) -> None:
    """The table of capacity, with its columns by class."""
    report.uns["nvae"]["capacity"] = pd.DataFrame({"class": CLASSES, "n_private": 2, **values})


def make_headline(report: AnnData, name: str) -> str:
    return plot_class_page(report, make_embedded(report), name).subfigs[0].texts[0].get_text().replace("\n", " ")


CANNOT_TELL = "no active private factor; too few samples or refits to tell (under-powered)"


@pytest.mark.parametrize(
    ("weak", "own", "shared", "said"),
    [
        ([False, True, False, False], "inactive", "active", f"NK cells: {CANNOT_TELL}, 2 inactive; uses 3 of 3"),
        ([False, False, True, True], "under-powered", "active", f"NK cells: {CANNOT_TELL}; uses 3 of 3"),
        (
            [True, False, True, True],
            "inactive",
            "under-powered",
            "NK cells: no active private factor, 2 inactive; uses",
        ),
        ([False] * 4, "active", "under-powered", "NK cells: 2 active private factors; uses 0 of 3"),
        (None, "inactive", "under-powered", f"NK cells: {CANNOT_TELL}, 2 inactive; uses 0"),
        (None, "inactive", "active", "NK cells: no active private factor, 2 inactive; uses 3 of 3"),
    ],
)
def test_that_a_class_has_no_factor_is_not_said_where_it_could_not_have_shown_one(
    weak: list[bool] | None, own: str, shared: str, said: str
) -> None:
    report = make_report()
    report.obs["published"] = True
    found = np.full((report.n_obs, len(CLASSES)), "inactive", dtype=object)
    found[:3, 1], found[report.obs["class"] == "NK cells", 1] = shared, own
    report.obsm["outcome_by_class"][:] = found
    make_capacity(report, n_used=[0, 2 * (own == "active"), 0, 0])
    if weak is not None:
        report.uns["nvae"]["capacity"]["under_powered"] = weak
    assert make_headline(report, "NK cells").startswith(said)


def make_row_labels(report: AnnData) -> list[str]:
    return [label.get_text() for label in plot_factor_map(report).axes[0].get_yticklabels()]


def test_the_map_marks_classes_that_could_not_have_shown_a_factor_of_their_own() -> None:
    report = make_report()
    make_capacity(report, n_used=[1, 1, 0, 0], under_powered=[True, False, True, False])
    marked = ["CD4 T cells", "NK cells", "FCGR3A+ monocytes (under-powered)", "β cells"]
    assert make_row_labels(report) == marked
    check_inside(plot_factor_map(report))
    del report.uns["nvae"]["capacity"]["under_powered"]
    assert make_row_labels(report) == CLASSES


def test_what_spilled_into_blocks_is_counted_apart() -> None:
    report = make_report()
    rows = np.flatnonzero((report.obs["kind"] == "private") & report.obs["published"])
    before = make_texts(plot_factor_map(report))
    assert f"3 shared and {len(rows)} private factors" in before
    report.obs.iloc[rows, report.obs.columns.get_loc("reading")] = "shared: blocks of 4 classes …; S is too small"
    said = make_texts(plot_factor_map(report))
    assert f"3 shared and 0 private factors, {len(rows)} private dims with what most classes share" in said
    said = make_headline(report, "NK cells")
    assert "no active private factor; " in said and ", 1 private dim with what most classes share; uses" in said


def test_a_map_of_no_factor_names_the_classes_that_could_not_have_shown_one() -> None:
    report = make_report()[:0].copy()
    make_capacity(report, n_used=0, under_powered=[False, True, False, False])
    assert "Under-powered, so that this says little: NK cells." in make_texts(plot_factor_map(report))


def make_curve(figure: Figure) -> Axes | None:
    return next((ax for ax in figure.findobj(Axes) if ax.get_title().startswith("power")), None)


def test_the_power_curve_is_the_share_of_runs_with_its_exact_interval() -> None:
    report = make_report()
    report.uns["nvae"]["power"] = report.uns["nvae"]["power"].iloc[::-1]
    report.uns["nvae"]["power"].loc[lambda table: table["class"] != "NK cells", ["n_genes", "power"]] = [12, 0.0]
    ax = make_curve(plot_class_page(report, make_embedded(report), "NK cells"))
    assert ax is not None and ax.get_title() == "power: 30 genes in 20 % of the cells"
    curve = ax.containers[0]
    assert np.array_equal(curve.lines[0].get_xydata(), [[1.5, 0.3], [2, 0.8], [3, 1]])
    ends = [segment[:, 1] for segment in curve.lines[2][0].get_segments()]
    wanted = [tuple(binomtest(found, 10).proportion_ci(method="exact")) for found in (3, 8, 10)]
    np.testing.assert_allclose(ends, wanted)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1.5", "2", "3"]
    assert len(ax.lines) == 3 and ax.get_legend() is None  # the curve and its caps; what is needed is not known


def test_the_power_curve_has_a_line_at_the_share_that_is_needed() -> None:
    report = make_report()
    report.uns["nvae"][schema.POWER_SETTINGS] = PowerSettings(needed=0.7, reference=3.0).model_dump_json()
    ax = make_curve(plot_class_page(report, make_embedded(report), "NK cells"))
    assert ax is not None
    (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [0.7, 0.7]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["needed: 70 % at 3-fold"]


def test_where_power_was_not_measured_there_is_no_curve() -> None:
    report = make_report()
    report.uns["nvae"]["power"] = report.uns["nvae"]["power"].query("`class` != 'NK cells'")
    embedded = make_embedded(report)
    without = plot_class_page(report, embedded, "NK cells")
    assert make_curve(without) is None and "Power was not measured." in make_texts(without)
    assert make_curve(plot_class_page(report, embedded, "CD4 T cells")) is not None
    del report.uns["nvae"]["power"]
    assert make_curve(plot_class_page(report, embedded, "CD4 T cells")) is None


@pytest.mark.parametrize(("n_own", "n_panels"), [(6, 6), (8, 6)])
def test_a_page_has_panels_of_six_private_factors_and_says_what_is_left_out(n_own: int, n_panels: int) -> None:
    report = make_report(n_shared=1, n_private={"NK cells": n_own}, n_features=8)
    figure = plot_class_page(report, make_embedded(report, 80), "NK cells")
    assert MAX_PRIVATE == 6
    assert sum(ax.get_title().startswith("against its null") for ax in figure.findobj(Axes)) == n_panels
    assert ("Panels: the first 6 of 8 private factors." in make_texts(figure)) == (n_own > n_panels)


MARKERS = {
    "INTERFERON_RESPONSE": ["IFI27", "ISG15", "HLA-DRB1"],
    "NK_CELL": ["NKG7", "GNLY", "S100A9"],
    "ELSEWHERE": ["A", "B", "C"],
}


def make_gmt(path: Path, sets: dict[str, list[str]]) -> Path:
    path.write_text("".join("\t".join([name, "of a test", *genes]) + "\n" for name, genes in sets.items()))
    return path


def test_gene_sets_that_are_enriched_stand_above_the_panels(tmp_path: Path) -> None:
    report = make_report(n_features=200)
    for name, sign in (("INTERFERON_RESPONSE", 9), ("NK_CELL", -9)):
        report.X[4, report.var_names.get_indexer(MARKERS[name])] = sign
    sets, names = read_gene_sets(make_gmt(tmp_path / "markers.gmt", MARKERS)), list(report.obs_names)
    table, _ = enrich(np.asarray(report.X), list(report.var_names), names, sets, n_top=10)
    report.uns["nvae"]["enrichment"] = table[(table["factor"] != "NK cells 2").to_numpy()]
    report.obs["published"] = names != np.array("NK cells 2")
    q = table.set_index(["factor", "direction", "set"])["q"].sort_index()["NK cells 1"]
    said = make_texts(plot_class_page(report, make_embedded(report), "NK cells"))
    up, down = (f"{q[way, name]:.1g}" for way, name in (("up", "INTERFERON_RESPONSE"), ("down", "NK_CELL")))
    wanted = f"up: INTERFERON_RESPONSE (3 of 3, q {up}); down: NK_CELL (3 of 3, q {down})."
    assert f"Gene sets {wanted}" in said
    assert "Gene sets: none were tested, as it is listed apart." in said


def test_a_report_made_with_gene_sets_is_drawn_with_them(tmp_path: Path) -> None:
    path = make_gmt(tmp_path / "sets.gmt", {"shared": [f"f{i}" for i in range(15)], "c1": ["f15", "f16", "f17"]})
    settings = FactorSettings(report=ReportSettings(gene_sets=str(path), n_enriched=10))
    found = report_factors([embedded_toy("counts")], settings)
    assert len(found.factors) and not found.factors.uns["nvae"]["enrichment"].empty
    said = " ".join(make_texts(page) for page in plot_pages(found.factors, found.embedded).values())
    assert said.count("Gene sets") > 0 and "Gene sets: none were tested." not in said


def test_columns_of_the_list_do_not_run_into_each_other_or_the_curve() -> None:
    name = "plasmacytoid dendritic cells, CLEC4C positive, activated"
    report = make_report(classes=[name, *CLASSES[1:]], n_private={name: 3})
    report.obs["tag"], report.obs["reading"] = "technical: mitochondrial share", f"private to {name}"
    report.obs["published"] = False
    for key in (key for key in report.obsm if key.startswith(("kl", "loss"))):
        report.obsm[key] = report.obsm[key] + 10  # two digits before the point
    report.obsm["outcome_by_class"].iloc[:, 0] = "under-powered"
    figure = plot_class_page(report, make_embedded(report), name)
    FigureCanvasAgg(figure).draw()
    ax = next(ax for ax in figure.findobj(Axes) if "reading" in [text.get_text() for text in ax.texts])
    boxes = [text.get_window_extent() for text in ax.texts]
    rows = {round(box.y0 + box.y1) for box in boxes}
    assert len(ax.texts) == len(LIST_PLACES) * len(rows)
    for row in rows:
        ends = sorted((box.x0, box.x1) for box in boxes if round(box.y0 + box.y1) == row)
        assert all(left[1] <= right[0] for left, right in pairwise(ends))
    curve = make_curve(figure)
    assert curve is not None and max(box.x1 for box in boxes) <= curve.get_tightbbox().x0


def test_a_class_without_private_factors_gets_a_page_that_says_so() -> None:
    report = make_report()
    said = make_texts(plot_class_page(report, make_embedded(report), "β cells"))
    assert "No private factor was found" in said and "found in 8 of 10 runs at 2-fold" not in said
    assert "8 of 10 runs at 2-fold" in said


def test_a_shared_page_bears_the_certificate_and_the_bars_of_the_report() -> None:
    report = make_report()
    report.obs["certificate"] = report.obs["certificate"].where(
        report.obs_names != "shared 2", "means different things"
    )
    figure = plot_shared_page(report, make_embedded(report), "shared 2")
    assert "shared 2: means different things" in make_texts(figure)
    for key, title in (
        ("kl", "KL by class"),
        ("loss", "lost without it"),
        ("agreement", "cos with the classes that agree"),
    ):
        ax = next(ax for ax in figure.findobj(Axes) if title in ax.get_title())
        widths = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in ax.patches}
        np.testing.assert_allclose([widths[i] for i in range(len(CLASSES))], report.obsm[f"{key}_by_class"][1])


def test_bars_of_classes_tell_the_outcome() -> None:
    ax, outcome = make_axes(), np.array(["inactive", "active", "under-powered"])
    plot_class_bars(ax, ["a", "b", "c"], np.array([0.1, 2.0, 0.4]), None, outcome, "KL")
    bars = {bar_set.get_label(): bar_set for bar_set in ax.containers if isinstance(bar_set, BarContainer)}
    assert {name: bar_set[0].get_width() for name, bar_set in bars.items()} == {
        "active": 2.0,
        "inactive": 0.1,
        "under-powered": 0.4,
    }
    assert [name for name, bar_set in bars.items() if bar_set[0].get_hatch()] == ["under-powered"]
    assert not any(bar.get_hatch() for name in ("active", "inactive") for bar in bars[name])


def test_the_map_of_samples_colours_those_that_have_a_score() -> None:
    report = make_report()
    embedded, factor, ax = make_embedded(report), 4, make_axes()
    scores = embedded.obsm["X_nvae_factors"]
    plot_score_map(ax, embedded, scores, factor, np.ones(embedded.n_obs, bool))
    grey, colored = ax.collections[:2]
    own = (embedded.obs["label"] == report.obs["class"].iloc[factor]).to_numpy()
    np.testing.assert_array_equal(colored.get_array(), scores[own, factor])
    np.testing.assert_array_equal(colored.get_offsets(), embedded.obsm["X_umap"][own])
    np.testing.assert_array_equal(grey.get_offsets(), embedded.obsm["X_umap"][~own])


def test_many_samples_are_thinned_and_the_title_says_so() -> None:
    report = make_report()
    embedded, ax = make_embedded(report, 3 * MAX_POINTS), make_axes()
    plot_score_map(ax, embedded, embedded.obsm["X_nvae_factors"], 0, np.ones(embedded.n_obs, bool))
    assert sum(len(dots.get_offsets()) for dots in ax.collections[:2]) == MAX_POINTS
    assert "20,000 of 60,000" in ax.get_title()
    assert all(dots.get_rasterized() for dots in ax.collections[:2])


def test_without_a_umap_the_axes_are_the_first_two_scores() -> None:
    report = make_report()
    embedded, ax = make_embedded(report), make_axes()
    embedded.obsm["X_umap"][:] = np.nan
    scores = embedded.obsm["X_nvae_factors"]
    plot_score_map(ax, embedded, scores, 1, np.ones(embedded.n_obs, bool))
    np.testing.assert_array_equal(ax.collections[1].get_offsets(), scores[:, :2])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("score of shared 1", "score of shared 2")


def test_gene_bars_are_the_effects_in_both_directions() -> None:
    report, ax = make_report(), make_axes()
    plot_features(ax, report, 0)
    effect = pd.Series(np.asarray(report.X[0]), index=report.var_names).sort_values()
    np.testing.assert_array_equal([bar.get_width() for bar in ax.patches], [*effect[:7], *effect[-7:]])
    assert ax.get_yticklabels()[-1].get_text() == effect.index[-1][:18]


def test_effects_of_images_are_folded_back() -> None:
    report, ax = make_report("images", n_features=40), make_axes()
    plot_features(ax, report, 2)
    np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(report.X[2]).reshape(8, 5))


def make_sizes(embedded: AnnData, **n_train: int) -> None:
    """Let a class have so many training samples; all others have none that is held out."""
    embedded.obs["split"] = "train"
    for name, n in n_train.items():
        rows = np.flatnonzero((embedded.obs["label"] == name.replace("_", " ")).to_numpy())
        embedded.obs.iloc[rows[n:], list(embedded.obs).index("split")] = "test"


@pytest.mark.parametrize(("factor", "kind", "statistic"), [(0, "no_factor", SHARED), (4, "no_private", OWN_DIM)])
def test_the_null_is_that_of_the_statistic_in_classes_of_like_size(factor: int, kind: str, statistic: str) -> None:
    report, ax = make_report(), make_axes()
    report.obs["kl_class"] = "NK cells"
    embedded, tables = make_embedded(report), report.uns["nvae"]
    tables["tests"]["class"] = "NK cells"
    make_sizes(embedded, NK_cells=30, β_cells=14)  # of the others 60: like NK cells, which β cells are not
    plot_null(ax, report, embedded, factor)
    null = tables["null"].query("kind == @kind and statistic == @statistic and `class` != 'β cells'")["value"]
    values = tables["tests"].query("dim == @factor")["value"]
    assert len(null) == 3 * 60
    heights, _ = np.histogram(null, 30, (min(*null, *values), max(*null, *values)))  # on the scale of both
    assert [bar.get_height() for bar in ax.patches] == heights.tolist()
    assert sorted(line.get_xdata()[0] for line in ax.lines) == sorted(values)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(legend) == ["3 seeds", "null: 180 values of 3 classes of like size"]


def test_a_class_of_another_size_than_all_others_has_its_own_null() -> None:
    report, ax = make_report(), make_axes()
    embedded = make_embedded(report)
    make_sizes(embedded, NK_cells=29)
    plot_null(ax, report, embedded, 4)
    assert "null: 60 values of this class" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_null_that_is_drawn_is_the_one_that_p_was_computed_from() -> None:
    adata = embedded_toy("counts")
    rng, rows = np.random.default_rng(0), []
    for refit in range(4):
        for name, dims in (("own_block", [-1]), (OWN_DIM, range(2)), (SHARED, range(10)), (HIDDEN, [0])):
            rows += [(refit, name, label, dim, rng.gamma(1.0)) for label in range(3) for dim in dims]
    null = pd.DataFrame(rows, columns=["refit", "statistic", "class", "dim", "value"])
    null = pd.concat([null.assign(kind="no_private"), null.assign(kind="no_factor", value=2 * null["value"])])
    found = report_factors([adata], null=null)
    tests = found.factors.uns["nvae"]["tests"]
    for statistic, name in tests.groupby(["statistic", "class"], observed=True).groups:
        pool = pooled_null(found.factors, found.embedded, str(statistic), str(name))["value"]
        test = tests[(tests["statistic"] == statistic) & (tests["class"] == name)].iloc[0]
        assert 1 / (1 + len(pool)) == pytest.approx(test["smallest_p"])
        assert (1 + (pool >= test["value"]).sum()) / (1 + len(pool)) == pytest.approx(test["p"])


@pytest.mark.parametrize("factor", [1, 4])
def test_the_null_bears_the_q_of_the_report_and_the_statistic_that_is_tested(factor: int) -> None:
    report, ax = make_report(), make_axes()
    shown = CLASSES.index(report.obs["kl_class"].iloc[factor])
    report.obsm["q_by_class"][:] = 0.5
    report.obsm["q_by_class"][factor, shown] = 0.037  # all seeds together; the least of them is 0.01
    plot_null(ax, report, make_embedded(report), factor)
    assert ax.get_title() == f"against its null in {CLASSES[shown]}\nq 0.037 over 3 seeds"
    assert ("bound added beyond chance" in ax.get_xlabel()) == (factor == 4)
    assert ("KL" in ax.get_xlabel()) == (factor == 1)


def test_members_that_another_statistic_tested_are_counted() -> None:
    report, ax = make_report(), make_axes()
    tables = report.uns["nvae"]
    first = (tables["members"]["factor"] == report.obs_names[4]).to_numpy().argmax()
    tables["members"].loc[first, ["kind", "class"]] = ["shared", ""]
    tables["tests"].loc[first, "statistic"] = HIDDEN
    plot_null(ax, report, make_embedded(report), 4)
    assert len(ax.lines) == 2
    assert "2 seeds of 3, tested like this" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_kl_of_a_private_factor_stands_above_its_panels_with_its_interval() -> None:
    report = make_report()
    obs = report.obs.loc["NK cells 1"]
    said = make_texts(plot_class_page(report, make_embedded(report), "NK cells"))
    assert f"KL {obs['kl']:.2f} [{obs['kl_lower']:.2f}, {obs['kl_upper']:.2f}] nats in NK cells" in said


def test_a_private_factor_that_lay_in_the_shared_latent_is_shown_by_that_test() -> None:
    report = make_report()
    members, tests = report.uns["nvae"]["members"], report.uns["nvae"]["tests"]
    rows = (members["factor"] == report.obs_names[4]).to_numpy()
    members.loc[rows, ["kind", "class", "dim"]] = ["shared", "", 1]
    tests.loc[tests["dim"] == 4, ["statistic", "dim"]] = [HIDDEN, 1]
    found = member_tests(report, 4)
    assert found["seed"].tolist() == list(range(N_SEEDS))
    assert set(found["statistic"]) == {HIDDEN} and set(found["class"]) == {report.obs["class"].iloc[4]}


def test_every_tested_statistic_of_a_factor_has_a_name() -> None:
    assert set(STATISTICS) == {OWN_DIM, SHARED, HIDDEN}


def test_associations_are_sorted_by_strength_and_starred_by_q() -> None:
    report, ax = make_report(), make_axes()
    table = report.uns["nvae"]["associations"]
    rows = table["factor"] == "shared 1"
    table.loc[rows, "effect"], table.loc[rows, "q"] = [0.2, -0.9, 0.5, 0.1], [0.01, 0.049, 0.051, 1.0]
    table.loc[rows, "donor_q"] = [np.nan, 0.04, 0.01, 0.9]
    plot_associations(ax, report, 0)
    assert ax.images[0].get_array()[:, 0].tolist() == [0.9, 0.5, 0.2, 0.1]
    assert [text.get_text() for text in ax.texts] == ["-0.90 *†", "0.50 †", "0.20 *", "0.10 "]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["phase_S", "donor", "log_library", "stim"]


def test_example_cells_are_those_at_the_ends_and_scaled_to_their_library() -> None:
    report, ax = make_report(), make_axes()
    embedded = make_embedded(report)
    score = embedded.obsm["X_nvae_factors"][:, 0]
    rows = (embedded.obs["label"] == CLASSES[1]).to_numpy()
    plot_examples(ax, report, embedded, score, 0, rows)
    cells = pd.Series(score[rows], index=np.flatnonzero(rows)).sort_values().index
    top = report.var_names[np.argmax(np.asarray(report.X[0]))]
    counts, library = embedded[:, top].X.toarray()[:, 0], embedded.obs["library"].to_numpy()
    wanted = np.log1p(1e4 * counts / library)[[*cells[:20], *cells[-20:]]]
    np.testing.assert_allclose(ax.images[0].get_array()[0], wanted)


def test_example_pictures_are_those_at_the_ends() -> None:
    report, ax = make_report("images", n_features=64), make_axes()
    embedded = make_embedded(report)
    score = np.arange(embedded.n_obs, dtype=float)
    plot_examples(ax, report, embedded, score, 0, np.ones(embedded.n_obs, bool))
    shown = np.asarray(ax.images[0].get_array())
    np.testing.assert_array_equal(shown[:8, :8], np.asarray(embedded.X[0]).reshape(8, 8))
    np.testing.assert_array_equal(shown[-9:-1, -9:-1], np.asarray(embedded.X[-1]).reshape(8, 8))


MISSING = {
    "umap": "score of shared 1",
    "null": "null values not kept",
    "associations": "No associations",
    "enrichment": "none were tested",
    "power": "Power was not measured",
    "members": "Not tested",
    "donor_q": "association * q ≤ 0.05 |",
    "loss_by_class": "not measured",
    "agreement_by_class": "not measured",
    "interval": "lost without it – nats",
    "effect": "No effect",
    "scores": "No examples",
}


def make_without(part: str, report: AnnData, embedded: AnnData) -> None:
    """Take a part away, as a run without it would not have it."""
    tables = report.uns["nvae"]
    if part in tables:
        del tables[part]
    for key in [key for key in report.obsm if part and key.startswith(part)]:
        del report.obsm[key]
    if part == "umap":
        del embedded.obsm["X_umap"]
    elif part == "donor_q":
        tables["associations"] = tables.get("associations", pd.DataFrame()).drop(columns="donor_q", errors="ignore")
    elif part == "interval":
        report.obs[["kl_lower", "kl_upper", "loss", "loss_lower", "loss_upper", "agreement"]] = np.nan
    elif part == "effect":
        report.X[:] = np.nan
    elif part == "scores":
        embedded.obsm["X_nvae_factors"][:] = np.nan


def make_pages(without: str = "") -> str:
    """All that is written on a page of a class and one of a shared factor."""
    report = make_report(n_shared=1, n_private={"NK cells": 1}, n_features=8)
    report.obs["published"] = True
    embedded = make_embedded(report)
    make_without(without, report, embedded)
    figures = plot_class_page(report, embedded, "NK cells"), plot_shared_page(report, embedded, "shared 1")
    return " ".join(make_texts(figure) for figure in figures)


@cache
def make_whole_pages() -> str:
    return make_pages()


@pytest.mark.parametrize("part", MISSING)
def test_what_is_missing_is_said(part: str) -> None:
    said = make_pages(without=part)
    assert MISSING[part] in said
    assert MISSING[part] not in make_whole_pages()


def test_a_report_that_lacks_everything_is_drawn() -> None:
    report = make_report()
    embedded = make_embedded(report)
    for part in MISSING:
        make_without(part, report, embedded)
    check_inside(plot_class_page(report, embedded, "NK cells"))
    check_inside(plot_shared_page(report, embedded, "shared 1"))


@pytest.mark.parametrize(
    ("n_shared", "n_private", "said"), [(0, {"NK cells": 1}, "no shared factor"), (2, {}, "no active private factor")]
)
def test_runs_without_one_kind_of_factor_have_pages(n_shared: int, n_private: dict[str, int], said: str) -> None:
    report = make_report(n_shared=n_shared, n_private=n_private)
    report.obs["published"] = True
    pages = plot_pages(report, make_embedded(report))
    assert len(pages) == len(CLASSES) + n_shared
    assert said in make_texts(pages["class-nk-cells"])
    assert len(plot_factor_map(report).axes) == 4


def test_features_are_drawn_as_they_are() -> None:
    report, ax = make_report("features"), make_axes()
    embedded = make_embedded(report)
    plot_examples(ax, report, embedded, np.arange(embedded.n_obs, dtype=float), 0, np.ones(embedded.n_obs, bool))
    feature = int(np.argmax(np.asarray(report.X[0])))
    np.testing.assert_array_equal(ax.images[0].get_array()[0], [*embedded.X[:20, feature], *embedded.X[-20:, feature]])


def test_long_names_stay_on_the_page() -> None:
    classes = [f"a class whose name is far too long, subtype number {i}" for i in range(25)]
    report = make_report(classes=classes, n_shared=2, n_private={classes[0]: 1})
    embedded = make_embedded(report)
    report.var_names = embedded.var_names = [f"ENSG00000211592.8_IGKC-{i}-transcript" for i in range(report.n_vars)]
    check_inside(plot_factor_map(report))
    check_inside(plot_class_page(report, embedded, classes[0]))
    check_inside(plot_shared_page(report, embedded, "shared 1"))


def test_names_of_pages_are_unique_and_fit_for_files() -> None:
    classes = ["NK/T cells", "NK T cells", "nk t cells 2", "β", "細胞", "Naïve B", "x" * 90]
    report = make_report(classes=classes, n_shared=2, n_private={})
    report.obs["published"] = [True, False]
    names = list(plot_pages(report, make_embedded(report)))
    assert names[:6] == [
        "class-nk-t-cells",
        "class-nk-t-cells-3",
        "class-nk-t-cells-2",
        "class-4",
        "class-5",
        "class-naive-b",
    ]
    assert names[7:] == ["shared-1"]
    assert len(set(names)) == 8 and all(re.fullmatch(r"[a-z0-9-]{1,80}", name) for name in names)


def test_pages_are_the_same_twice_and_from_a_file(tmp_path: Path) -> None:
    report = make_report(n_shared=1, n_private={"NK cells": 1})
    embedded = make_embedded(report)
    write_anndata(report, tmp_path / "factors.h5ad")
    write_anndata(embedded, tmp_path / "embedded.h5ad")
    read = read_h5ad(tmp_path / "factors.h5ad"), read_h5ad(tmp_path / "embedded.h5ad")
    drawn = []
    for of, samples in ((report, embedded), read):
        parts = [BytesIO() for _ in range(2)]
        plot_shared_page(of, samples, "shared 1").savefig(parts[0], format="png", dpi=30)
        plot_factor_map(of).savefig(parts[1], format="png", dpi=30)
        drawn.append([part.getvalue() for part in parts])
    assert drawn[0] == drawn[1]


def test_what_does_not_fit_ends_in_one_line() -> None:
    report = make_report()
    embedded = make_embedded(report)
    with pytest.raises(UserError, match="no class 'T'; allowed: CD4 T cells, NK cells, FCGR3A"):
        plot_class_page(report, embedded, "T")
    with pytest.raises(UserError, match="no shared factor 'NK cells 1'; allowed: shared 1, shared 2, shared 3"):
        plot_shared_page(report, embedded, "NK cells 1")
    other = embedded.copy()
    other.uns["nvae"]["factors"][4] = "another"
    with pytest.raises(UserError, match="no scores of factor 'NK cells 1'"):
        plot_class_page(report, other, "NK cells")
    del other.obsm["X_nvae_factors"]
    with pytest.raises(UserError, match="no obsm\\['X_nvae_factors'\\]"):
        plot_pages(report, other)
    with pytest.raises(UserError, match="no obs\\['published'\\]"):
        plot_factor_map(AnnData(report.X, obs=report.obs.drop(columns="published")))
