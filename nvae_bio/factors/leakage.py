"""The leakage audit: what fresh probes read off z_s and z_c that should not be there.

z_s is to hold nothing of the class, and no latent anything of batch, donor or depth. A probe is fitted to training
samples and scored on held-out ones. The audit passes where even the upper end of the score's interval is below a limit,
and fails where even the lower end is above it; between the two, these samples do not tell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_array, hstack

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.errors import listed
from nvae_bio.factors.intervals import CHUNK, resampled_units
from nvae_bio.factors.probes import PROBES, ProbeName, make_probe
from nvae_bio.factors.reading import NOT_AUDITED

TARGETS = {
    "class": (schema.LABEL, "classes", "no class"),
    "batch": (schema.BATCH, "batches", "no batch key"),
    "donor": (schema.DONOR, "donors", "no donor key"),
    "depth": (schema.LIBRARY, "classes", "no counts"),
}  # column of obs, what its levels are called, what is said where it lacks
LATENTS = {"z_s": schema.SHARED, "z_c": schema.SPECIFIC}
MIN_TRAIN = 5  # samples of a level that a probe is fitted to, at least
MIN_HELD_OUT = 2  # and that it is scored on
ENOUGH = f"with {MIN_TRAIN} training and {MIN_HELD_OUT} held-out samples"
OWN_BLOCK = "each class has a block of its own, which tells it by construction"
COLUMNS = [
    "seed", "target", "latent", "probe", "score", "lower", "upper", "chance", "share", "limit", "verdict", "n_train",
    "n_held_out", "resampled", "note",
]  # fmt: skip

Statistic = Callable[[np.ndarray], np.ndarray]  # of sums over samples, (resamples, columns), to (resamples,)


def leakage_audit(embedded: AnnData, settings: ReportSettings, rng_seed: int = 0) -> pd.DataFrame:
    """What can be read off the latents of one seed, and whether that is too much.

    The targets are class, batch, donor and, of counts, depth: the log of all counts of the cell. Off z_s they are read
    from all labelled samples together. Off z_c batch, donor and depth are read within each class, one probe a class;
    what these say of held-out samples is scored together. The class itself is not read off z_c, and a row says so: the
    class of the sample has chosen its block, so that z_c tells it by construction. Depth is taken from the mean of the
    class's training samples, so that classes of different depth do not count twice.

    The probes are those of `nvae_bio.factors.probes`. Of levels, the likeliest against its share of the training
    samples is predicted: else a rare level would never be, and its leak not be seen. The score is balanced accuracy,
    the mean over levels (within classes: over all pairs of class and level) of the share of a level's samples that is
    told right; of a probe that knows nothing it is one over the number of levels (classes by pairs). Of depth it is
    R², 0 or less for such a probe. The interval is a percentile bootstrap for the fitted probe, over donors where there
    are 6 or more, else over held-out samples; over these also where each level is one donor's. It knows nothing of how
    a probe, or the model, would differ with other training samples.

    The order of the samples does not matter.

    Args:
        embedded: of one seed.
        settings: `n_bootstrap`, `confidence`, `max_leakage`.
        rng_seed: of the bootstrap.

    Returns:
        A row a target, latent and probe: seed, target, latent (z_s, z_c), probe (linear, neighbours), score, its lower
        and upper end, chance, share (of the way from chance to 1, at least 0), limit (the score at `max_leakage` of
        that way), verdict (`pass`: upper is at most the limit; `fail`: lower is above it; else `undecided`), n_train,
        n_held_out, resampled (what the interval is over), note (levels too rare to ask for). A target that the data do
        not allow has one row with verdict `not audited`, no score, and the reason as its note.

    Reference: Alain & Bengio (2017), arXiv:1610.01644 (probes); Brodersen et al. (2010), doi:10.1109/ICPR.2010.764
    (balanced accuracy).
    """
    obs = embedded.obs
    order = np.argsort(embedded.obs_names.to_numpy(dtype=str), kind="stable")
    order = order[obs[schema.LABEL].notna().to_numpy()[order]]
    obs, seed, rows = obs.iloc[order], int(embedded.uns[schema.MODEL]["seed"]), []
    latents = {
        name: np.asarray(embedded.obsm[key], float)[order] for name, key in LATENTS.items() if key in embedded.obsm
    }
    for target, (column, _, lacking) in TARGETS.items():
        if column not in obs:
            rows.append(_unasked(target, "", lacking))
            continue
        for latent, z in latents.items():
            if (target, latent) == ("class", "z_c"):
                rows.append(_unasked(target, latent, OWN_BLOCK))
                continue
            rows += _read_off(obs, target, latent, z, settings, rng_seed)
    return pd.DataFrame(rows).assign(seed=seed)[COLUMNS]


def _unasked(target: str, latent: str, reason: str) -> dict[str, object]:
    numbers = dict.fromkeys(("score", "lower", "upper", "chance", "share", "limit"), np.nan)
    said = {"target": target, "latent": latent, "probe": "", "verdict": NOT_AUDITED, "resampled": "", "note": reason}
    return {**said, **numbers, "n_train": 0, "n_held_out": 0}


def _read_off(
    obs: pd.DataFrame, target: str, latent: str, z: np.ndarray, settings: ReportSettings, rng_seed: int
) -> list[dict[str, object]]:
    """Rows of the table of one target and one latent, z (n, dims)."""
    of_levels = target != "depth"
    asked, left_out = _askable(_asked(obs, target, latent), target)
    reason = _why_not(asked, target, latent)
    if reason:
        return [_unasked(target, latent, reason)]
    held = asked[~asked["train"]]
    n_levels, n_groups = held.groupby(["group", "level"]).ngroups, held["group"].nunique()
    chance = n_groups / n_levels if of_levels else 0.0
    limit = chance + settings.max_leakage * (1 - chance)
    units, resampled = _units(held, n_levels if of_levels else None)
    row = {"target": target, "latent": latent, "chance": chance, "limit": limit, "resampled": resampled}
    row |= {"n_train": len(asked) - len(held), "n_held_out": len(held), "note": left_out}
    rows = []
    for name in PROBES:
        predicted = _predicted(asked, z, name, of_levels)
        sums = _level_sums(held, predicted) if of_levels else _depth_sums(held, predicted)
        statistic = balanced_accuracy if of_levels else r_squared
        score, lower, upper = _scored(sums, units, statistic, settings, np.random.default_rng(rng_seed))
        share = max(0.0, (score - chance) / (1 - chance))
        ends = {"score": score, "lower": lower, "upper": upper, "share": share}
        rows.append({**row, **ends, "probe": name, "verdict": verdict_of(lower, upper, limit)})
    return rows


def _asked(obs: pd.DataFrame, target: str, latent: str) -> pd.DataFrame:
    """Of each sample of which the target is known: its place, group (of one probe), level, value, train, donor."""
    values, label = obs[TARGETS[target][0]], obs[schema.LABEL].astype(str).to_numpy()
    known = (values > 0 if target == "depth" else values.notna()).to_numpy()
    group = label if latent == "z_c" else np.full(len(obs), "")
    table = pd.DataFrame(
        {"place": np.arange(len(obs)), "group": group, "train": (obs[schema.SPLIT] == "train").to_numpy()}
    )
    if schema.DONOR in obs:
        table["donor"] = obs[schema.DONOR].astype(object).to_numpy()
    table["level"] = label if target == "depth" else values.astype(str).to_numpy()
    table = table[known].copy()
    table["value"] = np.log(values[known].to_numpy(float)) if target == "depth" else table["level"]
    return table


def _askable(asked: pd.DataFrame, target: str) -> tuple[pd.DataFrame, str]:
    """Without levels that are too rare and groups of one level, and which these are; depth from its class's mean."""
    by_level = asked.groupby(["group", "level"])["train"]
    n_train, n_all = by_level.transform("sum"), by_level.transform("size")
    enough = (n_train >= MIN_TRAIN) & (n_all - n_train >= MIN_HELD_OUT)
    named = asked["level"] + np.where((asked["group"] == "") | (target == "depth"), "", " in " + asked["group"])
    rare, asked = named[~enough].unique(), asked[enough]
    said = [f"too few samples of {listed(sorted(rare), 10)}"] if len(rare) else []
    if target == "depth":
        center = asked[asked["train"]].groupby("level")["value"].mean()
        return asked.assign(value=asked["value"] - asked["level"].map(center)), "; ".join(said)
    alone = asked.groupby("group")["level"].transform("nunique") < 2
    if alone.any():
        said.append(f"only one {target} in {listed(sorted(asked.loc[alone, 'group'].unique()), 10)}")
    return asked[~alone], "; ".join(said)


def _why_not(asked: pd.DataFrame, target: str, latent: str) -> str:
    """Why a probe would have nothing to read; empty where it has."""
    plural = TARGETS[target][1]
    if asked.empty and target == "depth":
        return f"no class {ENOUGH}"
    if asked.empty:
        return f"fewer than 2 {plural} {ENOUGH}" if latent == "z_s" else f"no class has 2 {plural} {ENOUGH}"
    if target == "depth" and np.ptp(asked.loc[~asked["train"], "value"]) < 1e-9:
        return "all samples of a class have the same"
    return ""


def _predicted(asked: pd.DataFrame, z: np.ndarray, name: ProbeName, of_levels: bool) -> np.ndarray:
    """What the probe of its group says of each held-out sample, in their order."""
    parts = []
    for _, rows in asked.groupby("group"):
        train, held = rows[rows["train"]], rows[~rows["train"]]
        probe = make_probe(name, len(train), of_levels=of_levels).fit(z[train["place"]], train["value"].to_numpy())
        if of_levels:
            share = train["value"].value_counts(normalize=True)[probe.classes_].to_numpy()
            said = probe.classes_[(probe.predict_proba(z[held["place"]]) / share).argmax(axis=1)]
        else:
            said = probe.predict(z[held["place"]])
        parts.append(pd.Series(said, index=held.index))
    return pd.concat(parts).loc[asked.index[~asked["train"]]].to_numpy()


def _units(held: pd.DataFrame, n_levels: int | None) -> tuple[np.ndarray | None, str]:
    """What is resampled, and its name: not donors where each of the levels is one donor's, as those of donor are."""
    if "donor" not in held or len(held[["group", "level", "donor"]].drop_duplicates()) == n_levels:
        return resampled_units(None)
    return resampled_units(held["donor"].to_numpy())


def _level_sums(held: pd.DataFrame, predicted: np.ndarray) -> csr_array:
    """Of each sample, for each level: whether it is of that level, and whether it is that and told right, (n, 2 L)."""
    level = held.groupby(["group", "level"]).ngroup().to_numpy()
    there = csr_array((np.ones(len(held)), (np.arange(len(held)), level)))
    told = csr_array(((held["value"].to_numpy() == predicted).astype(float), (np.arange(len(held)), level)))
    return hstack([there, told], format="csr")


def _depth_sums(held: pd.DataFrame, predicted: np.ndarray) -> csr_array:
    """Of each sample: 1, value, its square, and the squared error of what is predicted, (n, 4)."""
    value = held["value"].to_numpy(float)
    return csr_array(np.column_stack([np.ones(len(held)), value, value**2, (value - predicted.astype(float)) ** 2]))


def balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    """Mean over levels of the share that is told right; a level without samples does not count.

    Args:
        sums: of each resample, samples of each level beside those told right, (resamples, 2 L).

    >>> balanced_accuracy(np.array([[4.0, 2.0, 3.0, 2.0], [4.0, 0.0, 3.0, 0.0]]))
    array([0.875, 0.75 ])
    """
    there, told = np.split(sums, 2, axis=1)
    return np.asarray((told / np.maximum(there, 1)).sum(axis=1) / (there > 0).sum(axis=1))


def r_squared(sums: np.ndarray) -> np.ndarray:
    """1 − squared error / squared deviation from the mean; NaN where nothing deviates.

    Args:
        sums: of each resample, number of samples, sums of value, squared value and squared error, (resamples, 4).

    >>> r_squared(np.array([[2.0, 0.0, 2.0, 0.5], [2.0, 2.0, 2.0, 0.5]]))
    array([0.75,  nan])
    """
    n, total, squares, errors = sums.T
    deviation = squares - total**2 / n
    varies = deviation > 1e-12 * squares
    return np.where(varies, 1 - errors / np.where(varies, deviation, 1), np.nan)


def _scored(
    sums: csr_array,
    units: np.ndarray | None,
    statistic: Statistic,
    settings: ReportSettings,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """A statistic of the sums over all samples, and the ends of its percentile bootstrap interval over units."""
    if units is not None:
        codes, names = pd.factorize(units)
        sums = csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(names), len(codes))) @ sums
    n_units, found = sums.shape[0], []
    for start in range(0, settings.n_bootstrap, CHUNK):
        size = min(CHUNK, settings.n_bootstrap - start)
        drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=size).astype(float)
        found.append(statistic(drawn @ sums))
    tail = (1 - settings.confidence) / 2
    lower, upper = np.nanquantile(np.concatenate(found), [tail, 1 - tail])
    return float(statistic(sums.sum(axis=0)[None])[0]), float(lower), float(upper)


def verdict_of(lower: float, upper: float, limit: float) -> str:
    """`pass` where the whole interval is at or below the limit, `fail` where it is all above, else `undecided`.

    >>> [verdict_of(lower, upper, 0.36) for lower, upper in ((0.2, 0.3), (0.3, 0.4), (0.4, 0.5))]
    ['pass', 'undecided', 'fail']
    """
    return "pass" if upper <= limit else "fail" if lower > limit else "undecided"
