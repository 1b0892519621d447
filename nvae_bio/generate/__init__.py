"""Samples that a trained model makes (the verb `generate`, the rule `generate_samples`)."""

from nvae_bio.generate.draw import MEAN, generate_samples, take_after, traverse_factors
from nvae_bio.generate.real import interpolate_samples, swap_classes
from nvae_bio.generate.step import generate

__all__ = [
    "MEAN",
    "generate",
    "generate_samples",
    "interpolate_samples",
    "swap_classes",
    "take_after",
    "traverse_factors",
]
