"""A headless Chromium of this machine, for pages of ours: Debian's package chromium-headless-shell, or another one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
DRAWN = "html[data-drawn=yes]"  # once the embeddings are there


def program() -> str | None:
    """The browser of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def why_not() -> str | None:
    """Why no page can be opened here; None where one can."""
    if program() is None:
        return f"no {', '.join(PROGRAMS)}: Debian's package chromium-headless-shell is not installed"
    return None


@contextmanager
def started() -> Iterator[Browser]:
    """A browser that runs for the block."""
    with sync_playwright() as playwright:
        # tests run as root, which Chromium's sandbox refuses; it opens pages of ours alone
        browser = playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page, and what it did that it should not.

    Attributes:
        page: of the browser.
        errors: of its scripts, and what it wrote as errors or warnings.
        requests: addresses that it asked for, besides its own file and data within it.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def opened(browser: Browser, path: Path) -> Opened:
    """Open a file from the disk and wait until its embeddings are drawn."""
    page = browser.new_page(viewport={"width": 1366, "height": 900})
    found, own = Opened(page), path.resolve().as_uri()
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("console", lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("request", lambda asked: None if asked.url.startswith(("data:", own)) else found.requests.append(asked.url))
    page.goto(own)
    page.wait_for_selector(DRAWN, state="attached")
    return found
