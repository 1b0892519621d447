"""The workflow: lint, dry runs, rule graph, and a small run from raw samples to figures."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from nvae_bio.check.costs import jobs_of
from nvae_bio.config import FitSettings, ModelSettings, QuerySettings, load_config, load_settings
from nvae_bio.data.files import SCORE_COLUMNS

pytestmark = pytest.mark.usefixtures("warm")
ROOT = Path(__file__).resolve().parent.parent
STUDIES = sorted(ROOT.glob("config/studies/*.yaml"))
CONFIGS = sorted({*ROOT.glob("config/*.yaml"), *ROOT.glob("config/*/*.yaml")} - set(STUDIES))
TINY = ROOT / "config" / "test.yaml"
PLOT_RULES = {"plot_figures", "plot_embedding", "plot_images", "plot_pages", "plot_swaps", "plot_scores"}
GRAPH = {
    ("prepare_data", "train_model"),
    ("prepare_data", "embed_data"),
    ("prepare_data", "generate_samples"),
    ("prepare_data", "plot_figures"),
    ("prepare_data", "train_base"),
    ("prepare_data", "refit_null"),
    ("train_base", "refit_null"),
    ("refit_null", "report_factors"),
    ("train_model", "embed_data"),
    ("train_model", "generate_samples"),
    ("train_model", "plot_figures"),
    ("embed_data", "report_factors"),
    ("embed_data", "plot_embedding"),
    ("report_factors", "plot_figures"),
    ("report_factors", "plot_images"),
    ("report_factors", "plot_pages"),
    ("report_factors", "suggest_settings"),
    ("prepare_data", "audit_labels"),
    ("train_model", "audit_labels"),
    ("audit_labels", "report_factors"),
    ("generate_samples", "plot_images"),
    ("prepare_data", "swap_classes"),
    ("train_model", "swap_classes"),
    ("swap_classes", "plot_swaps"),
    ("train_model", "evaluate_run"),
    ("embed_data", "evaluate_run"),
    ("report_factors", "evaluate_run"),
    ("evaluate_run", "plot_scores"),
    *((rule, "build_page") for rule in ("prepare_data", "train_model", "embed_data", "report_factors")),
    *((rule, "build_page") for rule in ("generate_samples", "swap_classes", "evaluate_run")),
    ("build_page", "all"),
    ("embed_data", "export_run"),
    ("report_factors", "export_run"),
    *((rule, "describe_model") for rule in ("train_model", "embed_data", "report_factors", "evaluate_run")),
    *((rule, "all") for rule in ("embed_data", "report_factors", "suggest_settings", "evaluate_run", *PLOT_RULES)),
    *((rule, "all") for rule in ("generate_samples", "swap_classes", "export_run", "describe_model")),
}


def snakemake(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the workflow in `folder`, with the environment that runs the tests."""
    command = ["python", "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, *arguments]
    return subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)


def dry_run(config: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return snakemake("--dry-run", "--cores", "2", "--configfile", config, *arguments, folder=folder)


def job_counts(output: str) -> dict[str, int]:
    """Rule → number of jobs, from the table that a dry run prints."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE) if name != "total"}


def simulated(config: Path) -> set[str]:
    """The files that the config's own simulations write."""
    return {f"resources/simulated/{name}.h5ad" for name in load_config(config).simulations}


def with_inputs(config: Path, folder: Path) -> None:
    """Empty files where the config expects raw ones: enough for a dry run."""
    settings = load_config(config)
    sources = [simulation.source_settings for simulation in settings.simulations.values()]
    for source in [*settings.datasets.values(), *filter(None, sources)]:
        for path in set(source.path_list) - simulated(config):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()


def test_lint_is_clean() -> None:
    done = snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_dry_run_of_every_config_has_the_jobs_it_should(config: Path, tmp_path: Path) -> None:
    with_inputs(config, tmp_path)
    done = dry_run(config, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = load_config(config)
    n_models = sum(len(run.seeds) for run in settings.runs.values())
    n_images = sum(len(run.seeds) for run in settings.runs.values() if settings.datasets[run.dataset].kind == "images")
    used = {run.dataset for run in settings.runs.values()}
    made = {path for name in used for path in settings.datasets[name].path_list} & simulated(config)
    expected = dict.fromkeys(("train_model", "embed_data", "generate_samples", "plot_embedding"), n_models)
    expected |= {"simulate_data": len(made), "prepare_data": len(used), "plot_images": n_images, "all": 1}
    expected |= dict.fromkeys(("report_factors", "suggest_settings", "plot_figures", "plot_pages"), len(settings.runs))
    labelled = {name: run for name, run in settings.runs.items() if run.model.variant != "vae"}
    expected["swap_classes"] = sum(len(run.seeds) for run in labelled.values())
    expected["plot_swaps"] = sum(
        len(run.seeds) for run in labelled.values() if settings.datasets[run.dataset].kind == "images"
    )
    n_evaluated = sum(run.evaluation is not None for run in settings.runs.values())
    expected |= {"evaluate_run": n_evaluated, "plot_scores": n_evaluated}
    expected |= {"build_page": sum(run.page is not None for run in settings.runs.values())}
    exported = [run for run in settings.runs.values() if run.export is not None]
    expected |= {"export_run": len(exported), "describe_model": sum(len(run.seeds) for run in exported)}
    expected |= {"audit_labels": sum(len(run.seeds) for run in settings.runs.values() if run.is_audited)}
    expected |= {"plant_programmes": sum(len(run.plantings) for run in settings.runs.values())}
    expected |= {"train_base": sum(bool(run.refits) for run in settings.runs.values())}
    expected |= {"refit_null": sum(len(parts) for run in settings.runs.values() for parts in run.refits.values())}
    assert job_counts(done.stdout) == {rule: count for rule, count in expected.items() if count}
    estimated = Counter({"prepare_data": len(used), "simulate_data": len(made), "all": 1})
    for run in settings.runs.values():
        estimated.update(jobs_of(run, settings.datasets[run.dataset].kind == "images", run.evaluation is not None))
    assert job_counts(done.stdout) == +estimated


@pytest.mark.parametrize("config", STUDIES, ids=lambda path: path.stem)
def test_a_study_asks_for_its_table_and_trains_nothing_twice(config: Path, tmp_path: Path) -> None:
    with_inputs(config, tmp_path)
    counts = job_counts(dry_run(config, tmp_path).stdout)
    settings = load_config(config)
    scored = {name for name, run in settings.study_runs.items() if run.baseline is None}
    models = {name for name in scored if settings.study_runs[name].is_trained}
    is_response = settings.study is not None and settings.study.evaluate == "condition"
    held_out = {name for name in models if is_response and settings.datasets[settings.runs[name].dataset].hold_out}
    trained = {name: settings.runs[name] for name in set(settings.trained_as.values()) & models}
    null = {
        (settings.trained_as[name], kind, part)
        for name in models - held_out
        for kind, parts in settings.runs[name].refits.items()
        for part in range(len(parts))
    }
    n_models = sum(len(run.seeds) for run in trained.values())
    assert (counts["train_model"], counts["embed_data"], counts.get("refit_null", 0)) == (n_models, n_models, len(null))
    n_scored = counts.get("evaluate_run", 0) + counts.get("evaluate_run_with_extra", 0)
    assert (n_scored, counts["report_factors"]) == (len(scored), len(models - held_out))
    n_baselines = counts.get("evaluate_baseline", 0) + counts.get("evaluate_peer", 0)
    assert n_baselines == len(settings.study_runs) - len(scored)
    assert counts["prepare_data"] == len({run.dataset for run in trained.values()})
    assert (counts["gather_study"], counts["all"]) == (1, 1)
    assert "plot_figures" not in counts
    kept = {figure for figures in settings.study.figures.values() for figure in figures} if settings.study else set()
    assert ("plot_images" in counts) == bool(kept - {"posterior", "embedding_shared", "embedding_specific", "swaps"})


def test_the_base_of_every_variant_is_one_that_can_be_trained(tmp_path: Path) -> None:
    config = ROOT / "config" / "studies" / "kang.yaml"
    with_inputs(config, tmp_path)
    targets = [f"results/kang.{variant}/null/base.safetensors" for variant in ("nvae-default", "cvae", "vae")]
    printed = dry_run(config, tmp_path, "--printshellcmds", "--", *targets).stdout
    given = re.findall(r"nvae_bio train .*?--settings '(.*?)'", printed, re.DOTALL)
    assert len(given) == 3
    assert all(load_settings(text, FitSettings).model.n_private == 0 for text in given)


def test_new_and_changed_samples_are_made_by_the_model_of_each_seed(tmp_path: Path) -> None:
    config, new = tmp_path / "config.yaml", tmp_path / "new.h5ad"
    values = yaml.safe_load(TINY.read_text())
    values["runs"]["digits"]["counterfactuals"] = {"as-3": {"as_class": "3"}}
    values["runs"]["digits"]["queries"] = {"later": {"paths": str(new), "error": 0.2}}
    config.write_text(yaml.safe_dump(values))
    lacking = dry_run(config, tmp_path)
    assert lacking.returncode != 0
    assert "new.h5ad" in lacking.stdout + lacking.stderr
    new.touch()
    done = dry_run(config, tmp_path, "--printshellcmds")
    n_seeds = len(load_config(config).runs["digits"].seeds)
    assert job_counts(done.stdout)["map_query"] == n_seeds
    assert job_counts(done.stdout)["change_samples"] == job_counts(done.stdout)["plot_change"] == n_seeds
    estimated = jobs_of(load_config(config).runs["digits"], is_image=True, is_evaluated=False)
    assert estimated["map_query"] == estimated["change_samples"] == estimated["plot_change"] == n_seeds
    given = re.findall(r"nvae_bio query .*?--settings '(.*?)'", done.stdout, re.DOTALL)
    assert [load_settings(text, QuerySettings).error for text in given] == [0.2] * n_seeds


STUDY = """
study:
  name: tiny
  evaluate: planted
  folder: page
  metrics: {private_fdr: 0.05, factor_correlation: null}
  base:
    model: {n_shared: 2, n_private: 1, hidden: [16]}
    training: {max_epochs: 4}
    embedding: {umap: false}
    report: {n_bootstrap: 100, n_refits: 2}
  variants: {nvae-default: {}, permuted: {report: {null_kind: permuted_labels}}}
  rows: {cells_fc1.5: {variants: {nvae-default: [1], permuted: [1]}}}
simulations:
  cells:
    kind: counts
    source: {builtin: pbmc68k, label_key: bulk_labels, rare_classes: drop}
    class_profiles: shared
    n_genes: 60
    classes: {a: 50, b: 50, c: 50}
    programmes: [{name: own, kind: private, classes: [a], share: 0.3, n_genes: 15, fold_change: 3}]
datasets:
  cells_fc1.5: {kind: counts, paths: resources/simulated/cells.h5ad, library_key: library, n_top_genes: null}
"""


@pytest.mark.slow
def test_a_study_runs_from_source_to_page_and_keeps_the_prose(tmp_path: Path) -> None:
    config, page = tmp_path / "tiny.yaml", tmp_path / "page" / "tiny.md"
    config.write_text(STUDY)
    done = snakemake("--cores", "2", "--configfile", config, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    table = pd.read_csv(tmp_path / "page" / "tiny.csv")
    assert list(table.columns) == ["study", *SCORE_COLUMNS]
    assert set(table["variant"]) == {"nvae-default", "permuted"} and table["saw_labels"].all()
    assert table["value"].notna().all()
    assert (tmp_path / "page" / "tiny.png").stat().st_size > 1000
    assert not (tmp_path / "results" / "cells_fc1.5.permuted.1" / "1").exists()  # not trained again
    before = page.read_text()
    page.write_text(f"{before}\nWhat it says.\n")
    done = snakemake("--cores", "2", "--configfile", config, "--forcerun", "gather_study", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    assert page.read_text() == f"{before}\nWhat it says.\n"


def test_the_rule_graph_is_the_one_that_is_meant() -> None:
    graph = snakemake("--rulegraph").stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    assert {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph)} == GRAPH


def test_every_rule_has_its_environment_log_benchmark_and_resources() -> None:
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        own = re.sub(r"^ *use rule .*?(?=^ *rule |\Z)", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
        before, *rules = re.split(r"^ *rule(?= \w+:|:)", own, flags=re.MULTILINE)
        assert rules or file.name == "common.smk"
        for rule in rules:
            for directive in ("    log:", "benchmark:", "conda:", "threads:", "mem_mb=", "runtime="):
                assert rule.count(directive) == 1, (file.name, rule.splitlines()[0], directive)
            shared = before if re.search(r"^ *(LAUNCH \+ )?TRAIN$", rule, re.MULTILINE) else ""
            assert (shared + rule).count("-m nvae_bio ") == 1


def test_the_seeds_of_a_stacked_run_are_one_job_and_the_rest_is_as_before(tmp_path: Path) -> None:
    values = yaml.safe_load(TINY.read_text())
    values["runs"]["cells"]["training"]["stack_seeds"] = True
    config = tmp_path / "stacked.yaml"
    config.write_text(yaml.safe_dump(values))
    before, after = (job_counts(dry_run(file, tmp_path).stdout) for file in (TINY, config))
    n_seeds = len(values["runs"]["cells"]["seeds"])
    expected = before | {"train_model": before["train_model"] - n_seeds, "train_seeds_cells": 1}
    assert after == expected
    values["runs"] = {"cells": values["runs"]["cells"]}
    config.write_text(yaml.safe_dump(values))
    assert "train_model" not in job_counts(dry_run(config, tmp_path).stdout)


def test_the_page_of_a_run_can_be_left_out(tmp_path: Path) -> None:
    values = yaml.safe_load(TINY.read_text())
    before = job_counts(dry_run(TINY, tmp_path).stdout)
    values["runs"]["cells"]["page"] = False  # what YAML makes of `off`
    values["runs"]["digits"]["page"] = {"max_samples": 100}
    config = tmp_path / "without.yaml"
    config.write_text(yaml.safe_dump(values))
    assert job_counts(dry_run(config, tmp_path).stdout) == before | {"build_page": before["build_page"] - 1}


@pytest.mark.slow
def test_stacked_seeds_give_every_file_of_a_seed(tmp_path: Path) -> None:
    values = yaml.safe_load(TINY.read_text())
    values["runs"] = {"cells": values["runs"]["cells"]}
    values["runs"]["cells"]["training"]["stack_seeds"] = True
    config = tmp_path / "stacked.yaml"
    config.write_text(yaml.safe_dump(values))
    seeds = values["runs"]["cells"]["seeds"]
    targets = [f"results/cells/{seed}/embedded.h5ad" for seed in seeds]
    done = snakemake(*targets, "--cores", "2", "--configfile", config, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    for seed in seeds:
        card = json.loads((tmp_path / "results" / "cells" / str(seed) / "model.json").read_text())
        assert card["seed"] == seed
        assert card["stacked_seeds"] == seeds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("n_shared: 3", "n_shred: 3"), "runs.cells.model.n_shred: unknown key; did you mean 'n_shared'?"),
        (("dataset: cells", "dataset: sells"), "'sells' is no data set; allowed: cells, digits"),
        (("runs:", "runs: {}\nruns:"), "not valid YAML: key 'runs' stands twice"),
        (("max_epochs: 4", "max_epochs: 0"), "training.max_epochs: 0 is not allowed: should be greater than 0"),
    ],
)
def test_a_wrong_config_ends_in_one_line_before_any_job(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(TINY.read_text().replace(*change, 1))
    done = snakemake("--cores", "1", "--configfile", config, folder=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("nvae-bio: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "wrong.yaml" in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_the_slurm_profile_is_read() -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    profile = ROOT / "workflow" / "profiles" / "slurm"
    done = snakemake("--dry-run", "--workflow-profile", profile, "--sdm", "env-modules", "--configfile", TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    groups = (done.stdout + done.stderr).split("Group job ")[1:]
    assert {tuple(re.findall(r"(?m)^    rule (\w+):", group)) for group in groups} == {
        ("embed_data", "plot_embedding"),
        ("generate_samples",),  # of counts there are no pictures
        ("generate_samples", "plot_images"),
        ("swap_classes",),
        ("plot_swaps", "swap_classes"),
    }


@pytest.fixture(scope="module")
def finished(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny config has run."""
    folder = tmp_path_factory.mktemp("workflow")
    done = snakemake("--cores", "2", "--configfile", TINY, folder=folder)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return folder


@pytest.mark.slow
def test_every_output_is_there_and_whole(finished: Path) -> None:
    for name, run in load_config(TINY).runs.items():
        results = finished / "results" / name
        report, seeds = (anndata.read_h5ad(results / f"{part}.h5ad") for part in ("factors", "seed_factors"))
        assert seeds.obs["seed"].nunique() == len(run.seeds)
        assert pd.read_parquet(results / "factors.parquet")["factor"].tolist() == list(report.obs_names)
        scores = anndata.read_h5ad(results / "embedded.h5ad")
        assert scores.obsm["X_nvae_factors"].shape == (scores.n_obs, report.n_obs)
        assert "nvae_suspicion" in scores.obs
        tables = {"members", "associations", "leakage", "capacity", "suspects", "tests"}
        assert tables | ({"power"} if run.power else set()) <= set(report.uns["nvae"])
        assert (results / "summary.md").read_text().startswith("# Factors\n")
        assert "sample" in (results / "suspects.csv").read_text().splitlines()[0]
        ModelSettings.model_validate(yaml.safe_load((results / "suggested.yaml").read_text())["model"])
        pages = {path.stem for path in (results / "figures" / "pages").glob("*.png")}
        assert len([page for page in pages if page.startswith("class-")]) == len(report.uns["nvae"]["classes"])
        for kind, parts in run.refits.items():
            tables = [pd.read_parquet(results / "null" / kind / f"{part}.parquet") for part in range(len(parts))]
            assert [set(table["refit"]) for table in tables] == [set(part) for part in parts]
        assert (results / "null").exists() == bool(run.refits)
        assert any("null of" in note for note in report.uns["nvae"]["notes"])
        for seed in run.seeds:
            embedded = anndata.read_h5ad(results / str(seed) / "embedded.h5ad")
            assert embedded.obsm["X_nvae_shared"].shape == (embedded.n_obs, run.model.n_shared)
            for name_made in ("samples", "traversals", "interpolations", "swaps"):
                assert anndata.read_h5ad(results / str(seed) / f"{name_made}.h5ad").n_obs > 0
        assert (results / "scores.csv").exists() == (run.evaluation is not None)
        page = (results / "report.html").read_text(encoding="utf-8")
        assert page.startswith("<!DOCTYPE html>") and report.uns["nvae"]["fingerprint"] in page
        assert ('id="drawn"' in page) == (run.dataset != "cells") and ('id="scores"' in page) == bool(run.evaluation)
        assert (results / "export").exists() == (run.export is not None)
        if run.export is not None:
            assert anndata.read_h5ad(results / "export" / "explorer.h5ad").n_obs == scores.n_obs
            rows = pd.read_parquet(results / "export" / "embeddings.parquet").groupby("seed").size()
            assert rows.to_dict() == dict.fromkeys(run.seeds, scores.n_obs)
            cards = [(results / str(seed) / "model_card.md").read_text() for seed in run.seeds]
            assert all(("`log_px`" in card) == (run.evaluation is not None) for card in cards)
    figures = list(finished.rglob("*.png"))
    n_pages = len([figure for figure in figures if figure.parent.name == "pages"])
    assert len(figures) - n_pages == 3 * 6 + 4 * 3 + 2 * 5 + 1
    for figure in figures:
        with Image.open(figure) as picture:
            assert np.asarray(picture.convert("L")).std() > 1, figure
        assert figure.with_suffix(".svg").exists()
    assert not list(finished.rglob("*.part*"))
    for log in (finished / "logs").rglob("*.log"):
        assert "Warning" not in log.read_text(), log.read_text()


@pytest.mark.slow
def test_every_embedded_sample_finds_its_truth(finished: Path) -> None:
    truth = anndata.read_h5ad(finished / "resources" / "simulated" / "rotated.truth.h5ad")
    embedded = anndata.read_h5ad(finished / "results" / "cvae" / "0" / "embedded.h5ad")
    known = truth[embedded.obs_names]
    assert known.n_obs == 180
    assert (known.obs["label"].astype(str) == embedded.obs["label"].astype(str)).all()
    assert ((known.obsm["activity"]["rotation"] != 0) == known.obs["label"].isin(["1", "7"])).all()


@pytest.mark.slow
def test_nothing_is_left_to_do_and_one_setting_reruns_its_run_alone(finished: Path, tmp_path: Path) -> None:
    assert "Nothing to be done" in dry_run(TINY, finished).stdout
    values = yaml.safe_load(TINY.read_text())
    values["runs"]["cells"]["training"]["learning_rate"] = 0.002
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(values))
    output = dry_run(changed, finished).stdout
    assert job_counts(output) == {
        "train_model": 2, "embed_data": 2, "generate_samples": 2, "plot_embedding": 2, "report_factors": 1,
        "plot_figures": 1, "plot_pages": 1, "suggest_settings": 1, "train_base": 1, "refit_null": 3,
        "audit_labels": 2, "plant_programmes": 2, "swap_classes": 2, "build_page": 1, "export_run": 1,
        "describe_model": 2, "all": 1,
    }  # fmt: skip
    assert set(re.findall(r"wildcards: run=(\w+)", output)) == {"cells"}


@pytest.mark.slow
def test_a_setting_of_the_report_leaves_the_models_alone(finished: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(TINY.read_text())
    values["runs"]["digits"]["report"]["n_bootstrap"] = 200
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(values))
    assert job_counts(dry_run(changed, finished).stdout) == {
        "report_factors": 1, "plot_figures": 1, "plot_images": 1, "plot_pages": 1, "suggest_settings": 1,
        "evaluate_run": 1, "plot_scores": 1, "build_page": 1, "export_run": 1, "describe_model": 1, "all": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_a_second_run_gives_identical_arrays(finished: Path, tmp_path: Path) -> None:
    target = "results/digits/0/embedded.h5ad"
    done = snakemake(target, "--cores", "2", "--configfile", TINY, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    one, other = (anndata.read_h5ad(folder / target) for folder in (finished, tmp_path))
    assert one.obs.equals(other.obs)
    for slot in ("obsm", "varm"):
        assert set(getattr(one, slot)) == set(getattr(other, slot))
        for key, value in getattr(one, slot).items():
            assert np.array_equal(value, getattr(other, slot)[key], equal_nan=True), key
    name = "results/digits/0/model.safetensors"
    assert (finished / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.slow
def test_the_report_holds_every_figure_with_its_caption(finished: Path) -> None:
    done = snakemake("--report", "report.html", "--configfile", TINY, folder=finished)
    assert done.returncode == 0, done.stderr[-5000:]
    html = (finished / "report.html").read_text()
    for figure in ("kl_private.png", "embedding_shared.png", "traversals_private.png", "data.png"):
        assert figure in html
    assert "A star marks a factor called active" in html


@pytest.mark.slow
def test_the_workflow_stops_at_bad_data_and_says_why_in_the_log(tmp_path: Path) -> None:
    values = yaml.safe_load(TINY.read_text())
    values["runs"] = {"cells": values["runs"]["cells"]}
    values["datasets"]["cells"] |= {"min_samples_per_class": 60, "rare_classes": "error"}
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump(values))
    done = snakemake("--cores", "2", "--configfile", config, folder=tmp_path)
    assert done.returncode == 1
    (line,) = (tmp_path / "logs" / "prepare_data" / "cells.log").read_text().strip().splitlines()
    assert "min_samples_per_class" in line
    assert not list(tmp_path.rglob("*.h5ad"))
