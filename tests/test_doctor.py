"""What is said of a machine: every line has a state, and what is broken is a problem."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import nvae_bio
from nvae_bio import doctor
from nvae_bio.cli import main
from nvae_bio.doctor import Finding, examine


def found(part: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in part()}


def test_every_part_of_the_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    by_name = {line["name"]: line for line in lines}
    assert {"nvae-bio", "Python", "torch", "anndata", "scanpy", "snakemake", "processors", "memory"} <= set(by_name)
    assert {"matrix product", "bfloat16", "write access", "disk", "SLURM", "conda", "threads"} <= set(by_name)
    assert {line["state"] for line in lines} <= {"ok", "note", "problem"}
    assert by_name["torch"]["text"] == metadata.version("torch")
    assert by_name["nvae-bio"]["text"].startswith(nvae_bio.__version__)
    assert main(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(lines)


def test_a_problem_ends_with_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert main(["doctor"]) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")]
    assert "OMP_NUM_THREADS=many; allowed: whole numbers from 1 on" in line


def test_a_package_that_is_broken_or_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        if name == "zarr":
            raise ImportError("libzarr.so: cannot open\nshared object")
        return SimpleNamespace()

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    monkeypatch.setattr(doctor, "_requirements", lambda: {"numpy": "99.1"})
    lines = found(doctor._packages)
    assert lines["zarr"].state == "problem"
    assert "cannot be imported: libzarr.so: cannot open shared object" in lines["zarr"].text
    assert lines["numpy"].state == "problem"
    assert lines["numpy"].text.endswith("needed: 99.1 or newer")
    assert lines["pandas"].state == "ok"


def test_it_goes_on_where_torch_is_broken(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: wrong ELF class')\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(nvae_bio.__file__).parent.parent)])
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-m", "nvae_bio", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1] == "torch"]
    assert line.startswith("problem")
    assert "wrong ELF class" in line
    assert any(line.startswith("ok") and "write access" in line for line in done.stdout.splitlines())


def test_the_oldest_versions_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.6", "scikit-learn>=1.6", "pynndescent<0.6", 'ruff>=0.9; extra == "test"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: lines)
    assert doctor._requirements() == {"torch": "2.6", "scikit-learn": "1.6"}


def test_a_wrong_matrix_product_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._product(torch.device("cpu"), torch.float32) == ""
    assert doctor._product(torch.device("cpu"), torch.bfloat16) == ""
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda self, other: self.new_zeros(8, 8) + 1)
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: False)
    assert found(doctor._bfloat16)["matrix product"].state == "problem"


def test_a_gpu_is_named_and_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a GPU: the product itself is tried where there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60e9, 80e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card")
    for wrong, state in (("", "ok"), ("a matrix product fails: no kernel", "problem")):
        monkeypatch.setattr(doctor, "_product", lambda *_, said=wrong: said)
        line = found(doctor._gpu)["GPU 0"]
        assert line.state == state
        assert "Card, 60.0 of 80.0 GB free" in line.text


def test_slurm_answers_or_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    answers = subprocess.CompletedProcess([], 0, "gpu*\nlong\n", "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answers)
    assert found(doctor._slurm)["SLURM"].text == "partitions: gpu*, long"

    def hangs(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("sinfo", 10)

    monkeypatch.setattr(doctor.subprocess, "run", hangs)
    assert found(doctor._slurm)["SLURM"].state == "note"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "no sinfo here" in found(doctor._slurm)["SLURM"].text
    assert found(doctor._conda)["conda"].state == "note"


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    lines = {finding.name: finding for finding in examine(tmp_path)}
    assert lines["write access"].state == "problem"
    assert "is a file" in lines["write access"].text
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
