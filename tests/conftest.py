"""What all tests share."""

import os
from collections.abc import Generator
from pathlib import Path

import hypothesis
import matplotlib
import pytest
import torch

matplotlib.use("Agg")
# the same examples every time, and a slow machine is no error
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")
torch.set_num_threads(1)  # the same bits on every machine, and no worker takes another's core


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the larger real data sets."""
    folder = os.environ.get("NVAE_BIO_DATA")
    if folder is None:
        pytest.skip("NVAE_BIO_DATA is not set")
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where NVAE_BIO_REQUIRE_DATA is set, a test that misses its data fails."""
    report = yield
    if report.skipped and "NVAE_BIO_DATA" in str(report.longrepr) and os.environ.get("NVAE_BIO_REQUIRE_DATA"):
        report.outcome = "failed"
        report.longrepr = f"NVAE_BIO_REQUIRE_DATA is set: {report.longrepr}"
    return report
