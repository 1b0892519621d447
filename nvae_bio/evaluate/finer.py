"""Labels finer than the classes, and integration: by the metrics of DRVI and of scib-metrics, which are extras."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.errors import UserError
from nvae_bio.evaluate.extra import package
from nvae_bio.evaluate.probes import leakage
from nvae_bio.evaluate.subject import Subject

MIN_SAMPLES = 20  # of a finer label within its class
N_JOBS = 1


def finer_labels(adata: AnnData, key: str) -> dict[str, np.ndarray]:
    """Samples of each class that has several finer labels, by class: rows, of labels with 20 samples or more.

    Raises:
        UserError: no such column, or no class with two such labels.
    """
    if key not in adata.obs:
        raise UserError(f"evaluation.finer_key: {key!r} is no column of obs; allowed: {', '.join(adata.obs)}")
    table = pd.DataFrame({"label": adata.obs[schema.LABEL].astype(object), "finer": adata.obs[key].astype(object)})
    table = table.reset_index(drop=True).dropna().astype(str)
    found = {}
    for name, own in table.groupby("label"):
        counts = own["finer"].value_counts()
        kept = own[own["finer"].isin(counts.index[counts >= MIN_SAMPLES])]
        if kept["finer"].nunique() > 1:
            found[str(name)] = kept.index.to_numpy()
    if not found:
        raise UserError(
            f"evaluation.finer_key: obs[{key!r}] splits no class into labels of {MIN_SAMPLES} samples or more"
        )
    return found


def matching_scores(z: np.ndarray, finer: pd.Series) -> dict[str, float]:
    """LMS-SMI and LMS-SPN of dims (n, d) against labels (n,): a dim a label, by the best one-to-one matching.

    By the code of drvi-py, for values of different versions differ. Reference: Moinfar & Theis 2024,
    doi:10.1101/2024.11.06.622266.
    """
    with package("drvi.utils.metrics", "evaluation of 'finer'") as metrics:
        return {
            f"lms_{name}": float(metrics.latent_matching_score(np.asarray(metric(z, finer.astype("category")))))
            for name, metric in (
                ("smi", metrics.discrete_scaled_mutual_info_score),
                ("spn", metrics.nn_alignment_score),
            )
        }


def latents_of(adata: AnnData) -> dict[str, np.ndarray]:
    """Embeddings that are scored apart: z_s as `shared`, the own block as `private`, both together as ``."""
    shared, private = (adata.obsm.get(key) for key in (schema.SHARED, schema.SPECIFIC))
    both = [part for part in (shared, private) if part is not None]
    parts = {"": np.hstack(both)}
    if len(both) > 1:
        parts |= {"_shared": np.asarray(shared), "_private": np.asarray(private)}
    return parts


def finer_scores(subject: Subject, key: str) -> dict[str, float]:
    """How well dims follow labels finer than the classes, within each class, of all samples as the field has it.

    Returns:
        lms_smi[CLASS] and lms_spn[CLASS] of [z_s, own block], and with `_shared` and `_private` of each alone;
        finer_accuracy_linear[CLASS] and finer_accuracy_knn[CLASS]: balanced accuracy of probes on held-out samples.

    Raises:
        UserError: no such column, no class with finer labels, or drvi-py is not installed.
    """
    return embedding_finer_scores(subject.adata, key, latents_of(subject.adata))


def embedding_finer_scores(adata: AnnData, key: str, latents: dict[str, np.ndarray]) -> dict[str, float]:
    """`finer_scores` of any embeddings (n, d), by what is put behind the name of a metric."""
    scores: dict[str, float] = {}
    for name, rows in finer_labels(adata, key).items():
        finer = adata.obs[key].astype(str).iloc[rows]
        train, test = ((adata.obs[schema.SPLIT].iloc[rows] == part).to_numpy() for part in ("train", "test"))
        for end, z in latents.items():
            own = np.asarray(z, dtype=float)[rows]
            scores |= {f"{metric}{end}[{name}]": value for metric, value in matching_scores(own, finer).items()}
            if finer[test].nunique() > 1:
                found = leakage(own, finer.to_numpy(), train, test)
                for probe in ("linear", "knn"):
                    scores[f"finer_accuracy_{probe}{end}[{name}]"] = found[f"leakage_{probe}"]
    return scores


def scib_scores(subject: Subject) -> dict[str, float]:
    """scib-metrics of [z_s, own block] and of z_s, with the classes as labels, which the model saw."""
    return {
        f"{metric}{end}": value
        for end, z in latents_of(subject.adata).items()
        if end != "_private"
        for metric, value in embedding_scib_scores(subject.adata, z).items()
    }


def embedding_scib_scores(adata: AnnData, z: np.ndarray) -> dict[str, float]:
    """scib_bio, scib_batch and scib_total of an embedding; without a batch key scib_bio alone.

    Raises:
        UserError: scib-metrics is not installed.
    """
    known = adata.obs[schema.LABEL].notna().to_numpy()
    obs = adata.obs.loc[known, [schema.LABEL]].astype(str)
    has_batch = schema.BATCH in adata.obs and adata.obs[schema.BATCH].nunique() > 1
    obs[schema.BATCH] = adata.obs.loc[known, schema.BATCH].astype(str) if has_batch else "all"
    data = AnnData(np.zeros((int(known.sum()), 1), dtype=np.float32), obs=obs.astype("category"))
    data.obsm["z"] = np.asarray(z, dtype=np.float32)[known]
    with package("scib_metrics.benchmark", "evaluation of 'scib'") as scib:
        one = scib.Benchmarker(
            data, schema.BATCH, schema.LABEL, ["z"], pre_integrated_embedding_obsm_key="z", n_jobs=N_JOBS,
            bio_conservation_metrics=scib.BioConservation(),
            batch_correction_metrics=scib.BatchCorrection(pcr_comparison=False) if has_batch else None,
            progress_bar=False,
        )  # fmt: skip
        one.benchmark()
        found = one.get_results(min_max_scale=False).loc["z"]
    scores = {"scib_bio": float(found["Bio conservation"])}
    if has_batch:
        scores |= {"scib_batch": float(found["Batch correction"]), "scib_total": float(found["Total"])}
    return scores
