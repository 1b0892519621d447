"""In an installed wheel this is the folder `nvae_bio` beside the Snakefile: it leads to the installed package.

Jobs find the package by the folder of the Snakefile, in whatever environment they run. In site-packages itself they
would find all that is installed there, too.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_folder = Path(__file__).resolve().parents[2]
_spec = spec_from_file_location("nvae_bio", _folder / "__init__.py", submodule_search_locations=[str(_folder)])
assert _spec is not None and _spec.loader is not None
sys.modules["nvae_bio"] = _module = module_from_spec(_spec)
_spec.loader.exec_module(_module)
