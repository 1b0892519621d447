"""Samples and traversals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nvae_bio import generate_samples, interpolate_samples, save_model, schema, swap_classes, traverse_factors
from nvae_bio.cli import main
from nvae_bio.config import GenerationSettings
from nvae_bio.data.files import read_generated, write_anndata
from nvae_bio.errors import UserError
from tests.toys import CLASSES, PREPARED, embedded, prepared_counts, prepared_features, trained


@pytest.mark.parametrize("variant", ["nvae", "cvae", "vae", "per_class"])
@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_samples_of_each_sigma_and_class(kind: str, variant: str) -> None:
    settings = GenerationSettings(sigmas=(0.5, 2.0), n_per_class=5)
    samples = generate_samples(trained(kind, variant), PREPARED[kind](), settings)
    assert samples.n_obs == 2 * 3 * 5
    assert (samples.obs.groupby(["sigma", "label"], observed=True).size() == 5).all()
    assert list(samples.var_names) == list(PREPARED[kind]().var_names)
    assert np.isfinite(samples.X).all()
    if kind == "counts":
        assert (np.rint(samples.X) == samples.X).all()
        assert samples.X.min() >= 0
    if kind == "images":
        assert set(np.unique(samples.X)) <= {0.0, 1.0}


def test_z_has_the_scale_that_was_asked_for() -> None:
    samples = generate_samples(
        trained("features"), prepared_features(), GenerationSettings(sigmas=(0.5, 2.0), n_per_class=400)
    )
    for sigma in (0.5, 2.0):
        z = samples.obsm["z"][(samples.obs["sigma"] == sigma).to_numpy()]
        assert z.std() == pytest.approx(sigma, rel=0.03)
        assert abs(z.mean()) < 0.05 * sigma


def test_draws_scatter_around_the_mean_as_the_likelihood_says() -> None:
    settings = GenerationSettings(sigmas=(1.0,), n_per_class=2000)
    model = trained("features")
    samples = generate_samples(model, prepared_features(), settings)
    residual = (samples.X - samples.layers["mean"]) / model.network.likelihood.log_std.detach().exp().numpy()
    assert residual.mean() == pytest.approx(0, abs=0.01)
    assert residual.std() == pytest.approx(1, abs=0.01)


def test_count_samples_have_libraries_of_their_class() -> None:
    samples = generate_samples(trained("counts"), prepared_counts(), GenerationSettings(n_per_class=30))
    train = prepared_counts().obs[prepared_counts().obs["split"] == "train"]
    for name in CLASSES:
        drawn = set(samples.obs.loc[samples.obs["label"] == name, "library"])
        assert drawn <= set(train.loc[train["label"] == name, "library"].astype(np.float32))
        assert len(drawn) > 5


def test_same_seed_same_samples() -> None:
    one, other = (generate_samples(trained("counts"), prepared_counts(), seed=3) for _ in range(2))
    third = generate_samples(trained("counts"), prepared_counts(), seed=4)
    assert np.array_equal(one.X, other.X)
    assert not np.array_equal(one.X, third.X)


def test_a_traversal_moves_one_latent_and_nothing_else() -> None:
    moved = traverse_factors(trained("images"), PREPARED["images"](), GenerationSettings(n_steps=5, span=2.0))
    assert moved.n_obs == (10 + 2) * 3 * 5
    z = moved.obsm["z"]
    assert ((z != 0).sum(1) <= 1).all()
    np.testing.assert_allclose(z.sum(1), moved.obs["value"], atol=1e-6)
    private = (moved.obs["kind"] == "private").to_numpy()
    assert (np.abs(z[private][:, :10]) == 0).all()
    assert (np.abs(z[~private][:, 10:]) == 0).all()
    assert sorted(moved.obs["value"].unique()) == [-2.0, -1.0, 0.0, 1.0, 2.0]


def test_a_traversal_step_is_the_decoded_mean() -> None:
    model = trained("features")
    moved = traverse_factors(model, prepared_features())
    row = 17 * 9 % moved.n_obs
    z = torch.from_numpy(moved.obsm["z"][[row]])
    label = torch.tensor([CLASSES.index(moved.obs["label"].iloc[row])])
    with torch.no_grad():
        expected = model.network.decode(z[:, :10], z[:, 10:], label, None).mean
    np.testing.assert_allclose(moved.X[[row]], expected, atol=1e-5)


def test_data_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="of kind 'features', the model was trained on 'counts'"):
        generate_samples(trained("counts"), prepared_features())


def test_each_class_has_the_number_that_is_named() -> None:
    settings = GenerationSettings(sigmas=(1.0, 2.0), n_per_class={"c2": 3, "c0": 5})
    samples = generate_samples(trained("counts"), prepared_counts(), settings)
    found = samples.obs.groupby(["sigma", "label"], observed=False).size()
    assert found.tolist() == [5, 0, 3, 5, 0, 3]
    with pytest.raises(UserError, match="n_per_class: 'c9' is no class of the model; allowed: c0, c1, c2"):
        generate_samples(trained("counts"), prepared_counts(), GenerationSettings(n_per_class={"c9": 1}))


def decoded_mean(kind: str, variant: str, name: str, own: bool = True, label: int | None = None) -> np.ndarray:
    """What the model makes of the posterior mean of one sample, at its own library, perhaps as another class."""
    adata, model = embedded(kind, variant), trained(kind, variant).network
    row = adata.obs_names.get_loc(name)
    parts = [torch.from_numpy(np.asarray(adata.obsm[key][[row]], dtype=np.float32)) if key in adata.obsm else
             torch.zeros(1, 0) for key in (schema.SHARED, schema.SPECIFIC)]  # fmt: skip
    code = CLASSES.index(adata.obs["label"].iloc[row]) if label is None else label
    library = torch.tensor([adata.obs["library"].iloc[row]], dtype=torch.float32) if kind == "counts" else None
    with torch.no_grad():
        return model.decode(parts[0], parts[1] * own, torch.tensor([code]), library).mean.numpy()


@pytest.mark.parametrize("variant", ["nvae", "cvae", "vae", "per_class"])
@pytest.mark.parametrize("kind", ["counts", "images"])
def test_an_interpolation_goes_from_one_reconstruction_to_another_of_the_class(kind: str, variant: str) -> None:
    prepared, settings = PREPARED[kind](), GenerationSettings(n_pairs=2, n_steps=3)
    steps = interpolate_samples(trained(kind, variant), prepared, settings)
    assert steps.n_obs == 3 * 2 * 3 and (steps.obs.groupby("pair").size() == 3).all()
    for side, step in (("first", 0.0), ("second", 1.0)):
        for row in np.flatnonzero(steps.obs["step"] == step):
            name = steps.obs[side].iloc[row]
            assert prepared.obs.loc[name, "split"] == "test"
            assert prepared.obs.loc[name, "label"] == steps.obs["label"].iloc[row]
            if kind == "images" or side == "first":  # counts keep the library of the first
                np.testing.assert_allclose(steps.X[[row]], decoded_mean(kind, variant, name), rtol=1e-3, atol=1e-4)
    z = steps.obsm["z"].reshape(6, 3, -1)
    np.testing.assert_allclose(z[:, 1], (z[:, 0] + z[:, 2]) / 2, atol=1e-6)
    assert len({*steps.obs["first"], *steps.obs["second"]}) == 12


@pytest.mark.parametrize("variant", ["nvae", "cvae", "per_class"])
@pytest.mark.parametrize("kind", ["counts", "images"])
def test_a_swapped_sample_keeps_what_is_shared_and_takes_the_mean_block_of_the_class(kind: str, variant: str) -> None:
    settings = GenerationSettings(n_swapped=2)
    swaps = swap_classes(trained(kind, variant), PREPARED[kind](), settings)
    n_shared = trained(kind, variant).network.n_shared
    assert swaps.n_obs == 3 * 2 * 3
    for name, rows in swaps.obs.reset_index(drop=True).groupby("sample").groups.items():
        assert swaps.obs["label"].iloc[rows].tolist() == CLASSES
        assert np.ptp(swaps.obsm["z"][rows, :n_shared], axis=0).max(initial=0) == 0
        for row in rows:
            label, source = swaps.obs["label"].iloc[row], swaps.obs["sample_label"].iloc[row]
            expected = decoded_mean(kind, variant, str(name), own=label == source, label=CLASSES.index(label))
            np.testing.assert_allclose(swaps.X[[row]], expected, rtol=1e-3, atol=1e-4)
            assert label == source or not swaps.obsm["z"][row, n_shared:].any()


def test_named_samples_are_taken_in_their_order() -> None:
    model, prepared = trained("features"), prepared_features()
    names = [str(name) for name in prepared.obs_names[prepared.obs["label"] == "c1"][[4, 1, 9, 3]]]
    settings = GenerationSettings(samples=names, n_steps=3)
    steps = interpolate_samples(model, prepared, settings)
    assert steps.obs["first"].unique().tolist() == names[::2] and steps.obs["second"].unique().tolist() == names[1::2]
    assert swap_classes(model, prepared, settings).obs["sample"].unique().tolist() == names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["s0", "nope"], "samples: 'nope' is no sample; allowed: names of samples, as 's0'"),
        (["s0", "s1", "s2"], "samples: 3 samples; interpolations need pairs of one class"),
        (["s0", "s899"], "need pairs of one class, one behind the other"),
        (["s0", "s5"], "sample 's5' has no class of the model"),
    ],
)
def test_samples_that_are_no_pairs_are_refused(names: list[str], said: str) -> None:
    prepared = prepared_features().copy()
    prepared.obs.loc["s5", "label"] = None
    with pytest.raises(UserError, match=said):
        interpolate_samples(trained("features"), prepared, GenerationSettings(samples=names))


def test_what_cannot_be_made_is_said() -> None:
    prepared = prepared_features().copy()
    prepared.obs["split"] = "train"
    with pytest.raises(UserError, match="no held-out sample"):
        swap_classes(trained("features"), prepared)
    with pytest.raises(UserError, match="variant 'vae' is told no class"):
        swap_classes(trained("features", "vae"), prepared_features())
    prepared.obs.iloc[[0], prepared.obs.columns.get_loc("split")] = "test"
    with pytest.raises(UserError, match="no class has two held-out samples"):
        interpolate_samples(trained("features"), prepared)


def test_the_command_writes_what_is_asked_for_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(trained("features"), tmp_path / "m.safetensors", tmp_path / "m.json")
    write_anndata(prepared_features(), tmp_path / "data.h5ad")
    model = ["--weights", str(tmp_path / "m.safetensors"), "--card", str(tmp_path / "m.json")]
    command = ["generate", "--data", str(tmp_path / "data.h5ad"), *model]
    assert main([*command, "--swaps", str(tmp_path / "swaps.h5ad")]) == 0
    assert read_generated(tmp_path / "swaps.h5ad").n_obs == 9
    assert main(command) == 2
    assert "nothing to make; give --samples, --traversals, --interpolations, --swaps" in capsys.readouterr().err
    wanted = ["--samples", str(tmp_path / "s.h5ad"), "--swaps", str(tmp_path / "w.h5ad")]
    assert main([*command, *wanted, "--settings", '{"samples": ["nope"]}']) == 2
    assert "'nope' is no sample" in capsys.readouterr().err
    assert not (tmp_path / "s.h5ad").exists()  # all or none
