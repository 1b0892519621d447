"""What all tests share."""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import matplotlib
import pytest
import torch
from filelock import FileLock

from tests.conda import Conda, install_conda
from tests.packages import Built, Installed, build, copy_repository, install
from tests.warm import start_server

matplotlib.use("Agg")
# the same examples every time, and a slow machine is no error
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    # what a shell starts in the background ignores some, and so would all that tests call; handlers are not inherited
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
torch.set_num_threads(1)  # the same bits on every machine, and no worker takes another's core


LONGEST = ("conda", "docs_site", "workflow", "slurm", "start", "faults", "docs_code", "ranks", "store", "packaging")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that no worker is left alone with one at the end."""
    rank = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the larger real data sets."""
    folder = os.environ.get("NVAE_BIO_DATA")
    if folder is None:
        pytest.skip("NVAE_BIO_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def conda(shared: Path) -> Conda:
    """A conda installation with the environment of environment.yml, which all workers share."""
    found = Conda(shared / "conda")
    with FileLock(f"{found.root}.lock"):
        if not found.root.exists():
            install_conda(found.root)
            found.make_environment()
    return found


@pytest.fixture(scope="session")
def warm_programs(shared: Path) -> Path:
    """Programs that fork from a process which has all imported: one that all workers share."""
    folder = shared / "warm"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            start_server(folder, os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid())
    return folder


@pytest.fixture(scope="module")
def warm(warm_programs: Path) -> Iterator[None]:
    """`nvae-bio`, what the jobs of a workflow start, and kernels come from a process that has all imported."""
    with pytest.MonkeyPatch.context() as patch:
        programs = (warm_programs / "bin", Path(sys.executable).parent, os.environ["PATH"])
        patch.setenv("PATH", os.pathsep.join(map(str, programs)))
        patch.setenv("JUPYTER_PATH", str(warm_programs))
        yield


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist of a clean copy of the repository."""
    folder = tmp_path_factory.mktemp("build")
    copy_repository(folder / "source")
    return build(folder / "source", folder / "dist")


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, installed outside of the repository."""
    return install(built.wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where NVAE_BIO_REQUIRE_DATA is set, a test that misses its data fails."""
    report = yield
    if report.skipped and "NVAE_BIO_DATA" in str(report.longrepr) and os.environ.get("NVAE_BIO_REQUIRE_DATA"):
        report.outcome = "failed"
        report.longrepr = f"NVAE_BIO_REQUIRE_DATA is set: {report.longrepr}"
    return report
