"""A programme of known genes, size and cells, planted into the user's own counts, in every class at once.

Counts cannot be raised without a model of their noise, but they can be thinned. Of the cells of a class some are `on`
and keep all their counts. In the others the programme is `off`: of each count x of its genes Binomial(x, 1 / f) stay.
So the genes differ by the fold change f between the two, in expectation, and nothing is assumed of their distribution:
thinned Poisson counts are Poisson, and thinned negative binomial ones keep their dispersion.

Reference: Gerard (2020), Data-based RNA-seq simulations by binomial thinning, doi:10.1186/s12859-020-3450-9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import PowerSettings
from nvae_bio.data.samples import class_index
from nvae_bio.errors import UserError


@dataclass(frozen=True)
class Planting:
    """What was planted.

    Attributes:
        activity: of the programme of the cell's own class, (n,): 1 on, 0 off; 0 in unlabelled cells.
        genes: places of the genes of each class's programme, (C, n_genes); no gene is there twice.
        mean_count: of these genes in all cells of the class before planting, counts a cell, (C,).
        notes: a sentence for each class with too few genes that are expressed enough.
    """

    activity: np.ndarray
    genes: np.ndarray
    mean_count: np.ndarray
    notes: list[str]


def check_plantable(prepared: AnnData, settings: PowerSettings) -> None:
    """Refuse data that hold no counts, or too few genes for a programme of its own in each class.

    Raises:
        UserError: they are such data.
    """
    kind, n_classes = prepared.uns[schema.DATA]["kind"], len(prepared.uns[schema.DATA]["classes"])
    if kind != "counts":
        raise UserError(f"power: planting needs counts; the data are of kind {kind!r}")
    if settings.n_genes * n_classes > prepared.n_vars:
        raise UserError(
            f"power.n_genes: {settings.n_genes} for each of {n_classes} classes, none in two of them, but the data "
            f"have {prepared.n_vars} genes; allowed: at most {prepared.n_vars // n_classes}"
        )


def choose_genes(mean: np.ndarray, settings: PowerSettings, rng: np.random.Generator) -> np.ndarray:
    """Genes of a programme for each class, none in two of them: as they would be one factor that the classes share.

    The classes take turns. Each time, a class takes a random one of the free genes with a mean of `min_mean` or more,
    and where there is none the free gene that it expresses most.

    Args:
        mean: of each gene in each class, counts a cell, (C, G).
        settings: `n_genes`, with n_genes · C ≤ G, and `min_mean`.
        rng: source of randomness.

    Returns:
        Their places, (C, n_genes).
    """
    wishes = [iter(np.lexsort((rng.random(len(own)), -np.minimum(own, settings.min_mean))).tolist()) for own in mean]
    taken: dict[int, int] = {}  # from the gene to its class
    for _ in range(settings.n_genes):
        for y, wish in enumerate(wishes):
            taken[next(gene for gene in wish if gene not in taken)] = y
    return np.array([[gene for gene, of in taken.items() if of == y] for y in range(len(mean))])


def draw_on(label: np.ndarray, is_train: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """In which cells the programme of their class is on, (n,): 1 or 0.

    In round(share · cells) of a class, at least one, of the training and of the held-out cells alike.

    Args:
        label: index of the class, (n,); -1 where unlabelled.
        is_train: which cells train, (n,).
        share: 0 to 1.
        rng: source of randomness.
    """
    activity = np.zeros(len(label))
    for y in range(int(label.max()) + 1):
        for part in (is_train, ~is_train):
            members = rng.permutation(np.flatnonzero((label == y) & part))
            activity[members[: max(1, round(share * len(members)))]] = 1
    return activity


def thin(
    counts: sparse.csr_matrix, is_thinned: np.ndarray, genes: np.ndarray, fold_change: float, rng: np.random.Generator
) -> np.ndarray:
    """Thin counts in place: of each of them Binomial(x, 1 / fold_change) stay.

    Args:
        counts: whole numbers, (n, G).
        is_thinned: the programme whose genes are thinned in each cell, (n,); -1 for none.
        genes: which genes each programme has, (programmes, G), bool.
        fold_change: above 1.
        rng: source of randomness.

    Returns:
        Counts removed from each cell, (n,).
    """
    cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    places = np.flatnonzero((is_thinned[cell] >= 0) & genes[is_thinned[cell], counts.indices])
    before = counts.data[places].astype(np.int64)
    after = rng.binomial(before, 1 / fold_change)
    counts.data[places] = after
    removed = np.bincount(cell[places], weights=before - after, minlength=counts.shape[0])
    counts.eliminate_zeros()
    return removed


def plant(prepared: AnnData, settings: PowerSettings, fold_change: float, seed: int) -> tuple[AnnData, Planting]:
    """A copy of prepared counts with a programme in every class, in training and held-out cells.

    Genes and cells are the same for all fold changes with the same seed. The library of a cell falls by the counts that
    were removed from it, and its size factor in proportion; other columns of obs stay as they are.

    Args:
        prepared: counts; not changed.
        settings: `n_genes`, `share` and `min_mean`.
        fold_change: of the genes between cells with the programme on and off; above 1.
        seed: of genes, cells and thinning.

    Returns:
        The data, with a fingerprint of their own, and what was planted.

    Raises:
        UserError: no counts, too few genes, or a fold change that is not above 1.
    """
    check_plantable(prepared, settings)
    if not fold_change > 1:
        raise UserError(f"power.fold_changes: {fold_change:g}; allowed: above 1")
    rng, classes = np.random.default_rng((seed, 3)), [str(name) for name in prepared.uns[schema.DATA]["classes"]]
    label = class_index(prepared.obs, classes)
    counts = sparse.csr_matrix(prepared.X, copy=True)
    mean = np.concatenate([np.asarray(counts[label == y].mean(axis=0)) for y in range(len(classes))])
    genes = choose_genes(mean, settings, rng)
    activity = draw_on(label, (prepared.obs[schema.SPLIT] == "train").to_numpy(), settings.share, rng)
    is_planted = np.zeros(mean.shape, bool)
    np.put_along_axis(is_planted, genes, True, axis=1)
    removed = thin(counts, np.where(activity == 1, -1, label), is_planted, fold_change, rng)
    planted = prepared.copy()
    planted.X = counts
    _lower_sizes(planted.obs, removed)
    planted.uns[schema.DATA]["fingerprint"] = (
        f"planted {settings.n_genes} genes {fold_change:g}-fold {seed} of {prepared.uns[schema.DATA]['fingerprint']}"
    )
    of_genes = np.take_along_axis(mean, genes, axis=1)
    return planted, Planting(activity, genes, of_genes.mean(1), _notes(of_genes, classes, settings))


def _lower_sizes(obs: pd.DataFrame, removed: np.ndarray) -> None:
    """Library and size factor after the removal; a cell that lost all its counts keeps a library of 1."""
    library = obs[schema.LIBRARY].to_numpy()
    obs[schema.LIBRARY] = np.maximum(library - removed, 1).astype(library.dtype)
    if schema.SIZE_FACTOR in obs:
        obs[schema.SIZE_FACTOR] *= obs[schema.LIBRARY] / library


def _notes(mean: np.ndarray, classes: list[str], settings: PowerSettings) -> list[str]:
    """Of classes some of whose planted genes, with means (C, n_genes), have too few counts."""
    few = (mean < settings.min_mean).sum(1)
    return [
        f"class {name!r}: {n} of {settings.n_genes} planted genes have fewer than {settings.min_mean:g} counts a cell; "
        "no gene with more was free"
        for name, n in zip(classes, few.tolist(), strict=True)
        if n
    ]
