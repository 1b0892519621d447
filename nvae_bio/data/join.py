"""Several files made into one data set, and a separate table of labels joined to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import DatasetSettings
from nvae_bio.data.removed import RemovalLog, What
from nvae_bio.data.tables import check_once, read_frame, text_column
from nvae_bio.errors import UserError, listed


def free_name(name: str, taken: Sequence[str] | pd.Index) -> str:
    """`source_<name>`, or with more `source_` before it where that is taken.

    >>> free_name("batch", ["source_batch"])
    'source_source_batch'
    """
    name = f"source_{name}"
    return free_name(name, taken) if name in taken else name


def join_parts(
    parts: list[AnnData],
    names: list[str],
    settings: DatasetSettings,
    log: RemovalLog,
    what: What,
) -> AnnData:
    """Samples of all parts over the features that every part has.

    Args:
        parts: data sets with unique sample and feature names each, at least one.
        names: one a part; become `obs["batch"]` where the settings make batches of files (a column of that name is kept
            as `source_batch`).
        settings: `make_unique` appends `-<name>` to all sample names where some collide.
        log: takes one row a part: the features that were lost.
        what: what the features are called in the log.

    Returns:
        (samples of all parts, common features in the first part's order).

    Raises:
        UserError: no common feature, or a sample name in two parts with `make_unique` off.
    """
    if len(parts) == 1 and not settings.makes_batches:
        return parts[0]
    _check_collisions(parts, names, settings.make_unique)
    common = parts[0].var_names
    for part in parts[1:]:
        common = common[common.isin(part.var_names)]
    if common.empty:
        raise UserError(
            f"paths: the files {listed(names)} have no {what} in common; allowed: files with the same names"
        )
    for part, name in zip(parts, names, strict=True):
        log.add("join", what, f"not in every file ({name})", part.n_vars - len(common), len(common))
        if settings.makes_batches:
            if schema.BATCH in part.obs:
                part.obs = part.obs.rename(columns={schema.BATCH: free_name(schema.BATCH, part.obs.columns)})
            part.obs[schema.BATCH] = name
    return anndata.concat([part[:, common] for part in parts], join="outer", merge="same")


def _check_collisions(parts: list[AnnData], names: list[str], make_unique: bool) -> None:
    everything = parts[0].obs_names.append([part.obs_names for part in parts[1:]])
    twice = everything[everything.duplicated()]
    if twice.empty:
        return
    if not make_unique:
        raise UserError(
            f"paths: barcode {twice[0]!r} is in more than one of the files {listed(names)} ({len(twice)} such "
            "barcodes); make_unique: true appends the batch to every barcode"
        )
    for part, name in zip(parts, names, strict=True):
        part.obs_names = part.obs_names + f"-{name}"


def join_label_table(adata: AnnData, settings: DatasetSettings, log: RemovalLog) -> None:
    """Add the columns of `settings.label_table` to `adata.obs` (in place), matched by sample name.

    A column that obs already has is kept as `source_<name>`; samples that the table does not name get missing values.

    Raises:
        UserError: unreadable table, no such key column, a repeated barcode, or no barcode in common.
    """
    path = Path(str(settings.label_table))
    table = read_frame(path, text_column(path, settings.label_table_key))
    key = settings.label_table_key if settings.label_table_key is not None else str(table.columns[0])
    check_once(table.columns, str(path))
    if key not in table:
        raise UserError(f"{path}: label_table_key: no column {key!r}; allowed: {listed(table.columns)}")
    table = table.set_index(table.pop(key).astype(str))
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: barcode {str(repeated[0])!r} stands more than once in column {key!r}; allowed: once")
    found = table.index.isin(adata.obs_names)
    if not found.any():
        raise UserError(
            f"{path}: no value of column {key!r} is a barcode of the data (here {str(table.index[0])!r}, "
            f"there {adata.obs_names[0]!r}); set label_table_key to the column with the barcodes"
        )
    log.add("label_table", "samples", "row of the label table without a sample", int((~found).sum()), int(found.sum()))
    table = table[found]
    columns = adata.obs.columns
    kept = adata.obs.rename(columns={name: free_name(str(name), columns) for name in table if name in columns})
    adata.obs = kept.join(table, how="left")
