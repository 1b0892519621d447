"""What files of others can do to a process: ask for all memory, crash a library, or keep it busy for ever.

A library in C trusts a file more than it should. Each of these ends in one clear line here: memory is limited to what
is free (`reading`), and a command runs in a child process that may crash or be stopped (`guarded`).
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nvae_bio.errors import UserError

CGROUPS = {  # by the middle field of /proc/self/cgroup, of versions 2 and 1: folder, limit, use, cache that can go
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SECONDS, BYTES_PER_SECOND = 120.0, 50_000  # that the reading of a file may take, and more for a large one
END = "; truncated, or damaged?"

_parent: int | None = None  # a pipe, in a child of `guarded`
_lock = threading.Lock()
_n_reading, _unlimited = 0, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)  # blocks of `reading`; the limit before


# --- memory ----------------------------------------------------------------------------------------------------------


def free_memory(proc: Path = Path("/proc")) -> int | None:
    """Bytes that this process could still have: of the machine, its control groups, its own limit; None if unknown."""
    found = list(_free_of_cgroups(proc))
    with suppress(OSError, KeyError):
        found.append(_fields(proc / "meminfo")["MemAvailable:"] * 1024)
    soft, used = resource.getrlimit(resource.RLIMIT_DATA)[0], data_bytes(proc)
    if soft != resource.RLIM_INFINITY and used is not None:
        found.append(soft - used)
    return max(min(found), 0) if found else None


def data_bytes(proc: Path = Path("/proc")) -> int | None:
    """Bytes of this process that RLIMIT_DATA counts; None where the system does not tell."""
    try:
        return _fields(proc / "self" / "status")["VmData:"] * 1024
    except (OSError, KeyError):
        return None


def _free_of_cgroups(proc: Path) -> Iterator[int]:
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, kind, own = line.split(":", 2)
            if kind not in CGROUPS:
                continue
            root, limit, used, cache = CGROUPS[kind]
            folder = root / own.strip("/")
            for group in (folder, *folder.parents):
                with suppress(OSError, ValueError, KeyError):  # no limit, or no such file
                    spare = _fields(group / "memory.stat")[cache]
                    yield int((group / limit).read_text()) - int((group / used).read_text()) + spare
                if group == root:
                    break


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


@contextmanager
def reading(where: str, path: Path | None = None) -> Iterator[None]:
    """No more memory than is free, in the block: a system kills a job that takes more, without a word.

    In a child of `guarded` its parent is told what is read, and kills it where that takes too long for such a file.

    Args:
        where: what is read, for the message.
        path: the file or folder, if it is one.

    Raises:
        UserError: more memory is needed.
    """
    free = _limit()
    _tell(f"{0 if path is None else _size(path)} {' '.join(where.split())}")
    try:
        yield
    except MemoryError as error:
        amount = "" if free is None else f" than the {free / 1e9:.1f} GB that are free"
        raise UserError(f"{where}: needs more memory{amount}; damaged, or too large for this machine?") from error
    finally:
        _tell("")
        _limit_no_more()


def _limit() -> int | None:
    """Limit this process to what is free now, unless it is limited already; bytes that are free."""
    global _n_reading, _unlimited
    with _lock:
        free, used = free_memory(), data_bytes()
        if not _n_reading:
            _unlimited = resource.getrlimit(resource.RLIMIT_DATA)
            if free is not None and used is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (used + free, _unlimited[1]))
        _n_reading += 1
    return free


def _limit_no_more() -> None:
    """Put the limit back that there was, once nothing is read any more: threads may read at the same time."""
    global _n_reading
    with _lock:
        _n_reading -= 1
        if not _n_reading:
            resource.setrlimit(resource.RLIMIT_DATA, _unlimited)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; at least 1."""
    return 1 + sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


# --- crashes ---------------------------------------------------------------------------------------------------------


def _tell(line: str) -> None:
    if _parent is not None:
        os.write(_parent, f"{line}\n".encode(errors="replace"))


def guarded(run: Callable[[], int], seconds: float = SECONDS) -> int:
    """The exit code of `run`, which is called in a child process, for a library may crash on a file.

    Where it does, or a file is read for longer than `seconds` (and more, by its size), one line on standard error says
    so, and the exit code is 2. To be called before there are threads. Signals are passed on; one that kills the child
    kills this process.
    """
    sys.stdout.flush()
    from_child, to_parent = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until it is known whom to pass them on to
    pid = os.fork()
    if pid == 0:
        os.close(from_child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        _run_in_child(run, to_parent)
    os.close(to_parent)
    handlers = {number: signal.signal(number, lambda got, _: os.kill(pid, got)) for number in PASSED_ON}
    handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    try:
        where, is_late = _watch(from_child, pid, seconds)
        status = os.waitpid(pid, 0)[1]
    finally:
        os.close(from_child)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    died_of = signal.Signals(os.WTERMSIG(status))
    if is_late or (where and died_of in CRASHES):
        reason = "its reading does not end" if is_late else f"a library crashed on it ({died_of.name})"
        print(f"nvae-bio: {where}: cannot be read: {reason}{END}", file=sys.stderr)
        return 2
    with suppress(OSError):  # SIGKILL has no handler
        signal.signal(died_of, signal.SIG_DFL)
    os.kill(os.getpid(), died_of)
    return 128 + died_of


def _run_in_child(run: Callable[[], int], to_parent: int) -> None:
    global _parent
    _parent, code = to_parent, 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive its parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        code = run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _watch(from_child: int, pid: int, seconds: float) -> tuple[str, bool]:
    """Follow what the child reads until it ends, or has to be killed: what it was at, and whether it was too late."""
    open_now: list[tuple[str, float]] = []  # what is read within what, and until when
    text = b""
    while True:
        until = min((limit for _, limit in open_now), default=float("inf"))
        wait = None if until == float("inf") else max(until - time.monotonic(), 0)
        if not select.select([from_child], [], [], wait)[0]:
            os.kill(pid, signal.SIGKILL)
            return open_now[-1][0], True
        more = os.read(from_child, 65536)
        if not more:
            return (open_now[-1][0] if open_now else ""), False
        *lines, text = (text + more).split(b"\n")
        for line in lines:
            if not line:
                open_now.pop()
                continue
            size, _, where = line.decode(errors="replace").partition(" ")
            limit = seconds + int(size) / BYTES_PER_SECOND if int(size) else float("inf")
            open_now.append((where, time.monotonic() + limit))
