"""Data with a known answer: a factor that all classes share, and one that class c1 alone has."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import train_model
from nvae_bio.config import CountsSettings, EmbeddingSettings, FeaturesSettings, FitSettings, ImagesSettings
from nvae_bio.data.store import Store, open_store
from nvae_bio.embed import embed_data
from nvae_bio.prepare import prepare_data
from nvae_bio.prepare.step import prepare_store
from nvae_bio.trained import TrainedModel

CLASSES = ["c0", "c1", "c2"]
N_PER_CLASS = 300
NO_UMAP = EmbeddingSettings(umap=False)
# two dims in place of a UMAP, which takes 15 s to compile: for tests of what is made of a layout
QUICK_UMAP = patch("nvae_bio.embed.step._umap", lambda embedding, seed: embedding[:, :2])


def factors_of(seed: int, n_per_class: int = N_PER_CLASS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class index, shared factor and the private factor of class 1 (0 elsewhere) of each sample."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(3), n_per_class)
    return label, rng.normal(size=len(label)), rng.normal(size=len(label)) * (label == 1)


def raw_features(seed: int = 0) -> AnnData:
    """Gaussian features, (900, 20): x = class mean + shared · w + private · v + noise."""
    rng = np.random.default_rng((seed, 1))
    label, shared, private = factors_of(seed)
    centers, shared_weight, private_weight = rng.normal(size=(3, 20)), rng.normal(size=20), rng.normal(size=20)
    x = centers[label] + np.outer(shared, shared_weight) + np.outer(private, private_weight)
    x += 0.5 * rng.normal(size=x.shape)
    return _anndata(x, label, shared, private)


def raw_counts(seed: int = 0, n_per_class: int = 100) -> AnnData:
    """Counts, (300, 60): a shared programme on genes 0–14, one of class c1 on genes 15–29."""
    rng = np.random.default_rng((seed, 2))
    label, shared, private = factors_of(seed, n_per_class)
    log_rate = rng.normal(size=(3, 60))[label]
    log_rate[:, :15] += shared[:, None]
    log_rate[:, 15:30] += private[:, None]
    rate = np.exp(log_rate)
    library = rng.integers(400, 1200, len(label))
    x = rng.poisson(library[:, None] * rate / rate.sum(1, keepdims=True))
    adata = _anndata(x, label, shared, private)
    adata.obs["donor"] = [f"d{i % 7}" for i in range(len(label))]
    adata.obs["condition"] = np.where(shared > 0, "high", "low")
    return adata


def raw_images(seed: int = 0) -> AnnData:
    """Pictures of 8 × 8 pixels, (150, 64), in [0, 1]: brightness is shared, class c1 has a bar of its own."""
    label, shared, private = factors_of(seed, 50)
    rng = np.random.default_rng((seed, 3))
    logits = -1 + 2 * (np.arange(64) % 3 == label[:, None]) + 0.7 * shared[:, None]
    logits[:, 24:32] += 2 * private[:, None]
    x = 1 / (1 + np.exp(-logits - 0.3 * rng.normal(size=logits.shape)))
    return _anndata(x, label, shared, private)


def _anndata(x: np.ndarray, label: np.ndarray, shared: np.ndarray, private: np.ndarray) -> AnnData:
    obs = pd.DataFrame({"label": [CLASSES[i] for i in label], "true_shared": shared, "true_private": private})
    obs.index = pd.Index([f"s{i}" for i in range(len(obs))])
    return AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"f{i}" for i in range(x.shape[1])]))


@cache
def prepared_features(seed: int = 0) -> AnnData:
    return prepare_data(FeaturesSettings(kind="features", standardize=False), raw_features(seed))


@cache
def prepared_counts() -> AnnData:
    settings = CountsSettings(kind="counts", n_top_genes=None, donor_key="donor", condition_key="condition")
    return prepare_data(settings, raw_counts())


@cache
def prepared_images() -> AnnData:
    return prepare_data(ImagesSettings(kind="images", image_shape=(1, 8, 8)), raw_images())


PREPARED = {"features": prepared_features, "counts": prepared_counts, "images": prepared_images}


def fit_settings(max_epochs: int = 3, **model: object) -> FitSettings:
    """A small model with K = 2 where it has private dims, the same for all kinds; few epochs unless told otherwise.

    What private dims hold after so few is mostly where their class lies, and stays for tests to see.
    """
    variant = model.get("variant", "nvae")
    private = {"n_private": 2} if variant in ("nvae", "per_class") else {}
    shared = {} if variant == "per_class" else {"n_shared": 10}
    values = {
        "hidden": [16],
        "independence": "none",
        "beta_private": 0.75,
        "private_moments": "free",
        **private,
        **shared,
        **model,
    }
    return FitSettings.model_validate({"model": values, "training": {"max_epochs": max_epochs, "batch_size": 64}})


@cache
def trained(kind: str, variant: str = "nvae", seed: int = 0) -> TrainedModel:
    """A model after three epochs: for tests of form, not of fit."""
    likelihood = {"likelihood": "cross_entropy"} if kind == "images" else {}
    return train_model(PREPARED[kind](), fit_settings(variant=variant, **likelihood), seed)


@cache
def embedded(kind: str, variant: str = "nvae", seed: int = 0) -> AnnData:
    return embed_data(PREPARED[kind](), trained(kind, variant, seed), NO_UMAP)


@cache
def stored_counts() -> Store:
    """`prepared_counts` in a store of small blocks, which is deleted at the end of the process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    raw_counts().write_h5ad(folder / "raw.h5ad")
    settings = CountsSettings(kind="counts", paths=str(folder / "raw.h5ad"), n_top_genes=None, donor_key="donor")
    prepare_store(settings, folder / "data.h5ad", folder / "data.store", 16)
    return open_store(folder / "data.store")
