"""A model of some of its features, beside the whole one."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from nvae_bio.errors import UserError
from nvae_bio.model import NVAE, measured_part
from tests.small_models import FORM, make_batch, make_covariates, make_model, make_noise, randomize

MEASURED = torch.tensor([True, False, True, True, False, True])
COUNTS = ["negative_binomial", "zero_inflated_negative_binomial", "poisson"]


def decoded_mean(model: NVAE, n: int = 7) -> Tensor:
    noise, label = make_noise(model, n), torch.arange(n) % 3
    library, covariates = torch.full((n,), 1000.0, dtype=torch.float64), make_covariates(n=n)
    shared, own = noise[:, : model.n_shared], noise[:, model.n_shared :]
    return model.decode(shared, own, label, library, covariates).mean


@pytest.mark.parametrize("decoder", ["linear", "network"])
@pytest.mark.parametrize("likelihood", COUNTS)
@torch.no_grad()
def test_rates_of_what_was_measured_keep_their_ratios(likelihood: str, decoder: str) -> None:
    settings = {"n_batches": 2, "dispersion": "gene_batch"} if likelihood == "negative_binomial" else {}
    model = randomize(make_model(likelihood=likelihood, decoder=decoder, form=FORM, **settings))
    whole = decoded_mean(model)
    for rest in (True, False):
        part = decoded_mean(measured_part(model, MEASURED, rest=rest))
        ratio = part / whole[:, MEASURED]
        if likelihood != "zero_inflated_negative_binomial":  # whose mean has the zeros that are mixed in
            scale = (whole[:, MEASURED].sum(1) + rest * (1000 - whole.sum(1))) / 1000
            torch.testing.assert_close(ratio, (1 / scale)[:, None].expand_as(ratio))
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    torch.testing.assert_close(decoded_mean(measured_part(model, torch.ones(6, dtype=torch.bool))), whole)


@torch.no_grad()
def test_without_a_rest_all_counts_are_of_measured_genes() -> None:
    part = measured_part(randomize(make_model(likelihood="poisson", decoder="linear", form=FORM)), MEASURED, rest=False)
    torch.testing.assert_close(decoded_mean(part).sum(1), torch.full((7,), 1000.0, dtype=torch.float64))


@pytest.mark.parametrize("likelihood", COUNTS)
@torch.no_grad()
def test_the_likelihood_is_that_of_the_measured_counts(likelihood: str) -> None:
    model = randomize(make_model(likelihood=likelihood, decoder="linear"))
    part = measured_part(model, MEASURED, rest=False)
    batch, noise = make_batch(likelihood), make_noise(model, 7)
    seen = batch._replace(x=batch.x[:, MEASURED], library=batch.x[:, MEASURED].sum(1))
    outputs = part.decoder(noise[:, : model.n_shared], noise[:, model.n_shared :], batch.label)
    found = part.likelihood.log_prob(outputs, seen)
    if likelihood == "poisson":
        expected = stats.poisson.logpmf(seen.x.numpy(), part.likelihood(outputs, seen.library).mean.numpy()).sum(1)
        torch.testing.assert_close(found, torch.from_numpy(expected))
    assert found.shape == (7,)
    assert torch.isfinite(found).all()


@torch.no_grad()
def test_features_are_independent_given_z() -> None:
    model = randomize(make_model(likelihood="gaussian"))
    parts = [measured_part(model, measured) for measured in (MEASURED, ~MEASURED)]
    batch, noise = make_batch("gaussian"), make_noise(model, 7)
    shared, own = noise[:, : model.n_shared], noise[:, model.n_shared :]
    by_part = [
        part.likelihood.log_prob(part.decoder(shared, own, batch.label), batch._replace(x=batch.x[:, measured]))
        for part, measured in zip(parts, (MEASURED, ~MEASURED), strict=True)
    ]
    whole = model.likelihood.log_prob(model.decoder(shared, own, batch.label), batch)
    torch.testing.assert_close(by_part[0] + by_part[1], whole)


def test_the_whole_model_stays_as_it_is() -> None:
    model = randomize(make_model(likelihood="negative_binomial", decoder="linear", form=FORM))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured_part(model, MEASURED, rest=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_convolution_decodes_whole_images_alone() -> None:
    model = make_model(likelihood="bernoulli", n_features=64, image=(1, 8, 8), backbone="conv", channels=(4, 4))
    with pytest.raises(UserError, match="allowed: all pixels"):
        measured_part(model, torch.arange(64) > 3)
