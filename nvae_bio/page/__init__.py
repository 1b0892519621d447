"""The one-page report of a run (the verb `page`): one file that opens from a disk, without Python and a network."""

from nvae_bio.page.build import build_page
from nvae_bio.page.results import RunResults
from nvae_bio.page.step import page

__all__ = ["RunResults", "build_page", "page"]
