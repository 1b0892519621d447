"""Simulated data have the numbers of their source, and what is planted in them is where the truth says."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from nvae_bio.config import CountsSettings, CountsSimulation, ImagesSettings, ImagesSimulation, load_config
from nvae_bio.data import builtin
from nvae_bio.data.pixels import pack_images
from nvae_bio.errors import UserError
from nvae_bio.prepare import prepare_data
from nvae_bio.simulate import simulate, simulate_counts, simulate_images
from nvae_bio.simulate.counts import CellPlan, draw_doublets, make_plan
from nvae_bio.simulate.profile import PRIOR_PAIRS, Profile, estimate_dispersion, estimate_profile

ROOT = Path(__file__).resolve().parent.parent
SHIFT = 1.5
OWN = {"name": "own", "kind": "private", "classes": ["b"], "share": 0.2, "n_genes": 30, "fold_change": 2.0}
COMMON = {"name": "common", "kind": "shared", "activity": "normal", "n_genes": 30, "fold_change": 1.5}


def make_nb(rate: np.ndarray, dispersion: np.ndarray, library: np.ndarray, seed: int) -> np.ndarray:
    """Negative binomial counts as NumPy draws them; (n, G)."""
    mean, size = library[:, None] * rate, 1 / dispersion
    return np.random.default_rng(seed).negative_binomial(size, size / (size + mean))


@cache
def real_cells() -> AnnData:
    """Counts of two classes with profiles, libraries and dispersions of their own; half of each library is outside."""
    rng = np.random.default_rng(3)
    rate = rng.gamma(1.0, 1.0, (2, 150)) + 0.05
    rate /= 2 * rate.sum(axis=1, keepdims=True)
    label = np.repeat([0, 1], [400, 300])
    library = np.round(np.exp(rng.normal([7.0, 7.5], 0.3, (700, 2))[np.arange(700), label]))
    counts = make_nb(rate[label], rng.gamma(2.0, 0.2, 150) + 0.02, library, 4)
    obs = pd.DataFrame({"type": np.array(["b", "a"])[label], "total": np.maximum(library, counts.sum(axis=1))})
    obs.index = pd.Index([f"s{i}" for i in range(700)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(150)])
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def counts_settings(**values: Any) -> CountsSimulation:
    source = {"label_key": "type", "library_key": "total"}
    return CountsSimulation.model_validate(
        {"kind": "counts", "source": source, "classes": {"a": 300, "b": 200}, "min_mean": 0.5} | values
    )


@cache
def planted_counts() -> tuple[AnnData, AnnData]:
    return simulate_counts(counts_settings(classes={"a": 1500, "b": 1500}, programmes=[OWN, COMMON]), real_cells())


@cache
def plain_counts() -> tuple[AnnData, AnnData]:
    return simulate_counts(counts_settings(classes={"a": 2000, "b": 2000}), real_cells())


def source_profile(**values: Any) -> Profile:
    settings = counts_settings(**values)
    return estimate_profile(prepare_data(settings.source, real_cells()), settings, "test")


def dense(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.X.toarray(), dtype=np.float64)


def same_bits(one: AnnData, other: AnnData) -> bool:
    is_same = dense(one) == dense(other) if sparse.issparse(one.X) else one.X == other.X
    return bool(np.all(is_same)) and one.obs.equals(other.obs)


# --- what is taken from the source -----------------------------------------------------------------------------------


def test_the_dispersion_of_drawn_counts_is_found() -> None:
    rng = np.random.default_rng(0)
    true, label = rng.uniform(0.1, 2.0, 200), np.arange(3000) % 3
    library = np.exp(rng.normal(0, 0.5, 3000))
    rate = rng.uniform(1.0, 10.0, (3, 200))
    found = estimate_dispersion(sparse.csr_matrix(make_nb(rate[label], true, library, 1)), library, label)
    error = (found - true) / (1 + true)
    assert abs(np.median(error)) < 0.01
    assert np.quantile(np.abs(error), 0.95) < 0.15
    assert np.corrcoef(found, true)[0, 1] > 0.95


def test_a_gene_without_pairs_has_the_typical_dispersion_and_poisson_counts_have_none() -> None:
    true, library, label = np.full(101, 0.5), np.ones(2000), np.zeros(2000)
    rate = np.full((1, 101), 3.0)
    rate[0, -1] = 1e-3
    counts = make_nb(np.repeat(rate, 2000, axis=0), true, library, 2)
    found = estimate_dispersion(sparse.csr_matrix(counts), library, label)
    assert abs(found[-1] - 0.5) < 0.05
    poisson = np.random.default_rng(0).poisson(5, (2000, 100))
    assert estimate_dispersion(sparse.csr_matrix(poisson), library, label).max() < 0.05
    few = sparse.csr_matrix(np.eye(100))
    assert (estimate_dispersion(few, np.ones(100), np.zeros(100)) == 0).all()
    assert PRIOR_PAIRS > 0


def test_rates_are_shares_of_the_library_in_the_classes_as_named() -> None:
    cells, profile = real_cells(), source_profile(classes={"b": 5, "a": 5})
    for index, name in enumerate("ba"):
        mask = (cells.obs["type"] == name).to_numpy()
        expected = dense(cells)[mask].sum(axis=0) / cells.obs["total"][mask].sum()
        np.testing.assert_allclose(profile.rate[index], expected)
        np.testing.assert_allclose(profile.mean[index], dense(cells)[mask].mean(axis=0))
        assert sorted(profile.libraries[index]) == sorted(cells.obs["total"][mask])


def test_a_shared_profile_is_that_of_all_cells() -> None:
    cells, profile = real_cells(), source_profile(classes={"x": 5, "y": 5, "z": 5}, class_profiles="shared")
    np.testing.assert_allclose(profile.rate, np.tile(dense(cells).sum(axis=0) / cells.obs["total"].sum(), (3, 1)))
    np.testing.assert_array_equal(profile.dispersion, source_profile().dispersion)


def test_the_genes_are_those_that_most_cells_have() -> None:
    n_cells = pd.Series((dense(real_cells()) > 0).sum(axis=0), index=real_cells().var_names)
    profile = source_profile(n_genes=40)
    assert set(profile.genes) == set(n_cells.sort_values(ascending=False, kind="stable").index[:40])
    assert list(profile.genes) == [name for name in real_cells().var_names if name in set(profile.genes)]


# --- counts ----------------------------------------------------------------------------------------------------------


def test_means_of_simulated_counts_are_those_of_the_source() -> None:
    data, truth = plain_counts()
    profile, counts = source_profile(), dense(data)
    for index, name in enumerate("ab"):
        cells = (data.obs["label"] == name).to_numpy()
        mean = np.outer(truth.obs["library_mean"].to_numpy()[cells], profile.rate[index])
        variance = mean + profile.dispersion * mean**2
        z = (counts[cells] - mean).sum(axis=0) / np.sqrt(variance.sum(axis=0))
        assert np.abs(z).max() < 4.5
        assert 0.8 < z.std() < 1.2


def test_dispersions_of_simulated_counts_are_those_of_the_source() -> None:
    data, truth = plain_counts()
    library = truth.obs["library_mean"].to_numpy()
    found = estimate_dispersion(sparse.csr_matrix(data.X), library, data.obs["label"].astype(str).to_numpy())
    true = truth.var["dispersion"].to_numpy()
    np.testing.assert_array_equal(true, source_profile().dispersion)
    assert np.corrcoef(found, true)[0, 1] > 0.95
    assert abs(np.median((found - true) / (1 + true))) < 0.02


def test_libraries_are_those_of_the_source() -> None:
    data, truth = plain_counts()
    cells = real_cells().obs
    for name in "ab":
        members, source = truth.obs["label"] == name, cells.loc[cells["type"] == name, "total"]
        drawn = truth.obs.loc[members, "library_mean"]
        assert set(drawn) <= set(source)
        assert abs(drawn.mean() - source.mean()) < 4 * source.std() / np.sqrt(len(drawn))
        error = data.obs.loc[members, "library"] / drawn - 1
        assert abs(error.mean()) < 0.01
        assert error.std() < 0.15
    assert (data.obs["library"] >= dense(data).sum(axis=1)).all()
    assert abs(dense(data).sum() / data.obs["library"].sum() - 0.5) < 0.02


def test_what_rises_leaves_the_library_as_it_is() -> None:
    settings = counts_settings(
        programmes=[OWN | {"fold_change": 50}], n_marker_genes=10, batches={"n": 2, "effect_sd": 1}
    )
    plan = make_plan(settings, source_profile())
    mean, rest = plan.mean(slice(None))
    np.testing.assert_allclose(mean.sum(axis=1) + rest, plan.library)
    np.testing.assert_allclose(plan.rate.sum(axis=1) + plan.rest, 1)


def measured_log_fold(on: np.ndarray, off: np.ndarray, genes: np.ndarray) -> float:
    """Log ratio of counts of `genes`, over those of genes in no programme, between two groups of cells."""
    data, truth = planted_counts()
    counts, others = dense(data), (truth.varm["log_fold_change"] == 0).all(axis=1).to_numpy()
    share = [counts[cells][:, genes].sum() / counts[cells][:, others].sum() for cells in (on, off)]
    return float(np.log(share[0] / share[1]))


def test_planted_fold_changes_are_measured_where_they_should_be() -> None:
    _, truth = planted_counts()
    label, activity = truth.obs["label"].to_numpy(), truth.obsm["activity"]
    effects = truth.varm["log_fold_change"]
    own, common = ((effects[name] != 0).to_numpy() for name in ("own", "common"))
    on, in_b = (activity["own"] == 1).to_numpy(), label == "b"
    assert abs(measured_log_fold(on, in_b & ~on, own) - np.log(2)) < 0.08
    assert abs(measured_log_fold(on, in_b & ~on, common)) < 0.08
    for name in "ab":
        z, members = activity["common"].to_numpy(), label == name
        high, low = members & (np.abs(z - 1) < 0.3), members & (np.abs(z + 1) < 0.3)
        expected = (z[high].mean() - z[low].mean()) * np.log(1.5)
        assert abs(measured_log_fold(high, low, common) - expected) < 0.08
    control = np.arange(len(label)) % 2 == 0
    assert abs(measured_log_fold((label == "a") & control, (label == "a") & ~control, own)) < 0.08


def test_activities_are_on_in_their_share_of_their_classes_alone() -> None:
    _, truth = planted_counts()
    activity, label = truth.obsm["activity"], truth.obs["label"]
    assert set(activity["own"]) == {0, 1}
    assert activity.groupby(label, observed=True)["own"].sum().to_dict() == {"a": 0, "b": 300}
    assert abs(activity["common"].mean()) < 0.06
    assert abs(activity["common"].std() - 1) < 0.05
    assert abs(np.corrcoef(activity["common"], activity["own"])[0, 1]) < 0.06


def test_genes_of_programmes_and_markers_are_disjoint_and_not_too_rare() -> None:
    programmes = [OWN | {"n_genes": 11, "direction": "both"}, COMMON | {"n_genes": 20}]
    settings = counts_settings(programmes=programmes, n_marker_genes=10, marker_fold_change=4, min_mean=1.0)
    _, truth = simulate_counts(settings, real_cells())
    effects, profile = truth.varm["log_fold_change"], source_profile()
    assert (effects != 0).sum().to_dict() == {"own": 11, "common": 20}
    assert np.isclose(effects["own"], np.log(2)).sum() == 6
    assert np.isclose(effects["own"], -np.log(2)).sum() == 5
    markers = truth.var["marker_of"].astype(str)
    assert markers.value_counts().to_dict() == {"": 130, "a": 10, "b": 10}
    assert ((effects != 0).sum(axis=1) + (markers != "") <= 1).all()
    assert (profile.mean[1][effects["own"] != 0] >= 1).all()
    assert (profile.mean[:, effects["common"] != 0] >= 1).all()
    ratio = truth.varm["class_rate"] / profile.rate.T
    of_a, of_b = ((markers == name).to_numpy() for name in "ab")
    plain = ~(of_a | of_b)
    np.testing.assert_allclose(ratio[of_a, 0] / ratio[plain, 0].mean(), 4)
    np.testing.assert_allclose(ratio[of_b, 1] / ratio[plain, 1].mean(), 4)
    np.testing.assert_allclose(ratio[of_b, 0], ratio[plain, 0].mean())


@pytest.mark.parametrize("name", ["batch", "donor"])
def test_levels_have_the_effects_and_depths_that_are_asked_for(name: str) -> None:
    levels = {"n": 3, "effect_sd": 0.4, "depth_ratio": 4.0}
    settings = counts_settings(
        classes={"a": 1200, "b": 1200},
        class_profiles="shared",
        **{f"{name}es" * (name == "batch") or f"{name}s": levels},
    )
    data, truth = simulate_counts(settings, real_cells())
    effect, level = truth.varm[f"{name}_effect"], data.obs[name]
    assert abs(effect.std() / 0.4 - 1) < 0.1
    assert data.obs.groupby(["label", name], observed=True).size().tolist() == [400] * 6
    total = data.obs.groupby(name, observed=True)["library"].mean()
    assert abs(total[f"{name}2"] / total[f"{name}0"] / 4 - 1) < 0.08
    assert abs(total[f"{name}1"] ** 2 / (total[f"{name}0"] * total[f"{name}2"]) - 1) < 0.1
    counts, seen = dense(data), source_profile().mean.min(axis=0) > 1
    share = np.stack(
        [counts[level == key].sum(axis=0) / data.obs["library"][level == key].sum() for key in total.index]
    )
    found, true = np.log(share[2] / share[0])[seen], (effect[:, 2] - effect[:, 0])[seen]
    slope = np.polyfit(true, found, 1)[0]
    assert abs(slope - 1) < 0.05
    assert np.corrcoef(true, found)[0, 1] > 0.98


def test_extra_depth_has_its_spread_and_leaves_the_mean() -> None:
    _, truth = simulate_counts(counts_settings(classes={"a": 4000, "b": 10}, depth_sd=0.5), real_cells())
    depth = truth.obs["depth"].to_numpy()
    assert abs(np.log(depth).std() - 0.5) < 0.03
    assert abs(depth.mean() - 1) < 0.04
    assert set(np.round(truth.obs["library_mean"] / depth, 6)) <= set(real_cells().obs["total"])


def test_cells_are_as_many_times_deeper_as_is_asked_for_and_nothing_else_changes() -> None:
    settings = counts_settings(programmes=[COMMON | {"n_genes": 5}])
    (data, truth), (deep, deep_truth) = (
        simulate_counts(settings.model_copy(update={"depth": depth}), real_cells()) for depth in (1.0, 5.0)
    )
    np.testing.assert_allclose(deep_truth.obs["library_mean"], 5 * truth.obs["library_mean"])
    np.testing.assert_allclose(deep_truth.varm["class_rate"], truth.varm["class_rate"])
    assert (deep_truth.obs["depth"] == 5).all()
    assert abs(deep.X.sum() / data.X.sum() / 5 - 1) < 0.02


def test_a_programme_may_have_genes_of_its_own_least_mean_at_the_simulated_depth() -> None:
    own, profile = OWN | {"n_genes": 10, "min_mean": 8.0}, source_profile()
    settings = counts_settings(programmes=[own, COMMON | {"n_genes": 60}], depth=4, min_mean=0.1)
    _, truth = simulate_counts(settings, real_cells())
    genes = truth.varm["log_fold_change"] != 0
    assert (4 * profile.mean[1][genes["own"]] >= 8).all()
    assert (profile.mean[:, genes["common"]].min() * 4 < 8).any()
    with pytest.raises(UserError, match="only 0 have a mean of at least min_mean 90000 counts"):
        simulate_counts(counts_settings(programmes=[own | {"min_mean": 9e4}]), real_cells())


def test_a_class_shift_is_in_the_means_alone() -> None:
    classes = dict.fromkeys("abcde", 1000)
    programme = COMMON | {"class_shift": SHIFT}
    binary = {"name": "switch", "kind": "shared", "share": 0.3, "class_shift": 1.0, "n_genes": 5, "fold_change": 2}
    settings = counts_settings(classes=classes, class_profiles="shared", programmes=[programme, binary], n_genes=60)
    plan = make_plan(settings, source_profile(classes=classes, class_profiles="shared", n_genes=60))
    by_class = plan.activity.groupby(plan.label)
    np.testing.assert_allclose(sorted(by_class["common"].mean()), np.linspace(-SHIFT, SHIFT, 5), atol=0.15)
    np.testing.assert_allclose(by_class["common"].std(), 1, atol=0.1)
    odds = 0.3 / 0.7 * np.exp(np.linspace(-1, 1, 5))
    np.testing.assert_allclose(sorted(by_class["switch"].mean()), odds / (1 + odds), atol=5e-4)
    assert not np.array_equal(np.argsort(by_class["common"].mean()), np.argsort(by_class["switch"].mean()))


def test_a_change_of_one_setting_leaves_other_draws_as_they_are() -> None:
    one = counts_settings(programmes=[OWN])
    other = counts_settings(programmes=[OWN, COMMON], depth_sd=0.3, donors={"n": 3, "effect_sd": 0.5})
    plans = [make_plan(settings, source_profile()) for settings in (one, other)]
    assert plans[0].activity["own"].equals(plans[1].activity["own"])
    np.testing.assert_array_equal(plans[0].log_fold_change[0], plans[1].log_fold_change[0])
    np.testing.assert_allclose(plans[0].library, plans[1].library / plans[1].depth)


# --- treatments, what is followed, named genes, swapped labels, doublets ---------------------------------------------


MANY: dict[str, Any] = {
    "programmes": [OWN | {"direction": "both"}, COMMON | {"class_shift": 0.5, "share": 0.5}],
    "n_marker_genes": 3,
    "batches": {"n": 2, "effect_sd": 0.1, "depth_ratio": 2.0},
    "donors": {"n": 3, "effect_sd": 0.2},
    "depth": 1.5,
    "depth_sd": 0.3,
    "seed": 5,
}
FOLLOWED = ("condition", "batch", "donor", "depth")
SIX = {"class_profiles": "shared", "classes": dict.fromkeys("abcdef", 200)}


def checksum(data: AnnData, truth: AnnData) -> str:
    """Of counts, names, labels and levels, and of what was drawn before them (to six digits)."""
    digest = hashlib.sha256(dense(data).astype("<i4").tobytes())
    for names in (data.obs_names, data.var_names, *(data.obs[name] for name in ("label", "batch", "donor"))):
        digest.update(",".join(names).encode())
    tables = (data.obs[["library"]], truth.obs[["library_mean", "depth"]], truth.obsm["activity"])
    for table in (*tables, *(truth.varm[key] for key in ("log_fold_change", "class_rate", "donor_effect"))):
        digest.update(np.rint(1e6 * np.asarray(table)).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(("values", "bits"), [({}, "adb5356ad9cadeb9"), (MANY, "d742bd0879830528")])
def test_settings_without_what_came_later_give_the_bits_of_before(values: dict[str, Any], bits: str) -> None:
    """Sums of the code before treatments and doublets were there; a NumPy that draws otherwise changes them."""
    assert checksum(*simulate_counts(counts_settings(**values), real_cells())) == bits


def make_follower(what: str, **values: Any) -> dict[str, Any]:
    return {"name": what, "kind": "shared", "follows": what, "n_genes": 5, "fold_change": 2} | values


def follow(noise: float, **values: Any) -> tuple[AnnData, AnnData]:
    """Four programmes, each of which follows something else."""
    settings = counts_settings(
        programmes=[make_follower(what, follows_noise=noise) for what in FOLLOWED],
        conditions={"names": ["none", "low", "high"]},
        batches={"n": 3},
        donors={"n": 4},
        **values,
    )
    return simulate_counts(settings, real_cells())


def test_without_noise_an_activity_is_a_function_of_what_it_follows() -> None:
    _, truth = follow(0.0)
    activity, obs = truth.obsm["activity"], truth.obs
    np.testing.assert_array_equal(activity["condition"], obs["condition"].map({"none": 0, "low": 1, "high": 2}))
    for what in ("batch", "donor"):
        by_level = activity.groupby(obs[what], observed=True)[what]
        assert (by_level.nunique() == 1).all() and activity[what].nunique() == obs[what].nunique()
        np.testing.assert_allclose([by_level.first().mean(), by_level.first().std(ddof=0)], [0, 1], atol=1e-12)
    log_library = np.log(obs["library_mean"])
    assert np.corrcoef(activity["depth"], log_library)[0, 1] > 1 - 1e-12
    np.testing.assert_allclose(activity["depth"], (log_library - log_library.mean()) / log_library.std(ddof=0))


def test_noise_is_added_to_what_is_followed_and_to_nothing_else() -> None:
    exact, noisy = (follow(noise, classes={"a": 3000, "b": 3000})[1] for noise in (0.0, 0.5))
    residual = noisy.obsm["activity"] - exact.obsm["activity"]
    np.testing.assert_allclose(residual.std(), 0.5, rtol=0.05)
    np.testing.assert_allclose(residual.mean(), 0, atol=0.03)
    r = np.corrcoef(np.hstack([residual, exact.obsm["activity"]]).T) - np.eye(8)
    assert np.abs(r[:4]).max() < 0.06
    assert noisy.obs.equals(exact.obs)


def test_a_treatment_moves_the_genes_of_its_programme_in_the_classes_that_have_it() -> None:
    programme = make_follower("condition", kind="private", classes=["b"], n_genes=30, follows_noise=0.0)
    settings = counts_settings(classes={"a": 1500, "b": 1500}, programmes=[programme], conditions={})
    data, truth = simulate_counts(settings, real_cells())
    genes, counts = (truth.varm["log_fold_change"]["condition"] != 0).to_numpy(), dense(data)
    for name, expected in {"a": 0.0, "b": np.log(2)}.items():
        share = {}
        for arm in ("control", "treated"):
            cells = ((data.obs["label"] == name) & (data.obs["condition"] == arm)).to_numpy()
            share[arm] = counts[cells][:, genes].sum() / counts[cells][:, ~genes].sum()
        assert abs(np.log(share["treated"] / share["control"]) - expected) < 0.08
    assert (
        truth.obsm["activity"]["condition"] == ((truth.obs["label"] == "b") & (truth.obs["condition"] == "treated"))
    ).all()


def test_arms_are_spread_over_the_cells_of_each_donor_or_over_donors() -> None:
    arms = {"names": ["x", "y", "z"]}
    paired, unpaired = (
        simulate_counts(counts_settings(donors={"n": 7}, conditions=arms | {"design": design}), real_cells())[0].obs
        for design in ("paired", "unpaired")
    )
    cells = paired.groupby(["label", "donor", "condition"], observed=False).size().unstack()
    assert cells.shape == (14, 3) and (cells.max(axis=1) - cells.min(axis=1) <= 1).all()
    of_donor = unpaired.groupby("donor", observed=True)["condition"]
    assert (of_donor.nunique() == 1).all()
    assert sorted(of_donor.first().value_counts()) == [2, 2, 3]
    assert unpaired["donor"].equals(paired["donor"])


def test_depth_cannot_be_followed_where_it_does_not_vary() -> None:
    cells = real_cells().copy()
    cells.obs["total"] = 40000.0
    settings = counts_settings(programmes=[make_follower("depth", min_mean=1e-9)])
    with pytest.raises(
        UserError, match=r"^programmes: depth: follows 'depth', but all cells have the same library; .*"
    ):
        simulate_counts(settings, cells)
    simulate_counts(settings.model_copy(update={"depth_sd": 0.1}), cells)


def test_a_programme_may_be_that_of_a_majority_of_the_classes() -> None:
    programme = OWN | {"classes": list("bcef"), "share": 0.3, "fold_change": 4}
    data, truth = simulate_counts(counts_settings(**SIX, programmes=[programme]), real_cells())
    on = truth.obsm["activity"].groupby(truth.obs["label"], observed=True)["own"].sum()
    assert on.to_dict() == {name: 60 * (name in "bcef") for name in "abcdef"}
    assert truth.uns["nvae_truth"]["in_class"].tolist() == [[False, True, True, False, True, True]]
    genes, is_on = (
        (truth.varm["log_fold_change"]["own"] != 0).to_numpy(),
        (truth.obsm["activity"]["own"] == 1).to_numpy(),
    )
    counts, label = dense(data), truth.obs["label"].to_numpy()
    for name in "bcef":
        share = [
            counts[cells][:, genes].sum() / counts[cells].sum() for cells in (is_on & (label == name), label == "a")
        ]
        assert share[0] / share[1] > 2


def test_named_genes_are_those_of_the_programme_and_of_no_other() -> None:
    named = {"name": "cycle", "kind": "shared", "share": 0.3, "genes": ["g7", "g3", "g99"], "fold_change": 2}
    values = {"n_genes": 147, "min_mean": 1e-9}
    settings = counts_settings(programmes=[COMMON | values, named | {"direction": "both"}])
    _, truth = simulate_counts(settings, real_cells())
    effects = truth.varm["log_fold_change"]
    cycle = effects["cycle"][effects["cycle"] != 0]
    np.testing.assert_allclose(cycle[["g7", "g3", "g99"]], np.log(2) * np.array([1, -1, 1]))
    assert len(cycle) == 3 and ((effects != 0).sum(axis=1) == 1).all()
    assert truth.uns["nvae_truth"]["planted"]["n_genes"].to_dict() == {"common": 147, "cycle": 3}
    with pytest.raises(UserError) as error:
        simulate_counts(counts_settings(programmes=[named | {"genes": ["MCM5", "g3", "PCNA"]}]), real_cells())
    assert str(error.value).startswith("programmes: cycle: genes: MCM5, PCNA: not among the 150 genes")
    assert "\n" not in str(error.value)


def test_labels_are_swapped_in_their_share_of_each_class_and_the_truth_keeps_the_class() -> None:
    settings = counts_settings(**SIX, programmes=[OWN])
    plain, plain_truth = simulate_counts(settings, real_cells())
    data, truth = simulate_counts(settings.model_copy(update={"label_swaps": 0.15}), real_cells())
    swapped = truth.obs["is_swapped"]
    assert swapped.groupby(truth.obs["label"], observed=True).sum().to_dict() == dict.fromkeys("abcdef", 30)
    assert truth.obs["label"].equals(plain.obs["label"])
    assert (truth.obs["given_label"] == data.obs["label"]).all()
    assert ((data.obs["label"].astype(str) != truth.obs["label"].astype(str)) == swapped).all()
    pairs = truth.obs[swapped].groupby(["label", "given_label"], observed=False).size().unstack().to_numpy()
    assert (pairs.diagonal() == 0).all() and (pairs[~np.eye(6, dtype=bool)] > 0).all()
    np.testing.assert_array_equal(dense(data), dense(plain))
    assert truth.obsm["activity"].equals(plain_truth.obsm["activity"])
    assert not {"given_label", "is_swapped", "is_doublet", "doublet_of"} & {*plain_truth.obs, *data.obs}


def doublet_settings(**values: Any) -> CountsSimulation:
    levels = {"batches": {"n": 2, "depth_ratio": 3.0}, "donors": {"n": 3}, "conditions": {}}
    return counts_settings(
        **{"classes": {"a": 1500, "b": 1500}, "programmes": [OWN], "doublets": 0.2} | levels | values
    )


@cache
def doublets() -> tuple[AnnData, AnnData, CellPlan, np.ndarray]:
    """Data and truth, the plan of the single cells, and the pairs that doublets are made of."""
    settings = doublet_settings()
    plan = make_plan(settings, source_profile(classes=settings.classes))
    return *simulate_counts(settings, real_cells()), plan, draw_doublets(plan, settings.doublets, settings.seed)


def test_a_doublet_is_added_with_the_class_levels_and_activity_of_one_of_its_two_cells() -> None:
    data, truth, plan, pairs = doublets()
    plain, plain_truth = simulate_counts(doublet_settings(doublets=0.0), real_cells())
    assert same_bits(data[:3000].copy(), plain) and list(data.obs_names[3000:]) == [f"doublet{i}" for i in range(600)]
    assert truth.obs["is_doublet"].tolist() == [False] * 3000 + [True] * 600
    assert (truth.obs["doublet_of"][:3000] == "").all()
    one, other = (plain_truth.obs.iloc[part].reset_index(drop=True) for part in pairs.T)
    made = truth.obs[3000:].reset_index(drop=True)
    for name in ("label", "batch", "donor", "condition"):
        assert made[name].astype(str).equals(one[name].astype(str))
    assert made["doublet_of"].astype(str).equals(other["label"].astype(str))
    assert (made["label"].astype(str) != made["doublet_of"].astype(str)).all()
    for name in ("batch", "donor", "condition"):
        assert one[name].equals(other[name])
    np.testing.assert_array_equal(truth.obsm["activity"][3000:], plan.activity.iloc[pairs[:, 0]])
    assert made.groupby(["batch", "donor", "condition"], observed=False).size().between(25, 75).all()
    assert (data.obs["label"] == truth.obs["label"]).all()


def test_counts_and_libraries_of_doublets_are_sums_of_those_of_two_cells() -> None:
    data, truth, plan, pairs = doublets()
    np.testing.assert_allclose(truth.obs["library_mean"][3000:], plan.library[pairs[:, 0]] + plan.library[pairs[:, 1]])
    assert abs(data.obs["library"][3000:].sum() / truth.obs["library_mean"][3000:].sum() - 1) < 0.02
    assert (data.obs["library"][3000:] >= dense(data)[3000:].sum(axis=1)).all()
    mean, phi = plan.mean(slice(None))[0], truth.var["dispersion"].to_numpy()
    expected, variance = (values[pairs].sum(axis=1) for values in (mean, mean + phi * mean**2))
    z = (dense(data)[3000:] - expected).sum(axis=0) / np.sqrt(variance.sum(axis=0))
    assert abs(z.mean()) < 0.4 and 0.75 < z.std() < 1.25
    spread = ((dense(data)[3000:] - expected) ** 2 / variance).mean()
    assert abs(spread - 1) < 0.1
    singles = dense(data)[pairs[:, 0]] + dense(data)[pairs[:, 1]]
    assert (singles != dense(data)[3000:]).any(axis=1).all()


def test_a_doublet_is_labelled_as_either_cell_however_rare_their_classes() -> None:
    _, truth = simulate_counts(doublet_settings(classes={"a": 1800, "b": 200}), real_cells())
    made = truth.obs[truth.obs["is_doublet"]]
    assert abs((made["label"] == "b").mean() - 0.5) < 4 * np.sqrt(0.25 / 400)


def test_a_doublet_is_found_a_partner_where_no_other_class_is_at_hand() -> None:
    _, truth = simulate_counts(doublet_settings(classes={"a": 40, "b": 1}, donors={"n": 5}), real_cells())
    made = truth.obs[truth.obs["is_doublet"]]
    assert len(made) == 8
    assert [set(pair) for pair in zip(made["label"], made["doublet_of"], strict=True)] == [{"a", "b"}] * 8


def test_all_of_it_together_is_written_and_read(tmp_path: Path) -> None:
    real_cells().write_h5ad(tmp_path / "raw.h5ad")
    source = {"paths": str(tmp_path / "raw.h5ad"), "label_key": "type", "library_key": "total"}
    programmes = [OWN, make_follower("condition"), COMMON | {"genes": ["g1", "g2"], "n_genes": 2}]
    settings = doublet_settings(source=source, programmes=programmes, label_swaps=0.1, classes={"a": 90, "b": 90})
    simulate(settings, tmp_path / "a.h5ad", tmp_path / "a.truth.h5ad")
    data, truth = (anndata.read_h5ad(tmp_path / name) for name in ("a.h5ad", "a.truth.h5ad"))
    made, known = simulate_counts(settings)
    assert same_bits(data, made)
    pd.testing.assert_frame_equal(truth.obs, known.obs, check_categorical=False, check_dtype=False)
    assert CountsSimulation.model_validate_json(truth.uns["nvae_truth"]["settings"]) == settings
    assert truth.uns["nvae_truth"]["planted"]["follows"].tolist() == ["none", "condition", "none"]
    assert set(data.obs) == {"label", "batch", "donor", "condition", "library"}
    assert not truth.obs["is_swapped"][truth.obs["is_doublet"]].any()
    prepared = prepare_data(
        CountsSettings(kind="counts", n_top_genes=None, library_key="library", condition_key="condition"), data
    )
    assert set(prepared.obs["condition"]) == {"control", "treated"}


# --- images ----------------------------------------------------------------------------------------------------------


def digits_settings(*transformations: dict[str, Any], **values: Any) -> ImagesSimulation:
    classes = {str(digit): 100 for digit in range(10)}
    return ImagesSimulation.model_validate(
        {"kind": "images", "source": {"builtin": "digits"}, "classes": classes, "transformations": transformations}
        | values
    )


def make_bars() -> AnnData:
    """Upright soft bars of 32 × 32 pixels in two classes, off the centre."""
    row, column = np.indices((32, 32)) - 15.5
    rng = np.random.default_rng(0)
    offset = rng.uniform(-1, 1, (60, 2))
    bars = [0.9 * np.exp(-((row - r) ** 2) / 32 - ((column - c) ** 2) / 5) for r, c in offset]
    obs = pd.DataFrame({"label": ["x", "y"] * 30}, index=[f"bar{i}" for i in range(60)])
    return pack_images(np.array(bars, dtype=np.float32)[:, None], obs)


def moments(adata: AnnData) -> dict[str, np.ndarray]:
    """Mass, centroid and second moments of each image of 32 × 32 pixels; x to the right, y up."""
    image = adata.X.reshape(-1, 32, 32).astype(np.float64)
    row, x = np.indices((32, 32)) - 15.5
    y, mass = -row, image.sum(axis=(1, 2))
    mean = {name: (image * axis).sum(axis=(1, 2)) / mass for name, axis in (("x", x), ("y", y))}
    for name, (one, other) in {"xx": (x, x), "yy": (y, y), "xy": (x, y)}.items():
        raw = (image * one * other).sum(axis=(1, 2)) / mass
        mean[name] = raw - mean[name[0]] * mean[name[1]]
    return mean | {"mass": mass}


def moved_bars(what: str, amount: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Moments of bars before and after a transformation of all, and its activities."""
    transformation = {"name": "t", "kind": "shared", "what": what, "activity": "uniform", "amount": amount}
    settings = digits_settings(transformation, source={}, classes={"x": 30, "y": 30})
    data, truth = simulate_images(settings, make_bars())
    return moments(make_bars()[data.obs_names]), moments(data), truth.obsm["activity"]["t"].to_numpy()


def test_the_angle_of_a_rotation_is_found_counter_clockwise() -> None:
    before, after, activity = moved_bars("rotation", 40)
    assert activity.min() < -0.8 and activity.max() > 0.8
    angle = np.degrees(0.5 * np.arctan2(2 * after["xy"], after["xx"] - after["yy"])) % 180 - 90
    np.testing.assert_allclose(angle, 40 * activity, atol=1.0)
    np.testing.assert_allclose(after["mass"], before["mass"], rtol=0.01)
    turned = np.radians(40 * activity)
    expected = np.cos(turned) * before["x"] - np.sin(turned) * before["y"]
    np.testing.assert_allclose(after["x"], expected, atol=0.05)


def test_moments_follow_slant_scale_shift_and_brightness() -> None:
    before, after, activity = moved_bars("slant", 0.5)
    np.testing.assert_allclose(after["xy"] / after["yy"], 0.5 * activity, atol=0.02)
    before, after, activity = moved_bars("scale", 1.3)
    np.testing.assert_allclose(after["mass"] / before["mass"], 1.3 ** (2 * activity), rtol=0.03)
    before, after, activity = moved_bars("shift_right", 3)
    np.testing.assert_allclose(after["x"] - before["x"], 3 * activity, atol=0.05)
    before, after, activity = moved_bars("shift_down", 3)
    np.testing.assert_allclose(after["y"] - before["y"], -3 * activity, atol=0.05)
    before, after, activity = moved_bars("brightness", 1.1)
    np.testing.assert_allclose(after["mass"] / before["mass"], 1.1**activity, rtol=1e-4)
    before, after, activity = moved_bars("thickness", 1.0)
    gain = after["mass"] / before["mass"]
    assert ((gain > 1) == (activity > 0)).all()
    assert np.corrcoef(gain, activity)[0, 1] > 0.95


def test_two_transformations_of_the_same_add_up() -> None:
    turn = {"kind": "shared", "what": "rotation", "activity": "binary", "share": 0.99}
    parts = [turn | {"name": name, "amount": amount} for name, amount in (("one", 25), ("other", 15))]
    settings = digits_settings(*parts, source={}, classes={"x": 30, "y": 30})
    data, truth = simulate_images(settings, make_bars())
    after, activity = moments(data), truth.obsm["activity"]
    angle = np.degrees(0.5 * np.arctan2(2 * after["xy"], after["xx"] - after["yy"])) % 180 - 90
    np.testing.assert_allclose(angle, 25 * activity["one"] + 15 * activity["other"], atol=1.0)


def test_only_the_classes_that_are_named_are_turned() -> None:
    rotation = {"name": "turn", "kind": "private", "classes": [1, 7], "what": "rotation", "share": 0.5, "amount": 30}
    data, truth = simulate_images(digits_settings(rotation))
    source = builtin.digits()[data.obs_names]
    assert (source.obs["label"].to_numpy() == data.obs["label"].astype(str)).all()
    differs, on = (data.X != source.X).any(axis=1), truth.obsm["activity"]["turn"] == 1
    np.testing.assert_array_equal(differs, on)
    assert on.groupby(data.obs["label"], observed=True).sum().to_dict() == {
        str(digit): 50 * (digit in (1, 7)) for digit in range(10)
    }
    assert data.X.dtype == np.float32 and data.X.min() >= 0 and data.X.max() <= 1


# --- files, seeds, and what does not go ------------------------------------------------------------------------------


def run(kind: str, seed: int = 0) -> tuple[AnnData, AnnData]:
    if kind == "counts":
        return simulate_counts(counts_settings(programmes=[OWN], depth_sd=0.1, seed=seed), real_cells())
    slant = {"name": "slant", "kind": "shared", "what": "slant", "activity": "normal", "amount": 0.2}
    return simulate_images(digits_settings(slant, seed=seed))


@pytest.mark.parametrize("kind", ["counts", "images"])
def test_a_seed_gives_the_same_bits_and_another_one_others(kind: str) -> None:
    one, again, other = run(kind), run(kind), run(kind, seed=1)
    assert same_bits(one[0], again[0])
    assert one[1].obsm["activity"].equals(again[1].obsm["activity"])
    assert not same_bits(one[0], other[0])
    assert not np.array_equal(one[1].obsm["activity"], other[1].obsm["activity"])


@pytest.mark.parametrize("kind", ["counts", "images"])
def test_the_data_tell_nothing_of_the_truth_and_join_it_by_name(kind: str) -> None:
    data, truth = run(kind)
    assert set(data.obs) == ({"label", "batch", "donor", "library"} if kind == "counts" else {"label"})
    assert set(data.var) == (set() if kind == "counts" else {"channel", "row", "column"})
    assert not data.obsm and not data.varm and not data.layers
    assert set(data.uns["nvae_simulation"]) == {"version", "kind", "source", "seed"}
    settings = (
        CountsSettings(kind="counts", n_top_genes=None, library_key="library", batch_key="batch", donor_key="donor")
        if kind == "counts"
        else ImagesSettings(kind="images")
    )
    prepared = prepare_data(settings, data)
    known = truth[prepared.obs_names, prepared.var_names]
    assert prepared.n_obs == data.n_obs and prepared.n_vars >= 0.95 * data.n_vars
    assert (known.obs["label"].astype(str) == prepared.obs["label"].astype(str)).all()
    if kind == "counts":
        np.testing.assert_array_equal(prepared.obs["library"], data.obs["library"])
        assert not [name for name in prepared.obs if name.startswith("source_")]


def test_files_hold_what_memory_holds(tmp_path: Path) -> None:
    for name, settings in load_config(ROOT / "config" / "simulated.yaml").simulations.items():
        data_file, truth_file = tmp_path / "new" / f"{name}.h5ad", tmp_path / "new" / f"{name}.truth.h5ad"
        simulate(settings, data_file, truth_file)
        data, truth = anndata.read_h5ad(data_file), anndata.read_h5ad(truth_file)
        known = truth.uns["nvae_truth"]
        made = simulate_images(settings) if isinstance(settings, ImagesSimulation) else simulate_counts(settings)
        assert same_bits(data, made[0])
        pd.testing.assert_frame_equal(truth.obsm["activity"], made[1].obsm["activity"], check_names=False)
        assert type(settings).model_validate_json(known["settings"]) == settings
        assert list(known["planted"].index) == list(truth.obsm["activity"].columns)
        is_on = truth.obsm["activity"].ne(0).groupby(truth.obs["label"].astype(str)).any()
        np.testing.assert_array_equal(known["in_class"].T, is_on.loc[list(known["classes"])])
    assert not list(tmp_path.rglob("*.part*"))


def test_nothing_planted_is_a_data_set_too(tmp_path: Path) -> None:
    real_cells().write_h5ad(tmp_path / "raw.h5ad")
    source = {"paths": str(tmp_path / "raw.h5ad"), "label_key": "type", "library_key": "total"}
    simulate(counts_settings(source=source), tmp_path / "a.h5ad", tmp_path / "a.truth.h5ad")
    truth = anndata.read_h5ad(tmp_path / "a.truth.h5ad")
    assert truth.obsm["activity"].shape == (500, 0)
    assert truth.varm["log_fold_change"].shape == (150, 0)
    assert truth.uns["nvae_truth"]["in_class"].shape == (0, 2)
    simulate(digits_settings(), tmp_path / "b.h5ad", tmp_path / "b.truth.h5ad")
    data = anndata.read_h5ad(tmp_path / "b.h5ad")
    np.testing.assert_array_equal(data.X, builtin.digits()[data.obs_names].X)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"classes": {"a": 9, "c": 9}}, "classes: 'c' is no class of the source; allowed: a, b"),
        ({"n_genes": 151}, "n_genes 151: the source has 150 genes; allowed: at most these"),
        (
            {"programmes": [OWN | {"n_genes": 100}, COMMON | {"n_genes": 51}]},
            "programmes: common: 51 genes are asked for",
        ),
        ({"n_marker_genes": 76}, "n_marker_genes: b: 76 genes are asked for, but only"),
        ({"programmes": [OWN], "min_mean": 1e4}, "but only 0 have a mean of at least min_mean 10000 counts"),
    ],
)
def test_counts_that_cannot_be_made(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        simulate_counts(counts_settings(**({"min_mean": 1e-9} | values)), real_cells())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", [{"0": 10, "11": 1}, {"0": 10, "1": 1000}])
def test_images_that_are_not_there(classes: dict[str, int]) -> None:
    last, n = list(classes.items())[-1]
    with pytest.raises(UserError, match=rf"built-in digits: classes.{last}: {n} images are asked for; the source has"):
        simulate_images(digits_settings(classes=classes))


def test_images_of_one_original_differ_by_what_is_planted_alone() -> None:
    same = {"classes": {"0": 6, "1": 5}, "n_originals": 1}
    still, _ = simulate_images(digits_settings(**same))
    pixels, names = np.asarray(still.X), [name.split(".")[0] for name in still.obs_names]
    assert (pixels[:6] == pixels[0]).all() and (pixels[6:] == pixels[6]).all() and (pixels[0] != pixels[6]).any()
    assert still.obs_names.is_unique and len(set(names)) == 2
    slant = {"name": "slant", "kind": "shared", "what": "slant", "activity": "uniform", "amount": 0.3}
    moved, truth = simulate_images(digits_settings(slant, **same))
    assert len(np.unique(np.asarray(moved.X)[:6], axis=0)) == 6
    assert list(truth.obs_names) == list(moved.obs_names)


def test_originals_take_turns_and_are_no_more_than_the_images() -> None:
    data, _ = simulate_images(digits_settings(classes={"3": 7, "4": 2}, n_originals=3))
    times = np.unique(np.asarray(data.X)[:7], axis=0, return_counts=True)[1]
    assert sorted(times) == [2, 2, 3]
    many, few = (simulate_images(digits_settings(classes={"3": 2, "4": 1}, n_originals=n))[0] for n in (1000, None))
    np.testing.assert_array_equal(many.X, few.X)


def test_no_source_is_told_apart_from_an_empty_one() -> None:
    with pytest.raises(UserError, match="give either `builtin` or `paths`"):
        simulate_counts(counts_settings())
