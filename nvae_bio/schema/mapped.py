"""New and changed samples, files for other programs, and what notebooks add to an AnnData."""

from __future__ import annotations

from dataclasses import replace

from nvae_bio import schema
from nvae_bio.schema.provenance import OF_MODEL, provenance
from nvae_bio.schema.samples import (
    AUDIT_OF_RUN,
    BATCH,
    CONDITION,
    COUNTS,
    COVARIATE,
    DONOR,
    EMBEDDED,
    FEATURES,
    IMAGES,
    KIND,
    LATENTS,
    OTHER_OBS,
    OWN_BLOCK,
    PLACES,
    PREPARED,
    REMOVED,
    SAMPLES,
    SCORES_OF_RUN,
    SETTINGS,
    SOURCE,
    SPECIFIC_UMAP,
    UMAP,
)
from nvae_bio.schema.slot import ANY, EFFECT_UNIT, Kind, Slot, at, obs, obsm


def _query(key: str, meaning: str, shape: str = "", columns: tuple[str, ...] = ()) -> Slot:
    return Slot("uns", f"{schema.QUERY}/{key}", shape, meaning, columns=columns)


FOUND = (
    *(
        replace(slot, meaning=slot.meaning.replace(OWN_BLOCK, "the likeliest class's"))
        for slot in LATENTS
    ),
    obsm(schema.CLASS_PROBABILITY, "C", 'calibrated p(y|x); columns in the order of `uns["nvae"]["classes"]`'),
    obs(schema.PREDICTED, "likeliest class"),
    obs(schema.CONFIDENCE, "calibrated probability of the likeliest class"),
    obs(schema.ELBO, "bound on log p(x|y) of what was measured, of the likeliest class", "nats"),
    obsm(schema.BOUND, "C", "bound on log p(x|y) of what was measured, of every class", "nats"),
    obs(
        schema.CLASS_SET, "the classes that a sample may be of (` | ` between them), which miss its class at most with "
        "`error`; empty: of none",
    ),
    obs(schema.CLASS_SET_SIZE, "how many classes a sample may be of"),
    obsm(schema.CLASS_P, "C", "of the reference samples of each class, the share that is no likelier to be of it"),
    obs(schema.NOVELTY, "how strange a sample is, larger the stranger: −Σ log p over three ways"),
    obs(schema.NOVELTY_P, "share of reference samples as strange"),
    obs(schema.NOVEL, "whether `nvae_novelty_p` is at most `novelty_level`"),
    Slot(
        "obsm", schema.STRANGENESS, "n, 3",
        "the ways in which a sample can be strange, each larger the stranger, in SD of reference samples",
        columns=(
            "misfit: the bound is low for a sample of the likeliest class and depth",
            "distance: with its like, from the nearest class", "isolation: with its like, from all training samples",
        ),
    ),
    _query("settings", "settings of the query (JSON)"),
    _query("coverage", "share of the model's features that were measured, weighted by their counts"),
    _query("n_measured", "features of the model that were measured"),
    _query("n_extra", "features of the samples that the model does not know"),
    _query("lacking", "features of the model that lack, the weightiest first, 1,000 at most", ANY),
    _query("has_rest", "whether genes outside the model were counted as usual"),
    _query("n_reference", "reference samples"),
    _query("n_novel", "samples that are novel"),
    _query("posterior_classifier", "weight of the classifier in p(y|x)"),
    _query("posterior_bound", "weight of the bound in p(y|x)"),
    _query("posterior_intercept", "what is added for each class", "C"),
    _query("removed", "a row a filter: what it removed, and what was left", columns=REMOVED),
    *provenance(*OF_MODEL),
)  # fmt: skip
MAPPED = Kind(
    "query", SAMPLES, FEATURES,
    (
        Slot("X", "", "n, G", "as in the prepared file; 0 where not measured"),
        obs(schema.LABEL, "class; missing where the source has none"),
        obs(schema.SPLIT, "`test`, for none of the samples trained"),
        obs(schema.LIBRARY, "all counts of the cell; of the model's genes where `has_rest` is false", "counts", COUNTS),
        obs(schema.N_GENES, "detected genes", when=COUNTS),
        obs(schema.MITO_SHARE, "mitochondrial share of the counts; NaN without such genes", when=COUNTS),
        BATCH, DONOR, CONDITION, replace(COVARIATE, meaning="covariates of the decoder; missing where unknown"),
        OTHER_OBS, *PLACES, KIND, SOURCE, SETTINGS, *FOUND,
    ),
)  # fmt: skip


def _layer(key: str, meaning: str, unit: str = "") -> Slot:
    return Slot("layers", key, "n, G", meaning, unit)


CHANGED = Kind(
    "counterfactuals", SAMPLES, FEATURES,
    (
        Slot("X", "", "n, G", "mean over draws of the decoded means after the change; NaN where refused"),
        _layer(schema.LOWER, "lower end of the interval of X over draws of z, not over seeds"),
        _layer(schema.UPPER, "upper end of that interval"),
        _layer(schema.FACTUAL, "mean over draws of the decoded means before the change"),
        _layer(schema.EFFECT, "what the change does", EFFECT_UNIT),
        _layer(f"{schema.EFFECT}_{schema.LOWER}", "lower end of the interval of the effect over draws", EFFECT_UNIT),
        _layer(f"{schema.EFFECT}_{schema.UPPER}", "upper end of that interval", EFFECT_UNIT),
        obsm(schema.LATENT, "S + K", "latent after the change: z_s, and the own block", "prior SD"),
        obs(schema.LABEL, "class before the change"),
        obs(schema.AS_CLASS, "class after the change"),
        obs(schema.SUPPORT_P, "share of the class's training samples that lie as far out"),
        obs(schema.IS_SUPPORTED, "whether `support_p` is above `support_level`; refused where not"),
        Slot("uns", f"{schema.COUNTERFACTUAL}/settings", "", "settings of the change (JSON)"),
        Slot("uns", f"{schema.COUNTERFACTUAL}/n_refused", "", "samples that are refused"),
        *provenance(*OF_MODEL, "image_shape", when={"image_shape": IMAGES}),
    ),
    inherited=tuple(slot for slot in at("obs", PREPARED.slots) + PLACES if slot.key != schema.LABEL),
)  # fmt: skip

EXPLORER = Kind(
    "explorer", SAMPLES, FEATURES,
    (
        Slot("X", "", "n, G", "log1p(10,000 · count / library), CSC float32; pixels and features as they are"),
        Slot("raw", "", "n, G", "the counts, CSR", when=COUNTS),
        obs("factor {name}", "consensus score of each published factor, NaN where the class cannot have it", "prior SD",
            "a factor report"),
        UMAP, SPECIFIC_UMAP,
        *(replace(slot, when="two dims or more") for slot in LATENTS if slot.key in (schema.SHARED, schema.JOINT)),
        Slot("uns", "title", "", "source of the data"),
        Slot("uns", f"{schema.LABEL}_colors", ANY, "colour of each class"),
        *provenance("version", "fingerprint", "kind", "variant", "seed"),
    ),
    inherited=at("obs", EMBEDDED.all_slots) + AUDIT_OF_RUN + PLACES,
)  # fmt: skip

REPORTED = "`tl.factors`"
NOTEBOOK = Kind(
    "notebook", SAMPLES, FEATURES,
    (
        *(replace(slot, when=REPORTED) for slot in SCORES_OF_RUN),
        Slot("uns", schema.FACTOR_COLUMNS, "F", "names of the factors, in the order of these columns", when=REPORTED),
        Slot("uns", schema.FACTOR_TABLE, "", "the report: a table as obs of `factors.h5ad`", when=REPORTED),
    ),
    inherited=EMBEDDED.slots,
)  # fmt: skip
NOTEBOOK_QUERY = Kind("notebook_query", SAMPLES, FEATURES, (), inherited=FOUND)
