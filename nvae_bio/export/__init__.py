"""A run for other programs: tables, a file for the CELLxGENE explorer, a card of each model (verb `export`)."""

from nvae_bio.export.card import describe_model
from nvae_bio.export.explorer import explorer_data
from nvae_bio.export.step import export, export_card
from nvae_bio.export.tables import export_tables

__all__ = ["describe_model", "explorer_data", "export", "export_card", "export_tables"]
