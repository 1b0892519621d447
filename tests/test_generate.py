"""Samples and traversals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nvae_bio import generate_samples, traverse_factors
from nvae_bio.config import GenerationSettings
from nvae_bio.errors import UserError
from tests.toys import CLASSES, PREPARED, prepared_counts, prepared_features, trained


@pytest.mark.parametrize("variant", ["nvae", "cvae", "vae", "per_class"])
@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_samples_of_each_sigma_and_class(kind: str, variant: str) -> None:
    settings = GenerationSettings(sigmas=(0.5, 2.0), n_per_class=5)
    samples = generate_samples(trained(kind, variant), PREPARED[kind](), settings)
    assert samples.n_obs == 2 * 3 * 5
    assert (samples.obs.groupby(["sigma", "label"], observed=True).size() == 5).all()
    assert list(samples.var_names) == list(PREPARED[kind]().var_names)
    assert np.isfinite(samples.X).all()
    if kind == "counts":
        assert (np.rint(samples.X) == samples.X).all()
        assert samples.X.min() >= 0
    if kind == "images":
        assert set(np.unique(samples.X)) <= {0.0, 1.0}


def test_z_has_the_scale_that_was_asked_for() -> None:
    samples = generate_samples(
        trained("features"), prepared_features(), GenerationSettings(sigmas=(0.5, 2.0), n_per_class=400)
    )
    for sigma in (0.5, 2.0):
        z = samples.obsm["z"][(samples.obs["sigma"] == sigma).to_numpy()]
        assert z.std() == pytest.approx(sigma, rel=0.03)
        assert abs(z.mean()) < 0.05 * sigma


def test_draws_scatter_around_the_mean_as_the_likelihood_says() -> None:
    settings = GenerationSettings(sigmas=(1.0,), n_per_class=2000)
    model = trained("features")
    samples = generate_samples(model, prepared_features(), settings)
    residual = (samples.X - samples.layers["mean"]) / model.network.likelihood.log_std.detach().exp().numpy()
    assert residual.mean() == pytest.approx(0, abs=0.01)
    assert residual.std() == pytest.approx(1, abs=0.01)


def test_count_samples_have_libraries_of_their_class() -> None:
    samples = generate_samples(trained("counts"), prepared_counts(), GenerationSettings(n_per_class=30))
    train = prepared_counts().obs[prepared_counts().obs["split"] == "train"]
    for name in CLASSES:
        drawn = set(samples.obs.loc[samples.obs["label"] == name, "library"])
        assert drawn <= set(train.loc[train["label"] == name, "library"].astype(np.float32))
        assert len(drawn) > 5


def test_same_seed_same_samples() -> None:
    one, other = (generate_samples(trained("counts"), prepared_counts(), seed=3) for _ in range(2))
    third = generate_samples(trained("counts"), prepared_counts(), seed=4)
    assert np.array_equal(one.X, other.X)
    assert not np.array_equal(one.X, third.X)


def test_a_traversal_moves_one_latent_and_nothing_else() -> None:
    moved = traverse_factors(trained("images"), PREPARED["images"](), GenerationSettings(n_steps=5, span=2.0))
    assert moved.n_obs == (10 + 2) * 3 * 5
    z = moved.obsm["z"]
    assert ((z != 0).sum(1) <= 1).all()
    np.testing.assert_allclose(z.sum(1), moved.obs["value"], atol=1e-6)
    private = (moved.obs["kind"] == "private").to_numpy()
    assert (np.abs(z[private][:, :10]) == 0).all()
    assert (np.abs(z[~private][:, 10:]) == 0).all()
    assert sorted(moved.obs["value"].unique()) == [-2.0, -1.0, 0.0, 1.0, 2.0]


def test_a_traversal_step_is_the_decoded_mean() -> None:
    model = trained("features")
    moved = traverse_factors(model, prepared_features())
    row = 17 * 9 % moved.n_obs
    z = torch.from_numpy(moved.obsm["z"][[row]])
    label = torch.tensor([CLASSES.index(moved.obs["label"].iloc[row])])
    with torch.no_grad():
        expected = model.network.decode(z[:, :10], z[:, 10:], label, None).mean
    np.testing.assert_allclose(moved.X[[row]], expected, atol=1e-5)


def test_data_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="of kind 'features', the model was trained on 'counts'"):
        generate_samples(trained("counts"), prepared_features())
