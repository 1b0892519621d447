"""What else a factor may be: depth, cell cycle, batch, donor, condition, or another column of obs.

All is looked at within the classes and by ranks, so that neither the class of a sample nor the scale of a score is an
association. Samples of one donor are no replicates: a condition is tested over donors too, by their mean scores
(Squair et al. 2021, doi:10.1038/s41467-021-25960-2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api import types
from scipy import stats
from scipy.linalg import pinvh

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.data.names import as_text
from nvae_bio.errors import UserError, listed, nearest
from nvae_bio.factors.cycle import PHASES, cycle_scores, no_cycle_reason
from nvae_bio.factors.decide import adjusted
from nvae_bio.factors.donors import OverDonors, over_donors

Role = Literal["technical", "cell cycle", "batch", "donor", "condition", "named"]

DEPTH = "depth"  # log of the library
GROUPS: dict[str, Role] = {schema.DONOR: "donor", schema.BATCH: "batch", schema.CONDITION: "condition"}
OVER_DONORS = ("condition", "named")  # roles that are tested over donors
NOT_NAMED = (schema.LABEL, schema.SPLIT, schema.FOLD)  # in obs: the class itself, and what is drawn at random
TABLE = (
    *("factor", "column", "role", "measure", "effect", "levels", "p", "q", "n_samples", "constant_within"),
    *("donor_test", "donor_effect", "donor_p", "donor_q", "n_donors"),
)
SAME = 0.05  # depth and detected genes go together: with effects so near to each other, the tag is depth


@dataclass(frozen=True)
class Column:
    """A column of obs that factors are compared with.

    Attributes:
        name: as the report calls it.
        role: what it stands for.
        values: (n,): numbers, NaN where missing; or a categorical of text.
    """

    name: str
    role: Role
    values: pd.Series

    @classmethod
    def of(cls, name: str, role: Role, values: pd.Series) -> Column:
        """Any column of obs. Text is levels; so are numbers of which there are two, or that stand for groups."""
        if types.is_numeric_dtype(values.dtype) and not types.is_bool_dtype(values.dtype):
            numbers = values.astype(float)
            values = numbers.where(np.isfinite(numbers))
            if values.nunique() > 2 and role not in GROUPS.values():
                return cls(name, role, values)
        text = as_text(values)
        in_order = as_text(pd.Series(values.astype("category").cat.categories))  # as the source orders them
        there = set(text.dropna())
        levels = [level for level in in_order.unique() if level in there]
        return cls(name, role, pd.Series(pd.Categorical(text, categories=levels), index=values.index))

    @property
    def is_numeric(self) -> bool:
        """Whether it has numbers, and no levels."""
        return not isinstance(self.values.dtype, pd.CategoricalDtype)

    @property
    def is_signed(self) -> bool:
        """Whether it has two levels, so that one can be higher than the other."""
        return not self.is_numeric and len(self.values.cat.categories) == 2

    @property
    def levels(self) -> str:
        """Two levels in their order, or how many there are; nothing of numbers."""
        if self.is_numeric:
            return ""
        names = list(self.values.cat.categories)
        return " → ".join(names) if self.is_signed else f"{len(names)} levels"

    def numbers(self) -> np.ndarray:
        """The numbers, or those of the levels, (n,); NaN where missing."""
        if self.is_numeric:
            return self.values.to_numpy(dtype=float)
        codes = self.values.cat.codes.to_numpy(dtype=float)
        return np.where(codes < 0, np.nan, codes)


def columns_of(adata: AnnData, settings: ReportSettings) -> tuple[list[Column], list[str]]:
    """What the factors of a data set can be compared with, and a sentence on all that they cannot.

    Args:
        adata: what `prepare_data` or `embed_data` returned; never changed.
        settings: `associate` names further columns of obs.

    Returns:
        The columns, those that stand for something before the named ones, and the sentences.

    Raises:
        UserError: a named column that is not there, or that cannot be associated within classes.
    """
    columns, notes = _of_cells(adata) if adata.uns[schema.DATA]["kind"] == "counts" else ([], [])
    for key, role in GROUPS.items():
        if key in adata.obs:
            columns.append(Column.of(key, role, adata.obs[key]))
        else:
            notes.append(f"no {key} key: factors are not compared with a {key}")
    there = {column.name for column in columns} - {DEPTH, *PHASES}  # which are no columns of obs
    columns += [column for column in _named(adata.obs, settings.associate) if column.name not in there]
    label = as_text(adata.obs[schema.LABEL]).fillna("") if schema.LABEL in adata.obs else None
    kept: list[Column] = []
    for column in columns:
        said = _of_no_use(column, label, kept)
        if said:
            notes.append(f"{column.name}: {said}, so factors are not compared with it")
            continue
        if column.role in OVER_DONORS and any(other.role == "batch" and _is_same(column, other) for other in kept):
            notes.append(f"{column.name}: each of its values is a batch; what goes with it may be either")
        kept.append(column)
    return kept, notes


def _of_cells(adata: AnnData) -> tuple[list[Column], list[str]]:
    """Depth, detected genes, mitochondrial share and cell cycle of counts, and what lacks."""
    from nvae_bio.prepare.genes import MITO_SHARE, N_GENES  # loads scanpy

    library = adata.obs[schema.LIBRARY].astype(float)
    columns, notes = [Column.of(DEPTH, "technical", np.log(library.where(library > 0)))], []
    for name in (N_GENES, MITO_SHARE):
        if name in adata.obs:
            columns.append(Column.of(name, "technical", adata.obs[name]))
        else:
            notes.append(f"no {name} in obs: factors are not compared with it")
    scores = cycle_scores(adata)
    if scores is None:
        return columns, [*notes, no_cycle_reason(adata.var_names)]
    return [*columns, *(Column.of(str(name), "cell cycle", scores[name]) for name in scores)], notes


def _named(obs: pd.DataFrame, names: Sequence[str]) -> Iterator[Column]:
    allowed = [name for name in map(str, obs) if name not in NOT_NAMED and not name.startswith(f"{schema.MODEL}_")]
    for name in dict.fromkeys(names):
        if name not in allowed:
            raise UserError(
                f"associate: {name!r} is no column of obs to compare factors with; {nearest(name, allowed)}"
                f"allowed: {listed(allowed)}"
            )
        yield Column.of(name, "named", obs[name])


def _of_no_use(column: Column, label: pd.Series | None, others: Sequence[Column]) -> str:
    """Why a column tells nothing, or nothing that one before it does not; empty if it does."""
    numbers = pd.Series(column.numbers())
    n_values = numbers.nunique()
    if n_values < 2:
        return "it has one value" if n_values else "it has no values"
    if label is not None and numbers.groupby(label.to_numpy()).nunique().max() < 2:
        return "it has one value in each class"
    if not column.is_numeric and n_values == numbers.notna().sum():
        return "it has another value in each sample"
    if column.role == "batch" and any(other.role == "donor" and _is_same(column, other) for other in others):
        return "it is the donor"
    return ""


def _is_within(column: Column, group: Column) -> bool:
    """Whether a column has no more than one value in each group."""
    return bool(pd.Series(column.numbers()).groupby(group.numbers()).nunique().max() <= 1)


def _is_same(one: Column, other: Column) -> bool:
    return _is_within(one, other) and _is_within(other, one)


def associate(
    scores: pd.DataFrame, label: np.ndarray, columns: Sequence[Column], donor: np.ndarray | None = None
) -> pd.DataFrame:
    """Association of each factor with each column, within classes; over donors too for conditions and named columns.

    Scores and numbers become ranks within the class, less their mean and over its size, so that classes are pooled by
    their samples. A class in which a column has one value says nothing of it and is left out. With numbers the effect
    is Spearman's rho. With levels it is eta, the square root of the share R² of the rank variance within classes that
    levels explain, adjusted for their number k: 1 − (1 − R²) (n − C) / (n − C − k + 1), 0 where negative; with two
    levels it is signed, positive where the second is higher. If there is no association, R² of m slopes has the
    distribution Beta(m/2, (n − C − m)/2): the p of the t test of a correlation, and of the F test on ranks.

    Over donors, scores less the mean of the class are averaged for each donor and level. Paired (t test; F of two-way
    ANOVA with more than two levels) over donors that have all levels, where there are 3; else unpaired (Welch's t test;
    one-way ANOVA) where each level has 3 donors. Numbers of which a donor has one: Spearman over ≥ 6 donors.

    Args:
        scores: (n, factors), NaN for samples whose class lacks the factor.
        label: class of each sample, (n,); missing ones are left out.
        columns: as `columns_of` gives them.
        donor: of each sample, (n,); None where no donor is known.

    Returns:
        A row a factor and column: factor, column, role, measure (spearman, eta), effect, levels ("ctrl → stim": the
        order of a signed eta), p, q (Benjamini-Hochberg over all rows), n_samples, constant_within (batch, donor: in
        which of these the column has one value), donor_test (which, or why none), donor_effect, donor_p, donor_q
        (over all rows that have one), n_donors. Statistics are NaN where nothing varies.
    """
    code, parts = pd.factorize(label)[0], []
    donors = None if donor is None else pd.factorize(donor)[0]
    for present, names in _alike_missing(scores):
        for number, column in enumerate(columns):
            values = column.numbers()
            rows = _informative(values, np.where(present, code, -1))
            score = scores.loc[rows, names].to_numpy(dtype=float)
            found = within_classes(score, values[rows], code[rows], column)
            over = _tested(score, values[rows], code[rows], column, None if donors is None else donors[rows])
            parts.append(_rows(names, column, found, over).assign(n_samples=rows.sum(), number=number))
    if not parts:
        return pd.DataFrame(columns=list(TABLE))
    table = pd.concat(parts)
    table["place"] = scores.columns.get_indexer(pd.Index(table["factor"]))
    table = table.sort_values(["place", "number"], ignore_index=True)
    table["q"], table["donor_q"] = adjusted(table["p"].to_numpy()), adjusted(table["donor_p"].to_numpy())
    table["constant_within"] = table["number"].map(dict(enumerate(_constant_within(columns))))
    return table[list(TABLE)]


def _rows(names: Sequence[str], column: Column, found: tuple[np.ndarray, np.ndarray], over: OverDonors) -> pd.DataFrame:
    """The rows of some factors and one column."""
    values = {
        "factor": list(names),
        "column": column.name,
        "role": column.role,
        "measure": "spearman" if column.is_numeric else "eta",
        "effect": found[0],
        "p": found[1],
        "levels": column.levels,
        "donor_test": over.said,
        "donor_effect": over.effect,
        "donor_p": over.p,
        "n_donors": over.n_donors,
    }
    return pd.DataFrame(values)


def _tested(
    score: np.ndarray, values: np.ndarray, label: np.ndarray, column: Column, donor: np.ndarray | None
) -> OverDonors:
    """Over donors, if the column is one that is tested so."""
    if column.role not in OVER_DONORS or donor is None:
        return OverDonors.untested("no donor key" if column.role in OVER_DONORS else "", score.shape[1], 0)
    return over_donors(score, values, label, donor, column.is_numeric, column.is_signed)


def _alike_missing(scores: pd.DataFrame) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Factors that are there in the same samples: which these are, (n,), and their names."""
    groups: dict[bytes, list[str]] = {}
    for name in scores:
        groups.setdefault(scores[name].notna().to_numpy().tobytes(), []).append(str(name))
    for present, names in groups.items():
        yield np.frombuffer(present, dtype=bool), names


def _informative(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Samples that have a value and a class (-1 is none) in which there is another value, (n,)."""
    known = ~np.isnan(values) & (label >= 0)
    known[known] = pd.Series(values[known]).groupby(label[known]).transform("nunique").to_numpy() > 1
    return np.asarray(known)


def _constant_within(columns: Sequence[Column]) -> list[str]:
    """For each column that is tested over donors, in which of batch and donor it has one value."""
    groups = [column for column in columns if column.role in ("batch", "donor")]
    return [
        ", ".join(group.role for group in groups if column.role in OVER_DONORS and _is_within(column, group))
        for column in columns
    ]


def _ranks(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Rank of each value within its class, less their mean and over the size of the class, (m, columns)."""
    ranks = np.empty(values.shape)
    for y in np.unique(label):
        rows = label == y
        ranks[rows] = stats.rankdata(values[rows], axis=0) / rows.sum() - (1 + 1 / rows.sum()) / 2
    return ranks


def _level_moments(ranks: np.ndarray, level: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """XᵀX, (levels, levels), and Xᵀ · ranks, (levels, factors); X has a column a level, less its mean in each class."""
    table = pd.crosstab(label, level).to_numpy(dtype=float)
    gram = np.diag(table.sum(0)) - table.T @ (table / table.sum(1, keepdims=True))
    return gram, pd.DataFrame(ranks).groupby(level).sum().to_numpy()


def within_classes(
    score: np.ndarray, values: np.ndarray, label: np.ndarray, column: Column
) -> tuple[np.ndarray, np.ndarray]:
    """Effect and p of each factor, (factors,), as `associate` says; NaN where nothing varies or nothing is left over.

    Args:
        score: (m, factors).
        values: those of the column, or the numbers of its levels, (m,).
        label: number of the class of each sample, (m,).
        column: whose values these are.
    """
    unknown = np.full(score.shape[1], np.nan)
    if not len(values):
        return unknown, unknown
    ranks = _ranks(score, label)
    if column.is_numeric:
        x = _ranks(values[:, None], label)
        gram, cross = x.T @ x, x.T @ ranks
    else:
        gram, cross = _level_moments(ranks, values, label)
    inverse, n_slopes = pinvh(gram, rtol=1e-9, return_rank=True)
    slopes, total = inverse @ cross, np.square(ranks).sum(0)
    n_free = len(values) - len(np.unique(label)) - n_slopes
    if n_free < 1:
        return unknown, unknown
    share = np.divide((cross * slopes).sum(0), total, out=unknown.copy(), where=total > 0).clip(0, 1)
    p = stats.beta.sf(share, n_slopes / 2, n_free / 2)
    if column.is_numeric:
        return np.sign(slopes[0]) * np.sqrt(share), p
    eta = np.sqrt(np.maximum(1 - (1 - share) * (n_free + n_slopes) / n_free, 0))
    return (np.sign(slopes[1] - slopes[0]) * eta if column.is_signed else eta), p


def tags(table: pd.DataFrame, min_association: float, fdr: float) -> pd.Series:
    """The plain tag of each factor: what it goes with most, or nothing.

    A column counts where |effect| is at least `min_association` and q at most `fdr`, and so is the donor_q of one that
    was tested over donors. Where a condition, or a named column, passes over donors, the batches and donors that each
    have one value of it are passed over: they hold the condition, and would explain more in any case. Of depth and
    detected genes with like effects it is depth.

    Args:
        table: what `associate` returned.
        min_association: 0 to 1.
        fdr: of both q.

    Returns:
        By factor: "", "technical: depth" (or n_genes, mito_share), "cell cycle", "batch", "donor", "condition",
        "named: COLUMN".
    """
    counts = (table["effect"].abs() >= min_association) & (table["q"] <= fdr) & ~(table["donor_q"] > fdr)
    found = {factor: _tag(rows) for factor, rows in table[counts.to_numpy()].groupby("factor", sort=False)}
    factors = pd.Index(table["factor"].unique(), name="factor")
    return pd.Series([found.get(factor, "") for factor in factors], index=factors, name="tag", dtype=object)


def _tag(rows: pd.DataFrame) -> str:
    """Of a factor from the columns that count."""
    from nvae_bio.prepare.genes import N_GENES  # loads scanpy

    passed = rows.loc[rows["donor_q"].notna(), "constant_within"].str.split(", ")
    rows = rows[~rows["role"].isin({role for roles in passed for role in roles}).to_numpy()]
    rows = rows.assign(size=rows["effect"].abs()).sort_values("size", ascending=False, kind="stable")
    column, role, size = rows[["column", "role", "size"]].iloc[0]
    depth = rows.loc[((rows["column"] == DEPTH) & (rows["role"] == "technical")).to_numpy(), "size"]
    if role == "technical" and column == N_GENES and len(depth) and depth.iloc[0] >= size - SAME:
        column = DEPTH
    return f"{role}: {column}" if role in ("technical", "named") else str(role)
