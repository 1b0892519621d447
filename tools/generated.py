"""What the tools share that write files from the code or from tables: written, or compared with what is there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def write_or_check(made: Mapping[Path, str], program: str, *, check: bool) -> int:
    """Write the files that are not up to date, or name them.

    Args:
        made: what each file should hold.
        program: that writes them, for messages.
        check: write nothing.

    Returns:
        The exit code: 1 where `check` finds a file that is not up to date.
    """
    changed = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        if check:
            print(f"{path.name} is not up to date: run `python {program}`", file=sys.stderr)
        else:
            path.write_text(made[path], encoding="utf-8")
    return int(check and bool(changed))
