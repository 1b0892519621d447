"""Small models and batches for the tests of `nvae_bio.model`; every one comes from a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from nvae_bio.config import LIKELIHOODS, ModelSettings
from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.model import NVAE, CovariateForm, ElboTerms, FeatureMoments, build_nvae, elbo_terms

FORM = CovariateForm([[0.25, 0.75], [0.1, 0.2, 0.3, 0.4]], 2)  # of 2 and of 4 levels, and two numbers
LEVELS = {"cross_entropy": 10, "bernoulli": 1, "discretized_logistic": 255}  # steps from a pixel of 0 to one of 1
law = settings(deadline=None, max_examples=25, derandomize=True)


@contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """For what draws its weights from torch's global state, which is left as it was; also a decorator of a test."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_model(
    variant: str = "nvae",
    likelihood: str = "bernoulli",
    n_features: int = 6,
    n_classes: int = 3,
    image: tuple[int, int, int] | None = None,
    seed: int = 0,
    form: CovariateForm | None = None,
    n_batches: int = 0,
    **settings: Any,
) -> NVAE:
    """In float64, with two hidden layers of 8 units unless told otherwise."""
    values = {"variant": variant, "hidden": (8, 8), **settings}
    with fixed_seed(seed):
        parsed = ModelSettings.model_validate(values)
        model = build_nvae(parsed, likelihood, n_features, n_classes, image, form, n_batches)
    return model.double()


def randomize(model: NVAE, seed: int = 5) -> NVAE:
    """Every parameter moved off its start, so that none is 0 or 1 by luck."""
    generator = make_generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def make_covariates(form: CovariateForm = FORM, n: int = 7, seed: int = 3) -> Covariates:
    """Of each sample, some levels unknown."""
    generator = make_generator(seed)
    levels = [torch.randint(-1, len(share), (n,), generator=generator) for share in form.shares]
    value = torch.randn(n, form.n_continuous, generator=generator, dtype=torch.float64)
    return Covariates(torch.stack(levels, dim=1), value)


def make_batch(
    likelihood: str = "bernoulli", n: int = 7, n_features: int = 6, n_classes: int = 3, seed: int = 1
) -> Batch:
    """Every class is there if n ≥ n_classes; counts are a part of the library, the rest lies outside the model."""
    generator = make_generator(seed)
    label = torch.arange(n) % n_classes
    if likelihood in LIKELIHOODS["counts"]:
        x = torch.randint(0, 30, (n, n_features), generator=generator).double()
        return Batch(x, label, x.sum(1) + torch.randint(1, 200, (n,), generator=generator))
    if likelihood in LEVELS:
        grey = torch.rand(n, n_features, generator=generator, dtype=torch.float64)
        return Batch((LEVELS[likelihood] * grey).round() / LEVELS[likelihood], label)
    return Batch(torch.randn(n, n_features, generator=generator, dtype=torch.float64), label)


def make_moments(batch: Batch) -> FeatureMoments:
    return FeatureMoments.of(batch.x, batch.library)


def make_noise(model: NVAE, n: int, seed: int = 2) -> Tensor:
    return torch.randn(n, model.n_shared + model.n_private, generator=make_generator(seed), dtype=torch.float64)


def make_terms(model: NVAE, batch: Batch, seed: int = 2) -> ElboTerms:
    return elbo_terms(model, batch, make_noise(model, batch.n, seed))
