"""Which factors each seed of a run has, and in which class: the tests behind the report.

The map of what is used is the KL of each latent dim, averaged over the held-out (validation and test) samples of a
class: K[y, d] = E_{x|y} KL(q(z_d|x) ‖ N(0, 1)), in nats. A KL is never below 0, and a block that fits noise has one
too, so that its own interval means nothing. A shared dim is tested by its KL, a private one by its excess gain, what it
adds to the bound of held-out samples above what it would by chance; both by comparison with refits on data that have no
such factor (`nvae_bio.factors.null`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.data.samples import class_index
from nvae_bio.factors.decide import check_null, is_sufficient, kind_of_null, limits, of_kind, pooled, pooled_p, q_values
from nvae_bio.factors.intervals import bootstrap_interval, resampled_units
from nvae_bio.factors.reading import notes, read_factors
from nvae_bio.factors.together import check_seeds
from nvae_bio.factors.usage import HIDDEN, MIN_SPREAD, OWN_BLOCK, OWN_DIM, Usage, held_out_rows, training_sizes

PLACE = ["kind", "class", "dim"]  # what names a factor of a seed


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


def _tested(usage: Usage, null: pd.DataFrame | None, sizes: np.ndarray, settings: ReportSettings) -> pd.DataFrame:
    """The statistics of one seed with p, the smallest possible p, q, the median null value, and `is_sufficient`.

    Without a null, p, q and the median are NaN.
    """
    found = usage.statistics()
    if null is None:
        return found.assign(p=np.nan, smallest_p=np.nan, q=np.nan, null_median=np.nan, sufficient=False)
    check_null(null, found)
    kind = kind_of_null(usage.shared.shape[1] > 0, settings)
    pools = pooled(found, of_kind(null, kind), sizes)
    found["p"], found["smallest_p"] = pooled_p(found["value"].to_numpy(), pools)
    found["null_median"] = [np.median(pool) if len(pool) else np.nan for pool in pools]
    found["q"], found["sufficient"] = q_values(found, settings.fdr), is_sufficient(found, settings.fdr)
    return found


def outcome(
    q: np.ndarray, kl: np.ndarray, gain: np.ndarray, sufficient: np.ndarray, settings: ReportSettings
) -> np.ndarray:
    """`active` where q is at most the false discovery rate, the KL at least `min_kl` and the gain `min_gain`.

    Else `inactive`; or `under-powered`, where it is large enough but the null is not sufficient to tell. A gain that
    is NaN was not measured.

    >>> q, kl = np.array([0.01, 0.01, 0.01, 0.2, np.nan]), np.array([1.0, 0.001, 1.0, 1.0, 1.0])
    >>> gain, sufficient = np.array([0.5, np.nan, 0.01, 0.0, np.nan]), np.array([False, True, True, True, False])
    >>> outcome(q, kl, gain, sufficient, ReportSettings())
    array(['active', 'inactive', 'inactive', 'inactive', 'under-powered'],
          dtype='<U13')
    """
    is_small = (kl < settings.min_kl) | (gain < settings.min_gain)
    active = (q <= settings.fdr) & ~is_small
    return np.where(active, "active", np.where(sufficient | is_small, "inactive", "under-powered"))


def _effects(embedded: AnnData, table: pd.DataFrame, hidden: Mapping[int, np.ndarray], suffix: str = "") -> np.ndarray:
    """Effect of each factor on each feature, (factors, features); NaN for a class that had no samples.

    Args:
        embedded: of the seed.
        table: a row a factor: kind, class, dim.
        hidden: row -> the classes that have this shared dim for themselves, (C,), bool: its effect is that in them.
        suffix: of an end of the interval.
    """
    classes, rows = list(embedded.uns[schema.MODEL]["classes"]), []
    unknown = np.full(embedded.n_vars, np.nan)
    for row, (kind, name, dim) in enumerate(table[["kind", "class", "dim"]].itertuples(index=False)):
        keys = [schema.EFFECT_SHARED if kind == "shared" else schema.effect_class(classes.index(name))]
        if row in hidden:
            keys = [schema.effect_shared_class(index) for index in np.flatnonzero(hidden[row]).tolist()]
        found = [embedded.varm.get(key + suffix) for key in keys]
        rows.append(np.mean([unknown if part is None else np.asarray(part)[:, dim] for part in found], axis=0))
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


def _judge(
    table: pd.DataFrame, tested: pd.DataFrame, usage: Usage, classes: list[str], settings: ReportSettings
) -> np.ndarray:
    """Write p, q, gain, block_q, hidden_q and outcome of each factor into `table`; returns q by class, (factors, C).

    A private factor is judged by the q of its dim, a shared one by its smallest q over classes.
    """
    by_class, p_by_class = (np.full((len(table), len(classes)), np.nan) for _ in range(2))
    places = {(kind, name, dim): i for i, (kind, name, dim) in enumerate(zip(*(table[c] for c in PLACE), strict=True))}
    block_q, hidden_q, gain = (np.full(len(table), np.nan) for _ in range(3))
    hidden_in: list[list[str]] = [[] for _ in range(len(table))]
    sufficient = np.zeros(len(table), bool)
    tested = tested.assign(gain=tested["value"] - tested["null_median"])
    columns = ["statistic", "class", "dim", "gain", "p", "q", "sufficient"]
    for statistic, index, dim, above, p, q, is_enough in tested[columns].itertuples(index=False):
        name = classes[index]
        if statistic == OWN_BLOCK:
            block_q[((table["kind"] == "private") & (table["class"] == name)).to_numpy()] = q
            continue
        row = places["private", name, dim] if statistic == OWN_DIM else places["shared", "", dim]
        if statistic == HIDDEN:
            hidden_q[row] = np.fmin(hidden_q[row], q)
            hidden_in[row] += [name] if q <= settings.fdr else []
        else:
            by_class[row, index], p_by_class[row, index], sufficient[row] = q, p, sufficient[row] | is_enough
            gain[row] = above if statistic == OWN_DIM else np.fmax.reduce(usage.shared_excess[:, dim])
    table["p"], table["q"] = (np.fmin.reduce(values, axis=1) for values in (p_by_class, by_class))
    table["gain"], table["block_q"], table["hidden_q"], table["hidden_in"] = gain, block_q, hidden_q, hidden_in
    table["outcome"] = outcome(table["q"].to_numpy(), table["kl"].to_numpy(), gain, sufficient, settings)
    return by_class


def class_intervals(
    kl: np.ndarray, test: AnnData, classes: list[str], settings: ReportSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mean, lower and upper end of a number of each sample and factor by class, (3, factors, C).

    Args:
        kl: of each sample, (n, factors); NaN where it is not known.
        test: the samples.
        classes: names.
        settings: of the bootstrap.
        rng: source of randomness.

    Returns:
        The means, and what was resampled in each class, (C,).
    """
    labels = test.obs[schema.LABEL].astype(str).to_numpy()
    donors = test.obs[schema.DONOR].astype(object).to_numpy() if schema.DONOR in test.obs else None
    per_class, resampled = np.zeros((3, kl.shape[1], len(classes))), np.empty(len(classes), dtype=object)
    for index, name in enumerate(classes):
        rows = labels == name
        units, resampled[index] = resampled_units(None if donors is None else donors[rows])
        lower, upper = bootstrap_interval(kl[rows], units, settings.n_bootstrap, settings.confidence, rng)
        per_class[:, :, index] = kl[rows].mean(0), lower, upper
    return per_class, resampled


def _usage(embedded: AnnData, rows: np.ndarray, label: np.ndarray) -> Usage:
    """Of the samples at `rows`, (n,), of the classes `label`, (n,)."""
    nothing = np.zeros((embedded.n_obs, 0))
    mean, std, own_std, gain, shared_gain = (
        np.asarray(embedded.obsm.get(key, nothing))[rows]
        for key in (schema.SHARED, schema.SHARED_STD, schema.SPECIFIC_STD, schema.GAIN, schema.GAIN_SHARED)
    )
    block_gain = embedded.obs[schema.GAIN].to_numpy() if schema.GAIN in embedded.obs else np.zeros(embedded.n_obs)
    return Usage.of(mean, std, own_std, gain, block_gain[rows], label, shared_gain)


def _report_seed(
    embedded: AnnData, settings: ReportSettings, null: pd.DataFrame | None, rng: np.random.Generator
) -> tuple[AnnData, pd.DataFrame]:
    """The report of one seed, and what was tested in it."""
    classes = [str(name) for name in embedded.uns[schema.MODEL]["classes"]]
    places = held_out_rows(embedded.obs, classes)
    test, table = embedded[places], _factor_rows(embedded)
    per_class, resampled = class_intervals(_sample_kl(test), test, classes, settings, rng)
    # a shared factor is shown in the class that uses it most, a private one in its own class
    shared = (table["kind"] == "shared").to_numpy()
    shown = np.where(shared, per_class[0].argmax(1), [classes.index(c) if c else 0 for c in table["class"]])
    rows = np.arange(len(table))
    table["kl"], table["kl_lower"], table["kl_upper"] = per_class[:, rows, shown]
    table["kl_class"] = [classes[index] for index in shown]
    label = class_index(test.obs, classes)
    usage = _usage(embedded, places, label)
    tested = _tested(usage, null, training_sizes(embedded.obs, classes), settings)
    q_by_class = _judge(table, tested, usage, classes, settings)
    spread, gain = (np.full(q_by_class.shape, np.nan) for _ in range(2))
    spread[shared], gain[shared] = usage.spread.T, usage.shared_excess.T
    effect = _effects(embedded, table, {})
    is_used = (q_by_class <= settings.fdr) & ~(spread < MIN_SPREAD) & ~(gain < settings.min_gain)
    said = read_factors(table, effect, is_used, classes, settings.agreement)
    private_to = np.array([[name in having for name in classes] for having in said["private_to"]])
    table["reading"], table["private_to"] = said["reading"], said["private_to"].str.join(", ")
    hidden = {row: private_to[row] for row in np.flatnonzero(shared & private_to.any(1)).tolist()}
    effect = _effects(embedded, table, hidden)
    table = table.drop(columns="hidden_in")
    table["n_samples"] = [int((label == index).sum()) for index in shown]
    table["resampled"] = resampled[shown]
    table["top_up"], table["top_down"] = top_features(effect, np.array(embedded.var_names), settings.n_top_features)
    by_class = dict(
        zip((schema.KL_BY_CLASS, schema.KL_BY_CLASS_LOWER, schema.KL_BY_CLASS_UPPER), per_class, strict=True)
    )
    by_class |= {schema.Q_BY_CLASS: q_by_class, schema.SPREAD_BY_CLASS: spread, schema.GAIN_BY_CLASS: gain}
    ends = {schema.EFFECT_LOWER: "_lower", schema.EFFECT_UPPER: "_upper"}
    report = AnnData(
        X=effect,
        obs=table,
        var=embedded.var[[]].copy(),
        obsm=by_class | {schema.PRIVATE_TO: private_to},
        layers={key: _effects(embedded, table, hidden, suffix) for key, suffix in ends.items()},
    )
    return report, tested


def _tests_of_all(tested: Sequence[pd.DataFrame], embedded: Sequence[AnnData]) -> pd.DataFrame:
    """What was tested in each seed, one below the other, with the names of the classes."""
    classes = np.array([str(name) for name in embedded[0].uns[schema.MODEL]["classes"]], dtype=object)
    parts = []
    for part, of_seed in zip(tested, embedded, strict=True):
        named = part.copy()
        named["class"], named["seed"] = classes[part["class"]], int(of_seed.uns[schema.MODEL]["seed"])
        parts.append(named)
    return pd.concat(parts, ignore_index=True)


def report_seeds(
    embedded: Sequence[AnnData],
    settings: ReportSettings | None = None,
    null: pd.DataFrame | None = None,
    random_seed: int = 0,
) -> AnnData:
    """What each seed of a run has: obs are factors (seed × latent dim), var are features, X is the decoded effect.

    Args:
        embedded: what `embed_data` returned, one a seed, all with the same classes and features.
        settings: intervals, false discovery rate and readings; the defaults if None.
        null: what `refit_null` found, all refits of all kinds together; None: nothing is called.
        random_seed: of the bootstrap.

    Returns:
        AnnData (factors × features). `obs`: seed, kind (shared, private), class, dim, kl with kl_lower and kl_upper
        (nats; of the own class, for a shared factor of the class with the largest: kl_class), p, q, gain (of a private
        factor: what it adds to the bound above the median of its null, of a shared one: above chance, in the class
        where that is most; nats), block_q (of its block), hidden_q (of a shared dim that one class uses most: that it
        has it alone), outcome (active, inactive, under-powered), reading (a sentence), private_to (classes),
        n_samples, resampled, top_up, top_down. `obsm`: kl_by_class, kl_by_class_lower, kl_by_class_upper (factors ×
        classes), nats, q_by_class, spread_by_class (variance of a shared dim within the class beyond what noise makes,
        prior variances), gain_by_class (nats, of shared dims) and private_to (bool). X of a shared dim that few
        classes have for themselves is the effect in these. `layers`: effect_lower, effect_upper.
        `uns["nvae"]`: classes, effect_unit, report (settings), notes (what so few refits cannot call, and what the
        readings say of S), n_refits (refits of each kind of null), tests (a row a test: seed, statistic, class, dim,
        value and null_median in nats, p, smallest_p, q, sufficient: whether it could be called were it alone).

    Raises:
        UserError: nothing given, seeds or a null that do not fit together, or a class without held-out samples.
    """
    settings = settings or ReportSettings()
    check_seeds(embedded)
    first = embedded[0]
    rngs = [np.random.default_rng((random_seed, i)) for i in range(len(embedded))]
    found = [_report_seed(e, settings, null, rng) for e, rng in zip(embedded, rngs, strict=True)]
    report = anndata.concat([part for part, _ in found], merge="same")
    for column in ("kind", "class", "kl_class", "outcome", "resampled", "reading", "private_to"):
        report.obs[column] = report.obs[column].astype("category")
    model = first.uns[schema.MODEL]
    report.var = first.var.copy()
    refits = {} if null is None else {str(k): int(n) for k, n in null.groupby("kind")["refit"].nunique().items()}
    kind = kind_of_null(int(model["n_shared"]) > 0, settings)
    said = limits(found[0][1], refits, kind, settings.fdr) + notes(report.obs)
    report.uns[schema.MODEL] = {key: model[key] for key in ("version", "variant", "classes", "fingerprint", "kind")}
    report.uns[schema.MODEL] |= {"effect_unit": model["effect_unit"], "report": settings.model_dump_json()}
    report.uns[schema.MODEL] |= {"notes": np.array(said, dtype=object), "n_refits": json.dumps(refits)}
    report.uns[schema.MODEL][schema.TESTS] = _tests_of_all([tested for _, tested in found], embedded)
    if "image_shape" in first.uns[schema.DATA]:
        report.uns[schema.MODEL]["image_shape"] = first.uns[schema.DATA]["image_shape"]
    return report
