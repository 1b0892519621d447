"""Tables: `.parquet` and `.csv` files, a row of which is told in `Kind.rows`."""

from __future__ import annotations

from dataclasses import replace

from nvae_bio import schema
from nvae_bio.schema.factors import REPORT
from nvae_bio.schema.samples import AUDITED, BLOCKS
from nvae_bio.schema.slot import EFFECT_UNIT, Kind, Slot, at, column

_SAMPLE = column("sample", "name of the sample, as in obs of the prepared file")
_SEED = column("seed", "seed of the model")
_FACTOR = column("factor", "name of the factor")
_FEATURE = column("feature", "gene, pixel or feature")
_PER_SAMPLE = "nats a sample"
_LABELED = "nats a labeled sample"


def _as_columns(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    return tuple(replace(slot, where="column", shape="") for slot in slots)


HISTORY = Kind(
    "history.parquet", "an epoch and split", "",
    (
        column("epoch", "0, 1, …"),
        column("kl_weight", "weight of the KL terms in its last step"),
        column("split", "train (each sample at the weights of its step) or validation (after the epoch)"),
        column("is_best", "whether its weights are the best so far"),
        column("objective", "eq. 7 with the full KL weight", _LABELED),
        column("elbo", "bound on log p(x|y)", _LABELED),
        column("log_likelihood", "log p(x|y,z)", _LABELED),
        column("kl_shared", "KL of z_s", _LABELED),
        column("kl_private", "KL of the sample's own block", _LABELED),
        column("kl_off_block", "KL of all other blocks", _LABELED),
        column("log_class", "log q(y|x)", _LABELED),
        column("accuracy", "share of samples whose class is the likeliest"),
        column("elbo_unlabeled", "of training alone: bound on log p(x) of unlabeled samples; else NaN", _PER_SAMPLE),
        column(
            "independence", "of training alone: the penalty on z_s without its weight; NaN where there is none", "nats"
        ),
    ),
)  # fmt: skip
AUDIT = Kind(
    "audit.parquet", "a sample", "",
    (_SAMPLE, *(column(name, *told) for name, told in AUDITED.items())),
)  # fmt: skip
NULL = Kind(
    "null", "a test in a refit", "",
    (
        column("kind", "what the null data lack: `no_private`, `no_factor`, …"),
        column("refit", "number of the refit"),
        column("statistic", "`own_block`, `own_dim`, `shared` or `hidden`"),
        column("class", 'its place in `uns["nvae"]["classes"]`'),
        column("dim", "which dim; −1 for a block"),
        column("value", "what was found", "nats"),
    ),
)  # fmt: skip
POWER = Kind(
    "power", "a planting, fold change and class", "",
    (
        column("run", "number of the planting"),
        column("fold_change", "fold change of the planted genes"),
        column("class", 'its place in `uns["nvae"]["classes"]`'),
        column("own_block", "excess gain of the own block; NaN without one", "nats"),
        column("hidden", "excess of the shared dim that the class uses most for itself; NaN without z_s", "nats"),
        column("r_block", "|correlation| of planted activity with the best dim of the own block, in held-out cells"),
        column("r_hidden", "|correlation| of planted activity with the shared dim of `hidden`"),
        column("n_genes", "planted genes"),
        column("mean_count", "mean of these genes in the class before planting", "counts a cell"),
        column("n_cells", "cells of the class"),
    ),
)  # fmt: skip
CHANGES = Kind(
    "counterfactuals.parquet", "a class and feature, largest effects of a class first", "",
    (
        column("class", "class before the change"),
        column("as_class", "class after the change"),
        _FEATURE,
        column("n_samples", "samples with support, over which all is averaged"),
        column("factual", "decoded mean before the change"),
        column("counterfactual", "decoded mean after the change"),
        column("effect", "what the change does", EFFECT_UNIT),
        column("effect_lower", "mean of the lower ends of the intervals of the effect", EFFECT_UNIT),
        column("effect_upper", "mean of the upper ends", EFFECT_UNIT),
        column("effect_sd", "standard deviation of the effect over samples", EFFECT_UNIT),
        column("same_sign", "share of samples whose interval is on the mean's side of 0"),
        column("unit", "the effect unit"),
    ),
)  # fmt: skip
SCORES = Kind(
    "scores.csv", "a score of a model", "",
    (
        column("dataset", "name of the data set"),
        column("variant", "name of the run"),
        _SEED,
        column("metric", "what was measured"),
        column("value", "the score"),
        column("package", "library of the extra `benchmark` whose score it is, and its version; empty for others"),
        column("saw_labels", "whether the method was told the classes of the samples that it was fitted on"),
    ),
)  # fmt: skip
STORED = Kind(
    "store/obs.parquet", "a cell, in the order of the store", "",
    (
        column(schema.LABEL, "class; missing where unlabeled"),
        column(schema.SPLIT, "train, validation or test"),
        column(schema.LIBRARY, "all counts of the cell before any choice of genes", "counts"),
        column(schema.SIZE_FACTOR, "size factor", "on the scale of the library", "`size_factor_key`"),
        column(schema.BATCH, "batch", when="the decoder may be told it"),
        column("{covariate}", "covariates of the decoder", when="they are named"),
        column("row", "place of the cell in the prepared file"),
    ),
)  # fmt: skip
SUSPECTS = Kind(
    "suspects.csv", "a sample that most seeds suspect, the strongest first", "",
    (
        _SAMPLE,
        column("label", "class of the sample; `unlabeled` where it has none"),
        column("suspicion", "what is suspected, as in the audit"),
        column("other_class", "class that it is about; empty where the sample is unlike every class"),
        column("nats", "how far the suspicion goes, mean over seeds", "nats"),
        column("n_seeds", "seeds that suspect it"),
    ),
)  # fmt: skip

_OBS = _as_columns(at("obs", REPORT.slots))
_IN_CLASS = {
    "kl": schema.KL_BY_CLASS, "kl_lower": schema.KL_BY_CLASS_LOWER, "kl_upper": schema.KL_BY_CLASS_UPPER,
    "loss": schema.LOSS_BY_CLASS, "loss_lower": schema.LOSS_BY_CLASS_LOWER, "loss_upper": schema.LOSS_BY_CLASS_UPPER,
    "q": schema.Q_BY_CLASS, "outcome": schema.OUTCOME_BY_CLASS,
}  # fmt: skip


def _in_class(column: str, key: str, name: str) -> Slot:
    found = next(slot for slot in REPORT.slots if slot.where == "obsm" and slot.key == key)
    return replace(found, where="column", key=name.format(column), shape="")


FLAT = Kind(
    "factors.parquet", "a factor", "",
    (_FACTOR, *(_in_class(name, key, "{}[{{class}}]") for name, key in _IN_CLASS.items())),
    inherited=_OBS,
)  # fmt: skip

EMBEDDINGS = Kind(
    "export/embeddings.parquet", "a sample in a seed", "",
    (
        _SAMPLE, _SEED,
        column(schema.LABEL, "class; missing where unlabeled"),
        column(schema.SPLIT, "train, validation or test"),
        column(schema.BATCH, "batch, which the decoder is told", when="there are any"),
        column(schema.DONOR, "donor", when="there are any"),
        column(schema.CONDITION, "condition", when="there are any"),
        column(schema.PREDICTED, "likeliest class by q(y|x)"),
        column(schema.CONFIDENCE, "probability of the likeliest class, calibrated where the model is"),
        column(schema.ELBO, "bound on log p(x|y)", "nats"),
        column("shared_{i}", "posterior mean of a dim of z_s, from 1 to S", "prior SD", "S > 0"),
        column("specific_{i}", "posterior mean of a dim of the own block, from 1 to K", "prior SD", BLOCKS),
        column("umap_1", "first axis of the layout of z_s; missing where not laid out", when="`embedding.umap`"),
        column("umap_2", "second axis of the layout of z_s", when="`embedding.umap`"),
    ),
)  # fmt: skip
FACTORS = Kind("export/factors.parquet", "a factor", "", (_FACTOR,), inherited=_OBS)
FACTOR_CLASSES = Kind(
    "export/factor_classes.parquet", "a factor and class", "",
    (
        _FACTOR, column("class", "the class"),
        *(_in_class(name, key, "{}") for name, key in {**_IN_CLASS, "agreement": schema.AGREEMENT_BY_CLASS}.items()),
    ),
)  # fmt: skip
FACTOR_EFFECTS = Kind(
    "export/factor_effects.parquet", "a factor and feature", "",
    (
        _FACTOR, _FEATURE,
        column("effect", "change of the decoded mean as the factor moves from −2 to +2 SD", EFFECT_UNIT),
        column("lower", "lower end of the interval of the effect over seeds and samples", EFFECT_UNIT),
        column("upper", "upper end of that interval", EFFECT_UNIT),
    ),
)  # fmt: skip
FACTOR_SCORES = Kind(
    "export/factor_scores.parquet", "a sample and factor that its class can have", "",
    (
        _SAMPLE, _FACTOR,
        column("score", "mean over seeds of the posterior mean, signs made alike", "prior SD"),
        column("std", "standard deviation of the score over seeds; missing where one seed alone found it", "prior SD"),
    ),
)  # fmt: skip
