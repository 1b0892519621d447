"""Two processes that take turns: each trains a few epochs while the other waits, on the same data and threads."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np

from benchmarks.memory import peak_mb
from benchmarks.workers import ScviTools, Task, make_worker


@dataclass(frozen=True)
class Outcome:
    """Of one pair of processes.

    Attributes:
        ours: cells/s of each turn.
        peer: cells/s of each turn, the one after ours.
        log_likelihood: held out, nats a cell: ours, the peer's.
        peak_mb: largest resident memory after training: ours, the peer's.
    """

    ours: list[float]
    peer: list[float]
    log_likelihood: tuple[float, float]
    peak_mb: tuple[float, float]

    @property
    def ratios(self) -> list[float]:
        """Of each turn."""
        return [a / b for a, b in zip(self.ours, self.peer, strict=True)]


class _Turns:
    """Waits for its turn, and says after `burst` epochs how long they took."""

    def __init__(self, link: Connection, burst: int, n_cells: int) -> None:
        self.link, self.burst, self.n_cells, self.done = link, burst, n_cells, 0
        link.send("ready")
        self._wait()

    def _wait(self) -> None:
        self.link.recv()
        self.start = time.perf_counter()

    def end_of_epoch(self) -> None:
        """Hand over after the last epoch of a turn."""
        self.done += 1
        if self.done % self.burst == 0:
            self.link.send(self.burst * self.n_cells / (time.perf_counter() - self.start))
            self._wait()


def _serve(link: Connection, task: Task, side: str, peer: str, burst: int) -> None:
    worker = make_worker(task, side, peer)
    turns = _Turns(link, burst, worker.n_cells)
    if isinstance(worker, ScviTools):
        worker.train(_callback(turns))
    else:
        for _ in worker.epochs():
            turns.end_of_epoch()
    memory = peak_mb()
    link.send((worker.log_likelihood(), memory))


def _callback(turns: _Turns) -> Any:
    from lightning.pytorch.callbacks import Callback

    class EndOfEpoch(Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, *_: Any) -> None:
            turns.end_of_epoch()

    return EndOfEpoch()


def run_pair(task: Task, peer: str, burst: int) -> Outcome:
    """Alternate turns of `burst` epochs; the first turn of each warms up and is not counted."""
    context = multiprocessing.get_context("spawn")
    links, processes = {}, []
    for side in ("ours", "peer"):
        links[side], remote = context.Pipe()
        processes.append(context.Process(target=_serve, args=(remote, task, side, peer, burst)))
        processes[-1].start()
        remote.close()
        assert links[side].recv() == "ready"
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(task.n_epochs // burst):
        for side, link in links.items():
            link.send("go")
            speeds[side].append(link.recv())
    scores = {}
    for side, link in links.items():
        link.send("end")
        scores[side] = link.recv()
    for process in processes:
        process.join()
    (ours_score, ours_mb), (peer_score, peer_mb) = scores["ours"], scores["peer"]
    return Outcome(speeds["ours"][1:], speeds["peer"][1:], (ours_score, peer_score), (ours_mb, peer_mb))


def device_name(precision: str) -> str:
    """What the column `device` says."""
    return "cpu (bfloat16 products)" if precision == "medium" else "cpu"


def row(task: Task, peer: str, shape: tuple[int, int, int], outcome: Outcome) -> dict[str, Any]:
    """A line of results/train.csv: medians over turns, and the smallest and largest ratio of a turn."""
    ratios = outcome.ratios
    n_cells, n_genes, n_classes = shape
    return {
        "device": device_name(task.precision),
        "threads": task.threads, "n_cells": n_cells, "n_genes": n_genes, "n_classes": n_classes,
        "batch_size": task.batch_size, "peer": peer, "ours_cells_per_s": round(median(outcome.ours)),
        "peer_cells_per_s": round(median(outcome.peer)), "ratio": round(median(ratios), 2),
        "ratio_low": round(min(ratios), 2), "ratio_high": round(max(ratios), 2),
        "ours_log_likelihood": round(outcome.log_likelihood[0], 2),
        "peer_log_likelihood": round(outcome.log_likelihood[1], 2),
        "ours_peak_mb": round(outcome.peak_mb[0]), "peer_peak_mb": round(outcome.peak_mb[1]),
    }  # fmt: skip


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Slope of log time on log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
