"""The composition, the variants, who may see what, and the latents, each against a second way to the same number."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from nvae_bio.data.batch import Batch
from nvae_bio.model import NVAE, DiagonalGaussian
from nvae_bio.model.likelihoods import LIKELIHOOD_CLASSES
from nvae_bio.model.nvae import Composition
from tests.small_models import (
    fixed_seed,
    law,
    make_batch,
    make_generator,
    make_model,
    make_moments,
    make_noise,
    make_terms,
    randomize,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "nvae": {"n_shared": 3, "n_private": 2},
    "cvae": {"n_shared": 3},
    "vae": {"n_shared": 3},
    "per_class": {"n_private": 2},
}
GENERATIVE = ("encoder.", "decoder.", "likelihood.")


def gradients(value: Tensor, model: NVAE) -> dict[str, Tensor | None]:
    """Of one number by every parameter; None where no path leads."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True), strict=True))


def is_zero(gradient: Tensor | None) -> bool:
    return gradient is None or not gradient.any()


# --- the first decoder layer -----------------------------------------------------------------------------------------


@law
@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), st.integers(1, 6), st.integers(0, 1000))
@fixed_seed()
def test_gathered_composition_equals_the_dense_masked_form(c: int, k: int, s: int, n: int, seed: int) -> None:
    width, generator = 4, make_generator(seed)
    dense = torch.randn(c * (k + 1) + s, width, generator=generator, dtype=torch.float64).requires_grad_()
    private = torch.randn(n, c, k, generator=generator, dtype=torch.float64).requires_grad_()
    shared = torch.randn(n, s, generator=generator, dtype=torch.float64).requires_grad_()
    label = torch.randint(0, c, (n,), generator=generator)
    probe = torch.randn(n, width, generator=generator, dtype=torch.float64)

    # dense: vec(c_y ⊙ [1, z_c]) beside z_s, through one linear layer
    masked = F.one_hot(label, c)[:, :, None] * torch.cat([torch.ones(n, c, 1), private], dim=2)
    expected = torch.cat([masked.reshape(n, c * (k + 1)), shared], dim=1) @ dense
    by_dense, by_private, by_shared = torch.autograd.grad((expected * probe).sum(), [dense, private, shared])

    # gathered: the same numbers, laid out as the layer keeps them
    composition = Composition(s, c, k, width).double()
    blocks, shared_rows = dense.detach()[: c * (k + 1)].reshape(c, k + 1, width), dense.detach()[c * (k + 1) :]
    composition.load_state_dict(
        {"shared_weight": shared_rows, "class_weight": blocks[:, 1:], "class_bias": blocks[:, 0]}
    )
    found = composition(shared, private[torch.arange(n), label], label)
    torch.testing.assert_close(found, expected)
    (found * probe).sum().backward()
    torch.testing.assert_close(private.grad, by_private)
    torch.testing.assert_close(shared.grad, by_shared)
    by_blocks = torch.cat([composition.class_bias.grad[:, None], composition.class_weight.grad], dim=1)
    torch.testing.assert_close(
        torch.cat([by_blocks.reshape(c * (k + 1), width), composition.shared_weight.grad]), by_dense
    )


@pytest.mark.parametrize("variant", ["nvae", "cvae", "per_class"])
def test_no_class_is_an_error_and_not_the_last_class(variant: str) -> None:
    model, batch = make_model(variant, **VARIANTS[variant]), make_batch()
    unlabelled = torch.full_like(batch.label, -1)
    shared, own = make_noise(model, 7).split([model.n_shared, model.n_private], dim=1)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds|DATA bounds)"):
        model.decode(shared, own, unlabelled, None)
    if model.n_private:
        with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds|DATA bounds)"):
            model.encoder(batch.x).own(unlabelled)


# --- the variants ----------------------------------------------------------------------------------------------------


def hidden_layers(weights: Mapping[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """Linear and ReLU, again and again, by hand; a last linear layer, which has no bias, is left to the caller."""
    for i in range(0, 100, 2):
        if f"{prefix}.{i}.bias" not in weights:
            return x
        weight = weights[f"{prefix}.{i}.weight"]
        is_turned = i == 0 and prefix.endswith("trunk")  # the first layer of a trunk holds (n_in, n_out)
        x = (x @ (weight if is_turned else weight.T) + weights[f"{prefix}.{i}.bias"]).clamp(min=0)
    raise AssertionError


def conditional_vae_terms(model: NVAE, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x|y,z), KL and log q(y|x) of a textbook CVAE: [one-hot y, z] through a dense decoder."""
    weights = model.state_dict()
    moments = hidden_layers(weights, "encoder.trunk", batch.x) @ weights["encoder.moments.weight"].T
    mean, log_std = (moments + weights["encoder.moments.bias"]).chunk(2, dim=1)
    posterior = Normal(mean, log_std.exp())
    z = mean + log_std.exp() * noise
    dense = torch.cat([weights["decoder.composition.class_bias"], weights["decoder.composition.shared_weight"]])
    hidden = torch.cat([F.one_hot(batch.label, len(dense) - z.shape[1]).double(), z], dim=1) @ dense
    hidden = hidden_layers(weights, "decoder.head", hidden.relu())
    logits = hidden @ weights["decoder.head.2.weight"].T + weights["decoder.output_bias"]
    log_likelihood = Bernoulli(logits=logits, validate_args=False).log_prob(batch.x).sum(1)
    kl = kl_divergence(posterior, Normal(torch.zeros_like(mean), 1)).sum(1)
    classes = hidden_layers(weights, "classifier.trunk", batch.x) @ weights["classifier.logits.weight"].T
    log_class = (classes + weights["classifier.logits.bias"]).log_softmax(1)[torch.arange(len(batch.x)), batch.label]
    return log_likelihood, kl, log_class


def test_without_private_dims_it_is_a_conditional_vae() -> None:
    model, batch = randomize(make_model("cvae", n_shared=3)), make_batch()
    log_likelihood, kl, log_class = conditional_vae_terms(model, batch, make_noise(model, 7))
    terms = make_terms(model, batch)
    torch.testing.assert_close(terms.elbo(), log_likelihood - kl)
    torch.testing.assert_close(terms.objective(0.7, 5.0, "all", 2.0), log_likelihood - 0.7 * kl + 2 * log_class)
    assert terms.kl_private.shape == (7, 3, 0)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_without_shared_dims_each_class_has_a_vae_of_its_own(label: int) -> None:
    # a plain VAE, given the block of one class as its only latent, has the same bound on the samples of that class
    model, k = randomize(make_model("per_class", n_private=2)), 2
    plain = make_model("vae", n_shared=k, seed=9)
    weights, target = model.state_dict(), plain.state_dict()
    rows = [2 * label, 2 * label + 1, 6 + 2 * label, 6 + 2 * label + 1]  # means of all blocks, then log stds
    for name, value in weights.items():
        if not name.startswith(("encoder.moments.", "decoder.composition.")):
            target[name] = value
    for name in ("weight", "bias"):
        target[f"encoder.moments.{name}"] = weights[f"encoder.moments.{name}"][rows]
    target["decoder.composition.shared_weight"] = weights["decoder.composition.class_weight"][label]
    target["decoder.composition.class_bias"] = weights["decoder.composition.class_bias"][label, None]
    plain.load_state_dict(target)

    batch = make_batch()._replace(label=torch.full((7,), label))
    terms, expected = make_terms(model, batch), make_terms(plain, batch)
    torch.testing.assert_close(terms.elbo(), expected.elbo())
    torch.testing.assert_close(terms.objective(0.4, 1.0, "own", 0.5), expected.objective(0.4, 1.0, "own", 0.5))
    assert terms.kl_shared.shape == (7, 0)


def test_without_shared_dims_no_class_reaches_the_latents_of_another() -> None:
    model, batch = randomize(make_model("per_class", n_private=2)), make_batch()
    assert model.decoder.composition.shared_weight.numel() == 0
    terms = make_terms(model, batch)
    of_class_1 = terms.elbo()[batch.label == 1].sum()
    found = gradients(of_class_1, model)
    for name in ("decoder.composition.class_weight", "decoder.composition.class_bias"):
        assert found[name][1].any() and not found[name][[0, 2]].any()
    by_mean = found["encoder.moments.bias"].reshape(2, 3, 2)  # moment, class, dim
    assert by_mean[:, 1].all() and not by_mean[:, [0, 2]].any()


@pytest.mark.parametrize("likelihood", LIKELIHOOD_CLASSES)
def test_vae_ignores_labels_but_for_the_classifier(likelihood: str) -> None:
    model, batch = randomize(make_model("vae", likelihood, n_shared=3)), make_batch(likelihood)
    permuted = batch._replace(label=batch.label.flip(0))
    before, after = make_terms(model, batch), make_terms(model, permuted)
    for name in ("log_likelihood", "kl_shared", "kl_private", "kl_own"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=0)
    assert not torch.equal(after.log_class, before.log_class)
    assert model.n_blocks == 1


@pytest.mark.parametrize("variant", ["nvae", "cvae", "per_class"])
def test_the_other_variants_use_labels(variant: str) -> None:
    model, batch = make_model(variant, **VARIANTS[variant]), make_batch()
    before, after = make_terms(model, batch), make_terms(model, batch._replace(label=(batch.label + 1) % 3))
    assert (after.log_likelihood != before.log_likelihood).all()


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_other_blocks_never_reach_the_decoder() -> None:
    model, batch = randomize(make_model(**VARIANTS["nvae"])), make_batch()
    before = make_terms(model, batch)
    with torch.no_grad():  # means of block 1, after the 3 shared ones and the 2 of block 0
        model.encoder.moments.bias[3 + 2 : 3 + 4] += 1.0
    after = make_terms(model, batch)
    own = batch.label == 1
    torch.testing.assert_close(after.log_likelihood[~own], before.log_likelihood[~own], rtol=0, atol=0)
    torch.testing.assert_close(after.elbo()[~own], before.elbo()[~own], rtol=0, atol=0)
    assert (after.log_likelihood[own] != before.log_likelihood[own]).all()
    assert (after.kl_private[:, 1] != before.kl_private[:, 1]).all()
    torch.testing.assert_close(after.kl_private[:, [0, 2]], before.kl_private[:, [0, 2]], rtol=0, atol=0)


def test_other_blocks_get_no_gradient_from_the_likelihood() -> None:
    model, batch = randomize(make_model(**VARIANTS["nvae"])), make_batch()
    terms = make_terms(model, batch)
    by_bias = gradients(terms.log_likelihood[batch.label == 2].sum(), model)["encoder.moments.bias"]
    shared, private = by_bias.reshape(2, 9).split([3, 6], dim=1)
    assert shared.all()
    assert private.reshape(2, 3, 2)[:, 2].all() and not private.reshape(2, 3, 2)[:, :2].any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("likelihood", LIKELIHOOD_CLASSES)
def test_classifier_and_generative_part_do_not_touch(variant: str, likelihood: str) -> None:
    model, batch = make_model(variant, likelihood, **VARIANTS[variant]), make_batch(likelihood)
    model.fit_output_bias(make_moments(batch))
    terms = make_terms(model, batch)
    generative = gradients(terms.objective(1.0, 1.0, "all", 0.0).sum(), model)
    classifying = gradients(terms.log_class.sum(), model)
    for name, parameter in model.named_parameters():
        in_classifier = not name.startswith(GENERATIVE)
        assert is_zero(generative[name]) == (in_classifier or parameter.numel() == 0), name
        assert is_zero(classifying[name]) != in_classifier, name


def test_encoder_does_not_see_the_label() -> None:
    model, batch = make_model(**VARIANTS["nvae"]), make_batch()
    before, after = make_terms(model, batch), make_terms(model, batch._replace(label=batch.label.flip(0)))
    torch.testing.assert_close(after.kl_private, before.kl_private, rtol=0, atol=0)
    torch.testing.assert_close(after.kl_shared, before.kl_shared, rtol=0, atol=0)


def test_encoder_splits_its_outputs_into_shared_dims_and_blocks() -> None:
    model = make_model(**VARIANTS["nvae"])
    with torch.no_grad():
        model.encoder.moments.weight.zero_()
        model.encoder.moments.bias.copy_(torch.cat([torch.arange(9.0), -torch.arange(9.0) / 10]))
    posterior = model.encoder(make_batch(n=2).x)
    shared, private = torch.arange(3).double(), torch.arange(3, 9).double().reshape(3, 2)
    for row in range(2):
        torch.testing.assert_close(posterior.shared.mean[row], shared)
        torch.testing.assert_close(posterior.shared.log_std[row], -shared / 10)
        torch.testing.assert_close(posterior.private.mean[row], private)
        torch.testing.assert_close(posterior.private.log_std[row], -private / 10)
    own = posterior.own(torch.tensor([2, 0]))
    torch.testing.assert_close(own.mean, private[[2, 0]])
    torch.testing.assert_close(own.log_std, -private[[2, 0]] / 10)


def test_class_probabilities_sum_to_one_and_name_the_likeliest() -> None:
    model, batch = randomize(make_model(**VARIANTS["nvae"])), make_batch(n=30)
    log_prob = model.classifier(batch.x)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(30).double())
    terms = make_terms(model, batch)
    torch.testing.assert_close(terms.log_class, (log_prob * F.one_hot(batch.label, 3)).sum(1))
    best = log_prob.max(1).values == terms.log_class
    assert torch.equal(terms.correct, best) and 0 < best.sum() < 30


# --- the latents -----------------------------------------------------------------------------------------------------


@law
@given(st.floats(-6, 6), st.floats(-8, 3))
def test_kl_to_the_prior(mean: float, log_std: float) -> None:
    latent = DiagonalGaussian(*torch.tensor([[mean], [log_std]], dtype=torch.float64))
    std = latent.log_std.exp()
    torch.testing.assert_close(latent.kl(), kl_divergence(Normal(latent.mean, std), Normal(0.0, 1.0)))
    assert latent.kl().item() >= -1e-15


def test_kl_is_zero_at_the_prior_alone_and_keeps_its_digits_near_it() -> None:
    zero, small = torch.zeros(1), torch.tensor([1e-4])
    assert DiagonalGaussian(zero, zero).kl().item() == 0
    assert DiagonalGaussian(small, zero).kl().item() == pytest.approx(0.5e-8, rel=1e-5)  # float32
    assert DiagonalGaussian(zero, torch.tensor([0.3])).kl().item() > 0.01


def test_draws_of_a_latent_have_its_moments() -> None:
    latent = DiagonalGaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.0, -1.5]))
    draws = latent.rsample(torch.randn(100_000, 2, generator=make_generator(0)))
    std = latent.log_std.exp()
    assert ((draws.mean(0) - latent.mean).abs() < 5 * std / 100_000**0.5).all()
    torch.testing.assert_close(draws.std(0), std, rtol=0.02, atol=0)


# --- start and state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOOD_CLASSES)
def test_output_bias_starts_the_decoder_at_the_training_mean(likelihood: str) -> None:
    model = make_model(likelihood=likelihood, decoder="network", **VARIANTS["nvae"])
    batch = make_batch(likelihood, n=500)
    model.fit_output_bias(make_moments(batch))
    torch.nn.init.zeros_(model.decoder.head[-1].weight)  # nothing but the bias is left
    library = None if batch.library is None else torch.ones(1, dtype=torch.float64)
    total = len(batch.x) if batch.library is None else batch.library.sum()
    mean = model.decode(torch.zeros(1, 3).double(), torch.zeros(1, 2).double(), torch.tensor([1]), library).mean[0]
    torch.testing.assert_close(mean, batch.x.sum(0) / total, rtol=1e-3, atol=1e-3)


def test_starting_the_decoder_starts_the_likelihood_too() -> None:
    counts, features = make_batch("negative_binomial", n=9), make_batch("gaussian", n=50)
    model = make_model(likelihood="negative_binomial", **VARIANTS["nvae"])
    model.fit_output_bias(make_moments(counts))
    assert model.likelihood.log_reference.exp().item() == pytest.approx(counts.library.median().item())
    model = make_model(likelihood="gaussian", **VARIANTS["nvae"])
    model.fit_output_bias(make_moments(features))
    torch.testing.assert_close(model.likelihood.log_std.exp(), features.x.std(0, correction=0))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("likelihood", LIKELIHOOD_CLASSES)
def test_state_carries_everything_that_outputs_depend_on(variant: str, likelihood: str) -> None:
    model, batch = randomize(make_model(variant, likelihood, **VARIANTS[variant])), make_batch(likelihood)
    model.fit_output_bias(make_moments(batch))
    other = make_model(variant, likelihood, seed=77, **VARIANTS[variant])
    assert not torch.equal(make_terms(other, batch).objective(1, 1, "all", 1), make_terms(model, batch).elbo())
    other.load_state_dict(deepcopy(model.state_dict()))
    for name, value in vars(make_terms(model, batch)).items():
        assert torch.equal(getattr(make_terms(other, batch), name), value), name


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (make_model(seed=seed, **VARIANTS["nvae"]).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
