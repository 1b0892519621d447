"""The step `train`: the loop, and what surrounds it."""

from nvae_bio.train.checkpoint import SECONDS, Keeping, kept_in
from nvae_bio.train.step import train, train_model, train_models

__all__ = ["SECONDS", "Keeping", "kept_in", "train", "train_model", "train_models"]
