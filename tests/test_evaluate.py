"""Scores against a planted truth: on reports, embeddings and truths made by hand, of which every score is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import roc_auc_score

from nvae_bio import schema
from nvae_bio.cli import main
from nvae_bio.data.files import write_anndata
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import model_scores
from nvae_bio.evaluate.planted import (
    Known,
    call_scores,
    content_scores,
    correlations,
    oracle_scores,
    planted_scores,
    rank_scores,
)
from nvae_bio.evaluate.probes import leakage

CLASSES = ["a", "b", "c", "d"]
N = 200  # samples a class


def make_truth(private: dict[str, list[str]], seed: int = 0) -> AnnData:
    """Item `all` of all classes, and private items with the classes that have them; binary in every other sample."""
    rng = np.random.default_rng(seed)
    label = np.repeat(CLASSES, N)
    names = pd.Index([f"s{i}" for i in range(len(label))])
    activity = pd.DataFrame({"all": rng.normal(size=len(label))}, index=names)
    for item, classes in private.items():
        activity[item] = (rng.random(len(label)) < 0.3) * np.isin(label, classes)
    in_class = np.array([[True] * len(CLASSES), *([c in classes for c in CLASSES] for classes in private.values())])
    planted = pd.DataFrame({"kind": ["shared", *["private"] * len(private)]}, index=activity.columns)
    record = {"classes": np.array(CLASSES, dtype=object), "in_class": in_class, "planted": planted}
    return AnnData(
        obs=pd.DataFrame({"label": label}, index=names), obsm={schema.ACTIVITY: activity}, uns={schema.TRUTH: record}
    )


def make_embedded(truth: AnnData, own: dict[str, str], noise: float = 0.3, seed: int = 3) -> AnnData:
    """z_s has `all` in dim 1 and noise in dim 0; the block of a class has in dim 1 the item that `own` says."""
    rng = np.random.default_rng(seed)
    n, label = truth.n_obs, truth.obs["label"].to_numpy()
    activity = truth.obsm[schema.ACTIVITY]
    shared, specific = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    shared[:, 1] = activity["all"] + noise * rng.normal(size=n)
    for name, item in own.items():
        rows = label == name
        specific[rows, 1] = activity[item][rows] + noise * rng.normal(size=rows.sum())
    order = rng.permutation(n)  # the truth is joined by names, not by position
    split = np.where(np.arange(n) % 2, "test", "train")
    obs = pd.DataFrame(
        {schema.LABEL: pd.Categorical(label), schema.SPLIT: split, schema.ELBO: -7.0}, index=truth.obs_names
    )
    obs[schema.LIBRARY] = 1000.0
    kl_private = np.zeros((n, 2 * len(CLASSES)))
    kl_private[np.arange(n), 2 * np.searchsorted(CLASSES, label)] = 0.5
    classes = np.array(CLASSES, dtype=object)
    embedded = AnnData(
        np.zeros((n, 3)),
        obs=obs,
        obsm={
            schema.SHARED: shared, schema.SPECIFIC: specific, schema.KL_SHARED: np.full((n, 2), 0.75),
            schema.KL_PRIVATE: kl_private,
        },
        uns={schema.MODEL: {"classes": classes, "variant": "nvae", "seed": 3, "n_shared": 2, "n_private": 2}},
    )  # fmt: skip
    return embedded[order].copy()


def make_report(
    calls: list[tuple[str, str, int, str]], p: dict[str, tuple[float, float, float]], seed: int = 3
) -> AnnData:
    """A factor a call (kind, class, dim, private_to), and p of own block, p hidden and nats of each class."""
    obs = pd.DataFrame(calls, columns=["kind", "class", "dim", "private_to"]).assign(seed=seed, outcome="active")
    obs.index = obs.index.astype(str)
    rows = [
        (seed, statistic, name, value, found)
        for name, (block, hidden, value) in p.items()
        for statistic, found in (("own_block", block), ("hidden", hidden))
    ]
    tests = pd.DataFrame(rows, columns=["seed", "statistic", "class", "value", "p"])
    uns = {schema.MODEL: {"classes": np.array(CLASSES, dtype=object), schema.TESTS: tests}}
    private_to = np.array([[name in having.split(", ") for name in CLASSES] for *_, having in calls]).reshape(-1, 4)
    obsm = {schema.KL_BY_CLASS: np.zeros((len(obs), 4)), schema.PRIVATE_TO: private_to}
    return AnnData(np.zeros((len(obs), 3)), obs=obs, uns=uns, obsm=obsm)


NOTHING = dict.fromkeys(CLASSES, (0.5, 0.5, 0.1))


def make_known(private: dict[str, list[str]], own: dict[str, str]) -> Known:
    truth = make_truth(private)
    return Known.of(make_embedded(truth, own), truth)


def test_a_call_counts_where_the_factor_follows_the_item_and_not_elsewhere() -> None:
    known = make_known({"x": ["a"], "y": ["b"]}, {"a": "x", "b": "all", "c": "all"})
    right, other_item, nothing, no_such = (
        ("private", "a", 1, "a"), ("private", "b", 1, "b"), ("private", "a", 0, "a"), ("private", "d", 1, "d"),
    )  # fmt: skip
    scores = call_scores(known, make_report([right, other_item, nothing, no_such], NOTHING))
    assert scores["private_calls"] == 4
    assert scores["private_fdr"] == 0.75
    assert scores["private_sensitivity"] == 0.5
    assert scores["class_fdr"] == pytest.approx(1 / 3)
    assert scores["class_sensitivity"] == 1.0


def test_a_shared_dim_is_a_call_for_each_class_it_is_private_to_and_a_private_one_for_its_own() -> None:
    truth = make_truth({"x": ["a", "b"]})
    embedded = make_embedded(truth, {"a": "x"})
    rows = embedded.obs[schema.LABEL].isin(["a", "b"]).to_numpy()
    embedded.obsm[schema.SHARED][rows, 0] = truth[embedded.obs_names].obsm[schema.ACTIVITY]["x"][rows]
    known = Known.of(embedded, truth)
    hidden = call_scores(known, make_report([("shared", "", 0, "a, b")], NOTHING))
    assert (hidden["private_calls"], hidden["private_fdr"], hidden["private_sensitivity"]) == (2, 0, 1)
    block = call_scores(known, make_report([("private", "a", 1, "a, b")], NOTHING))
    assert (block["private_calls"], block["private_fdr"], block["private_sensitivity"]) == (1, 0, 0.5)


def test_nothing_called_is_no_false_discovery_and_nothing_planted_has_no_sensitivity() -> None:
    empty = make_report([], NOTHING)
    scores = call_scores(make_known({"x": ["a"]}, {}), empty)
    assert (scores["private_fdr"], scores["class_fdr"], scores["private_sensitivity"]) == (0, 0, 0)
    assert "private_sensitivity" not in call_scores(make_known({}, {}), empty)
    assert "private_auroc" not in rank_scores(make_known({}, {}), empty.uns[schema.MODEL][schema.TESTS])


def test_classes_are_ranked_by_p_and_ties_by_nats() -> None:
    known = make_known({"x": ["a", "b"]}, {})
    p = {"a": (0.9, 0.01, 0.2), "b": (0.2, 0.9, 0.3), "c": (0.2, 0.9, 0.1), "d": (0.9, 0.1, 9.0)}
    scores = rank_scores(known, make_report([], p).uns[schema.MODEL][schema.TESTS])
    evidence = [-0.01, -0.2 + 1e-9, -0.2, -0.1]  # a first, then d, then b before c
    assert scores["private_auroc"] == roc_auc_score([1, 1, 0, 0], evidence) == 0.75


def test_null_p_values_are_those_of_classes_without_a_private_item() -> None:
    known = make_known({"x": ["a"]}, {})
    p = {"a": (0.001, 0.001, 1.0), "b": (0.05, 0.2, 0.1), "c": (0.2, 0.3, 0.1), "d": (0.3, float("nan"), 0.1)}
    scores = rank_scores(known, make_report([], p).uns[schema.MODEL][schema.TESTS])
    assert scores["null_p_below_05"] == pytest.approx(1 / 3)
    assert scores["null_p_count"] == 3
    assert (scores["null_hidden_p_below_05"], scores["null_hidden_p_count"]) == (0, 2)


def test_correlations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    expected = np.abs(np.corrcoef(left.T, right.T)[:2, 2:])
    np.testing.assert_allclose(correlations(left, right), expected, atol=1e-12)


def test_what_dims_follow_is_measured_in_held_out_samples() -> None:
    truth = make_truth({"x": ["a"]})
    embedded = make_embedded(truth, {"a": "x"}, noise=0.5)
    train = (embedded.obs[schema.SPLIT] == "train").to_numpy()
    embedded.obsm[schema.SPECIFIC][train] = 0  # nothing that is known of training samples may count
    known = Known.of(embedded, truth)
    scores = content_scores(known, make_report([], NOTHING))
    rows = known.held_out("a")
    activity = known.activity["x"][rows]
    expected = np.corrcoef(embedded.obsm[schema.SPECIFIC][rows, 1], activity)[0, 1]
    assert scores["factor_correlation[x]"] == pytest.approx(expected)
    assert scores["factor_correlation[all]"] == pytest.approx(1 / np.sqrt(1 + 0.5**2), abs=0.03)
    assert scores["factor_correlation"] == pytest.approx(
        np.mean([scores["factor_correlation[x]"], scores["factor_correlation[all]"]])
    )


def test_the_multiple_correlation_does_not_depend_on_the_axes_of_z_s() -> None:
    truth = make_truth({})
    embedded = make_embedded(truth, {})
    before = content_scores(Known.of(embedded, truth), make_report([], NOTHING))
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
    embedded.obsm[schema.SHARED] = embedded.obsm[schema.SHARED] @ turn
    after = content_scores(Known.of(embedded, truth), make_report([], NOTHING))
    assert after["factor_multiple_r[all]"] == pytest.approx(before["factor_multiple_r[all]"], abs=1e-9)
    assert after["factor_correlation[all]"] < before["factor_correlation[all]"] - 0.1


def test_the_oracle_knows_the_genes() -> None:
    truth = make_truth({"x": ["a"]})
    effect = pd.DataFrame({"all": [0, 0, 1.0], "x": [1.0, -1.0, 0]}, index=["g0", "g1", "g2"])
    genes, varm = pd.DataFrame(index=effect.index), {schema.LOG_FOLD_CHANGE: effect}
    truth = AnnData(obs=truth.obs, obsm=dict(truth.obsm), uns=truth.uns, var=genes, varm=varm)
    embedded = make_embedded(truth, {})
    embedded.var_names = ["g2", "g0", "g1"]
    activity = truth[embedded.obs_names].obsm[schema.ACTIVITY]["x"].to_numpy()
    embedded.X[:, 1] = activity  # g0 rises with it
    assert oracle_scores(Known.of(embedded, truth), truth) == {
        "oracle_auroc": 1.0,
        "oracle_correlation": pytest.approx(1),
    }
    embedded.X[:, 2] = 2 * activity  # and g1, which should fall, rises twice as much
    assert oracle_scores(Known.of(embedded, truth), truth)["oracle_auroc"] == 0.0


def test_probes_find_a_class_that_is_there_and_chance_where_it_is_not() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(["p", "q"], [300, 100])
    train = np.arange(400) % 2 == 0
    noise = rng.normal(size=(400, 2))
    ring = np.where(label == "p", 1.0, 3.0)[:, None] * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    none, there, around = (
        leakage(x, label, train, ~train) for x in (noise, noise + 6.0 * (label == "p")[:, None], ring)
    )
    assert none["leakage_chance"] == 0.5
    assert abs(none["leakage_linear"] - 0.5) < 0.1
    assert there["leakage_linear"] > 0.98
    assert around["leakage_knn"] > 0.98  # not to be had by a line
    assert around["leakage_linear"] < 0.65


def test_a_unit_is_active_where_its_mean_follows_the_held_out_samples() -> None:
    truth = make_truth({"x": ["a"]})
    embedded, report = make_embedded(truth, {"a": "x"}), make_report([], NOTHING)
    test = (embedded.obs[schema.SPLIT] == "test").to_numpy()
    embedded.obsm[schema.SHARED][test, 0] *= 0.05  # variance .0025 on held-out samples, 1 on the others
    assert model_scores(embedded, report)["active_units_shared"] == 1


def test_all_scores_of_a_run_are_written_and_a_foreign_truth_is_refused(tmp_path: Path) -> None:
    truth = make_truth({"x": ["a"]})
    embedded, report = make_embedded(truth, {"a": "x"}), make_report([("private", "a", 1, "a")], NOTHING)
    scores = planted_scores(report, embedded, truth)
    assert scores["kl_shared_share"] == pytest.approx(1.5 / 2.0)
    assert scores["elbo_test"] == -7
    assert scores["active_units_shared"] == 2
    for name, adata in (("truth", truth), ("embedded", embedded), ("report", report)):
        write_anndata(adata, tmp_path / f"{name}.h5ad")
    files = [f"--{name}={tmp_path / name}.h5ad" for name in ("report", "embedded")]
    output = tmp_path / "scores.csv"
    command = ["evaluate", "--kind=planted", *files, f"--output={output}", "--dataset=toy", "--variant=mine"]
    assert main([*command, f"--truth={tmp_path / 'truth.h5ad'}"]) == 0
    table = pd.read_csv(output)
    assert list(table.columns) == ["dataset", "variant", "seed", "metric", "value", "package", "saw_labels"]
    assert set(table["dataset"] + table["variant"] + table["seed"].astype(str)) == {"toymine3"}
    written = dict(zip(table["metric"], table["value"], strict=True))
    assert written == pytest.approx(scores)
    assert main(command) == 2
    assert main([part.replace("planted", "model") for part in command]) == 0
    alone = pd.read_csv(output).set_index("metric")["value"].to_dict()
    assert alone == pytest.approx({name: scores[name] for name in alone})
    assert {"elbo_test", "leakage_knn", "kl_shared_share"} <= set(alone)
    assert main(["evaluate", "--kind=model", files[1], f"--output={output}"]) == 2
    with pytest.raises(UserError, match="truth: no sample 's0'"):
        planted_scores(report, embedded, truth[1:].copy())
