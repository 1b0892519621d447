"""The documentation as a site: it builds without a warning, its code runs, and nothing in it leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Browser
from sphinx.util.inventory import InventoryFile

import nvae_bio
from nvae_bio.cli.base import cli
from tests.browser import started, why_not

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
REASON = why_not()
OF_THE_THEME = ("aria-required-attr", "scrollable-region-focusable")  # captions of its side bar, wide tables
BEFORE_MATH = "window.MathJax && MathJax.startup && MathJax.startup.promise"


@pytest.fixture(scope="module")
def site(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built anew, all code cells run."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html", "-d"]
    done = subprocess.run(
        [*command, folder / "doctrees", ROOT / "docs", folder / "html"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # kernels write there, too
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    """Every page, by its file."""
    return {path.resolve(): BeautifulSoup(path.read_text(), "html.parser") for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_folder_is_in_the_site(site: Path) -> None:
    sources = [
        path for path in (ROOT / "docs").rglob("*") if path.suffix in {".md", ".ipynb"} and "_build" not in path.parts
    ]
    assert len(sources) > 20
    for source in sources:
        assert (site / source.relative_to(ROOT / "docs").with_suffix(".html")).exists(), source


def test_every_link_within_the_site_leads_somewhere(pages: dict[Path, BeautifulSoup], site: Path) -> None:
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    n_links = 0
    for path, page in pages.items():
        for link in page.select("a[href], img[src], script[src], link[href]"):
            target = urlsplit(link.get("href") or link.get("src"))
            if target.scheme or target.netloc:
                continue
            n_links += 1
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            assert file.exists(), (path.name, target.geturl())
            if target.fragment and file in anchors:
                assert unquote(target.fragment) in {*anchors[file], ""}, (path.name, target.geturl())
    assert n_links > 1000


def test_pages_take_nothing_from_the_network(pages: dict[Path, BeautifulSoup]) -> None:
    for path, page in pages.items():
        for tag in page.select("script[src], img[src], link[rel=stylesheet], iframe[src]"):
            assert not urlsplit(tag.get("src") or tag.get("href")).netloc, (path.name, tag)


def test_every_public_name_and_every_command_has_its_reference(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    documented = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    assert {f"nvae_bio.{name}" for name in nvae_bio.__all__ if not name.startswith("__")} <= documented
    told = pages[(site / "commands.html").resolve()].get_text(" ")
    for name, command in cli.commands.items():
        assert f"nvae-bio {name}" in told
        for option in (option for parameter in command.params for option in parameter.opts if option.startswith("--")):
            assert option in told, (name, option)


def test_cells_have_run_and_nothing_went_wrong_in_them(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    with_cells = {
        path.relative_to(site.resolve()).as_posix(): page for path, page in pages.items() if page.select("div.cell")
    }
    assert {"start/counts.html", "start/images.html"} <= set(with_cells)
    for name, page in with_cells.items():
        assert page.select("div.cell_output"), name
        told = "\n".join(part.get_text() for part in page.select("div.cell_output"))
        assert "Traceback" not in told and "Warning" not in told, name


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as found:
        yield found


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.parametrize("name", ["index", "start/counts", "model", "comparison", "api", "outputs"])
def test_it_opens_from_the_disk_and_all_can_read_it(name: str, site: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1366, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith(("data:", "file:")) else wrong.append(asked.url))
    page.goto((site / f"{name}.html").as_uri())
    page.evaluate(BEFORE_MATH)
    assert wrong == []
    assert page.locator("mjx-merror").count() == 0  # an equation that cannot be read
    assert page.locator("mjx-container").count() > (20 if name == "model" else -1)
    rules = {rule: {"enabled": False} for rule in OF_THE_THEME}
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"], "rules": rules}).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in {"serious", "critical"}] == []
    page.close()
