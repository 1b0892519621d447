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
GAIN = "nvae_gain_specific"  # what the own block (obs) and each of its dims (obsm) add to the bound, nats
KL_PRIVATE = "nvae_kl_private"  # per-sample KL of each private dim, blocks in class order, nats
UMAP = "X_umap"  # of the shared embedding
SPECIFIC_UMAP = "X_nvae_specific_umap"
EFFECT_SHARED = "nvae_effect_shared"
MODEL = "nvae"  # uns: version, settings, classes, seed, data fingerprint

# factors
KL_BY_CLASS = "kl_by_class"
KL_BY_CLASS_LOWER = "kl_by_class_lower"
KL_BY_CLASS_UPPER = "kl_by_class_upper"
Q_BY_CLASS = "q_by_class"  # of a private factor in its own class, of a shared one in each
TESTS = "tests"  # in uns["nvae"]: a table of everything that was tested
EFFECT_LOWER = "effect_lower"
EFFECT_UPPER = "effect_upper"


def effect_class(index: int) -> str:
    """varm key of the effects of class number `index` of `uns["nvae"]["classes"]`.

    >>> effect_class(3)
    'nvae_effect_class_3'
    """
    return f"nvae_effect_class_{index}"
