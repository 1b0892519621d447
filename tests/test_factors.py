"""The factor report: its statistics against closed forms and SciPy, and its shape."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import report_factors, report_seeds
from nvae_bio.config import FactorSettings, ReportSettings
from nvae_bio.data.files import write_anndata, write_table
from nvae_bio.errors import UserError
from nvae_bio.factors.intervals import bootstrap_interval, resampled_units
from nvae_bio.factors.report import top_features
from nvae_bio.factors.step import Evidence, Written, factor_table, factors
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK, OWN_DIM, SHARED, STATISTICS
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


def test_few_donors_are_no_unit_of_resampling() -> None:
    assert resampled_units(None) == (None, "samples")
    for n, said in ((5, "samples; donor interval not estimable"), (6, "donors")):
        units, name = resampled_units(np.array([f"d{i}" for i in range(n)] * 3))
        assert name == said
        assert (units is None) == (n == 5)


def test_top_features_never_name_a_feature_in_the_wrong_direction() -> None:
    up, down = top_features(np.array([[1.0, 2.0, 3.0]]), np.array(["a", "b", "c"]), 5)
    assert (up, down) == (["c, b, a"], [""])


def test_rows_and_values_of_the_report() -> None:
    seeds = [embedded("counts", seed=0), embedded("counts", seed=1)]
    report = report_seeds(seeds)
    n_factors = 10 + 3 * 2
    assert report.shape == (2 * n_factors, seeds[0].n_vars)
    assert report.obs_names.is_unique
    assert report.obs["seed"].tolist() == [0] * n_factors + [1] * n_factors
    test = seeds[1][(seeds[1].obs["split"] != "train").to_numpy()]
    for index, name in enumerate(CLASSES):
        rows = (test.obs["label"] == name).to_numpy()
        expected = np.concatenate([test.obsm["nvae_kl_shared"], test.obsm["nvae_kl_private"]], axis=1)[rows].mean(0)
        np.testing.assert_allclose(report.obsm["kl_by_class"][n_factors:, index], expected, rtol=1e-5)
    own = report[f"seed 1 · {CLASSES[2]} · 1"]
    assert own.obs["kl"].iloc[0] == own.obsm["kl_by_class"][0, 2]
    np.testing.assert_allclose(own.X[0], seeds[1].varm["nvae_effect_class_2"][:, 1])
    assert (report.obs["kl_lower"] <= report.obs["kl"]).all()
    assert (report.obs["kl"] <= report.obs["kl_upper"]).all()
    small = (report.obs["kl"] < 0.01) | (report.obs["gain"] < 0.1)
    assert set(report.obs.loc[~small, "outcome"]) <= {"under-powered"}
    assert set(report.obs.loc[small, "outcome"]) == {"inactive"}
    assert report.obs.loc[report.obs["kind"] == "private", "gain"].isna().all()  # there is no null to compare with
    assert report.obs[["p", "q", "block_q", "hidden_q"]].isna().all(axis=None)
    assert set(report.obs["reading"]) == set(report.obs["private_to"]) == {""}
    assert list(report.uns["nvae"]["notes"]) == [
        "null of private factors: no refits of kind 'no_private', so none is called",
        "null of shared factors: no refits of kind 'no_factor', so none is called",
    ]


def make_null(adata: AnnData, n_refits: int, **values: float) -> pd.DataFrame:
    """Refits that found `values` of each statistic, 0 if not named."""
    model = adata.uns["nvae"]
    rows = []
    for y in range(len(model["classes"])):
        rows += [(OWN_BLOCK, y, -1), *((OWN_DIM, y, dim) for dim in range(model["n_private"]))] * bool(
            model["n_private"]
        )
        rows += [*((SHARED, y, dim) for dim in range(model["n_shared"])), (HIDDEN, y, 0)] * bool(model["n_shared"])
    table = pd.DataFrame(rows, columns=["statistic", "class", "dim"])
    table["value"] = table["statistic"].map(dict.fromkeys(STATISTICS, 0.0) | values)
    kinds = ("no_private", "no_factor")
    return pd.concat([table.assign(kind=kind, refit=refit) for kind in kinds for refit in range(n_refits)])


def with_factors(seed: int = 0) -> AnnData:
    """Embedded features in which the first shared dim is used by all, dim 1 by c2 alone, and block c1 by its class."""
    adata = embedded("features", seed=seed).copy()
    label, rng = adata.obs["label"].to_numpy(), np.random.default_rng(seed)
    shared, std = 0.01 * rng.normal(size=(adata.n_obs, 10)), np.ones((adata.n_obs, 10))
    for dim, rows in ((0, label != ""), (1, label == "c2")):
        shared[rows, dim], std[rows, dim] = rng.normal(size=rows.sum()), 0.3
    private, gain = 0.001 * rng.random((adata.n_obs, 6)), 0.001 * rng.random((adata.n_obs, 2))
    private[label == "c1", 2] += 2.0  # dim 0 of block c1
    gain[label == "c1", 0] += 2.0
    adata.obsm.update({"X_nvae_shared": shared, "nvae_shared_std": std, "nvae_kl_private": private})
    adata.obsm.update({"nvae_gain_specific": gain, "nvae_specific_std": np.ones((adata.n_obs, 2))})
    adata.obs["nvae_gain_specific"] = gain.sum(1)
    adata.obsm["nvae_gain_shared"] = np.where(std < 1, 1.5, -0.01)
    adata.obsm["nvae_kl_shared"] = (shared**2 + std**2 - 1) / 2 - np.log(std)
    return adata


def test_calls_readings_and_q_values_of_a_model_that_is_known() -> None:
    adata = with_factors()
    report = report_seeds([adata], null=make_null(adata, 20, own_block=0.1, own_dim=0.1, shared=0.1, hidden=0.5))
    table = report.obs.set_index(report.obs["kind"].astype(str) + report.obs["class"].astype(str))
    table["dim"] = table["dim"].astype(int)
    table = table.set_index("dim", append=True)
    active = table[table["outcome"] == "active"]
    assert sorted(active.index) == [("privatec1", 0), ("shared", 0), ("shared", 1)]
    assert active["reading"].to_dict() == {
        ("privatec1", 0): "private to c1", ("shared", 0): "used by 3 of 3 classes",
        ("shared", 1): "hidden in z_s: private to c2",
    }  # fmt: skip
    assert active.loc[("privatec1", 0), "block_q"] == pytest.approx(3 / 61)
    assert active.loc[("privatec1", 0), "p"] == pytest.approx(1 / 121)
    assert active.loc[("shared", 1), "hidden_q"] == pytest.approx(3 / 61)
    assert table.loc[("privatec0", 0), "q"] == 1.0
    own = report.uns["nvae"]["tests"].query("statistic == 'own_dim' and `class` == 'c1' and dim == 0")
    assert active.loc[("privatec1", 0), "gain"] == pytest.approx(own["value"].item() - 0.1)
    chance = (1 - 0.3**2 + 2 * np.log(0.3)) / 2
    assert active.loc[("shared", 0), "gain"] == pytest.approx(1.5 - chance)
    assert report.obsm["gain_by_class"][0] == pytest.approx(1.5 - chance)
    np.testing.assert_allclose(report.obsm["gain_by_class"][1], [-0.01, -0.01, 1.5 - chance], rtol=1e-5)
    assert report.obsm["spread_by_class"][1, 2] == pytest.approx(1, abs=0.4)
    assert (report.obsm["spread_by_class"][1, :2] < 0.1).all()
    assert set(table.loc[table["outcome"] != "active", "outcome"]) == {"inactive"}
    assert [note.split(":")[0] for note in report.uns["nvae"]["notes"]] == ["hidden in z_s"]
    assert json.loads(report.uns["nvae"]["n_refits"]) == {"no_private": 20, "no_factor": 20}
    assert report.obsm["q_by_class"][1, 2] <= 0.05 < report.obsm["q_by_class"][1, 0]


def test_a_gain_too_small_to_matter_is_no_call_however_small_its_p() -> None:
    adata = with_factors()
    null = make_null(adata, 20, own_block=0.1, own_dim=0.1, shared=0.1, hidden=0.5)
    gain = report_seeds([adata], null=null).obs.query("kind == 'private' and outcome == 'active'")["gain"].item()
    for min_gain, n_calls in ((gain - 0.01, 1), (gain + 0.01, 0)):
        table = report_seeds([adata], ReportSettings(min_gain=min_gain), null).obs.query("kind == 'private'")
        assert (table["outcome"] == "active").sum() == n_calls
        assert table["q"].min() <= 0.05


def test_what_so_few_refits_cannot_call_alone_is_called_with_others_or_under_powered() -> None:
    report = report_seeds([with_factors()], null=make_null(with_factors(), 8, own_block=0.1, own_dim=0.1, shared=0.1))
    private = report.obs["kind"] == "private"
    assert report.obs.loc[private, "q"].notna().all()
    named = report.obs[private].set_index(["class", "dim"])["outcome"]
    assert named["c1", 0] == "under-powered"
    assert set(named.drop(("c1", 0))) == {"inactive"}  # nothing is gained there: whatever the null, that is no factor
    assert "fewer than 3 of 3 together cannot be called" in report.uns["nvae"]["notes"][0]


def test_too_few_refits_call_nothing_and_the_report_says_so() -> None:
    adata = with_factors()
    report = report_seeds([adata], null=make_null(adata, 2))
    private = report.obs["kind"] == "private"
    assert report.obs[private].set_index(["class", "dim"])["outcome"]["c1", 0] == "under-powered"
    assert report.obs.loc[private, "p"].notna().all()
    assert report.uns["nvae"]["notes"][0] == (
        "null of private factors: with 2 refits of kind 'no_private' the smallest p is 0.14; 3 of 3 tests cannot "
        "end in a call at fdr 0.05; 20 refits would do"
    )
    assert len(set(report.uns["nvae"]["notes"])) == len(report.uns["nvae"]["notes"])


def test_without_a_shared_latent_the_null_has_no_factor_at_all() -> None:
    adata = embedded("features", "per_class")
    null = make_null(adata, 20)
    report = report_seeds([adata], null=null[null["kind"] == "no_factor"])
    assert report.obs["q"].notna().all()
    assert report_seeds([adata], null=null[null["kind"] == "no_private"]).obs["q"].isna().all()


def test_seven_donors_are_resampled_as_donors_and_without_donors_the_samples() -> None:
    assert set(report_seeds([embedded("counts")]).obs["resampled"]) == {"donors"}
    assert set(report_seeds([embedded("features")]).obs["resampled"]) == {"samples"}


@pytest.mark.parametrize(("variant", "kinds"), [("cvae", {"shared"}), ("vae", {"shared"}), ("per_class", {"private"})])
def test_the_baselines_have_reports_too(variant: str, kinds: set[str]) -> None:
    report = report_seeds([embedded("features", variant)])
    assert set(report.obs["kind"]) == kinds
    tested = report_seeds([embedded("features", variant)], null=make_null(embedded("features", variant), 20))
    assert set(tested.obs["outcome"]) <= {"active", "inactive"}


def test_the_same_report_twice_and_the_table_says_the_same() -> None:
    one, other = (report_seeds([embedded("images")]) for _ in range(2))
    assert one.obs.equals(other.obs)
    table = factor_table(one)
    np.testing.assert_array_equal(table["kl[c1]"], one.obsm["kl_by_class"][:, 1])
    assert (table["kl_lower[c1]"] <= table["kl[c1]"]).all()


def test_seeds_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        report_seeds([])
    with pytest.raises(UserError, match="same seed"):
        report_seeds([embedded("counts"), embedded("counts")])
    with pytest.raises(UserError, match="differ in uns"):
        report_seeds([embedded("counts"), embedded("features", seed=1)])


def test_a_class_without_held_out_samples_is_named() -> None:
    adata = embedded("counts")
    rows = (adata.obs["split"] != "train") & (adata.obs["label"] == "c1")
    with pytest.raises(UserError, match="class 'c1' has no held-out sample"):
        report_seeds([adata[~rows.to_numpy()].copy()])


def test_files_in_files_out(tmp_path: Path) -> None:
    adata = with_factors()
    write_anndata(adata, tmp_path / "embedded.h5ad")
    null = make_null(adata, 20, own_block=0.1)
    files = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for file, kind in zip(files, ("no_private", "no_factor"), strict=True):
        write_table(null[null["kind"] == kind], file)
    settings = FactorSettings(report=ReportSettings(n_bootstrap=100))
    names = {
        "report": "h5ad",
        "table": "parquet",
        "seeds": "h5ad",
        "scores": "h5ad",
        "suspects": "csv",
        "summary": "md",
    }
    written = {name: tmp_path / f"{name}.{ending}" for name, ending in names.items()}
    factors(Evidence([tmp_path / "embedded.h5ad"], files), Written(**written), settings)
    report, table = anndata.read_h5ad(written["report"]), pd.read_parquet(written["table"])
    assert table["factor"].tolist() == list(report.obs_names)
    np.testing.assert_array_equal(table["kl"], report.obs["kl"])
    in_memory = report_factors([adata], settings, null)
    for column in ("p", "q", "outcome", "reading"):
        for found in (table[column], report.obs[column]):
            np.testing.assert_array_equal(found.to_numpy(), in_memory.factors.obs[column].to_numpy())
    np.testing.assert_array_equal(table["q[c1]"], report.obsm["q_by_class"][:, 1])
    assert table["outcome[c1]"].tolist() == report.obsm["outcome_by_class"].iloc[:, 1].tolist()
    assert written["summary"].read_text().splitlines() == in_memory.lines
    assert pd.read_csv(written["suspects"]).empty  # nothing was audited
    assert anndata.read_h5ad(written["seeds"]).obs["outcome"].tolist() == in_memory.seeds.obs["outcome"].tolist()
    scores = anndata.read_h5ad(written["scores"])
    np.testing.assert_array_equal(scores.obsm["X_nvae_factors"], in_memory.embedded.obsm["X_nvae_factors"])
