"""What was left out on the way from a source to a prepared file, and why."""

from __future__ import annotations

from typing import Literal

import pandas as pd

What = Literal["cells", "genes", "samples", "features"]


class RemovalLog:
    """Rows of the table `uns["nvae_data"]["removed"]`, in the order in which things happened.

    >>> log = RemovalLog()
    >>> log.add("qc", "cells", "fewer than 200 genes", n_removed=3, n_left=97)
    >>> log.table().n_left.tolist()
    [97]
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, int, int]] = []

    def add(self, step: str, what: What, reason: str, n_removed: int, n_left: int) -> None:
        """Note one filter, also one that took nothing away."""
        self._rows.append((step, what, reason, int(n_removed), int(n_left)))

    def table(self) -> pd.DataFrame:
        """All rows: step, what, reason, n_removed, n_left."""
        table = pd.DataFrame(self._rows, columns=["step", "what", "reason", "n_removed", "n_left"])
        return table.set_axis([str(i) for i in range(len(table))], axis=0)
