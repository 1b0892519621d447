"""The null of the detector: the whole training again on data that have no private factor (verb `null`).

A parametric bootstrap. A base model of the same data without private latents (K = 0, `FitSettings.base`) gives every
sample its class, library and a draw z_s ~ q(z_s|x), and decodes it to new counts or pixels; what only a minority of the
classes uses in z_s is a private factor that the base model had no other place for, and is held at the class mean. The
run's own model is then trained on these data, and what its detector finds there is the null.

Kinds of null data: `no_private` as above; `no_factor`, in which every shared dim is held at its class mean; and two
that are known to be wrong and are kept to show it: `permuted_labels`, and `permuted_features`, each feature shuffled
among the samples of a class, which destroys shared structure too.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from anndata import AnnData
from torch import Tensor

from nvae_bio import schema
from nvae_bio.config import FitSettings, NullKind
from nvae_bio.data.files import read_prepared, write_table
from nvae_bio.data.samples import make_generator, to_samples
from nvae_bio.embed import Encoded, encode
from nvae_bio.errors import UserError
from nvae_bio.factors.usage import Usage, few
from nvae_bio.machine import reproducible
from nvae_bio.train import train_model
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
CHUNK = 2048  # samples decoded at a time
MIN_KL = 0.01  # nats; a dim with less is used by no class
FIRST_SEED = 1_000_000  # of refits: none that a run would name


def _held_out(prepared: AnnData, encoded: Encoded) -> Usage:
    """Usage of the labelled test samples.

    Raises:
        UserError: a class has none.
    """
    rows = ((prepared.obs[schema.SPLIT] == "test") & prepared.obs[schema.LABEL].notna()).to_numpy()
    label = encoded.label.numpy()[rows]
    for index, name in enumerate(prepared.uns[schema.DATA]["classes"]):
        if not (label == index).any():
            raise UserError(f"class {name!r} has no held-out sample (split 'test'); its factors cannot be judged")
    return Usage.of(encoded.shared.kl().numpy()[rows], encoded.private.kl().numpy()[rows], label)


def _held_dims(usage: Usage, kind: NullKind) -> np.ndarray:
    """Which shared dims are held at the mean of a class, (C, S)."""
    if kind == "no_factor":
        return np.ones_like(usage.shared, dtype=bool)
    used = usage.used(MIN_KL)
    return np.asarray(used & (used.sum(0, keepdims=True) <= few(usage.n_classes)))


def _latent(encoded: Encoded, held: np.ndarray, generator: torch.Generator) -> Tensor:
    """A draw z_s of each sample, (n, S), with dims held at the class mean where `held` (C, S) says so."""
    noise = torch.randn(encoded.shared.mean.shape, generator=generator)
    z = encoded.shared.rsample(noise)
    for index, dims in enumerate(torch.from_numpy(held)):
        rows = encoded.label == index
        if rows.any():
            z[rows] = torch.where(dims, encoded.shared.mean[rows].mean(0), z[rows])
    return z


@torch.no_grad()
def _decoded(prepared: AnnData, base: TrainedModel, kind: NullKind, seed: int) -> np.ndarray | scipy.sparse.csr_matrix:
    """New counts, pixels or features of every sample, (n, features)."""
    network, card = base.network, base.card
    samples = to_samples(prepared, card.classes, card.covariates, size=card.settings.model.size)
    generator = make_generator(CPU, seed, 1)
    with reproducible(card.settings.training.threads):
        encoded = encode(network, samples, 1, seed)
        z = _latent(encoded, _held_dims(_held_out(prepared, encoded), kind), generator)
        parts = []
        for rows in torch.arange(len(z)).split(CHUNK):
            library = None if samples.library is None else samples.library[rows]
            nothing = torch.zeros(len(rows), 0)
            told = None if samples.covariates is None else samples.covariates.take(rows)
            drawn = network.decode(z[rows], nothing, encoded.label[rows], library, told).sample(generator).numpy()
            parts.append(scipy.sparse.csr_matrix(drawn) if card.kind == "counts" else drawn)
    return scipy.sparse.vstack(parts, format="csr") if card.kind == "counts" else np.concatenate(parts)


def _permuted_labels(prepared: AnnData, rng: np.random.Generator) -> AnnData:
    """The same with labels shuffled among the labelled samples of each split."""
    result = prepared.copy()
    label = result.obs[schema.LABEL].to_numpy(dtype=object, copy=True)
    for split in schema.SPLITS:
        rows = np.flatnonzero((result.obs[schema.SPLIT] == split) & result.obs[schema.LABEL].notna())
        label[rows] = label[rng.permutation(rows)]
    result.obs[schema.LABEL] = pd.Categorical(label, categories=prepared.obs[schema.LABEL].cat.categories)
    return result


def _permuted_features(prepared: AnnData, rng: np.random.Generator) -> AnnData:
    """The same with each feature shuffled among the samples of a class and split."""
    result, is_sparse = prepared.copy(), scipy.sparse.issparse(prepared.X)
    x = np.array(prepared.X.toarray() if is_sparse else prepared.X)
    for _, rows in result.obs.groupby([schema.LABEL, schema.SPLIT], observed=True).indices.items():
        x[rows] = rng.permuted(x[rows], axis=0)
    result.X = scipy.sparse.csr_matrix(x) if is_sparse else x
    return result


def draw_null(prepared: AnnData, base: TrainedModel, kind: NullKind, seed: int) -> AnnData:
    """Data like `prepared` in which no class has a factor of its own.

    Args:
        prepared: the data of the run.
        base: a model of them with `FitSettings.base`.
        kind: see the module.
        seed: of the draw.

    Returns:
        The same samples, features, labels, libraries and split, with a new X.

    Raises:
        UserError: the data do not fit the model, or a class has no held-out sample.
    """
    base.check_data(prepared)
    rng = np.random.default_rng((seed, 2))
    if kind == "permuted_labels":
        result = _permuted_labels(prepared, rng)
    elif kind == "permuted_features":
        result = _permuted_features(prepared, rng)
    else:
        result = prepared.copy()
        result.X = _decoded(prepared, base, kind, seed)
    result.uns[schema.DATA]["fingerprint"] = f"{kind} {seed} of {prepared.uns[schema.DATA]['fingerprint']}"
    return result


def refit_null(
    prepared: AnnData,
    base: TrainedModel,
    settings: FitSettings | None = None,
    kind: NullKind = "no_private",
    refit: int = 0,
) -> pd.DataFrame:
    """Train the model of a run on null data, and see what its detector finds there.

    Args:
        prepared: the data of the run.
        base: a model of them with `FitSettings.base`.
        settings: of the run; the defaults if None.
        kind: of null data.
        refit: number of the refit: the seed of its data and of its training.

    Returns:
        A row a statistic: kind, refit, statistic, class (its index), dim, value (nats).

    Raises:
        UserError: the data do not fit the model, or a class has no held-out sample.
    """
    drawn = draw_null(prepared, base, kind, refit)
    trained = train_model(drawn, settings, FIRST_SEED + refit, progress=False)
    card = trained.card
    samples = to_samples(drawn, card.classes, card.covariates, size=card.settings.model.size)
    with reproducible(card.settings.training.threads):
        encoded = encode(trained.network, samples, 1, refit)
    table = _held_out(drawn, encoded).statistics()
    table.insert(0, "kind", kind)
    table.insert(1, "refit", refit)
    return table


def null(
    data: Path, weights: Path, card: Path, output: Path, settings: FitSettings, kind: NullKind, refit: int
) -> None:
    """Read prepared data and their base model, refit, and write the statistics as .parquet."""
    table = refit_null(read_prepared(data), load_model(weights, card), settings, kind, refit)
    write_table(table, output)
    logger.info("%s, refit %d: largest own block %.3f nats", kind, refit, table["value"].max())
