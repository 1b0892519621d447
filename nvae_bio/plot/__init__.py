"""Figures from tables (the verb `plot`): each function takes a table or AnnData and returns a matplotlib Figure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from anndata import AnnData
from matplotlib.figure import Figure

from nvae_bio.data.files import read_embedded, read_generated, read_prepared, read_report, read_table
from nvae_bio.errors import UserError
from nvae_bio.plot.data import plot_data
from nvae_bio.plot.embedding import plot_shared_embedding, plot_specific_embedding
from nvae_bio.plot.factors import plot_private_kl, plot_shared_kl, plot_top_features
from nvae_bio.plot.images import plot_private_traversals, plot_samples, plot_shared_traversals
from nvae_bio.plot.style import house_style, save_figure
from nvae_bio.plot.training import plot_history

__all__ = [
    "plot",
    "plot_data",
    "plot_history",
    "plot_private_kl",
    "plot_private_traversals",
    "plot_samples",
    "plot_shared_embedding",
    "plot_shared_kl",
    "plot_shared_traversals",
    "plot_specific_embedding",
    "plot_top_features",
]

logger = logging.getLogger(__name__)

REPORT_FIGURES: dict[str, Callable[[AnnData], Figure]] = {
    "kl_private": plot_private_kl,
    "kl_shared": plot_shared_kl,
    "top_features": plot_top_features,
}
EMBEDDING_FIGURES: dict[str, Callable[[AnnData], Figure]] = {
    "embedding_shared": plot_shared_embedding,
    "embedding_specific": plot_specific_embedding,
}
TRAVERSAL_FIGURES: dict[str, Callable[[AnnData, AnnData], Figure]] = {
    "traversals_shared": plot_shared_traversals,
    "traversals_private": plot_private_traversals,
}


def plot(
    output: Path,
    data: Path | None = None,
    histories: Sequence[Path] = (),
    report: Path | None = None,
    embedded: Path | None = None,
    samples: Path | None = None,
    traversals: Path | None = None,
) -> list[str]:
    """Draw every figure whose input is given, as PNG and SVG into the folder `output`; returns their names.

    Args:
        output: folder, made if it is not there.
        data: prepared file → `data`.
        histories: history tables of the seeds, each in a folder named after its seed → `training`.
        report: factor report → `kl_private`, `kl_shared`, `top_features`.
        embedded: embedded file of one seed → `embedding_shared`, `embedding_specific`.
        samples: samples of an image model → `samples`.
        traversals: traversals of an image model → `traversals_shared`, `traversals_private`; the report then only
            tells their KL.

    Raises:
        UserError: nothing to draw, traversals without a report, or a file that is not what it should be.
    """
    if traversals is not None and report is None:
        raise UserError("plot: --traversals needs --report, which has the KL of each factor")
    figures: dict[str, Figure] = {}
    with house_style():
        if data is not None:
            figures["data"] = plot_data(read_prepared(data))
        if histories:
            figures["training"] = plot_history({f"seed {path.parent.name}": read_table(path) for path in histories})
        if report is not None:
            factors = read_report(report)
            if traversals is not None:
                moved = read_generated(traversals, images_only=True)
                figures |= {name: draw(moved, factors) for name, draw in TRAVERSAL_FIGURES.items()}
            else:
                figures |= {name: draw(factors) for name, draw in REPORT_FIGURES.items()}
        if embedded is not None:
            adata = read_embedded(embedded)
            figures |= {name: draw(adata) for name, draw in EMBEDDING_FIGURES.items()}
        if samples is not None:
            figures["samples"] = plot_samples(read_generated(samples, images_only=True))
        if not figures:
            raise UserError("plot: nothing to draw; give --data, --history, --report, --embedded or --samples")
        for name, figure in figures.items():
            save_figure(figure, output, name)
    logger.info("figures in %s: %s", output, ", ".join(figures))
    return list(figures)
