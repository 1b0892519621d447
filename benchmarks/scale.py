"""Out of core: memory, time and disk of `prepare`, `train` and `embed` from a store, and its speed beside memory.

    python -m benchmarks.scale memory --cells 2000000 --scratch FOLDER   → benchmarks/results/scale_memory.csv
    python -m benchmarks.scale speed --cells 100000 --scratch FOLDER     → benchmarks/results/scale_speed.csv

Cells are simulated: of eight classes, negative binomial counts of 5,000 genes, about 500 a cell. Each command runs in a
process of its own with one thread, and all that was written is deleted at the end. `speed` trains the same cells from
memory and from the store, in turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio.data.files import append_rows, write_around

RESULTS = Path("benchmarks/results")
N_GENES, N_CLASSES, DEPTH = 5000, 8, 500
CHUNK = 8192
TURNS = 5
CHILD = """
import sys, time
from benchmarks.memory import peak_mb
from nvae_bio.cli import cli
start = time.perf_counter()
cli(sys.argv[1:], standalone_mode=False)
print(f"{time.perf_counter() - start:.2f} {peak_mb():.0f}")
"""
SPEED = """
import sys, time
from pathlib import Path
from nvae_bio.config import load_settings, FitSettings
from nvae_bio.data.store import open_store
from nvae_bio.data.files import read_prepared
from nvae_bio.train.step import train_models

data = open_store(Path(sys.argv[1])) if sys.argv[1].endswith(".store") else read_prepared(Path(sys.argv[1]))
for epochs in (1, 1, 3):  # the first one imports and compiles
    start = time.perf_counter()
    train_models(data, load_settings(sys.argv[2], FitSettings).with_training(max_epochs=epochs), progress=False)
    print(time.perf_counter() - start)
"""
READ = """
import sys, time
from pathlib import Path
import torch
from nvae_bio.data.samples import Windows
from nvae_bio.data.store import open_store

matrix = open_store(Path(sys.argv[1])).matrix
order = Windows(matrix.block_rows).order(torch.arange(len(matrix)), 0).split(512)
start = time.perf_counter()
with matrix.reading(order):
    for part in order:
        matrix.rows(part)
print(len(matrix) / (time.perf_counter() - start))
"""


def counts(n: int, seed: int) -> Iterator[sparse.csr_matrix]:
    """Cells × genes, CSR float32, some cells at a time; cell i is of class i % `N_CLASSES`."""
    random = np.random.default_rng(seed)
    base = random.lognormal(0, 1.5, N_GENES)
    share = base * random.lognormal(0, 0.5, (N_CLASSES, N_GENES))
    edges = np.cumsum(share / share.sum(1, keepdims=True), axis=1)
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        depth = np.maximum(random.poisson(random.gamma(4, DEPTH / 4, len(rows))), 50)
        owner = np.repeat(np.arange(len(rows)), depth)
        place = random.random(depth.sum())
        gene = np.empty(len(owner), np.int64)
        for name in range(N_CLASSES):
            own = rows[owner] % N_CLASSES == name
            gene[own] = np.searchsorted(edges[name], place[own])
        ones = np.ones(len(owner), np.float32)
        yield sparse.coo_matrix((ones, (owner, np.minimum(gene, N_GENES - 1))), (len(rows), N_GENES)).tocsr()


def simulate(n: int, path: Path) -> None:
    """Write an .h5ad of n cells, never held whole."""
    names = np.array([f"c{name}" for name in range(N_CLASSES)])
    obs = pd.DataFrame({"label": pd.Categorical(names[np.arange(n) % N_CLASSES])})
    obs.index = pd.Index([f"cell{row}" for row in range(n)], dtype=object)
    with h5py.File(path, "w") as file:
        for chunk in counts(n, 0):
            append_rows(chunk, file)
        write_around(AnnData(obs=obs, var=pd.DataFrame(index=[f"gene{gene}" for gene in range(N_GENES)])), file)


def run(code: str, *args: str) -> list[float]:
    """What a fresh process prints: numbers."""
    done = subprocess.run([sys.executable, "-c", code, *args], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def size_mb(path: Path) -> float:
    """Bytes of a file or of all files of a folder, in MB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def memory(n: int, scratch: Path, epochs: int) -> None:
    """Seconds, peak memory and disk of each step."""
    source, data, store = scratch / "source.h5ad", scratch / "data.h5ad", scratch / "data.store"
    simulate(n, source)
    split = {"test": 0.05, "validation": 0.05}
    dataset = json.dumps({"kind": "counts", "paths": [str(source)], "storage": "disk", "split": split})
    model = [f"--weights={scratch / 'model.safetensors'}", f"--card={scratch / 'model.json'}"]
    fit, embedding = {"training": {"max_epochs": epochs, "n_threads": 1}}, {"umap": False, "n_draws": 1}
    history, embedded = f"--history={scratch / 'history.parquet'}", scratch / "embedded.h5ad"
    of_model = [*model, f"--output={embedded}", "--settings", json.dumps(embedding)]
    steps = {
        "prepare": (["prepare", "--settings", dataset, f"--output={data}", f"--store={store}"], data),
        "train": (["train", f"--data={store}", *model, history, "--settings", json.dumps(fit)], None),
        "embed": (["embed", f"--data={data}", f"--store={store}", *of_model], embedded),
    }
    rows = []
    for step, (command, file) in steps.items():
        seconds, peak = run(CHILD, *command)
        rows.append(
            {
                "step": step, "cells": n, "epochs": epochs if step == "train" else 0,
                "source_mb": round(size_mb(source)), "h5ad_mb": 0 if file is None else round(size_mb(file)),
                "store_mb": round(size_mb(store)), "seconds": round(seconds), "peak_mb": round(peak),
            }
        )  # fmt: skip
        print(*rows[-1].values(), flush=True)
    new, path = pd.DataFrame(rows), RESULTS / "scale_memory.csv"
    old = pd.read_csv(path) if path.exists() else new.iloc[:0]
    parts = [part for part in (old[old["cells"] != n], new) if len(part)]
    pd.concat(parts).sort_values("cells", kind="stable").to_csv(path, index=False)


def speed(n: int, scratch: Path) -> None:
    """Training cells a second from memory and from a store, in turns."""
    source, data, store = scratch / "source.h5ad", scratch / "data.h5ad", scratch / "data.store"
    simulate(n, source)
    dataset = json.dumps({"kind": "counts", "paths": [str(source)], "storage": "disk"})
    run(CHILD, "prepare", "--settings", dataset, f"--output={data}", f"--store={store}")
    fit = json.dumps({"training": {"n_threads": 1, "first_layer": "dense"}})
    n_train, rows = 0.8 * n, []
    for turn in range(TURNS):
        found = {}
        for kind, path in (("memory", data), ("store", store)):
            _, one, three = run(SPEED, str(path), fit)
            found[kind] = 2 * n_train / (three - one)  # without reading, packing and the last passes
        read = run(READ, str(store))[0]
        ratio = found["store"] / found["memory"]
        rows.append((n, turn, round(found["memory"]), round(found["store"]), round(ratio, 3), round(read)))
        print(*rows[-1], flush=True)
    columns = ["cells", "turn", "memory_cells_per_s", "store_cells_per_s", "ratio", "read_cells_per_s"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(RESULTS / "scale_speed.csv", index=False)
    print("median ratio", statistics.median(table["ratio"]))


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--scratch", type=Path, required=True, help="folder that is made, and deleted at the end")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True)
    start = time.perf_counter()
    try:
        memory(args.cells, args.scratch, args.epochs) if args.what == "memory" else speed(args.cells, args.scratch)
    finally:
        shutil.rmtree(args.scratch)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
