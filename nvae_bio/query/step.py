"""The step: new samples placed in a trained model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.card import ModelCard
from nvae_bio.config import QuerySettings
from nvae_bio.data.files import read_prepared, write_anndata
from nvae_bio.data.samples import class_index
from nvae_bio.embed import latent_tables, provenance
from nvae_bio.errors import UserError
from nvae_bio.query.adapt import adapt_model, of_new_batches
from nvae_bio.query.certainty import ClassPosterior, Strangeness, class_p, novelty
from nvae_bio.query.distance import Classed, training_distances
from nvae_bio.query.read import Query, read_query, reference_query
from nvae_bio.query.score import Scores, score_query
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

N_FOLDS = 5  # in which the probabilities of reference samples are foretold
N_LISTED = 1000  # features that lack, by name
LEAST = 10  # reference samples
MAX_TRAIN = 20_000  # training samples that distances are taken from
SEPARATOR = " | "  # between the classes of a set


def map_query(
    trained: TrainedModel,
    reference: AnnData,
    query: AnnData | None = None,
    settings: QuerySettings | None = None,
    seed: int | None = None,
) -> AnnData:
    """Latents, classes with their certainty, and novelty of new samples; the model stays as it is.

    All that is said of certainty is measured on reference samples that did not train: the validation part of the data
    set. Where features of the new samples lack, these are taken from the reference samples too.

    Args:
        trained: the model; told classes.
        reference: the prepared data set of the model: its labelled training and validation samples are looked at.
        query: the new samples, in the form of the data set's source; None: those at `settings.paths`. Not changed.
        settings: the defaults if None.
        seed: of draws; the model's own if None.

    Returns:
        New samples × model features, 0 where not measured. obsm: X_nvae_shared (n, S), X_nvae_specific (n, K; of the
        likeliest class), X_nvae (n, S + C·K) and their deviations and KL (nats) as `embed_data` has them;
        nvae_class_probability (n, C), calibrated; nvae_class_p (n, C); nvae_bound (n, C), nats; nvae_strangeness.
        obs: nvae_label, nvae_confidence, nvae_elbo (nats), nvae_set, nvae_set_size, nvae_novelty, nvae_novelty_p,
        nvae_novel; label where the source has one. uns["nvae_query"]: coverage and all that was decided.

    Raises:
        UserError: samples that cannot be read, of another kind, with too few of the features, or nearly all novel; a
            model without classes; a reference without samples that trained or without some that did not.
    """
    settings, card = settings or QuerySettings(), trained.card
    train, known = reference_parts(reference, card)
    asked = read_query(settings, known, card, query)
    adata = place_query(trained, train, known, asked, settings, seed)
    _tell(adata, asked, settings)
    return adata


def place_query(
    trained: TrainedModel, train: Query, known: Query, asked: Query, settings: QuerySettings, seed: int | None = None
) -> AnnData:
    """What `map_query` returns, of samples that are read already, however many are novel.

    Args:
        trained: the model.
        train: labelled training samples.
        known: labelled reference samples.
        asked: the new samples.
        settings: how they are placed.
        seed: of draws; the model's own if None.

    Raises:
        UserError: a model without classes, too few reference samples, or nothing to adapt.
    """
    card, seed = trained.card, trained.card.seed if seed is None else seed
    if not trained.network.uses_label:
        raise UserError("the model is told no classes (variant 'vae'), so that none can be found; allowed: the others")
    adapted = None
    if settings.adapt:
        trained = adapt_model(trained, asked, settings, seed)
        adapted = of_new_batches(asked, card)
    train, known = train.masked(asked), known.masked(asked)
    if known.adata.n_obs < LEAST:
        raise UserError(f"the reference has {known.adata.n_obs} labelled validation samples; allowed: {LEAST} or more")
    of_known, of_asked = (score_query(one, trained, settings.n_draws, seed) for one in (known, asked))
    if 1 / (1 + known.adata.n_obs) > settings.novelty_level:
        logger.warning(
            "%d reference samples are too few to call a sample novel at novelty_level %g; allowed: %.2g or more",
            known.adata.n_obs, settings.novelty_level, 1 / (1 + known.adata.n_obs),
        )  # fmt: skip
    label, adata = class_index(known.adata.obs, card.classes), asked.adata.copy()
    posterior, foretold = ClassPosterior.fit(of_known, label), _foretold(of_known, label)
    log_prob = posterior.log_prob(of_asked)
    likeliest = [one.argmax(1) for one in (foretold, log_prob)]
    _write_latents(adata, of_asked, likeliest[1])
    _write_classes(adata, np.exp(log_prob), of_asked, card.classes)
    p = class_p(np.exp(foretold), label, np.exp(log_prob), settings.error)
    _write_sets(adata, p, card.classes, settings.error)
    trained_on = Classed(train, class_index(train.adata.obs, card.classes))
    sets = [Classed(*one) for one in zip((known, asked), likeliest, strict=True)]
    distances = training_distances(trained, trained_on, sets[0], sets[1], adapted)
    usual, strange = (
        Strangeness.of(scores, found, of_known, label, far)
        for scores, found, far in zip((of_known, of_asked), likeliest, distances, strict=True)
    )
    _write_novelty(adata, strange, usual, settings.novelty_level)
    adata.uns[schema.MODEL] = provenance(trained, seed) | {"calibrated": True}
    adata.uns[schema.QUERY] = _record(asked, known, posterior, adata, settings)
    return adata


def reference_parts(reference: AnnData, card: ModelCard) -> tuple[Query, Query]:
    """Labelled training samples, `MAX_TRAIN` at most and evenly of classes, and labelled validation samples.

    Raises:
        UserError: none of the one or the other, or other features than the model's.
    """
    label, parts = class_index(reference.obs, card.classes), []
    for part in ("train", "validation"):
        rows = np.flatnonzero((reference.obs[schema.SPLIT] == part).to_numpy() & (label >= 0))
        if not len(rows):
            raise UserError(f"the reference has no labelled {part} sample; allowed: the prepared data set of the model")
        if part == "train" and len(rows) > MAX_TRAIN:
            rows, most = np.random.default_rng(0).permutation(rows), MAX_TRAIN // len(card.classes)
            rows = np.sort(np.concatenate([rows[label[rows] == y][:most] for y in range(len(card.classes))]))
        parts.append(reference_query(reference[rows].copy(), card))
    return parts[0], parts[1]


def _foretold(scores: Scores, label: np.ndarray) -> np.ndarray:
    """log p(y|x) of the classes for each reference sample, by what is fitted to the others, (m, C)."""
    found = np.empty_like(scores.class_log_prob)
    fold = np.random.default_rng(0).permutation(len(label)) % N_FOLDS
    for number in range(N_FOLDS):
        inside = fold == number
        posterior = ClassPosterior.fit(scores.take(~inside), label[~inside])
        found[inside] = posterior.log_prob(scores.take(inside))
    return found


def _write_latents(adata: AnnData, scores: Scores, found: np.ndarray) -> None:
    for key, table in latent_tables(scores.posterior, torch.from_numpy(found)).items():
        if table.shape[1]:
            adata.obsm[key] = table.numpy()


def _write_classes(adata: AnnData, probability: np.ndarray, scores: Scores, classes: list[str]) -> None:
    rows, found = np.arange(len(probability)), probability.argmax(1)
    adata.obsm[schema.CLASS_PROBABILITY] = probability.astype(np.float32)
    adata.obsm[schema.BOUND] = scores.bound.astype(np.float32)
    adata.obs[schema.PREDICTED] = pd.Categorical(np.array(classes)[found], categories=classes)
    adata.obs[schema.CONFIDENCE] = probability[rows, found]
    adata.obs[schema.ELBO] = scores.bound[rows, found]


def _write_sets(adata: AnnData, p: np.ndarray, classes: list[str], error: float) -> None:
    names, inside = np.array(classes, dtype=object), p > error
    adata.obsm[schema.CLASS_P] = p
    adata.obs[schema.CLASS_SET] = [SEPARATOR.join(names[row]) for row in inside]
    adata.obs[schema.CLASS_SET_SIZE] = inside.sum(1)


def _write_novelty(adata: AnnData, asked: Strangeness, known: Strangeness, level: float) -> None:
    how, p = novelty(asked, known)
    adata.obs[schema.NOVELTY], adata.obs[schema.NOVELTY_P], adata.obs[schema.NOVEL] = how, p, p <= level
    adata.obsm[schema.STRANGENESS] = pd.DataFrame(asked._asdict(), index=adata.obs_names)


def _record(
    asked: Query, known: Query, posterior: ClassPosterior, adata: AnnData, settings: QuerySettings
) -> dict[str, Any]:
    lacking = np.array(asked.adata.var_names, dtype=object)[~asked.measured]
    return {
        "settings": settings.model_dump_json(),
        "coverage": asked.coverage,
        "n_measured": int(asked.measured.sum()),
        "n_extra": asked.n_extra,
        "lacking": lacking[np.argsort(-asked.typical[~asked.measured], kind="stable")][:N_LISTED],
        "has_rest": asked.has_rest,
        "n_reference": known.adata.n_obs,
        "posterior_classifier": posterior.of_classifier,
        "posterior_bound": posterior.of_bound,
        "posterior_intercept": posterior.intercept,
        "n_novel": int(adata.obs[schema.NOVEL].sum()),
        "removed": asked.removed,
    }


def _tell(adata: AnnData, asked: Query, settings: QuerySettings) -> None:
    """Say how it went, and refuse what the model knows nothing of.

    Raises:
        UserError: more novel samples than `max_novel`.
    """
    n, n_novel = adata.n_obs, int(adata.obs[schema.NOVEL].sum())
    n_of_size = np.bincount(np.minimum(adata.obs[schema.CLASS_SET_SIZE], 2), minlength=3)
    logger.info(
        "%d samples; coverage %.2f: %d features of the model lack, %d are not in it%s", n, asked.coverage,
        int((~asked.measured).sum()), asked.n_extra, "" if asked.has_rest else "; counts relative to the model's genes",
    )  # fmt: skip
    logger.info(
        "%d novel (by chance %.0f); at error %g, %d may be of one class, %d of several, %d of none", n_novel,
        settings.novelty_level * n, settings.error, n_of_size[1], n_of_size[2], n_of_size[0],
    )  # fmt: skip
    if n_novel > settings.max_novel * n:
        raise UserError(
            f"query: {n_novel} of {n} samples are novel to the model ({n_novel / n:.0%}); allowed: max_novel "
            f"{settings.max_novel:g}; other data than it was trained on (matrix, tissue, size of pictures)?"
        )


def query(data: Path, weights: Path, card: Path, output: Path, settings: QuerySettings) -> None:
    """Read a model, its prepared data set and new samples; write these, mapped, as .h5ad.

    Args:
        data: prepared data set of the model.
        weights, card: of the model.
        output: .h5ad to write.
        settings: the new samples.

    Raises:
        UserError: as `map_query`.
    """
    if not settings.paths:
        raise UserError("query: paths: none; allowed: the files of the new samples")
    mapped = map_query(load_model(weights, card), read_prepared(data), settings=settings)
    write_anndata(mapped, output)
