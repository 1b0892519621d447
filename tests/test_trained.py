"""A model's two files: the round trip, and what happens when they are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nvae_bio import embed_data, load_model, save_model
from nvae_bio.errors import UserError
from tests.toys import NO_UMAP, PREPARED, prepared_features, prepared_images, trained


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_model(trained("counts"), weights, card)
    return weights, card


@pytest.mark.parametrize("variant", ["nvae", "cvae", "vae", "per_class"])
@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_a_saved_model_gives_the_same_bits(kind: str, variant: str, tmp_path: Path) -> None:
    model = trained(kind, variant)
    save_model(model, tmp_path / "w.safetensors", tmp_path / "c.json")
    loaded = load_model(tmp_path / "w.safetensors", tmp_path / "c.json")
    assert loaded.card.model_copy(update={"weights_sha256": "", "card_sha256": ""}) == model.card
    assert not loaded.network.training
    one, other = (embed_data(PREPARED[kind](), m, NO_UMAP) for m in (model, loaded))
    for key in one.obsm:
        assert np.array_equal(one.obsm[key], other.obsm[key], equal_nan=True), key
    assert one.obs.equals(other.obs)


def test_the_weights_are_safetensors_and_the_card_is_json(files: tuple[Path, Path]) -> None:
    import safetensors.torch

    tensors = safetensors.torch.load_file(files[0])
    assert torch.equal(tensors["likelihood.log_dispersion"], trained("counts").network.likelihood.log_dispersion)
    card = json.loads(files[1].read_text())
    assert card["classes"] == ["c0", "c1", "c2"]
    assert card["settings"]["model"]["hidden"] == [16]


def test_weights_of_another_model_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    save_model(trained("counts", "cvae"), files[0], tmp_path / "other.json")
    with pytest.raises(UserError, match=r"not the weights that .*model\.json describes"):
        load_model(*files)


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_truncated_weights_are_refused(files: tuple[Path, Path], cut: int) -> None:
    files[0].write_bytes(files[0].read_bytes()[:cut])
    with pytest.raises(UserError, match="checksum differs"):
        load_model(*files)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "model.json"),
        ('{"version": "1"}', "settings: this key is required"),
    ],
)
def test_a_broken_card_is_refused_in_one_line(files: tuple[Path, Path], text: str, said: str) -> None:
    files[1].write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_model(*files)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(files: tuple[Path, Path]) -> None:
    files[1].unlink()
    with pytest.raises(UserError, match=r"model\.json: no such file"):
        load_model(*files)


def test_data_of_another_kind_or_with_other_features_are_refused() -> None:
    model = trained("features")
    with pytest.raises(UserError, match="of kind 'images', the model was trained on 'features'"):
        model.check_data(prepared_images())
    with pytest.raises(UserError, match=r"the data have 3 features, the model 20; .*first that differs: f2"):
        model.check_data(prepared_features()[:, [0, 2, 1]])


def test_nothing_half_written_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/c\.json: cannot be written"):
        save_model(trained("counts"), tmp_path / "ok.safetensors", tmp_path / "file" / "c.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
