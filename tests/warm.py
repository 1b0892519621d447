"""A `python` for a workflow: `-m nvae_bio` and `-m snakemake` are forked from a process that has all imported.

A tiny workflow, and a job of one, computes for less time than it imports. Everything else about a job is as always:
Snakemake starts it through its shell, with its arguments, folder, environment and files, and sees its exit code. What
is read when a library is imported, like OMP_NUM_THREADS, is that of the server. tests/test_conda.py runs a workflow
without it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = """#!{programs}/python3 -IS
import json, os, socket, sys
if sys.argv[1:3] not in (["-m", "nvae_bio"], ["-m", "snakemake"]) or sys.argv[3:4] == ["run"]:
    os.execv("{programs}/python3", ["{programs}/python3", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    said = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(said).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(said)
    sys.exit(int(server.recv(4) or b"1"))
"""
COMMAND = """#!/bin/sh
exec "{programs}/python" -m nvae_bio "$@"
"""


@contextlib.contextmanager
def warm_programs(folder: Path) -> Iterator[Path]:
    """A folder for the front of PATH, for as long as its server lives.

    It has such a `python`, a `python3` with the environment of this one, for which it is the folder of its programs,
    and `nvae-bio`.
    """
    address, programs = folder / "server", folder / "bin"
    programs.mkdir()
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    (programs / "python3").symlink_to(Path(sys.executable).resolve())
    for name, script in (("python", CLIENT), ("nvae-bio", COMMAND)):
        (programs / name).write_text(script.format(programs=programs, address=address))
        (programs / name).chmod(0o755)
    command = [sys.executable, "-m", "tests.warm", str(address)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield programs
        finally:
            server.terminate()


def run_imported(
    arguments: list[str] | None, folder: str | Path, descriptors: dict[int, int], module: str = "nvae_bio"
) -> int:
    """What `python -m` does of a module, in a process that was forked from one that has it imported; its exit code.

    Args:
        arguments: of the command; None for those of the process, which a guarded command reads in a child of its own.
        folder: where it runs.
        descriptors: open ones, by the number that they are to have.
        module: nvae_bio or snakemake.
    """
    main = importlib.import_module(f"{module}.cli").main
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked; tqdm makes a lock
    os.chdir(folder)
    for number, descriptor in descriptors.items():
        os.dup2(descriptor, number)
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _serve(address: str) -> None:
    """Fork a process for each job that is asked for."""
    import snakemake.cli  # noqa: F401

    import tests.faults.imported  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for them
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            job, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                _answer(job)
                os._exit(0)
            job.close()


def _answer(job: socket.socket) -> None:
    """Run one job, and send its exit code; of one that crashes the caller sees the end of the connection."""
    length, descriptors, _, _ = socket.recv_fds(job, 4, 3)
    (module, *arguments), folder, environment = json.loads(job.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module.replace("_", "-"), *arguments]
    job.sendall(str(run_imported(None, folder, dict(enumerate(descriptors)), module)).encode())


if __name__ == "__main__":
    _serve(sys.argv[1])
