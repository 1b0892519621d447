"""Columns of obs that settings name, and samples named by values of these: left out, or held out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nvae_bio.config import Dataset
from nvae_bio.data.names import as_text
from nvae_bio.data.removed import RemovalLog
from nvae_bio.errors import UserError, listed


def check_column(obs: pd.DataFrame, key: str, setting: str, where: str) -> None:
    """A column that a setting names is there.

    Raises:
        UserError: it is not.
    """
    if key not in obs:
        raise UserError(f"{where}: {setting}: no column {key!r}; allowed: {listed(obs.columns) or 'none'}")


def samples_with(obs: pd.DataFrame, key: str, wanted: str | list[str], setting: str, where: str) -> np.ndarray:
    """Which samples have one of the values in a column, (n,), bool.

    Args:
        obs: of the source.
        key: its column.
        wanted: value or values.
        setting: that names them, for messages.
        where: the source, for messages.

    Raises:
        UserError: an unknown column, or a value that no sample has.
    """
    check_column(obs, key, setting, where)
    text, several = as_text(obs[key]), [wanted] if isinstance(wanted, str) else wanted
    for value in several:
        if not (text == value).any():
            there = listed(sorted(text.dropna().unique()))
            raise UserError(f"{where}: {setting}.{key}: no sample has {value!r}; allowed: {there}")
    found: np.ndarray = text.isin(several).to_numpy()
    return found


def drop_samples(obs: pd.DataFrame, rows: np.ndarray, settings: Dataset, log: RemovalLog, where: str) -> np.ndarray:
    """Leave out the samples that `drop` names: those with one of the values in any of its columns.

    Args:
        obs: of the source.
        rows: which of its samples are kept so far, (n,) booleans.
        settings: `drop`.
        log: takes a row a column.
        where: the source, for messages.

    Returns:
        Which samples are still kept, (n,) booleans.

    Raises:
        UserError: an unknown column, a value that no sample has, or no sample is left.
    """
    for key, wanted in settings.drop.items():
        left = rows & ~samples_with(obs, key, wanted, "drop", where)
        log.add("drop", "samples", said({key: wanted}), int(rows.sum() - left.sum()), int(left.sum()))
        rows = left
    if settings.drop and not rows.any():
        raise UserError(f"{where}: drop: all samples have {said(settings.drop, ' or ')}; allowed: some without")
    return rows


def held_out_samples(obs: pd.DataFrame, values: Mapping[str, str | list[str]], where: str) -> np.ndarray:
    """Which samples have one of the values in each column, (n,), bool; none where no value is given.

    Args:
        obs: of the source.
        values: column -> value or values, `hold_out` of a data set.
        where: the source, for messages.

    Raises:
        UserError: an unknown column or value, no sample with all of them, or no other sample.
    """
    held = np.full(len(obs), bool(values))
    for key, wanted in values.items():
        held &= samples_with(obs, key, wanted, "hold_out", where)
    if values and not held.any():
        raise UserError(f"{where}: hold_out: no sample has all of {said(values)}; allowed: at least 1")
    if values and held.all():
        raise UserError(f"{where}: hold_out: all samples have {said(values)}; allowed: some without, to train on")
    return held


def said(values: Mapping[str, str | list[str]], sep: str = ", ") -> str:
    """Column and values, as a message names them."""
    return sep.join(
        f"{key} {value!r}" if isinstance(value, str) else f"{key} {' or '.join(map(repr, value))}"
        for key, value in values.items()
    )
