"""The command line: one command a step; it parses, calls one function and maps errors to exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import click

from nvae_bio.cli import (  # noqa: F401 (their commands join the group)
    drawing,
    report,
    setup,
    sharing,
    steps,
    studies,
    whole,
)
from nvae_bio.cli.base import cli
from nvae_bio.errors import Interrupted, UserError, WorkflowFailed
from nvae_bio.guard import guarded

__all__ = ["cli", "main"]


# trainings answer signals, and come from torchrun; their data have checksums; `run` answers signals, and reads no data
UNGUARDED = ("train", "null", "power", "run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, as docs/cli.md lists them.

    0; 1 where a job of the workflow failed; 2 with one line on standard error for bad input, and where memory ends; 75
    where a signal stopped a training that can go on; 130 for SIGINT. What is called from a shell runs in a child
    process, for libraries may crash on a file.
    """
    if arguments is None and sys.argv[1:] and sys.argv[1] in {*cli.commands}.difference(UNGUARDED):
        return guarded(lambda: _run(sys.argv[1:]))
    return _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("nvae_bio").setLevel(logging.INFO)
    try:
        code = cli.main(args=arguments, prog_name="nvae-bio", standalone_mode=False)
    except UserError as error:
        print(f"nvae-bio: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"nvae-bio: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"nvae-bio: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except WorkflowFailed as error:
        print(f"nvae-bio: {error}", file=sys.stderr)
        return error.code
    except click.Abort:  # what click makes of SIGINT
        return 130
    except MemoryError as error:
        print(f"nvae-bio: out of memory ({' '.join(str(error).split()) or 'no more to be had'})", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"nvae-bio: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0  # of `context.exit`; commands return nothing
