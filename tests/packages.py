"""Test support: wheel and sdist of a clean copy of the repository, and the wheel installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Built:
    """What `python -m build` makes."""

    folder: Path

    @property
    def wheel(self) -> Path:
        """The wheel."""
        (found,) = self.folder.glob("*.whl")
        return found

    @property
    def sdist(self) -> Path:
        """The source distribution."""
        (found,) = self.folder.glob("*.tar.gz")
        return found


def repository_files() -> list[str]:
    """Paths of all files that belong to the repository, those not committed yet among them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, which knows the files that belong to it")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    return sorted(name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file())


def copy_repository(folder: Path) -> None:
    """A fresh copy of it."""
    for name in repository_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def build(source: Path, folder: Path, *kinds: str) -> Built:
    """Build in a source folder, with the backend of the test environment: nothing is downloaded."""
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(folder), str(source)]
    done = subprocess.run(command, cwd=folder.parent, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(folder)


def clean_environment() -> dict[str, str]:
    """Variables without a trace of the checkout, or of an environment."""
    left_out = ("PYTHON", "VIRTUAL_ENV", "CONDA", "SNAKEMAKE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {"PATH": os.defpath}


@dataclass(frozen=True)
class Installed:
    """A virtual environment that has the wheel; all that it needs is that of the test environment."""

    root: Path

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.root / "bin" / "python"

    @property
    def site(self) -> Path:
        """Where its packages are."""
        (found,) = self.root.glob("lib/python*/site-packages")
        return found

    @property
    def workflow(self) -> Path:
        """The folder of the Snakefile."""
        return self.site / "nvae_bio" / "_workflow"

    def run(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """`nvae-bio run`, in a folder."""
        command = [str(self.root / "bin" / "nvae-bio"), "run", *arguments]
        return subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True)

    def files(self) -> dict[str, int]:
        """Every file of the package, with the time of its last change; what Python and numba cache is left out."""
        found = (path for path in (self.site / "nvae_bio").rglob("*") if path.parent.name != "__pycache__")
        return {str(path.relative_to(self.site)): path.stat().st_mtime_ns for path in found if path.is_file()}


def install(wheel: Path, root: Path) -> Installed:
    """Install a wheel into a new virtual environment.

    A line in a .pth names the packages of the test environment, of which a .pth of its own is not read: an editable
    install there does not reach this one.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    installed = Installed(root)
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (installed.site / "others.pth").write_text("\n".join(others) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(installed.python), "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return installed
