"""Files and folders that are written whole or not at all, and what killed processes leave beside them."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nvae_bio.errors import UserError

HOST = socket.gethostname()
KINDS = ("part", "old", "scratch")  # of what lies beside a file while it is written


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that replaces it when the block ends well, and vanishes when it does not.

    Of a process that is killed it stays; the next one on the same machine that writes `path` removes it.

    Raises:
        UserError: it cannot be written: a full or read-only disk, say.
    """
    part = _beside(path, "part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield part
        part.replace(path)
    except OSError as error:  # of the system, or of a library that tells it in words alone
        raise _unwritten(path, error) from error
    finally:
        _remove(part)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_path`, of a folder: an empty one, to be filled.

    Raises:
        UserError: it cannot be written: a full or read-only disk, say.
    """
    part, old = _beside(path, "part"), _beside(path, "old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        part.mkdir()
        yield part
        if path.exists():
            path.rename(old)
        part.rename(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        _remove(part)
        _remove(old)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that is there for the block.

    Raises:
        UserError: it cannot be made.
    """
    folder = _beside(path, "scratch")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        folder.mkdir()
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        yield folder
    finally:
        _remove(folder)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.stem}.{HOST}.{os.getpid()}.{kind}{path.suffix}")


def _unwritten(path: Path, error: OSError) -> UserError:
    reason = error.strerror or " ".join(str(error).split())[:200]
    return UserError(f"{path}: cannot be written ({reason}); what was there is as it was")


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove what processes that are no more left beside `path`; that of other machines is left alone."""
    of_process = rf"\.{re.escape(HOST)}\.(\d+)\.(?:{'|'.join(KINDS)})"
    pattern = re.compile(rf"\.+{re.escape(path.stem)}(?:{of_process})+{re.escape(path.suffix)}")  # or of one of these
    for part in path.parent.iterdir():
        found = pattern.fullmatch(part.name)
        if found and not _is_running(int(found[1])):
            _remove(part)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True
