"""What this machine and installation offer, and what is broken (verb `doctor`)."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import nvae_bio

State = Literal["ok", "note", "problem"]
NEEDED = (  # imported by the steps: distribution, module
    ("anndata", "anndata"), ("scanpy", "scanpy"), ("torch", "torch"), ("numpy", "numpy"), ("pandas", "pandas"),
    ("scipy", "scipy"), ("scikit-learn", "sklearn"), ("numba", "numba"), ("h5py", "h5py"), ("zarr", "zarr"),
    ("pyarrow", "pyarrow"), ("pydantic", "pydantic"), ("matplotlib", "matplotlib"), ("safetensors", "safetensors"),
    ("click", "click"), ("PyYAML", "yaml"),
)  # fmt: skip
OPTIONAL = {  # distribution -> what it is for
    "snakemake": "the workflow: pip install snakemake",
    "snakemake-executor-plugin-slurm": "SLURM: pip install 'nvae-bio[slurm]'",
    "scvi-tools": "other methods beside a model: pip install 'nvae-bio[benchmark]'",
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "SLURM_CPUS_PER_TASK")
LOW_MEMORY, LOW_DISK = 4e9, 5e9  # bytes below which a line says so
OLDEST = (3, 11)  # Python


@dataclass(frozen=True)
class Finding:
    """One line of what was found.

    Attributes:
        name: of what.
        state: `ok`; `note`, of what is not needed or slow; `problem`, of what is needed and broken.
        text: what was found.
    """

    name: str
    state: State
    text: str


def examine(folder: Path = Path()) -> list[Finding]:
    """Look at versions, processors, memory, GPU, disk, cluster, conda and environment; nothing is changed.

    Args:
        folder: that results would be written in.
    """
    parts: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, _optional, _processors, _memory, _gpu, _bfloat16, partial(_disk, folder), _kernel_cache,
        _slurm, _conda, _variables,
    ]  # fmt: skip
    return [finding for part in parts for finding in _tried(part)]


def _tried(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a part finds; where what it asks is broken, that is a problem like any other."""
    try:
        yield from part()
    except Exception as error:  # whatever a broken installation raises
        name = getattr(part, "__name__", "machine").strip("_")
        yield Finding(name, "problem", f"cannot be looked at: {' '.join(str(error).split())[:150]}")


def _python() -> Iterator[Finding]:
    yield Finding("nvae-bio", "ok", f"{nvae_bio.__version__}, {Path(nvae_bio.__file__).parent}")
    version = platform.python_version()
    is_new = sys.version_info >= OLDEST
    wanted = ".".join(map(str, OLDEST))
    yield Finding(
        "Python", "ok" if is_new else "problem", version if is_new else f"{version}; needed: {wanted} or newer"
    )
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    tested = platform.system() == "Linux"
    yield Finding("system", "ok" if tested else "note", system if tested else f"{system}; tested on Linux alone")


def _packages() -> Iterator[Finding]:
    wanted = _requirements()
    for name, module in NEEDED:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
            version = metadata.version(name)
        except Exception as error:  # whatever a broken installation raises
            yield Finding(name, "problem", f"cannot be imported: {' '.join(str(error).split())[:150]}")
            continue
        least = wanted.get(name.lower())
        is_old = least is not None and _numbers(version) < _numbers(least)
        yield Finding(
            name, "problem" if is_old else "ok", f"{version}; needed: {least} or newer" if is_old else version
        )


def _requirements() -> dict[str, str]:
    """Distribution -> the oldest version that nvae-bio takes, of an installed package; else none."""
    try:
        lines = metadata.requires("nvae-bio") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)", line) for line in lines if "extra ==" not in line)
    return {match[1].lower(): match[2] for match in found if match}


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with.

    >>> _numbers("2.13.0+cpu")
    (2, 13, 0)
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _optional() -> Iterator[Finding]:
    for name, use in OPTIONAL.items():
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "note", f"not installed; for {use}")


def _processors() -> Iterator[Finding]:
    from nvae_bio.machine import available_threads, cgroup_quota

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    limit = "no limit of the control group" if quota is None else f"the control group allows {quota:g}"
    text = f"{os.cpu_count()} in the machine, affinity {allowed}, {limit}; a job may use {available_threads()}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    is_busy = load > allowed
    yield Finding("processors", "note" if is_busy else "ok", f"{text}; load {load:.1f}")


def _memory() -> Iterator[Finding]:
    from nvae_bio.guard import free_memory

    free = free_memory()
    if free is None:
        yield Finding("memory", "note", "the system does not tell how much is free")
        return
    yield Finding("memory", "note" if free < LOW_MEMORY else "ok", f"{free / 1e9:.1f} GB free")


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except Exception:  # told by the packages
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            name = f"GPU {number}"
            free, total = torch.cuda.mem_get_info(number)
            wrong = _product(torch.device("cuda", number), torch.float32)
            text = f"{torch.cuda.get_device_name(number)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
            version = f"CUDA {torch.version.cuda}"
            yield Finding(
                name, "problem" if wrong else "ok", f"{text}, {version}; {wrong or 'a matrix product is right'}"
            )
        return
    built = torch.version.cuda
    has_driver = shutil.which("nvidia-smi") is not None
    if built is None and has_driver:
        yield Finding(
            "GPU", "note", "nvidia-smi is here, but this torch is built without CUDA: trainings run on the CPU"
        )
    else:
        yield Finding(
            "GPU",
            "note",
            f"none (torch {'without CUDA' if built is None else f'with CUDA {built}'}); trainings run on the CPU",
        )
    if torch.backends.mps.is_available():
        yield Finding("MPS", "note", "an Apple GPU is here; nvae-bio does not use it")


def _bfloat16() -> Iterator[Finding]:
    try:
        import torch
    except Exception:
        return
    wrong = _product(torch.device("cpu"), torch.float32)
    yield Finding("matrix product", "problem" if wrong else "ok", wrong or "right on the CPU, float32")
    is_cuda = torch.cuda.is_available()
    fast = torch.cuda.is_bf16_supported() if is_cuda else bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    device = torch.device("cuda" if is_cuda else "cpu")
    wrong = _product(device, torch.bfloat16)
    if wrong:
        yield Finding("bfloat16", "note", f"{device.type}: {wrong}; leave training.matmul_precision at high")
    elif fast:
        yield Finding("bfloat16", "ok", f"in hardware ({device.type}): training.matmul_precision: medium uses it")
    else:
        yield Finding(
            "bfloat16", "note", f"not in hardware ({device.type}): training.matmul_precision: medium gains nothing"
        )


def _product(device: Any, dtype: Any) -> str:
    """What is wrong with a small product on a device; empty for nothing."""
    import torch

    try:
        numbers = torch.arange(64.0, dtype=torch.float64).reshape(8, 8) / 64
        found = (numbers.to(device, dtype) @ numbers.to(device, dtype)).to("cpu", torch.float64)
    except Exception as error:  # whatever a driver raises
        return f"a matrix product fails: {' '.join(str(error).split())[:150]}"
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-2 if device.type == "cuda" else 1e-5
    is_near = torch.allclose(found, numbers @ numbers, rtol=tolerance, atol=tolerance)
    return "" if is_near else "a matrix product is wrong"


def _disk(folder: Path) -> Iterator[Finding]:
    from nvae_bio.places import FOLDERS, free_mb, unwritable

    shown = folder.absolute()
    wrong = [line for name in ("", *FOLDERS) if (line := unwritable(folder / name)) is not None]
    yield Finding(
        "write access", "problem" if wrong else "ok", wrong[0] if wrong else f"{shown} and the folders of results"
    )
    free = free_mb(folder) * 1e6
    yield Finding("disk", "note" if free < LOW_DISK else "ok", f"{free / 1e9:.1f} GB free in {shown}")
    temporary = Path(tempfile.gettempdir())
    wrong_here = unwritable(temporary)
    yield Finding("temporary files", "problem" if wrong_here else "ok", wrong_here or str(temporary))


def _kernel_cache() -> Iterator[Finding]:
    """Compiled kernels are kept beside the code, or in numba's folder; where neither can be, each job compiles anew."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(named) if named else Path(nvae_bio.__file__).parent / "model" / "__pycache__"
    home = Path.home() / ".cache" / "numba"
    writable = [place for place in (folder, home) if _is_writable(place)]
    text = f"in {writable[0]}" if writable else f"neither {folder} nor {home} can be written: each job compiles anew"
    yield Finding("compiled kernels", "ok" if writable else "note", text)


def _is_writable(folder: Path) -> bool:
    from nvae_bio.places import unwritable

    return unwritable(folder) is None


def _slurm() -> Iterator[Finding]:
    if shutil.which("sinfo") is None:
        yield Finding("SLURM", "note", "no sinfo here: no cluster, or its commands are not on the PATH")
        return
    try:
        done = subprocess.run(["sinfo", "--noheader", "--format=%P"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("SLURM", "note", f"sinfo is here but does not answer ({type(error).__name__})")
        return
    names = ", ".join(done.stdout.split()) or "none"
    said = " ".join(done.stderr.split())[:100]
    answers = done.returncode == 0
    yield Finding("SLURM", "ok" if answers else "note", f"partitions: {names}" if answers else f"sinfo fails: {said}")
    if answers and not _has("snakemake-executor-plugin-slurm"):
        yield Finding("SLURM plugin", "note", f"not installed; {OPTIONAL['snakemake-executor-plugin-slurm']}")


def _has(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _conda() -> Iterator[Finding]:
    found = [name for name in ("mamba", "conda", "micromamba") if shutil.which(name)]
    text = ", ".join(f"{name} ({shutil.which(name)})" for name in found)
    yield Finding(
        "conda", "ok" if found else "note", text or "neither conda nor mamba: --use-conda is not for this machine"
    )


def _variables() -> Iterator[Finding]:
    given = {name: os.environ[name] for name in THREADS if name in os.environ}
    wrong = [f"{name}={value}" for name, value in given.items() if not value.isdigit() or int(value) < 1]
    if wrong:
        yield Finding("threads", "problem", f"{', '.join(wrong)}; allowed: whole numbers from 1 on")
    else:
        shown = ", ".join(f"{name}={value}" for name, value in given.items())
        yield Finding("threads", "ok", shown or f"none of {', '.join(THREADS)} is set: libraries use all processors")
    if os.environ.get("PYTHONPATH") and not os.environ.get("PYTHONNOUSERSITE"):
        yield Finding("PYTHONPATH", "note", "is set: packages of other environments may come first")
