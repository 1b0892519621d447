"""The detector's parts: usage map, pooled p-values, families, null data, readings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import embed_data, prepare_data, report_seeds, train_model
from nvae_bio.config import FeaturesSettings, RunSettings
from nvae_bio.errors import UserError
from nvae_bio.factors.decide import adjusted, check_null, is_sufficient, limits, of_kind, pooled, pooled_p, q_values
from nvae_bio.factors.held import common_projections
from nvae_bio.factors.null import null_drawer, refit_null
from nvae_bio.factors.reading import alike, notes, read_factors
from nvae_bio.factors.step import factor_table
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK, OWN_DIM, SHARED, STATISTICS, Usage, chance_gain, few
from nvae_bio.model import DiagonalGaussian
from tests.small_models import law
from tests.toys import NO_UMAP, PREPARED, fit_settings, trained


def make_rows(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["statistic", "class", "dim", "value"])


def p_of(observed: pd.DataFrame, null: pd.DataFrame, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p of each observed row, and the smallest that it could have been."""
    return pooled_p(observed["value"].to_numpy(), pooled(observed, null, sizes))


def no_block(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard deviations and gains of n samples of a model without private dims."""
    return np.zeros((n, 0)), np.zeros((n, 0)), np.zeros(n)


# --- usage -----------------------------------------------------------------------------------------------------------


def test_usage_averages_the_shared_dims_and_the_own_block_of_each_class() -> None:
    rng = np.random.default_rng(0)
    posterior = DiagonalGaussian(torch.from_numpy(rng.normal(size=(30, 4))), torch.from_numpy(rng.normal(size=(30, 4))))
    gain, block_gain, label = rng.normal(size=(30, 2)), rng.normal(size=30), np.arange(30) % 3
    mean, std, own_std = posterior.mean.numpy(), posterior.log_std.exp().numpy(), rng.random((30, 2))
    usage, chance = Usage.of(mean, std, own_std, gain, block_gain, label), chance_gain(own_std)
    for y in range(3):
        np.testing.assert_allclose(usage.shared[y], posterior.kl().numpy()[label == y].mean(0))
        np.testing.assert_allclose(usage.excess[y], (gain - chance)[label == y].mean(0))
        np.testing.assert_allclose(usage.block_excess[y], (block_gain - chance.sum(1))[label == y].mean())


@law
@given(st.integers(0, 1000), st.floats(0.1, 3.0))
def test_a_dim_that_holds_nothing_gains_what_chance_says_and_a_true_one_the_information(seed: int, size: float) -> None:
    """x = w z + noise, or noise alone: the gain of N(0, 1 + w²) over N(0, 1) against its closed forms."""
    rng, slope = np.random.default_rng(seed), size
    noise, std = rng.normal(size=200_000), (1 + slope**2) ** -0.5

    def gain(x: np.ndarray) -> float:
        return float(np.mean((x * slope * std) ** 2 / 2 + np.log(std)))

    assert gain(noise) == pytest.approx(float(chance_gain(np.array(std))), abs=0.02)
    with_factor = noise + slope * rng.normal(size=len(noise))
    assert gain(with_factor) == pytest.approx(slope**2 / 2 + np.log(std), abs=0.1)


@law
@given(st.floats(0.05, 3.0), st.floats(-3.0, 3.0))
def test_what_a_dim_tells_within_a_class_is_the_information_of_a_gaussian_channel(slope: float, shift: float) -> None:
    """x = slope z + noise, z ~ N(0, 1): I(x; z) = ½ log(1 + slope²), also where the class lies off the prior's mean."""
    rng = np.random.default_rng(0)
    std = np.full((4000, 1), (1 + slope**2) ** -0.5)
    spread = slope * std[0, 0]  # of the posterior means
    label = np.arange(4000) % 2
    mean = spread * rng.normal(size=(4000, 1)) + shift * label[:, None]
    usage = Usage.of(mean, std, *no_block(4000), label)
    np.testing.assert_allclose(usage.within[:, 0], np.log(1 + slope**2) / 2, atol=0.05)
    assert usage.shared[1, 0] - usage.shared[0, 0] == pytest.approx(shift**2 / 2, abs=0.2)


def test_a_class_whose_mean_is_off_has_nothing_hidden_and_one_that_varies_alone_has() -> None:
    rng = np.random.default_rng(0)
    label, mean = np.arange(4000) % 4, 0.9 * rng.normal(size=(4000, 2))
    mean[:, 0] += 3.0 * (label == 1)  # a shared factor that is higher in class 1
    mean[label != 2, 1] *= 0.05  # a factor that class 2 alone has
    std = np.where(np.arange(2) == 1, np.where(label == 2, 0.45, 1.0)[:, None], 0.45)
    usage = Usage.of(mean, std, *no_block(4000), label)
    hidden = usage.statistics().query("statistic == @HIDDEN").set_index("class")
    assert usage.shared[1, 0] - usage.shared[[0, 2, 3], 0].max() > 4
    assert hidden.loc[2, "dim"] == 1
    assert hidden.loc[2, "value"] > 0.7
    assert hidden.loc[[0, 1, 3], "value"].max() < 0.1
    assert OWN_BLOCK not in set(usage.statistics()["statistic"])


def make_usage(within: list[list[float]]) -> Usage:
    """A usage map of which I[y, s] alone is told, (C, S)."""
    none = np.zeros((len(within), 0))
    zeros = np.zeros_like(within)
    return Usage(zeros, none, np.zeros(len(within)), within=np.array(within), spread=zeros, shared_excess=zeros)


def test_a_dim_that_other_classes_use_as_well_is_not_hidden() -> None:
    # dim 0: a shared factor that moves class 0 most; dim 1: of class 1 alone; dim 2: too little to be a factor
    found = make_usage([[1.6, 0.0, 0.0], [1.3, 0.5, 0.1], [1.1, 0.1, 0.0], [0.9, 0.1, 0.0]]).exclusive()
    np.testing.assert_allclose(found, [[0, 0, 0], [0, 0.4, 0], [0, 0, 0], [0, 0, 0]])
    twice = make_usage([[1.0], [0.5], [0.5]]).exclusive()
    assert twice[0, 0] == pytest.approx(0.5)
    assert (make_usage([[0.99], [0.5], [0.5]]).exclusive() == 0).all()


def test_one_class_has_nothing_to_itself() -> None:
    usage = Usage.of(np.ones((5, 2)), np.full((5, 2), 0.5), *no_block(5), np.zeros(5, int))
    assert (usage.exclusive() == 0).all()


# --- decisions -------------------------------------------------------------------------------------------------------


def test_a_p_value_counts_the_null_of_classes_of_like_size() -> None:
    null = make_rows(*[(OWN_BLOCK, 0, -1, float(v)) for v in range(9)], *[(OWN_BLOCK, 2, -1, 100.0)] * 9)
    observed = make_rows(
        (OWN_BLOCK, 0, -1, 7.5), (OWN_BLOCK, 1, -1, 50.0), (OWN_BLOCK, 2, -1, 50.0), (SHARED, 0, 0, 1.0)
    )
    p, smallest = p_of(observed, null, np.array([100, 60, 1000]))
    np.testing.assert_allclose(p[:3], [2 / 10, 1 / 10, 10 / 10])
    np.testing.assert_allclose(smallest[:3], 1 / 10)
    assert np.isnan([p[3], smallest[3]]).all()


def test_a_tie_counts_against_the_finding() -> None:
    null = make_rows(*[(OWN_BLOCK, 0, -1, 0.5)] * 4)
    p, _ = p_of(make_rows((OWN_BLOCK, 0, -1, 0.5)), null, np.array([10]))
    assert p[0] == 1.0


def test_shared_usages_have_a_null_of_their_own_kind() -> None:
    kinds = ("no_private", "no_factor", "permuted_labels")
    null = pd.concat([make_rows((OWN_BLOCK, 0, -1, 1.0), (SHARED, 0, 0, 1.0)).assign(kind=kind) for kind in kinds])
    found = of_kind(null, "no_private")
    assert list(zip(found["statistic"], found["kind"], strict=True)) == [
        (OWN_BLOCK, "no_private"), (SHARED, "no_factor")
    ]  # fmt: skip


@law
@given(st.integers(0, 1000))
def test_p_values_of_the_null_itself_are_uniform(seed: int) -> None:
    rng = np.random.default_rng(seed)
    null = make_rows(*[(OWN_BLOCK, i % 4, -1, v) for i, v in enumerate(rng.gamma(1.0, size=400))])
    observed = make_rows(*[(OWN_BLOCK, i % 4, -1, v) for i, v in enumerate(rng.gamma(1.0, size=200))])
    p, _ = p_of(observed, null, np.full(4, 50))
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-4


def test_q_values_are_those_of_benjamini_and_hochberg_within_each_family() -> None:
    p = np.array([0.001, 0.02, 0.5, np.nan])
    np.testing.assert_allclose(adjusted(p)[:3], [0.003, 0.03, 0.5])
    assert np.isnan(adjusted(p)[3])


def test_dims_are_tested_in_called_blocks_alone_and_pay_for_the_choice() -> None:
    places = [(OWN_BLOCK, 0, -1), (OWN_BLOCK, 1, -1), (OWN_DIM, 0, 0), (OWN_DIM, 0, 1), (OWN_DIM, 1, 0)]
    observed = make_rows(*((*place, 1.0) for place in places)).assign(smallest_p=0.0001)
    observed["p"] = [0.001, 0.9, 0.004, 0.8, 0.0001]
    q = q_values(observed, 0.05)
    np.testing.assert_allclose(q[:2], [0.002, 0.9])
    np.testing.assert_allclose(q[2:4], [0.004 * 2 * 2, 1.0])  # two dims, and two blocks of which one is called
    assert q[4] == 1.0  # however small its p, its block is not called


def test_what_could_not_be_called_at_any_value_is_not_tested() -> None:
    observed = make_rows((OWN_BLOCK, 0, -1, 1.0), (OWN_DIM, 0, 0, 1.0), (OWN_BLOCK, 1, -1, 1.0), (OWN_DIM, 1, 0, 1.0))
    observed = observed.assign(p=[0.01, 0.01, 0.1, 0.01], smallest_p=[0.01, 0.01, 0.1, 0.01])
    q = q_values(observed, 0.05)
    np.testing.assert_allclose(q[:2], 0.01)  # alone in the family
    assert np.isnan(q[2:]).all()


@law
@given(st.integers(2, 12), st.integers(1, 60), st.sampled_from([0.05, 0.1]))
def test_the_limits_are_those_of_the_q_values(n_classes: int, n_refits: int, fdr: float) -> None:
    """As many classes with the smallest p as the note says are called, and one fewer are not."""
    smallest = 1 / (1 + n_refits * n_classes)
    tested = make_rows(*((OWN_BLOCK, y, -1, 1.0) for y in range(n_classes))).assign(smallest_p=smallest)
    called = []
    for at_once in range(1, n_classes + 1):
        p = np.where(np.arange(n_classes) < at_once, smallest, 1.0)
        called.append((q_values(tested.assign(p=p), fdr) <= fdr).any())
    said = limits(tested, {"no_private": n_refits}, "no_private", fdr)
    least = called.index(True) + 1 if any(called) else None
    if least == 1:
        assert said == []
    elif least is None:
        assert f"{n_classes} of {n_classes} tests cannot end in a call" in said[0]
    else:
        assert f"fewer than {least} of {n_classes} together cannot be called" in said[0]
    assert set(is_sufficient(tested, fdr)) == {least == 1}
    if said:  # as many refits as it asks for are enough, and one fewer is not
        enough = int(said[0].split("; ")[-1].split()[0])
        for n, silent in ((enough, True), (enough - 1, False)):
            more = tested.assign(smallest_p=1 / (1 + n * n_classes))
            assert (limits(more, {"no_private": n}, "no_private", fdr) == []) == silent
    (none,) = limits(tested, {}, "no_private", fdr)
    assert none == "null of private factors: no refits of kind 'no_private', so none is called"


def test_a_class_of_a_size_of_its_own_is_told_apart() -> None:
    tested = make_rows(*((OWN_BLOCK, y, -1, 1.0) for y in range(3)))
    (line,) = limits(tested.assign(smallest_p=[1 / 21, 1 / 21, 1 / 11]), {"no_private": 10}, "no_private", 0.05)
    assert "1 of 3 tests cannot end in a call at fdr 0.05, and fewer than 2 of 2 together" in line
    assert "the smallest p is 0.048 to 0.091" in line
    assert line.endswith("; 59 refits would do")


@pytest.mark.parametrize("n_classes", [2, 3, 5, 10, 30])
def test_the_default_number_of_refits_is_enough_for_classes_of_like_size(n_classes: int) -> None:
    settings, rows = RunSettings(dataset="d"), []
    for y in range(n_classes):
        rows += [(OWN_BLOCK, y, -1, 1.0), *((SHARED, y, dim, 1.0) for dim in range(settings.model.n_shared))]
    observed = make_rows(*rows)
    n_refits = {kind: sum(map(len, parts)) for kind, parts in settings.refits.items()}
    assert n_refits == {"no_private": 20, "no_factor": 10}
    null = pd.concat([observed.assign(kind=kind) for kind, n in n_refits.items() for _ in range(n)])
    _, smallest = p_of(observed, of_kind(null, "no_private"), np.full(n_classes, 100))
    assert limits(observed.assign(smallest_p=smallest), n_refits, "no_private", settings.report.fdr) == []


WRONG_NULLS = {
    "column": (lambda null: null.drop(columns="refit"), "null: no column 'refit'; needed: kind, refit, statistic"),
    "twice": (lambda null: pd.concat([null, null]), "null: refit 3 of kind 'no_private' is there twice"),
    "classes": (lambda null: null[null["class"] == 0], "other classes or latent dims than this run's"),
    "dims": (lambda null: null.assign(dim=null["dim"] + 1), "other classes or latent dims than this run's"),
}


@pytest.mark.parametrize("case", WRONG_NULLS)
def test_a_null_of_something_else_is_refused(case: str) -> None:
    observed = make_rows((OWN_BLOCK, 0, -1, 1.0), (OWN_BLOCK, 1, -1, 1.0), (HIDDEN, 0, 4, 1.0))
    null = observed.assign(kind="no_private", refit=3, dim=[-1, -1, 2])  # a hidden factor may be in any dim
    check_null(null, observed)
    change, said = WRONG_NULLS[case]
    with pytest.raises(UserError, match=said):
        check_null(change(null), observed)


# --- null data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no_private", "no_factor", "permuted_labels", "permuted_features"])
@pytest.mark.parametrize("data", list(PREPARED))
def test_null_data_keep_all_but_the_factors(data: str, kind: str) -> None:
    prepared, settings = PREPARED[data](), fit_settings(3)
    draw = null_drawer(prepared, train_model(prepared, settings.base), kind)  # type: ignore[arg-type]
    drawn, again = draw(3), draw(3)
    assert drawn.shape == prepared.shape
    assert (drawn.obs["split"] == prepared.obs["split"]).all()
    assert drawn.obs["label"].value_counts().equals(prepared.obs["label"].value_counts())
    dense = [np.asarray(part.X.todense() if data == "counts" else part.X) for part in (prepared, drawn, again)]
    np.testing.assert_array_equal(dense[1], dense[2])
    assert (dense[0] == dense[1]).all() == (kind == "permuted_labels")
    assert drawn.uns["nvae_data"]["fingerprint"] != prepared.uns["nvae_data"]["fingerprint"]


def test_null_pictures_of_a_cross_entropy_are_as_grey_as_the_pictures() -> None:
    prepared, settings = PREPARED["images"](), fit_settings(30, likelihood="cross_entropy")
    drawn = null_drawer(prepared, train_model(prepared, settings.base), "no_private")(0)
    before, after = np.asarray(prepared.X), np.asarray(drawn.X)
    assert after.min() >= 0
    assert after.max() <= 1
    assert ((after > 0.02) & (after < 0.98)).mean() > 0.8
    for name in ("c0", "c1", "c2"):
        rows = (prepared.obs["label"] == name).to_numpy()
        np.testing.assert_allclose(after[rows].mean(0), before[rows].mean(0), atol=0.08)
        assert after[rows].std(0).mean() == pytest.approx(before[rows].std(0).mean(), rel=0.3)


def variance_along(adata: AnnData, weights: np.ndarray) -> np.ndarray:
    """Of the features along a direction, within each class, (C,)."""
    along = np.asarray(adata.X) @ weights / np.linalg.norm(weights)
    return np.array([along[(adata.obs["label"] == name).to_numpy()].var() for name in ("c0", "c1", "c2")])


def test_null_data_have_what_is_shared_and_not_what_is_private() -> None:
    """The base model has room for the private factor of c1 in z_s, and other uses for the room in the other classes."""
    prepared, rng = PREPARED["features"](), np.random.default_rng((0, 1))
    _, shared, private = rng.normal(size=(3, 20)), rng.normal(size=20), rng.normal(size=20)  # as in `raw_features`
    private -= shared * (private @ shared) / (shared @ shared)
    base = train_model(prepared, fit_settings(60, n_shared=2).base)
    before = [variance_along(prepared, weights) for weights in (shared, private)]
    assert before[1][1] > 10 * before[1][[0, 2]].max()
    after = [variance_along(null_drawer(prepared, base, "no_private")(0), weights) for weights in (shared, private)]
    np.testing.assert_allclose(after[0], before[0], rtol=0.35)
    assert after[1][1] < 3 * after[1][[0, 2]].max()
    neither = [variance_along(null_drawer(prepared, base, "no_factor")(0), weights) for weights in (shared, private)]
    assert neither[0].max() < 0.2 * before[0].min()
    assert neither[1].max() < 0.2 * before[1][1]


@pytest.mark.slow
def test_what_spills_into_the_blocks_for_lack_of_shared_dims_is_in_the_null_too() -> None:
    rng, label = np.random.default_rng(0), np.repeat(np.arange(3), 300)
    x = rng.normal(size=(3, 20))[label] + rng.normal(size=(900, 3)) @ rng.normal(size=(3, 20))  # three shared factors
    obs = pd.DataFrame({"label": [f"c{i}" for i in label]}, index=[f"s{i}" for i in range(900)])
    raw = AnnData((x + 0.5 * rng.normal(size=x.shape)).astype(np.float32), obs=obs)
    prepared = prepare_data(FeaturesSettings(kind="features", standardize=False), raw)
    settings = fit_settings(200, n_shared=1, n_private=2, hidden=[32])
    found = factor_table(report_seeds([embed_data(prepared, train_model(prepared, settings), NO_UMAP)]))
    blocks = found[found["kind"] == "private"].groupby("class", observed=True)["kl"].sum()
    null = refit_null(prepared, train_model(prepared, settings.base), settings, refits=(0, 1))
    null_blocks = null.loc[null["statistic"] == OWN_BLOCK, "value"]
    assert blocks.min() > 2
    assert null_blocks.min() > 0.8 * blocks.max()


@law
@given(st.integers(0, 1000), st.integers(2, 6))
def test_the_common_part_of_a_class_is_found_whatever_the_axes(seed: int, n_classes: int) -> None:
    """z = R (shared, private): the private direction of class 0 is held, and in all other classes nothing is."""
    rng = np.random.default_rng(seed)
    shared, private = rng.normal(size=(200, 3)), rng.normal(size=(200, 1))
    turns = [scipy.stats.ortho_group.rvs(4, random_state=rng) for _ in range(n_classes)]
    effects = [np.hstack([shared, private if y == 0 else 0 * private]) @ turn.T for y, turn in enumerate(turns)]
    informed = [turn[:, : 4 if y == 0 else 3] for y, turn in enumerate(turns)]
    kept = common_projections(effects, informed)
    np.testing.assert_allclose(effects[0] @ kept[0], np.hstack([shared, 0 * private]) @ turns[0].T, atol=2.0)
    assert np.linalg.norm(kept[0] @ turns[0][:, 3]) < 0.2
    for effect, part in zip(effects[1:], kept[1:], strict=True):
        np.testing.assert_allclose(effect @ part, effect, atol=1e-6)


def test_a_refit_is_a_function_of_its_number_whatever_the_others_are() -> None:
    prepared, settings = PREPARED["features"](), fit_settings(3)
    base = train_model(prepared, settings.base)
    together = refit_null(prepared, base, settings, refits=(2, 1))
    alone = [refit_null(prepared, base, settings, refits=(number,)) for number in (2, 1)]
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True), check_exact=True)
    assert not alone[0]["value"].equals(alone[1]["value"])
    assert set(together["statistic"]) == set(STATISTICS)
    assert (together.loc[together["statistic"] == SHARED, "value"] >= -1e-6).all()


def test_a_base_model_that_cannot_be_one_is_refused() -> None:
    prepared, settings = PREPARED["features"](), fit_settings(1)
    base = train_model(prepared, settings.base)
    assert base.network.n_shared == settings.model.n_shared + settings.model.n_private
    with pytest.raises(UserError, match="variant 'nvae', with private latents; allowed: cvae, vae"):
        refit_null(prepared, trained("features"), settings)
    with pytest.raises(UserError, match="trained on other data"):
        refit_null(PREPARED["features"](1), base, settings)
    with pytest.raises(UserError, match=r"n_shared 12; allowed: 14 \(n_shared \+ n_private of the run\) or more"):
        refit_null(prepared, base, fit_settings(1, n_private=4))
    for refits, said in (((), "none; at least one"), ((3, 3), "3, 3; at least one, and different")):
        with pytest.raises(UserError, match=said):
            refit_null(prepared, base, settings, refits=refits)


# --- readings --------------------------------------------------------------------------------------------------------


def make_table(kinds: Sequence[str], classes: Sequence[str], hidden: Sequence[list[str]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"kind": kinds, "class": classes, "kl": 1.0, "outcome": "active", "hidden_in": hidden, "seed": 0}
    )


def test_effects_are_alike_whatever_their_sign_and_never_within_a_block() -> None:
    effect = np.array([[1.0, 0, 0], [-2.0, 0.1, 0], [0, 1.0, 0], [1.0, 0, 0]])
    groups = alike(effect, np.array(["a", "b", "b", "c"]), 0.7)
    assert groups[0] == groups[1] == groups[3] != groups[2]
    assert len(set(alike(effect[[0, 3]], np.array(["a", "a"]), 0.7))) == 2


def test_readings_in_words() -> None:
    classes = ["a", "b", "c", "d", "e"]
    table = make_table(["private"] * 5 + ["shared"] * 2, [*"abcda", "", ""], [[], [], [], [], [], ["e"], []])
    effect = np.array(
        [[1.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    )
    usage = np.zeros((7, 5), bool)
    usage[6, :4] = True
    found = read_factors(table, effect, usage, classes, 0.7)
    assert found["reading"].tolist() == [
        *["shared: blocks of 3 classes have like effects; S is too small"] * 3, "private to d", "private to a",
        "hidden in z_s: private to e", "used by 4 of 5 classes",
    ]  # fmt: skip
    assert found["private_to"].tolist() == [[], [], [], ["d"], ["a"], ["e"], []]
    assert [note.split(":")[0] for note in notes(pd.concat([table, found], axis=1))] == ["S too small", "hidden in z_s"]
    assert notes(table.assign(reading="private to a")) == []


def test_what_spilled_into_most_blocks_is_said_though_none_is_called() -> None:
    classes = ["a", "b", "c", "d", "e"]
    table = make_table(["private"] * 5, [*"abcde"], [[]] * 5).assign(outcome="inactive")
    effect, usage = np.tile([1.0, 0, 0], (5, 1)), np.zeros((5, 5), bool)
    effect[4] = [0, 1, 0]
    found = read_factors(table, effect, usage, classes, 0.7)
    spilled = "shared: blocks of 4 classes have like effects; S is too small"
    assert found["reading"].tolist() == [spilled] * 4 + [""]
    one = table.assign(outcome=["active", *["inactive"] * 4])  # with the same in most blocks it is not private
    assert read_factors(one, effect, usage, classes, 0.7)["private_to"].tolist() == [[]] * 5
    few = table.assign(outcome=["active", *["inactive"] * 4], kl=[1.0, 1.0, 0.01, 0.01, 1.0])  # empty dims do not count
    assert read_factors(few, effect, usage, classes, 0.7)["reading"].tolist() == ["private to a", *[""] * 4]


@pytest.mark.parametrize("n_classes", range(2, 30))
def test_a_minority_is_less_than_half(n_classes: int) -> None:
    assert few(n_classes) >= 1
    assert few(n_classes) < n_classes / 2 or n_classes == 2
