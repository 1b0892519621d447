"""Embeddings of any method: what they are fitted by, and what is scored of them without a decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.decomposition import NMF, PCA, FastICA

from nvae_bio import schema
from nvae_bio.config import SEE_LABELS, Baseline, EvaluationSettings
from nvae_bio.data.files import read_prepared, write_csv
from nvae_bio.errors import UserError
from nvae_bio.evaluate.baselines import NMF_ITERATIONS, fit_scvi
from nvae_bio.evaluate.common import dense, score_table
from nvae_bio.evaluate.condition import leakage_of
from nvae_bio.evaluate.decision import decision_scores
from nvae_bio.evaluate.finer import embedding_finer_scores, embedding_scib_scores
from nvae_bio.evaluate.known import image_shape_of, known_scores
from nvae_bio.evaluate.peers import embed_drvi
from nvae_bio.evaluate.subject import log_scaled
from nvae_bio.evaluate.transfer import classifier_scores, neighbor_scores

logger = logging.getLogger(__name__)

ICA_ITERATIONS = 1000
Embedding = tuple[np.ndarray, pd.DataFrame | None]  # (n, dims), and of a method with a classifier p(class), (n, C)
Fit = Callable[[AnnData, int, int], np.ndarray]  # samples, dims, seed → embedding (n, dims)


def _linear(adata: AnnData, n_latent: int, model: PCA | NMF | FastICA) -> np.ndarray:
    """A linear method, fitted on training samples; of counts on log1p of counts per 10,000."""
    train = np.flatnonzero(adata.obs[schema.SPLIT] == "train")
    if n_latent > (most := min(len(train), adata.n_vars)):
        raise UserError(f"baseline: {n_latent} dims; allowed for these data: at most {most}")
    x = dense(adata, np.arange(adata.n_obs))
    if adata.uns[schema.DATA]["kind"] == "counts":
        x = log_scaled(x, adata.obs[schema.LIBRARY].to_numpy(np.float32))
    return np.asarray(model.fit(x[train]).transform(x))


def fit_pca(adata: AnnData, n_latent: int, seed: int) -> np.ndarray:
    """Principal components, centred."""
    return _linear(adata, n_latent, PCA(n_latent, svd_solver="covariance_eigh", random_state=seed))


def fit_ica(adata: AnnData, n_latent: int, seed: int) -> np.ndarray:
    """Independent components (FastICA)."""
    model = FastICA(n_latent, whiten="unit-variance", max_iter=ICA_ITERATIONS, tol=1e-3, random_state=seed)
    return _linear(adata, n_latent, model)


def fit_nmf(adata: AnnData, n_latent: int, seed: int) -> np.ndarray:
    """Non-negative matrix factorization; values below 0 are not allowed.

    Raises:
        UserError: there are such.
    """
    if adata.X.min() < 0:
        raise UserError(
            "baseline 'nmf': the data have values below 0; allowed: counts, pictures, features of 0 or more"
        )
    return _linear(adata, n_latent, NMF(n_latent, init="nndsvda", max_iter=NMF_ITERATIONS, random_state=seed))


FITS: dict[Baseline, Fit] = {"pca": fit_pca, "ica": fit_ica, "nmf": fit_nmf, "drvi": embed_drvi}
OF_COUNTS = ("scvi", "scanvi", "drvi")


def fit_embedding(method: Baseline, adata: AnnData, n_latent: int, seed: int) -> Embedding:
    """The embedding of all samples by a method, and what its classifier says where it has one.

    Raises:
        UserError: as the method.
    """
    if method in ("scvi", "scanvi"):
        fitted = fit_scvi(method, adata, n_latent, seed)
        return fitted.shared, fitted.probability
    return FITS[method](adata, n_latent, seed), None


def embedding_scores(
    adata: AnnData, embedding: Embedding, settings: EvaluationSettings, image_shape: tuple[int, int, int] | None
) -> dict[str, float]:
    """What can be scored without a decoder: leakage, known factors, finer labels, scib-metrics, classes of new samples.

    Args:
        adata: prepared samples.
        embedding: (n, d), and p(class) of a method with a classifier, else None.
        settings: the groups that are wanted, and their columns.
        image_shape: of pictures.
    """
    z, probability = embedding
    scores = leakage_of(adata, z)
    if "factors" in settings.scores:
        scores |= known_scores(adata, z, settings.factor_keys, image_shape)
    if "finer" in settings.scores:
        scores |= embedding_finer_scores(adata, str(settings.finer_key), {"": z})
    if "decision" in settings.scores:
        scores |= decision_scores(adata, str(settings.decision_key), {"": np.asarray(z, dtype=float)})
    if "query" in settings.scores:
        scores |= neighbor_scores(adata, z) if probability is None else classifier_scores(adata, probability)
    if "scib" in settings.scores:
        scores |= embedding_scib_scores(adata, z)
    return scores


def embed_baseline(
    method: Baseline,
    data: Path,
    seeds: Sequence[int],
    n_latent: int,
    output: Path,
    settings: EvaluationSettings,
    names: tuple[str, str],
) -> None:
    """Fit a method on the training samples, score its embedding with every seed, and write the table as .csv.

    Args:
        method: pca, ica, nmf, scvi, scanvi or drvi.
        data: prepared samples.
        seeds: of the method.
        n_latent: its dims.
        output: the table.
        settings: what is scored.
        names: what the table calls the data and the method.

    Raises:
        UserError: a method that is not for such data or not installed, or as the scores.
    """
    adata = read_prepared(data)
    if method in OF_COUNTS and (kind := adata.uns[schema.DATA]["kind"]) != "counts":
        raise UserError(f"baseline {method!r}: data of kind {kind!r}; allowed: counts")
    shape = image_shape_of(adata)
    scores = {
        seed: embedding_scores(adata, fit_embedding(method, adata, n_latent, seed), settings, shape) for seed in seeds
    }
    table = score_table(scores, *names, saw_labels=method in SEE_LABELS)
    write_csv(table, output)
    logger.info("%s, %s: %d scores", *names, len(table))
