"""Scores of runs and of other methods beside them, and the studies that gather them."""

from nvae_bio.evaluate.baselines import baseline
from nvae_bio.evaluate.embeddings import embed_baseline
from nvae_bio.evaluate.peers import peer
from nvae_bio.evaluate.step import ScoredRun, evaluate
from nvae_bio.evaluate.study import study

__all__ = ["ScoredRun", "baseline", "embed_baseline", "evaluate", "peer", "study"]
