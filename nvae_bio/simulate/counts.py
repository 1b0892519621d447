"""Counts with planted programmes, from the means, dispersions and libraries of real cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import CountsSimulation, Programme
from nvae_bio.data.source import source_names
from nvae_bio.errors import UserError, listed
from nvae_bio.prepare import prepare_data
from nvae_bio.simulate.planted import (
    Drawn,
    draw_activities,
    draw_arms,
    draw_levels,
    follow_activity,
    named,
    provenance,
    stream,
    swap_labels,
    truth_record,
)
from nvae_bio.simulate.profile import Profile, estimate_profile

CHUNK = 512  # cells drawn at a time


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
        arm: number of the arm of a treatment, (n,); 0 where there is none.
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
    arm: np.ndarray
    depth: np.ndarray
    library: np.ndarray

    def take(self, rows: np.ndarray) -> CellPlan:
        """The plan of some cells, by position; one may be there twice."""
        return replace(
            self,
            label=self.label[rows],
            activity=self.activity.iloc[rows],
            batch=self.batch.take(rows),
            donor=self.donor.take(rows),
            arm=self.arm[rows],
            depth=self.depth[rows],
            library=self.library[rows],
        )

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


@dataclass(frozen=True)
class Wanted:
    """Genes of a programme, or markers of a class.

    Attributes:
        what: they are for.
        classes: that have it.
        n_genes: how many are drawn.
        min_mean: their least mean in every such class, counts a cell.
        genes: their names, where they are named and not drawn.
    """

    what: str
    classes: list[int]
    n_genes: int
    min_mean: float
    genes: Sequence[str] = ()


def draw_genes(mean: np.ndarray, names: pd.Index, wanted: Sequence[Wanted], seed: int) -> list[np.ndarray]:
    """Positions of the genes of each programme and of the markers of each class; no gene is drawn twice.

    Args:
        mean: counts a cell, (C, G).
        names: of the genes, (G,).
        wanted: what is asked for; genes that are named are drawn for nothing else.
        seed: of the simulation.

    Raises:
        UserError: a named gene is not there, or more genes are asked for than there are.
    """
    free, sets = np.ones(len(names), dtype=bool), [names.get_indexer(pd.Index(item.genes)) for item in wanted]
    for item, members in zip(wanted, sets, strict=True):
        missing = [gene for gene, position in zip(item.genes, members, strict=True) if position < 0]
        if missing:
            raise UserError(
                f"{item.what}: genes: {listed(missing)}: not among the {len(names)} genes that are simulated, which "
                "are those of the source after its `qc`, `n_top_genes` and `n_genes`"
            )
        free[members] = False
    for index, item in enumerate(wanted):
        if item.genes:
            continue
        allowed = np.flatnonzero(free & (mean[item.classes] >= item.min_mean).all(axis=0))
        if item.n_genes > len(allowed):
            raise UserError(
                f"{item.what}: {item.n_genes} genes are asked for, but only {len(allowed)} have a mean of at least "
                f"min_mean {item.min_mean:g} counts in its classes and are not in use"
            )
        sets[index] = stream(seed, f"genes of {item.what}").choice(allowed, item.n_genes, replace=False)
        free[sets[index]] = False
    return sets


def make_plan(settings: CountsSimulation, profile: Profile) -> CellPlan:
    """Draw everything but the counts.

    Raises:
        UserError: a gene that is not there, more genes than there are, or a depth to follow that does not vary.
    """
    names, seed, programmes = list(settings.classes), settings.seed, settings.programmes
    genes = draw_genes(profile.mean * settings.depth, profile.genes, _wanted(settings), seed)
    n_genes, n_programmes = len(profile.genes), len(programmes)
    rate, rest, marker_of = profile.rate.copy(), np.maximum(1 - profile.rate.sum(axis=1), 0), np.full(n_genes, -1)
    for index, members in enumerate(genes[n_programmes:]):
        rate[index, members] *= settings.marker_fold_change
        marker_of[members] = index
    total = rate.sum(axis=1) + rest
    label = np.repeat(np.arange(len(names)), list(settings.classes.values()))
    batch = draw_levels(label, settings.batches, schema.BATCH, n_genes, seed)
    donor = draw_levels(label, settings.donors, schema.DONOR, n_genes, seed)
    depth = np.exp(stream(seed, "depth").normal(-(settings.depth_sd**2) / 2, settings.depth_sd, len(label)))
    depth *= settings.depth * batch.depth[batch.level] * donor.depth[donor.level]
    rng = stream(seed, "library")
    library = np.concatenate(
        [rng.choice(profile.libraries[index], n) for index, n in enumerate(settings.classes.values())]
    )
    arm, library = draw_arms(label, donor, settings), library * depth
    known = {"condition": arm, "batch": batch.level, "donor": donor.level, "depth": np.log(library)}
    return CellPlan(
        label=label,
        activity=_activities(label, known, settings),
        log_fold_change=_log_fold_changes(programmes, genes[:n_programmes], n_genes),
        marker_of=marker_of,
        rate=rate / total[:, None],
        rest=rest / total,
        batch=batch,
        donor=donor,
        arm=arm,
        depth=depth,
        library=library,
    )


def _wanted(settings: CountsSimulation) -> list[Wanted]:
    """Genes of each programme, then markers of each class."""
    names = list(settings.classes)
    programmes = [
        Wanted(
            what=f"programmes: {item.name}",
            classes=item.classes_of(names),
            n_genes=item.n_genes,
            min_mean=item.min_mean or settings.min_mean,
            genes=item.genes,
        )
        for item in settings.programmes
    ]
    return programmes + [
        Wanted(f"n_marker_genes: {name}", [index], settings.n_marker_genes, settings.min_mean)
        for index, name in enumerate(names)
    ]


def _activities(label: np.ndarray, known: Mapping[str, np.ndarray], settings: CountsSimulation) -> pd.DataFrame:
    """Activity of each programme in each cell, (n, P): drawn, or after what it follows (`known`, each (n,))."""
    cells = pd.Index([f"cell{i}" for i in range(len(label))], dtype=object)
    activity = draw_activities(label, cells, settings.programmes, settings)
    n_levels = {"batch": settings.batches.n, "donor": settings.donors.n}
    for item in settings.programmes:
        if item.follows != "none":
            activity[item.name] = follow_activity(
                label, list(settings.classes), item, known[item.follows], n_levels.get(item.follows, 0), settings.seed
            )
    return activity


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


def draw_doublets(plan: CellPlan, share: float, seed: int) -> np.ndarray:
    """Pairs of cells of different classes that are caught together, in random order.

    The first is any cell. The second is drawn from cells of other classes that have as much of batch, donor and arm in
    common with it as any of them has.

    Returns:
        Positions of cells, (round(share × n), 2); no cell is the first of two pairs.
    """
    rng = stream(seed, "doublets")
    levels = np.stack([plan.batch.level, plan.donor.level, plan.arm])
    first = rng.choice(len(plan.label), round(share * len(plan.label)), replace=False)
    second = np.zeros_like(first)
    for row, cell in enumerate(first):
        in_common = (levels == levels[:, [cell]]).sum(axis=0)
        in_common[plan.label == plan.label[cell]] = -1
        second[row] = rng.choice(np.flatnonzero(in_common == in_common.max()))
    return rng.permuted(np.stack([first, second], axis=1), axis=1)


def add_doublets(
    plan: CellPlan, pairs: np.ndarray, dispersion: np.ndarray, rng: np.random.Generator
) -> tuple[CellPlan, sparse.csr_matrix, np.ndarray]:
    """A doublet is all counts of two cells, each drawn anew from its plan; the plan of a doublet is that of its first.

    Args:
        plan: of n cells.
        pairs: positions of the two cells of each of m doublets, (m, 2).
        dispersion: of each gene, (G,).
        rng: of the counts.

    Returns:
        The plan of n cells and m doublets, whose libraries are sums; counts (m, G) and all counts (m,) of doublets.
    """
    (one, one_total), (other, other_total) = (draw_counts(plan.take(part), dispersion, rng) for part in pairs.T)
    whole = plan.take(np.concatenate([np.arange(len(plan.label)), pairs[:, 0]]))
    names = [*plan.activity.index, *(f"doublet{i}" for i in range(len(pairs)))]
    library = np.concatenate([plan.library, plan.library[pairs].sum(axis=1)])
    activity = whole.activity.set_axis(pd.Index(names, dtype=object), axis=0)
    return replace(whole, activity=activity, library=library), one + other, one_total + other_total


def simulate_counts(settings: CountsSimulation, source: AnnData | None = None) -> tuple[AnnData, AnnData]:
    """Counts whose programmes, batches, donors, treatments, depths, swapped labels and doublets are known.

    x_ig ~ NB(mean L_i w_ig / (Σ_h w_ih + rest), dispersion of gene g), where w_ig is the share of the library that g
    has in the class of cell i, times exp(Σ_p activity_ip · log fold change_pg + effects of batch and donor on g).
    A doublet is the sum of two such cells.

    Args:
        settings: the simulation.
        source: real cells to use instead of `settings.source.builtin` or `.paths`; never changed.

    Returns:
        The data as a user has them: X counts CSR int32; obs `label`, `batch`, `donor`, `condition` (with
        `conditions`), `library` (all counts of the cell, those of genes that are not simulated too). And the truth of
        the same cells and genes: obs `label`, `batch`, `donor`, `condition`, `library_mean` (L, counts), `depth`
        (factor in L), with `label_swaps` `given_label` and `is_swapped`, with `doublets` `is_doublet` and `doublet_of`
        (class of the other cell, or empty); var `dispersion`, `marker_of` (class, or empty); obsm["activity"] (n, P);
        varm["log_fold_change"] (G, P), `batch_effect`, `donor_effect` (G, levels), natural logs; varm["class_rate"]
        (G, C); uns["nvae_truth"].

    Raises:
        UserError: a source that cannot be prepared, that lacks the classes or genes that are asked for, or whose depth
            is to be followed and does not vary.
    """
    in_memory, seed = source is not None, settings.seed
    where = listed(source_names(settings.source, in_memory), limit=3)
    profile = estimate_profile(prepare_data(settings.source, source), settings, where)
    plan = make_plan(settings, profile)
    counts, total = draw_counts(plan, profile.dispersion, stream(seed, "counts"))
    given = swap_labels(plan.label, len(settings.classes), settings.label_swaps, seed)
    pairs = draw_doublets(plan, settings.doublets, seed)
    other = np.concatenate([np.full(len(plan.label), -1), plan.label[pairs[:, 1]]])
    if len(pairs):
        rng = stream(seed, "counts of doublets")
        plan, more, more_total = add_doublets(plan, pairs, profile.dispersion, rng)
        counts, total = sparse.vstack([counts, more], format="csr"), np.concatenate([total, more_total])
        given = np.concatenate([given, plan.label[len(given) :]])
    columns, names = _columns(plan, settings), list(settings.classes)
    cells, genes = plan.activity.index, profile.genes
    data = AnnData(
        counts,
        obs=pd.DataFrame(columns | {schema.LABEL: named(given, names), schema.LIBRARY: total}, index=cells),
        var=pd.DataFrame(index=genes),
        uns={schema.SIMULATION: provenance(settings, in_memory)},
    )
    known = columns | {"library_mean": plan.library, "depth": plan.depth}
    if settings.label_swaps:
        known |= {"given_label": named(given, names), "is_swapped": given != plan.label}
    if settings.doublets:
        known |= {"is_doublet": other >= 0, "doublet_of": np.array([*names, ""], dtype=object)[other]}
    return data, _truth(plan, profile, pd.DataFrame(known, index=cells), truth_record(settings, in_memory))


def _columns(plan: CellPlan, settings: CountsSimulation) -> dict[str, object]:
    """Columns of obs that data and truth have in common: class, batch, donor, and arm where there are any."""
    columns: dict[str, object] = {
        schema.LABEL: named(plan.label, list(settings.classes)),
        schema.BATCH: plan.batch.column,
        schema.DONOR: plan.donor.column,
    }
    if settings.conditions is not None:
        columns[schema.CONDITION] = named(plan.arm, settings.conditions.names)
    return columns


def _truth(plan: CellPlan, profile: Profile, obs: pd.DataFrame, record: dict[str, object]) -> AnnData:
    """The truth, as `simulate_counts` says."""
    genes, classes = profile.genes, obs[schema.LABEL].cat.categories
    markers = np.array([*classes, ""], dtype=object)[plan.marker_of]
    effects = pd.DataFrame(plan.log_fold_change.T, index=genes, columns=list(plan.activity.columns))
    return AnnData(
        obs=obs,
        var=pd.DataFrame({"dispersion": profile.dispersion, "marker_of": markers}, index=genes),
        obsm={schema.ACTIVITY: plan.activity},
        varm={
            schema.LOG_FOLD_CHANGE: effects,
            "class_rate": plan.rate.T,
            "batch_effect": plan.batch.effect.T,
            "donor_effect": plan.donor.effect.T,
        },
        uns={schema.TRUTH: record},
    )
