"""Scores of published factors: on results and truths made by hand, of which every score is known."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import roc_auc_score

from nvae_bio import schema
from nvae_bio.cli import main
from nvae_bio.config import CountsSettings, ReportSettings
from nvae_bio.data.files import SCORE_COLUMNS, write_anndata
from nvae_bio.errors import UserError
from nvae_bio.evaluate import peers
from nvae_bio.evaluate.factors import (
    Planting,
    Published,
    call_scores,
    content_scores,
    factor_scores,
    suspect_scores,
    word_scores,
)
from nvae_bio.evaluate.planted import power_scores
from nvae_bio.factors.cycle import S_GENES
from nvae_bio.prepare import prepare_data
from tests.toys import raw_counts

CLASSES = list("abcdef")
N = 80  # samples a class
ITEMS = {"all": CLASSES, "most": list("abcd"), "own_a": ["a"], "own_bc": ["b", "c"]}
SIZES = {"all": (10, 2.0), "most": (10, 2.0), "own_a": (4, 1.5), "own_bc": (6, 3.0)}
GENES = [f"g{i}" for i in range(60)]


def make_truth(follows: dict[str, str] | None = None, genes: list[str] = GENES, seed: int = 0) -> AnnData:
    """Four items, each with genes of its own, normal in the classes that have it and 0 elsewhere."""
    rng = np.random.default_rng(seed)
    label = np.repeat(CLASSES, N)
    names = pd.Index([f"s{i}" for i in range(len(label))])
    activity = pd.DataFrame(
        {item: rng.normal(size=len(label)) * np.isin(label, classes) for item, classes in ITEMS.items()}, index=names
    )
    effect, first = pd.DataFrame(0.0, index=genes, columns=list(ITEMS)), 0
    for item, (n_genes, change) in SIZES.items():
        effect.iloc[first : first + n_genes, effect.columns.get_loc(item)] = np.log(change)
        first += n_genes
    planted = pd.DataFrame(
        {"kind": ["shared", "private", "private", "private"], "fold_change": [SIZES[item][1] for item in ITEMS]},
        index=list(ITEMS),
    )
    if follows is not None:
        planted["follows"] = [follows.get(item, "none") for item in ITEMS]
    in_class = np.array([[name in classes for name in CLASSES] for classes in ITEMS.values()])
    record = {"classes": np.array(CLASSES, dtype=object), "in_class": in_class, "planted": planted}
    return AnnData(
        obs=pd.DataFrame({"label": label}, index=names),
        var=pd.DataFrame(index=genes),
        obsm={schema.ACTIVITY: activity},
        varm={schema.LOG_FOLD_CHANGE: effect},
        uns={schema.TRUTH: record},
    )


def make_samples(truth: AnnData, seed: int = 1) -> AnnData:
    """The samples and genes in another order than in the truth; every other sample is held out."""
    order = np.random.default_rng(seed).permutation(truth.n_obs)
    split = np.where(np.arange(truth.n_obs) % 2, "test", "train")
    obs = pd.DataFrame({schema.LABEL: pd.Categorical(truth.obs["label"]), schema.SPLIT: split}, index=truth.obs_names)
    adata = AnnData(np.zeros(truth.shape), obs=obs, var=pd.DataFrame(index=truth.var_names))
    needed = {"classes": np.array(CLASSES, dtype=object), "fingerprint": "f", "settings": "{}", "removed": "none"}
    adata.uns[schema.DATA] = {"kind": "counts", **needed}
    return adata[order, ::-1].copy()


def make_published(
    truth: AnnData, samples: AnnData, factors: list[tuple[str, str]], noise: float = 0.2, seed: int = 2
) -> Published:
    """Factors of these items, used by these classes, in which alone they have scores."""
    rng = np.random.default_rng(seed)
    activity, label = truth[samples.obs_names].obsm[schema.ACTIVITY], samples.obs[schema.LABEL].astype(str).to_numpy()
    effect = truth.varm[schema.LOG_FOLD_CHANGE].loc[samples.var_names]
    scores = np.stack([activity[item].to_numpy() for item, _ in factors], axis=1)
    scores = scores + noise * rng.normal(size=scores.shape)
    used = np.array([[name in classes for name in CLASSES] for _, classes in factors])
    scores = np.where(used[:, np.searchsorted(CLASSES, label)].T, scores, np.nan)
    words = [f"shared by {len(classes)} of 6 classes" for _, classes in factors]
    return Published(
        scores, effect[[item for item, _ in factors]].to_numpy().T, used, CLASSES, words, [""] * len(words)
    )


RIGHT = [("all", "abcdef"), ("most", "abcd"), ("own_a", "a"), ("own_bc", "bc")]


def test_a_perfect_result_has_perfect_scores() -> None:
    truth = make_truth({"all": "condition"})
    samples = make_samples(truth)
    published = make_published(truth, samples, RIGHT)
    scores = factor_scores(replace(published, tag=["condition", "", "", ""]), samples, truth)
    assert (scores.pop("n_calls"), scores.pop("fdr")) == (3, 0)
    assert set(scores) == {
        "sensitivity[4genes_fc1.5]", "sensitivity[6genes_fc3]", "consensus_precision", "consensus_recall", "gene_auprc",
        "gene_auprc_private", "certificate_accuracy", "tag_accuracy",
    }  # fmt: skip
    assert set(scores.values()) == {1.0}


def test_shuffled_samples_and_shuffled_genes_are_no_better_than_chance() -> None:
    truth = make_truth()
    samples, rng = make_samples(truth), np.random.default_rng(3)
    published = make_published(truth, samples, RIGHT * 25)
    noise = np.where(np.isnan(published.scores), np.nan, rng.normal(size=published.scores.shape))
    of_noise = factor_scores(replace(published, scores=noise), samples, truth)
    assert of_noise["fdr"] > 0.9
    assert of_noise["consensus_precision"] < 0.1
    of_genes = factor_scores(replace(published, effect=rng.permuted(published.effect, axis=1)), samples, truth)
    assert of_genes["gene_auprc"] == pytest.approx(np.mean([n for n, _ in SIZES.values()]) / len(GENES), abs=0.06)
    assert of_genes["consensus_precision"] == 1


def test_power_is_of_classes_that_have_nothing_of_their_own() -> None:
    rows = [(name, 4, change, 0.2 * (name in "de") + 0.5 * (change > 2)) for name in CLASSES for change in (1.5, 3.0)]
    table = pd.DataFrame(rows, columns=["class", "n_genes", "fold_change", "power"])
    table.loc[table["class"].isin(list("abc")), "power"] = 1.0  # a, b and c have one
    report = AnnData(np.zeros((1, 1)), uns={schema.MODEL: {schema.POWER: table}})
    truth = make_truth()
    truth.uns[schema.TRUTH]["planted"].loc["most", "kind"] = "shared"
    found = power_scores(report, truth)
    assert found == {
        "power[4genes_fc1.5]": pytest.approx(0.4 / 3), "power[4genes_fc3]": pytest.approx(1.9 / 3),
    }  # fmt: skip
    del report.uns[schema.MODEL][schema.POWER]
    assert power_scores(report, truth) == {}


@pytest.mark.parametrize(
    ("factors", "n_calls", "fdr", "of_a", "of_bc"),
    [
        ([], 0, 0.0, 0.0, 0.0),
        ([("own_a", "a")], 1, 0.0, 1.0, 0.0),
        ([("own_bc", "b")], 1, 0.0, 0.0, 0.5),
        ([("own_bc", "b"), ("own_bc", "c")], 2, 0.0, 0.0, 1.0),
        ([("own_a", "ab")], 2, 0.5, 1.0, 0.0),  # b has none of it
        ([("own_a", "abc")], 0, 0.0, 0.0, 0.0),  # three of six are no few
        ([("all", "f")], 1, 1.0, 0.0, 0.0),
        ([("most", "d"), ("own_a", "a")], 2, 0.5, 1.0, 0.0),  # most classes have it, whatever it is called
        ([("own_a", "e"), ("own_bc", "bc")], 3, 1 / 3, 0.0, 1.0),
    ],
)
def test_calls_are_counted_by_hand(
    factors: list[tuple[str, str]], n_calls: int, fdr: float, of_a: float, of_bc: float
) -> None:
    truth = make_truth()
    samples = make_samples(truth)
    published = make_published(truth, samples, [*factors, ("all", "abcdef")])
    assert call_scores(published, Planting.of(samples, truth)) == {
        "n_calls": n_calls,
        "fdr": pytest.approx(fdr),
        "sensitivity[4genes_fc1.5]": of_a,
        "sensitivity[6genes_fc3]": of_bc,
    }


def test_what_a_factor_is_of_does_not_mind_sign_scale_or_class_means_and_needs_some_correlation() -> None:
    truth = make_truth()
    samples = make_samples(truth)
    planting, label = Planting.of(samples, truth), samples.obs[schema.LABEL].cat.codes.to_numpy()
    activity = truth[samples.obs_names].obsm[schema.ACTIVITY]
    score, noise = activity["most"].to_numpy(), np.random.default_rng(4).normal(size=samples.n_obs)
    assert planting.item_of(score, CLASSES) == "most"
    assert planting.item_of(-0.01 * score + 50 * label, CLASSES) == "most"
    assert planting.item_of(score, ["e", "f"]) == ""  # these do not have it
    assert planting.item_of(1.0 * label, CLASSES) == ""
    assert planting.item_of(score + 10 * noise, CLASSES) == ""  # |r| is .1 at most
    assert planting.item_of(np.full(samples.n_obs, np.nan), CLASSES) == ""
    train = (samples.obs[schema.SPLIT] == "train").to_numpy()
    assert planting.item_of(np.where(train, score, noise), CLASSES) == ""  # fitted, and not held out


def test_samples_that_are_not_of_their_class_do_not_say_what_a_factor_is() -> None:
    truth = make_truth()
    samples = make_samples(truth)
    published = make_published(truth, samples, [("own_a", "a")])
    odd = np.flatnonzero((samples.obs[schema.SPLIT] == "test") & (samples.obs[schema.LABEL] == "a"))[:4]
    scores = published.scores.copy()
    scores[odd] = np.array([[100.0], [-100.0], [100.0], [-100.0]])
    assert Planting.of(samples, truth).item_of(scores[:, 0], ["a"]) == ""
    for kind in ("is_swapped", "is_doublet"):
        known = truth.copy()
        known.obs[kind] = known.obs_names.isin(samples.obs_names[odd])
        assert Planting.of(samples, known).item_of(scores[:, 0], ["a"]) == "own_a"


def test_genes_are_scored_by_their_average_precision_whatever_the_sign() -> None:
    truth = make_truth()
    samples = make_samples(truth)
    planting = Planting.of(samples, truth)
    published = make_published(truth, samples, [("own_a", "a"), ("all", "abcdef")])
    rank = pd.Series(0.0, index=GENES)
    rank["g20"], rank["g0"], rank["g21"], rank["g1"] = -9.0, 8.0, 7.0, -6.0  # g20 to g23 are of own_a
    effect = np.stack([rank[samples.var_names].to_numpy(), published.effect[1]])
    scores = content_scores(replace(published, effect=effect), planting, ["own_a", "all"])
    expected = (1 / 1 + 2 / 3 + 2 * (4 / 60)) / 4  # hits at 1 and 3, the others tied with all that is left
    assert scores["gene_auprc_private"] == pytest.approx(expected)
    assert scores["gene_auprc"] == pytest.approx((expected + 1) / 2)
    assert (scores["consensus_precision"], scores["consensus_recall"]) == (1, 0.5)
    assert content_scores(published, planting, ["", ""]) == {"consensus_precision": 0, "consensus_recall": 0}


def test_a_certificate_is_right_by_its_classes_and_wrong_where_it_denies_what_is_shared() -> None:
    truth = make_truth()
    samples = make_samples(truth)
    planting = Planting.of(samples, truth)
    factors = [("all", "abcde"), ("most", "abce"), ("own_a", "ab"), ("all", "abcdef")]
    published, items = make_published(truth, samples, factors), [item for item, _ in factors]
    right = word_scores(published, planting, items)
    assert right == {
        "certificate_accuracy": pytest.approx((5 / 6 + 4 / 6 + 1) / 3)
    }  # one class has own_a: no certificate
    denied = ["", "", "", "means different things in different classes"]
    assert word_scores(replace(published, certificate=denied), planting, items) == {
        "certificate_accuracy": pytest.approx((5 / 6 + 4 / 6) / 3)
    }
    assert word_scores(replace(published, certificate=None), planting, items) == {}


def test_a_tag_is_that_of_what_the_item_follows() -> None:
    cycle = [*GENES[:20], *S_GENES[:3], "g23", *GENES[24:]]  # of the 4 genes of own_a
    truth = make_truth({"all": "depth", "most": "donor"}, cycle)
    samples = make_samples(truth)
    planting = Planting.of(samples, truth)
    assert planting.follows == {"all": "technical", "most": "donor", "own_a": "cell cycle", "own_bc": ""}
    published, items = make_published(truth, samples, RIGHT), [item for item, _ in RIGHT]

    def accuracy(*tags: str) -> float:
        return word_scores(replace(published, tag=tags), planting, items)["tag_accuracy"]

    assert accuracy("technical: depth", "donor", "cell cycle", "") == 1
    assert accuracy("technical: n_genes", "batch", "", "") == 0.5
    assert accuracy("", "", "", "condition") == 0
    assert "tag_accuracy" not in word_scores(replace(published, tag=None), planting, items)


def test_tags_are_left_out_where_nothing_follows_anything() -> None:
    truth = make_truth({})
    samples = make_samples(truth)
    published = make_published(truth, samples, RIGHT)
    assert "tag_accuracy" not in factor_scores(published, samples, truth)
    assert "tag_accuracy" in factor_scores(published, samples, make_truth({"own_a": "batch"}))


def test_factors_that_no_class_uses_are_not_published() -> None:
    truth = make_truth()
    samples = make_samples(truth)
    published = make_published(truth, samples, [*RIGHT, ("all", "abcdef")])
    used = published.used.copy()
    used[-1] = False
    noise = np.random.default_rng(5).normal(size=samples.n_obs)
    scores = np.column_stack([published.scores[:, :-1], noise])
    found = factor_scores(replace(published, used=used, scores=scores), samples, truth)
    assert found["consensus_precision"] == 1
    nothing = factor_scores(replace(published, used=np.zeros_like(used)), samples, truth)
    assert (nothing["n_calls"], nothing["fdr"], nothing["consensus_recall"]) == (0, 0, 0)
    assert "consensus_precision" not in nothing


def test_suspects_are_ranked_against_samples_with_nothing_wrong() -> None:
    truth, rng = make_truth(), np.random.default_rng(6)
    samples, n = make_samples(truth), truth.n_obs
    kind = rng.integers(0, 5, n)
    truth.obs["is_swapped"], truth.obs["is_doublet"] = kind == 0, kind == 1
    wrong = truth.obs.loc[samples.obs_names]
    odds = rng.normal(size=n) + wrong["is_swapped"] + 100.0 * wrong["is_doublet"]
    samples.obs["nvae_log_odds"], samples.obs["nvae_doublet_gain"] = odds, -1.0 * wrong["is_doublet"]
    samples.obs.loc[samples.obs_names[:9], "nvae_log_odds"] = np.nan
    rows = ~wrong["is_doublet"].to_numpy() & (np.arange(n) >= 9)
    assert suspect_scores(samples, truth) == {
        "swap_auroc": pytest.approx(roc_auc_score(wrong["is_swapped"][rows], odds[rows])),
        "doublet_auroc": 0.0,
    }
    del truth.obs["is_doublet"]
    assert set(suspect_scores(samples, truth)) == {"swap_auroc"}
    assert suspect_scores(make_samples(truth), truth) == {}


def make_consensus(truth: AnnData) -> tuple[AnnData, AnnData]:
    """The report and the samples of a run: `RIGHT`, then one that is inactive and one of a single seed."""
    samples = make_samples(truth)
    published = make_published(truth, samples, [*RIGHT, ("own_a", "a"), ("own_a", "a")])
    n_factors, active = len(published.used), np.where(published.used, "active", "inactive")
    names = pd.Index([f"factor {i}" for i in range(n_factors)])
    obs = pd.DataFrame({"outcome": "active", "published": True, "certificate": published.certificate}, index=names)
    obs["tag"], obs["reading"] = "", "found"
    obs.iloc[4, obs.columns.get_loc("outcome")] = "inactive"
    obs.iloc[5, obs.columns.get_loc("published")] = False
    model = {"classes": np.array(CLASSES, dtype=object), "variant": "nvae"}
    report = AnnData(published.effect, obs=obs, var=samples.var[[]].copy(), uns={schema.MODEL: model})
    report.obsm[schema.OUTCOME_BY_CLASS] = pd.DataFrame(active, index=names, columns=CLASSES)
    report.obsm[schema.KL_BY_CLASS] = np.ones(active.shape)
    samples.obsm[schema.FACTORS] = published.scores
    samples.uns[schema.MODEL] = {**model, schema.FACTOR_NAMES: names.to_numpy(dtype=object)}
    return report, samples


def make_seed(truth: AnnData, seed: int) -> tuple[AnnData, AnnData]:
    """The report and the samples of a seed.

    z_s holds `all`, `most` and own_bc, which lay hidden in it; the blocks hold own_a in a, and like noise in e and f.
    """
    samples, rng = make_samples(truth), np.random.default_rng(seed)
    activity = truth[samples.obs_names].obsm[schema.ACTIVITY]
    samples.obsm[schema.SHARED] = activity[["all", "most", "own_bc", "all"]].to_numpy()
    samples.obsm[schema.SPECIFIC] = np.column_stack([activity["own_a"], rng.normal(size=samples.n_obs)])
    samples.uns[schema.MODEL] = {"classes": np.array(CLASSES, dtype=object), "variant": "nvae", "seed": seed}
    rows = [
        ("shared", "", 0, "active", "", "all"), ("shared", "", 1, "active", "", "most"),
        ("shared", "", 2, "active", "b, c", "own_bc"), ("shared", "", 3, "inactive", "", "all"),
        ("private", "a", 0, "active", "a", "own_a"), ("private", "e", 1, "active", "", "own_a"),
        ("private", "f", 1, "inactive", "", "own_a"),
    ]  # fmt: skip
    obs = pd.DataFrame(rows, columns=["kind", "class", "dim", "outcome", "private_to", "item"]).assign(seed=seed)
    obs.index = pd.Index([f"seed {seed} · {i}" for i in range(len(obs))])
    q, kl = np.full((len(rows), 6), np.nan), np.full((len(rows), 6), 0.05)
    q[:4] = 0.9
    q[0], q[1, :4], q[2, :3], q[4, 0], q[5, 4] = 0.01, 0.05, 0.01, 0.01, 0.01
    kl[0], kl[1, :4], kl[2, 1:3], kl[4] = 0.5, 0.1, 0.3, 0.2
    effect = truth.varm[schema.LOG_FOLD_CHANGE].loc[samples.var_names, obs.pop("item")].to_numpy().T
    model = {"classes": np.array(CLASSES, dtype=object), "report": ReportSettings(fdr=0.05).model_dump_json()}
    report = AnnData(effect, obs=obs, var=samples.var[[]].copy(), uns={schema.MODEL: model})
    report.obsm[schema.Q_BY_CLASS], report.obsm[schema.KL_BY_CLASS] = q, kl
    unknown = np.full(q.shape, np.nan)
    report.obsm[schema.SPREAD_BY_CLASS], report.obsm[schema.GAIN_BY_CLASS] = unknown, unknown
    having = obs["private_to"].str.split(", ")
    report.obsm[schema.PRIVATE_TO] = np.array([[name in names for name in CLASSES] for names in having])
    return report, samples


def uses(published: Published) -> list[str]:
    """The classes that use each factor."""
    return ["".join(name for name, used in zip(CLASSES, row, strict=True) if used) for row in published.used]


def test_a_consensus_publishes_what_is_active_and_found_by_seeds_enough() -> None:
    truth = make_truth()
    report, samples = make_consensus(truth)
    published = Published.of_consensus(report, samples)
    assert uses(published) == [classes for _, classes in RIGHT]
    scores = factor_scores(published, samples, truth)
    assert (scores["n_calls"], scores["fdr"], scores["consensus_precision"]) == (3, 0, 1)
    samples.uns[schema.MODEL][schema.FACTOR_NAMES] = report.obs_names.to_numpy()[::-1]
    with pytest.raises(UserError, match="are of different factors"):
        Published.of_consensus(report, samples)


def test_a_seed_publishes_its_active_factors_in_the_classes_where_they_are_significant() -> None:
    truth = make_truth()
    report, samples = make_seed(truth, 7)
    published = Published.of_seed(report, samples)
    assert uses(published) == ["abcdef", "abcd", "bc", "a", "abcdef"]  # the last one is shared by its reading
    label = samples.obs[schema.LABEL].to_numpy()
    assert np.array_equal(np.isfinite(published.scores[:, 3]), label == "a")
    scores = factor_scores(published, samples, truth)
    assert (scores["n_calls"], scores["fdr"], scores["consensus_precision"]) == (3, 0, 0.8)
    assert "certificate_accuracy" not in scores


def test_a_threshold_publishes_what_spends_a_tenth_of_a_nat() -> None:
    report, samples = make_seed(make_truth(), 7)
    published = Published.of_nats(report, samples)
    assert uses(published) == ["abcdef", "abcd", "bc", "", "a", "", ""]  # a private dim in its own class alone
    scores = factor_scores(published, samples, make_truth())
    assert (scores["n_calls"], scores["fdr"], scores["consensus_recall"]) == (3, 0, 1)


def make_files(folder: Path) -> dict[str, str]:
    """Files of a run of two seeds."""
    truth = make_truth()
    (report, samples), seeds = make_consensus(truth), [make_seed(truth, seed) for seed in (4, 5)]
    files = {"truth": truth, "report": report, "samples": samples, "4": seeds[0][1], "5": seeds[1][1]}
    merged = anndata.concat([part for part, _ in seeds], merge="same")
    merged.uns = seeds[0][0].uns
    files["seed_report"] = merged
    for name, adata in files.items():
        write_anndata(adata, folder / f"{name}.h5ad")
    return {name: str(folder / f"{name}.h5ad") for name in files}


def test_all_calls_of_a_run_are_scored_from_its_files(tmp_path: Path) -> None:
    files, output = make_files(tmp_path), tmp_path / "scores.csv"
    common = ["evaluate", "--kind=factors", f"--output={output}", f"--truth={files['truth']}", "--dataset=toy.2"]
    of_seeds = [f"--report={files['seed_report']}", f"--embedded={files['4']}", f"--embedded={files['5']}"]
    found = {}
    for name, options in {
        "consensus": ["--seed=2", f"--report={files['report']}", f"--embedded={files['samples']}"],
        "one-seed": of_seeds,
        "kl-threshold": of_seeds,
    }.items():
        assert main([*common, f"--calls={name}", f"--variant={name}", *options]) == 0
        found[name] = pd.read_csv(output)
    assert {name: sorted(set(table["seed"])) for name, table in found.items()} == {
        "consensus": [2], "one-seed": [4, 5], "kl-threshold": [4]
    }  # fmt: skip
    table = found["one-seed"]
    assert list(table.columns) == SCORE_COLUMNS and table["saw_labels"].all()
    assert table.loc[table["metric"] == "consensus_precision", "value"].tolist() == [0.8, 0.8]
    precision = found["consensus"].set_index("metric")["value"]["consensus_precision"]
    assert precision == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report=seed_report", "--embedded=4", "--calls=one-seed"], "--truth is not given"),
        (["--truth=truth", "--embedded=samples"], "--report is not given"),
        (["--truth=truth", "--report=seed_report", "--embedded=4"], "need the report of all seeds and the samples"),
        (["--truth=truth", "--report=report", "--embedded=4", "--embedded=5"], "--embedded: given 2 times; calls"),
        (["--truth=truth", "--report=report", "--embedded=4", "--calls=one-seed"], "need the report of each seed"),
        (
            ["--truth=truth", "--report=seed_report", "--embedded=samples", "--calls=one-seed"],
            "need the report of each",
        ),
        (["--truth=samples", "--report=report", "--embedded=samples"], "was it written as --truth"),
    ],
)
def test_files_that_do_not_fit_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    files = make_files(tmp_path)
    given = [f"{name}={files.get(value, value)}" for name, value in (option.split("=") for option in options)]
    assert main(["evaluate", "--kind=factors", f"--output={tmp_path / 'scores.csv'}", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_truth_of_other_samples_genes_classes_or_of_pictures_is_refused() -> None:
    truth = make_truth()
    samples = make_samples(truth)
    published = make_published(truth, samples, RIGHT)
    with pytest.raises(UserError, match="truth: no sample 's0'"):
        factor_scores(published, samples, truth[1:].copy())
    with pytest.raises(UserError, match="truth: no gene 'g59'"):
        factor_scores(published, samples, truth[:, :-1].copy())
    with pytest.raises(UserError, match="truth: no class 'x'"):
        factor_scores(replace(published, classes=[*CLASSES[:-1], "x"]), samples, truth)
    pictures = truth.copy()
    del pictures.varm[schema.LOG_FOLD_CHANGE]
    with pytest.raises(UserError, match="kind 'factors' scores simulated counts alone"):
        factor_scores(published, samples, pictures)


def test_a_peer_is_scored_as_its_factors_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_truth()
    samples = make_samples(truth)
    published = make_published(truth, samples, RIGHT[:3])
    monkeypatch.setitem(peers.FITS, "cnmf", lambda adata, seed: replace(published, certificate=None, tag=None))
    files = {name: tmp_path / f"{name}.h5ad" for name in ("data", "truth")}
    write_anndata(samples, files["data"])
    write_anndata(truth, files["truth"])
    output = tmp_path / "scores.csv"
    command = [
        "baseline",
        "--kind=factors",
        "--method=cnmf",
        f"--data={files['data']}",
        f"--output={output}",
        "--seed=6",
    ]
    assert main([*command, f"--truth={files['truth']}"]) == 0
    table = pd.read_csv(output).set_index("metric")
    assert table["value"]["consensus_recall"] == 0.75
    assert set(table["seed"]) == {6}
    assert main(command) == 2
    assert main(["baseline", "--method=pca", f"--data={files['data']}", f"--output={output}"]) == 2


@pytest.mark.parametrize(("method", "module"), [("drvi", "drvi.model"), ("cnmf", "cnmf")])
def test_a_peer_that_is_not_installed_is_named(method: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    truth = make_truth()
    samples = make_samples(truth)
    samples.X = np.ones(samples.shape)
    with pytest.raises(UserError, match=f"baseline '{method}' needs {method}, which is not installed: pip install"):
        peers.FITS[method](samples, 0)


def make_counts() -> AnnData:
    """Prepared counts with a programme that all classes share."""
    return prepare_data(CountsSettings(kind="counts", n_top_genes=None), raw_counts())


def check_peer(published: Published, adata: AnnData) -> None:
    """The shared programme of the toy is found, and its genes."""
    test = (adata.obs[schema.SPLIT] == "test").to_numpy()
    r = np.abs(np.corrcoef(published.scores[test].T, adata.obs["true_shared"][test])[-1, :-1])
    best = int(np.nan_to_num(r).argmax())
    assert r[best] > 0.5
    assert published.used[best].all()
    in_programme = adata.var_names.isin([f"f{i}" for i in range(15)])
    assert roc_auc_score(in_programme, np.abs(published.effect[best])) > 0.8


@pytest.mark.skipif(importlib.util.find_spec("cnmf") is None, reason="cnmf is not installed")
def test_cnmf_finds_a_shared_programme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "N_PROGRAMMES", (4, 5))
    monkeypatch.setattr(peers, "N_FACTORIZATIONS", 6)
    adata = make_counts()
    published = peers.fit_cnmf(adata, 0)
    np.testing.assert_allclose(published.scores.sum(1), 1)
    check_peer(published, adata)
    np.testing.assert_array_equal(peers.fit_cnmf(adata, 0).scores, published.scores)


@pytest.mark.skipif(importlib.util.find_spec("drvi") is None, reason="drvi-py is not installed")
def test_drvi_finds_a_shared_programme_in_the_directions_that_have_not_vanished() -> None:
    adata = make_counts()
    published = peers.fit_drvi(adata, 0)
    assert published.scores.shape[1] == 64  # two directions of 32 dims
    assert published.scores.min() == 0
    check_peer(published, adata)
