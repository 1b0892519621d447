"""Scores of a condition: on embeddings made by hand, of which every score is known, and on small fitted models."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from anndata import AnnData

from nvae_bio import embed_data, report_seeds, save_model, schema, train_model
from nvae_bio.cli import main
from nvae_bio.config import ConditionSettings, CountsSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.data.samples import to_samples
from nvae_bio.errors import UserError
from nvae_bio.evaluate.baselines import baseline_scores, fit_linear, fit_scvi
from nvae_bio.evaluate.condition import Treated, condition_scores, factor_of_condition, gene_set_scores
from nvae_bio.evaluate.probes import leakage
from nvae_bio.evaluate.response import Expected, expected_by, log_mean, response_scores
from nvae_bio.prepare import prepare_data
from tests.toys import NO_UMAP, embedded, fit_settings, prepared_counts, raw_counts, trained

CLASSES = ["a", "b", "c"]
N = 120  # samples a class
DRUG = ConditionSettings(control="none", treated="drug")
TOY = ConditionSettings(control="low", treated="high", gene_sets={"up": [f"f{i}" for i in range(15)]})
needs_scvi = pytest.mark.skipif(importlib.util.find_spec("scvi") is None, reason="scvi-tools is not installed")


def make_cells(seed: int = 0) -> tuple[AnnData, np.ndarray]:
    """Samples of three classes, half of them treated, two thirds to train on; and the sign of the condition, (n,)."""
    rng = np.random.default_rng(seed)
    label = np.repeat(CLASSES, N)
    treated = np.tile([False, True], len(label) // 2)
    split = np.where(np.arange(len(label)) % 3 == 0, "test", "train")
    obs = pd.DataFrame(
        {schema.LABEL: pd.Categorical(label), schema.CONDITION: np.where(treated, "drug", "none"), schema.SPLIT: split},
        index=[f"s{i}" for i in range(len(label))],
    )
    genes = pd.DataFrame(index=[f"g{i}" for i in range(30)])
    return AnnData(rng.poisson(2.0, (len(label), 30)).astype(float), obs=obs, var=genes), np.where(treated, 1.0, -1.0)


def of_classes(scores: dict[str, float], name: str) -> list[float]:
    return [scores[f"{name}[{of_class}]"] for of_class in CLASSES]


def test_an_answer_that_all_classes_share_is_found_and_one_that_turns_round_is_called_wrong() -> None:
    adata, sign = make_cells()
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(adata.n_obs, 3))
    shared = noise.copy()
    shared[:, 1] += 10 * sign
    found = condition_scores(adata, DRUG, shared, None, None)
    assert of_classes(found, "condition_auroc_shared") == [1, 1, 1]
    turned = np.where((adata.obs[schema.LABEL] == "a").to_numpy(), -1, 1)
    shared[:, 1] = noise[:, 1] + 10 * sign * turned
    assert condition_scores(adata, DRUG, shared, None, None)["condition_auroc_shared[a]"] == 0
    for score in of_classes(condition_scores(adata, DRUG, noise, None, None), "condition_auroc_shared"):
        assert abs(score - 0.5) < 0.25


def test_the_probe_of_z_s_knows_nothing_of_the_class_it_is_scored_on() -> None:
    adata, sign = make_cells()
    shared = np.random.default_rng(2).normal(size=(adata.n_obs, 3)) + 0.5 * sign[:, None]
    before = condition_scores(adata, DRUG, shared, None, None)
    training_of_a = (adata.obs[schema.LABEL] == "a").to_numpy() & (adata.obs[schema.SPLIT] == "train").to_numpy()
    shared[training_of_a] = 100 * sign[training_of_a, None]
    after = condition_scores(adata, DRUG, shared, None, None)
    assert after["condition_auroc_shared[a]"] == before["condition_auroc_shared[a]"]
    assert after["condition_auroc_shared[b]"] != before["condition_auroc_shared[b]"]


def test_the_probe_of_the_own_block_is_fitted_in_the_class_itself() -> None:
    adata, sign = make_cells()
    label = adata.obs[schema.LABEL].to_numpy()
    own = np.random.default_rng(3).normal(size=(adata.n_obs, 2))
    own[:, 0] += 10 * sign * np.select([label == "a", label == "b"], [1, -1], 0)
    found = condition_scores(adata, DRUG, None, own, None)
    assert of_classes(found, "condition_auroc_private")[:2] == [1, 1]  # whichever way it goes
    assert abs(found["condition_auroc_private[c]"] - 0.5) < 0.25
    assert not any(name.startswith("condition_auroc_shared") for name in found)


def test_the_factor_of_the_condition_is_told_within_classes_on_training_samples() -> None:
    adata, sign = make_cells()
    rng = np.random.default_rng(4)
    adata = adata[(adata.obs[schema.LABEL] != "a") | (sign > 0) | (rng.random(adata.n_obs) < 0.1)].copy()
    treated = Treated.of(adata, DRUG)
    up = np.where(treated.is_treated, 1.0, -1.0)
    shared = rng.normal(size=(adata.n_obs, 3))
    shared[:, 0] += 50 * (treated.label == "a")  # nearly all of its samples are treated
    shared[:, 2] -= up
    shared[treated.test, 1] += 50 * up[treated.test]
    assert factor_of_condition(shared, treated) == (2, -1)


def test_known_genes_are_ranked_by_effect_towards_the_treatment() -> None:
    adata, sign = make_cells()
    shared = np.random.default_rng(5).normal(size=(adata.n_obs, 2))
    shared[:, 1] -= 5 * sign
    effects = np.zeros((30, 2))
    effects[:, 1] = np.arange(30)  # of a dim that falls with the treatment: g0 rises most
    sets = {"first": [f"g{i}" for i in range(5)] + ["no such gene"], "last": [f"g{i}" for i in range(25, 30)]}
    found = condition_scores(adata, DRUG.model_copy(update={"gene_sets": sets}), shared, None, effects)
    assert (found["first_auroc"], found["first_top20"], found["last_auroc"], found["last_top20"]) == (1, 0.25, 0, 0)
    genes = np.array(["g0", "g1"])
    for known in (["g7"], ["g0", "g1"]):
        with pytest.raises(UserError, match=r"gene_sets.x: \d of the data's 2 genes are in it; allowed: at least 1"):
            list(gene_set_scores(np.zeros(2), genes, {"x": known}))


def test_a_condition_that_is_not_there_is_refused() -> None:
    adata, _ = make_cells()
    with pytest.raises(UserError, match=r"condition.treated: no sample has 'drag'; allowed: drug, none"):
        Treated.of(adata, ConditionSettings(control="none", treated="drag"))
    one_each = adata[(adata.obs[schema.LABEL] == "a") == (adata.obs[schema.CONDITION] == "drug")].copy()
    with pytest.raises(UserError, match="no class has training samples of both conditions"):
        condition_scores(one_each, DRUG, np.zeros((one_each.n_obs, 1)), None, None)
    del adata.obs[schema.CONDITION]
    with pytest.raises(UserError, match="no obs\\['condition'\\]; set condition_key"):
        Treated.of(adata, DRUG)


# --- the response of a class that is held out ------------------------------------------------------------------------


def make_additive(seed: int = 0) -> tuple[AnnData, np.ndarray, Expected]:
    """Counts that are just what the decoder expects at z_s; the treated samples of class a are held out.

    z_s moves by 1 with the treatment, in every class, and the log rate of each gene with it by its own amount.
    """
    adata, sign = make_cells(seed)
    rng = np.random.default_rng(seed)
    shared = np.stack([(sign + 1) / 2, 0.3 * rng.normal(size=adata.n_obs)], axis=1)
    weight, base = rng.normal(size=(2, 30)), rng.normal(size=(3, 30))[np.searchsorted(CLASSES, adata.obs[schema.LABEL])]
    library = rng.integers(500, 2000, adata.n_obs).astype(float)

    def expected(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return library[rows, None] * np.exp(z @ weight + base[rows] - 8)

    shared[:, 1] -= shared[:, 1].mean()
    for name in CLASSES:  # the same second dim in treated and in control, so that treated = control + shift
        rows = np.flatnonzero(adata.obs[schema.LABEL] == name)
        shared[rows[1::2], 1] = shared[rows[::2], 1]
        library[rows[1::2]] = library[rows[::2]]
    adata.X = expected(shared, np.arange(adata.n_obs))
    adata.obs[schema.LIBRARY] = library
    held = (adata.obs[schema.LABEL] == "a").to_numpy() & (sign > 0)
    adata.obs.loc[held, schema.SPLIT] = "test"
    return adata, shared, expected


def test_a_shared_response_that_the_decoder_knows_is_foretold_and_beats_the_plain_mean() -> None:
    adata, shared, expected = make_additive()
    found = response_scores(adata, DRUG, shared, expected)
    assert list(found) == [f"r2_{n}[a]" for n in ("lfc_heldout", "lfc_heldout_pearson", "lfc_mean", "mean_heldout")]
    for name in ("lfc_heldout", "lfc_heldout_pearson", "mean_heldout"):
        assert found[f"r2_{name}[a]"] == pytest.approx(1, abs=1e-9)
    assert found["r2_lfc_mean[a]"] < 0.99
    treated = Treated.of(adata, DRUG)

    def change(name: str) -> np.ndarray:
        rows = [treated.known & (treated.label == name) & (treated.is_treated == is_treated) for is_treated in (1, 0)]
        up, down = (np.log1p(1e4 * adata.X[r].sum(0) / adata.obs[schema.LIBRARY][r].sum()) for r in rows)
        return up - down

    truth, plain = change("a"), (change("b") + change("c")) / 2
    unexplained, total = ((truth - plain) ** 2).sum(), ((truth - truth.mean()) ** 2).sum()
    assert found["r2_lfc_mean[a]"] == pytest.approx(1 - unexplained / total)


def test_a_decoder_that_ignores_z_s_foretells_nothing() -> None:
    adata, shared, expected = make_additive()
    found = response_scores(adata, DRUG, shared, lambda z, rows: expected(shared[rows], rows))
    assert found["r2_lfc_heldout[a]"] <= 0
    assert found["r2_lfc_heldout_pearson[a]"] == 0
    assert found["r2_mean_heldout[a]"] < 0.99


def test_the_samples_held_out_are_no_part_of_what_is_foretold() -> None:
    adata, shared, expected = make_additive()
    before = response_scores(adata, DRUG, shared, expected)
    held = (adata.obs[schema.LABEL] == "a").to_numpy() & (adata.obs[schema.CONDITION] == "drug").to_numpy()
    shared[held] = np.nan
    seen: list[int] = []

    def watched(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        seen.extend(rows.tolist())
        return expected(z, rows)

    assert response_scores(adata, DRUG, shared, watched) == before
    assert not held[seen].any()


def test_without_a_class_held_out_or_another_to_learn_from_there_is_no_response() -> None:
    adata, shared, expected = make_additive()
    alone = adata[(adata.obs[schema.LABEL] == "a") | (adata.obs[schema.CONDITION] == "none")].copy()
    with pytest.raises(UserError, match="no other class has both conditions"):
        response_scores(alone, DRUG, shared[:1].repeat(alone.n_obs, 0), expected)
    adata.obs[schema.SPLIT] = np.where(np.arange(adata.n_obs) % 3 == 0, "test", "train")
    with pytest.raises(UserError, match="no class is without treated training samples; set hold_out"):
        response_scores(adata, DRUG, shared, expected)


@pytest.mark.parametrize("variant", ["nvae", "cvae", "vae"])
def test_a_model_decodes_what_it_has_embedded(variant: str) -> None:
    adata, model = embedded("counts", variant), trained("counts", variant)
    rows = np.array([0, 140, 299])
    found = expected_by(model, adata)(adata.obsm[schema.SHARED][rows], rows)
    samples = to_samples(prepared_counts(), model.card.classes)
    posterior, _ = model.network.infer(samples.take(_tensor(rows)))
    label = samples.label[rows]
    own = posterior.own(model.network.block(label)).mean
    decoded = model.network.decode(posterior.shared.mean, own, label, samples.library[rows])  # type: ignore[index]
    np.testing.assert_allclose(found, decoded.mean.detach(), rtol=1e-4)
    with pytest.raises(UserError, match="the model has seed 1, the embedded data 0"):
        expected_by(trained("counts", variant, 1), adata)


def _tensor(rows: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(rows)


# --- other methods ---------------------------------------------------------------------------------------------------


@cache
def prepared_held_out() -> AnnData:
    """The toy's counts without the treated samples of class c1."""
    values = {"kind": "counts", "n_top_genes": None, "condition_key": "condition"}
    values |= {"hold_out": {"label": "c1", "condition": "high"}}
    return prepare_data(CountsSettings.model_validate(values), raw_counts())


def test_a_baseline_is_fitted_on_training_cells_alone_and_decodes_them() -> None:
    adata = prepared_held_out()
    changed = adata.copy()
    test = np.flatnonzero(changed.obs[schema.SPLIT] == "test")
    dense = changed.X.toarray()
    dense[test] = dense[test][:, ::-1]
    changed.X = dense
    train = np.flatnonzero(adata.obs[schema.SPLIT] == "train")
    for method in ("pca", "nmf"):
        one, two = (fit_linear(method, data, 3, 0) for data in (adata, changed))
        np.testing.assert_array_equal(one.effects, two.effects)
        np.testing.assert_array_equal(one.shared[train], two.shared[train])
        assert not np.allclose(one.shared[test], two.shared[test])
        assert (one.expected(one.shared - 9, np.arange(adata.n_obs)) >= 0).all()
    whole = fit_linear("pca", adata, 60, 0)
    np.testing.assert_allclose(whole.expected(whole.shared[train], train), adata.X[train].toarray(), atol=1e-6)


@pytest.mark.parametrize("method", ["pca", "nmf"])
def test_a_baseline_has_the_scores_of_a_model(method: Any) -> None:
    scores = baseline_scores(method, prepared_counts(), TOY, 4, 0)
    assert set(scores) == {
        *(f"condition_auroc_shared[c{i}]" for i in range(3)), "up_auroc", "up_top20", "leakage_chance",
        "leakage_linear", "leakage_knn",
    }  # fmt: skip
    assert min(value for name, value in scores.items() if name.startswith("condition")) > 0.9
    assert scores["up_auroc"] > 0.9
    assert scores == baseline_scores(method, prepared_counts(), TOY, 4, 0)
    held = baseline_scores(method, prepared_held_out(), TOY, 4, 0)
    assert set(held) == {f"r2_{n}[c1]" for n in ("lfc_heldout", "lfc_heldout_pearson", "lfc_mean", "mean_heldout")}
    assert held["r2_lfc_heldout_pearson[c1]"] > 0.3


def test_a_baseline_that_cannot_be_fitted_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="baseline 'pca': 61 dims; allowed for these data: at most 60"):
        baseline_scores("pca", prepared_counts(), TOY, 61, 0)
    images = prepared_counts().copy()
    images.uns[schema.DATA] = images.uns[schema.DATA] | {"kind": "images"}
    with pytest.raises(UserError, match="baseline 'nmf': data of kind 'images'; allowed: counts"):
        baseline_scores("nmf", images, TOY, 2, 0)
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(UserError, match="baseline 'scvi' needs scvi-tools, which is not installed: pip install"):
        baseline_scores("scvi", prepared_counts(), TOY, 2, 0)


@needs_scvi
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["scvi", "scanvi"])
def test_a_peer_has_the_scores_of_a_model(method: Any) -> None:
    scores = baseline_scores(method, prepared_counts(), TOY, 4, 0)
    assert min(value for name, value in scores.items() if name.startswith("condition")) > 0.9
    adata = prepared_held_out()
    fitted = fit_scvi(method, adata, 4, 0)
    rows = np.arange(adata.n_obs)
    found = log_mean(fitted.expected(fitted.shared, rows), adata.obs[schema.LIBRARY].to_numpy())
    assert np.corrcoef(found, log_mean(adata.X.toarray(), adata.obs[schema.LIBRARY].to_numpy()))[0, 1] > 0.95
    assert response_scores(adata, TOY, fitted.shared, fitted.expected)["r2_lfc_heldout_pearson[c1]"] > 0.3


@needs_scvi
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scvi_is_told_the_batches_and_need_not_embed_them() -> None:
    adata = prepared_counts().copy()
    loud = np.random.default_rng(0).random(adata.n_obs) < 0.5
    counts = adata.X.toarray()
    counts[np.ix_(loud, range(10))] *= 20
    adata.X, batch = scipy.sparse.csr_matrix(counts), np.where(loud, "loud", "plain")
    train, test = ((adata.obs[schema.SPLIT] == part).to_numpy() for part in ("train", "test"))
    untold = fit_scvi("scvi", adata, 4, 0)
    adata.obs[schema.BATCH] = batch
    told = fit_scvi("scvi", adata, 4, 0)
    kept, gone = (leakage(fitted.shared, batch, train, test)["leakage_linear"] for fitted in (untold, told))
    assert gone < kept - 0.1
    found = told.expected(told.shared, np.arange(adata.n_obs))[:, :10]
    assert found[loud].mean() > 4 * found[~loud].mean()


# --- the doors -------------------------------------------------------------------------------------------------------


def test_where_the_condition_is_is_scored_from_embeddings_and_report(tmp_path: Path) -> None:
    for variant in ("nvae", "per_class"):
        found = embedded("counts", variant)
        write_anndata(found, tmp_path / "embedded.h5ad")
        write_anndata(report_seeds([found]), tmp_path / "report.h5ad")
        files = [f"--{name}={tmp_path / name}.h5ad" for name in ("embedded", "report")]
        output = tmp_path / "scores.csv"
        command = ["evaluate", "--kind=condition", *files, f"--settings={TOY.model_dump_json()}", f"--output={output}"]
        assert main(command) == 0
        names = set(pd.read_csv(output)["metric"])
        assert {"elbo_test", *(f"condition_auroc_private[c{i}]" for i in range(3))} <= names
        of_shared = {"condition_auroc_shared[c0]", "up_auroc", "up_top20", "leakage_linear"}
        assert names & of_shared == (of_shared if variant == "nvae" else set())


def test_a_run_is_scored_from_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = prepared_held_out()
    model = train_model(adata, fit_settings(n_shared=2, n_private=1), 2)
    found = embed_data(adata, model, NO_UMAP)
    write_anndata(found, tmp_path / "embedded.h5ad")
    write_anndata(adata, tmp_path / "data.h5ad")
    save_model(model, tmp_path / "w.safetensors", tmp_path / "c.json")
    models = [f"--weights={tmp_path / 'w.safetensors'}", f"--card={tmp_path / 'c.json'}"]
    condition, output = f"--settings={TOY.model_dump_json()}", f"--output={tmp_path / 'scores.csv'}"
    command = ["evaluate", "--kind=condition", f"--embedded={tmp_path / 'embedded.h5ad'}", output]
    assert main([*command, *models, condition, "--dataset=toy", "--variant=mine"]) == 0
    table = pd.read_csv(tmp_path / "scores.csv")
    assert set(table["dataset"] + table["variant"] + table["seed"].astype(str)) == {"toymine2"}
    scores = response_scores(found, TOY, found.obsm[schema.SHARED], expected_by(model, found))
    assert dict(zip(table["metric"], table["value"], strict=True)) == pytest.approx(scores)
    fits = ["baseline", "--method=pca", f"--data={tmp_path / 'data.h5ad'}", "--n-latent=3", "--seed=4", "--seed=5"]
    assert main([*fits, condition, output, "--variant=pca"]) == 0
    assert pd.read_csv(tmp_path / "scores.csv")["seed"].tolist() == [4] * 4 + [5] * 4
    capsys.readouterr()
    for options, said in (
        ([*models], "kind 'condition' needs --settings"),
        ([condition], "needs --report, for where the condition is, or --weights and --card"),
        ([condition, models[0]], "--weights: given 1 times, --card 0 times"),
        ([condition, *models, *models], "--weights: given 2 times for 1 --embedded"),
        ([*models, '--settings={"control": "low", "treated": "low"}'], "control and treated are both 'low'"),
        ([*models, '--settings={"control": "low", "treated": "hi"}'], "no sample has 'hi'; allowed: high, low"),
    ):
        assert main([*command, *options]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nvae-bio: ")]
        assert said in line
