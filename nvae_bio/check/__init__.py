"""A config and its data looked at before any run, with estimates of memory and time (verb `check`)."""

from nvae_bio.check.step import Checked, check

__all__ = ["Checked", "check"]
