"""Each reader on files that the real libraries wrote."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse
from sklearn.datasets import load_digits

from nvae_bio.config import Dataset
from nvae_bio.data.counts import LIBRARY_COLUMN
from nvae_bio.data.pixels import image_shape
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.source import read_source
from tests.data_files import (
    pack,
    settings,
    toy_counts,
    toy_features,
    toy_pixels,
    write_10x_h5,
    write_idx,
    write_labels,
    write_mtx,
)


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


def read(options: Dataset, adata: AnnData | None = None) -> AnnData:
    return read_source(options, RemovalLog(), adata)


# --- counts ----------------------------------------------------------------------------------------------------------


def _h5ad(adata: AnnData, folder: Path, key: str) -> Path:
    stored = adata.copy()
    if key == "raw":
        stored.raw = adata
        stored = stored[:, :3].copy()
        stored.X = sparse.csr_matrix(stored.X) * 0.5
    elif key != "X":
        stored.layers[key.removeprefix("layers/")] = stored.X.copy()
        stored.X = None
    stored.write_h5ad(folder / "counts.h5ad")
    return folder / "counts.h5ad"


def _zarr(adata: AnnData, folder: Path, version: int) -> Path:
    with anndata.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what will be the default one day
        adata.write_zarr(folder / "counts.zarr")
    return folder / "counts.zarr"


def _table(adata: AnnData, path: Path, transpose: bool = False) -> Path:
    frame = pd.DataFrame(dense(adata).astype(int), index=adata.obs_names, columns=adata.var_names)
    frame = frame.T if transpose else frame
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if ".tsv" in path.name else ",")
    return path


WRITERS = {
    "h5ad X": (lambda a, f: _h5ad(a, f, "X"), {}),
    "h5ad raw": (lambda a, f: _h5ad(a, f, "raw"), {"matrix": "raw"}),
    "h5ad layer": (lambda a, f: _h5ad(a, f, "layers/counts"), {"matrix": "layers/counts"}),
    "zarr v2": (lambda a, f: _zarr(a, f, 2), {}),
    "zarr v3": (lambda a, f: _zarr(a, f, 3), {}),
    "10x h5 v3": (lambda a, f: write_10x_h5(a, f / "a.h5", 3), {}),
    "10x h5 v2": (lambda a, f: write_10x_h5(a, f / "a.h5", 2), {}),
    "mtx v2": (lambda a, f: write_mtx(a, f / "m", 2, compress=False), {}),
    "mtx v2 gz": (lambda a, f: write_mtx(a, f / "m", 2, compress=True), {}),
    "mtx v3": (lambda a, f: write_mtx(a, f / "m", 3, compress=False), {}),
    "mtx v3 gz": (lambda a, f: write_mtx(a, f / "m", 3, compress=True), {}),
    "csv": (lambda a, f: _table(a, f / "t.csv"), {}),
    "csv gz": (lambda a, f: _table(a, f / "t.csv.gz"), {}),
    "tsv": (lambda a, f: _table(a, f / "t.tsv"), {}),
    "tsv gz": (lambda a, f: _table(a, f / "t.tsv.gz"), {}),
    "csv transposed": (lambda a, f: _table(a, f / "t.csv", transpose=True), {"transpose": True}),
    "parquet": (lambda a, f: _table(a, f / "t.parquet"), {}),
    "parquet transposed": (lambda a, f: _table(a, f / "t.parquet", transpose=True), {"transpose": True}),
}


@pytest.mark.parametrize("how", WRITERS)
def test_counts_of_every_format_come_back_exactly(how: str, tmp_path: Path) -> None:
    adata, (write, options) = toy_counts(), WRITERS[how]
    table = write_labels(adata, tmp_path / "labels.csv")
    source = read(settings(paths=str(write(adata, tmp_path)), label_table=str(table), **options))

    assert isinstance(source.X, sparse.csr_matrix) and source.X.dtype == np.float32
    np.testing.assert_array_equal(dense(source), dense(adata))
    assert source.obs_names.tolist() == adata.obs_names.tolist()
    assert source.var_names.tolist() == adata.var_names.tolist()
    assert source.obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()
    np.testing.assert_array_equal(source.obs[LIBRARY_COLUMN], dense(adata).sum(axis=1))


def test_a_table_without_a_header_for_its_row_names_is_read_as_r_writes_it(tmp_path: Path) -> None:
    adata = toy_counts()
    lines = _table(adata, tmp_path / "t.tsv").read_text().split("\n")
    (tmp_path / "t.tsv").write_text("\n".join([lines[0].lstrip("\t"), *lines[1:]]))
    table = write_labels(adata, tmp_path / "labels.tsv")
    source = read(settings(paths=str(tmp_path / "t.tsv"), label_table=str(table)))
    np.testing.assert_array_equal(dense(source), dense(adata))
    assert source.obs_names.tolist() == adata.obs_names.tolist()


def test_text_and_key_columns_of_a_table_are_obs(tmp_path: Path) -> None:
    adata = toy_counts()
    frame = pd.DataFrame(dense(adata), index=[f"{i:03d}" for i in range(adata.n_obs)], columns=adata.var_names)
    frame = frame.assign(cluster=np.arange(adata.n_obs) % 3, tissue="skin")
    frame.to_csv(tmp_path / "t.csv")
    source = read(settings(paths=str(tmp_path / "t.csv"), label_key="cluster"))
    assert source.var_names.tolist() == adata.var_names.tolist()
    assert source.obs[["cluster", "tissue"]].iloc[4].tolist() == [1, "skin"]
    assert source.obs_names[7] == "007"  # names stay text


def test_only_gene_expression_is_read_and_the_rest_is_noted(tmp_path: Path) -> None:
    adata, log = toy_counts(), RemovalLog()
    types = ["Gene Expression"] * 35 + ["Antibody Capture"] * 5
    table = write_labels(adata, tmp_path / "labels.csv")
    path = write_10x_h5(adata, tmp_path / "a.h5", 3, types)
    source = read_source(settings(paths=str(path), label_table=str(table)), log)
    assert source.n_vars == 35
    assert log.table().loc["0", ["what", "n_removed", "n_left"]].tolist() == ["features", 5, 35]
    np.testing.assert_array_equal(source.obs[LIBRARY_COLUMN], dense(adata)[:, :35].sum(axis=1))


def test_reading_leaves_the_callers_object_alone() -> None:
    adata = toy_counts()
    adata.X = adata.X.tocsc()
    before = adata.copy()
    source = read(settings(), adata)
    source.X.data[:] = 7
    source.obs["cell_type"] = "x"
    assert (adata.X != before.X).nnz == 0 and adata.X.format == "csc"
    pd.testing.assert_frame_equal(adata.obs, before.obs)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64, np.float64, np.float32, bool])
def test_counts_of_any_numeric_type_are_taken(dtype: type) -> None:
    adata = toy_counts()
    values = np.minimum(dense(adata), 1).astype(dtype) if dtype is bool else dense(adata).astype(dtype)
    source = read(settings(), AnnData(values, obs=adata.obs, var=adata.var))
    np.testing.assert_array_equal(dense(source), values.astype(np.float32))


# --- joined files ----------------------------------------------------------------------------------------------------


def _two_files(folder: Path, same_barcodes: bool = False) -> tuple[AnnData, AnnData, dict[str, str]]:
    one, two = toy_counts(seed=1), toy_counts(seed=2)
    two = two[:, ["GENE5", "GENE3", *two.var_names[10:]]].copy()
    two.obs["extra"] = "yes"
    two.obs["note"] = np.nan
    if not same_barcodes:
        two.obs_names = "other-" + two.obs_names
    paths = {name: str(folder / name / "counts.h5ad") for name in ("first", "second")}
    for adata, path in zip((one, two), paths.values(), strict=True):
        Path(path).parent.mkdir()
        adata.write_h5ad(path)
    return one, two, paths


def test_joined_files_keep_common_genes_and_whole_libraries(tmp_path: Path) -> None:
    one, two, paths = _two_files(tmp_path)
    log = RemovalLog()
    source = read_source(settings(paths=paths), log)
    assert source.var_names.tolist() == [g for g in one.var_names if g in set(two.var_names)]
    np.testing.assert_array_equal(dense(source)[:90], dense(one[:, source.var_names]))
    np.testing.assert_array_equal(dense(source)[90:], dense(two[:, source.var_names]))
    assert source.obs["batch"].tolist() == ["first"] * 90 + ["second"] * 90
    assert source.obs["extra"].isna().tolist() == [True] * 90 + [False] * 90  # a column of one file is kept
    np.testing.assert_array_equal(source.obs[LIBRARY_COLUMN][:90], dense(one).sum(axis=1))
    assert log.table()[["what", "n_removed", "n_left"]].to_numpy().tolist() == [["genes", 8, 32], ["genes", 0, 32]]


def test_batches_are_named_by_as_much_of_the_path_as_tells_them_apart(tmp_path: Path) -> None:
    _, _, paths = _two_files(tmp_path)
    source = read(settings(paths=list(paths.values())))
    assert source.obs["batch"].unique().tolist() == ["first_counts", "second_counts"]


def test_colliding_barcodes_get_their_batch_appended_when_asked(tmp_path: Path) -> None:
    _, _, paths = _two_files(tmp_path, same_barcodes=True)
    source = read(settings(paths=paths, make_unique=True))
    assert source.obs_names[[0, 90]].tolist() == ["cell-0-first", "cell-0-second"]
    assert source.obs_names.is_unique


def test_repeated_names_inside_a_file_get_a_suffix_when_asked() -> None:
    adata = toy_counts()
    adata.var.index = ["A", "A", *adata.var_names[2:]]
    adata.obs.index = ["c", "c", *adata.obs_names[2:]]
    source = read(settings(make_unique=True), adata)
    assert source.var_names[:2].tolist() == ["A", "A-1"] and source.obs_names[:2].tolist() == ["c", "c-1"]


# --- label table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.csv.gz", "labels.parquet"])
def test_a_label_table_is_joined_by_barcode_in_any_order(name: str, tmp_path: Path) -> None:
    adata, log = toy_counts(), RemovalLog()
    table = adata.obs.iloc[::-1].rename_axis("barcode").reset_index()[["cell_type", "barcode", "person"]]
    table = pd.concat([table.iloc[5:], table.iloc[:2].assign(barcode=["no cell", "nor this"])])
    if name.endswith("parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_csv(tmp_path / name, index=False, sep="\t" if ".tsv" in name else ",")
    plain = AnnData(adata.X, obs=pd.DataFrame({"person": "unknown"}, index=adata.obs_names), var=adata.var)
    options = settings(label_table=str(tmp_path / name), label_table_key="barcode")
    source = read_source(options, log, plain)

    assert source.obs["cell_type"].iloc[:85].tolist() == adata.obs["cell_type"].iloc[:85].tolist()
    assert source.obs["cell_type"].iloc[85:].isna().all()  # no row: no label
    assert source.obs["person"].iloc[0] == adata.obs["person"].iloc[0]
    assert source.obs["source_person"].unique().tolist() == ["unknown"]
    assert log.table()[["n_removed", "n_left"]].to_numpy().tolist() == [[2, 85]]


# --- built in --------------------------------------------------------------------------------------------------------


def test_pbmc68k_gives_the_counts_that_the_file_was_made_of() -> None:
    source = read(settings(builtin="pbmc68k", label_key="bulk_labels"))
    library = source.obs[LIBRARY_COLUMN].to_numpy()
    reduced = scanpy.datasets.pbmc68k_reduced()
    again = np.log1p(1e4 * dense(source) / library[:, None])
    np.testing.assert_allclose(again, reduced.raw.X.toarray(), rtol=0, atol=2e-3)
    assert (dense(source) == np.round(dense(source))).all() and dense(source).min() == 0
    assert (dense(source) == 1).any(axis=1).all()
    assert (library >= dense(source).sum(axis=1)).all() and (library == np.round(library)).all()
    np.testing.assert_allclose(library, reduced.obs["n_counts"], rtol=2e-3)  # as counted by scanpy's authors
    assert {"bulk_labels", "phase"} <= set(source.obs)


def test_digits_are_those_of_scikit_learn() -> None:
    source = read(settings("images", builtin="digits"))
    np.testing.assert_array_equal(dense(source) * 16, load_digits().data)
    assert source.obs["label"].tolist() == load_digits().target.astype(str).tolist()
    assert image_shape(source.var) == (1, 8, 8)


# --- images ----------------------------------------------------------------------------------------------------------


def as_stack(source: AnnData) -> np.ndarray:
    return dense(source).reshape(-1, *image_shape(source.var))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_by_the_names_of_mnist(ending: str, tmp_path: Path) -> None:
    paths = []
    for part, n in (("train", 40), ("t10k", 20)):
        paths.append(str(write_idx(toy_pixels(n), tmp_path / f"{part}-images-idx3-ubyte{ending}")))
        write_idx(np.arange(n, dtype=np.uint8) % 2, tmp_path / f"{part}-labels-idx1-ubyte{ending}")
    source = read(settings("images", paths=paths))
    np.testing.assert_array_equal(as_stack(source)[:40, 0], toy_pixels(40) / np.float32(255))
    assert source.obs["source_split"].tolist() == ["train"] * 40 + ["test"] * 20
    assert source.obs["label"].tolist() == [i % 2 for i in range(40)] + [i % 2 for i in range(20)]
    assert "batch" not in source.obs


def test_idx_with_label_files_named(tmp_path: Path) -> None:
    images = write_idx(toy_pixels(), tmp_path / "pictures.idx3")
    labels = write_idx(np.arange(40, dtype=np.uint8) % 2, tmp_path / "truth.idx1.gz")
    source = read(settings("images", paths=str(images), label_paths=[str(labels)]))
    assert source.obs["label"].tolist() == [i % 2 for i in range(40)]
    assert "source_split" not in source.obs


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_npz_with_the_keys_of_medmnist(shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays = {}
    for seed, (part, n) in enumerate((("train", 40), ("val", 10), ("test", 20))):
        arrays[f"{part}_images"] = toy_pixels(n, shape, seed)
        arrays[f"{part}_labels"] = (np.arange(n) % 2)[:, None]
    np.savez(tmp_path / "m.npz", **arrays)
    source = read(settings("images", paths=str(tmp_path / "m.npz")))
    expected = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")]) / np.float32(255)
    expected = expected[:, None] if len(shape) == 2 else np.moveaxis(expected, 3, 1)
    np.testing.assert_array_equal(as_stack(source), expected)
    assert source.obs["source_split"].value_counts().to_dict() == {"train": 40, "validation": 10, "test": 20}


def test_npz_with_keys_named_brings_every_column_of_its_length(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "faces.npz",
        X=toy_pixels(),
        subject=np.arange(40) % 4,
        azimuth=np.linspace(-90, 90, 40),
        classes=np.array(["a", "b"]),
    )
    source = read(settings("images", paths=str(tmp_path / "faces.npz"), image_key="X", label_key="subject"))
    assert sorted(source.obs) == ["azimuth", "subject"]
    np.testing.assert_array_equal(source.obs["azimuth"], np.linspace(-90, 90, 40))


MODES = {
    "grey.png": ("L", 1, 1 / 255),
    "grey.tif": ("L", 1, 1 / 255),
    "colour.png": ("RGB", 3, 1 / 255),
    "deep.png": ("I;16", 1, 1 / 65535),
    "deep.tiff": ("I;16", 1, 1 / 65535),
    "bilevel.png": ("1", 1, 1.0),
    "real.tif": ("F", 1, 1.0),
}


@pytest.mark.parametrize("name", MODES)
def test_pictures_come_back_as_they_were_written(name: str, tmp_path: Path) -> None:
    mode, channels, scale = MODES[name]
    rng, expected = np.random.default_rng(0), []
    for index in range(6):
        shape = (6, 5, 3) if channels == 3 else (6, 5)
        top = {"I;16": 65536, "1": 2}.get(mode, 256)
        pixels = rng.random(shape, dtype=np.float32) if mode == "F" else rng.integers(0, top, shape)
        kind = {"I;16": np.uint16, "1": bool, "F": np.float32}.get(mode, np.uint8)
        folder = tmp_path / "pictures" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(kind)).save(folder / f"{index}-{name}")
        expected.append(np.atleast_3d(pixels * np.float32(scale)).transpose(2, 0, 1))
    source = read(settings("images", paths=str(tmp_path / "pictures")))
    assert source.obs_names[:3].tolist() == [f"cat/{i}-{name}" for i in (0, 2, 4)]
    assert source.obs["label"].tolist() == ["cat"] * 3 + ["dog"] * 3
    np.testing.assert_allclose(as_stack(source), np.stack(expected)[[0, 2, 4, 1, 3, 5]], rtol=1e-6)


def test_grey_with_transparency_stays_grey(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("LA", (4, 4), (102, 255)).save(tmp_path / "a" / "1.png")
    images = as_stack(read(settings("images", paths=str(tmp_path))))
    np.testing.assert_allclose(images, np.full((1, 1, 4, 4), 0.4), atol=1e-6)


def test_palettes_and_transparency_become_colour_on_black(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    colour = Image.new("RGB", (4, 4), (255, 0, 0))
    colour.convert("P").save(tmp_path / "a" / "palette.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 255)).save(tmp_path / "a" / "solid.png")
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "a" / "through.png")
    colour.save(tmp_path / "a" / "z.jpg", quality=100, subsampling=0)
    images = as_stack(read(settings("images", paths=str(tmp_path))))
    red = np.broadcast_to(np.array([1, 0, 0], dtype=np.float32)[:, None, None], (3, 4, 4))
    np.testing.assert_allclose(images, [red, red, 0 * red, red], atol=0.02)


def test_other_files_beside_pictures_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".hidden").write_text("x")
    log = RemovalLog()
    assert read_source(settings("images", paths=str(tmp_path)), log).n_obs == 1
    assert log.table().loc["0", ["n_removed", "n_left"]].tolist() == [1, 1]


def test_pictures_of_differing_shape_and_colour_are_made_alike(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 6), 51).save(tmp_path / "a" / "1.png")
    Image.new("RGB", (9, 7), (51, 51, 51)).save(tmp_path / "a" / "2.png")
    source = read(settings("images", paths=str(tmp_path), resize=(8, 8), grey=True))
    np.testing.assert_allclose(as_stack(source), np.full((2, 1, 8, 8), 0.2), atol=1e-6)


@pytest.mark.parametrize("columns", ["var", "image_shape"])
def test_images_in_anndata_by_var_or_by_shape(columns: str, tmp_path: Path) -> None:
    pixels = toy_pixels(40, (3, 4, 5))
    channel, row, column = (axis.ravel() for axis in np.indices((3, 4, 5)))
    var = pd.DataFrame({"channel": channel, "row": row, "column": column}, index=[f"p{i}" for i in range(60)])
    options = {}
    flat, order = pixels.reshape(40, -1), np.arange(60)
    if columns == "var":
        order = np.random.default_rng(0).permutation(60)  # var says where a column belongs
    else:
        var, options = var[[]], {"image_shape": (3, 4, 5)}
    adata = AnnData(flat[:, order], obs=pd.DataFrame({"label": "x"}, index=map(str, range(40))), var=var.iloc[order])
    adata.write_h5ad(tmp_path / "i.h5ad")
    source = read(settings("images", paths=str(tmp_path / "i.h5ad"), **options))
    np.testing.assert_array_equal(as_stack(source), pixels / np.float32(255))


@given(height=st.integers(1, 9), width=st.integers(1, 9), data=st.data())
def test_a_central_crop_is_the_middle(height: int, width: int, data: st.DataObject) -> None:
    crop = data.draw(st.tuples(st.integers(1, height), st.integers(1, width)))
    position = np.indices((height, width)).sum(axis=0) / 100.0
    adata = AnnData(position.reshape(1, -1), obs=pd.DataFrame(index=["0"]))
    source = read(settings("images", image_shape=(1, height, width), crop=crop), adata)
    middle = (height - crop[0]) // 2 + (width - crop[1]) // 2
    expected = (np.indices(crop).sum(axis=0) + middle) / 100
    np.testing.assert_allclose(as_stack(source)[0, 0], expected, atol=1e-6)


def test_shrinking_averages_over_pixels() -> None:
    checks = np.indices((32, 32)).sum(axis=0) % 2 * 255
    adata = AnnData(checks.reshape(1, -1).astype(np.uint8), obs=pd.DataFrame(index=["0"]))
    small = as_stack(read(settings("images", image_shape=(1, 32, 32), resize=(8, 8)), adata))
    np.testing.assert_allclose(small[0, 0, 1:-1, 1:-1], 0.5, atol=0.02)


def test_resizing_to_the_same_shape_changes_nothing() -> None:
    adata = AnnData(toy_pixels(3, (30,)), obs=pd.DataFrame(index=list("abc")))
    same, plain = (read(settings("images", image_shape=(1, 6, 5), **o), adata) for o in ({"resize": (6, 5)}, {}))
    np.testing.assert_array_equal(dense(same), dense(plain))


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet", "t.h5ad"])
def test_features_of_every_format(name: str, tmp_path: Path) -> None:
    table = toy_features()
    if name.endswith("h5ad"):
        adata = AnnData(table.filter(regex="^f").to_numpy(), obs=table[["label"]].set_index(table["smiles"]))
        adata.var_names = [f"f{i}" for i in range(5)]
        adata.write_h5ad(tmp_path / name)
    elif name.endswith("parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_csv(tmp_path / name, index=False, sep="\t" if ".tsv" in name else ",")
    index = {} if name.endswith("h5ad") else {"index_column": "smiles"}
    source = read(settings("features", paths=str(tmp_path / name), **index))
    np.testing.assert_allclose(source.X, table.filter(regex="^f").to_numpy(), rtol=1e-12)
    assert source.obs_names.tolist() == table["smiles"].tolist()
    assert source.obs["label"].tolist() == table["label"].tolist()


def test_named_feature_columns_are_the_only_ones(tmp_path: Path) -> None:
    toy_features().to_csv(tmp_path / "t.csv", index=False)
    source = read(settings("features", paths=str(tmp_path / "t.csv"), feature_columns=["f3", "f1"]))
    assert source.var_names.tolist() == ["f1", "f3"]
    assert {"f0", "f2", "f4", "label", "smiles"} == set(source.obs)


def test_zarr_and_h5ad_say_the_same(tmp_path: Path) -> None:
    adata = toy_counts()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category")
    one, other = (read(settings(paths=str(path))) for path in (_h5ad(adata, tmp_path, "X"), _zarr(adata, tmp_path, 3)))
    pd.testing.assert_frame_equal(one.obs, other.obs)


def test_a_folder_packed_by_hand_is_read(tmp_path: Path) -> None:
    adata = toy_counts()
    folder = write_mtx(adata, tmp_path / "m", 3, compress=False)
    pack(folder / "matrix.mtx")  # one file packed, the others not
    table = write_labels(adata, tmp_path / "labels.csv")
    source = read(settings(paths=str(folder), label_table=str(table)))
    np.testing.assert_array_equal(dense(source), dense(adata))
    assert isinstance(anndata.AnnData(source.X).X, sparse.csr_matrix)


def test_genes_and_barcodes_of_an_mtx_folder_are_text(tmp_path: Path) -> None:
    """`NA` and `007` are names like others."""
    adata = toy_counts()
    adata.obs_names = ["NA", "007", *adata.obs_names[2:]]
    adata.var_names = ["nan", "1e3", *adata.var_names[2:]]
    folder = write_mtx(adata, tmp_path / "m", 3, compress=True)
    table = write_labels(adata, tmp_path / "labels.csv")
    source = read(settings(paths=str(folder), label_table=str(table)))
    assert [*source.obs_names[:2], *source.var_names[:2]] == ["NA", "007", "nan", "1e3"]
