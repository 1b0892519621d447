"""Wall time to SCVI's own held-out reconstruction on the eight donors of Kang 2018: `python -m benchmarks.quality`.

SCVI is trained as it trains by itself (its number of epochs, its warm-up); its held-out reconstruction at the end is
the goal. Then N-VAE is trained until it has that, counting only epochs with the full KL weight. Both see the same
training cells, genes, widths, batch size and threads. Scoring is not counted. Written to results/quality.csv.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import anndata
import click
import pandas as pd
import scipy.sparse

from benchmarks.data import KANG, as_prepared
from benchmarks.workers import Ours, ScviTools, Task
from nvae_bio.data.files import atomic_path

RESULTS = Path(__file__).parent / "results" / "quality.csv"
OUR_EPOCHS = 60  # at most; the warm-up takes the first quarter


class _Clock:
    """Seconds since the start, without those of what is done between `stop` and `go`."""

    def __init__(self) -> None:
        self.total = 0.0
        self.go()

    def go(self) -> None:
        self.start = time.perf_counter()

    def stop(self) -> float:
        self.total += time.perf_counter() - self.start
        return self.total


def time_of_peer(task: Task) -> tuple[float, float]:
    """Seconds of SCVI's training, and its held-out reconstruction after it."""
    worker = ScviTools(task, "scvi")
    clock = _Clock()
    worker.train_by_itself()
    return clock.stop(), worker.reconstruction()


def time_of_ours(task: Task, goal: float) -> tuple[float | None, float, int]:
    """Seconds until the goal (None if missed), the best reconstruction until then, and epochs used."""
    worker = Ours(task, given_label=True)
    clock, best, n_warmup = _Clock(), -float("inf"), task.n_epochs // 4
    for number, _ in enumerate(worker.epochs()):
        seconds = clock.stop()
        best = max(best, worker.reconstruction()) if number >= n_warmup else best
        if best >= goal:
            return seconds, best, number + 1
        clock.go()
    return None, best, task.n_epochs


@click.command(help=__doc__)
@click.option("--seeds", type=click.IntRange(1), default=3)
@click.option("--threads", type=click.IntRange(1), default=2)
def main(seeds: int, threads: int) -> None:
    """One line a seed."""
    source = anndata.read_h5ad(Path(os.environ["NVAE_BIO_DATA"]) / KANG)
    counts, label = scipy.sparse.csr_matrix(source.X), source.obs["cell_type"].cat.codes.to_numpy()
    peer_epochs = min(round(20_000 / len(label) * 400), 400)  # what SCVI chooses
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        path = RESULTS.parent / f".quality.{seed}.h5ad"
        as_prepared(counts, label, seed).write_h5ad(path)
        try:
            task = Task(path, OUR_EPOCHS, 128, threads, seed=seed)
            peer_s, goal = time_of_peer(Task(path, peer_epochs, 128, threads, seed=seed))
            ours_s, reached, n_epochs = time_of_ours(task, goal)
        finally:
            path.unlink()
        rows.append(
            {"seed": seed, "threads": threads, "peer": "scvi", "peer_epochs": peer_epochs, "peer_s": round(peer_s, 1),
             "peer_reconstruction": round(goal, 2), "ours_epochs": n_epochs,
             "ours_s": None if ours_s is None else round(ours_s, 1), "ours_reconstruction": round(reached, 2),
             "share": None if ours_s is None else round(ours_s / peer_s, 4)}
        )  # fmt: skip
        with atomic_path(RESULTS) as part:
            pd.DataFrame(rows).to_csv(part, index=False)
        click.echo(pd.DataFrame(rows[-1:]).to_string(index=False))


if __name__ == "__main__":
    main()
