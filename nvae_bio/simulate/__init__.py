"""Data sets of which the truth is known: real ones, with variation planted in them."""

from nvae_bio.simulate.counts import simulate_counts
from nvae_bio.simulate.images import simulate_images
from nvae_bio.simulate.step import simulate

__all__ = ["simulate", "simulate_counts", "simulate_images"]
