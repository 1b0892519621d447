"""A config and its data checked before any run: every problem is told, and estimates follow the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import sparse

from nvae_bio.check.costs import coefficients, epochs_of, estimate_run, jobs_of, training_seconds, unmeasured
from nvae_bio.check.data import DataFacts, check_dataset
from nvae_bio.check.show import duration
from nvae_bio.check.step import check, run_problems
from nvae_bio.check.trial import Units, measure_units, trial_data
from nvae_bio.cli import main
from nvae_bio.config import CountsSettings, RunSettings, load_config
from nvae_bio.places import unwritable
from nvae_bio.prepare import prepare_data
from tests.data_files import settings, toy_counts, toy_features

ROOT = Path(__file__).parent.parent / "config"
UNITS = Units(0.01, 0.001, 0.002, 1.0, 1e6, 64, is_measured=True)


def run_of(**values: Any) -> RunSettings:
    return RunSettings.model_validate({"dataset": "cells", "model": {"n_shared": 3, "hidden": [16]}, **values})


def write_config(folder: Path, dataset: dict[str, Any] | None = None, **run: Any) -> Path:
    """A data set of toy counts, and a run of it."""
    toy_counts(n_cells=150).write_h5ad(folder / "cells.h5ad")
    cells = {"kind": "counts", "paths": "cells.h5ad", "label_key": "cell_type", "n_top_genes": None}
    model = {"n_shared": 3, "hidden": [16]}
    values = {
        "datasets": {"cells": cells | (dataset or {})},
        "runs": {"cells": {"dataset": "cells", "seeds": [0, 1], "model": model, "training": {"max_epochs": 5}} | run},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_right_config_has_a_table_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["check", str(config)]) == 0
    said = capsys.readouterr()
    assert not said.err
    for part in ("data set cells: counts, 150 samples × 40 features", "timed here", "train_model", "no problem found"):
        assert part in said.out
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_without_a_trial_nothing_is_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(folder)
    monkeypatch.setattr("nvae_bio.check.trial.encode", lambda *_: pytest.fail("timed"))
    (run,) = check(config, trial=False).runs
    assert not run.units.is_measured
    assert all(np.isfinite(job.seconds) and job.seconds > 0 for job in run.jobs)


def test_every_problem_is_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = {"label_key": "cell", "donor_key": "donor", "batch_key": "run", "library_key": "umis"}
    config = write_config(folder, dataset, report={"gene_sets": "no.gmt"})
    assert main(["check", str(config), "--no-trial"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("nvae-bio: ") for line in lines)
    for said in (
        "label_key: no column 'cell'",
        "donor_key: no column 'donor'",
        "library_key: no column 'umis'",
        "no.gmt",
    ):
        assert sum(said in line for line in lines) == 1, said
    assert not any("batch_key" in line for line in lines)


def test_every_wrong_key_is_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(folder, {"n_top_gene": 5, "split": {"test": 2}}, seeds=[0, 0], model={"n_shared": -1})
    assert main(["check", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    for key in (
        "datasets.cells.n_top_gene",
        "datasets.cells.split.test",
        "runs.cells.seeds",
        "runs.cells.model.n_shared",
    ):
        assert sum(key in line for line in lines) == 1, key


def test_what_joins_runs_to_data_is_told_of_each_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(folder)
    values = yaml.safe_load(config.read_text())
    values["runs"] |= {"b": {"dataset": "sells"}, "c": {"dataset": "cells", "model": {"backbone": "conv"}}}
    config.write_text(yaml.safe_dump(values))
    assert main(["check", str(config)]) == 2
    error = capsys.readouterr().err
    assert "runs.b.dataset: 'sells' is no data set" in error
    assert "runs.c.model.backbone: 'conv' needs data of kind 'images'" in error


DATA: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"paths": "no.h5ad"}, "no.h5ad: no such file or folder"),
    "no matrix": ({"matrix": "layers/counts"}, "matrix: no 'layers/counts'; allowed: X"),
    "no counts": ({"matrix": "layers/log"}, "no counts: matrix: X could be counts"),
    "rare classes": ({"min_samples_per_class": 60}, "classes with fewer than min_samples_per_class 60"),
    "few donors": ({"donor_key": "person", "split": {"by": "donor", "n_folds": 9}}, "n_folds"),
    "hold out": ({"hold_out": {"run": "run 7"}}, "hold_out.run: no sample has 'run 7'"),
    "drop": ({"drop": {"doublet": True}}, "drop: no column 'doublet'; allowed: "),
    "label table": ({"label_table": "no.csv"}, "no.csv: no such file"),
    "pictures": ({"kind": "images", "n_top_genes": None}, "n_top_genes: unknown key"),
    "covariate": ({"continuous_covariates": ["person"]}, "column 'person' holds"),
    "size factor": ({"size_factor_key": "cell_type"}, "of 'cell_type' are no numbers above 0"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_are_held_against_their_settings(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = DATA[case]
    config = write_config(folder, change)
    adata = toy_counts(n_cells=150)
    adata.layers["log"] = sparse.csr_matrix(adata.X).log1p()
    adata.write_h5ad("cells.h5ad")
    assert main(["check", str(config), "--no-trial"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_the_samples_are_those_that_prepare_keeps(folder: Path) -> None:
    toy_counts(n_cells=150).write_h5ad("cells.h5ad")
    for change in ({}, {"max_samples": 90}, {"split": {"by": "donor", "n_folds": 3}, "donor_key": "person"}):
        options = settings(paths="cells.h5ad", batch_key="run", **change)
        facts, prepared = check_dataset("cells", options), prepare_data(options)
        assert not facts.problems
        assert (facts.n, facts.n_features) == prepared.shape
        assert facts.sizes == prepared.obs["label"].value_counts().sort_index().to_dict()
        assert facts.n_values == pytest.approx(prepared.X.nnz, rel=0.05)
        if "split" not in change:
            sizes = {part: int((prepared.obs["split"] == part).sum()) for part in ("train", "validation", "test")}
            assert {part: facts.part(part) for part in sizes} == sizes


def test_a_table_of_features_is_checked(folder: Path) -> None:
    toy_features().assign(f0=np.nan).to_csv("wine.csv", index=False)
    facts = check_dataset("wine", settings("features", paths="wine.csv"))
    assert any("missing, NaN or infinite" in line for line in facts.problems)
    toy_features().to_csv("wine.csv", index=False)
    facts = check_dataset("wine", settings("features", paths="wine.csv"))
    assert not facts.problems
    assert facts.n_features == prepare_data(settings("features", paths="wine.csv")).n_vars


def test_what_a_run_asks_for_must_be_there() -> None:
    facts = check_dataset(
        "cells", CountsSettings(kind="counts", builtin="pbmc68k", label_key="bulk_labels", rare_classes="drop")
    )
    run = run_of(
        report={"associate": ["phase", "phaze"]},
        generation={"n_per_class": {"Dendritic": 2, "Dendrite": 1}, "samples": ["AAAGCCTGGCTAAC-1", "none"]},
        evaluation={"factor_keys": ["age"]},
    )
    lines = run_problems(run, facts)
    assert len(lines) == 4
    for said in (
        "no column 'phaze'; did you mean 'phase'?",
        "no class 'Dendrite'",
        "no sample 'none'",
        "no column 'age'",
    ):
        assert sum(said in line for line in lines) == 1, said


def facts() -> DataFacts:
    return check_dataset("digits", load_config(ROOT / "config.yaml").datasets["digits"])


def test_trial_data_have_every_class_in_training_and_validation() -> None:
    found = facts()
    some = trial_data(found, 64)
    counted = some.obs.groupby(["split", "label"], observed=True).size()
    assert set(counted.index) >= {(part, name) for part in ("train", "validation") for name in found.sizes}
    assert some.n_vars == found.n_features


def test_a_trial_measures_all_units() -> None:
    units, trial = measure_units(facts(), run_of(dataset="digits", audit={"n_steps": 2}).for_kind("images"), 0.2)
    assert min(units.step, units.encode, units.audit, units.flops) > 0
    assert trial.batch_size == units.batch_size == 128


def test_estimates_grow_with_the_work() -> None:
    found = facts()

    def seconds(**values: Any) -> dict[str, float]:
        return {job.rule: job.n * job.seconds for job in estimate_run(UNITS, found, run_of(**values))}

    base = seconds(seeds=[0], training={"max_epochs": 100})
    assert seconds(seeds=[0, 1], training={"max_epochs": 100})["train_model"] == pytest.approx(2 * base["train_model"])
    assert seconds(seeds=[0], training={"max_epochs": 200})["train_model"] > base["train_model"]
    more = seconds(seeds=[0], training={"max_epochs": 100}, report={"n_refits": 40})
    assert more["refit_null"] > 1.5 * base["refit_null"]
    assert "refit_null" not in seconds(report={"n_refits": 0})
    assert "evaluate_run" not in base and "evaluate_run" in seconds(evaluation="on")
    assert "plant_programmes" in seconds(power="on")


def test_training_seconds_are_steps_times_the_time_of_a_step() -> None:
    found = facts()
    n, held = found.part("train"), found.part("validation")
    expected = 7 * (-(-n // 64) * 0.01 + held * 0.01 / 64 / 3)
    assert training_seconds(UNITS, found, run_of(), 7) == pytest.approx(expected)


def test_epochs_lie_between_the_first_that_patience_allows_and_all() -> None:
    epochs = epochs_of(run_of(training={"max_epochs": 100, "warmup_share": 0.25, "patience": 10}), 1000)
    assert (epochs.fewest, epochs.most) == (36, 100)
    assert epochs.fewest < epochs.likely < epochs.most
    assert epochs_of(run_of(training={"max_epochs": 100, "patience": None}), 1000).fewest == 100
    assert epochs_of(run_of(), 80_000).most == 100


def test_jobs_are_those_of_the_workflow() -> None:
    """test_workflow.py counts the same jobs in a dry run."""
    found = jobs_of(load_config(ROOT / "test.yaml").runs["cells"], is_image=False, is_evaluated=False)
    assert (found["train_model"], found["refit_null"], found["plant_programmes"]) == (2, 3, 2)
    assert "plot_images" not in found
    assert found["describe_model"] == 2
    assert found["build_page"] == 1


def test_the_coefficients_are_there_and_not_below_0() -> None:
    known = coefficients()
    assert known["about"]["jobs"] > 30
    assert "kang" not in known["about"]["workflows"]
    for part in ("seconds", "peak_mb"):
        assert {"train_model", "embed_data", "refit_null", "prepare_data"} <= set(known[part])
        assert all(value >= 0 for coefs in known[part].values() for value in coefs.values())
    assert unmeasured(UNITS, facts(), run_of()).step > 0


def test_a_run_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(folder)
    assert main(["check", str(config), "--run", "cels"]) == 2
    assert "no run 'cels'; did you mean 'cells'? allowed: cells" in capsys.readouterr().err


def test_a_file_in_the_way_of_the_results_is_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(folder)
    Path("results").write_text("")
    assert main(["check", str(config), "--no-trial"]) == 2
    assert "results: cannot be made: results is a file" in capsys.readouterr().err
    assert unwritable(folder / "a" / "b") is None


def test_too_little_room_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(folder)
    monkeypatch.setattr("nvae_bio.check.step.free_mb", lambda _: 0.5)
    checked = check(config, trial=False)
    assert any("but 0 MB are free" in line for line in checked.problems)


def test_what_jobs_took_before_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(folder)
    Path("benchmarks/train_model").mkdir(parents=True)
    for seed, seconds in ((0, 400), (1, 800)):
        Path(f"benchmarks/train_model/cells.{seed}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0\t{1000 + seed}\n")
    Path("benchmarks/train_model/cells2.0.tsv").write_text("s\tmax_rss\n9\t9\n")
    assert main(["check", str(config), "--no-trial"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "train_model" in line]
    assert line.split()[-3:] == ["10", "min", "1,001"]


def test_durations_have_their_unit() -> None:
    assert json.dumps([duration(one) for one in (0.4, 99, 101, 7200)]) == '["0 s", "99 s", "2 min", "2.0 h"]'


@pytest.mark.parametrize("name", ["kang_muscat_ctrl_stim", "scmixology_5batch"])
def test_real_cells_are_checked(name: str, data_folder: Path) -> None:
    options = CountsSettings(kind="counts", paths=str(data_folder / name / f"{name}.h5ad"), label_key="cell_type")
    found = check_dataset("real", options)
    assert not found.problems
    assert found.n > 1000
    assert len(found.sizes) == 5
