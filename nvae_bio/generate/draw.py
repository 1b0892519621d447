"""Samples drawn from a trained model, and traversals of its factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

import nvae_bio
from nvae_bio import schema
from nvae_bio.config import GenerationSettings
from nvae_bio.data.batch import Covariates
from nvae_bio.data.join import free_name
from nvae_bio.data.samples import make_generator, sizes_of
from nvae_bio.errors import UserError
from nvae_bio.machine import reproducible
from nvae_bio.trained import TrainedModel

MEAN = schema.MEAN  # layer
CPU = torch.device("cpu")


def training_rows(prepared: AnnData, trained: TrainedModel) -> list[np.ndarray]:
    """Rows of the training samples of each class."""
    train = prepared.obs[schema.SPLIT] == "train"
    return [np.flatnonzero(train & (prepared.obs[schema.LABEL] == name)) for name in trained.card.classes]


def take_after(
    prepared: AnnData, trained: TrainedModel, label: Tensor, rng: np.random.Generator
) -> tuple[Tensor | None, Covariates | None, pd.DataFrame]:
    """Library (counts) and covariates of a random training sample of each label's class, and its obs.

    Args:
        prepared: the data set of the model.
        trained: the model.
        label: class of each sample to be made, (n,).
        rng: source of randomness.

    Returns:
        Library (n,), None unless the data are counts; covariates, None where the model is told none; and obs of the
        samples that were taken after, (n rows), with no columns where neither is needed.

    Raises:
        UserError: a class has no training sample to take after.
    """
    is_counts, told = trained.card.kind == "counts", trained.card.covariates
    if not (is_counts or told):
        return None, None, pd.DataFrame(index=range(len(label)))
    rows = training_rows(prepared, trained)
    for index in label.unique().tolist():
        if len(rows[index]) == 0:
            name = trained.card.classes[index]
            raise UserError(f"class {name!r} has no training sample, whose library or covariates could be drawn")
    taken = prepared.obs.iloc[[rng.choice(rows[index]) for index in label.tolist()]]
    size = trained.card.settings.model.size
    library = torch.tensor(sizes_of(taken, size).to_numpy(np.float32)) if is_counts else None
    columns = [*([size] if is_counts else []), *told.names]
    found = taken[columns].reset_index(drop=True)
    if library is not None:
        found[size] = library.numpy()  # as the decoder takes it
    return library, told.read(taken) if told else None, found


def _beside(obs: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """`obs` with the columns of what each sample takes after; one of a name that is there gets another."""
    names = {name: free_name(str(name), obs.columns) if name in obs else name for name in taken}
    return pd.concat([obs, taken.rename(columns=names)], axis=1)


def as_anndata(
    matrix: Tensor, obs: pd.DataFrame, prepared: AnnData, trained: TrainedModel, seed: int, latent: Tensor
) -> AnnData:
    """What was made: X (n, features), obs, `obsm["z"]` (n, S + K), and where it comes from in `uns`."""
    obs.index = pd.Index([str(row) for row in range(len(obs))])
    obs[schema.LABEL] = pd.Categorical(obs[schema.LABEL], categories=trained.card.classes)
    model = {"version": nvae_bio.__version__, "seed": trained.card.seed, "generation_seed": seed}
    model |= {"kind": trained.card.kind, "variant": trained.card.settings.model.variant}
    model["classes"] = np.array(trained.card.classes, dtype=object)
    if trained.card.image_shape is not None:
        model["image_shape"] = np.array(trained.card.image_shape)
    obsm = {schema.LATENT: latent.numpy()}
    return AnnData(X=matrix.numpy(), obs=obs, var=prepared.var.copy(), uns={schema.MODEL: model}, obsm=obsm)


def numbers(settings: GenerationSettings, classes: Sequence[str]) -> list[int]:
    """How many samples each class has.

    Raises:
        UserError: a class is named that the model does not have.
    """
    wanted = settings.n_per_class
    if isinstance(wanted, int):
        return [wanted] * len(classes)
    if unknown := sorted(set(wanted) - set(classes)):
        raise UserError(
            f"generation.n_per_class: {unknown[0]!r} is no class of the model; allowed: {', '.join(classes)}"
        )
    return [wanted.get(name, 0) for name in classes]


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
        AnnData (σ × samples of all classes, features): X drawn from the likelihood, `layers["mean"]` its mean,
        `obs` label, sigma and covariates (and library or size_factor, in counts), `obsm["z"]` (n, S + K) the latent.

    Raises:
        UserError: the data do not fit the model, have no training sample of a class, or lack a class that the settings
            name.
    """
    settings, seed = settings or GenerationSettings(), trained.card.seed if seed is None else seed
    trained.check_data(prepared)
    network, generator = trained.network, make_generator(CPU, seed, 1)
    of_class = np.repeat(np.arange(len(trained.card.classes)), numbers(settings, trained.card.classes))
    label = torch.from_numpy(np.tile(of_class, len(settings.sigmas)))
    scale = np.repeat(settings.sigmas, len(of_class))
    sigma = torch.from_numpy(scale.astype(np.float32))[:, None]
    obs = pd.DataFrame({schema.LABEL: np.array(trained.card.classes)[label], "sigma": scale})
    library, covariates, taken = take_after(prepared, trained, label, np.random.default_rng((seed, 1)))
    obs = _beside(obs, taken)
    with reproducible(trained.card.settings.training.threads):
        z = sigma * torch.randn(len(obs), network.n_shared + network.n_private, generator=generator)
        decoded = network.decode(z[:, : network.n_shared], z[:, network.n_shared :], label, library, covariates)
        adata = as_anndata(decoded.sample(generator), obs, prepared, trained, seed, z)
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
        medians = [float(np.median(libraries[rows])) for rows in training_rows(prepared, trained)]
        library = torch.tensor(medians)[label]
    with reproducible(trained.card.settings.training.threads):
        mean = network.decode(z[:, : network.n_shared], z[:, network.n_shared :], label, library).mean
    return as_anndata(mean, obs, prepared, trained, trained.card.seed, z)
