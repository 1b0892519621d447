"""Covariates: what is recorded and read of them, the laws of their effect, and that it leaves the latents."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from nvae_bio import embed_data, generate_samples, load_model, save_model, train_model, train_models, traverse_factors
from nvae_bio.config import FitSettings, GenerationSettings, ModelSettings
from nvae_bio.data.batch import Covariates
from nvae_bio.data.covariates import CovariateSet
from nvae_bio.data.samples import to_samples
from nvae_bio.errors import UserError
from nvae_bio.model import CovariateForm, build_nvae
from nvae_bio.model.covariates import CovariateEffect
from nvae_bio.prepare import prepare_data
from nvae_bio.prepare.record import fingerprint
from nvae_bio.trained import TrainedModel
from tests.data_files import settings, toy_counts, toy_features
from tests.planted_covariates import covariate_settings, prepared_covariates, raw_covariates
from tests.small_models import (
    FORM,
    fixed_seed,
    law,
    make_batch,
    make_covariates,
    make_generator,
    make_model,
    make_noise,
    make_terms,
    randomize,
)
from tests.toys import CLASSES, NO_UMAP, fit_settings, prepared_counts

BACKBONES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "conv": {"backbone": "conv", "image": (1, 8, 8), "n_features": 64, "channels": (4, 6)},
}


def recorded(prepared: AnnData) -> dict[str, str]:
    table = prepared.uns["nvae_data"].get("covariates")
    return {} if table is None else dict(zip(table["column"], table["kind"], strict=True))


# --- the prepared file -----------------------------------------------------------------------------------------------


def test_covariates_are_recorded_the_batch_first(tmp_path: Path) -> None:
    adata = toy_counts()
    adata.obs["plate/row"], adata.obs["whole"] = np.arange(90) % 4, np.arange(90)
    options = settings(
        batch_key="run", categorical_covariates=["plate/row"], continuous_covariates=["depth", "whole", "n_genes"]
    )
    prepared = prepare_data(options, adata)
    kinds = {"batch": "categorical", "plate_row": "categorical"}
    kinds |= dict.fromkeys(["depth", "whole", "n_genes"], "continuous")
    assert recorded(prepared) == kinds and list(recorded(prepared)) == list(kinds)
    assert prepared.obs["plate_row"].cat.categories.tolist() == ["0", "1", "2", "3"]
    assert prepared.obs["whole"].tolist() == list(range(90))
    assert prepared.obs["depth"].tolist() == adata.obs["depth"].tolist()
    assert not [name for name in prepared.obs if name.startswith("source_")]
    prepared.write_h5ad(tmp_path / "p.h5ad")
    assert recorded(anndata.read_h5ad(tmp_path / "p.h5ad")) == kinds


def test_without_covariates_nothing_is_recorded() -> None:
    assert "covariates" not in prepare_data(settings(), toy_counts()).uns["nvae_data"]
    adata = toy_counts()
    adata.obs["run"] = "run 0"  # a batch that all samples share
    assert "covariates" not in prepare_data(settings(batch_key="run"), adata).uns["nvae_data"]


def test_a_covariate_whose_name_is_taken_gets_another_column() -> None:
    adata = toy_counts()
    adata.obs = adata.obs.rename(columns={"person": "donor", "run": "condition"})
    options = {"categorical_covariates": ["donor", "condition"], "condition_key": "condition"}
    prepared = prepare_data(settings(**options), adata)
    assert recorded(prepared) == {"source_donor": "categorical", "condition": "categorical"}
    assert prepared.obs["source_donor"].tolist() == adata.obs["donor"].tolist()
    assert "donor" not in prepared.obs and "source_source_donor" not in prepared.obs  # it is no unit of resampling


def test_missing_values_are_counted_and_a_covariate_that_stands_for_the_class_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adata = toy_counts()
    adata.obs["age"] = np.arange(90.0)
    adata.obs.loc[["cell-3", "cell-4"], "age"] = np.nan, np.inf
    adata.obs["plate"] = ["p " + name if row > 2 else None for row, name in enumerate(adata.obs["cell_type"])]
    options = settings(categorical_covariates=["plate", "run"], continuous_covariates=["age"])
    with caplog.at_level(logging.INFO, "nvae_bio"):
        prepared = prepare_data(options, adata)
    said = [record.getMessage().removeprefix("AnnData in memory: ") for record in caplog.records]
    assert said[0] == "covariate 'plate' is unknown for 3 of 90 samples"
    assert said[1].startswith("covariate 'plate': each level has samples of one class only")
    assert said[2:] == ["covariate 'age' is unknown for 2 of 90 samples"]
    assert prepared.obs["plate"].isna().sum() == 3


def test_columns_of_a_table_that_are_covariates_are_no_features(tmp_path: Path) -> None:
    toy_features().assign(age=np.arange(60.0), site=np.arange(60) % 3).to_csv(tmp_path / "f.csv", index=False)
    options = {"categorical_covariates": ["site"], "continuous_covariates": ["age"]}
    prepared = prepare_data(settings("features", paths=str(tmp_path / "f.csv"), **options))
    assert prepared.var_names.tolist() == [f"f{i}" for i in range(5)]
    assert recorded(prepared) == {"site": "categorical", "age": "continuous"}

    cells = toy_counts()
    table = cells.to_df().assign(cell_type=cells.obs["cell_type"], site=np.arange(90) % 3)
    table.to_csv(tmp_path / "c.csv")
    prepared = prepare_data(settings(paths=str(tmp_path / "c.csv"), categorical_covariates=["site"]))
    assert prepared.n_vars == 40 and recorded(prepared) == {"site": "categorical"}


def test_the_fingerprint_tells_covariates() -> None:
    one = prepare_data(settings(continuous_covariates=["depth"]), toy_counts())
    assert fingerprint(one, ["depth"]) == one.uns["nvae_data"]["fingerprint"]
    assert prepare_data(settings(), toy_counts()).uns["nvae_data"]["fingerprint"] == fingerprint(one)
    changed = toy_counts()
    changed.obs["depth"] += np.arange(90) == 7
    two = prepare_data(settings(continuous_covariates=["depth"]), changed)
    assert two.uns["nvae_data"]["fingerprint"] != one.uns["nvae_data"]["fingerprint"]


# --- what a model reads ----------------------------------------------------------------------------------------------


def make_prepared() -> AnnData:
    adata = toy_counts()
    adata.obs["age"] = 100 + 5 * adata.obs["depth"]
    return prepare_data(settings(batch_key="person", continuous_covariates=["age"]), adata)


def test_levels_and_scales_are_those_of_the_training_samples() -> None:
    prepared = make_prepared()
    train = prepared.obs[prepared.obs["split"] == "train"]
    found = CovariateSet.of(prepared)
    (batch,), (age,) = found.categorical, found.continuous
    assert found.names == ["batch", "age"]
    assert dict(zip(batch.levels, batch.n_samples, strict=True)) == train["batch"].value_counts().to_dict()
    assert batch.levels == sorted(batch.levels) and sum(batch.share) == pytest.approx(1)
    assert age.mean == pytest.approx(train["age"].mean()) and age.std == pytest.approx(train["age"].std(ddof=0))
    read = found.read(prepared.obs)
    assert [batch.levels[i] for i in read.level[:, 0].tolist()] == prepared.obs["batch"].tolist()
    of_train = read.value[torch.from_numpy((prepared.obs["split"] == "train").to_numpy()), 0]
    assert of_train.mean().abs() < 1e-6 and of_train.std(correction=0).item() == pytest.approx(1, rel=1e-5)


def test_what_training_samples_do_not_have_is_unknown_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    prepared = make_prepared()
    found, obs = CovariateSet.of(prepared), prepared.obs.astype({"batch": object}).iloc[:6].copy()
    obs["batch"] = ["donor 1", "donor 9", None, np.nan, "donor 0", ""]
    obs["age"] = [np.nan, np.inf, -np.inf, found.continuous[0].mean, 200, 300]
    with caplog.at_level(logging.INFO, "nvae_bio"):
        read = found.read(obs)
    assert read.level[:, 0].tolist() == [1, -1, -1, -1, 0, -1]
    assert read.value[:4, 0].tolist() == [0, 0, 0, 0] and (read.value[4:] > 1).all()
    said = [record.getMessage().split(" samples")[0] for record in caplog.records]
    assert said == ["covariate 'batch': 4 of 6", "covariate 'age': 3 of 6"]


def test_samples_carry_what_the_model_reads() -> None:
    prepared = make_prepared()
    samples = to_samples(prepared, ["type 0"], CovariateSet.of(prepared))
    index = torch.tensor([[5, 3], [0, 5]])
    told, expected = samples.take(index).covariates, CovariateSet.of(prepared).read(prepared.obs)
    assert told is not None
    assert torch.equal(told.level, expected.level[index]) and torch.equal(told.value, expected.value[index])
    assert to_samples(prepared, ["type 0"]).covariates is None
    assert to_samples(prepared, ["type 0"], CovariateSet()).covariates is None


# --- laws of the effect ----------------------------------------------------------------------------------------------


def make_effect(form: CovariateForm, max_one_hot: int, width: int = 5, n_dims: int = 3) -> CovariateEffect:
    effect, generator = CovariateEffect(form, width, max_one_hot, n_dims).double(), make_generator(0)
    with torch.no_grad():
        for parameter in effect.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return effect


def rows_of(effect: CovariateEffect, place: int) -> Tensor:
    """What each level adds, (levels, width)."""
    part = effect.levels[place]
    return part.table if part.map is None else part.table @ part.map


@law
@given(st.lists(st.integers(1, 6), max_size=3), st.integers(0, 2), st.integers(1, 7), st.integers(0, 1000))
@fixed_seed()
def test_the_effect_is_a_dense_layer_on_levels_and_numbers(sizes: list[int], m: int, n: int, seed: int) -> None:
    generator = make_generator(seed)
    weights = [torch.rand(size, generator=generator, dtype=torch.float64) for size in sizes]
    form = CovariateForm([(w / w.sum()).tolist() for w in weights], m)
    effect = make_effect(form, 3)
    levels = [torch.randint(-1, size, (n, 1), generator=generator) for size in sizes]
    level = torch.cat([torch.zeros(n, 0, dtype=torch.int64), *levels], dim=1)
    told = Covariates(level, torch.randn(n, m, generator=generator, dtype=torch.float64))
    one_hot = [  # an unknown level is each level in part
        torch.stack([torch.tensor(share) if at < 0 else torch.eye(len(share))[at] for at in told.level[:, i].tolist()])
        for i, share in enumerate(form.shares)
    ]
    dense = torch.cat([*(rows_of(effect, i) for i in range(len(sizes))), effect.slope])
    inputs = torch.cat([*(part.double() for part in one_hot), told.value], dim=1)
    torch.testing.assert_close(effect(told), inputs @ dense, rtol=1e-6, atol=1e-6)  # shares are float32 at first


@pytest.mark.parametrize("max_one_hot", [1, 3, 20])
def test_an_unknown_level_is_the_mean_over_the_training_samples(max_one_hot: int) -> None:
    """Of 8 samples with levels 0 0 0 0 0 1 2 2: before the ReLU, unknown is exactly their mean."""
    effect = make_effect(CovariateForm([[5 / 8, 1 / 8, 2 / 8]], 1), max_one_hot)
    assert (effect.levels[0].map is None) == (max_one_hot >= 3)
    value = torch.tensor([[1.0], [-1.0]] * 4, dtype=torch.float64)  # mean 0, as that of training samples is
    of_samples = effect(Covariates(torch.tensor([[0]] * 5 + [[1]] + [[2]] * 2), value))
    unknown = effect(Covariates(torch.tensor([[-1]]), torch.zeros(1, 1).double()))[0]
    torch.testing.assert_close(unknown, of_samples.mean(0))
    torch.testing.assert_close(effect(None), unknown)
    assert (of_samples.std(0) > 0.1).all()


def test_without_covariates_an_average_sample_is_decoded() -> None:
    model, z = randomize(make_model(form=FORM, max_one_hot=2)), torch.randn(7, 12, generator=make_generator(0)).double()
    arguments = z[:, :10], z[:, 10:], torch.arange(7) % 3, None
    unknown = Covariates(torch.full((7, 2), -1), torch.zeros(7, 2).double())
    average = model.decode(*arguments).mean
    torch.testing.assert_close(average, model.decode(*arguments, unknown).mean)
    assert (average != model.decode(*arguments, make_covariates()).mean).any()


@pytest.mark.parametrize("told", ["decoder", "both"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_model_starts_as_if_it_had_no_covariates(backbone: str, told: str) -> None:
    with_form = make_model(form=FORM, covariates=told, **BACKBONES[backbone])
    without, none = (make_model(form=form, covariates="none", **BACKBONES[backbone]) for form in (None, FORM))
    assert without.state_dict().keys() == none.state_dict().keys() < with_form.state_dict().keys()
    for name, value in without.state_dict().items():
        assert torch.equal(value, none.state_dict()[name]) and torch.equal(value, with_form.state_dict()[name]), name
    batch = make_batch(n_features=without.likelihood.n_features)
    before = make_terms(without, batch)
    for name, value in vars(make_terms(with_form, batch._replace(covariates=make_covariates()))).items():
        torch.testing.assert_close(value, getattr(before, name), rtol=0, atol=0)


def test_a_covariate_of_many_levels_starts_without_effect_too() -> None:
    form = CovariateForm([[1 / 40] * 40], 0)
    with fixed_seed():
        model = build_nvae(ModelSettings(covariate_dims=4, hidden=(8,)), "bernoulli", 6, 3, None, form)
    effect = model.decoder.composition.effect
    assert effect is not None and effect.levels[0].table.shape == (40, 4) and effect.levels[0].map.shape == (4, 8)
    assert not effect(make_covariates(form)._replace(value=torch.zeros(7, 0))).any()
    assert effect.levels[0].table.std() > 0.5  # so that the map has a gradient


@pytest.mark.parametrize("backbone", BACKBONES)
def test_who_is_told(backbone: str) -> None:
    for told, changed in (("decoder", {"outputs"}), ("both", {"outputs", "kl_shared", "kl_private", "class_log_prob"})):
        model = randomize(make_model(form=FORM, covariates=told, **BACKBONES[backbone]))
        batch = make_batch(n_features=model.likelihood.n_features)
        noise = make_noise(model, 7)
        one, other = (model(batch.x, batch.label, noise, make_covariates(seed=seed)) for seed in (1, 2))
        names = {"outputs", "kl_shared", "kl_private", "class_log_prob"}
        assert {name for name in names if not torch.equal(getattr(one, name), getattr(other, name))} == changed
        model(batch.x, batch.label, noise, make_covariates()).outputs.sum().backward()
        parameters = [p for name, p in model.named_parameters() if ".effect." in name and "classifier" not in name]
        assert len(parameters) == (3 if told == "decoder" else 6)
        assert all(parameter.grad.any() for parameter in parameters)


# --- the steps -------------------------------------------------------------------------------------------------------


@cache
def trained_covariates(**model: object) -> TrainedModel:
    """After three epochs: for tests of form, not of fit."""
    return train_model(prepared_covariates(), fit_settings(**model), 0)


def test_data_without_covariates_give_the_same_bits_whatever_is_set() -> None:
    one, *others = (
        train_model(prepared_counts(), fit_settings(covariates=told, max_one_hot=m), 3)
        for told, m in (("none", 20), ("decoder", 20), ("both", 1))
    )
    assert not one.card.covariates
    for other in others:
        assert one.network.state_dict().keys() == other.network.state_dict().keys()
        assert all(torch.equal(v, other.network.state_dict()[k]) for k, v in one.network.state_dict().items())
        assert one.history.equals(other.history)


def test_none_is_what_data_without_covariates_give() -> None:
    bare = prepare_data(covariate_settings(split={"test": 0.4}), raw_covariates())
    one, other = (train_model(data, fit_settings(covariates="none"), 0) for data in (prepared_covariates(), bare))
    assert one.history.equals(other.history) and not one.card.covariates


def test_the_card_tells_the_covariates_and_the_model_comes_back(tmp_path: Path) -> None:
    model = trained_covariates(covariates="both")
    assert model.card.covariates == CovariateSet.of(prepared_covariates())
    assert model.card.covariates.names == ["batch", "plate", "age"]
    save_model(model, tmp_path / "w", tmp_path / "c")
    loaded = load_model(tmp_path / "w", tmp_path / "c")
    assert loaded.card.covariates == model.card.covariates
    one, other = (embed_data(prepared_covariates(), m, NO_UMAP) for m in (model, loaded))
    assert one.obs.equals(other.obs)
    assert np.array_equal(one.varm["nvae_effect_shared"], other.varm["nvae_effect_shared"])
    assert CovariateSet.model_validate_json(one.uns["nvae"]["covariates"]) == model.card.covariates


def test_seeds_trained_together_are_told_covariates_as_each_alone() -> None:
    settings = fit_settings(covariates="both")
    for seed, model in zip((3, 1), train_models(prepared_covariates(), settings, (3, 1)), strict=True):
        alone = train_model(prepared_covariates(), settings, seed)
        assert model.card.stacked_seeds == [3, 1] and model.card.covariates == alone.card.covariates
        for name, value in model.network.state_dict().items():
            torch.testing.assert_close(value, alone.network.state_dict()[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("told", ["decoder", "both"])
def test_a_sample_is_embedded_with_its_own_covariates_and_effects_are_those_of_an_average(told: str) -> None:
    prepared, model = prepared_covariates(), train_model(prepared_covariates(), fit_settings(1, covariates=told), 0)
    randomize_effects(model)
    changed = prepared.copy()
    changed.obs["batch"] = changed.obs["batch"].cat.rename_categories({"a": "b", "b": "a"})
    one, other = (embed_data(data, model, NO_UMAP) for data in (prepared, changed))
    assert (one.obs["nvae_elbo"] != other.obs["nvae_elbo"]).all()
    for key in ("X_nvae", "nvae_class_probability"):  # of encoder and classifier
        assert np.array_equal(one.obsm[key], other.obsm[key]) == (told == "decoder")
    if told == "both":  # posterior means differ, and with them the samples that are decoded
        return
    for key in ("nvae_effect_shared", "nvae_effect_class_1"):
        assert np.array_equal(one.varm[key], other.varm[key])


def randomize_effects(model: TrainedModel) -> None:
    generator = make_generator(1)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if ".effect." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def test_generated_samples_take_after_training_samples_and_say_so() -> None:
    model, prepared = trained_covariates(covariates="both"), prepared_covariates()
    samples = generate_samples(model, prepared, GenerationSettings(n_per_class=40))
    train = prepared.obs[prepared.obs["split"] == "train"]
    real = set(zip(train["label"], train["batch"], train["plate"], train["age"], train["library"], strict=True))
    obs = samples.obs
    drawn = list(zip(obs["label"], obs["batch"], obs["plate"], obs["age"], obs["library"], strict=True))
    assert set(drawn) <= real and len(set(drawn)) > 100 and set(obs["batch"]) == {"a", "b"}
    z, label = torch.tensor(samples.obsm["z"]), torch.tensor(obs["label"].cat.codes.to_numpy().astype(int))
    library = torch.tensor(obs["library"].to_numpy())
    with torch.no_grad():
        expected = model.network.decode(z[:, :10], z[:, 10:], label, library, model.card.covariates.read(obs)).mean
    np.testing.assert_allclose(samples.layers["mean"], expected, rtol=1e-5)


def test_traversals_are_those_of_an_average_sample() -> None:
    model = trained_covariates(covariates="both")
    moved = traverse_factors(model, prepared_covariates(), GenerationSettings(n_steps=3))
    assert "batch" not in moved.obs
    z, label = torch.tensor(moved.obsm["z"]), torch.tensor(moved.obs["label"].cat.codes.to_numpy().astype(int))
    unknown = Covariates(torch.full((len(z), 2), -1), torch.zeros(len(z), 1))
    with torch.no_grad():
        mean = model.network.decode(z[:, :10], z[:, 10:], label, torch.ones(len(z)), unknown).mean
    np.testing.assert_allclose(moved.X / moved.X.sum(1, keepdims=True), mean / mean.sum(1, keepdim=True), rtol=1e-4)


def test_a_held_out_donor_is_an_unknown_batch() -> None:
    raw = raw_covariates(300, n_plates=6)
    options = covariate_settings(batch_key="plate", donor_key="plate", split={"by": "donor", "n_folds": 3})
    prepared = prepare_data(options, raw)
    model = train_model(prepared, fit_settings(), 0)
    held_out = (prepared.obs["split"] != "train").to_numpy()
    (batch,) = model.card.covariates.categorical
    assert not set(batch.levels) & set(prepared.obs["batch"][held_out]) and len(batch.levels) == 2
    assert (model.card.covariates.read(prepared.obs).level[held_out] == -1).all()
    embedded = embed_data(prepared, model, NO_UMAP)
    assert np.isfinite(embedded.obs["nvae_elbo"]).all()
    assert set(generate_samples(model, prepared).obs["batch"]) == set(batch.levels)


def test_data_without_a_covariate_of_the_model_are_refused() -> None:
    lacking = prepared_covariates().copy()
    del lacking.obs["plate"]
    said = "obs has no column 'plate', a covariate of the model; allowed"
    with pytest.raises(UserError, match=said):
        embed_data(lacking, trained_covariates(), NO_UMAP)
    with pytest.raises(UserError, match=said):
        generate_samples(trained_covariates(), lacking)


# --- planted covariates ----------------------------------------------------------------------------------------------


@cache
def fitted(covariates: str, max_one_hot: int = 20) -> TrainedModel:
    model = {"hidden": [32], "n_shared": 4, "n_private": 1, "covariates": covariates, "max_one_hot": max_one_hot}
    training = {"max_epochs": 120, "batch_size": 64, "learning_rate": 3e-3}
    return train_model(prepared_covariates(), FitSettings.model_validate({"model": model, "training": training}), 0)


def probes(model: TrainedModel) -> dict[str, float]:
    """What a draw of z_s tells of held-out samples: balanced accuracy (batch), R² (age, the shared factor); the ELBO.

    A draw, for that is what the decoder sees: the mean of a silent dim still holds traces of everything, far below its
    standard deviation.
    """
    embedded = embed_data(prepared_covariates(), model, NO_UMAP)
    noise = np.random.default_rng(0).normal(size=embedded.obsm["X_nvae_shared"].shape)
    z, obs = embedded.obsm["X_nvae_shared"] + embedded.obsm["nvae_shared_std"] * noise, embedded.obs
    test = (obs["split"] == "test").to_numpy()
    by_batch = LogisticRegression().fit(z[~test], obs["batch"][~test])
    found = {"batch": balanced_accuracy_score(obs["batch"][test], by_batch.predict(z[test]))}
    for name in ("age", "true_shared"):
        found[name] = LinearRegression().fit(z[~test], obs[name][~test]).score(z[test], obs[name][test])
    return found | {"elbo": obs["nvae_elbo"][test].mean()}


@pytest.mark.slow
def test_what_the_decoder_is_told_leaves_the_shared_latent() -> None:
    none = probes(fitted("none"))
    assert none["batch"] > 0.95 and none["age"] > 0.8 and none["true_shared"] > 0.85, none
    for covariates in ("decoder", "both"):
        told = probes(fitted(covariates))
        assert abs(told["batch"] - 0.5) < 0.08 and told["age"] < 0.05, told
        assert told["true_shared"] > none["true_shared"] - 0.02, told
        assert told["elbo"] > none["elbo"] + 3, told


@pytest.mark.slow
@pytest.mark.parametrize("max_one_hot", [20, 40])
def test_many_levels_are_learned_with_and_without_an_embedding(max_one_hot: int) -> None:
    model, planted = fitted("decoder", max_one_hot), raw_covariates().varm["plate"].T[:, 20:]
    plates = model.card.covariates.categorical[1].levels
    n, order = len(plates), [int(name[1:]) for name in plates]
    assert n == 40 and (model.network.decoder.composition.effect.levels[1].map is None) == (max_one_hot == 40)
    told = Covariates(torch.stack([torch.full((n,), -1), torch.arange(n)], dim=1), torch.zeros(n, 1))
    z = torch.zeros(n, 5)
    with torch.no_grad():
        decoded = model.network.decode(z[:, :4], z[:, 4:], torch.zeros(n).long(), torch.ones(n), told).mean
    found, expected = (centered(part) for part in (decoded.log().numpy()[:, 20:], planted[order]))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.7


def centered(table: np.ndarray) -> np.ndarray:
    table = table - table.mean(0)
    return np.asarray(table - table.mean(1, keepdims=True))


@pytest.mark.slow
def test_unseen_batches_are_decoded_about_as_well_as_an_average_can_be() -> None:
    """Unknown must beat a wrong batch, and a right one must beat unknown."""
    model, prepared = fitted("decoder"), prepared_covariates()
    test = prepared[(prepared.obs["split"] == "test").to_numpy()]
    bounds = {}
    swap = {"a": "b", "b": "a"}
    for name, batch in {"right": dict(zip("ab", "ab", strict=True)), "unknown": {}, "wrong": swap}.items():
        data = test.copy()
        data.obs["batch"] = pd.Categorical(test.obs["batch"].astype(object).map(lambda one, b=batch: b.get(one)))
        bounds[name] = embed_data(data, model, NO_UMAP).obs["nvae_elbo"].mean()
    assert bounds["wrong"] + 3 < bounds["unknown"] < bounds["right"] - 1, bounds


def test_the_planted_data_are_balanced() -> None:
    obs = raw_covariates().obs
    assert (obs.groupby(["label", "run"]).size() == 150).all() and set(obs["label"]) == set(CLASSES)
