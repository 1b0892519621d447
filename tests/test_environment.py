"""The lock, environment.yml, pyproject.toml and CITATION.cff say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import nvae_bio
from tools.lock import CALLERS, UNLOCKED, LockError, closure, differences, main, read_project, render_files

ROOT = Path(__file__).resolve().parent.parent
PROJECT = read_project(ROOT / "pyproject.toml")
RUNTIME = PROJECT["dependencies"]
EXTRAS = [line for name, lines in PROJECT["optional-dependencies"].items() if name not in UNLOCKED for line in lines]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def parse_pins(lines: list[str]) -> dict[str, str]:
    """Name and version of lines that must all be of the form `name==version`."""
    matches = [re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line) for line in lines]
    assert None not in matches, lines
    return {match[1]: match[2] for match in matches if match is not None}


LOCK = parse_pins([line for line in CONSTRAINTS.splitlines() if not line.startswith("#")])
*CONDA, PIP = ENVIRONMENT["dependencies"]
PINS = parse_pins(PIP["pip"])


@pytest.mark.parametrize("line", [*RUNTIME, *EXTRAS])
def test_every_dependency_has_a_pin_inside_its_range(line: str) -> None:
    requirement = Requirement(line)
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("extra", UNLOCKED)
def test_an_extra_outside_the_lock_pins_itself(extra: str) -> None:
    for line in PROJECT["optional-dependencies"][extra]:
        assert re.fullmatch(r"[a-z-]+==[0-9.]+", line)


def test_environment_has_the_pins_of_the_lock() -> None:
    assert PINS.items() <= LOCK.items()


def test_environment_has_what_jobs_need_and_no_more() -> None:
    assert {canonicalize_name(Requirement(line).name) for line in RUNTIME} - CALLERS <= PINS.keys()
    assert not {"snakemake", "pytest", "mypy", "ruff", "py-rattler", "snakefmt", "hypothesis"} & PINS.keys()


def test_conda_gives_python_and_pip_alone() -> None:
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    assert CONDA == ["python =3.11", "pip"]


def test_python_versions_agree() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tool["mypy"]["python_version"] == "3.11"
    assert tool["ruff"]["target-version"] == "py311"
    supported = SpecifierSet(PROJECT["requires-python"])
    assert "3.11" in supported and "3.10" not in supported
    assert "Programming Language :: Python :: 3.11" in PROJECT["classifiers"]


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert "version" not in PROJECT and "version" in PROJECT["dynamic"]  # read from nvae_bio/__init__.py
    assert citation["version"] == nvae_bio.__version__
    assert citation["license"] == PROJECT["license"]
    sections = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] in {"Unreleased", nvae_bio.__version__}
    released = [Version(section) for section in sections if section != "Unreleased"]
    assert released == sorted(set(released), reverse=True)
    assert all(version <= Version(nvae_bio.__version__) for version in released)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))])
def test_documents_name_no_other_version(path: Path) -> None:
    named = re.findall(r"nvae[-_]bio(?:-|==| v?)(\d+(?:\.\d+)+)", path.read_text())
    assert set(named) <= {nvae_bio.__version__}


def test_the_environment_of_peers_has_them_and_the_same_pins() -> None:
    *conda, pip = yaml.safe_load((ROOT / "environment-benchmark.yml").read_text())["dependencies"]
    peers = [line for name in UNLOCKED for line in PROJECT["optional-dependencies"][name]]
    assert (conda, pip["pip"]) == (CONDA, [*PIP["pip"], *peers])


@pytest.mark.parametrize("name", ["constraints.txt", "environment.yml", "environment-benchmark.yml"])
def test_no_place_of_one_machine(name: str) -> None:
    assert not re.search(r"://|@|file:|--|\+|(^|\s)/", (ROOT / name).read_text().partition("\n")[2])


def test_files_are_what_this_environment_would_write() -> None:
    files = render_files(PROJECT)
    assert sorted(files) == ["constraints.txt", "environment-benchmark.yml", "environment.yml"]
    for name, text in files.items():
        assert differences(name, text, ROOT / name) == []
        assert (ROOT / name).read_text() == text


def test_check_finds_a_changed_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.lock.ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    assert main([]) == 0
    assert main(["--check"]) == 0
    changed = CONSTRAINTS.replace(f"numpy=={LOCK['numpy']}", "numpy==1.0")
    (tmp_path / "constraints.txt").write_text(changed)
    assert main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"constraints.txt: lacks 'numpy=={LOCK['numpy']}'",
        "constraints.txt: has 'numpy==1.0', and should not",
    ]


def test_closure_follows_what_is_needed_by_what_is_needed() -> None:
    versions = closure(["torch"])
    assert {"torch", "sympy", "mpmath"} <= versions.keys()
    assert "pandas" not in versions
    assert versions["torch"] == LOCK["torch"]


def test_closure_takes_extras() -> None:
    assert "pytest" not in closure(["packaging"])
    assert "psutil" in closure(["pytest-xdist[psutil]"])
    assert "psutil" not in closure(["pytest-xdist"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nvae-bio-no-such-package", "nvae-bio-no-such-package is not installed"),
        ("numpy<2", "numpy .* is installed, but numpy<2 is asked for"),
    ],
)
def test_closure_refuses_what_cannot_be_locked(line: str, message: str) -> None:
    with pytest.raises(LockError, match=message):
        closure([line])
