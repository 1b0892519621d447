"""The factor report in words: what a reader should know before any figure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import PowerSettings, ReportSettings
from nvae_bio.factors.associations import OVER_DONORS
from nvae_bio.factors.capacity import capacity_lines, is_active
from nvae_bio.factors.enrichment import COLUMNS as ENRICHED
from nvae_bio.factors.power_table import power_lines
from nvae_bio.factors.reading import NOT_AUDITED, is_spilled

MAX_SUSPECTS = 10
MAX_APART = 10
MAX_SETS = 2  # of a factor and direction


def summary(report: AnnData, power: PowerSettings | None = None) -> list[str]:
    """The report as Markdown, a line each.

    Args:
        report: what `report_factors` makes, with all its tables.
        power: what was planted; None where nothing was.
    """
    model, obs = report.uns[schema.MODEL], report.obs
    published, tell = obs["published"].to_numpy(dtype=bool), _Words.of(report)
    lines = ["# Factors", "", _headline(report)]
    for title, part in (("Shared", "shared"), ("Private", "private")):
        rows = obs[published & (obs["kind"] == part).to_numpy()]
        lines += ["", f"## {title}", "", *tell.factors(rows)]
        lines += [] if len(rows) else ["- none"]
    apart = obs[~published]
    if len(apart):
        more = [f"- and {len(apart) - MAX_APART} more"] if len(apart) > MAX_APART else []
        lines += ["", "## Found in few seeds", "", *tell.factors(apart.head(MAX_APART)), *more]
    lines += ["", "## Capacity", "", *(f"- {line}" for line in capacity_lines(model[schema.CAPACITY]))]
    if schema.POWER in model and power is not None:
        lines += ["", "## Power", "", *(f"- {line}" for line in power_lines(model[schema.POWER], power))]
    lines += ["", "## Leakage", "", *(f"- {line}" for line in leakage_lines(model[schema.LEAKAGE]))]
    if schema.SUSPECTS in model:
        lines += ["", "## Samples to look at", "", *_suspects(model[schema.SUSPECTS])]
    return [*lines, "", "## Notes", "", *(f"- {note}" for note in model["notes"])]


def _headline(report: AnnData) -> str:
    """How many factors there are, and how many cannot be judged."""
    obs, n_seeds = report.obs, len(report.uns[schema.MODEL]["seeds"])
    published, spilled = obs["published"].to_numpy(dtype=bool), is_spilled(obs)
    n_shared, n_private = (int(is_active(report, kind).sum()) for kind in ("shared", "private"))
    unsure = int((published & ~spilled & (obs["outcome"] == "under-powered").to_numpy()).sum())
    seeds = f"the {n_seeds} seeds agree on" if n_seeds > 1 else "the one seed has"
    said = [f"{n_shared} shared and {n_private} private factors are there, by what {seeds}"]
    said += [f"dims of blocks that hold what most classes share: {int((published & spilled).sum())}"] * any(spilled)
    said += [f"not to be judged (under-powered): {unsure}"] if unsure else []
    said += [f"found in too few seeds: {int((~published).sum())}"] if n_seeds > 1 else []
    return "; ".join(said) + "."


@dataclass(frozen=True)
class _Words:
    """What all lines on factors need.

    Attributes:
        has_names: whether features have names that say anything, as those of pixels do not.
        enriched: gene sets of q at most `fdr`, the best of each factor and direction first.
        over_samples: columns whose association was tested over samples alone.
    """

    has_names: bool
    enriched: pd.DataFrame
    over_samples: set[tuple[str, str]]

    @classmethod
    def of(cls, report: AnnData) -> _Words:
        model = report.uns[schema.MODEL]
        sets = model.get(schema.ENRICHMENT, pd.DataFrame(columns=list(ENRICHED)))
        sets = sets[(sets["q"] <= ReportSettings.model_validate_json(model["report"]).fdr).to_numpy()]
        of = model[schema.ASSOCIATIONS]
        untested = of[of["role"].isin(OVER_DONORS).to_numpy() & of["donor_p"].isna().to_numpy()]
        pairs = {(str(factor), str(role)) for factor, role in untested[["factor", "role"]].to_numpy()}
        return cls(model["kind"] != "images", sets.sort_values("q", kind="stable"), pairs)

    def factors(self, rows: pd.DataFrame) -> Iterator[str]:
        """A line a factor."""
        for place, name in enumerate(rows.index):
            yield self.factor(str(name), rows.iloc[place])

    def factor(self, name: str, row: pd.Series) -> str:
        """One factor in a line; with its features where they have names."""
        agreement = "" if np.isnan(row["agreement"]) else f", alike to {row['agreement']:.2f}"
        said = row["certificate"] if row["certificate"] and row["outcome"] == "active" else ""
        parts = [said] if said else []
        parts.append(f"{row['reading']}{agreement}")
        known = np.isfinite([row["loss_lower"], row["loss_upper"]]).all()
        ends = f"[{row['loss_lower']:.2f}, {row['loss_upper']:.2f}]" if known else "(too few samples for an interval)"
        parts.append(f"worth {row['loss']:.2f} {ends} nats a sample of {row['kl_class']}")
        parts += [f"goes along with {self.tag(name, row['tag'])}"] if row["tag"] else []
        for direction, features in (("up", row["top_up"]), ("down", row["top_down"])):
            parts += [f"{direction}: {features}{self.sets(name, direction)}"] if features and self.has_names else []
        return f"- **{name}**: {'; '.join(parts)}"

    def tag(self, name: str, tag: str) -> str:
        """The tag, and whether it rests on samples alone."""
        role = tag.partition(":")[0]
        return f"{tag} (over samples; not tested over donors)" if (name, role) in self.over_samples else tag

    def sets(self, name: str, direction: str) -> str:
        """The gene sets most enriched in one direction; empty for none."""
        own = self.enriched[((self.enriched["factor"] == name) & (self.enriched["direction"] == direction)).to_numpy()]
        best = own.head(MAX_SETS)
        shown = [f"{found} (q {q:.1g})" for found, q in zip(best["set"], best["q"], strict=True)]
        return f" (enriched: {', '.join(shown)})" if shown else ""


def _suspects(table: pd.DataFrame) -> Iterator[str]:
    """How many of each suspicion, and the strongest ones."""
    if table.empty:
        yield "- none"
    for suspicion, rows in table.groupby("suspicion", sort=False, observed=True):
        shown = rows[["sample", "label", "other_class"]].astype(str).head(MAX_SUSPECTS).to_numpy().tolist()
        first = ", ".join(
            f"{name} ({label} → {other})" if other else f"{name} ({label})" for name, label, other in shown
        )
        more = f", and {len(rows) - MAX_SUSPECTS} more" if len(rows) > MAX_SUSPECTS else ""
        yield f"- {suspicion}: {len(rows)}: {first}{more}"


def leakage_lines(table: pd.DataFrame) -> list[str]:
    """A plain line a target and latent.

    Over seeds, scores are means, the interval goes from the lowest lower to the highest upper end, and a seed is as the
    worst of its probes.

    Args:
        table: of `leakage_audit`; of several seeds one below the other.
    """
    return [_line(rows) for _, rows in table.groupby(["target", "latent"], sort=False)]


def _line(rows: pd.DataFrame) -> str:
    """Of one target and latent."""
    first = rows.iloc[0]
    place = f"{first['target']} from {first['latent']}" if first["latent"] else first["target"]
    if first["verdict"] == NOT_AUDITED:
        return f"{first['note']}: {place} is not audited"
    scores = []
    for probe, found in rows.groupby("probe", sort=False):
        score, lower, upper = found["score"].mean(), found["lower"].min(), found["upper"].max()
        scores.append(f"{_short(score)} [{_short(lower)}, {_short(upper)}] ({probe})")
    name = "R²" if first["target"] == "depth" else "balanced accuracy"
    within = " within classes" if first["target"] == "depth" or first["latent"] == "z_c" else ""
    left_out = f"; {first['note']}: left out" if first["note"] else ""
    return (
        f"{place}: {name}{within} {', '.join(scores)}, chance {_short(first['chance'])}: {_over_seeds(rows)} "
        f"(limit {_short(first['limit'])}){left_out}"
    )


def _over_seeds(rows: pd.DataFrame) -> str:
    """The verdict of all seeds, or the worst and in how many of them it is."""
    of_seed = [set(verdicts) for _, verdicts in rows.groupby("seed")["verdict"]]
    worst = next(name for name in ("fail", "undecided", "pass") if any(name in found for found in of_seed))
    n_worst = sum(worst in found for found in of_seed)
    return worst if n_worst == len(of_seed) else f"{worst} in {n_worst} of {len(of_seed)} seeds"


def _short(value: float) -> str:
    """Two decimals without the leading 0: .28, -.03, 1.00."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{round(value, 2) + 0.0:.2f}")  # + 0.0: no -.00
