"""The training loop: eq. 7 maximised with Adam, for one model or for several side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nvae_bio.config import FitSettings, TrainingSettings
from nvae_bio.data.samples import Samples, epoch_order, make_generator
from nvae_bio.errors import UserError
from nvae_bio.machine import matmul_precision
from nvae_bio.model import NVAE, ElboTerms, Stack, elbo_terms, keep_models, kl_weight

CHUNK = 2048  # samples a pass without gradients
VALIDATION_NOISE = 1_000_000_007  # one fixed set of draws for every validation pass: epochs differ by weights alone


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
    """Sums over the batch in the order of `Averages`, (8, models), without leaving the device."""
    model = settings.model
    values = (
        terms.objective(1.0, model.beta_private, model.private_kl, model.classifier_weight),
        terms.elbo(),
        terms.log_likelihood,
        terms.sum_shared,
        terms.sum_own,
        terms.sum_private - terms.sum_own,
        terms.log_class,
        terms.correct.float(),
    )
    return torch.stack([value.detach() for value in values]).sum(-1).reshape(len(values), -1)


@torch.no_grad()
def evaluate(model: NVAE | Stack, samples: Samples, rows: Tensor, settings: FitSettings) -> list[Averages]:
    """Averages over the samples at `rows` (all labelled) at one fixed draw of z each; one entry a model.

    Matrix products are in full float32, whatever they are in training.
    """
    device, n_models = _device_of(model), len(model) if isinstance(model, Stack) else 1
    generator = make_generator(device, VALIDATION_NOISE)
    draws = torch.randn(len(rows), settings.model.n_latent, generator=generator, device=device)
    total, size = torch.zeros(8, n_models, device=device), max(CHUNK // n_models, 1)
    with matmul_precision("highest"):
        for part, noise in zip(rows.split(size), draws.split(size), strict=True):
            if isinstance(model, Stack):
                part, noise = part.expand(n_models, -1), noise.expand(n_models, -1, -1)
            total += _sums(elbo_terms(model, samples.take(part).to(device), noise), settings)
    return _averages(total, len(rows))


def _averages(total: Tensor, n: int) -> list[Averages]:
    return [Averages(*values) for values in (total / n).T.tolist()]


def _device_of(model: NVAE | Stack) -> torch.device:
    return next(model.parameters()).device


@dataclass
class _Progress:
    """Of one model: its best weights so far, and epochs since then."""

    best: float = -float("inf")
    weights: dict[str, Tensor] | None = None
    n_worse: int = 0


def fit(
    models: Sequence[NVAE],
    samples: Samples,
    train: Tensor,
    validation: Tensor,
    settings: FitSettings,
    seeds: Sequence[int],
) -> Iterator[dict[int, Epoch]]:
    """Maximise eq. 7 with Adam for each model; yields after each epoch and leaves the best weights in the models.

    The KL weight warms up over the first `warmup_share` of all steps and is exactly 1 from then on; only epochs after
    it can be the best, and only they count for early stopping. Several models are trained as a stack, each with its
    own batches and draws, to what it would be alone but for rounding; one that stops early leaves the stack.

    Args:
        models: of one form, on the device to train on; changed in place.
        samples: on that device, or on the CPU.
        train: rows of labelled samples.
        validation: rows of labelled samples; their bound decides which weights are kept.
        settings: model and training settings.
        seeds: of the batches and of the draws of z, one a model.

    Yields:
        The epoch of each model that is still trained, by its seed.

    Raises:
        UserError: the objective is not finite any more.
    """
    training, device = settings.training, _device_of(models[0])
    stack, optimizer = _start(models, training)
    progress, active = {seed: _Progress() for seed in seeds}, list(seeds)
    for epoch in range(training.max_epochs):
        total, weight = torch.zeros(8, len(active), device=device), 1.0
        for sums, step_weight in _steps(stack, optimizer, samples, train, settings, active, epoch):
            total, weight = total.add_(sums), step_weight
        found, held_out = _averages(total, len(train)), evaluate(stack, samples, validation, settings)
        _check_finite([*found, *held_out], epoch, training)
        epochs = {}
        for place, seed in enumerate(active):
            of_seed, elbo = progress[seed], held_out[place].elbo
            is_best = weight == 1.0 and elbo > of_seed.best
            if is_best:
                of_seed.best, of_seed.weights, of_seed.n_worse = elbo, _state(stack, place), 0
            elif weight == 1.0:
                of_seed.n_worse += 1
            epochs[seed] = Epoch(epoch, weight, found[place], held_out[place], is_best)
        yield epochs
        going = [
            i for i, s in enumerate(active) if training.patience is None or progress[s].n_worse < training.patience
        ]
        if not going:
            break
        if isinstance(stack, Stack) and len(going) < len(active):
            keep_models(stack, optimizer, torch.tensor(going, device=device))
            active = [active[i] for i in going]
    for model, seed in zip(models, seeds, strict=True):
        weights = progress[seed].weights
        assert weights is not None  # the warm-up ends by the middle of training
        model.load_state_dict(weights)


def _state(stack: NVAE | Stack, place: int) -> dict[str, Tensor]:
    return stack.state_of(place) if isinstance(stack, Stack) else deepcopy(stack.state_dict())


def _start(models: Sequence[NVAE], settings: TrainingSettings) -> tuple[NVAE | Stack, torch.optim.Optimizer]:
    """One model as it is, or several as a stack; and the optimiser of all their parameters."""
    stack: NVAE | Stack = models[0] if len(models) == 1 else Stack(models)
    return stack, torch.optim.Adam(stack.parameters(), lr=settings.learning_rate, fused=True)


def train_steps(
    models: Sequence[NVAE], samples: Samples, train: Tensor, settings: FitSettings, seeds: Sequence[int]
) -> Iterator[None]:
    """The steps of the first epoch of `fit`, and nothing else: to see how long they take."""
    for _ in _steps(*_start(models, settings.training), samples, train, settings, seeds, 0):
        yield


def _steps(
    stack: NVAE | Stack,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    train: Tensor,
    settings: FitSettings,
    seeds: Sequence[int],
    epoch: int,
) -> Iterator[tuple[Tensor, float]]:
    """One pass over the samples at `train`; nothing in it waits for the device.

    Yields:
        After each step, the sums of `_sums` before it, (8, models), and its KL weight.
    """
    training, model, device = settings.training, settings.model, _device_of(stack)
    assert training.batch_size is not None
    n_batches = -(-len(train) // training.batch_size)

    def side_by_side(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts) if isinstance(stack, Stack) else parts[0]

    generators = [make_generator(device, seed, epoch) for seed in seeds]
    order = side_by_side([train[epoch_order(len(train), seed, epoch).to(train.device)] for seed in seeds])
    for number, rows in enumerate(order.split(training.batch_size, dim=-1)):
        batch = samples.take(rows).to(device)
        noise = side_by_side([torch.randn(batch.n, model.n_latent, generator=one, device=device) for one in generators])
        weight = kl_weight(epoch * n_batches + number, training.max_epochs * n_batches, training.warmup_share)
        terms = elbo_terms(stack, batch, noise)
        objective = terms.objective(weight, model.beta_private, model.private_kl, model.classifier_weight)
        optimizer.zero_grad()
        (-objective.mean(-1)).sum().backward()
        optimizer.step()
        yield _sums(terms, settings), weight


def _check_finite(found: Sequence[Averages], epoch: int, settings: TrainingSettings) -> None:
    if not all(math.isfinite(value) for averages in found for value in asdict(averages).values()):
        raise UserError(
            f"training: the objective is not finite in epoch {epoch}; "
            f"learning_rate {settings.learning_rate} may be too large for these data"
        )
