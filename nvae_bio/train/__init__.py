"""The step `train`: the loop, and what surrounds it."""

from nvae_bio.train.step import train, train_model, train_models

__all__ = ["train", "train_model", "train_models"]
