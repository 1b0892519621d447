"""A run as tidy tables: typed columns, each with its meaning and unit in the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from anndata import AnnData

import nvae_bio
from nvae_bio import schema
from nvae_bio.errors import UserError

ABOUT = b"nvae-bio"  # metadata of the schema: version, table, fingerprint, …, as JSON
FORMAT = 1  # raised where a column changes its name or meaning
KNOWN_OBS = (schema.LABEL, schema.SPLIT, schema.BATCH, schema.DONOR, schema.CONDITION)


@dataclass(frozen=True)
class Column:
    """What a column of a table is.

    Attributes:
        kind: its type.
        meaning: in words.
        unit: of its numbers; empty for none.
    """

    kind: pa.DataType
    meaning: str
    unit: str = ""


TEXT, LEVEL = pa.string(), pa.dictionary(pa.int32(), pa.string())
INT, REAL, FLAG = pa.int32(), pa.float32(), pa.bool_()
NAMES = {
    "sample": Column(TEXT, "name of the sample, as in obs of the prepared file"),
    "seed": Column(INT, "seed of the model"),
    schema.LABEL: Column(LEVEL, "class; missing where unlabeled"),
    schema.SPLIT: Column(LEVEL, "train, validation or test"),
    schema.BATCH: Column(LEVEL, "batch, which the decoder is told"),
    schema.DONOR: Column(LEVEL, "donor"),
    schema.CONDITION: Column(LEVEL, "condition"),
    schema.PREDICTED: Column(LEVEL, "likeliest class by q(y|x)"),
    schema.CONFIDENCE: Column(REAL, "its probability, calibrated where the model is"),
    schema.ELBO: Column(REAL, "bound on log p(x|y)", "nats"),
    "umap_1": Column(REAL, "first axis of the layout of z_s; missing where not laid out"),
    "umap_2": Column(REAL, "second axis"),
}
FACTORS = {
    "factor": Column(TEXT, "name of the factor"),
    "kind": Column(LEVEL, "shared, or private to a class"),
    "class": Column(LEVEL, "its class; missing for a shared factor"),
    "published": Column(FLAG, "whether as many seeds found it as are asked for"),
    "n_found": Column(INT, "seeds that found it"),
    "n_seeds": Column(INT, "of so many"),
    "agreement": Column(REAL, "mean |cos| of its members' effects"),
    "outcome": Column(LEVEL, "active, inactive or under-powered"),
    "reading": Column(TEXT, "what it is, in words"),
    "tag": Column(TEXT, "what it goes along with; empty for nothing"),
    "certificate": Column(
        TEXT, "of a shared factor: whether its effect is one and the same in the classes that use it"
    ),
    "kl": Column(REAL, "KL in its own class, of a shared factor in the class that uses it most", "nats"),
    "kl_lower": Column(REAL, "lower end of its interval", "nats"),
    "kl_upper": Column(REAL, "upper end of its interval", "nats"),
    "kl_class": Column(LEVEL, "the class of these"),
    "loss": Column(REAL, "log-likelihood of held-out samples lost without it", "nats a sample"),
    "loss_lower": Column(REAL, "lower end of its interval", "nats a sample"),
    "loss_upper": Column(REAL, "upper end of its interval", "nats a sample"),
    "gain": Column(REAL, "what it adds to the bound of held-out samples", "nats a sample"),
    "p": Column(REAL, "p-value, of a private factor"),
    "q": Column(REAL, "q-value (false discovery rate)"),
    "n_used": Column(INT, "classes that use a shared factor"),
    "used_by": Column(TEXT, "these classes"),
    "private_to": Column(TEXT, "classes that have it for themselves"),
    "effect_agreement": Column(REAL, "least cos of its effects between the classes that agree"),
    "members": Column(TEXT, "seed, latent, dim and sign of what it is made of"),
    "top_up": Column(TEXT, "features that rise most"),
    "top_down": Column(TEXT, "features that fall most"),
    "resampled": Column(LEVEL, "what the bootstrap resampled"),
}
OF_CLASSES = {
    "kl": (schema.KL_BY_CLASS, REAL, "KL in the class", "nats"),
    "kl_lower": (schema.KL_BY_CLASS_LOWER, REAL, "lower end of its interval", "nats"),
    "kl_upper": (schema.KL_BY_CLASS_UPPER, REAL, "upper end of its interval", "nats"),
    "loss": (schema.LOSS_BY_CLASS, REAL, "log-likelihood of held-out samples lost without it", "nats a sample"),
    "loss_lower": (schema.LOSS_BY_CLASS_LOWER, REAL, "lower end of its interval", "nats a sample"),
    "loss_upper": (schema.LOSS_BY_CLASS_UPPER, REAL, "upper end of its interval", "nats a sample"),
    "q": (schema.Q_BY_CLASS, REAL, "q-value in the class; missing where not asked", ""),
    "agreement": (schema.AGREEMENT_BY_CLASS, REAL, "cos of its effect with that in the other classes", ""),
    "outcome": (schema.OUTCOME_BY_CLASS, LEVEL, "active, inactive or under-powered; missing where not asked", ""),
}
Columns = dict[str, Column]


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


def _table(values: dict[str, Any], columns: Columns, name: str, about: dict[str, str]) -> pa.Table:
    """The values with their types; the schema tells what they are."""
    arrays, fields = [], []
    for key, column in columns.items():
        arrays.append(_array(values[key], column.kind))
        told = {"meaning": column.meaning} | ({"unit": column.unit} if column.unit else {})
        fields.append(pa.field(key, column.kind, metadata=told))
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
    columns = {key: NAMES[key] for key in ("sample", "seed")}
    columns |= {key: NAMES[key] for key in KNOWN_OBS if key in embedded[0].obs}
    columns |= {key: NAMES[key] for key in (schema.PREDICTED, schema.CONFIDENCE, schema.ELBO) if key in embedded[0].obs}
    n_shared, n_private = (
        embedded[0].obsm[key].shape[1] if key in embedded[0].obsm else 0 for key in (schema.SHARED, schema.SPECIFIC)
    )
    columns |= {
        f"shared_{i + 1}": Column(REAL, f"posterior mean of dim {i + 1} of z_s", "prior sd") for i in range(n_shared)
    }
    columns |= {
        f"specific_{i + 1}": Column(
            REAL, f"posterior mean of dim {i + 1} of the block of the sample's class", "prior sd"
        )
        for i in range(n_private)
    }
    columns |= {key: NAMES[key] for key in ("umap_1", "umap_2") if all(schema.UMAP in one.obsm for one in embedded)}
    parts = [{key: _of_sample(one, key) for key in columns} for one in embedded]
    if any(len(part["sample"]) != len(parts[0]["sample"]) for part in parts):
        raise UserError("export: seeds have different numbers of samples; allowed: of one run")
    return _table({key: np.concatenate([part[key] for part in parts]) for key in columns}, columns, "embeddings", about)


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
    """A row a factor."""
    obs = report.obs
    columns = {key: column for key, column in FACTORS.items() if key == "factor" or key in obs}
    values = {key: report.obs_names if key == "factor" else obs[key] for key in columns}
    return _table(values, columns, "factors", about)


def _factor_classes(report: AnnData, about: dict[str, str]) -> pa.Table:
    """A row a factor and class."""
    classes = [str(name) for name in report.uns[schema.MODEL]["classes"]]
    columns = {"factor": FACTORS["factor"], "class": Column(LEVEL, "the class")}
    values: dict[str, Any] = {
        "factor": np.repeat(report.obs_names.to_numpy(dtype=object), len(classes)),
        "class": np.tile(np.array(classes, dtype=object), report.n_obs),
    }
    for key, (place, kind, meaning, unit) in OF_CLASSES.items():
        if place in report.obsm:
            columns[key] = Column(kind, meaning, unit)
            values[key] = np.asarray(report.obsm[place]).reshape(-1)
    return _table(values, columns, "factor_classes", about)


def _factor_effects(report: AnnData, about: dict[str, str]) -> pa.Table:
    """A row a factor and feature."""
    unit = about["effect_unit"]
    columns = {
        "factor": FACTORS["factor"], "feature": Column(TEXT, "gene, pixel or feature"),
        "effect": Column(REAL, "change of the decoded mean as the factor moves from −2 to +2 sd", unit),
        "lower": Column(REAL, "lower end of its interval over seeds and samples", unit),
        "upper": Column(REAL, "upper end", unit),
    }  # fmt: skip
    values = {
        "factor": np.repeat(report.obs_names.to_numpy(dtype=object), report.n_vars),
        "feature": np.tile(report.var_names.to_numpy(dtype=object), report.n_obs),
        "effect": np.asarray(report.X).reshape(-1),
        "lower": np.asarray(report.layers[schema.EFFECT_LOWER]).reshape(-1),
        "upper": np.asarray(report.layers[schema.EFFECT_UPPER]).reshape(-1),
    }
    return _table(values, columns, "factor_effects", about)


def _factor_scores(scores: AnnData, about: dict[str, str]) -> pa.Table:
    """A row a sample and factor that its class can have."""
    found, names = np.asarray(scores.obsm[schema.FACTORS]), _factor_names(scores)
    spread = (
        np.asarray(scores.obsm[schema.FACTORS_STD])
        if schema.FACTORS_STD in scores.obsm
        else np.full_like(found, np.nan)
    )
    place, factor = np.nonzero(np.isfinite(found))
    columns = {
        "sample": NAMES["sample"], "factor": FACTORS["factor"],
        "score": Column(REAL, "mean over seeds of the posterior mean, signs made alike", "prior sd"),
        "std": Column(REAL, "its standard deviation over seeds; missing where one seed alone found it", "prior sd"),
    }  # fmt: skip
    values = {
        "sample": scores.obs_names.to_numpy(dtype=object)[place], "factor": names[factor],
        "score": found[place, factor], "std": spread[place, factor],
    }  # fmt: skip
    return _table(values, columns, "factor_scores", about)


def _factor_names(scores: AnnData) -> np.ndarray:
    return np.array(list(_text(scores.uns[schema.MODEL][schema.FACTOR_NAMES])), dtype=object)


def _text(names: Any) -> Iterator[str]:
    yield from (str(name) for name in np.ravel(names))
