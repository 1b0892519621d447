"""A config for one's own files: what is seen in each format, what is decided, and that it is a config that works."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from anndata import AnnData
from PIL import Image
from scipy import sparse

from nvae_bio.cli import main
from nvae_bio.config import CountsSettings, DatasetSettings, load_config
from nvae_bio.data.look import SEEN_ROWS, SEEN_VALUES, not_counts, pieces
from nvae_bio.data.look_files import FORMATS, look_at, sources_in
from nvae_bio.errors import UserError, listed
from nvae_bio.init import propose_config
from nvae_bio.init.columns import candidates, look_at_columns, nesting
from nvae_bio.init.propose import propose
from nvae_bio.prepare import prepare_data
from tests.data_files import toy_counts, toy_features, toy_pixels, write_10x_h5, write_idx, write_labels, write_mtx


def counts() -> AnnData:
    return toy_counts(n_cells=120)


def log_normalised(adata: AnnData) -> sparse.csr_matrix:
    return sparse.csr_matrix(adata.X / adata.X.sum(1) * 1e4).log1p()


def _h5ad(folder: Path, place: str, suffix: str = ".h5ad") -> Path:
    adata = counts()
    if place == "raw":
        adata.raw = adata.copy()
    elif place.startswith("layers/"):
        adata.layers[place.removeprefix("layers/")] = adata.X.copy()
    if place != "X":
        adata.X = log_normalised(adata)
    path = folder / f"cells{suffix}"
    if suffix == ".zarr":
        with warnings.catch_warnings():  # of the format of the next version
            warnings.simplefilter("ignore")
            adata.write_zarr(path)
    else:
        adata.write_h5ad(path)
    return path


def _table(folder: Path, name: str) -> Path:
    adata = toy_counts(n_cells=120, n_genes=60)
    table = pd.DataFrame(adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names)
    table.insert(0, "cell_type", adata.obs["cell_type"])
    path = folder / name
    table.reset_index(names="cell").to_parquet(path) if name.endswith("parquet") else table.to_csv(
        path, index_label="cell", sep="\t" if ".tsv" in name else ","
    )
    return path


def _features(folder: Path, name: str) -> Path:
    path = folder / name
    toy_features().to_parquet(path) if name.endswith("parquet") else toy_features().to_csv(path, index=False)
    return path


def _pictures(folder: Path, shapes: tuple[tuple[int, int], ...] = ((12, 10),)) -> Path:
    for place in range(50):
        target = folder / "pictures" / ("cat" if place % 2 else "dog")
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toy_pixels(1, shapes[place % len(shapes)], place)[0]).save(target / f"{place}.png")
    return folder / "pictures"


def _idx(folder: Path) -> Path:
    home = folder / "mnist"
    home.mkdir()
    for part, n in (("train", 60), ("t10k", 40)):
        write_idx(toy_pixels(n, (8, 8)), home / f"{part}-images-idx3-ubyte.gz")
        write_idx(np.arange(n, dtype=np.uint8) % 2, home / f"{part}-labels-idx1-ubyte.gz")
    return home


def _npz(folder: Path) -> Path:
    path = folder / "faces.npz"
    np.savez_compressed(path, X=toy_pixels(80, (8, 8)), person=np.arange(80) % 2, light=np.arange(80) % 40)
    return path


def _medmnist(folder: Path) -> Path:
    path = folder / "blood.npz"
    arrays = {}
    for part, n in (("train", 60), ("val", 20), ("test", 20)):
        arrays |= {f"{part}_images": toy_pixels(n, (8, 8, 3)), f"{part}_labels": np.arange(n)[:, None] % 2}
    np.savez(path, **arrays)
    return path


FILES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "h5ad": (lambda folder: _h5ad(folder, "X"), {"kind": "counts", "label_key": "cell_type", "donor_key": None}),
    "layer": (lambda folder: _h5ad(folder, "layers/counts"), {"kind": "counts", "matrix": "layers/counts"}),
    "raw": (lambda folder: _h5ad(folder, "raw"), {"kind": "counts", "matrix": "raw"}),
    "zarr": (lambda folder: _h5ad(folder, "layers/umi", ".zarr"), {"kind": "counts", "matrix": "layers/umi"}),
    "csv": (lambda folder: _table(folder, "cells.csv"), {"kind": "counts", "label_key": "cell_type"}),
    "tsv.gz": (lambda folder: _table(folder, "cells.tsv.gz"), {"kind": "counts"}),
    "parquet": (lambda folder: _table(folder, "cells.parquet"), {"kind": "counts"}),
    "features": (lambda folder: _features(folder, "wine.csv"), {"kind": "features", "label_key": "label"}),
    "features parquet": (lambda folder: _features(folder, "wine.parquet"), {"kind": "features"}),
    "pictures": (_pictures, {"kind": "images", "label_key": "label"}),
    "mixed pictures": (
        lambda folder: _pictures(folder, ((12, 10), (12, 10), (9, 9))),
        {"kind": "images", "resize": (12, 10)},
    ),
    "idx": (_idx, {"kind": "images"}),
    "npz": (_npz, {"kind": "images", "image_key": "X", "label_key": "person"}),
    "medmnist": (_medmnist, {"kind": "images"}),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_written_prepares_the_files_it_is_for(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, expected = FILES[case]
    path = make(tmp_path)
    assert main(["init", str(path.relative_to(tmp_path))]) == 0
    said = capsys.readouterr()
    assert "config.yaml is written" in said.out
    assert not said.err
    config = load_config("config.yaml")
    ((name, dataset),) = config.datasets.items()
    assert list(config.runs) == [name]
    for key, value in expected.items():
        assert key == "donor_key" or getattr(dataset, key) == value, key
    prepared = prepare_data(dataset)
    assert prepared.n_obs > 0
    assert len(prepared.uns["nvae_data"]["classes"]) >= 2
    if "split" in dataset.model_fields_set:
        assert dataset.split.key == "source_split"


def test_comments_are_the_descriptions_of_the_reference(tmp_path: Path) -> None:
    text, _ = propose_config([_h5ad(tmp_path, "X")])
    joined = " ".join(line.strip().lstrip("# ") for line in text.splitlines())
    for key in ("label_key", "batch_key", "donor_key", "condition_key"):
        description = DatasetSettings.model_fields[key].description
        assert description is not None
        assert description in joined, key
    assert CountsSettings.model_fields["n_top_genes"].description in joined
    assert set(yaml.safe_load(text)) == {"datasets", "runs"}


@pytest.mark.parametrize(("version", "compress"), [(2, False), (3, True)])
def test_10x_files_say_that_their_labels_are_elsewhere(version: int, compress: bool, tmp_path: Path) -> None:
    adata = counts()
    for path in (
        write_10x_h5(adata, tmp_path / "cells.h5", version),
        write_mtx(adata, tmp_path / "mtx", version, compress),
    ):
        text, proposal = propose_config([path])
        assert proposal.dataset["kind"] == "counts"
        assert any("label_key" in line for line in proposal.undecided)
        assert "# label_table: labels.csv" in text
        look = look_at(path)
        assert (look.n_samples, look.matrices[0].n_features) == adata.shape
        write_labels(adata, tmp_path / "labels.csv")
        filled = text.replace("# label_table: labels.csv", f"label_table: {tmp_path / 'labels.csv'}")
        config = tmp_path / "config.yaml"
        config.write_text(filled.replace("label_key: label\n", "label_key: cell_type\n"))
        (dataset,) = load_config(config).datasets.values()
        assert prepare_data(dataset).n_obs == adata.n_obs


def test_genes_as_rows_are_seen(tmp_path: Path) -> None:
    adata = toy_counts(n_cells=120, n_genes=60)
    names = [f"MT-{place}" if place < 3 else name for place, name in enumerate(adata.var_names)]
    table = pd.DataFrame(adata.X.toarray().T.astype(int), index=names, columns=adata.obs_names)
    table.to_csv(tmp_path / "genes.csv", index_label="gene")
    _, proposal = propose_config([tmp_path / "genes.csv"])
    assert proposal.dataset["transpose"] is True
    assert look_at(tmp_path / "genes.csv").n_samples == adata.n_obs


def test_log_normalised_values_alone_are_features_and_it_says_why(tmp_path: Path) -> None:
    adata = counts()
    adata.X = log_normalised(adata)
    adata.write_h5ad(tmp_path / "log.h5ad")
    text, proposal = propose_config([tmp_path / "log.h5ad"])
    assert proposal.dataset["kind"] == "features"
    assert "not whole" in text
    assert "look for a file with the raw ones" in text
    assert any(line.startswith("kind: no matrix holds counts") for line in proposal.undecided)
    _, of_table = propose_config([_features(tmp_path, "wine.csv")])  # measurements, as a rule
    assert not of_table.undecided


@pytest.mark.parametrize(("side", "is_small"), [(8, True), (40, False)])
def test_small_pictures_have_no_penalty_on_z_s(side: int, is_small: bool, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((1600, side, side), np.uint8), label=np.arange(1600) % 4)
    text, proposal = propose_config([tmp_path / "a.npz"])
    assert (proposal.run.get("model", {}).get("independence") == "none") == is_small
    assert ("would leave z_s little" in " ".join(text.split())) == is_small


def test_the_next_commands_are_those_of_an_installed_package(tmp_path: Path) -> None:
    text, _ = propose_config([_h5ad(tmp_path, "X")], "mine.yaml")
    assert text.splitlines()[1] == "# Then: nvae-bio check mine.yaml, and nvae-bio run mine.yaml"
    assert "\n      max_epochs: null\n" in text  # a line to edit


def test_a_large_matrix_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    matrix = sparse.random(
        30_000, 200, 0.2, "csr", rng=rng, data_rvs=lambda n: rng.integers(1, 5, n).astype(np.float32)
    )
    for layout in ("csr", "csc"):
        AnnData(matrix.asformat(layout)).write_h5ad(tmp_path / f"{layout}.h5ad")
    monkeypatch.setattr("anndata.read_h5ad", lambda *_, **__: pytest.fail("read whole"))
    for layout in ("csr", "csc"):
        (seen,) = look_at(tmp_path / f"{layout}.h5ad").matrices
        assert seen.n_stored == matrix.nnz
        assert len(seen.values) <= SEEN_VALUES < matrix.nnz
        assert seen.wrong is None
        assert (seen.rows is None) == (layout == "csc")
        assert seen.rows is None or seen.rows.shape == (SEEN_ROWS, 200)


def test_counts_beyond_memory_are_read_from_the_disk(tmp_path: Path) -> None:
    look = look_at(_h5ad(tmp_path, "X"))
    assert propose([look], memory=10_000).dataset["storage"] == "disk"
    assert "storage" not in propose([look], memory=10**9).dataset


def test_nothing_is_written_over_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _h5ad(tmp_path, "X")
    Path("config.yaml").write_text("mine\n")
    assert main(["init", path.name]) == 2
    assert "config.yaml: is there already; --force" in capsys.readouterr().err
    assert main(["init", "none.h5ad"]) == 2
    assert capsys.readouterr().err == f"nvae-bio: none.h5ad: no such file or folder; expected {listed(FORMATS)}\n"
    assert Path("config.yaml").read_text() == "mine\n"
    assert main(["init", path.name, "--force"]) == 0
    assert load_config("config.yaml").runs
    monkeypatch.setattr("nvae_bio.init.step.render", lambda *_: "datasets: {oh: {kind: moon}}")
    before = Path("config.yaml").read_text()
    assert main(["init", path.name, "--force"]) == 2
    assert Path("config.yaml").read_text() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cells.h5ad", "config.yaml"]


BAD = {
    "missing": ("no.h5ad", "no.h5ad: no such file or folder"),
    "unknown ending": ("notes.txt", "unknown file ending"),
    "no HDF5": ("cut.h5ad", "cut.h5ad: cannot be read as AnnData"),
    "empty folder": ("empty", "empty: nothing in it that can be read"),
    "several forms": ("mixed", "mixed: files of several forms"),
    "labels alone": ("train-labels-idx1-ubyte", "labels alone"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_ends_in_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, said = BAD[case]
    Path("notes.txt").write_text("x")
    Path("cut.h5ad").write_bytes(b"x" * 100)
    Path("empty").mkdir()
    Path("mixed").mkdir()
    Path("mixed/a.csv").write_text("a,b\n1,2\n")
    Path("mixed/b.npz").write_bytes(b"")
    write_idx(np.arange(9, dtype=np.uint8), Path("train-labels-idx1-ubyte"))
    assert main(["init", name]) == 2
    assert said in capsys.readouterr().err
    assert not Path("config.yaml").exists()


def frame() -> pd.DataFrame:
    n = 240
    rng = np.random.default_rng(0)
    donor = np.arange(n) % 8
    return pd.DataFrame(
        {
            "barcode": [f"c{i}" for i in range(n)],
            "n_counts": rng.normal(size=n),
            "leiden": (rng.integers(0, 6, n)).astype(str),
            "cell_type": np.where(rng.random(n) < 0.1, "Unknown", np.array(["B", "T", "NK"])[rng.integers(0, 3, n)]),
            "patient_id": [f"p{d}" for d in donor],
            "disease": np.where(donor < 4, "sick", "well"),
            "batch": [f"b{d // 4}" for d in donor],
            "seq_plate": rng.integers(0, 3, n),
            "subset": np.where(rng.random(n) < 0.6, None, "x"),
        }
    )


def test_columns_are_ranked_by_name_and_content() -> None:
    columns = look_at_columns(frame())
    assert candidates(columns, "label")[0].column.name == "cell_type"
    assert candidates(columns, "donor")[0].column.name == "patient_id"
    assert candidates(columns, "condition")[0].column.name == "disease"
    assert {one.column.name for one in candidates(columns, "batch")} == {"batch", "seq_plate"}
    everywhere = {one.column.name for role in ("label", "donor", "batch") for one in candidates(columns, role)}
    assert not {"barcode", "n_counts", "subset"} & everywhere


def test_nesting_is_told_and_a_batch_that_hides_the_condition_is_not_taken(tmp_path: Path) -> None:
    obs = frame()
    said = nesting(obs, [one for one in look_at_columns(obs) if one.name in ("patient_id", "disease", "batch")])
    assert "each level of patient_id has one level of disease alone" in said
    assert "disease and batch say the same" in said
    adata = toy_counts(n_cells=len(obs))
    adata.obs = obs.set_index("barcode")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    text, proposal = propose_config([tmp_path / "cells.h5ad"])
    assert proposal.dataset["label_key"] == "cell_type"
    assert proposal.dataset["unlabeled_values"] == ["Unknown"]
    assert (proposal.dataset["donor_key"], proposal.dataset["condition_key"]) == ("patient_id", "disease")
    assert proposal.dataset["batch_key"] == "seq_plate"
    assert "batch (2 levels, none missing): each of its levels has one disease alone" in text


def test_rare_classes_are_named(tmp_path: Path) -> None:
    adata = counts()
    adata.obs["cell_type"] = np.where(np.arange(adata.n_obs) < 6, "rare", adata.obs["cell_type"])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    text, proposal = propose_config([tmp_path / "cells.h5ad"])
    assert proposal.dataset["rare_classes"] == "unlabeled"
    assert "rare (6)" in text


@pytest.mark.parametrize(
    ("values", "said"),
    [([1, 2.0], None), ([0.5], "not whole"), ([-1, 2], "negative"), ([np.nan], "missing"), ([2.0**30], "above")],
)
def test_what_can_be_counts(values: list[float], said: str | None) -> None:
    found = not_counts(np.array(values))
    assert found is None if said is None else found is not None and said in found


def test_pieces_lie_within_and_reach_both_ends() -> None:
    for n in (1, 5, 100, 10_001):
        for size in (3, 30, 5000):
            found = list(pieces(n, size))
            assert found[0].start == 0
            assert found[-1].stop == n
            assert sum(one.stop - one.start for one in found) <= max(size, 3)


def test_files_of_a_folder_are_one_data_set(tmp_path: Path) -> None:
    home = tmp_path / "runs"
    home.mkdir()
    for name in ("a", "b"):
        adata = counts()
        adata.obs_names = [f"{name}{i}" for i in range(adata.n_obs)]
        adata.write_h5ad(home / f"{name}.h5ad")
    assert [path.name for path in sources_in([home])] == ["a.h5ad", "b.h5ad"]
    _, proposal = propose_config([home])
    assert proposal.name == "runs"
    assert proposal.dataset["paths"] == [str(home / "a.h5ad"), str(home / "b.h5ad")]
    with pytest.raises(UserError, match="pictures beside matrices"):
        propose([look_at(home / "a.h5ad"), look_at(_npz(tmp_path))])
