"""The names of everything that nvae-bio reads and writes in AnnData: spelled once, here.

What each key is, in which kind of file, of which shape and unit, stands beside them in `nvae_bio.schema.reference`.
"""

from __future__ import annotations

# prepared: obs
LABEL = "label"
SPLIT = "split"
FOLD = "fold"
LIBRARY = "library"
SIZE_FACTOR = "size_factor"
BATCH = "batch"
DONOR = "donor"
CONDITION = "condition"
SOURCE_SPLIT = "source_split"
N_GENES = "n_genes"
MITO_SHARE = "mito_share"
SPLITS = ("train", "validation", "test")
RESERVED_OBS = (LABEL, SPLIT, FOLD, LIBRARY, SIZE_FACTOR, BATCH, DONOR, CONDITION)

# prepared: var of images, and of features that were standardised
CHANNEL, ROW, COLUMN = "channel", "row", "column"
FEATURE_MEAN, FEATURE_STD = "mean", "std"

# prepared: uns, and a table in it
DATA = "nvae_data"
COVARIATES = "covariates"

# simulated, and the truth beside it
SIMULATION = "nvae_simulation"
TRUTH = "nvae_truth"
ACTIVITY = "activity"
LOG_FOLD_CHANGE = "log_fold_change"

# embedded
SHARED = "X_nvae_shared"
SPECIFIC = "X_nvae_specific"
JOINT = "X_nvae"
SHARED_STD = "nvae_shared_std"
SPECIFIC_STD = "nvae_specific_std"
CLASS_PROBABILITY = "nvae_class_probability"
PREDICTED = "nvae_label"
CONFIDENCE = "nvae_confidence"
ELBO = "nvae_elbo"
KL_SHARED = "nvae_kl_shared"
GAIN_SHARED = "nvae_gain_shared"
GAIN = "nvae_gain_specific"  # of the own block in obs, of each of its dims in obsm
KL_PRIVATE = "nvae_kl_private"
UMAP = "X_umap"
SPECIFIC_UMAP = "X_nvae_specific_umap"
EFFECT_SHARED = "nvae_effect_shared"
MODEL = "nvae"

# mapped by a query, beside keys of embedded
QUERY = "nvae_query"
CLASS_SET = "nvae_set"
CLASS_SET_SIZE = "nvae_set_size"
CLASS_P = "nvae_class_p"
BOUND = "nvae_bound"
NOVELTY = "nvae_novelty"
NOVELTY_P = "nvae_novelty_p"
NOVEL = "nvae_novel"
STRANGENESS = "nvae_strangeness"

# drawn
LATENT = "z"
MEAN = "mean"

# counterfactuals
COUNTERFACTUAL = "nvae_counterfactual"
AS_CLASS = "as_class"
SUPPORT_P = "support_p"
IS_SUPPORTED = "is_supported"
FACTUAL, LOWER, UPPER, EFFECT = "factual", "lower", "upper", "effect"

# embedded, of a run: consensus over seeds
FACTORS = "X_nvae_factors"
FACTORS_STD = "nvae_factors_std"
FACTOR_NAMES = "factors"
FACTOR_TABLE = "nvae_factors"
FACTOR_COLUMNS = "nvae_factor_names"

# factors
KL_BY_CLASS = "kl_by_class"
KL_BY_CLASS_LOWER = "kl_by_class_lower"
KL_BY_CLASS_UPPER = "kl_by_class_upper"
Q_BY_CLASS = "q_by_class"
LOSS_BY_CLASS = "loss_by_class"
LOSS_BY_CLASS_LOWER = "loss_by_class_lower"
LOSS_BY_CLASS_UPPER = "loss_by_class_upper"
AGREEMENT_BY_CLASS = "agreement_by_class"
OUTCOME_BY_CLASS = "outcome_by_class"
PRIVATE_TO = "private_to"
GAIN_BY_CLASS = "gain_by_class"
SPREAD_BY_CLASS = "spread_by_class"
MEMBERS = "members"
ASSOCIATIONS = "associations"
ENRICHMENT = "enrichment"
LEAKAGE = "leakage"
UNDER_POWERED = "under_powered"
CAPACITY = "capacity"
POWER = "power"
POWER_SETTINGS = "power_settings"
SUSPECTS = "suspects"
NULL = "null"
TESTS = "tests"
EFFECT_LOWER = "effect_lower"
EFFECT_UPPER = "effect_upper"


def effect_shared_class(index: int | str) -> str:
    """varm key of the effects of the shared factors in class number `index` of `uns["nvae"]["classes"]`.

    >>> effect_shared_class(3)
    'nvae_effect_shared_class_3'
    """
    return f"{EFFECT_SHARED}_class_{index}"


def effect_class(index: int | str) -> str:
    """varm key of the effects of class number `index` of `uns["nvae"]["classes"]`.

    >>> effect_class(3)
    'nvae_effect_class_3'
    """
    return f"nvae_effect_class_{index}"
