"""Figures from tables (the verb `plot`): each function takes a table or AnnData and returns a matplotlib Figure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from anndata import AnnData
from matplotlib.figure import Figure

from nvae_bio.data.files import (
    read_embedded,
    read_factors,
    read_generated,
    read_prepared,
    read_report,
    read_scores,
    read_table,
)
from nvae_bio.errors import UserError
from nvae_bio.plot.counterfactual import plot_counterfactual
from nvae_bio.plot.data import plot_data
from nvae_bio.plot.embedding import plot_posterior, plot_shared_embedding, plot_specific_embedding
from nvae_bio.plot.factors import plot_private_kl, plot_shared_kl, plot_top_features
from nvae_bio.plot.images import (
    plot_interpolations,
    plot_private_traversals,
    plot_samples,
    plot_shared_traversals,
    plot_swaps,
)
from nvae_bio.plot.map import plot_factor_map
from nvae_bio.plot.pages import plot_class_page, plot_pages, plot_shared_page
from nvae_bio.plot.scores import plot_run_scores
from nvae_bio.plot.style import house_style, save_figure
from nvae_bio.plot.training import plot_history

__all__ = [
    "plot",
    "plot_class_page",
    "plot_counterfactual",
    "plot_data",
    "plot_factor_map",
    "plot_history",
    "plot_interpolations",
    "plot_pages",
    "plot_posterior",
    "plot_private_kl",
    "plot_private_traversals",
    "plot_run_scores",
    "plot_samples",
    "plot_shared_embedding",
    "plot_shared_kl",
    "plot_shared_page",
    "plot_shared_traversals",
    "plot_specific_embedding",
    "plot_swaps",
    "plot_top_features",
]

logger = logging.getLogger(__name__)

REPORT_FIGURES: dict[str, Callable[[AnnData], Figure]] = {
    "factor_map": plot_factor_map,
    "top_features": plot_top_features,
}
SEED_FIGURES: dict[str, Callable[[AnnData], Figure]] = {
    "kl_private": plot_private_kl,
    "kl_shared": plot_shared_kl,
}
EMBEDDING_FIGURES: dict[str, Callable[[AnnData], Figure]] = {
    "embedding_shared": plot_shared_embedding,
    "embedding_specific": plot_specific_embedding,
    "posterior": plot_posterior,
}
TRAVERSAL_FIGURES: dict[str, Callable[[AnnData, AnnData], Figure]] = {
    "traversals_shared": plot_shared_traversals,
    "traversals_private": plot_private_traversals,
}
PICTURE_FIGURES: dict[str, Callable[[AnnData], Figure]] = {
    "samples": plot_samples,
    "interpolations": plot_interpolations,
    "swaps": plot_swaps,
}


def _check_pairs(report: Path | None, seeds: Path | None, scores: Path | None, traversals: Path | None) -> None:
    """Refuse files without the one that belongs to them.

    Raises:
        UserError: traversals without seeds, or scores without a report.
    """
    if traversals is not None and seeds is None:
        raise UserError("plot: --traversals needs --seeds, which has the KL of each factor")
    if scores is not None and report is None:
        raise UserError("plot: --scores needs --report, which names the factors")


def plot(
    output: Path,
    data: Path | None = None,
    histories: Sequence[Path] = (),
    report: Path | None = None,
    seeds: Path | None = None,
    scores: Path | None = None,
    embedded: Path | None = None,
    traversals: Path | None = None,
    evaluation: Path | None = None,
    changed: Path | None = None,
    **pictures: Path | None,
) -> list[str]:
    """Draw every figure whose input is given, as PNG and SVG into the folder `output`; returns their names.

    Args:
        output: folder, made if it is not there.
        data: prepared file → `data`.
        histories: history tables of the seeds, each in a folder named after its seed → `training`.
        report: factor report → `factor_map`, `top_features`; with `scores` the pages instead.
        seeds: what each seed has → `kl_private`, `kl_shared`; with `traversals` it only tells their KL.
        scores: samples with consensus scores → a page a class, and one a shared factor.
        embedded: embedded file of one seed → `embedding_shared`, `embedding_specific`, `posterior`.
        traversals: traversals of an image model → `traversals_shared`, `traversals_private`.
        evaluation: scores of the run → `scores`.
        changed: samples with something changed → a figure of the file's name.
        pictures: `samples`, `interpolations` and `swaps` of an image model → a figure of the name each.

    Raises:
        UserError: nothing to draw, a file without the one that belongs to it, or one that is not what it should be.
    """
    _check_pairs(report, seeds, scores, traversals)
    figures: dict[str, Figure] = {}
    with house_style():
        if data is not None:
            figures["data"] = plot_data(read_prepared(data))
        if histories:
            figures["training"] = plot_history({f"seed {path.parent.name}": read_table(path) for path in histories})
        if report is not None:
            factors = read_factors(report)
            if scores is None:
                figures |= {name: draw(factors) for name, draw in REPORT_FIGURES.items()}
            else:
                figures |= plot_pages(factors, read_embedded(scores))
        if seeds is not None:
            of_seeds = read_report(seeds)
            if traversals is None:
                figures |= {name: draw(of_seeds) for name, draw in SEED_FIGURES.items()}
            else:
                moved = read_generated(traversals, images_only=True)
                figures |= {name: draw(moved, of_seeds) for name, draw in TRAVERSAL_FIGURES.items()}
        if embedded is not None:
            adata = read_embedded(embedded)
            figures |= {name: draw(adata) for name, draw in EMBEDDING_FIGURES.items()}
        if evaluation is not None:
            figures["scores"] = plot_run_scores(read_scores([evaluation]))
        if changed is not None:
            figures[changed.stem] = plot_counterfactual(read_generated(changed))
        for name, path in pictures.items():
            if path is not None:
                figures[name] = PICTURE_FIGURES[name](read_generated(path, images_only=True))
        if not figures:
            raise UserError(
                "plot: nothing to draw; give --data, --history, --report, --seeds, --embedded, --evaluation, "
                "--changed, --samples, --interpolations or --swaps"
            )
        for name, figure in figures.items():
            save_figure(figure, output, name)
    logger.info("figures in %s: %s", output, ", ".join(figures))
    return list(figures)
