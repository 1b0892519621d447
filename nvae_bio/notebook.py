"""The notebook's door: one object from AnnData to factors, with the results of the workflow.

model = nvae_bio.NVAE(adata, label_key="cell_type", batch_key="batch")
model.fit()
model.embed()  # into adata.obsm and adata.obs
report = model.factors()
nvae_bio.pl.umap(adata, color="nvae_label")
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.audit.step import audit_labels
from nvae_bio.config import CounterfactualSettings, Dataset, QuerySettings, RunSettings, parse_settings, read_dataset
from nvae_bio.counterfactual import change_samples
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import (
    read_embedded,
    read_factors,
    read_prepared,
    read_report,
    read_table,
    write_anndata,
    write_table,
)
from nvae_bio.embed import embed_data
from nvae_bio.errors import UserError, listed
from nvae_bio.factors.null import refit_null
from nvae_bio.factors.power import plant_and_find
from nvae_bio.factors.report import FactorReport, report_factors
from nvae_bio.generate import generate_samples, interpolate_samples, swap_classes, traverse_factors
from nvae_bio.page import RunResults, build_page
from nvae_bio.prepare import prepare_data
from nvae_bio.query import map_query
from nvae_bio.train import train_models
from nvae_bio.trained import TrainedModel, load_model, save_model

RUN, PREPARED, FACTORS, SEEDS, SCORED, SUMMARY = (
    "run.json", "prepared.h5ad", "factors.h5ad", "seed_factors.h5ad", "embedded.h5ad", "summary.md"
)  # fmt: skip


class NVAE:
    """An N-VAE of a data set in memory, with one model a seed.

    The same settings and seeds give the same results as the workflow's, to the bit: it calls the same functions.

    Args:
        adata: samples × features: raw counts, pixels in [0, 1] or features; `embed` adds to it. Or a file or folder of
            samples, in any form that a config's `paths` takes.
        label_key: column of obs with the class of each sample.
        kind: of the data.
        batch_key, donor_key, condition_key: columns of obs.
        layer: where the counts or features are: the name of a layer, or `raw`; None: X.
        seeds: one model is trained for each.
        dataset: further keys of a data set, as in a config.
        settings: parts of a run, as in a config: `model`, `training`, `embedding`, `report`, `audit`, `power`,
            `generation`, `page`.

    Attributes:
        adata: as given; of a file a copy of `prepared`.
        prepared: what is trained on.
        settings: of the run.
        models: one a seed, after `fit`.
        report: after `factors`.

    Raises:
        UserError: one line on what does not fit: a column, a value, a setting.
    """

    def __init__(
        self,
        adata: AnnData | str | Path,
        label_key: str = "label",
        *,
        kind: Literal["counts", "images", "features"] = "counts",
        batch_key: str | None = None,
        donor_key: str | None = None,
        condition_key: str | None = None,
        layer: str | None = None,
        seeds: Sequence[int] = (0, 1, 2),
        dataset: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        values: dict[str, Any] = {"kind": kind, "label_key": label_key}
        keys = {"batch_key": batch_key, "donor_key": donor_key, "condition_key": condition_key}
        values |= {key: value for key, value in keys.items() if value is not None}
        if layer is not None:
            values["matrix"] = "raw" if layer == "raw" else f"layers/{layer}"
        given = adata if isinstance(adata, AnnData) else None
        if given is None:
            values["paths"] = str(adata)
        self.dataset: Dataset = read_dataset(values | dict(dataset or {}), "NVAE")
        run = parse_settings({"dataset": "data", "seeds": list(seeds), **settings}, RunSettings, "NVAE")
        self.settings: RunSettings = run.for_kind(kind)
        self.prepared: AnnData = prepare_data(self.dataset, given)
        self.adata: AnnData = self.prepared.copy() if given is None else given
        self.models: dict[int, TrainedModel] = {}
        self.report: FactorReport | None = None
        self._embedded: dict[int, AnnData] = {}

    def __repr__(self) -> str:
        model, classes = self.settings.model, list(self.prepared.obs[schema.LABEL].cat.categories)
        epochs = [str(one.card.best_epoch) for one in self.models.values()]
        lines = [
            f"NVAE of {self.dataset.kind}: {self.prepared.n_obs} samples × {self.prepared.n_vars} features",
            f"    {len(classes)} classes: {listed(classes, limit=4)}",
            f"    {model.variant}: S = {model.n_shared} shared dims, K = {model.n_private} of each class",
            f"    seeds {listed(self.settings.seeds, limit=6)}: "
            + (f"fitted, best epochs {', '.join(epochs)}" if epochs else "not fitted, call fit()"),
        ]
        if self.report is not None:
            lines.append(textwrap.indent(repr(self.report), "    "))
        return "\n".join(lines)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model."""
        return list(self.prepared.obs[schema.LABEL].cat.categories)

    @property
    def model(self) -> TrainedModel:
        """The model of the first seed.

        Raises:
            UserError: `fit` was not called.
        """
        return self._fitted()[self.settings.seeds[0]]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch, split and seed; terms in nats per sample."""
        parts = [one.history.assign(seed=seed) for seed, one in self._fitted().items()]
        return pd.concat(parts, ignore_index=True)

    def fit(self, *, progress: bool | None = None) -> NVAE:
        """Train one model a seed; returns the object itself.

        Args:
            progress: a bar (True), lines of a log (False), or a bar where there is a terminal or a notebook (None).

        Raises:
            UserError: settings do not fit the data, or the objective is not finite any more.
        """
        seeds, fit = self.settings.seeds, self.settings.fit
        groups = [seeds] if self.settings.training.stack_seeds else [[seed] for seed in seeds]
        models = [one for group in groups for one in train_models(self.prepared, fit, group, progress=progress)]
        self.models, self.report, self._embedded = dict(zip(seeds, models, strict=True)), None, {}
        return self

    def embed(self, seed: int | None = None, *, write: bool = True) -> AnnData:
        """Both embeddings of every sample, by the model of one seed.

        Args:
            seed: the first if None.
            write: add what `embed_data` gives in obs, obsm and uns to the AnnData that the object was made of; samples
                that were left out have NaN there.

        Returns:
            The prepared samples with all keys of `embed_data`.

        Raises:
            UserError: `fit` was not called, or no such seed.
        """
        seed = self.settings.seeds[0] if seed is None else seed
        if seed not in self._fitted():
            raise UserError(f"NVAE: no model of seed {seed}; allowed: {listed(self.models)}")
        if seed not in self._embedded:
            self._embedded[seed] = embed_data(self.prepared, self.models[seed], self.settings.embedding)
        if write:
            found = self._embedded[seed]
            add_slots(self.adata, found, list(found.obs.columns.difference(self.prepared.obs.columns)))
        return self._embedded[seed]

    def factors(self, n_refits: int | None = None, *, progress: bool | None = None) -> FactorReport:
        """The factor report: what the seeds agree on, in which class, through which features, and how sure that is.

        Args:
            n_refits: refits of the null instead of `report.n_refits`; 0: nothing is called.
            progress: of the trainings of the null's base.

        Raises:
            UserError: `fit` was not called, or as `report_factors`.
        """
        run = self.settings if n_refits is None else self._with_refits(n_refits)
        embedded = [self.embed(seed, write=False) for seed in run.seeds]
        audits = [audit_labels(self.prepared, one, run.audit) for one in self.models.values()] if run.is_audited else []
        null, planted = self._null(run, progress)
        self.report = report_factors(embedded, run.factors, null, audits, planted)
        return self.report

    def map_query(self, query: AnnData, settings: QuerySettings | Mapping[str, Any] | None = None) -> AnnData:
        """New samples in the model of the first seed (`nvae_bio.map_query`)."""
        read = (
            settings
            if isinstance(settings, QuerySettings)
            else parse_settings(dict(settings or {}), QuerySettings, "query")
        )
        return map_query(self.model, self.prepared, query, read)

    def counterfactual(self, settings: CounterfactualSettings | None = None, **changes: Any) -> AnnData:
        """Samples with something changed, by the model of the first seed (`nvae_bio.change_samples`)."""
        read = settings or parse_settings(changes, CounterfactualSettings, "counterfactual")
        return change_samples(self.model, self.prepared, read)

    def generate(self) -> AnnData:
        """Ancestral samples of the model of the first seed (`nvae_bio.generate_samples`)."""
        return generate_samples(self.model, self.prepared, self.settings.generation)

    def traverse(self) -> AnnData:
        """Each factor of the first seed's model from low to high, in each class (`nvae_bio.traverse_factors`)."""
        return traverse_factors(self.model, self.prepared, self.settings.generation)

    def page(self, file: str | Path) -> None:
        """Write `report.html` of the workflow: the whole run on one page that any browser opens without a network.

        Args:
            file: .html, written whole or not at all; its name without the ending is the title.

        Raises:
            UserError: `factors` was not called.
        """
        if self.report is None:
            raise UserError("NVAE: no factor report; call factors() first")
        model, drawing, drawn = self.model, self.settings.generation, {}
        if self.dataset.kind == "images":
            drawn = {"samples": self.generate(), "traversals": self.traverse()}
            drawn["interpolations"] = interpolate_samples(model, self.prepared, drawing)
            if model.network.uses_label:
                drawn["swaps"] = swap_classes(model, self.prepared, drawing)
        models, embedded = self._fitted().values(), self.embed(write=False)
        results = RunResults(
            self.prepared, self.report.factors, self.report.embedded, embedded, [one.card for one in models],
            [one.history for one in models], generated=drawn,
        )  # fmt: skip
        text = build_page(results, self.settings.page, Path(file).stem)
        with atomic_path(Path(file)) as part:
            part.write_text(text, encoding="utf-8")

    def save(self, folder: str | Path) -> None:
        """Write the prepared data, the settings, the models and the report; the folder is made, files are replaced.

        The files are those of the workflow: `prepared.h5ad`, `SEED/model.safetensors`, `SEED/model.json`,
        `SEED/history.parquet`, and `factors.h5ad`, `seed_factors.h5ad`, `embedded.h5ad`, `summary.md` after `factors`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_anndata(self.prepared, folder / PREPARED)
        for seed, trained in self.models.items():
            (folder / str(seed)).mkdir(exist_ok=True)
            save_model(trained, folder / f"{seed}/model.safetensors", folder / f"{seed}/model.json")
            write_table(trained.history, folder / f"{seed}/history.parquet")
        if self.report is not None:
            parts = (self.report.factors, self.report.seeds, self.report.embedded)
            for adata, name in zip(parts, (FACTORS, SEEDS, SCORED), strict=True):
                write_anndata(adata, folder / name)
            with atomic_path(folder / SUMMARY) as part:
                part.write_text("\n".join(self.report.lines) + "\n", encoding="utf-8")
        settings = {"dataset": self.dataset, "run": self.settings}
        values = {name: json.loads(one.model_dump_json()) for name, one in settings.items()}
        with atomic_path(folder / RUN) as part:
            part.write_text(json.dumps(values | {"seeds": list(self.models)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, adata: AnnData | None = None) -> NVAE:
        """What `save` wrote.

        Args:
            folder: of `save`.
            adata: the samples that `embed` adds to; None: a copy of the prepared ones.

        Raises:
            UserError: a file is missing or broken.
        """
        folder = Path(folder)
        try:
            known = json.loads((folder / RUN).read_text(encoding="utf-8"))
            dataset, run, seeds = known["dataset"], known["run"], known["seeds"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / RUN}: {error}; allowed: a folder that NVAE.save wrote") from None
        found = cls.__new__(cls)
        found.dataset, found.prepared = read_dataset(dataset, str(folder / RUN)), read_prepared(folder / PREPARED)
        found.settings = parse_settings(run, RunSettings, str(folder / RUN))
        found.adata, found.report, found._embedded, found.models = (
            found.prepared.copy() if adata is None else adata,
            None,
            {},
            {},
        )
        for seed in seeds:
            trained = load_model(folder / f"{seed}/model.safetensors", folder / f"{seed}/model.json")
            history = read_table(folder / f"{seed}/history.parquet")
            found.models[seed] = TrainedModel(trained.network, trained.card, history)
        if (folder / SUMMARY).exists():
            files = (read_factors(folder / FACTORS), read_embedded(folder / SCORED), read_report(folder / SEEDS))
            found.report = FactorReport(*files, lines=(folder / SUMMARY).read_text(encoding="utf-8").splitlines())
        return found

    def _fitted(self) -> dict[int, TrainedModel]:
        if not self.models:
            raise UserError("NVAE: not fitted; call fit() first")
        return self.models

    def _with_refits(self, n_refits: int) -> RunSettings:
        values = json.loads(self.settings.model_dump_json())
        values["report"] |= {"n_refits": n_refits}
        return parse_settings(values, RunSettings, "NVAE")

    def _null(self, run: RunSettings, progress: bool | None) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """What refits of the null and plantings find; None where none are asked for."""
        if not run.refits:
            return None, None
        (base,) = train_models(self.prepared, run.fit.base, run.seeds[:1], progress=progress)
        fit = run.fit.alone
        parts = [
            refit_null(self.prepared, base, fit, kind, list(numbers))
            for kind, jobs in run.refits.items()
            for numbers in jobs
        ]
        plants = [plant_and_find(self.prepared, fit, run.planting.power, list(numbers)) for numbers in run.plantings]
        return pd.concat(parts, ignore_index=True), pd.concat(plants, ignore_index=True) if plants else None


def add_slots(adata: AnnData, found: AnnData, columns: Sequence[str]) -> None:
    """Add what was found of samples to an AnnData of them; NaN or missing where one was left out.

    Args:
        adata: gets obs, obsm, uns["nvae"], and varm where the features have them.
        found: some of the samples of `adata`, in any order, over some of its features.
        columns: of obs, that are added.
    """
    for key in columns:
        adata.obs[key] = found.obs[key].reindex(adata.obs_names)
    for key, table in found.obsm.items():
        is_frame = isinstance(table, pd.DataFrame)
        adata.obsm[key] = (
            table.reindex(adata.obs_names) if is_frame else rows_at(table, found.obs_names, adata.obs_names)
        )
    for key, table in found.varm.items():
        adata.varm[key] = rows_at(table, found.var_names, adata.var_names)
    adata.uns[schema.MODEL] = dict(found.uns[schema.MODEL])


def rows_at(table: np.ndarray, names: pd.Index, wanted: pd.Index) -> np.ndarray:
    """Rows of a table by name, (wanted, columns); NaN where there is none of a name.

    >>> rows_at(np.array([[1.0], [2.0]]), pd.Index(["a", "b"]), pd.Index(["b", "c"])).tolist()
    [[2.0], [nan]]
    """
    table, place = np.asarray(table), names.get_indexer(wanted)
    values = np.full((len(wanted), table.shape[1]), np.nan, dtype=table.dtype)
    values[place >= 0] = table[place[place >= 0]]
    return values
