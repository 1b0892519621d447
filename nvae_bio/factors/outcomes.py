"""Every class × factor ends as active, inactive or under-powered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.factors.consensus import Factor, n_needed
from nvae_bio.factors.matching import units_of
from nvae_bio.factors.reading import is_spilled
from nvae_bio.factors.usage import HIDDEN, MIN_SPREAD, OWN_BLOCK, SHARED


@dataclass(frozen=True)
class Outcomes:
    """What is decided of the factors of a run.

    Attributes:
        by_class: `active`, `inactive` or `under-powered`, (factors, C).
        q: of as many seeds as must find a factor the largest, (factors, C); NaN where it was not asked.
        own: place of the class of a private factor, None of a shared one, (factors,).
        weak: kind of factor -> classes in which none could have been told from none.
    """

    by_class: np.ndarray
    q: np.ndarray
    own: list[int | None]
    weak: dict[str, set[str]]

    def of_factor(self, place: int) -> str:
        """Of a private factor that in its class; of a shared one `active` in any, else `under-powered` in all."""
        own = self.own[place]
        if own is not None:
            return str(self.by_class[place, own])
        found = set(self.by_class[place])
        return "active" if "active" in found else "under-powered" if found == {"under-powered"} else "inactive"


def weak_classes(tests: pd.DataFrame, statistics: Sequence[str], classes: Sequence[str]) -> set[str]:
    """Classes of which a seed at least had too few null values to call a factor that is alone in its family.

    Args:
        tests: `uns["nvae"]["tests"]` of the report of all seeds.
        statistics: which tests; a class without any is not weak.
        classes: names.
    """
    of = tests[tests["statistic"].isin(statistics)]
    by_class = of.groupby(of["class"].astype(str))["sufficient"].all()
    return {name for name in classes if name in by_class and not by_class[name]}


def _own_q(seeds: AnnData, row: int) -> float:
    """q of a member of a private factor: of its dim, or where it lies in z_s, that it is the class's alone."""
    of = seeds.obs.iloc[row]
    return float(of["hidden_q"] if of["kind"] == "shared" else of["q"])


def uses_of(seeds: AnnData, settings: ReportSettings) -> np.ndarray:
    """Which class uses which dim by the word of its seed alone, (rows of the report of seeds, C), bool.

    q at most `fdr`, KL at least `min_kl`, a gain above chance of `min_gain` or more on held-out samples, for a dim that
    fits noise has a KL too, and a variance within the class of a tenth of the prior's or more, for so has a dim that is
    constant there. The last two are asked of shared dims.
    """
    q, kl = (np.asarray(seeds.obsm[key]) for key in (schema.Q_BY_CLASS, schema.KL_BY_CLASS))
    spread, gain = (np.asarray(seeds.obsm[key]) for key in (schema.SPREAD_BY_CLASS, schema.GAIN_BY_CLASS))
    is_large = (kl >= settings.min_kl) & ~(spread < MIN_SPREAD) & ~(gain < settings.min_gain)
    return np.asarray((q <= settings.fdr) & is_large)


def judge(
    factors: Sequence[Factor], seeds: AnnData, settings: ReportSettings, n_seeds: int, under_powered: Sequence[str] = ()
) -> Outcomes:
    """Outcomes of all factors in all classes.

    A private factor is active in its class where enough seeds call it (`n_needed`), and a class uses a shared one where
    as many say so (`uses_of`). What is not active is under-powered where the class was: planted programmes are missed,
    or the null is too small for any call. The tests of seeds look at the same samples: if each is wrong with
    probability α, that half of them are has at most 2 α (Rüger 1978), without any assumption on how they depend.

    Args:
        factors: of the run.
        seeds: what `report_seeds` gives.
        settings: of the report.
        n_seeds: of the run.
        under_powered: classes in which planted programmes of the reference size are missed too often.
    """
    classes, tests = [str(name) for name in seeds.uns[schema.MODEL]["classes"]], seeds.uns[schema.MODEL][schema.TESTS]
    weak = {
        "private": weak_classes(tests, (OWN_BLOCK, HIDDEN), classes) | set(under_powered),
        "shared": weak_classes(tests, (SHARED,), classes) | set(under_powered),
    }
    q_of_dims, uses = np.asarray(seeds.obsm[schema.Q_BY_CLASS]), uses_of(seeds, settings)
    is_called = (seeds.obs["outcome"] == "active").to_numpy() | np.asarray(seeds.obsm[schema.PRIVATE_TO]).any(1)
    by_class = np.full((len(factors), len(classes)), "inactive", dtype=object)
    q = np.full((len(factors), len(classes)), np.nan)
    for place, one in enumerate(factors):
        by_class[place, [name in weak[one.kind] for name in classes]] = "under-powered"
        rows, needed = [member.row for member in one.members], n_needed(n_seeds, settings)
        if one.label:
            own = classes.index(one.label)
            q[place, own] = np.sort([_own_q(seeds, row) for row in rows])[:needed][-1]
            active = (np.arange(len(classes)) == own) & (is_called[rows].sum() >= needed)
        else:
            q[place] = np.sort(q_of_dims[rows], axis=0)[:needed][-1]
            active = uses[rows].sum(0) >= needed
        by_class[place, active] = "active"
    return Outcomes(by_class, q, [classes.index(one.label) if one.label else None for one in factors], weak)


def readings(
    factors: Sequence[Factor], outcomes: Outcomes, effect: np.ndarray, seeds: AnnData, settings: ReportSettings
) -> pd.DataFrame:
    """What each factor is, in words.

    Args:
        factors: of the run.
        outcomes: of them.
        effect: (factors, features).
        seeds: what `report_seeds` gives; its readings say where a shared factor spilled.
        settings: `agreement`.

    Returns:
        Columns reading, and private_to: the classes that have a private factor for themselves, those with like ones
        too; empty where it is shared.
    """
    active = np.array([outcomes.of_factor(place) == "active" for place in range(len(factors))], dtype=bool)
    private = np.array([bool(one.label) for one in factors], dtype=bool)
    unit, rows = units_of(effect), []
    alike = np.abs(unit @ unit.T) >= settings.agreement
    for place, one in enumerate(factors):
        found = f"in {one.n_found} of {seeds.obs['seed'].nunique()} seeds"
        of_seeds = seeds.obs.iloc[[member.row for member in one.members]]
        spilled = of_seeds.loc[is_spilled(of_seeds), "reading"].astype(str)
        if len(spilled) * 2 > len(of_seeds):  # called or not: a null that is as short of room calls none of them
            rows.append((spilled.iloc[0], ""))
        elif not active[place]:
            is_weak = outcomes.of_factor(place) == "under-powered"
            rows.append((f"{'not to be judged, ' if is_weak else ''}found {found}", ""))
        elif not one.label:
            rows.append((f"found {found}", ""))
        else:
            others = alike[place] & active & private & (np.arange(len(factors)) != place)
            names = [one.label, *dict.fromkeys(factors[i].label for i in np.flatnonzero(others).tolist())]
            n_hidden = sum(member.kind == "shared" for member in one.members)
            said = f"private to {', '.join(names)}" + (", with like effects" if len(names) > 1 else "")
            hidden = f"; hidden in z_s in {n_hidden} of them" if n_hidden else ""
            rows.append((f"{said}, found {found}{hidden}", ", ".join(names)))
    return pd.DataFrame(rows, columns=["reading", "private_to"])
