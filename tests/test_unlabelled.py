"""Samples without a class: their bound by brute force and its limits, their steps, and what they teach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio import embed_data, train_model
from nvae_bio.config import FeaturesSettings, FitSettings
from nvae_bio.data.batch import Batch
from nvae_bio.data.packed import counts_of
from nvae_bio.data.samples import UNLABELED, Samples, balanced_order, even_parts, to_samples
from nvae_bio.errors import UserError
from nvae_bio.model import NVAE, ElboTerms, Stack, elbo_terms, unlabelled_bound
from nvae_bio.prepare import prepare_data
from nvae_bio.train import train_models
from nvae_bio.train.rows import TrainingRows
from tests.small_models import law, make_batch, make_model, make_noise
from tests.toys import CLASSES, NO_UMAP, PREPARED, fit_settings, prepared_features

DIMS: dict[str, dict[str, Any]] = {
    "nvae": {"n_shared": 3, "n_private": 2},
    "cvae": {"n_shared": 3},
    "vae": {"n_shared": 3},
    "per_class": {"n_private": 2},
}
LOG_PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
N, N_LABELLED = 7, 3
LIKELIHOODS = ("bernoulli", "gaussian", "negative_binomial")


def repeated(batch: Batch, n_labelled: int, n_likeliest: int) -> Batch:
    """The batch with each unlabelled sample as often as it is decoded."""
    row = [*range(n_labelled), *(i for i in range(n_labelled, batch.n) for _ in range(n_likeliest))]
    label = batch.label.clone()
    label[n_labelled:] = UNLABELED
    x = batch.x[row]
    if batch.library is None:
        return Batch(x, label[row])
    return Batch(x, label[row], batch.library[row], counts_of(x))


def make_mixed(model: NVAE, batch: Batch, noise: Tensor, n_likeliest: int) -> tuple[ElboTerms, ElboTerms]:
    """Terms of the labelled samples, the first three, and of the others."""
    both = elbo_terms(model, repeated(batch, N_LABELLED, n_likeliest), noise, N_LABELLED, n_likeliest)
    return both.split(N_LABELLED, n_likeliest)


def of_each_class(model: NVAE, batch: Batch, noise: Tensor) -> list[ElboTerms]:
    """Terms of all samples as if each had class 0, then 1, then 2."""
    return [elbo_terms(model, batch._replace(label=torch.full_like(batch.label, y)), noise) for y in range(3)]


# --- the bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("variant", ["nvae", "cvae", "per_class"])
@pytest.mark.parametrize("reading", ["all", "own"])
def test_the_bound_is_the_sum_over_classes(variant: str, likelihood: str, reading: str) -> None:
    model, batch = make_model(variant, likelihood, **DIMS[variant]), make_batch(likelihood)
    noise = make_noise(model, N)
    expected = torch.zeros(N, dtype=torch.float64)
    for y, terms in enumerate(of_each_class(model, batch, noise)):
        private = terms.kl_private.sum((1, 2)) if reading == "all" else terms.kl_own.sum(1)
        kl = terms.kl_shared.sum(1) + 1.7 * private
        q = terms.log_class.exp()
        expected += q * (terms.log_likelihood - 0.4 * kl + LOG_PRIOR[y]) - q * q.log()
    _, others = make_mixed(model, batch, noise, 3)
    found = unlabelled_bound(others, LOG_PRIOR, 0.4, 1.7, reading)
    torch.testing.assert_close(found, expected[N_LABELLED:])


def test_over_the_likeliest_classes_q_is_renormalised() -> None:
    model, batch = make_model(**DIMS["nvae"]), make_batch()
    noise = make_noise(model, N)
    of_class = of_each_class(model, batch, noise)
    values = torch.stack([terms.elbo() for terms in of_class], dim=1) + LOG_PRIOR
    log_q = torch.stack([terms.log_class for terms in of_class], dim=1)
    log_q[torch.arange(N), log_q.argmin(1)] = -math.inf
    q = log_q.softmax(1)
    expected = (q * values).sum(1) + torch.special.entr(q).sum(1)
    _, others = make_mixed(model, batch, noise, 2)
    torch.testing.assert_close(unlabelled_bound(others, LOG_PRIOR), expected[N_LABELLED:])


@pytest.mark.parametrize("n_likeliest", [1, 2, 3])
def test_a_classifier_that_is_sure_gives_the_labelled_bound_and_the_prior(n_likeliest: int) -> None:
    model, batch = make_model(**DIMS["nvae"]), make_batch()
    noise = make_noise(model, N)
    with torch.no_grad():
        model.classifier.logits.weight.mul_(1e6)
    predicted = model.classifier(model.likelihood.encoder_input(batch.x, None)).argmax(1)
    expected = elbo_terms(model, batch._replace(label=predicted), noise).elbo() + LOG_PRIOR[predicted]
    _, others = make_mixed(model, batch, noise, n_likeliest)
    torch.testing.assert_close(unlabelled_bound(others, LOG_PRIOR), expected[N_LABELLED:])


@law
@given(seed=st.integers(0, 50), n_likeliest=st.integers(1, 3))
def test_the_bound_is_below_the_sum_over_classes_in_log_space(seed: int, n_likeliest: int) -> None:
    model, batch = make_model(seed=seed, **DIMS["nvae"]), make_batch(seed=seed)
    noise = make_noise(model, N, seed)
    values = torch.stack([terms.elbo() for terms in of_each_class(model, batch, noise)], dim=1) + LOG_PRIOR
    _, others = make_mixed(model, batch, noise, n_likeliest)
    assert (unlabelled_bound(others, LOG_PRIOR) <= values.logsumexp(1)[N_LABELLED:] + 1e-9).all()


def test_the_bound_is_tight_where_q_is_the_posterior_of_the_class() -> None:
    model, batch = make_model(**DIMS["nvae"]), make_batch()
    _, others = make_mixed(model, batch, make_noise(model, N), 3)
    values = others.elbo() + LOG_PRIOR[others.label]
    exact = replace(others, log_class=values.log_softmax(1))
    torch.testing.assert_close(unlabelled_bound(exact, LOG_PRIOR), values.logsumexp(1))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_labelled_samples_have_the_terms_that_they_have_alone(likelihood: str) -> None:
    model, batch = make_model(likelihood=likelihood, **DIMS["nvae"]), make_batch(likelihood)
    noise = make_noise(model, N)
    labelled, _ = make_mixed(model, batch, noise, 2)
    whole = elbo_terms(model, batch, noise)
    for name, value in vars(labelled).items():
        torch.testing.assert_close(value, getattr(whole, name)[:N_LABELLED])


def test_a_model_without_labels_scores_an_unlabelled_sample_as_any_other() -> None:
    model, batch = make_model("vae", **DIMS["vae"]), make_batch()
    noise = make_noise(model, N)
    _, others = make_mixed(model, batch, noise, 1)
    bound = unlabelled_bound(others, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(bound, elbo_terms(model, batch, noise).elbo()[N_LABELLED:])
    (bound.sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.classifier.parameters())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("variant", DIMS)
def test_a_stack_scores_them_as_each_of_its_models(variant: str, likelihood: str) -> None:
    n_likeliest = 1 if variant == "vae" else 2
    models = [make_model(variant, likelihood, seed=seed, **DIMS[variant]) for seed in range(2)]
    batches = [repeated(make_batch(likelihood, seed=seed), N_LABELLED, n_likeliest) for seed in range(2)]
    noises = [make_noise(model, N, seed) for seed, model in enumerate(models)]
    x, label = (torch.stack([batch[i] for batch in batches]) for i in (0, 1))
    library = None if batches[0].library is None else torch.stack([batch.library for batch in batches])
    together = Batch(x, label, library, None if library is None else counts_of(x))
    terms = elbo_terms(Stack(models), together, torch.stack(noises), N_LABELLED, n_likeliest)
    for place, model in enumerate(models):
        alone = elbo_terms(model, batches[place], noises[place], N_LABELLED, n_likeliest)
        for side, other in zip(terms.split(N_LABELLED, n_likeliest), alone.split(N_LABELLED, n_likeliest), strict=True):
            for name, value in vars(other).items():
                torch.testing.assert_close(getattr(side, name)[place], value, rtol=1e-10, atol=1e-10)


# --- orders and steps ------------------------------------------------------------------------------------------------


@law
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**40), st.integers(0, 10**6))
def test_balanced_epochs_have_the_same_number_of_each_class(sizes: list[int], seed: int, epoch: int) -> None:
    label = np.repeat(np.arange(len(sizes)) * 2, sizes)  # class 1 has no sample
    order = balanced_order(label, seed, epoch)
    assert torch.equal(order, balanced_order(label, seed, epoch))
    assert len(order) == len(label)
    drawn = np.bincount(label[order.numpy()], minlength=label.max() + 1)[::2]
    assert drawn.max() - drawn.min() <= 1


@law
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(0, 2**40), st.integers(0, 1000))
def test_over_balanced_epochs_all_samples_of_a_class_have_their_turn(sizes: list[int], seed: int, first: int) -> None:
    label = np.repeat(np.arange(len(sizes)), sizes)
    n_epochs = 1 + max(sizes) * len(sizes) // len(label) + 1
    times = np.zeros(len(label), int)
    for epoch in range(first, first + n_epochs):
        np.add.at(times, balanced_order(label, seed, epoch).numpy(), 1)
    for name in range(len(sizes)):
        of_class = times[label == name]
        assert of_class.min() >= 1
        assert of_class.max() - of_class.min() <= 1


def test_balanced_epochs_differ_by_seed_and_epoch() -> None:
    label = np.repeat([0, 1], [30, 10])
    orders = [balanced_order(label, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3


@given(st.integers(0, 300), st.integers(1, 60))
def test_even_parts_are_even_and_whole(n: int, n_parts: int) -> None:
    parts = even_parts(torch.arange(2 * n).view(2, n), n_parts)
    sizes = [part.shape[1] for part in parts]
    assert len(parts) == n_parts
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat(parts, dim=1), torch.arange(2 * n).view(2, n))


def make_rows(n_labelled: int, n_unlabelled: int) -> TrainingRows:
    """Rows of three classes; the unlabelled ones come first in the data set."""
    rows = torch.arange(n_unlabelled + n_labelled)
    label = torch.cat([torch.full((n_unlabelled,), UNLABELED), torch.arange(n_labelled) % 3])
    samples = Samples(to_samples(prepared_features(), CLASSES).matrix, label, None)
    return TrainingRows.of(samples, rows[n_unlabelled:], rows[:n_unlabelled], 3, torch.device("cpu"))


@law
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64), st.integers(0, 5))
def test_an_epoch_has_every_sample_once_and_steps_of_one_mixture(
    n_labelled: int, n_unlabelled: int, batch_size: int, epoch: int
) -> None:
    settings = FitSettings.model_validate({"training": {"batch_size": batch_size}})
    steps = make_rows(n_labelled, n_unlabelled).steps([3, 8], epoch, settings)
    assert len(steps) == math.ceil((n_labelled + n_unlabelled) / batch_size)
    for place in range(2):
        labelled, unlabelled = (torch.cat([step[kind][place] for step in steps]) for kind in (0, 1))
        assert sorted(unlabelled.tolist()) == list(range(n_unlabelled))
        assert sorted(labelled.tolist()) == list(range(n_unlabelled, n_unlabelled + n_labelled))
    for kind in (0, 1):
        sizes = [step[kind].shape[1] for step in steps]
        assert max(sizes) - min(sizes) <= 1


def test_the_prior_of_the_class() -> None:
    rows = make_rows(7, 2)  # 3, 2 and 2 of the classes
    expected = torch.tensor([4, 3, 3]) / 10
    torch.testing.assert_close(rows.class_log_prior(FitSettings()).exp(), expected)
    balanced = FitSettings().with_training(class_balance="balanced")
    torch.testing.assert_close(rows.class_log_prior(balanced).exp(), torch.full((3,), 1 / 3))
    without_classes = FitSettings.model_validate({"model": {"variant": "vae"}})
    assert rows.class_log_prior(without_classes).tolist() == [0, 0, 0]
    assert [rows.n_likeliest(s) for s in (FitSettings(), without_classes)] == [3, 1]
    assert rows.n_likeliest(FitSettings().with_training(unlabeled_classes=2)) == 2


# --- whole trainings -------------------------------------------------------------------------------------------------


def hidden_labels(prepared: AnnData, share: float, seed: int = 0) -> AnnData:
    """The same data with the labels of a share of the training samples taken away, class by class."""
    adata = prepared.copy()
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        rows = np.flatnonzero((adata.obs["split"] == "train").to_numpy() & (adata.obs["label"] == name).to_numpy())
        hidden = rng.permutation(rows)[: round(share * len(rows))]
        adata.obs.iloc[hidden, adata.obs.columns.get_loc("label")] = np.nan
    return adata


@pytest.mark.parametrize("kind", PREPARED)
def test_unlabelled_samples_train_together_as_alone(kind: str) -> None:
    prepared = hidden_labels(PREPARED[kind](), 0.6)
    settings = fit_settings(2).with_training(class_balance="balanced", unlabeled_classes=2)
    together = train_models(prepared, settings, [3, 1])
    for seed, model in zip([3, 1], together, strict=True):
        alone = train_model(prepared, settings, seed)
        columns = ["elbo", "objective", "elbo_unlabeled", "independence"]
        np.testing.assert_allclose(model.history[columns], alone.history[columns], rtol=1e-3, atol=1e-3)
        train = alone.history[alone.history["split"] == "train"]
        assert np.isfinite(train["elbo_unlabeled"]).all() and train["independence"].isna().all()
        assert alone.history.loc[alone.history["split"] == "validation", "elbo_unlabeled"].isna().all()


@pytest.mark.parametrize("share", [0.0, 0.99])
@pytest.mark.parametrize("variant", DIMS)
def test_any_share_of_the_labels_may_be_missing(share: float, variant: str) -> None:
    prepared = hidden_labels(prepared_features(), share)
    history = train_model(prepared, fit_settings(2, variant=variant), 0).history
    assert history[history["split"] == "train"]["elbo_unlabeled"].isna().all() == (share == 0)
    assert np.isfinite(history["elbo"]).all()


def test_without_any_label_training_is_refused() -> None:
    with pytest.raises(UserError, match="no labelled sample is 'train'"):
        train_model(hidden_labels(prepared_features(), 1.0), fit_settings(), 0)


def test_the_same_seed_gives_the_same_bits_with_unlabelled_samples() -> None:
    prepared = hidden_labels(prepared_features(), 0.5)
    one, again = (train_model(prepared, fit_settings(2), 4) for _ in range(2))
    assert one.history.equals(again.history)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])


def prepared_clusters(seed: int) -> AnnData:
    """Three clouds of 200 samples in 50 dims, 2.5 standard deviations from their middle, beside a shared factor."""
    rng = np.random.default_rng((seed, 7))
    label = np.repeat(np.arange(3), 200)
    centers = rng.normal(size=(3, 50))
    centers -= centers.mean(0)
    centers *= 2.5 / np.linalg.norm(centers, axis=1, keepdims=True)
    x = centers[label] + 0.5 * np.outer(rng.normal(size=600), rng.normal(size=50)) + rng.normal(size=(600, 50))
    obs = pd.DataFrame({"label": [CLASSES[i] for i in label], "truth": [CLASSES[i] for i in label]})
    adata = AnnData(x.astype(np.float32), obs=obs.set_index(obs.index.astype(str)))
    return prepare_data(FeaturesSettings(kind="features", standardize=False), adata)


def test_samples_without_a_label_teach_the_classifier() -> None:
    accuracy: dict[str, list[float]] = {"use": [], "ignore": []}
    for seed in (1, 2):
        prepared = hidden_labels(prepared_clusters(seed), 0.9, seed)
        for unlabeled, n_epochs in (("use", 60), ("ignore", 300)):  # epochs of the latter are a tenth as long
            settings = fit_settings(n_epochs, n_shared=1, n_private=1, hidden=[32], beta_private=1)
            settings = settings.with_training(unlabeled=unlabeled, learning_rate=3e-3)
            embedded = embed_data(prepared, train_model(prepared, settings, seed), NO_UMAP)
            test = embedded.obs[embedded.obs["split"] == "test"]
            accuracy[unlabeled].append((test["nvae_label"].astype(str) == test["truth"]).mean())
    assert min(accuracy["use"]) > 0.94, accuracy
    assert np.mean(accuracy["use"]) > np.mean(accuracy["ignore"]) + 0.05, accuracy
