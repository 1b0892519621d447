"""The step: read, check, filter, split, and say what was done."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import CountsSettings, Dataset, FeaturesSettings
from nvae_bio.data.atomic import scratch_folder
from nvae_bio.data.files import new_h5ad, write_anndata, write_around
from nvae_bio.data.names import as_text
from nvae_bio.data.pixels import image_shape
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.source import open_source, read_source, source_names
from nvae_bio.data.stream import CountRows, CountSource, stored_rows
from nvae_bio.errors import UserError, listed
from nvae_bio.guard import reading
from nvae_bio.prepare.classes import read_labels, sample_part, settle_rare
from nvae_bio.prepare.covariates import covariate_table, read_covariates
from nvae_bio.prepare.genes import KEPT, MITO_SHARE, N_GENES, cell_quality, choose_genes, good_cells
from nvae_bio.prepare.named import check_column, drop_samples, held_out_samples
from nvae_bio.prepare.packing import BLOCK_ROWS, write_counts, write_store
from nvae_bio.prepare.record import fingerprint, make_obs, writable
from nvae_bio.prepare.scaling import scale_features, scale_size_factors
from nvae_bio.prepare.split import TRAIN, random_keys, split_samples

logger = logging.getLogger(__name__)

N_QC_CELLS = 20_000  # cells of the QC table, at most


def prepare(settings: Dataset, output: Path, store: Path | None = None) -> None:
    """Read a data set, prepare it and write it as .h5ad, whole or not at all.

    Args:
        settings: the data set, with `builtin` or `paths`.
        output: the prepared file.
        store: a folder to pack the counts into besides; they are then read some cells at a time, and never held whole.

    Raises:
        UserError: as `prepare_data`; or more memory is needed than is free.
    """
    with reading(listed(source_names(settings, in_memory=False), limit=3)):
        if store is None:
            write_anndata(prepare_data(settings), Path(output))
        else:
            prepare_store(settings, Path(output), Path(store))


def prepare_data(settings: Dataset, adata: AnnData | None = None) -> AnnData:
    """A data set in the form that every other step reads.

    Args:
        settings: where samples come from and how they are prepared.
        adata: samples × features to use instead of `builtin` or `paths`; never changed.

    Returns:
        Samples × model features. X: counts CSR float32, whole numbers; images float32 in [0, 1], one column a pixel
        with var `channel`, `row`, `column`; features float32, standardised on training samples if asked (var `mean`,
        `std`). obs: `label` (missing where unlabeled), `split`; `library` (counts, before any choice of genes),
        `n_genes` and `mito_share` for counts; `size_factor`, `batch`, `donor`, `condition` where their keys are named;
        `fold` where split by donor; covariates; and all columns of the source, renamed `source_<name>` where they
        collide with these. uns["nvae_data"]: kind, source, fingerprint, settings (JSON), classes, removed (a table:
        step, what, reason, n_removed, n_left); covariates where there are any (a table: column, kind); qc for counts
        (a table of up to 20,000 cells before QC); image_shape for images.

    Raises:
        UserError: one line naming the file, the key, the value and what is allowed.
    """
    log = RemovalLog()
    source = read_source(settings, log, adata)
    names = source_names(settings, adata is not None)
    if isinstance(settings, CountsSettings):
        counts = CountSource.of(source)
        samples = choose_samples(counts.obs, settings, log, names, counts, from_files=adata is None)
        genes = genes_of(counts, samples, settings, log)
        chosen = AnnData(source.X[samples.rows][:, genes], obs=samples.obs, var=counts.var[genes])
        chosen.X.sort_indices()
    else:
        samples = choose_samples(source.obs, settings, log, names, from_files=adata is None)
        chosen = AnnData(source.X[samples.rows], obs=samples.obs, var=source.var)
        if isinstance(settings, FeaturesSettings):
            chosen = scale_features(chosen, samples.train, settings, log, samples.where)
        else:
            samples.record["image_shape"] = list(image_shape(chosen.var))
    prepared = AnnData(chosen.X, obs=chosen.obs, var=writable(chosen.var))
    prepared.uns[schema.DATA] = samples.full_record(fingerprint(prepared, samples.covariate_names), settings, log)
    return prepared


def prepare_store(settings: Dataset, output: Path, store: Path, block_rows: int | None = None) -> None:
    """As `prepare`, with counts that are read some thousand cells at a time: the same file, and a packed store of it.

    Args:
        settings: of a data set of counts.
        output: the prepared file.
        store: folder of the store.
        block_rows: cells of a block of the store; None for the usual number.

    Raises:
        UserError: as `prepare_data`, or the data are no counts.
    """
    if not isinstance(settings, CountsSettings):
        raise UserError(f"kind: {settings.kind!r} cannot be packed into a store; allowed: counts")
    log, names = RemovalLog(), source_names(settings, in_memory=False)
    with scratch_folder(store) as scratch:
        counts = open_source(settings, log, scratch)
        samples = choose_samples(counts.obs, settings, log, names, counts, from_files=True)
        genes = genes_of(counts, samples, settings, log)
        with new_h5ad(output) as (file, disk):
            written = write_counts(CountRows(counts.cells.read, samples.rows), genes, file, disk)
            prepared = AnnData(obs=samples.obs, var=writable(counts.var[genes]))
            of_content = written.fingerprint.of(prepared.obs, prepared.var_names, samples.covariate_names)
            prepared.uns[schema.DATA] = samples.full_record(of_content, settings, log)
            write_around(prepared, file)
    rows = CountRows(lambda: stored_rows(output, "X"))
    write_store(store, rows, prepared, written.survey, settings.split.seed, block_rows or BLOCK_ROWS)


@dataclass(frozen=True)
class ChosenSamples:
    """The samples of a data set that are kept, before anything is said of its features.

    Attributes:
        where: the source, for messages.
        rows: which samples of the source, (n,) booleans.
        obs: of the prepared file.
        train: which of the kept samples train, (kept,) booleans.
        covariate_names: columns of obs that a model may be told.
        record: `uns["nvae_data"]` so far.
    """

    where: str
    rows: np.ndarray
    obs: pd.DataFrame
    train: np.ndarray
    covariate_names: list[str]
    record: dict[str, Any]

    def full_record(self, of_content: str, settings: Dataset, log: RemovalLog) -> dict[str, Any]:
        """`uns["nvae_data"]`, once the fingerprint is known and the log is whole."""
        return self.record | {
            "fingerprint": of_content,
            "settings": settings.model_dump_json(),
            "classes": list(self.obs[schema.LABEL].cat.categories),
            "removed": log.table(),
        }


def choose_samples(
    own_obs: pd.DataFrame,
    settings: Dataset,
    log: RemovalLog,
    names: list[str],
    counts: CountSource | None = None,
    *,
    from_files: bool,
) -> ChosenSamples:
    """Which samples are kept, what is known of them, and how they are split.

    Args:
        own_obs: of the source.
        settings: of the data set.
        log: takes a row a filter.
        names: where the samples come from.
        counts: the cells, gone through once, if the data are counts.
        from_files: whether the source is read from files: their names can be batches.

    Raises:
        UserError: as `prepare_data`.
    """
    where = listed(names, limit=3)
    known = _known_columns(own_obs, settings, where, from_files=from_files and settings.makes_batches)
    record: dict[str, Any] = {"kind": settings.kind, "source": names}
    rows = np.ones(len(known), dtype=bool)
    if counts is not None:
        assert isinstance(settings, CountsSettings)
        rows, record["qc"] = _quality_control(counts, known, settings, log, where)
    rows = drop_samples(own_obs, rows, settings, log, where)
    known = known[rows].copy()
    known[schema.LABEL], keep = settle_rare(known[schema.LABEL], settings, log, where)
    rows, known = _narrow(rows, keep), known[keep]
    keys = random_keys(known.index, np.random.default_rng([settings.split.seed, 1]))
    keep = sample_part(known[schema.LABEL], settings, keys, log, where)
    rows, known = _narrow(rows, keep), known[keep].copy()
    return _split(known, own_obs[rows], rows, settings, record, where)


def _narrow(rows: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Of the samples that were kept so far, (n,) booleans, those that still are."""
    left = rows.copy()
    left[rows] = keep
    return left


def genes_of(counts: CountSource, samples: ChosenSamples, settings: CountsSettings, log: RemovalLog) -> np.ndarray:
    """The genes of the model, chosen on the cells that train, (genes,) booleans."""
    cells = CountRows(counts.cells.read, _narrow(samples.rows, samples.train))
    batch = as_text(samples.obs[schema.BATCH])[samples.train] if schema.BATCH in samples.obs else None
    return choose_genes(cells, counts.var.index, batch, settings, log, samples.where)


def _known_columns(obs: pd.DataFrame, settings: Dataset, where: str, *, from_files: bool) -> pd.DataFrame:
    """The columns that the settings name, under our names: label (text, None where unlabeled), batch, donor, …

    `from_files`: obs has a column `batch` made from the names of files, which is the batch where no other key is named.
    """
    known = pd.DataFrame({schema.LABEL: read_labels(obs, settings, where)}, index=obs.index)
    for name, key in known_keys(settings, from_files=from_files).items():
        if key is None:
            continue
        setting = f"{name}_key"
        check_column(obs, key, setting, where)
        known[name] = as_text(obs[key])
    if settings.split.key is not None:
        check_column(obs, settings.split.key, "split.key", where)
    if isinstance(settings, CountsSettings) and settings.size_factor_key is not None:
        check_column(obs, settings.size_factor_key, "size_factor_key", where)
    return known


def known_keys(settings: Dataset, *, from_files: bool) -> dict[str, str | None]:
    """Our name of what is known of a sample → the column of the source that has it; None where none is named.

    `from_files`: obs has a column `batch` made from the names of files, which is the batch where no other key is named.
    """
    batch_key = schema.BATCH if settings.batch_key is None and from_files else settings.batch_key
    return {schema.BATCH: batch_key, schema.DONOR: settings.donor_key, schema.CONDITION: settings.condition_key}


def _quality_control(
    counts: CountSource, known: pd.DataFrame, settings: CountsSettings, log: RemovalLog, where: str
) -> tuple[np.ndarray, pd.DataFrame]:
    """Add `library`, `n_genes` and `mito_share` to `known`; which cells pass, and the QC table of all."""
    quality = cell_quality(counts.cells, known.index, counts.var.index, settings.qc, where)
    known.insert(1, schema.LIBRARY, counts.library())
    keep = good_cells(quality, settings.qc, log, where)
    table = quality.assign(**{KEPT: keep})
    if len(table) > N_QC_CELLS:
        keys = random_keys(table.index, np.random.default_rng([settings.split.seed, 2]))
        table = table[np.isin(np.arange(len(table)), np.argsort(keys)[:N_QC_CELLS])]
    known[N_GENES] = quality[N_GENES]
    if quality[MITO_SHARE].notna().any():
        known[MITO_SHARE] = quality[MITO_SHARE]
    return keep, table


def _warn_of_gaps(known: pd.DataFrame, where: str) -> None:
    """Say what a factor report will not be able to do with these samples."""
    label, held_out = known[schema.LABEL], known[schema.SPLIT] != TRAIN
    lacking = sorted(set(label.dropna()) - set(label[held_out].dropna()))
    if lacking:
        logger.warning(
            "%s: no held-out sample of class %s: its factors cannot be judged, and `nvae-bio factors` will refuse",
            where, ", ".join(map(repr, lacking)),
        )  # fmt: skip
    if schema.DONOR in known and known[schema.DONOR].isna().any():
        logger.warning(
            "%s: %d of %d samples have no donor: intervals over donors cannot be had",
            where, known[schema.DONOR].isna().sum(), len(known),
        )  # fmt: skip


def _split(
    known: pd.DataFrame,
    own_obs: pd.DataFrame,
    rows: np.ndarray,
    settings: Dataset,
    record: dict[str, Any],
    where: str,
) -> ChosenSamples:
    """Split the kept samples, and put their obs together."""
    own = None if settings.split.key is None else own_obs[settings.split.key]
    donor = known.get(schema.DONOR)
    held_out = held_out_samples(own_obs, settings.hold_out, where)
    known[schema.SPLIT], fold = split_samples(known[schema.LABEL], donor, own, settings.split, where, held_out)
    if fold is not None:
        known[schema.FOLD] = fold
    _warn_of_gaps(known, where)
    train = (known[schema.SPLIT] == TRAIN).to_numpy()
    if isinstance(settings, CountsSettings) and settings.size_factor_key is not None:
        given = own_obs[settings.size_factor_key]
        known[schema.SIZE_FACTOR] = scale_size_factors(given, known[schema.LIBRARY], train, where)
    covariates = read_covariates(own_obs, known, train, settings, where)
    table = covariate_table(covariates)
    if len(table):
        record[schema.COVARIATES] = table
    obs = make_obs(known.assign(**{str(name): covariates[name] for name in covariates}), own_obs)
    return ChosenSamples(where, rows, obs, train, list(table["column"]), record)
