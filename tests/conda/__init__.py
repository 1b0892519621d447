"""Test support: conda environments made for real, without any conda channel (a local channel and a stand-in conda)."""

import shlex
import sys
from pathlib import Path

from .make_channel import make_channel

LAUNCHER = '#!/bin/sh\nexec {python} {program} {root} "$@"\n'

ACTIVATE = """\
# To be sourced by bash: puts the environment $1 first on the path.
export CONDA_PREFIX="$1" CONDA_DEFAULT_ENV="$1" PATH="$1/bin:$PATH"
"""


def install_conda(root: Path) -> None:
    """Make a conda installation in `root`: the channel, and the two programs in `bin` that Snakemake looks for."""
    make_channel(root / "channel")
    program = Path(__file__).with_name("stand_in.py")
    words = {"python": sys.executable, "program": str(program), "root": str(root)}
    (root / "bin").mkdir()
    (root / "bin" / "conda").write_text(LAUNCHER.format(**{name: shlex.quote(word) for name, word in words.items()}))
    (root / "bin" / "conda").chmod(0o755)
    (root / "bin" / "activate").write_text(ACTIVATE)
