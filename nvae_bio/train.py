"""Train an N-VAE on a prepared data set (the verb `train`, the rule `train_model`)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor
from tqdm import tqdm

import nvae_bio
from nvae_bio import schema
from nvae_bio.config import FitSettings, TrainingSettings, check_model_fits
from nvae_bio.data.batches import UNLABELED, Samples, epoch_order, make_generator, to_samples
from nvae_bio.data.files import read_prepared, write_table
from nvae_bio.errors import UserError
from nvae_bio.model import NVAE, ElboTerms, elbo_terms, kl_weight
from nvae_bio.trained import ModelCard, TrainedModel, pick_device, save_model

logger = logging.getLogger(__name__)

VALIDATION_NOISE = 1_000_000_007  # one fixed set of draws for every validation pass: epochs differ by weights alone
CHUNK = 2048  # samples a pass without gradients


@dataclass(frozen=True)
class Averages:
    """Means over samples, in nats but for `accuracy`; what the history has for each epoch and split.

    Attributes:
        objective: eq. 7 with the full KL weight.
        elbo: bound on log p(x|y).
        log_likelihood: log p(x|y,z).
        kl_shared: KL of z_s.
        kl_private: KL of the sample's own block.
        kl_off_block: KL of all other blocks.
        log_class: log q(y|x).
        accuracy: share of samples whose class is the likeliest.
    """

    objective: float
    elbo: float
    log_likelihood: float
    kl_shared: float
    kl_private: float
    kl_off_block: float
    log_class: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples.

    Attributes:
        number: 0, 1, …
        kl_weight: weight of the KL terms in its last step.
        train: averages over the training samples, each at the weights of its step.
        validation: averages over the validation samples, after the epoch.
        is_best: whether its weights are the best so far.
    """

    number: int
    kl_weight: float
    train: Averages
    validation: Averages
    is_best: bool


def _sums(terms: ElboTerms, settings: FitSettings) -> Tensor:
    """Sums over the batch in the order of `Averages`, (8,), without leaving the device."""
    model = settings.model
    objective = terms.objective(1.0, model.beta_private, model.private_kl, model.classifier_weight)
    own = terms.kl_own.sum(-1)
    values = (
        objective,
        terms.elbo(),
        terms.log_likelihood,
        terms.kl_shared.sum(-1),
        own,
        terms.kl_private.sum((-2, -1)) - own,
        terms.log_class,
        terms.correct.float(),
    )
    return torch.stack([value.detach().sum() for value in values])


@torch.no_grad()
def evaluate(model: NVAE, samples: Samples, settings: FitSettings) -> Averages:
    """Averages over `samples` (all labelled) at one fixed draw of z each."""
    device = samples.x.device
    generator = make_generator(device, VALIDATION_NOISE)
    total = torch.zeros(8, device=device)
    for chunk in samples.chunks(CHUNK):
        noise = torch.randn(len(chunk), model.n_shared + model.n_private, generator=generator, device=device)
        total += _sums(elbo_terms(model, chunk.x, chunk.label, chunk.library, noise), settings)
    return Averages(*(total / len(samples)).tolist())


def fit(model: NVAE, train: Samples, validation: Samples, settings: FitSettings, seed: int) -> Iterator[Epoch]:
    """Maximise eq. 7 with Adam; yields after each epoch and leaves the best weights in `model` at the end.

    The KL weight warms up over the first `warmup_share` of all steps and is exactly 1 from then on; only epochs after
    it can be the best, and only they count for early stopping.

    Args:
        model: on the device of the samples; changed in place.
        train: labelled samples.
        validation: labelled samples; their bound decides which weights are kept.
        settings: model and training settings.
        seed: of the batches and of the draws of z.

    Raises:
        UserError: the objective is not finite any more.
    """
    training, device = settings.training, train.x.device
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    n_batches = -(-len(train) // training.batch_size)
    best, best_weights, n_worse = -float("inf"), None, 0
    for epoch in range(training.max_epochs):
        generator = make_generator(device, seed, epoch)
        order = epoch_order(len(train), seed, epoch).to(device)
        total, weight = torch.zeros(8, device=device), 1.0
        for batch_number, rows in enumerate(order.split(training.batch_size)):
            batch = train.take(rows)
            noise = torch.randn(len(batch), model.n_shared + model.n_private, generator=generator, device=device)
            weight = kl_weight(epoch * n_batches + batch_number, training.max_epochs * n_batches, training.warmup_share)
            terms = elbo_terms(model, batch.x, batch.label, batch.library, noise)
            objective = terms.objective(
                weight, settings.model.beta_private, settings.model.private_kl, settings.model.classifier_weight
            )
            optimizer.zero_grad()
            (-objective.mean()).backward()
            optimizer.step()
            total += _sums(terms, settings)
        averages, held_out = Averages(*(total / len(train)).tolist()), evaluate(model, validation, settings)
        _check_finite(averages, held_out, epoch, training)
        is_best = weight == 1.0 and held_out.elbo > best
        if is_best:
            best, best_weights, n_worse = held_out.elbo, deepcopy(model.state_dict()), 0
        elif weight == 1.0:
            n_worse += 1
        yield Epoch(epoch, weight, averages, held_out, is_best)
        if training.patience is not None and n_worse >= training.patience:
            break
    assert best_weights is not None  # the warm-up ends by the middle of training
    model.load_state_dict(best_weights)


def _check_finite(train: Averages, validation: Averages, epoch: int, settings: TrainingSettings) -> None:
    for split, averages in (("training", train), ("validation", validation)):
        if any(value != value or abs(value) == float("inf") for value in asdict(averages).values()):
            raise UserError(
                f"training: the {split} objective is not finite in epoch {epoch}; "
                f"learning_rate {settings.learning_rate} may be too large for these data"
            )


@contextmanager
def reproducible(n_threads: int) -> Iterator[None]:
    """Fixed thread count and deterministic kernels inside the block; torch is left as it was found."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def history_table(epochs: Iterable[Epoch]) -> pd.DataFrame:
    """One row an epoch and split: epoch, kl_weight, split, is_best, and the terms of `Averages`."""
    return pd.DataFrame(
        [
            {"epoch": e.number, "kl_weight": e.kl_weight, "split": split, "is_best": e.is_best, **asdict(averages)}
            for e in epochs
            for split, averages in (("train", e.train), ("validation", e.validation))
        ]
    )


def labelled_rows(prepared: AnnData, samples: Samples, split: str) -> Samples:
    """The labelled samples of one split.

    Raises:
        UserError: there are none.
    """
    rows = (prepared.obs[schema.SPLIT] == split).to_numpy() & (samples.label != UNLABELED).numpy()
    if not rows.any():
        raise UserError(f"obs[{schema.SPLIT!r}]: no labelled sample is {split!r}; prepare the data again")
    return samples.take(torch.from_numpy(rows).nonzero().squeeze(1))


def train_model(
    prepared: AnnData, settings: FitSettings | None = None, seed: int = 0, *, progress: bool | None = None
) -> TrainedModel:
    """Train on the labelled training samples of a prepared data set; the object is not changed.

    Args:
        prepared: what `prepare_data` returns.
        settings: model and training settings; the defaults if None.
        seed: of the initial weights, batches and draws. Same seed, settings and machine: same bits.
        progress: a progress bar (True), plain log lines (False), or a bar on a terminal only (None).

    Returns:
        The model with the weights of the epoch with the highest validation ELBO, and its history.

    Raises:
        UserError: settings do not fit the data, or the objective is not finite any more.
    """
    settings = settings or FitSettings()
    data = prepared.uns[schema.DATA]
    classes = [str(name) for name in data["classes"]]
    image = tuple(int(size) for size in data["image_shape"]) if data["kind"] == "images" else None
    try:
        likelihood = check_model_fits(settings.model, data["kind"])
    except ValueError as error:
        raise UserError(f"model.{error}") from None
    device = pick_device(settings.training.device)
    card = ModelCard(
        version=nvae_bio.__version__, settings=settings, kind=data["kind"], likelihood=likelihood, classes=classes,
        features=list(prepared.var_names), image_shape=image, seed=seed, fingerprint=data["fingerprint"],
        device=device.type, best_epoch=0,
    )  # fmt: skip
    samples = to_samples(prepared, classes)
    train, validation = (labelled_rows(prepared, samples, split) for split in ("train", "validation"))
    with torch.random.fork_rng(), reproducible(settings.training.n_threads):
        torch.manual_seed(seed)
        network = card.build()
        network.fit_output_bias(train.x, train.library)
        network.to(device)
        epochs = list(
            _shown(fit(network, train.to(device), validation.to(device), settings, seed), settings.training, progress)
        )
    best = max(epoch.number for epoch in epochs if epoch.is_best)
    card = card.model_copy(update={"best_epoch": best})
    return TrainedModel(network.cpu().eval(), card, history_table(epochs))


def _shown(epochs: Iterator[Epoch], settings: TrainingSettings, progress: bool | None) -> Iterator[Epoch]:
    """The same epochs, shown as they come: a live bar, or a log line for every twentieth part of the training."""
    live = sys.stderr.isatty() if progress is None else progress
    every = max(1, settings.max_epochs // 20)
    with tqdm(total=settings.max_epochs, unit="epoch", disable=not live, leave=True) as bar:
        for epoch in epochs:
            bar.update()
            bar.set_postfix(elbo=f"{epoch.validation.elbo:.2f}", kl_weight=f"{epoch.kl_weight:.2f}")
            if not live and epoch.number % every == 0:
                logger.info(
                    "epoch %d: ELBO %.2f train, %.2f validation; KL %.2f shared, %.2f private (nats); weight %.2f",
                    epoch.number, epoch.train.elbo, epoch.validation.elbo, epoch.validation.kl_shared,
                    epoch.validation.kl_private, epoch.kl_weight,
                )  # fmt: skip
            yield epoch


def train(data: Path, weights: Path, card: Path, history: Path, settings: FitSettings, seed: int) -> None:
    """Read a prepared file, train, and write the model and its history."""
    trained = train_model(read_prepared(data), settings, seed)
    write_table(trained.history, history)
    save_model(trained, weights, card)
    last = int(trained.history["epoch"].max())
    logger.info("best epoch %d of %d; model in %s", trained.card.best_epoch, last + 1, weights)
