"""The step: read, check, filter, split, and say what was done."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import CountsSettings, Dataset, FeaturesSettings
from nvae_bio.data.counts import LIBRARY_COLUMN
from nvae_bio.data.files import write_anndata
from nvae_bio.data.names import as_text, listed
from nvae_bio.data.pixels import image_shape
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.source import read_source, source_names
from nvae_bio.errors import UserError
from nvae_bio.guard import reading
from nvae_bio.prepare.classes import read_labels, sample_part, settle_rare
from nvae_bio.prepare.covariates import covariate_table, read_covariates
from nvae_bio.prepare.genes import KEPT, MITO_SHARE, N_GENES, cell_quality, choose_genes, good_cells
from nvae_bio.prepare.record import fingerprint, make_obs, writable
from nvae_bio.prepare.scaling import scale_features, scale_size_factors
from nvae_bio.prepare.split import TRAIN, held_out_samples, random_keys, split_samples

logger = logging.getLogger(__name__)

N_QC_CELLS = 20_000  # cells of the QC table, at most


def prepare(settings: Dataset, output: Path) -> None:
    """Read a data set, prepare it and write it as .h5ad, whole or not at all.

    Args:
        settings: the data set, with `builtin` or `paths`.
        output: the prepared file.

    Raises:
        UserError: as `prepare_data`; or more memory is needed than is free.
    """
    with reading(listed(source_names(settings, in_memory=False), limit=3)):
        write_anndata(prepare_data(settings), Path(output))


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
    names = source_names(settings, adata is not None)
    where = listed(names, limit=3)
    source = read_source(settings, log, adata)
    known = _known_columns(source.obs, settings, where, from_files=adata is None and settings.makes_batches)
    record: dict[str, Any] = {"kind": settings.kind, "source": names}
    if isinstance(settings, CountsSettings):
        source, known, record["qc"] = _quality_control(source, known, settings, log, where)
    known[schema.LABEL], keep = settle_rare(known[schema.LABEL], settings, log, where)
    source, known = source[keep], known[keep]
    keys = random_keys(source.obs_names, np.random.default_rng([settings.split.seed, 1]))
    keep = sample_part(known[schema.LABEL], settings, keys, log, where)
    source, known = source[keep].copy(), known[keep].copy()
    prepared, covariates = _split_and_select(source, known, settings, log, where)
    if settings.kind == "images":
        record["image_shape"] = list(image_shape(prepared.var))
    if len(covariates):
        record[schema.COVARIATES] = covariates
    record |= {
        "fingerprint": fingerprint(prepared, list(covariates["column"])),
        "settings": settings.model_dump_json(),
        "classes": list(prepared.obs[schema.LABEL].cat.categories),
        "removed": log.table(),
    }
    prepared.uns[schema.DATA] = record
    return prepared


def _known_columns(obs: pd.DataFrame, settings: Dataset, where: str, *, from_files: bool) -> pd.DataFrame:
    """The columns that the settings name, under our names: label (text, None where unlabeled), library, batch, …

    `from_files`: obs has a column `batch` made from the names of files, which is the batch where no other key is named.
    """
    library, obs = obs.get(LIBRARY_COLUMN), obs.drop(columns=LIBRARY_COLUMN, errors="ignore")
    known = pd.DataFrame({schema.LABEL: read_labels(obs, settings, where)}, index=obs.index)
    if library is not None:
        known[schema.LIBRARY] = library
    batch_key = schema.BATCH if settings.batch_key is None and from_files else settings.batch_key
    keys = {"batch_key": batch_key, "donor_key": settings.donor_key, "condition_key": settings.condition_key}
    for (setting, key), name in zip(keys.items(), (schema.BATCH, schema.DONOR, schema.CONDITION), strict=True):
        if key is None:
            continue
        _check_column(obs, key, setting, where)
        known[name] = as_text(obs[key])
    if settings.split.key is not None:
        _check_column(obs, settings.split.key, "split.key", where)
    if isinstance(settings, CountsSettings) and settings.size_factor_key is not None:
        _check_column(obs, settings.size_factor_key, "size_factor_key", where)
    return known


def _check_column(obs: pd.DataFrame, key: str, setting: str, where: str) -> None:
    if key not in obs:
        raise UserError(f"{where}: {setting}: no column {key!r}; allowed: {listed(obs.columns) or 'none'}")


def _quality_control(
    source: AnnData, known: pd.DataFrame, settings: CountsSettings, log: RemovalLog, where: str
) -> tuple[AnnData, pd.DataFrame, pd.DataFrame]:
    """Cells that pass, their columns with `n_genes` and `mito_share`, and the QC table of cells before."""
    quality = cell_quality(source, settings.qc, where)
    keep = good_cells(quality, settings.qc, log, where)
    table = quality.assign(**{KEPT: keep})
    if len(table) > N_QC_CELLS:
        keys = random_keys(table.index, np.random.default_rng([settings.split.seed, 2]))
        table = table[np.isin(np.arange(len(table)), np.argsort(keys)[:N_QC_CELLS])]
    known[N_GENES] = quality[N_GENES]
    if quality[MITO_SHARE].notna().any():
        known[MITO_SHARE] = quality[MITO_SHARE]
    return source[keep], known[keep].copy(), table


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


def _split_and_select(
    source: AnnData, known: pd.DataFrame, settings: Dataset, log: RemovalLog, where: str
) -> tuple[AnnData, pd.DataFrame]:
    """Split the samples, choose or scale features on the training ones, and put the prepared AnnData together.

    Returns:
        The samples, and the table of their covariates.
    """
    own = None if settings.split.key is None else source.obs[settings.split.key]
    donor = known.get(schema.DONOR)
    own_obs = source.obs.drop(columns=LIBRARY_COLUMN, errors="ignore")
    held_out = held_out_samples(own_obs, settings.hold_out, where)
    known[schema.SPLIT], fold = split_samples(known[schema.LABEL], donor, own, settings.split, where, held_out)
    if fold is not None:
        known[schema.FOLD] = fold
    _warn_of_gaps(known, where)
    train = (known[schema.SPLIT] == TRAIN).to_numpy()
    if isinstance(settings, CountsSettings) and settings.size_factor_key is not None:
        given = source.obs[settings.size_factor_key]
        known[schema.SIZE_FACTOR] = scale_size_factors(given, known[schema.LIBRARY], train, where)
    covariates = read_covariates(own_obs, known, train, settings, where)
    obs = make_obs(known.assign(**{str(name): covariates[name] for name in covariates}), own_obs)
    chosen = AnnData(source.X, obs=obs, var=source.var)
    if isinstance(settings, CountsSettings):
        chosen = choose_genes(chosen, train, settings, log, where)
    elif isinstance(settings, FeaturesSettings):
        chosen = scale_features(chosen, train, settings, log, where)
    return AnnData(chosen.X, obs=chosen.obs, var=writable(chosen.var)), covariate_table(covariates)
