"""The command line: one command a step; it parses, calls one function and maps errors to exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import click

from nvae_bio.cli import drawing, report, steps, studies  # noqa: F401 (their commands join the group)
from nvae_bio.cli.base import cli
from nvae_bio.errors import Interrupted, UserError

__all__ = ["cli", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0; 2 with one line on standard error for bad input; 75 where a signal stopped a training that can go on; 130 for
    SIGINT.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("nvae_bio").setLevel(logging.INFO)
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="nvae-bio", standalone_mode=False)
    except UserError as error:
        print(f"nvae-bio: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"nvae-bio: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"nvae-bio: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except click.Abort:  # what click makes of SIGINT
        return 130
    except OSError as error:
        if error.filename is None:
            raise
        print(f"nvae-bio: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0
