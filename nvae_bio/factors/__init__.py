"""The detector: usage map, null, decisions, and the factor report that several seeds agree on."""
