"""Train an N-VAE on a prepared data set (the verb `train`, the rules `train_model` and `train_seeds`)."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor
from tqdm import tqdm

import nvae_bio
from nvae_bio import schema
from nvae_bio.card import ModelCard
from nvae_bio.config import FitSettings, LikelihoodName, TrainingSettings, check_model_fits, usual_epochs
from nvae_bio.data.covariates import CovariateSet
from nvae_bio.data.files import open_prepared, write_table
from nvae_bio.data.pixels import is_near_binary
from nvae_bio.data.samples import UNLABELED, Samples
from nvae_bio.data.store import Store, open_store
from nvae_bio.errors import UserError
from nvae_bio.machine import BATCH_SIZE, available_threads, fits, matmul_precision, pick_device, reproducible
from nvae_bio.model import NVAE, FeatureMoments, is_free_to_scale, move_private
from nvae_bio.train.calibration import calibrate
from nvae_bio.train.checkpoint import SECONDS, Checkpoints, Keeping, kept_in
from nvae_bio.train.held_out import HeldOut, empty_latents, held_out
from nvae_bio.train.loop import fit, train_steps
from nvae_bio.train.moments import feature_moments, private_moments
from nvae_bio.train.ranks import ALONE, Ranks, joined_ranks
from nvae_bio.train.state import Epoch
from nvae_bio.trained import TrainedModel, save_model

logger = logging.getLogger(__name__)

STACKED_NUMBERS = 100_000  # batch × features up to which a stack is faster on a CPU (benchmarks/seeds.py measures)
SPARSE_DENSITY = 0.06  # of counts that are not 0; a sparse first layer is faster below (benchmarks/first_layer.py)
MOST_SEEN = 5000  # pictures whose pixels decide on a likelihood
PROBE_STEPS = 20  # steps by which a thread count is judged
PROBE_ROUNDS = 3


class Outputs(NamedTuple):
    """Files of one trained model."""

    weights: Path
    card: Path
    history: Path


def history_table(epochs: Iterable[Epoch]) -> pd.DataFrame:
    """One row an epoch and split: epoch, kl_weight, split, is_best, terms of `Averages`, elbo_unlabeled, independence.

    The last two are of training alone: NaN in the rows of the validation samples.
    """
    rows = []
    for e in epochs:
        of_epoch = {"epoch": e.number, "kl_weight": e.kl_weight}
        of_training = {"elbo_unlabeled": e.elbo_unlabeled, "independence": e.independence}
        for split, averages, more in (
            ("train", e.train, of_training),
            ("validation", e.validation, dict.fromkeys(of_training, math.nan)),
        ):
            rows.append({**of_epoch, "split": split, "is_best": e.is_best, **asdict(averages), **more})
    return pd.DataFrame(rows)


def labelled_rows(prepared: AnnData | Store, samples: Samples, split: str) -> Tensor:
    """Rows of the labelled samples of one split.

    Raises:
        UserError: there are none.
    """
    rows = (prepared.obs[schema.SPLIT] == split).to_numpy() & (samples.label != UNLABELED).numpy()
    if not rows.any():
        raise UserError(f"obs[{schema.SPLIT!r}]: no labelled sample is {split!r}; prepare the data again")
    return torch.from_numpy(rows).nonzero().squeeze(1)


def unlabelled_rows(prepared: AnnData | Store, samples: Samples, settings: TrainingSettings) -> Tensor:
    """Rows of the training samples without a class that train too; none where they are ignored."""
    rows = (prepared.obs[schema.SPLIT] == "train").to_numpy() & (samples.label == UNLABELED).numpy()
    return torch.from_numpy(rows & (settings.unlabeled == "use")).nonzero().squeeze(1)


def first_layer(samples: Samples, settings: TrainingSettings, device: torch.device, n_stacked: int) -> str:
    """`sparse` or `dense`: what the setting wants where a sparse one can be, or what is faster with these data.

    Args:
        samples: all samples.
        settings: of the training.
        device: to train on.
        n_stacked: models that are trained side by side.
    """
    if samples.library is None or device.type != "cpu" or n_stacked > 1:
        return "dense"
    if settings.first_layer != "auto":
        return settings.first_layer
    return "sparse" if samples.matrix.density < SPARSE_DENSITY else "dense"


def train_model(
    prepared: AnnData | Store,
    settings: FitSettings | None = None,
    seed: int = 0,
    *,
    progress: bool | None = None,
    keeping: Keeping | None = None,
    warn: bool = True,
) -> TrainedModel:
    """Train on the training samples of a prepared data set; the object is not changed.

    Args:
        prepared: what `prepare_data` returns, or a store.
        settings: model and training settings; the defaults if None.
        seed: of the initial weights, batches and draws. Same seed, settings and machine: same bits.
        progress: a progress bar (True), plain log lines (False), or a bar on a terminal only (None).
        keeping: where checkpoints are kept (`train_models`).
        warn: log where a latent is empty.

    Returns:
        The model with the weights of the epoch with the highest validation ELBO, and its history.

    Raises:
        UserError: settings do not fit the data, or the objective is not finite any more.
        Interrupted: a signal that `keeping` listens to.
    """
    return train_models(prepared, settings, [seed], progress=progress, keeping=keeping, warn=warn)[0]


def train_models(
    prepared: AnnData | Store,
    settings: FitSettings | None = None,
    seeds: Sequence[int] = (0,),
    *,
    progress: bool | None = None,
    keeping: Keeping | None = None,
    ranks: Ranks = ALONE,
    warn: bool = True,
) -> list[TrainedModel]:
    """Train one model for each seed, and read and pack the data once: each as `train_model` would alone.

    Where steps are small, or on a GPU, the seeds are trained side by side as a stack, which shares what a step costs
    besides arithmetic; the results are then those of `train_model` but for rounding. Elsewhere one follows the other.

    Args:
        prepared: what `prepare_data` returns, or a store.
        settings: model and training settings; the defaults if None.
        seeds: different from each other.
        progress: a progress bar (True), plain log lines (False), or a bar on a terminal only (None).
        keeping: where checkpoints of the training are kept. If those of the same settings, seeds and data are there, it
            goes on from the newest, and its results have the same bits as without any stop. They stay when it ends.
        ranks: processes that train together, each called with the same arguments (`joined_ranks`).
        warn: log where a latent is empty: not of data that are made to have no factor.

    Returns:
        One entry a seed.

    Raises:
        UserError: settings do not fit the data, seeds are the same or none, or the objective is not finite any more.
        Interrupted: a signal that `keeping` listens to.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: {', '.join(map(str, seeds)) or 'none'}; at least one, and different from each other")
    settings = (settings or FitSettings()).for_kind(str(prepared.uns[schema.DATA]["kind"]))
    if settings.training.n_ranks not in (None, ranks.size):
        raise UserError(
            f"training.n_ranks: {settings.training.n_ranks}, but {ranks.size} processes train; start as many with "
            "torchrun or srun, or let it be null"
        )
    settings = settings.with_training(n_ranks=ranks.size)
    device = pick_device(settings.training.device)
    data, settings, card = read_data(prepared, settings, device)
    together = len(seeds) if _stack_pays(data.samples, settings.training, device) else 1
    settings = settings.with_training(first_layer=first_layer(data.samples, settings.training, device, together))
    card = card.model_copy(update={"settings": settings})
    networks = [untrained(card, data.moments, seed).to(device) for seed in seeds]
    groups = [seeds[start : start + together] for start in range(0, len(seeds), together)]
    kept = [
        None if keeping is None else Checkpoints(keeping, settings, group, card.fingerprint, device.type)
        for group in groups
    ]
    if settings.training.n_threads == "auto":
        known = next((one.saved.n_threads for one in kept if one is not None and one.saved is not None), None)
        n_threads = known or _faster_threads(settings, networks[:together], data, groups[0], device)
        n_threads = ranks.from_first(n_threads)
        settings = settings.with_training(n_threads=n_threads)
    models = []
    for group, checkpoints in zip(groups, kept, strict=True):
        own = [networks.pop(0) for _ in group]
        with reproducible(settings.training.threads), matmul_precision(settings.training.matmul_precision):
            rows = (data.train, data.validation)
            fitting = fit(own, data.samples, *rows, settings, group, data.unlabelled, checkpoints, ranks)
            epochs = list(_shown(fitting, settings.training, progress))
        with reproducible(settings.training.threads):
            if settings.model.private_moments == "prior":
                for network in filter(is_free_to_scale, own):
                    move_private(network, *private_moments(network, data.samples, data.train))
            found = [held_out(network, data.samples, data.validation) for network in own]
        for network, seed, of_network in zip(own, group, found, strict=True):
            models.append(_outcome(card, settings, network, seed, group, epochs, of_network))
            for line in empty_latents(of_network, settings.model) if warn else ():
                logger.warning("seed %d: %s", seed, line)
    return models


def _stack_pays(samples: Samples, settings: TrainingSettings, device: torch.device) -> bool:
    """Whether seeds are trained side by side; each would read a store in an order of its own."""
    is_small = (settings.batch_size or 0) * samples.matrix.n_features <= STACKED_NUMBERS
    return samples.windows is None and (device.type == "cuda" or is_small)


class TrainingData(NamedTuple):
    """Of a prepared data set: all samples, rows of those that train and validate, moments of the former."""

    samples: Samples
    train: Tensor
    validation: Tensor
    unlabelled: Tensor
    moments: FeatureMoments


def read_data(
    prepared: AnnData | Store, settings: FitSettings, device: torch.device
) -> tuple[TrainingData, FitSettings, ModelCard]:
    """The data, on the device where they fit; the settings with what depends on both; and a card before training."""
    settings = settings.with_training(batch_size=settings.training.batch_size or BATCH_SIZE[device.type])
    if isinstance(prepared, Store) and settings.training.class_balance == "balanced":
        raise UserError("training.class_balance: 'balanced' needs the data in memory; allowed with a store: none")
    card = _blank_card(prepared, settings, device)
    with reproducible(settings.training.threads):
        samples = card.samples_of(prepared)
        train, validation = (labelled_rows(prepared, samples, split) for split in ("train", "validation"))
        unlabelled = unlabelled_rows(prepared, samples, settings.training)
        moments = feature_moments(samples, torch.cat([train, unlabelled]), len(card.classes))
    n_samples = len(train) + len(unlabelled)
    settings = settings.with_training(max_epochs=settings.training.max_epochs or usual_epochs(n_samples))
    data = TrainingData(samples, train, validation, unlabelled, moments)
    if fits(samples.matrix.n_bytes, device):
        train, validation, unlabelled = (rows.to(device) for rows in (train, validation, unlabelled))
        data = TrainingData(samples.to(device), train, validation, unlabelled, moments)
    return data, settings, card


def _outcome(
    card: ModelCard,
    settings: FitSettings,
    network: NVAE,
    seed: int,
    group: Sequence[int],
    epochs: Iterable[dict[int, Epoch]],
    found: HeldOut,
) -> TrainedModel:
    """A trained network with its card and history."""
    own = [of_seed[seed] for of_seed in epochs if seed in of_seed]
    best = max(epoch.number for epoch in own if epoch.is_best)
    stacked = list(group) if len(group) > 1 else []
    update = {
        "settings": settings, "seed": seed, "stacked_seeds": stacked, "best_epoch": best,
        "calibration": calibrate(found.class_log_prob, found.label),
    }  # fmt: skip
    return TrainedModel(network.cpu().eval(), card.model_copy(update=update), history_table(own))


def _blank_card(prepared: AnnData | Store, settings: FitSettings, device: torch.device) -> ModelCard:
    """The card of a model of these data before its training."""
    data = prepared.uns[schema.DATA]
    image = tuple(int(size) for size in data["image_shape"]) if data["kind"] == "images" else None
    model = settings.model
    if model.likelihood is None and data["kind"] == "images":
        model = settings.with_likelihood(_usual_of_pixels(prepared)).model
    try:
        likelihood = check_model_fits(model, data["kind"])
    except ValueError as error:
        raise UserError(f"model.{error}") from None
    is_told = settings.model.covariates != "none" or settings.model.dispersion == "gene_batch"
    covariates = CovariateSet.of(prepared) if is_told else CovariateSet()
    return ModelCard(
        version=nvae_bio.__version__, settings=settings, kind=data["kind"], likelihood=likelihood,
        classes=[str(name) for name in data["classes"]], features=list(prepared.var_names), image_shape=image,
        covariates=covariates, seed=0, stacked_seeds=[], fingerprint=data["fingerprint"], device=device.type,
        best_epoch=0,
    )  # fmt: skip


def _usual_of_pixels(prepared: AnnData) -> LikelihoodName:
    """The likelihood of pictures where the settings say nothing: by the pixels of training samples, 5,000 at most."""
    rows = np.flatnonzero(prepared.obs[schema.SPLIT] == "train")
    seen = rows[:: len(rows) // MOST_SEEN + 1]
    return "cross_entropy" if is_near_binary(np.asarray(prepared.X[seen])) else "gaussian"


def untrained(card: ModelCard, moments: FeatureMoments, seed: int) -> NVAE:
    """A network of this form before its training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = card.build()
    network.fit_output_bias(moments)
    return network


def _faster_threads(
    settings: FitSettings, networks: Sequence[NVAE], data: TrainingData, seeds: Sequence[int], device: torch.device
) -> int:
    """One thread, or all that the job may use, whichever takes some steps of these models sooner."""
    counts = sorted({1, available_threads()})
    if len(counts) == 1 or device.type == "cuda":
        return 1
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(PROBE_ROUNDS):
        for count in counts:
            with reproducible(count), matmul_precision(settings.training.matmul_precision):
                copies = deepcopy(list(networks))
                steps = train_steps(copies, data.samples, data.train, settings, seeds, data.unlabelled)
                next(steps)  # the first one compiles, and fills the caches
                start = time.perf_counter()
                n_steps = sum(1 for _ in islice(steps, PROBE_STEPS))
                seconds[count].append((time.perf_counter() - start) / max(n_steps, 1))
    fastest = min(counts, key=lambda count: median(seconds[count]))
    shown = ", ".join(f"{count}: {1000 * median(seconds[count]):.1f} ms" for count in counts)
    logger.info("threads: %d (a step with %s)", fastest, shown)
    return fastest


def _shown(
    epochs: Iterator[dict[int, Epoch]], settings: TrainingSettings, progress: bool | None
) -> Iterator[dict[int, Epoch]]:
    """The same epochs, shown as they come: a live bar, or a log line for every twentieth part of the training."""
    live = sys.stderr.isatty() if progress is None else progress
    every = max(1, settings.epochs // 20)
    with tqdm(total=settings.epochs, unit="epoch", disable=not live, leave=True) as bar:
        for of_seed in epochs:
            first = next(iter(of_seed.values()))
            bar.update()
            bar.set_postfix(elbo=f"{first.validation.elbo:.2f}", kl_weight=f"{first.kl_weight:.2f}")
            for seed, epoch in of_seed.items() if not live and first.number % every == 0 else ():
                logger.info(
                    "seed %d, epoch %d: ELBO %.2f train, %.2f validation; KL %.2f shared, %.2f private (nats); "
                    "weight %.2f",
                    seed, epoch.number, epoch.train.elbo, epoch.validation.elbo, epoch.validation.kl_shared,
                    epoch.validation.kl_private, epoch.kl_weight,
                )  # fmt: skip
            yield of_seed


def _opened(data: Path) -> AbstractContextManager[AnnData | Store]:
    """A prepared file, or a store."""
    return nullcontext(open_store(data)) if data.is_dir() else open_prepared(data)


def train(
    data: Path,
    outputs: Sequence[Outputs],
    settings: FitSettings,
    seeds: Sequence[int],
    checkpoint: Path | None = None,
    checkpoint_seconds: float = SECONDS,
) -> None:
    """Read a prepared file or a store, train a model for each seed, and write the models and their histories.

    Started by torchrun, or by srun with several tasks, these train together, and the first one writes.

    With a folder for checkpoints, the training goes on from those in it; they are gone when all is written.

    Raises:
        Interrupted: SIGTERM or SIGUSR1, and there is a folder for checkpoints.
    """
    with joined_ranks() as ranks, kept_in(checkpoint, checkpoint_seconds, ranks) as keeping:
        with _opened(data) as prepared:
            models = train_models(prepared, settings, seeds, keeping=keeping, ranks=ranks)
        if not ranks.is_first:
            return
        for trained, files in zip(models, outputs, strict=True):
            write_table(trained.history, files.history)
            save_model(trained, files.weights, files.card)
            last = int(trained.history["epoch"].max())
            logger.info("best epoch %d of %d; model in %s", trained.card.best_epoch, last + 1, files.weights)
