"""The folders that a config's results lie in, one a line; one clear line and exit code 2 where the config is wrong.

python tools/results.py config/config.yaml
"""

from __future__ import annotations

import sys

from nvae_bio.config import load_config
from nvae_bio.errors import UserError


def main(path: str) -> int:
    """Print the folders; returns the exit code."""
    try:
        runs = load_config(path).runs
    except UserError as error:
        print(f"nvae-bio: {error}", file=sys.stderr)
        return 2
    print(*(f"  results/{name}/" for name in runs), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
