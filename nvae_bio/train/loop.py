"""The training loop: the objective maximised with Adam, for one model or for several side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nvae_bio.config import FitSettings, TrainingSettings
from nvae_bio.data.samples import Samples, make_generator
from nvae_bio.errors import UserError
from nvae_bio.machine import matmul_precision
from nvae_bio.model import NVAE, ElboTerms, Stack, elbo_terms, keep_models, kl_weight, unlabelled_bound
from nvae_bio.model.independence import PENALTIES, SharedDraws
from nvae_bio.train.rows import TrainingRows

CHUNK = 2048  # samples a pass without gradients
N_TERMS = 8  # of `Averages`
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
        train: averages over the labelled training samples, each at the weights of its step.
        validation: averages over the validation samples, after the epoch.
        is_best: whether its weights are the best so far.
        elbo_unlabeled: bound on log p(x) of the unlabelled training samples, nats; NaN where there are none.
        independence: penalty on z_s in the batches, without its weight; NaN where the model has none.
    """

    number: int
    kl_weight: float
    train: Averages
    validation: Averages
    is_best: bool
    elbo_unlabeled: float
    independence: float


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
    total, size = torch.zeros(N_TERMS, n_models, device=device), max(CHUNK // n_models, 1)
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

    def is_best(self, elbo: float, stack: NVAE | Stack, place: int) -> bool:
        """Whether an epoch is the best so far; its weights are kept then."""
        if elbo > self.best:
            self.best, self.weights, self.n_worse = elbo, _state(stack, place), 0
            return True
        self.n_worse += 1
        return False

    def is_patient(self, settings: TrainingSettings) -> bool:
        """Whether training goes on."""
        return settings.patience is None or self.n_worse < settings.patience


def _turn_axes(stack: NVAE | Stack, optimizer: torch.optim.Optimizer, settings: FitSettings) -> None:
    """Turn the latent axes of linear decoders, and forget the optimiser's moments along the old ones."""
    if settings.model.rotation == "varimax":
        for parameter in stack.turn_axes():
            optimizer.state.pop(parameter, None)


def fit(
    models: Sequence[NVAE],
    samples: Samples,
    train: Tensor,
    validation: Tensor,
    settings: FitSettings,
    seeds: Sequence[int],
    unlabelled: Tensor | None = None,
) -> Iterator[dict[int, Epoch]]:
    """Maximise the objective with Adam for each model; yields after each epoch, leaves the best weights in the models.

    That of a step is the mean of eq. 7 over its labelled samples and of U(x) over its unlabelled ones, less the penalty
    on z_s, and a sample's share of the log prior of a linear decoder's weights. The KL weight warms up over the first
    `warmup_share` of all steps and is exactly 1 from then on; only epochs after it can be the best, and only they count
    for early stopping. Several models are trained as a stack, each with its own batches and draws, to what it would be
    alone but for rounding; one that stops early leaves the stack.

    Args:
        models: of one form, on the device to train on; changed in place.
        samples: on that device, or on the CPU.
        train: rows of labelled samples.
        validation: rows of labelled samples; their bound decides which weights are kept.
        settings: model and training settings.
        seeds: of the batches and of the draws of z, one a model.
        unlabelled: rows of unlabelled samples that train too.

    Yields:
        The epoch of each model that is still trained, by its seed.

    Raises:
        UserError: the objective is not finite any more.
    """
    training, device = settings.training, _device_of(models[0])
    stack, optimizer, rows = _start(models, samples, train, unlabelled, training)
    progress, active, is_turned = {seed: _Progress() for seed in seeds}, list(seeds), False
    for epoch in range(training.epochs):
        total, weight = torch.zeros(N_TERMS + 2, len(active), device=device), 1.0
        for sums, step_weight in _steps(stack, optimizer, samples, rows, settings, active, epoch):
            total[: len(sums)].add_(sums)
            weight = step_weight
        if weight == 1.0 and not is_turned:
            _turn_axes(stack, optimizer, settings)
            is_turned = True
        found, held_out = _averages(total[:N_TERMS], len(train)), evaluate(stack, samples, validation, settings)
        bounds = (total[N_TERMS] / len(rows.unlabelled)).tolist()  # 0/0, NaN, where there are none
        penalties = (total[N_TERMS + 1] / (len(train) if settings.model.has_penalty else 0)).tolist()
        _check_finite([*found, *held_out], bounds if len(rows.unlabelled) else [], epoch, training)
        epochs = {}
        for place, seed in enumerate(active):
            is_best = weight == 1.0 and progress[seed].is_best(held_out[place].elbo, stack, place)
            epochs[seed] = Epoch(epoch, weight, found[place], held_out[place], is_best, bounds[place], penalties[place])
        yield epochs
        going = [place for place, seed in enumerate(active) if progress[seed].is_patient(training)]
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


def _start(
    models: Sequence[NVAE], samples: Samples, train: Tensor, unlabelled: Tensor | None, settings: TrainingSettings
) -> tuple[NVAE | Stack, torch.optim.Optimizer, TrainingRows]:
    """One model as it is, or several as a stack; the optimiser of all their parameters; and the rows of the steps."""
    stack: NVAE | Stack = models[0] if len(models) == 1 else Stack(models)
    rows = TrainingRows.of(samples, train, unlabelled, models[0].n_classes, _device_of(models[0]))
    return stack, torch.optim.Adam(stack.parameters(), lr=settings.learning_rate, fused=True), rows


def train_steps(
    models: Sequence[NVAE],
    samples: Samples,
    train: Tensor,
    settings: FitSettings,
    seeds: Sequence[int],
    unlabelled: Tensor | None = None,
) -> Iterator[None]:
    """The steps of the first epoch of `fit`, and nothing else: to see how long they take."""
    stack, optimizer, rows = _start(models, samples, train, unlabelled, settings.training)
    for _ in _steps(stack, optimizer, samples, rows, settings, seeds, 0):
        yield


def _steps(
    stack: NVAE | Stack,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    rows: TrainingRows,
    settings: FitSettings,
    seeds: Sequence[int],
    epoch: int,
) -> Iterator[tuple[Tensor, float]]:
    """One pass over the training samples; nothing in it waits for the device.

    Yields:
        After each step, the sums of `_sums` before it, (8, models), and its KL weight. With unlabelled samples or a
        penalty two rows follow: the sum of the bound on log p(x), and the penalty times the labelled samples.
    """
    training, model, device = settings.training, settings.model, _device_of(stack)

    def side_by_side(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts) if isinstance(stack, Stack) else parts[0]

    generators, steps = [make_generator(device, seed, epoch) for seed in seeds], rows.steps(seeds, epoch, settings)
    for number, parts in enumerate(steps):
        labelled, others = parts if isinstance(stack, Stack) else (part[0] for part in parts)
        n_labelled, n = labelled.shape[-1], labelled.shape[-1] + others.shape[-1]
        noise = side_by_side([torch.randn(n, model.n_latent, generator=one, device=device) for one in generators])
        done, n_steps = epoch * len(steps) + number, training.epochs * len(steps)
        weight = kl_weight(done, n_steps, training.warmup_share)
        if n == n_labelled:
            terms, unlabelled = elbo_terms(stack, samples.take(labelled).to(device), noise), None
        else:
            n_likeliest = rows.n_likeliest(settings)
            taken = torch.cat([labelled, others.repeat_interleave(n_likeliest, dim=-1)], dim=-1)
            both = elbo_terms(stack, samples.take(taken).to(device), noise, n_labelled, n_likeliest)
            terms, unlabelled = both.split(n_labelled, n_likeliest)
        gain, more = _gain(terms, unlabelled, rows, settings, weight)
        if stack.has_prior:
            gain = gain + stack.log_prior(model) / (len(rows.labelled) + len(rows.unlabelled))
        optimizer.zero_grad()
        (-gain).sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, n_steps, training)
        optimizer.step()
        sums = _sums(terms, settings)
        yield (sums if more is None else torch.cat([sums, more])), weight


def learning_rate(step: int, n_steps: int, settings: TrainingSettings) -> float:
    """Of a step: constant, or falling along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

    >>> [round(learning_rate(i, 4, TrainingSettings(learning_rate_schedule="cosine")), 6) for i in range(4)]
    [0.001, 0.000854, 0.0005, 0.000146]
    """
    if settings.learning_rate_schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * (1 + math.cos(math.pi * step / n_steps)) / 2


def _gain(
    terms: ElboTerms, unlabelled: ElboTerms | None, rows: TrainingRows, settings: FitSettings, weight: float
) -> tuple[Tensor, Tensor | None]:
    """What a step maximises, (…), and what `_steps` yields after the sums, (2, models) or None."""
    model, parts = settings.model, (weight, settings.model.beta_private, settings.model.private_kl)
    objective = terms.objective(*parts, model.classifier_weight)
    if unlabelled is None and not model.has_penalty:
        return objective.mean(-1), None
    sums = objective.new_zeros(2, *objective.shape[:-1])
    if unlabelled is not None:
        log_prior = rows.class_log_prior(settings)
        objective = torch.cat([objective, unlabelled_bound(unlabelled, log_prior, *parts)], dim=-1)
        sums[0] = unlabelled_bound(unlabelled, log_prior).detach().sum(-1)
    gain = objective.mean(-1)
    if model.has_penalty:
        size, shared = rows.class_size[terms.label], (terms.shared_mean, terms.shared_log_std, terms.shared_draw)
        penalty = PENALTIES[model.independence](SharedDraws(*shared, terms.label, size))
        gain = gain - weight * model.independence_weight * penalty
        sums[1] = penalty.detach() * terms.label.shape[-1]
    return gain, sums.reshape(2, -1)


def _check_finite(found: Sequence[Averages], bounds: Sequence[float], epoch: int, settings: TrainingSettings) -> None:
    values = [value for averages in found for value in asdict(averages).values()]
    if not all(map(math.isfinite, [*values, *bounds])):
        raise UserError(
            f"training: the objective is not finite in epoch {epoch}; "
            f"learning_rate {settings.learning_rate} may be too large for these data"
        )
