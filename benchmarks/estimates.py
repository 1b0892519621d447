"""How near the estimates of `nvae-bio check` are: `python -m benchmarks.estimates measure`, then `fit` and `compare`.

`measure` runs whole workflows, one job at a time, each in a folder of its own, and keeps of every job the time of the
processor and the largest memory (a small program in place of `python` asks the system): results/estimates_jobs.csv.
`collect` takes them from Snakemake's benchmark files of a run that was made before: these hold the time by the clock,
beside whatever else the machine did (their CPU time ends at the last time Snakemake looked). `fit` makes
nvae_bio/check/costs.json of them and of results/workflow.csv (100,000 cells), but for the workflow `kang`, which no
figure is fitted to. `compare` writes results/estimates.csv: estimated beside measured, a row a rule of a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import yaml
from scipy.optimize import nnls

from benchmarks.data import simulated
from nvae_bio import schema
from nvae_bio.check.costs import estimate_preparation, estimate_run, sizes_of, training_seconds, unmeasured, work
from nvae_bio.check.data import DataFacts, check_dataset
from nvae_bio.check.trial import Units, measure_units, passes
from nvae_bio.config import RunSettings, load_config
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import write_anndata

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
JOBS = RESULTS / "estimates_jobs.csv"
SHIM = """#!{python}
import json, os, sys, time
start = time.time()
process = os.posix_spawn({python!r}, [{python!r}, *sys.argv[1:]], os.environ)
status, used = os.wait4(process, 0)[1:]
job = {{"arguments": sys.argv[1:], "cpu": used.ru_utime + used.ru_stime, "wall": time.time() - start}}
job["peak_mb"] = used.ru_maxrss / 1024
with open(os.environ["NVAE_BIO_JOBS"], "a") as file:
    file.write(json.dumps(job) + "\\n")
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""
COSTS = ROOT / "nvae_bio" / "check" / "costs.json"
HELD_OUT = "kang"  # the workflow that no figure is fitted to
MEASURED = ("training", "encoded", "audited")  # seconds that a trial tells
LOADING = 3.0  # seconds in which a job loads its libraries, a model and data: `generate_samples` of small models
SECONDS = 3.0  # of a trial
KANG = "kang_muscat_ctrl_stim/kang_muscat_ctrl_stim.h5ad"
PLOTS = {  # the option that tells rules which draw from each other
    "--data": "plot_figures", "--scores": "plot_pages", "--embedded": "plot_embedding", "--samples": "plot_images",
    "--swaps": "plot_swaps", "--evaluation": "plot_scores", "--changed": "plot_change",
}  # fmt: skip
RULES = {
    "prepare": "prepare_data", "simulate": "simulate_data", "embed": "embed_data", "audit": "audit_labels",
    "null": "refit_null", "power": "plant_programmes", "factors": "report_factors", "suggest": "suggest_settings",
    "evaluate": "evaluate_run", "counterfactual": "change_samples", "query": "map_query", "page": "build_page",
}  # fmt: skip


def configs(folder: Path, data: Path | None) -> dict[str, dict[str, Any]]:
    """Workflow -> its config: the default ones with fewer refits, the tiny one, a larger one, and a real one."""
    default = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    for run in default["runs"].values():
        run |= {"seeds": [0]}
        run["report"] |= {"n_refits": 1}
    found = {"test": yaml.safe_load((ROOT / "config" / "test.yaml").read_text())}
    if data is not None:
        dataset = {
            "kind": "counts", "paths": str(data / KANG), "label_key": "cell_type", "condition_key": "condition",
            "n_top_genes": None,
        }  # fmt: skip
        run = {"dataset": "kang", "seeds": [0], "training": {"max_epochs": 100}, "report": {"n_refits": 1}}
        found["kang"] = {"datasets": {"kang": dataset}, "runs": {"kang": run}}
    found["default"] = default
    raw = simulated(10_000, 2_000, 8)
    raw.obs, raw.uns = raw.obs[[schema.LABEL]].rename(columns={schema.LABEL: "cell_type"}), {}
    write_anndata(raw, folder / "larger" / "larger.h5ad")
    dataset = {"kind": "counts", "paths": "larger.h5ad", "label_key": "cell_type", "n_top_genes": None}
    run = {"dataset": "larger", "seeds": [0], "training": {"max_epochs": 6, "patience": None}}
    found["larger"] = {"datasets": {"larger": dataset}, "runs": {"larger": run | {"report": {"n_refits": 0}}}}
    return found


def rule_of(arguments: list[str]) -> tuple[str, str] | None:
    """The rule and the run (or data set) of a job, from the command that it is; None of what is no job of ours."""
    if arguments[:2] != ["-m", "nvae_bio"]:
        return None
    verb, text = arguments[2], " ".join(arguments[3:])
    if verb == "train":
        rule = "train_base" if "/null/base." in text else "train_model"
    elif verb == "generate":
        rule = "swap_classes" if "--swaps" in arguments else "generate_samples"
    elif verb == "export":
        rule = "describe_model" if "--model-card" in arguments else "export_run"
    elif verb == "plot":
        rule = next(rule for option, rule in PLOTS.items() if option in arguments)
    else:
        rule = RULES.get(verb, verb)
    path = next((part for part in text.replace("=", " ").split() if part.startswith("results/")), "")
    outputs = [part for part in arguments if part.startswith("resources/") and part.endswith(".h5ad")]
    name = path.split("/")[1] if path else Path(outputs[0]).name.split(".")[0]
    return rule, name


def run_workflow(folder: Path, name: str, config: dict[str, Any]) -> pd.DataFrame:
    """A row a job, as `jobs_in`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    shim, jobs = folder / "bin" / "python", folder / "jobs.jsonl"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{shim.parent.resolve()}{os.pathsep}{os.environ['PATH']}", "NVAE_BIO_JOBS": str(jobs.resolve()),
    }  # fmt: skip
    command = ["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "config.yaml"), "--cores", "1", "--quiet", "all"]
    subprocess.run([sys.executable, *command], check=True, env=environment)
    return jobs_in(jobs, name)


def jobs_in(file: Path, name: str) -> pd.DataFrame:
    """A row a job that was noted in a file: workflow, rule, name, seconds of the processor, peak MB."""
    rows = []
    for line in file.read_text().splitlines():
        job = json.loads(line)
        found = rule_of(job["arguments"])
        if found is not None:
            figures = {"seconds": round(job["cpu"], 1), "peak_mb": round(job["peak_mb"], 1)}
            rows.append({"workflow": name, "rule": found[0], "name": found[1], **figures, "clock": "cpu"})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Subject:
    """A run that was made: its settings, data and trial, and the epochs that its trainings took."""

    workflow: str
    name: str
    run: RunSettings
    facts: DataFacts
    units: Units
    epochs: float


def subjects_of(folder: Path) -> list[Subject]:
    """Every run of the workflows in a folder, each with a trial of its own."""
    found = []
    for path in sorted(folder.glob("*/config.yaml")):
        config, workflow = load_config(path), path.parent.name
        for name, run in config.runs.items():
            histories = sorted((path.parent / "results" / name).glob("*/history.parquet"))
            if not histories:
                continue
            epochs = [int(pd.read_parquet(one)["epoch"].max()) + 1 for one in histories]
            facts = check_dataset(run.dataset, config.datasets[run.dataset])
            units, _ = measure_units(facts, run, SECONDS)
            found.append(Subject(workflow, name, run, facts, units, sum(epochs) / len(epochs)))
    return found


def measured(jobs: pd.DataFrame, subjects: list[Subject]) -> list[dict[str, Any]]:
    """Measured jobs of the subjects with what they did; a training with the epochs that it took."""
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        training = training_seconds(subject.units, subject.facts, subject.run, subject.epochs)
        amounts = work(subject.units, subject.facts, subject.run, training)
        own = jobs[(jobs["workflow"] == subject.workflow) & (jobs["name"].isin([subject.name, subject.run.dataset]))]
        for job in own.to_dict("records"):
            rule = str(job["rule"])
            if rule in amounts:
                sizes = sizes_of(rule, subject.facts, subject.run)
                known = {key: job[key] for key in ("workflow", "rule", "seconds", "peak_mb")}
                rows.append(known | {"amounts": amounts[rule], "sizes": sizes})
    return rows


def large_rows() -> list[dict[str, Any]]:
    """The jobs of `large` in results/workflow.csv: 100,000 cells × 2,000 genes × 30 classes, 20 epochs."""
    some = simulated(4_000, 2_000, 30)
    n, scale = 100_000, 100_000 / some.n_obs
    facts = DataFacts("large", "counts", n=n, n_features=some.n_vars, rows=some.X)
    facts.n_values = facts.n_source = int(some.X.nnz * scale)
    facts.obs = pd.concat([some.obs] * round(scale), ignore_index=True)
    run = RunSettings.model_validate(
        {"dataset": "large", "seeds": [0], "training": {"max_epochs": 20, "patience": None}}
    )
    units, _ = measure_units(facts, run, SECONDS)
    amounts = work(units, facts, run, training_seconds(units, facts, run, 20))
    table = pd.read_csv(RESULTS / "workflow.csv").query("workflow == 'large'")
    return [
        {"workflow": "large", "rule": job["rule"], "seconds": job["seconds"] / job["jobs"], "peak_mb": job["peak_mb"],
         "amounts": amounts[job["rule"]], "sizes": sizes_of(job["rule"], facts, run)}
        for job in table.to_dict("records")
    ]  # fmt: skip


def rules(rows: list[dict[str, Any]]) -> list[str]:
    """Of all jobs."""
    return sorted({row["rule"] for row in rows})


def fitted(rows: list[dict[str, Any]], what: str, target: str) -> dict[str, float]:
    """Coefficients from 0 on, by least squares of the relative error; those of 0 are left out.

    What a trial measures counts once, and is not fitted; of memory neither is what no large job was measured for: a job
    is taken to hold its matrix twice.
    """
    fixed = {name: 1.0 for row in rows for name in row[what] if name in MEASURED}
    if what == "sizes" and all(row["workflow"] != "large" for row in rows):
        fixed = {"matrix": 2.0}
    names = ["start", *dict.fromkeys(name for row in rows for name in row[what] if name not in fixed)]
    names = ["start"] if what == "sizes" and "matrix" in fixed else names
    values = np.array([[1.0, *(row[what].get(name, 0.0) for name in names[1:])] for row in rows])
    wanted = np.array([row[target] for row in rows])
    rest = wanted - [sum(fixed[name] * row[what].get(name, 0.0) for name in fixed) for row in rows]
    if what == "amounts" and set(fixed) - {"detected"}:  # such jobs load what `generate` does, and read a model too
        fixed["start"], rest, values, names = LOADING, rest - LOADING, values[:, 1:], names[1:]
    if not names:
        return fixed
    found, _ = nnls(values / wanted[:, None], rest / wanted)
    fits = {name: float(f"{value:.4g}") for name, value in zip(names, found, strict=True) if value > 0}
    return fits | fixed


def unit_coefficients(subjects: list[Subject]) -> dict[str, Any]:
    """What a step takes by its operations and its numbers, and embedding and audit by a step."""
    rows = [
        {"amounts": {"flops": one.units.flops, "values": float(one.units.batch_size * one.facts.n_features)},
         "seconds": one.units.step, "workflow": one.workflow}
        for one in subjects
    ]  # fmt: skip
    step = {"start": 0.0, "flops": 0.0, "values": 0.0} | fitted(rows, "amounts", "seconds")
    encode = [one.units.encode * one.units.batch_size / one.units.step / passes(one.run) for one in subjects]
    audit = [
        one.units.audit
        * one.units.batch_size
        / one.units.step
        / (one.run.audit.n_steps * (2 + one.run.audit.n_candidates))
        for one in subjects
        if one.run.audit is not None
    ]
    return {"step": step, "encode": float(np.median(encode)), "audit": float(np.median(audit))}


FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="of the runs, which are kept"
)


@click.group(help=__doc__)
def main() -> None:
    """The three steps."""


@main.command()
@FOLDER
@click.option("--only", multiple=True, help="names of workflows; all if none is given")
def measure(folder: Path, only: tuple[str, ...]) -> None:
    """Run the workflows and keep what their jobs took."""
    data = os.environ.get("NVAE_BIO_DATA")
    tables = [] if not JOBS.exists() else [pd.read_csv(JOBS)]
    for name, config in configs(folder, None if data is None else Path(data)).items():
        if only and name not in only:
            continue
        tables = [table[table["workflow"] != name] for table in tables]
        tables.append(run_workflow(folder / name, name, config))
        with atomic_path(JOBS) as path:
            pd.concat(tables).to_csv(path, index=False)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--workflow", default="default", help="what the table calls it")
def collect(folder: Path, workflow: str) -> None:
    """Take the jobs of a run from Snakemake's benchmark files in FOLDER, or what `measure` noted so far."""
    kept = [pd.read_csv(JOBS)] if JOBS.exists() else []
    kept = [one[one["workflow"] != workflow] for one in kept]
    noted = folder / "jobs.jsonl"
    table = jobs_in(noted, workflow) if noted.exists() else _by_snakemake(folder, workflow)
    with atomic_path(JOBS) as path:
        pd.concat([*kept, table]).to_csv(path, index=False)
    click.echo(f"{len(table)} jobs")


def _by_snakemake(folder: Path, workflow: str) -> pd.DataFrame:
    """The jobs of Snakemake's benchmark files."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "benchmarks").glob("*/*.tsv")):
        job, name = pd.read_csv(path, sep="\t").iloc[0], path.name.split(".")[0]
        rows.append(
            {
                "workflow": workflow,
                "rule": path.parent.name,
                "name": name,
                "seconds": job["s"],
                "peak_mb": job["max_rss"],
            }
        )
    return pd.DataFrame(rows).assign(clock="wall").round(1)


@main.command()
@FOLDER
def fit(folder: Path) -> None:
    """Fit the coefficients to all jobs but those of `kang`."""
    jobs, subjects = pd.read_csv(JOBS), subjects_of(folder)
    rows = [row for row in measured(jobs, subjects) if row["workflow"] != HELD_OUT] + large_rows()
    seconds = {rule: fitted([row for row in rows if row["rule"] == rule], "amounts", "seconds") for rule in rules(rows)}
    memory = {rule: fitted([row for row in rows if row["rule"] == rule], "sizes", "peak_mb") for rule in rules(rows)}
    units = unit_coefficients([one for one in subjects if one.workflow != HELD_OUT])
    about = {"jobs": len(rows), "workflows": sorted({row["workflow"] for row in rows})}
    with atomic_path(COSTS) as path:
        found = {"about": about, "seconds": seconds, "peak_mb": memory, "units": units}
        path.write_text(json.dumps(found, indent=1) + "\n")
    click.echo(f"{len(rows)} jobs of {len(rules(rows))} rules")


@main.command()
@FOLDER
def compare(folder: Path) -> None:
    """Estimated beside measured: results/estimates.csv."""
    jobs, rows = pd.read_csv(JOBS), []
    for subject in subjects_of(folder):
        own = jobs[(jobs["workflow"] == subject.workflow) & (jobs["name"].isin([subject.name, subject.run.dataset]))]
        facts, run = subject.facts, subject.run
        preparation = estimate_preparation(facts, run)
        tables = {
            how: {job.rule: job for job in [*estimate_run(units, facts, run), preparation]}
            for how, units in (("trial", subject.units), ("formula", unmeasured(subject.units, facts, run)))
        }
        for rule, of_rule in ((str(name), part) for name, part in own.groupby("rule")):
            if rule not in tables["trial"]:
                continue
            job = tables["trial"][rule]
            rows.append({
                "workflow": subject.workflow, "run": subject.name, "fitted": subject.workflow != HELD_OUT, "rule": rule,
                "jobs": len(of_rule), "clock": of_rule["clock"].iloc[0], "measured_s": of_rule["seconds"].mean(),
                "estimate_s": job.seconds, "at_most_s": job.most,
                "no_trial_s": tables["formula"][rule].seconds, "peak_mb": of_rule["peak_mb"].max(),
                "estimate_mb": job.peak_mb,
            })  # fmt: skip
    table = pd.DataFrame(rows).round(1).round({"peak_mb": 0, "estimate_mb": 0})
    with atomic_path(RESULTS / "estimates.csv") as path:
        table.to_csv(path, index=False)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
