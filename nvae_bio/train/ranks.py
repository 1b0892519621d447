"""Several processes that train one model together, each on its part of every batch (torch.distributed)."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nvae_bio.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_PORT, N_PORTS = 20_000, 10_000  # where the ranks of a SLURM step meet: by the number of its job
MINUTES = 30  # that a rank waits for the others, who may read other files


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which this one is; alone, nothing is exchanged.

    A batch and the draws of z for it are the same whatever the number of processes; each takes its part of the rows,
    and what they make of them is added up. So the result is that of one process but for rounding.

    Attributes:
        rank: 0, 1, …
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def part(self, rows: Tensor, dim: int = -1) -> Tensor:
        """Its part of some rows; sizes of the parts differ by one at most, and may be 0."""
        return rows if self.size == 1 else rows.tensor_split(self.size, dim=dim)[self.rank]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each by its sum over all processes: one exchange for all of them."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def whole(self, own: Tensor, n: int, dim: int) -> Tensor:
        """The rows of all processes, in their order, of which this one's alone pass on gradients.

        Each process then has the gradient of what it makes of the whole with respect to its own rows, and their sum
        over processes is that with respect to all.

        Args:
            own: its part, as `part` gives it.
            n: rows of all.
            dim: of the rows.
        """
        if self.size == 1:
            return own
        shape = list(own.shape)
        shape[dim] = n
        full = own.new_zeros(shape)
        parts = list(full.tensor_split(self.size, dim=dim))
        parts[self.rank].copy_(own.detach())
        dist.all_reduce(full)
        parts[self.rank] = own
        return torch.cat(parts, dim=dim)

    def any_of(self, value: T | None) -> T | None:
        """The first value that a process has, or None where none has one."""
        if self.size == 1:
            return value
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return next((one for one in values if one is not None), None)

    def from_first(self, value: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return value
        holder: list[Any] = [value]
        dist.broadcast_object_list(holder)
        return holder[0]  # type: ignore[no-any-return]


ALONE = Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The processes that torchrun, or srun with more than one task, started together with this one; else it is alone.

    Raises:
        UserError: they were started otherwise than torchrun and srun do.
    """
    found = _from_torchrun(os.environ) or _from_slurm(os.environ)
    if found is None:
        yield ALONE
        return
    ranks, local, address = found
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
        backend = "nccl" if torch.cuda.device_count() > local else "gloo"
    dist.init_process_group(
        f"cpu:gloo,cuda:{backend}" if torch.cuda.is_available() else backend,
        init_method=address, rank=ranks.rank, world_size=ranks.size, timeout=timedelta(minutes=MINUTES),
    )  # fmt: skip
    if not ranks.is_first:
        logging.getLogger("nvae_bio").setLevel(logging.ERROR)
    logger.info("%d processes train together", ranks.size)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def _from_torchrun(environment: Any) -> tuple[Ranks, int, str] | None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if int(environment.get("WORLD_SIZE", 1)) < 2:
        return None
    missing = [name for name in names if name not in environment]
    if missing:
        raise UserError(f"WORLD_SIZE {environment['WORLD_SIZE']}, but no {', '.join(missing)}; start it with torchrun")
    return Ranks(int(environment["RANK"]), int(environment["WORLD_SIZE"])), int(environment["LOCAL_RANK"]), "env://"


def _from_slurm(environment: Any) -> tuple[Ranks, int, str] | None:
    size = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if size < 2:
        return None
    hosts = _hosts(environment["SLURM_STEP_NODELIST"])
    port = FIRST_PORT + int(environment["SLURM_JOB_ID"]) % N_PORTS
    ranks = Ranks(int(environment["SLURM_PROCID"]), size)
    address = environment.get("MASTER_ADDR") or _address(hosts[0])
    return ranks, int(environment["SLURM_LOCALID"]), f"tcp://{address}:{environment.get('MASTER_PORT', port)}"


def _address(host: str) -> str:
    """Where a node is reached, as SLURM does; its name, where that cannot be asked."""
    if shutil.which("scontrol") is None:
        return host
    shown = subprocess.run(["scontrol", "--oneliner", "show", "node", host], capture_output=True, text=True)
    found = re.search(r"\bNodeAddr=(\S+)", shown.stdout)
    return host if found is None else found[1]


def _hosts(names: str) -> list[str]:
    """The nodes in SLURM's short form of a list.

    >>> _hosts("n1,n3"), _hosts("gpu7")
    (['n1', 'n3'], ['gpu7'])
    """
    if not re.search(r"\[", names):
        return names.split(",")
    shown = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True, check=True)
    return shown.stdout.split()
