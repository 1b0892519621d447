"""`python -m nvae_bio`: the command line without an installed console script."""

import sys

from nvae_bio.cli import main

if __name__ == "__main__":
    sys.exit(main())
