"""How many private factors each class has, and whether its block has room for more."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema

HIDDEN_SHARE = 0.5  # of the seeds, in which a private factor must lie in z_s to be called hidden there


def is_published(report: AnnData, kind: str) -> np.ndarray:
    """Which factors of a kind, `shared` or `private`, were found in enough seeds, (factors,), bool."""
    return np.asarray((report.obs["kind"] == kind).to_numpy() & report.obs["published"].to_numpy(bool))


def is_active(report: AnnData, kind: str) -> np.ndarray:
    """Which of them are there, (factors,), bool."""
    return np.asarray(is_published(report, kind) & (report.obs["outcome"] == "active").to_numpy())


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
        n_hidden (those of them that lie in z_s), n_found_once (private factors that one seed alone of several has),
        room_left (dims of the block that no factor uses).
    """
    classes = [str(name) for name in report.uns[schema.MODEL]["classes"]]
    n_private = int(report.uns[schema.MODEL]["n_private"])
    of_class, used, obs = report.obs["class"].astype(str), is_active(report, "private"), report.obs
    once = ((obs["kind"] == "private") & (obs["n_found"] == 1) & (obs["n_seeds"] > 1)).to_numpy()

    def counted(rows: np.ndarray) -> np.ndarray:
        return np.asarray(of_class[rows].value_counts().reindex(classes, fill_value=0))

    table = pd.DataFrame({"class": classes, "n_private": n_private, "n_used": counted(used)})
    table["n_hidden"], table["n_found_once"] = counted(used & is_hidden(report)), counted(once)
    table["room_left"] = (n_private - table["n_used"] + table["n_hidden"]).clip(lower=0)
    return table


def capacity_lines(table: pd.DataFrame) -> list[str]:
    """A plain line a class of what `capacity` returns; one in all where the model has no private dims.

    >>> capacity_lines(pd.DataFrame([["NK cells", 1, 1, 0, 2, 0]], columns=["class", "n_private", "n_used", "n_hidden",
    ...     "n_found_once", "room_left"]))
    ['class NK cells uses 1 of 1 private dims: no room left; found in one seed alone: 2']
    """
    if not table["n_private"].any():
        return ["this model has no private dims"]
    return [_line(*row) for row in table.itertuples(index=False, name=None)]


def _line(name: str, n_private: int, n_used: int, n_hidden: int, n_found_once: int, room_left: int) -> str:
    hidden = f"; in z_s besides: {n_hidden}" if n_hidden else ""
    once = f"; found in one seed alone: {n_found_once}" if n_found_once else ""
    room = f"room for {room_left} more" if room_left else "no room left"
    return f"class {name} uses {n_used - n_hidden} of {n_private} private dims: {room}{hidden}{once}"
