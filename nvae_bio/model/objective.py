"""The bound and its terms: pure functions, one value a sample, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from nvae_bio.data.batch import Batch
from nvae_bio.model.nvae import NVAE, Pass
from nvae_bio.model.stack import Stack


def kl_weight(step: int, n_steps: int, warmup_share: float) -> float:
    """Weight of the KL at a step: rises linearly and is exactly 1 from the end of the warm-up on.

    The warm-up is a share of the steps that training has, so it ends in time whatever the data size.

    Args:
        step: 0 to n_steps − 1.
        n_steps: steps of the whole training.
        warmup_share: 0 (no warm-up) to 0.5.

    >>> [kl_weight(step, 8, 0.5) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    n_warmup = int(n_steps * warmup_share)
    return 1.0 if step + 1 >= n_warmup else (step + 1) / n_warmup


@dataclass(frozen=True)
class ElboTerms:
    """Parts of the objective of each sample, in nats; leading dimensions (…) are models trained side by side.

    Attributes:
        log_likelihood: log p(x|y,z) at one draw of z, (…, batch).
        kl_shared: KL of each shared dim, (…, batch, S).
        kl_private: KL of each private dim of every block, (…, batch, C, K).
        kl_own: KL of each private dim of the sample's own block, (…, batch, K).
        log_class: log q(y|x) of the true class, (…, batch).
        correct: whether the true class is the likeliest, (…, batch).
    """

    log_likelihood: Tensor
    kl_shared: Tensor
    kl_private: Tensor
    kl_own: Tensor
    log_class: Tensor
    correct: Tensor

    @cached_property
    def sum_shared(self) -> Tensor:
        """KL of z_s, (…, batch)."""
        return self.kl_shared.sum(-1)

    @cached_property
    def sum_private(self) -> Tensor:
        """KL of all of z_c, (…, batch)."""
        return self.kl_private.sum((-2, -1))

    @cached_property
    def sum_own(self) -> Tensor:
        """KL of the own block, (…, batch)."""
        return self.kl_own.sum(-1)

    def elbo(self) -> Tensor:
        """The bound on log p(x|y), (…, batch): blocks that the decoder does not see cost nothing."""
        return self.log_likelihood - self.sum_shared - self.sum_own

    def objective(
        self, weight: float, beta_private: float, private_kl: Literal["all", "own"], classifier_weight: float
    ) -> Tensor:
        """What training maximises, (…, batch): eq. 7 of the paper; eq. 6 where beta_private and both weights are 1.

        Args:
            weight: warm-up weight of all KL terms.
            beta_private: β_c.
            private_kl: `all` blocks (eq. 7 as written) or the `own` one.
            classifier_weight: weight of log q(y|x).
        """
        private = self.sum_private if private_kl == "all" else self.sum_own
        kl = self.sum_shared + beta_private * private
        return self.log_likelihood - weight * kl + classifier_weight * self.log_class


def elbo_terms(model: NVAE | Stack, batch: Batch, noise: Tensor) -> ElboTerms:
    """The terms at one draw z ~ q(z|x) of the shared latent and of the own block.

    Args:
        model: the networks, or a stack of R of them.
        batch: labelled samples, with a leading R for a stack.
        noise: standard normal, (…, batch, S + K).
    """
    likelihood = model.likelihood
    found: Pass = model(likelihood.encoder_input(batch.x, batch.library), batch.label, noise, batch.covariates)
    return ElboTerms(
        log_likelihood=likelihood.log_prob(found.outputs, batch),
        kl_shared=found.kl_shared,
        kl_private=found.kl_private,
        kl_own=found.kl_own,
        log_class=found.class_log_prob.gather(-1, batch.label[..., None]).squeeze(-1),
        correct=torch.eq(found.class_log_prob.argmax(-1), batch.label),
    )
