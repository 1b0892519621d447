"""Consensus over seeds: matching against brute force, and a report of factors that are known."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import report_factors, schema
from nvae_bio.config import FactorSettings, PowerSettings, ReportSettings
from nvae_bio.errors import UserError
from nvae_bio.evaluate.factors import Published
from nvae_bio.factors.certificate import certificate, effect_agreement
from nvae_bio.factors.consensus import find_factors, n_needed
from nvae_bio.factors.matching import agreements, match_factors
from nvae_bio.factors.outcomes import judge
from nvae_bio.factors.seeds import report_seeds
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK, OWN_DIM, SHARED, true_variance
from tests.small_models import law
from tests.toys import CLASSES, embedded

N_FEATURES = 20


def make_effects(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 200))


def shuffled(effects: np.ndarray, seed: int, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same factors in another order, some turned, with noise; and the order and the signs."""
    rng = np.random.default_rng(seed)
    order, signs = rng.permutation(len(effects)), rng.choice([-1, 1], len(effects))
    return signs[:, None] * effects[order] + noise * rng.normal(size=effects.shape), order, signs


# --- matching --------------------------------------------------------------------------------------------------------


@law
@given(st.integers(1, 6), st.integers(0, 1000))
def test_the_same_factors_are_found_whatever_their_order_and_sign(n: int, seed: int) -> None:
    effects = make_effects(n, seed)
    parts = [shuffled(effects, seed + i) for i in range(4)]
    clusters = match_factors([part for part, _, _ in parts], 0.7)
    assert len(clusters) == n
    for cluster in clusters:
        true = {int(parts[place][1][row]) for place, row in cluster.rows.items()}
        assert len(true) == 1 and len(cluster.rows) == 4
        turned = {cluster.signs[place] * int(parts[place][2][row]) for place, row in cluster.rows.items()}
        assert len(turned) == 1  # all members point the same way
        assert cluster.signs[0] == 1
        assert min(agreements(cluster, [part for part, _, _ in parts]).values()) > 0.95


@law
@given(st.integers(2, 5), st.integers(0, 1000))
def test_two_seeds_are_matched_at_the_best_total(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(n, 4)), rng.normal(size=(n, 4))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, other)]
    cos = np.abs(unit[0] @ unit[1].T)
    best = max(sum(cos[i, j] for i, j in enumerate(order)) for order in permutations(range(n)))
    clusters = match_factors([one, other], 1e-9)
    found = sum(cos[cluster.rows[0], cluster.rows[1]] for cluster in clusters if len(cluster.rows) == 2)
    assert found == pytest.approx(best)


@law
@given(st.integers(0, 1000))
def test_a_factor_of_one_seed_stays_apart_and_no_cluster_has_two_of_a_seed(seed: int) -> None:
    effects = make_effects(3, seed)
    parts = [shuffled(effects, seed + i)[0] for i in range(3)]
    parts[1] = np.vstack([make_effects(1, seed + 9), parts[1]])
    clusters = match_factors(parts, 0.7)
    assert [len(cluster.rows) for cluster in clusters] == [3, 3, 3, 1]
    assert clusters[-1].rows == {1: 0}
    assert np.isnan(list(agreements(clusters[-1], parts).values())).all()
    assert sorted(row for cluster in clusters for place, row in cluster.rows.items() if place == 1) == [0, 1, 2, 3]


def test_a_pair_that_is_no_match_costs_none_its_own() -> None:
    """|cos| .71 and .69 beside .69 and 0: the best sum of all would be two of .69, of which neither is a match."""
    first = np.eye(4)[:2]
    second = np.array([[0.71, 0.69, 0.14, 0], [0.69, 0, 0, 0.72]])
    found = match_factors([first, second], 0.7)
    assert [cluster.rows for cluster in found] == [{0: 0, 1: 0}, {0: 1}, {1: 1}]


def test_seeds_without_factors_and_no_seed_at_all() -> None:
    effects = make_effects(2, 0)
    assert [cluster.rows for cluster in match_factors([effects[:0], effects], 0.7)] == [{1: 0}, {1: 1}]
    assert match_factors([], 0.7) == match_factors([effects[:0]], 0.7) == []


# --- certificate -----------------------------------------------------------------------------------------------------


@law
@given(st.integers(2, 6), st.integers(0, 1000))
def test_agreement_is_one_where_classes_differ_in_size_alone_and_turns_with_the_sign(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    effects = rng.uniform(0.1, 5, n)[:, None] * rng.normal(size=N_FEATURES)
    used = np.ones(n, dtype=bool)
    np.testing.assert_allclose(effect_agreement(effects, used, 0.7), 1)
    if n > 2:
        effects[0] *= -1
        np.testing.assert_allclose(effect_agreement(effects, used, 0.7), [-1, *[1] * (n - 1)])
        said = certificate(effect_agreement(effects, used, 0.7), np.full(n, "active"), make_names(n), 0.7)
        assert said == f"shared by {n - 1} of {n} classes; means the opposite in c0"


def make_names(n: int) -> list[str]:
    return [f"c{i}" for i in range(n)]


@law
@given(st.integers(2, 9), st.integers(1, 8), st.booleans(), st.integers(0, 1000))
def test_the_most_that_agree_share_it_whatever_the_others_mean(n: int, m: int, is_opposite: bool, seed: int) -> None:
    """n classes of one effect and fewer of another or the opposite, with noise: cos .95 between those that agree."""
    m, rng = min(m, n - 1), np.random.default_rng(seed)
    one, noise = rng.normal(size=400), rng.normal(size=(n + m, 400))
    other = -one if is_opposite else rng.normal(size=400)
    effects = np.sqrt(0.95) * np.array([one] * n + [other] * m) + np.sqrt(0.05) * noise
    order, used = rng.permutation(n + m), np.full(n + m, True)
    agreement, names = effect_agreement(effects[order], used, 0.7), make_names(n + m)
    assert (agreement >= 0.7).tolist() == (order < n).tolist()
    said = certificate(agreement, np.full(n + m, "active"), names, 0.7)
    what = "the opposite" if is_opposite else "something else"
    assert said.startswith(f"shared by {n} of {n + m} classes; means {what} in ")


def test_classes_of_which_no_two_agree_mean_different_things() -> None:
    agreement = effect_agreement(np.eye(4), np.full(4, True), 0.7)
    assert certificate(agreement, np.full(4, "active"), make_names(4), 0.7) == (
        "means different things in different classes"
    )


def test_classes_that_do_not_use_it_have_no_say() -> None:
    effects = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = effect_agreement(effects, np.array([True, True, False]), 0.7)
    np.testing.assert_array_equal(found, [1, 1, np.nan])
    outcome = np.array(["active", "active", "inactive"])
    assert certificate(found, outcome, CLASSES, 0.7) == "shared by 2 of 3 classes"
    outcome = np.array(["active", "active", "under-powered"])
    assert certificate(found, outcome, CLASSES, 0.7) == "shared by 2 of 3 classes; not to be judged in c2"
    alone, nothing = effect_agreement(effects, np.array([True, False, False]), 0.7), np.full(3, np.nan)
    outcome = np.array(["active", "inactive", "inactive"])
    assert certificate(alone, outcome, CLASSES, 0.7) == "used by c0 alone of 3 classes"
    assert certificate(nothing, np.full(3, "inactive"), CLASSES, 0.7) == "used by no class"


@law
@given(st.floats(0.0, 2.0), st.floats(0.2, 0.95), st.integers(0, 100))
def test_the_true_variance_is_that_of_z_whatever_the_noise(sd: float, std: float, seed: int) -> None:
    """z ~ N(1, sd²), x = z + noise with s² = σ² / (1 − σ²): the posterior mean under N(0, 1) is (1 − σ²) x."""
    rng = np.random.default_rng(seed)
    z, noise = 1 + sd * rng.normal(size=(20_000, 1)), std / np.sqrt(1 - std**2) * rng.normal(size=(20_000, 1))
    found = true_variance((1 - std**2) * (z + noise), np.full_like(z, std))
    assert found[0] == pytest.approx(sd**2, abs=0.06 * (sd**2 + std**2 / (1 - std**2)) + 1e-6)


# --- the report ------------------------------------------------------------------------------------------------------


def make_embedded(seed: int, *, with_private: bool = True, flip: bool = False) -> AnnData:
    """An embedded data set of a model that is known.

    z_s: dim 0 varies in all classes, dim 1 in c0 and c1, constant in c2, dim 2 is empty. The block of c1 has a factor.
    Seeds name the first two dims the other way round, and one of them is turned.
    """
    adata = embedded("counts", seed=seed).copy()
    rng = np.random.default_rng(7)  # of the samples: the same in each seed
    n, label = adata.n_obs, np.array([CLASSES.index(name) for name in adata.obs["label"].astype(str)])
    truth = np.stack([rng.normal(size=n), np.where(label < 2, rng.normal(size=n), 0.8)], axis=1)
    noise = np.random.default_rng(seed).normal(size=(n, 3)) * 0.2
    mean = np.concatenate([truth, np.zeros((n, 1))], axis=1) * 0.96 + noise * [0.96, 0.96, 0]
    std = np.tile(np.array([0.2, 0.2, 1.0]), (n, 1))
    own = np.where(label == 1, rng.normal(size=n), 0.0)[:, None] * with_private
    own_std = np.where(label == 1, 0.3, 1.0)[:, None] if with_private else np.ones((n, 1))
    effects = np.zeros((adata.n_vars, 3))
    effects[:15, 0], effects[20:35, 1] = 1, 2
    private = np.zeros((adata.n_vars, 1))
    private[40:50] = 1.5
    if flip:
        order, signs = [1, 0, 2], np.array([-1.0, 1.0, 1.0])
        mean, std, effects = mean[:, order] * signs, std[:, order], effects[:, order] * signs
        own, private = -own, -private
    for key in [key for key in adata.varm if key.startswith("nvae_effect")]:
        del adata.varm[key]
    write = {"": 0.0, "_lower": -0.1, "_upper": 0.1}
    for end, shift in write.items():
        adata.varm["nvae_effect_shared" + end] = effects + shift
        for index in range(3):
            adata.varm[f"nvae_effect_shared_class_{index}{end}"] = effects * (1 + index) + shift
            adata.varm[f"nvae_effect_class_{index}{end}"] = private * (index == 1) + shift
    kl = {"shared": (mean**2 + std**2 - 1) / 2 - np.log(std), "own": (own**2 + own_std**2 - 1) / 2 - np.log(own_std)}
    blocks = np.zeros((n, 3))
    blocks[np.arange(n), label] = kl["own"][:, 0]
    held_out = (adata.obs["split"] != "train").to_numpy()
    gain = np.where(label == 1, 2.0, -0.01)[:, None] * with_private
    adata.obsm = {
        "X_nvae_shared": mean, "nvae_shared_std": std, "X_nvae_specific": own, "nvae_specific_std": own_std,
        "nvae_kl_shared": kl["shared"], "nvae_kl_private": blocks, "nvae_gain_specific": gain,
        "nvae_gain_shared": np.where(held_out[:, None], 3.0 - kl["shared"], np.nan),
    }  # fmt: skip
    adata.obs["nvae_gain_specific"] = gain[:, 0]
    adata.uns["nvae"] = dict(adata.uns["nvae"]) | {"seed": seed, "n_shared": 3, "n_private": 1}
    return adata


def make_null(n_refits: int = 20) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for refit in range(n_refits):
        for y in range(3):
            for statistic, kind, dims in (
                (OWN_BLOCK, "no_private", [-1]), (OWN_DIM, "no_private", [0]), (HIDDEN, "no_private", [0]),
                (SHARED, "no_private", [0, 1, 2]), (SHARED, "no_factor", [0, 1, 2]), (OWN_BLOCK, "no_factor", [-1]),
                (OWN_DIM, "no_factor", [0]), (HIDDEN, "no_factor", [0]),
            ):  # fmt: skip
                rows += [
                    {"kind": kind, "refit": refit, "statistic": statistic, "class": y, "dim": dim, "value": 0.05}
                    for dim in dims
                ]
    return pd.DataFrame(rows)


def run_of(n_seeds: int = 3, **options: Any) -> list[AnnData]:
    return [make_embedded(seed, flip=seed % 2 == 1, **options) for seed in range(n_seeds)]


def test_three_seeds_agree_on_the_factors_that_are_there() -> None:
    found = report_factors(run_of(), null=make_null())
    report = found.factors
    assert list(report.obs_names) == ["shared 1", "shared 2", "c1 1"]
    assert (report.obs["n_found"] == 3).all() and report.obs["published"].all()
    assert (report.obs["agreement"] > 0.9).all()
    outcomes = report.obsm[schema.OUTCOME_BY_CLASS]
    by_genes = {("f0" in str(row["top_up"]).split(", ")): name for name, row in report.obs.iterrows()}
    everywhere = by_genes[True]
    assert list(outcomes.loc[everywhere]) == ["active"] * 3
    (other,) = {"shared 1", "shared 2"} - {everywhere}
    assert list(outcomes.loc[other]) == ["active", "active", "inactive"]  # constant in c2, at 0.8
    assert report.obs.loc[other, "certificate"] == "shared by 2 of 3 classes"
    assert report.obs.loc[everywhere, "certificate"] == "shared by 3 of 3 classes"
    assert list(outcomes.loc["c1 1"]) == ["inactive", "active", "inactive"]
    assert report.obs.loc["c1 1", "private_to"] == "c1"
    members = report.uns["nvae"]["members"]
    assert members[members["factor"] == everywhere]["dim"].tolist() == [0, 1, 0]
    assert members[members["factor"] == everywhere]["sign"].tolist() == [1, 1, 1]
    assert members[members["factor"] == other]["sign"].tolist() == [1, -1, 1]
    assert members[members["factor"] == "c1 1"]["sign"].tolist() == [1, -1, 1]


def test_scores_are_means_of_turned_members_with_their_spread_and_nan_outside_the_class() -> None:
    run = run_of()
    found = report_factors(run, null=make_null())
    scores, spread = found.embedded.obsm["X_nvae_factors"], found.embedded.obsm["nvae_factors_std"]
    names = list(found.embedded.uns["nvae"]["factors"])
    assert names == list(found.factors.obs_names)
    label = run[0].obs["label"].astype(str).to_numpy()
    place = names.index("c1 1")
    assert np.isnan(scores[label != "c1", place]).all()
    np.testing.assert_allclose(
        scores[label == "c1", place], run[0].obsm["X_nvae_specific"][label == "c1", 0], rtol=1e-5
    )
    members = found.factors.uns["nvae"]["members"].query("factor == 'shared 1'")
    parts = [
        sign * run[seed].obsm["X_nvae_shared"][:, dim]
        for seed, dim, sign in members[["seed", "dim", "sign"]].itertuples(index=False)
    ]
    np.testing.assert_allclose(scores[:, 0], np.mean(parts, axis=0), rtol=1e-5)
    np.testing.assert_allclose(spread[:, 0], np.std(parts, axis=0, ddof=1), rtol=1e-4)


def test_the_loss_is_what_ablation_takes_from_held_out_samples() -> None:
    report = report_factors(run_of(), null=make_null()).factors
    np.testing.assert_allclose(report.obsm["loss_by_class"][:2], 3.0, rtol=1e-5)  # gain + KL, as made
    (row,) = np.flatnonzero(report.obs_names == "c1 1")
    assert np.isnan(report.obsm["loss_by_class"][row, [0, 2]]).all()
    test = run_of()[0]
    rows = ((test.obs["label"] == "c1") & (test.obs["split"] != "train")).to_numpy()
    expected = (2.0 + test.obsm["nvae_kl_private"][rows, 1]).mean()
    assert report.obs.loc["c1 1", "loss"] == pytest.approx(expected, rel=1e-5)
    assert report.obs.loc["c1 1", "loss_lower"] < expected < report.obs.loc["c1 1", "loss_upper"]


def test_the_interval_of_an_effect_has_room_for_samples_and_seeds() -> None:
    run = run_of()
    run[2].varm["nvae_effect_shared"] = run[2].varm["nvae_effect_shared"] * 1.3
    report = report_factors(run, null=make_null()).factors
    width = np.asarray(report.layers["effect_upper"] - report.layers["effect_lower"])
    effect = np.asarray(report.X)
    for row in (0, 1):
        moved = np.abs(effect[row]) > 0.5
        assert width[row, moved].min() > 2 * width[row, ~moved].max()
        assert width[row, ~moved].min() > 0.15  # 0.2 within each seed


def test_what_one_seed_alone_has_is_listed_apart_and_is_not_active() -> None:
    run = [make_embedded(0), make_embedded(1, with_private=False, flip=True), make_embedded(2, with_private=False)]
    report = report_factors(run, null=make_null()).factors
    assert list(report.obs_names) == ["shared 1", "shared 2", "c1 1"]
    alone = report.obs.loc["c1 1"]
    assert (alone["n_found"], alone["published"], alone["outcome"]) == (1, False, "inactive")
    assert alone["reading"] == "found in 1 of 3 seeds"
    assert np.isnan(alone["agreement"])
    lines = report_factors(run, null=make_null()).lines
    assert lines.index("## Found in few seeds") < next(i for i, line in enumerate(lines) if line.startswith("- **c1 1"))
    lowered = FactorSettings(report=ReportSettings(seed_share=0.3))
    assert not report_factors(run, lowered, make_null()).factors.obs.loc["c1 1", "published"]  # one is no consensus


def test_one_seed_is_reported_and_said_to_be_one() -> None:
    found = report_factors(run_of(1), null=make_null())
    assert found.factors.obs["published"].all()
    assert found.factors.obs["agreement"].isna().all()
    assert np.isnan(found.embedded.obsm["nvae_factors_std"]).all()
    assert any(note.startswith("one seed only") for note in found.factors.uns["nvae"]["notes"])


def test_a_factor_hidden_in_z_s_of_one_seed_is_that_of_the_blocks_of_others() -> None:
    run = run_of()
    hidden = make_embedded(5, with_private=False)
    own = run[0].obsm["X_nvae_specific"][:, 0]
    is_c1 = (hidden.obs["label"] == "c1").to_numpy()
    hidden.obsm["X_nvae_shared"][:, 2] = np.where(is_c1, own, 0)
    hidden.obsm["nvae_shared_std"][:, 2] = np.where(is_c1, 0.3, 1)
    mean, std = hidden.obsm["X_nvae_shared"], hidden.obsm["nvae_shared_std"]
    hidden.obsm["nvae_kl_shared"] = (mean**2 + std**2 - 1) / 2 - np.log(std)
    hidden.varm["nvae_effect_shared_class_1"][:, 2] = run[0].varm["nvae_effect_class_1"][:, 0]
    report = report_factors([*run[:2], hidden], null=make_null()).factors
    assert report.obs.loc["c1 1", "n_found"] == 3
    members = report.uns["nvae"]["members"].query("factor == 'c1 1'")
    assert members["kind"].tolist() == ["private", "private", "shared"]
    assert "hidden in z_s in 1 of them" in report.obs.loc["c1 1", "reading"]
    assert np.isfinite(report.obs.loc["c1 1", "loss"])


def test_a_class_whose_planted_programmes_are_missed_is_under_powered() -> None:
    rows = [
        {
            "run": run, "fold_change": fold, "class": y, "own_block": 5.0 if y != 2 else 0.0, "hidden": 0.0,
            "r_block": 0.9, "r_hidden": 0.0, "n_genes": 30, "mean_count": 1.0, "n_cells": 100,
        }
        for run in range(10) for fold in (1.5, 2.0) for y in range(3)
    ]  # fmt: skip
    settings = FactorSettings(power=PowerSettings(fold_changes=[1.5, 2.0]))
    found = report_factors(run_of(), settings, make_null(), planted=pd.DataFrame(rows))
    outcomes = found.factors.obsm[schema.OUTCOME_BY_CLASS]
    assert list(outcomes.loc["c1 1"]) == ["inactive", "active", "under-powered"]
    assert any("would be found in 10 of 10 runs" in line for line in found.lines)
    assert not any(note.startswith("power was not measured") for note in found.factors.uns["nvae"]["notes"])


def test_without_a_null_nothing_is_there_and_the_report_says_why() -> None:
    found = report_factors(run_of())
    assert set(found.factors.obs["outcome"]) == {"under-powered"}
    assert (found.factors.obsm[schema.OUTCOME_BY_CLASS] == "under-powered").all(axis=None)
    assert found.factors.obs["reading"].str.startswith("not to be judged").all()
    said = found.factors.uns["nvae"]["notes"]
    assert "null of private factors: no refits of kind 'no_private', so none is called" in said


def test_no_factor_at_all_makes_an_empty_report() -> None:
    empty = run_of(2, with_private=False)
    for adata in empty:
        for key in ("X_nvae_shared", "nvae_kl_shared"):
            adata.obsm[key] = adata.obsm[key] * 0
        adata.obsm["nvae_gain_shared"] = adata.obsm["nvae_gain_shared"] * 0 - 5
        adata.obsm["nvae_shared_std"] = adata.obsm["nvae_shared_std"] * 0 + 1
    found = report_factors(empty, null=make_null())
    assert found.factors.shape == (0, empty[0].n_vars)
    assert found.embedded.obsm["X_nvae_factors"].shape == (found.embedded.n_obs, 0)
    assert found.lines[2].startswith("0 shared and 0 private factors")


def test_the_order_of_the_seeds_changes_no_factor() -> None:
    one, other = (report_factors(run, null=make_null()).factors for run in (run_of(), run_of()[::-1]))
    assert list(one.obs_names) == list(other.obs_names)
    np.testing.assert_allclose(np.abs(one.X), np.abs(other.X), rtol=1e-5)
    np.testing.assert_allclose(one.obs["loss"], other.obs["loss"], rtol=1e-5)


def test_candidates_of_a_class_are_its_own() -> None:
    seeds = report_seeds(run_of(), null=make_null())
    found = find_factors(seeds, ReportSettings())
    assert [(one.kind, one.label, one.n_found) for one in found] == [
        ("shared", "", 3),
        ("shared", "", 3),
        ("private", "c1", 3),
    ]
    assert [n_needed(n, ReportSettings(seed_share=1.0)) for n in (1, 2, 5)] == [1, 2, 5]


def test_a_class_uses_a_shared_factor_where_as_many_seeds_say_so_as_must_find_it() -> None:
    run = run_of()
    dim = 0 if run[0].varm["nvae_effect_shared"][0, 0] > 0 else 1
    for adata, place in zip(run[:2], (dim, 1 - dim), strict=True):  # c2 has it by the word of the last seed alone
        rows = (adata.obs["label"] == "c2").to_numpy()
        adata.obsm["nvae_gain_shared"][rows, place] = -100
    report = report_factors(run, null=make_null()).factors
    (name,) = report.obs_names[report.obs["top_up"].str.split(", ").map(lambda names: "f0" in names)]
    assert report.obsm[schema.OUTCOME_BY_CLASS].loc[name].tolist() == ["active", "active", "inactive"]
    assert report.obs.loc[name, "n_found"] == 3
    run[1].obsm["nvae_gain_shared"] = make_embedded(1, flip=True).obsm["nvae_gain_shared"]
    report = report_factors(run, null=make_null()).factors
    assert report.obsm[schema.OUTCOME_BY_CLASS].loc[name].tolist() == ["active"] * 3


def test_q_is_the_largest_of_as_many_seeds_as_are_needed() -> None:
    seeds = report_seeds(run_of(), null=make_null())
    factors = find_factors(seeds, ReportSettings())
    rows = [member.row for member in factors[0].members]
    seeds.obsm[schema.Q_BY_CLASS][rows, 2] = [0.9, 0.01, 0.3]
    found = judge(factors, seeds, ReportSettings(), 3)
    assert found.q[0, 2] == 0.3 and found.by_class[0, 2] == "inactive"
    seeds.obsm[schema.Q_BY_CLASS][rows, 2] = [0.9, 0.01, 0.04]
    found = judge(factors, seeds, ReportSettings(), 3)
    assert found.q[0, 2] == 0.04 and found.by_class[0, 2] == "active"


def test_blocks_that_hold_what_all_share_are_no_private_factors() -> None:
    run = run_of()
    for adata in run:
        rng, n = np.random.default_rng(3), adata.n_obs
        own = rng.normal(size=(n, 1))
        adata.obsm["X_nvae_specific"], adata.obsm["nvae_specific_std"] = own, np.full((n, 1), 0.3)
        adata.obsm["nvae_gain_specific"], adata.obs["nvae_gain_specific"] = np.full((n, 1), 2.0), 2.0
        label = adata.obs["label"].astype(str).map(CLASSES.index).to_numpy()
        adata.obsm["nvae_kl_private"] = np.zeros((n, 3))
        adata.obsm["nvae_kl_private"][np.arange(n), label] = (own[:, 0] ** 2 + 0.09 - 1) / 2 - np.log(0.3)
        for index in (0, 2):
            for end in ("", "_lower", "_upper"):
                adata.varm[f"nvae_effect_class_{index}{end}"] = adata.varm[f"nvae_effect_class_1{end}"]
    found = report_factors(run, null=make_null())
    blocks = found.factors.obs[found.factors.obs["kind"] == "private"]
    assert len(blocks) == 3 and (blocks["private_to"].astype(str) == "").all()
    assert found.lines[2].startswith("2 shared and 0 private factors are there")
    assert "dims of blocks that hold what most classes share: 3" in found.lines[2]
    capacity = found.factors.uns["nvae"]["capacity"]
    assert capacity[["n_used", "n_spilled", "room_left"]].to_numpy().tolist() == [[0, 1, 0]] * 3
    published = Published.of_consensus(found.factors, found.embedded)
    assert published.used[-3:].all()  # as of a seed
    uncalled = report_factors(run).factors.obs  # without a null, or by one that is as short of room, none is active
    said = uncalled.loc[(uncalled["kind"] == "private").to_numpy(), "reading"].astype(str)
    assert len(said) == 3 and said.str.endswith("S is too small").all()


def test_a_class_whose_name_is_part_of_another_has_no_part_of_its_factors() -> None:
    run = run_of()
    for adata in run:
        names = {"c0": "c0", "c1": "CD4, T", "c2": "T"}
        adata.obs["label"] = adata.obs["label"].astype(str).map(names)
        adata.uns["nvae"] = adata.uns["nvae"] | {"classes": np.array(list(names.values()), dtype=object)}
        adata.obsm["X_nvae_shared"][:, 2] = adata.obsm["X_nvae_specific"][:, 0]  # it hides in z_s too
        adata.obsm["nvae_shared_std"][:, 2] = adata.obsm["nvae_specific_std"][:, 0]
        mean, std = adata.obsm["X_nvae_shared"], adata.obsm["nvae_shared_std"]
        adata.obsm["nvae_kl_shared"] = (mean**2 + std**2 - 1) / 2 - np.log(std)
        for end in ("", "_lower", "_upper"):
            for index in range(3):
                adata.varm[f"nvae_effect_shared_class_{index}{end}"][60:70, 2] = 1.0
    report = report_factors(run, null=make_null()).factors
    assert {"CD4, T 1", "CD4, T 2"} <= set(report.obs_names)
    assert not any(name.startswith("T ") for name in report.obs_names)


def test_the_effect_of_a_dim_that_few_classes_have_is_the_one_in_these() -> None:
    run = run_of(with_private=False)
    for adata in run:
        own = make_embedded(0).obsm["X_nvae_specific"][:, 0]
        is_c1 = (adata.obs["label"] == "c1").to_numpy()
        adata.obsm["X_nvae_shared"][:, 2] = np.where(is_c1, own, 0)
        adata.obsm["nvae_shared_std"][:, 2] = np.where(is_c1, 0.3, 1)
        mean, std = adata.obsm["X_nvae_shared"], adata.obsm["nvae_shared_std"]
        adata.obsm["nvae_kl_shared"] = (mean**2 + std**2 - 1) / 2 - np.log(std)
        for end, shift in {"": 0.0, "_lower": -0.1, "_upper": 0.1}.items():
            adata.varm[f"nvae_effect_shared_class_1{end}"][60:70, 2] = 3.0 + shift
            adata.varm[f"nvae_effect_shared{end}"][60:70, 2] = 1.0 + shift
    report = report_factors(run, null=make_null()).factors
    np.testing.assert_allclose(report["c1 1"].X[0, 60:70], 3.0)
    assert (np.asarray(report["c1 1"].layers["effect_lower"])[0, 60:70] > 2.5).all()


def test_a_class_that_cannot_be_judged_is_said_to_be_so_and_one_that_can_is_not() -> None:
    said = report_factors(run_of()).lines
    assert any("class c1: under-powered, whether it has a private factor cannot be told" in line for line in said)
    said = report_factors(run_of(), null=make_null()).lines
    assert not any("under-powered" in line for line in said)
    assert "- class c1 uses 1 private factor; 1 of 1 private dims taken, no room left" in said


def test_what_intervals_are_over_is_said() -> None:
    run = run_of()
    for adata in run:
        adata.obs = adata.obs.drop(columns="donor", errors="ignore")
    assert any(note.startswith("no donor key: intervals are over samples") for note in notes_of(run))
    for adata in run:
        adata.obs["donor"] = [f"d{i % 5}" for i in range(adata.n_obs)]
    assert any(note.startswith("donor interval not estimable: 5 donors") for note in notes_of(run))
    for adata in run:
        adata.obs["donor"] = [f"d{i % 8}" for i in range(adata.n_obs)]
    assert not any("interval" in note for note in notes_of(run))
    assert (report_factors(run, null=make_null()).factors.obs["resampled"] == "donors").all()
    for adata in run:
        held_out = adata.obs_names[adata.obs["split"] != "train"]
        adata.obs.loc[held_out[::4], "donor"] = None  # they are of no donor, and of no ninth one
    assert any(note.startswith("donor interval not estimable: 8 donors") for note in notes_of(run))


def notes_of(run: list[AnnData]) -> list[str]:
    return [str(note) for note in report_factors(run, null=make_null()).factors.uns["nvae"]["notes"]]


def test_factors_that_are_listed_apart_are_no_family() -> None:
    run = [make_embedded(0), make_embedded(1, with_private=False, flip=True), make_embedded(2, with_private=False)]
    report = report_factors(run, null=make_null()).factors
    assert set(report.uns["nvae"]["associations"]["factor"]) == {"shared 1", "shared 2"}
    assert report.obs.loc["c1 1", "tag"] == ""


def test_plantings_without_a_null_or_settings_are_refused() -> None:
    planted = pd.DataFrame({"run": [0]})
    with pytest.raises(UserError, match=r"plantings .* without a null"):
        report_factors(run_of(), FactorSettings(power=PowerSettings()), planted=planted)
    with pytest.raises(UserError, match=r"plantings .* without `power` in the settings"):
        report_factors(run_of(), null=make_null(), planted=planted)
