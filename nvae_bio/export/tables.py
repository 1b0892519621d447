"""A run as tidy tables: typed columns, each with its meaning and unit in the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from anndata import AnnData

import nvae_bio
from nvae_bio import schema
from nvae_bio.errors import UserError
from nvae_bio.schema.reference import TABLES
from nvae_bio.schema.slot import EFFECT_UNIT

ABOUT = b"nvae-bio"  # metadata of the schema: version, table, fingerprint, …, as JSON
FORMAT = 1  # raised where a column changes its name or meaning
KNOWN_OBS = (schema.LABEL, schema.SPLIT, schema.BATCH, schema.DONOR, schema.CONDITION)
TEXT, LEVEL = pa.string(), pa.dictionary(pa.int32(), pa.string())
INT, REAL, FLAG = pa.int32(), pa.float32(), pa.bool_()
TYPES = {  # of columns that are no real numbers
    "sample": TEXT, "seed": INT, "factor": TEXT, "feature": TEXT, "kind": LEVEL, "class": LEVEL, "published": FLAG,
    "n_found": INT, "n_seeds": INT, "outcome": LEVEL, "reading": TEXT, "tag": TEXT, "certificate": TEXT,
    "kl_class": LEVEL, "n_used": INT, "used_by": TEXT, "private_to": TEXT, "members": TEXT, "top_up": TEXT,
    "top_down": TEXT, "resampled": LEVEL, schema.LABEL: LEVEL, schema.SPLIT: LEVEL, schema.BATCH: LEVEL,
    schema.DONOR: LEVEL, schema.CONDITION: LEVEL, schema.PREDICTED: LEVEL,
}  # fmt: skip
OF_CLASSES = {
    "kl": schema.KL_BY_CLASS, "kl_lower": schema.KL_BY_CLASS_LOWER, "kl_upper": schema.KL_BY_CLASS_UPPER,
    "loss": schema.LOSS_BY_CLASS, "loss_lower": schema.LOSS_BY_CLASS_LOWER, "loss_upper": schema.LOSS_BY_CLASS_UPPER,
    "q": schema.Q_BY_CLASS, "agreement": schema.AGREEMENT_BY_CLASS, "outcome": schema.OUTCOME_BY_CLASS,
}  # fmt: skip


def export_tables(
    embedded: Sequence[AnnData], report: AnnData | None = None, scores: AnnData | None = None
) -> dict[str, pa.Table]:
    """A run as tables, by their names.

    Args:
        embedded: of each seed, what `embed_data` returns, at least one.
        report: factor report of the run; without it there are embeddings alone.
        scores: samples with their consensus scores.

    Returns:
        `embeddings`: a row a sample and seed. With a report `factors`: a row a factor; `factor_classes`: a row a factor
        and class; `factor_effects`: a row a factor and feature. With scores `factor_scores`: a row a sample and factor
        that its class can have. Metadata of the schema say version and fingerprint of the data (JSON under `nvae-bio`);
        those of a field `meaning` and `unit`.

    Raises:
        UserError: nothing embedded, seeds of different data, or a report of other data.
    """
    if not embedded:
        raise UserError("export: no embedded data set; at least one is needed")
    about = _about([*embedded, *(one for one in (report, scores) if one is not None)])
    tables = {"embeddings": _embeddings(embedded, about)}
    if report is not None:
        about["effect_unit"] = str(report.uns[schema.MODEL].get("effect_unit", ""))
        tables |= {
            "factors": _factors(report, about),
            "factor_classes": _factor_classes(report, about),
            "factor_effects": _factor_effects(report, about),
        }
    if scores is not None and schema.FACTORS in scores.obsm:
        tables["factor_scores"] = _factor_scores(scores, about)
    return tables


def _about(parts: Sequence[AnnData]) -> dict[str, str]:
    """What the metadata say of the run; the parts must be of the same data."""
    of_model = [part.uns[schema.MODEL] for part in parts]
    prints = {str(one["fingerprint"]) for one in of_model}
    if len(prints) > 1:
        raise UserError(f"export: files of {len(prints)} data sets (their fingerprints differ); allowed: of one run")
    first = of_model[0]
    return {
        "version": nvae_bio.__version__, "format": str(FORMAT), "fingerprint": prints.pop(),
        "kind": str(first.get("kind", "")), "variant": str(first.get("variant", "")),
    }  # fmt: skip


def _table(values: dict[str, Any], name: str, about: dict[str, str]) -> pa.Table:
    """The values with their types; the schema tells what they are, in the words of the reference of outputs."""
    kind, arrays, fields = TABLES[f"export/{name}.parquet"], [], []
    for key, column in values.items():
        slot, of = kind.find("column", key), TYPES.get(key, REAL)
        assert slot is not None, key
        unit = about["effect_unit"] if slot.unit == EFFECT_UNIT else slot.unit
        arrays.append(_array(column, of))
        fields.append(pa.field(key, of, metadata={"meaning": slot.meaning} | ({"unit": unit} if unit else {})))
    metadata = {ABOUT: json.dumps(about | {"table": name})}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        text = pd.Series(np.asarray(values, dtype=object))
        text = text.where(text.notna() & (text.astype(str) != "" if pa.types.is_dictionary(kind) else True), None)
        array = pa.array([None if one is None else str(one) for one in text], pa.string())
        return array.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else array
    if pa.types.is_boolean(kind):
        return pa.array(np.asarray(values, dtype=bool))
    numbers = np.asarray(values, dtype=np.float64)
    return pa.array(numbers, from_pandas=True).cast(kind, safe=False)


def _embeddings(embedded: Sequence[AnnData], about: dict[str, str]) -> pa.Table:
    """A row a sample and seed."""
    first, of_model = embedded[0], (schema.PREDICTED, schema.CONFIDENCE, schema.ELBO)
    keys = ["sample", "seed", *(key for key in (*KNOWN_OBS, *of_model) if key in first.obs)]
    for name, key in (("shared", schema.SHARED), ("specific", schema.SPECIFIC)):
        keys += [f"{name}_{i + 1}" for i in range(first.obsm[key].shape[1] if key in first.obsm else 0)]
    keys += ["umap_1", "umap_2"] if all(schema.UMAP in one.obsm for one in embedded) else []
    parts = [{key: _of_sample(one, key) for key in keys} for one in embedded]
    if any(len(part["sample"]) != len(parts[0]["sample"]) for part in parts):
        raise UserError("export: seeds have different numbers of samples; allowed: of one run")
    return _table({key: np.concatenate([part[key] for part in parts]) for key in keys}, "embeddings", about)


def _of_sample(adata: AnnData, key: str) -> np.ndarray:
    name, _, number = key.rpartition("_")
    tables = {"shared": schema.SHARED, "specific": schema.SPECIFIC, "umap": schema.UMAP}
    if name in tables:
        values = np.asarray(adata.obsm[tables[name]])
        if int(number) > values.shape[1]:
            raise UserError("export: seeds have different numbers of dims; allowed: of one run")
        column: np.ndarray = values[:, int(number) - 1]
        return column
    if key == "sample":
        return np.array(list(adata.obs_names), dtype=object)
    if key == "seed":
        return np.full(adata.n_obs, int(adata.uns[schema.MODEL]["seed"]))
    own: np.ndarray = adata.obs[key].to_numpy(dtype=object if adata.obs[key].dtype.kind not in "iuf" else None)
    return own


def _factors(report: AnnData, about: dict[str, str]) -> pa.Table:
    """A row a factor; columns that are not ours are left out."""
    known = [key for key in report.obs if TABLES["export/factors.parquet"].find("column", str(key)) is not None]
    return _table({"factor": report.obs_names} | {str(key): report.obs[key] for key in known}, "factors", about)


def _factor_classes(report: AnnData, about: dict[str, str]) -> pa.Table:
    """A row a factor and class."""
    classes = [str(name) for name in report.uns[schema.MODEL]["classes"]]
    values: dict[str, Any] = {
        "factor": np.repeat(report.obs_names.to_numpy(dtype=object), len(classes)),
        "class": np.tile(np.array(classes, dtype=object), report.n_obs),
    }
    there = {key: place for key, place in OF_CLASSES.items() if place in report.obsm}
    values |= {key: np.asarray(report.obsm[place]).reshape(-1) for key, place in there.items()}
    return _table(values, "factor_classes", about)


def _factor_effects(report: AnnData, about: dict[str, str]) -> pa.Table:
    """A row a factor and feature."""
    values = {
        "factor": np.repeat(report.obs_names.to_numpy(dtype=object), report.n_vars),
        "feature": np.tile(report.var_names.to_numpy(dtype=object), report.n_obs),
        "effect": np.asarray(report.X).reshape(-1),
        "lower": np.asarray(report.layers[schema.EFFECT_LOWER]).reshape(-1),
        "upper": np.asarray(report.layers[schema.EFFECT_UPPER]).reshape(-1),
    }
    return _table(values, "factor_effects", about)


def _factor_scores(scores: AnnData, about: dict[str, str]) -> pa.Table:
    """A row a sample and factor that its class can have."""
    found, names = np.asarray(scores.obsm[schema.FACTORS]), _factor_names(scores)
    spread = (
        np.asarray(scores.obsm[schema.FACTORS_STD])
        if schema.FACTORS_STD in scores.obsm
        else np.full_like(found, np.nan)
    )
    place, factor = np.nonzero(np.isfinite(found))
    values = {
        "sample": scores.obs_names.to_numpy(dtype=object)[place], "factor": names[factor],
        "score": found[place, factor], "std": spread[place, factor],
    }  # fmt: skip
    return _table(values, "factor_scores", about)


def _factor_names(scores: AnnData) -> np.ndarray:
    return np.array(list(_text(scores.uns[schema.MODEL][schema.FACTOR_NAMES])), dtype=object)


def _text(names: Any) -> Iterator[str]:
    yield from (str(name) for name in np.ravel(names))
