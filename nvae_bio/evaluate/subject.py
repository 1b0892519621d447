"""A trained model and the samples that it is scored by, as classifiers and neighbours take them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from anndata import AnnData
from sklearn.decomposition import PCA
from torch import Tensor

from nvae_bio import schema
from nvae_bio.data.samples import Samples, make_generator
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import dense, labelled
from nvae_bio.generate import take_after
from nvae_bio.trained import TrainedModel

CPU = torch.device("cpu")
CHUNK = 1000  # samples decoded at a time
SCALE = 1e4  # counts a sample, before logarithms
N_LEVELS = 20  # of decoded pixels, each with a noise of its own
N_COMPONENTS = 30  # principal components in which neighbours are looked for
CHOICE = 0  # seed of the random part that is scored, the same for every model


def _level(means: np.ndarray) -> np.ndarray:
    """Which twentieth of 0 to 1 each mean lies in."""
    return np.asarray(np.clip((N_LEVELS * means).astype(int), 0, N_LEVELS - 1))


def log_scaled(counts: np.ndarray, library: np.ndarray) -> np.ndarray:
    """log1p of counts per 10,000, (n, genes)."""
    return np.asarray(np.log1p(SCALE * counts / np.maximum(library, 1)[:, None]))


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        trained: the model.
        adata: samples as it embeds them.
        max_samples: of a part of the split, at most.
    """

    trained: TrainedModel
    adata: AnnData
    max_samples: int

    @cached_property
    def samples(self) -> Samples:
        """All samples as the model takes them."""
        return self.trained.card.samples_of(self.adata)

    @property
    def label(self) -> np.ndarray:
        """Index of the class of each sample, (n,); -1 where it has none."""
        return np.asarray(self.samples.label.numpy())

    @property
    def n_latent(self) -> int:
        """S + K, dims of [z_s, own block]."""
        return self.trained.network.n_shared + self.trained.network.n_private

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of pictures; None of anything else."""
        return self.trained.card.image_shape

    def rows(self, split: str, most: int | None = None) -> np.ndarray:
        """Samples of a part of the split that have a class of the model, in order: a random part of at most so many.

        Raises:
            UserError: there is none.
        """
        found = np.flatnonzero(labelled(self.adata, split) & (self.label >= 0))
        if len(found) == 0:
            raise UserError(f"evaluate: no sample of split {split!r} has a class; the scores need some")
        chosen = np.random.default_rng(CHOICE).permutation(len(found))[: most or self.max_samples]
        return np.asarray(found[np.sort(chosen)])

    def latent(self, rows: np.ndarray, noise: np.random.Generator | None = None) -> np.ndarray:
        """[z_s, own block] of some samples, (rows, S + K): posterior means, or with `noise` draws of the posterior."""
        parts = []
        for mean, std in ((schema.SHARED, schema.SHARED_STD), (schema.SPECIFIC, schema.SPECIFIC_STD)):
            if mean in self.adata.obsm:
                part = np.asarray(self.adata.obsm[mean], dtype=float)[rows]
                if noise is not None:
                    part = part + np.asarray(self.adata.obsm[std])[rows] * noise.normal(size=part.shape)
                parts.append(part)
        return np.hstack(parts)

    def view(self, x: np.ndarray) -> np.ndarray:
        """Values as others than the model take them: of counts, log1p of 10,000 times their share; else as they are."""
        if self.trained.card.kind != "counts":
            return x
        return log_scaled(x, x.sum(1))

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """Values of some samples, (rows, features), float32."""
        return dense(self.adata, rows)

    def real(self, rows: np.ndarray) -> np.ndarray:
        """`view` of some samples."""
        return self.view(self.raw(rows))

    @torch.no_grad()
    def decoded(self, z: np.ndarray, label: np.ndarray, seed: int, *, drawn: bool) -> np.ndarray:
        """Samples of given latents, (n, features), float32.

        Library and covariates are those of random training samples of the class.

        Args:
            z: latents, (n, S + K).
            label: index of the class of each, (n,).
            seed: of the draws.
            drawn: draws of the likelihood; else its means.
        """
        model, parts = self.trained.network, []
        rng, generator = np.random.default_rng((seed, 7)), make_generator(CPU, seed, 7)
        latent, classes = torch.from_numpy(np.asarray(z, dtype=np.float32)), torch.from_numpy(np.asarray(label))
        for rows in torch.arange(len(latent)).split(CHUNK):
            library, covariates, _ = take_after(self.adata, self.trained, classes[rows], rng)
            shared, own = latent[rows, : model.n_shared], latent[rows, model.n_shared :]
            found = model.decode(shared, own, classes[rows], library, covariates)
            parts.append(found.sample(generator) if drawn else found.mean)
        made: Tensor = torch.cat(parts)
        return np.asarray(made.numpy(), dtype=np.float32)

    @cached_property
    def residual_std(self) -> np.ndarray:
        """Of pixels about their means decoded from posterior means, of training samples, by the mean's level, (20,)."""
        rows = self.rows("train", 5 * self.max_samples)
        means = self.decoded(self.latent(rows), self.label[rows], 0, drawn=False)
        level, square = _level(means).ravel(), np.square(self.raw(rows) - means).ravel()
        n = np.bincount(level, minlength=N_LEVELS)
        return np.asarray(np.sqrt(np.bincount(level, square, N_LEVELS) / np.maximum(n, 1)))

    def drawn(self, z: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
        """Artificial data with noise, in `view`: draws, of pictures Gaussian ones about the means, cut at 0 and 1.

        A cross-entropy of grey pixels has no noise of its own; here a pixel has what training samples leave at a mean
        of its level.
        """
        if self.image_shape is None:
            return self.view(self.decoded(z, label, seed, drawn=True))
        means = self.decoded(z, label, seed, drawn=False)
        noise = np.random.default_rng((seed, 8)).standard_normal(means.shape, dtype=np.float32)
        return np.asarray(np.clip(means + self.residual_std[_level(means)] * noise, 0, 1))

    def made(self, z: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
        """Artificial data, in `view`: of counts draws, of pictures and features means (a mean has no pixel noise)."""
        return self.view(self.decoded(z, label, seed, drawn=self.trained.card.kind == "counts"))

    @cached_property
    def components(self) -> PCA:
        """Principal components of training samples, in `view`: 30, or as many as there can be."""
        x = self.real(self.rows("train", 5 * self.max_samples))
        return PCA(min(N_COMPONENTS, *x.shape), svd_solver="covariance_eigh", random_state=0).fit(x)
