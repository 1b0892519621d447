"""Counts with planted programmes, from the means, dispersions and libraries of real cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import CountsSimulation, Levels, Programme
from nvae_bio.data.names import listed
from nvae_bio.data.source import source_names
from nvae_bio.errors import UserError
from nvae_bio.prepare import prepare_data
from nvae_bio.simulate.planted import draw_activities, named, provenance, stream, truth_record
from nvae_bio.simulate.profile import Profile, estimate_profile

CHUNK = 512  # cells drawn at a time


@dataclass(frozen=True)
class Drawn:
    """What is drawn for cells from the levels of a batch or donor.

    Attributes:
        names: of the levels.
        level: of each cell, (n,).
        effect: of each level on the log of each gene, (levels, G).
        depth: factor of each level on the library, (levels,).
    """

    names: list[str]
    level: np.ndarray
    effect: np.ndarray
    depth: np.ndarray

    @property
    def column(self) -> pd.Categorical:
        """The name of the level of each cell."""
        return named(self.level, self.names)


@dataclass(frozen=True)
class CellPlan:
    """Everything that counts are drawn from, for n cells, P programmes and G genes of C classes.

    Attributes:
        label: class of each cell, (n,).
        activity: of each programme, (n, P).
        log_fold_change: of each gene at activity 1, (P, G).
        marker_of: class whose marker a gene is, (G,); -1 where of none.
        rate: share of the library by class, with marker genes raised, (C, G).
        rest: share of the library that belongs to genes that are not simulated, (C,).
        batch, donor: levels of cells.
        depth: factor on the library of the source's cell, (n,).
        library: expected, (n,), counts.
    """

    label: np.ndarray
    activity: pd.DataFrame
    log_fold_change: np.ndarray
    marker_of: np.ndarray
    rate: np.ndarray
    rest: np.ndarray
    batch: Drawn
    donor: Drawn
    depth: np.ndarray
    library: np.ndarray

    def mean(self, cells: slice) -> tuple[np.ndarray, np.ndarray]:
        """Expected counts of each gene, (cells, G), and of all other genes together, (cells,).

        All add up to the library: what rises takes its share from everything else.
        """
        effect = self.activity.to_numpy()[cells] @ self.log_fold_change
        for drawn in (self.batch, self.donor):
            effect += drawn.effect[drawn.level[cells]]
        weight = self.rate[self.label[cells]] * np.exp(effect)
        rest = self.rest[self.label[cells]]
        scale = self.library[cells] / (weight.sum(axis=1) + rest)
        return weight * scale[:, None], rest * scale


def draw_genes(mean: np.ndarray, wanted: Sequence[tuple[str, list[int], int, float]], seed: int) -> list[np.ndarray]:
    """Genes of each programme and of the markers of each class; no gene is drawn twice.

    Args:
        mean: counts a cell, (C, G).
        wanted: what the genes are for, the classes that have it, how many, and their least mean in every such class.
        seed: of the simulation.

    Raises:
        UserError: more genes are asked for than there are.
    """
    free, sets = np.ones(mean.shape[1], dtype=bool), []
    for name, classes, n_genes, min_mean in wanted:
        allowed = np.flatnonzero(free & (mean[classes] >= min_mean).all(axis=0))
        if n_genes > len(allowed):
            raise UserError(
                f"{name}: {n_genes} genes are asked for, but only {len(allowed)} have a mean of at least min_mean "
                f"{min_mean:g} counts in its classes and are not in use"
            )
        sets.append(stream(seed, f"genes of {name}").choice(allowed, n_genes, replace=False))
        free[sets[-1]] = False
    return sets


def draw_levels(label: np.ndarray, levels: Levels, name: str, n_genes: int, seed: int) -> Drawn:
    """Batches or donors: as many cells of each class in each, as far as that goes, at random."""
    rng = stream(seed, name)
    level = np.zeros(len(label), dtype=np.int64)
    for index in np.unique(label):
        cells = np.flatnonzero(label == index)
        level[cells] = rng.permutation((np.arange(len(cells)) + rng.integers(levels.n)) % levels.n)
    effect = rng.normal(0, levels.effect_sd, (levels.n, n_genes))
    depth = levels.depth_ratio ** np.linspace(-0.5, 0.5, levels.n)
    return Drawn([f"{name}{i}" for i in range(levels.n)], level, effect, depth)


def make_plan(settings: CountsSimulation, profile: Profile) -> CellPlan:
    """Draw everything but the counts.

    Raises:
        UserError: more genes are asked for than there are.
    """
    names, seed, programmes = list(settings.classes), settings.seed, settings.programmes
    wanted = [
        (f"programmes: {item.name}", item.classes_of(names), item.n_genes, item.min_mean or settings.min_mean)
        for item in programmes
    ]
    wanted += [
        (f"n_marker_genes: {name}", [index], settings.n_marker_genes, settings.min_mean)
        for index, name in enumerate(names)
    ]
    genes = draw_genes(profile.mean * settings.depth, wanted, seed)
    n_genes, n_programmes = len(profile.genes), len(programmes)
    rate, rest, marker_of = profile.rate.copy(), np.maximum(1 - profile.rate.sum(axis=1), 0), np.full(n_genes, -1)
    for index, members in enumerate(genes[n_programmes:]):
        rate[index, members] *= settings.marker_fold_change
        marker_of[members] = index
    total = rate.sum(axis=1) + rest
    label = np.repeat(np.arange(len(names)), list(settings.classes.values()))
    cells = pd.Index([f"cell{i}" for i in range(len(label))], dtype=object)
    batch = draw_levels(label, settings.batches, schema.BATCH, n_genes, seed)
    donor = draw_levels(label, settings.donors, schema.DONOR, n_genes, seed)
    depth = np.exp(stream(seed, "depth").normal(-(settings.depth_sd**2) / 2, settings.depth_sd, len(label)))
    depth *= settings.depth * batch.depth[batch.level] * donor.depth[donor.level]
    rng = stream(seed, "library")
    library = np.concatenate(
        [rng.choice(profile.libraries[index], n) for index, n in enumerate(settings.classes.values())]
    )
    return CellPlan(
        label=label,
        activity=draw_activities(label, cells, programmes, settings),
        log_fold_change=_log_fold_changes(programmes, genes[:n_programmes], n_genes),
        marker_of=marker_of,
        rate=rate / total[:, None],
        rest=rest / total,
        batch=batch,
        donor=donor,
        depth=depth,
        library=library * depth,
    )


def _log_fold_changes(programmes: Sequence[Programme], genes: Sequence[np.ndarray], n_genes: int) -> np.ndarray:
    effects = np.zeros((len(programmes), n_genes))
    for row, (programme, members) in enumerate(zip(programmes, genes, strict=True)):
        sign = np.where(np.arange(len(members)) % 2, -1, 1) if programme.direction == "both" else 1
        effects[row, members] = sign * np.log(programme.fold_change)
    return effects


def draw_counts(
    plan: CellPlan, dispersion: np.ndarray, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Negative binomial counts of each gene (n, G), and all counts of each cell (n,), those of other genes too."""
    parts, totals = [], []
    varies = dispersion > 0
    phi = dispersion[varies]
    for start in range(0, len(plan.label), CHUNK):
        mean, rest = plan.mean(slice(start, start + CHUNK))
        mean[:, varies] *= rng.gamma(1 / phi, phi, size=(len(mean), len(phi)))
        counts = rng.poisson(mean)
        totals.append(counts.sum(axis=1) + rng.poisson(rest))
        parts.append(sparse.csr_matrix(counts.astype(np.int32)))
    return sparse.vstack(parts, format="csr"), np.concatenate(totals)


def simulate_counts(settings: CountsSimulation, source: AnnData | None = None) -> tuple[AnnData, AnnData]:
    """Counts whose programmes, batches, donors and depths are known.

    x_ig ~ NB(mean L_i w_ig / (Σ_h w_ih + rest), dispersion of gene g), where w_ig is the share of the library that g
    has in the class of cell i, times exp(Σ_p activity_ip · log fold change_pg + effects of batch and donor on g).

    Args:
        settings: the simulation.
        source: real cells to use instead of `settings.source.builtin` or `.paths`; never changed.

    Returns:
        The data as a user has them: X counts CSR int32; obs `label`, `batch`, `donor`, `library` (all counts of the
        cell, those of genes that are not simulated too). And the truth of the same cells and genes: obs `label`,
        `batch`, `donor`, `library_mean` (L, counts), `depth` (factor in L); var `dispersion`, `marker_of` (class, or
        empty); obsm["activity"] (n, P); varm["log_fold_change"] (G, P), `batch_effect`, `donor_effect` (G, levels),
        natural logs; varm["class_rate"] (G, C); uns["nvae_truth"].

    Raises:
        UserError: a source that cannot be prepared, or that lacks the classes or genes that are asked for.
    """
    in_memory = source is not None
    where = listed(source_names(settings.source, in_memory), limit=3)
    profile = estimate_profile(prepare_data(settings.source, source), settings, where)
    plan = make_plan(settings, profile)
    counts, total = draw_counts(plan, profile.dispersion, stream(settings.seed, "counts"))
    names = list(settings.classes)
    columns = {
        schema.LABEL: named(plan.label, names),
        schema.BATCH: plan.batch.column,
        schema.DONOR: plan.donor.column,
    }
    cells, genes = plan.activity.index, profile.genes
    data = AnnData(
        counts,
        obs=pd.DataFrame(columns | {schema.LIBRARY: total}, index=cells),
        var=pd.DataFrame(index=genes),
        uns={schema.SIMULATION: provenance(settings, in_memory)},
    )
    markers = np.array([*names, ""], dtype=object)[plan.marker_of]
    programmes = [item.name for item in settings.programmes]
    truth = AnnData(
        obs=pd.DataFrame(columns | {"library_mean": plan.library, "depth": plan.depth}, index=cells),
        var=pd.DataFrame({"dispersion": profile.dispersion, "marker_of": markers}, index=genes),
        obsm={schema.ACTIVITY: plan.activity},
        varm={
            schema.LOG_FOLD_CHANGE: pd.DataFrame(plan.log_fold_change.T, index=genes, columns=programmes),
            "class_rate": plan.rate.T,
            "batch_effect": plan.batch.effect.T,
            "donor_effect": plan.donor.effect.T,
        },
        uns={schema.TRUTH: truth_record(settings, in_memory)},
    )
    return data, truth
