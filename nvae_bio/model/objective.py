"""The bound and its terms: pure functions, one value a sample, in nats."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nvae_bio.data.batch import Batch, Covariates
from nvae_bio.model.nvae import NVAE, Pass
from nvae_bio.model.stack import Stack

PrivateKl = Literal["all", "own", "pulled"]


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
        label: class that the sample is scored under, (…, batch).
        log_likelihood: log p(x|y,z) at one draw of z, (…, batch).
        shared_mean: of q(z_s|x), (…, batch, S).
        shared_log_std: of q(z_s|x), (…, batch, S).
        shared_draw: z_s, (…, batch, S).
        kl_shared: KL of each shared dim, (…, batch, S).
        kl_private: KL of each private dim of every block, (…, batch, C, K).
        kl_own: KL of each private dim of the sample's own block, (…, batch, K).
        off_square: mean² + std² of q, summed over the dims of all other blocks, (…, batch).
        log_class: log q(y|x) of that class, (…, batch).
        correct: whether that class is the likeliest, (…, batch).
    """

    label: Tensor
    log_likelihood: Tensor
    shared_mean: Tensor
    shared_log_std: Tensor
    shared_draw: Tensor
    kl_shared: Tensor
    kl_private: Tensor
    kl_own: Tensor
    off_square: Tensor
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

    def objective(self, weight: float, beta_private: float, private_kl: PrivateKl, classifier_weight: float) -> Tensor:
        """What training maximises, (…, batch): eq. 7 of the paper; eq. 6 where beta_private and both weights are 1.

        Args:
            weight: warm-up weight of all KL terms.
            beta_private: β_c.
            private_kl: `all` blocks (eq. 7 as written), the `own` one, or that with the others `pulled` to 0.
            classifier_weight: weight of log q(y|x).
        """
        private = self.sum_private if private_kl == "all" else self.sum_own
        if private_kl == "pulled":
            private = private + self.off_square
        kl = self.sum_shared + beta_private * private
        return self.log_likelihood - weight * kl + classifier_weight * self.log_class

    def split(self, n_labelled: int, n_likeliest: int) -> tuple[ElboTerms, ElboTerms]:
        """Those of the labelled samples, and of the others under their M likeliest classes, (…, unlabelled, M, …).

        Args:
            n_labelled: rows before those of unlabelled samples.
            n_likeliest: M, rows of an unlabelled sample.
        """
        axis = self.log_likelihood.dim() - 1
        n_unlabelled = (self.log_likelihood.shape[-1] - n_labelled) // n_likeliest
        parts = [getattr(self, field.name).tensor_split([n_labelled], dim=axis) for field in fields(self)]
        return (
            ElboTerms(*(labelled for labelled, _ in parts)),
            ElboTerms(*(others.unflatten(axis, (n_unlabelled, n_likeliest)) for _, others in parts)),
        )


def unlabelled_bound(
    terms: ElboTerms,
    class_log_prior: Tensor,
    weight: float = 1.0,
    beta_private: float = 1.0,
    private_kl: PrivateKl = "own",
) -> Tensor:
    """U(x) = Σ_y q(y|x) [log p(x|y,z) − KL_s − β_c KL_c + log p(y)] + H(q(y|x)), (…, batch), in nats.

    The sum runs over the M classes that the sample was decoded under, with q(y|x) renormalised over them; any such q
    gives a bound on log p(x) where `weight` and β_c are 1 and `private_kl` is `own`: the default. Eq. 7's own term
    log q(y|x) is left out, for it would cancel the entropy (Kingma et al. 2014, arXiv:1406.5298, eq. 7).

    Args:
        terms: of unlabelled samples, from `ElboTerms.split`: (…, batch, M, …).
        class_log_prior: log p(y), (C,).
        weight: warm-up weight of the KL terms.
        beta_private: β_c.
        private_kl: `all` blocks, the one of each class, or that with the others pulled to 0.
    """
    log_class = F.log_softmax(terms.log_class, dim=-1)
    of_class = terms.objective(weight, beta_private, private_kl, 0.0) + class_log_prior[terms.label] - log_class
    return (log_class.exp() * of_class).sum(-1)


def elbo_terms(
    model: NVAE | Stack, batch: Batch, noise: Tensor, n_labelled: int | None = None, n_likeliest: int = 1
) -> ElboTerms:
    """The terms at one draw z ~ q(z|x) of the shared latent and of the own block.

    Args:
        model: the networks, or a stack of R of them.
        batch: labelled samples; after them unlabelled ones, each M times in a row; with a leading R for a stack.
        noise: standard normal, one row a sample, (…, samples, S + K).
        n_labelled: samples that are labelled; all if None.
        n_likeliest: M, classes that an unlabelled sample is decoded under, with one draw of z_s for all.
    """
    likelihood = model.likelihood
    x, library, label, told = batch.x, batch.library, batch.label, batch.covariates
    if n_labelled is not None:
        first = torch.arange(noise.shape[-2], device=x.device)
        first = torch.where(first < n_labelled, first, n_labelled + (first - n_labelled) * n_likeliest)
        x, library = x.index_select(-2, first), None if library is None else library.index_select(-1, first)
        told = None if told is None else Covariates(*(part.index_select(-2, first) for part in told))
        label = label[..., :n_labelled]
    found: Pass = model(model.inputs(x, library), label, noise, told, n_likeliest)
    return ElboTerms(
        label=found.label,
        log_likelihood=likelihood.log_prob(found.outputs, batch),
        shared_mean=found.shared.mean,
        shared_log_std=found.shared.log_std,
        shared_draw=found.draw,
        kl_shared=found.kl_shared,
        kl_private=found.kl_private,
        kl_own=found.kl_own,
        off_square=found.off_square,
        log_class=found.class_log_prob.gather(-1, found.label[..., None]).squeeze(-1),
        correct=torch.eq(found.class_log_prob.argmax(-1), found.label),
    )
