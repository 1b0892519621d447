"""The audit: samples whose label or content the model doubts, and why."""

from nvae_bio.audit.step import audit, audit_labels
from nvae_bio.audit.suspects import adjusted_bound, consensus_audit, suspect_table

__all__ = ["adjusted_bound", "audit", "audit_labels", "consensus_audit", "suspect_table"]
