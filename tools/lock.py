"""The lock: the exact versions that the tests passed with, read from the environment that runs this file.

    python tools/lock.py            write constraints.txt, environment.yml and environment-benchmark.yml
    python tools/lock.py --check    exit code 1, and a line a difference, where these files are not up to date

`constraints.txt` has everything that pyproject.toml asks for, extras but `benchmark` included, with all that comes;
`environment.yml` has the same pins for what the workflow's jobs import, and python and pip from conda-forge;
`environment-benchmark.yml` has the extra `benchmark` besides, for the jobs that run its peers.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11"
TARGET = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "platform_system": "Linux",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}
CALLERS = {"snakemake", "pygments"}  # call the workflow's jobs, which do not import them
UNLOCKED = {"benchmark"}  # extras that pin themselves
CUDA = ("nvidia-", "cuda-", "triton")  # come with torch's GPU build alone, which pins them itself
HEADER = "# Written by `python tools/lock.py` (`make lock`); the versions that the tests passed with.\n"


class LockError(Exception):
    """The environment cannot be locked: something is missing, or of a version that does not fit."""


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Installed version of each package that `requirements` need, directly or not, by name.

    Raises:
        LockError: a package is missing, or its version is outside the range that is asked for.
    """
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(CUDA):
            continue
        versions[name] = installed = _installed_version(requirement)
        if not requirement.specifier.contains(installed, prereleases=True):
            raise LockError(f"{name} {installed} is installed, but {requirement} is asked for")
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            needed = (Requirement(line) for line in requires(name) or ())
            waiting += [r for r in needed if r.marker is None or r.marker.evaluate({**TARGET, "extra": extra})]
    return dict(sorted(versions.items()))


def _installed_version(requirement: Requirement) -> str:
    """The version without its local part: torch's `+cpu` is the same release for a machine without a GPU."""
    try:
        return Version(version(requirement.name)).public
    except PackageNotFoundError:
        raise LockError(f"{requirement} is not installed; `make lock` installs it") from None


def read_project(path: Path) -> dict[str, Any]:
    """The `[project]` table of a pyproject.toml."""
    project: dict[str, Any] = tomllib.loads(path.read_text())["project"]
    return project


def render_constraints(pins: dict[str, str]) -> str:
    """Text of constraints.txt."""
    return HEADER + "".join(f"{name}=={pin}\n" for name, pin in pins.items())


def render_environment(pins: dict[str, str], peers: Iterable[str] = (), name: str = "nvae-bio") -> str:
    """Text of environment.yml, or of one that has peers besides, which bring what the pins leave open."""
    lines = "".join(f"      - {line}\n" for line in [*(f"{name}=={pin}" for name, pin in pins.items()), *peers])
    return f"""\
{HEADER}name: {name}
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python ={PYTHON}
  - pip
  - pip:
{lines}"""


def render_files(project: dict[str, Any]) -> dict[str, str]:
    """Name and text of the three files."""
    runtime = project["dependencies"]
    extras = project["optional-dependencies"].items()
    locked = [line for name, lines in extras if name not in UNLOCKED for line in lines]
    imported = [line for line in runtime if canonicalize_name(Requirement(line).name) not in CALLERS]
    pins, peers = closure(imported), [line for name, lines in extras if name in UNLOCKED for line in lines]
    return {
        "constraints.txt": render_constraints(closure([*runtime, *locked])),
        "environment.yml": render_environment(pins),
        "environment-benchmark.yml": render_environment(pins, peers, "nvae-bio-benchmark"),
    }


def differences(name: str, wanted: str, path: Path) -> list[str]:
    """One line for each line that `path` lacks or should not have."""
    found = path.read_text().splitlines() if path.exists() else []
    lines = wanted.splitlines()
    missing = [f"{name}: lacks {line.strip()!r}" for line in lines if line not in found]
    return missing + [f"{name}: has {line.strip()!r}, and should not" for line in found if line not in lines]


def main(argv: list[str] | None = None) -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    args = parser.parse_args(argv)
    try:
        files = render_files(read_project(ROOT / "pyproject.toml"))
    except LockError as error:
        print(f"lock: {error}", file=sys.stderr)
        return 1
    if not args.check:
        for name, text in files.items():
            (ROOT / name).write_text(text)
        return 0
    found = [line for name, text in files.items() for line in differences(name, text, ROOT / name)]
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
