"""docs/questions.md: each of twenty questions leads to a section that is there, two clicks from the start page."""

from __future__ import annotations

import re
from collections import deque
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
START, LIST = DOCS / "index.md", DOCS / "questions.md"
ROW = re.compile(r"^\| (\d+) \| (.+\?) \| \[[^\]]+\]\(([^)#]+)#([^)]+)\) \|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
N_CLICKS, N_QUESTIONS = 2, 20


@cache
def text_of(page: Path) -> str:
    """A page; of one that is another file, that."""
    text = page.read_text(encoding="utf-8")
    included = re.search(r"^```\{include\} (\S+)$", text, re.MULTILINE)
    return text if included is None else (page.parent / included[1]).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Of each heading, as Git hosts and MyST make them.

    >>> sorted(anchors("## What *else* it may be\\n```\\n# no\\n```\\n### `results/{run}/`"))
    ['resultsrun', 'what-else-it-may-be']
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    plain = (
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#{1,4} (.+)$", text, re.MULTILINE)
    )
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in plain}


def links(page: Path) -> set[Path]:
    """Pages that a page leads to: by links, and by the tree beside it."""
    text = text_of(page)
    found = {(page.parent / target).resolve() for target in LINK.findall(text) if target.endswith((".md", ".ipynb"))}
    for tree in TOCTREE.findall(text):
        for line in tree.splitlines():
            if line and not line.startswith(":"):
                found |= set(page.parent.glob(f"{line}.md")) | set(page.parent.glob(f"{line}.ipynb"))
    config = DOCS.parent / "config" / "README.md"  # which the site has as a page of its own
    return {DOCS / "config.md" if one == config else one for one in found}


def clicks(start: Path, without: frozenset[Path] = frozenset()) -> dict[Path, int]:
    """The least number of links from the start to each page, by pages that are there."""
    found, waiting = {start: 0}, deque([start])
    while waiting:
        page = waiting.popleft()
        for target in sorted(links(page) - without) if page.suffix == ".md" else ():
            if target not in found and target.exists():
                found[target] = found[page] + 1
                waiting.append(target)
    return found


def test_there_are_twenty_questions_in_order() -> None:
    rows = ROW.findall(LIST.read_text(encoding="utf-8"))
    assert [int(number) for number, *_ in rows] == list(range(1, N_QUESTIONS + 1))
    assert (
        len({question for _, question, *_ in rows}) == len({(page, anchor) for *_, page, anchor in rows}) == N_QUESTIONS
    )


def test_each_leads_to_a_section_that_is_there() -> None:
    for _, question, page, anchor in ROW.findall(LIST.read_text(encoding="utf-8")):
        target = DOCS / page
        assert target.exists(), f"{question} → {page}"
        assert anchor in anchors(text_of(target)), f"{question} → {page}#{anchor}"


def test_each_section_is_two_clicks_from_the_start() -> None:
    assert LIST.resolve() in links(START.resolve())  # one click, and the link in its row is the second
    by_other_ways = clicks(START.resolve(), frozenset({LIST.resolve()}))
    for _, question, page, _ in ROW.findall(LIST.read_text(encoding="utf-8")):
        assert by_other_ways.get((DOCS / page).resolve(), N_CLICKS + 1) <= N_CLICKS, f"{question} → {page}"


def test_a_page_that_nothing_leads_to_is_far(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("[b](b.md#x)\n```{toctree}\n:glob:\n\nin/*\n```\n")
    (tmp_path / "b.md").write_text("## One `two`!\n[d](d.md) [gone](gone.md)")
    (tmp_path / "c.md").write_text("# alone")
    (tmp_path / "d.md").write_text("# last")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "e.md").write_text("# in the tree")
    found = {page.name: n for page, n in clicks(tmp_path / "a.md").items()}
    assert found == {"a.md": 0, "b.md": 1, "e.md": 1, "d.md": 2}
    assert anchors((tmp_path / "b.md").read_text()) == {"one-two"}
