"""The step: read the files of a run, write its page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nvae_bio.card import load_card
from nvae_bio.config import PageSettings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import read_embedded, read_factors, read_generated, read_prepared, read_scores, read_table
from nvae_bio.errors import UserError
from nvae_bio.page.build import build_page
from nvae_bio.page.results import RunResults

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFiles:
    """Files of a run.

    Attributes:
        data: prepared, .h5ad.
        report: what the seeds agree on, factors.h5ad.
        scores: samples with consensus scores, embedded.h5ad of the run.
        embedded: the samples as one seed embeds them, .h5ad.
        cards: of the models, .json, a seed each.
        histories: of their trainings, .parquet, in the same order.
        evaluation: scores of the run, .csv; None for none.
        generated: of images, .h5ad by name: samples, traversals, interpolations, swaps.
    """

    data: Path
    report: Path
    scores: Path
    embedded: Path
    cards: Sequence[Path]
    histories: Sequence[Path]
    evaluation: Path | None = None
    generated: Mapping[str, Path] = field(default_factory=dict)


def page(files: RunFiles, output: Path, settings: PageSettings | None = None, name: str | None = None) -> None:
    """Read the files of a run and write its page.

    Args:
        files: of the run.
        output: .html to write, whole or not at all.
        settings: how much the page holds; the defaults if None.
        name: of the run; that of the report's folder if None.

    Raises:
        UserError: a file that cannot be read, is not what it should be, or is of another run; an output that is read.
    """
    _check_paths(files, output)
    results = RunResults(
        prepared=read_prepared(files.data),
        factors=read_factors(files.report),
        scores=read_embedded(files.scores),
        embedded=read_embedded(files.embedded),
        cards=[load_card(path) for path in files.cards],
        histories=[read_table(path) for path in files.histories],
        evaluation=None if files.evaluation is None else read_scores([files.evaluation]),
        generated={name: read_generated(path, images_only=True) for name, path in files.generated.items()},
    )
    text = build_page(results, settings, name or files.report.resolve().parent.name)
    with atomic_path(output) as part:
        part.write_text(text, encoding="utf-8")
    logger.info("%s: %.1f MB", output, len(text.encode()) / 1e6)


def _check_paths(files: RunFiles, output: Path) -> None:
    """Refuse an output that is an input.

    Raises:
        UserError: it is such.
    """
    read = [files.data, files.report, files.scores, files.embedded, *files.cards, *files.histories]
    read += [*([files.evaluation] if files.evaluation is not None else []), *files.generated.values()]
    if output.resolve() in {path.resolve() for path in read}:
        raise UserError(f"page: {output} is read too; give another file to write")
