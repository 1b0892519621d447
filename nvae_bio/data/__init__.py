"""Samples on their way into a model: readers, files, batches. Nothing here knows a network."""
