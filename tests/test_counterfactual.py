"""Samples with something changed: what the decoder says, how sure it is, and where it should say nothing."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from nvae_bio import change_samples, prepare_data, save_model, schema, swap_classes, train_model
from nvae_bio.cli import main
from nvae_bio.config import CounterfactualSettings, CountsSettings, GenerationSettings
from nvae_bio.counterfactual import counterfactual_table
from nvae_bio.counterfactual.support import support_p
from nvae_bio.data.files import read_table, write_anndata
from nvae_bio.errors import UserError
from nvae_bio.plot import plot_counterfactual
from nvae_bio.trained import TrainedModel
from tests.toys import CLASSES, PREPARED, fit_settings, prepared_counts, raw_counts, trained


@cache
def fitted() -> tuple[AnnData, TrainedModel]:
    """A model that knows the shared programme on genes 0 to 14, and its data."""
    prepared = prepare_data(CountsSettings(kind="counts", n_top_genes=None), raw_counts(n_per_class=200))
    return prepared, train_model(prepared, fit_settings(120, n_shared=3, n_private=1))


def strongest(model: TrainedModel) -> str:
    """The dim of z_s that does most to the genes of the shared programme."""
    weight = model.network.decoder.composition.shared_weight.detach().numpy()
    return f"shared {np.abs(weight[:, :15]).mean(1).argmax()}"


def change(kind: str = "counts", variant: str = "nvae", **settings: object) -> AnnData:
    return change_samples(trained(kind, variant), PREPARED[kind](), CounterfactualSettings.model_validate(settings))


@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_no_more_than_asked_is_changed(kind: str) -> None:
    still = change(kind, factors={"shared 0": 0.0}, n_per_class=4)
    np.testing.assert_array_equal(still.X, still.layers["factual"])
    assert not still.layers["effect"].any()
    assert still.n_obs == 12
    assert (still.obs["label"].astype(str) == still.obs["as_class"].astype(str)).all()
    own = change(kind, as_class="c1", where={"label": "c1"}, support_level=0)
    np.testing.assert_array_equal(own.X, own.layers["factual"])  # as the class that it has


@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_intervals_hold_the_mean_and_a_factor_goes_both_ways(kind: str) -> None:
    up, down = (change(kind, factors={"shared 1": by}, n_per_class=5, support_level=0) for by in (1.5, -1.5))
    for one in (up, down):
        assert (one.layers["lower"] <= one.X + 1e-4).all()
        assert (one.layers["upper"] >= one.X - 1e-4).all()
        assert (one.layers["effect_lower"] <= one.layers["effect"] + 1e-4).all()
    correlation = np.corrcoef(up.layers["effect"].ravel(), down.layers["effect"].ravel())[0, 1]
    assert correlation < -0.5
    assert list(up.obs_names) == list(down.obs_names)  # the same samples, at the same draws
    np.testing.assert_array_equal(up.layers["factual"], down.layers["factual"])
    narrow = change(kind, factors={"shared 1": 1.5}, n_per_class=5, support_level=0, interval=0.5)
    assert (narrow.layers["upper"] - narrow.layers["lower"] <= up.layers["upper"] - up.layers["lower"] + 1e-6).all()


def test_the_programme_of_a_factor_is_what_changes() -> None:
    prepared, model = fitted()
    up = change_samples(model, prepared, CounterfactualSettings(factors={strongest(model): 1.0}))
    table = counterfactual_table(up)
    for name in CLASSES:
        top = table[table["class"] == name]["feature"].head(10)
        assert sum(int(gene[1:]) < 15 for gene in top) >= 9
    assert (table.groupby("class", observed=True)["effect"].apply(lambda one: one.abs().is_monotonic_decreasing)).all()
    assert table["unit"].unique().tolist() == ["log2 fold change of 1 + counts per 10,000"]
    assert table.loc[table["feature"].isin([f"f{i}" for i in range(5)]), "same_sign"].mean() > 0.9
    row = table.iloc[0]
    own = up[(up.obs["label"] == row["class"]) & up.obs["is_supported"]]
    assert row["effect"] == pytest.approx(float(own[:, row["feature"]].layers["effect"].mean()), rel=1e-5)


def test_as_another_class_the_profile_is_that_classs() -> None:
    prepared, model = fitted()
    as_c2 = change_samples(model, prepared, CounterfactualSettings(as_class="c2", where={"label": "c0"}))
    own = {name: np.asarray(prepared[prepared.obs["label"] == name].X.mean(0)).ravel() for name in CLASSES}
    supported = as_c2[as_c2.obs["is_supported"].to_numpy()]
    after, before = supported.X.mean(0), supported.layers["factual"].mean(0)
    assert np.corrcoef(after, own["c2"])[0, 1] > 0.95 > np.corrcoef(before, own["c2"])[0, 1]
    assert np.corrcoef(before, own["c0"])[0, 1] > 0.95
    assert (as_c2.obs["as_class"] == "c2").all()
    # the block of c1, a programme of its own, is not known of samples of c0: their interval as c1 is wider there
    as_c1 = change_samples(model, prepared, CounterfactualSettings(as_class="c1", where={"label": "c0"}))
    width = as_c1.layers["effect_upper"] - as_c1.layers["effect_lower"]
    assert np.nanmean(width[:, 15:30]) > 1.3 * np.nanmean(width[:, 30:])


def test_means_are_those_of_swapped_classes_but_for_the_spread_of_z() -> None:
    swaps = swap_classes(trained("features"), PREPARED["features"](), GenerationSettings(n_swapped=2))
    for name in CLASSES:
        chosen = swaps[swaps.obs["label"] == name]
        one = change("features", as_class=name, samples=list(chosen.obs["sample"].astype(str)), support_level=0)
        assert np.corrcoef(one.X.ravel(), np.asarray(chosen.X).ravel())[0, 1] > 0.98


def test_what_lies_outside_is_refused() -> None:
    prepared, model = fitted()
    far = change_samples(model, prepared, CounterfactualSettings(factors={strongest(model): 3.0}))
    inside = change_samples(model, prepared, CounterfactualSettings(factors={strongest(model): 0.2}))
    assert far.obs["support_p"].mean() < inside.obs["support_p"].mean()
    refused = ~far.obs["is_supported"].to_numpy()
    assert 0 < refused.sum() < far.n_obs
    assert np.isnan(far.X[refused]).all()
    assert np.isnan(far.layers["effect_upper"][refused]).all()
    assert np.isfinite(far.X[~refused]).all()
    assert far.uns[schema.COUNTERFACTUAL]["n_refused"] == refused.sum()
    assert counterfactual_table(far)["n_samples"].max() <= (~refused).sum()
    with pytest.raises(UserError, match=r"none of 60 samples lies, after the change, .* above support_level 0\.01"):
        change_samples(model, prepared, CounterfactualSettings(factors={strongest(model): 50.0}))


def test_support_of_like_points_is_uniform() -> None:
    rng = np.random.default_rng(0)
    p = support_p(rng.normal(size=(800, 3)), rng.normal(size=(4000, 3)))
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.04)
    assert support_p(rng.normal(size=(800, 3)), np.full((1, 3), 9.0))[0] == 1 / 801
    assert support_p(np.zeros((5, 0)), np.zeros((2, 0))).tolist() == [1, 1]


def test_another_batch() -> None:
    source = raw_counts(n_per_class=150)
    batch = np.random.default_rng(3).choice(["a", "b"], source.n_obs)
    x = source.X.copy()
    x[np.ix_(batch == "b", np.arange(40, 50))] *= 4
    source = AnnData(x, obs=source.obs.assign(batch=batch), var=source.var)
    prepared = prepare_data(CountsSettings(kind="counts", n_top_genes=None, batch_key="batch"), source)
    model = train_model(prepared, fit_settings(80, n_shared=3, n_private=1))
    as_b = change_samples(
        model, prepared, CounterfactualSettings(covariates={"batch": "b"}, where={"batch": "a"}, n_draws=20)
    )
    effect = np.nanmean(as_b.layers["effect"], axis=0)
    assert effect[40:50].min() > np.delete(effect, np.arange(40, 50)).max() + 0.3
    with pytest.raises(UserError, match="covariates: batch 'z'; allowed: a, b"):
        change_samples(model, prepared, CounterfactualSettings(covariates={"batch": "z"}))
    with pytest.raises(UserError, match="the model is told no 'batch'; allowed: none"):
        change(covariates={"batch": "b"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "nothing is changed"),
        ({"factors": {"up": 1}}, "'up'; allowed: 'shared N' and 'private N'"),
        ({"as_class": "c1", "factors": {"private 0": 1}}, "the own block is not known"),
        ({"as_class": "c1", "samples": ["s1"], "where": {"label": "c0"}}, "either `samples` or `where`"),
    ],
)
def test_settings_that_say_nothing_sensible(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CounterfactualSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"as_class": "c9"}, "as_class: 'c9' is no class; allowed: c0, c1, c2"),
        ({"factors": {"shared 10": 1}}, "'shared 10' is not there; allowed: 0 to 9"),
        ({"factors": {"shared 0": 1}, "samples": ["s0", "nobody"]}, "'nobody' is no sample with a class"),
        ({"factors": {"shared 0": 1}, "where": {"tissue": "x"}}, "where: no column 'tissue'"),
        ({"factors": {"shared 0": 1}, "where": {"label": "x"}}, "no sample with a class of the model is named"),
    ],
)
def test_what_is_not_there(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        change(**settings)


def test_a_model_without_classes_has_no_other_class() -> None:
    with pytest.raises(UserError, match="variant 'vae' is told no class"):
        change(variant="vae", as_class="c1")
    assert change(variant="vae", factors={"shared 0": 0.5}, support_level=0).n_obs > 0


def test_the_command_writes_samples_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_anndata(prepared_counts(), tmp_path / "data.h5ad")
    save_model(trained("counts"), tmp_path / "m.safetensors", tmp_path / "m.json")
    files = [f"--data={tmp_path}/data.h5ad", f"--weights={tmp_path}/m.safetensors", f"--card={tmp_path}/m.json"]

    def run(**settings: object) -> int:
        outputs = [f"--output={tmp_path}/up.h5ad", f"--table={tmp_path}/up.parquet"]
        return main(["counterfactual", *files, *outputs, "--settings", json.dumps(settings)])

    assert run(factors={"shared 9": 1}, as_class="c9") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("up*"))
    assert run(factors={"shared 9": 1}, n_per_class=3, support_level=0) == 0
    changed, table = anndata.read_h5ad(tmp_path / "up.h5ad"), read_table(tmp_path / "up.parquet")
    in_memory = change(factors={"shared 9": 1}, n_per_class=3, support_level=0)
    np.testing.assert_array_equal(changed.X, in_memory.X)
    pd.testing.assert_frame_equal(table, counterfactual_table(in_memory), check_dtype=False, check_categorical=False)
    assert main(["plot", f"--changed={tmp_path}/up.h5ad", f"--output={tmp_path}/figures"]) == 0
    assert (tmp_path / "figures" / "up.png").stat().st_size > 10_000


def test_figures_of_pictures_and_of_features() -> None:
    pictures = plot_counterfactual(change("images", as_class="c1", support_level=0, n_per_class=3))
    (ax,) = pictures.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["as it is", "changed", "lower", "upper"]
    assert ax.get_yticklabels()[0].get_text() == "c0 → c1"
    bars = plot_counterfactual(change("features", factors={"private 0": 1}, support_level=0, n_per_class=3))
    assert [ax.get_title() for ax in bars.axes] == [f"{name} (3)" for name in CLASSES]
