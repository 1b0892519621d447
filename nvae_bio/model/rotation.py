"""Latent axes of a linear decoder, turned to simple structure.

z ~ N(0, I) looks the same from all sides, so that a decoder linear in z may spread each factor over all dims of a
block. Varimax (Kaiser 1958, doi:10.1007/BF02289233) turns the axes so that each loads few features strongly; where
loadings are sparse these are the factors themselves (Rohe & Zeng 2023, doi:10.1093/jrsssb/qkad029).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

SHARED, PRIVATE = "decoder.composition.shared_weight", "decoder.composition.class_weight"
MOMENTS, LINEAR = "encoder.moments.weight", "encoder.linear.weight"
MOMENTS_BIAS, LINEAR_BIAS = "encoder.moments.bias", "encoder.linear.bias"
TURNED = (SHARED, PRIVATE, MOMENTS, MOMENTS_BIAS, LINEAR, LINEAR_BIAS)
MAX_ITERATIONS = 200
TOLERANCE = 1e-8  # relative growth of the criterion at which it has converged


def varimax(loadings: Tensor) -> Tensor:
    """The rotation R, (dims, dims), for which the axes `Rᵀ loadings` have the largest varimax criterion.

    The criterion is the variance over features of the squared loadings, summed over dims.

    Args:
        loadings: (dims, features).

    >>> turned = torch.tensor([[3.0, 0.0], [0.0, 2.0]]).double()
    >>> mixed = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).double() @ turned
    >>> (varimax(mixed).T @ mixed).abs().sum(1).round(decimals=2).tolist()
    [3.0, 2.0]
    """
    columns = loadings.double().T
    rotation, criterion = torch.eye(columns.shape[1], dtype=torch.float64, device=loadings.device), 0.0
    for _ in range(MAX_ITERATIONS):
        turned = columns @ rotation
        left, size, right = torch.linalg.svd(columns.T @ (turned**3 - turned * turned.square().mean(0)))
        rotation, before, criterion = left @ right, criterion, float(size.sum())
        if criterion <= before * (1 + TOLERANCE):
            break
    return rotation.to(loadings.dtype)


def _groups(weights: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Loadings of z_s, (S, outputs), and of each block, (K, outputs), with the place of their first dim in q(z|x)."""
    shared, private = weights[SHARED], weights[PRIVATE]
    yield shared, 0
    for index, block in enumerate(private):
        yield block, len(shared) + index * len(block)


@torch.no_grad()
def turn_axes(weights: Mapping[str, Tensor]) -> None:
    """Turn the axes of z_s, and those of each private block, to simple structure; weights change in place.

    What is decoded of a sample's posterior mean stays the same. Its standard deviations become a diagonal form of those
    in the new axes, log σ'_j = Σ_i R_ij² log σ_i, which training goes on from.

    Args:
        weights: of one model with a linear decoder, by the names of its parameters.
    """
    n_dims = len(weights[MOMENTS]) // 2
    for loadings, first in _groups(weights):
        if len(loadings) < 2:
            continue
        rotation = varimax(loadings)
        loadings.copy_(rotation.T @ loadings)
        mean, log_std = (slice(start, start + len(loadings)) for start in (first, first + n_dims))
        for name in (MOMENTS, MOMENTS_BIAS):
            weights[name][mean] = rotation.T @ weights[name][mean]
            weights[name][log_std] = rotation.T.square() @ weights[name][log_std]
        weights[LINEAR][:, mean] = weights[LINEAR][:, mean] @ rotation
        weights[LINEAR_BIAS][mean] = weights[LINEAR_BIAS][mean] @ rotation
