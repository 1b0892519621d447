"""Files are read with one clear line on failure and written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

import anndata
import h5py
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from anndata import AnnData
from anndata.io import write_elem

from nvae_bio import schema
from nvae_bio.errors import UserError

T = TypeVar("T")
HOST = socket.gethostname()
BLOCK, MARK = 512, b"nvae-bio sha256 "  # bytes before the HDF5 data, and what the checksum in them begins with
CHECKSUM = b"nvae-bio sha256"  # metadata of a parquet table
SCORE_COLUMNS = ["dataset", "variant", "seed", "metric", "value"]  # of a table of scores


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that replaces it when the block ends well, and vanishes when it does not.

    Of a process that is killed it stays; the next one on the same machine that writes `path` removes it.

    Raises:
        UserError: it cannot be written: a full or read-only disk, say.
    """
    part = path.with_name(f".{path.stem}.{HOST}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield part
        part.replace(path)
    except OSError as error:  # of the system, or of a library that tells it in words alone
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be written ({reason}); what was there is as it was") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove temporary files of `path` whose processes are no more; those of other machines are left alone."""
    before, after = f".{path.stem}.{HOST}.", f".part{path.suffix}"
    for part in path.parent.iterdir():
        number = part.name.removeprefix(before).removesuffix(after)
        if part.name == f"{before}{number}{after}" and number.isdecimal() and not _is_running(int(number)):
            with suppress(OSError):
                part.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def write_anndata(adata: AnnData, path: Path) -> None:
    """Write an .h5ad, atomically, with a checksum of all that is in it.

    The checksum stands before the HDF5 data, in the block that the format leaves to its users and readers skip. The
    file is made in memory, for HDF5 cannot say in a few words that a disk is full.
    """
    adata.strings_to_categoricals()
    made = io.BytesIO()
    with h5py.File(made, "w", userblock_size=BLOCK) as hdf5:
        write_elem(hdf5, "/", adata, dataset_kwargs={"compression": "gzip", "compression_opts": 1})
    content = made.getbuffer()[BLOCK:]
    checksum = hashlib.sha256(content).hexdigest().encode()
    with atomic_path(path) as part, part.open("wb") as file:
        file.write((MARK + checksum).ljust(BLOCK, b"\0"))
        file.write(content)


def check_whole(path: Path) -> None:
    """Refuse an .h5ad that is not what `write_anndata` wrote; one that another program wrote has no checksum.

    Raises:
        ValueError: it was changed, or lost a part.
    """
    with path.open("rb") as file:
        block = file.read(BLOCK).rstrip(b"\0")
    if block.startswith(MARK) and block.removeprefix(MARK) != _checksum(path):
        raise ValueError("checksum differs: changed since it was written")


def _checksum(path: Path) -> bytes:
    """Of all that stands behind the block, as text."""
    with path.open("rb") as file:
        file.seek(BLOCK)
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a parquet table, atomically, with a checksum of its content in its metadata."""
    content, first = pa.Table.from_pandas(table, preserve_index=False), pa.BufferOutputStream()
    pq.write_table(content, first)
    checksum = _table_checksum(pq.read_table(pa.BufferReader(first.getvalue())))  # of what a reader will find
    with atomic_path(path) as part:
        pq.write_table(content.replace_schema_metadata({**(content.schema.metadata or {}), CHECKSUM: checksum}), part)


def _table_checksum(table: pa.Table) -> bytes:
    """Of names, types, values and metadata, but for the checksum."""
    known = {key: value for key, value in (table.schema.metadata or {}).items() if key != CHECKSUM}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.with_metadata(known)) as stream:
        stream.write_table(table.replace_schema_metadata(known).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest().encode()


def _read_whole_table(path: Path) -> pd.DataFrame:
    table = pq.read_table(path)
    checksum = (table.schema.metadata or {}).get(CHECKSUM)
    if checksum is not None and checksum != _table_checksum(table):
        raise ValueError("checksum differs: changed since it was written")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a .csv table, atomically."""
    with atomic_path(path) as part:
        table.to_csv(part, index=False)


def read_file(path: Path, reader: Callable[[Path], T], what: str) -> T:
    """What `reader` makes of `path`.

    Raises:
        UserError: no such file, or the reader cannot make sense of it (truncated, another format).
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected {what}")
    try:
        return reader(path)
    except UserError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # a library's complaint about the file, whatever its type
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: cannot be read as {what}; truncated, or another format? ({reason})") from error


def read_table(path: Path) -> pd.DataFrame:
    """Read a parquet table written by nvae-bio."""
    return read_file(path, _read_whole_table, "a parquet table")


def read_scores(paths: Sequence[Path]) -> pd.DataFrame:
    """The tables of runs as one, in the order given.

    Raises:
        UserError: none given, or one that is not a table of scores.
    """
    if not paths:
        raise UserError("no table of scores; at least one is needed")
    parts = []
    for path in paths:
        parts.append(read_file(path, pd.read_csv, "a table of scores (.csv)"))
        if list(parts[-1].columns) != SCORE_COLUMNS:
            raise UserError(f"{path}: columns {', '.join(parts[-1].columns)}; expected {', '.join(SCORE_COLUMNS)}")
    return pd.concat(parts, ignore_index=True)


def read_prepared(path: Path) -> AnnData:
    """Read a prepared data set.

    Raises:
        UserError: unreadable, or not written by `nvae-bio prepare`.
    """
    return _read_with(path, schema.DATA, "nvae-bio prepare")


@contextmanager
def open_prepared(path: Path) -> Iterator[AnnData]:
    """A prepared data set whose matrix stays in the file, open within the block and read in parts.

    Raises:
        UserError: unreadable, or not written by `nvae-bio prepare`.
    """
    prepared = _read_with(path, schema.DATA, "nvae-bio prepare", backed="r")
    try:
        yield prepared
    finally:
        prepared.file.close()


def read_embedded(path: Path) -> AnnData:
    """Read an embedded data set.

    Raises:
        UserError: unreadable, or not written by `nvae-bio embed`.
    """
    return _read_with(path, schema.MODEL, "nvae-bio embed")


def read_report(path: Path) -> AnnData:
    """Read a factor report.

    Raises:
        UserError: unreadable, or not written by `nvae-bio factors`.
    """
    report = _read_with(path, schema.MODEL, "nvae-bio factors")
    if schema.KL_BY_CLASS not in report.obsm:
        raise UserError(f"{path}: no obsm[{schema.KL_BY_CLASS!r}]; was it written by `nvae-bio factors`?")
    return report


def read_factors(path: Path) -> AnnData:
    """Read a factor report whose factors are those that seeds agree on.

    Raises:
        UserError: unreadable, or not the --report of `nvae-bio factors`.
    """
    report = read_report(path)
    if "published" not in report.obs:
        raise UserError(f"{path}: no obs['published']; allowed: the --report of `nvae-bio factors`, not its --seeds")
    return report


def read_generated(path: Path, *, images_only: bool = False) -> AnnData:
    """Read samples or traversals.

    Raises:
        UserError: unreadable, not written by `nvae-bio generate`, or not of images where these are asked for.
    """
    generated = _read_with(path, schema.MODEL, "nvae-bio generate")
    if "z" not in generated.obsm:
        raise UserError(f"{path}: no obsm['z']; was it written by `nvae-bio generate`?")
    if images_only and "image_shape" not in generated.uns[schema.MODEL]:
        raise UserError(f"{path}: of kind {generated.uns[schema.MODEL]['kind']!r}; pictures need kind 'images'")
    return generated


def _read_with(path: Path, key: str, writer: str, backed: Literal["r"] | None = None) -> AnnData:
    def reader(path: Path) -> AnnData:
        check_whole(path)
        return anndata.read_h5ad(path, backed=backed)

    adata = read_file(path, reader, "an .h5ad file")
    if key not in adata.uns:
        raise UserError(f"{path}: no uns[{key!r}]; was it written by `{writer}`?")
    return adata
