"""Libraries of the extra `benchmark`: other methods and their metrics, imported where one is asked for."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from types import ModuleType

from nvae_bio.errors import UserError

TALKATIVE = ("drvi", "scvi", "lightning.pytorch", "lightning.fabric")  # loggers
NAMES = {"scvi": "scvi-tools"}  # of packages that are not called as their modules
SCORED_BY = {"lms_": "drvi-py", "scib_": "scib-metrics"}  # beginning of a metric's name → library whose metric it is


def scored_by(metric: str) -> str:
    """The library of the extra that a score is by and its version, for versions differ in value; else empty.

    >>> scored_by("log_px")
    ''
    """
    return next((f"{name} {version(name)}" for start, name in SCORED_BY.items() if metric.startswith(start)), "")


@contextmanager
def package(module: str, what: str) -> Iterator[ModuleType]:
    """A library of the extra, which says nothing of its own within the block.

    Args:
        module: to import.
        what: that needs it.

    Raises:
        UserError: it is not installed.
    """
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of deprecations in what it uses
        try:
            found = importlib.import_module(module)
        except ImportError:
            name = module.partition(".")[0]
            raise UserError(
                f"{what} needs {NAMES.get(name, name)}, which is not installed: pip install 'nvae-bio[benchmark]'"
            ) from None
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield found
