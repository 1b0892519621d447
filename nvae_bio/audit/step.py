"""The audit of labels (verb `audit`, rule `audit_labels`)."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from nvae_bio.audit.readings import first_look, read_samples
from nvae_bio.audit.suspects import audit_columns, suspicions, unlikeness
from nvae_bio.card import ModelCard
from nvae_bio.config import AuditSettings
from nvae_bio.data.files import read_prepared, write_table
from nvae_bio.data.samples import UNLABELED
from nvae_bio.errors import UserError
from nvae_bio.machine import reproducible
from nvae_bio.train.rows import TrainingRows
from nvae_bio.train.step import labelled_rows
from nvae_bio.trained import TrainedModel, load_model

logger = logging.getLogger(__name__)

SAMPLE = "sample"  # name of the index, and of its column in a file


def _check(card: ModelCard) -> None:
    variant = card.settings.model.variant
    if variant == "vae":
        raise UserError("audit: variant 'vae' is told no classes; allowed: nvae, cvae, per_class")
    if len(card.classes) < 2:
        raise UserError(f"audit: the model knows one class alone, {card.classes[0]!r}; at least two are needed")
    if not card.settings.model.n_private:
        logger.warning("variant %r has no private blocks: borrowed programmes are not audited", variant)


def audit_labels(
    prepared: AnnData, trained: TrainedModel, settings: AuditSettings | None = None, seed: int | None = None
) -> pd.DataFrame:
    """Hold each sample's label and content against what the model says of it, its decoder frozen.

    A posterior is fitted to every sample as its own class, as the likeliest others, and with the block of another class
    beside the own one; an unlabelled sample's own class is the classifier's likeliest.

    Args:
        prepared: what `prepare_data` returned, or other samples with the same features; some labelled ones train.
        trained: the model.
        settings: how many others are tried, and from when on a sample is a suspect; the defaults if None.
        seed: of the draws; the model's own if None.

    Returns:
        A row a sample, by its name, with these columns, in nats but for names and shares:

        - bound_own, on log p(x|own class); bound_class, of the highest bound + log p(y), and bound_best, its bound;
          log_odds, of the best other class against the own, log p(y) included.
        - classifier_class and classifier_probability, calibrated.
        - borrowed_from and borrowed_gain: the class whose block adds most to the bound beside the own one, and how
          much; no such columns without private blocks.
        - doublet_with and doublet_gain: log p(x) as two cells, one of the own class, less that as one; counts only.
        - unlike: see `unlikeness`; small where a sample fits no class.
        - suspicion: "", "doublet", "mislabel", "borrowed", "unlike every class" or "classifier disagrees".

    Raises:
        UserError: a model without classes or with one alone, no labelled training sample, or data that do not fit the
            model.
    """
    settings, seed, card = settings or AuditSettings(), trained.card.seed if seed is None else seed, trained.card
    _check(card)
    trained.check_data(prepared)
    samples = card.samples_of(prepared)
    training = labelled_rows(prepared, samples, "train")
    n_classes = len(card.classes)
    log_prior = TrainingRows.of(samples, training, None, n_classes, torch.device("cpu")).class_log_prior(card.settings)
    model = copy.deepcopy(trained.network).requires_grad_(False)
    with reproducible(card.settings.training.threads):
        look = first_look(model, samples, log_prior, card.temperature)
        readings = read_samples(
            model, samples, look, settings.n_candidates, settings.n_steps, np.random.default_rng(seed)
        )
    index = pd.Index(prepared.obs_names, name=SAMPLE)
    table = audit_columns(look, readings, log_prior.numpy(), card.classes, index)
    reference = np.full(len(samples), UNLABELED)
    reference[training.numpy()] = samples.label[training].numpy()
    best = pd.Categorical(table["bound_class"], categories=card.classes).codes
    log_library = None if samples.library is None else samples.library.double().log().numpy()
    bounds = table["bound_best"].to_numpy(float), table["bound_own"].to_numpy(float)
    table["unlike"] = unlikeness(bounds[0], best, reference, bounds[1], log_library)
    names = np.array([*card.classes, None], dtype=object)[samples.label.numpy()]  # -1, unlabelled, is the last
    table["suspicion"] = suspicions(table, names, n_classes, settings)
    return table


def audit(data: Path, weights: Path, card: Path, output: Path, settings: AuditSettings) -> None:
    """Read a prepared file and a model, audit the labels, and write a .parquet table with a column `sample`."""
    table = audit_labels(read_prepared(data), load_model(weights, card), settings)
    write_table(table.reset_index(), output)
    counts = table["suspicion"].value_counts().drop("", errors="ignore")
    found = ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
    logger.info("%d samples audited; suspects: %s", len(table), found)
