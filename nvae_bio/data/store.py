"""The packed store on disk: counts of the model's genes in shuffled blocks, read by threads as a training needs them.

A folder with `manifest.json`, `obs.parquet` (what a model is told of each cell, in the order of the store) and shards.
A shard is blocks, one behind the other; a block is the arrays of some thousand cells, whose sizes and checksum the
manifest has. So a training holds a few blocks at a time, whatever the number of cells.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nvae_bio import schema
from nvae_bio.data.batch import CountLadder, Counts, Entries
from nvae_bio.data.files import read_table, unreadable
from nvae_bio.data.manifest import AGAIN, OBS, Block, Manifest, block_arrays, n_bytes_of, read_manifest
from nvae_bio.data.packed import PackedMatrix, SparseRows, index_type
from nvae_bio.errors import UserError

ROW = "row"  # column of obs: place of the cell in the prepared file
AHEAD = 16  # blocks that are read before they are needed
THREADS = 2  # that read


@dataclass(frozen=True)
class _Place:
    """A block in its file."""

    path: Path
    block: Block

    def read(self, largest: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of the block.

        Args:
            largest: the largest count of each gene that is packed as a byte, (genes,), uint8.

        Raises:
            UserError: it is not what was written.
        """
        n_genes = len(largest)
        arrays, found, start = block_arrays(self.block, n_genes), {}, 0
        try:
            content = _bytes_at(self.path, self.block.offset, n_bytes_of(self.block, n_genes))
        except OSError as error:
            raise unreadable(self.path, "a shard of a store", error) from error
        if hashlib.sha256(content).hexdigest() != self.block.sha256:
            raise UserError(f"{self.path}: {AGAIN} (checksum of the block at byte {self.block.offset} differs)")
        for name, kind, length in arrays:
            found[name] = np.frombuffer(content, kind, length, start)
            start += kind.itemsize * length
        if not _is_sound(found, self.block, largest):
            raise UserError(f"{self.path}: {AGAIN} (the block at byte {self.block.offset} is damaged)")
        return found


def _is_sound(arrays: dict[str, np.ndarray], block: Block, largest: np.ndarray) -> bool:
    """Whether all counts are of genes and cells that there are, and none is larger than the manifest says."""
    for kind, n in (("", block.n_entries), ("listed_", block.n_listed)):
        lengths, columns = arrays[f"{kind}length"], arrays[f"{kind}column"]
        if lengths.min(initial=0) < 0 or lengths.sum(dtype=np.int64) != n:
            return False
        if columns.min(initial=0) < 0 or columns.max(initial=0) >= len(largest):
            return False
    if not (arrays["value"] <= largest[arrays["column"]]).all():
        return False
    listed = arrays["listed_value"]
    return bool(np.isfinite(arrays["log_factorial"]).all() and np.isfinite(listed).all() and listed.min(initial=0) >= 0)


def _bytes_at(path: Path, offset: int, size: int) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, size, offset)
    finally:
        os.close(file)


class StoredMatrix:
    """Cells × genes in a store; what `PackedMatrix` is to data in memory.

    Rows that are asked for in an order told before (`reading`) are there by then, and gathered as fast as in memory;
    others are read from the disk each time.
    """

    ladder: CountLadder
    is_bytes = is_binary = False

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.places = [_Place(folder / shard.name, block) for shard in manifest.shards for block in shard.blocks]
        self.n_features, self.block_rows = len(manifest.genes), manifest.block_rows
        self.largest = np.array(manifest.largest, np.uint8)
        self.ladder = CountLadder.up_to(torch.tensor(manifest.largest, dtype=torch.int64))
        self._n = sum(place.block.n_rows for place in self.places)
        self._ahead: _Ahead | None = None
        self._slots: _Slots | None = None

    def __len__(self) -> int:
        return self._n

    @property
    def n_bytes(self) -> int:
        """Bytes of all blocks, which lie on the disk."""
        return sum(n_bytes_of(place.block, self.n_features) for place in self.places)

    @property
    def density(self) -> float:
        """Share of the counts that are not 0."""
        n_nonzero = sum(place.block.n_entries + place.block.n_listed for place in self.places)
        return n_nonzero / max(len(self) * self.n_features, 1)

    def to(self, device: torch.device) -> StoredMatrix:
        """Itself: it lies on the disk, and its batches on the CPU."""
        return self

    @contextmanager
    def reading(self, parts: Iterable[Tensor]) -> Iterator[None]:
        """Within the block, `rows` will be called with these rows, part by part; threads read them ahead."""
        needs = [np.unique(part.numpy(force=True).ravel() // self.block_rows) for part in parts]
        if not needs:
            yield
            return
        ahead = _Ahead(self.places, needs)
        if self._slots is None or self._slots.n < ahead.n_slots:
            self._slots = _Slots(self, ahead.n_slots)
        with ThreadPoolExecutor(THREADS) as threads:
            self._ahead = ahead
            ahead.start(threads, self._slots)
            try:
                yield
            finally:
                ahead.stop()
                self._ahead = None if self._ahead is ahead else self._ahead

    def rows(self, index: Tensor) -> tuple[Tensor, Counts | None]:
        """The rows at `index`, as those of `PackedMatrix`."""
        blocks = np.unique(index.numpy(force=True).ravel() // self.block_rows)
        ahead, slots = self._ahead, self._slots
        if ahead is None or slots is None or not ahead.has(blocks):
            return self._read(index, blocks)
        ahead.wait(blocks)
        found = slots.rows(index, ahead.slot)
        ahead.go_on()
        return found

    def _read(self, index: Tensor, blocks: np.ndarray) -> tuple[Tensor, Counts]:
        """Rows in any order: each of the blocks is read, and dropped again."""
        slots, flat = _Slots(self, 1), index.reshape(-1).cpu()
        slot, parts = torch.zeros(len(self.places), dtype=torch.int64), []
        for block in blocks.tolist():
            places = (flat // self.block_rows == block).nonzero().squeeze(1)
            slots.fill(0, self.places[block].read(self.largest))
            x, counts = slots.rows(flat[places], slot)
            assert counts is not None
            parts.append((places, x, counts))
        back = torch.cat([places for places, _, _ in parts]).argsort()
        listed = [(places[counts.listed.row], counts.listed.column, counts.listed.value) for places, _, counts in parts]
        row, column, value = (torch.cat(of_parts) for of_parts in zip(*listed, strict=True))
        order = row.argsort(stable=True)
        x, step, log_factorial = (
            torch.cat(of_parts)[back]
            for of_parts in zip(*((x, counts.step, counts.log_factorial) for _, x, counts in parts), strict=True)
        )
        shape = (*index.shape, self.n_features)
        entries = Entries(row[order], column[order], value[order])
        counts = Counts(step.view(shape), self.ladder, log_factorial.view(index.shape), entries)
        return x.view(shape), counts


class _Slots:
    """Room in memory for some blocks, of which rows are gathered as if they were one matrix."""

    def __init__(self, matrix: StoredMatrix, n: int) -> None:
        self.n, self.block_rows, self.largest = n, matrix.block_rows, matrix.largest
        blocks = [place.block for place in matrix.places]
        self.room = max(block.n_entries for block in blocks)
        self.listed_room = max(block.n_listed for block in blocks)
        self.stride = max(block.n_rows for block in blocks) + 1  # starts of a slot
        n_starts = n * self.stride
        self.start, self.listed_start = np.zeros(n_starts, np.int64), np.zeros(n_starts, np.int64)
        self.column = np.zeros(n * self.room, index_type(matrix.n_features))
        self.value = np.zeros(n * self.room, np.uint8)
        self.listed_column = np.zeros(n * self.listed_room, np.int32)
        self.listed_value = np.zeros(n * self.listed_room, np.float32)
        self.log_factorial = np.zeros(n_starts)
        whole = (self.start, self.column, self.value), (self.listed_start, self.listed_column, self.listed_value)
        common, listed = (SparseRows(*map(torch.from_numpy, arrays)) for arrays in whole)
        logs = torch.from_numpy(self.log_factorial)
        self.matrix = PackedMatrix(common, 1, matrix.n_features, listed, matrix.ladder, logs)

    def fill(self, slot: int, arrays: dict[str, np.ndarray]) -> None:
        """Put a block into a slot."""
        first, n = slot * self.stride, len(arrays["length"])
        for start, room, length, names in (
            (self.start, self.room, "length", ("column", "value")),
            (self.listed_start, self.listed_room, "listed_length", ("listed_column", "listed_value")),
        ):
            start[first] = slot * room
            start[first + 1 : first + n + 1] = slot * room + arrays[length].cumsum(dtype=np.int64)
            for name in names:
                getattr(self, name)[slot * room : slot * room + len(arrays[name])] = arrays[name]
        self.log_factorial[first : first + n] = arrays["log_factorial"]

    def rows(self, index: Tensor, slot: Tensor) -> tuple[Tensor, Counts | None]:
        """The rows at `index`; `slot` says where each block is, (blocks,)."""
        index = index.cpu()
        return self.matrix.rows(slot[index // self.block_rows] * self.stride + index % self.block_rows)


class _Ahead:
    """Blocks read in the order in which they will be needed, as far ahead as there are slots.

    Attributes:
        n_slots: that are needed for it.
        slot: where each block is, (blocks,).
    """

    def __init__(self, places: Sequence[_Place], needs: Sequence[np.ndarray]) -> None:
        self._places, self._needs, self._now = places, needs, 0
        first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        for part, blocks in enumerate(needs):
            for block in blocks.tolist():
                first.setdefault(block, part)
                self._last[block] = part
        self._queue = list(first)  # in the order of their first use
        change = np.zeros(len(needs) + 1, int)
        for block, part in first.items():
            change[part] += 1
            change[self._last[block] + 1] -= 1
        self.n_slots = min(int(change.cumsum().max()) + AHEAD, len(first))
        self.slot = torch.zeros(len(places), dtype=torch.int64)
        self._free = list(range(self.n_slots))
        self._coming: dict[int, Future[None]] = {}

    def start(self, threads: ThreadPoolExecutor, slots: _Slots) -> None:
        """Let the threads begin to read."""
        self._threads, self._slots = threads, slots
        self._queue.reverse()
        self._fill()

    def _fill(self) -> None:
        while self._free and self._queue:
            block, slot = self._queue.pop(), self._free.pop()
            self.slot[block] = slot
            self._coming[block] = self._threads.submit(self._load, block, slot)

    def _load(self, block: int, slot: int) -> None:
        self._slots.fill(slot, self._places[block].read(self._slots.largest))

    def has(self, blocks: np.ndarray) -> bool:
        """Whether these are the blocks whose turn it is."""
        return self._now < len(self._needs) and np.array_equal(blocks, self._needs[self._now])

    def wait(self, blocks: np.ndarray) -> None:
        """Until these blocks are there.

        Raises:
            UserError: one that is not what was written.
        """
        for block in blocks.tolist():
            self._coming[block].result()

    def go_on(self) -> None:
        """Leave the blocks that are needed no more, and read others in their place."""
        for block in self._needs[self._now].tolist():
            if self._last[block] == self._now:
                self._free.append(int(self.slot[block]))
        self._now += 1
        self._fill()

    def stop(self) -> None:
        """Read no more."""
        self._queue.clear()
        for future in self._coming.values():
            future.cancel()


@dataclass(frozen=True)
class Store:
    """A prepared data set of counts in a store; in training it stands for the AnnData of a prepared file.

    Attributes:
        obs: of each cell, in the order of the store: label, split, library, covariates, and `row`.
        var_names: the genes.
        uns: what the prepared file has of the same keys.
        matrix: the counts.
    """

    obs: pd.DataFrame
    var_names: pd.Index
    uns: dict[str, Any]
    matrix: StoredMatrix


def open_store(folder: str | Path, fingerprint: str | None = None) -> Store:
    """A store that `nvae-bio prepare` wrote; its counts are read when they are needed.

    Args:
        folder: of the store.
        fingerprint: of the data that it must be made from; None for any.

    Raises:
        UserError: no store, one that was changed or lost a part, or one of other data.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, fingerprint)
    obs = read_table(folder / OBS)
    lacking = [name for name in (schema.LABEL, schema.SPLIT, schema.LIBRARY, ROW) if name not in obs]
    if lacking or not np.array_equal(np.sort(obs[ROW].to_numpy()), np.arange(manifest.n)):
        raise UserError(f"{folder / OBS}: {lacking[0] if lacking else ROW!r} is not of this store; {AGAIN}")
    data: dict[str, Any] = {"kind": "counts", "fingerprint": manifest.fingerprint, "classes": manifest.classes}
    if manifest.covariates:
        data[schema.COVARIATES] = pd.DataFrame(manifest.covariates, columns=["column", "kind"])
    return Store(obs, pd.Index(manifest.genes), {schema.DATA: data}, StoredMatrix(folder, manifest))
