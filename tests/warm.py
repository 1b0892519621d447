"""A `python` for workflows and notebooks: what it runs is forked from a process that has all imported.

That holds for `-m nvae_bio`, `-m snakemake`, kernels, and the ranks of tests/test_ranks.py. A tiny workflow, and a job
of one, computes for less time than it imports, and a UMAP is compiled for longer than a notebook trains. Everything
else about a job is as always: Snakemake starts it through its shell, with its arguments, folder, environment and files,
and sees its exit code. What is read when a library is imported, like OMP_NUM_THREADS, is that of the server.
tests/test_conda.py runs a workflow without it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib

ROOT = Path(__file__).resolve().parent.parent
CLIENT = """#!{programs}/python3 -IS
import json, os, socket, sys
modules = ("nvae_bio", "snakemake", "ipykernel_launcher", "tests.rank_worker")
arguments = [word for word in sys.argv[1:] if word != "-u"]  # torchrun's, for output at once
if arguments[:1] != ["-m"] or arguments[1] not in modules or arguments[2:3] == ["run"]:
    os.execv("{programs}/python3", ["{programs}/python3", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    said = json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(said).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(said)
    sys.exit(int(server.recv(4) or b"1"))
"""
COMMAND = """#!/bin/sh
exec "{programs}/python" -m nvae_bio "$@"
"""


def start_server(folder: Path, owner: int) -> None:
    """Fill a folder, and start its server, which ends soon after the process `owner`.

    `bin`, for the front of PATH, has such a `python`, a `python3` with the environment of this one, for which it is the
    folder of its programs, and `nvae-bio`; `kernels`, for JUPYTER_PATH, has a kernel that such a `python` starts.
    """
    address, programs, kernel = folder / "server", folder / "bin", folder / "kernels" / "python3"
    programs.mkdir(parents=True)
    kernel.mkdir(parents=True)
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    (programs / "python3").symlink_to(Path(sys.executable).resolve())
    for name, script in (("python", CLIENT), ("nvae-bio", COMMAND)):
        (programs / name).write_text(script.format(programs=programs, address=address))
        (programs / name).chmod(0o755)
    argv = [str(programs / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    command = [sys.executable, "-m", "tests.warm", str(address), str(owner)]
    subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def run_imported(call: Callable[[], object], folder: str | Path, descriptors: dict[int, int]) -> int:
    """A program, in a process that was forked from one that has imported what it needs; its exit code.

    Args:
        call: runs it; it ends by itself, or by SystemExit.
        folder: where it runs.
        descriptors: open ones, by the number that they are to have.
    """
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked; tqdm makes a lock
    os.chdir(folder)
    for number, descriptor in descriptors.items():
        os.dup2(descriptor, number)
    code = 0
    try:
        call()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _prepare() -> None:
    """Import all that jobs and kernels need; have a UMAP compiled, and our loops, which are kept for all others."""
    import ipykernel.kernelapp  # noqa: F401
    import numpy as np
    import snakemake.cli  # noqa: F401

    import tests.faults.imported
    import tests.test_unlabelled  # noqa: F401 (as ranks do)
    from nvae_bio.embed.step import _umap
    from tests import kernel_bits

    kernel_bits.checksum()
    _umap(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), 0)
    sys.stdout.flush()  # what was printed is not for the jobs, each of which has a copy of what waits


def _serve(address: str, owner: int) -> None:
    """Fork a process for each job that is asked for, for as long as the process `owner` lives."""
    _prepare()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        if os.fork() != 0:
            return  # the other one is ready
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for its jobs
        while Path(f"/proc/{owner}").exists():
            if not select.select([server], [], [], 1)[0]:
                continue
            job, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                _answer(job)
                os._exit(0)
            job.close()
        os._exit(0)


def _answer(job: socket.socket) -> None:
    """Run one job, and send its exit code; of one that crashes the caller sees the end of the connection."""
    length, descriptors, _, _ = socket.recv_fds(job, 4, 3)
    (module, *arguments), folder, environment = json.loads(job.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    if module == "ipykernel_launcher":  # a kernel would set a variable that was read when matplotlib was imported
        matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    call = partial(runpy.run_module, module, run_name="__main__", alter_sys=True)
    job.sendall(str(run_imported(call, folder, dict(enumerate(descriptors)))).encode())


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
