"""What simulated counts take from real ones: means and libraries of each class, and the dispersion of each gene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import CountsSimulation
from nvae_bio.errors import UserError, listed

PRIOR_PAIRS = 20.0  # pairs of counts that the typical dispersion is worth beside a gene's own


@dataclass(frozen=True)
class Profile:
    """Real counts in numbers.

    Attributes:
        genes: names, (G,).
        rate: share of a cell's library that a gene has, by class, (C, G).
        dispersion: φ of each gene, (G,): a count of mean μ has variance μ + φ μ².
        libraries: of the source's cells, by class; counts.
    """

    genes: pd.Index
    rate: np.ndarray
    dispersion: np.ndarray
    libraries: list[np.ndarray]

    @property
    def mean(self) -> np.ndarray:
        """Mean counts a cell, (C, G)."""
        mean: np.ndarray = self.rate * np.array([library.mean() for library in self.libraries])[:, None]
        return mean


def estimate_dispersion(counts: sparse.csr_matrix, library: np.ndarray, label: np.ndarray) -> np.ndarray:
    """φ of each gene, from moments within classes.

    With independent cells of mean μ_i = L_i r and variance μ_i + φ μ_i², E[x_i (x_i - 1)] = (1 + φ) L_i² r², and
    E[x_i x_j] = L_i L_j r² for two cells of a class. Over all cells and classes, the ratio of what is seen in a cell to
    what r² of pairs of cells makes one expect there estimates 1 + φ. Both are numbers of pairs of counts; where a gene
    has few, its ratio is drawn to the median ratio of genes with enough, as if it had `PRIOR_PAIRS` more of these.

    Args:
        counts: (n, G).
        library: L, (n,), counts.
        label: class of each cell, (n,); r differs between classes, φ does not.

    Returns:
        (G,), at least 0.
    """
    seen, expected = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for name in np.unique(label):
        cells = label == name
        part, depth = counts[cells].astype(np.float64), library[cells]
        total, squares = np.asarray(part.sum(axis=0)).ravel(), np.asarray(part.power(2).sum(axis=0)).ravel()
        depth_squares = (depth**2).sum()
        seen += squares - total
        expected += (total**2 - squares) * (depth_squares / (depth.sum() ** 2 - depth_squares))
    enough = expected >= PRIOR_PAIRS
    typical = float(np.median(seen[enough] / expected[enough])) if enough.any() else 1.0
    return np.maximum((seen + PRIOR_PAIRS * typical) / (expected + PRIOR_PAIRS) - 1, 0.0)


def estimate_profile(prepared: AnnData, settings: CountsSimulation, where: str) -> Profile:
    """Means, dispersions and libraries of a prepared data set, for the classes and genes that the settings ask for.

    Args:
        prepared: the source; unlabeled cells are not used.
        settings: `classes`, `class_profiles`, `n_genes`.
        where: the source, for messages.

    Returns:
        The profile, classes in the order of the settings; its dispersions are of all classes of the source.

    Raises:
        UserError: a class that the source does not have, or more genes than it has.
    """
    prepared = prepared[prepared.obs[schema.LABEL].notna()]
    chosen = _detected_genes(prepared, settings.n_genes, where)
    counts, library = sparse.csr_matrix(prepared.X)[:, chosen], prepared.obs[schema.LIBRARY].to_numpy(np.float64)
    label = prepared.obs[schema.LABEL].astype(str).to_numpy()
    unknown = sorted(set(settings.classes) - set(label)) if settings.class_profiles == "source" else []
    if unknown:
        raise UserError(
            f"{where}: classes: {unknown[0]!r} is no class of the source; allowed: {listed(np.unique(label))}, or any "
            "name with class_profiles: shared"
        )
    everything = np.ones(len(label), dtype=bool)
    cells = [label == name if settings.class_profiles == "source" else everything for name in settings.classes]
    rate = np.stack([np.asarray(counts[mask].sum(axis=0, dtype=np.float64)).ravel() for mask in cells])
    libraries = [library[mask] for mask in cells]
    rate /= np.array([values.sum() for values in libraries])[:, None]
    return Profile(prepared.var_names[chosen], rate, estimate_dispersion(counts, library, label), libraries)


def _detected_genes(prepared: AnnData, n_genes: int | None, where: str) -> np.ndarray:
    """Positions of the `n_genes` that most cells have, in the source's order."""
    if n_genes is None:
        return np.arange(prepared.n_vars)
    if n_genes > prepared.n_vars:
        raise UserError(f"{where}: n_genes {n_genes}: the source has {prepared.n_vars} genes; allowed: at most these")
    n_cells = sparse.csr_matrix(prepared.X).getnnz(axis=0)
    return np.sort(np.argsort(-n_cells, kind="stable")[:n_genes])
