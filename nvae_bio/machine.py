"""What this machine offers a job, and how torch is told to use it: device, threads, precision."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nvae_bio.errors import UserError

CGROUPS = (  # quota and period of the CPU time of this control group, versions 2 and 1
    (Path("/sys/fs/cgroup/cpu.max"),),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)
LIMITS = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")  # environment variables: what SLURM gives, what the user says
BATCH_SIZE = {"cpu": 128, "cuda": 512}  # by the kind of device
RESIDENT_SHARE = 0.8  # of the free memory of a GPU that packed data may take


def pick_device(name: str) -> torch.device:
    """The device that a `device` setting names; `auto` is a GPU if there is one.

    Raises:
        UserError: `cuda` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' is not here; allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def fits(n_bytes: int, device: torch.device) -> bool:
    """Whether packed data of that size can stay on the device."""
    return device.type != "cuda" or n_bytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def available_threads() -> int:
    """CPUs that this job may use: the least of what the variables of `LIMITS`, affinity and control group allow."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits += [int(os.environ[name]) for name in LIMITS if os.environ.get(name, "").isdigit()]
    quota = cgroup_quota()
    if quota is not None:
        limits.append(math.ceil(quota))
    return max(min(limits), 1)


def cgroup_quota(files: tuple[tuple[Path, ...], ...] = CGROUPS) -> float | None:
    """CPUs that the control group may use, or None without a limit."""
    for paths in files:
        try:
            quota, period = " ".join(path.read_text() for path in paths).split()
        except (OSError, ValueError):
            continue
        limited = quota.isdigit() and period.isdigit() and int(period) > 0
        return int(quota) / int(period) if limited else None
    return None


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Precision of float32 matrix products inside the block, by torch's names."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def reproducible(n_threads: int) -> Iterator[None]:
    """Fixed thread count and deterministic kernels inside the block; torch is left as it was found.

    With such kernels torch would fill new memory with NaN, to show what is read before it is written; that took a
    twentieth of a training step and is off.

    Numbers below 1e-38 become 0 in it: the moments that Adam keeps of a unit that is silent for good decay to such
    numbers after some 800 steps, and processors take a hundred times longer over them. Threads that torch starts within
    the block do the same; those that it started before do not, and are slower for it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic  # its attribute is made as torch is imported: mypy sees none
    filled = memory.fill_uninitialized_memory
    flushed = not torch.tensor(1e-30).mul(1e-10).item()
    torch.set_num_threads(n_threads)
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms` imports a compiler that we do not use
    memory.fill_uninitialized_memory = False
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        memory.fill_uninitialized_memory = filled
        torch.set_deterministic_debug_mode(deterministic)
        torch.set_num_threads(threads)
