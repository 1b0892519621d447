"""p(x | y, z)'s outputs: the composed first layer, with a network behind it or as all there is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvae_bio.data.batch import Covariates
from nvae_bio.model.covariates import CovariateEffect

FIRST_LOADING = 0.02  # bound of a linear decoder's first weights, in units of its outputs: log rates, logits


class Composition(nn.Module):
    """The first decoder layer on [z_cy, z_s], as a gather of the class's own parameters: cost does not grow with C.

    Equal to a dense layer on vec(c_y ⊙ [1, z_c]), z_s and the covariates. Without classes (`vae`) C is 1.

    Args:
        n_shared: S.
        n_classes: C.
        n_private: K.
        width: hidden units.
        effect: of the covariates on the hidden units; None where the decoder is not told them.
        bound: of the weights' uniform start; by default that of a layer whose inputs have unit variance.
    """

    def __init__(
        self,
        n_shared: int,
        n_classes: int,
        n_private: int,
        width: int,
        effect: CovariateEffect | None = None,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        self.effect = effect
        bound = max(n_shared + n_private, 1) ** -0.5 if bound is None else bound
        self.shared_weight = nn.Parameter(torch.empty(n_shared, width).uniform_(-bound, bound))
        self.class_weight = nn.Parameter(torch.empty(n_classes, n_private, width).uniform_(-bound, bound))
        self.class_bias = nn.Parameter(torch.empty(n_classes, width).uniform_(-bound, bound))

    def forward(self, shared: Tensor, own: Tensor, label: Tensor, covariates: Covariates | None = None) -> Tensor:
        """Hidden units, (batch, width), from z_s (batch, S), the own block (batch, K) and the class (batch,).

        Without covariates they are those of an average training sample.
        """
        private = (own[:, :, None] * self.class_weight.index_select(0, label)).sum(1)
        hidden = self.class_bias.index_select(0, label) + private + shared @ self.shared_weight
        return hidden if self.effect is None else hidden + self.effect(covariates)


def log_prior(
    shared_weight: Tensor, class_weight: Tensor, class_bias: Tensor, loading_sd: float, intercept_sd: float
) -> Tensor:
    """log of a Laplace prior at the loadings and of N(0, intercept_sd²) at the intercepts, but for constants, (…,).

    Most genes are no part of a factor, and few are much of it: so loadings have heavy tails, with standard deviation
    `loading_sd` (density e^(−√2 |w| / loading_sd)).

    Args:
        shared_weight: (…, S, outputs).
        class_weight: (…, C, K, outputs).
        class_bias: (…, C, outputs).
        loading_sd, intercept_sd: in units of the outputs.
    """
    loadings = shared_weight.abs().sum((-1, -2)) + class_weight.abs().sum((-1, -2, -3))
    return -math.sqrt(2) * loadings / loading_sd - class_bias.square().sum((-1, -2)) / (2 * intercept_sd**2)


class Decoder(nn.Module):
    """p(x | y, z)'s outputs: composition, then a head that mirrors the encoder's trunk.

    Args:
        composition: first layer, to (batch, width); a ReLU follows.
        head: network from (batch, width) and a bias (n_outputs,) to (batch, n_outputs).
        n_outputs: outputs for the likelihood.
    """

    def __init__(self, composition: Composition, head: nn.Module, n_outputs: int) -> None:
        super().__init__()
        self.composition = composition
        self.head = head
        self.output_bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, shared: Tensor, own: Tensor, label: Tensor, covariates: Covariates | None = None) -> Tensor:
        """Outputs, (batch, n_outputs); without covariates those of an average training sample."""
        return self.outputs(self.composition(shared, own, label, covariates))

    def outputs(self, hidden: Tensor) -> Tensor:
        """Outputs, (batch, n_outputs), from what the composition gives, (batch, width)."""
        outputs: Tensor = self.head(F.relu(hidden), self.output_bias)
        return outputs


class LinearDecoder(nn.Module):
    """Outputs that are linear in z_s and the own block, each class with an intercept and loadings of its own.

    Args:
        composition: the only layer, to (batch, n_outputs).
        n_outputs: outputs for the likelihood.
    """

    def __init__(self, composition: Composition, n_outputs: int) -> None:
        super().__init__()
        self.composition = composition
        self.output_bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, shared: Tensor, own: Tensor, label: Tensor, covariates: Covariates | None = None) -> Tensor:
        """Outputs, (batch, n_outputs); without covariates those of an average training sample."""
        return self.outputs(self.composition(shared, own, label, covariates))

    def outputs(self, hidden: Tensor) -> Tensor:
        """Outputs, (batch, n_outputs), from what the composition gives, which is as wide."""
        return hidden + self.output_bias
