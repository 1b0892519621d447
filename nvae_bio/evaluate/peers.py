"""Factors of other methods on the same training samples, scored as those of a run: DRVI, and NMF by consensus.

Neither knows of classes. A class is said to use a factor by what the factor is in its held-out samples, by the method's
own cut-off where it has one.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import SEE_LABELS, Baseline
from nvae_bio.data.covariates import CovariateSet
from nvae_bio.data.files import read_prepared, write_csv
from nvae_bio.errors import UserError
from nvae_bio.evaluate.baselines import train_quietly
from nvae_bio.evaluate.common import labelled, score_table
from nvae_bio.evaluate.extra import package
from nvae_bio.evaluate.factors import Published, factor_scores
from nvae_bio.evaluate.step import read_truth

logger = logging.getLogger(__name__)

VANISHED = 0.5  # DRVI's own cut-off: a direction of a latent dim that nowhere reaches it has vanished
N_PROGRAMMES = tuple(range(6, 21, 2))  # numbers of programmes that cNMF chooses from
N_FACTORIZATIONS = 20  # of each number; its authors try with 20, and take 100 in the end
DENSITY = 0.5  # its default: programmes of single factorizations that have no others so near are left out
MIN_USAGE = 0.05  # of a class, on average; its authors give no cut-off, so that this one is ours
PER_MILLION = 1e6  # its scale of counts


def _classes(adata: AnnData) -> list[str]:
    return sorted(set(adata.obs[schema.LABEL].dropna().astype(str)))


def _of_held_out(
    scores: np.ndarray, adata: AnnData, classes: Sequence[str], what: Callable[..., np.ndarray]
) -> np.ndarray:
    """A summary of each factor over the held-out samples of each class, (F, C)."""
    label, test = adata.obs[schema.LABEL].astype(str).to_numpy(), labelled(adata, "test")
    for name in classes:
        if not (test & (label == name)).any():
            raise UserError(f"class {name!r} has no held-out sample (split 'test'); its factors cannot be judged")
    return np.stack([what(scores[test & (label == name)], axis=0) for name in classes], axis=1)


@contextmanager
def _trained_drvi(adata: AnnData, seed: int, n_latent: int | None = None) -> Iterator[tuple[Any, AnnData]]:
    """DRVI, trained, and its embedding of all samples; quiet within the block.

    Args:
        adata: prepared counts.
        seed: of weights and training.
        n_latent: dims; its default of 32 if None.

    Raises:
        UserError: drvi-py is not installed.
    """
    with package("drvi.model", "baseline 'drvi'") as drvi:
        importlib.import_module("scvi").settings.seed = seed
        covariates = CovariateSet.of(adata)
        categorical = [one.name for one in covariates.categorical]
        continuous = [one.name for one in covariates.continuous]
        data = AnnData(adata.X.copy(), obs=adata.obs[[*categorical, *continuous]].copy(), var=adata.var[[]])
        rows = [np.flatnonzero(adata.obs[schema.SPLIT] == name) for name in schema.SPLITS]
        drvi.DRVI.setup_anndata(
            data, categorical_covariate_keys=categorical or None, continuous_covariate_keys=continuous or None
        )
        model = drvi.DRVI(data, **({} if n_latent is None else {"n_latent": n_latent}))
        train_quietly(model, rows)
        yield model, AnnData(np.asarray(model.get_latent_representation()), obs=data.obs[[]])


def embed_drvi(adata: AnnData, n_latent: int, seed: int) -> np.ndarray:
    """DRVI's embedding of all samples, (n, n_latent), trained as `fit_drvi` has it.

    Raises:
        UserError: drvi-py is not installed.
    """
    with _trained_drvi(adata, seed, n_latent) as (_, latent):
        return np.asarray(latent.X, dtype=float)


def fit_drvi(adata: AnnData, seed: int) -> Published:
    """DRVI with its default networks, 32 dims and training (400 epochs at most), on the CPU.

    It says of each direction of a dim whether it has vanished, and has genes of its own for it: a direction is a
    factor, its score the value of the dim in it, else 0. 32 dims are more than there are factors, as its authors
    advise: what is not needed vanishes. Batches and other covariates are given. A class uses a factor that reaches
    DRVI's cut-off of 0.5 in a held-out sample of it. Reference: Moinfar & Theis 2024, doi:10.1101/2024.11.06.622266.

    Args:
        adata: prepared counts.
        seed: of weights and training.

    Raises:
        UserError: drvi-py is not installed, or a class has no held-out sample.
    """
    with _trained_drvi(adata, seed) as (model, latent):
        model.set_latent_dimension_stats(latent, vanished_threshold=VANISHED)
        model.calculate_interpretability_scores(latent, methods="OOD")
    values = np.asarray(latent.X, dtype=float)
    scores = np.maximum(np.hstack([values, -values]), 0)
    effect = np.concatenate([latent.varm[f"OOD_combined_{name}"] for name in ("positive", "negative")])
    classes = _classes(adata)
    used = _of_held_out(scores, adata, classes, np.max) >= VANISHED
    return Published(scores, effect, used, classes)


def fit_cnmf(adata: AnnData, seed: int) -> Published:
    """cNMF: programmes that many factorizations of the same counts agree on.

    Of 6, 8, … 20 programmes it has as many as are most stable (mean silhouette of the programmes of 20 factorizations),
    else its defaults. They are fitted on training samples; the usage of every sample is refitted to them as cNMF does
    in its last step, and is a share: it adds up to 1. Genes are ranked by its scores for marker genes, of which those
    below 0 are none. A class uses a programme whose mean usage in held-out samples is at least 5 %. Reference: Kotliar
    et al. 2019, doi:10.7554/eLife.43803.

    Args:
        adata: prepared counts.
        seed: of the factorizations.

    Raises:
        UserError: cnmf is not installed, or a class has no held-out sample.
    """
    counts = np.asarray(adata.X.toarray() if sparse.issparse(adata.X) else adata.X, dtype=np.float64)
    train = (adata.obs[schema.SPLIT] == "train").to_numpy()
    there = counts[train].any(axis=0)
    names = adata.var_names[there]
    with package("cnmf", "baseline 'cnmf'") as cnmf, tempfile.TemporaryDirectory() as folder:
        data = AnnData(counts[train][:, there], obs=adata.obs.loc[train, []], var=pd.DataFrame(index=names))
        data.write_h5ad(Path(folder) / "counts.h5ad")
        run = cnmf.cNMF(output_dir=folder, name="run")
        run.prepare(f"{folder}/counts.h5ad", list(N_PROGRAMMES), n_iter=N_FACTORIZATIONS, densify=True, seed=seed)
        run.factorize()
        run.combine()
        stable = {
            k: run.consensus(k, skip_density_and_return_after_stats=True).loc["silhouette"].item() for k in N_PROGRAMMES
        }
        best = max(stable, key=lambda k: stable[k])
        run.consensus(best, density_threshold=DENSITY, show_clustering=False)
        _, markers, per_million, _ = run.load_results(best, DENSITY)
        genes = Path(run.paths["nmf_genes_list"]).read_text(encoding="utf-8").split("\n")
        scale = _per_million(counts[train][:, there]).std(axis=0, ddof=1)
        at = names.get_indexer(genes)
        usage = run.refit_usage(
            _per_million(counts[:, there])[:, at] / scale[at], per_million.loc[genes].T.to_numpy() / scale[at]
        )
    logger.info("cNMF: %d programmes; stability %s", best, ", ".join(f"{k}: {v:.3f}" for k, v in stable.items()))
    usage = usage / np.maximum(usage.sum(axis=1, keepdims=True), 1e-12)
    effect = markers.clip(lower=0).reindex(adata.var_names).fillna(0).T.to_numpy()
    classes = _classes(adata)
    return Published(usage, effect, _of_held_out(usage, adata, classes, np.mean) >= MIN_USAGE, classes)


def _per_million(counts: np.ndarray) -> np.ndarray:
    """Counts per million of each sample."""
    return np.asarray(PER_MILLION * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


FITS: dict[str, Callable[[AnnData, int], Published]] = {"drvi": fit_drvi, "cnmf": fit_cnmf}


def peer(method: Baseline, data: Path, truth: Path, seeds: Sequence[int], output: Path, names: tuple[str, str]) -> None:
    """Score the factors of a method with every seed, and write the tidy table of `score_table` as .csv.

    Args:
        method: `drvi` or `cnmf`.
        data: prepared counts.
        truth: what is planted in them.
        seeds: of the method.
        output: the table.
        names: what it calls the data and the method.

    Raises:
        UserError: data that are no counts, a truth of others, or a method that is not installed.
    """
    adata, known = read_prepared(data), read_truth(truth)
    if adata.uns[schema.DATA]["kind"] != "counts":
        raise UserError(f"baseline {method!r}: data of kind {adata.uns[schema.DATA]['kind']!r}; allowed: counts")
    scores = {seed: factor_scores(FITS[method](adata, seed), adata, known) for seed in seeds}
    table = score_table(scores, *names, saw_labels=method in SEE_LABELS)
    write_csv(table, output)
    logger.info("%s, %s: %d scores", *names, len(table))
