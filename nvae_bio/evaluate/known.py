"""Known factors: which the samples have, and how well an embedding tells them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import dense
from nvae_bio.evaluate.disentangle import factor_scores, r2_scores
from nvae_bio.evaluate.moments import image_moments

CHUNK = 5000  # pictures whose moments are taken at a time


def image_shape_of(adata: AnnData) -> tuple[int, int, int] | None:
    """Channels, height and width of prepared pictures; None of anything else."""
    shape = adata.uns[schema.DATA].get("image_shape")
    if shape is None:
        return None
    channels, height, width = (int(size) for size in shape)
    return channels, height, width


def known_factors(adata: AnnData, keys: Sequence[str], image_shape: tuple[int, int, int] | None) -> pd.DataFrame:
    """Known factors of all samples: moments of pictures, and the columns of obs that are named.

    Raises:
        UserError: a column that is not there, or holds no number.
    """
    obs, table = adata.obs, pd.DataFrame(index=adata.obs_names)
    if image_shape is not None:
        parts = np.array_split(np.arange(len(obs)), len(obs) // CHUNK + 1)
        found = pd.concat([image_moments(dense(adata, part), image_shape) for part in parts], ignore_index=True)
        table = found.set_index(adata.obs_names)
    for name in keys:
        if name not in obs:
            raise UserError(f"evaluation.factor_keys: {name!r} is no column of obs; allowed: {', '.join(obs)}")
        table[name] = pd.to_numeric(obs[name], errors="coerce")
        if table[name].isna().all():
            raise UserError(f"evaluation.factor_keys: obs[{name!r}] holds no number; allowed: a column of numbers")
    return table


def within_classes(factors: pd.DataFrame, label: pd.Series, train: np.ndarray) -> pd.DataFrame:
    """Each factor less its mean over the training samples of the class, as `NAME_within`.

    What differs between classes in the mean is none of what an embedding can tell that does not tell the class.
    """
    mean = factors[train].groupby(label[train].astype(str).to_numpy()).mean()
    of_class = mean.reindex(label.astype(str).to_numpy()).set_index(factors.index)
    return (factors - of_class).add_suffix("_within")


def known_scores(
    adata: AnnData, z: np.ndarray, keys: Sequence[str], image_shape: tuple[int, int, int] | None
) -> dict[str, float]:
    """`factor_scores` of an embedding (n, d), fitted on training samples; R² within classes beside them.

    Scored are held-out samples of classes that the data set holds out whole, where it does: they have no label. Those
    of known classes are then scored beside them, as `METRIC[known]`.

    Raises:
        UserError: as `known_factors`.
    """
    factors = known_factors(adata, keys, image_shape)
    if factors.empty:
        return {}
    z, known = np.asarray(z, dtype=float), adata.obs[schema.LABEL].notna().to_numpy()
    train, test = (np.asarray(adata.obs[schema.SPLIT] == name) for name in ("train", "test"))
    if not (test & ~known).any():
        within = within_classes(factors, adata.obs[schema.LABEL], train)
        return factor_scores(z, factors, train, test) | r2_scores(z, within, train, test)
    of_known = factor_scores(z, factors, train & known, test & known) if (test & known).any() else {}
    scores = factor_scores(z, factors, train & known, test & ~known)
    return scores | {f"{name}[known]": value for name, value in of_known.items()}
