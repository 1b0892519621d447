"""In how many runs planted programmes were found, class by class, and what that says in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from nvae_bio.config import PowerSettings, ReportSettings
from nvae_bio.factors.decide import kind_of_null, of_kind, pooled, pooled_p
from nvae_bio.factors.together import check_planted
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK

MIN_CORRELATION = 0.3  # |r| with the planted activity from which on a latent is that of the programme


def _is_called(found: pd.DataFrame, statistic: str, null: pd.DataFrame, sizes: np.ndarray, fdr: float) -> np.ndarray:
    """Which programmes would be called were each the only factor of its family, (rows,).

    The largest p that has a q of `fdr` then is `fdr` over the size of the family: classes whose p could be as small as
    `fdr` (`nvae_bio.factors.decide.q_values`).
    """
    pools = _pools(found, statistic, null, sizes)
    p, smallest = pooled_p(found[statistic].to_numpy(), pools)
    n_tested = found["class"][smallest <= fdr].nunique()
    return np.asarray(p * max(n_tested, 1) <= fdr * (1 + 1e-9))


def _pools(found: pd.DataFrame, statistic: str, null: pd.DataFrame, sizes: np.ndarray) -> list[np.ndarray]:
    """Null values that each row is compared with; none where the model has no such latent."""
    observed = found.assign(statistic=statistic)
    pools = pooled(observed, null, sizes)
    return [pool if known else pool[:0] for pool, known in zip(pools, found[statistic].notna(), strict=True)]


def is_found(found: pd.DataFrame, null: pd.DataFrame, sizes: np.ndarray, settings: ReportSettings) -> np.ndarray:
    """Whether each planted programme was found, (rows,).

    It was if its own block is called, at least `min_gain` above the median of its null, and has a dim with |r| of 0.3
    or more with the planted activity; or if a shared dim that the class has for itself is called and has such an r.

    Args:
        found: as `plant_and_find` gives it.
        null: of the run, all kinds together.
        sizes: training samples of each class, (C,).
        settings: of the report.
    """
    null = of_kind(null, kind_of_null(bool(found[HIDDEN].notna().any()), settings))
    medians = [np.median(pool) if len(pool) else np.nan for pool in _pools(found, OWN_BLOCK, null, sizes)]
    by_block = _is_called(found, OWN_BLOCK, null, sizes, settings.fdr)
    by_block &= (found[OWN_BLOCK] - medians >= settings.min_gain).to_numpy()
    by_block &= (found["r_block"] >= MIN_CORRELATION).to_numpy()
    by_hidden = _is_called(found, HIDDEN, null, sizes, settings.fdr)
    return np.asarray(by_block | (by_hidden & (found["r_hidden"] >= MIN_CORRELATION).to_numpy()))


def power_table(
    found: pd.DataFrame,
    null: pd.DataFrame,
    sizes: np.ndarray,
    classes: Sequence[str],
    settings: ReportSettings,
    power: PowerSettings,
) -> pd.DataFrame:
    """How often programmes are found, by class and fold change.

    Args:
        found: what `plant_and_find` returned, all runs together.
        null: what `refit_null` found, all refits of all kinds together. With too few to call anything, nothing is
            found either.
        sizes: training samples of each class, (C,).
        classes: their names.
        settings: of the report: with them a factor is called.
        power: what was planted.

    Returns:
        A row a class and fold change: class, fold_change, n_runs, n_found, power (their ratio), lower and upper (its
        Clopper-Pearson interval at `confidence`), n_genes, share, mean_count (of these genes, counts a cell).

    Raises:
        UserError: plantings that do not fit (`check_planted`).
    """
    check_planted(found, power, classes)
    rows, judged = [], found.assign(is_found=is_found(found, null, sizes, settings))
    for _, part in judged.groupby(["class", "fold_change"]):
        first, n_runs, n_found = part.iloc[0], len(part), int(part["is_found"].sum())
        lower, upper = binomtest(n_found, n_runs).proportion_ci(settings.confidence, method="exact")
        rows.append({
            "class": classes[int(first["class"])], "fold_change": first["fold_change"], "n_runs": n_runs,
            "n_found": n_found, "power": n_found / n_runs, "lower": lower, "upper": upper,
            "n_genes": int(first["n_genes"]), "share": power.share, "mean_count": part["mean_count"].mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _needed(n_runs: pd.Series, power: PowerSettings) -> np.ndarray:
    """Finds that are enough, of so many runs."""
    return np.asarray(np.ceil(power.needed * n_runs - 1e-9).astype(int))


def _cells(name: str) -> str:
    """The cells of a class, whose name may say that it is cells.

    >>> _cells("NK"), _cells("B cells"), _cells("Monocytes")
    ('NK cells', 'B cells', 'Monocytes')
    """
    return name if name.endswith("s") else f"{name} cells"


def power_lines(table: pd.DataFrame, power: PowerSettings) -> list[str]:
    """One sentence a class: how often a programme of the reference fold change is found, and what is found for sure.

    The smallest fold change is told from which on all planted ones are found in enough runs.

    Args:
        table: as `power_table` gives it.
        power: what was planted.
    """
    said = []
    for name, part in table.groupby("class", sort=False):
        part = part.sort_values("fold_change")
        at = part[(part["fold_change"] == power.reference_fold_change).to_numpy()].iloc[0]
        is_enough = (part["n_found"] >= _needed(part["n_runs"], power)).to_numpy()
        from_here_on = np.logical_and.accumulate(is_enough[::-1])[::-1]
        smallest = part["fold_change"].to_numpy()[from_here_on][:1]
        enough = f"in at least {_needed(part['n_runs'], power)[-1]} of {part['n_runs'].iloc[-1]}"
        always = f"{enough} at {smallest[0]:g}-fold or more" if len(smallest) else f"none of the planted sizes {enough}"
        weak = f"; its genes have {at['mean_count']:.2g} counts a cell, for lack of others"
        said.append(
            f"a programme of {at['n_genes']} genes at {at['fold_change']:g}-fold in {100 * at['share']:g} % of "
            f"{_cells(str(name))} would be found in {at['n_found']} of {at['n_runs']} runs, and {always}"
            + (weak if at["mean_count"] < power.min_mean else "")
        )
    return said


def under_powered(table: pd.DataFrame, power: PowerSettings) -> list[str]:
    """Names of the classes in which a programme of the reference fold change is found in too few runs.

    Args:
        table: as `power_table` gives it.
        power: `reference` and `needed`.
    """
    at = table[(table["fold_change"] == power.reference_fold_change).to_numpy()]
    return [str(name) for name in at.loc[at["n_found"] < _needed(at["n_runs"], power), "class"]]
