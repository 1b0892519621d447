"""The page of a run: it says what the report says, is safe and the same each time, and works in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bokeh.plotting import figure
from hypothesis import assume, given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect
from pypdf import PdfReader

from nvae_bio import RunResults, build_page, schema
from nvae_bio.citation import CITATION
from nvae_bio.cli import main
from nvae_bio.config import PageSettings
from nvae_bio.data.files import write_anndata, write_table
from nvae_bio.errors import UserError
from nvae_bio.factors.summary import summary
from nvae_bio.page.points import MAX_LEVELS, MISSING, Views, choose, columns_of, pack, views_of
from nvae_bio.plot.style import OKABE_ITO
from tests.browser import DRAWN, Opened, opened, started, why_not
from tests.pages import CLASSES, HOSTILE, counts_results, features_results, images_results, page_of, text_in, tree_of

ROOT = Path(__file__).resolve().parent.parent
REASON = why_not()
SECTIONS = ["summary", "data", "training", "embeddings", "map", "factors", "classes", "leakage", "suspects"]


def section(page: str, name: str) -> ElementTree.Element:
    found = tree_of(page).find(f".//section[@id='{name}']")
    assert found is not None
    return found


def data_of(page: str) -> dict:
    found = tree_of(page).find(".//script[@id='run-data']")
    assert found is not None and found.text is not None
    return json.loads(found.text)


def unpack(column: dict) -> np.ndarray:
    """What the browser makes of `pack`."""
    codes = np.frombuffer(base64.b64decode(column["codes"]), "<u2").astype(float)
    values = column["low"] + codes / (MISSING - 1) * (column["high"] - column["low"])
    return np.where(codes == MISSING, np.nan, values)


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "more"), [("counts", []), ("images", ["drawn"]), ("features", [])])
def test_a_page_has_all_sections_and_a_sound_structure(kind: str, more: list[str]) -> None:
    tree = tree_of(page_of(kind))
    assert [part.get("id") for part in tree.iter("section")] == [*SECTIONS, *more, "settings", "cite"]
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {link.get("href", "") for link in tree.iter("a")} <= {f"#{name}" for name in ids}
    assert len(list(tree.iter("h1"))) == len(list(tree.iter("main"))) == len(list(tree.iter("nav"))) == 1
    assert all(
        len(image.get("alt", "")) > 20 and image.get("src", "").startswith("data:") for image in tree.iter("img")
    )
    for table in tree.iter("table"):
        assert table.find("caption") is not None
        assert {row.find("th").get("scope") for row in table.iter("tr")} == {"row", "col"}  # type: ignore[union-attr]
    assert text_in(next(tree.iter("h1"))) == f"run <b>{kind}</b>"


def test_what_is_said_of_each_factor_is_what_the_report_has() -> None:
    report, tree = counts_results().factors, tree_of(page_of("counts"))
    assert report.obs["published"].sum() >= 2 and set(report.obs["kind"]) == {"shared", "private"}
    for place, (name, obs) in enumerate(report.obs.iterrows()):
        article = tree.find(f".//article[@id='factor-{place}']")
        assert (article is not None) == bool(obs["published"])
        if article is None:
            continue
        said = text_in(article)
        assert " ".join(f"{name} {obs['outcome']}".split()) in said
        for key in ("kl", "loss"):
            assert f"{obs[key]:.2f} [{obs[f'{key}_lower']:.2f}, {obs[f'{key}_upper']:.2f}]" in said
        assert f"{obs['n_found']} of {obs['n_seeds']}" in said and f"{obs['q']:.2g}" in said
        top = int(np.argmax(report.X[place]))
        lower, upper = (report.layers[key][place, top] for key in (schema.EFFECT_LOWER, schema.EFFECT_UPPER))
        assert f"{report.var_names[top]} {report.X[place, top]:.2f} {lower:.2f} to {upper:.2f}" in " ".join(
            " ".join(row.itertext()) for row in article.iter("tr")
        )
        assert "<b>SET</b>" in said and "What its scores go along with" in said


def test_the_lines_of_the_summary_are_there() -> None:
    said = text_in(tree_of(page_of("counts")))
    results = counts_results()
    published = set(results.factors.obs_names[results.factors.obs["published"].to_numpy(bool)])
    lines = [line for line in summary(results.factors) if line.startswith("- ") and "suspicion" not in line]
    found = 0
    for line in lines:
        match = re.fullmatch(r"- \*\*(.*?)\*\*: (.*)", line, re.DOTALL)
        if match is None or match[1] in published:
            text = " ".join((match[2] if match else line.removeprefix("- ")).split())
            found += text in said
    assert found >= len(published) + len(results.factors.uns[schema.MODEL]["notes"])
    assert text_in(section(page_of("counts"), "leakage")).count("limit") > 3


def test_the_map_leads_from_each_cell_to_its_factor() -> None:
    report, classes = counts_results().factors, counts_results().classes
    table = section(page_of("counts"), "map").find(".//table")
    assert table is not None
    rows = list(table.iter("tr"))[1:]
    places = np.flatnonzero(report.obs["published"].to_numpy(bool))
    assert len(rows) == len(places)
    for place, row in zip(places, rows, strict=True):
        cells = list(row.iter("td"))
        assert len(cells) == len(classes)
        for i, cell in enumerate(cells):
            link = cell.find("a")
            kl, outcome = report.obsm["kl_by_class"][place, i], np.asarray(report.obsm["outcome_by_class"])[place, i]
            if link is None:
                assert report.obs["kind"].iloc[place] == "private" and report.obs["class"].iloc[place] != classes[i]
                continue
            assert link.get("href") == f"#factor-{place}" and f"{kl:.2f}" in text_in(link)
            assert str(outcome) in link.get("aria-label", "")


def test_data_and_training_are_told_as_they_are() -> None:
    results, tree = counts_results(), tree_of(page_of("counts"))
    sizes = results.prepared.obs.groupby([schema.LABEL, schema.SPLIT], observed=False).size()
    text = text_in(section(page_of("counts"), "data"))
    for name in results.classes:
        assert " ".join([*" ".join(name.split()).split(" "), *(f"{sizes[name, s]}" for s in schema.SPLITS)]) in _spaced(
            tree
        )
    for _, row in results.prepared.uns[schema.DATA]["removed"].iterrows():
        assert row["reason"] in text
    training = text_in(section(page_of("counts"), "training"))
    for card, history in zip(results.cards, results.histories, strict=True):
        kept = history[(history["split"] == "validation") & (history["epoch"] == card.best_epoch)].iloc[0]
        assert f"{kept['elbo']:.2f}" in training and f"{card.best_epoch} of seed {card.seed}" in training
    assert "had reached 1 at the kept epoch of every seed" in training


def _spaced(tree: ElementTree.Element) -> str:
    return "\n".join(" ".join(" ".join(row.itertext()).split()) for row in tree.iter("tr"))


def test_a_kl_weight_below_one_is_told() -> None:
    results = features_results()
    histories = [history.assign(kl_weight=0.5) for history in results.histories]
    page = build_page(dataclasses.replace(results, histories=histories))
    assert "The KL weight did not reach 1 in seed 0, 1" in text_in(section(page, "training"))
    assert "0.5, not 1" in text_in(section(page, "training"))


def test_settings_versions_and_fingerprint_are_there() -> None:
    results = counts_results()
    said = text_in(section(page_of("counts"), "settings")) + text_in(section(page_of("counts"), "cite"))
    assert results.factors.uns[schema.MODEL]["fingerprint"] in said
    assert all(card.weights_sha256 in said for card in results.cards)
    lines = _spaced(tree_of(page_of("counts"))).splitlines()
    assert {"model.n_shared 2", 'label_key "label"', "fdr 0.5"} <= set(lines)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = citation["references"][0]
    assert citation["title"] in CITATION[0] and citation["abstract"].rstrip(".")[1:] in CITATION[0]
    assert citation["version"] in CITATION[0] and citation["authors"][0]["name"] in CITATION[0]
    for text in (paper["title"], paper["year"], paper["conference"]["name"], f"{paper['start']}–{paper['end']}",
                 paper["identifiers"][0]["value"], *(one["family-names"] for one in paper["authors"])):  # fmt: skip
        assert str(text) in CITATION[1]


@pytest.mark.parametrize("variant", ["vae", "cvae", "per_class"])
def test_other_variants_have_a_page(variant: str) -> None:
    page = build_page(features_results(variant))
    points = data_of(page)["points"]
    assert bool(points["shared_axes"][0]) == (variant != "per_class")
    assert bool(points["with_block"]) == (variant == "per_class")


def test_pictures_are_traversed_as_their_factor_rises() -> None:
    results = images_results()
    page = section(page_of("images"), "factors")
    strips = [image for image in page.iter("img") if image.get("class") == "strip"]
    members = results.factors.uns[schema.MODEL]["members"]
    published = set(results.factors.obs_names[results.factors.obs["published"].to_numpy(bool)])
    traversed = set(members.loc[members["seed"].astype(int) == 0, "factor"]) & published
    assert traversed and len({image.get("alt", "").split(" in class")[0] for image in strips}) == len(traversed)


# --- safe, and the same each time ------------------------------------------------------------------------------------


def test_names_that_are_markup_stay_names() -> None:
    page = page_of("counts")
    tree = tree_of(page)
    assert [script.get("type") for script in tree.iter("script")] == ["application/json", None, None]
    assert not list(tree.iter("i")) and not list(tree.iter("u")) and not list(tree.iter("b"))
    assert {image.get("src", "")[:5] for image in tree.iter("img")} == {"data:"}
    points = data_of(page)["points"]
    assert set(points["own_class"]["levels"]) == set(CLASSES.values())
    assert points["names"][0].startswith("<u>cell ")
    assert any("<img src=x onerror=alert(1)>" in column.get("levels", []) for column in points["columns"])
    assert HOSTILE in "".join(tree.itertext())


def test_only_its_own_scripts_may_run_and_nothing_is_fetched() -> None:
    tree = tree_of(page_of("counts"))
    policy = next(meta.get("content", "") for meta in tree.iter("meta") if "http-equiv" in meta.attrib)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    scripts = [script.text or "" for script in tree.iter("script") if script.get("type") is None]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data: blob:"
    outside = [value for element in tree.iter() for key, value in element.attrib.items()
               if key in ("src", "href", "srcset", "action") and not value.startswith(("#", "data:"))]  # fmt: skip
    assert outside == []


def test_the_same_results_give_the_same_page() -> None:
    first = build_page(images_results(), name="a")
    figure().scatter([1], [2])  # numbers its parts from one counter of the process
    np.random.default_rng().normal()
    assert build_page(images_results(), name="a") == first
    assert build_page(images_results(), name="b") != first


# --- the samples that it holds ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(100, 600), st.integers(0, 50))
def test_a_part_of_each_class_is_chosen(sizes: list[int], n: int, n_without: int) -> None:
    label = np.repeat([f"c{i}" for i in range(len(sizes))], sizes)
    places = np.ones((len(label), 2))
    places[:n_without] = np.nan
    rows = choose(Views(places, ("x", "y"), places, ("", "")), label, n)
    assume(n_without < len(label))
    there = pd.Series(label[n_without:]).value_counts()
    kept = pd.Series(label[rows]).value_counts().reindex(there.index, fill_value=0)
    assert len(set(rows)) == len(rows) <= n and (np.diff(rows) > 0).all() and (rows >= n_without).all()
    assert len(rows) >= min(n, there.sum()) - len(sizes)  # but for what is rounded down
    assert (kept >= np.minimum(there, min(50, n // len(there)))).all()
    assert (rows == choose(Views(places, ("x", "y"), places, ("", "")), label, n)).all()


def test_shares_of_classes_are_kept() -> None:
    label = np.repeat(["large", "small"], [90_000, 10_000])
    rows = choose(Views(np.ones((100_000, 2)), ("x", "y"), np.ones((100_000, 2)), ("", "")), label, 20_000)
    assert abs((label[rows] == "small").mean() - 0.1) < 0.005


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=50))
def test_packed_numbers_are_what_they_were(values: list[float]) -> None:
    column = pack(np.array(values))
    span = max(column["high"] - column["low"], 1e-12)
    found = unpack(column)
    assert (np.isnan(found) == np.isnan(values)).all()
    # half a step of 65,534, and ends that are rounded to six digits
    tolerance = span / (MISSING - 1) + 2e-5 * max(abs(column["low"]), abs(column["high"]))
    np.testing.assert_allclose(found, values, atol=tolerance, rtol=0)


def test_a_page_of_many_samples_says_how_many_it_shows() -> None:
    results = features_results()
    page = build_page(results, PageSettings(max_samples=100))
    points = data_of(page)["points"]
    assert points["n"] == len(points["names"]) <= 100 < points["n_all"] == results.scores.n_obs
    assert f"{points['n']} of {points['n_all']} samples shown" in text_in(section(page, "embeddings"))
    rows = results.scores.obs_names.get_indexer(points["names"])
    elbo = next(column for column in points["columns"] if column["name"] == schema.ELBO)
    np.testing.assert_allclose(unpack(elbo), results.scores.obs[schema.ELBO].iloc[rows], atol=1e-2)
    np.testing.assert_allclose(unpack(points["shared"][0]), views_of(results).shared[rows, 0], atol=1e-3)


def test_columns_are_limited_and_what_is_left_out_is_said() -> None:
    results = features_results()
    obs = results.scores.obs.copy()
    obs["barcode"] = [f"b{i}" for i in range(len(obs))]
    obs["many"] = [f"m{i % 60:02}" for i in range(len(obs))]
    scores = results.scores.copy()
    scores.obs = obs
    results = dataclasses.replace(results, scores=scores)
    found, left_out = columns_of(results, np.arange(len(obs)), PageSettings())
    many = next(column for column in found if column["name"] == "many")
    assert len(many["levels"]) == MAX_LEVELS and many["levels"][-1] == f"{60 - MAX_LEVELS + 1} others"
    assert [line for line in left_out if line.startswith("barcode: ")]
    few, left_out = columns_of(results, np.arange(len(obs)), PageSettings(max_columns=2))
    assert [column["name"] for column in few] == ["label", "split"]
    assert any("only the first 2 columns" in line for line in left_out)


# --- from files ------------------------------------------------------------------------------------------------------


def write_results(results: RunResults, folder: Path) -> dict[str, str]:
    """Files of a run, by option."""
    paths = {
        "data": results.prepared,
        "report": results.factors,
        "scores": results.scores,
        "embedded": results.embedded,
    }
    paths |= results.generated
    for name, adata in paths.items():
        write_anndata(adata.copy(), folder / f"{name}.h5ad")
    found = {name: str(folder / f"{name}.h5ad") for name in paths}
    for card, history in zip(results.cards, results.histories, strict=True):
        text = card.model_copy(update={"card_sha256": card.checksum}).model_dump_json()
        (folder / f"{card.seed}.json").write_text(text)
        write_table(history, folder / f"{card.seed}.parquet")
        found |= {
            f"card{card.seed}": f"{folder}/{card.seed}.json",
            f"history{card.seed}": f"{folder}/{card.seed}.parquet",
        }
    return found


def arguments(files: dict[str, str], output: Path) -> list[str]:
    options = [part for name, path in files.items() for part in (f"--{name.rstrip('01')}", path)]
    return ["page", *options, "--output", str(output), "--name", "digits"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_results(images_results(), tmp_path_factory.mktemp("images"))


def test_the_command_writes_the_page_of_its_files(files: dict[str, str], tmp_path: Path) -> None:
    assert main(arguments(files, tmp_path / "report.html")) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text_in(next(tree_of(page).iter("h1"))) == "digits"
    assert data_of(page)["points"] == data_of(page_of("images"))["points"]
    assert main(arguments(files, tmp_path / "again.html")) == 0
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "report.html").read_bytes()


OTHER = {
    "no such file": ({"data": "nowhere.h5ad"}, "nowhere.h5ad: no such file or folder"),
    "data of another data set": ({"data": "other/data.h5ad"}, "prepared data: data"),
    "no report": ({"report": "other/embedded.h5ad"}, r"no obsm\['kl_by_class'\]"),
    "samples of a seed for those of the run": ({"scores": "embedded.h5ad"}, "of one run|of the whole run|factors"),
    "embedded samples of another data set": ({"embedded": "other/embedded.h5ad"}, "embedded samples: data"),
    "a seed twice": ({"card1": "0.json", "history1": "0.parquet"}, "cards: seeds 0, 0; allowed: 0, 1"),
    "cards of another run": ({"card0": "other/0.json"}, "card of seed 0: data"),
    "histories that changed places": ({"history0": "short.parquet"}, "history of seed 0: kept epoch"),
    "a file for another": ({"traversals": "data.h5ad"}, r"no uns\['nvae'\]"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_file_that_does_not_belong_ends_in_one_line(
    case: str, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(files["data"]).parent
    if not (folder / "other").exists():
        (folder / "other").mkdir()
        write_results(features_results(), folder / "other")
        history = images_results().histories[0]
        write_table(
            history.assign(is_best=history["epoch"] == images_results().cards[0].best_epoch + 7),
            folder / "short.parquet",
        )
    changed, said = OTHER[case]
    given_files = files | {name: str(folder / path) for name, path in changed.items()}
    assert main(arguments(given_files, tmp_path / "report.html")) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and re.search(said, line), line
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_read_is_refused(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(files["report"]).read_bytes()
    assert main(arguments(files, Path(files["report"]))) == 2
    assert "is read too" in capsys.readouterr().err and Path(files["report"]).read_bytes() == before


def test_samples_in_another_order_are_refused() -> None:
    results = features_results()
    with pytest.raises(UserError, match="not those of the prepared data"):
        build_page(dataclasses.replace(results, scores=results.scores[::-1].copy()))


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if REASON is not None:
        if os.environ.get("NVAE_BIO_REQUIRE_BROWSER"):
            pytest.fail(f"NVAE_BIO_REQUIRE_BROWSER is set: {REASON}")
        pytest.skip(REASON)
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for kind in ("counts", "images"):
        (folder / f"{kind}.html").write_text(page_of(kind), encoding="utf-8")
    return {kind: folder / f"{kind}.html" for kind in ("counts", "images")}


@pytest.fixture
def page(browser: Browser, pages: dict[str, Path]) -> Iterator[Page]:
    """The page of counts; at the end nothing went wrong and nothing was asked of a network."""
    found = opened(browser, pages["counts"])
    yield found.page
    check_quiet(found)
    found.page.close()


def check_quiet(found: Opened) -> None:
    assert found.errors == [] and found.requests == []
    assert found.page.title() == "run <b>counts</b> · factors of a run · nvae-bio" or "images" in found.page.title()


def shown(page: Page) -> int:
    """Samples in the figure."""
    return page.evaluate("Bokeh.documents[0].get_model_by_name('points').data.x.length")


def colours(page: Page) -> list[str]:
    return page.evaluate("[...new Set(Bokeh.documents[0].get_model_by_name('points').data.color)]")


@pytest.mark.parametrize("kind", ["counts", "images"])
def test_it_opens_from_the_disk_and_is_accessible(kind: str, browser: Browser, pages: dict[str, Path]) -> None:
    found = opened(browser, pages[kind])
    check_quiet(found)
    assert shown(found.page) == data_of(page_of(kind))["points"]["n"]
    found.page.close()
    context = browser.new_context(bypass_csp=True)  # its policy lets no checker in
    checked = context.new_page()
    checked.goto(pages[kind].as_uri())
    checked.wait_for_selector(DRAWN, state="attached")
    violations = Axe().run(checked).response["violations"]
    assert [(rule["id"], [node["html"][:100] for node in rule["nodes"]]) for rule in violations] == []
    context.close()


def test_samples_are_recoloured(page: Page) -> None:
    by_label = colours(page)
    assert len(by_label) == len(CLASSES)
    page.select_option("#colour", "factor-0")
    assert len(colours(page)) > 20 and "coloured by shared 1" in page.inner_text("#status")
    assert page.locator("#legend .ramp").count() == 1
    page.select_option("#colour", "condition")
    assert set(colours(page)) == set(OKABE_ITO[:2])  # high and low
    assert page.locator("#legend input").count() == 2
    page.click("#numbers summary")
    expect(page.locator("#by-class caption")).to_have_text("condition, of the samples shown")


def test_samples_are_filtered(page: Page) -> None:
    obs = counts_results().scores.obs
    assert shown(page) == len(obs)
    page.locator("#legend input").first.uncheck()
    first = data_of(page_of("counts"))["points"]["columns"][0]["levels"][0]
    assert shown(page) == (obs[schema.LABEL] != first).sum()
    page.select_option("#split", label="test")
    assert shown(page) == ((obs[schema.LABEL] != first) & (obs[schema.SPLIT] == "test")).sum()
    page.get_by_role("button", name="all", exact=True).click()
    assert shown(page) == (obs[schema.SPLIT] == "test").sum()
    page.select_option("#split", label="all splits")
    page.select_option("#class", label=HOSTILE)
    assert shown(page) == (obs[schema.LABEL] == HOSTILE).sum()
    assert f"{shown(page)} of {len(obs)} shown" in page.inner_text("#status")


def test_each_class_has_a_view_of_its_own_block(page: Page) -> None:
    page.select_option("#view", label=f"own block of {HOSTILE}")
    obs = counts_results().scores.obs
    assert shown(page) == (obs[schema.LABEL] == HOSTILE).sum()
    names = page.evaluate("Bokeh.documents[0].get_model_by_name('points').data.name")
    assert set(names) == set(obs.index[(obs[schema.LABEL] == HOSTILE).to_numpy()])
    axis = page.evaluate("Bokeh.documents[0].get_model_by_name('plot').below[0].axis_label")
    assert axis == "dim 0 of the own block (prior SD)"


def test_a_sample_under_the_pointer_is_named(page: Page) -> None:
    place = page.evaluate(
        """() => {
        const view = Bokeh.index.roots[0];
        const data = Bokeh.documents[0].get_model_by_name('points').data;
        return [view.frame.x_scale.compute(data.x[0]), view.frame.y_scale.compute(data.y[0])];
        }"""
    )
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + place[0] + 3, box["y"] + place[1])
    page.mouse.move(box["x"] + place[0], box["y"] + place[1])
    expect(page.get_by_text("<u>cell ").first).to_be_visible()  # in words, not as markup


def test_the_map_and_its_rows_lead_to_a_factor_by_mouse_and_keys(page: Page) -> None:
    cell = page.locator("table.map td a").first
    target = cell.get_attribute("href")
    cell.click()
    expect(page.locator(f"{target} h3")).to_be_in_viewport()
    row = page.locator("table.map tbody th a").last
    row.focus()
    page.keyboard.press("Enter")
    expect(page.locator(f"{row.get_attribute('href')} h3")).to_be_in_viewport()


def test_a_factor_colours_the_embedding(page: Page) -> None:
    page.locator("#factor-0 button").click()
    assert page.input_value("#colour") == "factor-0"
    expect(page.locator("#colour")).to_be_focused()


def test_keys_reach_the_content_first(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_it_prints_all_sections_open(page: Page, tmp_path: Path) -> None:
    assert page.locator("details:not([open])").count() > 3
    page.pdf(path=tmp_path / "page.pdf", format="A4", print_background=True)
    text = " ".join(part.extract_text() for part in PdfReader(tmp_path / "page.pdf").pages)
    text = " ".join(unicodedata.normalize("NFKC", text).split())  # without ligatures
    titles = [text_in(h2) for h2 in tree_of(page_of("counts")).iter("h2")]
    assert [title for title in titles if title not in text] == []
    assert "training.max_epochs" in text and counts_results().factors.uns[schema.MODEL]["fingerprint"][:20] in text
    assert "Skip to the content" not in text
