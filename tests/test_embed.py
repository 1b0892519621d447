"""Embeddings: what each key holds, and laws that tie keys together."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc
import torch

from nvae_bio import embed_data, schema, train_model
from nvae_bio.config import EmbeddingSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.data.samples import to_samples
from nvae_bio.embed import EFFECT_SD, decoded_effects, encode, shared_gain
from nvae_bio.embed.step import _umap
from tests.toys import (
    CLASSES,
    NO_UMAP,
    PREPARED,
    embedded,
    fit_settings,
    prepared_counts,
    prepared_features,
    prepared_images,
    trained,
)


def in_order(prepared: anndata.AnnData) -> np.ndarray:
    return np.asarray([CLASSES.index(name) for name in prepared.obs["label"].astype(str)])


@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_keys_shapes_and_order(kind: str) -> None:
    prepared, adata = PREPARED[kind](), embedded(kind)
    n_shared, n_private = 10, 2
    assert list(adata.obs_names) == list(prepared.obs_names)
    assert list(adata.var_names) == list(prepared.var_names)
    widths = {key: table.shape[1] for key, table in adata.obsm.items()}
    assert widths == {
        "X_nvae_shared": n_shared,
        "X_nvae_specific": n_private,
        "X_nvae": n_shared + 3 * n_private,
        "nvae_shared_std": n_shared,
        "nvae_specific_std": n_private,
        "nvae_class_probability": 3,
        "nvae_kl_shared": n_shared,
        "nvae_kl_private": 3 * n_private,
        "nvae_gain_specific": n_private,
        "nvae_gain_shared": n_shared,
    }
    for key in ("nvae_effect_shared", "nvae_effect_class_0", "nvae_effect_class_2"):
        low, mid, high = (np.asarray(adata.varm[key + end]) for end in ("_lower", "", "_upper"))
        assert mid.shape == (prepared.n_vars, n_shared if key.endswith("shared") else n_private)
        assert (low <= mid).all()
        assert (mid <= high).all()
    assert adata.uns["nvae"]["fingerprint"] == prepared.uns["nvae_data"]["fingerprint"]
    assert list(adata.uns["nvae"]["classes"]) == CLASSES
    assert adata.uns["nvae"]["calibrated"]
    gain = adata.obsm["nvae_gain_shared"]
    assert (np.isnan(gain).all(1) == (adata.obs["split"] == "train")).all()
    assert all(np.isfinite(table).all() for key, table in adata.obsm.items() if key != "nvae_gain_shared")


@pytest.mark.parametrize("variant", ["cvae", "vae", "per_class"])
def test_a_latent_that_a_variant_lacks_has_no_key(variant: str) -> None:
    keys = set(embedded("counts", variant).obsm)
    lacking = {"X_nvae_shared", "nvae_shared_std", "nvae_kl_shared", "nvae_gain_shared"}
    if variant != "per_class":
        lacking = {"X_nvae_specific", "nvae_specific_std", "nvae_kl_private", "nvae_gain_specific"}
        assert "nvae_gain_specific" not in embedded("counts", variant).obs
    assert not lacking & keys
    assert "X_nvae" in keys


def test_the_joint_embedding_is_shared_beside_masked_blocks() -> None:
    adata = embedded("counts")
    blocks = adata.obsm["X_nvae"][:, 10:].reshape(-1, 3, 2).copy()
    own = in_order(adata)
    rows = np.arange(adata.n_obs)
    assert (adata.obsm["X_nvae"][:, :10] == adata.obsm["X_nvae_shared"]).all()
    assert (blocks[rows, own] == adata.obsm["X_nvae_specific"]).all()
    blocks[rows, own] = 0
    assert not blocks.any()


def test_kl_follows_from_mean_and_std() -> None:
    adata = embedded("features")
    mean, std = adata.obsm["X_nvae_shared"].astype(float), adata.obsm["nvae_shared_std"].astype(float)
    expected = 0.5 * (mean**2 + std**2 - 1) - np.log(std)
    np.testing.assert_allclose(adata.obsm["nvae_kl_shared"], expected, atol=1e-4)


def test_confidence_and_predicted_class_follow_from_the_probabilities() -> None:
    adata = embedded("images")
    probability = adata.obsm["nvae_class_probability"]
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    assert (np.array(CLASSES)[probability.argmax(1)] == adata.obs["nvae_label"].astype(str)).all()
    np.testing.assert_array_equal(adata.obs["nvae_confidence"], probability.max(1))


def test_more_draws_move_the_bound_little_and_its_mean_less() -> None:
    few = embedded("counts").obs["nvae_elbo"]
    many = embed_data(prepared_counts(), trained("counts"), EmbeddingSettings(n_draws=100, umap=False)).obs["nvae_elbo"]
    assert abs(few.mean() - many.mean()) < 1.0
    assert np.corrcoef(few, many)[0, 1] > 0.99


def test_an_unlabelled_sample_gets_the_block_of_its_likeliest_class() -> None:
    prepared = prepared_counts().copy()
    hidden = np.arange(prepared.n_obs) % 5 == 0
    prepared.obs.loc[hidden, "label"] = np.nan
    adata = embed_data(prepared, trained("counts"), NO_UMAP)
    blocks = adata.obsm["X_nvae"][:, 10:].reshape(-1, 3, 2)
    used = np.abs(blocks).sum(2).argmax(1)
    predicted = adata.obs["nvae_label"].astype(str).to_numpy()
    assert (np.array(CLASSES)[used[hidden]] == predicted[hidden]).all()
    assert (used[~hidden] == in_order(prepared_counts())[~hidden]).all()


def test_rows_do_not_depend_on_each_other() -> None:
    whole = embedded("counts")
    some = embed_data(prepared_counts()[::3].copy(), trained("counts"), NO_UMAP)
    np.testing.assert_allclose(some.obsm["X_nvae"], whole.obsm["X_nvae"][::3], atol=1e-5)


def test_twice_the_same_gives_the_same_bits() -> None:
    settings = EmbeddingSettings(umap=True)
    one, other = (embed_data(prepared_images(), trained("images"), settings) for _ in range(2))
    for key in one.obsm:
        assert np.array_equal(one.obsm[key], other.obsm[key], equal_nan=True), key
    for key in one.varm:
        assert np.array_equal(one.varm[key], other.varm[key]), key


def test_the_effect_of_a_private_factor_is_a_difference_of_decoded_means() -> None:
    """By hand, for one factor of class c1 in the Gaussian model."""
    prepared, network = prepared_features(), trained("features").network
    samples = to_samples(prepared, CLASSES)
    encoded = encode(network, samples, 1, 0)
    private = decoded_effects(network, samples, encoded, 10_000, 0).private
    rows = (samples.label == 1).nonzero().squeeze(1)
    mean, std = encoded.private.mean[rows, 1], encoded.private.log_std[rows, 1].exp()
    center, spread = mean[:, 0].mean(), (mean[:, 0].var(correction=0) + (std[:, 0] ** 2).mean()).sqrt()
    decoded = []
    with torch.no_grad():
        for sign in (-EFFECT_SD, EFFECT_SD):
            own = mean.clone()
            own[:, 0] = center + sign * spread
            decoded.append(network.decode(encoded.shared.mean[rows], own, samples.label[rows], None).mean)
    expected = (decoded[1] - decoded[0]).mean(0)
    np.testing.assert_allclose(private[1].mean[:, 0], expected, atol=1e-4)


def test_embedding_does_not_change_its_input() -> None:
    before = prepared_counts().copy()
    embed_data(prepared_counts(), trained("counts"), NO_UMAP)
    assert set(before.obsm) == set(prepared_counts().obsm)
    assert before.obs.equals(prepared_counts().obs)


@pytest.mark.filterwarnings("ignore")  # those of scanpy, umap-learn and numba, in calls that are the user's own
def test_scanpy_works_on_the_file(tmp_path: Path) -> None:
    write_anndata(embedded("counts"), tmp_path / "embedded.h5ad")
    adata = sc.read_h5ad(tmp_path / "embedded.h5ad")
    sc.pp.neighbors(adata, use_rep="X_nvae_shared")
    sc.tl.umap(adata)
    axes = sc.pl.umap(adata, color=["label", "nvae_elbo"], show=False)
    assert len(axes) == 2
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)
    for key in embedded("counts").obsm:
        np.testing.assert_array_equal(adata.obsm[key], embedded("counts").obsm[key])


@pytest.mark.slow  # above 8,192 samples scanpy's default would search approximately, which numba compiles for a minute
def test_many_samples_are_laid_out_on_their_exact_neighbours() -> None:
    points = np.random.default_rng(0).normal(size=(8300, 3)).astype(np.float32)
    layout = _umap(points, 0)
    assert layout.shape == (8300, 2)
    assert np.isfinite(layout).all()


def test_umaps_are_laid_out_only_where_asked_for() -> None:
    assert schema.UMAP not in embedded("images").obsm
    adata = embed_data(prepared_images(), trained("images"), EmbeddingSettings())
    assert adata.obsm[schema.UMAP].shape == (150, 2)
    assert np.isfinite(adata.obsm[schema.UMAP]).all()
    assert schema.SPECIFIC_UMAP not in adata.obsm  # two private dims are drawn as they are


def test_a_random_part_is_laid_out_where_samples_are_many() -> None:
    adata = embed_data(prepared_images(), trained("images"), EmbeddingSettings(umap_max_samples=100))
    laid_out = np.isfinite(adata.obsm[schema.UMAP]).all(1)
    assert laid_out.sum() == 100
    assert adata.obs["label"][laid_out].nunique() == 3
    assert np.isfinite(adata.obsm[schema.SHARED]).all()


def test_the_gain_of_a_shared_dim_that_moves_nothing_is_its_kl_lost() -> None:
    model = trained("counts")
    samples, network = model.card.samples_of(prepared_counts()), model.network
    weight = network.decoder.composition.shared_weight
    before = weight.detach().clone()
    rows = torch.arange(0, len(samples), 3)
    with torch.no_grad():
        weight[4] = 0
        found = shared_gain(network, samples, rows, 3, 0)
        kl = encode(network, samples, 1, 0).shared.kl()[rows]
        weight.copy_(before)
    torch.testing.assert_close(found[:, 4], -kl[:, 4], atol=1e-4, rtol=1e-4)
    assert (found[:, 3] + kl[:, 3]).abs().max() > 1e-3


def test_the_gain_of_the_only_shared_dim_is_the_bound_less_that_without_it() -> None:
    """By hand: the same draws decoded with z_s and with z_s at 0, and the KL of the dim."""
    prepared = prepared_features()
    network = train_model(prepared, fit_settings(3, n_shared=1)).network
    samples = to_samples(prepared, CLASSES)
    rows = torch.arange(50)
    found = torch.stack([shared_gain(network, samples, rows, 10, seed) for seed in range(40)]).mean(0)
    batch = samples.take(rows)
    with torch.no_grad():
        posterior = network.infer(batch)[0]
        own = posterior.own(batch.label)
        lost = torch.zeros(50)
        generator = torch.Generator().manual_seed(5)
        for _ in range(2000):
            shared, private = network.draw(posterior, own, torch.randn(50, 3, generator=generator))
            outputs = [network.decoder(z, private, batch.label) for z in (shared, 0 * shared)]
            lost += network.likelihood.log_prob(outputs[0], batch) - network.likelihood.log_prob(outputs[1], batch)
    expected = lost / 2000 - posterior.shared.kl()[:, 0]
    assert np.corrcoef(found[:, 0], expected)[0, 1] > 0.9
    assert abs(float(found.mean() - expected.mean())) < 0.15


def test_shared_effects_are_the_mean_of_those_by_class() -> None:
    adata = embedded("counts")
    by_class = [adata.varm[f"nvae_effect_shared_class_{index}"] for index in range(3)]
    np.testing.assert_allclose(np.mean(by_class, axis=0), adata.varm["nvae_effect_shared"], atol=1e-5)
    assert np.abs(by_class[0] - by_class[1]).max() > 1e-4


def test_effects_of_pictures_are_in_intensity_whatever_the_likelihood() -> None:
    settings = fit_settings(max_epochs=1, likelihood="gaussian")
    prepared = prepared_images()
    adata = embed_data(prepared, train_model(prepared, settings), NO_UMAP)
    assert adata.uns["nvae"]["effect_unit"] == "change of pixel intensity"
