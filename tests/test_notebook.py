"""The object of a notebook: the same results as the steps, slots as scanpy users expect them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import nvae_bio
from nvae_bio import NVAE, schema
from nvae_bio.errors import UserError
from tests.pages import text_in, tree_of
from tests.toys import CLASSES, fit_settings, raw_counts, raw_images

FIT = json.loads(fit_settings(4, n_shared=3).model_dump_json())
SETTINGS = {**FIT, "embedding": {"umap": False}, "report": {"n_refits": 1, "n_bootstrap": 100}}


def make(adata: AnnData | None = None, **more: object) -> NVAE:
    adata = raw_counts(n_per_class=60) if adata is None else adata
    return NVAE(adata, "label", donor_key="donor", seeds=(0, 1), dataset={"n_top_genes": None}, **{**SETTINGS, **more})


@cache
def fitted() -> NVAE:
    return make().fit(progress=False)


def test_results_are_those_of_the_steps() -> None:
    model = fitted()
    prepared = nvae_bio.prepare_data(model.dataset, raw_counts(n_per_class=60))
    assert (prepared.X != model.prepared.X).nnz == 0
    for seed in (0, 1):
        alone = nvae_bio.train_model(prepared, model.settings.fit, seed)
        for name, value in alone.network.state_dict().items():
            assert np.array_equal(value, model.models[seed].network.state_dict()[name]), name
    embedded = nvae_bio.embed_data(prepared, alone, model.settings.embedding)
    np.testing.assert_array_equal(embedded.obsm[schema.SHARED], model.embed(1, write=False).obsm[schema.SHARED])
    base = nvae_bio.train_model(prepared, model.settings.fit.base)
    null = pd.concat(
        nvae_bio.refit_null(prepared, base, model.settings.fit, kind, list(numbers))
        for kind, jobs in model.settings.refits.items()
        for numbers in jobs
    )
    audits = [nvae_bio.audit_labels(prepared, one, model.settings.audit) for one in model.models.values()]
    of_seeds = [model.embed(seed, write=False) for seed in (0, 1)]
    report = nvae_bio.report_factors(of_seeds, model.settings.factors, null, audits)
    assert model.factors(progress=False).lines == report.lines
    pd.testing.assert_frame_equal(model.factors(progress=False).factors.obs, report.factors.obs)


def test_embedding_goes_into_the_slots_of_the_samples_as_they_came() -> None:
    adata = raw_counts(n_per_class=60)
    adata.X[5] = 0  # an empty cell, which is left out
    model = make(adata).fit(progress=False)
    columns = list(adata.obs)
    embedded = model.embed()
    assert list(adata.obs)[: len(columns)] == columns
    assert adata.obsm[schema.SHARED].shape == (180, 3)
    assert np.isnan(adata.obsm[schema.SHARED][5]).all()
    assert pd.isna(adata.obs[schema.PREDICTED].iloc[5])
    row = adata.obs_names.get_loc("s100")
    np.testing.assert_array_equal(adata.obsm[schema.SHARED][row], embedded["s100"].obsm[schema.SHARED][0])
    assert adata.varm[schema.EFFECT_SHARED].shape == (60, 3)
    assert adata.uns[schema.MODEL]["classes"].tolist() == CLASSES
    kept = adata[np.arange(180) != 5].copy()
    sc.pp.neighbors(kept, use_rep=schema.SHARED, n_neighbors=10, transformer="sklearn")


def test_a_repr_says_what_there_is() -> None:
    said = repr(make())
    assert said.startswith("NVAE of counts: 180 samples × 60 features\n    3 classes: c0, c1, c2\n")
    assert "S = 3 shared dims, K = 2 of each class" in said
    assert "seeds 0, 1: not fitted, call fit()" in said
    assert "fitted, best epochs" in repr(fitted())


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model = fitted()
    report = model.factors(0, progress=False)
    model.save(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "0", "1", "embedded.h5ad", "factors.h5ad", "prepared.h5ad", "run.json", "seed_factors.h5ad", "summary.md",
    ]  # fmt: skip
    adata = raw_counts(n_per_class=60)
    loaded = NVAE.load(tmp_path / "run", adata)
    assert loaded.settings == model.settings
    assert loaded.report is not None
    assert loaded.report.lines == report.lines
    pd.testing.assert_frame_equal(loaded.history, model.history)
    loaded.embed(1)
    np.testing.assert_array_equal(adata.obsm[schema.SHARED], model.embed(1, write=False).obsm[schema.SHARED])
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run\.json: 'dataset'; allowed: a folder that NVAE\.save wrote"):
        NVAE.load(tmp_path / "run")


def test_new_and_changed_samples() -> None:
    model = fitted()
    mapped = model.map_query(raw_counts(seed=0, n_per_class=60)[:30].copy(), {"error": 0.2})
    assert mapped.n_obs == 30
    changed = model.counterfactual(factors={"shared 0": 0.5}, n_per_class=2, support_level=0)
    assert changed.n_obs == 6
    assert model.generate().n_obs == 2 * 3 * 16
    assert set(model.traverse().obs["kind"]) == {"shared", "private"}
    with pytest.raises(UserError, match="query: errer: unknown key; did you mean 'error'"):
        model.map_query(raw_counts(), {"errer": 1})


def test_a_page_of_the_run(tmp_path: Path) -> None:
    model = fitted()
    report = model.factors(0, progress=False)
    model.page(tmp_path / "mine.html")
    page = tree_of((tmp_path / "mine.html").read_text(encoding="utf-8"))
    assert text_in(next(page.iter("h1"))) == "mine"
    assert report.lines[2] in text_in(page)
    assert repr(report).startswith(f"FactorReport of {report.factors.n_obs} factors × 60 features\n    ")
    assert repr(report).splitlines()[1] in repr(model)
    with pytest.raises(UserError, match="no factor report; call factors\\(\\) first"):
        make().page(tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_a_file_serves_as_well_as_an_object(tmp_path: Path) -> None:
    raw_counts(n_per_class=60).write_h5ad(tmp_path / "cells.h5ad")
    settings = {"seeds": (0, 1), "donor_key": "donor", "dataset": {"n_top_genes": None}, **SETTINGS}
    model = NVAE(tmp_path / "cells.h5ad", **settings).fit(progress=False)
    assert model.prepared.uns["nvae_data"]["fingerprint"] == fitted().prepared.uns["nvae_data"]["fingerprint"]
    for seed in (0, 1):
        embedded = model.embed(seed)
        assert list(model.adata.obs[schema.ELBO]) == list(embedded.obs[schema.ELBO]), seed
    assert schema.ELBO not in model.prepared.obs
    with pytest.raises(UserError, match=r"none\.h5ad: no such file or folder"):
        NVAE("none.h5ad")


def test_what_was_loaded_is_written_to_again(tmp_path: Path) -> None:
    fitted().save(tmp_path / "run")
    loaded = NVAE.load(tmp_path / "run")
    for seed in (0, 1):
        embedded = loaded.embed(seed)
        assert list(loaded.adata.obs[schema.ELBO]) == list(embedded.obs[schema.ELBO]), seed


def test_images_too(tmp_path: Path) -> None:
    model = NVAE(raw_images(), kind="images", seeds=[3], dataset={"image_shape": [1, 8, 8]}, **SETTINGS).fit(
        progress=False
    )
    assert model.embed().obsm[schema.SHARED].shape == (150, 3)
    model.factors(0, progress=False)
    model.page(tmp_path / "pictures.html")
    assert 'id="drawn"' in (tmp_path / "pictures.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: NVAE(raw_counts(), "cell_type"), "label_key: no column 'cell_type'"),
        (lambda: NVAE(raw_counts(), layer="spliced"), "layers/spliced"),
        (lambda: NVAE(raw_counts(), trainings={}), "NVAE: trainings: unknown key; did you mean 'training'"),
        (lambda: NVAE(raw_counts(), seeds=[1, 1]), "seeds must differ"),
        (lambda: make().embed(), "not fitted; call fit\\(\\) first"),
        (lambda: fitted().embed(7), "no model of seed 7; allowed: 0, 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_tools_write_slots() -> None:
    adata = raw_counts(n_per_class=60)
    options = {**SETTINGS, "dataset": {"n_top_genes": None}, "donor_key": "donor", "seeds": (0, 1)}
    model = nvae_bio.tl.fit(adata, progress=False, **options)
    assert {schema.SHARED, schema.SPECIFIC, schema.CLASS_PROBABILITY} <= set(adata.obsm)
    nvae_bio.tl.factors(adata, model, n_refits=0)
    names = adata.uns["nvae_factor_names"]
    assert adata.obsm[schema.FACTORS].shape == (180, len(names))
    assert list(adata.uns["nvae_factors"].index) == list(names)
    private = [i for i, kind in enumerate(adata.uns["nvae_factors"]["kind"]) if kind == "private"]
    for i in private:  # of another class's factor a sample has no score
        own = (adata.obs["label"] == adata.uns["nvae_factors"]["class"].iloc[i]).to_numpy()
        assert np.isfinite(adata.obsm[schema.FACTORS][own, i]).all()
        assert np.isnan(adata.obsm[schema.FACTORS][~own, i]).all()
    new = raw_counts(seed=0, n_per_class=60)[::3].copy()
    nvae_bio.tl.map_query(new, model, error=0.3)
    assert {"nvae_label", "nvae_set", "nvae_novel"} <= set(new.obs)
    assert new.obsm[schema.CLASS_PROBABILITY].shape == (60, 3)
    assert list(new.obsm[schema.STRANGENESS].columns) == ["misfit", "distance", "isolation"]
    assert new.X.shape == (60, 60)


def test_plots_draw_where_they_are_told_and_return_axes(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    model = fitted()
    report = model.report or model.factors(0, progress=False)
    name = report.factors.obs_names[0]
    _, axes = plt.subplots(1, 5, figsize=(20, 4))
    pl = nvae_bio.pl
    drawn = [
        pl.kl_heatmap(report, ax=axes[0]),
        pl.factor(model, name, ax=axes[1]),
        pl.traversal(model, 0, "c1", ax=axes[2]),
        pl.traversal(model, 1, "c1", kind="private", ax=axes[3]),
        pl.history(model, ax=axes[4], save=tmp_path / "all.png"),
    ]
    assert drawn == list(axes)
    assert (tmp_path / "all.png").stat().st_size > 20_000
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == list(report.factors.obs_names)
    assert name in axes[1].get_title()
    assert axes[2].get_title() == "shared dim 0 in c1, seed 0"  # not the name of a factor of the report
    adata = raw_counts(n_per_class=60)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(180, 2))
    adata.obsm["X_umap"][3] = np.nan  # not laid out
    ax = pl.umap(adata, color="label")
    assert len(np.concatenate([one.get_offsets() for one in ax.collections])) == 179
    plt.close("all")
    for call, said in (
        (lambda: pl.factor(report, "shared 99"), "no factor 'shared 99'; allowed: "),
        (lambda: pl.kl_heatmap(make()), "call factors"),
        (lambda: pl.traversal(model, 9, "c1"), "no shared dim 9 in class 'c1'; allowed: dims 0, 1, 2"),
        (lambda: pl.umap(raw_counts()), r"no obsm\['X_umap'\]"),
        (lambda: pl.history(model, "loss"), "no term 'loss'; allowed: epoch"),
    ):
        with pytest.raises(UserError, match=said):
            call()


def test_a_figure_is_shown_once_and_not_while_others_may_draw_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    shown: list[bool] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    history = nvae_bio.pl.history
    history(fitted())
    assert len(shown) == 0  # as here, where nothing is interactive
    with plt.ion():
        history(fitted())
        assert len(shown) == 1
        _, ax = plt.subplots()
        history(fitted(), ax=ax)
        history(fitted(), show=False)
        assert len(shown) == 1
        history(fitted(), ax=ax, show=True)
        assert len(shown) == 2
    plt.close("all")


def test_pictures_of_images() -> None:
    import matplotlib.pyplot as plt

    model = NVAE(raw_images(), kind="images", seeds=[3], dataset={"image_shape": [1, 8, 8]}, **SETTINGS).fit(
        progress=False
    )
    ax = nvae_bio.pl.traversal(model, 0, "c0")
    assert ax.get_xticklabels()[0].get_text() == "-2.5"
    assert ax.images[0].get_array().shape == (9, 81)
    report = model.factors(0, progress=False)
    assert nvae_bio.pl.factor(report, report.factors.obs_names[0]).images[0].get_array().shape == (8, 8)
    plt.close("all")
