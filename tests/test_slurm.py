"""The workflow on a real SLURM: it gives what it gives on this machine alone, whatever happens to its jobs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from nvae_bio.trained import load_model
from tests.slurm import Cluster, run, wait_until, why_not

ROOT = Path(__file__).resolve().parent.parent
PROFILE = yaml.safe_load((ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
REASON = why_not()
pytestmark = pytest.mark.slow

MODEL = "results/cells/0/model.safetensors"
CONFIG: dict[str, Any] = {
    "checkpoint_seconds": 0.2,
    "datasets": {
        "cells": {
            "kind": "counts",
            "builtin": "pbmc68k",
            "label_key": "bulk_labels",
            "min_samples_per_class": 30,
            "rare_classes": "drop",
            "n_top_genes": 100,
        }
    },
    "runs": {
        "cells": {
            "dataset": "cells",
            "seeds": [0],
            "model": {"n_shared": 3, "n_private": 1, "hidden": [16]},
            "training": {"max_epochs": 60, "patience": None},
            "embedding": {"umap": False},
            "audit": False,
            "report": {"n_bootstrap": 100, "n_refits": 2, "n_shared_refits": 1, "refits_per_job": 1},
        }
    },
}
LONG = {"max_epochs": 600, "patience": None}  # so that there is time to do something to it
QUICK = {  # what a test cannot wait for; all else is the shipped profile's
    "slurm-init-seconds-before-status-checks": 1,
    "seconds-between-status-checks": 1,
    "latency-wait": 5,
    "slurm-status-command": "squeue",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if REASON is not None:
        if os.environ.get("NVAE_BIO_REQUIRE_SLURM"):
            pytest.fail(f"NVAE_BIO_REQUIRE_SLURM is set: {REASON}")
        pytest.skip(REASON)
    with Cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.cancel_all()


def written(folder: Path, training: dict[str, Any] | None = None, **profile: Any) -> tuple[Path, Path]:
    """A config and a profile in a folder."""
    values = yaml.safe_load(yaml.safe_dump(CONFIG))
    values["runs"]["cells"]["training"] |= training or {}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    (folder / "profile").mkdir()
    shipped = {key: value for key, value in PROFILE.items() if key != "software-deployment-method"}
    shipped["default-resources"] = {"slurm_partition": "cpu", "slurm_account": "lab", "mem_mb": 3000, "runtime": 10}
    resources = {
        rule: {"mem_mb": "3000 * attempt", "runtime": 10} for rule in ("train_model", "train_base", "refit_null")
    }
    for rule, own in profile.pop("set_resources", {}).items():
        resources[rule] = resources.get(rule, {}) | own
    for rule, own in PROFILE["set-resources"].items():
        resources[rule] = own | resources.get(rule, {})
    (folder / "profile" / "config.yaml").write_text(
        yaml.safe_dump(shipped | QUICK | {"set-resources": resources} | profile)
    )
    return config, folder / "profile"


def command(folder: Path, config: Path, *more: str | Path) -> list[str]:
    program = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*program, *map(str, more), "--configfile", str(config)]


def environment() -> dict[str, str]:
    """Jobs find this Python first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def snakemake(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True)


def on_slurm(folder: Path, config: Path, profile: Path, *targets: str) -> subprocess.Popen[str]:
    """Snakemake, submitting; it is not waited for."""
    return subprocess.Popen(
        command(folder, config, *targets, "--workflow-profile", profile),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output[-6000:]
    return output


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of the long training on this machine alone, undisturbed."""
    folder = tmp_path_factory.mktemp("local")
    config, _ = written(folder, LONG)
    done = snakemake(folder, config, MODEL, "--cores", "1")
    assert done.returncode == 0, done.stderr[-4000:]
    return (folder / MODEL).read_bytes()


def training_processes(folder: Path) -> list[psutil.Process]:
    """Of the command `train` in jobs of this folder, the Pythons that train."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "nvae_bio", "train"] and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def in_training(folder: Path, process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until a training has saved itself, and returns its processes."""
    saved = folder / "resources" / "checkpoints" / "cells" / "0" / "seed_0.safetensors"
    wait_until(lambda: saved.exists() or process.poll() is not None, 180, "no checkpoint came")
    assert process.poll() is None, process.communicate()[0]
    return training_processes(folder)


def went_on(folder: Path, rule: str = "train_model") -> str:
    log = (folder / "logs" / rule / "cells.0.log").read_text()
    assert "training goes on from epoch" in log, log
    return log


def test_the_workflow_gives_what_it_gives_on_this_machine(cluster: Cluster, tmp_path: Path) -> None:
    """Every kind of rule but figures: the GPU partition's devices are seen, and refits run side by side."""
    local, slurm = tmp_path / "local", tmp_path / "slurm"
    outputs = ("results/cells/factors.parquet", MODEL, "results/cells/0/history.parquet")
    for folder in (local, slurm):
        folder.mkdir()
    config, _ = written(local)
    done = snakemake(local, config, *outputs, "--cores", "2")
    assert done.returncode == 0, done.stderr[-4000:]
    gpu = {"slurm_partition": "gpu", "gres": "gpu:1"}
    config, profile = written(slurm, set_resources={"train_model": gpu})
    before = len(cluster.jobs())
    ended(on_slurm(slurm, config, profile, *outputs))
    for name in outputs:
        assert (slurm / name).read_bytes() == (local / name).read_bytes(), name
    jobs = cluster.jobs()[before:]
    told = [cluster.details(job) for job in jobs]
    assert len(jobs) == 8, told  # prepare, train, base, three refits, embed, factors
    (trained,) = [text for text in told if "train_model" in text]
    assert "Partition=gpu" in trained and "gres:gpu:1" in trained.replace("gres/gpu", "gres:gpu")
    assert all(re.search(r"JobState=COMPLETED", text) for text in told)
    assert not list((slurm / "resources").glob("checkpoints/cells/*/*"))


def test_a_training_that_is_killed_is_tried_again_and_goes_on(
    cluster: Cluster, long_model: bytes, tmp_path: Path
) -> None:
    config, profile = written(tmp_path, LONG)
    process = on_slurm(tmp_path, config, profile, MODEL)
    for each in in_training(tmp_path, process):
        each.kill()
    ended(process)
    went_on(tmp_path)
    assert (tmp_path / MODEL).read_bytes() == long_model


def test_a_job_out_of_memory_gets_more(cluster: Cluster, long_model: bytes, tmp_path: Path) -> None:
    config, profile = written(tmp_path, LONG, set_resources={"train_model": {"mem_mb": "350 * 4 ** (attempt - 1)"}})
    before = set(cluster.jobs())
    output = ended(on_slurm(tmp_path, config, profile, MODEL))
    assert (tmp_path / MODEL).read_bytes() == long_model
    told = [cluster.details(job) for job in cluster.jobs() if job not in before]
    memory = [re.search(r"mem=(\w+)", text) for text in told if "train_model" in text]
    assert len(memory) > 1, output
    assert len({found[1] for found in memory if found}) == len(memory)


def test_the_controller_may_be_away_for_a_while(cluster: Cluster, long_model: bytes, tmp_path: Path) -> None:
    config, profile = written(tmp_path, LONG)
    process = on_slurm(tmp_path, config, profile, MODEL)
    in_training(tmp_path, process)
    cluster.stop_controller()
    time.sleep(5)
    cluster.start_controller()
    ended(process)
    assert (tmp_path / MODEL).read_bytes() == long_model


def test_a_preempted_job_is_queued_again_and_goes_on(cluster: Cluster, long_model: bytes, tmp_path: Path) -> None:
    config, profile = written(tmp_path, LONG)
    process = on_slurm(tmp_path, config, profile, MODEL)
    in_training(tmp_path, process)
    run("srun", "-p", "urgent", "-N2", "-n2", "--exclusive", "--mem=0", "sleep", "2")
    ended(process)
    went_on(tmp_path)
    assert (tmp_path / MODEL).read_bytes() == long_model


def stopped(how: Callable[[subprocess.Popen[str]], None], folder: Path) -> tuple[Path, Path, str]:
    """Snakemake stopped in some way while it trains."""
    config, profile = written(folder, LONG)
    process = on_slurm(folder, config, profile, MODEL)
    in_training(folder, process)
    how(process)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    return config, profile, output


def test_where_snakemake_is_killed_the_next_call_goes_on(cluster: Cluster, long_model: bytes, tmp_path: Path) -> None:
    config, profile, output = stopped(lambda process: process.kill(), tmp_path)
    found = re.search(r"SLURM run ID: (\S+)", output)
    assert found is not None, output
    run("scancel", "--name", found[1])  # its job would go on alone
    wait_until(lambda: not training_processes(tmp_path), 60, "the job does not end")
    assert snakemake(tmp_path, config, "--unlock").returncode == 0
    ended(on_slurm(tmp_path, config, profile, MODEL))
    went_on(tmp_path)
    assert (tmp_path / MODEL).read_bytes() == long_model


def test_cancelled_it_cancels_its_jobs_and_the_next_call_goes_on(
    cluster: Cluster, long_model: bytes, tmp_path: Path
) -> None:
    config, profile, _ = stopped(lambda process: process.send_signal(signal.SIGINT), tmp_path)
    wait_until(lambda: not cluster.jobs("running,pending,completing"), 60, "jobs are left")
    wait_until(lambda: not training_processes(tmp_path), 60, "a training is left")
    assert not (tmp_path / MODEL).exists()
    ended(on_slurm(tmp_path, config, profile, MODEL))
    went_on(tmp_path)
    assert (tmp_path / MODEL).read_bytes() == long_model


def test_one_model_is_trained_on_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("here", "nodes")}
    for folder in folders.values():
        folder.mkdir()
    ranks = {"n_ranks": 2, "max_epochs": 20}
    config, _ = written(folders["here"], ranks)
    done = snakemake(folders["here"], config, MODEL, "--cores", "2")
    assert done.returncode == 0, done.stderr[-4000:]
    config, profile = written(
        folders["nodes"], ranks, set_resources={"train_ranks": {"nodes": 2, "mem_mb": 3000, "runtime": 10}}
    )
    ended(on_slurm(folders["nodes"], config, profile, MODEL))
    assert (folders["nodes"] / MODEL).read_bytes() == (folders["here"] / MODEL).read_bytes()
    (job,) = [text for text in map(cluster.details, cluster.jobs()) if "train_ranks" in text]
    assert "NodeList=n[1-2]" in job
    card = load_model(folders["nodes"] / MODEL, folders["nodes"] / MODEL.replace(".safetensors", ".json")).card
    assert card.settings.training.n_ranks == 2
