"""Samples that a trained model makes (the verb `generate`, the rule `generate_samples`)."""

from nvae_bio.generate.draw import MEAN, generate_samples, take_after, training_rows, traverse_factors
from nvae_bio.generate.real import encoded_means, held_out_of_each, interpolate_samples, swap_classes
from nvae_bio.generate.step import generate

__all__ = [
    "MEAN",
    "encoded_means",
    "generate",
    "generate_samples",
    "held_out_of_each",
    "interpolate_samples",
    "swap_classes",
    "take_after",
    "training_rows",
    "traverse_factors",
]
