"""Data sets of which the truth is known: real ones, with variation planted in them."""

from nvae_bio.simulate.counts import simulate_counts
from nvae_bio.simulate.images import simulate_images
from nvae_bio.simulate.sounds import audio_features, simulate_sounds
from nvae_bio.simulate.step import simulate

__all__ = ["audio_features", "simulate", "simulate_counts", "simulate_images", "simulate_sounds"]
