"""Samples and traversals drawn from a trained model (the verb `generate`, the rule `generate_samples`)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

import nvae_bio
from nvae_bio import schema
from nvae_bio.config import GenerationSettings
from nvae_bio.data.batch import Covariates
from nvae_bio.data.files import read_prepared, write_anndata
from nvae_bio.data.join import free_name
from nvae_bio.data.samples import make_generator, sizes_of
from nvae_bio.errors import UserError
from nvae_bio.machine import reproducible
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

MEAN = "mean"  # layer: the decoder's mean
CPU = torch.device("cpu")


def _training_rows(prepared: AnnData, trained: TrainedModel) -> list[np.ndarray]:
    """Rows of the training samples of each class."""
    train = prepared.obs[schema.SPLIT] == "train"
    return [np.flatnonzero(train & (prepared.obs[schema.LABEL] == name)) for name in trained.card.classes]


def _take_after(
    obs: pd.DataFrame, prepared: AnnData, trained: TrainedModel, label: Tensor, rng: np.random.Generator
) -> tuple[Tensor | None, Covariates | None]:
    """Library (counts) and covariates of a random training sample of each label's class, recorded in `obs` (in place).

    Raises:
        UserError: a class has no training sample to take after.
    """
    is_counts, told = trained.card.kind == "counts", trained.card.covariates
    if not (is_counts or told):
        return None, None
    rows = _training_rows(prepared, trained)
    for name, of_class in zip(trained.card.classes, rows, strict=True):
        if len(of_class) == 0:
            raise UserError(f"class {name!r} has no training sample, whose library or covariates could be drawn")
    taken = prepared.obs.iloc[[rng.choice(rows[index]) for index in label.tolist()]]
    library = None
    if is_counts:
        size = trained.card.settings.model.size
        library = torch.tensor(sizes_of(taken, size).to_numpy(np.float32))
        obs[size] = library.numpy()
    for name in told.names:
        obs[free_name(name, obs.columns) if name in obs else name] = taken[name].array
    return library, told.read(taken) if told else None


def _as_anndata(
    matrix: Tensor, obs: pd.DataFrame, prepared: AnnData, trained: TrainedModel, seed: int, latent: Tensor
) -> AnnData:
    obs.index = pd.Index([str(row) for row in range(len(obs))])
    obs[schema.LABEL] = pd.Categorical(obs[schema.LABEL], categories=trained.card.classes)
    model = {"version": nvae_bio.__version__, "seed": trained.card.seed, "generation_seed": seed}
    model |= {"kind": trained.card.kind, "variant": trained.card.settings.model.variant}
    model["classes"] = np.array(trained.card.classes, dtype=object)
    if trained.card.image_shape is not None:
        model["image_shape"] = np.array(trained.card.image_shape)
    return AnnData(
        X=matrix.numpy(), obs=obs, var=prepared.var.copy(), uns={schema.MODEL: model}, obsm={"z": latent.numpy()}
    )


@torch.no_grad()
def generate_samples(
    trained: TrainedModel, prepared: AnnData, settings: GenerationSettings | None = None, seed: int | None = None
) -> AnnData:
    """Ancestral samples of each class: z ~ N(0, σ²), then x ~ p(x|y, z).

    Args:
        trained: the model.
        prepared: the data it was trained on: names the features and gives each sample the library, in counts, and the
            covariates of a random training sample of its class.
        settings: σ of each set and samples a class; the defaults if None.
        seed: of the draws; the model's own if None.

    Returns:
        AnnData (σ × classes × n_per_class, features): X drawn from the likelihood, `layers["mean"]` its mean,
        `obs` label, sigma and covariates (and library or size_factor, in counts), `obsm["z"]` (n, S + K) the latent.

    Raises:
        UserError: the data do not fit the model, or have no training sample of a class.
    """
    settings, seed = settings or GenerationSettings(), trained.card.seed if seed is None else seed
    trained.check_data(prepared)
    network, n_classes = trained.network, len(trained.card.classes)
    generator = make_generator(CPU, seed, 1)
    grid = pd.MultiIndex.from_product(
        [settings.sigmas, range(n_classes), range(settings.n_per_class)], names=["sigma", "class", "draw"]
    ).to_frame(index=False)
    label = torch.tensor(grid["class"].to_numpy())
    sigma = torch.tensor(grid["sigma"].to_numpy(), dtype=torch.float32)[:, None]
    obs = pd.DataFrame({schema.LABEL: np.array(trained.card.classes)[label], "sigma": grid["sigma"]})
    library, covariates = _take_after(obs, prepared, trained, label, np.random.default_rng((seed, 1)))
    with reproducible(trained.card.settings.training.threads):
        z = sigma * torch.randn(len(obs), network.n_shared + network.n_private, generator=generator)
        decoded = network.decode(z[:, : network.n_shared], z[:, network.n_shared :], label, library, covariates)
        adata = _as_anndata(decoded.sample(generator), obs, prepared, trained, seed, z)
        adata.layers[MEAN] = decoded.mean.numpy()
    return adata


@torch.no_grad()
def traverse_factors(trained: TrainedModel, prepared: AnnData, settings: GenerationSettings | None = None) -> AnnData:
    """The decoder's mean as one factor moves and all others stay at 0, for each factor and class.

    Covariates are at their average.

    Args:
        trained: the model.
        prepared: the data it was trained on; for counts every class is decoded at its median training library.
        settings: steps and span; the defaults if None.

    Returns:
        AnnData ((S + K) × classes × n_steps, features): X is the mean, `obs` kind (shared, private), dim, label, value
        (of the factor, in prior standard deviations), `obsm["z"]` (n, S + K).

    Raises:
        UserError: the data do not fit the model.
    """
    settings = settings or GenerationSettings()
    trained.check_data(prepared)
    network, n_classes = trained.network, len(trained.card.classes)
    n_latent = network.n_shared + network.n_private
    values = np.linspace(-settings.span, settings.span, settings.n_steps)
    grid = pd.MultiIndex.from_product(
        [range(n_latent), range(n_classes), values], names=["latent", "class", "value"]
    ).to_frame(index=False)
    latent = torch.tensor(grid["latent"].to_numpy())
    label = torch.tensor(grid["class"].to_numpy())
    z = torch.zeros(len(grid), n_latent)
    z[torch.arange(len(grid)), latent] = torch.tensor(grid["value"].to_numpy(), dtype=torch.float32)
    is_shared = grid["latent"] < network.n_shared
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(np.where(is_shared, "shared", "private"), categories=["shared", "private"]),
            "dim": grid["latent"].where(is_shared, grid["latent"] - network.n_shared),
            schema.LABEL: np.array(trained.card.classes)[label],
            "value": grid["value"],
        }
    )
    library = None
    if trained.card.kind == "counts":
        libraries = sizes_of(prepared.obs, trained.card.settings.model.size).to_numpy(np.float32)
        medians = [float(np.median(libraries[rows])) for rows in _training_rows(prepared, trained)]
        library = torch.tensor(medians)[label]
    with reproducible(trained.card.settings.training.threads):
        mean = network.decode(z[:, : network.n_shared], z[:, network.n_shared :], label, library).mean
    return _as_anndata(mean, obs, prepared, trained, trained.card.seed, z)


def generate(
    data: Path, weights: Path, card: Path, samples: Path, traversals: Path, settings: GenerationSettings
) -> None:
    """Read a prepared file and its model; write ancestral samples and traversals as .h5ad."""
    prepared, trained = read_prepared(data), load_model(weights, card)
    drawn, moved = generate_samples(trained, prepared, settings), traverse_factors(trained, prepared, settings)
    write_anndata(drawn, samples)
    write_anndata(moved, traversals)
    logger.info("%d samples and %d traversal steps", drawn.n_obs, moved.n_obs)
