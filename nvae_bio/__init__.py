"""nvae-bio: shared and class-specific factors of biological data with the N-VAE.

In a notebook, `NVAE` is the whole way; `nvae_bio.tl` and `nvae_bio.pl` work on AnnData as scanpy's do:

    model = nvae_bio.NVAE(adata, label_key="cell_type").fit()
    model.embed()
    report = model.factors()
    nvae_bio.pl.kl_heatmap(report)
    nvae_bio.describe(adata)  # what each key is that was added

`nvae_bio.datasets` has data to start with. The steps in memory, from AnnData to AnnData, with settings of
`nvae_bio.config`; heavy libraries load with the first use of a name:

    prepared = nvae_bio.prepare_data(dataset, adata)
    trained = nvae_bio.train_model(prepared, settings)
    embedded = nvae_bio.embed_data(prepared, trained)
    base = nvae_bio.train_model(prepared, settings.base)
    refits = {"no_private": range(20), "no_factor": range(10)}
    null = pandas.concat(nvae_bio.refit_null(prepared, base, settings, kind, refits[kind]) for kind in refits)
    audit = nvae_bio.audit_labels(prepared, trained)
    report = nvae_bio.report_factors([embedded], null=null, audits=[audit])  # .factors, .embedded, .seeds, .lines
    nvae_bio.suggest_settings(report.factors)
    samples = nvae_bio.generate_samples(trained, prepared)
    mapped = nvae_bio.map_query(trained, prepared, new_adata)
    changed = nvae_bio.change_samples(trained, prepared, CounterfactualSettings(factors={"shared 0": 2}))
    found = report.factors, report.embedded
    results = nvae_bio.RunResults(prepared, *found, embedded, [trained.card], [trained.history])
    html = nvae_bio.build_page(results)
    nvae_bio.export_tables([embedded], report.factors, report.embedded)

Counts larger than memory: `nvae_bio.prepare.prepare(dataset, output, store)`, and `open_store(store)` as `prepared`.
Data with a known truth: `simulate_counts`, `simulate_images`, `simulate_sounds`; `audio_features` of sounds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvae_bio.audit.step import audit_labels
    from nvae_bio.counterfactual import change_samples
    from nvae_bio.data.store import Store, open_store
    from nvae_bio.embed import embed_data
    from nvae_bio.export import describe_model, explorer_data, export_tables
    from nvae_bio.factors.null import refit_null
    from nvae_bio.factors.power import plant_and_find
    from nvae_bio.factors.report import FactorReport, report_factors
    from nvae_bio.factors.seeds import report_seeds
    from nvae_bio.generate import generate_samples, interpolate_samples, swap_classes, traverse_factors
    from nvae_bio.init import propose_config
    from nvae_bio.notebook import NVAE
    from nvae_bio.outputs import describe
    from nvae_bio.page import RunResults, build_page
    from nvae_bio.prepare import prepare_data
    from nvae_bio.query import map_query
    from nvae_bio.simulate import audio_features, simulate_counts, simulate_images, simulate_sounds
    from nvae_bio.suggest import suggest_settings
    from nvae_bio.train import train_model, train_models
    from nvae_bio.trained import TrainedModel, load_model, save_model

__version__ = "0.1.0"

_HOMES = {
    "prepare_data": "prepare",
    "Store": "data.store",
    "open_store": "data.store",
    "train_model": "train",
    "train_models": "train",
    "TrainedModel": "trained",
    "load_model": "trained",
    "save_model": "trained",
    "embed_data": "embed",
    "audit_labels": "audit.step",
    "refit_null": "factors.null",
    "plant_and_find": "factors.power",
    "FactorReport": "factors.report",
    "report_factors": "factors.report",
    "report_seeds": "factors.seeds",
    "suggest_settings": "suggest",
    "generate_samples": "generate",
    "interpolate_samples": "generate",
    "swap_classes": "generate",
    "traverse_factors": "generate",
    "map_query": "query",
    "NVAE": "notebook",
    "describe": "outputs",
    "change_samples": "counterfactual",
    "RunResults": "page",
    "build_page": "page",
    "describe_model": "export",
    "explorer_data": "export",
    "export_tables": "export",
    "propose_config": "init",
    "audio_features": "simulate",
    "simulate_counts": "simulate",
    "simulate_images": "simulate",
    "simulate_sounds": "simulate",
}

__all__ = [
    "NVAE",
    "FactorReport",
    "RunResults",
    "Store",
    "TrainedModel",
    "audio_features",
    "audit_labels",
    "build_page",
    "change_samples",
    "describe",
    "describe_model",
    "embed_data",
    "explorer_data",
    "export_tables",
    "generate_samples",
    "interpolate_samples",
    "load_model",
    "map_query",
    "open_store",
    "plant_and_find",
    "prepare_data",
    "propose_config",
    "refit_null",
    "report_factors",
    "report_seeds",
    "save_model",
    "simulate_counts",
    "simulate_images",
    "simulate_sounds",
    "suggest_settings",
    "swap_classes",
    "train_model",
    "train_models",
    "traverse_factors",
]


_MODULES = ("datasets", "pl", "tl")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nvae_bio.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'nvae_bio' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nvae_bio.{_HOMES[name]}"), name)
