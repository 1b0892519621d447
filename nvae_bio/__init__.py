"""nvae-bio."""
