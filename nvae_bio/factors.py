"""Which factors are there, in which class, through which features (verb `factors`, rule `report_factors`).

The detector is the KL of each latent dim, averaged over the held-out (test) samples of a class:
K[y, d] = E_{x|y} KL(q(z_d|x) ‖ N(0, 1)), in nats. A KL is never below 0, so that an interval leaves out 0
means nothing; the provisional call compares with the KL of blocks that the decoder cannot see, which should be 0.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.data.files import read_embedded, write_anndata, write_table
from nvae_bio.errors import UserError

logger = logging.getLogger(__name__)

MIN_DONORS = 6  # below, an interval over donors means nothing and samples are resampled instead
CHUNK = 100  # bootstrap resamples drawn at a time


def bootstrap_interval(
    values: np.ndarray, units: np.ndarray | None, n_resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean of each column.

    Args:
        values: one row a sample, (n, columns).
        units: what is resampled, such as the donor of each sample, (n,); None for the samples themselves.
        n_resamples: bootstrap resamples.
        confidence: level of the interval, such as 0.95.
        rng: source of randomness.

    Returns:
        Lower and upper end, each (columns,); NaN where there are fewer than two units.

    Reference: Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    counts, sums = np.ones(len(values)), values
    if units is not None:
        codes, names = pd.factorize(units)
        counts = np.bincount(codes, minlength=len(names)).astype(float)
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, codes, values)
    n_units = len(sums)
    if n_units < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    means = []
    for start in range(0, n_resamples, CHUNK):
        size = min(CHUNK, n_resamples - start)
        drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=size).astype(float)
        means.append((drawn @ sums) / (drawn @ counts)[:, None])
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return lower, upper


def held_out(embedded: AnnData) -> AnnData:
    """The labelled test samples.

    Raises:
        UserError: a class has none.
    """
    rows = (embedded.obs[schema.SPLIT] == "test") & embedded.obs[schema.LABEL].notna()
    subset = embedded[rows.to_numpy()]
    for name in embedded.uns[schema.MODEL]["classes"]:
        if not (subset.obs[schema.LABEL] == name).any():
            raise UserError(f"class {name!r} has no held-out sample (split 'test'); its factors cannot be judged")
    return subset


def _factor_rows(embedded: AnnData) -> pd.DataFrame:
    """One row a latent dim, in the order shared, then blocks by class: seed, kind, class, dim."""
    model = embedded.uns[schema.MODEL]
    seed, classes = int(model["seed"]), list(model["classes"])
    rows = [{"seed": seed, "kind": "shared", "class": "", "dim": dim} for dim in range(int(model["n_shared"]))]
    rows += [
        {"seed": seed, "kind": "private", "class": name, "dim": dim}
        for name in classes
        for dim in range(int(model["n_private"]))
    ]
    table = pd.DataFrame(rows)
    names = table["kind"].where(table["kind"] == "shared", table["class"])
    table.index = pd.Index(
        [f"seed {seed} · {n} · {d}" for n, d in zip(names, table["dim"], strict=True)], name="factor"
    )
    return table


def _sample_kl(embedded: AnnData) -> np.ndarray:
    """KL of each sample and factor in the order of `_factor_rows`, nats, (n, factors)."""
    parts = [embedded.obsm[key] for key in (schema.KL_SHARED, schema.KL_PRIVATE) if key in embedded.obsm]
    return np.concatenate(parts, axis=1).astype(float)


def null_levels(
    kl: np.ndarray, table: pd.DataFrame, labels: np.ndarray, quantile: float, private_kl: str
) -> np.ndarray:
    """The KL that a factor must pass, in nats, (factors,).

    For a private factor: the `quantile` of its block's KL over held-out samples of other classes, which the decoder
    never sees through that block. For a shared one: the largest such level of all blocks. NaN where there is no
    structurally empty block: no private latent, one class only, or private_kl `own`, which leaves other blocks free.
    """
    levels = np.full(len(table), np.nan)
    if private_kl == "own":
        return levels
    for name in table.loc[table["kind"] == "private", "class"].unique():
        block = (table["class"] == name).to_numpy()
        others = kl[labels != name][:, block]
        if others.size:
            levels[block] = np.quantile(others, quantile)
    shared = (table["kind"] == "shared").to_numpy()
    if not np.isnan(levels[~shared]).all():
        levels[shared] = np.nanmax(levels[~shared])
    return levels


def outcome(lower: np.ndarray, null: np.ndarray, min_kl: float) -> np.ndarray:
    """`active` where the interval's lower end is above null and `min_kl`, else `inactive`; `undecided` without a null.

    >>> outcome(np.array([0.5, 0.1, 0.5, 0.001]), np.array([0.2, 0.2, np.nan, np.nan]), 0.01)
    array(['active', 'inactive', 'undecided', 'inactive'], dtype='<U9')
    """
    above = lower > np.fmax(null, min_kl)
    undecided = np.isnan(lower) | (np.isnan(null) & above)
    return np.where(undecided, "undecided", np.where(above, "active", "inactive"))


def _effects(embedded: AnnData, table: pd.DataFrame, suffix: str = "") -> np.ndarray:
    """Effect of each factor on each feature, (factors, features); NaN for a class that had no samples."""
    classes = list(embedded.uns[schema.MODEL]["classes"])
    rows = []
    for kind, name, dim in table[["kind", "class", "dim"]].itertuples(index=False):
        key = schema.EFFECT_SHARED if kind == "shared" else schema.effect_class(classes.index(name))
        found = embedded.varm.get(key + suffix)
        rows.append(np.full(embedded.n_vars, np.nan) if found is None else np.asarray(found)[:, dim])
    return np.array(rows, dtype=np.float32)


def top_features(effect: np.ndarray, names: np.ndarray, n_top: int) -> tuple[list[str], list[str]]:
    """Names of the features that rise and that fall most with each factor, comma-separated, strongest first.

    >>> top_features(np.array([[0.1, -2.0, 3.0]]), np.array(["a", "b", "c"]), 2)
    (['c, a'], ['b'])
    """
    up, down = [], []
    for row in effect:
        order = np.argsort(-row)
        up.append(", ".join(names[i] for i in order[:n_top] if row[i] > 0))
        down.append(", ".join(names[i] for i in order[::-1][:n_top] if row[i] < 0))
    return up, down


def _report_seed(embedded: AnnData, settings: ReportSettings, rng: np.random.Generator) -> AnnData:
    test, table = held_out(embedded), _factor_rows(embedded)
    model = embedded.uns[schema.MODEL]
    classes = list(model["classes"])
    kl, labels = _sample_kl(test), test.obs[schema.LABEL].astype(str).to_numpy()
    donors = test.obs[schema.DONOR].astype(str).to_numpy() if schema.DONOR in test.obs else None
    per_class = np.zeros((3, len(table), len(classes)))  # mean, lower, upper
    resampled = np.empty(len(classes), dtype=object)
    for index, name in enumerate(classes):
        rows = labels == name
        units = donors[rows] if donors is not None and len(set(donors[rows])) >= MIN_DONORS else None
        resampled[index] = "samples" if units is None else "donors"
        lower, upper = bootstrap_interval(kl[rows], units, settings.n_bootstrap, settings.confidence, rng)
        per_class[:, :, index] = kl[rows].mean(0), lower, upper
    # a shared factor is judged in the class that uses it most, a private one in its own class
    shared = (table["kind"] == "shared").to_numpy()
    judged = np.where(shared, per_class[0].argmax(1), [classes.index(c) if c else 0 for c in table["class"]])
    rows = np.arange(len(table))
    table["kl"], table["kl_lower"], table["kl_upper"] = per_class[:, rows, judged]
    table["kl_class"] = [classes[index] for index in judged]
    private_kl = json.loads(model["settings"])["model"]["private_kl"]
    table["null"] = null_levels(kl, table, labels, settings.null_quantile, private_kl)
    table["outcome"] = outcome(table["kl_lower"].to_numpy(), table["null"].to_numpy(), settings.min_kl)
    table["n_samples"] = [int((labels == name).sum()) for name in table["kl_class"]]
    table["resampled"] = resampled[judged]
    effect = _effects(embedded, table)
    table["top_up"], table["top_down"] = top_features(effect, np.array(embedded.var_names), settings.n_top_features)
    return AnnData(
        X=effect,
        obs=table,
        var=embedded.var[[]].copy(),
        obsm=dict(
            zip((schema.KL_BY_CLASS, schema.KL_BY_CLASS_LOWER, schema.KL_BY_CLASS_UPPER), per_class, strict=True)
        ),
        layers={
            schema.EFFECT_LOWER: _effects(embedded, table, "_lower"),
            schema.EFFECT_UPPER: _effects(embedded, table, "_upper"),
        },
    )


def report_factors(
    embedded: Sequence[AnnData], settings: ReportSettings | None = None, random_seed: int = 0
) -> AnnData:
    """The factor report of a run: obs are factors (seed × latent dim), var are features, X is the decoded effect.

    Args:
        embedded: what `embed_data` returned, one a seed, all with the same classes and features.
        settings: bootstrap and null; the defaults if None.
        random_seed: of the bootstrap.

    Returns:
        AnnData (factors × features). `obs`: seed, kind (shared, private), class, dim, kl with kl_lower and kl_upper
        (nats; of the own class, for a shared factor of the class with the largest: kl_class), null (nats), outcome
        (active, inactive, undecided: provisional, see the module), n_samples, resampled, top_up, top_down. `obsm`:
        kl_by_class, kl_by_class_lower, kl_by_class_upper, (factors × classes), nats. `layers`: effect_lower,
        effect_upper. `uns["nvae"]`: classes, effect_unit, settings.

    Raises:
        UserError: nothing given, seeds that do not fit together, or a class without held-out samples.
    """
    settings = settings or ReportSettings()
    if not embedded:
        raise UserError("factors: at least one embedded data set is needed")
    first, *others = embedded
    for other in others:
        for key in ("classes", "fingerprint", "variant"):
            if not np.array_equal(first.uns[schema.MODEL][key], other.uns[schema.MODEL][key]):
                raise UserError(
                    f"factors: the embedded data sets differ in uns['nvae'][{key!r}]; give seeds of one run"
                )
    if len({int(e.uns[schema.MODEL]["seed"]) for e in embedded}) < len(embedded):
        raise UserError("factors: two of the embedded data sets have the same seed")
    parts = [_report_seed(e, settings, np.random.default_rng((random_seed, i))) for i, e in enumerate(embedded)]
    report = anndata.concat(parts, merge="same")
    for column in ("kind", "class", "kl_class", "outcome", "resampled"):
        report.obs[column] = report.obs[column].astype("category")
    model = first.uns[schema.MODEL]
    report.var = first.var.copy()
    report.uns[schema.MODEL] = {key: model[key] for key in ("version", "variant", "classes", "fingerprint", "kind")}
    report.uns[schema.MODEL] |= {"effect_unit": model["effect_unit"], "report": settings.model_dump_json()}
    if "image_shape" in first.uns[schema.DATA]:
        report.uns[schema.MODEL]["image_shape"] = first.uns[schema.DATA]["image_shape"]
    return report


def factor_table(report: AnnData) -> pd.DataFrame:
    """The report as one flat table: a row a factor, `obs` beside `kl[CLASS]` with `_lower` and `_upper`, in nats."""
    table: pd.DataFrame = report.obs.reset_index()
    ends = (schema.KL_BY_CLASS, ""), (schema.KL_BY_CLASS_LOWER, "_lower"), (schema.KL_BY_CLASS_UPPER, "_upper")
    columns = {
        f"kl{suffix}[{name}]": report.obsm[key][:, index]
        for index, name in enumerate(report.uns[schema.MODEL]["classes"])
        for key, suffix in ends
    }
    for name, values in columns.items():
        table[name] = values
    return table


def factors(embedded: Sequence[Path], report: Path, table: Path, settings: ReportSettings) -> None:
    """Read the embedded files of a run and write its factor report as .h5ad and .parquet."""
    result = report_factors([read_embedded(path) for path in embedded], settings)
    write_anndata(result, report)
    write_table(factor_table(result), table)
    active = result.obs["outcome"].value_counts()
    logger.info("%d factors: %s", result.n_obs, ", ".join(f"{n} {name}" for name, n in active.items()))
