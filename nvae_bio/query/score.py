"""What a model says of samples under every class: bounds, latents, and how strange they are to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nvae_bio.data.batch import Batch
from nvae_bio.data.samples import make_generator
from nvae_bio.machine import pick_device, reproducible
from nvae_bio.model import NVAE, DiagonalGaussian, Posterior, measured_part
from nvae_bio.query.read import Query
from nvae_bio.trained import TrainedModel

CHUNK = 1024  # samples a pass
N_FILLS = 3  # passes in which what was not measured is filled in
LEAST_SHARE = 1e-6  # of the counts, that measured genes are expected to have


@dataclass(frozen=True)
class Scores:
    """Of each sample, on the CPU; without a class that the decoder sees there is one column for all.

    Attributes:
        posterior: q(z_s|x) (n, S) and q(z_c|x) (n, C, K).
        bound: on log p(x|y) of the measured features, nats, (n, C).
        class_log_prob: log q(y|x), at no temperature, (n, C).
        log_library: of counts, else None, (n,).
    """

    posterior: Posterior
    bound: np.ndarray
    class_log_prob: np.ndarray
    log_library: np.ndarray | None

    def take(self, rows: np.ndarray) -> Scores:
        """Of some samples, (n,) booleans or places."""
        places = torch.from_numpy(np.arange(len(self.bound))[rows])
        posterior = Posterior(*(DiagonalGaussian(one.mean[places], one.log_std[places]) for one in self.posterior))
        log_library = None if self.log_library is None else self.log_library[rows]
        return Scores(posterior, self.bound[rows], self.class_log_prob[rows], log_library)


@dataclass(frozen=True)
class _Fill:
    """What is put in place of features that were not measured.

    Attributes:
        measured: which were, (features,) booleans.
        has_rest: whether genes outside the model were counted.
        typical: what is expected of a sample that nothing is known of, (features,): of counts a share of the library.
    """

    measured: Tensor
    has_rest: bool
    typical: Tensor

    def completed(self, network: NVAE, batch: Batch) -> Batch:
        """The batch with what the model expects where nothing was measured, and the library that goes with it."""
        rate = self.typical.expand_as(batch.x)
        for _ in range(N_FILLS):
            filled = self._filled(network, batch, rate)
            posterior, class_log_prob = network.infer(filled)
            label = class_log_prob.argmax(1)
            own = posterior.own(network.block(label))
            decoded = network.decode(posterior.shared.mean, own.mean, label, filled.library, batch.covariates)
            rate = decoded.mean if filled.library is None else decoded.mean / filled.library[:, None]
        return self._filled(network, batch, rate)

    def _filled(self, network: NVAE, batch: Batch, rate: Tensor) -> Batch:
        library = batch.library
        if library is not None and getattr(network.likelihood, "normalised", False):
            rest = (1 - rate.sum(1)).clamp_min(0) if self.has_rest else 0
            library = library / (rate[:, self.measured].sum(1) + rest).clamp_min(LEAST_SHARE)
        expected = rate if library is None else rate * library[:, None]
        return Batch(torch.where(self.measured, batch.x, expected), batch.label, library, None, batch.covariates)


def score_query(query: Query, trained: TrainedModel, n_draws: int, seed: int) -> Scores:
    """Score samples under every class.

    The bound is on the features that were measured. The encoder reads all of them: what was not measured is filled in
    by what the model expects of the sample, again and again (Rezende et al. 2014, arXiv:1401.4082, appendix F), and so
    is the library.

    Args:
        query: samples over the features of the model.
        trained: the model.
        n_draws: draws of z a sample and class.
        seed: of the draws.

    Raises:
        UserError: values that the model cannot score.
    """
    card, training = trained.card, trained.card.settings.training
    device = pick_device(training.device)
    with reproducible(training.threads), torch.no_grad():
        network = trained.network.to(device)
        measured = torch.from_numpy(query.measured).to(device)
        part = measured_part(network, measured, rest=query.has_rest)
        fill = _Fill(measured, query.has_rest, torch.from_numpy(query.typical.astype(np.float32)).to(device))
        whole = card.samples_of(query.adata)
        seen = whole if query.measured.all() else card.samples_of(query.adata[:, query.measured].copy())
        generator, parts = make_generator(device, seed, 3), []
        for rows in torch.arange(len(whole)).split(CHUNK):
            batch = whole.take(rows).to(device)
            filled = batch if query.is_whole else fill.completed(network, batch)
            parts.append(_scores(network, part, filled, seen.take(rows).to(device), n_draws, generator))
        network.cpu()
    means_and_stds = [torch.cat([one.posterior[of][at] for one in parts]) for of in (0, 1) for at in (0, 1)]
    posterior = Posterior(DiagonalGaussian(*means_and_stds[:2]), DiagonalGaussian(*means_and_stds[2:]))
    bound, class_log_prob = (
        np.concatenate([getattr(one, name) for one in parts]) for name in ("bound", "class_log_prob")
    )
    log_library = None if seen.library is None else seen.library.log().numpy()
    return Scores(posterior, bound, class_log_prob, log_library)


def _scores(network: NVAE, part: NVAE, filled: Batch, seen: Batch, n_draws: int, generator: torch.Generator) -> Scores:
    """Of a batch: `filled` for the encoder and the classifier, `seen` for the likelihood of what was measured."""
    posterior, class_log_prob = network.infer(filled)
    bound = torch.zeros(filled.n, network.n_classes if network.uses_label else 1, device=filled.x.device)
    for _ in range(n_draws):
        noise = torch.randn(filled.n, network.n_shared + network.n_private, generator=generator, device=filled.x.device)
        for y in range(bound.shape[1]):
            block = torch.full_like(filled.label, y)
            outputs = part.decoder(*part.draw(posterior, posterior.own(block), noise), block, filled.covariates)
            bound[:, y] += part.likelihood.log_prob(outputs, seen)
    bound = (
        bound / n_draws - posterior.shared.kl().sum(-1)[:, None] - posterior.private.kl().sum(-1)[:, : bound.shape[1]]
    )
    return Scores(
        Posterior(*(DiagonalGaussian(one.mean.cpu(), one.log_std.cpu()) for one in posterior)),
        bound.cpu().numpy().astype(float),
        class_log_prob.cpu().numpy().astype(float),
        None,
    )
