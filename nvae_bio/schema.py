"""The names of everything that nvae-bio reads and writes in AnnData: spelled once, here.

`prepared` files (one a data set) hold the first group, `embedded` files (one a seed) a group on top of it, and
`factors` files (one a run) the last, in which obs are factors and var are features. A simulation has its own group.
"""

from __future__ import annotations

# prepared: obs
LABEL = "label"  # class of the sample; missing where unlabeled
SPLIT = "split"  # train, validation or test
FOLD = "fold"  # group fold of the donor, where the data set is split by donor
LIBRARY = "library"  # all counts of the cell, before gene selection
SIZE_FACTOR = "size_factor"  # of the cell, as the source has it, on the scale of the library
BATCH = "batch"
DONOR = "donor"
CONDITION = "condition"
SOURCE_SPLIT = "source_split"  # the split that the source itself came with
SPLITS = ("train", "validation", "test")
RESERVED_OBS = (LABEL, SPLIT, FOLD, LIBRARY, SIZE_FACTOR, BATCH, DONOR, CONDITION)

# prepared: var of images
CHANNEL, ROW, COLUMN = "channel", "row", "column"

# prepared: uns
DATA = "nvae_data"  # kind, source, fingerprint, what was removed and why
COVARIATES = "covariates"  # in it: a table of what a model may be told besides the class: column of obs, kind

# simulated, and the truth beside it
SIMULATION = "nvae_simulation"  # uns of the data: where they come from
TRUTH = "nvae_truth"  # uns of the truth: settings, classes, what is planted and in which class
ACTIVITY = "activity"  # obsm of the truth: of everything planted, in each sample
LOG_FOLD_CHANGE = "log_fold_change"  # varm of the truth: of each gene by each programme, at activity 1

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
KL_SHARED = "nvae_kl_shared"  # per-sample KL of each shared dim, nats
GAIN_SHARED = "nvae_gain_shared"  # what each dim of z_s adds to the bound, nats; held-out samples alone, else NaN
GAIN = "nvae_gain_specific"  # what the own block (obs) and each of its dims (obsm) add to the bound, nats
KL_PRIVATE = "nvae_kl_private"  # per-sample KL of each private dim, blocks in class order, nats
UMAP = "X_umap"  # of the shared embedding
SPECIFIC_UMAP = "X_nvae_specific_umap"
EFFECT_SHARED = "nvae_effect_shared"
MODEL = "nvae"  # uns: version, settings, classes, seed, data fingerprint

# mapped by a query, beside the keys of `embedded`
QUERY = "nvae_query"  # uns: what was measured, what it is held against, how many are novel
CLASS_SET = "nvae_set"  # classes that a sample may be of at `error`, " | " between them; empty: of none
CLASS_SET_SIZE = "nvae_set_size"
CLASS_P = "nvae_class_p"  # obsm: share of the class's reference samples that are no likelier to be of it
BOUND = "nvae_bound"  # obsm: bound on log p(x|y) of what was measured, for every class, nats
NOVELTY = "nvae_novelty"  # how strange a sample is, larger the stranger
NOVELTY_P = "nvae_novelty_p"  # share of the reference samples that are as strange
NOVEL = "nvae_novel"  # whether that is at most `novelty_level`
STRANGENESS = "nvae_strangeness"  # obsm, a table: the ways in which it is strange

COUNTERFACTUAL = "nvae_counterfactual"  # uns: settings, how many samples were refused

# embedded, of a run: consensus over seeds
FACTORS = "X_nvae_factors"  # score of each sample on each factor, NaN where its class cannot have it
FACTORS_STD = "nvae_factors_std"  # its standard deviation over seeds
FACTOR_NAMES = "factors"  # in uns["nvae"]: the columns of both
FACTOR_TABLE = "nvae_factors"  # uns of samples in a notebook: the report as a table
FACTOR_COLUMNS = "nvae_factor_names"  # uns there: the columns of FACTORS

# factors
KL_BY_CLASS = "kl_by_class"
KL_BY_CLASS_LOWER = "kl_by_class_lower"
KL_BY_CLASS_UPPER = "kl_by_class_upper"
Q_BY_CLASS = "q_by_class"  # of a private factor in its own class, of a shared one in each
LOSS_BY_CLASS = "loss_by_class"  # log-likelihood of held-out samples lost without the factor, nats a sample
LOSS_BY_CLASS_LOWER = "loss_by_class_lower"
LOSS_BY_CLASS_UPPER = "loss_by_class_upper"
AGREEMENT_BY_CLASS = "agreement_by_class"  # cos of the effect in a class with that in the other classes that agree
OUTCOME_BY_CLASS = "outcome_by_class"  # a table: active, inactive or under-powered
PRIVATE_TO = "private_to"  # whether a class has the factor for itself, or with few others
GAIN_BY_CLASS = "gain_by_class"  # what a shared dim adds to the bound of held-out samples above chance, nats
SPREAD_BY_CLASS = "spread_by_class"  # of a shared factor: its variance within the class, prior variances
MEMBERS = "members"  # tables in uns["nvae"]: what each consensus factor is made of, seed by seed
ASSOCIATIONS = "associations"  # with columns of obs
ENRICHMENT = "enrichment"  # of gene sets among the top genes
LEAKAGE = "leakage"  # what probes read off the latents
UNDER_POWERED = "under_powered"  # names of the classes in which no private factor could be told from none
CAPACITY = "capacity"  # how many private factors each class has
POWER = "power"  # how often planted programmes are found
POWER_SETTINGS = "power_settings"  # what was planted, and how often is enough, as JSON
SUSPECTS = "suspects"  # samples whose label or content the model doubts
NULL = "null"  # values of the refits that the tests compare with
TESTS = "tests"  # in uns["nvae"]: a table of everything that was tested
EFFECT_LOWER = "effect_lower"
EFFECT_UPPER = "effect_upper"


def effect_shared_class(index: int) -> str:
    """varm key of the effects of the shared factors in class number `index` of `uns["nvae"]["classes"]`.

    >>> effect_shared_class(3)
    'nvae_effect_shared_class_3'
    """
    return f"{EFFECT_SHARED}_class_{index}"


def effect_class(index: int) -> str:
    """varm key of the effects of class number `index` of `uns["nvae"]["classes"]`.

    >>> effect_class(3)
    'nvae_effect_class_3'
    """
    return f"nvae_effect_class_{index}"
