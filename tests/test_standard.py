"""Private dims with the prior's moments: what stays, what falls, and where it is done."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio import train_model
from nvae_bio.config import FitSettings
from nvae_bio.data.samples import to_samples
from nvae_bio.model import NVAE, is_free_to_scale, move_private
from nvae_bio.train.moments import private_moments
from nvae_bio.train.step import labelled_rows
from nvae_bio.trained import TrainedModel
from tests.small_models import law, make_batch, make_generator, make_model, randomize
from tests.toys import PREPARED, fit_settings, prepared_counts

N_CLASSES = 3


def decoded(model: NVAE, x: Tensor, label: Tensor) -> Tensor:
    """Outputs one standard deviation from the posterior's mean, of samples under the classes told."""
    posterior, block = model.encoder(x), model.block(label)
    outputs: Tensor = model.decoder(*model.draw(posterior, posterior.own(block), draws(model, len(x))), block)
    return outputs


def draws(model: NVAE, n: int) -> Tensor:
    return torch.ones(n, model.n_shared + model.n_private, dtype=torch.float64)


def moments_of(trained: TrainedModel, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of the private dims over the training samples, and the mean KL of the own block."""
    prepared, model = PREPARED[kind](), trained.network
    samples = to_samples(prepared, trained.card.classes)
    rows = labelled_rows(prepared, samples, "train")
    with torch.no_grad():
        batch = samples.take(rows)
        kl = model.infer(batch)[0].own(model.block(batch.label)).kl().sum(1)
    return *private_moments(model, samples, rows), kl.mean()


@law
@given(st.sampled_from([0, 2]), st.integers(1, 3), st.integers(0, 1000))
@torch.no_grad()
def test_nothing_that_is_decoded_changes(n_shared: int, n_private: int, seed: int) -> None:
    variant = "nvae" if n_shared else "per_class"
    model = randomize(make_model(variant, n_shared=n_shared, n_private=n_private, seed=seed), seed)
    generator = make_generator(seed)
    mean = torch.randn(N_CLASSES, n_private, generator=generator).double()
    std = 0.5 + torch.rand(N_CLASSES, n_private, generator=generator).double()
    x = 0.1 * make_batch("bernoulli").x  # no log σ is at its bound
    under = [torch.full((len(x),), label) for label in range(N_CLASSES)]  # whatever the sample's own class is
    before, first = [decoded(model, x, label) for label in under], model.encoder(x)
    move_private(model, mean, std)
    after = model.encoder(x)
    torch.testing.assert_close([decoded(model, x, label) for label in under], before)
    torch.testing.assert_close(after.private.mean, (first.private.mean - mean) / std)
    torch.testing.assert_close(after.private.log_std, first.private.log_std - std.log())
    torch.testing.assert_close(after.shared, first.shared)


@pytest.mark.parametrize("variant", ["nvae", "per_class"])
@pytest.mark.parametrize("kind", ["images", "features"])
def test_a_trained_model_has_the_priors_moments_and_less_kl(kind: str, variant: str) -> None:
    models = {}
    for moments in ("free", "prior"):
        models[moments] = train_model(PREPARED[kind](), fit_settings(8, variant=variant, private_moments=moments))
    mean, std, kl = moments_of(models["prior"], kind)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=0.05, rtol=0)
    torch.testing.assert_close(std, torch.ones_like(std), atol=0.05, rtol=0)
    free_mean, free_std, free_kl = moments_of(models["free"], kind)
    assert max(free_mean.abs().max(), (free_std - 1).abs().max()) > 0.1
    gain = (0.5 * (free_mean.square() + free_std.square() - 1) - free_std.log()).sum(1)  # of each class
    size = PREPARED[kind]().obs.query("split == 'train'").groupby("label", observed=False).size()
    share = torch.from_numpy((size / size.sum()).to_numpy())
    assert float(free_kl - kl) == pytest.approx(float((share * gain).sum()), rel=0.15)


def test_a_class_without_samples_keeps_the_prior() -> None:
    trained = train_model(PREPARED["images"](), fit_settings())
    samples = to_samples(PREPARED["images"](), trained.card.classes)
    rows = (samples.label == 1).nonzero().squeeze(1)
    mean, std = private_moments(trained.network, samples, rows)
    others = [0, *range(2, len(trained.card.classes))]
    assert torch.equal(mean[others], torch.zeros_like(mean[others]))
    assert torch.equal(std[others], torch.ones_like(std[others]))
    assert mean[1].abs().max() > 0


@pytest.mark.parametrize(
    "settings",
    [
        fit_settings(private_moments="prior"),
        fit_settings(variant="cvae", private_moments="prior"),
        fit_settings(variant="vae", private_moments="prior"),
    ],
    ids=["linear decoder", "cvae", "vae"],
)
def test_there_are_models_that_it_does_not_touch(settings: FitSettings) -> None:
    trained = train_model(prepared_counts(), settings)
    assert not is_free_to_scale(trained.network)
    free = settings.model_copy(update={"model": settings.model.model_copy(update={"private_moments": "free"})})
    other = train_model(prepared_counts(), free).network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in trained.network.state_dict().items())
