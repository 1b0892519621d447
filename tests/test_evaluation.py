"""The evaluation of a model: classifiers, samples, counts, finer labels against what they must be by construction."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nvae_bio import report_seeds, save_model, schema
from nvae_bio.cli import main
from nvae_bio.config import SEE_LABELS, EvaluationSettings
from nvae_bio.data.files import read_scores, write_anndata
from nvae_bio.errors import UserError
from nvae_bio.evaluate import extra
from nvae_bio.evaluate.classifiers import BATCH, Form, Known, artificial_scores, fit_classifier, make_net, mixed, usable
from nvae_bio.evaluate.common import score_table
from nvae_bio.evaluate.counts import _differences
from nvae_bio.evaluate.decision import calibration_error, decision_scores
from nvae_bio.evaluate.embeddings import FITS, embedding_scores
from nvae_bio.evaluate.evaluation import Evaluation
from nvae_bio.evaluate.finer import embedding_scib_scores, finer_labels
from nvae_bio.evaluate.known import known_scores
from nvae_bio.evaluate.samples import class_preserved, from_mixture, from_prior, prdc
from nvae_bio.evaluate.subject import Subject
from nvae_bio.plot import plot
from tests.small_models import law
from tests.toys import PREPARED, embedded, trained

QUICK = {"n_draws": 4, "classifier_steps": 60, "n_artificial": 300, "sigmas": (1.0, 2.0)}


# --- classifiers -----------------------------------------------------------------------------------------------------


def make_known(n: int = 300, n_classes: int = 3, side: int = 4, seed: int = 0, shift: int = 0) -> Known:
    """Pictures with one bright row, that of their class; with `shift` the labels are wrong."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % n_classes
    x = 0.2 * rng.random((n, side, side))
    x[np.arange(n), label * side // n_classes] += 0.8
    return Known(x.reshape(n, -1).astype(np.float32), (label + shift) % n_classes)


@pytest.mark.parametrize(("name", "side"), [("linear", 4), ("small", 16), ("strong", 16)])
def test_a_classifier_learns_what_is_plain_and_is_a_function_of_its_seed(name: str, side: int) -> None:
    known, other = make_known(side=side), make_known(side=side, seed=1)
    judges = [fit_classifier(name, known.batches(0), 120, Form((1, side, side), 3), seed) for seed in (0, 0)]
    assert (judges[0](other.x) == other.label).mean() > 0.95
    assert np.array_equal(judges[0](other.x), judges[1](other.x))
    assert len(judges[0](other.x[:0])) == 0


def n_weights(name: str, form: Form) -> int:
    return sum(part.numel() for part in make_net(name, form).parameters())


def test_nets_are_for_pictures_of_16_pixels() -> None:
    assert usable(("small", "strong"), (1, 28, 28)) == ("small", "strong")
    assert usable(("small", "strong"), (1, 8, 28)) == ("linear",) == usable(("small",), None)
    for name in ("small", "strong"):
        assert n_weights(name, Form((3, 48, 42), 5)) > 1000
    assert n_weights("small", Form((1, 28, 28), 10, (16, 32))) > n_weights("small", Form((1, 28, 28), 10))


@law
@given(st.floats(0, 1), st.integers(0, 100))
def test_so_many_batches_are_artificial_and_none_is_both(share: float, seed: int) -> None:
    real, made = Known(np.zeros((500, 1)), np.zeros(500, int)), Known(np.ones((200, 1)), np.ones(200, int))
    found = [x.mean() for x, _ in islice(mixed(real, made, share, seed), 400)]
    assert set(found) <= {0.0, 1.0}
    assert np.mean(found) == pytest.approx(share, abs=0.11)


def test_batches_go_round_all_samples() -> None:
    known = Known(np.arange(3 * BATCH)[:, None], np.arange(3 * BATCH))
    for _, parts in ((0, list(islice(known.batches(1), 3))), (1, list(islice(known.batches(1), 3, 6)))):
        assert sorted(np.concatenate([label for _, label in parts])) == list(range(3 * BATCH))
    few = next(make_known(5).batches(0))
    assert len(few[0]) == 5


def test_what_is_learnt_from_artificial_data_is_what_they_say() -> None:
    real, wrong = make_known(), make_known(shift=1)
    form, shares, test = Form((1, 4, 4), 3), (0.0, 0.4, 1.0), make_known(seed=1)
    scores = artificial_scores(real, test, wrong, form, shares, ("linear",), 150, 0)
    assert list(scores) == ["accuracy_real_linear", "accuracy_tau_0.4_linear", "accuracy_tau_1.0_linear"]
    assert scores["accuracy_real_linear"] > 0.95 and scores["accuracy_tau_1.0_linear"] < 0.05
    of_real = {"linear": fit_classifier("linear", mixed(real, real, 0, 0), 150, form, 0)}
    assert artificial_scores(real, test, wrong, form, shares, ("linear",), 150, 0, of_real) == scores


# --- samples ---------------------------------------------------------------------------------------------------------


@law
@given(st.integers(1, 5), st.integers(0, 50))
def test_samples_of_one_distribution_are_precise_and_cover_it(d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, made = rng.normal(size=(300, d)), rng.normal(size=(300, d))
    found = prdc(real, made)
    assert min(found["precision"], found["recall"], found["coverage"]) > 0.8
    assert found["density"] == pytest.approx(1, abs=0.25)
    same = prdc(real, real)
    assert same["precision"] == same["recall"] == same["coverage"] == 1


def test_far_samples_are_not_precise_and_few_cover_little() -> None:
    real = np.random.default_rng(0).normal(size=(300, 2))
    far = prdc(real, real + 50)
    assert far["precision"] == far["recall"] == far["density"] == far["coverage"] == 0
    one = prdc(real, np.zeros((300, 2)))
    assert one["precision"] == 1 and one["recall"] == 0 and one["coverage"] < 0.1


def test_a_mixture_is_that_of_the_class_and_the_prior_has_its_scale() -> None:
    rng, label = np.random.default_rng(0), np.repeat([0, 2], 400)
    z = rng.normal(size=(800, 2)) * 0.1 + np.where(label[:, None] == 0, rng.choice([-3, 3], (800, 1)), 0)
    drawn = from_mixture(z, label, 0)(label, rng)
    assert (np.abs(np.abs(drawn[label == 0]) - 3) < 0.6).all() and (np.abs(drawn[label == 2]) < 0.6).all()
    assert 0.3 < (drawn[label == 0, 0] > 0).mean() < 0.7
    assert from_prior(3, 2.0)(np.zeros(4000), rng).std() == pytest.approx(2, rel=0.05)
    assert len(from_mixture(z[:3], label[:3], 0)(np.zeros(7, int), rng)) == 7  # fewer samples than components


def test_a_class_is_preserved_where_the_judge_says_so() -> None:
    subject = Subject(trained("features"), embedded("features"), 50)
    rows = subject.rows("test")
    label = subject.label[rows]
    made = subject.made(subject.latent(rows), label, 0)
    truth = {tuple(row): y for row, y in zip(made, label, strict=True)}

    def fooled(x: np.ndarray) -> np.ndarray:
        """Right of reconstructions, and lost when a dim moves."""
        return np.array([truth.get(tuple(row), -1) for row in x])

    assert class_preserved(subject, fooled, rows) == 0
    assert np.isnan(class_preserved(subject, lambda x: np.full(len(x), -1), rows))
    first = rows[subject.label[rows] == 0]
    assert class_preserved(subject, lambda x: np.zeros(len(x), int), first) == 1


# --- counts ----------------------------------------------------------------------------------------------------------


def test_genes_of_one_distribution_differ_little_and_of_others_much() -> None:
    rng = np.random.default_rng(0)
    mean = rng.gamma(2, 2, 80)
    real, like, other = rng.poisson(mean, (400, 80)), rng.poisson(mean, (400, 80)), rng.poisson(2 * mean, (400, 80))
    near, far = _differences(real, like), _differences(real, other)
    assert near["gene_mean_error"] < 0.15 and near["gene_zeros_error"] < 0.03 and near["gene_mean_correlation"] > 0.95
    assert far["gene_mean_error"] == pytest.approx(1, abs=0.1) and far["gene_variance_error"] == pytest.approx(
        1, abs=0.2
    )
    assert all(value == pytest.approx(float("correlation" in name)) for name, value in _differences(real, real).items())


# --- all of it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["nvae", "cvae", "vae", "per_class"])
@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_every_kind_and_variant_has_the_scores_that_it_can_have(kind: str, variant: str) -> None:
    settings = EvaluationSettings.model_validate(QUICK | {"factor_keys": ["true_shared"]})
    found = Evaluation(trained(kind, variant), embedded(kind, variant), settings).scores()
    assert all(np.isfinite(value) for value in found.values())
    shares = ("precision", "recall", "coverage", "samples_told")
    told = [value for name, value in found.items() if name.startswith(shares)]
    assert len(told) == (12 if variant != "vae" else 10) and all(0 <= value <= 1 for value in told)
    assert ("log_pxy" in found) == (variant != "vae")
    if variant != "vae":
        assert found["log_pxy"] == pytest.approx(found["log_px_given_y"] - np.log(3), abs=0.05)
        assert found["log_pxy"] <= found["log_px"]
    else:
        assert found["log_px"] == found["log_px_given_y"]
    assert ("r2_true_shared" in found) == (variant != "per_class")
    assert ("r2_slant" in found) == (kind == "images" and variant != "per_class")
    assert ("gene_mean_error" in found) == (kind == "counts")
    assert ("off_block_kl" in found) == (variant in ("nvae", "per_class"))
    assert ("prior_mmd_ratio_shared" in found) == (variant == "nvae")


def test_scores_are_a_function_of_the_seed() -> None:
    settings = EvaluationSettings.model_validate(QUICK | {"scores": ["likelihood", "prior", "samples", "artificial"]})
    one, other = (Evaluation(trained("counts"), embedded("counts"), settings).scores() for _ in range(2))
    assert one == other and {"accuracy_real_linear", "accuracy_tau_1.0_linear"} <= set(one)


def test_artificial_pictures_have_the_noise_that_training_samples_leave() -> None:
    subject = Subject(trained("images"), embedded("images"), 100)
    rows = subject.rows("train")
    z, label = subject.latent(rows), subject.label[rows]
    made, seen = subject.made(z, label, 0), np.flatnonzero(subject.residual_std)
    for level in seen:
        there = (made >= level / 20) & (made < (level + 1) / 20)
        left = np.sqrt(np.square(subject.real(rows) - made)[there].mean())
        assert subject.residual_std[level] == pytest.approx(left, rel=0.02)
    many, one = np.repeat(z[:1], 2000, axis=0), np.repeat(label[:1], 2000)
    drawn, mean = subject.drawn(many, one, 0), subject.made(z[:1], label[:1], 0)[0]
    assert drawn.min() >= 0 and drawn.max() <= 1
    std = subject.residual_std[np.minimum((20 * mean).astype(int), 19)]
    expected = np.clip(mean + std * np.random.default_rng(5).normal(size=drawn.shape), 0, 1)
    np.testing.assert_allclose(drawn.mean(0), expected.mean(0), atol=0.03)
    np.testing.assert_allclose(drawn.std(0), expected.std(0), atol=0.03)
    assert drawn.std(0).mean() > 0.1


def test_finer_labels_are_of_classes_that_have_several() -> None:
    adata = embedded("features").copy()
    adata.obs["finer"] = np.where(np.arange(adata.n_obs) % 2, adata.obs["label"].astype(str), "other")
    adata.obs.loc[adata.obs["label"] == "c2", "finer"] = "one"
    adata.obs.loc[adata.obs.index[adata.obs["label"] == "c0"][:10], "finer"] = "rare"
    found = finer_labels(adata, "finer")
    assert list(found) == ["c0", "c1"]
    assert set(adata.obs["finer"].iloc[found["c0"]]) == {"c0", "other"}
    with pytest.raises(UserError, match="splits no class into labels of 20"):
        finer_labels(adata, "label")
    with pytest.raises(UserError, match=r"finer_key: 'nope' is no column of obs; allowed: "):
        finer_labels(adata, "nope")


# --- decisions -------------------------------------------------------------------------------------------------------


def make_decided(seed: int = 0, n: int = 900) -> tuple[AnnData, np.ndarray]:
    """What is to be decided follows dim 2 of five, with some noise."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 5))
    obs = pd.DataFrame({"split": np.array(["train", "validation", "test"])[np.arange(n) % 3]})
    obs["treated"] = np.where(z[:, 2] + 0.3 * rng.normal(size=n) > 0, "yes", "no")
    obs.index = obs.index.astype(str)
    return AnnData(np.zeros((n, 1)), obs=obs), z


def test_a_decision_is_made_by_the_dim_that_it_follows() -> None:
    adata, z = make_decided()
    scores = decision_scores(adata, "treated", {"": z, "_noise": z[:, :2]})
    for name in ("linear", "tree"):
        assert scores[f"decision_accuracy_{name}"] > 0.85 and scores[f"decision_auroc_{name}"] > 0.85
        assert scores[f"decision_weight_{name}[2]"] > 0.9
        assert abs(scores[f"decision_accuracy_{name}_noise"] - 0.5) < 0.1
        assert scores[f"decision_calibration_{name}"] < 0.1
        shares = [value for key, value in scores.items() if key.startswith(f"decision_weight_{name}[")]
        assert len(shares) == scores[f"decision_dims_{name}"] and sum(shares) == pytest.approx(1)
    assert decision_scores(adata, "treated", {"": z}) == {
        key: value for key, value in scores.items() if "noise" not in key
    }


def test_held_out_samples_do_not_choose_the_classifier() -> None:
    adata, z = make_decided()
    before = decision_scores(adata, "treated", {"": z})
    test = (adata.obs["split"] == "test").to_numpy()
    adata.obs.loc[test, "treated"] = np.where(adata.obs["treated"][test] == "yes", "no", "yes")
    after = decision_scores(adata, "treated", {"": z})
    weights = {name: value for name, value in before.items() if name.startswith("decision_weight")}
    assert weights == {name: value for name, value in after.items() if name.startswith("decision_weight")}
    assert after["decision_accuracy_linear"] == pytest.approx(1 - before["decision_accuracy_linear"])


@law
@given(st.integers(1, 400), st.integers(0, 50))
def test_confidence_that_is_right_as_often_is_calibrated(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1, n)
    assert calibration_error(np.ones(n), np.ones(n)) == 0 and calibration_error(np.ones(n), np.zeros(n)) == 1
    assert calibration_error(confidence, rng.random(n) < confidence) < 1.6 / np.sqrt(n) + 1e-9


@pytest.mark.parametrize(
    ("key", "said"),
    [("nope", "'nope' is no column of obs"), ("split", "has 1 value in split 'train'; allowed: 2 or more")],
)
def test_what_cannot_be_decided_is_said(key: str, said: str) -> None:
    adata, z = make_decided()
    with pytest.raises(UserError, match=said):
        decision_scores(adata, key, {"": z})


# --- other methods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pca", "ica", "nmf"])
@pytest.mark.parametrize("kind", ["counts", "images", "features"])
def test_a_linear_method_finds_a_planted_factor_of_any_data(kind: str, method: str) -> None:
    adata = PREPARED[kind]().copy()
    if method == "nmf" and kind == "features":
        with pytest.raises(UserError, match="'nmf': the data have values below 0"):
            FITS[method](adata, 4, 0)
        return
    z = FITS[method](adata, 6, 0)
    assert z.shape == (adata.n_obs, 6)
    scores = embedding_scores(
        adata, (z, None), EvaluationSettings(scores=("factors",), factor_keys=["true_shared"]), None
    )
    assert scores["r2_true_shared"] > 0.5 and scores["leakage_linear"] > 0.6
    assert {"leakage_chance", "mig", "sap"} - set(scores) == {"mig", "sap"}  # of one factor there is no gap
    np.testing.assert_array_equal(z, FITS[method](adata, 6, 0))
    with pytest.raises(UserError, match="dims; allowed for these data: at most"):
        FITS[method](adata, 1000, 0)


def test_an_embedding_is_fitted_on_training_samples_alone() -> None:
    adata = PREPARED["features"]().copy()
    before = FITS["pca"](adata, 3, 0)
    train = (adata.obs["split"] == "train").to_numpy()
    adata.X[~train] = np.random.default_rng(0).normal(size=(int((~train).sum()), adata.n_vars))
    np.testing.assert_allclose(FITS["pca"](adata, 3, 0)[train], before[train], atol=1e-4)


def test_held_out_samples_of_held_out_classes_are_scored_where_there_are_some() -> None:
    adata = PREPARED["features"]().copy()
    new = (adata.obs["label"] == "c2").to_numpy()
    adata.obs.loc[new, "label"] = None
    adata.obs["split"] = np.where(new, "test", adata.obs["split"].astype(str))
    z = adata.obs[["true_shared"]].to_numpy(float) * np.where(new, -1, 1)[:, None]  # turned in the new class
    scores = known_scores(adata, z, ["true_shared"], None)
    assert scores["r2_true_shared"] < -1 and scores["r2_true_shared[known]"] > 0.999


def test_within_classes_the_mean_of_a_class_need_not_be_told() -> None:
    adata, rng = PREPARED["features"]().copy(), np.random.default_rng(0)
    residual = rng.normal(size=adata.n_obs)
    adata.obs["known"] = residual + 5 * adata.obs["label"].cat.codes.to_numpy()
    scores = known_scores(adata, residual[:, None], ["known"], None)
    assert scores["r2_known"] < 0.5 and scores["r2_known_within"] > 0.95
    of_class = adata.obs["label"].cat.codes.to_numpy(float)[:, None] + 0.01 * rng.normal(size=(adata.n_obs, 1))
    scores = known_scores(adata, of_class, ["known"], None)
    assert scores["r2_known"] > 0.8 and scores["r2_known_within"] < 0.05


def test_the_command_scores_an_embedding_and_refuses_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_anndata(PREPARED["features"](), tmp_path / "data.h5ad")
    output = tmp_path / "scores.csv"
    command = ["baseline", "--kind", "model", "--data", str(tmp_path / "data.h5ad"), "--output", str(output)]
    settings = ['--settings={"scores": ["factors"], "factor_keys": ["true_shared"]}', "--n-latent=4"]
    assert main([*command, "--method", "ica", *settings, "--seed=1", "--seed=2"]) == 0
    table = read_scores([output])
    assert set(table["seed"]) == {1, 2} and {"r2_true_shared", "leakage_linear"} <= set(table["metric"])
    assert not table["saw_labels"].any() and set(table["package"]) == {""}
    for options, said in (
        (["--method", "cnmf", *settings], "method 'cnmf' has no scores of kind 'model'; allowed: pca, ica, nmf"),
        (["--method", "pca", settings[0]], "kind 'model' needs --n-latent and --settings"),
        (["--method", "scvi", *settings], "baseline 'scvi': data of kind 'features'; allowed: counts"),
    ):
        assert main([*command, *options]) == 2
        assert said in capsys.readouterr().err


def test_a_table_says_by_what_its_scores_are_and_who_saw_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "version", {"drvi-py": "1.2", "scib-metrics": "3.4"}.__getitem__)
    scores = {"lms_spn[a]": 0.1, "scib_bio_shared": 0.2, "log_px": -3.0, "finer_accuracy_linear[a]": 0.5}
    table = score_table({0: scores}, "d", "v", saw_labels=True).set_index("metric")
    assert table["package"].to_dict() == {
        "lms_spn[a]": "drvi-py 1.2", "scib_bio_shared": "scib-metrics 3.4",
        "log_px": "", "finer_accuracy_linear[a]": "",
    }  # fmt: skip
    assert table["saw_labels"].all() and not score_table({0: scores}, "d", "v", saw_labels=False)["saw_labels"].any()
    assert set(SEE_LABELS) == {"scanvi"}


needs_scib = pytest.mark.skipif(
    importlib.util.find_spec("scib_metrics") is None, reason="scib-metrics is not installed"
)


@needs_scib
def test_scores_of_the_libraries_are_stamped_with_their_versions() -> None:
    adata, rng = PREPARED["features"](), np.random.default_rng(0)
    adata.obs["finer"] = adata.obs["label"].astype(str) + rng.choice([" a", " b"], adata.n_obs)
    kinds = adata.obs["finer"].astype("category").cat.codes.to_numpy()
    of_kind = np.eye(kinds.max() + 1)[kinds] + 0.05 * rng.normal(size=(adata.n_obs, kinds.max() + 1))
    settings = EvaluationSettings(scores=["finer", "scib"], finer_key="finer")
    best, blind = (
        embedding_scores(adata, (z, None), settings, None) for z in (of_kind, rng.normal(size=of_kind.shape))
    )
    for name in ("lms_smi[c0]", "lms_spn[c0]", "scib_bio"):
        assert best[name] > blind[name] + 0.2
    table = score_table({0: best}, "d", "v", saw_labels=False).set_index("metric")
    assert table["package"]["scib_bio"] == f"scib-metrics {importlib.metadata.version('scib-metrics')}"
    assert table["package"]["lms_smi[c0]"] == f"drvi-py {importlib.metadata.version('drvi-py')}"


@needs_scib
def test_an_embedding_that_holds_the_batches_is_less_well_integrated() -> None:
    adata, rng = PREPARED["features"](), np.random.default_rng(0)
    batch = rng.integers(2, size=adata.n_obs)
    classes = np.eye(3)[adata.obs["label"].cat.codes] + 0.1 * rng.normal(size=(adata.n_obs, 3))
    assert set(embedding_scib_scores(adata, classes)) == {"scib_bio"}
    adata.obs[schema.BATCH] = pd.Categorical(np.array(["first", "second"])[batch])
    mixed, apart = (embedding_scib_scores(adata, np.column_stack([classes, place * batch])) for place in (0, 3))
    assert mixed["scib_batch"] > apart["scib_batch"] + 0.2
    assert mixed["scib_total"] > apart["scib_total"] + 0.1
    for found in (mixed, apart):
        assert found["scib_total"] == pytest.approx(0.6 * found["scib_bio"] + 0.4 * found["scib_batch"], abs=1e-6)


# --- doors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"factor_keys": ["nope"]}, r"factor_keys: 'nope' is no column of obs; allowed: label"),
        ({"factor_keys": ["label"]}, r"factor_keys: obs\['label'\] holds no number"),
        ({"scores": ["finer"], "finer_key": "nope"}, r"finer_key: 'nope' is no column of obs"),
        ({"scores": ["scib"]}, r"needs scib_metrics, which is not installed: pip install 'nvae-bio\[benchmark\]'"),
    ],
)
def test_what_cannot_be_scored_is_said(settings: dict[str, object], said: str) -> None:
    one = Evaluation(trained("features"), embedded("features"), EvaluationSettings.model_validate(QUICK | settings))
    with pytest.raises(UserError, match=said):
        one.scores()


def test_samples_without_a_held_out_part_or_of_another_model_are_refused() -> None:
    adata = embedded("features").copy()
    adata.obs[schema.SPLIT] = "train"
    settings = EvaluationSettings.model_validate(QUICK)
    with pytest.raises(UserError, match="no sample of split 'test' has a class"):
        Evaluation(trained("features"), adata, settings).scores()
    with pytest.raises(UserError, match="of kind 'counts', the model was trained on 'features'"):
        Evaluation(trained("features"), embedded("counts"), settings)


def make_files(folder: Path, variant: str = "nvae") -> list[str]:
    """A model with its embedded samples and report; the options that name them."""
    save_model(trained("features", variant), folder / "m.safetensors", folder / "m.json")
    adata = embedded("features", variant)
    write_anndata(adata, folder / "embedded.h5ad")
    write_anndata(report_seeds([adata]), folder / "report.h5ad")
    return [
        *("--embedded", str(folder / "embedded.h5ad"), "--report", str(folder / "report.h5ad")),
        *("--weights", str(folder / "m.safetensors"), "--card", str(folder / "m.json")),
    ]


@pytest.mark.parametrize("variant", ["nvae", "vae", "cvae"])
def test_the_table_says_whether_the_model_was_told_the_classes(variant: str, tmp_path: Path) -> None:
    files, output = make_files(tmp_path, variant), tmp_path / "scores.csv"
    assert main(["evaluate", "--kind", "model", *files, "--output", str(output)]) == 0
    assert set(read_scores([output])["saw_labels"]) == {variant != "vae"}


def test_the_command_writes_a_tidy_table_and_its_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, output = make_files(tmp_path), tmp_path / "scores.csv"
    settings = EvaluationSettings.model_validate(QUICK).model_dump_json()
    command = ["evaluate", "--kind", "model", *files, "--output", str(output)]
    assert main([*command, "--settings", settings, "--dataset", "toy", "--variant", "nvae"]) == 0
    table = read_scores([output])
    assert set(table["dataset"]) == {"toy"} and set(table["variant"]) == {"nvae"} and set(table["seed"]) == {0}
    assert {"leakage_linear", "log_px", "prior_mmd_ratio", "coverage_1", "ex_post_gap"} <= set(table["metric"])
    assert plot(tmp_path / "figures", evaluation=output) == ["scores"]
    assert (tmp_path / "figures" / "scores.svg").read_text().count("ancestral samples") == 1
    assert main([*command[:-6], *command[-2:], "--settings", settings]) == 2
    assert "--weights: given 0 times for 1 --embedded; --settings need one each" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('{"scores": ["finer"]}', "'finer' needs finer_key"),
        ('{"scores": ["decision"]}', "'decision' needs decision_key"),
        ('{"scores": ["beauty"]}', "likelihood"),
        ('{"sigmas": [0]}', "sigmas"),
        ('{"shares": [1.5]}', "shares"),
    ],
)
def test_wrong_settings_end_in_one_line(
    settings: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.csv"
    command = ["evaluate", "--kind", "model", *make_files(tmp_path), "--output", str(output), "--settings", settings]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not output.exists()


def test_a_figure_says_when_there_is_nothing_to_show(tmp_path: Path) -> None:
    table = score_table({0: {"own_block_kl": 0.1}}, "d", "v", saw_labels=True)
    table.to_csv(tmp_path / "scores.csv", index=False)
    plot(tmp_path, evaluation=tmp_path / "scores.csv")
    assert "No scores that a figure shows" in (tmp_path / "scores.svg").read_text()


def test_subject_takes_the_same_random_part_of_every_model() -> None:
    models = [(trained("features", seed=seed), embedded("features", seed=seed)) for seed in (0, 1)]
    parts = [Subject(*model, 20).rows("train") for model in models]
    assert np.array_equal(*parts) and len(parts[0]) == 20 and len(set(parts[0])) == 20
    assert (np.diff(parts[0]) > 0).all()
