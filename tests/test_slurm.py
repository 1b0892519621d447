"""The workflow on a real SLURM: it gives what it gives on this machine alone, whatever happens to its jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvae_bio.trained import load_model
from tests import conda as conda_support
from tests.conda import PROBE, PROBE_SCRIPT, Conda
from tests.slurm import Cluster, run, wait_until, why_not
from tests.slurm.workflow import (
    MODEL,
    ROOT,
    copy_prepared,
    ended,
    in_training,
    log_of,
    on_slurm,
    run_here,
    same_files,
    trainings,
    went_on,
    write_config,
    write_profile,
)

REASON, NO_CONDA = why_not(), conda_support.why_not()
pytestmark = pytest.mark.slow

LONG = {"max_epochs": 1200}  # so that there is time to do something to it
SEEDS = [f"results/cells/{seed}/{name}" for seed in (0, 1) for name in ("model.safetensors", "history.parquet")]
EMBEDDINGS = [f"results/cells/{seed}/figures/posterior.png" for seed in (0, 1)]
PAGES = "results/cells/figures/pages"
REPORT = "results/cells/factors.parquet"


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


@pytest.fixture(scope="module")
def here(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the workflow has run on this machine alone, without SLURM and each job's imports."""
    folder = tmp_path_factory.mktemp("here")
    write_config(folder)
    run_here(folder, REPORT, "--cores", "2")
    return folder


@pytest.fixture(scope="module")
def long_model(here: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of the long training on this machine alone, undisturbed."""
    folder = tmp_path_factory.mktemp("long")
    write_config(folder, **LONG)
    copy_prepared(here, folder)
    run_here(folder, MODEL, "--cores", "1")
    return (folder / MODEL).read_bytes()


def told_since(cluster: Cluster, before: list[str]) -> dict[str, list[str]]:
    """What SLURM says of Snakemake's jobs since then, by rule, or group and its rules."""
    told: dict[str, list[str]] = {}
    for text in (cluster.details(job) for job in cluster.jobs() if job not in before):
        if name := re.search(r"Comment=rule_(\w+?)(_wildcards_|\s)", text):
            told.setdefault(name[1], []).append(text)
    return told


def memory_of(jobs: list[str]) -> list[int]:
    """Memory of jobs, in MB, from little to much."""
    return sorted(int(text.partition("mem=")[2].partition("M")[0]) for text in jobs)


def test_a_training_survives_what_happens_to_its_job(
    cluster: Cluster, here: Path, long_model: bytes, tmp_path: Path
) -> None:
    """Too little memory, a kill, an absent controller and preemption, one after the other."""
    write_config(tmp_path, **LONG)
    write_profile(tmp_path, train_model={"mem_mb": "350 * 4 ** (attempt - 1)"})
    copy_prepared(here, tmp_path)
    before = cluster.jobs()
    snakemake = on_slurm(tmp_path, MODEL)
    first = in_training(tmp_path, snakemake)
    for each in first:
        each.kill()
    second = in_training(tmp_path, snakemake, *first)
    snakemake.send_signal(signal.SIGSTOP)  # without accounting, if it asked now it would forget its jobs
    cluster.stop_controller()
    time.sleep(5)
    cluster.start_controller()
    snakemake.send_signal(signal.SIGCONT)
    run("srun", "-p", "urgent", "-N2", "-n2", "--exclusive", "--mem=0", "sleep", "2")
    for job in cluster.jobs("pending"):
        run("scontrol", "update", f"JobId={job}", "StartTime=now")  # it would be held back for two minutes
    in_training(tmp_path, snakemake, *first, *second)
    ended(snakemake)
    assert (tmp_path / MODEL).read_bytes() == long_model
    assert memory_of(told_since(cluster, before)["train_model"]) == [350, 1400, 5600]


def test_a_training_survives_what_happens_to_snakemake(
    cluster: Cluster, here: Path, long_model: bytes, tmp_path: Path
) -> None:
    """A warning of the time limit, then Ctrl-C, which cancels its jobs, then a kill, which leaves them alone."""
    write_config(tmp_path, **LONG)
    write_profile(tmp_path)
    copy_prepared(here, tmp_path)
    snakemake = on_slurm(tmp_path, MODEL)
    first = in_training(tmp_path, snakemake)
    run("scancel", "--signal=USR1", *cluster.jobs("running"))  # as `--signal` of the profile
    wait_until(lambda: "SIGUSR1: training stopped" in log_of(tmp_path), 60, "it does not save itself")
    second = in_training(tmp_path, snakemake, *first)

    snakemake.send_signal(signal.SIGINT)
    ended(snakemake, 1)
    wait_until(lambda: not cluster.jobs("running,pending,completing"), 60, "jobs are left")
    wait_until(lambda: not trainings(tmp_path), 60, "a training is left")
    assert not (tmp_path / MODEL).exists()

    snakemake = on_slurm(tmp_path, MODEL)
    in_training(tmp_path, snakemake, *first, *second)
    snakemake.kill()
    output, _ = snakemake.communicate(timeout=60)
    found = re.search(r"SLURM run ID: (\S+)", output)
    assert found is not None, output
    run("scancel", "--name", found[1])  # its job would go on alone
    wait_until(lambda: not trainings(tmp_path), 60, "the job does not end")

    run_here(tmp_path, "--unlock")
    ended(on_slurm(tmp_path, MODEL))
    assert went_on(tmp_path)
    assert (tmp_path / MODEL).read_bytes() == long_model


def test_one_model_is_trained_on_two_nodes(cluster: Cluster, here: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("here", "nodes")}
    for folder in folders.values():
        folder.mkdir()
        write_config(folder, n_ranks=2, max_epochs=20)
        copy_prepared(here, folder)
    write_profile(folders["nodes"], train_ranks={"nodes": 2})
    before = cluster.jobs()
    snakemake = on_slurm(folders["nodes"], MODEL)
    run_here(folders["here"], MODEL, "--cores", "2")
    ended(snakemake)
    same_files(folders["nodes"], folders["here"], [MODEL])
    (job,) = told_since(cluster, before)["train_ranks"]
    assert "NodeList=n[1-2]" in job
    card = load_model(folders["nodes"] / MODEL, folders["nodes"] / MODEL.replace(".safetensors", ".json")).card
    assert card.settings.training.n_ranks == 2


@pytest.mark.skipif(NO_CONDA is not None, reason=str(NO_CONDA))
def test_in_an_environment_of_conda_it_gives_what_it_gives_here(
    cluster: Cluster, here: Path, conda: Conda, tmp_path: Path
) -> None:
    """The profile as it is, to the report: the results are those of this machine's own environment."""
    code, folder = tmp_path / "code", tmp_path / "results"
    for each in (code, folder):
        each.mkdir()
    for name in ("Snakefile", "workflow", "nvae_bio", "environment.yml"):
        (code / name).symlink_to(ROOT / name)
    (code / "probe.smk").write_text(PROBE)
    (code / "probe.py").write_text(PROBE_SCRIPT)
    write_config(folder)
    write_profile(folder, conda=True, train_model={"slurm_partition": "gpu", "gpu": 1})
    before = cluster.jobs()
    targets = (REPORT, PAGES, *EMBEDDINGS, "probe.json")
    ended(on_slurm(folder, *targets, snakefile=code / "probe.smk", environ=conda.environ()))
    same_files(folder, here, [REPORT, *SEEDS])
    conda.sees_nothing_else(json.loads((folder / "probe.json").read_text()), code)
    told = told_since(cluster, before)
    assert {name: len(jobs) for name, jobs in told.items()} == {
        "prepare_data": 1,
        "train_model": 2,
        "train_base": 1,
        "refit_null": 2,  # two refits of one kind in a job, and one of the other
        "plant_programmes": 1,  # two plantings
        "embeddings_embed_data_plot_embedding": 2,
        "report_factors": 1,
        "plot_pages": 1,
        "probe": 1,
    }
    assert all("JobState=COMPLETED" in text for jobs in told.values() for text in jobs)
    for text in told["train_model"]:
        assert "Partition=gpu" in text
        assert "gres:gpu:1" in text.replace("gres/gpu", "gres:gpu")
    assert not list((folder / "resources").glob("checkpoints/cells/*/*"))
