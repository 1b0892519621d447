"""The detector: usage map, null, decisions, and the factor report that several seeds agree on."""

from nvae_bio.factors.null import null, null_drawer, refit_null
from nvae_bio.factors.power import plant_and_find, power
from nvae_bio.factors.report import FactorReport, report_factors
from nvae_bio.factors.seeds import report_seeds
from nvae_bio.factors.step import Evidence, Written, factor_table, factors

__all__ = [
    "Evidence",
    "FactorReport",
    "Written",
    "factor_table",
    "factors",
    "null",
    "null_drawer",
    "plant_and_find",
    "power",
    "refit_null",
    "report_factors",
    "report_seeds",
]
