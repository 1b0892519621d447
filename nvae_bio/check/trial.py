"""What a training step, the embedding and the audit of a sample take on this machine: a short trial."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.audit.step import audit_labels
from nvae_bio.check.data import DataFacts
from nvae_bio.config import RunSettings
from nvae_bio.embed import GAIN_DRAWS, encode
from nvae_bio.machine import BATCH_SIZE, pick_device, reproducible
from nvae_bio.train.trial import StepTrial, time_steps

MOST_ROWS, FEW_ROWS = 1_500, 64  # samples of a trial, and those of the embedding and the audit
STEPS_SHARE = 0.6  # of the time of a trial


@dataclass(frozen=True)
class Units:
    """What the work of a run is counted in.

    Attributes:
        step: seconds of a training step.
        encode: seconds in which a sample is embedded.
        audit: seconds in which a sample is audited; 0 where none is.
        busy: how many times as long by the clock as by the processor.
        flops: floating-point operations of a step.
        batch_size: samples of a step.
        is_measured: whether they were timed here and now.
    """

    step: float
    encode: float
    audit: float
    busy: float
    flops: float
    batch_size: int
    is_measured: bool


def trial_data(facts: DataFacts, batch_size: int) -> AnnData:
    """Some samples in the form of a prepared file: values as they were seen, classes and covariates as they are.

    Args:
        facts: of the data set, with obs.
        batch_size: samples of a step; there are more than two batches of training samples.
    """
    assert facts.obs is not None
    rng = np.random.default_rng(0)
    n = max(min(facts.n, MOST_ROWS), 3 * batch_size)
    known = facts.obs[facts.obs[schema.LABEL].notna()]
    firsts = known.groupby(schema.LABEL, observed=True).head(2)  # some of every class
    drawn = facts.obs.iloc[rng.integers(0, len(facts.obs), max(n - 2 * len(firsts), 0))]
    obs = pd.concat([firsts, firsts, drawn]).reset_index(drop=True)
    obs.index = obs.index.astype(str)
    split = np.where(rng.random(len(obs)) < 0.9, "train", "validation").astype(object)
    split[: len(firsts)], split[len(firsts) : 2 * len(firsts)] = "train", "validation"
    obs[schema.SPLIT] = pd.Categorical(split, categories=list(schema.SPLITS))
    values = _values(facts, len(obs), rng)
    if facts.kind == "counts":
        obs[schema.LIBRARY] = np.maximum(np.asarray(values.sum(1), dtype=np.float64).ravel(), 1)
        obs[schema.SIZE_FACTOR] = obs[schema.LIBRARY]
    classes = np.array(list(facts.sizes), dtype=object)
    data = {"kind": facts.kind, "classes": classes, "fingerprint": "trial"}
    if facts.covariates is not None:
        data[schema.COVARIATES] = facts.covariates
    if facts.image_shape is not None:
        data["image_shape"] = list(facts.image_shape)
    var = pd.DataFrame(index=[f"f{place}" for place in range(values.shape[1])])
    return AnnData(values, obs=obs, var=var, uns={schema.DATA: data})


def _values(facts: DataFacts, n: int, rng: np.random.Generator) -> np.ndarray | sparse.csr_matrix:
    """Rows of the data set drawn with replacement; where none were seen, random ones of like density."""
    if facts.rows is not None:
        taken = facts.rows[rng.integers(0, facts.rows.shape[0], n)]
        if facts.kind == "counts":
            counts = sparse.csr_matrix(taken, dtype=np.float32)
            counts.eliminate_zeros()
            counts.sort_indices()
            return counts
        dense = taken.toarray() if sparse.issparse(taken) else np.asarray(taken)
        dense = dense.astype(np.float32)
        if facts.kind == "features":
            return (dense - dense.mean(0)) / np.maximum(dense.std(0), 1e-6)
        return dense / max(float(dense.max()), 1.0)
    if facts.kind == "counts":
        share = min(facts.n_values / max(facts.n * facts.n_features, 1), 1.0)
        mask = rng.random((n, facts.n_features)) < share
        return sparse.csr_matrix(np.where(mask, rng.geometric(0.6, mask.shape), 0), dtype=np.float32)
    return rng.random((n, facts.n_features), dtype=np.float32)


def measure_units(facts: DataFacts, run: RunSettings, seconds: float) -> tuple[Units, StepTrial]:
    """Time some steps of a run and the embedding and audit of some samples.

    Args:
        facts: of its data set.
        run: of it.
        seconds: for all of it, about; 0: nothing is timed, and the units are NaN.

    Raises:
        UserError: settings that do not fit the data.
    """
    batch = run.training.batch_size or BATCH_SIZE[pick_device(run.training.device).type]
    prepared = trial_data(facts, batch)
    trial = time_steps(prepared, run.fit, STEPS_SHARE * seconds)
    if seconds <= 0:
        nan = float("nan")
        return Units(nan, nan, nan, 1.0, trial.flops, trial.batch_size, is_measured=False), trial
    few = prepared[:FEW_ROWS].copy()
    card, network = trial.model.card, trial.model.network
    with reproducible(run.training.threads), torch.no_grad():
        samples = card.samples_of(few)
        encode(network, samples, 1, 0)  # compiles
        start = _now()
        encode(network, samples, run.embedding.n_draws, 0)
        encoded = (_now() - start) / few.n_obs
    audited = 0.0
    if run.audit is not None and run.is_audited and len(facts.sizes) > 1:
        start = _now()
        audit_labels(few, trial.model, run.audit)
        audited = (_now() - start) / few.n_obs
    return Units(trial.seconds, encoded, audited, trial.busy, trial.flops, trial.batch_size, is_measured=True), trial


def _now() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def passes(run: RunSettings) -> float:
    """Passes of a sample through the decoder while it is embedded."""
    n_private = run.model.n_private
    return 1 + run.embedding.n_draws + min(run.embedding.n_draws, GAIN_DRAWS) * (n_private + (n_private > 1))
