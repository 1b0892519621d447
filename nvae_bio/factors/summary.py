"""The factor report in words: what a reader should know before any figure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import PowerSettings
from nvae_bio.factors.capacity import capacity_lines
from nvae_bio.factors.leakage import leakage_lines
from nvae_bio.factors.power import power_lines

MAX_SUSPECTS = 10
MAX_APART = 10


def summary(report: AnnData, power: PowerSettings | None = None) -> list[str]:
    """The report as Markdown, a line each.

    Args:
        report: what `report_factors` makes, with all its tables.
        power: what was planted; None where nothing was.
    """
    model, obs = report.uns[schema.MODEL], report.obs
    n_seeds, published = len(model["seeds"]), obs["published"].to_numpy(dtype=bool)
    has_names = model["kind"] != "images"  # a pixel has none that says anything
    lines = [
        "# Factors", "",
        f"{int((published & (obs['kind'] == 'shared')).sum())} shared and "
        f"{int((published & (obs['kind'] == 'private')).sum())} private factors that the {n_seeds} seeds agree on"
        f"{'' if n_seeds > 1 else ' (one seed only)'}; found in fewer seeds: {int((~published).sum())}.",
    ]  # fmt: skip
    for title, part in (("Shared", "shared"), ("Private", "private")):
        rows = obs[published & (obs["kind"] == part).to_numpy()]
        lines += ["", f"## {title}", "", *_factors(rows, has_names)]
        lines += [] if len(rows) else ["- none"]
    apart = obs[~published]
    if len(apart):
        more = [f"- and {len(apart) - MAX_APART} more"] if len(apart) > MAX_APART else []
        lines += ["", "## Found in few seeds", "", *_factors(apart.head(MAX_APART), has_names), *more]
    lines += ["", "## Capacity", "", *(f"- {line}" for line in capacity_lines(model[schema.CAPACITY]))]
    if schema.POWER in model and power is not None:
        lines += ["", "## Power", "", *(f"- {line}" for line in power_lines(model[schema.POWER], power))]
    lines += ["", "## Leakage", "", *(f"- {line}" for line in leakage_lines(model[schema.LEAKAGE]))]
    if schema.SUSPECTS in model:
        lines += ["", "## Samples to look at", "", *_suspects(model[schema.SUSPECTS])]
    return [*lines, "", "## Notes", "", *(f"- {note}" for note in model["notes"])]


def _factors(rows: pd.DataFrame, has_names: bool) -> Iterator[str]:
    for place, name in enumerate(rows.index):
        yield _factor(str(name), rows.iloc[place], has_names)


def _factor(name: str, row: pd.Series, has_names: bool) -> str:
    """One factor in a line; with its features where they have names."""
    agreement = "" if np.isnan(row["agreement"]) else f", alike to {row['agreement']:.2f}"
    said = row["certificate"] if row["certificate"] and row["outcome"] == "active" else ""
    parts = [said] if said else []
    parts.append(f"{row['reading']}{agreement}")
    parts.append(
        f"worth {row['loss']:.2f} [{row['loss_lower']:.2f}, {row['loss_upper']:.2f}] nats a sample of {row['kl_class']}"
    )
    parts += [f"goes along with {row['tag']}"] if row["tag"] else []
    for direction, features in (("up", row["top_up"]), ("down", row["top_down"])):
        parts += [f"{direction}: {features}"] if features and has_names else []
    return f"- **{name}**: {'; '.join(parts)}"


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
