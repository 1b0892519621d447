"""The packed store gives back what was packed, whatever the layout, and takes the bytes it promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch import Tensor

from nvae_bio.data import packed as module
from nvae_bio.data.batch import CountLadder, Counts
from nvae_bio.data.batch import joined_ranges as join
from nvae_bio.data.files import open_prepared, write_anndata
from nvae_bio.data.packed import BYTE, LISTED_SHARE, MIN_LIMIT, PackedMatrix, SparseRows, counts_of, pack
from nvae_bio.data.samples import to_samples
from tests.small_models import law
from tests.toys import CLASSES, PREPARED

counts_matrices = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.sampled_from([0, 0, 0, 1, 2, 7, 14, 15, 16, 200, 255, 256, 257, 4000, 2**24]),
    fill=st.just(0),
)


@contextmanager
def layout(name: str, chunk: int = module.CHUNK) -> Iterator[None]:
    """Counts are packed `dense` or `sparse` inside the block, some rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE_BYTES", 2**40 if name == "dense" else -1)
        patch.setattr(module, "CHUNK", chunk)
        yield


def make_sparse(x: np.ndarray, chunk: int = module.CHUNK) -> PackedMatrix:
    """Packed as sparse rows, which few small matrices would be: one that is mostly 0 only."""
    with layout("sparse", chunk), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_sparse_pays", lambda dense_bytes, sparse_bytes: True)
        found = pack(x, is_counts=True)
    assert isinstance(found.values, SparseRows)
    return found


def make_dense(x: object, chunk: int = module.CHUNK) -> PackedMatrix:
    with layout("dense", chunk):
        found = pack(x, is_counts=True)
    assert isinstance(found.values, Tensor)
    return found


def make_counts(n: int, n_features: int, seed: int = 0) -> np.ndarray:
    """Mostly 0 and small, with a few counts up to 5000."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.3, (n, n_features)).astype(np.float32)
    where = rng.integers(0, [n, n_features], (max(n // 10, 1), 2))
    x[where[:, 0], where[:, 1]] = rng.integers(3, 5000, len(where))
    return x


def count_of(counts: Counts, features: int) -> Tensor:
    """The counts that places on the ladder and the list stand for."""
    place = counts.ladder.start + counts.step.reshape(-1, features).int()
    assert (counts.ladder.feature[place.long()] == torch.arange(features)).all()  # no place beyond its feature
    x = counts.ladder.step[place.long()]
    assert not x[counts.listed.row, counts.listed.column].any()
    x[counts.listed.row, counts.listed.column] = counts.listed.value
    return x.reshape(counts.step.shape)


def assert_same(one: PackedMatrix, other: PackedMatrix, index: Tensor) -> None:
    """Both give the same batch, to the bit."""
    (x, counts), (other_x, other_counts) = one.rows(index), other.rows(index)
    assert torch.equal(x, other_x)
    assert counts is not None and other_counts is not None
    for name in ("step", "log_factorial"):
        assert torch.equal(getattr(counts, name), getattr(other_counts, name)), name
    for part, names in (("ladder", ("start", "feature", "step")), ("listed", ("row", "column", "value"))):
        for name in names:
            assert torch.equal(getattr(getattr(counts, part), name), getattr(getattr(other_counts, part), name)), name


# --- counts ----------------------------------------------------------------------------------------------------------


@law
@given(counts_matrices, st.integers(1, 5), st.randoms(use_true_random=False))
def test_counts_come_back_exactly_from_either_layout(x: np.ndarray, chunk: int, random: object) -> None:
    given_x = x.copy()
    index = torch.tensor([random.randrange(len(x)) for _ in range(2 * len(x))])  # any order, rows more than once
    expected = torch.from_numpy(x)[index]
    for matrix in (make_dense(x, chunk), make_dense(sparse.csr_matrix(x), chunk), make_sparse(x, chunk)):
        assert len(matrix) == len(x) and matrix.n_features == x.shape[1]
        found, counts = matrix.rows(index)
        assert found.dtype == torch.float32 and torch.equal(found, expected)
        assert counts is not None and torch.equal(count_of(counts, x.shape[1]), expected)
        assert_same(matrix, make_dense(x, chunk), index)
    assert np.array_equal(x, given_x)


@law
@given(counts_matrices)
def test_log_factorial_is_scipys(x: np.ndarray) -> None:
    for matrix in (make_dense(x, 3), make_sparse(x, 3)):
        assert matrix.log_factorial is not None and matrix.log_factorial.dtype == torch.float64
        expected = scipy.special.gammaln(x.astype(np.float64) + 1).sum(1)
        np.testing.assert_allclose(matrix.log_factorial, expected, rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3)])
def test_no_counts_at_all(shape: tuple[int, int]) -> None:
    for matrix in (make_dense(np.zeros(shape)), make_sparse(np.zeros(shape)), make_dense(sparse.csr_matrix(shape))):
        x, counts = matrix.rows(torch.arange(shape[0]))
        assert x.shape == shape and not x.any()
        assert counts is not None and not counts.step.any() and not counts.log_factorial.any()
        assert len(counts.ladder.step) == shape[1]  # one step a feature
        assert counts.listed.row.shape == (0,)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_counts_of_any_type_are_packed_alike(dtype: type) -> None:
    x = np.minimum(make_counts(30, 9), 127)
    for matrix in (x.astype(dtype), sparse.csr_matrix(x.astype(dtype)), sparse.csr_array(x.astype(dtype))):
        assert_same(make_dense(matrix), make_dense(x), torch.arange(30))


def test_entries_of_zero_that_a_sparse_matrix_holds_are_none() -> None:
    x = make_counts(20, 6)
    holed = sparse.csr_matrix(x)
    holed.data[::3] = 0
    n_held = holed.nnz
    assert_same(make_dense(holed), make_dense(holed.toarray()), torch.arange(20))
    assert holed.nnz == n_held


@law
@given(counts_matrices, st.integers(0, 3))
def test_few_counts_are_listed_and_all_of_them_are_above_the_limit(x: np.ndarray, seed: int) -> None:
    x = np.concatenate([x, make_counts(400, x.shape[1], seed)])
    n_nonzero = int((x > 0).sum())
    fitting = [k for k in range(MIN_LIMIT, BYTE) if (x > k).sum() <= LISTED_SHARE * n_nonzero]
    limit = min([*fitting, BYTE])
    matrix = make_dense(x)
    assert sorted(matrix.listed.value.tolist()) == sorted(x[x > limit].tolist())
    assert matrix.ladder is not None and matrix.ladder.step.max() <= limit
    assert len(matrix.listed.value) <= max(LISTED_SHARE * n_nonzero, (x > BYTE).sum())


def test_the_share_that_may_be_listed_is_reached_and_not_passed() -> None:
    x = np.ones((100, 10), np.float32)  # of 1000 counts, one may be listed
    x[0, 0] = 200
    assert make_dense(x).listed.value.tolist() == [200]
    x[1, 0] = 201
    assert make_dense(x).listed.value.tolist() == [201]
    x[2, 0] = 201
    assert make_dense(x).listed.value.tolist() == []


def test_the_ladder_of_a_feature_ends_at_its_largest_count_that_is_not_listed() -> None:
    x = np.zeros((2000, 4), np.float32)
    x[:, 0], x[:, 1], x[7, 2], x[3, 0] = 3, np.arange(2000) % 12, 900, 800
    ladder = make_dense(x).ladder
    assert ladder is not None
    assert ladder.start.tolist() == [0, 4, 16, 17]
    assert ladder.step.tolist() == [*range(4), *range(12), 0, 0]
    assert ladder.feature.tolist() == [0] * 4 + [1] * 12 + [2, 3]


@pytest.mark.parametrize(("n_features", "dtype"), [(2**15 - 1, torch.int16), (2**15, torch.int32)])
def test_columns_take_two_bytes_as_long_as_they_can(n_features: int, dtype: torch.dtype) -> None:
    x = sparse.csr_matrix(([5.0, 9.0, 700.0], ([0, 2, 2], [n_features - 1, 0, n_features - 1])), (3, n_features))
    with layout("sparse"):
        matrix = pack(x, is_counts=True)
    assert isinstance(matrix.values, SparseRows) and matrix.values.column.dtype == dtype
    assert np.array_equal(matrix.rows(torch.arange(3))[0], x.toarray())


def test_an_index_of_any_shape_gives_rows_of_that_shape() -> None:
    x = make_counts(40, 7)
    index = torch.tensor([[3, 39, 0, 3], [5, 5, 1, 2]])
    for matrix in (make_dense(x), make_sparse(x)):
        found, counts = matrix.rows(index)
        assert torch.equal(found, torch.from_numpy(x)[index])
        assert counts is not None and counts.step.shape == (2, 4, 7) and counts.log_factorial.shape == (2, 4)
        assert torch.equal(count_of(counts, 7), found)
        for part in range(2):
            alone, of_part = matrix.rows(index[part])
            assert torch.equal(alone, found[part])
            assert of_part is not None and torch.equal(of_part.step, counts.step[part])


def test_each_layout_takes_the_bytes_it_promises() -> None:
    x = make_counts(3000, 50)
    dense, compressed = make_dense(x), make_sparse(x)
    n, n_nonzero, n_listed = len(x), int((x > 0).sum()), len(dense.listed.value)
    beside = 8 * (n + 1) + 8 * n_listed + 8 * n  # the list, and Σ log x! of each row
    assert dense.n_bytes == n * 50 + beside
    assert compressed.n_bytes == 3 * (n_nonzero - n_listed) + 8 * (n + 1) + beside
    assert 0 < n_listed < n


@pytest.mark.parametrize(("share", "kind"), [(0.05, SparseRows), (0.9, Tensor)])
def test_large_counts_take_the_smaller_layout(share: float, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (np.random.default_rng(0).random((200, 100)) < share).astype(np.float32)
    assert isinstance(pack(x, is_counts=True).values, Tensor)  # small: dense, whatever the share
    monkeypatch.setattr(module, "DENSE_BYTES", 10_000)
    assert isinstance(pack(x, is_counts=True).values, kind)


# --- other data ------------------------------------------------------------------------------------------------------


@law
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)), st.integers(1, 4))
def test_pictures_of_eight_bits_are_packed_as_bytes_and_come_back_exactly(pixels: np.ndarray, chunk: int) -> None:
    for x in (pixels.astype(np.float32) / np.float32(255), (pixels / 255).astype(np.float32)):
        with layout("dense", chunk):
            matrix = pack(x, is_counts=False)
        assert isinstance(matrix.values, Tensor) and matrix.values.dtype == torch.uint8
        assert matrix.divisor == 255 and torch.equal(matrix.values, torch.from_numpy(pixels))
        found, counts = matrix.rows(torch.arange(len(x)))
        assert counts is None and torch.equal(found, torch.from_numpy(x))


@pytest.mark.parametrize("odd", [0.5, -1 / 255, 256 / 255, np.float32(7 / 255) * (1 + 1e-6), np.nan, np.inf])
def test_what_bytes_cannot_hold_stays_as_it_is(odd: float) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 5)).astype(np.float32) / np.float32(255)
    x[17, 3] = odd
    with layout("dense", 6):
        matrix = pack(x, is_counts=False)
    assert isinstance(matrix.values, Tensor) and matrix.values.dtype == torch.float32 and matrix.divisor == 1
    np.testing.assert_array_equal(matrix.rows(torch.arange(20))[0], x)
    assert matrix.n_bytes == 4 * x.size + 8 * 21


def test_a_batch_is_a_copy() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for matrix, expected in ((pack(x, is_counts=False), x), (make_dense(np.ones((6, 3))), np.ones((6, 3)))):
        first, counts = matrix.rows(torch.arange(6))
        first.zero_()
        if counts is not None:
            counts.step.zero_()
        np.testing.assert_array_equal(matrix.rows(torch.arange(6))[0], expected)


# --- data sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PREPARED)
@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_an_open_file_gives_the_samples_that_memory_gives(kind: str, name: str, tmp_path: Path) -> None:
    prepared = PREPARED[kind]()
    write_anndata(prepared, tmp_path / "data.h5ad")
    with layout(name, 64):
        in_memory = to_samples(prepared, CLASSES)
        with open_prepared(tmp_path / "data.h5ad") as opened:
            assert opened.isbacked
            from_file = to_samples(opened, CLASSES)
    index = torch.arange(prepared.n_obs).flip(0)
    one, other = in_memory.take(index), from_file.take(index)
    assert torch.equal(one.x, other.x) and torch.equal(one.label, other.label)
    assert np.array_equal(one.x, prepared.to_df().to_numpy()[::-1])
    if kind == "counts":
        assert_same(in_memory.matrix, from_file.matrix, index)
        assert one.library is not None and other.library is not None and torch.equal(one.library, other.library)
    assert len(from_file) == prepared.n_obs


# --- parts -----------------------------------------------------------------------------------------------------------


@law
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=9))
def test_joined_ranges(parts: list[tuple[int, int]]) -> None:
    start, length = torch.tensor(parts, dtype=torch.int64).reshape(-1, 2).T
    assert join(start, length).tolist() == [value for first, n in parts for value in range(first, first + n)]


@law
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_a_ladder_has_a_step_for_each_count_of_each_feature(largest: list[int]) -> None:
    ladder = CountLadder.up_to(torch.tensor(largest))
    steps = [(g, j) for g, top in enumerate(largest) for j in range(top + 1)]
    assert list(zip(ladder.feature.tolist(), ladder.step.tolist(), strict=True)) == steps
    assert ladder.start.tolist() == [steps.index((g, 0)) for g in range(len(largest))]


def test_counts_of_a_matrix_are_those_of_its_packed_rows() -> None:
    x = torch.from_numpy(make_counts(12, 5)).reshape(3, 4, 5)
    counts = counts_of(x.double())
    assert counts.step.shape == x.shape and torch.equal(count_of(counts, 5), x)
    expected = torch.lgamma(x.double() + 1).sum(-1)
    torch.testing.assert_close(counts.log_factorial, expected)
