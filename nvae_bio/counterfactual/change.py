"""Samples with something changed, decoded: means, intervals, and where the model has no ground to say."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from nvae_bio import schema
from nvae_bio.config import CounterfactualSettings
from nvae_bio.counterfactual.support import support_p
from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.data.names import as_text
from nvae_bio.data.samples import make_generator
from nvae_bio.embed import provenance
from nvae_bio.errors import UserError, listed
from nvae_bio.generate import encoded_means, held_out_of_each, training_rows
from nvae_bio.machine import reproducible
from nvae_bio.model import NVAE, DiagonalGaussian
from nvae_bio.trained import TrainedModel

logger = logging.getLogger(__name__)

N_KNOWN = 5000  # training samples of a class that stand for it, at most
FACTUAL, LOWER, UPPER, EFFECT = schema.FACTUAL, schema.LOWER, schema.UPPER, schema.EFFECT  # layers


@dataclass(frozen=True)
class _Changed:
    """Samples before and after, as distributions over latents.

    Attributes:
        batch: the samples, (n, …), labelled with their own classes.
        label: index of the class after, (n,).
        shared, own: q(z_s|x) and q of the own block before, (n, S), (n, K).
        move: what is added to [z_s, own block], (n, S + K).
        keeps_own: whether the own block is the sample's, and not drawn from its prior, (n,).
        covariates: after, None where the model is told none.
        known: of each class after, [z_s, own block] of its training samples, (m, S + K).
    """

    batch: Batch
    label: Tensor
    shared: DiagonalGaussian
    own: DiagonalGaussian
    move: Tensor
    keeps_own: Tensor
    covariates: Covariates | None
    known: dict[int, np.ndarray]


def change_samples(
    trained: TrainedModel, prepared: AnnData, settings: CounterfactualSettings, seed: int | None = None
) -> AnnData:
    """Each sample as it would be with the class, factors or covariates changed.

    z is drawn from q(z|x), the same draws before and after. As another class a sample keeps its z_s; of that class's
    block it says nothing, so that this is drawn from the prior, and its interval is wide. All is at the sample's own
    library. A sample whose latent, after the change, lies outside of what training samples of its class (after) have is
    refused: its values are NaN.

    Args:
        trained: the model.
        prepared: its data set, with the samples.
        settings: which samples, and what is changed.
        seed: of the choice and the draws; the model's own if None.

    Returns:
        Samples × features. X: mean of the decoded means after the change; layers `lower`, `upper` (its interval over
        draws), `factual` (before), `effect` with `effect_lower` and `effect_upper`: the change in the unit of
        `uns["nvae"]["effect_unit"]`. obsm["z"]: the latent after, (n, S + K). obs: label (before), as_class, support_p,
        is_supported, and the source's columns. `uns["nvae_counterfactual"]`: settings.

    Raises:
        UserError: data that do not fit the model, samples, classes, dims or levels that are not there, or none of the
            samples has support.
    """
    seed = trained.card.seed if seed is None else seed
    trained.check_data(prepared)
    network, rows = trained.network, _rows(prepared, trained, settings, seed)
    with reproducible(trained.card.settings.training.threads), torch.no_grad():
        changed = _changed(prepared, trained, settings, rows)
        support = _support(changed, network.n_shared)
        found = _decoded(network, changed, settings, make_generator(torch.device("cpu"), seed, 7))
    is_supported = support > settings.support_level
    if not is_supported.any():
        raise UserError(
            f"counterfactual: none of {len(rows)} samples lies, after the change, where training samples of its class "
            f"do (largest share as far: {support.max():.2g}); allowed: above support_level {settings.support_level:g}"
        )
    classes = np.array(trained.card.classes)
    obs = prepared.obs.iloc[rows].copy()
    obs[schema.AS_CLASS] = pd.Categorical(classes[changed.label.numpy()], categories=trained.card.classes)
    obs[schema.SUPPORT_P], obs[schema.IS_SUPPORTED] = support, is_supported
    adata = AnnData(found.pop("X"), obs=obs, var=prepared.var.copy(), layers=found)
    for values in (adata.X, *(adata.layers[name] for name in found if name != FACTUAL)):
        values[~is_supported] = np.nan
    adata.obsm[schema.LATENT] = _after(changed).numpy()
    adata.uns[schema.MODEL] = provenance(trained, seed)
    if trained.card.image_shape is not None:
        adata.uns[schema.MODEL]["image_shape"] = list(trained.card.image_shape)
    adata.uns[schema.COUNTERFACTUAL] = {"settings": settings.model_dump_json(), "n_refused": int((~is_supported).sum())}
    logger.info("%d samples changed; %d refused: outside of what their class has", len(rows), (~is_supported).sum())
    return adata


def _rows(prepared: AnnData, trained: TrainedModel, settings: CounterfactualSettings, seed: int) -> np.ndarray:
    """Places of the samples.

    Raises:
        UserError: one that is not there or has no class of the model, or none at all.
    """
    label = prepared.obs[schema.LABEL].astype(str)
    is_known = label.isin(trained.card.classes).to_numpy()
    if settings.samples:
        named = np.asarray(prepared.obs_names.get_indexer(settings.samples))
        for name, row in zip(settings.samples, named, strict=True):
            if row < 0 or not is_known[row]:
                raise UserError(f"counterfactual: samples: {name!r} is no sample with a class of the model")
        return named
    if settings.where:
        inside = is_known.copy()
        for column, values in settings.where.items():
            if column not in prepared.obs:
                raise UserError(f"counterfactual: where: no column {column!r}; allowed: {listed(prepared.obs.columns)}")
            inside &= as_text(prepared.obs[column]).isin([values] if isinstance(values, str) else values).to_numpy()
        rows = np.asarray(np.flatnonzero(inside))
    else:
        rng = np.random.default_rng((seed, 6))
        rows = np.sort(held_out_of_each(prepared, trained, settings.n_per_class, rng))
    if len(rows) == 0:
        raise UserError("counterfactual: no sample with a class of the model is named by `where`, or held out")
    return rows


def _changed(prepared: AnnData, trained: TrainedModel, settings: CounterfactualSettings, rows: np.ndarray) -> _Changed:
    """The samples, and what becomes of them."""
    network, classes = trained.network, trained.card.classes
    part = prepared[rows].copy()
    batch = trained.card.samples_of(part).take(torch.arange(len(rows)))
    posterior, _ = network.infer(batch)
    own, label = posterior.own(network.block(batch.label)), batch.label.clone()
    if settings.as_class is not None:
        if settings.as_class not in classes:
            raise UserError(f"counterfactual: as_class: {settings.as_class!r} is no class; allowed: {listed(classes)}")
        if not network.uses_label:
            raise UserError("counterfactual: as_class: the decoder of variant 'vae' is told no class; allowed: null")
        label[:] = classes.index(settings.as_class)
    known = {y: _known(prepared, trained, y) for y in label.unique().tolist()}
    move = torch.zeros(len(rows), network.n_shared + network.n_private)
    for kind, dim, by in settings.moves:
        size = network.n_shared if kind == "shared" else network.n_private
        if dim >= size:
            raise UserError(f"counterfactual: factors: '{kind} {dim}' is not there; allowed: 0 to {size - 1}")
        place = dim if kind == "shared" else network.n_shared + dim
        for y, latents in known.items():
            move[label == y, place] = by * float(latents[:, place].std())
    covariates, keeps_own = _covariates(part, trained, settings), label == batch.label
    return _Changed(batch, label, posterior.shared, own, move, keeps_own, covariates, known)


def _covariates(part: AnnData, trained: TrainedModel, settings: CounterfactualSettings) -> Covariates | None:
    """Of the samples after the change."""
    told, obs = trained.card.covariates, part.obs.copy()
    known = {one.name: one.levels for one in told.categorical}
    for name, level in settings.covariates.items():
        if name not in known:
            raise UserError(
                f"counterfactual: covariates: the model is told no {name!r}; allowed: {listed(known) or 'none'}"
            )
        if level not in known[name]:
            raise UserError(f"counterfactual: covariates: {name} {level!r}; allowed: {listed(known[name])}")
        obs[name] = level
    return told.read(obs) if told else None


def _known(prepared: AnnData, trained: TrainedModel, y: int) -> np.ndarray:
    """Posterior means of [z_s, own block] of training samples of a class, (m, S + K).

    Raises:
        UserError: fewer than two.
    """
    rows = training_rows(prepared, trained)[y]
    if len(rows) < 2:
        name = trained.card.classes[y]
        raise UserError(f"counterfactual: class {name!r} has {len(rows)} training samples; allowed: 2 or more")
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:N_KNOWN])
    return np.asarray(encoded_means(prepared, trained, rows).numpy())


def _after(changed: _Changed) -> Tensor:
    """Mean of [z_s, own block] of each sample after the change, (n, S + K); of another class's block 0."""
    own = changed.own.mean * changed.keeps_own[:, None]
    return torch.cat([changed.shared.mean, own], dim=1) + changed.move


def _support(changed: _Changed, n_shared: int) -> np.ndarray:
    """Of each sample after the change: by z_s, and by the own block too where it is the sample's, (n,)."""
    found = np.ones(len(changed.label))
    asked = _after(changed).numpy()
    for y, known in changed.known.items():
        for keeps in (True, False):
            rows = ((changed.label == y) & (changed.keeps_own == keeps)).numpy()
            width = known.shape[1] if keeps else n_shared
            if rows.any():
                found[rows] = support_p(known[:, :width], asked[rows, :width])
    return found


def _decoded(
    network: NVAE, changed: _Changed, settings: CounterfactualSettings, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Mean and interval over draws, before and after, each (n, features), sample by sample."""
    names = ("X", FACTUAL, EFFECT, LOWER, UPPER, f"{EFFECT}_{LOWER}", f"{EFFECT}_{UPPER}")
    found = {name: np.empty(tuple(changed.batch.x.shape), dtype=np.float32) for name in names}
    ends = torch.tensor([(1 - settings.interval) / 2, (1 + settings.interval) / 2])
    for row in range(len(changed.label)):
        before, after, effect = _of_sample(network, changed, row, settings.n_draws, generator)
        found["X"][row], found[FACTUAL][row], found[EFFECT][row] = after.mean(0), before.mean(0), effect.mean(0)
        found[LOWER][row], found[UPPER][row] = after.quantile(ends, dim=0)
        found[f"{EFFECT}_{LOWER}"][row], found[f"{EFFECT}_{UPPER}"][row] = effect.quantile(ends, dim=0)
    return found


def _of_sample(
    network: NVAE, changed: _Changed, row: int, n_draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Decoded means before and after and the effect, (draws, features), at the same draws of z."""
    n_shared, rows = network.n_shared, torch.full((n_draws,), row)
    noise = torch.randn(n_draws, n_shared + network.n_private, generator=generator)
    shared = changed.shared.take(rows).rsample(noise[:, :n_shared])
    own = changed.own.take(rows).rsample(noise[:, n_shared:])
    library = None if changed.batch.library is None else changed.batch.library[rows]
    covariates = None if changed.batch.covariates is None else changed.batch.covariates.take(rows)
    told = None if changed.covariates is None else changed.covariates.take(rows)
    before = network.decode(shared, own, changed.batch.label[rows], library, covariates)
    moved = own + changed.move[rows, n_shared:] if changed.keeps_own[row] else noise[:, n_shared:]
    after = network.decode(shared + changed.move[rows, :n_shared], moved, changed.label[rows], library, told)
    return before.mean, after.mean, network.likelihood.effect(before, after)
