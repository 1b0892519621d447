"""The files that pages of the documentation name: cells, a config, and the results of a tiny run."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

import nvae_bio
from nvae_bio import NVAE
from nvae_bio.data.files import write_anndata
from tests.docs_code import ROOT
from tests.toys import raw_counts

NAMES = {"c0": "B cells", "c1": "NK cells", "c2": "T cells"}
CONFIG = """datasets:
  mine:
    kind: counts
    paths: cells.h5ad
    label_key: cell_type
    batch_key: batch
    donor_key: donor
    condition_key: condition
runs:
  mine:
    dataset: mine
    seeds: [0, 1]
"""


def make_cells(seed: int) -> AnnData:
    """300 cells, 60 genes, three classes, two batches, seven donors, a treatment."""
    adata = raw_counts(seed)
    adata.obs["cell_type"] = adata.obs.pop("label").map(NAMES)
    place = np.arange(adata.n_obs)
    adata.obs["batch"], adata.obs["plate"] = [f"lane{1 + i % 2}" for i in place], [f"plate{i % 2}" for i in place]
    return adata


@cache
def make_model() -> NVAE:
    """Two seeds, a few epochs, a report without a null."""
    keys = {"batch_key": "batch", "donor_key": "donor", "condition_key": "condition"}
    model = NVAE(
        make_cells(0), "cell_type", **keys, seeds=(0, 1), dataset={"n_top_genes": None}, model={"hidden": [16]},
        training={"max_epochs": 5, "batch_size": 64}, embedding={"umap": False},
    )  # fmt: skip
    model.fit(progress=False).factors(0, progress=False)
    return model


def names_in_memory() -> dict[str, Any]:
    """What pages take for granted in Python: samples, new ones, and a trained model with its data."""
    model = make_model()
    return {
        "nvae_bio": nvae_bio, "adata": make_cells(0), "new_adata": make_cells(1), "trained": model.model,
        "prepared": model.prepared,
    }  # fmt: skip


def make_files(folder: Path) -> None:
    """What pages take for granted in the working folder, by the names that the workflow gives its files."""
    for name, seed in (("cells", 0), ("next", 1), ("lane1", 2), ("lane2", 3)):
        make_cells(seed).write_h5ad(folder / f"{name}.h5ad")
    (folder / "mine.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(ROOT / "config", folder / "config")
    model = make_model()
    model.save(folder / "results/mine")
    for run in ("mine", "pbmc68k"):
        for seed in model.models:
            (folder / f"results/{run}/{seed}").mkdir(parents=True, exist_ok=True)
            write_anndata(model.embed(seed, write=False), folder / f"results/{run}/{seed}/embedded.h5ad")
    (folder / "resources/prepared").mkdir(parents=True)
    write_anndata(model.prepared, folder / "resources/prepared/mine.h5ad")
