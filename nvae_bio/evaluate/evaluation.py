"""All scores of a trained model on held-out samples that a run's `evaluation` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
import torch
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import EvaluationSettings
from nvae_bio.config.evaluation import Classifier, ScoreGroup
from nvae_bio.evaluate.aggregate import mmd_ratio, moment_kl_ratio
from nvae_bio.evaluate.classifiers import Form, Judge, Known, artificial_scores, fit_classifier, mixed, usable
from nvae_bio.evaluate.common import block_kl
from nvae_bio.evaluate.counts import count_scores
from nvae_bio.evaluate.decision import decision_scores
from nvae_bio.evaluate.finer import finer_scores, latents_of, scib_scores
from nvae_bio.evaluate.known import known_scores
from nvae_bio.evaluate.likelihood import importance_weighted
from nvae_bio.evaluate.samples import classes_in_turn, from_prior, sample_scores
from nvae_bio.evaluate.subject import Subject
from nvae_bio.evaluate.transfer import query_scores
from nvae_bio.machine import reproducible
from nvae_bio.trained import TrainedModel


class Evaluation:
    """The scores of one trained model.

    Args:
        trained: the model.
        embedded: samples as it embeds them.
        settings: what is scored.
    """

    def __init__(self, trained: TrainedModel, embedded: AnnData, settings: EvaluationSettings) -> None:
        trained.check_data(embedded)
        self.subject = Subject(trained, embedded, settings.max_samples)
        self.settings, self.seed = settings, trained.card.seed

    def scores(self) -> dict[str, float]:
        """All groups that the settings name and the data allow.

        Raises:
            UserError: a column that is not there or holds no numbers, no held-out sample, or a library that a group
                needs and that is not installed.
        """
        groups: dict[ScoreGroup, Callable[[], dict[str, float]]] = {
            "likelihood": self._likelihood,
            "prior": self._prior,
            "factors": self._factors,
            "samples": self._samples,
            "artificial": self._artificial,
            "counts": self._counts,
            "finer": self._finer,
            "scib": partial(scib_scores, self.subject),
            "decision": self._decision,
            "query": self._query,
        }
        scores: dict[str, float] = {}
        with reproducible(self.subject.trained.card.settings.training.threads):
            for name in self.settings.scores:
                scores |= groups[name]()
        return {name: value for name, value in scores.items() if np.isfinite(value)}  # of too few samples there is none

    def _likelihood(self) -> dict[str, float]:
        """log_px_given_y, log_pxy and log_px, nats a sample: by importance weighting, mean over held-out samples.

        Without a label in the decoder the first is log p(x) too, and log_pxy is left out.
        """
        model, rows = self.subject.trained.network, self.subject.rows("test")
        train = self.subject.label[self.subject.rows("train", len(self.subject.label))]
        count = np.bincount(train, minlength=model.n_classes)
        with np.errstate(divide="ignore"):
            log_prior = torch.from_numpy(np.log(count / count.sum()))
        found = importance_weighted(
            model, self.subject.samples, torch.from_numpy(rows), log_prior, self.settings.n_draws, self.seed
        )
        scores = {"log_px_given_y": float(found.given_label.mean()), "log_px": float(found.marginal.mean())}
        return scores | ({"log_pxy": float(found.joint.mean())} if model.uses_label else {})

    def _prior(self) -> dict[str, float]:
        """prior_mmd_ratio and prior_moment_kl_ratio of draws of [z_s, own block]; of z_s alone too, and off-block KL.

        off_block_kl: KL of the blocks of other classes, nats a sample and block; own_block_kl beside it.
        """
        model, rows = self.subject.trained.network, self.subject.rows("test")
        rng = np.random.default_rng((self.seed, 21))
        z, label, n_shared = self.subject.latent(rows, rng), self.subject.label[rows], model.n_shared
        scores = {"prior_mmd_ratio": mmd_ratio(z, rng), "prior_moment_kl_ratio": moment_kl_ratio(z, label, rng)}
        if 0 < n_shared < z.shape[1]:
            scores["prior_mmd_ratio_shared"] = mmd_ratio(z[:, :n_shared], rng)
            scores["prior_moment_kl_ratio_shared"] = moment_kl_ratio(z[:, :n_shared], label, rng)
        if schema.KL_PRIVATE in self.subject.adata.obsm and model.uses_label:
            blocks = block_kl(self.subject.adata, rows)
            own = blocks[np.arange(len(blocks)), label]
            scores["own_block_kl"] = float(own.mean())
            if blocks.shape[1] > 1:
                scores["off_block_kl"] = float((blocks.sum(1) - own).mean() / (blocks.shape[1] - 1))
        return scores

    def _factors(self) -> dict[str, float]:
        """R² of each known factor from z_s (`r2_NAME`, `r2_NAME_knn`), MIG, SAP and DCI of z_s.

        Samples without a class of the model count too, for z_s needs none.
        """
        adata = self.subject.adata
        if schema.SHARED not in adata.obsm:
            return {}
        return known_scores(adata, adata.obsm[schema.SHARED], self.settings.factor_keys, self.subject.image_shape)

    @property
    def _form(self) -> Form:
        shape = self.subject.image_shape or (1, 1, self.subject.adata.n_vars)
        return Form(shape, self.subject.trained.network.n_classes, self.settings.small_channels)

    def _real(self, split: str, most: int) -> Known:
        rows = self.subject.rows(split, most)
        return Known(self.subject.real(rows), self.subject.label[rows])

    @cached_property
    def _training(self) -> Known:
        """Real samples that classifiers are trained on."""
        return self._real("train", self.settings.n_artificial)

    @cached_property
    def _judges(self) -> dict[Classifier, Judge]:
        """A classifier of real samples by its name: the strongest that the data allow."""
        real, name = self._training, usable(("strong",), self.subject.image_shape)[0]
        batches, steps = mixed(real, real, 0, self.seed), self.settings.classifier_steps
        return {name: fit_classifier(name, batches, steps, self._form, self.seed)}

    def _samples(self) -> dict[str, float]:
        return sample_scores(self.subject, next(iter(self._judges.values())), self.settings.sigmas, self.seed)

    def _artificial(self) -> dict[str, float]:
        """accuracy_real_NAME and accuracy_tau_SHARE_NAME, of all held-out samples; of a decoder told the class."""
        if not self.subject.trained.network.uses_label:
            return {}
        subject, real = self.subject, self._training
        test = self._real("test", len(subject.label))
        label = classes_in_turn(subject, self.settings.n_artificial)
        z = from_prior(subject.n_latent)(label, np.random.default_rng((self.seed, 31)))
        make = subject.drawn if self.settings.artificial == "drawn" else subject.made
        made = Known(make(z, label, self.seed), label)
        names = usable(self.settings.classifiers, subject.image_shape)
        steps = self.settings.classifier_steps
        known = self._judges if "samples" in self.settings.scores else None
        return artificial_scores(real, test, made, self._form, self.settings.shares, names, steps, self.seed, known)

    def _counts(self) -> dict[str, float]:
        return count_scores(self.subject, self.seed) if self.subject.trained.card.kind == "counts" else {}

    def _finer(self) -> dict[str, float]:
        return finer_scores(self.subject, str(self.settings.finer_key))

    def _query(self) -> dict[str, float]:
        trained = self.subject.trained
        return query_scores(trained, self.subject.adata) if trained.network.uses_label else {}

    def _decision(self) -> dict[str, float]:
        latents = latents_of(self.subject.adata)
        kept = {end: np.asarray(z, dtype=float) for end, z in latents.items() if end != "_private"}
        return decision_scores(self.subject.adata, str(self.settings.decision_key), kept)
