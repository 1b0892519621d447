"""Sphinx builds the site from this folder: `make docs`; the pages' code cells run while it is built."""

import sys
from hashlib import sha256
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nvae_bio import __version__  # noqa: E402


def _of_package() -> str:
    """What the package's code hashes to."""
    files = sorted((ROOT / "nvae_bio").rglob("*.py"))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


default_role = "code"  # of single backticks in docstrings
project = "nvae-bio"
author = "The nvae-bio authors"
copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"nvae-bio {release}"
html_static_path = ["_static"]
html_css_files = ["notebook.css"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 4
nb_execution_mode = "cache"  # a cell runs again where its page or the package changed
nb_execution_cache_path = str(ROOT / "docs" / "_build" / f".jupyter_cache-{_of_package()}")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False  # our "Returns" say what, with shapes; types are in the signature
suppress_warnings = ["mystnb.unknown_mime_type"]  # of progress bars

# files outside of this folder that pages of the repository link to, and where the site has them
OUTSIDE = {"../config/README.md": "config.md", "../../config/README.md": "../config.md"}


def _link_inside(app: Sphinx, name: str, source: list[str]) -> None:
    for outside, inside in OUTSIDE.items():
        source[0] = source[0].replace(f"]({outside}", f"]({inside}")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _link_inside)
