"""Prints a checksum of what every compiled loop of `nvae_bio.model` gives: python -m tests.kernel_bits."""

from __future__ import annotations

import hashlib

import scipy.sparse
import torch

from nvae_bio.model import fused
from nvae_bio.model.sparse import Compressed
from tests.small_models import make_generator

N, FEATURES, DEPTH = 32, 500, 8


def checksum() -> str:
    """Of what every compiled loop gives for the same samples."""
    generator = make_generator(0)
    x = torch.poisson(2 * torch.rand(N, FEATURES, generator=generator), generator=generator).clamp(max=DEPTH - 1)
    start = DEPTH * torch.arange(FEATURES, dtype=torch.int32)
    dispersion = 0.5 + torch.rand(1, FEATURES, generator=generator)
    ladder = fused.climb(start, torch.arange(DEPTH).float().repeat(FEATURES), dispersion, with_gradient=True)
    library, group = torch.full((N,), 7.0), torch.zeros(N, dtype=torch.int64)
    found = [fused.log1p_scaled(x, library), *ladder]
    for n_outputs in (FEATURES + 1, 2 * FEATURES + 1):  # without and with zero inflation
        outputs = torch.randn(N, n_outputs, generator=generator)
        shared = (outputs, True, library, x, x.to(torch.uint8), start, group, dispersion, *ladder)
        found += fused.negative_binomial(*shared)
    found += fused.poisson(torch.randn(N, FEATURES + 1, generator=generator), True, library, x, with_gradient=True)
    kept = scipy.sparse.csr_matrix(x.numpy())
    start, place = torch.from_numpy(kept.indptr).long(), torch.from_numpy(kept.indices).int()
    rows = Compressed(start, place, torch.from_numpy(kept.data))
    weight = torch.randn(FEATURES, 16, generator=generator)
    found += [rows @ weight, rows.turned(FEATURES) @ torch.randn(N, 16, generator=generator)]
    return hashlib.sha256(b"".join(one.numpy().tobytes() for one in found if one is not None)).hexdigest()


if __name__ == "__main__":
    print(checksum())
