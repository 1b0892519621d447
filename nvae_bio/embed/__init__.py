"""Both embeddings of every sample, and what each factor does to each feature (verb `embed`, rule `embed_data`)."""

from nvae_bio.embed.effects import EFFECT_LIBRARY, EFFECT_SD, Effects, class_effects, decoded_effects
from nvae_bio.embed.encode import GAIN_DRAWS, Encoded, encode, shared_gain
from nvae_bio.embed.step import embed, embed_data, latent_tables, provenance

__all__ = [
    "EFFECT_LIBRARY",
    "EFFECT_SD",
    "GAIN_DRAWS",
    "Effects",
    "Encoded",
    "class_effects",
    "decoded_effects",
    "embed",
    "embed_data",
    "encode",
    "latent_tables",
    "provenance",
    "shared_gain",
]
