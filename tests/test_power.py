"""Planted programmes: thinning, what is found of it, and how power is counted and said."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nvae_bio.config import FitSettings, PowerSettings, ReportSettings
from nvae_bio.data.files import read_table, write_anndata
from nvae_bio.errors import UserError
from nvae_bio.factors.null import detect
from nvae_bio.factors.planting import choose_genes, draw_on, plant
from nvae_bio.factors.power import best_correlation, plant_and_find, power
from nvae_bio.factors.power_table import is_found, power_lines, power_table, under_powered
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK
from tests.small_models import law
from tests.toys import fit_settings, prepared_counts, prepared_images

CLASSES = ["a", "b", "c"]
N_CELLS, N_GENES = 1500, 40


def make_prepared(counts: np.ndarray, n_unlabelled: int = 0) -> AnnData:
    """Prepared counts, (n, G): classes in turn, every third cell held out, and 100 counts outside the model's genes."""
    label = np.array(CLASSES, dtype=object)[np.arange(len(counts)) % 3]
    label[len(counts) - n_unlabelled :] = None
    library = counts.sum(1) + 100.0
    obs = pd.DataFrame({
        "label": pd.Categorical(label, categories=CLASSES), "library": library, "size_factor": library / 7,
        "split": np.where(np.arange(len(counts)) // 3 % 3 > 0, "train", "test"),
    }, index=[f"s{i}" for i in range(len(counts))])  # fmt: skip
    uns = {"nvae_data": {"kind": "counts", "classes": np.array(CLASSES, dtype=object), "fingerprint": "f"}}
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, uns=uns)


@cache
def make_counts(kind: str = "poisson") -> AnnData:
    """Of mean 20 in every gene, Poisson or negative binomial with dispersion θ = 2; 30 of the cells unlabelled."""
    rng = np.random.default_rng(0)
    mean = 20.0 if kind == "poisson" else 20 * rng.gamma(2.0, 0.5, (N_CELLS, N_GENES))
    return make_prepared(rng.poisson(mean, (N_CELLS, N_GENES)), 30)


def dense(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.X.toarray())


# --- thinning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold_change", [1.5, 4.0])
def test_genes_of_cells_that_are_off_keep_one_part_in_f_and_all_else_is_the_same(fold_change: float) -> None:
    prepared, settings = make_counts(), PowerSettings(n_genes=10, share=0.3)
    planted, planting = plant(prepared, settings, fold_change, 1)
    before, after = dense(prepared), dense(planted)
    is_thinned = np.zeros(before.shape, bool)
    for y, name in enumerate(CLASSES):
        off = (prepared.obs["label"] == name).to_numpy() & (planting.activity == 0)
        is_thinned[np.ix_(off, planting.genes[y])] = True
    np.testing.assert_array_equal(after[~is_thinned], before[~is_thinned])
    total, kept = before[is_thinned].sum(), after[is_thinned].sum()
    sd = np.sqrt(total * (1 - 1 / fold_change) / fold_change)  # of Binomial(total, 1 / f)
    assert abs(kept - total / fold_change) < 4 * sd
    assert (after <= before).all()
    removed = (before - after).sum(1)
    np.testing.assert_array_equal(planted.obs["library"], prepared.obs["library"] - removed)
    np.testing.assert_allclose(planted.obs["size_factor"], planted.obs["library"] / 7)
    assert (planting.activity[prepared.obs["label"].isna()] == 0).all()


@pytest.mark.parametrize(("kind", "inverse_dispersion"), [("poisson", 0.0), ("negative_binomial", 0.5)])
def test_thinned_counts_stay_as_dispersed_as_they_were(kind: str, inverse_dispersion: float) -> None:
    """(variance − mean) / mean² is 0 for Poisson counts, and 1 / θ for negative binomial ones, thinned or not."""
    prepared = make_counts(kind)
    planted, planting = plant(prepared, PowerSettings(n_genes=10, share=0.1), 3.0, 0)
    for y, name in enumerate(CLASSES):
        off = (prepared.obs["label"] == name).to_numpy() & (planting.activity == 0)
        x = dense(planted)[np.ix_(off, planting.genes[y])]
        mean, variance = x.mean(0), x.var(0)
        assert np.mean((variance - mean) / mean**2) == pytest.approx(inverse_dispersion, abs=0.05)


def test_a_planting_is_a_function_of_its_seed_and_leaves_the_data_as_they_are() -> None:
    prepared, settings = make_counts(), PowerSettings(n_genes=10)
    before = prepared.copy()
    (one, of_one), (same, _), (other, of_other) = (plant(prepared, settings, 2.0, seed) for seed in (1, 1, 2))
    larger, of_larger = plant(prepared, settings, 3.0, 1)
    np.testing.assert_array_equal(dense(one), dense(same))
    assert (dense(one) != dense(other)).any()
    assert set(of_one.genes[0]) != set(of_other.genes[0])
    np.testing.assert_array_equal(of_one.genes, of_larger.genes)  # of a curve, the size alone differs
    np.testing.assert_array_equal(of_one.activity, of_larger.activity)
    assert len({adata.uns["nvae_data"]["fingerprint"] for adata in (prepared, one, other, larger)}) == 4
    np.testing.assert_array_equal(dense(prepared), dense(before))
    pd.testing.assert_frame_equal(prepared.obs, before.obs)
    assert prepared.uns["nvae_data"]["fingerprint"] == "f"
    assert one.X.dtype == prepared.X.dtype
    assert sparse.issparse(one.X)
    assert one.X.data.min() > 0


def test_a_cell_that_loses_all_its_counts_can_still_be_scored() -> None:
    counts = np.zeros((90, 3))
    counts[:, 0] = 1
    prepared = make_prepared(counts)
    prepared.obs["library"] = counts.sum(1)
    planted, _ = plant(prepared, PowerSettings(n_genes=1, share=0.1), 1e6, 0)
    assert planted.X.sum() < prepared.X.sum()
    assert (planted.obs["library"] == 1).all()


@law
@given(st.integers(0, 1000), st.integers(1, 20), st.integers(2, 5))
def test_classes_have_genes_of_their_own_and_expressed_ones_first(seed: int, n_genes: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, 1.0, (n_classes, 100))
    genes = choose_genes(mean, PowerSettings(n_genes=n_genes), rng)
    assert genes.shape == (n_classes, n_genes)
    assert len(set(genes.ravel().tolist())) == genes.size
    free = np.setdiff1d(np.arange(100), genes)
    for own, chosen in zip(mean, genes, strict=True):
        weak = own[chosen] < 0.5
        if weak.any():  # for lack of others, and then none that is free is expressed more
            assert own[chosen][weak].min() >= own[free].max(initial=0)


def test_genes_are_drawn_among_all_that_are_expressed_enough() -> None:
    mean = np.tile(np.where(np.arange(50) < 40, np.linspace(1, 100, 50), 0.1), (2, 1))
    drawn = [choose_genes(mean, PowerSettings(n_genes=10), np.random.default_rng(seed)) for seed in range(200)]
    times = np.bincount(np.concatenate(drawn).ravel(), minlength=50)
    assert (times[40:] == 0).all()
    assert scipy.stats.chisquare(times[:40]).pvalue > 1e-3


def test_too_few_expressed_genes_are_said() -> None:
    mean = np.where(np.arange(N_GENES) < 12, 3.0, 0.2)
    prepared = make_prepared(np.random.default_rng(0).poisson(mean, (600, N_GENES)))
    _, enough = plant(prepared, PowerSettings(n_genes=4), 2.0, 0)
    _, planting = plant(prepared, PowerSettings(n_genes=5), 2.0, 0)
    assert enough.notes == []
    assert enough.mean_count == pytest.approx(3.0, abs=0.2)
    said = "1 of 5 planted genes have fewer than 0.5 counts a cell; no gene with more was free"
    assert planting.notes == [f"class {name!r}: {said}" for name in CLASSES]
    assert planting.mean_count == pytest.approx((4 * 3.0 + 0.2) / 5, abs=0.2)


def test_the_programme_is_on_in_the_share_of_training_and_held_out_cells() -> None:
    label = np.array([0] * 100 + [1] * 8 + [-1] * 20)
    is_train = np.arange(len(label)) % 4 > 0
    activity = draw_on(label, is_train, 0.2, np.random.default_rng(0))
    assert activity[(label == 0) & is_train].sum() == 15
    assert activity[(label == 0) & ~is_train].sum() == 5
    assert activity[(label == 1) & is_train].sum() == 1
    assert activity[(label == 1) & ~is_train].sum() == 1  # of two cells: one at least
    assert activity[label == -1].sum() == 0


# --- what is found ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000))
@law
def test_the_best_correlation_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    activity, means = (rng.random(30) < 0.3).astype(float), rng.normal(size=(30, 3))
    activity[:2] = 0, 1
    expected = max(abs(scipy.stats.pearsonr(activity, column).statistic) for column in means.T)
    assert best_correlation(activity, means) == pytest.approx(expected)
    assert best_correlation(np.ones(30), means) == 0
    assert best_correlation(activity, np.ones((30, 2))) == 0
    assert np.isnan(best_correlation(activity, means[:, :0]))


def test_a_large_programme_is_found_in_the_block_of_its_class_and_a_tiny_one_is_not() -> None:
    settings = fit_settings(60, n_shared=1).with_training(learning_rate=3e-3, batch_size=32)
    planted = PowerSettings(n_genes=20, fold_changes=[1.01, 10.0], share=0.5)
    found = plant_and_find(prepared_counts(), settings, planted)
    tiny, large = (found[(found["fold_change"] == value).to_numpy()] for value in planted.fold_changes)
    no_factor_yet = [0, 2]  # c1 has one of its own already
    assert (large[OWN_BLOCK].to_numpy() > tiny[OWN_BLOCK].to_numpy() + 1).all()
    assert tiny[OWN_BLOCK].iloc[no_factor_yet].max() < 0.1
    assert large["r_block"].min() > 0.8
    assert tiny["r_block"].max() < 0.6
    assert (found["n_cells"] == 100).all()
    assert (found["n_genes"] == 20).all()


def test_a_planting_is_the_same_whatever_the_others_are() -> None:
    planted, settings = PowerSettings(n_genes=5, fold_changes=[2.0, 3.0]), fit_settings(1)
    together = plant_and_find(prepared_counts(), settings, planted, (1, 0))
    alone = [plant_and_find(prepared_counts(), settings, planted, (run,)) for run in (1, 0)]
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True), check_exact=True)
    assert not together.duplicated([OWN_BLOCK]).any()


@pytest.mark.parametrize("variant", ["cvae", "per_class"])
def test_a_model_without_such_latents_has_no_such_statistic(variant: str) -> None:
    found = plant_and_find(prepared_counts(), fit_settings(1, variant=variant), PowerSettings(n_genes=5))
    lacking, there = (OWN_BLOCK, HIDDEN) if variant == "cvae" else (HIDDEN, OWN_BLOCK)
    r = {OWN_BLOCK: "r_block", HIDDEN: "r_hidden"}
    assert found[[lacking, r[lacking]]].isna().all(axis=None)
    assert found[[there, r[there]]].notna().all(axis=None)


def test_the_statistics_are_those_of_the_detector() -> None:
    prepared, settings, planted = prepared_counts(), fit_settings(1), PowerSettings(n_genes=5, fold_changes=[2.0])
    found = plant_and_find(prepared, settings, planted, (3,))
    data, planting = plant(prepared, planted, 2.0, 3)
    detected = detect(data, settings, 1_003_000)
    statistics = detected.usage.statistics()
    for name in (OWN_BLOCK, HIDDEN):
        np.testing.assert_array_equal(found[name], statistics.loc[statistics["statistic"] == name, "value"])
    held_out = prepared.obs.iloc[detected.rows]
    assert (held_out["split"] != "train").all()
    rows = (held_out["label"] == "c1").to_numpy()
    dim = statistics.query("statistic == @HIDDEN")["dim"].iloc[1]
    r = scipy.stats.pearsonr(planting.activity[detected.rows][rows], detected.shared[rows, dim]).statistic
    assert found["r_hidden"].iloc[1] == pytest.approx(abs(r), abs=1e-5)


# --- power -----------------------------------------------------------------------------------------------------------

SIZES = np.array([100, 120, 100])
SETTINGS = PowerSettings(fold_changes=[1.5, 2.0, 3.0], n_runs=10)


def make_found(*rows: tuple[float, float, float, float], fold_change: float = 2.0) -> pd.DataFrame:
    """Of own_block, hidden, r_block, r_hidden of programmes of class a; those of the other classes are missed."""
    parts = [
        pd.DataFrame({
            "run": run, "fold_change": fold_change, "class": range(3), OWN_BLOCK: [own, 0.0, 0.0],
            HIDDEN: [hidden, 0.0, 0.0], "r_block": [r_block, 0.9, 0.9], "r_hidden": [r_hidden, 0.9, 0.9],
            "n_genes": 30, "mean_count": 2.0, "n_cells": 100,
        })
        for run, (own, hidden, r_block, r_hidden) in enumerate(rows)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def make_null(n_refits: int = 20, own: float = 0.3, kinds: Sequence[str] = ("no_private",)) -> pd.DataFrame:
    """All classes are alike: with n refits the smallest p is 1 / (1 + 3 n). The medians are half of `own`, and 0.1."""
    values = {OWN_BLOCK: np.linspace(0, own, n_refits), HIDDEN: np.linspace(0, 0.2, n_refits)}
    rows = [
        {"kind": kind, "refit": refit, "statistic": name, "class": y, "dim": -1, "value": value}
        for kind in kinds for name, column in values.items() for refit, value in enumerate(column) for y in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


FOUND_BY_HAND = {
    "block": ((0.5, 0.0, 0.4, 0.0), True),
    "block, but another factor": ((0.5, 0.0, 0.29, 0.0), False),
    "block, as large as the largest null": ((0.3, 0.0, 0.9, 0.0), False),  # p = 4 / 61 > .05 / 3
    "hidden": ((0.0, 0.25, 0.0, 0.3), True),
    "hidden, but another factor": ((0.0, 0.25, 0.9, 0.29), False),
    "hidden, as large as the largest null": ((0.0, 0.2, 0.0, 0.9), False),
    "r of the one, p of the other": ((0.5, 0.0, 0.0, 0.9), False),
}


@pytest.mark.parametrize("case", FOUND_BY_HAND)
def test_a_programme_is_found_where_its_latent_is_called_and_follows_it(case: str) -> None:
    row, expected = FOUND_BY_HAND[case]
    found = is_found(make_found(row), make_null(), SIZES, ReportSettings())
    assert found.tolist() == [expected, False, False]


def test_a_gain_above_all_of_the_null_may_still_be_too_small() -> None:
    row, null = make_found((0.05, 0.0, 0.9, 0.0)), make_null(own=0.02)  # 0.04 nats above the median
    assert not is_found(row, null, SIZES, ReportSettings()).any()
    assert is_found(row, null, SIZES, ReportSettings(min_gain=0.03))[0]


@pytest.mark.parametrize(("n_refits", "expected"), [(19, False), (20, True)])
def test_a_programme_is_judged_as_if_it_were_the_only_factor_of_its_family(n_refits: int, expected: bool) -> None:
    """p = 1 / (1 + 3 n) must be .05 / 3 at most, for a q of .05 among three classes: that is so from 20 refits on."""
    found = is_found(make_found((9.0, 0.0, 0.9, 0.0)), make_null(n_refits), SIZES, ReportSettings())
    assert found[0] == expected


def test_a_class_that_could_never_be_called_is_no_member_of_the_family() -> None:
    """Class c has a null of its own; the p of a is 1 / 41, too large for a family of three, small enough for two."""
    row, null, sizes = make_found((9.0, 0.0, 0.9, 0.0)), make_null(20), np.array([100, 100, 1000])
    assert not is_found(row, null, sizes, ReportSettings())[0]  # c could have p = 1 / 21
    short = null[((null["class"] < 2) | (null["refit"] < 10)).to_numpy()]
    assert is_found(row, short, sizes, ReportSettings())[0]  # 1 / 11 at least


def test_without_a_null_nothing_is_found_and_without_shared_dims_it_is_of_another_kind() -> None:
    row = make_found((9.0, 9.0, 0.9, 0.9))
    assert not is_found(row, make_null().iloc[:0], SIZES, ReportSettings()).any()
    alone = row.assign(hidden=np.nan, r_hidden=np.nan)
    null = make_null(kinds=["no_factor"])
    null = null[(null["statistic"] == OWN_BLOCK).to_numpy()]
    assert is_found(alone, null, SIZES, ReportSettings()).tolist() == [True, False, False]
    assert not is_found(row, null, SIZES, ReportSettings()).any()
    assert not is_found(alone, make_null(), SIZES, ReportSettings()).any()


def make_curve(found: dict[float, int], n_runs: int = 10) -> pd.DataFrame:
    """So many of the runs of each fold change are found in class a."""
    parts = [
        make_found(*[(9.0, 0.0, 0.9, 0.0)] * n + [(0.0, 0.0, 0.9, 0.0)] * (n_runs - n), fold_change=fold_change)
        for fold_change, n in found.items()
    ]
    return pd.concat(parts, ignore_index=True)


def make_table(found: dict[float, int], settings: PowerSettings = SETTINGS, confidence: float = 0.95) -> pd.DataFrame:
    report = ReportSettings(confidence=confidence)
    return power_table(make_curve(found), make_null(), SIZES, ["NK", "B cells", "Monocytes"], report, settings)


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_table_counts_the_finds_with_clopper_pearson_intervals(confidence: float) -> None:
    table = make_table({2.0: 9, 1.5: 0, 3.0: 10}, confidence=confidence)
    assert table["class"].tolist() == ["NK"] * 3 + ["B cells"] * 3 + ["Monocytes"] * 3
    assert table["fold_change"].tolist() == [1.5, 2.0, 3.0] * 3
    assert table["n_found"].tolist() == [0, 9, 10] + [0] * 6
    assert (table["n_runs"] == 10).all()
    np.testing.assert_allclose(table["power"][:3], [0.0, 0.9, 1.0])
    tail = (1 - confidence) / 2
    assert table["lower"][1] == pytest.approx(scipy.stats.beta.ppf(tail, 9, 2))
    assert table["upper"][1] == pytest.approx(scipy.stats.beta.ppf(1 - tail, 10, 1))
    assert table["upper"][0] == pytest.approx(1 - tail**0.1)  # of no find
    assert (table["lower"][0], table["upper"][2]) == (0, 1)
    assert table[["n_genes", "share"]].drop_duplicates().to_numpy().tolist() == [[30, 0.2]]


SENTENCES = {
    "from the reference on": ({1.5: 3, 2.0: 9, 3.0: 10}, "9 of 10 runs, and in at least 8 of 10 at 2-fold or more"),
    "all": ({1.5: 8, 2.0: 9, 3.0: 10}, "9 of 10 runs, and in at least 8 of 10 at 1.5-fold or more"),
    "the largest alone": ({1.5: 0, 2.0: 7, 3.0: 8}, "7 of 10 runs, and in at least 8 of 10 at 3-fold or more"),
    "none": ({1.5: 0, 2.0: 1, 3.0: 7}, "1 of 10 runs, and none of the planted sizes in at least 8 of 10"),
    "a dent": ({1.5: 9, 2.0: 7, 3.0: 9}, "7 of 10 runs, and in at least 8 of 10 at 3-fold or more"),
    "not the largest": ({1.5: 9, 2.0: 9, 3.0: 7}, "9 of 10 runs, and none of the planted sizes in at least 8 of 10"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_a_sentence_tells_the_size_from_which_on_programmes_are_found(case: str) -> None:
    found, said = SENTENCES[case]
    lines = power_lines(make_table(found), SETTINGS)
    assert lines[0] == f"a programme of 30 genes at 2-fold in 20 % of NK cells would be found in {said}"
    assert [line.split(" would ")[0].split(" % of ")[1] for line in lines] == ["NK cells", "B cells", "Monocytes"]
    assert lines[1].endswith("found in 0 of 10 runs, and none of the planted sizes in at least 8 of 10")


def test_a_sentence_says_where_genes_with_enough_counts_lacked() -> None:
    table = make_table({1.5: 9, 2.0: 9, 3.0: 9})
    table.loc[table["class"] == "NK", "mean_count"] = 0.123
    lines = power_lines(table, SETTINGS)
    assert lines[0].endswith("at 1.5-fold or more; its genes have 0.12 counts a cell, for lack of others")
    assert "lack" not in lines[1]


def test_classes_are_under_powered_below_the_needed_share_at_the_reference() -> None:
    assert under_powered(make_table({1.5: 0, 2.0: 8, 3.0: 8}), SETTINGS) == ["B cells", "Monocytes"]
    assert under_powered(make_table({1.5: 9, 2.0: 7, 3.0: 9}), SETTINGS) == ["NK", "B cells", "Monocytes"]
    at_most = SETTINGS.model_copy(update={"needed": 0.7, "reference": 3.0})  # 0.7 × 10 is a little above 7
    assert under_powered(make_table({1.5: 0, 2.0: 0, 3.0: 7}, at_most), at_most) == ["B cells", "Monocytes"]


# --- bad input -------------------------------------------------------------------------------------------------------


def expect_error(said: str, prepared: AnnData, planted: PowerSettings, runs: Sequence[int] = (0,)) -> None:
    with pytest.raises(UserError, match=said) as raised:
        plant_and_find(prepared, FitSettings(), planted, runs)
    assert "\n" not in str(raised.value)


def test_data_in_which_nothing_can_be_planted_are_refused() -> None:
    few = PowerSettings(n_genes=5)
    expect_error("power: planting needs counts; the data are of kind 'images'", prepared_images(), few)
    expect_error(
        r"power\.n_genes: 30 for each of 3 classes, .* the data have 60 genes; allowed: at most 20",
        prepared_counts(), PowerSettings(),
    )  # fmt: skip
    no_test = make_counts().copy()
    no_test.obs.loc[no_test.obs["label"] == "b", "split"] = "train"
    expect_error("class 'b' has no held-out sample", no_test, few)
    for runs, said in (((), "runs: none; at least one"), ((3, 3), "3, 3; at least one, and different")):
        expect_error(said, make_counts(), few, runs)
    with pytest.raises(UserError, match=r"power\.fold_changes: 1; allowed: above 1"):
        plant(make_counts(), few, 1.0, 0)


def test_plantings_that_are_there_twice_or_lack_the_reference_are_refused() -> None:
    found, report = make_curve({2.0: 3}), ReportSettings()
    for table, said in (
        (pd.concat([found, found]), "power: planting 0 is there twice; give each once"),
        (found.assign(fold_change=4.0), "at the reference fold change 2; allowed: 4"),
    ):
        with pytest.raises(UserError, match=said):
            power_table(table, make_null(), SIZES, CLASSES, report, SETTINGS)


def test_the_step_reads_and_writes_files(tmp_path: Path) -> None:
    write_anndata(prepared_counts(), tmp_path / "data.h5ad")
    settings, planted = fit_settings(1), PowerSettings(n_genes=5, fold_changes=[2.0])
    power(tmp_path / "data.h5ad", tmp_path / "found.parquet", settings, planted, [2])
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "found.parquet"), plant_and_find(prepared_counts(), settings, planted, [2])
    )
