"""Scores of foretold classes: of the model, of neighbours in an embedding, of another classifier."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from nvae_bio import embed_data, prepare_data, train_model
from nvae_bio.config import CountsSettings, EvaluationSettings
from nvae_bio.errors import UserError
from nvae_bio.evaluate.embeddings import embedding_scores, fit_embedding
from nvae_bio.evaluate.evaluation import Evaluation
from nvae_bio.evaluate.transfer import asked_rows, classifier_scores, neighbor_scores, transfer_scores
from nvae_bio.trained import TrainedModel
from tests.toys import NO_UMAP, fit_settings, raw_counts

QUERY = EvaluationSettings(scores=("query",))


@cache
def without_c2() -> tuple[AnnData, TrainedModel]:
    """Donors held out, and class c2 as well; the embedded samples and the model."""
    settings = CountsSettings(
        kind="counts", label_key="label", donor_key="donor", n_top_genes=None, unlabeled_values=["c2"],
        hold_out={"label": "c2"}, split={"by": "donor", "n_folds": 3},
    )  # fmt: skip
    prepared = prepare_data(settings, raw_counts(n_per_class=200))
    model = train_model(prepared, fit_settings(60, n_shared=3))
    return embed_data(prepared, model, NO_UMAP), model


def test_new_samples_are_those_without_a_class_of_the_donors_that_are_asked() -> None:
    adata, _ = without_c2()
    known, new = asked_rows(adata)
    assert set(adata.obs["source_label"][new]) == {"c2"}
    assert set(adata.obs["source_label"][known]) == {"c0", "c1"}
    assert set(adata.obs["donor"][new]) <= set(adata.obs["donor"][known])
    assert not set(adata.obs["donor"][known]) & set(adata.obs["donor"][adata.obs["split"] == "train"])
    train = adata[adata.obs["split"] == "train"].copy()
    with pytest.raises(UserError, match="needs held-out samples with a class"):
        asked_rows(train)


def test_a_model_tells_classes_and_what_is_new() -> None:
    adata, model = without_c2()
    scores = Evaluation(model, adata, QUERY).scores()
    assert scores["query_accuracy"] > 0.9
    assert scores["query_balanced_accuracy"] > 0.9
    assert scores["query_ece"] < 0.1
    assert scores["query_novelty_auroc"] > 0.95
    assert scores["query_novel_known"] < 0.1
    assert scores["query_set_coverage"] > 0.8
    assert 0.8 <= scores["query_set_size"] <= 1.5


def test_neighbours_tell_them_too() -> None:
    adata, _ = without_c2()
    scores = embedding_scores(adata, fit_embedding("pca", adata, 5, 0), QUERY, None)
    assert scores["query_accuracy"] > 0.9
    assert scores["query_novelty_auroc"] > 0.9
    noise = np.random.default_rng(0).normal(size=(adata.n_obs, 3))
    blind = neighbor_scores(adata, noise)
    assert blind["query_balanced_accuracy"] < 0.65
    assert blind["query_novelty_auroc"] == pytest.approx(0.5, abs=0.12)


def test_scores_of_a_classifier_that_is_right_or_sure_or_neither() -> None:
    adata, _ = without_c2()
    hot = pd.get_dummies(adata.obs["source_label"].astype(str)).astype(float)[["c0", "c1"]]
    unsure = hot.where(hot.sum(1) > 0, 0.5)  # of c2, which it never saw
    right = classifier_scores(adata, unsure)
    assert right["query_accuracy"] == right["query_macro_f1"] == right["query_novelty_auroc"] == 1
    assert right["query_ece"] == 0
    wrong = classifier_scores(adata, unsure[["c1", "c0"]].set_axis(["c0", "c1"], axis=1))
    assert wrong["query_accuracy"] == 0
    assert wrong["query_ece"] == 1


def test_rare_classes_count_as_much_in_balanced_accuracy() -> None:
    label = np.array(["a"] * 90 + ["b"] * 10)
    probability = np.tile([0.9, 0.1], (100, 1))
    scores = transfer_scores(label, ["a", "b"], probability, np.zeros(100), np.zeros(100, dtype=bool))
    assert scores["query_accuracy"] == pytest.approx(0.9)
    assert scores["query_balanced_accuracy"] == pytest.approx(0.5)
    assert scores["query_ece"] == pytest.approx(0)
    assert "query_novelty_auroc" not in scores
