"""New samples in a trained model: what was measured, how sure a class is, what is strange."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.optimize import approx_fprime
from scipy.special import log_softmax
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from nvae_bio import embed_data, load_model, map_query, prepare_data, save_model, schema, train_model
from nvae_bio.cli import main
from nvae_bio.config import CountsSettings, QuerySettings, read_dataset
from nvae_bio.data.files import write_anndata
from nvae_bio.data.samples import class_index
from nvae_bio.errors import UserError
from nvae_bio.query import Query, adapt_model, read_query, reference_query
from nvae_bio.query.certainty import ClassPosterior, Strangeness, class_p, conformal_p, novelty
from nvae_bio.query.distance import Classed, Distances, training_distances
from nvae_bio.query.score import Scores, score_query
from nvae_bio.trained import TrainedModel
from tests.toys import (
    NO_UMAP,
    PREPARED,
    embedded,
    fit_settings,
    prepared_counts,
    raw_counts,
    raw_features,
    raw_images,
    trained,
)

RAW = {"counts": raw_counts, "features": raw_features, "images": raw_images}
N_GENES = 60


@cache
def fitted() -> tuple[AnnData, TrainedModel]:
    """A model of counts, trained until it tells the classes, and its data."""
    settings = CountsSettings(kind="counts", n_top_genes=None, split={"validation": 0.3})
    prepared = prepare_data(settings, raw_counts(n_per_class=200))
    return prepared, train_model(prepared, fit_settings(60, n_shared=3))


@cache
def new_counts() -> AnnData:
    """Other cells of the same classes."""
    rng, source = np.random.default_rng(5), raw_counts(n_per_class=200)
    new = source[rng.permutation(source.n_obs)[:300]].copy()
    new.X = rng.binomial(new.X.astype(int), 0.8).astype(np.float32)
    new.obs_names = [f"new{i}" for i in range(new.n_obs)]
    return new


def accuracy(mapped: AnnData) -> float:
    return float((mapped.obs[schema.PREDICTED].astype(str) == mapped.obs[schema.LABEL].astype(str)).mean())


@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_samples_of_the_data_set_itself_lie_where_embed_put_them(kind: str) -> None:
    mapped = map_query(trained(kind), PREPARED[kind](), RAW[kind]())
    own = embedded(kind)[mapped.obs_names]
    assert mapped.n_obs == RAW[kind]().n_obs
    assert mapped.uns[schema.QUERY]["coverage"] == pytest.approx(1)
    np.testing.assert_allclose(mapped.obsm[schema.SHARED], own.obsm[schema.SHARED], atol=1e-5)
    same = (mapped.obs[schema.PREDICTED].astype(str) == own.obs[schema.LABEL].astype(str)).to_numpy()
    np.testing.assert_allclose(mapped.obsm[schema.SPECIFIC][same], own.obsm[schema.SPECIFIC][same], atol=1e-5)
    gap = mapped.obs[schema.ELBO][same] - own.obs[schema.ELBO][same]
    assert abs(gap.mean()) < 0.05 * abs(own.obs[schema.ELBO].mean())
    np.testing.assert_allclose(mapped.obsm[schema.CLASS_PROBABILITY].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("key", ["sf", "size_factor"])
def test_size_factors_of_new_cells_are_on_the_scale_of_the_models(key: str) -> None:
    raw = raw_counts()
    raw.obs[key] = raw.X.sum(1) / 700 * np.random.default_rng(0).uniform(0.9, 1.1, raw.n_obs)
    prepared = prepare_data(CountsSettings(kind="counts", n_top_genes=None, size_factor_key=key), raw)
    model = train_model(prepared, fit_settings(size="size_factor"))
    new = raw[::3].copy()
    mapped = map_query(model, prepared, new)
    own = embed_data(prepared, model, NO_UMAP)[mapped.obs_names]
    np.testing.assert_allclose(mapped.obs[schema.SIZE_FACTOR], own.obs[schema.SIZE_FACTOR], rtol=1e-12)
    np.testing.assert_allclose(mapped.obsm[schema.SHARED], own.obsm[schema.SHARED], atol=1e-5)
    renamed = AnnData(new.X, obs=new.obs.rename(columns={key: "other"}), var=new.var)
    again = map_query(model, prepared, renamed, QuerySettings(dataset={"size_factor_key": "other"}))
    assert np.array_equal(again.obsm[schema.SHARED], mapped.obsm[schema.SHARED])
    with pytest.raises(UserError, match=f"no obs column '{key}'.*allowed: .*other"):
        map_query(model, prepared, renamed)
    new.obs[key] = new.obs[key] - new.obs[key].iloc[0]
    with pytest.raises(UserError, match="allowed: finite numbers above 0"):
        map_query(model, prepared, new)


def test_new_cells_get_their_classes_and_nothing_of_the_input_changes() -> None:
    prepared, model = fitted()
    new = new_counts()
    before = new.copy()
    mapped = map_query(model, prepared, new)
    assert accuracy(mapped) > 0.95
    assert (new.X == before.X).all()
    assert list(new.obs.columns) == list(before.obs.columns)
    again = map_query(model, prepared, new)
    for key in (schema.CLASS_PROBABILITY, schema.BOUND, schema.SHARED):
        assert np.array_equal(mapped.obsm[key], again.obsm[key])
    assert list(mapped.obs_names) == list(new.obs_names)


def test_missing_and_further_genes() -> None:
    prepared, model = fitted()
    rng = np.random.default_rng(2)
    kept = np.sort(rng.permutation(N_GENES)[:42])[::-1]  # in another order, too
    extra = AnnData(rng.poisson(1.0, (300, 5)).astype(np.float32), var=pd.DataFrame(index=[f"x{i}" for i in range(5)]))
    extra.obs_names = new_counts().obs_names
    part = new_counts()[:, kept]
    whole = AnnData(
        np.hstack([part.X, extra.X]), obs=part.obs, var=pd.DataFrame(index=[*part.var_names, *extra.var_names])
    )
    mapped = map_query(model, prepared, whole)
    told = mapped.uns[schema.QUERY]
    share = np.asarray(prepared.X.sum(0)).ravel()
    assert told["n_measured"] == 42
    assert told["n_extra"] == 5
    assert told["coverage"] == pytest.approx(share[kept].sum() / share.sum(), abs=0.02)  # of the reference's counts
    assert set(told["lacking"]) == set(prepared.var_names) - set(part.var_names)
    assert not mapped.X[:, ~mapped.var_names.isin(part.var_names)].toarray().any()
    assert accuracy(mapped) > 0.85
    complete = map_query(model, prepared, new_counts())
    agreement = np.corrcoef(mapped.obsm[schema.SHARED].ravel(), complete.obsm[schema.SHARED].ravel())[0, 1]
    zeros = new_counts().copy()
    zeros.X[:, np.setdiff1d(np.arange(N_GENES), kept)] = 0  # what is done where nobody looks
    naive = map_query(model, prepared, zeros)
    assert agreement > 0.7
    assert agreement > np.corrcoef(naive.obsm[schema.SHARED].ravel(), complete.obsm[schema.SHARED].ravel())[0, 1]


def test_a_panel_without_the_genes_outside_the_model() -> None:
    source = raw_counts(n_per_class=200)
    settings = CountsSettings(kind="counts", n_top_genes=40, split={"validation": 0.3})
    prepared = prepare_data(settings, source)
    model = train_model(prepared, fit_settings(40, n_shared=3))
    panel = map_query(model, prepared, source[:, prepared.var_names].copy())
    whole = map_query(model, prepared, source)
    assert whole.uns[schema.QUERY]["has_rest"]
    assert not panel.uns[schema.QUERY]["has_rest"]
    assert (panel.obs[schema.LIBRARY] < whole.obs[schema.LIBRARY]).all()
    assert np.corrcoef(panel.obsm[schema.SHARED].ravel(), whole.obsm[schema.SHARED].ravel())[0, 1] > 0.95


def test_a_class_never_seen_is_strange_and_known_ones_are_not() -> None:
    source = raw_counts(n_per_class=200)
    known = source[source.obs["label"] != "c2"].copy()
    prepared = prepare_data(CountsSettings(kind="counts", n_top_genes=None, split={"validation": 0.4}), known)
    model = train_model(prepared, fit_settings(60, n_shared=3))
    mapped = map_query(model, prepared, source, QuerySettings(novelty_level=0.05))
    is_new = (mapped.obs[schema.LABEL] == "c2").to_numpy()
    test = mapped.obs_names.isin(prepared.obs_names[prepared.obs["split"] == "test"])
    assert mapped.obs[schema.NOVEL][is_new].mean() > 0.9
    assert mapped.obs[schema.NOVEL][test].mean() < 0.12
    assert mapped.obs[schema.NOVELTY][is_new].median() > mapped.obs[schema.NOVELTY][test].quantile(0.95)
    with pytest.raises(UserError, match=r"novel to the model \(1?[0-9]{2}%\); allowed: max_novel 0.5"):
        map_query(model, prepared, source[is_new].copy(), QuerySettings(novelty_level=0.05, max_novel=0.5))


@pytest.mark.parametrize("kind", ["features", "images"])
def test_a_class_never_seen_is_strange_whatever_the_samples_are(kind: str) -> None:
    source, settings = RAW[kind](), {"kind": kind, "split": {"validation": 0.4}}
    settings |= {"standardize": False} if kind == "features" else {"image_shape": [1, 8, 8]}
    prepared = prepare_data(read_dataset(settings, "test"), source[source.obs["label"] != "c2"].copy())
    model = train_model(prepared, fit_settings(30, n_shared=3))
    mapped = map_query(model, prepared, source, QuerySettings(max_novel=1))
    is_new = (mapped.obs[schema.LABEL] == "c2").to_numpy()
    test = mapped.obs_names.isin(prepared.obs_names[prepared.obs["split"] == "test"])
    rows = is_new | test
    assert roc_auc_score(is_new[rows], mapped.obs[schema.NOVELTY][rows]) > 0.95
    for way in ("distance", "isolation"):
        assert roc_auc_score(is_new[rows], mapped.obsm[schema.STRANGENESS][way][rows]) > 0.95


def classed(source: AnnData, model: TrainedModel) -> Classed:
    """Cells with the classes that they have."""
    obs = source.obs.assign(**{schema.LIBRARY: source.X.sum(1), schema.DONOR: "d0", schema.CONDITION: "low"})
    prepared = AnnData(sparse.csr_matrix(source.X), obs=obs, var=source.var, uns={schema.DATA: {"kind": "counts"}})
    return Classed(reference_query(prepared, model.card), class_index(obs, model.card.classes))


def drawn(rng: np.random.Generator, n: int, programme: float = 0.0, depth: float = 1.0) -> AnnData:
    """Cells of three classes; in those of the last class ten genes may be counted a little more often."""
    rate = np.exp(np.random.default_rng(0).normal(size=(3, N_GENES)))
    label = rng.integers(3, size=n)
    rate = rate[label] * np.where((label == 2)[:, None] & (np.arange(N_GENES) % 6 == 0), 1 + programme, 1)
    rate *= np.exp(0.2 * rng.normal(size=(n, 1)) * (np.arange(N_GENES) < 9))  # something that cells differ by
    x = rng.poisson(depth * rng.uniform(100, 300, (n, 1)) * rate / rate.sum(1, keepdims=True)).astype(np.float32)
    obs = pd.DataFrame({"label": [f"c{i}" for i in label]}, index=[f"s{i}" for i in range(n)])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"f{i}" for i in range(N_GENES)]))


def test_of_many_training_samples_some_of_each_class_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, model = fitted()
    whole = map_query(model, prepared, new_counts())
    monkeypatch.setattr("nvae_bio.query.step.MAX_TRAIN", 150)
    part = map_query(model, prepared, new_counts())
    for way in ("distance", "isolation"):
        pair = [one.obsm[schema.STRANGENESS][way] for one in (whole, part)]
        assert not np.array_equal(*pair)
        assert spearmanr(*pair).statistic > 0.6
    assert np.array_equal(whole.obsm[schema.CLASS_PROBABILITY], part.obsm[schema.CLASS_PROBABILITY])


def test_what_is_small_in_each_shows_in_many_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = trained("counts"), np.random.default_rng(1)
    train, known = classed(drawn(rng, 1500), model), classed(drawn(rng, 800), model)
    new = classed(drawn(rng, 300, programme=1.0), model)
    told = {}
    for together in ((15, 7, 3, 1), (1,)):
        monkeypatch.setattr("nvae_bio.query.distance.TOGETHER", together)
        _, found = training_distances(model, train, known, new)
        told[together[0]] = [roc_auc_score(new.label == 2, way) for way in found]
    assert min(told[15]) > 0.95
    assert max(told[1]) < 0.75


@pytest.mark.parametrize(("n", "depth"), [(1, 1), (4, 1), (20, 1), (400, 1), (400, 0.6), (400, 2)])
def test_known_cells_are_as_near_as_reference_cells_however_few_and_deep(n: int, depth: float) -> None:
    model, rng = trained("counts"), np.random.default_rng(2)
    train, known = classed(drawn(rng, 1500), model), classed(drawn(rng, 800), model)
    p = []
    for _ in range(max(1, 24 // n)):
        usual, found = training_distances(model, train, known, classed(drawn(rng, n, depth=depth), model))
        p += [conformal_p(one, other) for one, other in zip(usual, found, strict=True)]
    values = np.concatenate(p)
    assert (values <= 0.05).mean() < 0.12
    assert np.median(values) > 0.25


def test_p_values_of_like_samples_are_uniform() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=999), rng.normal(size=20_000)
    p = conformal_p(known, asked)
    for level in (0.01, 0.1, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.05)
    assert p.min() >= 1 / 1000


def made_scores(n: int, seed: int, n_classes: int = 4, shift: float = 0.0) -> tuple[Scores, np.ndarray]:
    """A classifier that is far too sure, bounds that know something of their own, and classes of which one is rare."""
    rng = np.random.default_rng(seed)
    label = rng.choice(n_classes, n, p=[0.5, 0.3, 0.19, 0.01])
    hot = np.eye(n_classes)[label]
    sure = 6 * (1.2 * hot + rng.normal(size=(n, n_classes)))
    bound = 20 * (hot + rng.normal(size=(n, n_classes))) - 500
    posterior = score_query(_as_query(), trained("counts"), 1, 0).take(np.zeros(n, dtype=int)).posterior
    log_library = rng.normal(7, 0.3, n)
    scores = Scores(posterior, bound + 30 * log_library[:, None] - shift, log_softmax(sure, axis=1), log_library)
    return scores, label


def _as_query() -> Query:
    return reference_query(prepared_counts(), trained("counts").card)


def test_class_probabilities_can_be_believed() -> None:
    (known, label), (asked, truth) = made_scores(3000, 1), made_scores(3000, 2)
    posterior = ClassPosterior.fit(known, label)
    log_prob, rows = posterior.log_prob(asked), np.arange(len(truth))
    np.testing.assert_allclose(np.exp(log_prob).sum(1), 1)
    raw, own = asked.class_log_prob, -log_prob[rows, truth].mean()
    assert own < 0.9 * -raw[rows, truth].mean()
    assert (log_prob.argmax(1) == truth).mean() > (raw.argmax(1) == truth).mean()  # two witnesses see more than one
    confidence, correct = np.exp(log_prob.max(1)), log_prob.argmax(1) == truth
    assert confidence.mean() == pytest.approx(correct.mean(), abs=0.02)
    for low in np.arange(0.3, 1, 0.1):
        inside = (confidence >= low) & (confidence < low + 0.1)
        if inside.sum() > 100:
            assert confidence[inside].mean() == pytest.approx(correct[inside].mean(), abs=0.06)


def test_the_fit_is_where_the_cross_entropy_is_least() -> None:
    known, label = made_scores(400, 3)
    found = ClassPosterior.fit(known, label)

    def loss(values: np.ndarray) -> float:
        one = ClassPosterior(float(np.exp(values[0])), float(np.exp(values[1])), values[2:])
        return float(-one.log_prob(known)[np.arange(400), label].mean() + 1e-3 * (values[2:] ** 2).sum())

    at = np.concatenate([np.log([found.of_classifier, found.of_bound]), found.intercept])
    np.testing.assert_allclose(approx_fprime(at, loss, 1e-6), 0, atol=1e-3)


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_sets_miss_a_class_as_often_as_they_may(error: float) -> None:
    (known, label), (asked, truth) = made_scores(4000, 4), made_scores(4000, 5)
    half = np.arange(4000) < 2000
    posterior = ClassPosterior.fit(known.take(half), label[half])
    p = class_p(np.exp(posterior.log_prob(known.take(~half))), label[~half], np.exp(posterior.log_prob(asked)), error)
    inside = p > error
    for y in range(3):  # class by class, not on the whole
        assert inside[truth == y, y].mean() == pytest.approx(1 - error, abs=0.035)
    sizes = inside.sum(1)
    assert sizes.mean() < 3


def test_a_class_of_few_reference_samples_can_be_kept_out_of_a_set() -> None:
    known = np.array([[0.9, 0.1]] * 50 + [[0.2, 0.8]] * 3)
    label = np.array([0] * 50 + [1] * 3)
    p = class_p(known, label, np.array([[0.999, 0.001]]), 0.1)
    assert p[0, 1] <= 0.1  # against all 53; against its own 3 it could not be below 1/4


def test_each_way_of_being_strange_counts() -> None:
    (known, label), (asked, _) = made_scores(2000, 6), made_scores(500, 7)
    rng, likeliest = np.random.default_rng(8), asked.class_log_prob.argmax(1)
    usual = Strangeness.of(known, known.class_log_prob.argmax(1), known, label, Distances(*rng.normal(size=(2, 2000))))
    distances = Distances(*rng.normal(size=(2, 500)))
    plain = Strangeness.of(asked, likeliest, known, label, distances)
    for way in Strangeness._fields:
        changed = plain._replace(**{way: np.full(500, 1e6)})
        more, p = novelty(changed, usual)
        assert (more >= novelty(plain, usual)[0]).all()
        assert np.median(p) < 0.1
    low, _ = made_scores(500, 7, shift=1000)  # the same samples with lower bounds
    assert (Strangeness.of(low, likeliest, known, label, distances).misfit > plain.misfit).all()
    share = (novelty(plain, usual)[1] <= 0.05).mean()
    assert share == pytest.approx(0.05, abs=0.03)


def test_depth_alone_is_not_strange() -> None:
    prepared, model = fitted()
    rng, deep = np.random.default_rng(1), new_counts()
    shallow = deep.copy()
    shallow.X = rng.binomial(deep.X.astype(int), 0.85).astype(np.float32)
    shares = [
        map_query(model, prepared, one, QuerySettings(novelty_level=0.05)).obs[schema.NOVEL].mean()
        for one in (deep, shallow)
    ]
    assert max(shares) < 0.15


@cache
def batched() -> tuple[AnnData, TrainedModel, AnnData]:
    """A model that is told two batches, and cells of a third, in which ten genes are counted three times as often."""
    source, rng = raw_counts(n_per_class=300), np.random.default_rng(3)
    batch = rng.choice(["a", "b", "c"], source.n_obs)
    x = source.X.copy()
    x[np.ix_(batch == "b", np.arange(20, 30))] *= 2
    x[np.ix_(batch == "c", np.arange(40, 50))] *= 3
    whole = AnnData(x, obs=source.obs.assign(batch=batch), var=source.var)
    settings = CountsSettings(kind="counts", n_top_genes=None, batch_key="batch", split={"validation": 0.3})
    prepared = prepare_data(settings, whole[batch != "c"].copy())
    return prepared, train_model(prepared, fit_settings(40, n_shared=3)), whole[batch == "c"].copy()


def test_a_new_batch_is_unknown_until_the_model_adapts(tmp_path: Path) -> None:
    prepared, model, new = batched()
    plain = map_query(model, prepared, new)
    adapted = map_query(model, prepared, new, QuerySettings(adapt=True, adapt_steps=150))
    assert adapted.obs[schema.ELBO].mean() > plain.obs[schema.ELBO].mean() + 5
    assert adapted.obs[schema.NOVEL].mean() < 0.05 < plain.obs[schema.NOVEL].mean()
    far = [one.obsm[schema.STRANGENESS].mean() for one in (plain, adapted)]
    for way in ("distance", "isolation"):
        assert far[0][way] > 5
        assert far[1][way] < 2
    assert accuracy(adapted) > 0.9


def test_adapting_adds_a_level_and_changes_nothing_else(tmp_path: Path) -> None:
    prepared, model, new = batched()
    asked = read_query(QuerySettings(), reference_query(prepared, model.card), model.card, new)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    adapted = adapt_model(model, asked, QuerySettings(adapt_steps=20), 0)
    assert adapted.card.covariates.categorical[0].levels == ["a", "b", "c"]
    moved = False
    for name, value in adapted.network.state_dict().items():
        old = before[name]
        assert np.array_equal(model.network.state_dict()[name], old)
        if value.shape == old.shape:
            assert np.array_equal(value, old), name
        else:
            assert np.array_equal(value[:2], old), name
            moved |= value.dim() > 1 and not np.allclose(value[2], value[:2].mean(0), atol=1e-3)
    assert moved
    save_model(adapted, tmp_path / "m.safetensors", tmp_path / "m.json")
    loaded = load_model(tmp_path / "m.safetensors", tmp_path / "m.json")
    assert loaded.card.covariates.n_batches == 3


def test_what_cannot_be_adapted() -> None:
    prepared, model, new = batched()
    settings = QuerySettings(adapt=True, adapt_steps=2)
    with pytest.raises(UserError, match="told no batch"):
        map_query(trained("counts"), prepared_counts(), raw_counts(), settings)
    with pytest.raises(UserError, match=r"all batches of the new samples \(a, b\) are known"):
        known = AnnData(new.X, obs=new.obs.assign(batch="a"), var=new.var)
        map_query(model, prepared, known, settings)
    with pytest.raises(UserError, match="features of the model lack"):
        map_query(model, prepared, new[:, :50].copy(), settings)


def test_names_of_features_in_another_column() -> None:
    prepared, model = fitted()
    new = new_counts().copy()
    new.var["symbol"] = new.var_names
    new.var_names = [f"ENSG{i:05}" for i in range(N_GENES)]
    with pytest.raises(UserError, match=r"none of the model's 60 features .* var column 'symbol' has 60 of them"):
        map_query(model, prepared, new)
    mapped = map_query(model, prepared, new, QuerySettings(feature_key="symbol"))
    assert mapped.uns[schema.QUERY]["coverage"] == pytest.approx(1)
    with pytest.raises(UserError, match="no var column 'gene'; allowed: symbol"):
        map_query(model, prepared, new, QuerySettings(feature_key="gene"))
    new.var["symbol"] = "f1"
    with pytest.raises(UserError, match="'f1' stands twice in 'symbol'"):
        map_query(model, prepared, new, QuerySettings(feature_key="symbol"))


def test_too_few_features_are_refused_with_the_number() -> None:
    prepared, model = fitted()
    with pytest.raises(
        UserError, match=r"10 of the model's 60 features are there, coverage 0\.\d\d; allowed: min_coverage 0.5"
    ):
        map_query(model, prepared, new_counts()[:, :10].copy())


def test_what_else_is_refused() -> None:
    prepared, model = fitted()
    with pytest.raises(UserError, match="pictures of 32 values, the model's have 64"):
        map_query(
            trained("images"),
            PREPARED["images"](),
            raw_images()[:, :32].copy(),
            QuerySettings(dataset={"image_shape": [1, 4, 8]}),
        )
    with pytest.raises(UserError, match="variant 'vae'"):
        map_query(trained("counts", "vae"), prepared_counts(), raw_counts())
    train = prepared[prepared.obs["split"] == "train"].copy()
    with pytest.raises(UserError, match="no labelled validation sample"):
        map_query(model, train, new_counts())
    with pytest.raises(UserError, match="no labelled train sample; allowed: the prepared data set of the model"):
        map_query(model, prepared[prepared.obs["split"] == "validation"].copy(), new_counts())
    logged = new_counts().copy()
    logged.X = np.log1p(logged.X)
    with pytest.raises(UserError, match="looks log-normalised"):
        map_query(model, prepared, logged)
    with pytest.raises(UserError, match=r"query\.dataset"):
        map_query(model, prepared, new_counts(), QuerySettings(dataset={"colour": 1}))
    empty = new_counts().copy()
    empty.X[:] = 0
    with pytest.raises(UserError, match="none of 300 cells has a count"):
        map_query(model, prepared, empty)


def test_the_command_maps_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared, model = fitted()
    write_anndata(prepared, tmp_path / "data.h5ad")
    save_model(model, tmp_path / "m.safetensors", tmp_path / "m.json")
    new = new_counts().copy()
    del new.obs["label"]
    new.write_h5ad(tmp_path / "new.h5ad")
    files = [
        f"--{name}={tmp_path / file}"
        for name, file in (("data", "data.h5ad"), ("weights", "m.safetensors"), ("card", "m.json"))
    ]

    def run(output: str, **settings: object) -> int:
        return main(["query", *files, f"--output={tmp_path / output}", "--settings", json.dumps(settings)])

    assert run("mapped.h5ad", paths=str(tmp_path / "new.h5ad")) == 0
    mapped = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    in_memory = map_query(model, prepared, new)
    for key in (schema.CLASS_PROBABILITY, schema.SHARED, schema.CLASS_P):
        np.testing.assert_array_equal(mapped.obsm[key], in_memory.obsm[key])
    assert mapped.obs[schema.LABEL].isna().all()
    capsys.readouterr()
    for settings, said in (
        ({}, "paths: none"),
        ({"paths": str(tmp_path / "gone.h5ad")}, "gone.h5ad"),
        ({"paths": str(tmp_path / "new.h5ad"), "min_coverage": 2}, "min_coverage"),
        ({"paths": str(tmp_path / "new.h5ad"), "dataset": {"matrix": "layers/counts"}}, "layers/counts"),
    ):
        assert run("none.h5ad", **settings) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not (tmp_path / "none.h5ad").exists()
