"""Other methods on the same training samples, in the same table: PCA and NMF, SCVI and SCANVI."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import NMF, PCA

from nvae_bio import schema
from nvae_bio.config import SEE_LABELS, Baseline, ConditionSettings
from nvae_bio.data.files import read_prepared, write_csv
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import score_table
from nvae_bio.evaluate.condition import Treated, condition_scores, leakage_of
from nvae_bio.evaluate.extra import package
from nvae_bio.evaluate.response import SCALE, Expected, response_scores

logger = logging.getLogger(__name__)

NMF_ITERATIONS = 2000


@dataclass(frozen=True)
class Fitted:
    """A method, fitted on the training samples of a data set.

    Attributes:
        shared: embedding of all samples, (n, S).
        expected: its decoder.
        effects: of each dim on each gene, (G, S); None where the method has no loadings.
        probability: of each class for all samples, (n, C); None where the method has no classifier.
    """

    shared: np.ndarray
    expected: Expected
    effects: np.ndarray | None = None
    probability: pd.DataFrame | None = None


def fit_linear(method: Baseline, adata: AnnData, n_latent: int, seed: int) -> Fitted:
    """PCA (centred, exact) or NMF of log1p of counts per 10,000.

    Args:
        method: `pca` or `nmf`.
        adata: prepared counts.
        n_latent: S.
        seed: of NMF's start.
    """
    counts = np.asarray(adata.X.toarray() if sparse.issparse(adata.X) else adata.X, dtype=float)
    library = adata.obs[schema.LIBRARY].to_numpy(dtype=float)
    log_counts = np.log1p(SCALE * counts / library[:, None])
    train = (adata.obs[schema.SPLIT] == "train").to_numpy()
    most = min(int(train.sum()), adata.n_vars)
    if n_latent > most:
        raise UserError(f"baseline {method!r}: {n_latent} dims; allowed for these data: at most {most}")
    if method == "pca":
        model = PCA(n_latent, svd_solver="full")
    else:
        model = NMF(n_latent, init="nndsvda", max_iter=NMF_ITERATIONS, random_state=seed)
    shared = model.fit(log_counts[train]).transform(log_counts)

    def expected(shared: np.ndarray, rows: np.ndarray) -> np.ndarray:
        decoded = shared @ model.components_ + (model.mean_ if method == "pca" else 0)
        return np.asarray(np.expm1(np.maximum(decoded, 0)) / SCALE * library[rows, None])

    return Fitted(shared, expected, model.components_.T)


def fit_scvi(method: Baseline, adata: AnnData, n_latent: int, seed: int) -> Fitted:
    """SCVI, or SCANVI that starts from it, of scvi-tools, each with its default networks and training, on the CPU.

    Batches are given, where the data have them.

    Args:
        method: `scvi` or `scanvi`.
        adata: prepared counts.
        n_latent: S.
        seed: of weights and training.

    Raises:
        UserError: scvi-tools is not installed.
    """
    with package("scvi", f"baseline {method!r}") as scvi:
        scvi.settings.seed = seed
        batch = schema.BATCH if schema.BATCH in adata.obs else None
        obs = adata.obs[[schema.LABEL, *([batch] if batch else [])]].astype(str)
        data = AnnData(adata.X.copy(), obs=obs, var=adata.var[[]])
        rows = [np.flatnonzero(adata.obs[schema.SPLIT] == name) for name in schema.SPLITS]
        scvi.model.SCVI.setup_anndata(data, batch_key=batch, labels_key=schema.LABEL)
        model = scvi.model.SCVI(data, n_latent=n_latent)
        train_quietly(model, rows)
        if method == "scanvi":
            model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category="nan")
            train_quietly(model, rows)
        shared = np.asarray(model.get_latent_representation())
        probability = model.predict(soft=True) if method == "scanvi" else None
    module, counts = model.module.eval(), np.asarray(data.X.sum(1)).reshape(-1, 1)
    batches = np.asarray(model.adata_manager.get_from_registry("batch")).reshape(-1, 1)

    @torch.no_grad()
    def expected(shared: np.ndarray, rows: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(np.asarray(shared, dtype=np.float32))
        library = torch.from_numpy(np.log(counts[rows]).astype(np.float32))
        made = module.generative(z=z, library=library, batch_index=torch.from_numpy(batches[rows]).long())
        return np.asarray(made["px"].mean, dtype=float)

    return Fitted(shared, expected, probability=probability)


def train_quietly(model: Any, rows: Sequence[np.ndarray]) -> None:
    """Train a model of scvi-tools as it does by itself, on these training, validation and test rows."""
    model.train(
        accelerator="cpu", datasplitter_kwargs={"external_indexing": list(rows)}, enable_progress_bar=False,
        enable_model_summary=False, logger=False, enable_checkpointing=False,
    )  # fmt: skip


FITS = {"pca": fit_linear, "nmf": fit_linear, "scvi": fit_scvi, "scanvi": fit_scvi}


def baseline_scores(
    method: Baseline, adata: AnnData, settings: ConditionSettings, n_latent: int, seed: int
) -> dict[str, float]:
    """Fit a method and score it as a model is scored.

    Returns:
        Of data that hold a class's treated samples out, `response_scores`; of others `condition_scores` and leakage.

    Raises:
        UserError: as these; data that are no counts; or scvi-tools is not installed.
    """
    if adata.uns[schema.DATA]["kind"] != "counts":
        raise UserError(f"baseline {method!r}: data of kind {adata.uns[schema.DATA]['kind']!r}; allowed: counts")
    held_out = Treated.of(adata, settings).held_out
    fitted = FITS[method](method, adata, n_latent, seed)
    if held_out:
        return response_scores(adata, settings, fitted.shared, fitted.expected)
    scores = condition_scores(adata, settings, fitted.shared, None, fitted.effects)
    return scores | leakage_of(adata, fitted.shared)


def baseline(
    method: Baseline,
    data: Path,
    seeds: Sequence[int],
    n_latent: int,
    output: Path,
    settings: ConditionSettings,
    names: tuple[str, str],
) -> None:
    """Score a baseline with every seed, and write the tidy table of `score_table` as .csv.

    Args:
        method: `pca`, `nmf`, `scvi` or `scanvi`.
        data: prepared counts.
        seeds: of the method.
        n_latent: dims of its latent.
        output: the table.
        settings: the condition that is scored.
        names: what it calls the data and the method.

    Raises:
        UserError: as `baseline_scores`.
    """
    adata = read_prepared(data)
    scores = {seed: baseline_scores(method, adata, settings, n_latent, seed) for seed in seeds}
    table = score_table(scores, *names, saw_labels=method in SEE_LABELS)
    write_csv(table, output)
    logger.info("%s, %s: %d scores", *names, len(table))
