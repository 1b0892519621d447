"""The step: both embeddings of every sample, and what each factor does to each feature."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from anndata import AnnData

import nvae_bio
from nvae_bio import schema
from nvae_bio.config import EmbeddingSettings
from nvae_bio.data.files import read_prepared, write_anndata
from nvae_bio.embed.effects import DecodedEffects, decoded_effects
from nvae_bio.embed.encode import Encoded, encode, shared_gain
from nvae_bio.machine import pick_device, reproducible
from nvae_bio.model import Posterior
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

MIN_NEIGHBORS = 15  # of a UMAP; a class with fewer samples gets none


def embed_data(
    prepared: AnnData, trained: TrainedModel, settings: EmbeddingSettings | None = None, seed: int | None = None
) -> AnnData:
    """A copy of `prepared` with both embeddings and all that the factor report needs.

    Args:
        prepared: what `prepare_data` returned, or other samples with the same features.
        trained: the model.
        settings: draws, effects, layout; the defaults if None.
        seed: of draws and layout; the model's own if None.

    Returns:
        AnnData with `obsm` X_nvae_shared (n, S), X_nvae_specific (n, K), X_nvae (n, S + C·K), their standard
        deviations, nvae_class_probability (n, C), nvae_kl_shared (n, S), nvae_kl_private (n, C·K),
        nvae_gain_specific (n, K) and nvae_gain_shared (n, S; NaN in training samples) in nats, X_umap (n, 2), NaN
        where not laid out; `obs` nvae_label, nvae_confidence, nvae_elbo and nvae_gain_specific (nats); `varm`
        nvae_effect_shared (G, S), nvae_effect_shared_class_{i} (G, S) and nvae_effect_class_{i} (G, K), each with
        `_lower` and `_upper`; `uns["nvae"]`. A key whose width would be 0 (no shared or no private latent) is left
        out.

    Raises:
        UserError: the data are of another kind or have other features than the model, lack a covariate, or have values
            that it cannot score.
    """
    settings, seed = settings or EmbeddingSettings(), trained.card.seed if seed is None else seed
    trained.check_data(prepared)
    training = trained.card.settings.training
    samples = trained.card.samples_of(prepared)
    with reproducible(training.threads):
        device = pick_device(training.device)
        encoded = encode(trained.network.to(device), samples, settings.n_draws, seed, trained.card.temperature)
        rows = _labelled_held_out(prepared, trained)
        gain = shared_gain(trained.network, samples, rows, settings.n_draws, seed)
        trained.network.cpu()
        effects = decoded_effects(trained.network, samples, encoded, settings.n_effect_samples, seed)
    adata = prepared.copy()
    _write_posterior(adata, encoded, trained)
    if trained.network.n_shared:
        adata.obsm[schema.GAIN_SHARED] = np.full((adata.n_obs, trained.network.n_shared), np.nan, np.float32)
        adata.obsm[schema.GAIN_SHARED][rows.numpy()] = gain.numpy()
    _write_effects(adata, effects, trained)
    adata.uns[schema.MODEL] = _provenance(trained, seed)
    if settings.umap:
        _write_umaps(adata, encoded, settings.umap_max_samples, seed)
    return adata


def _labelled_held_out(prepared: AnnData, trained: TrainedModel) -> torch.Tensor:
    """Places of the samples by which factors are judged: those with a class of the model that do not train."""
    is_known = prepared.obs[schema.LABEL].astype(str).isin(trained.card.classes)
    held_out = prepared.obs[schema.SPLIT] != "train" if schema.SPLIT in prepared.obs else ~is_known | is_known
    return torch.from_numpy(np.flatnonzero(is_known & held_out))


def _write_posterior(adata: AnnData, encoded: Encoded, trained: TrainedModel) -> None:
    network, classes = trained.network, np.array(trained.card.classes)
    block = network.block(encoded.label)
    own = Posterior(encoded.shared, encoded.private).own(block)
    mask = F.one_hot(block, network.n_blocks)[:, :, None]
    masked = (encoded.private.mean * mask).flatten(1)
    tables = {
        schema.SHARED: encoded.shared.mean,
        schema.SPECIFIC: own.mean,
        schema.JOINT: torch.cat([encoded.shared.mean, masked], dim=1),
        schema.SHARED_STD: encoded.shared.log_std.exp(),
        schema.SPECIFIC_STD: own.log_std.exp(),
        schema.CLASS_PROBABILITY: encoded.class_probability,
        schema.KL_SHARED: encoded.shared.kl(),
        schema.KL_PRIVATE: encoded.private.kl().flatten(1),
        schema.GAIN: encoded.gain,
    }
    for key, table in tables.items():
        if table.shape[1] > 0:
            adata.obsm[key] = table.numpy()
    confidence, predicted = encoded.class_probability.max(1)
    adata.obs[schema.PREDICTED] = pd.Categorical(classes[predicted.numpy()], categories=list(classes))
    adata.obs[schema.CONFIDENCE] = confidence.numpy()
    adata.obs[schema.ELBO] = encoded.elbo.numpy()
    if network.n_private:
        adata.obs[schema.GAIN] = encoded.block_gain.numpy()


def _write_effects(adata: AnnData, effects: DecodedEffects, trained: TrainedModel) -> None:
    by_key = {schema.EFFECT_SHARED: effects.shared} if trained.network.n_shared else {}
    if trained.network.n_shared:
        by_key |= {schema.effect_shared_class(index): of_class for index, of_class in effects.by_class.items()}
    if trained.network.n_private:
        by_key |= {schema.effect_class(index): of_class for index, of_class in effects.private.items()}
    for key, found in by_key.items():
        adata.varm[key] = found.mean
        adata.varm[f"{key}_lower"], adata.varm[f"{key}_upper"] = found.lower, found.upper


def _provenance(trained: TrainedModel, seed: int) -> dict[str, object]:
    card, network = trained.card, trained.network
    return {
        "version": nvae_bio.__version__,
        "settings": card.settings.model_dump_json(),
        "covariates": card.covariates.model_dump_json(),
        "variant": card.settings.model.variant,
        "classes": np.array(card.classes, dtype=object),
        "seed": card.seed,
        "embedding_seed": seed,
        "fingerprint": card.fingerprint,
        "kind": card.kind,
        "likelihood": card.likelihood,
        "effect_unit": network.likelihood.effect_unit,
        "n_shared": network.n_shared,
        "n_private": network.n_private,
        "calibrated": card.calibration is not None,
    }


def _umap(embedding: np.ndarray, seed: int) -> np.ndarray:
    """scanpy's UMAP of an embedding, (n, 2), on its exact neighbours.

    scikit-learn finds them: for so few samples and dims it is faster than the time in which the approximate search of
    scanpy's default is compiled.
    """
    import scanpy as sc

    adata = AnnData(obs=pd.DataFrame(index=[str(row) for row in range(len(embedding))]), obsm={"X": embedding})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn and numba speak of their own threads and deprecations
        n_neighbors = min(MIN_NEIGHBORS, len(embedding) - 1)
        sc.pp.neighbors(adata, use_rep="X", n_neighbors=n_neighbors, transformer="sklearn", random_state=seed)
        sc.tl.umap(adata, random_state=seed)
    return np.asarray(adata.obsm["X_umap"])


def _write_umaps(adata: AnnData, encoded: Encoded, max_samples: int, seed: int) -> None:
    """X_umap of the shared embedding; of the specific one, class by class, where it has more than two dims.

    Samples beyond `max_samples`, drawn at random, and those of classes too small for a layout have NaN.
    """
    drawn = np.zeros(adata.n_obs, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(adata.n_obs)[:max_samples]] = True
    if schema.SHARED in adata.obsm:
        adata.obsm[schema.UMAP] = _layout(adata.obsm[schema.SHARED], [drawn], seed)
    if schema.SPECIFIC in adata.obsm and adata.obsm[schema.SPECIFIC].shape[1] > 2:
        groups = [drawn & (encoded.label == index).numpy() for index in encoded.label.unique().tolist()]
        adata.obsm[schema.SPECIFIC_UMAP] = _layout(adata.obsm[schema.SPECIFIC], groups, seed)


def _layout(embedding: np.ndarray, groups: list[np.ndarray], seed: int) -> np.ndarray:
    """A UMAP of each group of rows by itself, (n, 2); NaN in no group, or in one that is too small."""
    layout = np.full((len(embedding), 2), np.nan, dtype=np.float32)
    for rows in groups:
        if rows.sum() > MIN_NEIGHBORS:
            layout[rows] = _umap(embedding[rows], seed)
    return layout


def embed(data: Path, weights: Path, card: Path, output: Path, settings: EmbeddingSettings) -> None:
    """Read a prepared file and a model, embed, and write an .h5ad."""
    prepared, trained = read_prepared(data), load_model(weights, card)
    embedded = embed_data(prepared, trained, settings)
    write_anndata(embedded, output)
    logger.info("%d samples embedded; mean ELBO %.2f nats", embedded.n_obs, embedded.obs[schema.ELBO].mean())
