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
from nvae_bio.data.atomic import scratch_folder
from nvae_bio.data.files import open_prepared, read_prepared, write_anndata, write_beside_matrix
from nvae_bio.data.store import ROW, Store, open_store
from nvae_bio.embed.effects import DecodedEffects, decoded_effects
from nvae_bio.embed.encode import Encoded, Room, encode, in_memory, shared_gain
from nvae_bio.machine import pick_device, reproducible
from nvae_bio.model import Posterior
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

ROWS = 65_536  # samples whose tables are made at a time
MIN_NEIGHBORS = 15  # of a UMAP; a class with fewer samples gets none
EFFECT_UNITS = {
    "counts": "log2 fold change of 1 + counts per 10,000",
    "images": "change of pixel intensity",
    "features": "change in feature units",
}  # of what a factor does, by the kind of data


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
    adata = prepared.copy()
    _embed_into(adata, prepared, trained, settings or EmbeddingSettings(), seed)
    return adata


def _embed_into(
    adata: AnnData,
    data: AnnData | Store,
    trained: TrainedModel,
    settings: EmbeddingSettings,
    seed: int | None,
    place: torch.Tensor | None = None,
    room: Room = in_memory,
) -> None:
    """Add both embeddings, and all that the factor report needs, to an AnnData.

    Args:
        adata: is changed.
        data: of the same samples, what they are read from.
        trained: the model.
        settings: draws, effects, layout.
        seed: of draws and layout; the model's own if None.
        place: where each sample of `adata` is in `data`, (n,); None for the same order.
        room: makes the tensors that hold a row a sample.

    Raises:
        UserError: as `embed_data`.
    """
    seed = trained.card.seed if seed is None else seed
    trained.check_data(data)
    training, network = trained.card.settings.training, trained.network
    samples = trained.card.samples_of(data)
    with reproducible(training.threads):
        device = pick_device(training.device)
        encoded = encode(network.to(device), samples, settings.n_draws, seed, trained.card.temperature, room)
        rows = _labelled_held_out(data, trained)
        gain = shared_gain(network, samples, rows, settings.n_draws, seed)
        network.cpu()
        effects = decoded_effects(network, samples, encoded, settings.n_effect_samples, seed)
    place = torch.arange(len(encoded)) if place is None else place
    _write_posterior(adata, encoded, place, trained, room)
    if network.n_shared:
        of_all = torch.full((len(encoded), network.n_shared), torch.nan)
        of_all[rows] = gain
        adata.obsm[schema.GAIN_SHARED] = of_all[place].numpy()
    _write_effects(adata, effects, trained)
    adata.uns[schema.MODEL] = provenance(trained, seed)
    if settings.umap:
        _write_umaps(adata, encoded, place, settings.umap_max_samples, seed)


def _labelled_held_out(prepared: AnnData | Store, trained: TrainedModel) -> torch.Tensor:
    """Places of the samples by which factors are judged: those with a class of the model that do not train."""
    is_known = prepared.obs[schema.LABEL].astype(str).isin(trained.card.classes)
    held_out = prepared.obs[schema.SPLIT] != "train" if schema.SPLIT in prepared.obs else ~is_known | is_known
    return torch.from_numpy(np.flatnonzero(is_known & held_out))


def _write_posterior(adata: AnnData, encoded: Encoded, place: torch.Tensor, trained: TrainedModel, room: Room) -> None:
    """The posterior of each sample, some samples at a time."""
    tables: dict[str, torch.Tensor] = {}
    columns: dict[str, list[np.ndarray]] = {}
    done = 0
    for rows in place.split(ROWS):
        of_rows, of_obs = _posterior_of(encoded.take(rows), trained)
        for key, table in of_rows.items():
            if key not in tables:
                tables[key] = room((len(place), *table.shape[1:]), table.dtype)
            tables[key][done : done + len(rows)] = table
        for key, column in of_obs.items():
            columns.setdefault(key, []).append(column.numpy())
        done += len(rows)
    for key, table in tables.items():
        adata.obsm[key] = table.numpy()
    classes, found = trained.card.classes, {key: np.concatenate(parts) for key, parts in columns.items()}
    for key, values in found.items():
        is_class = key == schema.PREDICTED
        adata.obs[key] = pd.Categorical(np.array(classes)[values], categories=classes) if is_class else values


def _posterior_of(encoded: Encoded, trained: TrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Tables and columns of some samples, by their keys in obsm and obs; tables without a column are left out."""
    network = trained.network
    tables = latent_tables(Posterior(encoded.shared, encoded.private), network.block(encoded.label))
    tables |= {schema.CLASS_PROBABILITY: encoded.class_probability, schema.GAIN: encoded.gain}
    confidence, predicted = encoded.class_probability.max(1)
    columns = {schema.PREDICTED: predicted, schema.CONFIDENCE: confidence, schema.ELBO: encoded.elbo}
    if network.n_private:
        columns[schema.GAIN] = encoded.block_gain
    return {key: table for key, table in tables.items() if table.shape[1] > 0}, columns


def latent_tables(posterior: Posterior, block: torch.Tensor) -> dict[str, torch.Tensor]:
    """The latents of some samples by their keys in obsm.

    Args:
        posterior: q(z_s|x) (n, S) and q(z_c|x) (n, C, K).
        block: which block is the sample's own, (n,).
    """
    (shared, private), own = posterior, posterior.own(block)
    masked = (private.mean * F.one_hot(block, private.mean.shape[1])[:, :, None]).flatten(1)
    return {
        schema.SHARED: shared.mean,
        schema.SPECIFIC: own.mean,
        schema.JOINT: torch.cat([shared.mean, masked], dim=1),
        schema.SHARED_STD: shared.log_std.exp(),
        schema.SPECIFIC_STD: own.log_std.exp(),
        schema.KL_SHARED: shared.kl(),
        schema.KL_PRIVATE: private.kl().flatten(1),
    }


def _write_effects(adata: AnnData, effects: DecodedEffects, trained: TrainedModel) -> None:
    by_key = {schema.EFFECT_SHARED: effects.shared} if trained.network.n_shared else {}
    if trained.network.n_shared:
        by_key |= {schema.effect_shared_class(index): of_class for index, of_class in effects.by_class.items()}
    if trained.network.n_private:
        by_key |= {schema.effect_class(index): of_class for index, of_class in effects.private.items()}
    for key, found in by_key.items():
        adata.varm[key] = found.mean
        adata.varm[f"{key}_lower"], adata.varm[f"{key}_upper"] = found.lower, found.upper


def provenance(trained: TrainedModel, seed: int) -> dict[str, object]:
    """`uns["nvae"]` of what a model made of samples.

    Args:
        trained: the model.
        seed: of draws and layout.
    """
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
        "effect_unit": EFFECT_UNITS[card.kind],
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


def _write_umaps(adata: AnnData, encoded: Encoded, place: torch.Tensor, max_samples: int, seed: int) -> None:
    """X_umap of the shared embedding; of the specific one, class by class, where it has more than two dims.

    Samples beyond `max_samples`, drawn at random, and those of classes too small for a layout have NaN.
    """
    drawn = np.zeros(adata.n_obs, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(adata.n_obs)[:max_samples]] = True
    if schema.SHARED in adata.obsm:
        adata.obsm[schema.UMAP] = _layout(adata.obsm[schema.SHARED], [drawn], seed)
    if schema.SPECIFIC in adata.obsm and adata.obsm[schema.SPECIFIC].shape[1] > 2:
        label = encoded.label[place]
        groups = [drawn & (label == index).numpy() for index in label.unique().tolist()]
        adata.obsm[schema.SPECIFIC_UMAP] = _layout(adata.obsm[schema.SPECIFIC], groups, seed)


def _layout(embedding: np.ndarray, groups: list[np.ndarray], seed: int) -> np.ndarray:
    """A UMAP of each group of rows by itself, (n, 2); NaN in no group, or in one that is too small."""
    layout = np.full((len(embedding), 2), np.nan, dtype=np.float32)
    for rows in groups:
        if rows.sum() > MIN_NEIGHBORS:
            layout[rows] = _umap(embedding[rows], seed)
    return layout


def embed(
    data: Path, weights: Path, card: Path, output: Path, settings: EmbeddingSettings, store: Path | None = None
) -> None:
    """Read a prepared file and a model, embed, and write an .h5ad.

    Args:
        data: prepared file.
        weights: of the model.
        card: of the model.
        output: .h5ad to write; or, with a store, .zarr as well.
        settings: draws, effects, layout.
        store: the packed store of the same data; samples are then read, and written, some thousand at a time.

    Raises:
        UserError: as `embed_data`; or the store is of other data.
    """
    trained = load_model(weights, card)
    if store is None:
        embedded = embed_data(read_prepared(data), trained, settings)
        write_anndata(embedded, output)
    else:
        embedded = _embed_store(data, store, trained, output, settings)
    logger.info("%d samples embedded; mean ELBO %.2f nats", embedded.n_obs, embedded.obs[schema.ELBO].mean())


def _embed_store(data: Path, store: Path, trained: TrainedModel, output: Path, settings: EmbeddingSettings) -> AnnData:
    """Embed from a store, and write all but the matrix from room on the disk, and the matrix as it is in the file."""
    with open_prepared(data) as prepared:
        adata = AnnData(obs=prepared.obs.copy(), var=prepared.var.copy(), uns=dict(prepared.uns))
    packed = open_store(store, str(adata.uns[schema.DATA]["fingerprint"]))
    place = torch.from_numpy(np.argsort(packed.obs[ROW].to_numpy()))
    with scratch_folder(output) as scratch:
        _embed_into(adata, packed, trained, settings, None, place, _room_in(scratch))
        write_beside_matrix(adata, data, output)
    return AnnData(obs=adata.obs)


def _room_in(folder: Path) -> Room:
    """Makes tensors that lie in files of a folder."""

    def room(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        name = folder / str(len(list(folder.iterdir())))
        return torch.from_numpy(np.memmap(name, kind, "w+", shape=shape))

    return room
