"""What is known of published factors without a truth: the condition, and whose a private factor is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import schema
from nvae_bio.cli import main
from nvae_bio.config import ConditionSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.evaluate.real import is_of_one_donor, real_scores
from tests.small_models import law

KNOWN = ["g3", "g4", "g5"]
CONDITION = ConditionSettings(control="ctrl", treated="stim", gene_sets={"known": KNOWN})


@law
@given(st.integers(2, 9), st.integers(0, 1000))
def test_a_score_that_donors_share_is_of_none_alone_whatever_its_scale_and_order(n_donors: int, seed: int) -> None:
    donor = np.repeat(np.arange(n_donors), 2)
    assert not is_of_one_donor(np.tile([-1.0, 1.0], n_donors), donor)
    assert not is_of_one_donor(np.zeros(2 * n_donors), donor)
    assert not is_of_one_donor(np.zeros(4), np.zeros(4))  # there is no other
    score = np.random.default_rng(seed).normal(size=2 * n_donors)
    order = np.random.default_rng(seed + 1).permutation(2 * n_donors)
    assert is_of_one_donor(score, donor) == is_of_one_donor(3 * score[order] + 5, donor[order])


@pytest.mark.parametrize(("shift", "own_sd", "sd"), [(2, 0.5, 0.5), (1.5, 0.5, 0.5), (1, 0.3, 0.3), (0, 1, 0.3)])
def test_what_is_high_or_varies_in_one_donor_alone_is_found_among_noise(shift: float, own_sd: float, sd: float) -> None:
    donor, rng = np.repeat(np.arange(8), 200), np.random.default_rng(1)
    score = rng.normal(size=len(donor)) * np.where(donor == 3, own_sd, sd) + shift * (donor == 3)
    assert is_of_one_donor(score, donor)
    score[donor == 5] = score[donor == 3][::-1]
    assert not is_of_one_donor(score, donor)


def make_result(tag: str = "condition", sign: int = 1) -> tuple[AnnData, AnnData]:
    """A shared factor that raises the known genes with the treatment, another, and a private one of donor d0 alone."""
    names = ["shared 1", "shared 2", "a 1"]
    obs = pd.DataFrame(
        {
            "kind": ["shared", "shared", "private"],
            "published": True,
            "outcome": "active",
            "tag": ["", tag, ""],
            "reading": "found",
        },
        index=names,
    )
    effect = np.zeros((3, 60))
    effect[0, 10:20], effect[1, 3:6], effect[2, 40:50] = 2, sign * 1.0, 1
    report = AnnData(effect, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(60)]))
    rows = [("shared 1", "condition", 0.1), ("shared 2", "condition", sign * 0.8), ("a 1", "condition", 0.9)]
    table = pd.DataFrame(rows, columns=["factor", "role", "effect"])
    table = table.assign(levels="ctrl → stim", donor_p=[0.5, 0.002, np.nan], n_donors=4)
    report.uns["nvae"] = {"associations": table, "classes": np.array(["a", "b"], dtype=object)}
    report.obsm["kl_by_class"] = np.ones((3, 2))
    scores = np.random.default_rng(0).normal(size=(80, 3))
    donor = np.array([f"d{i % 4}" for i in range(80)])
    scores[donor != "d0", 2] = 0
    scores[40:, 2] = np.nan
    samples = AnnData(np.zeros((80, 1)), obs=pd.DataFrame({"donor": donor}, index=[f"s{i}" for i in range(80)]))
    samples.obsm[schema.FACTORS] = scores
    samples.obs[schema.CONDITION] = np.where(np.arange(80) % 2, "stim", "ctrl")
    samples.uns["nvae"] = {"classes": report.uns["nvae"]["classes"], "variant": "nvae"}
    return report, samples


@pytest.mark.parametrize("sign", [1, -1])
def test_the_factor_of_the_condition_is_turned_so_that_it_rises(sign: int) -> None:
    scores = real_scores(*make_result(sign=sign), CONDITION)
    assert scores == {
        "shared_factors": 2, "condition_tagged": 1, "condition_effect": 0.8, "condition_donor_p": 0.002,
        "condition_donors": 4, "known_auroc": 1, "known_top20": 3 / 20, "private_factors": 1, "private_of_one_donor": 1,
    }  # fmt: skip
    other = ConditionSettings(control="stim", treated="ctrl", gene_sets={"known": KNOWN})
    assert real_scores(*make_result(sign=sign), other)["known_auroc"] == 0
    of_others = ConditionSettings(control="before", treated="after", gene_sets={"known": KNOWN})
    for settings in (None, of_others):  # a row of a study whose condition is another
        scores = real_scores(*make_result(sign=sign), settings)
        assert (scores["condition_tagged"], scores["condition_donor_p"], "known_auroc" in scores) == (1, 0.002, False)


def test_what_is_not_tagged_inactive_or_unknown_does_not_count() -> None:
    assert real_scores(*make_result(tag="donor"), CONDITION)["condition_tagged"] == 0
    report, samples = make_result()
    report.obs["outcome"] = ["active", "active", "inactive"]
    assert real_scores(report, samples, CONDITION)["private_factors"] == 0
    spread = samples.copy()
    spread.obsm[schema.FACTORS][:40, 2] = np.random.default_rng(1).normal(size=40)
    assert real_scores(make_result()[0], spread, None)["private_of_one_donor"] == 0
    del samples.obs["donor"], samples.obs[schema.CONDITION]
    assert set(real_scores(report, samples, CONDITION)) == {"shared_factors", "private_factors"}


def test_the_command_scores_real_data_without_a_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, samples = make_result()
    write_anndata(report, tmp_path / "r.h5ad")
    write_anndata(samples, tmp_path / "s.h5ad")
    given = ["evaluate", "--kind=factors", f"--report={tmp_path / 'r.h5ad'}", f"--output={tmp_path / 'x.csv'}"]
    settings = f"--settings={CONDITION.model_dump_json()}"
    assert main([*given, f"--embedded={tmp_path / 's.h5ad'}", settings]) == 0
    table = pd.read_csv(tmp_path / "x.csv").set_index("metric")["value"]
    assert (table["condition_tagged"], table["private_of_one_donor"]) == (1, 1)
    del samples.obsm[schema.FACTORS]
    write_anndata(samples, tmp_path / "s.h5ad")
    capsys.readouterr()
    assert main([*given, f"--embedded={tmp_path / 's.h5ad'}"]) == 2
    assert "no consensus scores; without --truth it must be" in capsys.readouterr().err
