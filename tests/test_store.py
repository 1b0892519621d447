"""Out of core: a store gives what memory gives, from any file, in little memory, or one line says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from anndata.io import write_elem
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nvae_bio.cli import main
from nvae_bio.config import EmbeddingSettings, FitSettings
from nvae_bio.data import samples as samples_module
from nvae_bio.data import stream
from nvae_bio.data.files import append_rows, read_embedded, write_around
from nvae_bio.data.packed import PackedMatrix, pack
from nvae_bio.data.samples import Samples, Windows, to_samples
from nvae_bio.data.store import ROW, Store, open_store
from nvae_bio.embed import embed, embed_data
from nvae_bio.errors import UserError
from nvae_bio.prepare import prepare_data
from nvae_bio.prepare.step import prepare_store
from nvae_bio.train import train_model, train_models
from nvae_bio.trained import save_model
from tests.data_files import settings, toy_counts, write_labels, write_mtx
from tests.small_models import law
from tests.toys import QUICK_UMAP, fit_settings

BLOCK = 16
SIZE_KEYS = {"library_key": "all", "size_factor_key": "size"}


def cells(n: int = 120, seed: int = 0) -> AnnData:
    """Toy counts of which a few are above what a byte holds, with cells that do not pass, and some without a class."""
    adata = toy_counts(n, seed=seed)
    counts = adata.X.toarray()
    counts[5, 3], counts[n // 2, 7], counts[n - 1, 0] = 300, 70000, 256
    counts[9] = 0
    adata.X = sparse.csr_matrix(counts)
    adata.obs.loc[adata.obs_names[::11], "cell_type"] = None
    totals = np.asarray(adata.X.sum(1)).ravel()
    adata.obs["all"], adata.obs["size"] = totals + 5, totals / 100 + 1
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category")
    return adata


OPTIONS: dict[str, Any] = {
    "n_top_genes": 20, "qc": {"min_counts": 10}, "donor_key": "person", "batch_key": "run", **SIZE_KEYS,
    "continuous_covariates": ["depth"], "max_samples": 100,
}  # fmt: skip


def write_csc(adata: AnnData, path: Path) -> Path:
    adata.X = sparse.csc_matrix(adata.X)
    adata.write_h5ad(path)
    return path


def write_dense(adata: AnnData, path: Path) -> Path:
    adata.X = adata.X.toarray()
    adata.write_h5ad(path)
    return path


def write_layer(adata: AnnData, path: Path) -> Path:
    adata.layers["counts"], adata.X = adata.X, sparse.csr_matrix(np.log1p(adata.X.toarray()))
    adata.write_h5ad(path)
    return path


def write_raw(adata: AnnData, path: Path) -> Path:
    adata.raw = adata
    adata = adata[:, ::2].copy()
    adata.X.data[:] = 0.5
    adata.write_h5ad(path)
    return path


def write_zarr(adata: AnnData, path: Path) -> Path:
    with anndata.settings.override(zarr_write_format=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what will be the default one day
        adata.write_zarr(path)
    return path


def write_table(adata: AnnData, path: Path) -> Path:
    table = adata.to_df().astype(int)
    table.join(adata.obs).to_csv(path)
    return path


WRITERS: dict[str, tuple[str, Callable[[AnnData, Path], Path], dict[str, Any]]] = {
    "compressed rows": ("a.h5ad", lambda adata, path: adata.write_h5ad(path) or path, {}),
    "compressed columns": ("a.h5ad", write_csc, {}),
    "dense": ("a.h5ad", write_dense, {}),
    "a layer": ("a.h5ad", write_layer, {"matrix": "layers/counts"}),
    "raw": ("a.h5ad", write_raw, {"matrix": "raw"}),
    "zarr": ("a.zarr", write_zarr, {}),
    "a table": ("a.csv", write_table, {}),
}


@contextmanager
def chunks_of(n: int) -> Iterator[None]:
    """The source is read n cells at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", n)
        yield


def make(folder: Path, **options: Any) -> tuple[AnnData, AnnData, Store]:
    """What memory makes of a data set, what is read back from the disk, and the store."""
    of_data = settings(**options)
    expected = prepare_data(of_data)
    with chunks_of(13):
        prepare_store(of_data, folder / "data.h5ad", folder / "data.store", BLOCK)
    found = anndata.read_h5ad(folder / "data.h5ad")
    return expected, found, open_store(folder / "data.store", found.uns["nvae_data"]["fingerprint"])


def assert_prepared_alike(expected: AnnData, found: AnnData) -> None:
    expected.strings_to_categoricals()  # as a file has them
    pd.testing.assert_frame_equal(expected.obs, found.obs)
    pd.testing.assert_frame_equal(expected.var, found.var)
    assert (expected.X != found.X).nnz == 0 and found.X.dtype == np.float32
    one, other = expected.uns["nvae_data"], found.uns["nvae_data"]
    assert one["fingerprint"] == other["fingerprint"] and set(one) == set(other)
    pd.testing.assert_frame_equal(one["removed"], other["removed"], check_column_type=False)
    pd.testing.assert_frame_equal(one["qc"], other["qc"])


# --- the prepared file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_read_in_parts_is_prepared_as_in_memory(name: str, tmp_path: Path) -> None:
    file, write, more = WRITERS[name]
    path = write(cells(), tmp_path / file)
    expected, found, store = make(tmp_path, paths=[str(path)], **OPTIONS, **more)
    assert_prepared_alike(expected, found)
    assert len(store.matrix) == 100 and store.obs[ROW].tolist() != sorted(store.obs[ROW])


def test_samples_are_dropped_from_the_disk_as_in_memory(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "a.h5ad")
    expected, found, store = make(tmp_path, paths=[str(tmp_path / "a.h5ad")], drop={"person": ["donor 3", "donor 4"]})
    assert_prepared_alike(expected, found)
    assert not found.obs["person"].isin(["donor 3", "donor 4"]).any()
    assert len(store.matrix) == (~cells().obs["person"].isin(["donor 3", "donor 4"])).sum() - 1  # and an empty cell


def test_several_files_are_joined_as_in_memory(tmp_path: Path) -> None:
    one, two, three = cells(60), cells(70, seed=1), cells(50, seed=2)
    two = two[:, ::-1].copy()  # another order of genes
    two.var_names = [f"{name}x" if name in ("GENE3", "GENE4") else name for name in two.var_names]
    one.write_h5ad(tmp_path / "one.h5ad")
    write_zarr(two, tmp_path / "two.zarr")
    write_mtx(three, tmp_path / "three", 3, True)
    for adata, name in ((one, "one"), (two, "two"), (three, "three")):
        adata.obs_names = adata.obs_names + f"-{name}"
    labels = pd.concat([one.obs, two.obs, three.obs])[["cell_type", "person"]]
    write_labels(AnnData(obs=labels), tmp_path / "labels.csv")
    files = {"one": "one.h5ad", "two": "two.zarr", "three": "three"}
    paths = {name: str(tmp_path / file) for name, file in files.items()}
    more = {"label_table": str(tmp_path / "labels.csv"), "make_unique": True, "donor_key": "person"}
    expected, found, store = make(tmp_path, paths=paths, n_top_genes=20, **more)
    assert_prepared_alike(expected, found)
    assert set(store.obs["batch"]) == {"one", "two", "three"} and found.obs["label"].notna().sum() > 100


def test_nothing_but_counts_is_packed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind: 'images' cannot be packed into a store; allowed: counts"):
        prepare_store(settings("images", builtin="digits"), tmp_path / "a.h5ad", tmp_path / "a.store")


def test_a_value_that_is_no_count_is_found_wherever_it_stands(tmp_path: Path) -> None:
    adata = cells()
    adata.X.data[-1] = 0.5
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(UserError, match=r"a\.h5ad: matrix 'X': 1 values are no whole numbers"):
        make_store(tmp_path, tmp_path / "a.h5ad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5ad"]  # nothing half-written


def make_store(folder: Path, path: Path) -> None:
    prepare_store(settings(paths=[str(path)]), folder / "data.h5ad", folder / "data.store", BLOCK)


# --- the matrix ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, PackedMatrix, AnnData, Path]:
    """A store; the same matrix, in memory; the prepared data in the order of the store; the folder."""
    folder = tmp_path_factory.mktemp("store")
    cells(400).write_h5ad(folder / "source.h5ad")
    _, prepared, store = make(folder, paths=[str(folder / "source.h5ad")], batch_key="run", donor_key="person")
    ordered = prepared[store.obs[ROW].to_numpy()].copy()
    return store, pack(ordered.X, is_counts=True), ordered, folder


def assert_same(found: Any, expected: Any) -> None:
    (x, counts), (other_x, other) = found, expected
    assert torch.equal(x, other_x) and torch.equal(counts.step, other.step)
    assert torch.equal(counts.log_factorial, other.log_factorial)
    for part in ("row", "column", "value"):
        assert torch.equal(getattr(counts.listed, part), getattr(other.listed, part))
    assert torch.equal(counts.ladder.start, other.ladder.start) and counts.ladder.width == other.ladder.width


def test_the_store_is_in_random_order_part_by_part(known: tuple[Store, PackedMatrix, AnnData, Path]) -> None:
    store, _, ordered, _ = known
    split = pd.Categorical(store.obs["split"], categories=["train", "validation", "test"]).codes
    assert (np.diff(split) >= 0).all()
    train = store.obs[store.obs["split"] == "train"]
    assert not train["label"].isna().iloc[: train["label"].notna().sum()].any()  # the unlabelled ones come last
    assert np.abs(np.corrcoef(train[ROW], np.arange(len(train)))[0, 1]) < 0.3
    assert sorted(store.obs[ROW]) == list(range(ordered.n_obs))
    assert (ordered.obs["label"].astype(str).to_numpy() == store.obs["label"].astype(str).to_numpy()).all()
    assert store.matrix.density == pytest.approx(ordered.X.nnz / np.prod(ordered.shape))


@law
@given(rows=st.lists(st.integers(0, 399), min_size=1, max_size=60), told=st.booleans(), shape=st.booleans())
def test_rows_of_a_store_are_those_of_memory(
    rows: list[int], told: bool, shape: bool, known: tuple[Store, PackedMatrix, AnnData, Path]
) -> None:
    store, packed, _, _ = known
    index = torch.tensor(rows) % len(store.matrix)
    index = index.reshape(1, -1) if shape else index
    if told:
        with store.matrix.reading([index]):
            assert_same(store.matrix.rows(index), packed.rows(index))
    assert_same(store.matrix.rows(index), packed.rows(index))


@pytest.mark.parametrize("ahead", [0, 1, 16])
def test_rows_told_before_are_read_ahead(
    ahead: int, known: tuple[Store, PackedMatrix, AnnData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, packed, _, folder = known
    monkeypatch.setattr("nvae_bio.data.store.AHEAD", ahead)
    matrix = open_store(folder / "data.store").matrix
    order = Windows(BLOCK, 3).order(torch.arange(300), 0, 1)
    with matrix.reading(order.split(25)):
        for number, part in enumerate(order.split(25)):
            assert_same(matrix.rows(part), packed.rows(part))
            if number == 4:  # others in between do no harm
                assert_same(matrix.rows(torch.tensor([350, 2])), packed.rows(torch.tensor([350, 2])))
    assert matrix._slots is not None and matrix._slots.n <= 6 + ahead  # of 25 blocks


@law
@given(n=st.integers(1, 300), first=st.integers(0, 50), block=st.integers(1, 40), size=st.integers(1, 5))
def test_windows_shuffle_blocks_and_the_rows_of_a_window(n: int, first: int, block: int, size: int) -> None:
    rows, windows = torch.arange(first, first + n), Windows(block, size)
    order = windows.order(rows, 3, 1)
    assert sorted(order.tolist()) == rows.tolist()
    assert torch.equal(order, windows.order(rows, 3, 1))
    blocks, seen = (order // block).tolist(), []
    for place in blocks:
        if place not in seen:
            seen.append(place)
    last = {place: len(blocks) - 1 - blocks[::-1].index(place) for place in seen}
    for number, place in enumerate(seen[size:], start=size):  # a window begins when the one before has ended
        window = number // size * size
        assert blocks.index(place) > max(last[other] for other in seen[:window])
    if n > 60:
        assert not torch.equal(order, windows.order(rows, 3, 2))


# --- training and embedding ------------------------------------------------------------------------------------------


@pytest.fixture
def in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data in memory are shuffled as a store is."""

    def shuffled(*args: Any, **kwargs: Any) -> Samples:
        return replace(to_samples(*args, **kwargs), windows=Windows(BLOCK))

    monkeypatch.setattr(samples_module, "to_samples", shuffled)


FITS = {
    "plain": fit_settings(4),
    "unlabelled too": fit_settings(3).with_training(unlabeled="use"),
    "covariates": fit_settings(3, covariates="decoder"),
}


@pytest.mark.parametrize("name", FITS)
@pytest.mark.usefixtures("in_windows")
def test_training_from_a_store_has_the_bits_of_memory_in_the_same_order(
    name: str, known: tuple[Store, PackedMatrix, AnnData, Path]
) -> None:
    store, _, ordered, _ = known
    fit = FITS[name].with_training(batch_size=24)
    one, other = train_model(store, fit, progress=False), train_model(ordered, fit, progress=False)
    pd.testing.assert_frame_equal(one.history, other.history)
    weights, expected = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert one.card == other.card


@pytest.mark.usefixtures("in_windows")
@QUICK_UMAP
def test_an_embedding_from_a_store_is_that_of_memory(
    known: tuple[Store, PackedMatrix, AnnData, Path], tmp_path: Path
) -> None:
    store, _, ordered, folder = known
    model = train_model(store, fit_settings(2, n_private=3), progress=False)
    save_model(model, tmp_path / "model.safetensors", tmp_path / "model.json")
    chosen = EmbeddingSettings(n_draws=2, umap_max_samples=150)
    expected = embed_data(ordered, model, chosen)
    found = {}
    for ending in (".h5ad", ".zarr"):
        output = tmp_path / f"out{ending}"
        files = (tmp_path / "model.safetensors", tmp_path / "model.json", output)
        embed(folder / "data.h5ad", *files, chosen, folder / "data.store")
        found[ending] = read_embedded(output)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["model.json", "model.safetensors", "out.h5ad", "out.zarr"]
    source = anndata.read_h5ad(folder / "data.h5ad")
    for adata in found.values():
        assert adata.obs_names.tolist() == source.obs_names.tolist() and (adata.X != source.X).nnz == 0
        there = adata[ordered.obs_names]
        assert set(there.obsm) == set(expected.obsm) and set(there.varm) == set(expected.varm)
        for key in set(expected.obsm) - {"X_umap", "X_nvae_specific_umap"}:
            np.testing.assert_array_equal(there.obsm[key], expected.obsm[key], err_msg=key)
        for key in expected.varm:
            np.testing.assert_array_equal(there.varm[key], expected.varm[key], err_msg=key)
        pd.testing.assert_frame_equal(there.obs, expected.obs, check_categorical=False)
        assert np.isfinite(there.obsm["X_umap"]).all(1).sum() == 150


def test_balanced_classes_need_memory(known: tuple[Store, PackedMatrix, AnnData, Path]) -> None:
    with pytest.raises(UserError, match="'balanced' needs the data in memory; allowed with a store: none"):
        train_models(known[0], FitSettings().with_training(class_balance="balanced"), progress=False)


# --- what can go wrong -----------------------------------------------------------------------------------------------


def damaged(folder: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    path = folder / "data.store" / name
    path.write_bytes(change(path.read_bytes()))
    return path


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a store that may be changed."""
    cells().write_h5ad(tmp_path / "a.h5ad")
    make_store(tmp_path, tmp_path / "a.h5ad")
    return tmp_path


def train_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `train` ends with."""
    files = [f"--{name}={folder / name}" for name in ("weights", "card", "history")]
    small = json.dumps({"training": {"max_epochs": 1}})
    assert main(["train", f"--data={folder / 'data.store'}", *files, "--settings", small]) == 2
    assert not (folder / "weights").exists()
    line = capsys.readouterr().err.strip().splitlines()
    assert len(line) == 1
    return line[0]


@pytest.mark.parametrize("name", ["manifest.json", "obs.parquet", "shard-00000.bin"])
@pytest.mark.parametrize("change", [flipped, lambda content: content[:-3], lambda content: content + b"\0"])
def test_a_changed_file_of_a_store_is_told(
    name: str, change: Callable[[bytes], bytes], own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(own, name, change)
    line = train_line(own, capsys)
    assert str(path) in line and ("prepare the data again" in line or "manifest.json" in line)


@pytest.mark.parametrize("name", ["manifest.json", "obs.parquet", "shard-00000.bin"])
def test_a_lost_file_of_a_store_is_told(name: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "data.store" / name).unlink()
    assert f"{own / 'data.store' / name}: no such file" in train_line(own, capsys)


def test_a_store_of_other_data_is_refused(own: Path, tmp_path: Path) -> None:
    model = train_model(open_store(own / "data.store"), fit_settings(1), progress=False)
    save_model(model, own / "model.safetensors", own / "model.json")
    cells(seed=7).write_h5ad(own / "b.h5ad")
    prepare_store(settings(paths=[str(own / "b.h5ad")]), own / "other.h5ad", own / "other.store", BLOCK)
    files = (own / "data.h5ad", own / "model.safetensors", own / "model.json", own / "out.h5ad")
    with pytest.raises(UserError, match=r"other\.store: made from other data .*; prepare the data again"):
        embed(*files, EmbeddingSettings(umap=False), own / "other.store")
    assert not (own / "out.h5ad").exists()


def test_a_folder_that_is_no_store_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.store").mkdir()
    assert "manifest.json: no such file or folder; expected the manifest of a store" in train_line(tmp_path, capsys)


def test_a_full_disk_leaves_the_old_store(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = (own / "data.store" / "manifest.json").read_bytes()
    monkeypatch.setattr("nvae_bio.prepare.packing._write_arrays", full)
    with pytest.raises(UserError, match=r"data\.store: cannot be written \(No space left on device\)"):
        make_store(own, own / "a.h5ad")
    assert (own / "data.store" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in own.iterdir()) == ["a.h5ad", "data.h5ad", "data.store"]


# --- memory ----------------------------------------------------------------------------------------------------------

N_GENES, N_ENTRIES, PART = 500, 250, 2000  # 2 kB a cell in memory
PEAK = """
import sys
from benchmarks.memory import peak_mb
from nvae_bio.cli import cli
from nvae_bio.data import stream
from nvae_bio.prepare import packing, step

stream.CHUNK, step.BLOCK_ROWS = 512, 64  # so that what is held at a time is small beside the matrix
packing.SHARD_BYTES = 4 * 2**20
cli(sys.argv[1:], standalone_mode=False)
print(peak_mb())
"""


def write_large(path: Path, n: int) -> None:
    """Counts of n cells, never held whole."""
    rng, start = np.random.default_rng(0), np.arange(0, PART * N_ENTRIES + 1, N_ENTRIES)
    with h5py.File(path, "w") as file:
        for _ in range(0, n, PART):
            column = (rng.integers(2, size=(PART, N_ENTRIES)) + 2 * np.arange(N_ENTRIES)).ravel()
            value = rng.integers(1, 4, size=len(column)).astype(np.float32)
            append_rows(sparse.csr_matrix((value, column, start), (PART, N_GENES)), file)
        obs = pd.DataFrame({"label": np.array(["a", "b"])[np.arange(n) % 2]}, index=[f"c{row}" for row in range(n)])
        write_around(AnnData(obs=obs, var=pd.DataFrame(index=[f"g{gene}" for gene in range(N_GENES)])), file)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    peaks: dict[str, list[float]] = {"prepare": [], "train": [], "embed": []}
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed goes back to the system at once
    for n in (10_000, 90_000):  # matrices of 19 and of 172 MB
        folder = tmp_path / str(n)
        folder.mkdir()
        write_large(folder / "a.h5ad", n)
        dataset = json.dumps({"kind": "counts", "paths": [str(folder / "a.h5ad")], "n_top_genes": 490})
        data, model = f"--data={folder / 'data.h5ad'}", [f"--{name}={folder / name}" for name in ("weights", "card")]
        fit = {"training": {"max_epochs": 1, "n_threads": 1, "batch_size": 512}, "model": {"hidden": [8]}}
        store, chosen = f"--store={folder / 'data.store'}", json.dumps({"umap": False, "n_draws": 1})
        more = [f"--history={folder / 'history'}", "--settings", json.dumps(fit)]
        for command in (
            ["prepare", "--settings", dataset, f"--output={folder / 'data.h5ad'}", store],
            ["train", f"--data={folder / 'data.store'}", *model, *more],
            ["embed", data, store, *model, f"--output={folder / 'out.h5ad'}", "--settings", chosen],
        ):
            options = {"capture_output": True, "text": True, "check": True, "env": environment}
            done = subprocess.run([sys.executable, "-c", PEAK, *command], **options)
            peaks[command[0]].append(float(done.stdout))
    for step, (small, large) in peaks.items():
        assert large - small < 80, (step, small, large)


def test_the_writer_of_rows_is_that_of_anndata(tmp_path: Path) -> None:
    counts = cells().X
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for start in range(0, counts.shape[0], 50):
            append_rows(counts[start : start + 50], file)
        write_elem(file, "Y", counts)
        one, other = (anndata.io.read_elem(file[name]) for name in ("X", "Y"))
    assert (one != other).nnz == 0 and one.shape == other.shape
