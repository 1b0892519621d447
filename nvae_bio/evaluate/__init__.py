"""Scores of runs whose answer is known, and the studies that gather them."""

from nvae_bio.evaluate.step import evaluate
from nvae_bio.evaluate.study import study

__all__ = ["evaluate", "study"]
