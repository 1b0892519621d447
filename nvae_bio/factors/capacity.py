"""How many private factors each class has, and whether its block has room for more."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.factors.reading import is_spilled

HIDDEN_SHARE = 0.5  # of the seeds, in which a private factor must lie in z_s to be called hidden there


def is_published(report: AnnData, kind: str) -> np.ndarray:
    """Which factors of a kind, `shared` or `private`, were found in enough seeds, (factors,), bool."""
    return np.asarray((report.obs["kind"] == kind).to_numpy() & report.obs["published"].to_numpy(bool))


def is_active(report: AnnData, kind: str) -> np.ndarray:
    """Which factors of a kind are there, and are of that kind, wherever they lie, (factors,), bool."""
    return np.asarray(
        is_published(report, kind) & (report.obs["outcome"] == "active").to_numpy() & ~is_spilled(report.obs)
    )


def is_hidden(report: AnnData) -> np.ndarray:
    """Which private factors lie in z_s, and not in a block, in half of the seeds or more, (factors,), bool."""
    members = report.uns[schema.MODEL][schema.MEMBERS]
    in_shared = members[(members["kind"] == "shared").to_numpy()].groupby("factor", observed=True)["seed"].nunique()
    n_seeds = in_shared.reindex(report.obs_names, fill_value=0).to_numpy()
    private = (report.obs["kind"] == "private").to_numpy()
    return np.asarray(private & (n_seeds >= HIDDEN_SHARE * report.obs["n_seeds"].to_numpy()))


def capacity(report: AnnData) -> pd.DataFrame:
    """Private factors and private dims of each class.

    Args:
        report: consensus factors of a run.

    Returns:
        A row a class: class, n_private (K, dims of its block), n_used (published private factors that are active),
        n_hidden (those of them that lie in z_s), n_spilled (dims that hold what most classes share), n_found_once
        (private factors that one seed alone of several has), room_left (dims of the block that no factor uses),
        under_powered (whether a private factor could not be told from none).
    """
    classes = [str(name) for name in report.uns[schema.MODEL]["classes"]]
    n_private = int(report.uns[schema.MODEL]["n_private"])
    of_class, used, obs = report.obs["class"].astype(str), is_active(report, "private"), report.obs
    once = ((obs["kind"] == "private") & (obs["n_found"] == 1) & (obs["n_seeds"] > 1)).to_numpy()

    def counted(rows: np.ndarray) -> np.ndarray:
        return np.asarray(of_class[rows].value_counts().reindex(classes, fill_value=0))

    table = pd.DataFrame({"class": classes, "n_private": n_private, "n_used": counted(used)})
    table["n_hidden"], table["n_found_once"] = counted(used & is_hidden(report)), counted(once)
    table["n_spilled"] = counted(is_published(report, "private") & is_spilled(report.obs))
    in_block = table["n_used"] - table["n_hidden"] + table["n_spilled"]
    table["room_left"] = (n_private - in_block).clip(lower=0)
    table["under_powered"] = table["class"].isin(list(report.uns[schema.MODEL].get(schema.UNDER_POWERED, [])))
    return table


def capacity_lines(table: pd.DataFrame) -> list[str]:
    """A plain line a class of what `capacity` returns; one in all where the model has no private dims.

    >>> capacity_lines(pd.DataFrame([{"class": "NK cells", "n_private": 1, "n_used": 1, "n_hidden": 0, "n_spilled": 0,
    ...     "n_found_once": 2, "room_left": 0, "under_powered": False}]))
    ['class NK cells uses 1 private factor; 1 of 1 private dims taken, no room left; found in one seed alone: 2']
    """
    if not table["n_private"].any():
        return ["this model has no private dims"]
    return [_line(row) for _, row in table.iterrows()]


def _line(row: pd.Series) -> str:
    """Of a class; where nothing could be called, that is said in place of a number."""
    n_used, n_taken = int(row["n_used"]), int(row["n_private"] - row["room_left"])
    if row["under_powered"] and not n_used:
        said = "under-powered, whether it has a private factor cannot be told"
    else:
        said = f"uses {n_used} private factor{'' if n_used == 1 else 's'}"
    room = f"room for {row['room_left']} more" if row["room_left"] else "no room left"
    parts = [f"class {row['class']} {said}" if n_used or not row["under_powered"] else f"class {row['class']}: {said}"]
    parts[0] += f"; {n_taken} of {row['n_private']} private dims taken, {room}"
    parts += [f"in z_s: {row['n_hidden']}"] if row["n_hidden"] else []
    parts += [f"dims that hold what most classes share: {row['n_spilled']}"] if row["n_spilled"] else []
    parts += [f"found in one seed alone: {row['n_found_once']}"] if row["n_found_once"] else []
    return "; ".join(parts)
