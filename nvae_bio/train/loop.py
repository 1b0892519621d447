"""The training loop: the objective maximised with Adam, for one model or for several side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from nvae_bio.config import FitSettings, ModelSettings, TrainingSettings
from nvae_bio.data.samples import Samples, make_generator
from nvae_bio.errors import UserError
from nvae_bio.machine import matmul_precision
from nvae_bio.model import NVAE, ElboTerms, Stack, elbo_terms, kl_weight, unlabelled_bound
from nvae_bio.model.independence import PENALTIES, SharedDraws
from nvae_bio.train.checkpoint import Checkpoints
from nvae_bio.train.ranks import ALONE, Ranks
from nvae_bio.train.rows import TrainingRows
from nvae_bio.train.state import CHUNK, N_TERMS, Averages, Epoch, State

VALIDATION_NOISE = 1_000_000_007  # one fixed set of draws for every validation pass: epochs differ by weights alone


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
def evaluate(
    model: NVAE | Stack, samples: Samples, rows: Tensor, settings: FitSettings, ranks: Ranks = ALONE
) -> list[Averages]:
    """Averages over the samples at `rows` (all labelled) at one fixed draw of z each; one entry a model.

    Matrix products are in full float32, whatever they are in training.
    """
    device, n_models = model.device, len(model) if isinstance(model, Stack) else 1
    generator = make_generator(device, VALIDATION_NOISE)
    draws = torch.randn(len(rows), settings.model.n_latent, generator=generator, device=device)
    total, size = torch.zeros(N_TERMS, n_models, device=device), max(CHUNK // n_models, 1)
    with matmul_precision("highest"):
        parts = ranks.part(rows).split(size)
        with samples.matrix.reading(parts):
            for part, noise in zip(parts, ranks.part(draws, 0).split(size), strict=True):
                if isinstance(model, Stack):
                    part, noise = part.expand(n_models, -1), noise.expand(n_models, -1, -1)
                total += _sums(elbo_terms(model, samples.take(part).to(device), noise), settings)
    ranks.add_up([total])
    return _averages(total, len(rows))


def _averages(total: Tensor, n: int) -> list[Averages]:
    return [Averages(*values) for values in (total / n).T.tolist()]


def _turn_axes(state: State, settings: FitSettings) -> None:
    """Turn the latent axes of linear decoders, and forget the optimiser's moments along the old ones."""
    if settings.model.rotation == "varimax":
        for parameter in state.stack.turn_axes():
            state.optimizer.state.pop(parameter, None)
    state.is_turned = True


def fit(
    models: Sequence[NVAE],
    samples: Samples,
    train: Tensor,
    validation: Tensor,
    settings: FitSettings,
    seeds: Sequence[int],
    unlabelled: Tensor | None = None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = ALONE,
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
        checkpoints: where the training is saved as it goes on, and taken up where it was stopped.
        ranks: the processes that train together, all called alike.

    Yields:
        The epoch of each model that is still trained, by its seed; where a training is taken up, those of before too.

    Raises:
        UserError: the objective is not finite any more.
        Interrupted: a signal asked to stop; a checkpoint is there.
    """
    state, rows = State.start(models, seeds, settings.training), _rows(models, samples, train, unlabelled)
    if checkpoints is not None:
        checkpoints.resume(state, ranks)
    yield from tuple(state.history)
    while not state.is_done:
        for _ in _steps(state, samples, rows, settings, ranks):
            if checkpoints is not None:
                checkpoints.after_step(state, ranks)
        yield _end_epoch(state, samples, rows, validation, settings, ranks)
    if checkpoints is not None and ranks.is_first:
        checkpoints.save(state)
    for model, seed in zip(models, seeds, strict=True):
        weights = state.progress[seed].weights
        assert weights is not None  # the warm-up ends by the middle of training
        model.load_state_dict(weights)


def _rows(models: Sequence[NVAE], samples: Samples, train: Tensor, unlabelled: Tensor | None) -> TrainingRows:
    return TrainingRows.of(samples, train, unlabelled, models[0].n_classes, models[0].device)


def _end_epoch(
    state: State, samples: Samples, rows: TrainingRows, validation: Tensor, settings: FitSettings, ranks: Ranks
) -> dict[int, Epoch]:
    """The epoch of each model, by its seed, once its steps are done."""
    weight, sums, n_labelled, n_unlabelled = state.kl_weight, state.sums, len(rows.labelled), len(rows.unlabelled)
    if weight == 1.0 and not state.is_turned:
        _turn_axes(state, settings)
    found = _averages(sums[:N_TERMS], n_labelled)
    held_out = evaluate(state.stack, samples, validation, settings, ranks)
    bounds = (sums[N_TERMS] / n_unlabelled).tolist()  # 0/0, NaN, where there are none
    penalties = (sums[N_TERMS + 1] / (n_labelled if settings.model.has_penalty else 0)).tolist()
    _check_finite([*found, *held_out], bounds if n_unlabelled else [], state.epoch, settings.training)
    epochs = {}
    for place, seed in enumerate(state.active):
        is_best = weight == 1.0 and state.keep_best(seed, held_out[place].elbo)
        of_seed = (found[place], held_out[place], is_best, bounds[place], penalties[place])
        epochs[seed] = Epoch(state.epoch, weight, *of_seed)
    state.end_epoch(epochs, settings.training)
    return epochs


def train_steps(
    models: Sequence[NVAE],
    samples: Samples,
    train: Tensor,
    settings: FitSettings,
    seeds: Sequence[int],
    unlabelled: Tensor | None = None,
) -> Iterator[None]:
    """The steps of the first epoch of `fit`, and nothing else: to see how long they take."""
    state, rows = State.start(models, seeds, settings.training), _rows(models, samples, train, unlabelled)
    yield from _steps(state, samples, rows, settings)


def _steps(
    state: State, samples: Samples, rows: TrainingRows, settings: FitSettings, ranks: Ranks = ALONE
) -> Iterator[None]:
    """What is left of an epoch, step by step, each noted in the state; nothing in it waits for the device."""
    training, stack, optimizer = settings.training, state.stack, state.optimizer
    steps = rows.steps(state.active, state.epoch, settings)
    left = steps[state.step :]
    state.begin_epoch()
    with samples.matrix.reading(torch.cat([ranks.part(kind) for kind in parts], dim=-1) for parts in left):
        for parts in left:
            labelled, others = parts if isinstance(stack, Stack) else (part[0] for part in parts)
            noise = _draws(state, labelled.shape[-1] + others.shape[-1], settings.model.n_latent)
            done, n_steps = state.epoch * len(steps) + state.step, training.epochs * len(steps)
            state.kl_weight = kl_weight(done, n_steps, training.warmup_share)
            gain, sums = _step(state, samples, rows, settings, ranks, (labelled, others, noise))
            optimizer.zero_grad()
            (-gain).sum().backward()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done, n_steps, training)
            ranks.add_up([*(one.grad for one in stack.parameters() if one.grad is not None), sums])
            optimizer.step()
            state.sums.add_(sums)
            state.step += 1
            yield


def _step(
    state: State,
    samples: Samples,
    rows: TrainingRows,
    settings: FitSettings,
    ranks: Ranks,
    batch: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Of a batch (rows of labelled and of other samples, draws for all) the part of this process.

    Returns:
        Its part of what the step maximises, (…), and of the sums of the state, (N_SUMS, models): each is that of the
        whole batch once it is added up over the processes.
    """
    stack, model, (labelled, others, noise) = state.stack, settings.model, batch
    n_labelled, n = labelled.shape[-1], noise.shape[-2]
    device = stack.device
    mine, rest = ranks.part(labelled), ranks.part(others)
    draws = torch.cat([ranks.part(noise[..., :n_labelled, :], -2), ranks.part(noise[..., n_labelled:, :], -2)], dim=-2)
    if not others.shape[-1]:
        terms, unlabelled = elbo_terms(stack, samples.take(mine).to(device), draws), None
    else:
        n_likeliest = rows.n_likeliest(settings)
        taken = torch.cat([mine, rest.repeat_interleave(n_likeliest, dim=-1)], dim=-1)
        both = elbo_terms(stack, samples.take(taken).to(device), draws, mine.shape[-1], n_likeliest)
        terms, unlabelled = both.split(mine.shape[-1], n_likeliest)
    parts = (state.kl_weight, model.beta_private, model.private_kl)
    objective, sums = terms.objective(*parts, model.classifier_weight), torch.zeros_like(state.sums)
    sums[:N_TERMS] = _sums(terms, settings)
    if unlabelled is not None:
        log_prior = rows.class_log_prior(settings)
        objective = torch.cat([objective, unlabelled_bound(unlabelled, log_prior, *parts)], dim=-1)
        sums[N_TERMS] = unlabelled_bound(unlabelled, log_prior).detach().sum(-1)
    gain = objective.sum(-1) / n
    if model.has_penalty:
        penalty = _penalty(terms, samples.label[labelled].to(device), rows, model, ranks)
        gain = gain - state.kl_weight * model.independence_weight * penalty
        sums[N_TERMS + 1] = penalty.detach() * n_labelled / ranks.size
    if stack.has_prior:
        gain = gain + stack.log_prior(model) / (len(rows.labelled) + len(rows.unlabelled)) / ranks.size
    return gain, sums


def _penalty(terms: ElboTerms, label: Tensor, rows: TrainingRows, model: ModelSettings, ranks: Ranks) -> Tensor:
    """On z_s of all labelled samples of the batch, (…), with gradients of those of this process."""
    n = label.shape[-1]
    mean, log_std, draw = (
        ranks.whole(one, n, -2) for one in (terms.shared_mean, terms.shared_log_std, terms.shared_draw)
    )
    return PENALTIES[model.independence](SharedDraws(mean, log_std, draw, label, rows.class_size[label]))


def _draws(state: State, n: int, n_latent: int) -> Tensor:
    """Of the standard normal for the samples of a step, (n, latent), with a leading dimension in a stack."""
    draws = [torch.randn(n, n_latent, generator=one, device=one.device) for one in state.generators]
    return torch.stack(draws) if isinstance(state.stack, Stack) else draws[0]


def learning_rate(step: int, n_steps: int, settings: TrainingSettings) -> float:
    """Of a step: constant, or falling along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

    >>> [round(learning_rate(i, 4, TrainingSettings(learning_rate_schedule="cosine")), 6) for i in range(4)]
    [0.001, 0.000854, 0.0005, 0.000146]
    """
    if settings.learning_rate_schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * (1 + math.cos(math.pi * step / n_steps)) / 2


def _check_finite(found: Sequence[Averages], bounds: Sequence[float], epoch: int, settings: TrainingSettings) -> None:
    values = [value for averages in found for value in asdict(averages).values()]
    if not all(map(math.isfinite, [*values, *bounds])):
        raise UserError(
            f"training: the objective is not finite in epoch {epoch}; "
            f"learning_rate {settings.learning_rate} may be too large for these data"
        )
