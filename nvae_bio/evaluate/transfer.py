"""Classes of samples that a method did not see: how right, how sure, and whether what is new is told.

Held-out samples with a class are the known ones. Those without one, of the same donors where there are donors, are
taken for new: a class that was held out whole (`unlabeled_values` and `hold_out` of the data set).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from nvae_bio import schema
from nvae_bio.config import QuerySettings
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import labelled
from nvae_bio.evaluate.decision import calibration_error
from nvae_bio.query import SEPARATOR, place_query, reference_parts, reference_query
from nvae_bio.trained import TrainedModel

N_NEIGHBORS = 15
MIN_NEW = 10  # samples, fewer of which are not scored


def asked_rows(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Held-out samples of known classes, and of new ones, (n,) booleans each.

    Raises:
        UserError: none with a class.
    """
    known, test = labelled(adata, "test"), (adata.obs[schema.SPLIT] == "test").to_numpy()
    if not known.any():
        raise UserError("evaluation: 'query' needs held-out samples with a class (split 'test'); allowed: some")
    new = test & adata.obs[schema.LABEL].isna().to_numpy()
    if schema.DONOR in adata.obs:
        new &= adata.obs[schema.DONOR].isin(set(adata.obs[schema.DONOR][known])).to_numpy()
    return known, new


def transfer_scores(
    label: np.ndarray, classes: list[str], probability: np.ndarray, novelty: np.ndarray, is_new: np.ndarray
) -> dict[str, float]:
    """Scores of foretold classes.

    Args:
        label: of each sample, (n,); of new ones anything.
        classes: names of the columns.
        probability: of each class, (n, C).
        novelty: larger for what is stranger, (n,).
        is_new: samples of a class that was never seen, (n,).

    Returns:
        Of the known samples query_accuracy, query_balanced_accuracy, query_macro_f1 and query_ece (expected calibration
        error in ten bins); query_novelty_auroc of new against known ones, where there are ten.
    """
    known = ~is_new
    told, sure = np.array(classes)[probability.argmax(1)][known], probability.max(1)[known]
    scores = {
        "query_accuracy": float(accuracy_score(label[known], told)),
        "query_balanced_accuracy": float(balanced_accuracy_score(label[known], told)),
        "query_macro_f1": float(f1_score(label[known], told, average="macro", labels=np.unique(label[known]))),
        "query_ece": calibration_error(sure, told == label[known]),
    }
    if is_new.sum() >= MIN_NEW:
        scores["query_novelty_auroc"] = float(roc_auc_score(is_new, novelty))
    return scores


def query_scores(trained: TrainedModel, adata: AnnData) -> dict[str, float]:
    """Scores of held-out samples as a query, with the validation samples as the reference.

    Returns:
        `transfer_scores`; query_set_coverage and query_set_size of the sets at error .1, query_novel_known and
        query_novel_new: share of known and of new samples that is called novel at level .01.
    """
    known, new = asked_rows(adata)
    asked = reference_query(adata[known | new].copy(), trained.card)
    mapped = place_query(trained, *reference_parts(adata, trained.card), asked, QuerySettings())
    is_new, label = new[known | new], mapped.obs[schema.LABEL].astype(str).to_numpy()
    probability, novelty = np.asarray(mapped.obsm[schema.CLASS_PROBABILITY]), mapped.obs[schema.NOVELTY].to_numpy()
    scores = transfer_scores(label, trained.card.classes, probability, novelty, is_new)
    sets = mapped.obs[schema.CLASS_SET].astype(str).str.split(SEPARATOR, regex=False)
    inside = np.array([one in names for one, names in zip(label, sets, strict=True)])
    called = mapped.obs[schema.NOVEL].to_numpy()
    scores["query_set_coverage"] = float(inside[~is_new].mean())
    scores["query_set_size"] = float(mapped.obs[schema.CLASS_SET_SIZE].to_numpy()[~is_new].mean())
    scores["query_novel_known"] = float(called[~is_new].mean())
    return scores | ({"query_novel_new": float(called[is_new].mean())} if is_new.sum() >= MIN_NEW else {})


def neighbor_scores(adata: AnnData, z: np.ndarray) -> dict[str, float]:
    """`transfer_scores` of the 15 nearest training samples in an embedding: their shares, and how far the last one is.

    Args:
        adata: prepared samples.
        z: of all of them, (n, d).
    """
    known, new = asked_rows(adata)
    asked, train = known | new, labelled(adata, "train")
    label = adata.obs[schema.LABEL].astype(str).to_numpy()
    neighbors = KNeighborsClassifier(N_NEIGHBORS).fit(z[train], label[train])
    distance = neighbors.kneighbors(z[asked])[0][:, -1]
    return transfer_scores(
        label[asked], list(neighbors.classes_), neighbors.predict_proba(z[asked]), distance, new[asked]
    )


def classifier_scores(adata: AnnData, probability: pd.DataFrame) -> dict[str, float]:
    """`transfer_scores` of a method's own classifier; what it is least sure of is strangest.

    Args:
        adata: prepared samples.
        probability: of all of them, a column a class, (n, C).
    """
    known, new = asked_rows(adata)
    asked, label = known | new, adata.obs[schema.LABEL].astype(str).to_numpy()
    values = probability.to_numpy()[asked]
    return transfer_scores(label[asked], list(map(str, probability.columns)), values, -values.max(1), new[asked])
