"""The factor report: its statistics against closed forms and SciPy, and its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import report_factors
from nvae_bio.config import ReportSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.errors import UserError
from nvae_bio.factors import bootstrap_interval, factor_table, factors, null_levels, outcome, top_features
from tests.small_models import law
from tests.toys import CLASSES, embedded


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=(80, 3))
    lower, upper = bootstrap_interval(values, None, 20_000, 0.95, np.random.default_rng(1))
    for column in range(3):
        theirs = scipy.stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
        ).confidence_interval
        assert lower[column] == pytest.approx(theirs.low, abs=0.01)
        assert upper[column] == pytest.approx(theirs.high, abs=0.01)


def test_resampling_donors_is_wider_where_samples_of_a_donor_are_alike() -> None:
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(8), 40)
    values = rng.normal(size=8)[donor, None] + 0.1 * rng.normal(size=(320, 1))
    width = [float(np.ptp(bootstrap_interval(values, units, 2000, 0.95, rng))) for units in (None, donor)]
    assert width[1] > 3 * width[0]


def test_one_unit_has_no_interval() -> None:
    lower, upper = bootstrap_interval(np.ones((5, 2)), np.zeros(5), 100, 0.95, np.random.default_rng(0))
    assert np.isnan([lower, upper]).all()


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values = rng.exponential(size=(60, 1))
        lower, upper = bootstrap_interval(values, None, 300, 0.9, rng)
        covered += int(lower[0] <= 1.0 <= upper[0])
    assert 0.84 < covered / 300 < 0.94


@law
@given(st.integers(2, 30), st.integers(0, 1000))
def test_the_interval_lies_within_the_data_and_around_constant_data(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n, 2))
    values[:, 1] = 3.0
    lower, upper = bootstrap_interval(values, None, 150, 0.95, np.random.default_rng(seed))
    assert values[:, 0].min() - 1e-12 <= lower[0] <= upper[0] <= values[:, 0].max() + 1e-12
    assert lower[1] == pytest.approx(3.0)
    assert upper[1] == pytest.approx(3.0)


def test_the_null_of_a_block_is_the_quantile_over_samples_of_other_classes() -> None:
    table = pd.DataFrame({"kind": ["shared", "private", "private"], "class": ["", "a", "b"]})
    labels = np.array(["a"] * 50 + ["b"] * 50)
    kl = np.zeros((100, 3))
    kl[50:, 1] = np.arange(50)  # block of a on samples of b
    kl[:50, 2] = 7.0
    levels = null_levels(kl, table, labels, 0.95, "all")
    assert levels[1] == pytest.approx(np.quantile(np.arange(50), 0.95))
    assert levels[2] == 7.0
    assert levels[0] == levels[1]
    assert np.isnan(null_levels(kl, table, labels, 0.95, "own")).all()


def test_outcomes() -> None:
    called = outcome(np.array([0.3, 0.3, 0.3, np.nan]), np.array([0.2, 0.4, np.nan, 0.1]), 0.01)
    assert called.tolist() == ["active", "inactive", "undecided", "undecided"]
    assert outcome(np.array([0.005]), np.array([0.001]), 0.01).tolist() == ["inactive"]


def test_top_features_never_name_a_feature_in_the_wrong_direction() -> None:
    up, down = top_features(np.array([[1.0, 2.0, 3.0]]), np.array(["a", "b", "c"]), 5)
    assert (up, down) == (["c, b, a"], [""])


def test_rows_and_values_of_the_report() -> None:
    seeds = [embedded("counts", seed=0), embedded("counts", seed=1)]
    report = report_factors(seeds)
    n_factors = 10 + 3 * 2
    assert report.shape == (2 * n_factors, seeds[0].n_vars)
    assert report.obs_names.is_unique
    assert report.obs["seed"].tolist() == [0] * n_factors + [1] * n_factors
    test = seeds[1][(seeds[1].obs["split"] == "test").to_numpy()]
    for index, name in enumerate(CLASSES):
        rows = (test.obs["label"] == name).to_numpy()
        expected = np.concatenate([test.obsm["nvae_kl_shared"], test.obsm["nvae_kl_private"]], axis=1)[rows].mean(0)
        np.testing.assert_allclose(report.obsm["kl_by_class"][n_factors:, index], expected, rtol=1e-5)
    own = report[f"seed 1 · {CLASSES[2]} · 1"]
    assert own.obs["kl"].iloc[0] == own.obsm["kl_by_class"][0, 2]
    np.testing.assert_allclose(own.X[0], seeds[1].varm["nvae_effect_class_2"][:, 1])
    assert (report.obs["kl_lower"] <= report.obs["kl"]).all()
    assert (report.obs["kl"] <= report.obs["kl_upper"]).all()
    assert set(report.obs["outcome"]) <= {"active", "inactive", "undecided"}


def test_seven_donors_are_resampled_as_donors_and_without_donors_the_samples() -> None:
    assert set(report_factors([embedded("counts")]).obs["resampled"]) == {"donors"}
    assert set(report_factors([embedded("features")]).obs["resampled"]) == {"samples"}


@pytest.mark.parametrize(("variant", "kinds"), [("cvae", {"shared"}), ("vae", {"shared"}), ("per_class", {"private"})])
def test_the_baselines_have_reports_too(variant: str, kinds: set[str]) -> None:
    report = report_factors([embedded("features", variant)])
    assert set(report.obs["kind"]) == kinds
    if kinds == {"shared"}:  # nothing is structurally empty, so nothing is called
        assert report.obs["null"].isna().all()
        assert "active" not in set(report.obs["outcome"])


def test_the_same_report_twice_and_the_table_says_the_same() -> None:
    one, other = (report_factors([embedded("images")]) for _ in range(2))
    assert one.obs.equals(other.obs)
    table = factor_table(one)
    np.testing.assert_array_equal(table["kl[c1]"], one.obsm["kl_by_class"][:, 1])
    assert (table["kl_lower[c1]"] <= table["kl[c1]"]).all()


def test_seeds_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        report_factors([])
    with pytest.raises(UserError, match="same seed"):
        report_factors([embedded("counts"), embedded("counts")])
    with pytest.raises(UserError, match="differ in uns"):
        report_factors([embedded("counts"), embedded("features", seed=1)])


def test_a_class_without_held_out_samples_is_named() -> None:
    adata = embedded("counts")
    rows = (adata.obs["split"] == "test") & (adata.obs["label"] == "c1")
    with pytest.raises(UserError, match="class 'c1' has no held-out sample"):
        report_factors([adata[~rows.to_numpy()].copy()])


def test_files_in_files_out(tmp_path: Path) -> None:
    import anndata

    write_anndata(embedded("counts"), tmp_path / "embedded.h5ad")
    factors([tmp_path / "embedded.h5ad"], tmp_path / "f.h5ad", tmp_path / "f.parquet", ReportSettings(n_bootstrap=100))
    report, table = anndata.read_h5ad(tmp_path / "f.h5ad"), pd.read_parquet(tmp_path / "f.parquet")
    assert table["factor"].tolist() == list(report.obs_names)
    np.testing.assert_array_equal(table["kl"], report.obs["kl"])
