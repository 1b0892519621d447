"""What the called factors mean together, in words: private, shared, hidden in z_s, or spilled for S is too small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components

from nvae_bio.config import EMPTY_NATS
from nvae_bio.factors.usage import few

NOT_AUDITED = "not audited"  # a verdict of the leakage audit
SPILLED = "S is too small"  # how the reading of a shared factor in private blocks ends


def is_spilled(obs: pd.DataFrame) -> np.ndarray:
    """Which factors of a report are one shared factor that the blocks of most classes hold, by `reading`, bool."""
    return np.asarray(obs["reading"].astype(str).str.contains(SPILLED, regex=False), dtype=bool)


def alike(effect: np.ndarray, block: np.ndarray, agreement: float) -> np.ndarray:
    """Groups of factors of different blocks whose effects agree: |cos| of two is at least `agreement`.

    Args:
        effect: (factors, features).
        block: which block each factor is of, (factors,).
        agreement: 0 to 1.

    Returns:
        Number of the group of each factor, (factors,).
    """
    unit = effect / np.maximum(np.linalg.norm(effect, axis=1, keepdims=True), 1e-12)
    near = (np.abs(unit @ unit.T) >= agreement) & (block[:, None] != block[None, :])
    return np.asarray(connected_components(near, directed=False)[1])


def read_factors(
    table: pd.DataFrame, effect: np.ndarray, usage: np.ndarray, classes: Sequence[str], agreement: float
) -> pd.DataFrame:
    """The reading of each factor of one seed.

    Args:
        table: a row a factor: kind, class, kl (nats), outcome, hidden_in (classes that use the shared dim alone, a
            list).
        effect: decoded effect of each factor, (factors, features); NaN where unknown.
        usage: whether each class was found to use the factor, (factors, C), bool.
        classes: names.
        agreement: |cos| from which on effects of private factors of different classes count as one.

    Returns:
        Columns reading (a sentence, empty for a factor that is not active and did not spill) and private_to (a list of
        the classes that have the factor for themselves; empty where it is shared or not active).
        Private dims of most classes with like effects are one shared factor that spilled, called or not: a null that is
        as short of shared dims as the model calls none of them.
    """
    reading = [""] * len(table)
    private_to: list[list[str]] = [[] for _ in range(len(table))]
    active = (table["outcome"] == "active").to_numpy()
    kind, label = table["kind"].to_numpy(), table["class"].astype(str).to_numpy()
    used = np.flatnonzero((kind == "private") & (active | (table["kl"] >= EMPTY_NATS).to_numpy()))
    groups = alike(np.nan_to_num(effect[used]), label[used], agreement)
    for row, group in zip(used, groups, strict=True):
        alike_rows = used[groups == group]
        n_alike, members = len(set(label[alike_rows])), set(label[alike_rows[active[alike_rows]]])
        having = [name for name in classes if name in members]
        if n_alike > few(len(classes)):
            reading[row] = f"shared: blocks of {n_alike} classes have like effects; {SPILLED}"
        elif active[row]:
            reading[row] = f"private to {', '.join(having)}" + (", with like effects" if len(members) > 1 else "")
            private_to[row] = having
    for row in np.flatnonzero(kind == "shared"):
        alone = list(table["hidden_in"].iloc[row])
        if alone and len(alone) <= few(len(classes)):
            reading[row], private_to[row] = f"hidden in z_s: private to {', '.join(alone)}", alone
        elif active[row]:
            reading[row] = f"used by {int(usage[row].sum())} of {len(classes)} classes"
    return pd.DataFrame({"reading": reading, "private_to": private_to}, index=table.index)


def notes(table: pd.DataFrame) -> list[str]:
    """What the readings of all seeds say of the run's settings, a sentence each."""
    said = []
    spilled = table[is_spilled(table)]
    if len(spilled):
        said.append(
            f"S too small: in {spilled['seed'].nunique()} of {table['seed'].nunique()} seeds the private blocks of "
            "most classes hold the same factor; raise model.n_shared"
        )
    hidden = table[table["reading"].str.startswith("hidden in z_s")]
    if len(hidden):
        said.append(
            f"hidden in z_s: in {hidden['seed'].nunique()} of {table['seed'].nunique()} seeds a shared dim is used by "
            "few classes alone; it is reported as private to them, and a smaller model.n_shared or beta_private would "
            "move it into their blocks"
        )
    return said
