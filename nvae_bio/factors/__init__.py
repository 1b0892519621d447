"""The detector: usage map, null, decisions, readings, and the factor report."""

from nvae_bio.factors.null import null, null_drawer, refit_null
from nvae_bio.factors.report import factor_table, factors, report_factors

__all__ = ["factor_table", "factors", "null", "null_drawer", "refit_null", "report_factors"]
