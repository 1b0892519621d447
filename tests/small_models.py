"""Small models and batches for the tests of `nvae_bio.model`; every one comes from a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from nvae_bio.config import LIKELIHOODS, ModelSettings
from nvae_bio.data.batch import Batch
from nvae_bio.model import NVAE, ElboTerms, FeatureMoments, build_nvae, elbo_terms

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
    n_batches: int = 0,
    **settings: Any,
) -> NVAE:
    """In float64, with two hidden layers of 8 units unless told otherwise."""
    values = {"variant": variant, "hidden": (8, 8), **settings}
    with fixed_seed(seed):
        model = build_nvae(ModelSettings.model_validate(values), likelihood, n_features, n_classes, image, n_batches)
    return model.double()


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
