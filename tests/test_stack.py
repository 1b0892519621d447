"""Models side by side are the same models apart: passes, gradients, steps, early stopping, whole trainings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nvae_bio import train_model
from nvae_bio.config import LIKELIHOODS, FitSettings
from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.data.packed import counts_of
from nvae_bio.data.samples import Samples, to_samples
from nvae_bio.errors import UserError
from nvae_bio.machine import reproducible
from nvae_bio.model import NVAE, ElboTerms, Stack, elbo_terms, keep_models
from nvae_bio.model.likelihoods import LIKELIHOOD_CLASSES
from nvae_bio.train import train_models
from nvae_bio.train.loop import Epoch, evaluate, fit
from nvae_bio.train.moments import feature_moments
from nvae_bio.train.step import labelled_rows
from tests.small_models import (
    FORM,
    fixed_seed,
    make_batch,
    make_covariates,
    make_generator,
    make_model,
    make_moments,
    make_noise,
    randomize,
)
from tests.toys import CLASSES, PREPARED, fit_settings, prepared_counts, prepared_features

DIMS: dict[str, dict[str, Any]] = {
    "nvae": {"n_shared": 3, "n_private": 2},
    "cvae": {"n_shared": 3},
    "vae": {"n_shared": 3},
    "per_class": {"n_private": 2},
}
CONV = {"backbone": "conv", "image": (1, 8, 8), "n_features": 64, "channels": (4, 6), "hidden": (8,)}
FORMS = [(variant, likelihood, {}) for variant in DIMS for likelihood in ("bernoulli", "gaussian", "negative_binomial")]
FORMS += [("nvae", likelihood, CONV) for likelihood in ("bernoulli", "gaussian")]
FORMS += [("nvae", likelihood, {}) for likelihood in ("zero_inflated_negative_binomial", "poisson")]
FORMS += [("nvae", likelihood, {"size": "size_factor"}) for likelihood in LIKELIHOODS["counts"]]
FORMS += [("nvae", "discretized_logistic", CONV)]
TOLD: dict[str, Any] = {"form": FORM, "max_one_hot": 2, "covariate_dims": 3}  # the one of 4 levels is embedded
FORMS += [(variant, "negative_binomial", TOLD) for variant in DIMS]
FORMS += [("nvae", "gaussian", {**TOLD, "covariates": "both"}), ("nvae", "bernoulli", {**CONV, **TOLD})]
SEEDS = [3, 1, 4]


def make_models(variant: str, likelihood: str, n: int = 3, **more: Any) -> list[NVAE]:
    models = [make_model(variant, likelihood, seed=seed, **DIMS[variant], **more) for seed in range(n)]
    for seed, model in enumerate(models):
        randomize(model, seed)
        model.fit_output_bias(make_moments(make_batch(likelihood, n=20, n_features=model_width(model), seed=seed)))
    return models


def model_width(model: NVAE) -> int:
    return model.likelihood.n_features


def make_batches(models: Sequence[NVAE], likelihood: str, seed: int = 0) -> list[Batch]:
    batches = [make_batch(likelihood, n_features=model_width(m), seed=10 * seed + i) for i, m in enumerate(models)]
    if models[0].decoder.composition.effect is None:
        return batches
    return [batch._replace(covariates=make_covariates(seed=10 * seed + i)) for i, batch in enumerate(batches)]


def make_noises(models: Sequence[NVAE], seed: int = 0) -> list[Tensor]:
    return [make_noise(model, 7, 100 * seed + i) for i, model in enumerate(models)]


def side_by_side(batches: Sequence[Batch]) -> Batch:
    x, label = (torch.stack([batch[i] for batch in batches]) for i in (0, 1))
    found = Batch(x, label)
    if batches[0].library is not None:
        found = Batch(x, label, torch.stack([batch.library for batch in batches]), counts_of(x))
    if batches[0].covariates is None:
        return found
    told = zip(*(batch.covariates for batch in batches), strict=True)
    return found._replace(covariates=Covariates(*(torch.stack(parts) for parts in told)))


def take_step(model: NVAE | Stack, optimizer: torch.optim.Optimizer, batch: Batch, noise: Tensor) -> ElboTerms:
    terms = elbo_terms(model, batch, noise)
    optimizer.zero_grad()
    (-terms.objective(0.7, 1.3, "all", 0.8).mean(-1)).sum().backward()
    optimizer.step()
    return terms


def make_optimizer(model: NVAE | Stack) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor], error: float = 1e-10) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=error, atol=error, msg=lambda text, n=name: f"{n}: {text}")


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "likelihood", "more"), FORMS)
def test_terms_gradients_and_a_step_are_those_of_each_model(
    variant: str, likelihood: str, more: dict[str, Any]
) -> None:
    models = make_models(variant, likelihood, **more)
    batches, noises, stack = make_batches(models, likelihood), make_noises(models), Stack(models)
    assert len(stack) == 3
    together = take_step(stack, make_optimizer(stack), side_by_side(batches), torch.stack(noises))
    gradients = dict(zip(stack.names, (weight.grad for weight in stack.weights), strict=True))
    gradients |= {f"likelihood.{name}": value.grad for name, value in stack.likelihood.named_parameters()}
    for place, model in enumerate(models):
        apart = take_step(model, make_optimizer(model), batches[place], noises[place])
        for field in fields(ElboTerms):
            one, other = getattr(together, field.name)[place], getattr(apart, field.name)
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name][place], parameter.grad, rtol=1e-9, atol=1e-10)
            assert parameter.numel() == 0 or parameter.grad.any(), name
        # where a gradient is nearly 0, Adam is steep
        assert_same_state(stack.state_of(place), model.state_dict(), 1e-7)


def test_a_model_of_the_stack_takes_nothing_from_the_others() -> None:
    models = make_models("nvae", "negative_binomial")
    batches, noises, stack = make_batches(models, "negative_binomial"), make_noises(models), Stack(models)
    terms = elbo_terms(stack, side_by_side(batches), torch.stack(noises))
    terms.objective(1.0, 1.0, "all", 1.0)[1].sum().backward()
    for parameter in stack.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[[0, 2]].any()
    assert all(weight.grad[1].any() for weight in stack.weights)


def test_the_stack_shares_no_memory_with_its_models() -> None:
    models = make_models("nvae", "negative_binomial")
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    stack = Stack(models)
    kept = stack.state_of(1)
    with torch.no_grad():
        for tensor in [*stack.parameters(), *stack.buffers()]:
            tensor.add_(1.0)
    for model, state in zip(models, before, strict=True):
        assert_same_state(model.state_dict(), state, 0)
    assert_same_state(kept, before[1], 0)


@pytest.mark.parametrize("more", [{}, TOLD])
@pytest.mark.parametrize("likelihood", LIKELIHOOD_CLASSES)
def test_the_state_of_a_model_loads_back(likelihood: str, more: dict[str, Any]) -> None:
    models = make_models("nvae", likelihood, **more)
    stack, other = Stack(models), make_model("nvae", likelihood, seed=99, **DIMS["nvae"], **more)
    for place, model in enumerate(models):
        other.load_state_dict(stack.state_of(place))
        assert_same_state(other.state_dict(), model.state_dict(), 0)


@pytest.mark.parametrize("more", [{}, TOLD])
@pytest.mark.parametrize("likelihood", LIKELIHOOD_CLASSES)
@pytest.mark.parametrize("kept", [[0], [2], [0, 2], [1, 2]])
def test_models_that_are_kept_go_on_as_if_nothing_were(likelihood: str, kept: list[int], more: dict[str, Any]) -> None:
    models = make_models("nvae", likelihood, **more)
    stack, alone = Stack(models), [make_optimizer(model) for model in models]
    optimizer = make_optimizer(stack)
    for step in range(6):
        if step == 3:
            keep_models(stack, optimizer, torch.tensor(kept))
            models, alone = [models[i] for i in kept], [alone[i] for i in kept]
            assert len(stack) == len(kept)
        batches, noises = make_batches(models, likelihood, step), make_noises(models, step)
        take_step(stack, optimizer, side_by_side(batches), torch.stack(noises))
        for model, own, batch, noise in zip(models, alone, batches, noises, strict=True):
            take_step(model, own, batch, noise)
    for place, model in enumerate(models):
        assert_same_state(stack.state_of(place), model.state_dict(), 1e-7)


# --- whole trainings -------------------------------------------------------------------------------------------------


class DoubleSamples(Samples):
    """Batches in float64, so that what differs but for rounding is seen."""

    def take(self, index: Tensor) -> Batch:
        batch = super().take(index)
        library = None if batch.library is None else batch.library.double()
        return batch._replace(x=batch.x.double(), library=library)


def make_settings(**training: Any) -> FitSettings:
    """So fast a learning rate, and so little patience, that the seeds stop at different epochs."""
    values = {"max_epochs": 40, "batch_size": 64, "learning_rate": 0.02, "warmup_share": 0.1, "patience": 2, **training}
    return FitSettings.model_validate({"model": {"hidden": [16]}, "training": values})


def make_double(kind: str, settings: FitSettings, seeds: Sequence[int]) -> tuple[list[NVAE], Samples, Tensor, Tensor]:
    """Untrained models, samples and rows of both splits, as `train_models` has them but in float64."""
    prepared = PREPARED[kind]()
    found = to_samples(prepared, CLASSES)
    samples = DoubleSamples(found.matrix, found.label, found.library)
    rows, held_out = (labelled_rows(prepared, samples, split) for split in ("train", "validation"))
    card = train_model(prepared, settings.with_training(max_epochs=1), 0).card
    models = []
    for seed in seeds:
        with fixed_seed(seed):
            models.append(card.build().double())
        models[-1].fit_output_bias(feature_moments(found, rows, len(CLASSES)))
    return models, samples, rows, held_out


def fit_double(kind: str, settings: FitSettings, seeds: Sequence[int]) -> tuple[list[NVAE], dict[int, list[Epoch]]]:
    models, samples, rows, held_out = make_double(kind, settings, seeds)
    epochs: dict[int, list[Epoch]] = {seed: [] for seed in seeds}
    with reproducible(1):
        for of_seed in fit(models, samples, rows, held_out, settings, seeds):
            for seed, epoch in of_seed.items():
                epochs[seed].append(epoch)
    return models, epochs


@pytest.mark.parametrize("kind", PREPARED)
def test_seeds_trained_together_end_where_each_ends_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvae_bio.train.loop.CHUNK", 20)  # a stack takes its validation samples in other parts
    settings = make_settings().for_kind(kind)
    models, epochs = fit_double(kind, settings, SEEDS)
    lengths = {seed: len(own) for seed, own in epochs.items()}
    assert len(set(lengths.values())) > 1 and max(lengths.values()) > 8, lengths
    for model, seed in zip(models, SEEDS, strict=True):
        (alone,), own = fit_double(kind, settings, [seed])
        assert_same_state(model.state_dict(), alone.state_dict(), 1e-9)
        assert len(own[seed]) == lengths[seed]
        for one, other in zip(epochs[seed], own[seed], strict=True):
            assert (one.number, one.kl_weight, one.is_best) == (other.number, other.kl_weight, other.is_best)
            for part in ("train", "validation"):
                assert astuple(getattr(one, part)) == pytest.approx(astuple(getattr(other, part)), rel=1e-5, abs=1e-6)


def test_models_are_evaluated_together_as_apart() -> None:
    models, samples, _, rows = make_double("counts", fit_settings(), SEEDS)
    together = evaluate(Stack(models), samples, rows, fit_settings())
    for model, found in zip(models, together, strict=True):
        (alone,) = evaluate(model, samples, rows, fit_settings())
        assert astuple(found) == pytest.approx(astuple(alone), rel=1e-6)
    assert len({found.elbo for found in together}) == 3


@pytest.mark.parametrize("kind", PREPARED)
def test_train_models_gives_what_train_model_gives_but_for_rounding(kind: str) -> None:
    settings = make_settings(max_epochs=6, patience=1, learning_rate=0.005)
    together = train_models(PREPARED[kind](), settings, SEEDS)
    for seed, model in zip(SEEDS, together, strict=True):
        alone = train_model(PREPARED[kind](), settings, seed)
        assert model.card.seed == seed and model.card.stacked_seeds == SEEDS and alone.card.stacked_seeds == []
        assert model.card.best_epoch == alone.card.best_epoch
        assert model.card.settings == alone.card.settings
        assert_same_state(model.network.state_dict(), alone.network.state_dict(), 1e-3)
        assert not model.network.training
        columns = ["epoch", "kl_weight", "split", "is_best"]
        assert model.history[columns].equals(alone.history[columns])
        terms = model.history.columns.difference(columns)
        np.testing.assert_allclose(model.history[terms], alone.history[terms], rtol=1e-3, atol=1e-3)


def test_large_steps_are_taken_one_seed_after_the_other_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvae_bio.train.step.STACKED_NUMBERS", 64 * 60 - 1)
    for seed, model in zip(SEEDS, train_models(prepared_counts(), fit_settings(), SEEDS), strict=True):
        alone = train_model(prepared_counts(), fit_settings(), seed)
        assert_same_state(model.network.state_dict(), alone.network.state_dict(), 0)
        assert model.card == alone.card and model.card.stacked_seeds == []
        assert model.history.equals(alone.history)


def test_trained_together_twice_gives_the_same_bits() -> None:
    one, other = (train_models(prepared_features(), fit_settings(), SEEDS) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert_same_state(first.network.state_dict(), second.network.state_dict(), 0)
        assert first.history.equals(second.history) and first.card == second.card
    assert not one[0].history.equals(one[1].history)


def test_every_seed_has_its_line_of_progress(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nvae_bio"):
        train_models(prepared_counts(), fit_settings(2), [8, 5], progress=False)
    starts = [record.getMessage().split(":")[0] for record in caplog.records]
    assert starts == ["seed 8, epoch 0", "seed 5, epoch 0", "seed 8, epoch 1", "seed 5, epoch 1"]


def test_a_stack_of_one_is_that_model() -> None:
    (model,) = make_models("nvae", "gaussian", n=1)
    batch, noise = make_batch("gaussian"), torch.randn(7, 5, generator=make_generator(1), dtype=torch.float64)
    found = elbo_terms(Stack([model]), Batch(batch.x[None], batch.label[None]), noise[None])
    torch.testing.assert_close(found.elbo()[0], elbo_terms(model, batch, noise).elbo())


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_that_are_none_or_the_same_are_refused(seeds: list[int]) -> None:
    with pytest.raises(UserError, match=r"seeds: .*; at least one, and different from each other"):
        train_models(prepared_features(), fit_settings(), seeds)
