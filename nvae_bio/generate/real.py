"""Real samples, changed: one turned into another step by step, and one as another class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from nvae_bio import schema
from nvae_bio.config import GenerationSettings
from nvae_bio.data.samples import class_index, sizes_of
from nvae_bio.errors import UserError
from nvae_bio.generate.draw import as_anndata
from nvae_bio.machine import reproducible
from nvae_bio.model import NVAE
from nvae_bio.trained import TrainedModel


def _chosen(
    prepared: AnnData, trained: TrainedModel, settings: GenerationSettings, n_per_class: int, seed: int
) -> np.ndarray:
    """Rows of the samples that are changed: those named, or random held-out ones of each class, class by class.

    Raises:
        UserError: a sample that is not there or has no class, or no held-out sample of any class.
    """
    label, names = class_index(prepared.obs, trained.card.classes), prepared.obs_names
    if settings.samples:
        place = names.get_indexer(settings.samples)
        for name, row in zip(settings.samples, place, strict=True):
            if row < 0:
                raise UserError(
                    f"generation.samples: {name!r} is no sample; allowed: names of samples, as {names[0]!r}"
                )
            if label[row] < 0:
                raise UserError(f"generation.samples: sample {name!r} has no class of the model; allowed: one that has")
        return np.asarray(place)
    rows = held_out_of_each(prepared, trained, n_per_class, np.random.default_rng((seed, 2)))
    if len(rows) == 0:
        raise UserError("generate: no held-out sample (split 'test') has a class; name some in generation.samples")
    return np.asarray(rows)


def held_out_of_each(
    prepared: AnnData, trained: TrainedModel, n_per_class: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of random held-out samples of each class, so many at most, class by class."""
    label, test = class_index(prepared.obs, trained.card.classes), (prepared.obs[schema.SPLIT] == "test").to_numpy()
    parts = [
        rng.permutation(np.flatnonzero(test & (label == y)))[:n_per_class] for y in range(len(trained.card.classes))
    ]
    return np.concatenate(parts)


@torch.no_grad()
def encoded_means(prepared: AnnData, trained: TrainedModel, rows: np.ndarray) -> Tensor:
    """Posterior means of [z_s, own block] of labelled samples, (rows, S + K)."""
    model, part = trained.network, prepared[rows]
    batch = trained.card.samples_of(part).take(torch.arange(len(rows)))
    posterior, _ = model.infer(batch)
    return torch.cat([posterior.shared.mean, posterior.own(model.block(batch.label)).mean], dim=1)


@torch.no_grad()
def _decoded(
    model: NVAE, prepared: AnnData, trained: TrainedModel, z: Tensor, label: Sequence[int], rows: np.ndarray
) -> Tensor:
    """The decoder's mean of latents (n, S + K), each at the library and the covariates of one sample, (n,)."""
    part, told, library = prepared.obs.iloc[rows], trained.card.covariates, None
    if trained.card.kind == "counts":
        library = torch.from_numpy(sizes_of(part, trained.card.settings.model.size).to_numpy(np.float32).copy())
    covariates = told.read(part) if told else None
    return model.decode(z[:, : model.n_shared], z[:, model.n_shared :], torch.tensor(label), library, covariates).mean


def interpolate_samples(
    trained: TrainedModel, prepared: AnnData, settings: GenerationSettings | None = None, seed: int | None = None
) -> AnnData:
    """The decoder's mean on the straight line between the posterior means of two samples of a class.

    Args:
        trained: the model.
        prepared: data with the samples.
        settings: the samples, taken in pairs, or pairs a class; and steps. The defaults if None.
        seed: of the choice; the model's own if None.

    Returns:
        AnnData (pairs × n_steps, features): X is the mean, at the library and covariates of the first of the pair;
        `obs` pair, step (0 to 1), label, first and second (names of the samples); `obsm["z"]` (n, S + K).

    Raises:
        UserError: the data do not fit the model, samples named that are not there or are not pairs of one class, or no
            class has two held-out ones.
    """
    settings, seed = settings or GenerationSettings(), trained.card.seed if seed is None else seed
    trained.check_data(prepared)
    rows = _chosen(prepared, trained, settings, 2 * settings.n_pairs, seed)
    label = class_index(prepared.obs, trained.card.classes)
    pairs = _pairs(rows, label, bool(settings.samples))
    ends = [encoded_means(prepared, trained, np.array(side)) for side in zip(*pairs, strict=True)]
    steps = np.linspace(0, 1, settings.n_steps)
    grid = pd.MultiIndex.from_product([range(len(pairs)), steps], names=["pair", "step"]).to_frame(index=False)
    pair, share = grid["pair"].to_numpy(), torch.tensor(grid["step"].to_numpy(), dtype=torch.float32)[:, None]
    first, second = (np.array(side)[pair] for side in zip(*pairs, strict=True))
    with reproducible(trained.card.settings.training.threads):
        z = (1 - share) * ends[0][pair] + share * ends[1][pair]
        mean = _decoded(trained.network, prepared, trained, z, label[first].tolist(), first)
    obs = grid.assign(
        **{schema.LABEL: np.array(trained.card.classes)[label[first]]},
        first=prepared.obs_names[first].to_numpy(), second=prepared.obs_names[second].to_numpy(),
    )  # fmt: skip
    return as_anndata(mean, obs, prepared, trained, seed, z)


def _pairs(rows: np.ndarray, label: np.ndarray, are_named: bool) -> list[tuple[int, int]]:
    """Rows two by two, each pair of one class.

    Raises:
        UserError: named samples that are not such pairs, or none.
    """
    pairs = []
    if are_named:
        if len(rows) % 2:
            raise UserError(f"generation.samples: {len(rows)} samples; interpolations need pairs of one class")
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        if any(label[one] != label[other] for one, other in pairs):
            raise UserError("generation.samples: interpolations need pairs of one class, one behind the other")
    else:
        for index in np.unique(label[rows]):
            own = rows[label[rows] == index]
            pairs += list(zip(own[: len(own) // 2], own[len(own) // 2 : 2 * (len(own) // 2)], strict=True))
    if not pairs:
        raise UserError("generate: no class has two held-out samples; interpolations need pairs of one class")
    return [(int(one), int(other)) for one, other in pairs]


def swap_classes(
    trained: TrainedModel, prepared: AnnData, settings: GenerationSettings | None = None, seed: int | None = None
) -> AnnData:
    """Each sample as every class: its own z_s, and the block of that class.

    As its own class a sample keeps its block: this is its reconstruction. Of any other class the block is at 0, the
    mean of its prior, for of it the sample says nothing.

    Args:
        trained: the model.
        prepared: data with the samples.
        settings: the samples, or how many a class; the defaults if None.
        seed: of the choice; the model's own if None.

    Returns:
        AnnData (samples × classes, features): X is the mean, at the sample's library and covariates; `obs` label (the
        class it is decoded as), sample, sample_label; `obsm["z"]` (n, S + K).

    Raises:
        UserError: the data do not fit the model or are none of classes (variant `vae`), samples named that are not
            there, or no held-out one.
    """
    settings, seed = settings or GenerationSettings(), trained.card.seed if seed is None else seed
    trained.check_data(prepared)
    model, classes = trained.network, trained.card.classes
    if not model.uses_label:
        raise UserError("generate: the decoder of variant 'vae' is told no class, so that none can be swapped")
    rows = _chosen(prepared, trained, settings, settings.n_swapped, seed)
    label = class_index(prepared.obs, trained.card.classes)
    source, target = np.repeat(rows, len(classes)), np.tile(np.arange(len(classes)), len(rows))
    with reproducible(trained.card.settings.training.threads):
        z = encoded_means(prepared, trained, rows).repeat_interleave(len(classes), dim=0)
        z[torch.from_numpy(label[source] != target), model.n_shared :] = 0
        mean = _decoded(model, prepared, trained, z, target.tolist(), source)
    names = np.array(classes)
    obs = pd.DataFrame({schema.LABEL: names[target], "sample": prepared.obs_names[source].to_numpy()})
    obs["sample_label"] = pd.Categorical(names[label[source]], categories=classes)
    return as_anndata(mean, obs, prepared, trained, seed, z)
