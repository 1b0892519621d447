"""The null of the detector: the whole training again on data that have no private factor (verb `null`).

A parametric bootstrap. A base model of the same data without private latents, but with as many dims as the run's model
has for a class (K = 0, S + K shared ones: `FitSettings.base`), gives every sample its class, library and a draw
z_s ~ q(z_s|x), and decodes it to new counts or pixels; what a class has for itself in z_s is held at the class mean
(`nvae_bio.factors.held`). The run's own model is then trained on these data, and what its detector finds there is the
null.

Kinds of null data: `no_private` as above; `no_factor`, in which all of z_s is held at the class mean; and two that are
known to be wrong and are kept to show it: `permuted_labels`, and `permuted_features`, each feature shuffled among the
samples of a class, which destroys shared structure too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
from nvae_bio.data.samples import Samples, make_generator
from nvae_bio.embed import GAIN_DRAWS, Encoded, encode
from nvae_bio.errors import UserError
from nvae_bio.factors.held import hold_all, hold_private
from nvae_bio.factors.usage import OWN_BLOCK, Usage, held_out_rows
from nvae_bio.machine import reproducible
from nvae_bio.model import Posterior
from nvae_bio.model.distributions import FeatureDistribution
from nvae_bio.train import SECONDS, Keeping, kept_in, train_model
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
CHUNK = 2048  # samples decoded at a time
FIRST_SEED = 1_000_000  # of refits and plantings: none that a run would name

Draw = Callable[[int], AnnData]  # from a seed to null data


def _check_base(prepared: AnnData, base: TrainedModel) -> None:
    """Refuse a base model of other data, or with private latents.

    Raises:
        UserError: it is such a one.
    """
    base.check_data(prepared)
    if base.card.fingerprint != prepared.uns[schema.DATA]["fingerprint"]:
        raise UserError("null: the base model was trained on other data than these; train it again")
    if base.network.n_private or not base.network.n_shared:
        raise UserError(
            f"null: the base model is of variant {base.card.settings.model.variant!r}, with private latents; allowed: "
            "cvae, vae"
        )


@torch.no_grad()
def _decoded(
    base: TrainedModel, samples: Samples, label: Tensor, z: Tensor
) -> Iterator[tuple[Tensor, FeatureDistribution]]:
    """Rows, and p(x | y, z) of the samples there: some at a time."""
    for rows in torch.arange(len(z)).split(CHUNK):
        library = None if samples.library is None else samples.library[rows]
        told = None if samples.covariates is None else samples.covariates.take(rows)
        yield rows, base.network.decode(z[rows], z[rows, :0], label[rows], library, told)


def _residuals(base: TrainedModel, samples: Samples, encoded: Encoded) -> Tensor:
    """Pixels less what is decoded of them, (n, pixels)."""
    decoded = _decoded(base, samples, encoded.label, encoded.shared.mean)
    return torch.cat([samples.take(rows).x - picture.mean for rows, picture in decoded])


def _shuffled_within(label: Tensor, generator: torch.Generator) -> Tensor:
    """For each sample another one of its class, (n,): each is taken once."""
    other = torch.empty_like(label)
    for name in label.unique():
        rows = (label == name).nonzero().squeeze(1)
        other[rows] = rows[torch.randperm(len(rows), generator=generator)]
    return other


def _drawing(prepared: AnnData, base: TrainedModel, kind: NullKind) -> Draw:
    """From the seed to data without private factors, or without any; what all seeds share is done once.

    A cross-entropy of grey pixels is no distribution. There a picture is the decoded one plus what another sample of
    its class has over its own, and stays grey.
    """
    threads, network, is_counts = base.card.settings.training.threads, base.network, base.card.kind == "counts"
    samples = base.card.samples_of(prepared)
    with reproducible(threads):
        encoded = encode(network, samples, 1, 0)
        held = hold_all(encoded) if kind == "no_factor" else hold_private(network, samples, encoded)
        residual = _residuals(base, samples, encoded) if base.card.likelihood == "cross_entropy" else None

    def values(seed: int) -> np.ndarray | scipy.sparse.csr_matrix:
        generator, parts = make_generator(CPU, seed, 1), []
        noise = torch.randn(encoded.shared.mean.shape, generator=generator)
        z = held.apply(encoded.shared.rsample(noise), encoded.label)
        other = _shuffled_within(encoded.label, generator)
        for rows, decoded in _decoded(base, samples, encoded.label, z):
            if residual is None:
                drawn = decoded.sample(generator).numpy()
            else:
                drawn = (decoded.mean + residual[other[rows]]).clamp(0, 1).numpy()
            parts.append(scipy.sparse.csr_matrix(drawn) if is_counts else drawn)
        return scipy.sparse.vstack(parts, format="csr") if is_counts else np.concatenate(parts)

    def draw(seed: int) -> AnnData:
        result = prepared.copy()
        with reproducible(threads):
            result.X = values(seed)
        return result

    return draw


def _permuted_labels(prepared: AnnData, seed: int) -> AnnData:
    """The same with labels shuffled among the labelled samples of each split."""
    rng, result = np.random.default_rng((seed, 2)), prepared.copy()
    label = result.obs[schema.LABEL].to_numpy(dtype=object, copy=True)
    for split in schema.SPLITS:
        rows = np.flatnonzero((result.obs[schema.SPLIT] == split) & result.obs[schema.LABEL].notna())
        label[rows] = label[rng.permutation(rows)]
    result.obs[schema.LABEL] = pd.Categorical(label, categories=prepared.obs[schema.LABEL].cat.categories)
    return result


def _permuted_features(prepared: AnnData, seed: int) -> AnnData:
    """The same with each feature shuffled among the samples of a class and split."""
    rng, result, is_sparse = np.random.default_rng((seed, 2)), prepared.copy(), scipy.sparse.issparse(prepared.X)
    x = np.array(prepared.X.toarray() if is_sparse else prepared.X)
    for _, rows in result.obs.groupby([schema.LABEL, schema.SPLIT], observed=True).indices.items():
        x[rows] = rng.permuted(x[rows], axis=0)
    result.X = scipy.sparse.csr_matrix(x) if is_sparse else x
    return result


def null_drawer(prepared: AnnData, base: TrainedModel, kind: NullKind) -> Draw:
    """A function from a seed to data like `prepared` in which no class has a factor of its own.

    Args:
        prepared: the data of the run.
        base: a model of them with `FitSettings.base`.
        kind: see the module.

    Returns:
        What it gives has the same samples, features, labels, libraries and split, and a new X (labels, if permuted).

    Raises:
        UserError: the base model has private latents or was trained on other data.
    """
    _check_base(prepared, base)
    permuted = {"permuted_labels": _permuted_labels, "permuted_features": _permuted_features}
    draw = partial(permuted[kind], prepared) if kind in permuted else _drawing(prepared, base, kind)

    def named(seed: int) -> AnnData:
        result = draw(seed)
        result.uns[schema.DATA]["fingerprint"] = f"{kind} {seed} of {prepared.uns[schema.DATA]['fingerprint']}"
        return result

    return named


@dataclass(frozen=True)
class Detected:
    """What a model that was trained on some data shows of their held-out samples.

    Attributes:
        usage: of the held-out samples of each class.
        rows: their places in the data, (n,).
        label: index of the class of each, (n,).
        shared: posterior mean of z_s, (n, S).
        own: posterior mean of the own block, (n, K).
    """

    usage: Usage
    rows: np.ndarray
    label: np.ndarray
    shared: np.ndarray
    own: np.ndarray


def detect(data: AnnData, settings: FitSettings, number: int, keeping: Keeping | None = None) -> Detected:
    """Train the model of a run on data like its own, and apply the detector to their held-out samples.

    Args:
        data: prepared, null or planted.
        settings: of the run.
        number: the seed of the draws, and above `FIRST_SEED` that of the training.
        keeping: where checkpoints of the training are kept.

    Raises:
        UserError: settings do not fit the data, or a class has no held-out sample.
    """
    trained = train_model(data, settings.alone, FIRST_SEED + number, progress=False, keeping=keeping, warn=False)
    samples = trained.card.samples_of(data)
    with reproducible(trained.card.settings.training.threads):
        encoded = encode(trained.network, samples, GAIN_DRAWS, number)
    rows = torch.from_numpy(held_out_rows(data.obs, trained.card.classes))
    shared, label = encoded.shared.take(rows), encoded.label[rows]
    own = Posterior(shared, encoded.private.take(rows)).own(trained.network.block(label))
    usage = Usage.of(
        shared.mean.numpy(), shared.log_std.exp().numpy(), own.log_std.exp().numpy(), encoded.gain[rows].numpy(),
        encoded.block_gain[rows].numpy(), label.numpy(),
    )  # fmt: skip
    return Detected(usage, rows.numpy(), label.numpy(), shared.mean.numpy(), own.mean.numpy())


def refit_null(
    prepared: AnnData,
    base: TrainedModel,
    settings: FitSettings | None = None,
    kind: NullKind = "no_private",
    refits: Sequence[int] = (0,),
    keeping: Keeping | None = None,
) -> pd.DataFrame:
    """Train the model of a run on null data, some times, and see what its detector finds there.

    Args:
        prepared: the data of the run.
        base: a model of them with `FitSettings.base`.
        settings: of the run; the defaults if None.
        kind: of null data.
        refits: their numbers, from 0: each is the seed of its data and of its training, whatever the others are.
        keeping: where checkpoints of the trainings are kept.

    Returns:
        A row a refit and statistic: kind, refit, statistic, class (its index), dim, value (nats).

    Raises:
        UserError: no refit or one twice, a base model that does not fit, or a class without held-out samples.
    """
    if not refits or len(set(refits)) < len(refits):
        raise UserError(f"refits: {', '.join(map(str, refits)) or 'none'}; at least one, and different from each other")
    settings = (settings or FitSettings()).for_kind(base.card.kind).with_likelihood(base.card.likelihood)
    held_out_rows(prepared.obs, [str(name) for name in prepared.uns[schema.DATA]["classes"]])
    draw, tables, wanted = null_drawer(prepared, base, kind), [], settings.model.n_latent
    if base.network.n_shared < wanted:
        raise UserError(
            f"null: the base model has n_shared {base.network.n_shared}; allowed: {wanted} (n_shared + n_private of "
            "the run) or more"
        )
    for refit in refits:
        table = detect(draw(refit), settings, refit, keeping).usage.statistics()
        table.insert(0, "kind", kind)
        table.insert(1, "refit", refit)
        tables.append(table)
        own = table.loc[table["statistic"] == OWN_BLOCK, "value"]
        logger.info("%s, refit %d: largest own block %.3f nats", kind, refit, own.max())
    return pd.concat(tables, ignore_index=True)


def null(
    data: Path,
    weights: Path,
    card: Path,
    output: Path,
    settings: FitSettings,
    kind: NullKind = "no_private",
    refits: Sequence[int] = (0,),
    checkpoint: Path | None = None,
    checkpoint_seconds: float = SECONDS,
) -> None:
    """Read prepared data and their base model, refit, and write the statistics as .parquet."""
    with kept_in(checkpoint, checkpoint_seconds) as keeping:
        base = load_model(weights, card)
        write_table(refit_null(read_prepared(data), base, settings, kind, refits, keeping), output)
