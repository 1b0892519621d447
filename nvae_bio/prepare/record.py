"""The prepared file: columns that can be written, and a fingerprint of what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api import types
from scipy import sparse

from nvae_bio import schema
from nvae_bio.data.join import free_name
from nvae_bio.data.names import as_text, whole_text

CATEGORICAL = (schema.LABEL, schema.BATCH, schema.DONOR, schema.CONDITION)


def writable(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy that anndata can write: names that are text without slashes, and no columns of mixed objects.

    >>> writable(pd.DataFrame({"a/b": [1, "x"]})).columns.tolist()
    ['a_b']
    """
    columns: dict[str, pd.Series] = {}
    for position in range(frame.shape[1]):
        name = whole_text(str(frame.columns[position])).replace("/", "_").strip(".") or "unnamed"
        while name in columns or name == "_index":
            name = free_name(name, list(columns))
        columns[name] = _writable_column(frame.iloc[:, position])
    return pd.DataFrame(columns, index=pd.Index(frame.index.astype(str), dtype=object))


def _writable_column(column: pd.Series) -> pd.Series:
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = column.cat.categories
        if types.is_numeric_dtype(levels.dtype):
            return column
        if types.infer_dtype(levels) == "string" and all(name == whole_text(name) for name in levels):
            return column
    elif types.is_bool_dtype(column.dtype) or (
        types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column)
    ):
        return column
    text = as_text(column)
    return text.astype("category") if text.isna().any() else text


def make_obs(known: pd.DataFrame, source: pd.DataFrame) -> pd.DataFrame:
    """obs of the prepared file: our columns, then the source's.

    Args:
        known: columns that mean something to nvae-bio, under their names of `schema`; and covariates.
        source: the source's own columns; where one has a reserved name and other values, it becomes `source_<name>`.

    Returns:
        (n, columns), every column writable.
    """
    obs = known.copy()
    for name in CATEGORICAL:
        if name in obs:
            obs[name] = pd.Categorical(obs[name], categories=sorted(obs[name].dropna().unique()))
    obs[schema.SPLIT] = pd.Categorical(obs[schema.SPLIT], categories=list(schema.SPLITS))
    others = writable(source)
    taken = {*obs.columns, *schema.RESERVED_OBS}
    for name in map(str, others.columns):
        if any(own in known and same_values(known[own], others[name]) for own in (name, f"source_{name}")):
            continue
        new_name = free_name(name, [*taken, *others.columns, *obs.columns]) if name in taken else name
        obs[new_name] = others[name]
    obs.index.name = None
    return obs


def same_values(one: pd.Series, other: pd.Series) -> bool:
    """Whether two columns of the same samples are the same text."""
    return as_text(one).fillna("").equals(as_text(other).fillna(""))


def fingerprint(adata: AnnData, covariates: Sequence[str] = ()) -> str:
    """sha256 over the values, the names, and the label, split, library, size factor and covariates of each sample."""
    values = Fingerprint()
    values.add(adata.X)
    return values.of(adata.obs, adata.var_names, covariates)


class Fingerprint:
    """That of a data set whose rows come some at a time; how many at a time makes no difference."""

    def __init__(self) -> None:
        self._parts = [hashlib.sha256() for _ in range(3)]  # of values, of their columns, of the lengths of rows

    def add(self, rows: sparse.csr_matrix | np.ndarray) -> None:
        """The next rows, (n, features)."""
        arrays = [rows] if isinstance(rows, np.ndarray) else [rows.data, rows.indices, np.diff(rows.indptr)]
        for part, array in zip(self._parts, arrays, strict=False):
            kind = np.int64 if array.dtype.kind == "i" else np.float32
            part.update(np.ascontiguousarray(array, dtype=kind).data)

    def of(self, obs: pd.DataFrame, var_names: pd.Index, covariates: Sequence[str] = ()) -> str:
        """sha256 over all rows so far, and what is known of samples and features (`fingerprint`)."""
        digest = hashlib.sha256(b"".join(part.digest() for part in self._parts))
        columns = [pd.Index(as_text(obs[key]).fillna("")) for key in (schema.LABEL, schema.SPLIT, *covariates)]
        for values in (obs.index, var_names, *columns):
            digest.update("\0".join(values.astype(str)).encode() + b"\1")
        for key in (schema.LIBRARY, schema.SIZE_FACTOR):
            if key in obs:
                digest.update(obs[key].to_numpy(dtype=np.float64).tobytes())
        return digest.hexdigest()
