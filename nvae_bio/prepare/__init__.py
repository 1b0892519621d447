"""From a source to a prepared file: read, check, filter, choose features, split."""

from nvae_bio.prepare.step import prepare, prepare_data

__all__ = ["prepare", "prepare_data"]
