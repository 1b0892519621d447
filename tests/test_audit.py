"""The audit of labels: fits against closed forms, and what was planted in counts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from nvae_bio import audit_labels, prepare_data, save_model, train_model
from nvae_bio.audit.fit import Reading, fit_bound, matched_draws
from nvae_bio.audit.readings import mixed_outputs
from nvae_bio.audit.step import audit
from nvae_bio.audit.suspects import adjusted_bound, consensus_audit, suspect_table, suspicions, unlikeness
from nvae_bio.config import AuditSettings, CountsSettings, FitSettings
from nvae_bio.data.batch import Batch
from nvae_bio.data.files import read_table, write_anndata
from nvae_bio.embed import encode
from nvae_bio.errors import UserError
from nvae_bio.model import DiagonalGaussian
from nvae_bio.trained import TrainedModel
from tests.small_models import law, make_generator, make_model
from tests.toys import PREPARED, prepared_counts, prepared_images, trained

N_CLASSES, N_PER_CLASS, N_GENES = 5, 120, 300
QUICK = AuditSettings(n_steps=5, n_candidates=1)


# --- the fit ---------------------------------------------------------------------------------------------------------


@law
@given(st.integers(1, 8), st.integers(0, 1000))
def test_the_draws_have_the_moments_of_the_prior(n_dims: int, seed: int) -> None:
    draws = matched_draws(n_dims, np.random.default_rng(seed)).double()
    torch.testing.assert_close(draws.mean(0), torch.zeros(n_dims).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(draws.T @ draws / len(draws), torch.eye(n_dims).double(), atol=1e-5, rtol=1e-5)


def make_linear_gaussian() -> Any:
    """x = b_y + W_s z_s + W_y z_y + noise of sd 0.5, loadings at right angles: the exact posterior is diagonal."""
    model = make_model(
        likelihood="gaussian", decoder="linear", n_shared=2, n_private=1, n_features=9, n_classes=3
    ).float()
    axes, _ = torch.linalg.qr(torch.randn(9, 9, generator=make_generator(0)))
    of = model.decoder.composition
    with torch.no_grad():
        of.shared_weight.copy_(axes[:2] * torch.tensor([[1.5], [0.7]]))
        of.class_weight.copy_(axes[2:5, None] * 1.2)
        of.class_bias.copy_(axes[5:8] * 2)
        model.likelihood.log_std.fill_(np.log(0.5))
    return model.requires_grad_(False)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_fitted_bound_is_the_evidence_where_the_posterior_is_diagonal(block: int) -> None:
    """For the own class, and for the intercept of class 0 with the block of another."""
    model = make_linear_gaussian()
    of, generator = model.decoder.composition, make_generator(1)
    x = of.class_bias[0] + torch.randn(20, 9, generator=generator)
    batch = Batch(x, torch.zeros(20, dtype=torch.long))
    loadings = torch.cat([of.shared_weight, of.class_weight[block]]).double().numpy()
    mean = (of.class_bias[0] + model.decoder.output_bias).double().numpy()
    covariance = loadings.T @ loadings + 0.25 * np.eye(9)
    reading = Reading.of(model, batch, batch.label, torch.full((20, 1), block))
    start = DiagonalGaussian(torch.zeros(20, 2), torch.zeros(20, 2))
    draws = matched_draws(3, np.random.default_rng(0))
    found = fit_bound(model, batch, start, reading, draws, 100)
    evidence = multivariate_normal(mean, covariance).logpdf(x.double().numpy())
    np.testing.assert_allclose(found.bound, evidence, atol=0.02)


def test_two_blocks_are_fitted_together() -> None:
    model = make_linear_gaussian()
    of = model.decoder.composition
    x = of.class_bias[0] + 2 * of.class_weight[0, 0] - 2 * of.class_weight[2, 0] + torch.zeros(4, 9)
    batch = Batch(x, torch.zeros(4, dtype=torch.long))
    loadings = torch.cat([of.shared_weight, of.class_weight[0], of.class_weight[2]]).double().numpy()
    reading = Reading.of(model, batch, batch.label, torch.tensor([[0, 2]]).expand(4, 2))
    start = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
    found = fit_bound(model, batch, start, reading, matched_draws(4, np.random.default_rng(0)), 100)
    mean = (of.class_bias[0] + model.decoder.output_bias).double().numpy()
    evidence = multivariate_normal(mean, loadings.T @ loadings + 0.25 * np.eye(9)).logpdf(x.double().numpy())
    np.testing.assert_allclose(found.bound, evidence, atol=0.02)


def test_a_fit_is_no_worse_than_the_encoder() -> None:
    model, prepared = trained("counts"), prepared_counts()
    samples = model.card.samples_of(prepared)
    encoded = encode(model.network, samples, 200, 0)
    table = audit_labels(prepared, model, AuditSettings(n_steps=80))
    gap = table["bound_own"].to_numpy() - encoded.elbo.numpy()
    assert gap.min() > -0.5  # noise of 200 draws
    assert gap.mean() > 0


@law
@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_doublet_has_the_mixture_of_the_rates(share: float, seed: int) -> None:
    likelihood = make_model(likelihood="poisson").likelihood
    one, other = (torch.randn(4, 7, generator=make_generator(seed + i)).double() for i in range(2))
    rates = torch.softmax(one, -1) * share + torch.softmax(other, -1) * (1 - share)
    torch.testing.assert_close(torch.softmax(mixed_outputs(likelihood, one, other, share), -1), rates)


# --- suspects --------------------------------------------------------------------------------------------------------


def test_unlikeness_is_uniform_for_samples_like_the_references() -> None:
    rng = np.random.default_rng(0)
    depth = rng.normal(size=2000)
    bound = -50 - 30 * depth + rng.normal(size=2000)
    own = np.where(np.arange(2000) < 1000, 0, -1)
    share = unlikeness(bound, np.zeros(2000, dtype=int), own, bound, depth)
    assert np.mean(share[1000:] <= 0.05) == pytest.approx(0.05, abs=0.02)
    odd = bound.copy()
    odd[1500:] -= 10
    share = unlikeness(odd, np.zeros(2000, dtype=int), own, odd, depth)
    assert np.mean(share[1500:] <= 0.01) > 0.95  # ten nats are a third of what depth does
    residual = adjusted_bound(bound, depth, own == 0)
    assert abs(np.corrcoef(residual, depth)[0, 1]) < 0.05


def make_table(**values: list[Any]) -> pd.DataFrame:
    n = len(next(iter(values.values())))
    plain = {
        "bound_own": -5.0, "bound_class": "a", "bound_best": -5.0, "log_odds": -9.0, "classifier_class": "a",
        "classifier_probability": 0.9, "borrowed_from": "b", "borrowed_gain": 0.0, "doublet_with": "c",
        "doublet_gain": -3.0, "unlike": 0.5,
    }  # fmt: skip
    return pd.DataFrame(
        {name: [value] * n for name, value in plain.items()} | values, index=[f"s{i}" for i in range(n)]
    )


def test_a_doublet_is_the_first_suspicion_and_nothing_is_suspected_below_the_limit() -> None:
    table = make_table(
        doublet_gain=[9.0, -3, -3, -3, -3, 3.5], log_odds=[9.0, 9, -9, -9, 2, -9], borrowed_gain=[9.0, 0, 9, 0, 0, 0],
        unlike=[0.001, 0.5, 0.5, 0.001, 0.5, 0.5],
    )  # fmt: skip
    own = np.array(["a"] * 6, dtype=object)
    found = suspicions(table, own, 3, AuditSettings())
    assert found.tolist() == ["doublet", "mislabel", "borrowed", "unlike every class", "", ""]  # 3.5 less log 2
    assert suspicions(table, np.array([None] * 6), 3, AuditSettings())[1] == ""  # no label, no wrong one


def test_the_word_of_most_seeds_counts() -> None:
    first = make_table(log_odds=[5.0, 5, -9]).assign(suspicion=["mislabel", "mislabel", ""], bound_class="b")
    other = make_table(log_odds=[7.0, 2, -9]).assign(suspicion=["mislabel", "", "doublet"], bound_class="b")
    third = other.assign(suspicion=["doublet", "", ""])
    merged = consensus_audit([first, other, third])
    assert merged["suspicion"].tolist() == ["mislabel", "", ""]
    assert merged["n_seeds"].tolist() == [3, 1, 1]
    assert merged["log_odds"].tolist() == pytest.approx([19 / 3, 3, -9])
    label = pd.Series(["a", np.nan, "a"], index=first.index)
    table = suspect_table([first, other, third], label)
    assert table.to_dict("records") == [
        {"sample": "s0", "label": "a", "suspicion": "mislabel", "other_class": "b", "nats": pytest.approx(19 / 3),
         "n_seeds": 3}
    ]  # fmt: skip
    with pytest.raises(UserError, match="different samples or variants"):
        consensus_audit([first, other.iloc[1:]])


# --- what was planted ------------------------------------------------------------------------------------------------


def make_counts(seed: int = 0, borrowed: float = 0.0) -> tuple[AnnData, np.ndarray, np.ndarray]:
    """Counts of five classes with 20 marker genes and a programme of 20 genes each; class, and the lender or -1."""
    rng = np.random.default_rng((seed, 7))
    label = np.repeat(np.arange(N_CLASSES), N_PER_CLASS)
    n, order = len(label), rng.permutation(N_GENES)
    markers, own, shared = order[:100].reshape(5, 20), order[100:200].reshape(5, 20), order[200:220]
    log_rate = np.tile(rng.normal(size=N_GENES), (n, 1))
    log_rate[:, shared] += 0.6 * rng.normal(size=(n, 1))
    lender = np.full(n, -1)
    for y in range(N_CLASSES):
        rows = np.flatnonzero(label == y)
        log_rate[np.ix_(rows, markers[y])] += 1.2
        log_rate[np.ix_(rows, own[y])] += 0.8 * rng.normal(size=(len(rows), 1))
    for row in np.flatnonzero(rng.random(n) < borrowed):
        lender[row] = rng.choice(np.delete(np.arange(N_CLASSES), label[row]))
        log_rate[row, own[lender[row]]] += rng.choice([-1, 1]) * rng.uniform(1.2, 2)
    rate = np.exp(log_rate)
    mean = rng.integers(800, 2500, n)[:, None] * rate / rate.sum(1, keepdims=True)
    return as_anndata(rng.poisson(rng.gamma(8, 1 / 8, mean.shape) * mean), label), label, lender


def as_anndata(x: np.ndarray, label: np.ndarray) -> AnnData:
    obs = pd.DataFrame({"label": [f"c{y}" for y in label]}, index=[f"s{i}" for i in range(len(label))])
    return AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(x.shape[1])]))


def fitted(raw: AnnData) -> tuple[AnnData, TrainedModel]:
    prepared = prepare_data(CountsSettings(kind="counts", n_top_genes=None), raw)
    values = {
        "model": {"n_shared": 4, "hidden": [32]},
        "training": {"max_epochs": 60, "batch_size": 64, "learning_rate": 3e-3},
    }
    return prepared, train_model(prepared, FitSettings.model_validate(values), 0)


@cache
def clean() -> tuple[AnnData, TrainedModel]:
    return fitted(make_counts()[0])


def test_where_nothing_is_planted_hardly_anything_is_suspected() -> None:
    table = audit_labels(*clean())
    assert (table["suspicion"] != "").mean() <= 0.05


def test_swapped_labels_are_found_though_the_model_was_trained_with_them() -> None:
    raw, label, _ = make_counts(1)
    rng = np.random.default_rng(1)
    swapped = rng.random(len(label)) < 0.05
    given = np.where(swapped, (label + rng.integers(1, N_CLASSES, len(label))) % N_CLASSES, label)
    table = audit_labels(*fitted(as_anndata(raw.X, given)))
    assert roc_auc_score(swapped, table["log_odds"]) >= 0.9
    assert (table["bound_class"].to_numpy()[swapped] == [f"c{y}" for y in label[swapped]]).mean() > 0.9
    assert (table["suspicion"][swapped] == "mislabel").mean() > 0.8


@pytest.mark.parametrize("is_trained_on", [False, True])
def test_doublets_are_found(is_trained_on: bool) -> None:
    raw, label, _ = make_counts()
    rng = np.random.default_rng(2)
    first = rng.integers(len(label), size=20)
    second = np.array([rng.choice(np.flatnonzero(label != label[i])) for i in first])
    both = as_anndata(np.vstack([raw.X, raw.X[first] + raw.X[second]]), np.concatenate([label, label[first]]))
    prepared, model = (
        fitted(both)
        if is_trained_on
        else (prepare_data(CountsSettings(kind="counts", n_top_genes=None), both), clean()[1])
    )
    table = audit_labels(prepared, model)
    is_doublet = np.arange(len(table)) >= len(label)
    assert roc_auc_score(is_doublet, table["doublet_gain"]) >= 0.9
    named = table["doublet_with"].to_numpy()[is_doublet] == [f"c{y}" for y in label[second]]
    assert named.mean() > 0.8
    assert (table["suspicion"][is_doublet] == "doublet").mean() > 0.6


def test_borrowed_programmes_are_found_and_their_class_is_named() -> None:
    raw, _, lender = make_counts(borrowed=0.05)
    prepared = prepare_data(CountsSettings(kind="counts", n_top_genes=None), raw)
    table = audit_labels(prepared, clean()[1])
    is_borrowed = lender >= 0
    assert roc_auc_score(is_borrowed, table["borrowed_gain"]) >= 0.9
    named = table["borrowed_from"].to_numpy()[is_borrowed] == [f"c{y}" for y in lender[is_borrowed]]
    assert named.mean() > 0.9
    assert (table["suspicion"][is_borrowed] == "borrowed").mean() > 0.8


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_same_twice_and_whatever_the_order_of_the_samples() -> None:
    prepared, model = prepared_counts(), trained("counts")
    one, other = (audit_labels(prepared, model, QUICK) for _ in range(2))
    assert one.equals(other)
    turned = audit_labels(prepared[::-1].copy(), model, QUICK).loc[one.index]
    np.testing.assert_allclose(turned["bound_own"], one["bound_own"], rtol=1e-5)
    assert (turned["suspicion"] == one["suspicion"]).mean() > 0.98


def test_an_unlabelled_sample_is_read_as_its_likeliest_class_and_never_mislabelled() -> None:
    prepared, model = prepared_counts().copy(), trained("counts")
    before = audit_labels(prepared, model, QUICK)
    hidden = (np.arange(prepared.n_obs) % 4 == 0) & (prepared.obs["split"] != "train").to_numpy()
    prepared.obs.loc[hidden, "label"] = np.nan
    table = audit_labels(prepared, model, QUICK)
    same = hidden & (before["classifier_class"].to_numpy() == prepared_counts().obs["label"].astype(str).to_numpy())
    np.testing.assert_allclose(table["bound_own"][same], before["bound_own"][same], rtol=1e-5)
    assert not table["suspicion"][hidden].isin(["mislabel", "classifier disagrees"]).any()


@pytest.mark.parametrize("kind", ["images", "features"])
def test_only_counts_have_doublets(kind: str) -> None:
    table = audit_labels(PREPARED[kind](), trained(kind), QUICK)
    assert "doublet_gain" not in table and "borrowed_gain" in table
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)


def test_models_without_blocks_lend_nothing_and_one_without_classes_is_refused() -> None:
    assert "borrowed_gain" not in audit_labels(prepared_counts(), trained("counts", "cvae"), QUICK)
    assert "borrowed_gain" in audit_labels(prepared_counts(), trained("counts", "per_class"), QUICK)
    with pytest.raises(UserError, match="variant 'vae' is told no classes; allowed: nvae, cvae, per_class"):
        audit_labels(prepared_counts(), trained("counts", "vae"), QUICK)


def test_files_in_files_out(tmp_path: Path) -> None:
    write_anndata(prepared_images(), tmp_path / "data.h5ad")
    save_model(trained("images"), tmp_path / "w.safetensors", tmp_path / "c.json")
    audit(tmp_path / "data.h5ad", tmp_path / "w.safetensors", tmp_path / "c.json", tmp_path / "a.parquet", QUICK)
    written = read_table(tmp_path / "a.parquet").set_index("sample")
    in_memory = audit_labels(prepared_images(), trained("images"), QUICK)
    assert written["suspicion"].tolist() == in_memory["suspicion"].tolist()
    np.testing.assert_array_equal(written["log_odds"], in_memory["log_odds"])
