"""Temperature and calibration error, and the lines about latents that are empty."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from nvae_bio import embed_data, refit_null, train_model
from nvae_bio.config import ModelSettings
from nvae_bio.data.samples import to_samples
from nvae_bio.train.calibration import TEMPERATURES, calibrate, calibration_error, cross_entropy, fit_temperature
from nvae_bio.train.held_out import HeldOut, empty_latents, held_out
from nvae_bio.train.step import labelled_rows
from tests.small_models import law
from tests.toys import CLASSES, NO_UMAP, fit_settings, prepared_counts, prepared_features, trained


def make_classifier(sharpness: float, n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """log q and labels drawn from softmax(log q / sharpness): the classifier is so many times too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 1.5
    label = (softmax(logits, axis=1).cumsum(1) < rng.random((n, 1))).sum(1)
    return log_softmax(sharpness * logits, axis=1), label


# --- temperature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_a_classifier_is_too_sure(sharpness: float) -> None:
    found = calibrate(*make_classifier(sharpness))
    assert found.temperature == pytest.approx(sharpness, rel=0.1)
    assert found.n == 4000
    assert found.calibration_error < 0.03
    if sharpness == 1:
        assert found.cross_entropy == pytest.approx(found.cross_entropy_before, abs=1e-3)
    else:
        assert found.calibration_error < 0.3 * found.calibration_error_before
        assert found.cross_entropy < found.cross_entropy_before - 0.02


@law
@given(st.floats(0.2, 5), st.integers(0, 20), st.floats(-0.2, 0.2).filter(lambda step: abs(step) > 0.02))
def test_no_other_temperature_has_less_cross_entropy(sharpness: float, seed: int, step: float) -> None:
    log_prob, label = make_classifier(sharpness, 200, seed)
    best = fit_temperature(log_prob, label)
    at_best, beside = (cross_entropy(log_softmax(log_prob / t, axis=1), label) for t in (best, best * np.exp(step)))
    assert at_best < beside


def test_where_every_sample_is_right_the_temperature_stays_1() -> None:
    log_prob = log_softmax(np.array([[1.0, 0.0], [0.0, 2.0]]), axis=1)
    assert fit_temperature(log_prob, np.array([0, 1])) == 1.0


def test_a_classifier_that_is_always_wrong_ends_at_the_limit() -> None:
    log_prob = log_softmax(np.array([[5.0, 0.0], [0.0, 5.0]]), axis=1)
    assert fit_temperature(log_prob, np.array([1, 0])) == pytest.approx(TEMPERATURES[1], rel=0.01)


def test_a_class_without_samples_takes_the_temperature_of_the_others() -> None:
    log_prob, label = make_classifier(3.0)
    some = label != 2
    found = calibrate(log_prob[some], label[some])
    assert found.n == some.sum()
    assert found.temperature > 1.5
    assert np.isfinite([found.cross_entropy, found.calibration_error]).all()


def test_calibration_error_by_hand() -> None:
    probability = np.array([[0.9, 0.1], [0.92, 0.08], [0.3, 0.7], [0.68, 0.32], [1.0, 0.0]])
    label = np.array([0, 1, 1, 1, 0])
    # 15 bins: .9 and .92 in the 14th, .7 and .68 in the 11th, 1 in the last one
    gaps = abs(0.5 - 0.91) * 2 + abs(0.5 - 0.69) * 2 + 0
    with np.errstate(divide="ignore"):
        assert calibration_error(np.log(probability), label) == pytest.approx(gaps / 5)


def test_a_trained_model_carries_the_temperature_of_its_validation_samples() -> None:
    model, prepared = trained("counts"), prepared_counts()
    samples = to_samples(prepared, CLASSES)
    rows = labelled_rows(prepared, samples, "validation")
    batch = samples.take(rows)
    with torch.no_grad():
        log_prob = model.network.classifier(model.network.likelihood.encoder_input(batch.x, batch.library)).numpy()
    expected, found = calibrate(log_prob, batch.label.numpy()), model.card.calibration
    assert found is not None
    assert found.n == len(rows)
    assert model.card.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-4)


def test_the_embedding_has_the_calibrated_probabilities() -> None:
    model = trained("features")
    assert model.card.calibration is not None
    warm = model.card.calibration.model_copy(update={"temperature": 2.5})
    cards = [model.card.model_copy(update={"calibration": calibration}) for calibration in (None, warm)]
    plain, calibrated = (embed_data(prepared_features(), replace(model, card=card), NO_UMAP) for card in cards)
    assert not plain.uns["nvae"]["calibrated"] and calibrated.uns["nvae"]["calibrated"]
    expected = softmax(np.log(plain.obsm["nvae_class_probability"]) / 2.5, axis=1)
    np.testing.assert_allclose(calibrated.obsm["nvae_class_probability"], expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(calibrated.obs["nvae_confidence"], expected.max(1), rtol=1e-4)
    assert (calibrated.obs["nvae_label"] == plain.obs["nvae_label"]).all()
    assert (calibrated.obsm["X_nvae"] == plain.obsm["X_nvae"]).all()


# --- empty latents ---------------------------------------------------------------------------------------------------


def make_held_out(shared: float, own: tuple[float, float]) -> HeldOut:
    """99 samples of class 0, one of class 1, with KL of z_s and of the own block of each class."""
    label = np.array([0] * 99 + [1])
    return HeldOut(label, np.zeros((100, 2)), np.full(100, shared), np.asarray(own)[label])


def test_empty_latents_are_named_and_used_ones_are_not() -> None:
    assert empty_latents(make_held_out(1.0, (0.0, 2.0)), ModelSettings()) == []  # one rare class is enough
    (shared,) = empty_latents(make_held_out(0.01, (1.0, 2.0)), ModelSettings())
    assert shared.startswith("z_s is empty: 0.010 nats") and "beta_private" in shared
    assert "independence_weight" not in shared
    (private,) = empty_latents(make_held_out(1.0, (0.0, 0.03)), ModelSettings())
    assert private.startswith("all private blocks are empty: at most 0.030 nats") and "n_shared" in private
    penalised = ModelSettings(independence="mmd")
    assert "independence_weight" in empty_latents(make_held_out(0.0, (0.0, 0.0)), penalised)[0]


def test_a_latent_that_a_variant_lacks_is_not_empty() -> None:
    for variant, found in (("cvae", (1.0, (0.0, 0.0))), ("vae", (1.0, (0.0, 0.0))), ("per_class", (0.0, (1.0, 1.0)))):
        assert empty_latents(make_held_out(*found), ModelSettings(variant=variant)) == []


def test_the_kl_of_held_out_samples_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, model = to_samples(prepared_features(), CLASSES), trained("features")
    rows = labelled_rows(prepared_features(), samples, "validation")
    whole = held_out(model.network, samples, rows)
    monkeypatch.setattr("nvae_bio.train.held_out.CHUNK", 7)
    in_parts = held_out(model.network, samples, rows)
    best = model.history[(model.history["split"] == "validation") & model.history["is_best"]].iloc[-1]
    assert whole.kl_shared.mean() == pytest.approx(best["kl_shared"], rel=1e-4)
    assert whole.kl_own.mean() == pytest.approx(best["kl_private"], rel=1e-4)
    np.testing.assert_allclose(in_parts.kl_own, whole.kl_own, rtol=1e-4, atol=1e-6)
    assert (in_parts.label == whole.label).all()


def test_training_warns_of_empty_blocks_once_a_seed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nvae_bio"):
        train_model(prepared_features(), fit_settings(12, beta_private=200.0), 7)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("seed 7: all private blocks are empty: at most 0.0")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "nvae_bio"):  # data of a null have no factor, so that nothing is amiss
        base = train_model(prepared_features(), fit_settings(3).base)
        refit_null(prepared_features(), base, fit_settings(12, beta_private=200.0), "no_factor")
    assert not [record for record in caplog.records if "empty" in record.getMessage()]
