"""A commented config for the user's own files (verb `init`)."""

from nvae_bio.init.step import init, propose_config

__all__ = ["init", "propose_config"]
