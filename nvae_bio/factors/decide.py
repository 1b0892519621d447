"""From statistics and their nulls to p- and q-values, in families."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from nvae_bio.config import ReportSettings
from nvae_bio.errors import UserError
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK, OWN_DIM, SHARED, few

NULL_COLUMNS = ("kind", "refit", "statistic", "class", "dim", "value")
LIKE_SIZE = 2.0  # classes with at most so many times fewer or more training samples share one null


def kind_of_null(has_shared: bool, settings: ReportSettings) -> str:
    """Of the refits that test private factors: without z_s all variation within a class is private."""
    return settings.null_kind if has_shared else "no_factor"


def check_null(null: pd.DataFrame, observed: pd.DataFrame) -> None:
    """Refuse tables that are no null of a model with these statistics.

    Args:
        null: rows of all refits.
        observed: columns statistic, class, dim of a seed.

    Raises:
        UserError: columns that lack, a refit that is there twice, or a model with other classes or dims.
    """
    missing = [name for name in NULL_COLUMNS if name not in null]
    if missing:
        raise UserError(f"null: no column {missing[0]!r}; needed: {', '.join(NULL_COLUMNS)}")
    fixed = ["statistic", "class", "dim"]
    refitted, own = (table[(table["statistic"] != HIDDEN).to_numpy()] for table in (null, observed))
    twice = refitted[refitted.duplicated(["kind", "refit", *fixed]).to_numpy()]
    if len(twice):
        kind, refit = twice[["kind", "refit"]].iloc[0]
        raise UserError(f"null: refit {refit} of kind {kind!r} is there twice; give each once")
    there, wanted = (set(part[fixed].itertuples(index=False, name=None)) for part in (refitted, own))
    if there != wanted:
        raise UserError("null: refits of a model with other classes or latent dims than this run's; refit this run's")


def of_kind(null: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows that are a null: refits on `no_factor` for the shared usages, on `kind` for all else."""
    wanted = np.where(null["statistic"] == SHARED, "no_factor", kind)
    return null[(null["kind"] == wanted).to_numpy()]


def pooled(observed: pd.DataFrame, null: pd.DataFrame, sizes: np.ndarray) -> list[np.ndarray]:
    """The null values that each observed row is compared with; none where the null has none of its statistic.

    A null is pooled over refits, over dims, and over classes of like size: the encoder's noise, and so the KL of a dim
    that codes nothing, depends on how many samples a class has.

    Args:
        observed: columns statistic, class, dim, value.
        null: the same columns; rows of all refits.
        sizes: training samples of each class, (C,).
    """
    by_statistic = {str(name): part for name, part in null.groupby("statistic")}
    pairs, pools = list(zip(observed["statistic"], observed["class"], strict=True)), {}
    for statistic, label in dict.fromkeys(pairs):  # all dims of a class share one
        part = by_statistic.get(statistic, null.iloc[:0])
        ratio = sizes[part["class"]] / sizes[label]
        pools[statistic, label] = part["value"].to_numpy()[(ratio <= LIKE_SIZE) & (ratio >= 1 / LIKE_SIZE)]
    return [pools[pair] for pair in pairs]


def pooled_p(value: np.ndarray, pools: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Monte Carlo p-values: (1 + null values that are as large) / (1 + null values). A tie counts against the finding.

    Args:
        value: of each observed row, (n,).
        pools: null values of each, as `pooled` gives them.

    Returns:
        p, (n,), and the smallest that it could have been, (n,); NaN where there are no null values.
    """
    p, smallest = np.full(len(value), np.nan), np.full(len(value), np.nan)
    for row, (own, pool) in enumerate(zip(value, pools, strict=True)):
        if len(pool):
            p[row], smallest[row] = (1 + (pool >= own).sum()) / (1 + len(pool)), 1 / (1 + len(pool))
    return p, smallest


def adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values of one family; NaN stays NaN and is no member."""
    q, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


def q_values(observed: pd.DataFrame, fdr: float) -> np.ndarray:
    """q of each row of `observed`, which has columns p and smallest_p.

    A row whose p could not be as small as `fdr` is not tested: NaN, and no member of its family.

    The families: the C own blocks; the C exclusive shared dims; the S × C shared usages. Dims of a block are tested
    only where the block is called, at a level that makes up for the choice of blocks (Benjamini & Bogomolov 2014,
    doi:10.1111/rssb.12028): the q of a dim is that within its block, times C over the number of called blocks, and
    at least the block's. In a block that is not called it is 1.
    """
    q = np.full(len(observed), np.nan)
    rows = {name: (observed["statistic"] == name).to_numpy() for name in (OWN_BLOCK, OWN_DIM, SHARED, HIDDEN)}
    p, label = observed["p"].where(observed["smallest_p"] <= fdr).to_numpy(), observed["class"].to_numpy()
    for name in (OWN_BLOCK, SHARED, HIDDEN):
        q[rows[name]] = adjusted(p[rows[name]])
    of_block = {
        y: value for y, value in zip(label[rows[OWN_BLOCK]], q[rows[OWN_BLOCK]], strict=True) if not np.isnan(value)
    }
    called = [y for y, value in of_block.items() if value <= fdr]
    for y, block_q in of_block.items():
        dims = rows[OWN_DIM] & (label == y)
        within = adjusted(p[dims]) * len(of_block) / max(len(called), 1)
        q[dims] = np.minimum(np.maximum(within, block_q), 1) if y in called else 1.0
    return q


def members_of_a_factor(statistic: str, n_classes: int) -> int:
    """Tests of a family that one factor fails together, at least: a shared one has the usages of a majority."""
    return few(n_classes) + 1 if statistic == SHARED else 1


def is_sufficient(tested: pd.DataFrame, fdr: float) -> np.ndarray:
    """Whether a factor could be called were it alone in its family, (n,): if not, its absence is not shown either.

    Args:
        tested: statistics of a seed with smallest_p. A dim of a block is as its block.
        fdr: of the calls.
    """
    family = tested["statistic"].replace(OWN_DIM, OWN_BLOCK)
    n_classes, smallest = int(tested["class"].max()) + 1, tested["smallest_p"].to_numpy()
    sufficient = np.zeros(len(tested), bool)
    for name in (OWN_BLOCK, SHARED, HIDDEN):
        rows = (family == name).to_numpy()
        heads = (tested["statistic"] == name).to_numpy()
        needed_p = fdr * members_of_a_factor(name, n_classes) / max((smallest[heads] <= fdr).sum(), 1)
        by_class = dict(zip(tested["class"][heads], smallest[heads] <= min(needed_p, fdr) * (1 + 1e-9), strict=True))
        sufficient[rows] = [by_class[y] for y in tested["class"][rows]]
    return sufficient


def limits(tested: pd.DataFrame, refits: dict[str, int], kind: str, fdr: float) -> list[str]:
    """What so few refits cannot call, a sentence each; nothing where the null is large enough.

    Args:
        tested: statistics of a seed with smallest_p.
        refits: of each kind.
        kind: of those that test private factors.
        fdr: of the calls.
    """
    said, statistics, n_classes = [], set(tested["statistic"]), int(tested["class"].max()) + 1
    private = OWN_BLOCK if OWN_BLOCK in statistics else HIDDEN
    for name, statistic, of in (("private", private, kind), ("shared", SHARED, "no_factor")):
        needed = members_of_a_factor(statistic, n_classes)
        if statistic in statistics and refits.get(of, 0):
            smallest = tested.loc[tested["statistic"] == statistic, "smallest_p"].to_numpy()
            said += [f"null of {name} factors: {line}" for line in _limits(smallest, refits[of], of, fdr, needed)]
        elif statistic in (OWN_BLOCK, SHARED) and statistic in statistics:
            said.append(f"null of {name} factors: no refits of kind {of!r}, so none is called")
    return said


def _limits(smallest: np.ndarray, n_refits: int, kind: str, fdr: float, needed: int) -> list[str]:
    """Of one family, of which a factor has `needed` members: at most one sentence."""
    callable_p = smallest[smallest <= fdr]
    at_once = math.ceil(len(callable_p) * callable_p.max() / fdr - 1e-9) if len(callable_p) else 0
    n_never, of_range = len(smallest) - len(callable_p), sorted({f"{p:.2g}" for p in (smallest.min(), smallest.max())})
    limited = [f"{n_never} of {len(smallest)} tests cannot end in a call at fdr {fdr:g}"] if n_never else []
    if at_once > needed:
        limited.append(f"fewer than {at_once} of {len(callable_p)} together cannot be called at fdr {fdr:g}")
    if not limited:
        return []
    per_refit = (1 / smallest.max() - 1) / n_refits
    enough = math.ceil((len(smallest) / (needed * fdr) - 1) / per_refit - 1e-9)
    return [
        f"with {n_refits} refits of kind {kind!r} the smallest p is {' to '.join(of_range)}; {', and '.join(limited)}; "
        f"{enough} refits would do"
    ]
