"""Checkpoints: a training that is stopped, or killed, goes on where it was and ends with the same bits."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from nvae_bio.config import FitSettings
from nvae_bio.data.files import read_file
from nvae_bio.errors import Interrupted, UserError
from nvae_bio.train.ranks import ALONE, Ranks
from nvae_bio.train.state import State

logger = logging.getLogger(__name__)

SECONDS = 300.0  # between two checkpoints
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # that ask a training to be saved and to stop
STEPS_BETWEEN = 16  # at which several processes tell each other of signals
FORM = 1  # of the file; another form is another file
MOST_NAMED = 3  # differences in a message


@dataclass
class StopRequest:
    """Which signal asked to stop, if one did."""

    name: str | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note signals of `SIGNALS` in place of dying of them; a second one has its usual effect. In the main thread."""
    request, before = StopRequest(), {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _frame: object) -> None:
        request.name = signal.Signals(number).name
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Keeping:
    """How trainings are saved.

    Attributes:
        folder: of the checkpoints; one for each command, so that no two trainings share a file.
        seconds: between two of them.
        stop: whether a signal asked to stop.
        files: of the trainings so far.
    """

    folder: Path
    seconds: float = SECONDS
    stop: StopRequest = field(default_factory=StopRequest)
    files: list[Path] = field(default_factory=list)

    def clear(self) -> None:
        """Delete these files, once what they are for is written; and the folder, if nothing else is in it."""
        for path in self.files:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


@contextmanager
def kept_in(folder: Path | None, seconds: float = SECONDS, ranks: Ranks = ALONE) -> Iterator[Keeping | None]:
    """Checkpoints for the trainings in the block, in a folder or nowhere; the first process deletes them at its end.

    In it SIGTERM and SIGUSR1 stop a training, which is saved first.
    """
    if folder is None:
        yield None
        return
    with stop_request() as stop:
        keeping = Keeping(folder, seconds, stop)
        yield keeping
    if ranks.is_first:
        keeping.clear()


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        identity: what the training is of: settings, seeds, data, versions.
        n_threads: that its steps ran with.
        position: of `State`.
        tensors: of `State`.
    """

    identity: dict[str, Any]
    n_threads: int
    position: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one training: the newest, and the one before it.

    Args:
        keeping: where, and how often.
        settings: of the training, as they were asked for: a number of threads that is yet to be found is `auto`.
        seeds: of its models.
        fingerprint: of the data.
        device: the kind of device.
    """

    def __init__(
        self, keeping: Keeping, settings: FitSettings, seeds: Sequence[int], fingerprint: str, device: str
    ) -> None:
        self.keeping = keeping
        self.path = keeping.folder / f"seed_{'_'.join(map(str, seeds))}.safetensors"
        self.before = self.path.with_suffix(".before.safetensors")
        keeping.files.extend([self.path, self.before])
        self.identity = {
            "form": FORM,
            "torch": torch.__version__,
            "data": fingerprint,
            "device": device,
            "seeds": list(seeds),
            "settings": settings.model_dump(mode="json"),
        }
        self.saved = self._newest()
        self._due = time.monotonic() + keeping.seconds

    def _newest(self) -> Saved | None:
        """The newest checkpoint that is whole and of this training; a line tells why another is not used."""
        for path in (self.path, self.before):
            if not path.exists():
                continue
            try:
                saved = read_file(path, read_checkpoint, "a checkpoint")
            except UserError as error:
                logger.warning("%s; not used", error)
                continue
            different = list(differences(saved.identity, self.identity))
            if different:
                logger.warning("%s: of another training (%s); not used", path, "; ".join(different[:MOST_NAMED]))
                continue
            return saved
        return None

    def resume(self, state: State, ranks: Ranks = ALONE) -> None:
        """Bring a fresh state to where the newest checkpoint was; without one it stays as it is.

        Raises:
            UserError: it holds what no training of this form saves.
        """
        self.saved = ranks.from_first(self.saved)
        if self.saved is None:
            return
        try:
            state.restore(self.saved.tensors, self.saved.position)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"{self.path}: cannot be taken up ({reason}); delete it to start anew") from error
        where = "its end" if state.is_done else f"epoch {state.epoch}, step {state.step}"
        logger.info("%s: training goes on from %s", self.path, where)
        self.saved = None

    def after_step(self, state: State, ranks: Ranks = ALONE) -> None:
        """Save where it is due, or where a signal asked to stop; of several processes the first one saves.

        Raises:
            Interrupted: it did, one of them.
        """
        name = self.keeping.stop.name
        if ranks.size > 1:
            name = ranks.any_of(name) if state.step % STEPS_BETWEEN == 0 else None
        if name is None and (time.monotonic() < self._due or not ranks.is_first):
            return
        is_saved = self.save(state) if ranks.is_first else True
        if name is not None:
            where = f"{name}: training stopped in epoch {state.epoch} after step {state.step}"
            kept = "the same command goes on from there" if is_saved else "no checkpoint could be written"
            raise Interrupted(f"{where}; {kept}")

    def save(self, state: State) -> bool:
        """Write a checkpoint; where that fails (a full disk) training goes on, and a line tells."""
        try:
            saved = Saved(self.identity, torch.get_num_threads(), state.position(), state.tensors())
            write_checkpoint(self.path, self.before, saved)
        except OSError as error:
            logger.warning("%s: checkpoint not written (%s); training goes on", self.path, error.strerror or error)
            return False
        finally:
            self._due = time.monotonic() + self.keeping.seconds
        return True


def differences(there: Mapping[str, Any], here: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Keys whose values differ, with both.

    >>> list(differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}))
    ['a.b 1, now 3']
    """
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{where}{key}.")
        elif old != new:
            yield f"{where}{key} {old}, now {new}"


def write_checkpoint(path: Path, before: Path, saved: Saved) -> None:
    """Write a checkpoint that is on the disk when this returns; what was at `path` is then at `before`.

    Raises:
        OSError: it could not be written; the files are as they were.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in saved.tensors.items()}
    about = json.dumps({"identity": saved.identity, "n_threads": saved.n_threads, "position": saved.position})
    content = save(tensors, {"about": about, "sha256": _digest(about, tensors)})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # one name: what a killed job left is overwritten
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(before)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: Path) -> Saved:
    """Read what `write_checkpoint` wrote; no code in the file is run.

    Raises:
        ValueError: it is not what was written.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    about = metadata.get("about", "")
    if _digest(about, tensors) != metadata.get("sha256"):
        raise ValueError("checksum differs")
    saved = Saved(**json.loads(about), tensors=tensors)
    if not (isinstance(saved.identity, dict) and isinstance(saved.position, dict)):
        raise ValueError("no identity and position")
    return saved


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of all that is in a checkpoint."""
    digest = hashlib.sha256(about.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
