"""Size factors from the source to the decoded mean, and every likelihood through every step."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from nvae_bio import embed_data, generate_samples, train_model, traverse_factors
from nvae_bio.config import (
    CountsSettings,
    GenerationSettings,
    ImagesSettings,
    ModelSettings,
    WorkflowSettings,
    check_model_fits,
)
from nvae_bio.data.samples import to_samples
from nvae_bio.errors import UserError
from nvae_bio.prepare import prepare_data
from nvae_bio.trained import TrainedModel
from tests.toys import CLASSES, NO_UMAP, fit_settings, prepared_counts, prepared_features, raw_counts, raw_images

SIZED = {"kind": "counts", "n_top_genes": None, "size_factor_key": "depth"}


def raw_sized() -> AnnData:
    """Counts with a size factor that is not their library."""
    adata = raw_counts()
    adata.obs["depth"] = np.random.default_rng(5).gamma(4, 0.25, adata.n_obs)
    return adata


@cache
def prepared_sized() -> AnnData:
    return prepare_data(CountsSettings.model_validate(SIZED), raw_sized())


@cache
def prepared_pixels(kind: str) -> AnnData:
    """8-bit images, or binary ones."""
    adata = raw_images()
    adata.X = (adata.X * 255).round().astype(np.float32) / np.float32(255)
    values = {"kind": "images", "image_shape": (1, 8, 8), "binarise": 0.5 if kind == "binary" else None}
    return prepare_data(ImagesSettings.model_validate(values), adata)


CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "negative_binomial": (prepared_counts, {}),
    "zero_inflated_negative_binomial": (prepared_counts, {}),
    "poisson": (prepared_counts, {}),
    "negative_binomial, size factor": (prepared_sized, {"size": "size_factor"}),
    "zero_inflated_negative_binomial, size factor": (prepared_sized, {"size": "size_factor"}),
    "poisson, size factor": (prepared_sized, {"size": "size_factor"}),
    "cross_entropy": (lambda: prepared_pixels("grey"), {}),
    "bernoulli": (lambda: prepared_pixels("binary"), {}),
    "discretized_logistic": (lambda: prepared_pixels("grey"), {}),
    "gaussian": (prepared_features, {}),
}


@cache
def trained(case: str) -> TrainedModel:
    prepared, more = CASES[case]
    return train_model(prepared(), fit_settings(12, likelihood=case.split(",")[0], **more), 0)


# --- every likelihood ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_training_raises_the_bound_on_samples_it_does_not_see(case: str) -> None:
    history = trained(case).history
    bound = history.loc[history["split"] == "validation", "elbo"].to_numpy()
    assert np.isfinite(bound).all()
    assert bound[3:].max() > bound[0] + 0.5  # nats


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_can_be_embedded_and_drawn_from(case: str) -> None:
    prepared, model = CASES[case][0](), trained(case)
    embedded = embed_data(prepared, model, NO_UMAP)
    validation = embedded.obs[embedded.obs["split"] == "validation"]
    best = model.history.loc[(model.history["split"] == "validation") & model.history["is_best"], "elbo"].max()
    assert validation["nvae_elbo"].mean() == pytest.approx(best, rel=0.05)
    samples = generate_samples(model, prepared, GenerationSettings(n_per_class=4))
    moved = traverse_factors(model, prepared, GenerationSettings(n_steps=3))
    for found in (samples.X, samples.layers["mean"], moved.X):
        assert np.isfinite(found).all()
    drawn = np.unique(samples.X)
    if model.card.kind == "counts":
        assert np.array_equal(drawn, drawn.round()) and drawn.min() >= 0
        size = model.card.settings.model.size
        train = prepared.obs.loc[prepared.obs["split"] == "train", size].to_numpy(np.float32)
        assert set(samples.obs[size]) <= set(train)
    elif case == "discretized_logistic":
        np.testing.assert_allclose(255 * drawn, (255 * drawn).round(), atol=1e-4)
        assert len(drawn) > 20


def test_pixels_are_checked_before_training_and_before_embedding() -> None:
    grey = prepared_pixels("grey")
    with pytest.raises(UserError, match=r"model\.likelihood: 'bernoulli' needs pixels of 0 and 1 .*`binarise`"):
        train_model(grey, fit_settings(likelihood="bernoulli"), 0)
    with pytest.raises(UserError, match=r"model\.likelihood: 'bernoulli' needs pixels of 0 and 1"):
        embed_data(grey, trained("bernoulli"), NO_UMAP)
    halved = ImagesSettings(kind="images", image_shape=(1, 8, 8), resize=(5, 5))
    with pytest.raises(UserError, match="'discretized_logistic' needs pixels of 8 bits"):
        train_model(prepare_data(halved, raw_images()), fit_settings(likelihood="discretized_logistic"), 0)


# --- size factors ----------------------------------------------------------------------------------------------------


def test_size_factors_have_the_median_of_the_library_and_their_own_ratios() -> None:
    prepared, given = prepared_sized(), raw_sized().obs["depth"]
    factors = prepared.obs["size_factor"]
    train = prepared.obs["split"] == "train"
    assert factors[train].median() == pytest.approx(prepared.obs.loc[train, "library"].median())
    ratio = factors / given[prepared.obs_names]
    np.testing.assert_allclose(ratio, ratio.iloc[0])
    assert prepared.uns["nvae_data"]["fingerprint"] != prepared_counts().uns["nvae_data"]["fingerprint"]


def test_a_source_column_of_that_name_is_kept() -> None:
    adata = raw_sized()
    adata.obs = adata.obs.rename(columns={"depth": "size_factor"})
    prepared = prepare_data(CountsSettings.model_validate({**SIZED, "size_factor_key": "size_factor"}), adata)
    pd.testing.assert_series_equal(
        prepared.obs["source_size_factor"], adata.obs.loc[prepared.obs_names, "size_factor"], check_names=False
    )
    np.testing.assert_allclose(prepared.obs["size_factor"], prepared_sized().obs["size_factor"])


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "deep"])
def test_a_size_factor_that_is_none_is_refused(value: object) -> None:
    adata = raw_sized()
    adata.obs["depth"] = adata.obs["depth"].astype(object)
    adata.obs.loc["s7", "depth"] = value
    message = (
        rf"AnnData in memory: size_factor_key: 'depth' of cell 's7' is {value} .*; allowed: finite numbers above 0"
    )
    with pytest.raises(UserError, match=message):
        prepare_data(CountsSettings.model_validate(SIZED), adata)


def test_a_missing_column_of_size_factors_is_refused() -> None:
    with pytest.raises(UserError, match=r"AnnData in memory: size_factor_key: no column 'depth'; allowed: label"):
        prepare_data(CountsSettings.model_validate(SIZED), raw_counts())
    with pytest.raises(
        UserError, match=r"model\.size: 'size_factor': the data have no obs\['size_factor'\]; set size_"
    ):
        train_model(prepared_counts(), fit_settings(size="size_factor"), 0)


def test_a_table_may_hold_size_factors_beside_the_genes(tmp_path: Path) -> None:
    adata = raw_sized()
    table = pd.DataFrame(adata.X.astype(int), adata.obs_names, adata.var_names).assign(**adata.obs[["label", "depth"]])
    table.to_csv(tmp_path / "cells.csv")
    settings = CountsSettings.model_validate({**SIZED, "paths": str(tmp_path / "cells.csv")})
    prepared = prepare_data(settings)
    assert prepared.n_vars == 60
    np.testing.assert_allclose(prepared.obs["size_factor"], prepared_sized().obs["size_factor"])


def test_means_follow_the_size_factor_and_not_the_library() -> None:
    samples = to_samples(prepared_sized(), CLASSES, size="size_factor")
    np.testing.assert_array_equal(samples.library, prepared_sized().obs["size_factor"].to_numpy(np.float32))
    network = trained("poisson, size factor").network
    assert network.likelihood.n_outputs == 60
    z, label = torch.zeros(2, network.n_shared), torch.zeros(2, dtype=torch.int64)
    mean = network.decode(z, torch.zeros(2, network.n_private), label, torch.tensor([100.0, 300.0])).mean.detach()
    torch.testing.assert_close(mean[1], 3 * mean[0])
    assert network.likelihood.log_reference.exp() == pytest.approx(samples.library.median().item(), rel=0.1)


def test_a_flooding_gene_lowers_all_rates_of_a_library_and_none_of_a_size_factor() -> None:
    # planted: class c1 has 30 times as much of gene 0, and of all other genes as much as class c0
    rng = np.random.default_rng(0)
    label, rate, size = np.arange(400) % 2, rng.gamma(2, 2, 30), rng.gamma(20, 0.05, 400)
    mean = size[:, None] * rate
    mean[label == 1, 0] *= 30
    obs = pd.DataFrame({"label": [CLASSES[i] for i in label], "depth": size}, index=[f"s{i}" for i in range(400)])
    prepared = prepare_data(CountsSettings.model_validate(SIZED), AnnData(rng.poisson(mean).astype(np.float32), obs))
    change = {}
    for name in ("library", "size_factor"):
        settings = fit_settings(60, likelihood="poisson", size=name, variant="cvae", n_shared=1)
        network = train_model(prepared, settings, 0).network
        z, library = torch.zeros(2, 1), torch.full((2,), 100.0)
        decoded = network.decode(z, torch.zeros(2, 0), torch.arange(2), library).mean.detach().log()
        change[name] = (decoded[1] - decoded[0])[1:].mean().item()
    flood = np.log(mean[1].sum() / size[1] / (mean[0].sum() / size[0]))
    assert flood > 0.5 and change["library"] == pytest.approx(-flood, rel=0.25)
    assert abs(change["size_factor"]) < 0.1 * flood


# --- dispersions by batch in training --------------------------------------------------------------------------------


def test_dispersions_by_batch_are_trained() -> None:
    batches = CountsSettings(kind="counts", n_top_genes=None, batch_key="donor")
    prepared = prepare_data(batches, raw_counts())
    model = train_model(prepared, fit_settings(6, dispersion="gene_batch"), 0)
    bound = model.history.query("split == 'validation'")["elbo"]
    assert bound.iloc[-1] > bound.iloc[0] + 0.5
    theta = model.network.likelihood.log_dispersion.detach()
    assert theta.shape == (prepared.obs["batch"].nunique(), 60) and not torch.equal(theta[0], theta[1])


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (
            {"likelihood": "poisson", "dispersion": "gene_batch"},
            "counts",
            r"dispersion: 'gene_batch' needs likelihood ",
        ),
        ({"dispersion": "gene_batch"}, "images", r"dispersion: .* not 'cross_entropy'; allowed: gene"),
        ({"size": "size_factor"}, "features", r"size: 'size_factor' needs data of kind 'counts', not 'features'"),
    ],
)
def test_a_model_that_lacks_what_is_set_is_refused(model: dict[str, str], kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model_fits(ModelSettings.model_validate(model), kind)


def make_config(dataset: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    counts = {"kind": "counts", "builtin": "pbmc68k", "label_key": "bulk_labels", **dataset}
    return {"datasets": {"cells": counts}, "runs": {"first": {"dataset": "cells", "model": model}}}


def test_a_model_that_needs_a_column_needs_it_named() -> None:
    dispersed, sized = {"dispersion": "gene_batch"}, {"size": "size_factor"}
    for dataset, model in (({"batch_key": "phase"}, dispersed), ({"size_factor_key": "phase"}, sized)):
        WorkflowSettings.model_validate(make_config(dataset, model))
    two_files = {"builtin": None, "paths": {"a": "a.h5ad", "b": "b.h5ad"}}
    WorkflowSettings.model_validate(make_config(two_files, dispersed))
    with pytest.raises(
        ValueError, match=r"runs\.first\.model\.size: 'size_factor' needs datasets\.cells\.size_factor_key"
    ):
        WorkflowSettings.model_validate(make_config({}, sized))
    with pytest.raises(
        ValueError, match=r"runs\.first\.model\.dispersion: 'gene_batch' needs datasets\.cells\.batch_key"
    ):
        WorkflowSettings.model_validate(make_config({}, dispersed))
