"""The linear decoder of counts, its standardised inputs and where it starts; and what a private block gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from anndata import AnnData
from torch.distributions import Laplace, Normal

from nvae_bio import embed_data, train_model
from nvae_bio.config import LIKELIHOODS, ModelSettings, RunSettings, check_model_fits
from nvae_bio.data.samples import to_samples
from nvae_bio.embed import encode
from nvae_bio.model import ClassSums, FeatureMoments, Stack
from nvae_bio.model.decoders import Decoder, LinearDecoder
from nvae_bio.model.likelihoods import PRIOR_COUNTS
from nvae_bio.train.moments import feature_moments
from nvae_bio.train.step import labelled_rows
from tests.small_models import make_batch, make_model, make_moments, make_noise, randomize
from tests.toys import CLASSES, NO_UMAP, PREPARED, fit_settings, prepared_counts, trained


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS["counts"], "bernoulli", "gaussian"])
def test_outputs_are_a_dense_product_with_the_masked_latent(likelihood: str) -> None:
    model = randomize(make_model(likelihood=likelihood, n_shared=3, n_private=2, decoder="linear"))
    assert isinstance(model.decoder, LinearDecoder)
    label, composition = torch.arange(7) % 3, model.decoder.composition
    shared, own = make_noise(model, 7).split([3, 2], dim=1)
    blocks = torch.cat([composition.class_bias[:, None], composition.class_weight], dim=1).flatten(0, 1)
    z = F.one_hot(label, 3)[:, :, None] * torch.cat([torch.ones(7, 1), own], dim=1)[:, None]
    expected = torch.cat([z.flatten(1), shared], dim=1) @ torch.cat([blocks, composition.shared_weight])
    torch.testing.assert_close(model.decoder(shared, own, label), expected + model.decoder.output_bias)


@pytest.mark.parametrize(("kind", "linear"), [("counts", True), ("images", False), ("features", False)])
def test_counts_have_a_linear_decoder_and_others_a_network_unless_told(kind: str, linear: bool) -> None:
    for decoder, expected in ((None, linear), ("linear", True), ("network", False)):
        settings = fit_settings(1, decoder=decoder)
        network = train_model(PREPARED[kind](), settings).network
        assert isinstance(network.decoder, LinearDecoder if expected else Decoder)
        assert (network.encoder.linear is not None) == expected


def test_a_linear_decoder_of_a_conv_encoder_is_refused() -> None:
    model = ModelSettings(backbone="conv", decoder="linear")
    with pytest.raises(ValueError, match="decoder: 'linear' does not fit backbone 'conv'; allowed: network"):
        check_model_fits(model, "images")


def test_the_linear_part_of_the_posterior_starts_at_nothing_and_is_trained() -> None:
    model = make_model(likelihood="negative_binomial")
    assert model.encoder.linear is not None and not model.encoder.linear.weight.any()
    after = trained("counts").network.encoder.linear
    assert after is not None
    assert after.weight.abs().max() > 1e-3


def test_a_change_of_the_linear_part_moves_the_means_by_its_product_and_nothing_else() -> None:
    model, batch = make_model(likelihood="negative_binomial", n_shared=3, n_private=2), make_batch("negative_binomial")
    model.fit_output_bias(make_moments(batch))
    before, _ = model.infer(batch)
    assert model.encoder.linear is not None
    torch.nn.init.normal_(model.encoder.linear.weight)
    after, _ = model.infer(batch)
    moved = model.inputs(batch.x, batch.library) @ model.encoder.linear.weight
    torch.testing.assert_close(after.shared.mean - before.shared.mean, moved[:, :3])
    torch.testing.assert_close((after.private.mean - before.private.mean).flatten(1), moved[:, 3:])
    torch.testing.assert_close(after.private.log_std, before.private.log_std)


# --- standardised inputs ---------------------------------------------------------------------------------------------


def test_each_gene_has_mean_0_and_variance_1_over_the_training_samples_and_a_constant_one_is_0() -> None:
    model, batch = make_model(likelihood="negative_binomial"), make_batch("negative_binomial", n=200)
    assert batch.library is not None
    x = batch.x.clone()
    x[:, 2] = 0
    model.fit_output_bias(FeatureMoments.of(x, batch.library))
    read = model.likelihood.encoder_input(x, batch.library)
    varying = torch.arange(6) != 2
    torch.testing.assert_close(read.mean(0), torch.zeros(6).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(read.var(0, correction=0)[varying], torch.ones(5).double(), atol=1e-6, rtol=0)
    assert not read[:, 2].any()


def test_moments_summed_by_chunks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvae_bio.train.moments.MOMENT_ROWS", 17)
    prepared = prepared_counts()
    samples = to_samples(prepared, CLASSES)
    rows = labelled_rows(prepared, samples, "train")
    found, batch = feature_moments(samples, rows, 3), samples.take(rows)
    whole = FeatureMoments.of(batch.x.float(), batch.library)
    for one, other in ((found.log_mean, whole.log_mean), (found.log_std, whole.log_std), (found.var, whole.var)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert found.by_class is not None and batch.library is not None
    for y in range(3):
        own = batch.label == y
        torch.testing.assert_close(found.by_class.total[y], batch.x[own].float().sum(0))
        assert found.by_class.n[y] == own.sum()
        assert found.by_class.library[y] == batch.library[own].sum()


# --- start -----------------------------------------------------------------------------------------------------------


def class_sums(batch_x: torch.Tensor, label: torch.Tensor, library: torch.Tensor | None) -> ClassSums:
    totals = torch.stack([batch_x[label == y].sum(0) for y in range(3)])
    n = torch.bincount(label, minlength=3).double()
    return ClassSums(totals, n, n if library is None else torch.stack([library[label == y].sum() for y in range(3)]))


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS["counts"], "gaussian", "bernoulli"])
def test_each_class_starts_at_its_own_mean(likelihood: str) -> None:
    model, batch = make_model(likelihood=likelihood, decoder="linear"), make_batch(likelihood, n=3000)
    x = batch.x.clone()
    x[batch.label == 1, 0] *= 0.3
    library = batch.library
    moments = FeatureMoments.of(x, library)
    sums = class_sums(x, batch.label, library)
    model.fit_output_bias(FeatureMoments(moments.n, moments.mean, moments.var, library, moments.log_mean,
                                         moments.log_std, sums))  # fmt: skip
    own, shared = torch.zeros(3, model.n_private).double(), torch.zeros(3, model.n_shared).double()
    found = model.decode(shared, own, torch.arange(3), None if library is None else torch.ones(3).double()).mean
    torch.testing.assert_close(found, sums.total / sums.library[:, None], rtol=0.02, atol=0.02)


def test_a_gene_of_few_counts_starts_near_the_mean_of_all_and_an_empty_class_at_it() -> None:
    likelihood = make_model(likelihood="negative_binomial").likelihood
    x, library = torch.zeros(9, 6).double(), torch.full((9,), 100.0).double()
    x[0, 0] = 2
    moments = FeatureMoments.of(x, library)
    sums = ClassSums(torch.stack([x.sum(0), 0 * x[0]]), torch.tensor([9.0, 0.0]), torch.tensor([900.0, 0.0]))
    found = likelihood.class_outputs(
        FeatureMoments(9, moments.mean, moments.var, library, moments.log_mean, moments.log_std, sums)
    )
    assert found.shape == (2, 7)
    assert not found.any()  # what the class has is what its library lets expect
    sums = sums._replace(library=torch.tensor([450.0, 450.0]))
    found = likelihood.class_outputs(
        FeatureMoments(9, moments.mean, moments.var, library, moments.log_mean, moments.log_std, sums)
    )
    expected = np.log([(2 + PRIOR_COUNTS) / (1 + PRIOR_COUNTS), PRIOR_COUNTS / (1 + PRIOR_COUNTS)])
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-6)


# --- prior -----------------------------------------------------------------------------------------------------------


def test_the_prior_of_the_weights_is_that_of_torch_and_that_of_a_stack_is_of_each_model() -> None:
    settings = ModelSettings(loading_sd=0.3, intercept_sd=1.7)
    models = [randomize(make_model(likelihood="poisson", n_shared=3, n_private=2), seed) for seed in (1, 2)]
    expected = []
    for model in models:
        of, zeros = model.decoder.composition, torch.zeros(()).double()
        loadings, intercepts = Laplace(zeros, 0.3 / 2**0.5), Normal(zeros, 1.7)  # of standard deviation 0.3
        found = [(part, loadings) for part in (of.shared_weight, of.class_weight)] + [(of.class_bias, intercepts)]
        expected.append(sum((prior.log_prob(part) - prior.log_prob(zeros)).sum() for part, prior in found))
        torch.testing.assert_close(model.log_prior(settings), expected[-1])
    torch.testing.assert_close(Stack(models).log_prior(settings), torch.stack(expected))
    assert models[0].has_prior and Stack(models).has_prior


@pytest.mark.parametrize(("likelihood", "decoder"), [("poisson", "network"), ("gaussian", "linear")])
def test_a_network_and_outputs_that_are_no_log_rates_have_no_prior(likelihood: str, decoder: str) -> None:
    assert not make_model(likelihood=likelihood, decoder=decoder).has_prior


@pytest.mark.parametrize(("setting", "narrow", "name"), [
    ("loading_sd", 0.01, "shared_weight"), ("loading_sd", 0.01, "class_weight"), ("intercept_sd", 0.1, "class_bias"),
])  # fmt: skip
def test_a_narrow_prior_holds_the_weights_and_a_wide_one_does_not(setting: str, narrow: float, name: str) -> None:
    sizes = []
    for sd in (narrow, 100.0):
        settings = fit_settings(60, **{setting: sd}).with_training(learning_rate=1e-2)
        composition = train_model(prepared_counts(), settings).network.decoder.composition
        sizes.append(getattr(composition, name).abs().mean().item())
    assert sizes[0] < sizes[1] / 3


# --- gain ------------------------------------------------------------------------------------------------------------


def test_a_block_that_moves_nothing_loses_its_kl() -> None:
    trained_model = trained("counts")
    samples = trained_model.card.samples_of(prepared_counts())
    network = trained_model.network
    before = network.decoder.composition.class_weight.detach().clone()
    with torch.no_grad():
        network.decoder.composition.class_weight.zero_()
        found = encode(network, samples, 3, 0)
        network.decoder.composition.class_weight.copy_(before)
    rows = torch.arange(len(found.label))
    kl = found.private.kl()[rows, found.label]
    torch.testing.assert_close(found.gain, -kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.block_gain, -kl.sum(1), atol=1e-4, rtol=1e-4)


def test_the_gain_of_the_only_dim_is_that_of_the_block() -> None:
    prepared = prepared_counts()
    adata = embed_data(prepared, train_model(prepared, fit_settings(3, n_private=1)), NO_UMAP)
    np.testing.assert_array_equal(adata.obsm["nvae_gain_specific"][:, 0], adata.obs["nvae_gain_specific"])


def held_out_gain(adata: AnnData) -> list[float]:
    rows = adata.obs["split"] != "train"
    return [adata.obs.loc[rows & (adata.obs["label"] == name), "nvae_gain_specific"].mean() for name in CLASSES]


def test_the_class_that_has_a_factor_of_its_own_gains_by_its_block_and_the_others_do_not() -> None:
    prepared = prepared_counts()
    settings = fit_settings(150, n_shared=2, n_private=1).with_training(learning_rate=5e-3)
    gain = held_out_gain(embed_data(prepared, train_model(prepared, settings), NO_UMAP))
    assert gain[1] > 10
    assert max(gain[0], gain[2]) < gain[1] / 5


def test_shared_refits_can_be_left_out_or_counted() -> None:
    for given, expected in ((None, 5), (0, 0), (3, 3)):
        run = RunSettings.model_validate({"dataset": "d", "report": {"n_refits": 10, "n_shared_refits": given}})
        assert sum(map(len, run.refits.get("no_factor", []))) == expected
        assert sum(map(len, run.refits["no_private"])) == 10
