"""Files are read with one clear line on failure and written whole or not at all."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem

from nvae_bio import schema
from nvae_bio.config import LIKELIHOODS
from nvae_bio.data.atomic import atomic_folder, atomic_path
from nvae_bio.data.inside import check_hdf5, check_links
from nvae_bio.errors import UserError, listed
from nvae_bio.guard import reading

T = TypeVar("T")
BLOCK, MARK = 512, b"nvae-bio sha256 "  # bytes before the HDF5 data, and what the checksum in them begins with
ZARR_ROWS = 8192  # rows of a matrix copied at a time
COMPRESSED = {"compression": "gzip", "compression_opts": 1}  # of the arrays of an .h5ad
CHECKSUM = b"nvae-bio sha256"  # metadata of a parquet table
PREPARED_KEYS = ("classes", "fingerprint", "settings", "removed")  # of uns, beside the kind
SCORE_COLUMNS = ["dataset", "variant", "seed", "metric", "value", "package", "saw_labels"]  # of a table of scores


class Disk(io.FileIO):
    """A file that HDF5 writes; it keeps the first error of the disk for later, for HDF5 may crash on a full one."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of it, or nothing more once there was an error."""
        view, done = memoryview(content), 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def readinto(self, place: Any) -> int:
        """Read back; what was never written is 0."""
        n, size = super().readinto(place) or 0, len(memoryview(place))
        if n < size and self.error is not None:
            memoryview(place)[n:] = bytes(size - n)
            return size
        return n

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self.error is not None:
            raise self.error


@contextmanager
def new_h5ad(path: Path) -> Iterator[tuple[h5py.File, Disk]]:
    """An .h5ad to be written, atomically, with a checksum of all that is in it; ask the disk now and then.

    The checksum stands before the HDF5 data, in the block that the format leaves to its users and readers skip.

    Raises:
        UserError: it cannot be written: a full or read-only disk, say.
    """
    with atomic_path(path) as part:
        with Disk(part, "w+") as disk:
            with h5py.File(disk, "w", userblock_size=BLOCK) as file:
                yield file, disk
            disk.check()
        checksum = _checksum(part)
        with part.open("r+b") as block:
            block.write((MARK + checksum).ljust(BLOCK, b"\0"))


def write_anndata(adata: AnnData, path: Path) -> None:
    """Write an .h5ad (`new_h5ad`)."""
    adata.strings_to_categoricals()
    with new_h5ad(path) as (file, _):
        write_elem(file, "/", adata, dataset_kwargs=COMPRESSED)


def write_around(adata: AnnData, group: Any) -> None:
    """Write all of an AnnData without a matrix into an .h5ad or .zarr that has one, or will."""
    adata.strings_to_categoricals()
    mappings = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "obsp", "varp", "layers", "uns")}
    kwargs = COMPRESSED if isinstance(group, h5py.Group) else {}
    for name, value in ({"obs": adata.obs, "var": adata.var} | mappings).items():
        write_elem(group, name, value, dataset_kwargs=kwargs)
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def write_beside_matrix(adata: AnnData, source: Path, path: Path) -> None:
    """Write an AnnData without a matrix, and the sparse matrix X of another .h5ad, which is not held in memory.

    Args:
        adata: all but the matrix.
        source: .h5ad with it.
        path: .h5ad or .zarr to write, atomically.

    Raises:
        UserError: it cannot be written.
    """
    if path.suffix == ".zarr":
        with atomic_folder(path) as part, h5py.File(source, "r") as file:
            group, rows = zarr.open_group(part, mode="w", zarr_format=2), sparse_dataset(file["X"])
            for start in range(0, adata.n_obs, ZARR_ROWS):
                append_rows(rows[start : start + ZARR_ROWS], group)
            write_around(adata, group)
        return
    with new_h5ad(path) as (new, disk), h5py.File(source, "r") as file:
        file.copy("X", new)
        disk.check()
        write_around(adata, new)


def append_rows(rows: Any, group: Any) -> None:
    """Add CSR rows to the matrix X of an .h5ad or .zarr, which begins with the first."""
    if "X" in group:
        sparse_dataset(group["X"]).append(rows)
        return
    rows.indptr = rows.indptr.astype("int64")  # those to come may have more entries than int32 counts
    write_elem(group, "X", rows, dataset_kwargs=COMPRESSED if isinstance(group, h5py.Group) else {})


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
    write_arrow(pa.Table.from_pandas(table, preserve_index=False), path)


def write_arrow(content: pa.Table, path: Path) -> None:
    """As `write_table`, of a table with a schema of its own."""
    first = pa.BufferOutputStream()
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
        UserError: no such file, the reader cannot make sense of it (truncated, another format), or it needs more memory
            than there is.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected {what}")
    try:
        with reading(str(path), path):
            return reader(path)
    except UserError:
        raise
    except Exception as error:  # a library's complaint about the file, whatever its type
        raise unreadable(path, what, error) from error


def unreadable(path: Path, what: str, error: Exception) -> UserError:
    """A library's complaint about a file, in one line."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{path}: cannot be read as {what}; truncated, or another format? ({reason})")


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
    return pd.concat(parts, ignore_index=True).astype({"package": object}).fillna({"package": ""})


def named_with_package(scores: pd.DataFrame, form: str = "{}") -> list[str]:
    """Metrics of a table of scores as they are shown: with the library and version that each is by, if any."""
    return [
        form.format(metric) + (f" ({package})" if package else "")
        for metric, package in zip(scores["metric"], scores["package"], strict=True)
    ]


def read_prepared(path: Path) -> AnnData:
    """Read a prepared data set.

    Raises:
        UserError: unreadable, or not written by `nvae-bio prepare`.
    """
    return _with_keys(_read_with(path, schema.DATA, "nvae-bio prepare"), path)


@contextmanager
def open_prepared(path: Path) -> Iterator[AnnData]:
    """A prepared data set whose matrix stays in the file, open within the block and read in parts.

    Raises:
        UserError: unreadable, or not written by `nvae-bio prepare`.
    """
    prepared = _read_with(path, schema.DATA, "nvae-bio prepare", backed="r")
    try:
        yield _with_keys(prepared, path)
    finally:
        prepared.file.close()


def _with_keys(prepared: AnnData, path: Path) -> AnnData:
    """A prepared data set, if it has what every step needs: another program may have written it again."""
    kind = str(prepared.uns[schema.DATA].get("kind"))
    if kind not in LIKELIHOODS:
        raise UserError(f"{path}: uns[{schema.DATA!r}]['kind'] is {listed([kind])}; allowed: {listed(LIKELIHOODS)}")
    lacking = [f"obs[{key!r}]" for key in (schema.LABEL, schema.SPLIT) if key not in prepared.obs]
    lacking += [f"uns[{schema.DATA!r}][{key!r}]" for key in PREPARED_KEYS if key not in prepared.uns[schema.DATA]]
    try:
        lacking += [] if prepared.X is not None else ["X"]
    except KeyError:  # of a file that is open
        lacking.append("X")
    if lacking:
        raise UserError(f"{path}: no {lacking[0]}; was it written by `nvae-bio prepare`?")
    classes = np.ravel(prepared.uns[schema.DATA]["classes"]).astype(str)
    if len(set(classes)) < len(classes):
        raise UserError(f"{path}: uns[{schema.DATA!r}]['classes'] are {listed(classes)}; allowed: each once")
    return prepared


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
    if schema.LATENT not in generated.obsm:
        raise UserError(f"{path}: no obsm[{schema.LATENT!r}]; was it written by `nvae-bio generate`?")
    if images_only and "image_shape" not in generated.uns[schema.MODEL]:
        raise UserError(f"{path}: of kind {generated.uns[schema.MODEL]['kind']!r}; pictures need kind 'images'")
    return generated


def read_h5ad(path: Path, backed: Literal["r"] | None = None) -> AnnData:
    """An .h5ad of any program, if it is as it was written (where that is known) and holds all that is in it.

    Raises:
        UserError: unreadable, changed, or with data in other files.
    """

    def reader(path: Path) -> AnnData:
        check_whole(path)
        check_hdf5(path)
        return anndata.read_h5ad(path, backed=backed)

    return read_file(path, reader, "an .h5ad file")


def read_zarr(path: Path) -> AnnData:
    """AnnData in a .zarr folder of any program, if all that it holds is in the folder.

    Raises:
        UserError: unreadable, or with links out of it.
    """

    def reader(path: Path) -> AnnData:
        check_links(path)
        return anndata.read_zarr(path)

    return read_file(path, reader, "AnnData in a .zarr folder")


def _read_with(path: Path, key: str, writer: str, backed: Literal["r"] | None = None) -> AnnData:
    adata = read_zarr(path) if path.suffix == ".zarr" and backed is None else read_h5ad(path, backed)
    if not isinstance(adata.uns.get(key), Mapping):
        raise UserError(f"{path}: no uns[{key!r}]; was it written by `{writer}`?")
    return adata
