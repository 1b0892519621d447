"""The benchmarks' own parts that need no peer: data, scores, the fitted exponent, and the page made of the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import page, train
from benchmarks.data import simulated
from benchmarks.pairs import Outcome, exponent, row
from benchmarks.workers import Ours, Task, log_mean_exp, normal_log_prob


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    path = tmp_path_factory.mktemp("benchmarks") / "counts.h5ad"
    simulated(400, 60, 3).write_h5ad(path)
    return Task(path, n_epochs=8, batch_size=64, threads=1, hidden=16, n_draws=16)


def test_simulated_counts_are_counts_of_every_class_in_every_split() -> None:
    prepared = simulated(2000, 300, 5)
    assert (prepared.X.data == prepared.X.data.round()).all() and (prepared.X.data > 0).all()
    assert (prepared.obs["library"] == np.asarray(prepared.X.sum(1)).ravel()).all()
    assert prepared.obs.groupby("split", observed=True)["label"].nunique().eq(5).all()
    again = simulated(2000, 300, 5)
    assert (prepared.X != again.X).nnz == 0


def test_training_raises_the_held_out_score(task: Task) -> None:
    worker = Ours(task, given_label=True)
    before = worker.log_likelihood(), worker.reconstruction()[0]
    for _ in worker.epochs():
        pass
    assert worker.log_likelihood() > before[0] + 0.1
    assert worker.reconstruction()[0] > before[1] + 0.1


def test_the_evidence_is_at_least_that_of_the_true_class(task: Task) -> None:
    # log p(x) = log Σ_y p(y) p(x|y) ≥ log p(y) + log p(x|y); with the same draws it holds up to their noise
    torch.manual_seed(1)
    without, given = (Ours(task, given_label=value).log_likelihood() for value in (False, True))
    assert without > given + np.log(1 / 3) - 1.0
    assert without < given + 20


def test_scores_of_one_known_latent() -> None:
    z = torch.tensor([[0.3, -1.2]])
    expected = torch.distributions.Normal(0.5, 2.0).log_prob(z).sum(-1)
    torch.testing.assert_close(normal_log_prob(z, 0.5, float(np.log(2.0))), expected)
    torch.testing.assert_close(log_mean_exp([torch.tensor([1.0]), torch.tensor([3.0])]).exp(), torch.tensor([11.4019]))


def test_the_exponent_of_a_power_law_is_found() -> None:
    sizes = [1000.0, 2000.0, 5000.0]
    assert exponent(sizes, [3 * size**1.3 for size in sizes]) == pytest.approx(1.3)


def test_a_line_of_the_table_holds_medians_and_the_spread() -> None:
    outcome = Outcome([10.0, 30.0, 20.0], [5.0, 5.0, 10.0], (-1.234, -2.0), (500.4, 900.0))
    found = row(Task(Path("x"), 6, 128, 2), "scvi", (100, 50, 3), outcome)
    assert (found["ratio_low"], found["ratio"], found["ratio_high"]) == (2.0, 2.0, 6.0)
    assert (found["ours_cells_per_s"], found["peer_cells_per_s"], found["ours_peak_mb"]) == (20, 5, 500)
    if train.RESULTS.exists():
        assert list(pd.read_csv(train.RESULTS).columns) == list(found)


def test_no_two_cases_of_the_suite_are_one_line() -> None:
    keys = [tuple(case.key.values()) for case in train.SUITE]
    assert len(set(keys)) == len(keys)


def test_the_page_is_made_of_the_tables() -> None:
    for path, tables in ((page.PAGE, page.TABLES), (page.SCALE_PAGE, page.SCALE_TABLES)):
        text = path.read_text()
        assert page.render(text, tables) == text
