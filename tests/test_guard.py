"""Memory that ends, libraries that crash and reading that does not end: each is one line."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from nvae_bio import guard
from nvae_bio.data.files import read_file
from nvae_bio.errors import UserError
from nvae_bio.guard import free_memory, guarded, reading
from tests.data_files import toy_counts, write_mtx

BROKEN = b"%%MatrixMarket matrix coordinate integer general\n%\n3 2 3\n1 1 1\n2 1  1" + b"\xff" * 400  # scipy crashes


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_reading_what_needs_more_memory_than_there_is_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(UserError, match=r"a\.bin: needs more memory than the [\d.]+ GB that are free; damaged, or too"):
        read_file(path, lambda _: np.ones(2**50), "ones")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_memory_is_limited_to_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "free_memory", lambda: 300 * 2**20)
    with reading("small"):
        assert np.ones(2**20).sum() == 2**20
    with pytest.raises(UserError, match=r"large: needs more memory than the 0\.3 GB that are free"), reading("large"):
        np.ones(2**26)  # 512 MiB
    assert len(np.ones(2**26)) == 2**26  # outside of the block, as before


def test_free_memory_is_the_least_of_what_limits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, group = tmp_path / "proc", tmp_path / "cgroup" / "jobs" / "mine"
    (proc / "self").mkdir(parents=True)
    group.mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert free_memory(proc) == 5000 * 1024
    monkeypatch.setitem(guard.CGROUPS, "", (tmp_path / "cgroup", "memory.max", "memory.current", "inactive_file"))
    (proc / "self" / "cgroup").write_text("0::/jobs/mine\n")
    (group / "memory.max").write_text("max\n")
    assert free_memory(proc) == 5000 * 1024
    for folder, limit in ((group, 4_000_000), (group.parent, 3_000_000)):  # the job's is that of the group above
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("1000000\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert free_memory(proc) == 2_200_000
    (group.parent / "memory.current").write_text("9000000\n")
    assert free_memory(proc) == 0
    assert free_memory(tmp_path / "nothing") is None


def test_free_memory_of_this_machine_is_some() -> None:
    free = free_memory()
    assert free is not None
    assert 2**20 < free < 2**50


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_the_exit_code_is_that_of_the_child(capfd: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: 0) == 0
    assert guarded(lambda: 75) == 75
    assert guarded(lambda: 1 // 0) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE])
def test_a_crash_while_a_file_is_read_is_one_line(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def crash() -> int:
        faulthandler.disable()  # pytest's
        with reading("all files"):
            with reading("first.h5", tmp_path):
                pass
            with reading("second.h5", tmp_path):
                os.kill(os.getpid(), number)
        return 0

    assert guarded(crash) == 2
    line = f"nvae-bio: second.h5: cannot be read: a library crashed on it ({number.name}); truncated, or damaged?\n"
    assert capfd.readouterr().err == line


def test_reading_that_does_not_end_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def hang() -> int:
        with reading("all files"), reading("endless.h5", tmp_path):
            while True:
                pass

    started = time.monotonic()
    assert guarded(hang, seconds=0.5) == 2
    assert time.monotonic() - started < 20
    assert capfd.readouterr().err.startswith("nvae-bio: endless.h5: cannot be read: its reading does not end;")


def test_a_large_file_may_take_longer(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(10 * guard.BYTES_PER_SECOND))

    def slow() -> int:
        with reading("large", tmp_path / "large"):
            time.sleep(1)
        return 7

    assert guarded(slow, seconds=0.1) == 7


def test_a_crash_of_ours_stays_a_crash() -> None:
    done = run_python(
        """
        import os, signal
        from nvae_bio.guard import guarded
        guarded(lambda: os.kill(os.getpid(), signal.SIGSEGV))
        """
    )
    assert (done.returncode, done.stderr) == (-signal.SIGSEGV, "")


def test_signals_reach_the_child_and_its_end_is_ours() -> None:
    done = run_python(
        """
        import os, signal, sys, time
        from nvae_bio.guard import guarded
        def run():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(75))
            os.kill(os.getppid(), signal.SIGUSR1)
            time.sleep(60)
        print(guarded(run))
        def die():
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(60)
        guarded(die)
        """
    )
    assert (done.stdout, done.returncode) == ("75\n", -signal.SIGTERM), done.stderr


def test_a_file_that_crashes_a_library_is_one_line_at_the_command_line(tmp_path: Path) -> None:
    folder = write_mtx(toy_counts(), tmp_path / "mtx", 2, compress=False)
    (folder / "matrix.mtx").write_bytes(BROKEN)
    settings, output = f'{{"kind": "counts", "paths": "{folder}", "label_key": "x"}}', tmp_path / "out" / "a.h5ad"
    command = [sys.executable, "-m", "nvae_bio", "prepare", "--settings", settings, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"nvae-bio: {folder / 'matrix.mtx'}: cannot be read"), line
    assert done.returncode == 2
    assert not output.parent.exists()


def test_threads_that_read_at_the_same_time_leave_no_limit() -> None:
    before, first, second = resource.getrlimit(resource.RLIMIT_DATA), reading("one"), reading("two")
    first.__enter__()
    second.__enter__()
    assert resource.getrlimit(resource.RLIMIT_DATA) != before
    first.__exit__(None, None, None)  # not in the order of blocks
    assert resource.getrlimit(resource.RLIMIT_DATA) != before
    second.__exit__(None, None, None)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
