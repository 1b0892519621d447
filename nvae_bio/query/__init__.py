"""Step: place new samples in a trained model: latents, classes with their certainty, novelty."""

from nvae_bio.query.adapt import adapt_model
from nvae_bio.query.certainty import conformal_p
from nvae_bio.query.read import Query, read_query, reference_query
from nvae_bio.query.step import SEPARATOR, map_query, place_query, query, reference_parts

__all__ = [
    "SEPARATOR",
    "Query",
    "adapt_model",
    "conformal_p",
    "map_query",
    "place_query",
    "query",
    "read_query",
    "reference_parts",
    "reference_query",
]
