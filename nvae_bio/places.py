"""Where a workflow writes: whether it may, and whether there is room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOLDERS = ("resources", "results", "logs", "benchmarks")  # that the workflow writes in


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written in a folder, which need not exist yet; None where it can."""
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        return f"{folder}: cannot be made: {there} is a file"
    probe = there / f".nvae-bio-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"{folder}: cannot be written in ({error.strerror})"
    return None


def free_mb(folder: Path) -> float:
    """Room on the disk of a folder that is there, MB."""
    return shutil.disk_usage(folder).free / 1e6
