"""Penalties on z_s: 0 in expectation where they should be, closed forms, gradients, and what they do in training."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from nvae_bio import embed_data, train_model
from nvae_bio.config import FeaturesSettings, FitSettings, ModelSettings
from nvae_bio.model.independence import PENALTIES, SharedDraws, aggregate_kl, hsic, mmd, moments
from nvae_bio.prepare import prepare_data
from nvae_bio.train import train_models
from tests.small_models import make_generator
from tests.toys import CLASSES, NO_UMAP, fit_settings

LARGE = 100_000  # samples of a class in the data


def make_drawn(
    n: int,
    shift: Tensor,
    spread: float | Tensor = 1.0,
    noise: float = 0.5,
    *,
    n_batches: int = 1,
    label: Tensor | None = None,
    seed: int = 0,
) -> SharedDraws:
    """z_s of class y is N(shift[y], spread[y]²) in each dim; its posteriors have standard deviation `noise`.

    Args:
        n: samples of a batch.
        shift: (C, S).
        spread: standard deviation of z_s, at least `noise`; or one a class, (C,).
        n_batches: leading dimension.
        label: (n,); the classes in turn if None.
    """
    generator = make_generator(seed)
    label = torch.arange(n) % len(shift) if label is None else label
    spread = torch.as_tensor(spread, dtype=torch.float64).expand(len(shift))[label][:, None]
    shape = (n_batches, n, shift.shape[1])
    posterior = torch.full(shape, noise, dtype=torch.float64)
    mean = shift[label] + (spread**2 - noise**2).sqrt() * torch.randn(shape, generator=generator, dtype=torch.float64)
    draw = mean + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    whole = label.expand(n_batches, -1)
    return SharedDraws(mean, posterior.log(), draw, whole, torch.full_like(whole, LARGE))


def make_shift(*of_class: float, n_shared: int = 2) -> Tensor:
    """The same shift in each dim."""
    return torch.tensor(of_class, dtype=torch.float64)[:, None].expand(-1, n_shared)


def assert_mean(values: Tensor, expected: float, n_errors: float = 4.0) -> None:
    """The mean over batches is as expected, but for its standard error."""
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - expected) < n_errors * error, (values.mean(), expected, error)


@pytest.mark.parametrize("penalty", [moments, mmd, hsic])
def test_no_bias_where_z_has_the_priors_distribution_in_every_class(penalty) -> None:  # noqa: ANN001
    values = penalty(make_drawn(9, make_shift(0, 0, 0), n_batches=20_000))
    assert_mean(values, 0.0)
    assert values.min() < 0  # as it must be to be right on average


def test_the_aggregate_kl_goes_to_0_there_from_below() -> None:
    few, many = (
        aggregate_kl(make_drawn(n, make_shift(0, 0, 0), n_batches=6000 // n, seed=1)).mean() for n in (12, 600)
    )
    assert few < many < 0.01
    assert many > -0.03


def test_moments_are_the_squared_means_of_the_classes() -> None:
    shift = torch.tensor([[1.0, 0.5], [-0.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
    values = moments(make_drawn(12, shift, n_batches=20_000))
    assert_mean(values, shift.square().sum(1).mean().item())
    drawn = make_drawn(9, shift)
    expected = 0.0
    for y in range(3):
        mean = drawn.mean[0, drawn.label[0] == y]
        trace = mean.var(0).sum()  # tr Σ̂
        expected += (mean.mean(0).square().sum() - trace / len(mean)) / 3
    torch.testing.assert_close(moments(drawn)[0], expected)


def test_the_aggregate_kl_is_that_of_gaussian_classes() -> None:
    spread = torch.tensor([1.0, 1.5], dtype=torch.float64)
    found = aggregate_kl(make_drawn(1500, make_shift(1.0, -0.5), spread, n_batches=4)).mean()
    kl = [2 * (0.5 * (m**2 + s**2 - 1) - math.log(s)) for m, s in ((1.0, 1.0), (-0.5, 1.5))]
    assert found.item() == pytest.approx(np.mean(kl), abs=0.06)


def test_the_mixture_of_a_whole_class_is_exact() -> None:
    """With all samples of the data in the batch every weight is 1/N_y, and log q(z|y) that of the mixture."""
    drawn = make_drawn(10, make_shift(0.3, -0.2))
    drawn = drawn._replace(class_size=torch.full_like(drawn.label, 5))
    expected = 0.0
    for i in range(10):
        rows = [j for j in range(10) if j % 2 == i % 2]
        components = torch.distributions.Normal(drawn.mean[0, rows], drawn.log_std[0, rows].exp())
        log_q = components.log_prob(drawn.draw[0, i]).sum(1).logsumexp(0) - math.log(5)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(drawn.draw[0, i]).sum()
        expected += (log_q - log_p) / 10
    torch.testing.assert_close(aggregate_kl(drawn)[0], expected)


def test_mmd_is_that_of_gaussian_classes() -> None:
    """E k(a, b) of a Gaussian kernel and Gaussian a − b ~ N(m, v) a dim: (h²/(h²+v))^½ exp(−m²/2(h²+v))."""
    shift, spread = 0.8, 0.7

    def kernel(mean: float, var: float) -> float:
        widths = [2 * share for share in (0.25, 0.5, 1.0, 2.0, 4.0)]
        return float(np.mean([(w / (w + var)) * math.exp(-(mean**2) / (w + var)) for w in widths]))  # two dims

    of_class = kernel(0, 2 * spread**2) - 2 * kernel(shift, spread**2 + 1) + kernel(0, 2)
    values = mmd(make_drawn(8, make_shift(shift, 0.0), torch.tensor([spread, 1.0]), n_batches=20_000))
    assert_mean(values, of_class / 2)


def test_hsic_is_the_mean_over_tuples_of_different_samples() -> None:
    drawn = make_drawn(7, make_shift(0.5, -0.5))
    z, label = drawn.draw[0], drawn.label[0]
    square = torch.cdist(z, z).square()
    near = torch.exp(-0.5 * square / (square.sum() / 42))
    same = (label[:, None] == label).double()
    index = [(i, j, q, r) for i in range(7) for j in range(7) for q in range(7) for r in range(7)]
    index = [four for four in index if len(set(four)) == 4]
    expected = sum(near[i, j] * (same[i, j] + same[q, r] - 2 * same[i, q]) for i, j, q, r in index) / len(index)
    torch.testing.assert_close(hsic(drawn)[0], expected)


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_a_shift_of_the_classes_costs_and_the_gradient_takes_it_back(penalty) -> None:  # noqa: ANN001
    shift = make_shift(1.0, -1.0, n_shared=3).clone()
    base = make_drawn(64, torch.zeros_like(shift))
    moved = shift[base.label].requires_grad_()
    value = penalty(base._replace(mean=base.mean + moved, draw=base.draw + moved)).sum()
    assert value > penalty(base).sum() + 0.01
    (gradient,) = torch.autograd.grad(value, moved)
    assert torch.isfinite(gradient).all()
    of_class = gradient.reshape(32, 2, 3).sum(0)
    assert (of_class * shift > 0).all()


@pytest.mark.parametrize("penalty", [moments, aggregate_kl, mmd])
def test_classes_of_one_sample_are_left_out(penalty) -> None:  # noqa: ANN001
    label = torch.tensor([0, 0, 0, 1, 2])
    drawn = make_drawn(5, make_shift(0.5, 9.0, -9.0), label=label)
    mean = drawn.mean.clone().requires_grad_()
    value = penalty(drawn._replace(mean=mean, draw=drawn.draw + mean - drawn.mean)).sum()
    alone = SharedDraws(*(part[:, :3] for part in drawn))
    torch.testing.assert_close(value, 0.6 * penalty(alone).sum())
    (gradient,) = torch.autograd.grad(value, mean)
    assert not gradient[0, 3:].any()
    lonely = make_drawn(3, make_shift(1.0, 2.0, 3.0))
    assert penalty(lonely).tolist() == [0.0]


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_hardly_any_samples_are_no_error(penalty, n: int) -> None:  # noqa: ANN001
    drawn = make_drawn(n, make_shift(1.0, 2.0))
    draw = drawn.draw.requires_grad_()
    value = penalty(drawn._replace(mean=drawn.mean + draw - draw.detach()))
    assert torch.isfinite(value).all()
    if value.requires_grad:
        assert torch.isfinite(torch.autograd.grad(value.sum(), draw)[0]).all()


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_neither_other_models_nor_the_order_of_samples_matter(penalty) -> None:  # noqa: ANN001
    drawn = make_drawn(12, make_shift(0.5, 0.0, -1.0), n_batches=6)
    together = penalty(drawn)
    assert together.shape == (6,)
    order = torch.randperm(12, generator=make_generator(3))
    for place in range(6):
        alone = SharedDraws(*(part[place] for part in drawn))
        torch.testing.assert_close(penalty(alone), together[place])
        torch.testing.assert_close(penalty(SharedDraws(*(part[order] for part in alone))), together[place])
    split = SharedDraws(*(part.unflatten(0, (2, 3)) for part in drawn))
    torch.testing.assert_close(penalty(split), together.view(2, 3))


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_samples_at_one_point_have_finite_gradients(penalty) -> None:  # noqa: ANN001
    drawn = make_drawn(8, make_shift(0.0, 0.0))
    draw = torch.zeros_like(drawn.draw, requires_grad=True)
    value = penalty(drawn._replace(mean=draw + 0, log_std=drawn.log_std - 7, draw=draw + 0)).sum()
    assert torch.isfinite(torch.autograd.grad(value, draw)[0]).all()


# --- in training -----------------------------------------------------------------------------------------------------


def test_a_term_without_z_s_or_with_no_weight() -> None:
    with pytest.raises(ValueError, match="independence 'mmd' does not fit variant 'per_class'"):
        ModelSettings(variant="per_class", independence="mmd")
    assert not ModelSettings(independence="mmd", independence_weight=0).has_penalty
    assert not ModelSettings(independence_weight=3).has_penalty


@cache
def prepared_shifts() -> AnnData:
    """A shared factor whose mean is −1.5, 0 or 1.5 by class, in ten features; three more mark the class itself."""
    rng = np.random.default_rng(11)
    label = np.repeat(np.arange(3), 200)
    shared = rng.normal(size=600) + 1.5 * (label - 1)
    x = np.hstack([np.outer(shared, rng.normal(size=10)), np.eye(3)[label]]) + 0.3 * rng.normal(size=(600, 13))
    obs = pd.DataFrame({"label": [CLASSES[i] for i in label]}, index=[f"s{i}" for i in range(600)])
    return prepare_data(FeaturesSettings(kind="features", standardize=False), AnnData(x.astype(np.float32), obs=obs))


def settings_of(independence: str, weight: float, max_epochs: int = 40) -> FitSettings:
    model = {"n_shared": 2, "n_private": 1, "independence": independence, "independence_weight": weight}
    # a linear decoder starts at the class means, and leaves z_s little of the class to tell
    return fit_settings(max_epochs, decoder="network", beta_private=1, **model).with_training(learning_rate=5e-3)


@cache
def probe_accuracy(independence: str, weight: float) -> float:
    """Of a linear classifier of the class from z_s, on the test samples."""
    prepared = prepared_shifts()
    embedded = embed_data(prepared, train_model(prepared, settings_of(independence, weight), 0), NO_UMAP)
    z, label, split = embedded.obsm["X_nvae_shared"], embedded.obs["label"].astype(str), embedded.obs["split"]
    probe = LogisticRegression().fit(z[split == "train"], label[split == "train"])
    return float(probe.score(z[split == "test"], label[split == "test"]))


@pytest.mark.parametrize(("independence", "weight"), [("moments", 5), ("aggregate_kl", 5), ("mmd", 30), ("hsic", 200)])
def test_a_probe_finds_less_of_the_class_in_z_s(independence: str, weight: float) -> None:
    leaky, held = probe_accuracy("none", 0), probe_accuracy(independence, weight)
    assert leaky > 0.6
    assert held < leaky - 0.1, (leaky, held)


def test_the_penalty_is_in_the_history_and_no_weight_changes_nothing() -> None:
    prepared = prepared_shifts()
    plain, without, penalised = (
        train_model(prepared, settings_of(*of), 0).history
        for of in (("none", 1, 3), ("moments", 0, 3), ("moments", 2, 3))
    )
    assert plain.equals(without)
    train = penalised["split"] == "train"
    assert penalised.loc[train, "independence"].between(-0.1, 10).all()
    assert penalised.loc[~train, "independence"].isna().all() and plain["independence"].isna().all()
    assert penalised["elbo"].iloc[-1] != plain["elbo"].iloc[-1]


@pytest.mark.parametrize("independence", PENALTIES)
def test_seeds_side_by_side_are_penalised_each_for_itself(independence: str) -> None:
    prepared, settings = prepared_shifts(), settings_of(independence, 3.0, 2)
    for seed, model in zip([2, 5], train_models(prepared, settings, [2, 5]), strict=True):
        alone = train_model(prepared, settings, seed).history
        columns = ["elbo", "independence"]
        np.testing.assert_allclose(model.history[columns], alone[columns], rtol=1e-3, atol=1e-3)
