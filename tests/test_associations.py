"""What else a factor may be: associations within classes and over donors, tags, and cell-cycle scores."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.errors import UserError
from nvae_bio.factors.associations import Column, Role, associate, columns_of, tags
from nvae_bio.factors.cycle import G2M_GENES, S_GENES, cycle_genes, cycle_scores
from tests.toys import prepared_counts, prepared_features

FDR, STRENGTH = 0.05, 0.3


def make_column(values: object, name: str = "x", role: Role = "named") -> Column:
    return Column.of(name, role, pd.Series(values))


def make_scores(*factors: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({f"f{i}": factor for i, factor in enumerate(factors)})


def make_noise(n: int, n_factors: int, seed: int) -> pd.DataFrame:
    return make_scores(*np.random.default_rng(seed).normal(size=(n_factors, n)))


def make_donors(n_donors: int, n_cells: int, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """Number of the donor of each cell, and its condition: 0 or 1 in every donor, or one of both in each."""
    donor = np.repeat(np.arange(n_donors), n_cells)
    return donor, np.arange(len(donor)) % 2 if paired else donor % 2


def one_class(n: int) -> np.ndarray:
    return np.full(n, "c0", dtype=object)


# within classes


def test_in_one_class_it_is_spearman() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 80).astype(float)  # with ties
    score = 0.3 * x + rng.normal(size=80)
    row = associate(make_scores(score), one_class(80), [make_column(x)]).iloc[0]
    expected = stats.spearmanr(x, score)
    assert row["measure"] == "spearman" and row["n_samples"] == 80
    np.testing.assert_allclose([row["effect"], row["p"]], expected, rtol=1e-10)


def test_in_one_class_eta_is_that_of_kruskal() -> None:
    """H = (n − 1) R², and the adjusted share of the variance is the epsilon squared of ranks."""
    rng = np.random.default_rng(1)
    level = rng.choice(["a", "b", "c"], 90)
    score = (level == "b") + rng.normal(size=90)
    row = associate(make_scores(score), one_class(90), [make_column(level)]).iloc[0]
    groups = [stats.rankdata(score)[level == name] for name in "abc"]
    share = stats.kruskal(*groups).statistic / 89
    assert row["effect"] ** 2 == pytest.approx(1 - (1 - share) * 89 / 87)
    assert row["p"] == pytest.approx(stats.f_oneway(*groups).pvalue)
    assert (row["measure"], row["levels"]) == ("eta", "3 levels")


def test_two_levels_are_signed_in_the_order_of_the_source() -> None:
    rng = np.random.default_rng(2)
    level = np.repeat(["ctrl", "a drug"], 50)
    score = np.repeat([0.0, 2.0], 50) + rng.normal(size=100)
    up = pd.Series(pd.Categorical(level, categories=["ctrl", "never", "a drug"]))
    table = associate(make_scores(score), one_class(100), [make_column(up), make_column(level)])
    assert table["levels"].tolist() == ["ctrl → a drug", "a drug → ctrl"]
    assert table["effect"][0] == -table["effect"][1] > 0.5


def test_numbers_with_two_values_are_levels() -> None:
    column = make_column([1.0, 0.0, np.nan, 1.0])
    assert column.levels == "0 → 1" and np.isnan(column.numbers()[2])
    assert make_column([True, False]).levels == "False → True"
    assert make_column([10, 9, 2], role="batch").values.cat.categories.tolist() == ["2", "9", "10"]


def test_classes_are_no_association() -> None:
    """Scores and columns that differ between classes alone; a shift or a rising map of a class changes nothing."""
    rng = np.random.default_rng(3)
    label = np.repeat(["a", "b", "c"], [50, 80, 30])
    shift = pd.Series(label).map({"a": 0.0, "b": 5.0, "c": -9.0}).to_numpy()
    x, score, level = rng.normal(size=160), rng.normal(size=160), rng.choice(["u", "v", "w"], 160)
    score += 0.5 * x
    plain = associate(make_scores(score), label, [make_column(x), make_column(level)])
    moved = associate(make_scores(np.exp(score) + shift), label, [make_column(x - 2 * shift), make_column(level)])
    pd.testing.assert_frame_equal(plain.drop(columns="donor_test"), moved.drop(columns="donor_test"))
    rng = np.random.default_rng(4)
    noise = associate(make_scores(shift + rng.normal(size=160)), label, [make_column(shift + rng.normal(size=160))])
    assert abs(noise["effect"][0]) < 0.2 < stats.spearmanr(shift, shift + x).statistic


def test_levels_are_compared_within_classes_of_other_mix() -> None:
    """A condition that one class has more often: least squares on class and level, here by its normal equations."""
    rng = np.random.default_rng(5)
    label = np.repeat([0, 1], [60, 140])
    level = (rng.random(200) < np.where(label == 0, 0.2, 0.7)).astype(float)
    score = 3 * label + level + rng.normal(size=200)
    row = associate(make_scores(score), label, [make_column(level)]).iloc[0]
    ranks, residual = np.zeros(200), np.zeros(200)
    for y in (0, 1):
        rows = label == y
        ranks[rows] = stats.rankdata(score[rows]) / rows.sum()
        ranks[rows], residual[rows] = ranks[rows] - ranks[rows].mean(), level[rows] - level[rows].mean()
    share = np.corrcoef(ranks, residual)[0, 1] ** 2
    assert row["effect"] == pytest.approx(np.sqrt(1 - (1 - share) * 198 / 197))


def test_a_class_without_the_factor_or_without_variation_is_left_out() -> None:
    rng = np.random.default_rng(6)
    label = np.array(["a", "b", "c", None], dtype=object).repeat(40)
    x = np.where(label == "b", 7.0, rng.normal(size=160))
    score = rng.normal(size=160) + x
    own = np.where(label == "a", score, np.nan)
    table = associate(make_scores(score, own), label, [make_column(x)])
    assert table["n_samples"].tolist() == [80, 40]
    rows = label == "a"
    assert table["effect"][1] == pytest.approx(stats.spearmanr(x[rows], score[rows]).statistic)
    nothing = associate(make_scores(np.where(label == "b", score, np.nan)), label, [make_column(x)]).iloc[0]
    assert np.isnan(nothing["effect"]) and np.isnan(nothing["q"]) and nothing["n_samples"] == 0


def test_missing_values_are_no_samples() -> None:
    rng = np.random.default_rng(7)
    x, score = rng.normal(size=50), rng.normal(size=50)
    with_gaps = np.where(np.arange(50) < 10, np.nan, x)
    row = associate(make_scores(score), one_class(50), [make_column(with_gaps)]).iloc[0]
    np.testing.assert_allclose([row["effect"], row["p"]], stats.spearmanr(x[10:], score[10:]), rtol=1e-10)


@pytest.mark.parametrize("kind", ["numbers", "two levels", "many levels"])
def test_p_is_uniform_without_association(kind: str) -> None:
    """And eta does not grow with the number of levels."""
    rng = np.random.default_rng(8)
    label = np.repeat(["a", "b", "c"], [60, 100, 40])
    values = {"numbers": rng.exponential(size=200), "two levels": rng.integers(0, 2, 200)}
    column = make_column(values.get(kind, rng.integers(0, 15, 200)), role="named" if kind in values else "batch")
    table = associate(make_noise(200, 400, 9), label, [column])
    assert stats.kstest(table["p"], "uniform").pvalue > 0.01
    assert (np.square(table["effect"])).mean() < 0.01
    assert (table["q"] <= FDR).mean() <= 0.01


def test_q_is_over_all_rows() -> None:
    rng = np.random.default_rng(10)
    columns = [make_column(rng.normal(size=60), name) for name in "xyz"]
    table = associate(make_noise(60, 4, 11), one_class(60), columns)
    np.testing.assert_allclose(table["q"], stats.false_discovery_control(table["p"]))
    assert table["factor"].tolist() == np.repeat(["f0", "f1", "f2", "f3"], 3).tolist()
    assert table["column"].tolist() == ["x", "y", "z"] * 4


def test_the_order_of_samples_does_not_matter() -> None:
    donor, condition = make_donors(6, 20, paired=True)
    scores, label = make_noise(120, 3, 12), np.arange(120) % 3
    columns = [make_column(condition, "condition", "condition"), make_column(donor, "donor", "donor")]
    shuffled = np.random.default_rng(13).permutation(120)
    others = [Column(c.name, c.role, c.values.iloc[shuffled]) for c in columns]
    one = associate(scores, label, columns, donor)
    other = associate(scores.iloc[shuffled], label[shuffled], others, donor[shuffled])
    pd.testing.assert_frame_equal(one, other)


# over donors


def test_paired_is_the_t_test_of_donor_means() -> None:
    donor, condition = make_donors(8, 30, paired=True)
    rng = np.random.default_rng(14)
    score = rng.normal(size=8)[donor] + 0.2 * condition + rng.normal(size=240)
    column = make_column(condition, "condition", "condition")
    row = associate(make_scores(score), one_class(240), [column], donor.astype(str)).iloc[0]
    means = pd.DataFrame({"d": donor, "c": condition, "s": score}).groupby(["d", "c"])["s"].mean().unstack()
    assert row["donor_p"] == pytest.approx(stats.ttest_rel(means[1], means[0]).pvalue)
    assert row["donor_effect"] == pytest.approx((means[1] - means[0]).mean() / score.std(ddof=1))
    assert (row["donor_test"], row["n_donors"]) == ("paired, 8 donors", 8)


def test_unpaired_is_the_welch_test_of_donor_means() -> None:
    donor, _ = make_donors(7, 30, paired=False)
    condition = (donor > 2).astype(int)
    score = np.random.default_rng(15).normal(size=210)
    column = make_column(condition, "condition", "condition")
    row = associate(make_scores(score), one_class(210), [column], donor).iloc[0]
    means = pd.Series(score).groupby(donor).mean()
    assert row["donor_p"] == pytest.approx(stats.ttest_ind(means[3:], means[:3], equal_var=False).pvalue)
    assert row["donor_effect"] == pytest.approx((means[3:].mean() - means[:3].mean()) / score.std(ddof=1))
    assert row["donor_test"] == "unpaired, 3 vs 4 donors"


def test_three_levels_over_donors() -> None:
    """Unpaired is one-way ANOVA; paired is two-way ANOVA, here as the F of nested least-squares fits."""
    rng = np.random.default_rng(16)
    donor, level = np.repeat(np.arange(9), 30), np.tile([0, 1, 2], 90)
    score = rng.normal(size=9)[donor] + 0.3 * level + rng.normal(size=270)
    columns = [make_column(np.char.add("l", level.astype(str)))]
    paired = associate(make_scores(score), one_class(270), columns, donor).iloc[0]
    means = pd.Series(score).groupby([donor, level]).mean()
    by_donor, by_level = (
        np.asarray(means.index.get_level_values(i))[:, None] == np.arange(n) for i, n in ((0, 9), (1, 3))
    )
    rests = [
        np.square(means - x @ np.linalg.lstsq(x.astype(float), means, rcond=None)[0]).sum()
        for x in (by_donor, np.hstack([by_donor, by_level]))
    ]
    assert paired["donor_test"] == "paired, 9 donors"
    assert paired["donor_p"] == pytest.approx(stats.f.sf((rests[0] - rests[1]) / 2 / (rests[1] / 16), 2, 16))
    columns = [make_column(np.char.add("l", (donor % 3).astype(str)))]
    unpaired = associate(make_scores(score), one_class(270), columns, donor).iloc[0]
    of_donor = pd.Series(score).groupby(donor).mean().to_numpy()
    assert unpaired["donor_test"] == "unpaired, 3 vs 3 vs 3 donors"
    assert unpaired["donor_p"] == pytest.approx(stats.f_oneway(*(of_donor[i::3] for i in range(3))).pvalue)


def test_numbers_of_donors_are_ranked_over_donors() -> None:
    donor = np.repeat(np.arange(7), 20)
    age = np.array([30.0, 41, 22, 65, 57, 38, 70])
    score = np.random.default_rng(17).normal(size=140) + 0.1 * age[donor]
    columns = [make_column(age[donor], "age"), make_column(np.arange(140.0), "time")]
    table = associate(make_scores(score), one_class(140), columns, donor)
    expected = stats.spearmanr(age, pd.Series(score).groupby(donor).mean())
    np.testing.assert_allclose(table.loc[0, ["donor_effect", "donor_p"]].to_list(), expected)
    assert table["donor_test"].tolist() == ["rank correlation, 7 donors", "varies within donors"]
    few = associate(make_scores(score[:100]), one_class(100), [make_column(age[donor[:100]])], donor[:100])
    assert few["donor_test"].tolist() == ["fewer than 6 donors"] and few["donor_p"].isna().all()


@pytest.mark.parametrize(
    ("condition", "donor", "said"),
    [
        ([0, 1, 0, 1], None, "no donor key"),
        ([0, 1, 0, 1], [0, 0, 1, 1], "fewer than 3 donors an arm"),
        ([0, 1, 1, 1], [0, 1, 2, 3], "fewer than 3 donors an arm"),
        ([0, 1, 0, 1], [None, None, None, None], "no donor to compare"),
    ],
)
def test_too_few_donors_are_said(condition: list[int], donor: list[object] | None, said: str) -> None:
    column = make_column(np.tile(condition, 10), "condition", "condition")
    donors = None if donor is None else np.tile(np.array(donor, dtype=object), 10)
    row = associate(make_noise(40, 1, 18), one_class(40), [column], donors).iloc[0]
    assert row["donor_test"] == said and np.isnan(row["donor_p"]) and np.isnan(row["donor_q"])


@pytest.mark.parametrize("paired", [False, True])
def test_cells_are_no_replicates(paired: bool) -> None:
    """Donors differ, or answer in ways of their own; the condition does nothing."""
    donor, condition = make_donors(8, 60, paired)
    rng = np.random.default_rng(19)
    by_donor = rng.normal(size=(200, 8))[:, donor] * (condition if paired else 1)
    scores = make_scores(*(by_donor + rng.normal(size=(200, 480))))
    column = make_column(condition, "condition", "condition")
    table = associate(scores, np.arange(480) // 3 % 3, [column], donor)
    assert (table["p"] <= 0.05).mean() > 0.5
    assert (table["donor_p"] <= 0.05).mean() <= 0.1
    assert stats.kstest(table["donor_p"], "uniform").pvalue > 0.01


@pytest.mark.parametrize(("paired", "effect"), [(False, 2.5), (True, 0.7)])
def test_a_true_condition_is_found_over_donors(paired: bool, effect: float) -> None:
    donor, condition = make_donors(8, 60, paired)
    rng = np.random.default_rng(20)
    by_donor = 0.5 * rng.normal(size=(50, 8))[:, donor] + effect * condition
    scores = make_scores(*(by_donor + rng.normal(size=(50, 480))))
    columns = [make_column(donor, "donor", "donor"), make_column(condition, "condition", "condition")]
    table = associate(scores, one_class(480), columns, donor)
    of_condition = table[table["role"] == "condition"]
    assert (of_condition["donor_q"] <= FDR).mean() >= 0.9
    assert (of_condition["donor_effect"] > 0).all()
    if not paired:  # the donor holds the condition, and so explains more
        by_role = table.pivot(index="factor", columns="role", values="effect").abs()
        assert (by_role["donor"] > by_role["condition"]).mean() > 0.9
        assert (tags(table, STRENGTH, FDR) == "condition").mean() >= 0.9


# tags


def make_planted(seed: int, n: int = 900) -> tuple[pd.DataFrame, np.ndarray, list[Column], np.ndarray, list[str]]:
    """A factor a column, and one that is noise: scores, classes, columns, donors, and the tags that are right."""
    rng = np.random.default_rng((seed, 21))
    donor, label = np.arange(n) % 6, np.arange(n) // 6 % 3
    depth = rng.normal(size=n)
    values: dict[tuple[str, Role], np.ndarray] = {
        ("depth", "technical"): depth,
        ("n_genes", "technical"): 0.95 * depth + 0.1 * rng.normal(size=n),
        ("mito_share", "technical"): rng.beta(2, 20, n),
        ("s_score", "cell cycle"): rng.normal(size=n),
        ("g2m_score", "cell cycle"): rng.normal(size=n),
        ("batch", "batch"): rng.integers(0, 4, n),
        ("donor", "donor"): donor,
        ("condition", "condition"): rng.permutation(n) % 2,
        ("age", "named"): rng.normal(size=n),
    }
    columns = [make_column(x, *key) for key, x in values.items()]
    effects = [
        *(np.random.default_rng((seed, i)).normal(size=len(np.unique(x))) for i, x in enumerate(values.values()))
    ]
    signal = [
        1.5 * effects[i][np.unique(x, return_inverse=True)[1]] if role in ("batch", "donor") else x / x.std()
        for i, ((_, role), x) in enumerate(values.items())
    ]
    scores = make_scores(*(2 * part + label + rng.normal(size=n) for part in signal), rng.normal(size=n))
    cycle = ["cell cycle"] * 2
    truth = ["technical: depth"] * 2 + [
        "technical: mito_share",
        *cycle,
        "batch",
        "donor",
        "condition",
        "named: age",
        "",
    ]
    return scores, label, columns, donor, truth


def test_planted_factors_are_tagged() -> None:
    right = []
    for seed in range(5):
        scores, label, columns, donor, truth = make_planted(seed)
        found = tags(associate(scores, label, columns, donor), STRENGTH, FDR)
        assert found.index.tolist() == scores.columns.tolist()
        right += [one == other for one, other in zip(found, truth, strict=True)]
    assert np.mean(right) >= 0.95


def make_table(*rows: tuple[str, Role, float, float], within: str = "") -> pd.DataFrame:
    """A factor's rows, each of column, role, effect and donor_q."""
    table = pd.DataFrame(rows, columns=["column", "role", "effect", "donor_q"])
    return table.assign(factor="f", q=0.001, constant_within=within)


@pytest.mark.parametrize(
    ("table", "tag"),
    [
        (make_table(("depth", "technical", -0.6, np.nan), ("n_genes", "technical", 0.64, np.nan)), "technical: depth"),
        (make_table(("depth", "technical", -0.6, np.nan), ("n_genes", "technical", 0.7, np.nan)), "technical: n_genes"),
        (make_table(("depth", "technical", 0.29, np.nan)), ""),
        (make_table(("condition", "condition", 0.9, 0.2), ("donor", "donor", -0.5, np.nan)), "donor"),
        (make_table(("condition", "condition", 0.9, 0.2), ("x", "named", -0.5, np.nan)), "named: x"),
        (make_table(("condition", "condition", 0.5, 0.01), ("donor", "donor", 0.9, np.nan)), "donor"),
        (
            make_table(("condition", "condition", 0.5, 0.01), ("donor", "donor", 0.9, np.nan), within="donor"),
            "condition",
        ),
        (make_table(("condition", "condition", 0.5, 0.2), ("donor", "donor", 0.9, np.nan), within="donor"), "donor"),
        (make_table(("x", "named", 0.5, 0.01), ("batch", "batch", 0.9, np.nan), within="batch, donor"), "named: x"),
        (make_table(("condition", "condition", 0.5, np.nan), ("s_score", "cell cycle", 0.4, np.nan)), "condition"),
    ],
)
def test_rules_of_tags(table: pd.DataFrame, tag: str) -> None:
    assert tags(table, STRENGTH, FDR).to_dict() == {"f": tag}


def test_without_columns_there_is_nothing_to_tag() -> None:
    table = associate(make_noise(20, 2, 22), one_class(20), [])
    assert table.empty and tags(table, STRENGTH, FDR).empty


# columns


def make_prepared(**columns: object) -> AnnData:
    adata = prepared_counts().copy()
    for name, values in columns.items():
        adata.obs[name] = values
    return adata


def test_columns_of_prepared_counts() -> None:
    adata = make_prepared(mito_share=np.linspace(0, 0.2, 300))
    columns, notes = columns_of(adata, ReportSettings(associate=["true_shared", "condition"]))
    assert [(column.name, column.role) for column in columns] == [
        ("depth", "technical"), ("n_genes", "technical"), ("mito_share", "technical"), ("donor", "donor"),
        ("condition", "condition"), ("true_shared", "named"),
    ]  # fmt: skip
    np.testing.assert_allclose(columns[0].numbers(), np.log(adata.obs[schema.LIBRARY]))
    assert len(notes) == 2 and notes[1].startswith("no batch key") and notes[0].startswith("cell cycle: 0 genes")


def test_columns_without_use_are_said() -> None:
    adata = make_prepared(
        one=1.0, none=np.nan, code=[f"barcode {i}" for i in range(300)], batch=prepared_counts().obs["donor"]
    )
    adata.obs["by_class"] = adata.obs["label"].astype(str)
    names = ["one", "none", "code", "by_class"]
    columns, notes = columns_of(adata, ReportSettings(associate=names))
    assert not {column.name for column in columns} & {*names, "batch"}
    said = {note.partition(":")[0]: note for note in notes}
    assert "it has one value, so" in said["one"] and "no values" in said["none"] and "each sample" in said["code"]
    assert "in each class" in said["by_class"] and "it is the donor" in said["batch"]


def test_a_named_column_may_have_the_name_of_a_made_one() -> None:
    adata = make_prepared(depth=np.random.default_rng(26).normal(size=300))
    columns, _ = columns_of(adata, ReportSettings(associate=["depth", "n_genes"]))
    assert [column.role for column in columns if column.name in ("depth", "n_genes")] == ["technical"] * 2 + ["named"]
    np.testing.assert_array_equal(columns[-1].numbers(), adata.obs["depth"])


def test_a_condition_that_is_the_batch_is_said() -> None:
    adata = make_prepared(batch=prepared_counts().obs["condition"])
    columns, notes = columns_of(adata, ReportSettings())
    assert {"batch", "condition"} <= {column.name for column in columns}
    assert any(note.startswith("condition: each of its values is a batch") for note in notes)


def test_what_is_no_counts_has_no_depth() -> None:
    columns, notes = columns_of(prepared_features(), ReportSettings(associate=["true_shared"]))
    assert [column.name for column in columns] == ["true_shared"]
    assert [note.partition(":")[0] for note in notes] == ["no donor key", "no batch key", "no condition key"]


@pytest.mark.parametrize("name", ["conditon", "label", "nvae_label"])
def test_a_column_that_is_not_there_ends_in_one_line(name: str) -> None:
    adata = make_prepared(nvae_label="c0")
    with pytest.raises(UserError, match=rf"^associate: '{name}'.*allowed: .*true_shared") as error:
        columns_of(adata, ReportSettings(associate=[name]))
    assert "\n" not in str(error.value)
    assert ("did you mean 'condition'?" in str(error.value)) == (name == "conditon")


# cell cycle


def make_cycling(seed: int = 0, n_genes: int = 600, n: int = 300) -> tuple[AnnData, np.ndarray]:
    """Counts with mouse names, of which the first third is in S phase and the second in G2/M: its genes are tripled."""
    rng = np.random.default_rng((seed, 23))
    names = [*S_GENES, *G2M_GENES, *(f"gene{i}" for i in range(n_genes - 97))]
    rate = np.tile(rng.gamma(0.5, 1.0, n_genes), (n, 1))
    phase = np.arange(n) // (n // 3)
    rate[phase == 0, :43] *= 3
    rate[phase == 1, 43:97] *= 3
    counts = sparse.csr_matrix(rng.poisson(rate * rng.lognormal(sigma=0.5, size=(n, 1))).astype(np.float32))
    obs = pd.DataFrame(index=[f"s{i}" for i in range(n)])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[name.capitalize() for name in names])), phase


def test_cycle_scores_find_planted_phases() -> None:
    counts, phase = make_cycling()
    scores = cycle_scores(counts)
    assert scores is not None and scores.index.equals(counts.obs_names)
    for number, name in enumerate(["s_score", "g2m_score"]):
        others = stats.mannwhitneyu(scores[name][phase == number], scores[name][phase != number])
        assert others.statistic / (100 * 200) > 0.95  # the AUROC
    depth = np.log(np.asarray(counts.X.sum(axis=1)).ravel())[phase == 2]
    assert abs(stats.spearmanr(depth, scores["s_score"][phase == 2]).statistic) < 0.3


def test_cycle_scores_change_nothing_and_are_the_same_again() -> None:
    counts, _ = make_cycling()
    before = counts.copy()
    np.random.seed(5)  # noqa: NPY002  # the global state is the caller's
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    one = cycle_scores(counts)
    assert (counts.X != before.X).nnz == 0 and counts.obs.equals(before.obs) and not counts.uns
    assert np.random.random() == drawn  # noqa: NPY002
    dense = AnnData(counts.X.toarray(), obs=counts.obs, var=counts.var)
    other = cycle_scores(dense)
    assert one is not None and other is not None
    pd.testing.assert_frame_equal(one, other)


def test_cycle_scores_are_of_the_library() -> None:
    """Of all counts of the cell, also those outside the features: both times as many are the same scores."""
    counts, _ = make_cycling()
    plain, rng = cycle_scores(counts), np.random.default_rng(25)
    library, times = (
        np.asarray(counts.X.sum(axis=1)).ravel() * rng.uniform(1, 9, 300),
        rng.integers(1, 5, 300).astype(float),
    )
    more = AnnData(sparse.csr_matrix(sparse.diags(times) @ counts.X), obs=counts.obs.copy(), var=counts.var)
    counts.obs[schema.LIBRARY], more.obs[schema.LIBRARY] = library, times * library
    one, other = cycle_scores(counts), cycle_scores(more)
    assert plain is not None and one is not None and other is not None
    pd.testing.assert_frame_equal(one, other)
    assert abs(plain - one).max().min() > 0.1


def test_too_few_cycle_genes_are_said() -> None:
    counts, _ = make_cycling()
    assert cycle_scores(counts[:, 4:39].copy()) is None  # no G2/M
    assert cycle_scores(counts[:, 38:].copy()) is not None  # 5 of S
    assert cycle_scores(counts[:, 39:].copy()) is None
    assert cycle_scores(counts[:, :110].copy()) is None  # nothing to compare with
    found = cycle_genes(counts.var_names)
    assert [len(genes) for genes in found.values()] == [43, 54]


def test_cycle_columns_are_of_counts_with_the_genes() -> None:
    counts, phase = make_cycling()
    counts.obs[schema.LIBRARY], counts.obs["n_genes"] = counts.X.sum(axis=1), (counts.X > 0).sum(axis=1)
    counts.uns[schema.DATA] = {"kind": "counts"}
    columns, _ = columns_of(counts, ReportSettings())
    rng = np.random.default_rng(24)
    score = (phase == 0) + 0.2 * rng.normal(size=300)
    found = tags(associate(make_scores(score), one_class(300), columns), STRENGTH, FDR)
    assert found.tolist() == ["cell cycle"]


# real data


def test_treated_glioblastoma(data_folder: Path) -> None:
    """Five patients, each with and without panobinostat: the first component of all genes as a score."""
    adata = anndata.read_h5ad(data_folder / "glioblastoma_panobinostat" / "glioblastoma_panobinostat.h5ad")
    library = np.asarray(adata.X.sum(axis=1)).ravel()
    logged = np.log1p(adata.X.toarray() * 1e4 / library[:, None])
    left, size, _ = np.linalg.svd(logged - logged.mean(0), full_matrices=False)
    scores, patient = make_scores(*(left[:, :5] * size[:5]).T), adata.obs["batch"].to_numpy(dtype=str)
    columns = [
        Column.of("depth", "technical", pd.Series(np.log(library))), Column.of("donor", "donor", adata.obs["batch"]),
        Column.of("condition", "condition", adata.obs["condition"]), Column.of("gender", "named", adata.obs["gender"]),
    ]  # fmt: skip
    before = [scores.copy(), *(column.values.copy() for column in columns)]
    table = associate(scores, one_class(5000), columns, patient)
    of_condition = table[table["role"] == "condition"]
    assert set(of_condition["donor_test"]) == {"paired, 5 donors"} and set(of_condition["n_donors"]) == {5}
    assert of_condition["donor_p"].between(0, 1).all() and (of_condition["donor_p"] >= of_condition["p"]).all()
    assert set(of_condition["levels"]) == {"ctrl → panobinostat"}
    assert set(table.loc[table["column"] == "gender", "donor_test"]) == {"fewer than 3 donors an arm"}
    assert tags(table, STRENGTH, FDR).isin(["condition", "donor", "technical: depth", "named: gender", ""]).all()
    for old, new in zip(before, [scores, *(column.values for column in columns)], strict=True):
        assert old.equals(new)
