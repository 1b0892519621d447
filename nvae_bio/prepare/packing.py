"""Counts written some cells at a time: the prepared file in the order of the source, and the shuffled, packed store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.data.atomic import atomic_folder
from nvae_bio.data.files import Disk, append_rows, write_table
from nvae_bio.data.manifest import MANIFEST, OBS, Block, Manifest, Shard, block_arrays
from nvae_bio.data.packed import Survey, log_factorials
from nvae_bio.data.store import ROW
from nvae_bio.prepare.record import Fingerprint
from nvae_bio.prepare.split import random_keys

BLOCK_ROWS = 4096  # cells of a block of the store
SHARD_BYTES = 64 * 2**20  # about that of the counts of a shard, which is put in order in memory
ENTRY_BYTES = 8  # of a count and its column
DEALT = ("<i8", "<i8", "<i4", "<f4")  # types of places, lengths of rows, columns and counts on their way into a shard


@dataclass
class Written:
    """What the matrix of a prepared file turned out to be."""

    survey: Survey
    fingerprint: Fingerprint


def write_counts(chunks: Iterable[sparse.csr_matrix], genes: np.ndarray, file: h5py.File, disk: Disk) -> Written:
    """Write the chosen genes of all cells as X of an .h5ad, and look at them on the way.

    Args:
        chunks: cells × genes of the source.
        genes: those of the model, (genes,) booleans.
        file: of `new_h5ad`.
        disk: likewise.

    Raises:
        OSError: of the disk.
    """
    written = Written(Survey(), Fingerprint())
    for chunk in chunks:
        counts = sparse.csr_matrix(chunk[:, genes], dtype=np.float32)
        counts.sort_indices()
        written.survey.add(counts)
        written.fingerprint.add(counts)
        append_rows(counts, file)
        disk.check()
    return written


def store_order(obs: pd.DataFrame, seed: int) -> np.ndarray:
    """The cells in the order of the store, (n,): training, validation and test cells, each in random order.

    Those that train and have a class stand first, then those that train without; a function of seed and names.
    """
    split = pd.Categorical(obs[schema.SPLIT], categories=list(schema.SPLITS)).codes
    keys = random_keys(obs.index, np.random.default_rng([seed, 3]))
    return np.lexsort([keys, obs[schema.LABEL].isna().to_numpy(), split])


def write_store(
    folder: Path,
    chunks: Iterable[sparse.csr_matrix],
    prepared: AnnData,
    survey: Survey,
    seed: int,
    block_rows: int = BLOCK_ROWS,
) -> None:
    """Write a store, whole or not at all.

    The cells are dealt out to the shards they belong to, and each shard is put in order in memory.

    Args:
        folder: to write; what was there is replaced.
        chunks: cells × model genes in the order of the prepared file, some at a time.
        prepared: obs, var and uns of that file.
        survey: of these counts.
        seed: of the order.
        block_rows: cells of a block.

    Raises:
        UserError: it cannot be written.
    """
    data, order = prepared.uns[schema.DATA], store_order(prepared.obs, seed)
    covariates = data.get(schema.COVARIATES, pd.DataFrame({"column": [], "kind": []}))
    with atomic_folder(folder) as part:
        told = [schema.LABEL, schema.SPLIT, schema.LIBRARY, schema.SIZE_FACTOR, *covariates["column"]]
        obs = prepared.obs[[name for name in dict.fromkeys(told) if name in prepared.obs]].iloc[order]
        write_table(obs.reset_index(drop=True).assign(**{ROW: order}), part / OBS)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        shards = _Shards(part, survey, block_rows)
        shards.deal(chunks, place)
        manifest = Manifest(
            fingerprint=data["fingerprint"], classes=list(data["classes"]), genes=list(prepared.var_names),
            covariates=list(covariates[["column", "kind"]].itertuples(index=False, name=None)),
            limit=survey.limit, largest=survey.largest.tolist(), block_rows=block_rows,
            obs_sha256=hashlib.sha256((part / OBS).read_bytes()).hexdigest(), shards=list(shards.write()),
        )  # fmt: skip
        manifest = manifest.model_copy(update={"sha256": manifest.checksum})
        (part / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")


class _Shards:
    """The shards in making, in a folder with room for as many bytes again."""

    def __init__(self, folder: Path, survey: Survey, block_rows: int) -> None:
        self.folder, self.survey, self.block_rows = folder, survey, block_rows
        block_bytes = block_rows * survey.n_nonzero / survey.n * ENTRY_BYTES
        self.rows = block_rows * int(np.clip(SHARD_BYTES / max(block_bytes, 1), 1, 64))  # cells of a shard
        self.dealt = [folder / f"dealt-{number:05d}" for number in range(-(-survey.n // self.rows))]

    def deal(self, chunks: Iterable[sparse.csr_matrix], place: np.ndarray) -> None:
        """Append each cell to the file of its shard, with its place in the store."""
        done = 0
        for chunk in _joined(chunks):
            places = place[done : done + chunk.shape[0]]
            done += chunk.shape[0]
            number = places // self.rows
            order = np.argsort(number, kind="stable")
            ends = np.searchsorted(number[order], np.arange(len(self.dealt) + 1))
            for dealt, start, end in zip(self.dealt, ends[:-1], ends[1:], strict=True):
                taken = order[start:end]
                rows = chunk[taken]
                header = np.array([len(taken), rows.nnz], "<i8")
                arrays = (places[taken], np.diff(rows.indptr), rows.indices, rows.data)
                with dealt.open("ab") as file:
                    kinds = (array.astype(kind) for array, kind in zip(arrays, DEALT, strict=True))
                    _write_arrays(file, [header, *kinds])

    def write(self) -> Iterator[Shard]:
        """Put each shard in order, and write it."""
        for number, dealt in enumerate(self.dealt):
            rows = _in_order(dealt, self.survey.n_features)
            dealt.unlink()
            name, blocks, offset = f"shard-{number:05d}.bin", [], 0
            with (self.folder / name).open("wb") as file:
                for start in range(0, rows.shape[0], self.block_rows):
                    block, arrays = pack_block(rows[start : start + self.block_rows], self.survey.limit, offset)
                    offset += _write_arrays(file, arrays)
                    blocks.append(block)
            yield Shard(name=name, n_bytes=offset, blocks=blocks)


def _joined(chunks: Iterable[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    """The same rows, about a shard's at a time: so few writes are small."""
    held: list[sparse.csr_matrix] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(one.nnz for one in held) * ENTRY_BYTES > SHARD_BYTES:
            yield sparse.vstack(held, format="csr")
            held = []
    if held:
        yield sparse.vstack(held, format="csr")


def _in_order(dealt: Path, n_genes: int) -> sparse.csr_matrix:
    """The cells of a shard, in the order of the store."""
    with dealt.open("rb") as file:
        parts = list(_dealt_parts(file, n_genes))
    places, rows = np.concatenate([own for own, _ in parts]), sparse.vstack([own for _, own in parts], format="csr")
    del parts
    return rows[np.argsort(places)]


def pack_block(rows: sparse.csr_matrix, limit: int, offset: int) -> tuple[Block, list[np.ndarray]]:
    """Some cells as a block at `offset` of its shard: what the manifest says of it, and its arrays in their order."""
    is_listed = rows.data > limit
    listed = sparse.csr_matrix((is_listed.astype(np.int64), rows.indices, rows.indptr), shape=rows.shape)
    n_listed = np.asarray(listed.sum(axis=1)).ravel()
    found = {
        "log_factorial": log_factorials(rows),
        "listed_value": rows.data[is_listed],
        "listed_column": rows.indices[is_listed],
        "length": np.diff(rows.indptr) - n_listed,
        "listed_length": n_listed,
        "column": rows.indices[~is_listed],
        "value": rows.data[~is_listed],
    }
    n = {"n_rows": rows.shape[0], "n_entries": int((~is_listed).sum()), "n_listed": int(is_listed.sum())}
    block = Block(offset=offset, sha256="", **n)
    arrays = [found[name].astype(kind) for name, kind, _ in block_arrays(block, rows.shape[1])]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    return block.model_copy(update={"sha256": digest.hexdigest()}), arrays


def _write_arrays(file: BinaryIO, arrays: Sequence[np.ndarray]) -> int:
    """Write them one behind the other; bytes written."""
    for array in arrays:
        file.write(array.tobytes())
    return sum(array.nbytes for array in arrays)


def _dealt_parts(file: BinaryIO, n_genes: int) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
    """Places and counts of the cells of a shard, as they were dealt out."""
    while header := file.read(16):
        n, n_entries = np.frombuffer(header, "<i8").tolist()
        places, length, column, value = (
            np.frombuffer(file.read(size * np.dtype(kind).itemsize), kind)
            for kind, size in zip(DEALT, (n, n, n_entries, n_entries), strict=True)
        )
        start = np.concatenate([[0], length.cumsum()])
        yield places, sparse.csr_matrix((value, column, start), shape=(n, n_genes))
