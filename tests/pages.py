"""Results of small runs whose names are hostile, and a page as a tree."""

from __future__ import annotations

import tempfile
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import (
    RunResults,
    audit_labels,
    build_page,
    embed_data,
    generate_samples,
    interpolate_samples,
    plant_and_find,
    refit_null,
    report_factors,
    swap_classes,
    train_model,
    traverse_factors,
)
from nvae_bio.config import (
    AuditSettings,
    CountsSettings,
    FactorSettings,
    GenerationSettings,
    PowerSettings,
    ReportSettings,
)
from nvae_bio.prepare import prepare_data
from nvae_bio.trained import TrainedModel
from tests.toys import NO_UMAP, fit_settings, prepared_features, prepared_images, raw_counts

HOSTILE = '</script><script>document.title="owned"</script>'
CLASSES = {"c0": "T & B <i>cells</i>", "c1": HOSTILE, "c2": "\"quoted' \u2028 class"}
SEEDS = (0, 1)
VOID = {"meta", "link", "img", "input", "br", "hr"}
QUICK = GenerationSettings(n_per_class=2, n_steps=3, n_pairs=1)


def factor_settings(power: PowerSettings | None = None, gene_sets: str | None = None) -> FactorSettings:
    """Such that with two refits something can be called, and factors of weak models are published."""
    values = {"fdr": 0.5, "min_gain": 0, "agreement": 0.3, "n_bootstrap": 100, "gene_sets": gene_sets, "n_enriched": 15}
    return FactorSettings(report=ReportSettings.model_validate(values), power=power)


def _results(prepared: AnnData, trained: list[TrainedModel], **evidence: Any) -> RunResults:
    """A whole run in memory; of images with what the first seed draws."""
    embedded = [embed_data(prepared, one, NO_UMAP) for one in trained]
    cards, histories = [one.card for one in trained], [one.history for one in trained]
    report = report_factors(embedded, **evidence)
    drawn = {}
    if prepared.uns["nvae_data"]["kind"] == "images":
        drawn = {
            "samples": generate_samples(trained[0], prepared, QUICK),
            "traversals": traverse_factors(trained[0], prepared, QUICK),
            "interpolations": interpolate_samples(trained[0], prepared, QUICK),
        }
        if trained[0].network.uses_label:
            drawn["swaps"] = swap_classes(trained[0], prepared, QUICK)
    return RunResults(prepared, report.factors, report.embedded, embedded[0], cards, histories, None, drawn)


@cache
def counts_results() -> RunResults:
    """Counts with all parts of a report, whose classes, genes, samples and columns have names that are markup."""
    raw = raw_counts()
    raised = (raw.obs["label"] == "c1").to_numpy() & (raw.obs["true_private"] > 0).to_numpy()
    raw.X[np.ix_(raised, range(15, 30))] *= 6  # so that a small model finds it
    raw.obs["label"] = raw.obs["label"].map(CLASSES)
    raw.obs["note <b>"] = np.where(np.arange(raw.n_obs) % 2, "<img src=x onerror=alert(1)>", "plain")
    raw.var_names = [f"gene <b>{i}</b> & co" for i in range(raw.n_vars)]
    raw.obs_names = [f"<u>cell {i}</u>" for i in range(raw.n_obs)]
    settings = CountsSettings(kind="counts", n_top_genes=None, donor_key="donor", condition_key="condition")
    prepared, fit = prepare_data(settings, raw), fit_settings(60, n_shared=2, n_private=1, beta_private=0.5)
    base = train_model(prepared, fit.base, 0)
    null = pd.concat([refit_null(prepared, base, fit, kind, range(2)) for kind in ("no_private", "no_factor")])
    power = PowerSettings(n_genes=5, fold_changes=[3], n_runs=1)
    planted = plant_and_find(prepared, fit, power)
    seeds = [train_model(prepared, fit, seed) for seed in SEEDS]
    audits = [audit_labels(prepared, one, AuditSettings(n_steps=2, n_candidates=1)) for one in seeds]
    with tempfile.TemporaryDirectory() as folder:
        sets = Path(folder) / "sets.gmt"
        sets.write_text("\t".join(["<b>SET</b>", "", *prepared.var_names[:15]]) + "\n")
        return _results(
            prepared, seeds, settings=factor_settings(power, str(sets)), null=null, audits=audits, planted=planted
        )


@cache
def images_results(variant: str = "nvae") -> RunResults:
    """Pictures, with all that the first seed draws."""
    fit = fit_settings(150, variant=variant, likelihood="gaussian", n_shared=1)
    trained = [train_model(prepared_images(), fit, seed) for seed in SEEDS]
    return _results(prepared_images(), trained, settings=factor_settings())


@cache
def features_results(variant: str = "nvae") -> RunResults:
    """Features."""
    trained = [train_model(prepared_features(), fit_settings(variant=variant), seed) for seed in SEEDS]
    return _results(prepared_features(), trained, settings=factor_settings())


@cache
def page_of(kind: str) -> str:
    """The page of one of these."""
    made = {"counts": counts_results, "images": images_results, "features": features_results}
    return build_page(made[kind](), name=f"run <b>{kind}</b>")


class _Tree(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.builder, self.open = ElementTree.TreeBuilder(), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.builder.data(data)


def tree_of(text: str) -> ElementTree.Element:
    """The elements of a page, each of which is closed."""
    parser = _Tree()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser.builder.close()


def text_in(element: ElementTree.Element) -> str:
    """All text in an element, spaces as one."""
    return " ".join("".join(element.itertext()).split())
