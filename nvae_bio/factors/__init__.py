"""The detector: usage map, null, decisions, readings, and the factor report."""

from nvae_bio.factors.null import draw_null, null, refit_null
from nvae_bio.factors.report import factor_table, factors, report_factors

__all__ = ["draw_null", "factor_table", "factors", "null", "refit_null", "report_factors"]
