"""The leakage audit, on embeddings made by hand: chance, planted leaks, SciPy and scikit-learn, and what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from anndata import AnnData
from sklearn.metrics import balanced_accuracy_score, r2_score

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.factors.leakage import COLUMNS, balanced_accuracy, leakage_audit, r_squared
from nvae_bio.factors.summary import leakage_lines
from tests.toys import embedded

QUICK = ReportSettings(n_bootstrap=200)
CLASSES = ["a", "b", "c"]


def make_embedded(seed: int = 0, n: int = 300, **obs: Any) -> AnnData:
    """n samples of three classes, two thirds to train on, each of one of 8 donors and 2 batches; latents are noise.

    Columns of `obs` replace these; None: there is no such column.
    """
    rng = np.random.default_rng((seed, 7))
    columns: dict[str, Any] = {
        schema.LABEL: np.array(CLASSES, object)[rng.integers(3, size=n)],
        schema.SPLIT: np.resize(["train", "train", "train", "train", "validation", "test"], n),
        schema.DONOR: rng.choice([f"d{i}" for i in range(8)], n),
        schema.BATCH: rng.choice(["p", "q"], n),
        schema.LIBRARY: np.exp(rng.normal(8, 0.5, n)),
    } | obs
    table = pd.DataFrame({name: values for name, values in columns.items() if values is not None})
    table.index = pd.Index([f"s{i}" for i in range(n)])
    adata = AnnData(np.zeros((n, 1)), obs=table, uns={schema.MODEL: {"seed": seed}})
    adata.obsm[schema.SHARED], adata.obsm[schema.SPECIFIC] = rng.normal(size=(n, 4)), rng.normal(size=(n, 2))
    return adata


def rows_of(table: pd.DataFrame, target: str, latent: str) -> pd.DataFrame:
    """The row of each probe."""
    return table[(table["target"] == target) & (table["latent"] == latent)].set_index("probe")


def codes_of(adata: AnnData, column: str) -> np.ndarray:
    return np.asarray(pd.factorize(adata.obs[column].astype(str), sort=True)[0], float)


def test_the_interval_covers_chance_as_often_as_it_says_where_nothing_leaks() -> None:
    covered, failed, n_asked = 0, 0, 0
    for seed in range(60):
        adata = make_embedded(seed, n=240, donor=None, library=None)
        table = leakage_audit(adata, QUICK, seed).dropna(subset="score")
        covered += int(((table["lower"] <= table["chance"]) & (table["chance"] <= table["upper"])).sum())
        failed += int((table["verdict"] == "fail").sum())
        n_asked += len(table)
    assert n_asked == 60 * 6  # class of z_s, batch of both, with two probes each
    assert 0.91 < covered / n_asked < 0.98
    assert failed == 0


def test_noise_passes_once_there_are_samples_enough() -> None:
    adata = make_embedded(n=3000)
    table = leakage_audit(adata, QUICK)
    own = (table["target"] == "class") & (table["latent"] == "z_c")
    assert table.loc[own, "verdict"].tolist() == ["not audited"]
    table = table[~own]
    assert (table["verdict"] == "pass").all()
    assert set(zip(table["target"], table["latent"], strict=True)) == {
        ("class", "z_s"), *((target, latent) for target in ("batch", "donor", "depth") for latent in ("z_s", "z_c"))
    }  # fmt: skip
    assert (table["n_train"] + table["n_held_out"] == adata.n_obs).all()


@pytest.mark.parametrize(
    ("target", "latent"),
    [("class", "z_s"), *((target, latent) for target in ("batch", "donor", "depth") for latent in ("z_s", "z_c"))],
)
def test_a_target_that_is_copied_into_a_latent_fails_there_alone(target: str, latent: str) -> None:
    adata = make_embedded(n=900)
    column = {"class": schema.LABEL, "depth": schema.LIBRARY}.get(target, target)
    value = np.log(adata.obs[schema.LIBRARY]) if target == "depth" else codes_of(adata, column)
    adata.obsm[{"z_s": schema.SHARED, "z_c": schema.SPECIFIC}[latent]][:, 1] = 10 * value
    table = leakage_audit(adata, QUICK)
    found = rows_of(table, target, latent)
    assert (found["verdict"] == "fail").all()
    assert found["share"]["linear"] > 0.8
    assert found["share"]["neighbours"] > 0.3  # which look at the other dims too
    others = table[(table["target"] != target) | (table["latent"] != latent)]
    assert not (others["verdict"] == "fail").any()


def test_an_undecided_interval_holds_the_limit() -> None:
    adata = make_embedded(n=120, donor=None, library=None)
    adata.obsm[schema.SHARED][:, 0] += 0.8 * codes_of(adata, schema.BATCH)
    found = rows_of(leakage_audit(adata, QUICK), "batch", "z_s").loc["linear"]
    assert found["lower"] <= found["limit"] < found["upper"]
    assert found["verdict"] == "undecided"
    assert found["limit"] == pytest.approx(0.5 + 0.2 * 0.5)


def test_depth_by_the_linear_probe_is_ridge_regression_in_closed_form() -> None:
    adata = make_embedded(donor=None, batch=None)
    rng = np.random.default_rng(1)
    z, label = adata.obsm[schema.SHARED], adata.obs[schema.LABEL].to_numpy()
    depth = z @ np.array([0.3, -0.2, 0, 0.1]) + 0.3 * rng.normal(size=adata.n_obs) + codes_of(adata, schema.LABEL)
    adata.obs[schema.LIBRARY] = np.exp(depth)
    train = (adata.obs[schema.SPLIT] == "train").to_numpy()
    centered = depth - np.array([depth[train & (label == name)].mean() for name in label])
    scaled = (z - z[train].mean(0)) / z[train].std(0)
    weights = np.linalg.solve(scaled[train].T @ scaled[train] + np.eye(4), scaled[train].T @ centered[train])
    expected = r2_score(centered[~train], scaled[~train] @ weights + centered[train].mean())
    found = rows_of(leakage_audit(adata, QUICK), "depth", "z_s").loc["linear"]
    assert found["score"] == pytest.approx(expected, abs=1e-9)
    assert 0.3 < expected < 0.8


def test_a_class_that_is_deeper_than_others_is_no_leak_of_depth() -> None:
    rng = np.random.default_rng(2)
    adata = make_embedded(n=900)
    label = codes_of(adata, schema.LABEL)
    adata.obs[schema.LIBRARY] = np.exp(3 * label + rng.normal(8, 0.3, adata.n_obs))
    for key in (schema.SHARED, schema.SPECIFIC):
        adata.obsm[key][:, 0] = 10 * label  # tells the class, and with it the depth of most cells
    table = leakage_audit(adata, QUICK)
    assert (rows_of(table, "class", "z_s")["verdict"] == "fail").all()
    assert (table.loc[table["target"] == "depth", "verdict"] == ["pass"] * 4).all()


def test_scores_of_resamples_are_those_of_scikit_learn_with_weights() -> None:
    rng = np.random.default_rng(3)
    level, predicted = rng.integers(3, size=40), rng.integers(3, size=40)
    value, guess, weight = rng.normal(size=40), rng.normal(size=40), rng.integers(1, 5, 40)
    there = np.eye(3)[level]
    sums = weight @ np.hstack([there, there * (level == predicted)[:, None]])
    assert balanced_accuracy(sums[None])[0] == pytest.approx(
        balanced_accuracy_score(level, predicted, sample_weight=weight)
    )
    assert balanced_accuracy(np.array([[4.0, 0.0, 2.0, 0.0]])) == [0.5]  # a resample without the second level
    sums = weight @ np.column_stack([np.ones(40), value, value**2, (value - guess) ** 2])
    assert r_squared(sums[None])[0] == pytest.approx(r2_score(value, guess, sample_weight=weight))


def test_the_interval_is_the_percentile_bootstrap_of_scipy() -> None:
    adata = make_embedded(donor=None, library=None)
    adata.obs[schema.BATCH] = np.where(adata.obsm[schema.SHARED][:, 0] > 0, "p", "q")
    flipped = np.random.default_rng(4).random(adata.n_obs) < 0.3
    adata.obs.loc[flipped, schema.BATCH] = adata.obs.loc[flipped, schema.BATCH].map({"p": "q", "q": "p"})
    found = rows_of(leakage_audit(adata, ReportSettings(n_bootstrap=5000)), "batch", "z_s").loc["linear"]
    held = (adata.obs[schema.SPLIT] != "train").to_numpy()
    truth = (adata.obs[schema.BATCH] == "p").to_numpy()[held]
    told = adata.obsm[schema.SHARED][held, 0] > 0  # nearly what the probe says

    def recall(truth: np.ndarray, told: np.ndarray) -> float:
        return float((told[truth].mean() + (~told)[~truth].mean()) / 2)

    theirs = scipy.stats.bootstrap(
        (truth, told), recall, paired=True, vectorized=False, n_resamples=5000, method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert found["n_held_out"] == held.sum()
    assert found["score"] == pytest.approx(recall(truth, told), abs=0.03)
    assert (found["lower"], found["upper"]) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_the_order_of_samples_changes_nothing() -> None:
    adata = make_embedded()
    shuffled = adata[np.random.default_rng(6).permutation(adata.n_obs)].copy()
    pd.testing.assert_frame_equal(leakage_audit(adata, QUICK, 3), leakage_audit(shuffled, QUICK, 3))


def test_a_rare_level_that_stands_apart_is_seen() -> None:
    rng = np.random.default_rng(7)
    rare = rng.random(1500) < 0.04
    adata = make_embedded(n=1500, batch=np.where(rare, "new", "old"), donor=None, library=None)
    adata.obsm[schema.SHARED][:, 0] += 1.5 * rare
    found = rows_of(leakage_audit(adata, QUICK), "batch", "z_s").loc["linear"]
    best = scipy.stats.norm.cdf(0.75)  # of a line between two normal distributions 1.5 standard deviations apart
    assert found["score"] == pytest.approx(best, abs=0.08)
    assert found["verdict"] == "fail"


def test_donors_are_resampled_where_there_are_six_but_not_to_tell_donors() -> None:
    table = leakage_audit(make_embedded(n=900), QUICK)
    asked = table[table["verdict"] != "not audited"]
    by_target = {target: set(rows["resampled"]) for target, rows in asked.groupby("target")}
    assert by_target == {"class": {"donors"}, "batch": {"donors"}, "depth": {"donors"}, "donor": {"samples"}}
    few = make_embedded(donor=np.resize(["d0", "d1", "d2"], 300))
    few.obs[schema.BATCH] = few.obs[schema.DONOR].map({"d0": "p", "d1": "q", "d2": "r"})
    table = leakage_audit(few, QUICK)
    assert set(rows_of(table, "class", "z_s")["resampled"]) == {"samples; donor interval not estimable"}
    assert set(rows_of(table, "batch", "z_s")["resampled"]) == {"samples"}  # a batch is a donor


def test_where_donors_differ_in_how_much_they_leak_their_interval_is_wider() -> None:
    adata = make_embedded(n=2400)
    turned = adata.obs[schema.DONOR].isin(["d0", "d1", "d2"]).to_numpy()
    adata.obsm[schema.SHARED][:, 0] = np.where(turned, -1, 1) * (codes_of(adata, schema.BATCH) - 0.5)
    width = []
    for one in (adata, AnnData(adata.X, obs=adata.obs.drop(columns=schema.DONOR), obsm=adata.obsm, uns=adata.uns)):
        found = rows_of(leakage_audit(one, QUICK), "batch", "z_s").loc["linear"]
        width.append(found["upper"] - found["lower"])
    assert width[0] > 3 * width[1]


def test_what_the_own_block_tells_within_classes_need_not_be_the_same_in_each() -> None:
    adata = make_embedded(n=900, donor=None)
    sign = np.where(codes_of(adata, schema.LABEL) == 1, -1, 1)
    adata.obsm[schema.SPECIFIC][:, 0] = 5 * sign * (codes_of(adata, schema.BATCH) - 0.5)
    found = rows_of(leakage_audit(adata, QUICK), "batch", "z_c")
    assert (found["score"] == 1).all()


def test_chance_within_classes_counts_the_levels_of_each() -> None:
    adata = make_embedded(n=900)
    is_a, rng = (adata.obs[schema.LABEL] == "a").to_numpy(), np.random.default_rng(8)
    adata.obs[schema.DONOR] = np.where(is_a, rng.choice(["d0", "d1"], 900), rng.choice(["d2", "d3", "d4"], 900))
    found = rows_of(leakage_audit(adata, QUICK), "donor", "z_c")
    assert found["chance"].tolist() == [3 / (2 + 3 + 3)] * 2
    assert (abs(found["score"] - 3 / 8) < 0.1).all()


def test_what_is_not_audited_is_said() -> None:
    adata = make_embedded(n=900, batch=None, library=None)
    adata.obs[schema.DONOR] = np.where(adata.obs[schema.LABEL] == "c", "d9", adata.obs[schema.DONOR])
    for name in "ab":
        rare = adata.obs.index[((adata.obs[schema.DONOR] == "d0") & (adata.obs[schema.LABEL] == name)).to_numpy()]
        adata.obs.loc[rare[2:], schema.DONOR] = "d1"
    lines = leakage_lines(leakage_audit(adata, QUICK))
    own_block = "each class has a block of its own, which tells it by construction"
    assert lines[1] == f"{own_block}: class from z_c is not audited"
    assert lines[2] == "no batch key: batch is not audited"
    assert lines[-1] == "no counts: depth is not audited"
    assert lines[3].endswith("too few samples of d0: left out")
    assert lines[4].endswith("too few samples of d0 in a, d0 in b; only one donor in c: left out")
    alone = leakage_lines(leakage_audit(make_embedded(donor="d0", library=1000.0), QUICK))
    enough = "with 5 training and 2 held-out samples"
    assert f"fewer than 2 donors {enough}: donor from z_s is not audited" in alone
    assert f"no class has 2 donors {enough}: donor from z_c is not audited" in alone
    assert "all samples of a class have the same: depth from z_s is not audited" in alone
    untested = leakage_lines(leakage_audit(make_embedded(split="train"), QUICK))
    assert f"fewer than 2 classes {enough}: class from z_s is not audited" in untested
    assert f"no class {enough}: depth from z_c is not audited" in untested


def test_samples_without_label_donor_or_counts_are_not_asked() -> None:
    adata, extra = make_embedded(n=400), np.arange(400) >= 300
    known = adata[~extra].copy()
    adata.obs.loc[extra, schema.LABEL] = None
    pd.testing.assert_frame_equal(leakage_audit(adata, QUICK), leakage_audit(known, QUICK))
    adata.obs[schema.LABEL], n_held = "a", int((known.obs[schema.SPLIT] != "train").sum())
    adata.obs.loc[extra, schema.DONOR], adata.obs.loc[extra, schema.LIBRARY] = None, 0.0
    table = leakage_audit(adata, QUICK)
    assert set(table.loc[table["target"].isin(["donor", "depth"]), "n_held_out"]) == {n_held}


def test_a_line_gives_means_over_seeds_the_widest_interval_and_the_worst_verdict() -> None:
    score = {"probe": ["linear", "neighbours"] * 2, "score": [0.28, 0.3, 0.32, 0.5], "lower": [0.24, 0.25, 0.3, 0.45]}
    table = pd.DataFrame(score | {"upper": [0.33, 0.35, 0.34, 0.55], "verdict": ["pass", "pass", "pass", "fail"]})
    table = table.assign(
        seed=[0, 0, 1, 1], target="class", latent="z_s", chance=0.2, share=0.1, limit=0.36, n_train=100, n_held_out=50,
        resampled="samples", note="",
    )[COLUMNS]  # fmt: skip
    assert leakage_lines(table) == [
        "class from z_s: balanced accuracy .30 [.24, .34] (linear), .40 [.25, .55] (neighbours), chance .20: "
        "fail in 1 of 2 seeds (limit .36)"
    ]
    assert leakage_lines(table[table["seed"] == 0])[0].endswith("chance .20: pass (limit .36)")
    depth = table[table["seed"] == 0].assign(target="depth", chance=0.0, limit=0.2, score=-0.03, lower=-0.001)
    assert leakage_lines(depth)[0].startswith("depth from z_s: R² within classes -.03 [.00, .33] (linear)")


def test_a_fitted_model_is_audited_for_the_latents_that_it_has() -> None:
    fitted = embedded("counts")
    table = leakage_audit(fitted, QUICK)
    asked = table.dropna(subset="score")
    assert set(asked["target"] + " " + asked["latent"]) == {
        "class z_s", "donor z_s", "donor z_c", "depth z_s", "depth z_c"
    }  # fmt: skip
    assert np.isfinite(asked[["score", "lower", "upper"]]).all(axis=None)
    for key, latent in ((schema.SHARED, "z_s"), (schema.SPECIFIC, "z_c")):
        alone = AnnData(fitted.X, obs=fitted.obs, obsm={key: fitted.obsm[key]}, uns=fitted.uns)
        pd.testing.assert_frame_equal(
            leakage_audit(alone, QUICK), table[table["latent"].isin([latent, ""])].reset_index(drop=True)
        )
