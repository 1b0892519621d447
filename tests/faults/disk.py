"""A disk of any size, in memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4096  # bytes
ROOMY = "64m"


class NoDisk(Exception):
    """A disk cannot be mounted here."""


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A disk at a folder, with room enough.

    Raises:
        NoDisk: that needs root, and a system that lets it.
    """
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise NoDisk(f"no disk can be mounted, which needs root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def set_options(folder: Path, options: str) -> None:
    """Another size (`size=…`), or `ro`."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def leave_room(folder: Path, n_blocks: int) -> None:
    """Shrink it to what is on it and so many blocks."""
    found = os.statvfs(folder)
    set_options(folder, f"size={(found.f_blocks - found.f_bfree) * found.f_frsize + n_blocks * BLOCK}")
