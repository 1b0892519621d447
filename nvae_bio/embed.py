"""Both embeddings of every sample, and what each factor does to each feature (verb `embed`, rule `embed_data`)."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from anndata import AnnData
from torch import Tensor

import nvae_bio
from nvae_bio import schema
from nvae_bio.config import EmbeddingSettings
from nvae_bio.data.files import read_prepared, write_anndata
from nvae_bio.data.samples import UNLABELED, Samples, make_generator
from nvae_bio.machine import pick_device, reproducible
from nvae_bio.model import NVAE, DiagonalGaussian, Posterior
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

CHUNK = 2048  # samples a pass
EFFECT_SD = 2.0  # a factor is moved from −2 to +2 standard deviations of its aggregate posterior
EFFECT_LIBRARY = 10_000.0  # counts: effects are decoded at this library, the field's scale of log1p(CP10k)
Z_95 = 1.959964  # normal quantile of a two-sided 95 % interval
GAIN_DRAWS = 10  # at most, over which a gain is averaged
MIN_NEIGHBORS = 15  # of a UMAP; a class with fewer samples gets none


@dataclass(frozen=True)
class Encoded:
    """Posterior of all samples, on the CPU.

    Attributes:
        shared: q(z_s|x), mean and log std (n, S).
        private: q(z_c|x), (n, C, K).
        class_probability: q(y|x) at the model's temperature, (n, C).
        label: the sample's class, the likeliest one where it has none, (n,).
        elbo: bound on log p(x|y), nats, (n,).
        gain: what each dim of the own block adds to the bound, nats, (n, K): E_q[log p(x|y,z) − log p(x|y,z with the
            dim at 0)] − KL.
        block_gain: the same of the whole block, (n,).
    """

    shared: DiagonalGaussian
    private: DiagonalGaussian
    class_probability: Tensor
    label: Tensor
    elbo: Tensor
    gain: Tensor
    block_gain: Tensor


@torch.no_grad()
def encode(model: NVAE, samples: Samples, n_draws: int, seed: int, temperature: float = 1.0) -> Encoded:
    """Posterior, class and bound of every sample, with its own covariates.

    Args:
        model: on any device.
        samples: any number of rows; unlabelled ones are scored under their likeliest class.
        n_draws: draws of z a sample, over which the bound is averaged, and the gains over the first `GAIN_DRAWS`.
        seed: of the draws.
        temperature: T of q(y|x).
    """
    device = next(model.parameters()).device
    generator = make_generator(device, seed)
    masks = _kept_dims(model.n_private, device)
    parts: list[tuple[Tensor, ...]] = []
    for chunk in samples.chunks(CHUNK):
        batch = chunk.to(device)
        posterior, class_log_prob = model.infer(batch)
        probability = F.softmax(class_log_prob / temperature, dim=-1)
        label = torch.where(batch.label == UNLABELED, probability.argmax(1), batch.label)
        block = model.block(label)
        own = posterior.own(block)
        log_likelihood, lost = torch.zeros(batch.n, device=device), torch.zeros(len(masks), batch.n, device=device)
        n_gains = min(n_draws, GAIN_DRAWS)
        for number in range(n_draws):
            noise = torch.randn(batch.n, model.n_shared + model.n_private, generator=generator, device=device)
            drawn_shared, drawn_own = model.draw(posterior, own, noise)
            outputs = model.decoder(drawn_shared, drawn_own, block, batch.covariates)
            found = model.likelihood.log_prob(outputs, batch)
            log_likelihood += found
            for row, mask in zip(lost, masks if number < n_gains else (), strict=False):
                without = model.decoder(drawn_shared, drawn_own * mask, block, batch.covariates)
                row += found - model.likelihood.log_prob(without, batch)
        kl = own.kl()
        elbo = log_likelihood / n_draws - posterior.shared.kl().sum(-1) - kl.sum(-1)
        # of one dim the block is the dim; of none, nothing is lost
        gain, block_gain = lost[: model.n_private].T / n_gains - kl, lost[-1:].sum(0) / n_gains - kl.sum(-1)
        shared, private = posterior.shared, posterior.private
        of_posterior = (shared.mean, shared.log_std, private.mean, private.log_std)
        parts.append((*of_posterior, probability, label, elbo, gain, block_gain))
    columns = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    return Encoded(DiagonalGaussian(*columns[:2]), DiagonalGaussian(*columns[2:4]), *columns[4:])


def _kept_dims(n_private: int, device: torch.device) -> Tensor:
    """What stays of the own block when each dim, and then all of it, is set to 0: (rows, K), one row for one dim."""
    each = 1 - torch.eye(n_private, device=device)
    return each if n_private < 2 else torch.cat([each, torch.zeros(1, n_private, device=device)])


@dataclass(frozen=True)
class Effects:
    """Change of the decoded mean when one factor moves from −2 to +2 SD, with a 95 % interval of its mean.

    Attributes:
        mean: (features, factors), in the likelihood's effect unit.
        lower: lower end, (features, factors).
        upper: upper end, (features, factors).
    """

    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def _aggregate(posterior: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the aggregate posterior over samples: Var = Var(mean) + E(var)."""
    center = posterior.mean.mean(0)
    variance = (posterior.mean - center).square().mean(0) + (2 * posterior.log_std).exp().mean(0)
    return center, variance.sqrt()


@torch.no_grad()
def class_effects(
    model: NVAE, shared: Tensor, own: Tensor, label: Tensor, library: Tensor | None, low: Tensor, high: Tensor
) -> Tensor:
    """Effect of every factor on every feature for each sample: (samples, features, S + K)."""
    effects, n_shared = [], model.n_shared
    for factor in range(len(low)):
        moved = []
        for value in (low[factor], high[factor]):
            z = torch.cat([shared, own], dim=1)
            z[:, factor] = value
            moved.append(model.decode(z[:, :n_shared], z[:, n_shared:], label, library))
        effects.append(model.likelihood.effect(*moved))
    return torch.stack(effects, dim=-1)


def _interval(means: Tensor, variances: Tensor) -> Effects:
    """Effects from the mean over groups of their means, and the squared standard errors of these."""
    mean, half = means.mean(0), Z_95 * variances.sum(0).sqrt() / len(means)
    return Effects(mean.numpy(), (mean - half).numpy(), (mean + half).numpy())


def decoded_effects(
    model: NVAE, samples: Samples, encoded: Encoded, n_effect_samples: int, seed: int
) -> tuple[Effects, dict[int, Effects]]:
    """What moving a factor does to each feature, the other factors staying at the sample's posterior mean.

    Shared factors move by the SD of all samples and are averaged over classes with equal weight; private ones move by
    the SD of their own class. The interval is that of a mean over samples, for one trained model: it knows nothing of
    how the model would differ with other data or seeds. All is decoded at the average of the covariates, so that an
    effect is not one batch's.

    Args:
        model: on the CPU.
        samples: all rows, on the CPU.
        encoded: their posterior.
        n_effect_samples: samples a class, at most.
        seed: of their choice.

    Returns:
        Effects of the shared factors, and of the private ones by index of the class (classes without samples left out).
    """
    rng = np.random.default_rng(seed)
    center, spread = _aggregate(encoded.shared)
    shared_means, shared_variances, private = [], [], {}
    n_shared = model.n_shared
    for index in range(encoded.class_probability.shape[1]):
        rows = (samples.label == index).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        own = DiagonalGaussian(*(part[rows, index if model.uses_label else 0] for part in _moments(encoded.private)))
        own_center, own_spread = _aggregate(own)
        middle, step = torch.cat([center, own_center]), EFFECT_SD * torch.cat([spread, own_spread])
        chosen = torch.from_numpy(np.sort(rng.permutation(len(rows))[:n_effect_samples]))
        picked = rows[chosen]
        library = None if samples.library is None else torch.full((len(picked),), EFFECT_LIBRARY)
        effects = class_effects(
            model, encoded.shared.mean[picked], own.mean[chosen], samples.label[picked], library,
            middle - step, middle + step,
        )  # fmt: skip
        mean, error = effects.mean(0), effects.var(0, correction=0) / len(picked)
        shared_means.append(mean[:, :n_shared])
        shared_variances.append(error[:, :n_shared])
        private[index] = _interval(mean[None, :, n_shared:], error[None, :, n_shared:])
    return _interval(torch.stack(shared_means), torch.stack(shared_variances)), private


def _moments(gaussian: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    return gaussian.mean, gaussian.log_std


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
        deviations, nvae_class_probability (n, C), nvae_kl_shared (n, S), nvae_kl_private (n, C·K) and
        nvae_gain_specific (n, K) in nats, X_umap (n, 2), NaN where not laid out; `obs` nvae_label, nvae_confidence,
        nvae_elbo and nvae_gain_specific (nats); `varm`
        nvae_effect_shared (G, S) and nvae_effect_class_{i} (G, K), each with `_lower` and `_upper`; `uns["nvae"]`. A
        key whose width would be 0 (no shared or no private latent) is left out.

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
        trained.network.cpu()
        effects = decoded_effects(trained.network, samples, encoded, settings.n_effect_samples, seed)
    adata = prepared.copy()
    _write_posterior(adata, encoded, trained)
    _write_effects(adata, *effects, trained)
    adata.uns[schema.MODEL] = _provenance(trained, seed)
    if settings.umap:
        _write_umaps(adata, encoded, settings.umap_max_samples, seed)
    return adata


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


def _write_effects(adata: AnnData, shared: Effects, private: dict[int, Effects], trained: TrainedModel) -> None:
    by_key = {schema.EFFECT_SHARED: shared} if trained.network.n_shared else {}
    if trained.network.n_private:
        by_key |= {schema.effect_class(index): effects for index, effects in private.items()}
    for key, effects in by_key.items():
        adata.varm[key] = effects.mean
        adata.varm[f"{key}_lower"], adata.varm[f"{key}_upper"] = effects.lower, effects.upper


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
