"""From a source to a prepared file: read, check, filter, choose features, split."""

from nvae_bio.prepare.classes import settled_labels
from nvae_bio.prepare.genes import MITO_SHARE, N_GENES, cell_quality
from nvae_bio.prepare.record import make_obs
from nvae_bio.prepare.scaling import MEAN, STD, read_size_factors, size_factor_scale
from nvae_bio.prepare.step import known_keys, prepare, prepare_data

__all__ = [
    "MEAN",
    "MITO_SHARE",
    "N_GENES",
    "STD",
    "cell_quality",
    "known_keys",
    "make_obs",
    "prepare",
    "prepare_data",
    "read_size_factors",
    "settled_labels",
    "size_factor_scale",
]
