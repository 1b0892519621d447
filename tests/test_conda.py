"""`snakemake --cores 8 --use-conda`, in an environment that is really made from environment.yml.

No conda channel is needed: `tests/conda` has a local one and a stand-in for the program. Nothing of the environment
that runs the tests is on the path of the jobs.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anndata
import pytest
import yaml

from nvae_bio import schema
from nvae_bio.check.costs import jobs_of
from nvae_bio.config import load_config
from tests.conda import COMMAND, PROBE, PROBE_SCRIPT, ROOT, Conda, why_not
from tests.packages import Installed, copy_repository

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


OTHER_HAS_IT = {"embedding": {"umap": False}, "report": {"n_refits": 0}} | dict.fromkeys(
    ("audit", "evaluation", "export", "page"), "off"
)


def shorten(config: Path) -> None:
    """One seed, few epochs, one refit of each null: asked is whether its jobs have what they need.

    Of digits those rules are left that blood cells do not ask for, and what a model has to have; they are two classes,
    each of which has a page.
    """
    settings = yaml.safe_load(config.read_text())
    for run in settings["runs"].values():
        run |= {"seeds": [0], "training": run["training"] | {"max_epochs": 20}, "report": {"n_refits": 1}}
    settings["runs"]["digits"] |= OTHER_HAS_IT
    settings["datasets"]["digits"]["join_classes"] = {"small": list("01234"), "large": list("56789")}
    config.write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="session")
def clone(conda: Conda, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the repository in which the default workflow has run, shortened."""
    folder = tmp_path_factory.mktemp("clone")
    copy_repository(folder)
    shorten(folder / "config" / "config.yaml")
    result = conda.run(*COMMAND, folder=folder)
    assert result.returncode == 0, result.stdout[-10_000:]
    return folder


def test_default_workflow_has_run(clone: Path) -> None:
    settings = load_config(clone / "config" / "config.yaml")
    for name, run_settings in settings.runs.items():
        report = anndata.read_h5ad(clone / "results" / name / "factors.h5ad")
        assert report.n_obs > 0
        assert list((clone / "results" / name / "figures").glob("*.png"))
        for seed in run_settings.seeds:
            embedded = anndata.read_h5ad(clone / "results" / name / str(seed) / "embedded.h5ad")
            assert embedded.obsm[schema.SHARED].shape == (embedded.n_obs, run_settings.model.n_shared)


def test_every_rule_of_the_default_workflow_has_run(clone: Path) -> None:
    settings = load_config(ROOT / "config" / "config.yaml")
    rules = {"prepare_data"}
    for run in settings.runs.values():
        jobs = jobs_of(run, settings.datasets[run.dataset].kind == "images", run.evaluation is not None)
        rules |= {rule for rule, n in jobs.items() if n}
    assert {path.parent.name for path in (clone / "benchmarks").glob("*/*.tsv")} == rules


def test_nothing_is_left_to_do(clone: Path, conda: Conda) -> None:
    result = conda.run(*COMMAND, "--dry-run", folder=clone)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout


def test_jobs_use_the_made_environment_alone(clone: Path, conda: Conda) -> None:
    (clone / "probe.smk").write_text(PROBE)
    (clone / "probe.py").write_text(PROBE_SCRIPT)
    result = conda.run(*COMMAND, "--snakefile", "probe.smk", "probe.json", folder=clone)
    assert result.returncode == 0, result.stdout
    conda.sees_nothing_else(json.loads((clone / "probe.json").read_text()), clone)


def test_jobs_of_an_installed_workflow_see_the_package_and_none_of_its_neighbours(
    installed: Installed, tmp_path: Path, conda: Conda
) -> None:
    code = tmp_path / "code"
    shutil.copytree(installed.site / "nvae_bio", code / "nvae_bio")
    (code / "anndata.py").write_text("raise ImportError('a neighbour')\n")
    workflow = code / "nvae_bio" / "_workflow"
    (workflow / "probe.smk").write_text(PROBE)
    (workflow / "probe.py").write_text(PROBE_SCRIPT)
    options = ("--snakefile", str(workflow / "probe.smk"), "--configfile", str(workflow / "config" / "test.yaml"))
    result = conda.run(*COMMAND, "probe.json", *options, folder=tmp_path)
    assert result.returncode == 0, result.stdout
    conda.sees_nothing_else(json.loads((tmp_path / "probe.json").read_text()), code)


def test_environment_has_the_pinned_versions(conda: Conda) -> None:
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip_program = conda.prefix / "bin" / "pip"
    frozen = subprocess.run([pip_program, "freeze", "--all"], capture_output=True, text=True, check=True)
    found = {line.partition("+")[0].lower().replace("_", "-") for line in frozen.stdout.splitlines()}
    assert set(pip["pip"]) <= found


@pytest.mark.parametrize(
    ("dependencies", "reason"),
    [
        (["python =2.7"], "No candidates were found for python 2.7"),
        (["python =3.11", "pip", {"pip": ["numpy==0.0.1"]}], "No matching distribution found for numpy==0.0.1"),
    ],
)
def test_pin_that_cannot_be_had_is_told(dependencies: list[Any], reason: str, tmp_path: Path, conda: Conda) -> None:
    environment = {"channels": ["conda-forge", "nodefaults"], "dependencies": dependencies}
    (tmp_path / "environment.yml").write_text(yaml.safe_dump(environment))
    (tmp_path / "Snakefile").write_text(PROBE.replace('include: "Snakefile"', ""))
    result = conda.run(*COMMAND, folder=tmp_path, environments=tmp_path / "environments")
    assert result.returncode == 1
    assert "CreateCondaEnvironmentException" in result.stdout
    assert reason in result.stdout
    assert not (tmp_path / "probe.json").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("install numpy", "invalid choice: 'install'"),
        ("env create --quiet --file {file} --prefix {prefix}", "this stand-in has no channel bioconda"),
    ],
)
def test_stand_in_refuses_what_it_cannot_do(arguments: str, reason: str, tmp_path: Path, conda: Conda) -> None:
    file = tmp_path / "environment.yml"
    file.write_text("channels: [conda-forge, bioconda]\ndependencies: [python]\n")
    words = arguments.format(file=file, prefix=tmp_path / "prefix").split()
    result = subprocess.run([conda.root / "bin" / "conda", *words], capture_output=True, text=True)
    assert result.returncode != 0
    assert reason in result.stderr
    assert not (tmp_path / "prefix").exists()
