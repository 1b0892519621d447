"""The sparse first layer is the dense one but for rounding: products, gradients, passes, whole trainings."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio import embed_data, train_model
from nvae_bio.config import CountsSettings, FitSettings, ModelSettings
from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.data.packed import pack
from nvae_bio.data.samples import to_samples
from nvae_bio.model import NVAE, Posterior, build_nvae, elbo_terms
from nvae_bio.model.kernels import log1p_scaled
from nvae_bio.model.sparse import FirstLayer, SparseInputs
from nvae_bio.prepare import prepare_data
from nvae_bio.train import train_models
from nvae_bio.train.step import SPARSE_DENSITY
from nvae_bio.trained import TrainedModel, load_model, save_model
from tests.small_models import FORM, fixed_seed, law, make_covariates, make_generator, make_moments
from tests.toys import CLASSES, NO_UMAP, PREPARED, raw_counts

EPS = torch.finfo(torch.float32).eps


def make_counts(n: int, n_features: int, density: float, seed: int = 0) -> Tensor:
    """Float32 counts, some of them large; each row, and each column, is empty if chance wants it."""
    generator = make_generator(seed)
    size = torch.randint(1, 40, (n, n_features), generator=generator).float() ** 2
    return size * (torch.rand(n, n_features, generator=generator) < density)


@cache
def sparse_counts() -> AnnData:
    """Prepared counts of which one in twenty is not 0, some of them above 255."""
    raw = raw_counts()
    rng = np.random.default_rng(0)
    raw.X = raw.X * (rng.random(raw.shape) < 0.03) * np.where(rng.random(raw.shape) < 0.02, 100, 1)
    raw.X[np.arange(raw.n_obs), rng.integers(0, raw.n_vars, raw.n_obs)] += 1  # no cell is empty
    return prepare_data(CountsSettings(kind="counts", n_top_genes=None), raw)


def settings_of(first_layer: str = "auto", max_epochs: int = 4, batch_size: int = 64) -> FitSettings:
    training = {"first_layer": first_layer, "max_epochs": max_epochs, "batch_size": batch_size, "device": "cpu"}
    return FitSettings.model_validate({"model": {"hidden": [16]}, "training": training})


# --- the layer -------------------------------------------------------------------------------------------------------


@law
@given(
    st.integers(1, 20), st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 0.02, 0.3, 1]), st.integers(0, 9)
)
def test_it_is_the_dense_layer_in_float64_but_for_rounding(
    n: int, n_in: int, n_out: int, density: float, seed: int
) -> None:
    counts, generator = make_counts(n, n_in, density, seed), make_generator(seed)
    scale, by_hidden = torch.rand(n, generator=generator) + 0.1, torch.randn(n, n_out, generator=generator)
    with fixed_seed(seed):
        layer = FirstLayer(n_in, n_out)
    hidden = layer(SparseInputs.log1p_scaled(counts, scale))
    hidden.backward(by_hidden)
    x, weight, bias = log1p_scaled(counts, scale).double(), layer.weight.detach().double(), layer.bias.detach().double()
    error = (x.abs() @ weight.abs() + bias.abs()) * (n_in + 1) * EPS
    assert ((hidden - (x @ weight + bias)).abs() <= error).all()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    error = (x.abs().T @ by_hidden.abs().double()) * n * EPS
    assert ((layer.weight.grad - x.T @ by_hidden.double()).abs() <= error).all()
    torch.testing.assert_close(layer.bias.grad, by_hidden.sum(0))


def test_it_starts_as_a_linear_layer_does() -> None:
    with fixed_seed(3):
        layer = FirstLayer(9, 4)
    with fixed_seed(3):
        linear = torch.nn.Linear(9, 4)
    x = torch.randn(5, 9, generator=make_generator(0))
    torch.testing.assert_close(layer(x), linear(x))


def test_threads_and_order_of_memory_change_no_bit() -> None:
    found = []
    for n, counts in zip((1, 2), (make_counts(33, 130, 0.1), make_counts(33, 130, 0.1).T.contiguous().T), strict=True):
        torch.set_num_threads(n)
        try:
            with fixed_seed():
                layer = FirstLayer(130, 50)
            hidden = layer(SparseInputs.log1p_scaled(counts, torch.ones(33)))
            hidden.square().sum().backward()
        finally:
            torch.set_num_threads(1)
        found.append((hidden, layer.weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# --- the model -------------------------------------------------------------------------------------------------------


def make_pair(**settings: object) -> tuple[NVAE, NVAE, Batch]:
    """The same float32 model with a sparse and with a dense first layer, told the covariates, and a packed batch."""
    counts = make_counts(7, 30, 0.2)
    assert (counts > 255).any()
    library = counts.sum(1) + 100
    level, value = make_covariates()
    batch = Batch(counts, torch.arange(7) % 3, library, covariates=Covariates(level, value.float()))
    models = []
    for is_sparse in (True, False):
        with fixed_seed():
            parsed = ModelSettings.model_validate({"covariates": "both", "hidden": (8, 8), **settings})
            model = build_nvae(parsed, "negative_binomial", 30, 3, None, FORM, is_sparse=is_sparse)
            for parameter in model.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.fit_output_bias(make_moments(batch))
        models.append(model)
    packed, packed_counts = pack(counts.numpy(), is_counts=True).rows(torch.arange(7))
    assert packed_counts is not None and len(packed_counts.listed.row) > 0
    return models[0], models[1], batch._replace(x=packed, counts=packed_counts)


def parts_of(posterior: Posterior) -> list[Tensor]:
    return [*posterior.shared, *posterior.private]


@pytest.mark.parametrize("variant", ["nvae", "vae"])
def test_the_posterior_with_covariates_and_listed_counts_is_that_of_the_dense_layer(variant: str) -> None:
    sparse, dense, batch = make_pair(variant=variant)
    assert isinstance(sparse.inputs(batch.x, batch.library), SparseInputs)
    (found, found_class), (expected, expected_class) = sparse.infer(batch), dense.infer(batch)
    for one, other in zip([*parts_of(found), found_class], [*parts_of(expected), expected_class], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_terms_and_gradients_of_a_batch_that_is_partly_unlabelled() -> None:
    sparse, dense, batch = make_pair()
    n_labelled, rows = 4, torch.tensor([0, 1, 2, 3, 4, 4, 5, 5, 6, 6])
    packed, counts = pack(batch.x.numpy(), is_counts=True).rows(rows)
    assert batch.library is not None and batch.covariates is not None
    taken = Batch(packed, batch.label[rows], batch.library[rows], counts, batch.covariates.take(rows))
    noise = torch.randn(7, sparse.n_shared + sparse.n_private, generator=make_generator(2))
    found = []
    for model in (sparse, dense):
        terms = elbo_terms(model, taken, noise, n_labelled, 2)
        terms.objective(1.0, 1.0, "all", 1.0).mean().backward()
        found.append((terms.elbo(), {name: value.grad for name, value in model.named_parameters()}))
    (one, by_one), (other, by_other) = found
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    for name, gradient in by_one.items():
        torch.testing.assert_close(gradient, by_other[name], rtol=1e-3, atol=1e-3, msg=name)


def test_a_sparse_model_reads_float64_and_pixels_as_a_dense_one() -> None:
    sparse, _, batch = make_pair()
    assert batch.library is not None
    assert isinstance(sparse.double().inputs(batch.x.double(), batch.library.double()), Tensor)
    pixels = build_nvae(ModelSettings(), "bernoulli", 6, 3, is_sparse=True)
    assert isinstance(pixels.inputs(torch.zeros(2, 6), None), Tensor)


# --- whole trainings -------------------------------------------------------------------------------------------------


def assert_same_model(one: TrainedModel, other: TrainedModel) -> None:
    assert one.history.equals(other.history) and one.card == other.card
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name])


def test_training_is_that_of_the_dense_layer_but_for_rounding() -> None:
    prepared = sparse_counts().copy()
    prepared.obs.iloc[::9, prepared.obs.columns.get_loc("label")] = np.nan  # some train without a class
    sparse, dense = (train_model(prepared, settings_of(name), 1) for name in ("sparse", "dense"))
    assert sparse.network.is_sparse and not dense.network.is_sparse
    np.testing.assert_allclose(sparse.history["elbo"], dense.history["elbo"], rtol=1e-4)
    for name, value in sparse.network.state_dict().items():
        torch.testing.assert_close(value, dense.network.state_dict()[name], rtol=1e-2, atol=1e-3, msg=name)
    assert_same_model(sparse, train_model(prepared, settings_of("sparse"), 1))


def test_what_was_chosen_is_recorded_and_used_again(tmp_path: Path) -> None:
    model = train_model(sparse_counts(), settings_of(), 2)
    assert model.card.settings.training.first_layer == "sparse"
    assert_same_model(model, train_model(sparse_counts(), model.card.settings, 2))
    files = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_model(model, *files)
    loaded = load_model(*files)
    assert loaded.network.is_sparse
    one, other = (embed_data(sparse_counts(), each, NO_UMAP) for each in (model, loaded))
    assert np.array_equal(one.obsm["X_nvae"], other.obsm["X_nvae"])


@pytest.mark.parametrize(
    ("kind", "asked", "chosen"),
    [
        ("sparse counts", "auto", "sparse"), ("sparse counts", "dense", "dense"), ("counts", "auto", "dense"),
        ("counts", "sparse", "sparse"), ("images", "auto", "dense"), ("images", "sparse", "dense"),
        ("features", "sparse", "dense"),
    ],
)  # fmt: skip
def test_the_choice(kind: str, asked: str, chosen: str) -> None:
    prepared = sparse_counts() if kind == "sparse counts" else PREPARED[kind]()
    model = train_model(prepared, settings_of(asked, max_epochs=1), 0)
    assert model.card.settings.training.first_layer == chosen
    assert model.network.is_sparse == (chosen == "sparse")
    density = to_samples(prepared, CLASSES).matrix.density
    assert density == np.mean(prepared.to_df().to_numpy() != 0)
    assert kind != "sparse counts" or 0 < density < SPARSE_DENSITY


def test_a_stack_is_dense_and_seeds_after_each_other_are_not() -> None:
    stacked = train_models(sparse_counts(), settings_of("sparse", 2), [0, 1])
    assert [model.card.settings.training.first_layer for model in stacked] == ["dense", "dense"]
    alone = train_model(sparse_counts(), settings_of("sparse", 2), 1)
    np.testing.assert_allclose(stacked[1].history["elbo"], alone.history["elbo"], rtol=1e-4)
