"""The detector's parts: usage map, pooled p-values, families, null data, readings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import train_model
from nvae_bio.factors.decide import adjusted, pooled_p, q_values
from nvae_bio.factors.null import draw_null, refit_null
from nvae_bio.factors.reading import alike, notes, read_factors
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK, OWN_DIM, SHARED, Usage, few
from tests.small_models import law
from tests.toys import PREPARED, fit_settings

STATISTICS = ["statistic", "class", "dim", "value"]


def make_rows(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=STATISTICS)


# --- usage -----------------------------------------------------------------------------------------------------------


def test_usage_averages_the_shared_dims_and_the_own_block_of_each_class() -> None:
    rng = np.random.default_rng(0)
    shared, private, label = rng.random((30, 4)), rng.random((30, 3, 2)), np.arange(30) % 3
    usage = Usage.of(shared, private, label)
    for y in range(3):
        np.testing.assert_allclose(usage.shared[y], shared[label == y].mean(0))
        np.testing.assert_allclose(usage.own[y], private[label == y, y].mean(0))


def test_the_exclusive_part_is_what_stands_above_the_other_classes() -> None:
    shared = np.array([[1.0, 0.0, 2.0], [1.0, 0.0, 2.0], [1.0, 0.9, 2.0], [1.0, 0.0, 2.5]])
    usage = Usage(shared, np.zeros((4, 0)))
    np.testing.assert_allclose(usage.exclusive()[:, 0], 0)
    assert usage.exclusive()[2, 1] == pytest.approx(0.9)
    hidden = usage.statistics().query("statistic == @HIDDEN").set_index("class")
    assert hidden.loc[2, ["dim", "value"]].tolist() == pytest.approx([1, 0.9])
    assert OWN_BLOCK not in set(usage.statistics()["statistic"])
    assert usage.used(0.01).tolist() == [
        [True, False, True],
        [True, False, True],
        [True, True, True],
        [True, False, True],
    ]


# --- decisions -------------------------------------------------------------------------------------------------------


def test_a_p_value_counts_the_null_of_classes_of_like_size() -> None:
    null = make_rows(*[(OWN_BLOCK, 0, -1, float(v)) for v in range(9)], *[(OWN_BLOCK, 2, -1, 100.0)] * 9)
    observed = make_rows(
        (OWN_BLOCK, 0, -1, 7.5), (OWN_BLOCK, 1, -1, 50.0), (OWN_BLOCK, 2, -1, 50.0), (SHARED, 0, 0, 1.0)
    )
    p = pooled_p(observed, null, np.array([100, 60, 1000]))
    np.testing.assert_allclose(p[:3], [2 / 10, 1 / 10, 10 / 10])
    assert np.isnan(p[3])


@law
@given(st.integers(0, 1000))
def test_p_values_of_the_null_itself_are_uniform(seed: int) -> None:
    rng = np.random.default_rng(seed)
    null = make_rows(*[(OWN_BLOCK, i % 4, -1, v) for i, v in enumerate(rng.gamma(1.0, size=400))])
    observed = make_rows(*[(OWN_BLOCK, i % 4, -1, v) for i, v in enumerate(rng.gamma(1.0, size=200))])
    p = pooled_p(observed, null, np.full(4, 50))
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-4


def test_q_values_are_those_of_benjamini_and_hochberg_within_each_family() -> None:
    p = np.array([0.001, 0.02, 0.5, np.nan])
    np.testing.assert_allclose(adjusted(p)[:3], [0.003, 0.03, 0.5])
    assert np.isnan(adjusted(p)[3])


def test_dims_are_tested_in_called_blocks_alone_and_pay_for_the_choice() -> None:
    observed = make_rows(
        (OWN_BLOCK, 0, -1, 1.0), (OWN_BLOCK, 1, -1, 1.0), (OWN_DIM, 0, 0, 1.0), (OWN_DIM, 0, 1, 1.0), (OWN_DIM, 1, 0, 1.0)
    )  # fmt: skip
    observed["p"] = [0.001, 0.9, 0.004, 0.8, 0.0001]
    q = q_values(observed, 0.05)
    np.testing.assert_allclose(q[:2], [0.002, 0.9])
    np.testing.assert_allclose(q[2:4], [0.004 * 2 * 2, 1.0])  # two dims, and two blocks of which one is called
    assert q[4] == 1.0  # however small its p, its block is not called


# --- null data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no_private", "no_factor", "permuted_labels", "permuted_features"])
@pytest.mark.parametrize("data", list(PREPARED))
def test_null_data_keep_all_but_the_factors(data: str, kind: str) -> None:
    prepared, settings = PREPARED[data](), fit_settings(3)
    base = train_model(prepared, settings.base)
    drawn, again = (draw_null(prepared, base, kind, 3) for _ in range(2))  # type: ignore[arg-type]
    assert drawn.shape == prepared.shape and (drawn.obs["split"] == prepared.obs["split"]).all()
    assert drawn.obs["label"].value_counts().equals(prepared.obs["label"].value_counts())
    dense = [np.asarray(part.X.todense() if data == "counts" else part.X) for part in (prepared, drawn, again)]
    np.testing.assert_array_equal(dense[1], dense[2])
    assert (dense[0] == dense[1]).all() == (kind == "permuted_labels")
    assert drawn.uns["nvae_data"]["fingerprint"] != prepared.uns["nvae_data"]["fingerprint"]


def test_data_without_any_factor_vary_less_than_the_data() -> None:
    prepared = PREPARED["features"]()
    base = train_model(prepared, fit_settings(60).base)
    within = [
        np.mean([np.asarray(part.X)[(part.obs["label"] == name).to_numpy()].var(0) for name in ("c0", "c1", "c2")])
        for part in (prepared, draw_null(prepared, base, "no_factor", 0))
    ]
    assert within[1] < 0.6 * within[0]


def test_a_refit_is_a_function_of_its_number() -> None:
    prepared, settings = PREPARED["features"](), fit_settings(3)
    base = train_model(prepared, settings.base)
    one, same, other = (refit_null(prepared, base, settings, refit=number) for number in (1, 1, 2))
    assert one.equals(same) and not one["value"].equals(other["value"])
    assert set(one["statistic"]) == {OWN_BLOCK, OWN_DIM, SHARED, HIDDEN}
    assert (one.loc[one["statistic"] != HIDDEN, "value"] >= -1e-6).all()


# --- readings --------------------------------------------------------------------------------------------------------


def make_table(kinds: Sequence[str], classes: Sequence[str], hidden: Sequence[list[str]]) -> pd.DataFrame:
    return pd.DataFrame({"kind": kinds, "class": classes, "outcome": "active", "hidden_in": hidden, "seed": 0})


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
    assert found["private_to"].tolist() == ["", "", "", "d", "a", "e", ""]
    assert [note.split(":")[0] for note in notes(pd.concat([table, found], axis=1))] == ["S too small", "hidden in z_s"]
    assert notes(table.assign(reading="private to a")) == []


@pytest.mark.parametrize("n_classes", range(2, 30))
def test_a_minority_is_less_than_half(n_classes: int) -> None:
    assert 1 <= few(n_classes) and (few(n_classes) < n_classes / 2 or n_classes == 2)
