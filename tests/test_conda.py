"""`snakemake --cores 8 --use-conda`, in an environment that is really made from environment.yml.

No conda channel is needed: `tests/conda` has a local one and a stand-in for the program. Nothing of the environment
that runs the tests is on the path of the jobs.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import anndata
import pytest
import yaml

from nvae_bio import schema
from nvae_bio.config import load_config
from tests.conda import install_conda

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11) or "posix_local" in sysconfig.get_scheme_names(),
        reason="the local channel holds the python that runs the tests: 3.11 is needed, and not Debian's own",
    ),
]
ROOT = Path(__file__).resolve().parent.parent
COMMAND = "snakemake --cores 8 --use-conda"

PROBE = """
include: "Snakefile"


rule probe:
    output:
        "probe.json",
    conda:
        "environment.yml"
    shell:
        "python probe.py >{output}"
"""
PROBE_SCRIPT = """
import json, shutil, sys
from importlib.metadata import distributions
import anndata, nvae_bio, scanpy, torch

print(json.dumps({
    "prefix": sys.prefix,
    "path": sys.path,
    "programs": {name: shutil.which(name) for name in ("python", "python3", "pip", "nvae-bio")},
    "modules": {name: sys.modules[name].__file__ for name in ("anndata", "nvae_bio", "scanpy", "torch")},
    "libraries": sorted({line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "/" in line}),
    "versions": {found.name: found.version for found in distributions()},
}))
"""


@pytest.fixture(scope="session")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conda installation: the stand-in program and its channel."""
    root = tmp_path_factory.mktemp("conda")
    install_conda(root)
    return root


@pytest.fixture(scope="session")
def clone(conda: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the repository in which the default workflow has run."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, which knows the files that belong to it")
    folder = tmp_path_factory.mktemp("clone")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    result = run(COMMAND, folder, conda)
    assert result.returncode == 0, result.stdout[-10_000:]
    return folder


def run(command: str, folder: Path, conda: Path) -> subprocess.CompletedProcess[str]:
    """Run Snakemake with the stand-in and the system's own programs on the path, and no trace of this environment."""
    program, *arguments = command.split()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "CONDA"))
    }
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=folder,
        env=kept | {"PATH": f"{conda / 'bin'}{os.pathsep}{os.defpath}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_default_workflow_has_run(clone: Path) -> None:
    settings = load_config(clone / "config" / "config.yaml")
    for name, run_settings in settings.runs.items():
        report = anndata.read_h5ad(clone / "results" / name / "factors.h5ad")
        assert report.n_obs > 0
        assert list((clone / "results" / name / "figures").glob("*.png"))
        for seed in run_settings.seeds:
            embedded = anndata.read_h5ad(clone / "results" / name / str(seed) / "embedded.h5ad")
            assert embedded.obsm[schema.SHARED].shape == (embedded.n_obs, run_settings.model.n_shared)


def test_nothing_is_left_to_do(clone: Path, conda: Path) -> None:
    result = run(f"{COMMAND} --dry-run", clone, conda)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout


def test_jobs_use_the_made_environment_alone(clone: Path, conda: Path) -> None:
    (clone / "probe.smk").write_text(PROBE)
    (clone / "probe.py").write_text(PROBE_SCRIPT)
    result = run(f"{COMMAND} --snakefile probe.smk probe.json", clone, conda)
    assert result.returncode == 0, result.stdout
    seen: dict[str, Any] = json.loads((clone / "probe.json").read_text())

    prefix = Path(seen["prefix"])
    assert prefix.parent == clone / ".snakemake" / "conda"
    assert seen["programs"] == {
        "python": str(prefix / "bin" / "python"),
        "python3": str(prefix / "bin" / "python3"),
        "pip": str(prefix / "bin" / "pip"),
        "nvae-bio": None,
    }
    assert Path(seen["modules"].pop("nvae_bio")).parent == clone / "nvae_bio"
    for file in seen["modules"].values():
        assert Path(file).is_relative_to(prefix / "lib")
    for folder in seen["path"]:
        assert Path(folder).is_relative_to(clone)
    for file in seen["libraries"]:
        assert not Path(file).is_relative_to(ROOT)
        assert not Path(file).is_relative_to(sys.prefix)


def test_environment_has_the_pinned_versions(clone: Path, conda: Path) -> None:
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (prefix,) = (path for path in (clone / ".snakemake" / "conda").iterdir() if path.is_dir())
    frozen = subprocess.run([prefix / "bin" / "pip", "freeze", "--all"], capture_output=True, text=True, check=True)
    found = {line.partition("+")[0].lower().replace("_", "-") for line in frozen.stdout.splitlines()}
    assert set(pip["pip"]) <= found


@pytest.mark.parametrize(
    ("dependencies", "reason"),
    [
        (["python =2.7"], "No candidates were found for python 2.7"),
        (["python =3.11", "pip", {"pip": ["numpy==0.0.1"]}], "No matching distribution found for numpy==0.0.1"),
    ],
)
def test_pin_that_cannot_be_had_is_told(dependencies: list[Any], reason: str, tmp_path: Path, conda: Path) -> None:
    environment = {"channels": ["conda-forge", "nodefaults"], "dependencies": dependencies}
    (tmp_path / "environment.yml").write_text(yaml.safe_dump(environment))
    (tmp_path / "Snakefile").write_text(PROBE.replace('include: "Snakefile"', "").replace("python probe.py", "echo"))
    result = run(COMMAND, tmp_path, conda)
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
def test_stand_in_refuses_what_it_cannot_do(arguments: str, reason: str, tmp_path: Path, conda: Path) -> None:
    file = tmp_path / "environment.yml"
    file.write_text("channels: [conda-forge, bioconda]\ndependencies: [python]\n")
    words = arguments.format(file=file, prefix=tmp_path / "prefix").split()
    result = subprocess.run([conda / "bin" / "conda", *words], capture_output=True, text=True)
    assert result.returncode != 0
    assert reason in result.stderr
    assert not (tmp_path / "prefix").exists()
