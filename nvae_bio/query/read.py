"""New samples in the form of those that a model was trained on, with what of them was measured."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.card import ModelCard
from nvae_bio.config import CountsSettings, Dataset, FeaturesSettings, QuerySettings, read_dataset
from nvae_bio.data.counts import LIBRARY_COLUMN, row_sums
from nvae_bio.data.names import as_text
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.source import read_source, source_names
from nvae_bio.errors import UserError, listed
from nvae_bio.prepare import (
    MEAN,
    MITO_SHARE,
    N_GENES,
    STD,
    cell_quality,
    known_keys,
    make_obs,
    read_size_factors,
    settled_labels,
    size_factor_scale,
)

logger = logging.getLogger(__name__)

USUAL = (
    0.01,
    0.99,
)  # quantiles of the reference's share of counts in model genes between which a query's median is usual
TINY = 1e-6  # share of counts that is none


@dataclass(frozen=True)
class Query:
    """New samples over all features of a model.

    Attributes:
        adata: X as in a prepared data set, 0 where a feature was not measured; obs with `label` (missing where not
            known) and, of counts, `library`: all counts of the cell that are there.
        measured: which features, (features,) booleans.
        has_rest: counts: whether genes outside the model were counted, all in all as in the reference samples.
        typical: of each feature its mean share of a reference sample's counts, or its mean value, (features,).
        n_extra: features that the model does not have.
        removed: what was left out and why.
    """

    adata: AnnData
    measured: np.ndarray
    has_rest: bool
    typical: np.ndarray
    n_extra: int
    removed: pd.DataFrame

    @property
    def coverage(self) -> float:
        """Measured share of the model's features, weighted by their counts where there are counts, 0 to 1."""
        weight = self.typical if self.adata.uns[schema.DATA]["kind"] == "counts" else np.ones(len(self.measured))
        return float(weight[self.measured].sum() / weight.sum())

    @property
    def is_whole(self) -> bool:
        """Whether the model can read the samples as they are."""
        return bool(self.measured.all()) and self.has_rest

    def masked(self, other: Query) -> Query:
        """The same samples with nothing measured that was not in `other`."""
        adata = self.adata.copy()
        adata.X = without_columns(adata.X, ~other.measured)
        if adata.uns[schema.DATA]["kind"] == "counts":
            lost = np.asarray(self.adata.X.sum(1)).ravel() - np.asarray(adata.X.sum(1)).ravel()
            library = adata.obs[schema.LIBRARY] - lost if other.has_rest else np.asarray(adata.X.sum(1)).ravel()
            keep = np.asarray(library > 0)
            adata.obs[schema.LIBRARY] = library
            adata = adata[keep].copy()
        return replace(self, adata=adata, measured=other.measured, has_rest=other.has_rest)


def without_columns(x: Any, lost: np.ndarray) -> Any:
    """A copy of a matrix with zeros in some columns."""
    if sparse.issparse(x):
        kept = (x @ sparse.diags_array((~lost).astype(x.dtype))).tocsr()
        kept.eliminate_zeros()
        kept.sort_indices()
        return sparse.csr_matrix(kept)
    return np.where(lost, 0, x).astype(x.dtype)


def reference_query(reference: AnnData, card: ModelCard) -> Query:
    """Reference samples as a query of which everything was measured.

    Args:
        reference: prepared samples, all that are given.
        card: of the model.

    Raises:
        UserError: other features than the model's.
    """
    if list(reference.var_names) != card.features:
        raise UserError(f"the reference has {reference.n_vars} features, the model {len(card.features)} others")
    if card.kind == "counts":
        typical = np.asarray(reference.X.sum(0), dtype=float).ravel() / float(reference.obs[schema.LIBRARY].sum())
        typical = np.maximum(typical, 1e-12)
    else:
        typical = np.asarray(reference.X, dtype=float).mean(0)
    return Query(reference, np.ones(reference.n_vars, bool), True, typical, 0, RemovalLog().table())


def read_query(settings: QuerySettings, reference: Query, card: ModelCard, adata: AnnData | None = None) -> Query:
    """Read new samples as the model's own data set was read, and put them over its features.

    Args:
        settings: where they are, and what is other with them.
        reference: samples that the model knows; they say how its data set was read, and what is usual.
        card: of the model.
        adata: samples to use instead of `settings.paths`; not changed.

    Raises:
        UserError: samples that cannot be read, that have too few of the features, or none that can be used.
    """
    dataset, log = _dataset_of(settings, reference.adata), RemovalLog()
    names = source_names(dataset, adata is not None)
    where = listed(names, limit=3)
    source = read_source(dataset, log, adata)
    source.var_names = _feature_names(source.var, settings, card, where)
    place = pd.Index(source.var_names).get_indexer(card.features)
    measured = place >= 0
    _check_features(measured, source, card, where)
    x = source.X[:, place[measured]]
    x = _standardised(x, reference.adata.var[measured], dataset) if isinstance(dataset, FeaturesSettings) else x
    known = _known(source.obs, dataset)
    has_rest = True
    if isinstance(dataset, CountsSettings):
        library = source.obs.pop(LIBRARY_COLUMN).to_numpy()
        has_rest = _has_rest(row_sums(x), library, dataset, source.n_vars - int(measured.sum()), reference, measured)
        known[schema.LIBRARY] = library if has_rest else row_sums(x)
        known[N_GENES], known[MITO_SHARE] = _quality(source, dataset, where)
        if card.settings.model.size == schema.SIZE_FACTOR:
            known[schema.SIZE_FACTOR] = _size_factors(source.obs, dataset, reference.adata, where)
    _tell_unknown(known, source.obs, card)
    data = {"kind": dataset.kind, "source": names, "settings": dataset.model_dump_json()}
    obs = make_obs(known, source.obs)
    whole = AnnData(_over_all(x, place, measured), obs=obs, var=reference.adata.var.copy(), uns={schema.DATA: data})
    query = Query(whole, measured, has_rest, reference.typical, source.n_vars - int(measured.sum()), log.table())
    if query.coverage < settings.min_coverage:
        raise UserError(_too_few(query, source.var, card, where, settings))
    return _used(query, log, where)


def _dataset_of(settings: QuerySettings, reference: AnnData) -> Dataset:
    """Settings of the new samples as a data set: those of the model's own, but for what is other."""
    values = json.loads(str(reference.uns[schema.DATA]["settings"]))
    own = {
        "builtin": None,
        "paths": settings.paths,
        "max_samples": None,
        "drop": {},
        "label_table": None,
        "split": {},
        "hold_out": {},
    }
    own |= {"library_key": None} if values["kind"] == "counts" else {}
    return read_dataset({**values, **own, **settings.dataset, "kind": values["kind"]}, "query.dataset")


def _feature_names(var: pd.DataFrame, settings: QuerySettings, card: ModelCard, where: str) -> pd.Index:
    """Of the new samples; of images it is the place of each pixel."""
    if settings.feature_key is None:
        index: pd.Index[Any] = var.index.astype(str)
        return index
    if settings.feature_key not in var:
        raise UserError(f"{where}: feature_key: no var column {settings.feature_key!r}; allowed: {listed(var.columns)}")
    names: pd.Index[Any] = pd.Index(as_text(var[settings.feature_key]).fillna(""))
    twice = names[names.duplicated() & names.isin(card.features)]
    if len(twice):
        raise UserError(f"{where}: feature_key: {twice[0]!r} stands twice in {settings.feature_key!r}; allowed: once")
    return names


def _check_features(measured: np.ndarray, source: AnnData, card: ModelCard, where: str) -> None:
    if not measured.any():
        raise UserError(
            f"{where}: none of the model's {len(card.features)} features (such as {card.features[0]!r}) is among its "
            f"{source.n_vars} (such as {source.var_names[0]!r}){_better_column(source.var, card)}"
        )
    if card.kind == "images" and (not measured.all() or source.n_vars != len(measured)):
        raise UserError(
            f"{where}: pictures of {source.n_vars} values, the model's have {len(measured)}; allowed: the same size "
            "and channels (query.dataset: resize, crop, grey)"
        )


def _too_few(query: Query, var: pd.DataFrame, card: ModelCard, where: str, settings: QuerySettings) -> str:
    lacking = np.array(card.features, dtype=object)[~query.measured]
    heaviest = lacking[np.argsort(-query.typical[~query.measured], kind="stable")]
    return (
        f"{where}: {int(query.measured.sum())} of the model's {len(query.measured)} features are there, coverage "
        f"{query.coverage:.2f}; allowed: min_coverage {settings.min_coverage:g} or more (lacking: "
        f"{listed(heaviest, limit=3)}){_better_column(var, card)}"
    )


def _better_column(var: pd.DataFrame, card: ModelCard) -> str:
    """What to try where hardly a name is the model's: another column of var that has more of them."""
    features, best = set(card.features), ("", len(set(var.index.astype(str)) & set(card.features)))
    for name in map(str, var.columns):
        n = len(features & set(as_text(var[name]).dropna()))
        best = (name, n) if n > best[1] else best
    return f"; var column {best[0]!r} has {best[1]} of them: set feature_key" if best[0] else ""


def _standardised(x: np.ndarray, var: pd.DataFrame, settings: FeaturesSettings) -> np.ndarray:
    """Features on the scale of the model's training samples."""
    if not settings.standardize:
        return np.asarray(x, dtype=np.float32)
    return np.asarray((x - var[MEAN].to_numpy()) / var[STD].to_numpy(), dtype=np.float32)


def _known(obs: pd.DataFrame, settings: Dataset) -> pd.DataFrame:
    """What is known of the samples, under our names; missing where a column lacks."""
    known = pd.DataFrame(index=obs.index)
    label = as_text(obs[settings.label_key]) if settings.label_key in obs else pd.Series(None, obs.index, dtype=object)
    known[schema.LABEL] = settled_labels(label, settings)
    for name, key in known_keys(settings, from_files=settings.makes_batches).items():
        if key is not None and key in obs:
            known[name] = as_text(obs[key])
    known[schema.SPLIT] = "test"
    return known


def _quality(counts: AnnData, settings: CountsSettings, where: str) -> tuple[pd.Series, pd.Series]:
    """Detected genes and mitochondrial share of each cell, which a model may be told."""
    unlimited = settings.qc.model_copy(update={"max_mito_share": 1.0})
    quality = cell_quality([counts.X], counts.obs_names, counts.var_names, unlimited, where)
    return quality[N_GENES], quality[MITO_SHARE]


def _size_factors(obs: pd.DataFrame, settings: CountsSettings, reference: AnnData, where: str) -> np.ndarray:
    """Size factors of new cells on the scale of the model's, whose own ones `prepare` multiplied by one number."""
    key = str(settings.size_factor_key)  # of the data set, which could not be prepared without
    if key not in obs:
        raise UserError(
            f"{where}: size_factor_key: no obs column {key!r}, and the model's sizes are size factors; allowed: "
            f"{listed(obs.columns)} (query.dataset: size_factor_key)"
        )
    own_key = json.loads(str(reference.uns[schema.DATA]["settings"]))["size_factor_key"]
    return read_size_factors(obs[key], where) * size_factor_scale(reference.obs, own_key)


def _tell_unknown(known: pd.DataFrame, obs: pd.DataFrame, card: ModelCard) -> None:
    """Add the covariates of the model that the samples do not have: unknown for each."""
    for name in card.covariates.names:
        if name not in known and name not in obs:
            logger.info("no obs column %r, a covariate of the model: unknown for all new samples", name)
            known[name] = pd.Series(None, obs.index, dtype=object)


def _has_rest(
    in_model: np.ndarray,
    library: np.ndarray,
    settings: CountsSettings,
    n_extra: int,
    reference: Query,
    measured: np.ndarray,
) -> bool:
    """Whether genes outside the model were counted as they were in the reference.

    Not where there are none in the file, or where genes of the model have a share of the counts that is no usual one:
    of a panel of genes, say.
    """
    x, of_all = reference.adata.X, reference.adata.obs[schema.LIBRARY].to_numpy()
    if (row_sums(x) > of_all * (1 - TINY)).all():  # the model has all genes
        return True
    if n_extra == 0 and settings.library_key is None:
        return False
    low, high = np.quantile(row_sums(x[:, measured]) / of_all, USUAL)
    there = library > 0
    return bool(there.any() and low <= np.median(in_model[there] / library[there]) <= high)


def _over_all(x: Any, place: np.ndarray, measured: np.ndarray) -> Any:
    """Values over all features of the model, 0 where not measured."""
    n, columns = x.shape[0], np.flatnonzero(measured)
    if sparse.issparse(x):
        put = sparse.csr_matrix(
            (np.ones(len(columns), x.dtype), (np.arange(len(columns)), columns)), (len(columns), len(place))
        )
        whole = sparse.csr_matrix(x @ put)
        whole.sort_indices()
        return whole
    whole = np.zeros((n, len(place)), dtype=np.float32)
    whole[:, columns] = x
    return whole


def _used(query: Query, log: RemovalLog, where: str) -> Query:
    """Without cells that have no count in a measured gene, which nothing can be said of."""
    if query.adata.uns[schema.DATA]["kind"] != "counts":
        return query
    there = row_sums(query.adata.X) > 0
    log.add("empty", "cells", "no count in a gene of the model", int((~there).sum()), int(there.sum()))
    if not there.any():
        raise UserError(f"{where}: none of {len(there)} cells has a count in a gene of the model; allowed: at least 1")
    return replace(query, adata=query.adata[there].copy(), removed=log.table())
