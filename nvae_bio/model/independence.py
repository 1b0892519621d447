"""How much z_s depends on the class: estimates within a batch that training can subtract from its objective.

The decoder knows the class, so eq. 7 lets it read the same shared dim in another way in each class; z_s then keeps
information on the class. Each penalty is 0 where z_s of every class is distributed as it should be, has gradients, and
is taken over labelled samples alone. Pairs of samples are compared directly, (…, batch, batch): no loop over classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

N_KERNELS, WIDEST = 5, 4.0  # of `mmd`: the widest one's squared bandwidth, times S; each next one's is half as large


class SharedDraws(NamedTuple):
    """z_s of labelled samples; leading dimensions (…) are models trained side by side.

    Attributes:
        mean: of q(z_s|x), (…, batch, S).
        log_std: of q(z_s|x), (…, batch, S).
        draw: z_s, one draw of it, (…, batch, S).
        label: index of the class, (…, batch).
        class_size: labelled training samples of that class, (…, batch).
    """

    mean: Tensor
    log_std: Tensor
    draw: Tensor
    label: Tensor
    class_size: Tensor

    @property
    def n(self) -> int:
        """Samples, of each model."""
        return self.label.shape[-1]

    def same_class(self) -> Tensor:
        """1 for two different samples of one class, else 0: (…, batch, batch)."""
        same = self.label[..., :, None] == self.label[..., None, :]
        return same.logical_and(~torch.eye(self.n, dtype=torch.bool, device=self.label.device)).to(self.draw.dtype)

    def square_distance(self) -> Tensor:
        """‖z_i − z_j‖² of all pairs of draws, (…, batch, batch)."""
        return (self.draw[..., :, None, :] - self.draw[..., None, :, :]).square().sum(-1)


Penalty = Callable[[SharedDraws], Tensor]


def moments(drawn: SharedDraws) -> Tensor:
    """Σ_y p̂(y) ‖E[z_s|y]‖², in prior variances, (…): only the means are held to the prior's.

    Without bias: ‖E[z_s|y]‖² is estimated by the mean of z_i · z_j over pairs of different samples of the class, which
    is ‖mean‖² − tr Σ̂ / n_y. Posterior means are taken for the draws: the same expectation, less noise. Classes with
    one sample in the batch are left out.
    """
    same = drawn.same_class()
    return _mean_over_rows(same, drawn.mean[..., :, None, :].mul(drawn.mean[..., None, :, :]).sum(-1))


def aggregate_kl(drawn: SharedDraws) -> Tensor:
    """Σ_y p̂(y) KL(q(z_s|y) ‖ N(0, I)), in nats, (…): with weight γ − 1, this part of the KL gets γ in all.

    KL(q(z_s|x) ‖ p) averages to I(x; z_s|y) + KL(q(z_s|y) ‖ p). q(z_s|y) is a mixture over the N_y training samples of
    the class, of which the batch has some: at a draw of sample i, that sample itself has weight 1/N_y, and the others
    of its class share the rest (the stratified weights of Chen et al. 2018, arXiv:1802.04942, appendix C, in a class).
    So the mixture is estimated without bias; its logarithm is too low on average, the less so the more samples a class
    has in the batch. A class with one sample there would give KL(q(z_s|x) ‖ p), a plain β, and is left out.
    """
    same, size = drawn.same_class(), drawn.class_size.to(drawn.draw.dtype)
    n_others = same.sum(-1)
    scaled = (drawn.draw[..., :, None, :] - drawn.mean[..., None, :, :]) * (-drawn.log_std).exp()[..., None, :, :]
    # log q(z_i|x_j) and log p(z_i), both without their constant S/2 log 2π
    log_q = -0.5 * scaled.square().sum(-1) - drawn.log_std.sum(-1)[..., None, :]
    log_prior = -0.5 * drawn.draw.square().sum(-1)
    share = (1 - 1 / size) / n_others.clamp_min(1)
    itself = torch.eye(drawn.n, dtype=same.dtype, device=same.device)
    log_weight = (same * share[..., None] + itself / size[..., None]).log()
    kl = torch.logsumexp(log_q + log_weight, dim=-1) - log_prior
    return (kl * (n_others > 0)).sum(-1) / max(drawn.n, 1)


def mmd(drawn: SharedDraws) -> Tensor:
    """Σ_y p̂(y) MMD²(q(z_s|y), N(0, I)), (…), without bias; between 0 and 2 in expectation.

    The kernel is the mean of five Gaussian ones, exp(−‖a − b‖² / 2h²) with h² = S/4 … 4S. Their expectations under the
    prior are known, so no draws of it are needed (they would add noise). Gretton et al. 2012, JMLR 13:723; as a penalty
    on an aggregate posterior: Tolstikhin et al. 2018, arXiv:1711.01558; Zhao et al. 2019, arXiv:1706.02262. Classes
    with one sample in the batch are left out.
    """
    same, n_shared = drawn.same_class(), drawn.draw.shape[-1]
    width = n_shared * WIDEST / 2 ** torch.arange(N_KERNELS, device=drawn.draw.device)
    to_prior = torch.exp(-0.5 * drawn.draw.square().sum(-1)[..., None] / (1 + width))
    apart = (2 * to_prior * (width / (1 + width)) ** (n_shared / 2) - (width / (2 + width)) ** (n_shared / 2)).sum(-1)
    near = torch.exp(drawn.square_distance() * (-0.5 / (n_shared * WIDEST)))
    together = near  # the widest kernel; each next one is the square of that before
    for _ in range(1, N_KERNELS):
        near = near.square()
        together = together + near
    paired = (same.sum(-1) > 0) * apart / max(drawn.n, 1)
    return (_mean_over_rows(same, together) - paired.sum(-1)) / N_KERNELS


def hsic(drawn: SharedDraws) -> Tensor:
    """HSIC of z_s and the class, (…), without bias; 0 in expectation where they are independent, whatever q(z_s).

    Eq. 5 of Song et al. 2012, JMLR 13:1393, with a Gaussian kernel on z_s, whose squared width is the mean squared
    distance of two draws (without a gradient), and "same class" as the kernel on y. It asks for one distribution of z_s
    in all classes but not for the prior's. Needs four samples; 0 with fewer.
    """
    n, same = drawn.n, drawn.same_class()
    if n < 4:
        return drawn.draw.sum((-2, -1)) * 0.0
    square = drawn.square_distance()
    width = square.detach().sum((-2, -1), keepdim=True).div(n * (n - 1)).clamp_min(torch.finfo(square.dtype).tiny)
    off_diagonal = 1 - torch.eye(n, dtype=square.dtype, device=square.device)
    near = torch.exp(-0.5 * square / width) * off_diagonal
    of_near, of_same = near.sum(-1), same.sum(-1)
    both = (near * same).sum((-2, -1))
    apart = of_near.sum(-1) * of_same.sum(-1) / ((n - 1) * (n - 2))
    crossed = 2 * (of_near * of_same).sum(-1) / (n - 2)
    return (both + apart - crossed) / (n * (n - 3))


def _mean_over_rows(same: Tensor, pairs: Tensor) -> Tensor:
    """Σ_y n_y/n · mean of `pairs` over two different samples of class y: (…) from (…, batch, batch)."""
    n_others = same.sum(-1)
    return ((same * pairs).sum(-1) / n_others.clamp_min(1)).sum(-1) / max(same.shape[-1], 1)


PENALTIES: dict[str, Penalty] = {"moments": moments, "aggregate_kl": aggregate_kl, "mmd": mmd, "hsic": hsic}
