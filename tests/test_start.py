"""How a new user begins: data to start with, notebooks without outputs, and the way from a file to a report."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import sparse

import nvae_bio
from nvae_bio.config import load_config, read_dataset
from nvae_bio.prepare import prepare_data
from tests.pages import text_in, tree_of

pytestmark = pytest.mark.usefixtures("warm")
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [path for path in sorted((ROOT / "docs").rglob("*.ipynb")) if "_build" not in path.parts]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`nvae-bio` in a folder, as from a shell."""
    return subprocess.run(["nvae-bio", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_counts_to_start_with_are_those_of_the_default_config() -> None:
    adata = nvae_bio.datasets.pbmc68k()
    assert adata.shape == (700, 765)
    assert np.array_equal(adata.X.data, np.round(adata.X.data)) and adata.X.data.min() >= 1
    assert (adata.obs["library"] > np.asarray(adata.X.sum(1)).ravel()).all()
    assert set(adata.obs["bulk_labels"][adata.obs["label"].isna()]) == {"CD34+"}
    built_in = load_config(ROOT / "config" / "config.yaml").datasets["pbmc68k"]
    own = read_dataset({"kind": "counts", "library_key": "library", "n_top_genes": None}, "here")
    expected, found = prepare_data(built_in), prepare_data(own, adata)
    assert (expected.X != found.X).nnz == 0
    for key in ("label", "split", "library"):
        assert expected.obs[key].astype(str).equals(found.obs[key].astype(str)), key


def test_pictures_to_start_with_know_the_place_of_each_pixel() -> None:
    adata = nvae_bio.datasets.digits()
    assert adata.shape == (1797, 64)
    assert np.array_equal(adata.X * 16, np.round(adata.X * 16)) and adata.X.max() == 1
    prepared = prepare_data(read_dataset({"kind": "images"}, "here"), adata)
    built_in = prepare_data(load_config(ROOT / "config" / "config.yaml").datasets["digits"])
    assert prepared.uns["nvae_data"]["fingerprint"] == built_in.uns["nvae_data"]["fingerprint"]


def test_there_are_notebooks() -> None:
    assert {path.name for path in NOTEBOOKS} >= {"counts.ipynb", "images.ipynb"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_no_outputs_and_names_no_machine(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert found["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert all("execution" not in cell["metadata"] for cell in cells)
    lines = [line.rstrip("\n") for cell in cells for line in "".join(cell["source"]).splitlines()]
    assert max(map(len, lines)) <= 90  # as wide as a page of the site


def edited(config: Path, **values: str) -> None:
    """Lines of a config with other values, as a user edits them; each key stands once."""
    text = config.read_text()
    for key, value in values.items():
        lines = [line for line in text.splitlines() if line.strip().startswith(f"{key}:")]
        assert len(lines) == 1, (key, lines)
        text = text.replace(lines[0], lines[0].split(":")[0] + f": {value}")
    config.write_text(text)


def write_digits(folder: Path, n: int = 400) -> None:
    """PNG files, a subfolder a class."""
    digits = nvae_bio.datasets.digits()[:n]
    for name, label, pixels in zip(digits.obs_names, digits.obs["label"], digits.X, strict=True):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255 * pixels.reshape(8, 8) + 0.5)).save(folder / label / f"{name}.png")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["counts", "pictures"])
def test_from_a_file_to_a_report(kind: str, tmp_path: Path) -> None:
    name = {"counts": "cells", "pictures": "pictures"}[kind]
    if kind == "counts":
        nvae_bio.datasets.pbmc68k().write_h5ad(tmp_path / "cells.h5ad")
    else:
        write_digits(tmp_path / "pictures")
    done = command(tmp_path, "init", {"counts": "cells.h5ad", "pictures": "pictures"}[kind])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "config.yaml is written; next: nvae-bio check config.yaml"
    edited(tmp_path / "config.yaml", seeds="[0]", n_refits="0", max_epochs="6")
    done = command(tmp_path, "check", "config.yaml", "--no-trial")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "config.yaml: no problem found; next: nvae-bio run config.yaml"
    done = command(tmp_path, "run", "config.yaml", "--cores", "2")
    assert done.returncode == 0, done.stderr
    report = f"results/{name}/report.html"
    assert done.stdout == f"Results:\n  {report}\n  results/{name}/\n  report.html\n"
    page = tree_of((tmp_path / report).read_text(encoding="utf-8"))
    said = text_in(page)
    assert text_in(next(page.iter("h1"))) == name
    classes = yaml.safe_load((tmp_path / "config.yaml").read_text())["datasets"][name]["label_key"]
    assert f"label: {classes}" in said
    assert ("700 cells" in said and "Dendritic cells" in said) if kind == "counts" else "400 images" in said


def test_a_wrong_file_for_each_door_is_one_line(tmp_path: Path) -> None:
    write_digits(tmp_path / "pictures", 40)
    (tmp_path / "pictures" / "0" / "000.png").write_text("no picture")
    cells = nvae_bio.datasets.pbmc68k()
    cells.X = sparse.csr_matrix(cells.X / cells.X.sum(1) * 1e4)
    cells.write_h5ad(tmp_path / "normalised.h5ad")
    config = "{datasets: {a: {kind: counts, paths: normalised.h5ad}}, runs: {a: {dataset: a}}}"
    (tmp_path / "config.yaml").write_text(config)
    for arguments, wanted in (
        (("init", "cells.h5ad", "--output", "new.yaml"), "cells.h5ad: no such file"),
        (("init", "pictures", "--output", "new.yaml"), "pictures/0/000.png: cannot be read as a picture"),
        (("check", "config.yaml", "--no-trial"), "values are not whole"),
        (("run", "--example", "pbmc68"), "did you mean 'pbmc68k'"),
    ):
        done = command(tmp_path, *arguments)
        assert done.returncode == 2, arguments
        (line,) = done.stderr.splitlines()
        assert line.startswith("nvae-bio: ") and wanted in line
    done = command(tmp_path, "init", "normalised.h5ad", "--output", "new.yaml")
    assert "to decide: kind: no matrix holds counts" in done.stdout
