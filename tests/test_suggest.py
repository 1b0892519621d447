"""Capacity, and the settings that are suggested for a re-run: each rule on a report made by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import schema
from nvae_bio.config import FitSettings, ModelSettings, load_settings
from nvae_bio.data.files import write_anndata
from nvae_bio.errors import UserError
from nvae_bio.factors.capacity import capacity, capacity_lines
from nvae_bio.suggest import suggest, suggest_settings
from tests.small_models import law

CLASSES = ["T cells, naïve", "NK/NKT cells", "B"]
NK, B = CLASSES[1:]
N_SEEDS = 3
Row = dict[str, Any]


def make_shared(n: int, **values: Any) -> list[Row]:
    """Rows of shared factors, active and published unless told otherwise."""
    return [{"kind": "shared", "class": "", "kl": 1.0, **values} for _ in range(n)]


def make_private(name: str, n: int = 1, **values: Any) -> list[Row]:
    """The same of private factors of a class; `in_shared`: seeds in which they lie in z_s."""
    return [{"kind": "private", "class": name, "kl": 1.0, **values} for _ in range(n)]


def make_report(rows: list[Row], **model: Any) -> AnnData:
    """A consensus report of three seeds; empty factors fill z_s up."""
    settings = FitSettings(model=ModelSettings.model_validate(model))
    n_empty = max(0, settings.model.n_shared - sum(row["kind"] == "shared" for row in rows))
    rows = rows + make_shared(n_empty, kl=0.001, outcome="inactive")
    fixed = {"published": True, "outcome": "active", "reading": "", "n_found": N_SEEDS, "in_shared": 0}
    obs = pd.DataFrame([{**fixed, **row} for row in rows], index=[f"F{i}" for i in range(len(rows))])
    members = [
        (name, seed, "shared" if row["kind"] == "shared" or seed < row["in_shared"] else "private", row["class"], 0, 1)
        for name, row in obs.iterrows()
        for seed in range(row["n_found"])
    ]
    columns = ["factor", "seed", "kind", "class", "dim", "sign"]
    uns = {
        "classes": np.array(CLASSES, dtype=object), "settings": settings.model_dump_json(),
        "n_shared": settings.model.n_shared, "n_private": settings.model.n_private,
        schema.MEMBERS: pd.DataFrame(members, columns=columns),
    }  # fmt: skip
    obs = obs.drop(columns="in_shared").assign(n_seeds=N_SEEDS)
    return AnnData(
        np.zeros((len(obs), 2)), obs=obs, uns={schema.MODEL: uns},
        obsm={schema.KL_BY_CLASS: np.zeros((len(obs), len(CLASSES)))},
    )  # fmt: skip


def assert_unchanged(report: AnnData) -> list[str]:
    """The reasons why nothing is to change."""
    found = suggest_settings(report)
    assert found.changes == {}
    assert found.reasons[-1].startswith("nothing to change")
    return found.reasons


def test_capacity_counts_what_each_class_has() -> None:
    report = make_report(
        [
            *make_shared(2),
            *make_private(NK, 2),
            *make_private(NK, in_shared=2),  # of 3 seeds
            *make_private(NK, in_shared=1),
            *make_private(NK, n_found=1, published=False),
            *make_private(B, n_found=1, published=False),
            *make_private(B, n_found=2, published=False),
            *make_private(B, outcome="inactive"),
            *make_private(B, outcome="under-powered"),
        ],
        n_private=4,
    )
    table = capacity(report)
    assert table["class"].tolist() == CLASSES
    by_column = {name: table[name].tolist() for name in table.columns[1:]}
    assert by_column == {
        "n_private": [4, 4, 4], "n_used": [0, 4, 0], "n_hidden": [0, 1, 0], "n_found_once": [0, 1, 1],
        "n_spilled": [0, 0, 0], "room_left": [4, 1, 4], "under_powered": [False] * 3,
    }  # fmt: skip
    assert capacity_lines(table) == [
        "class T cells, naïve uses 0 private factors; 0 of 4 private dims taken, room for 4 more",
        "class NK/NKT cells uses 4 private factors; 3 of 4 private dims taken, room for 1 more; in z_s: 1; found in "
        "one seed alone: 1",
        "class B uses 0 private factors; 0 of 4 private dims taken, room for 4 more; found in one seed alone: 1",
    ]


def test_one_seed_has_nothing_that_others_lack() -> None:
    report = make_report(make_private(NK, n_found=1), n_private=2)
    report.obs["n_seeds"] = 1
    assert capacity(report)["n_found_once"].sum() == 0


def test_a_model_without_blocks_has_no_capacity() -> None:
    report = make_report(make_shared(4), variant="cvae", n_shared=6)
    assert capacity_lines(capacity(report)) == ["this model has no private dims"]
    assert_unchanged(report)


def test_a_spilled_factor_doubles_s_and_leaves_the_rest_to_the_rerun() -> None:
    reading = "shared: blocks of 3 classes have like effects; S is too small"
    spilled = [*make_shared(4), *make_private(NK, 1, reading=reading), *make_private(B, 1, reading=reading)]
    found = suggest_settings(make_report(spilled, n_shared=4, n_private=1))
    assert found.changes == {"n_shared": 8}
    assert "n_shared 4 -> 8" in found.reasons[0]
    once = [{**row, "published": False} if row["kind"] == "private" else row for row in spilled]
    assert_unchanged(make_report(once, n_shared=4, n_private=1))


@pytest.mark.parametrize(("n_used", "n_shared", "expected"), [(0, 10, 3), (4, 10, 7), (10, 20, 15), (2, 6, 5)])
def test_room_in_z_s_is_cut_to_half_as_much_again(n_used: int, n_shared: int, expected: int) -> None:
    report = make_report(make_shared(n_used), n_shared=n_shared)
    assert suggest_settings(report).changes == {"n_shared": expected}
    assert expected == n_used + max(3, math.ceil(n_used / 2))


@pytest.mark.parametrize(("n_used", "n_shared"), [(4, 7), (10, 14), (10, 15), (6, 6)])
def test_s_is_never_cut_to_more_than_it_is(n_used: int, n_shared: int) -> None:
    assert_unchanged(make_report(make_shared(n_used), n_shared=n_shared))


def test_dims_that_hold_something_are_not_cut() -> None:
    assert_unchanged(make_report([*make_shared(2), *make_shared(1, outcome="inactive", kl=0.3)], n_shared=10))
    found_once = make_shared(1, published=False, n_found=1, kl=0.3)
    assert_unchanged(make_report([*make_shared(2), *found_once], n_shared=10))


def test_what_could_not_be_judged_is_not_cut() -> None:
    report = make_report(make_shared(10, outcome="under-powered", kl=0.01), n_shared=10)
    assert "could be judged" in assert_unchanged(report)[0]
    unsure = [*make_shared(8), *make_private(B, 1, outcome="under-powered")]
    assert "n_private: 1 private factors could not be judged" in assert_unchanged(make_report(unsure, n_private=4))[0]


@pytest.mark.parametrize(("n_private", "n_used", "expected"), [(1, 1, 2), (2, 2, 3), (4, 1, 2), (4, 0, 1), (5, 3, 4)])
def test_k_is_one_more_than_a_class_needs(n_private: int, n_used: int, expected: int) -> None:
    rows = [*make_shared(8), *make_private(NK, n_used), *make_private(B, min(n_used, 1))]
    assert suggest_settings(make_report(rows, n_private=n_private)).changes == {"n_private": expected}


@pytest.mark.parametrize(("n_private", "n_used"), [(1, 0), (2, 1), (3, 2)])
def test_k_with_one_dim_left_stays(n_private: int, n_used: int) -> None:
    assert_unchanged(make_report([*make_shared(8), *make_private(B, n_used)], n_private=n_private))


@pytest.mark.parametrize(("beta", "expected"), [(1.0, 0.75), (0.75, 0.5625), (0.6, 0.5), (2.0, 1.5)])
def test_a_factor_hidden_in_half_of_the_seeds_lowers_beta(beta: float, expected: float) -> None:
    rows = [*make_shared(8), *make_private(NK, in_shared=2)]
    found = suggest_settings(make_report(rows, n_private=2, beta_private=beta))
    assert found.changes == {"beta_private": expected}
    assert "F8: private to a class but in z_s" in found.reasons[0]
    seldom = [*make_shared(8), *make_private(NK, in_shared=1)]
    assert_unchanged(make_report(seldom, n_private=2, beta_private=beta))


def test_beta_is_not_lowered_below_half_nor_where_s_has_room() -> None:
    rows = [*make_shared(8), *make_private(NK, in_shared=3)]
    for beta in (0.5, 0.3):
        assert "beta_private stays" in assert_unchanged(make_report(rows, n_private=2, beta_private=beta))[0]
    rows = [*make_shared(2), *make_private(NK, in_shared=3)]
    found = suggest_settings(make_report(rows, n_shared=10, n_private=2))
    assert found.changes == {"n_shared": 5}
    assert "beta_private stays 0.75, as n_shared changes first" in found.reasons[1]


@law
@given(st.integers(0, 12), st.integers(1, 30), st.integers(0, 4), st.integers(1, 6), st.sampled_from(["nvae", "cvae"]))
def test_a_rerun_with_the_suggested_dims_and_the_same_factors_changes_nothing(
    n_used: int, n_shared: int, n_own: int, n_private: int, variant: str
) -> None:
    model = {"variant": variant, "n_shared": n_shared} | ({"n_private": n_private} if variant == "nvae" else {})
    rows = [*make_shared(min(n_used, n_shared)), *make_private(B, n_own if variant == "nvae" else 0)]
    changes = suggest_settings(make_report(rows, **model)).changes
    assert_unchanged(make_report(rows, **(model | changes)))


def test_the_yaml_is_the_model_of_the_run_with_the_changes(tmp_path: Path) -> None:
    rows = [*make_shared(2), *make_private(NK, 2, in_shared=0)]
    model = {"n_shared": 12, "n_private": 2, "hidden": [32], "loading_sd": 0.5, "decoder": "network"}
    write_anndata(make_report(rows, **model), tmp_path / "factors.h5ad")
    output = tmp_path / "suggested.yaml"
    text = suggest(tmp_path / "factors.h5ad", output)
    assert output.read_text(encoding="utf-8") == text
    wanted = ModelSettings.model_validate(model | {"n_shared": 5, "n_private": 3})
    assert load_settings(str(output), FitSettings).model == wanted
    assert ModelSettings.model_validate(yaml.safe_load(text)["model"]) == wanted
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert [line.split(":")[0] for line in comments] == ["# n_shared 12 -> 5", "# n_private 2 -> 3"]
    assert NK in comments[1]


def test_a_change_back_to_the_default_is_written(tmp_path: Path) -> None:
    default = ModelSettings()
    write_anndata(make_report(make_shared(default.n_shared - 4), n_private=3), tmp_path / "factors.h5ad")
    text = suggest(tmp_path / "factors.h5ad")
    assert yaml.safe_load(text) == {"model": {"n_shared": default.n_shared - 1, "n_private": default.n_private}}


def test_a_file_that_is_no_consensus_report_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "factors.h5ad"
    with pytest.raises(UserError, match=r"factors.h5ad: no such file"):
        suggest(path)
    path.write_text("text")
    with pytest.raises(UserError, match=r"factors.h5ad: cannot be read as an .h5ad file"):
        suggest(path)
    report = make_report(make_shared(2))
    write_anndata(AnnData(report.X, uns={schema.MODEL: {"seed": 0}}), path)
    with pytest.raises(UserError, match=r"factors.h5ad: no obsm\['kl_by_class'\]; was it written by"):
        suggest(path)
    for key in ("settings", schema.MEMBERS):
        broken = report.copy()
        del broken.uns[schema.MODEL][key]
        write_anndata(broken, path)
        with pytest.raises(
            UserError, match=rf"factors.h5ad: no uns\['nvae'\]\['{key}'\]; allowed: a consensus"
        ) as error:
            suggest(path)
        assert "\n" not in str(error.value)
    report.uns[schema.MODEL]["settings"] = '{"model": {"n_shard": 3}}'
    write_anndata(report, path)
    with pytest.raises(
        UserError, match=r"factors.h5ad: uns\['nvae'\]\['settings'\]: model.n_shard: unknown key; did you"
    ):
        suggest(path)
