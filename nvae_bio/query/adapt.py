"""A model that learns what a new batch adds to the decoder, and nothing else."""

from __future__ import annotations

import copy
import logging

import numpy as np
import torch
from torch import Tensor, nn

from nvae_bio import schema
from nvae_bio.card import ModelCard
from nvae_bio.config import QuerySettings
from nvae_bio.data.batch import Batch
from nvae_bio.data.covariates import CategoricalCovariate
from nvae_bio.data.names import as_text
from nvae_bio.data.samples import Samples, make_generator
from nvae_bio.errors import UserError, listed
from nvae_bio.machine import pick_device, reproducible
from nvae_bio.model import NVAE, NegativeBinomial
from nvae_bio.model.covariates import CovariateEffect, LevelEffect
from nvae_bio.query.read import Query
from nvae_bio.trained import TrainedModel

logger = logging.getLogger(__name__)

BATCH_SIZE = 512
STEP_SIZE = 0.01
NEW_BATCH = "query"  # the name of the batch where the new samples say none


def adapt_model(trained: TrainedModel, query: Query, settings: QuerySettings, seed: int) -> TrainedModel:
    """The model with a level for each new batch, fitted to the new samples by the bound under their likeliest classes.

    A new level starts as an average batch, which is where an unknown one stays, and is held there by a Gaussian prior
    as wide as the known levels differ. Encoder, classifier, loadings and all other levels stay as they are, to the bit.
    In the query's obs the batch is filled in where it says none.

    Args:
        trained: the model; not changed.
        query: the new samples, all features measured.
        settings: `adapt_steps`.
        seed: of batches and draws.

    Raises:
        UserError: a model that is told no batch, no new batch, or features that lack.
    """
    card = trained.card
    batch = next(iter(card.covariates.categorical), None)
    told = trained.network.decoder.composition.effect
    if batch is None or batch.name != schema.BATCH or told is None:
        raise UserError("adapt: the model is told no batch, so that there is nothing to adapt; allowed: adapt: false")
    if not query.is_whole:
        raise UserError("adapt: features of the model lack in the new samples; allowed: all, or adapt: false")
    obs = query.adata.obs
    level = as_text(obs[schema.BATCH]) if schema.BATCH in obs else as_text(obs.assign(batch=None)[schema.BATCH])
    obs[schema.BATCH] = level = level.fillna(NEW_BATCH)
    new = sorted(set(level) - set(batch.levels))
    if not new:
        raise UserError(f"adapt: all batches of the new samples ({listed(batch.levels)}) are known; allowed: a new one")
    network, wider = copy.deepcopy(trained.network), _wider_card(card, batch, new)
    places = [_add_levels(one, len(new)) for one in _told_the_batch(network)]
    _widen_dispersion(network, len(new))
    adapted = TrainedModel(network, wider, trained.history)
    rows = torch.from_numpy(np.flatnonzero(of_new_batches(query, card)))
    with reproducible(card.settings.training.threads):
        network.to(pick_device(card.settings.training.device))
        first, last = _fit(network, wider.samples_of(query.adata), rows, places[-1], settings.adapt_steps, seed)
        network.cpu().eval()
    logger.info("adapted to %s: bound %.2f → %.2f nats a sample", listed(new, limit=5), first, last)
    return adapted


def of_new_batches(query: Query, card: ModelCard) -> np.ndarray:
    """Which samples are of a batch that no training sample is of, (n,), bool."""
    known = query.adata.obs[schema.BATCH].astype(str).isin(card.covariates.categorical[0].levels)
    return np.asarray(~known)


def _wider_card(card: ModelCard, batch: CategoricalCovariate, new: list[str]) -> ModelCard:
    """With the new levels, of which no training sample is."""
    wider = batch.model_copy(update={"levels": [*batch.levels, *new], "n_samples": [*batch.n_samples, *[0] * len(new)]})
    covariates = card.covariates.model_copy(update={"categorical": (wider, *card.covariates.categorical[1:])})
    return card.model_copy(update={"covariates": covariates})


def _told_the_batch(network: NVAE) -> list[LevelEffect]:
    """What the batch adds in each network that is told it; the decoder's last."""
    effects = [network.encoder.effect, network.classifier.effect, network.decoder.composition.effect]
    levels = [one.levels[0] for one in effects if isinstance(one, CovariateEffect)]
    return [one for one in levels if isinstance(one, LevelEffect)]


def _add_levels(effect: LevelEffect, n: int) -> LevelEffect:
    """Add levels that are as an unknown one, in place; returns the same."""
    average = (effect.share @ effect.table).detach()
    effect.table = nn.Parameter(torch.cat([effect.table.detach(), average.expand(n, -1)]))
    effect.share = torch.cat([effect.share, effect.share.new_zeros(n)])
    return effect


def _widen_dispersion(network: NVAE, n: int) -> None:
    """Give new batches the dispersion of an unknown one, where each batch has its own, in place."""
    likelihood = network.likelihood
    if isinstance(likelihood, NegativeBinomial) and likelihood.n_batches:
        known = likelihood.log_dispersion.detach()
        likelihood.log_dispersion = nn.Parameter(torch.cat([known, known.mean(0, keepdim=True).expand(n, -1)]))
        likelihood.n_batches += n


def _fit(
    network: NVAE, samples: Samples, rows: Tensor, effect: LevelEffect, n_steps: int, seed: int
) -> tuple[float, float]:
    """Fit the rows of new levels; the mean log p(x|y,z) at the first and the last step, nats a sample.

    The KL does not depend on them: the encoder stays.
    """
    known, device = effect.share > 0, effect.table.device
    start, table = effect.table.detach().clone(), effect.table
    var = (start[known] - effect.share @ start).square().mean().clamp_min(1e-6)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter is table)
    table.register_hook(lambda gradient: gradient.masked_fill(known[:, None], 0))
    optimizer = torch.optim.Adam([table], lr=STEP_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    generator, found = make_generator(device, seed, 5), []
    for step in range(n_steps):
        order = np.random.default_rng((seed, step)).permutation(len(rows))[:BATCH_SIZE]
        batch = samples.take(rows[np.sort(order)]).to(device)
        log_likelihood = _log_likelihood(network, batch, generator)
        prior = -(table - start).square().sum() / (2 * var)
        optimizer.zero_grad()
        (-(log_likelihood.mean() + prior / len(rows))).backward()
        optimizer.step()
        schedule.step()
        found.append(float(log_likelihood.detach().mean()))
    network.requires_grad_(True)
    return found[0], found[-1]


def _log_likelihood(network: NVAE, batch: Batch, generator: torch.Generator) -> Tensor:
    """log p(x|y,z) at one draw of z, under the class that the classifier finds likeliest, (batch,)."""
    with torch.no_grad():
        posterior, class_log_prob = network.infer(batch)
        block = network.block(class_log_prob.argmax(1))
        noise = torch.randn(batch.n, network.n_shared + network.n_private, generator=generator, device=batch.x.device)
        shared, own = network.draw(posterior, posterior.own(block), noise)
    log_likelihood: Tensor = network.likelihood.log_prob(network.decoder(shared, own, block, batch.covariates), batch)
    return log_likelihood
