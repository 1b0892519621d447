"""Axes turned to simple structure: what stays, what is found, and when it is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio import train_model
from nvae_bio.model import Stack
from nvae_bio.model.rotation import varimax
from nvae_bio.train import loop
from tests.small_models import law, make_batch, make_generator, make_model, randomize
from tests.toys import fit_settings, prepared_counts


def make_rotation(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=make_generator(seed)).double())[0]


def make_sparse(n: int, seed: int) -> Tensor:
    """Loadings of n dims, each on 10 features of its own."""
    return torch.kron(torch.eye(n).double(), 1 + torch.rand(1, 10, generator=make_generator(seed)).double())


@law
@given(st.integers(2, 6), st.integers(0, 1000))
def test_sparse_loadings_come_back_from_any_rotation_but_for_order_and_sign(n: int, seed: int) -> None:
    sparse = make_sparse(n, seed)
    mixed = make_rotation(n, seed + 1) @ sparse
    rotation = varimax(mixed)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(n).double())
    match = torch.nn.functional.normalize(rotation.T @ mixed, dim=1) @ torch.nn.functional.normalize(sparse, dim=1).T
    np.testing.assert_allclose(np.sort(match.abs().numpy(), axis=1)[:, -1], 1, atol=1e-4)
    assert len(set(match.abs().argmax(1).tolist())) == n


@law
@given(st.integers(2, 5), st.integers(0, 1000))
def test_no_other_rotation_has_a_larger_criterion(n: int, seed: int) -> None:
    loadings = torch.randn(n, 40, generator=make_generator(seed)).double() ** 3

    def criterion(turned: Tensor) -> float:
        return float(turned.square().var(1, correction=0).sum())

    found = criterion(varimax(loadings).T @ loadings)
    assert found >= criterion(loadings) * (1 - 1e-9)
    near = torch.linalg.matrix_exp(0.05 * torch.randn(n, n, generator=make_generator(seed + 1)).double().triu(1))
    orthogonal = torch.linalg.qr(near)[0]
    assert found >= criterion(orthogonal.T @ varimax(loadings).T @ loadings) * (1 - 1e-6)


@pytest.mark.parametrize("n_private", [1, 3])
def test_what_is_decoded_of_the_means_stays_and_the_axes_do_not(n_private: int) -> None:
    model = randomize(make_model(likelihood="poisson", n_shared=3, n_private=n_private, n_features=9))
    batch = make_batch("poisson", n_features=9)

    def decoded() -> Tensor:
        posterior, block = model.infer(batch)[0], model.block(batch.label)
        return model.decoder(posterior.shared.mean, posterior.own(block).mean, block)

    with torch.no_grad():
        before, axes, first = decoded(), model.decoder.composition.shared_weight.clone(), model.infer(batch)[0]
        off_block = model.decoder.composition.class_weight.clone()
        assert len(model.turn_axes()) == 6
        torch.testing.assert_close(decoded(), before)
        after = model.infer(batch)[0]
    assert (model.decoder.composition.shared_weight - axes).abs().max() > 0.05
    assert torch.equal(model.decoder.composition.class_weight, off_block) == (n_private == 1)
    total = [posterior.shared.mean.square().sum(1) for posterior in (first, after)]
    torch.testing.assert_close(*total)  # a rotation keeps lengths, so the KL's part of the means
    sums = [posterior.shared.log_std.sum(1) for posterior in (first, after)]
    torch.testing.assert_close(*sums)  # and the weights R² of log σ sum to one


def test_a_network_keeps_its_axes() -> None:
    model = make_model(likelihood="bernoulli")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.turn_axes() == []
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert Stack([model]).turn_axes() == []


def test_the_models_of_a_stack_are_turned_each_by_itself() -> None:
    models = [randomize(make_model(likelihood="poisson", n_shared=3, n_private=2, seed=s), s) for s in (1, 2)]
    stack = Stack(models)
    with torch.no_grad():
        stack.turn_axes()
    for index, model in enumerate(models):
        model.turn_axes()
        for name, value in stack.state_of(index).items():
            torch.testing.assert_close(value, model.state_dict()[name])


@pytest.mark.parametrize(("rotation", "times"), [("varimax", 1), ("none", 0)])
def test_axes_are_turned_once_when_the_warm_up_has_ended(
    rotation: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[float] = []
    turned: list[int] = []
    turn = loop.NVAE.turn_axes

    def counted(model: Any) -> list[Tensor]:
        turned.append(len(weights))
        return turn(model)

    monkeypatch.setattr(loop.NVAE, "turn_axes", counted)
    kl_weight = loop.kl_weight
    monkeypatch.setattr(loop, "kl_weight", lambda *args: weights.append(kl_weight(*args)) or weights[-1])
    train_model(prepared_counts(), fit_settings(8, rotation=rotation))
    assert len(turned) == times
    if times:
        assert weights[turned[0] - 1] == 1.0
        per_epoch = len(weights) // 8
        assert weights[turned[0] - 1 - per_epoch] < 1.0  # the epoch before had not ended it


def test_planted_programmes_lie_on_axes_of_their_own() -> None:
    """Two shared programmes of equal size: without the turn any mixture of them fits as well."""
    rng = np.random.default_rng(0)
    prepared = prepared_counts().copy()
    activity = rng.normal(size=(prepared.n_obs, 2))
    log_rate = np.zeros((prepared.n_obs, 60))
    log_rate[:, :15] += activity[:, [0]]
    log_rate[:, 30:45] += activity[:, [1]]
    rate = np.exp(log_rate)
    rate /= rate.sum(1, keepdims=True)
    prepared.X = rng.poisson(800 * rate).astype(np.float32)
    prepared.obs["library"] = prepared.X.sum(1)
    settings = fit_settings(150, n_shared=2, n_private=1).with_training(learning_rate=5e-3)
    trained = train_model(prepared, settings)
    loadings = trained.network.decoder.composition.shared_weight.detach().abs().numpy()
    of_each = np.stack([loadings[:, :15].mean(1), loadings[:, 30:45].mean(1)], axis=1)
    assert (of_each.max(1) > 4 * of_each.min(1)).all()
    assert set(of_each.argmax(1)) == {0, 1}
