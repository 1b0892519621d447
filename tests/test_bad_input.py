"""Bad input ends in one clear line, from memory and from files, and leaves nothing half-written."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse

from nvae_bio.config import Dataset, WorkflowSettings, parse_settings
from nvae_bio.errors import UserError
from nvae_bio.prepare import prepare, prepare_data
from tests.data_files import (
    settings,
    toy_counts,
    toy_features,
    toy_pixels,
    write_10x_h5,
    write_idx,
    write_labels,
    write_mtx,
)


def check_refused(options: Dataset, folder: Path, *said: str) -> str:
    """`prepare` refuses these settings in one line with all of `said`, and writes nothing at all."""
    output = folder / "out" / "prepared.h5ad"
    with pytest.raises(UserError) as error:
        prepare(options, output)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000
    for words in said:
        assert words in message, message
    assert not output.parent.exists() or not list(output.parent.iterdir())
    return message


def with_values(change: Callable[[np.ndarray], None]) -> AnnData:
    adata = toy_counts()
    values = adata.X.toarray().astype(np.float32)
    change(values)
    return AnnData(sparse.csr_matrix(values), obs=adata.obs, var=adata.var)


def set_value(value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[3, 4] = value

    return change


def log_normalise(values: np.ndarray) -> None:
    values[:] = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)


def renamed(which: str) -> AnnData:
    adata = toy_counts()
    names = getattr(adata, which).tolist()
    frame = adata.obs if which == "obs_names" else adata.var
    frame.index = [names[1], *names[1:]]
    return adata


def with_obs(**columns: object) -> AnnData:
    adata = toy_counts()
    for name, values in columns.items():
        adata.obs[name] = values
    return adata


CASES: dict[str, tuple[Callable[[], AnnData], dict[str, object], tuple[str, ...]]] = {
    "NaN": (lambda: with_values(set_value(np.nan)), {}, ("matrix 'X'", "1 values are NaN")),
    "infinite": (lambda: with_values(set_value(np.inf)), {}, ("matrix 'X'", "1 values are infinite")),
    "negative": (lambda: with_values(set_value(-2)), {}, ("matrix 'X'", "1 values are negative")),
    "huge": (lambda: with_values(set_value(2.0**30)), {}, ("1.07374e+09", "16777216")),
    "log-normalised": (
        lambda: with_values(log_normalise),
        {},
        ("looks log-normalised: pass raw counts, or set kind: features",),
    ),
    "repeated barcode": (lambda: renamed("obs_names"), {}, ("barcode 'cell-1'", "make_unique: true")),
    "repeated gene": (lambda: renamed("var_names"), {}, ("gene 'GENE1'", "make_unique: true")),
    "no label column": (toy_counts, {"label_key": "cluster"}, ("label_key", "'cluster'", "cell_type, person, run")),
    "no batch column": (toy_counts, {"batch_key": "plate"}, ("batch_key", "'plate'", "person")),
    "no covariate column": (
        toy_counts,
        {"categorical_covariates": ["person", "plate"]},
        ("categorical_covariates", "'plate'", "person, run, depth, library, n_genes"),
    ),
    "a covariate of one level": (
        lambda: with_obs(plate=["p"] * 80 + [None] * 10),
        {"categorical_covariates": ["plate"]},
        ("categorical_covariates", "'plate'", "fewer than 2 values over the 63 training samples", "at least 2"),
    ),
    "a covariate that is constant": (
        lambda: with_obs(age=[3.0] * 80 + [np.inf] * 10),
        {"continuous_covariates": ["age"]},
        ("continuous_covariates", "'age'", "fewer than 2 values", "at least 2"),
    ),
    "a covariate that is no number": (
        toy_counts,
        {"continuous_covariates": ["depth", "run"]},
        ("continuous_covariates", "'run' holds 'run ", "numbers", "categorical_covariates"),
    ),
    "no donor column": (toy_counts, {"donor_key": "who"}, ("donor_key", "'who'", "person")),
    "no split column": (toy_counts, {"split": {"key": "part"}}, ("split.key", "'part'", "person")),
    "no library column": (toy_counts, {"library_key": "all"}, ("library_key", "'all'", "depth")),
    "library too small": (toy_counts, {"library_key": "depth"}, ("library_key", "'depth'", "'cell-0'", "at least")),
    "no such layer": (toy_counts, {"matrix": "layers/counts"}, ("'layers/counts'", "allowed: X")),
    "one class": (lambda: with_obs(cell_type="only"), {}, ("'cell_type' has 1 classes", "only", "at least 2")),
    "no labels": (lambda: with_obs(cell_type=np.nan), {}, ("'cell_type' has 0 classes", "at least 2")),
    "rare class": (
        lambda: with_obs(cell_type=["few"] * 7 + ["a", "b", "a"] * 20 + ["b"] * 23),
        {"min_samples_per_class": 20},
        ("'few' (7)", "min_samples_per_class 20", "rare_classes", "join_classes"),
    ),
    "unknown class to join": (
        toy_counts,
        {"join_classes": {"T": ["type 0", "type 9"]}},
        ("join_classes", "'type 9'", "type 0, type 1, type 2"),
    ),
    "class joined into another's name": (
        toy_counts,
        {"join_classes": {"type 2": ["type 0", "type 1"]}},
        ("join_classes", "'type 2'"),
    ),
    "unknown unlabeled value": (toy_counts, {"unlabeled_values": ["none"]}, ("unlabeled_values", "'none'", "type 0")),
    "no cell of min_counts": (toy_counts, {"qc": {"min_counts": 10**6}}, ("qc.min_counts 1000000", "none of 90 cells")),
    "no cell of min_genes": (toy_counts, {"qc": {"min_genes": 41}}, ("qc.min_genes 41", "none of 90 cells")),
    "no mitochondrial gene": (toy_counts, {"qc": {"max_mito_share": 0.1}}, ("qc.mito_prefix", "'MT-'", "GENE0")),
    "no cell of max_mito_share": (
        toy_counts,
        {"qc": {"max_mito_share": 0.1, "mito_prefix": "gene"}},
        ("qc.max_mito_share 0.1", "none of 90 cells"),
    ),
    "no gene of min_cells": (toy_counts, {"qc": {"min_cells": 91}}, ("qc.min_cells 91", "none of 40 genes")),
    "loess on too little": (
        lambda: toy_counts(30, 6),
        {"n_top_genes": 3, "batch_key": "person"},
        ("n_top_genes 3", "batch_key", "n_top_genes: null"),
    ),
    "too few samples for all classes": (
        toy_counts,
        {"max_samples": 50, "min_samples_per_class": 20},
        ("max_samples: 50", "3 classes", "at least 60"),
    ),
    "fewer donors than folds": (
        toy_counts,
        {"donor_key": "run", "split": {"by": "donor", "n_folds": 3}},
        ("split.n_folds", "3 folds for 2 donors", "run 0, run 1"),
    ),
    "a donor unknown": (
        lambda: with_obs(person=[None] + [f"d{i % 6}" for i in range(89)]),
        {"donor_key": "person", "split": {"by": "donor", "n_folds": 3}},
        ("donor_key", "1 samples have no donor"),
    ),
    "a class of one donor": (
        lambda: with_obs(cell_type=["rare"] * 10 + ["a", "b"] * 40, person=["p0"] * 10 + ["p1", "p2", "p2", "p1"] * 20),
        {"donor_key": "person", "split": {"by": "donor", "n_folds": 3}},
        ("split", "no training samples"),
    ),
    "unknown split value": (
        lambda: with_obs(part=["train"] * 89 + ["holdout"]),
        {"split": {"key": "part"}},
        ("split.key", "'part'", "'holdout'", "training", "testing"),
    ),
    "split value missing": (
        lambda: with_obs(part=["train"] * 89 + [None]),
        {"split": {"key": "part"}},
        ("split.key", "'part'", "no value"),
    ),
    "split without training": (lambda: with_obs(part="test"), {"split": {"key": "part"}}, ("no training samples",)),
    "class without training": (
        lambda: with_obs(part=np.where(np.arange(90) % 3 == 1, "test", "train")),
        {"split": {"key": "part"}},
        ("'type 1' has no training samples",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_counts_in_memory_and_in_a_file(name: str, tmp_path: Path) -> None:
    make, options, said = CASES[name]
    adata = make()
    with pytest.raises(UserError) as error:
        prepare_data(settings(**options), adata)
    assert all(words in str(error.value) for words in said), str(error.value)
    path = tmp_path / "bad.h5ad"
    adata.write_h5ad(path)
    check_refused(settings(**options, paths=str(path)), tmp_path, str(path), *said)


def test_unnamed_source(tmp_path: Path) -> None:
    check_refused(settings(), tmp_path, "builtin", "paths")
    with pytest.raises(UserError, match="both"):
        parse_settings({"kind": "counts", "builtin": "pbmc68k", "paths": "a"}, type(settings()), "here")
    nothing = {"datasets": {"a": {"kind": "counts"}}, "runs": {"r": {"dataset": "a"}}}
    with pytest.raises(UserError, match=r"datasets\.a: give either `builtin` or `paths`"):
        parse_settings(nothing, WorkflowSettings, "here")


MISSING = ["a.h5ad", "a.zarr", "a.h5", "folder", "a.csv", "a.tsv.gz", "a.parquet"]


@pytest.mark.parametrize("name", MISSING)
def test_missing_counts(name: str, tmp_path: Path) -> None:
    check_refused(settings(paths=str(tmp_path / name)), tmp_path, name, "no such file")


@pytest.mark.parametrize("name", ["a.npz", "train-images-idx3-ubyte.gz", "pictures", "a.h5ad"])
def test_missing_images(name: str, tmp_path: Path) -> None:
    check_refused(settings("images", paths=str(tmp_path / name), image_key="X"), tmp_path, name, "no such file")


@pytest.mark.parametrize("kind", ["counts", "images", "features"])
def test_unknown_ending(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.loom").write_text("x")
    check_refused(
        settings(kind, paths=str(tmp_path / "a.loom")), tmp_path, "a.loom", "unknown file ending", "allowed", ".h5ad"
    )


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5", "a.parquet", "a.csv.gz", "a.npz", "a-images-idx3-ubyte.gz"])
@pytest.mark.parametrize("how", ["wrong", "empty"])
def test_wrong_format(name: str, how: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"this is no such file\n" if how == "wrong" else b"")
    kind = "images" if "npz" in name or "idx" in name else "counts"
    check_refused(settings(kind, paths=str(tmp_path / name)), tmp_path, name, "cannot be read as")


def test_empty_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",G1,G2\n")
    check_refused(settings(paths=str(tmp_path / "a.csv")), tmp_path, "a.csv", "no rows")
    (tmp_path / "b.csv").write_text("")
    check_refused(settings(paths=str(tmp_path / "b.csv")), tmp_path, "b.csv", "cannot be read as")


@pytest.mark.parametrize("ending", [".h5ad", ".h5", ".parquet", ".csv.gz", ".npz", "-images-idx3-ubyte.gz", ".png"])
def test_truncated(ending: str, tmp_path: Path) -> None:
    adata, path, kind = toy_counts(), tmp_path / f"a{ending}", "counts"
    frame = pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names)
    if ending == ".h5ad":
        adata.write_h5ad(path)
    elif ending == ".h5":
        write_10x_h5(adata, path, 3)
    elif ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".csv.gz":
        frame.to_csv(path)
    elif ending == ".npz":
        np.savez(path, X=toy_pixels(), label=np.arange(40) % 2)
        kind = "images"
    elif ending == ".png":
        (tmp_path / "pictures" / "a").mkdir(parents=True)
        path = tmp_path / "pictures" / "a" / "1.png"
        Image.fromarray(toy_pixels(1, (50, 50))[0]).save(path)
        kind = "images"
    else:
        write_idx(toy_pixels(), path)
        write_idx(np.zeros(40, dtype=np.uint8), tmp_path / "a-labels-idx1-ubyte.gz")
        kind = "images"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    options = {"image_key": "X"} if kind == "images" else {}
    source = tmp_path / "pictures" if ending == ".png" else path
    check_refused(settings(kind, paths=str(source), **options), tmp_path, str(path), "cannot be read as")


@pytest.mark.parametrize("missing", ["matrix.mtx", "barcodes.tsv", "features.tsv"])
def test_incomplete_mtx_folder(missing: str, tmp_path: Path) -> None:
    folder = write_mtx(toy_counts(), tmp_path / "m", 3, compress=True)
    (folder / f"{missing}.gz").unlink()
    check_refused(settings(paths=str(folder)), tmp_path, str(folder), missing)


def test_truncated_mtx_folder(tmp_path: Path) -> None:
    folder = write_mtx(toy_counts(), tmp_path / "m", 3, compress=True)
    path = folder / "matrix.mtx.gz"
    path.write_bytes(path.read_bytes()[:200])
    check_refused(settings(paths=str(folder)), tmp_path, str(folder), "cannot be read as a 10x mtx folder")


def test_mtx_folder_with_other_barcodes(tmp_path: Path) -> None:
    folder = write_mtx(toy_counts(), tmp_path / "m", 2, compress=False)
    (folder / "barcodes.tsv").write_text("a\nb\n")
    check_refused(
        settings(paths=str(folder)),
        tmp_path,
        str(folder),
        "40 features × 90 cells, but genes.tsv has 40 lines and barcodes.tsv 2",
    )


def test_10x_file_without_genes(tmp_path: Path) -> None:
    path = write_10x_h5(toy_counts(), tmp_path / "a.h5", 3, ["Antibody Capture"] * 40)
    check_refused(settings(paths=str(path)), tmp_path, str(path), "Gene Expression", "Antibody Capture")


def test_table_of_repeated_genes_and_of_genes_as_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",G1,G1,G2,cell_type\n" + "".join(f"c{i},1,2,3,t{i % 2}\n" for i in range(12)))
    check_refused(settings(paths=str(tmp_path / "a.csv")), tmp_path, "a.csv", "gene 'G1'", "make_unique: true")
    (tmp_path / "b.csv").write_text(",one\nG1,x\nG2,y\n")
    check_refused(settings(paths=str(tmp_path / "b.csv")), tmp_path, "b.csv", "transpose: true")


def test_repeated_columns_that_are_no_genes(tmp_path: Path) -> None:
    rows = "".join(f"c{i},1,t,t{i % 2}\n" for i in range(12))
    (tmp_path / "a.csv").write_text(",G1,cell_type,cell_type\n" + rows)
    check_refused(settings(paths=str(tmp_path / "a.csv")), tmp_path, "a.csv", "'cell_type'", "more than once")
    check_refused(
        settings("features", paths=str(tmp_path / "a.csv"), label_key="cell_type"), tmp_path, "more than once"
    )
    table = str(tmp_path / "a.csv")
    check_refused(settings(builtin="pbmc68k", label_table=table), tmp_path, "a.csv", "'cell_type'", "more than once")


def test_table_with_a_hole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",G1,G2,cell_type\n" + "".join(f"c{i},1,,t{i % 2}\n" for i in range(12)))
    check_refused(settings(paths=str(tmp_path / "a.csv")), tmp_path, "a.csv", "12 values are NaN")


# --- joined files and label tables -----------------------------------------------------------------------------------


def _two(folder: Path, genes: str = "GENE", barcodes: str = "cell") -> list[str]:
    one, two = toy_counts(), toy_counts()
    two.var_names = [f"{genes}{i}" for i in range(40)]
    two.obs_names = [f"{barcodes}-{i}" for i in range(90)]
    for name, adata in (("one", one), ("two", two)):
        adata.write_h5ad(folder / f"{name}.h5ad")
    return [str(folder / "one.h5ad"), str(folder / "two.h5ad")]


def test_joined_files_with_the_same_barcodes(tmp_path: Path) -> None:
    check_refused(settings(paths=_two(tmp_path)), tmp_path, "'cell-0'", "one, two", "make_unique: true")


def test_joined_files_without_a_common_gene(tmp_path: Path) -> None:
    check_refused(settings(paths=_two(tmp_path, "OTHER", "more")), tmp_path, "one, two", "no genes in common")


def test_the_same_file_twice(tmp_path: Path) -> None:
    path = _two(tmp_path)[0]
    check_refused(settings(paths=[path, path]), tmp_path, path, "twice")


def test_label_tables(tmp_path: Path) -> None:
    adata = toy_counts()
    path = write_10x_h5(adata, tmp_path / "a.h5", 3)
    strangers = adata.copy()
    strangers.obs_names = [f"stranger-{i}" for i in range(90)]
    table = str(write_labels(strangers, tmp_path / "strangers.csv"))
    check_refused(settings(paths=str(path), label_table=table), tmp_path, table, "'barcode'", "stranger-0", "cell-0")

    good = str(write_labels(adata, tmp_path / "good.csv"))
    options = {"paths": str(path), "label_table": good}
    check_refused(settings(**options, label_table_key="cell"), tmp_path, good, "label_table_key", "'cell'", "barcode")
    check_refused(settings(**options, label_table_key="run"), tmp_path, good, "'run'", "more than once")
    check_refused(settings(**options, label_key="kind"), tmp_path, "label_key", "'kind'", "cell_type")
    check_refused(settings(paths=str(path), label_table=str(tmp_path / "no.csv")), tmp_path, "no.csv", "no such file")
    check_refused(settings(paths=str(path), label_table=str(path)), tmp_path, "a.h5", "unknown file ending", ".csv")


# --- images ----------------------------------------------------------------------------------------------------------


def _pictures(folder: Path, *images: Image.Image, name: str = "{}.png") -> str:
    (folder / "pictures" / "a").mkdir(parents=True)
    for index, image in enumerate(images):
        image.save(folder / "pictures" / "a" / name.format(index))
    return str(folder / "pictures")


def test_pictures_of_differing_shape(tmp_path: Path) -> None:
    paths = _pictures(tmp_path, Image.new("L", (4, 6)), Image.new("L", (5, 6)))
    check_refused(settings("images", paths=paths), tmp_path, "0.png", "1.png", "1×6×4", "1×6×5", "resize")
    check_refused(settings("images", paths=paths, crop=(6, 5)), tmp_path, "0.png", "crop", "6×5", "6×4")


def test_pictures_of_differing_colour(tmp_path: Path) -> None:
    paths = _pictures(tmp_path, Image.new("L", (4, 4)), Image.new("RGB", (4, 4)))
    check_refused(settings("images", paths=paths), tmp_path, "1×4×4", "3×4×4", "grey: true")


def test_picture_of_several_frames(tmp_path: Path) -> None:
    paths = _pictures(tmp_path)
    frames = [Image.new("L", (4, 4), i) for i in range(3)]
    frames[0].save(Path(paths) / "a" / "stack.tif", save_all=True, append_images=frames[1:])
    check_refused(settings("images", paths=paths), tmp_path, "stack.tif", "3 frames", "one image a file")


def test_picture_of_32_bit_integers(tmp_path: Path) -> None:
    paths = _pictures(tmp_path, Image.new("I", (4, 4), 70000), name="{}.tif")
    check_refused(settings("images", paths=paths), tmp_path, "0.tif", "32-bit")


def test_folder_without_pictures(tmp_path: Path) -> None:
    check_refused(settings("images", paths=_pictures(tmp_path)), tmp_path, "pictures", "one subfolder a class", ".png")


def _npz(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "a.npz", **arrays)
    return str(folder / "a.npz")


LABELS = np.arange(40) % 2


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (toy_pixels() * 1.0, ("float pixels from 0 to 255", "0 to 1")),
        (toy_pixels() / -255, ("float pixels", "0 to 1")),
        (np.full((40, 6, 5), np.nan), ("1200 pixels are NaN",)),
        (toy_pixels().astype(np.int64), ("int64", "uint8, uint16, bool")),
        (toy_pixels(40, (3, 6, 5)), ("(40, 3, 6, 5)", "channels last")),
        (toy_pixels(40, (30,)), ("(40, 30)", "height, width")),
    ],
)
def test_pixels_of_a_wrong_kind(pixels: np.ndarray, said: tuple[str, ...], tmp_path: Path) -> None:
    options = settings("images", paths=_npz(tmp_path, X=pixels, y=LABELS), image_key="X", label_key="y")
    check_refused(options, tmp_path, "a.npz", *said)


def test_npz_keys(tmp_path: Path) -> None:
    path = _npz(tmp_path, X=toy_pixels(), y=LABELS, classes=np.array(["a", "b"]), secret=np.array([{}] * 40))
    check_refused(settings("images", paths=path), tmp_path, path, "image_key", "X, y, classes")
    check_refused(settings("images", paths=path, image_key="Y"), tmp_path, path, "'Y'", "X, y, classes")
    check_refused(settings("images", paths=path, image_key="X"), tmp_path, path, "label_key", "'label'", "allowed: y")
    check_refused(
        settings("images", paths=path, image_key="X", label_key="secret"), tmp_path, path, "'secret'", "allowed: y"
    )
    path = _npz(tmp_path, train_images=toy_pixels(), train_labels=np.ones((40, 3)))
    check_refused(settings("images", paths=path), tmp_path, path, "train_labels", "(40, 3)", "one label for each of 40")


def test_idx_labels(tmp_path: Path) -> None:
    path = str(write_idx(toy_pixels(), tmp_path / "train-images-idx3-ubyte"))
    check_refused(settings("images", paths=path), tmp_path, "train-labels-idx1-ubyte", "no such file")
    labels = str(write_idx(np.zeros(7, dtype=np.uint8), tmp_path / "train-labels-idx1-ubyte"))
    check_refused(settings("images", paths=path), tmp_path, labels, "(7,)", "40 images")
    two = {"label_paths": [labels, labels]}
    check_refused(settings("images", paths=path, **two), tmp_path, "label_paths", "2 files for 1")
    other = str(write_idx(toy_pixels(), tmp_path / "pictures.idx"))
    check_refused(settings("images", paths=other), tmp_path, other, "label_paths")
    with gzip.open(tmp_path / "long-images-idx3-ubyte.gz", "wb") as file:
        file.write(Path(path).read_bytes() + b"more")
    long = str(tmp_path / "long-images-idx3-ubyte.gz")
    check_refused(settings("images", paths=long), tmp_path, long, "cannot be read as IDX")


def test_image_shape(tmp_path: Path) -> None:
    adata = AnnData(toy_pixels(40, (30,)), obs=pd.DataFrame({"label": LABELS}, index=map(str, range(40))))
    with pytest.raises(UserError, match=r"image_shape: \[channels, height, width\]"):
        prepare_data(settings("images"), adata)
    with pytest.raises(UserError, match=r"\[1, 6, 6\] is 36 pixels, but X has 30 columns"):
        prepare_data(settings("images", image_shape=(1, 6, 6)), adata)
    with pytest.raises(UserError, match=r"crop: 9×9 is larger"):
        prepare_data(settings("images", image_shape=(1, 6, 5), crop=(9, 9)), adata)
    with pytest.raises(UserError, match=r"grey: needs 3 channels"):
        prepare_data(settings("images", image_shape=(2, 3, 5), grey=True), adata)
    adata.var = pd.DataFrame({"channel": 0, "row": 0, "column": [0, *range(29)]}, index=adata.var_names)
    with pytest.raises(UserError, match="each pixel"):
        prepare_data(settings("images"), adata)


# --- features --------------------------------------------------------------------------------------------------------


def test_features(tmp_path: Path) -> None:
    table = toy_features()
    path = tmp_path / "t.csv"
    options = {"paths": str(path), "index_column": "smiles"}
    for column, value in (("f1", None), ("f3", np.inf)):
        table.assign(**{column: table[column].where(table.index > 2, value)}).to_csv(path, index=False)
        check_refused(
            settings("features", **options), tmp_path, str(path), f"'{column}'", "3 values", "NaN or infinite"
        )
    table.to_csv(path, index=False)
    check_refused(settings("features", **{**options, "index_column": "id"}), tmp_path, "index_column", "'id'", "smiles")
    check_refused(
        settings("features", **options, feature_columns=["f9"]), tmp_path, "feature_columns", "'f9'", "f0, f1"
    )
    check_refused(settings("features", **options, feature_columns=["label"]), tmp_path, "'label' holds text", "numbers")
    table.assign(smiles="C").to_csv(path, index=False)
    check_refused(settings("features", **options), tmp_path, "sample 'C'", "make_unique: true")
    table[["label", "smiles"]].to_csv(path, index=False)
    check_refused(settings("features", **options), tmp_path, "no column of numbers", "label")
    table[["label"]].assign(f0=1.0).to_csv(path, index=False)
    check_refused(settings("features", paths=str(path)), tmp_path, "none of 1 features varies")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("kind", ["counts", "features"])
def test_tables_with_several_names_a_row(kind: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    table = pd.DataFrame({"f0": [1, 2], "label": ["a", "b"]}, index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)]))
    if ending == ".csv":
        path.write_text("f0,label\n" + "".join(f"{i},{i},1,a\n" for i in range(9)))
    else:
        table.to_parquet(path)
    check_refused(settings(kind, paths=str(path), label_key="label"), tmp_path, path.name, "each row has 2 names")
