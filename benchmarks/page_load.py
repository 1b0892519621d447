"""Size of the page of a run, and how soon a browser shows it: `python -m benchmarks.page_load` → results/page_load.csv.

A run of two seeds on simulated counts of 500 genes and 20 classes; its samples are then repeated with noise up to each
size, which leaves the factors as they are. The page is built, written, and opened from the disk in a headless Chromium,
in a new window each time. Shown: megabytes, seconds to build it, and medians of milliseconds: until it is loaded, until
its embedding is drawn, and from a choice of another colour until that is drawn.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks.data import simulated
from nvae_bio import RunResults, build_page, embed_data, prepare_data, report_factors, train_models
from nvae_bio.config import CountsSettings, EmbeddingSettings, FactorSettings, FitSettings, ReportSettings
from nvae_bio.data.files import write_csv
from nvae_bio.data.names import names_may_repeat

RESULTS = Path(__file__).parent / "results" / "page_load.csv"
SIZES, N_BASE, N_GENES, N_CLASSES, SEEDS, N_EPOCHS, N_OPENED = (1_000, 100_000), 2_500, 500, 20, (0, 1), 40, 5
LONGEST = 60  # seconds until a page is drawn
PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
WATCH = """
const look = () => {
  if (document.documentElement?.dataset.drawn) requestAnimationFrame(() => { window.drawnAt = performance.now(); });
  else requestAnimationFrame(look);
};
look();
"""
RECOLOUR = """async () => {
  const select = document.getElementById("colour");
  const start = performance.now();
  select.value = [...select.options].at(-1).value;
  select.dispatchEvent(new Event("change"));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - start;
}"""


def small_run() -> RunResults:
    """All results of a run, in memory."""
    drawn, rng = simulated(N_BASE, N_GENES, N_CLASSES), np.random.default_rng(5)
    levels = {"batch": 2, "donor": 8, "condition": 2}
    obs = {name: [f"{name} {i}" for i in rng.integers(0, n, drawn.n_obs)] for name, n in levels.items()}
    raw = AnnData(drawn.X, pd.DataFrame({"label": drawn.obs["label"], **obs}, index=drawn.obs_names), drawn.var)
    keys = {f"{name}_key": name for name in levels}
    prepared = prepare_data(CountsSettings.model_validate({"kind": "counts", "n_top_genes": None, **keys}), raw)
    settings = FitSettings.model_validate({"model": {"n_shared": 10}, "training": {"max_epochs": N_EPOCHS}})
    trained = train_models(prepared, settings, SEEDS)
    embedded = [embed_data(prepared, one, EmbeddingSettings(umap=False)) for one in trained]
    report = report_factors(embedded, FactorSettings(report=ReportSettings(agreement=0.3)))  # to have many factors
    cards, histories = [one.card for one in trained], [one.history for one in trained]
    return RunResults(prepared, report.factors, report.embedded, embedded[0], cards, histories)


def repeated(results: RunResults, n: int) -> RunResults:
    """The same with `n` samples, each a copy of one that was there; their latents move a little."""
    rows = np.random.default_rng(6).integers(0, results.prepared.n_obs, n)

    def more(adata: AnnData) -> AnnData:
        with names_may_repeat():
            found = adata[rows].copy()
        found.obs_names = [f"cell-{i:07}" for i in range(n)]
        for key, values in found.obsm.items():
            if isinstance(values, np.ndarray):
                found.obsm[key] = values + np.random.default_rng(7).normal(scale=0.05, size=values.shape)
        return found

    parts = {name: more(getattr(results, name)) for name in ("prepared", "scores", "embedded")}
    return dataclasses.replace(results, **parts)


def opened(path: Path, browser: str) -> dict[str, float]:
    """Milliseconds, medians over windows."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {"loaded_ms": [], "drawn_ms": [], "recoloured_ms": []}
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(N_OPENED):
            page = started.new_page(viewport={"width": 1366, "height": 900})
            page.add_init_script(WATCH)
            page.goto(path.as_uri())
            end = time.monotonic() + LONGEST
            while (drawn := page.evaluate("window.drawnAt ?? null")) is None and time.monotonic() < end:
                time.sleep(0.05)
            if drawn is None:
                raise click.ClickException(f"{path}: its embedding is not drawn after {LONGEST} s")
            found["drawn_ms"].append(drawn)
            found["loaded_ms"].append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            found["recoloured_ms"].append(page.evaluate(RECOLOUR))
            page.close()
        started.close()
    return {name: round(statistics.median(values)) for name, values in found.items()}


@click.command(help=__doc__)
@click.option("--browser", help="path of Chromium; one of this machine if not given")
def main(browser: str | None) -> None:
    """All sizes."""
    logging.getLogger("nvae_bio").setLevel(logging.ERROR)
    chosen = browser or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if chosen is None:
        raise click.ClickException(f"no browser; install one of {', '.join(PROGRAMS)}, or give --browser")
    base, rows = small_run(), []
    for n_cells in SIZES:
        results = repeated(base, n_cells)
        start = time.perf_counter()
        text = build_page(results)
        seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            path.write_text(text, encoding="utf-8")
            size = path.stat().st_size
            times = opened(path, chosen)
        n_factors = int(base.factors.obs["published"].sum())
        made = {"n_cells": n_cells, "n_classes": N_CLASSES, "n_factors": n_factors, "megabytes": round(size / 1e6, 2)}
        rows.append({**made, "build_s": round(seconds, 1), **times})
    table = pd.DataFrame(rows)
    write_csv(table, RESULTS)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
