"""The kernels: values and gradients against autograd, SciPy and plain sums, and the fused form against the other."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio.data.batch import CountLadder
from nvae_bio.data.packed import counts_of, pack
from nvae_bio.machine import matmul_precision
from nvae_bio.model import fused
from nvae_bio.model.kernels import climb, log1p_scaled
from nvae_bio.model.pixel_kernels import bernoulli_log_prob
from tests.kernel_cases import (
    DISPERSIONS,
    POISSONLIKE,
    Case,
    assert_within,
    by_autograd,
    by_sums,
    float32_errors,
    found_by,
    kernel,
    make_case,
    make_weights,
)
from tests.small_models import law, make_generator

# --- negative binomial -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_value_and_gradients_are_those_of_autograd(seed: int) -> None:
    case = make_case(6, 40, DISPERSIONS, seed)
    assert len(counts_of(case.x).listed.row) > 10
    for one, other in zip(found_by(kernel, case), found_by(by_autograd, case), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-7)


def test_value_is_scipys() -> None:
    case = make_case(6, 40, DISPERSIONS[:-1], 7)
    mean = (case.logits.log_softmax(-1)[:, :-1] + case.log_library[:, None]).exp().numpy()
    theta = case.log_dispersion.exp().numpy()
    expected = scipy.stats.nbinom.logpmf(case.x.numpy(), theta, theta / (theta + mean)).sum(1)
    np.testing.assert_allclose(kernel(*case), expected, rtol=1e-9)


@pytest.mark.parametrize("dispersions", [DISPERSIONS, POISSONLIKE])
def test_value_and_gradients_are_those_of_plain_sums(dispersions: list[float]) -> None:
    case = make_case(4, 30, dispersions, 5)
    expected = by_sums(case)
    for one, other in zip(found_by(kernel, case), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-6)
    assert_within(found_by(kernel, case.to(torch.float32)), expected, float32_errors(case))


@law
@given(st.integers(0, 20000), st.floats(-12, 12), st.floats(-9, 16))
def test_any_count_at_any_mean_and_dispersion(count: int, log_mean: float, log_dispersion: float) -> None:
    numbers = np.array([[log_mean, 0.0], [log_dispersion, 0.0]], np.float32).astype(np.float64)
    library = np.float32(math.log1p(math.exp(numbers[0, 0])))
    case = Case(
        torch.tensor(numbers[:1]), torch.tensor(numbers[1, :1]), torch.tensor([[float(count)]]),
        torch.tensor([float(library)]),
    ).to(torch.float64)  # fmt: skip
    expected = by_sums(case)
    for one, other in zip(found_by(kernel, case), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-6)
    assert_within(found_by(kernel, case.to(torch.float32)), expected, float32_errors(case))


def test_the_poisson_limit() -> None:
    case = make_case(3, 20, [1e14], 3)
    case = case._replace(x=torch.arange(60.0).double().reshape(3, 20), log_library=torch.full((3,), 7.0).double())
    mean = (case.logits.log_softmax(-1)[:, :-1] + case.log_library[:, None]).exp()
    expected = scipy.stats.poisson.logpmf(case.x.numpy(), mean.numpy()).sum(1)
    found = found_by(kernel, case)
    np.testing.assert_allclose(found.value, expected, rtol=1e-9)
    by_log_mean = case.x - mean
    by_logits = -case.logits.softmax(1) * by_log_mean.sum(1, keepdim=True)
    by_logits[:, :-1] += by_log_mean
    torch.testing.assert_close(found.by_logits, by_logits * make_weights(3)[:, None], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("spread", [0.1, 4.0, 40.0])
@pytest.mark.parametrize(("n", "n_features"), [(1, 1), (7, 1), (1, 62), (3, 63), (2, 64), (5, 65), (4, 200)])
def test_fused_is_the_plain_form_but_for_rounding(n: int, n_features: int, spread: float, counts: bool) -> None:
    case = make_case(n, n_features, [*DISPERSIONS, *POISSONLIKE], n_features, counts, spread)
    found = found_by(kernel, case.to(torch.float32), counts=counts_of(case.x))
    assert all(part.dtype == torch.float32 for part in found)
    assert_within(found, found_by(kernel, case, counts=counts_of(case.x)), float32_errors(case))


def test_no_gradient_is_made_where_none_is_wanted_and_the_value_is_the_same() -> None:
    for dtype in (torch.float32, torch.float64):
        case = make_case(4, 70, DISPERSIONS).to(dtype)
        assert torch.equal(kernel(*case), found_by(kernel, case).value)
        only = case.logits.clone().requires_grad_()
        kernel(only, *case[1:]).sum().backward()
        weights = torch.ones(4)
        torch.testing.assert_close(only.grad, found_by(kernel, case, weights).by_logits, rtol=0, atol=0)


def test_a_second_backward_pass_is_refused_and_not_wrong() -> None:
    for dtype in (torch.float32, torch.float64):
        case = make_case(3, 10, DISPERSIONS).to(dtype)
        logits = case.logits.requires_grad_()
        for value in (kernel(logits, *case[1:]).sum(), bernoulli_log_prob(logits, torch.ones(3, 11)).sum()):
            value.backward(retain_graph=True)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                value.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_group_has_a_dispersion_of_its_own(dtype: torch.dtype) -> None:
    case, n_groups = make_case(9, 30, DISPERSIONS).to(dtype), 4
    tables = make_case(n_groups, 30, [*DISPERSIONS, *POISSONLIKE]).logits[:, :-1].to(dtype)
    group, matrix = torch.tensor([0, 2, 2, 1, 0, 2, 1, 1, 0]), pack(case.x.numpy(), is_counts=True)  # none in group 3
    counts = matrix.counts(torch.arange(9))
    together = found_by(kernel, case._replace(log_dispersion=tables), counts=counts, group=group)
    assert not together.by_dispersion[3].any()
    for index in range(3):
        rows = (group == index).nonzero().squeeze(1)
        part = Case(case.logits[rows], tables[index], case.x[rows], case.log_library[rows])
        apart = found_by(kernel, part, make_weights(9)[rows], counts=matrix.counts(rows))
        torch.testing.assert_close(together.value[rows], apart.value, rtol=0, atol=0)
        torch.testing.assert_close(together.by_logits[rows], apart.by_logits, rtol=0, atol=0)
        torch.testing.assert_close(together.by_dispersion[index], apart.by_dispersion, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grouped", [False, True])
def test_leading_dimensions_are_models_apart(dtype: torch.dtype, grouped: bool) -> None:
    shape, g = (2, 3, 5), 33
    flat = make_case(30, g, DISPERSIONS).to(dtype)
    matrix = pack(flat.x.numpy(), is_counts=True)
    index = torch.arange(30).flip(0).reshape(shape)
    group = torch.tensor([0, 1, 1, 0, 1]).expand(shape) if grouped else None
    tables = make_case(12 if grouped else 6, g, DISPERSIONS, 1).logits[:, :-1].to(dtype)
    tables = tables.reshape(2, 3, 2, g) if grouped else tables.reshape(2, 3, g)
    stacked = Case(flat.logits[index], tables, flat.x[index], flat.log_library[index])
    weights = make_weights(30).reshape(shape)
    together = found_by(kernel, stacked, weights, counts=matrix.counts(index), group=group)
    assert together.value.shape == shape
    for i, j in np.ndindex(2, 3):
        part, own = Case(*(values[i, j] for values in stacked)), None if group is None else group[i, j]
        apart = found_by(kernel, part, weights[i, j], counts=matrix.counts(index[i, j]), group=own)
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(one[i, j], other, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(together.value[i, j], apart.value, rtol=0, atol=0)


@pytest.mark.parametrize("where", [0, 32, 64, 65])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_broken_logits_give_broken_values(dtype: torch.dtype, bad: float, where: int) -> None:
    # the last one, 65, is the rest's
    case = make_case(3, 65, DISPERSIONS).to(dtype)
    case.logits[1, where] = bad
    for bernoulli in (False, True):
        x = torch.full_like(case.logits, 0.5)
        value = bernoulli_log_prob(case.logits, x) if bernoulli else kernel(*case)
        assert torch.isfinite(value).tolist() == [True, False, True]


# --- precision and threads -------------------------------------------------------------------------------------------


@contextmanager
def n_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_and_short_products_change_no_bit(dtype: torch.dtype) -> None:
    case, pixels = make_case(5, 70, [*DISPERSIONS, *POISSONLIKE]).to(dtype), torch.full((5, 71), 0.25)

    def everything() -> list[Tensor]:
        logits = case.logits.clone().requires_grad_()
        soft = bernoulli_log_prob(logits, pixels)
        soft.sum().backward()
        return [*found_by(kernel, case), soft.detach(), logits.grad, log1p_scaled(case.x, case.log_library)]

    plain = everything()
    with torch.autocast("cpu", torch.bfloat16):
        within = everything()
    with matmul_precision("medium"):
        short = everything()
    for one, other, third in zip(plain, within, short, strict=True):
        assert one.dtype == other.dtype == dtype
        assert torch.equal(one, other) and torch.equal(one, third)


def test_short_outputs_are_scored_in_full() -> None:
    # at θ = 1e7 the difference of two gamma functions in bfloat16, or in float32, would be nothing but rounding
    case = make_case(4, 50, [1e7]).to(torch.float32)
    short = case.logits.bfloat16()
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = kernel(short, *case[1:])
            pixels = bernoulli_log_prob(short, torch.ones(4, 51))
        exact = case._replace(logits=short.float())
        assert found.dtype == pixels.dtype == torch.float32
        assert torch.equal(found, kernel(*exact))
        assert torch.equal(pixels, bernoulli_log_prob(short.float(), torch.ones(4, 51)))
    exact = exact.to(torch.float64)
    assert_within(found_by(kernel, exact.to(torch.float32)), by_sums(exact), float32_errors(exact))


def test_fused_is_the_same_on_any_number_of_threads() -> None:
    case, found, logs = make_case(67, 130, DISPERSIONS).to(torch.float32), [], []
    for n in (1, 2, 1):
        with n_threads(n):
            found.append(found_by(kernel, case))
            logs.append(log1p_scaled(case.x, case.log_library))
            assert torch.get_num_threads() == n
    for one, *others in zip(*found, strict=True):
        assert all(torch.equal(one, other) for other in others)
    assert torch.equal(logs[0], logs[1])


def test_compiled_anew_and_read_from_the_cache_the_loops_give_the_same_bits(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.kernel_bits"]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert any(tmp_path.rglob("*.nbc"))
    assert first == second


@pytest.mark.parametrize("n", [1, 2])
def test_the_first_fused_call_of_a_process_leaves_torchs_threads_alone(n: int) -> None:
    program = (
        "import torch; from nvae_bio.model.fused import log1p_scaled\n"
        f"torch.set_num_threads({n}); log1p_scaled(torch.ones(300, 7), torch.ones(300)); print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(n)


# --- parts -----------------------------------------------------------------------------------------------------------


def ulps(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units of the last place of float32."""
    return float((np.abs(found - exact) / np.spacing(exact.astype(np.float32))).max())


def test_fused_exp_is_good_to_two_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-87, 0, 1_000_003), -np.geomspace(1e-30, 87, 100_003)]).astype(np.float32)
    out = np.empty_like(x)
    fused._exp_above(x, np.float32(0), out)
    assert ulps(out, np.exp(x.astype(np.float64))) < 2
    assert out[x == 0].tolist() == [1.0]
    below, out = np.array([-87.5, -100, -1e6, -np.inf], np.float32), np.empty(4, np.float32)
    fused._exp_above(below, np.float32(0), out)
    assert ((out > 0) & (out < 1.7e-38)).all()


def test_fused_log1p_is_good_to_two_units_in_the_last_place() -> None:
    t = np.concatenate([[0], np.geomspace(1e-37, 1e38, 1_000_003), np.linspace(0, 8, 300_007)]).astype(np.float32)
    out = np.empty_like(t)
    fused.log1p_of(t, out)
    assert ulps(out, np.log1p(t.astype(np.float64))) < 2
    assert out[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1p_scaled(dtype: torch.dtype) -> None:
    x, scale = torch.rand(2, 3, 65, generator=make_generator(0), dtype=dtype) * 1000, torch.rand(2, 3).to(dtype)
    found = log1p_scaled(x, scale)
    expected = np.log1p(x.double().numpy() * scale.double().numpy()[..., None])
    assert found.dtype == dtype and found.shape == x.shape
    np.testing.assert_allclose(found, expected, rtol=2 * torch.finfo(dtype).eps)
    for view in (x.mT.contiguous().mT, x[:, :, ::2], x[0, 0].expand(2, 3, 65)):  # whatever the strides
        assert torch.equal(log1p_scaled(view, scale), log1p_scaled(view.contiguous(), scale))
    turned, ones = x[0].T, torch.ones(65, dtype=dtype)
    assert torch.equal(log1p_scaled(turned, ones), log1p_scaled(turned.contiguous(), ones))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 3e-7)])
def test_climbing_the_ladder_is_a_plain_sum(dtype: torch.dtype, error: float) -> None:
    largest, dispersions = [0, 255, 3, 17], [*DISPERSIONS, *POISSONLIKE]
    ladder = CountLadder.up_to(torch.tensor(largest))
    log_dispersion = torch.tensor(dispersions).log()[:, None].expand(-1, 4).to(dtype).contiguous()
    rising, by_rising = climb(ladder, log_dispersion, with_gradient=True)
    assert by_rising is not None
    alone, nothing = climb(ladder, log_dispersion, with_gradient=False)
    assert nothing is None and torch.equal(alone, rising)
    for group, theta in enumerate(log_dispersion[:, 0].exp().double().tolist()):
        expected, derivative = [], []
        for top in largest:
            for x in range(top + 1):
                expected.append(math.fsum(math.log1p(j / theta) for j in range(x)))
                derivative.append(-math.fsum(j / (theta + j) for j in range(x)))
        np.testing.assert_allclose(rising[group], expected, rtol=error, atol=2e-12)
        np.testing.assert_allclose(by_rising[group], derivative, rtol=error, atol=2e-12)


# --- Bernoulli -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 5e-7)])
@pytest.mark.parametrize("shape", [(1, 1), (4, 63), (2, 3, 65)])
def test_bernoulli_value_and_gradient(dtype: torch.dtype, error: float, shape: tuple[int, ...]) -> None:
    generator = make_generator(2)
    logits = (10 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    x = torch.rand(shape, generator=generator).round(decimals=1).to(dtype)
    weights = torch.randn(shape[:-1], generator=generator).to(dtype)
    value = bernoulli_log_prob(logits, x)
    (value * weights).sum().backward()
    exact = logits.detach().double().numpy()
    parts = x.numpy() * scipy.special.log_expit(exact) + (1 - x.double().numpy()) * scipy.special.log_expit(-exact)
    np.testing.assert_allclose(value.detach(), parts.sum(-1), rtol=10 * error, atol=10 * error)
    by_logits = (x.double().numpy() - scipy.special.expit(exact)) * weights.numpy()[..., None]
    np.testing.assert_allclose(logits.grad, by_logits, rtol=error, atol=error)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-15), (torch.float32, 2e-7)])
def test_bernoulli_keeps_the_digits_of_sure_pixels(dtype: torch.dtype, error: float) -> None:
    logits = torch.tensor([[50.0], [-50.0], [50.0], [-50.0]], dtype=dtype)
    x = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    sure, wrong = -math.log1p(math.exp(-50)), -50 - math.log1p(math.exp(-50))
    np.testing.assert_allclose(bernoulli_log_prob(logits, x), [sure, sure, wrong, wrong], rtol=error)
