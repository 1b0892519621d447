"""Tones with known changes, and the features that librosa computes from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData

from nvae_bio import audio_features
from nvae_bio.cli import main
from nvae_bio.config import FeaturesSettings, SoundsSimulation
from nvae_bio.prepare import prepare_data
from nvae_bio.simulate import simulate_sounds
from nvae_bio.simulate.sounds import draw_timbre, synthesise

RATE = 16_000


def make_settings(*modulations: dict[str, Any], **values: Any) -> SoundsSimulation:
    classes = {"flute": 8, "horn": 8}
    return SoundsSimulation.model_validate({"kind": "sounds", "classes": classes, "modulations": modulations} | values)


def make_modulation(what: str, amount: float, **values: Any) -> dict[str, Any]:
    return {"name": what, "kind": "shared", "what": what, "amount": amount, "activity": "normal"} | values


def column(data: AnnData, name: str) -> np.ndarray:
    return np.asarray(data[:, name].X).ravel()


@pytest.fixture(scope="module")
def tones() -> tuple[AnnData, AnnData]:
    return simulate_sounds(
        make_settings(
            make_modulation("pitch", 4),
            make_modulation("loudness", 5),
            make_modulation("vibrato", 3, kind="private", classes=["horn"]),
        )
    )


def test_features_of_known_sounds() -> None:
    time = np.arange(RATE) / RATE
    sounds = np.stack([0.5 * np.sin(2 * np.pi * f * time) for f in (220, 440)] + [np.zeros(RATE)])
    sounds[2] = np.random.default_rng(0).normal(0, 0.1, RATE)
    table = audio_features(sounds, RATE)
    assert table.shape == (3, 54)
    np.testing.assert_allclose(table["f0_mean"][:2], np.log2([220, 440]), atol=0.02)
    np.testing.assert_allclose(table["rms_mean"][:2], 20 * np.log10(0.5 / np.sqrt(2)), atol=0.3)
    np.testing.assert_allclose(table["crossings_mean"][:2], np.array([440, 880]) / RATE, rtol=0.05)
    assert table["flatness_mean"][2] > table["flatness_mean"][:2].max() + 20  # noise is flat, in decibels
    assert table["centroid_mean"].is_monotonic_increasing
    assert table.notna().all(axis=None)


def test_silence_has_finite_features() -> None:
    assert np.isfinite(audio_features(np.zeros((1, RATE)), RATE)).all(axis=None)


def test_planted_changes_are_heard(tones: tuple[AnnData, AnnData]) -> None:
    data, truth = tones
    activity, horn = truth.obsm["activity"], (truth.obs["label"] == "horn").to_numpy()
    np.testing.assert_allclose(column(data, "f0_mean"), np.log2(220) + 4 * activity["pitch"] / 12, atol=0.02)
    assert np.corrcoef(column(data, "rms_mean"), activity["loudness"])[0, 1] > 0.99
    assert np.corrcoef(np.log(column(data, "f0_sd")[horn]), activity["vibrato"][horn])[0, 1] > 0.9
    assert (activity["vibrato"][~horn] == 0).all()


def test_brightness_noise_and_attack() -> None:
    timbre, rng = draw_timbre("flute", 0), np.random.default_rng
    plain = audio_features(synthesise(timbre, {}, rng(0))[None], RATE).iloc[0]
    for what, size, feature, sign in (
        ("brightness", 4.0, "centroid_mean", 1),
        ("noise", 20.0, "flatness_mean", 1),
        ("attack", np.log(4), "rms_sd", 1),
        ("loudness", -6.0, "rms_mean", -1),
    ):
        changed = audio_features(synthesise(timbre, {what: size}, rng(0))[None], RATE).iloc[0]
        assert sign * (changed[feature] - plain[feature]) > 0, what
    louder = synthesise(timbre, {"loudness": 6.0}, rng(0))
    assert np.square(louder).mean() / np.square(synthesise(timbre, {}, rng(0))).mean() == pytest.approx(10**0.6)


def test_instruments_differ_and_one_timbre_is_of_its_name() -> None:
    assert draw_timbre("flute", 0) == draw_timbre("flute", 0)
    assert len({draw_timbre(name, seed) for name in ("flute", "horn") for seed in (0, 1)}) == 4
    data, _ = simulate_sounds(make_settings())
    label, table = data.obs["label"], data.to_df()
    between = (table[label == "flute"].mean() - table[label == "horn"].mean()).abs()
    within = table.groupby(label, observed=True).std().max()
    assert (between > 3 * within)[[f"mfcc_{i}_mean" for i in range(1, 6)]].any()


def test_the_same_seed_gives_the_same_table() -> None:
    one, other = (simulate_sounds(make_settings(make_modulation("pitch", 4)))[0] for _ in range(2))
    np.testing.assert_array_equal(one.X, other.X)
    changed, _ = simulate_sounds(make_settings(make_modulation("pitch", 4), seed=1))
    assert (one.X != changed.X).mean() > 0.9


def arguments(settings: str, folder: Path) -> list[str]:
    return [
        *("simulate", "--settings", settings),
        *("--output", str(folder / "tones.h5ad"), "--truth", str(folder / "tones.truth.h5ad")),
    ]


def test_the_file_tells_nothing_of_the_truth_and_can_be_prepared(tmp_path: Path) -> None:
    settings = make_settings(make_modulation("pitch", 4))
    assert main(arguments(settings.model_dump_json(), tmp_path)) == 0
    made, known = (anndata.read_h5ad(tmp_path / f"tones{end}.h5ad") for end in ("", ".truth"))
    assert list(made.obs) == ["label"] and not made.obsm
    assert list(made.uns["nvae_simulation"]["source"]) == ["synthesised"]
    assert known.uns["nvae_truth"]["planted"].loc["pitch", "what"] == "pitch"
    source = FeaturesSettings(kind="features", paths=str(tmp_path / "tones.h5ad"), min_samples_per_class=5)
    assert prepare_data(source).shape == (16, 54)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (make_modulation("vibrato", 0), "amount 0 is no factor of vibrato; it must be above 0"),
        (make_modulation("pitch", 1, kind="private", classes=["drum"]), "'drum' is no class; allowed: flute, horn"),
        (make_modulation("tempo", 1), "modulations.0.what: 'tempo' is not allowed"),
    ],
)
def test_wrong_modulations_are_told_in_one_line(
    change: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"kind": "sounds", "classes": {"flute": 8, "horn": 8}, "modulations": [change]}
    assert main(arguments(json.dumps(settings), tmp_path)) == 2
    printed = capsys.readouterr().err.strip()
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert not list(tmp_path.iterdir())
