"""Files whose rows are samples: prepared, embedded, scored, mapped."""

from __future__ import annotations

from dataclasses import replace

from nvae_bio import schema
from nvae_bio.schema.provenance import OF_MODEL, provenance
from nvae_bio.schema.slot import EFFECT_UNIT, Kind, Slot, at, obs, obsm, var

COUNTS, IMAGES = "counts", "images"  # in `when`: of data of this kind alone
BLOCKS = "K > 0"
SAMPLES, FEATURES = "samples", "features"
REMOVED = ("step", "what", "reason", "n_removed", "n_left")


def _data(key: str, shape: str, meaning: str, when: str = "", columns: tuple[str, ...] = ()) -> Slot:
    return Slot("uns", f"{schema.DATA}/{key}", shape, meaning, when=when, columns=columns)


KIND = _data("kind", "", "counts, images or features")
SOURCE = _data("source", "…", "files or name of the source")
SETTINGS = _data("settings", "", "settings of the data set (JSON)")
OTHER_OBS = obs(
    "{column}", "columns of the source, as they were; `source_{column}` where that name is taken",
    when="the source has any",
)  # fmt: skip
PLACES = (
    var(schema.CHANNEL, "place of the pixel: channel", when=IMAGES),
    var(schema.ROW, "place of the pixel: row", when=IMAGES),
    var(schema.COLUMN, "place of the pixel: column", when=IMAGES),
    var(schema.FEATURE_MEAN, "mean over training samples, before standardising", when="`standardize`"),
    var(schema.FEATURE_STD, "standard deviation over training samples, before standardising", when="`standardize`"),
    var("{column}", "columns of the source", when="the source has any"),
)  # fmt: skip
BATCH = obs(schema.BATCH, "batch, which the decoder is told", when="`batch_key`, or several files")
DONOR = obs(schema.DONOR, "donor, the unit of resampling", when="`donor_key`")
CONDITION = obs(schema.CONDITION, "condition, by which figures are coloured", when="`condition_key`")
COVARIATE = obs(
    "{covariate}",
    "covariates of the decoder: text (categorical) or float64, under their own names; `source_{covariate}` where that "
    "name is taken",
    when="they are named",
)

PREPARED = Kind(
    "prepared", SAMPLES, FEATURES,
    (
        Slot("X", "", "n, G", "raw counts (CSR), pixels in [0, 1] (one column a pixel), or features"),
        obs(schema.LABEL, "class; missing where unlabeled"),
        obs(schema.SPLIT, "train, validation or test; choices are made on validation, factors are judged on test"),
        obs(schema.FOLD, "group fold of the donor", when="`split.by: donor`"),
        obs(schema.LIBRARY, "all counts of the cell before any choice of genes", "counts", COUNTS),
        obs(schema.SIZE_FACTOR, "size factor of the cell", "on the scale of the library", "`size_factor_key`"),
        obs(schema.N_GENES, "detected genes", when=COUNTS),
        obs(schema.MITO_SHARE, "mitochondrial share of the counts, 0 to 1", when="mitochondrial genes"),
        BATCH, DONOR, CONDITION, COVARIATE,
        obs(schema.SOURCE_SPLIT, "the split that the source itself came with", when="files of MNIST and MedMNIST"),
        OTHER_OBS, *PLACES, KIND, SOURCE, SETTINGS,
        _data("fingerprint", "", "sha256 of values, names, labels, splits, libraries and covariates"),
        _data("classes", "C", "names of the classes"),
        _data("removed", "", "a row a filter: what it removed, and what was left", columns=REMOVED),
        _data(
            schema.COVARIATES, "", "what the decoder may be told, the batch first", "there are any",
            ("column: of obs", "kind: categorical or continuous"),
        ),
        _data(
            "qc", "", "a row a cell before quality control, 20,000 at most", COUNTS,
            ("n_genes", "n_counts", "mito_share: NaN without such genes", "kept"),
        ),
        _data("image_shape", "3", "channels, rows and columns of a picture", IMAGES),
    ),
)  # fmt: skip

OWN_BLOCK = "its label's; the predicted class's where unlabeled"
LATENTS = (
    obsm(schema.SHARED, "S", "posterior mean of z_s: the class-shared embedding", "prior SD"),
    obsm(
        schema.SPECIFIC, "K",
        f"posterior mean of the sample's own block ({OWN_BLOCK}). Axes of different classes are unrelated: plot one "
        "class at a time", "prior SD",
    ),
    obsm(
        schema.JOINT, "S + C·K", "z_s beside the blocks, all but the own one at 0; it separates the classes by "
        "construction", "prior SD",
    ),
    obsm(schema.SHARED_STD, "S", "posterior standard deviation of z_s", "prior SD"),
    obsm(schema.SPECIFIC_STD, "K", "posterior standard deviation of the own block", "prior SD"),
    obsm(schema.KL_SHARED, "S", "KL of each dim of z_s for each sample", "nats"),
    obsm(schema.KL_PRIVATE, "C·K", "KL of each dim of each block for each sample, blocks in class order", "nats"),
)  # fmt: skip
UMAP = obsm(
    schema.UMAP, "2", "UMAP of the shared embedding; NaN for samples beyond `umap_max_samples`",
    when="`embedding.umap`",
)  # fmt: skip
SPECIFIC_UMAP = obsm(
    schema.SPECIFIC_UMAP, "2", "UMAP of the specific embedding, class by class", when="`embedding.umap`, K > 2"
)


def _effects(key: str, width: str, meaning: str) -> tuple[Slot, ...]:
    """With the ends of the interval."""
    ends = {"": "", "_lower": ": lower end of its 95 % interval over samples", "_upper": ": upper end of it"}
    return tuple(Slot("varm", key + end, f"G, {width}", meaning + said, EFFECT_UNIT) for end, said in ends.items())


EMBEDDED = Kind(
    "embedded", SAMPLES, FEATURES,
    (
        *LATENTS,
        obsm(
            schema.CLASS_PROBABILITY, "C",
            'q(y|x), calibrated by temperature (`uns["nvae"]["calibrated"]`); columns in the order of '
            '`uns["nvae"]["classes"]`',
        ),
        obs(schema.PREDICTED, "likeliest class by q(y|x)"),
        obs(schema.CONFIDENCE, "calibrated probability of the likeliest class"),
        obs(schema.ELBO, "bound on log p(x|y); with `cross_entropy` a score that bounds nothing", "nats"),
        obs(
            schema.GAIN, "what the sample's own block adds to the bound on log p(x|y); below 0 where it holds nothing "
            "of the sample", "nats", BLOCKS,
        ),
        obsm(schema.GAIN, "K", "what each dim of the own block adds to the bound on log p(x|y)", "nats"),
        obsm(
            schema.GAIN_SHARED, "S", "what each dim of z_s adds to the bound on log p(x|y); NaN in training and "
            "unlabeled samples", "nats",
        ),
        UMAP, SPECIFIC_UMAP,
        *_effects(
            schema.EFFECT_SHARED, "S",
            "what each shared factor does to each feature: change of the decoded mean as it moves from −2 to +2 SD, "
            "mean over classes",
        ),
        *_effects(
            schema.effect_shared_class("{i}"), "S",
            "what each shared factor does in class i; classes without samples are left out",
        ),
        *_effects(schema.effect_class("{i}"), "K", "what each private factor of class i does"),
        *provenance(*OF_MODEL),
    ),
    inherited=PREPARED.slots,
)  # fmt: skip

AUDITED = {  # name of a column of the audit: meaning, unit, where it is there
    "bound_own": ("bound on log p(x|own class)", "nats", ""),
    "bound_class": ("class with the highest bound + log p(y)", "", ""),
    "bound_best": ("bound on log p(x|y) of the class with the highest bound + log p(y)", "nats", ""),
    "log_odds": ("log odds of the best other class against the own, log p(y) included", "nats", ""),
    "classifier_class": ("likeliest class by q(y|x)", "", ""),
    "classifier_probability": ("calibrated probability of the likeliest class by q(y|x)", "", ""),
    "borrowed_from": ("class whose block adds most to the bound beside the own one", "", BLOCKS),
    "borrowed_gain": ("what the block of that class adds to the bound", "nats", BLOCKS),
    "doublet_with": ("class of the likeliest second cell", "", COUNTS),
    "doublet_gain": ("log p(x) as two cells, less that as one", "nats", COUNTS),
    "unlike": ("share of the training samples of its best class that fit as badly, at their depth", "", ""),
    "suspicion": (
        "`doublet`, `mislabel`, `borrowed`, `unlike every class`, `classifier disagrees`, or empty for none", "", ""
    ),
}  # fmt: skip
WORDS = ("bound_class", "classifier_class", "borrowed_from", "doublet_with", "suspicion")


def _over_seeds(name: str) -> Slot:
    meaning, unit, when = AUDITED[name]
    how = "most common over seeds" if name in WORDS else "mean over seeds"
    return obs(f"nvae_{name}", f"{meaning}; {how}", unit, f"the audit; {when}" if when else "the audit")


AUDIT_OF_RUN = (
    *(_over_seeds(name) for name in AUDITED),
    obs("nvae_n_seeds", "seeds that suspect the sample; more than half of them make a suspicion", when="the audit"),
)
SCORES_OF_RUN = (
    obsm(
        schema.FACTORS, "F", "score on each factor, mean over seeds; NaN where the class cannot have it; columns in "
        '`uns["nvae"]["factors"]`', "prior SD",
    ),
    obsm(
        schema.FACTORS_STD, "F", "standard deviation over seeds of these scores; NaN where one seed alone found the "
        "factor", "prior SD",
    ),
)  # fmt: skip
OF_FIRST_SEED = tuple(replace(slot, meaning=f"of the first seed: {slot.meaning}") for slot in at("obs", EMBEDDED.slots))
SCORES = Kind(
    "scores", SAMPLES, FEATURES,
    (
        *SCORES_OF_RUN,
        obsm(schema.UMAP, "2", "UMAP of the first seed's shared embedding", when="`embedding.umap`"),
        *OF_FIRST_SEED, *AUDIT_OF_RUN,
        *provenance("version", "classes", "fingerprint", "kind", "variant", schema.FACTOR_NAMES),
    ),
    inherited=PREPARED.slots,
)  # fmt: skip
