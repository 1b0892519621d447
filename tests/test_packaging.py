"""Wheel and sdist: what is in them, and that an installed wheel runs the workflow as the checkout does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import anndata
import numpy as np
import pytest
from packaging.metadata import Metadata

import nvae_bio
from nvae_bio.shipped import Example, examples
from tests.packages import ROOT, Built, Installed, build, clean_environment, repository_files
from tests.test_workflow import job_counts, snakemake, with_inputs

SHIPPED = "nvae_bio/_workflow/"
MODEL, EMBEDDED = "results/cvae/0/model.safetensors", "results/cvae/0/embedded.h5ad"


def contents(wheel: Path) -> dict[str, bytes]:
    """Name and bytes of each file of a wheel, its metadata left out."""
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert len(names) == len(set(names))
        return {name: archive.read(name) for name in names}


def in_checkout(name: str) -> str:
    """The file of the checkout that a file of the wheel is."""
    if name == f"{SHIPPED}nvae_bio/__init__.py":
        return "workflow/installed.py"
    return name.removeprefix(SHIPPED)


def test_the_wheel_has_the_package_and_the_workflow_and_nothing_else(built: Built) -> None:
    files = contents(built.wheel)
    folders = ("nvae_bio/", "workflow/", "profiles/", "config/")
    expected = {name for name in repository_files() if name.startswith(folders)}
    expected -= {name for name in expected if name.startswith("config/studies/")}  # of the repository, as their pages
    expected |= {"Snakefile", "environment.yml", "environment-benchmark.yml"}
    found = {in_checkout(name): content for name, content in files.items()}
    assert found == {name: (ROOT / name).read_bytes() for name in expected}
    assert "nvae_bio/py.typed" in files
    large = {name: content for name, content in files.items() if content}
    assert len(set(large.values())) == len(large)  # nothing twice
    assert built.wheel.stat().st_size < 2e6


def test_metadata_are_valid_and_name_no_place_that_is_not_there(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        folder = f"nvae_bio-{nvae_bio.__version__}.dist-info"
        text = archive.read(f"{folder}/METADATA")
        assert archive.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        commands = archive.read(f"{folder}/entry_points.txt").decode()
    assert commands == "[console_scripts]\nnvae-bio = nvae_bio.cli:main\n"
    found = Metadata.from_email(text, validate=True)
    assert (found.name, str(found.version)) == ("nvae-bio", nvae_bio.__version__)
    assert found.license_expression == "BSD-3-Clause"
    assert found.description_content_type == "text/markdown"
    assert found.description == (ROOT / "README.md").read_text()
    assert "Typing :: Typed" in (found.classifiers or [])
    assert not found.project_urls
    assert "snakemake>=9.14" in map(str, found.requires_dist or [])


def test_the_sdist_is_the_repository_and_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    found = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert found == {*repository_files(), "PKG-INFO"}
    assert all((source / name).read_bytes() == (ROOT / name).read_bytes() for name in found - {"PKG-INFO"})
    assert message_from_bytes((source / "PKG-INFO").read_bytes())["Version"] == nvae_bio.__version__
    again = build(source, tmp_path / "dist", "--wheel")
    assert again.wheel.read_bytes() == built.wheel.read_bytes()


def test_an_editable_install_has_no_copy_of_the_workflow(tmp_path: Path) -> None:
    script = f"import hatchling.build; print(hatchling.build.build_editable({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert contents(wheel) == {"_nvae_bio.pth": str(ROOT).encode()}


def test_an_installed_package_is_used_and_not_the_checkout(installed: Installed, tmp_path: Path) -> None:
    script = "import nvae_bio, nvae_bio.shipped as s; print([nvae_bio.__file__, str(s.workflow_folder())])"
    command = [installed.python, "-c", script]
    said = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=True)
    assert ast.literal_eval(said.stdout) == [str(installed.site / "nvae_bio" / "__init__.py"), str(installed.workflow)]


@pytest.mark.slow
@pytest.mark.parametrize("example", examples().values(), ids=lambda example: example.name)
def test_a_dry_run_of_every_example_from_the_wheel(example: Example, installed: Installed, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(example.text)
    with_inputs(config, tmp_path)
    before = installed.files()
    done = installed.run("--example", example.name, "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert job_counts(done.stdout)["train_model"] > 0
    assert "This was a dry-run" in done.stdout
    assert not (tmp_path / "resources" / "examples").exists()
    assert installed.files() == before


@pytest.mark.slow
def test_the_slurm_profile_of_the_wheel_is_used(installed: Installed, tmp_path: Path) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    options = ("--no-report", "--dry-run", "--", "--sdm", "env-modules")
    done = installed.run("--example", "test", "--profile", "slurm", *options, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{installed.workflow}/workflow/profiles/slurm" in done.stderr
    assert "Group job" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("warm")  # for the checkout alone
def test_an_example_from_the_wheel_has_the_bits_that_the_checkout_makes(installed: Installed, tmp_path: Path) -> None:
    folder, other = tmp_path / "installed", tmp_path / "checkout"
    folder.mkdir()
    other.mkdir()
    for name in ("nvae_bio", "anndata"):  # what lies about in the working folder is not taken for a package
        (folder / f"{name}.py").write_text("raise ImportError('of the working folder')\n")
    before = installed.files()
    done = installed.run("--example", "test", "--cores", "2", "--", EMBEDDED, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert installed.files() == before
    config = folder / "resources" / "examples" / "test.yaml"
    assert config.read_bytes() == (ROOT / "config" / "test.yaml").read_bytes()
    again = snakemake(EMBEDDED, "--dry-run", "--cores", "2", "--configfile", config, folder=folder)
    assert "Nothing to be done" in again.stdout, again.stdout + again.stderr  # for the checkout, either

    done = snakemake(EMBEDDED, "--cores", "2", "--configfile", ROOT / "config" / "test.yaml", folder=other)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / MODEL).read_bytes() == (other / MODEL).read_bytes()
    one, two = (anndata.read_h5ad(place / EMBEDDED) for place in (folder, other))
    assert one.obs.equals(two.obs)
    for slot in ("obsm", "varm"):
        assert getattr(one, slot).keys() == getattr(two, slot).keys()
        for key, value in getattr(one, slot).items():
            assert np.array_equal(value, getattr(two, slot)[key], equal_nan=True), key
    assert json.loads((folder / "results/cvae/0/model.json").read_text())["seed"] == 0
