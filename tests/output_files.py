"""Small runs whose files, together, have every key that a file of nvae-bio can have."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

import nvae_bio
from nvae_bio import (
    audit_labels,
    change_samples,
    embed_data,
    explorer_data,
    export_tables,
    generate_samples,
    interpolate_samples,
    map_query,
    plant_and_find,
    prepare_data,
    refit_null,
    report_factors,
    simulate_counts,
    simulate_images,
    swap_classes,
    train_model,
    traverse_factors,
)
from nvae_bio.config import (
    AuditSettings,
    CounterfactualSettings,
    CountsSettings,
    CountsSimulation,
    Dataset,
    EmbeddingSettings,
    FactorSettings,
    FeaturesSettings,
    FitSettings,
    GenerationSettings,
    ImagesSettings,
    ImagesSimulation,
    PowerSettings,
    ReportSettings,
)
from nvae_bio.counterfactual import counterfactual_table
from nvae_bio.data.files import read_table, write_anndata, write_table
from nvae_bio.factors.step import factor_table
from nvae_bio.prepare.step import prepare_store
from nvae_bio.trained import TrainedModel
from tests.toys import QUICK_UMAP, fit_settings, raw_counts, raw_features, raw_images

QUICK = GenerationSettings(n_per_class=2, n_steps=3, n_pairs=1)
POWER = PowerSettings(n_genes=5, fold_changes=[3], n_runs=1)


@dataclass(frozen=True)
class Made:
    """What a run of few seeds leaves behind, by the kind of file.

    Attributes:
        kind: of the data.
        sizes: S, K and C of the model.
        source: columns of obs and var that the data came with.
        factors: their names.
        covariates: names of what the model may be told, but for the batch.
        files: AnnData as they are read from a disk.
        tables: likewise.
    """

    kind: str
    sizes: dict[str, int]
    source: list[str]
    factors: list[str] = field(default_factory=list)
    covariates: list[str] = field(default_factory=list)
    files: dict[str, AnnData] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


def from_disk(adata: AnnData) -> AnnData:
    """As it is read from the file that is written of it."""
    with tempfile.TemporaryDirectory() as folder:
        write_anndata(adata, Path(folder) / "file.h5ad")
        return anndata.read_h5ad(Path(folder) / "file.h5ad")


def table_from_disk(table: pd.DataFrame) -> pd.DataFrame:
    """Likewise."""
    with tempfile.TemporaryDirectory() as folder:
        write_table(table, Path(folder) / "file.parquet")
        return read_table(Path(folder) / "file.parquet")


def _factor_settings(sets: Path | None, power: PowerSettings | None) -> FactorSettings:
    """Such that factors of weak models are published, and something can be called with two refits."""
    values: dict[str, Any] = {"fdr": 0.5, "min_gain": 0, "agreement": 0.3, "n_bootstrap": 100}
    return FactorSettings(report=ReportSettings(**values, gene_sets=None if sets is None else str(sets)), power=power)


def make_run(
    settings: Dataset, raw: AnnData, fit: FitSettings, seeds: Sequence[int] = (0,), *, is_full: bool = False
) -> Made:
    """All files of a run; a full one has audits, a null, plantings, gene sets and layouts too."""
    prepared = prepare_data(settings, raw)
    models = [train_model(prepared, fit, seed) for seed in seeds]
    with QUICK_UMAP:
        embedded = [embed_data(prepared, one, EmbeddingSettings(umap=is_full)) for one in models]
    card = models[0].card
    sizes = {"S": models[0].network.n_shared, "K": models[0].network.n_private, "C": len(card.classes)}
    run = Made(settings.kind, sizes, [*raw.obs.columns, *raw.var.columns])
    run.files.update({"prepared": prepared, "embedded": embedded[0]})
    run.tables["history.parquet"] = models[0].history
    evidence = _evidence(run, prepared, models, fit) if is_full else {}
    with tempfile.TemporaryDirectory() as folder:
        sets = Path(folder) / "sets.gmt"
        sets.write_text("\t".join(["SET", "", *prepared.var_names[:15]]) + "\n")
        options = _factor_settings(sets if is_full else None, POWER if is_full else None)
        found = report_factors(embedded, options, **evidence)
    run.files.update({"factors": found.factors, "seed_factors": found.seeds, "scores": found.embedded})
    run.tables["factors.parquet"] = factor_table(found.factors)
    _draw(run, prepared, models[0], raw)
    run.files["explorer"] = explorer_data(embedded[0], found.factors, found.embedded)
    if is_full:
        run.tables["suspects.csv"] = found.factors.uns["nvae"]["suspects"]
        exported = export_tables(embedded, found.factors, found.embedded)
        run.tables.update({f"export/{name}.parquet": table.to_pandas() for name, table in exported.items()})
    return Made(
        run.kind, run.sizes, run.source, list(found.factors.obs_names), settings.continuous_covariates,
        {name: from_disk(one) for name, one in run.files.items()},
        {name: table_from_disk(one) for name, one in run.tables.items()},
    )  # fmt: skip


def _evidence(run: Made, prepared: AnnData, models: Sequence[TrainedModel], fit: FitSettings) -> dict[str, Any]:
    """Audits, null and plantings; their tables are put into the run."""
    base = train_model(prepared, fit.base, 0)
    null = pd.concat([refit_null(prepared, base, fit, kind, range(2)) for kind in ("no_private", "no_factor")])
    planted = plant_and_find(prepared, fit, POWER)
    audits = [audit_labels(prepared, one, AuditSettings(n_steps=2, n_candidates=1)) for one in models]
    run.tables.update({"null": null, "power": planted, "audit.parquet": audits[0].reset_index()})
    return {"null": null, "planted": planted, "audits": audits}


def _draw(run: Made, prepared: AnnData, trained: TrainedModel, raw: AnnData) -> None:
    """All that a model draws and maps."""
    makers: dict[str, Callable[..., AnnData]] = {
        "samples": generate_samples, "traversals": traverse_factors, "interpolations": interpolate_samples,
    }  # fmt: skip
    if trained.network.uses_label:
        makers["swaps"] = swap_classes
    if trained.network.uses_label and trained.card.settings.model.size == "library":
        run.files["query"] = map_query(trained, prepared, raw)
    run.files.update({name: maker(trained, prepared, QUICK) for name, maker in makers.items()})
    moved = "shared 0" if trained.network.n_shared else "private 0"
    change = CounterfactualSettings(factors={moved: 1.0}, n_per_class=2, support_level=0)
    run.files["counterfactuals"] = change_samples(trained, prepared, change)
    run.tables["counterfactuals.parquet"] = counterfactual_table(run.files["counterfactuals"])


def _rich_counts() -> tuple[AnnData, CountsSettings]:
    """Counts with a batch, a donor, an arm, covariates, size factors, unlabelled cells; split by donor."""
    raw, rng = raw_counts(), np.random.default_rng(0)
    raised = (raw.obs["label"] == "c1").to_numpy() & (raw.obs["true_private"] > 0).to_numpy()
    raw.X[np.ix_(raised, range(15, 30))] *= 6  # so that a small model finds it
    raw.var_names = [*raw.var_names[:58], "MT-1", "MT-2"]
    raw.obs["label"] = raw.obs["label"].mask(np.arange(raw.n_obs) % 10 == 0)
    raw.obs["lane"] = rng.choice(["l0", "l1"], raw.n_obs)
    raw.obs["age"] = rng.normal(50, 10, raw.n_obs)
    raw.obs["size"] = rng.uniform(0.5, 2, raw.n_obs)
    raw.obs["split"] = rng.choice(["ours", "theirs"], raw.n_obs)  # a name that is taken
    settings = CountsSettings(
        kind="counts", n_top_genes=None, batch_key="lane", donor_key="donor", condition_key="condition",
        size_factor_key="size", continuous_covariates=["age"], split={"by": "donor"},
    )  # fmt: skip
    return raw, settings


@cache
def full_counts() -> Made:
    """A run of two seeds with all that can be asked for, and the store of its data."""
    raw, settings = _rich_counts()
    fit = fit_settings(20, n_shared=2, n_private=3, beta_private=0.5)
    made = make_run(settings, raw, fit, (0, 1), is_full=True)
    with tempfile.TemporaryDirectory() as folder:
        raw.write_h5ad(Path(folder) / "raw.h5ad")
        on_disk = settings.model_copy(update={"paths": [str(Path(folder) / "raw.h5ad")]})
        prepare_store(on_disk, Path(folder) / "data.h5ad", Path(folder) / "data.store")
        made.tables["store/obs.parquet"] = read_table(Path(folder) / "data.store/obs.parquet")
    return made


@cache
def plain_counts() -> Made:
    """Counts of which nothing more is known, at size factors, in a model without classes."""
    raw = raw_counts(n_per_class=50)
    raw.obs = raw.obs[["label"]].assign(size=np.random.default_rng(0).uniform(0.5, 2, raw.n_obs))
    settings = CountsSettings(kind="counts", n_top_genes=None, size_factor_key="size")
    return make_run(settings, raw, fit_settings(variant="vae", size="size_factor"))


@cache
def images(variant: str = "nvae") -> Made:
    raw = raw_images()
    raw.obs["source_split"] = "none"
    return make_run(ImagesSettings(kind="images", image_shape=(1, 8, 8)), raw, fit_settings(variant=variant))


@cache
def features(variant: str = "cvae") -> Made:
    raw = raw_features()
    raw.var["unit"] = "mm"
    return make_run(FeaturesSettings(kind="features"), raw, fit_settings(variant=variant))


RUNS: dict[str, Callable[[], Made]] = {
    "full counts": full_counts, "plain counts of a vae": plain_counts, "images": images,
    "images of a vae": lambda: images("vae"), "features of a cvae": features,
    "features of models a class": lambda: features("per_class"),
}  # fmt: skip


def _simulated(settings: CountsSimulation | ImagesSimulation, raw: AnnData) -> Made:
    make = simulate_counts if isinstance(settings, CountsSimulation) else simulate_images
    data, truth = make(settings, raw)
    sizes = {"S": 0, "K": 0, "C": len(settings.classes), "P": len(settings.planted)}
    return Made(settings.kind, sizes, [], files={"simulated": from_disk(data), "truth": from_disk(truth)})


@cache
def simulated_counts() -> Made:
    planted = [
        {"name": "own", "kind": "private", "classes": ["c1"], "share": 0.5, "n_genes": 5, "fold_change": 2},
        {"name": "response", "kind": "shared", "follows": "condition", "n_genes": 5, "fold_change": 2},
    ]
    values = {
        "kind": "counts", "source": {}, "classes": {"c0": 60, "c1": 60}, "min_mean": 0.1, "programmes": planted,
        "conditions": {"names": ["control", "treated"]}, "donors": {"n": 4}, "label_swaps": 0.1, "doublets": 0.1,
    }  # fmt: skip
    return _simulated(CountsSimulation.model_validate(values), raw_counts())


@cache
def simulated_images() -> Made:
    planted = [{"name": "turned", "kind": "shared", "what": "rotation", "share": 0.5, "amount": 10}]
    values = {"kind": "images", "source": {"image_shape": (1, 8, 8)}, "classes": {"c0": 20, "c1": 20}}
    return _simulated(ImagesSimulation.model_validate(values | {"transformations": planted}), raw_images())


SIMULATED: dict[str, Callable[[], Made]] = {"simulated counts": simulated_counts, "simulated images": simulated_images}


@cache
def in_notebook() -> Made:
    """AnnData of a user after `tl.fit` and `tl.factors`, and of new samples after `tl.map_query`."""
    raw = raw_counts(n_per_class=60)
    source, settings = [*raw.obs.columns], fit_settings()
    model = nvae_bio.tl.fit(
        raw, seeds=(0, 1), dataset={"n_top_genes": None}, progress=False, model=settings.model,
        training=settings.training, embedding={"umap": False}, report={"n_refits": 0, "agreement": 0.1},
    )  # fmt: skip
    nvae_bio.tl.factors(raw, model, n_refits=0)
    new = raw_counts(1, n_per_class=20)
    nvae_bio.tl.map_query(new, model, novelty_level=0.1, max_novel=1)
    network = model.model.network
    sizes = {"S": network.n_shared, "K": network.n_private, "C": len(model.classes)}
    files = {"notebook": from_disk(raw), "notebook_query": from_disk(new)}
    return Made("counts", sizes, source, list(raw.uns["nvae_factor_names"]), files=files)
