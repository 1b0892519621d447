"""The step: look into files, decide what can be decided, and write a config that says the rest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nvae_bio.config import WorkflowSettings, load_config
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.look_files import check_there, look_at, sources_in
from nvae_bio.errors import UserError
from nvae_bio.init.propose import Proposal, propose
from nvae_bio.init.render import render

logger = logging.getLogger(__name__)


def propose_config(paths: Sequence[Path | str], output: str = "config.yaml") -> tuple[str, Proposal]:
    """A commented config for files of one data set, as text, and what it was made from.

    Args:
        paths: files or folders that readers take; a folder of such files stands for those in it.
        output: what the file will be called, for the commands that its first lines name.

    Returns:
        YAML that `load_config` reads, and the proposal.

    Raises:
        UserError: nothing that can be read, or files that do not belong together.
    """
    sources = sources_in([Path(path) for path in paths])
    if not sources:
        raise UserError("init: no file; name the files or the folder of a data set")
    proposal = propose([look_at(path) for path in sources])
    return render(proposal, output), proposal


def init(paths: Sequence[Path], output: Path, force: bool = False) -> Proposal:
    """Write a commented config for files of one data set, whole or not at all.

    Args:
        paths: as of `propose_config`.
        output: config to write.
        force: write over a file that is there.

    Returns:
        What was seen and decided.

    Raises:
        UserError: as `propose_config`; or `output` is there already.
    """
    for path in paths:
        check_there(path)
    if output.exists() and not force:
        raise UserError(f"{output}: is there already; --force writes over it, or name another --output")
    text, proposal = propose_config(paths, str(output))
    with atomic_path(output) as part:
        part.write_text(text, encoding="utf-8")
        settings: WorkflowSettings = load_config(part)  # what is written can be read, or nothing is
    assert proposal.name in settings.runs
    return proposal
