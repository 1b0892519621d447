"""What a packed store holds, and where: its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from nvae_bio.config import Settings
from nvae_bio.data.files import read_file
from nvae_bio.data.packed import BYTE, index_type
from nvae_bio.errors import UserError, one_line

MANIFEST, OBS = "manifest.json", "obs.parquet"
AGAIN = "changed since it was written; prepare the data again"


class Block(Settings):
    """Where some cells are in a shard, and how many counts they have.

    Attributes:
        offset: of its first byte.
        n_rows: cells.
        n_entries: counts of one byte.
        n_listed: larger ones.
        sha256: of its bytes.
    """

    offset: NonNegativeInt
    n_rows: PositiveInt
    n_entries: NonNegativeInt
    n_listed: NonNegativeInt
    sha256: str


class Shard(Settings):
    """A file of blocks."""

    name: str
    n_bytes: NonNegativeInt
    blocks: list[Block]


class Manifest(Settings):
    """What a store holds; `manifest.json`.

    Attributes:
        format: of the store.
        fingerprint: of the prepared data.
        classes: names of the classes.
        covariates: column of obs and kind of each covariate.
        genes: their names.
        limit: largest count that is packed as a byte.
        largest: of each gene, among the counts packed as bytes.
        block_rows: cells of a block, but for the last.
        obs_sha256: of `obs.parquet`.
        shards: the files of counts.
        sha256: of all else in the manifest.
    """

    format: Literal["nvae-bio store 1"] = "nvae-bio store 1"
    fingerprint: str
    classes: list[str]
    covariates: list[tuple[str, str]]
    genes: list[str]
    limit: NonNegativeInt
    largest: list[NonNegativeInt]
    block_rows: PositiveInt
    obs_sha256: str
    shards: list[Shard]
    sha256: str = ""

    @property
    def checksum(self) -> str:
        """sha256 of all else."""
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()

    @property
    def n(self) -> int:
        """Cells."""
        return sum(block.n_rows for shard in self.shards for block in shard.blocks)

    def is_sound(self) -> bool:
        """Whether its parts fit each other: no block lies outside of its shard, and no shard outside of the folder."""
        blocks = [block for shard in self.shards for block in shard.blocks]
        full = all(block.n_rows == self.block_rows for block in blocks[:-1])
        inside = all(
            block.offset + n_bytes_of(block, len(self.genes)) <= shard.n_bytes
            for shard in self.shards
            for block in shard.blocks
        )
        named = all(Path(shard.name).name == shard.name for shard in self.shards)
        counted = len(self.largest) == len(self.genes) > 0 and max(self.largest) <= self.limit <= BYTE
        return bool(blocks) and full and blocks[-1].n_rows <= self.block_rows and inside and named and counted


def block_arrays(block: Block, n_genes: int) -> list[tuple[str, np.dtype[Any], int]]:
    """Name, type and length of the arrays of a block, in their order."""
    column = np.dtype(index_type(n_genes)).newbyteorder("<")
    return [
        ("log_factorial", np.dtype("<f8"), block.n_rows),
        ("listed_value", np.dtype("<f4"), block.n_listed),
        ("listed_column", np.dtype("<i4"), block.n_listed),
        ("length", np.dtype("<i4"), block.n_rows),
        ("listed_length", np.dtype("<i4"), block.n_rows),
        ("column", column, block.n_entries),
        ("value", np.dtype("u1"), block.n_entries),
    ]


def n_bytes_of(block: Block, n_genes: int) -> int:
    """Bytes of a block."""
    return sum(kind.itemsize * length for _, kind, length in block_arrays(block, n_genes))


def read_manifest(folder: Path, fingerprint: str | None) -> Manifest:
    """The manifest of a store, if all files are there as they were written; blocks are looked at as they are read.

    Args:
        folder: of the store.
        fingerprint: of the data that it must be made from; None for any.

    Raises:
        UserError: no store, one that was changed or lost a part, or one of other data.
    """
    text = read_file(folder / MANIFEST, Path.read_text, "the manifest of a store (nvae-bio prepare --store)")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise UserError(one_line(error, Manifest, str(folder / MANIFEST))) from None
    if manifest.sha256 != manifest.checksum:
        raise UserError(f"{folder / MANIFEST}: {AGAIN} (checksum differs)")
    if not manifest.is_sound():
        raise UserError(f"{folder / MANIFEST}: {AGAIN} (its parts do not fit each other)")
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise UserError(
            f"{folder}: made from other data (fingerprint {manifest.fingerprint[:12]}…, the prepared file has "
            f"{fingerprint[:12]}…); prepare the data again"
        )
    for shard in manifest.shards:
        path = folder / shard.name
        n_bytes = read_file(path, lambda path: path.stat().st_size, "a shard of a store")
        if n_bytes != shard.n_bytes:
            raise UserError(f"{path}: {AGAIN} ({n_bytes} bytes, not {shard.n_bytes})")
    obs = folder / OBS
    if hashlib.sha256(read_file(obs, Path.read_bytes, "a parquet table")).hexdigest() != manifest.obs_sha256:
        raise UserError(f"{obs}: {AGAIN} (checksum differs)")
    return manifest
