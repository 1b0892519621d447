"""The step: changed samples as a file, and feature by feature as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import CounterfactualSettings
from nvae_bio.counterfactual.change import EFFECT, FACTUAL, LOWER, UPPER, change_samples
from nvae_bio.data.files import read_prepared, write_anndata, write_table
from nvae_bio.trained import load_model


def counterfactual_table(changed: AnnData) -> pd.DataFrame:
    """What the change does to each feature, by the class that samples had before.

    Args:
        changed: what `change_samples` returned.

    Returns:
        One row a class and feature, largest effects of a class first: class, as_class, feature, n_samples (with
        support), factual and counterfactual (mean, counts or the feature's unit), effect and its mean interval
        (`effect_lower`, `effect_upper`), effect_sd (over samples), unit, same_sign (share of samples whose interval is
        on the mean's side of 0).
    """
    parts, unit = [], str(changed.uns[schema.MODEL]["effect_unit"])
    supported = changed[changed.obs[schema.IS_SUPPORTED].to_numpy()]
    for (name, target), part in supported.obs.groupby([schema.LABEL, schema.AS_CLASS], observed=True):
        one = supported[part.index]
        effect, lower, upper = (
            np.asarray(one.layers[key]) for key in (EFFECT, f"{EFFECT}_{LOWER}", f"{EFFECT}_{UPPER}")
        )
        mean = effect.mean(0)
        table = pd.DataFrame(
            {
                "class": name,
                "as_class": target,
                "feature": one.var_names,
                "n_samples": one.n_obs,
                "factual": np.asarray(one.layers[FACTUAL]).mean(0),
                "counterfactual": np.asarray(one.X).mean(0),
                "effect": mean,
                "effect_lower": lower.mean(0),
                "effect_upper": upper.mean(0),
                "effect_sd": effect.std(0),
                "same_sign": np.where(mean > 0, lower > 0, upper < 0).mean(0),
                "unit": unit,
            }
        )
        parts.append(table.iloc[np.argsort(-np.abs(mean), kind="stable")])
    return pd.concat(parts, ignore_index=True)


def counterfactual(
    data: Path, weights: Path, card: Path, output: Path, settings: CounterfactualSettings, table: Path | None = None
) -> None:
    """Read a model and its data set, change samples, and write them as .h5ad, and the table as .parquet.

    Args:
        data: prepared data set of the model.
        weights, card: of the model.
        output: .h5ad to write.
        settings: which samples, and what is changed.
        table: .parquet to write, of `counterfactual_table`; None for none.

    Raises:
        UserError: as `change_samples`.
    """
    changed = change_samples(load_model(weights, card), read_prepared(data), settings)
    if table is not None:
        write_table(counterfactual_table(changed), table)
    write_anndata(changed, output)
