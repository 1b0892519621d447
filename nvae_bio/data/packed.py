"""The packed store: model features as small integers, from which batches are gathered.

Counts are held as one byte each, dense or as compressed sparse rows, whichever is smaller; the few counts above 255
(or above a lower limit, where nearly all counts are small) lie in a list of their own. Pictures of 8 bits are held as
one byte a pixel. A batch is a gather of rows, never a loop over them, and is the same whatever the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from scipy.special import gammaln
from torch import Tensor

from nvae_bio.data.batch import CountLadder, Counts, Entries, joined_ranges
from nvae_bio.data.matrix import check_sparse
from nvae_bio.errors import UserError

BYTE = 255  # largest count of the packed matrix; a larger one is listed
MIN_LIMIT = 15  # no lower limit saves anything
LISTED_SHARE = 1e-3  # counts above the limit are at most this share of all that are not 0
DENSE_BYTES = 256 * 2**20  # a matrix up to this size is always dense, which is gathered fastest
CHUNK = 2048  # rows read at a time while packing


@dataclass(frozen=True)
class SparseRows:
    """Compressed sparse rows.

    Attributes:
        start: where each row starts, (n + 1,), int64.
        column: int16 or int32, (n_entries,).
        value: (n_entries,).
    """

    start: Tensor
    column: Tensor
    value: Tensor

    def take(self, rows: Tensor) -> Entries:
        """The entries of `rows`, in their order."""
        start = self.start[rows]
        length = self.start[rows + 1] - start
        position = joined_ranges(start, length)
        row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), length)
        return Entries(row, self.column[position].long(), self.value[position])

    def to(self, device: torch.device) -> SparseRows:
        """The same on `device`."""
        return SparseRows(self.start.to(device), self.column.to(device), self.value.to(device))

    @property
    def n_bytes(self) -> int:
        """Bytes held."""
        return sum(part.numel() * part.element_size() for part in (self.start, self.column, self.value))


@dataclass(frozen=True)
class PackedMatrix:
    """Samples × features on one device.

    Attributes:
        values: uint8 (n, features), or its compressed sparse rows, or float32 (n, features) where bytes cannot hold it.
        divisor: what a byte is divided by: 1, or 255 for pixels in [0, 1].
        n_features: columns.
        listed: entries above the limit, whose byte is 0.
        ladder: of counts; None otherwise.
        log_factorial: Σ log x! of each row, (n,), of counts; None otherwise.
    """

    values: Tensor | SparseRows
    divisor: int
    n_features: int
    listed: SparseRows
    ladder: CountLadder | None = None
    log_factorial: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values.start) - 1 if isinstance(self.values, SparseRows) else len(self.values)

    @property
    def n_bytes(self) -> int:
        """Bytes held, all parts together."""
        values = self.values
        held = values.n_bytes if isinstance(values, SparseRows) else values.numel() * values.element_size()
        return held + self.listed.n_bytes + (0 if self.log_factorial is None else 8 * len(self.log_factorial))

    @property
    def density(self) -> float:
        """Share of the entries that are not 0."""
        values = self.values.value if isinstance(self.values, SparseRows) else self.values
        n_nonzero = int(torch.count_nonzero(values)) + len(self.listed.value)
        return n_nonzero / max(len(self) * self.n_features, 1)

    @property
    def is_bytes(self) -> bool:
        """Whether all values are k/255."""
        return self.divisor == BYTE

    @property
    def is_binary(self) -> bool:
        """Whether all values are 0 or 1; not of counts."""
        values = self.values
        return isinstance(values, Tensor) and bool(((values == 0) | (values == self.divisor)).all())

    def to(self, device: torch.device) -> PackedMatrix:
        """The same on `device`."""
        return PackedMatrix(
            self.values.to(device), self.divisor, self.n_features, self.listed.to(device),
            None if self.ladder is None else self.ladder.to(device),
            None if self.log_factorial is None else self.log_factorial.to(device),
        )  # fmt: skip

    def _stored(self, rows: Tensor) -> Tensor:
        """Bytes (or floats) of `rows` (n,) as they are stored, dense: (n, features)."""
        if isinstance(self.values, Tensor):
            return self.values.index_select(0, rows)
        entries = self.values.take(rows)
        dense = torch.zeros(len(rows) * self.n_features, dtype=torch.uint8, device=rows.device)
        dense[entries.row * self.n_features + entries.column] = entries.value
        return dense.view(len(rows), self.n_features)

    def rows(self, index: Tensor) -> tuple[Tensor, Counts | None]:
        """The rows at `index`, an int64 tensor of any shape (…).

        Returns:
            Values, (…, features), float32; and what a count likelihood needs, None unless the data are counts.
        """
        flat = index.reshape(-1)
        stored, listed = self._stored(flat), self.listed.take(flat)
        x = stored.float()
        if self.divisor != 1:
            x.div_(self.divisor)
        if len(listed.row):
            x[listed.row, listed.column] = listed.value
        counts = None
        if self.ladder is not None and self.log_factorial is not None:
            step = stored.view(*index.shape, self.n_features)
            counts = Counts(step, self.ladder, self.log_factorial[index], listed)
        return x.view(*index.shape, self.n_features), counts

    def reading(self, parts: Iterable[Tensor]) -> AbstractContextManager[None]:
        """That these rows will be asked for, part by part: of no use to data in memory."""
        return nullcontext()

    def counts(self, index: Tensor) -> Counts | None:
        """What a count likelihood needs of the rows at `index`; None unless the data are counts."""
        return self.rows(index)[1]


def counts_of(x: Tensor) -> Counts:
    """What a count likelihood needs of any counts, (…, rows, features); packs them first: for small matrices."""
    flat = x.reshape(-1, x.shape[-1])
    packed = pack(flat.cpu().numpy(), is_counts=True).to(x.device)
    counts = packed.counts(torch.arange(len(flat), device=x.device).reshape(x.shape[:-1]))
    assert counts is not None
    return counts


Chunks = Callable[[], Iterator[scipy.sparse.csr_matrix | np.ndarray]]


def pack(matrix: object, *, is_counts: bool) -> PackedMatrix:
    """Pack a matrix of (n, features), read a few thousand rows at a time: one that lies in a file is never held whole.

    Args:
        matrix: an array, a SciPy sparse matrix, or an on-disk matrix of anndata; non-negative integers if `is_counts`.
        is_counts: whether a count likelihood will score it. Other data are packed as bytes if every value is a 255th
            in [0, 1], and else kept as float32.
    """
    chunks = _chunks_of(matrix)
    if is_counts:
        return _pack_counts(chunks)
    if all(_is_bytes(chunk) for chunk in chunks()):
        return _dense(chunks, lambda part: np.rint(part.astype(np.float32) * BYTE).astype(np.uint8), BYTE)
    return _dense(chunks, lambda part: part.astype(np.float32), 1)


def _chunks_of(matrix: object) -> Chunks:
    """A function that goes through the rows of `matrix` from the start."""
    n = matrix.shape[0]  # type: ignore[attr-defined]

    def chunks() -> Iterator[scipy.sparse.csr_matrix | np.ndarray]:
        for start in range(0, n, CHUNK):
            try:
                part = matrix[start : start + CHUNK]  # type: ignore[index]
            except (OSError, ValueError, IndexError, RuntimeError) as error:  # of a library, of a file that is open
                raise UserError(f"the matrix of the data is damaged ({' '.join(str(error).split())[:200]})") from error
            check_sparse(part, "the data")
            yield scipy.sparse.csr_matrix(part) if scipy.sparse.issparse(part) else np.asarray(part)

    return chunks


def _toarray(part: scipy.sparse.csr_matrix | np.ndarray) -> np.ndarray:
    return part if isinstance(part, np.ndarray) else np.asarray(part.toarray())


def _is_bytes(part: scipy.sparse.csr_matrix | np.ndarray) -> bool:
    """Whether byte / 255 in float32 gives every value back exactly."""
    values = _toarray(part).astype(np.float32)
    if not (np.isfinite(values).all() and values.min(initial=0) >= 0 and values.max(initial=0) <= 1):
        return False
    return bool((np.rint(values * BYTE) / np.float32(BYTE) == values).all())


def _dense(chunks: Chunks, convert: Callable[[np.ndarray], np.ndarray], divisor: int) -> PackedMatrix:
    values = torch.from_numpy(np.concatenate([convert(_toarray(part)) for part in chunks()]))
    return PackedMatrix(values, divisor, values.shape[1], _no_rows(len(values)))


def _no_rows(n: int) -> SparseRows:
    return SparseRows(torch.zeros(n + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0))


class Survey:
    """What must be known of counts before they are packed, from a pass over them; same counts in parts, same result.

    Attributes:
        n: rows.
        frequency: how often each count from 0 to 255 is stored, and larger ones together, (257,).
    """

    def __init__(self) -> None:
        self.n, self.frequency, self._seen = 0, np.zeros(BYTE + 2, np.int64), np.zeros((BYTE + 2, 0), bool)

    def add(self, rows: scipy.sparse.csr_matrix) -> None:
        """The next rows, no zeros stored.

        Raises:
            UserError: values that no count can be.
        """
        if not (rows.data.min(initial=0) >= 0 and rows.data.max(initial=0) < np.inf):
            raise UserError("the counts of the data are not all finite and 0 or above; prepare them again")
        values = np.minimum(rows.data.astype(np.int64), BYTE + 1)
        self.frequency += np.bincount(values, minlength=BYTE + 2)
        if not self.n:
            self._seen = np.zeros((BYTE + 2, rows.shape[1]), bool)
        self._seen[values, rows.indices] = True
        self.n += rows.shape[0]

    @property
    def n_features(self) -> int:
        """Columns."""
        return self._seen.shape[1]

    @property
    def n_nonzero(self) -> int:
        """Counts above 0."""
        return int(self.frequency.sum())

    @property
    def limit(self) -> int:
        """The largest count that is packed; those above are few."""
        above = self.frequency[::-1].cumsum()[::-1]  # above[k]: how many counts are k or more
        allowed = np.flatnonzero(above[1:] <= LISTED_SHARE * self.frequency.sum())  # k such that few counts exceed it
        return int(np.clip(allowed[0] if len(allowed) else BYTE, MIN_LIMIT, BYTE))

    @property
    def largest(self) -> np.ndarray:
        """Largest count of each feature that is not above the limit, (features,), int64."""
        seen = self._seen[: self.limit + 1] * np.arange(self.limit + 1)[:, None]
        largest: np.ndarray = seen.max(0, initial=0)
        return largest


def _nonzero(part: scipy.sparse.csr_matrix | np.ndarray) -> scipy.sparse.csr_matrix:
    rows = scipy.sparse.csr_matrix(part, copy=True)
    rows.eliminate_zeros()
    return rows


def index_type(n_features: int) -> type[np.signedinteger]:
    """Of the columns of compressed rows."""
    return np.int16 if n_features <= np.iinfo(np.int16).max else np.int32


def log_factorials(rows: scipy.sparse.csr_matrix) -> np.ndarray:
    """Σ log x! of each row, (n,): the same bits whatever rows stand beside it."""
    logs = gammaln(rows.data.astype(np.float64) + 1)
    sums = scipy.sparse.csr_matrix((logs, rows.indices, rows.indptr), shape=rows.shape).sum(axis=1)
    return np.asarray(sums).ravel()


def _sparse_pays(dense_bytes: int, sparse_bytes: int) -> bool:
    """Whether the rows had better be compressed: a matrix that is small anyway is gathered faster when it is dense."""
    return dense_bytes > max(DENSE_BYTES, sparse_bytes)


def _pack_counts(chunks: Chunks) -> PackedMatrix:
    survey = Survey()
    for part in chunks():
        survey.add(_nonzero(part))
    n, n_features, n_listed = survey.n, survey.n_features, int(survey.frequency[survey.limit + 1 :].sum())
    index = index_type(n_features)
    is_sparse = _sparse_pays(n * n_features, survey.n_nonzero * (1 + np.dtype(index).itemsize))
    dense = np.zeros((0 if is_sparse else n, n_features), np.uint8)
    common = _RowsInMaking(n, survey.n_nonzero - n_listed if is_sparse else 0, index, np.uint8)
    listed = _RowsInMaking(n, n_listed, np.int32, np.float32)
    log_factorial, done = np.zeros(n), 0
    for part in chunks():
        rows = _nonzero(part)
        here = slice(done, done + rows.shape[0])
        log_factorial[here] = log_factorials(rows)
        above = rows.data > survey.limit
        listed.add(rows, above)
        if is_sparse:
            common.add(rows, ~above)
        else:
            rows.data[above] = 0
            dense[here] = rows.astype(np.uint8).toarray()
        done = here.stop
    stored = common.finished() if is_sparse else torch.from_numpy(dense)
    ladder = CountLadder.up_to(torch.from_numpy(survey.largest))
    return PackedMatrix(stored, 1, n_features, listed.finished(), ladder, torch.from_numpy(log_factorial))


class _RowsInMaking:
    """Compressed sparse rows of known size, filled from the first row on."""

    def __init__(self, n: int, n_entries: int, index: type, value: type) -> None:
        self.start = np.zeros(n + 1, np.int64)
        self.column: np.ndarray = np.empty(n_entries, index)
        self.value: np.ndarray = np.empty(n_entries, value)
        self.n_rows = self.n_entries = 0

    def add(self, rows: scipy.sparse.csr_matrix, keep: np.ndarray) -> None:
        """Append the entries of the rows that are to be kept."""
        ends = keep.cumsum()
        before = np.concatenate([[0], ends])[rows.indptr[1:]]
        self.start[self.n_rows + 1 : self.n_rows + 1 + rows.shape[0]] = self.n_entries + before
        here = slice(self.n_entries, self.n_entries + (int(ends[-1]) if len(ends) else 0))
        self.column[here], self.value[here] = rows.indices[keep], rows.data[keep]
        self.n_rows, self.n_entries = self.n_rows + rows.shape[0], here.stop

    def finished(self) -> SparseRows:
        """All rows."""
        return SparseRows(*(torch.from_numpy(part) for part in (self.start, self.column, self.value)))
