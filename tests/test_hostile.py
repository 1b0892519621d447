"""Files made to harm: bombs, absurd sizes, code, links to other files. One line each; and no network is used."""

from __future__ import annotations

import ast
import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import nvae_bio
from nvae_bio import guard
from nvae_bio.config import WorkflowSettings, load_config
from nvae_bio.data.files import open_prepared, read_prepared
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.samples import to_samples
from nvae_bio.data.source import read_source
from nvae_bio.errors import UserError
from nvae_bio.train.checkpoint import Checkpoints, Keeping, Saved, write_checkpoint
from nvae_bio.train.state import State
from nvae_bio.trained import load_model, save_model
from tests.data_files import settings, toy_counts, toy_features, toy_pixels, write_10x_h5, write_idx, write_mtx
from tests.fuzz.readers import _sign_model
from tests.test_bad_input import check_refused
from tests.toys import fit_settings, prepared_counts, trained

LABELS = np.arange(40, dtype=np.uint8) % 2


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 200 MB free."""
    monkeypatch.setattr(guard, "free_memory", lambda: 200_000_000)


def write_h5ad(folder: Path) -> Path:
    toy_counts().write_h5ad(folder / "a.h5ad")
    return folder / "a.h5ad"


def write_zarr(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of anndata, about the version of the format
        toy_counts().write_zarr(folder / "a.zarr")


# --- absurd sizes and bombs ------------------------------------------------------------------------------------------


def test_hdf5_that_claims_terabytes(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["obs/depth"]
        made = file["obs"].create_dataset("depth", shape=(2**40,), chunks=(1024,), dtype="f8")
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert path.stat().st_size < 1_000_000
    check_refused(settings(paths=str(path)), tmp_path, "a.h5ad", "needs more memory than", "damaged, or too large")


@pytest.mark.parametrize("shape", [(2**60,), (2**31, 2**31), (2**20, 2**12, 2**12)])
def test_npz_that_claims_what_no_machine_has(shape: tuple[int, ...], tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("train_images.npy", header.getvalue() + bytes(100))
    check_refused(settings("images", paths=str(tmp_path / "a.npz")), tmp_path, "a.npz")


def test_npz_bomb(little_memory: None, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", train_images=np.zeros((400, 1000, 1000), np.uint8), train_labels=LABELS)
    assert (tmp_path / "a.npz").stat().st_size < 1_000_000
    check_refused(settings("images", paths=str(tmp_path / "a.npz")), tmp_path, "a.npz", "needs more memory")


def test_idx_bomb(little_memory: None, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, 400, 1000, 1000))
        for _ in range(400):
            file.write(bytes(1_000_000))
    write_idx(LABELS, tmp_path / "train-labels-idx1-ubyte.gz")
    check_refused(settings("images", paths=str(path)), tmp_path, "train-images", "needs more memory")


def test_csv_bomb(little_memory: None, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"name,label,f0\n")
        for _ in range(400):
            file.write(b"s,c,1\n" * 170_000)
    check_refused(settings("features", paths=str(tmp_path / "a.csv.gz")), tmp_path, "a.csv.gz", "memory")


def test_parquet_bomb(little_memory: None, tmp_path: Path) -> None:
    text = pa.DictionaryArray.from_arrays(np.zeros(10**6, np.int8), ["A" * 1000])
    rows = pa.table({"f0": text, "f1": np.ones(10**6)})
    with pq.ParquetWriter(tmp_path / "a.parquet", rows.schema) as writer:
        for _ in range(10):
            writer.write_table(rows)
    assert (tmp_path / "a.parquet").stat().st_size < 2_000_000
    check_refused(settings("features", paths=str(tmp_path / "a.parquet")), tmp_path, "a.parquet", "memory")


@pytest.mark.parametrize("size", ["1000000000000 90 3", "40 1000000000000 3", "40 90 1000000000000000"])
def test_mtx_that_claims_what_no_machine_has(size: str, tmp_path: Path) -> None:
    folder = write_mtx(toy_counts(), tmp_path / "m", 2, compress=False)
    (folder / "matrix.mtx").write_text(f"%%MatrixMarket matrix coordinate integer general\n{size}\n1 1 1\n")
    check_refused(settings(paths=str(folder)), tmp_path, "matrix.mtx")


@pytest.mark.parametrize("side", [12_000, 50_000])
def test_picture_bomb(side: int, tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    (tmp_path / "p" / "a").mkdir(parents=True)
    head = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "p" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + data)
    check_refused(settings("images", paths=str(tmp_path / "p")), tmp_path, "0.png", "pixels")


# --- damaged matrices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "place", "value"),
    [("indices", 5, 2**30), ("indices", 5, -7), ("indptr", 3, 0), ("indptr", -1, 0), ("indptr", -1, 2**30)],
)
@pytest.mark.parametrize("kind", ["h5ad", "10x"])
def test_entries_outside_of_a_sparse_matrix(key: str, place: int, value: int, kind: str, tmp_path: Path) -> None:
    path = write_h5ad(tmp_path) if kind == "h5ad" else write_10x_h5(toy_counts(), tmp_path / "a.h5", 3)
    with h5py.File(path, "r+") as file:
        file["X" if kind == "h5ad" else "matrix"][key][place] = value
    check_refused(settings(paths=str(path)), tmp_path, path.name)


def test_indices_that_are_no_numbers(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path)
    with h5py.File(path, "r+") as file:
        attributes = dict(file["X/indices"].attrs)
        values = file["X/indices"][()].astype("S5")
        del file["X/indices"]
        file["X"].create_dataset("indices", data=values).attrs.update(attributes)
    check_refused(settings(paths=str(path)), tmp_path, "a.h5ad", "damaged")


def test_complex_values(tmp_path: Path) -> None:
    adata = toy_counts()
    adata.X = adata.X.toarray().astype(complex)
    adata.write_h5ad(tmp_path / "a.h5ad")
    check_refused(settings(paths=str(tmp_path / "a.h5ad")), tmp_path, "a.h5ad", "complex128", "real numbers")


@pytest.mark.parametrize("values", [(1e308, -1e308), (1e200, 2e200), (1e-200, 2e-200), (0, 1e40)])
@pytest.mark.parametrize("standardize", [True, False])
def test_features_beyond_32_bits_are_no_infinities(
    values: tuple[float, float], standardize: bool, tmp_path: Path
) -> None:
    table = toy_features().assign(f1=np.resize(values, 60))
    table.to_csv(tmp_path / "a.csv", index=False)
    options = settings("features", paths=str(tmp_path / "a.csv"), index_column="smiles", standardize=standardize)
    try:
        found = nvae_bio.prepare_data(options)
    except UserError as error:
        assert "a.csv: feature 'f1': values from" in str(error)
    else:
        assert np.isfinite(found.X).all()
        assert not standardize or abs(found.to_df()["f1"]).max() > 0.5


def test_odd_names_are_written(tmp_path: Path) -> None:
    adata = toy_counts()
    frame = adata.to_df().astype(int).assign(cell_type=adata.obs["cell_type"], note="a\0b")
    frame[""], frame["a/b"], frame["."] = "x", "y", "z"
    frame.index = pd.Index(["c\0d", *frame.index[1:]])
    frame.to_parquet(tmp_path / "a.parquet")
    nvae_bio.prepare.prepare(settings(paths=str(tmp_path / "a.parquet")), tmp_path / "out.h5ad")
    found = read_prepared(tmp_path / "out.h5ad")
    assert {"unnamed", "a_b", "source_unnamed"} < {*found.obs}
    assert found.obs["note"].iloc[0] == "a\ufffdb"
    assert found.obs_names[0] == "c\ufffdd"


# --- code and paths --------------------------------------------------------------------------------------------------


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_npz_with_code(name: str, tmp_path: Path) -> None:
    arrays = {"train_images": toy_pixels(), "train_labels": LABELS, name: np.array([Payload(tmp_path / "ran")] * 40)}
    np.savez(tmp_path / "a.npz", **arrays)
    check_refused(settings("images", paths=str(tmp_path / "a.npz")), tmp_path, "a.npz")
    assert not (tmp_path / "ran").exists()
    assert np.load(tmp_path / "a.npz", allow_pickle=True)[name].dtype == object
    assert (tmp_path / "ran").exists()  # the file is what it is said to be


@pytest.mark.parametrize("which", ["weights", "card", "checkpoint"])
def test_pickles_are_not_read(which: str, tmp_path: Path) -> None:
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_model(trained("counts"), weights, card)
    content = pickle.dumps(Payload(tmp_path / "ran"))
    path = {"weights": weights, "card": card, "checkpoint": tmp_path / "seed_0.safetensors"}[which]
    path.write_bytes(content)
    if which == "checkpoint":
        assert Checkpoints(Keeping(tmp_path), fit_settings(), [0], "", "cpu").saved is None
    else:
        with pytest.raises(UserError, match=path.name):
            load_model(weights, card)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch {0}']", "!!python/name:os.system", "!x 1"])
def test_yaml_with_code(tag: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("datasets: " + tag.format(tmp_path / "ran"))
    with pytest.raises(UserError, match=r"a\.yaml: not valid YAML: could not determine a constructor"):
        load_config(tmp_path / "a.yaml")
    assert not (tmp_path / "ran").exists()


def test_nothing_in_the_package_loads_code() -> None:
    """Neither pickles nor eval, anywhere: np.load says allow_pickle=False, YAML has its own safe loader."""
    found = []
    for path in Path(nvae_bio.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                found += [f"{path}: {name}" for name in names if name in ("pickle", "dill", "joblib", "cloudpickle")]
            if isinstance(node, ast.Call):
                text, given = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
                is_load = text in ("np.load", "numpy.load") and given.get("allow_pickle") != "False"
                is_yaml = text == "yaml.load" and given.get("Loader") != "_StrictLoader"
                if text in ("torch.load", "eval", "exec", "pd.read_pickle") or is_load or is_yaml:
                    found.append(f"{path}: {ast.unparse(node)}")
    assert not found


def test_zip_members_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    path, made = tmp_path / "deep" / "deeper" / "a.npz", io.BytesIO()
    np.save(made, toy_pixels())
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../escaped.npy", str(tmp_path / "absolute.npy"), "train_images.npy"):
            archive.writestr(name, made.getvalue())
    before = sorted(tmp_path.rglob("*"))
    check_refused(settings("images", paths=str(path)), tmp_path, "a.npz", "train_labels")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("what", ["picture", "folder"])
def test_links_out_of_a_folder_of_pictures(what: str, tmp_path: Path) -> None:
    for place in (tmp_path / "p" / "a", tmp_path / "other"):
        place.mkdir(parents=True)
        Image.new("L", (4, 4)).save(place / "0.png")
    link = tmp_path / "p" / ("a/1.png" if what == "picture" else "b")
    link.symlink_to(tmp_path / "other" / ("0.png" if what == "picture" else ""))
    check_refused(settings("images", paths=str(tmp_path / "p")), tmp_path, str(link), "a link to what is outside of")
    link.unlink()
    (tmp_path / "p" / "a" / "1.png").symlink_to("../a/0.png")  # inside: allowed
    (tmp_path / "p" / "a" / "loop.png").symlink_to("loop.png")
    assert read_source(settings("images", paths=str(tmp_path / "p")), RemovalLog()).n_obs == 2


def test_links_out_of_a_zarr(tmp_path: Path) -> None:
    write_zarr(tmp_path)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "a.zarr" / "more").symlink_to(tmp_path / "secret")
    check_refused(settings(paths=str(tmp_path / "a.zarr")), tmp_path, "a.zarr/more", "a link to what is outside of")


@pytest.mark.parametrize("how", ["link", "storage", "virtual"])
@pytest.mark.parametrize("ending", [".h5ad", ".h5"])
def test_hdf5_that_reads_other_files(how: str, ending: str, tmp_path: Path) -> None:
    path = write_h5ad(tmp_path) if ending == ".h5ad" else write_10x_h5(toy_counts(), tmp_path / "a.h5", 3)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.arange(90.0)
    with h5py.File(path, "r+") as file:
        group = file["obs" if ending == ".h5ad" else "matrix"]
        if how == "link":
            group["secret"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        elif how == "storage":
            group.create_dataset("secret", (90,), "u1", external=[(str(tmp_path / "other.h5"), 0, 90)])
        else:
            layout = h5py.VirtualLayout((90,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (90,))
            group.create_virtual_dataset("secret", layout)
    check_refused(settings(paths=str(path)), tmp_path, path.name, "secret", "allowed: data in the file")


# --- our own files, made anew ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("obs/label", "obs['label']"),
        ("obs/split", "obs['split']"),
        ("uns/nvae_data/classes", "['classes']"),
        ("X", "X"),
    ],
)
def test_prepared_files_that_lack_something(lacking: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    prepared_counts().copy().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file[lacking]
        if lacking.startswith("obs"):
            file["obs"].attrs["column-order"] = [n for n in file["obs"].attrs["column-order"] if n not in lacking]
    for read in (lambda: read_prepared(path), lambda: open_prepared(path).__enter__()):
        with pytest.raises(UserError) as error:
            read()
        assert f"no {said}" in str(error.value).replace("uns['nvae_data']", "")


def test_a_prepared_file_with_a_class_twice(tmp_path: Path) -> None:
    prepared = prepared_counts().copy()
    prepared.uns["nvae_data"]["classes"] = ["c0", "c1", "c0"]
    prepared.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(UserError, match=r"a\.h5ad: uns\['nvae_data'\]\['classes'\] are c0, c1, c0; allowed: each once"):
        read_prepared(tmp_path / "a.h5ad")


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_prepared_counts_that_are_none(value: float) -> None:
    adata = prepared_counts().copy()
    adata.X.data[7] = value
    with pytest.raises(UserError, match="the counts of the data are not all finite and 0 or above"):
        to_samples(adata, ["c0"])


def test_a_damaged_matrix_of_a_prepared_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    prepared_counts().copy().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][10] = 2**30
    with open_prepared(path) as opened, pytest.raises(UserError, match="damaged"):
        to_samples(opened, ["c0"])


def test_weights_that_do_not_fit_their_card(tmp_path: Path) -> None:
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_model(trained("counts"), weights, card)
    state = trained("counts").network.state_dict()
    name = min(state)
    more = torch.zeros(3)
    for changed in ({**state, name: state[name][:0]}, {"x": more}, {**state, "x": more}):
        weights.write_bytes(save({key: value.contiguous() for key, value in changed.items()}))
        _sign_model(tmp_path)
        with pytest.raises(UserError, match=r"model\.safetensors: not the weights that .* describes \('.*' differs\)"):
            load_model(weights, card)
    card.write_text(card.read_text().replace('"hidden":[16]', '"hidden":[1000000000]'))
    _sign_model(tmp_path)
    with pytest.raises(UserError, match="not the weights that"):  # and no such network is made
        load_model(weights, card)


def test_a_checkpoint_of_another_form(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Keeping(tmp_path), fit_settings(), [0], "", "cpu")
    state = State.start([trained("counts").network], [0], fit_settings().training)
    saved = Saved(checkpoints.identity, 1, {**state.position(), "active": [5]}, state.tensors())
    write_checkpoint(checkpoints.path, checkpoints.before, saved)
    again = Checkpoints(Keeping(tmp_path), fit_settings(), [0], "", "cpu")
    with pytest.raises(UserError, match=r"seed_0\.safetensors: cannot be taken up \(.*\); delete it to start anew"):
        again.resume(state)


# --- config ----------------------------------------------------------------------------------------------------------


def laughs(first: str, more: str) -> str:
    """Nine levels, each of ten times the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {more.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs("[x]", "[{}]"), "over 100000 values"),
        (laughs("{x: 1}", "{{<<: [{}]}}"), "over 100000 keys merged|datasets: this key is required"),
        ("a: &a [*a]", "over 100000 values"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("a: " + "9" * 10_000, "not valid YAML"),
        ("#" * 3_000_000, "over 2000000 bytes"),
        ("\n".join(f"k{i}: 1" for i in range(20_000)), "datasets: this key is required"),
        ("? [a]\n: 1", "not valid YAML"),
        ("a: \ud800".encode("utf-8", "surrogatepass"), "cannot be read"),
    ],
    ids=["aliases", "merges", "itself", "deep", "number", "long", "keys", "list as key", "surrogate"],
)
def test_yaml_bombs(text: str | bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as error:
        load_config(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000
    assert "datasets" in WorkflowSettings.model_fields


# --- network ---------------------------------------------------------------------------------------------------------

NO_NETWORK = """
import sys

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        raise SystemExit(f"network: {event} {arguments}")

sys.addaudithook(forbid)
"""


def offline(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python in which nothing may speak to another machine, this one included."""
    text = NO_NETWORK + textwrap.dedent(code)
    root = str(Path(__file__).parents[1])  # for the tests' own helpers, however pytest was started
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", text]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path}
    )


def test_the_ban_on_the_network_works(tmp_path: Path) -> None:
    done = offline("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')", tmp_path)
    assert "network: socket." in done.stderr


def test_readers_and_steps_use_no_network(tmp_path: Path) -> None:
    counts = toy_counts()
    write_h5ad(tmp_path)
    write_zarr(tmp_path)
    write_10x_h5(counts, tmp_path / "a.h5", 3)
    write_mtx(counts, tmp_path / "mtx", 3, compress=True)
    counts.to_df().to_parquet(tmp_path / "a.parquet")
    counts.to_df().to_csv(tmp_path / "a.csv")
    np.savez(tmp_path / "a.npz", train_images=toy_pixels(), train_labels=LABELS)
    code = """
    from nvae_bio.cli import main
    from nvae_bio.data.removed import RemovalLog
    from nvae_bio.data.source import read_source
    from tests.data_files import settings

    for path in ("a.h5ad", "a.zarr", "a.h5", "mtx", "a.parquet", "a.csv"):
        assert read_source(settings(paths=path), RemovalLog()).n_obs == 90, path
    assert read_source(settings("images", paths="a.npz"), RemovalLog()).n_obs == 40
    steps = [
        ["prepare", "--settings", '{"kind": "images", "builtin": "digits"}', "--output", "digits.h5ad"],
        ["train", "--data", "digits.h5ad", "--weights", "m.safetensors", "--card", "m.json", "--history", "h.parquet",
         "--settings", '{"training": {"max_epochs": 1}}'],
        ["embed", "--data", "digits.h5ad", "--weights", "m.safetensors", "--card", "m.json", "--output", "e.h5ad",
         "--settings", '{"umap": false}'],
    ]
    for step in steps:
        assert main(step) == 0, step
    """
    done = offline(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
