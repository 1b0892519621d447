"""Which factors are there, in which class, through which features, and how sure that is (verb `factors`).

The seeds of a run are tested one by one (`nvae_bio.factors.seeds`). What several of them find is one factor
(`consensus`), and all that is said of it is said of what they have in common: its nats, its features with an interval
over seeds and samples, the classes that use it, what it goes along with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.audit.suspects import consensus_audit, suspect_table
from nvae_bio.config import FactorSettings, ReportSettings
from nvae_bio.errors import UserError, about
from nvae_bio.factors.associations import associate, columns_of, tags
from nvae_bio.factors.capacity import capacity
from nvae_bio.factors.certificate import certificate, effect_agreement
from nvae_bio.factors.consensus import (
    Factor,
    find_factors,
    kl_of,
    losses_of,
    member_table,
    n_needed,
    named,
    names_of,
    own_class,
    scores_of,
)
from nvae_bio.factors.enrichment import enrich, read_gene_sets
from nvae_bio.factors.intervals import MIN_DONORS, rubin_interval
from nvae_bio.factors.leakage import leakage_audit
from nvae_bio.factors.outcomes import Outcomes, judge, readings
from nvae_bio.factors.power_table import power_table, under_powered
from nvae_bio.factors.seeds import class_intervals, report_seeds, top_features
from nvae_bio.factors.summary import summary
from nvae_bio.factors.together import check_audit, check_seeds
from nvae_bio.factors.usage import held_out_rows, training_sizes

Z_95 = 1.959964  # of the intervals of effects in embedded files
COLUMNS = (
    "kind", "class", "n_found", "n_seeds", "agreement", "published", "members", "kl", "kl_lower", "kl_upper",
    "kl_class", "loss", "loss_lower", "loss_upper", "gain", "p", "q", "outcome", "n_used", "used_by",
    "effect_agreement", "certificate",
)  # fmt: skip
CATEGORIES = ("kind", "class", "kl_class", "outcome", "reading", "private_to", "certificate", "tag")


@dataclass(frozen=True)
class FactorReport:
    """All that `report_factors` gives.

    Attributes:
        factors: the report: obs are consensus factors, var are features, X is the effect.
        embedded: the samples with their consensus scores, and what the audit says of them.
        seeds: what each seed has, as `report_seeds` gives it.
        lines: the report in words.
    """

    factors: AnnData
    embedded: AnnData
    seeds: AnnData
    lines: list[str]

    def __repr__(self) -> str:
        said = next(line for line in self.lines if line and not line.startswith("#"))
        head = f"FactorReport of {self.factors.n_obs} factors × {self.factors.n_vars} features"
        return "\n    ".join([head, *said.split("; ")])


@dataclass(frozen=True)
class _Run:
    """What all parts of the report need."""

    embedded: Sequence[AnnData]
    seeds: AnnData
    classes: list[str]
    rows: np.ndarray
    settings: ReportSettings

    @property
    def numbers(self) -> list[int]:
        """Seeds, in the order of `embedded`."""
        return [int(one.uns[schema.MODEL]["seed"]) for one in self.embedded]


def _effects(run: _Run, factors: Sequence[Factor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effect of each factor with its interval over seeds and samples: three times (factors, features)."""
    parts = []
    for one in factors:
        rows = [member.row for member in one.members]
        signs = np.array([member.sign for member in one.members])[:, None]
        means = np.asarray(run.seeds.X)[rows] * signs
        ends = (run.seeds.layers[key][rows] for key in (schema.EFFECT_LOWER, schema.EFFECT_UPPER))
        lower, upper = (np.asarray(end, dtype=float) for end in ends)
        parts.append(np.stack(rubin_interval(means, (upper - lower) / (2 * Z_95), run.settings.confidence)))
    shape = (len(factors), 3, run.seeds.n_vars)
    stacked = np.array(parts, dtype=np.float32).reshape(shape)
    return stacked[:, 0], stacked[:, 1], stacked[:, 2]


def _agreement(run: _Run, one: Factor, used: np.ndarray) -> np.ndarray:
    """How far the effects of a shared factor agree between the classes that use it, (C,); NaN of a private one."""
    if one.label:
        return np.full(len(run.classes), np.nan)
    of_class = []
    for index in range(len(run.classes)):
        parts = []
        for member in one.members:
            found = run.embedded[member.place].varm.get(schema.effect_shared_class(index))
            unknown = np.full(run.seeds.n_vars, np.nan)
            parts.append(unknown if found is None else member.sign * np.asarray(found)[:, member.dim])
        of_class.append(np.mean(parts, axis=0))
    return effect_agreement(np.array(of_class), used, run.settings.agreement)


def _table(
    run: _Run, factors: Sequence[Factor], kl: np.ndarray, loss: np.ndarray, outcomes: Outcomes, agreement: np.ndarray
) -> pd.DataFrame:
    """The obs of the report, but for what needs the effects or other tables.

    Args:
        run: the run.
        factors: in order.
        kl: mean, lower and upper end by class, (3, factors, C), nats.
        loss: likewise.
        outcomes: of the factors.
        agreement: of effects between classes, (factors, C).
    """
    n_seeds, rows = len(run.embedded), []
    for place, one in enumerate(factors):
        by_class = outcomes.by_class[place]
        used = by_class == "active"
        of_classes = np.nan_to_num(kl[0, place])
        shown = run.classes.index(one.label) if one.label else int((of_classes + 1e6 * used).argmax())
        of_seeds = run.seeds.obs.iloc[[member.row for member in one.members]]
        rows.append({
            "kind": one.kind, "class": one.label, "n_found": one.n_found, "n_seeds": n_seeds,
            "agreement": one.agreement, "published": one.n_found >= n_needed(n_seeds, run.settings),
            "members": one.text(run.numbers), "kl": kl[0, place, shown], "kl_lower": kl[1, place, shown],
            "kl_upper": kl[2, place, shown], "kl_class": run.classes[shown], "loss": loss[0, place, shown],
            "loss_lower": loss[1, place, shown], "loss_upper": loss[2, place, shown],
            "gain": float(of_seeds["gain"].mean()),
            "p": float(np.median(of_seeds["p"])) if one.label else float("nan"),  # of a class; see q_by_class
            "q": float(np.fmin.reduce(outcomes.q[place])), "outcome": outcomes.of_factor(place),
            "n_used": int(used.sum()), "used_by": ", ".join(np.array(run.classes, dtype=object)[used]),
            "effect_agreement": float(np.fmin.reduce(agreement[place])),
            "certificate": (
                "" if one.label else certificate(agreement[place], by_class, run.classes, run.settings.agreement)
            ),
        })  # fmt: skip
    names = pd.Index(names_of(factors), name="factor", dtype=object)
    return pd.DataFrame(rows, index=names, columns=None if rows else list(COLUMNS))


def _by_class(run: _Run, values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean, lower and upper end of a number of each held-out sample and factor in each class, (3, factors, C)."""
    return class_intervals(values[run.rows], run.embedded[0][run.rows], run.classes, run.settings, rng)


def _consensus(run: _Run, weak: Sequence[str], rng: np.random.Generator) -> tuple[AnnData, list[Factor]]:
    """The report without the tables that are beside it, and its factors in order.

    In its uns are already the names of the classes of which no private factor could be told.
    """
    found = find_factors(run.seeds, run.settings)
    nats, _ = _by_class(run, losses_of(found, run.embedded), rng)
    order = named(found, list(np.fmax.reduce(nats[0], axis=1)), len(run.embedded), run.settings)
    factors, loss = [found[place] for place in order], nats[:, order]
    kl, resampled = _by_class(run, kl_of(factors, run.embedded), rng)
    outcomes = judge(factors, run.seeds, run.settings, len(run.embedded), weak)
    agreement = np.array(
        [_agreement(run, one, row == "active") for one, row in zip(factors, outcomes.by_class, strict=True)]
    ).reshape(len(factors), len(run.classes))
    table = _table(run, factors, kl, loss, outcomes, agreement)
    effect, lower, upper = _effects(run, factors)
    said = readings(factors, outcomes, effect, run.seeds, run.settings)
    table[["reading", "private_to"]] = said.set_axis(table.index)
    names = run.seeds.var_names.to_numpy()
    table["top_up"], table["top_down"] = top_features(effect, names, run.settings.n_top_features)
    table["resampled"] = [resampled[run.classes.index(name)] for name in table["kl_class"]]
    report = AnnData(effect, obs=table, var=run.seeds.var.copy())
    report.layers[schema.EFFECT_LOWER], report.layers[schema.EFFECT_UPPER] = lower, upper
    for stem, parts in (("kl", kl), ("loss", loss)):
        for end, part in zip(("", "_lower", "_upper"), parts, strict=True):
            report.obsm[f"{stem}_by_class{end}"] = part
    report.obsm[schema.Q_BY_CLASS], report.obsm[schema.AGREEMENT_BY_CLASS] = outcomes.q, agreement
    places = [str(place) for place in range(len(run.classes))]  # names may hold what a file may not
    report.obsm[schema.OUTCOME_BY_CLASS] = pd.DataFrame(outcomes.by_class, index=table.index, columns=places)
    unable = [name for name in run.classes if name in outcomes.weak["private"]]
    report.uns[schema.MODEL] = {schema.UNDER_POWERED: np.array(unable, dtype=object)}
    return report, factors


def _scored(run: _Run, factors: Sequence[Factor], names: Sequence[str], audits: Sequence[pd.DataFrame]) -> AnnData:
    """The samples with their consensus scores, and the mean over seeds of what the audits say."""
    first = run.embedded[0]
    keep = [key for key in (schema.UMAP,) if key in first.obsm]
    adata = AnnData(first.X, obs=first.obs.copy(), var=first.var.copy())
    adata.obsm.update({key: first.obsm[key] for key in keep})
    adata.obsm[schema.FACTORS], adata.obsm[schema.FACTORS_STD] = scores_of(factors, run.embedded)
    adata.uns[schema.DATA] = first.uns[schema.DATA]
    model = first.uns[schema.MODEL]
    adata.uns[schema.MODEL] = {key: model[key] for key in ("version", "classes", "fingerprint", "kind", "variant")}
    adata.uns[schema.MODEL][schema.FACTOR_NAMES] = np.array(names, dtype=object)
    if audits:
        said = consensus_audit(audits)
        adata.obs = adata.obs.join(said.add_prefix("nvae_"))
    return adata


def _enrichment(
    report: AnnData, sets: pd.DataFrame | None, settings: ReportSettings
) -> tuple[pd.DataFrame | None, list[str]]:
    """Enrichment of the published factors, and what is said of it; None without gene sets."""
    if sets is None:
        return None, []
    told = report[report.obs["published"].to_numpy(bool)]
    with about(str(settings.gene_sets)):
        return enrich(np.asarray(told.X), list(told.var_names), list(told.obs_names), sets, settings.n_enriched)


def _associations(run: _Run, report: AnnData, scored: AnnData) -> tuple[pd.DataFrame, list[str]]:
    """What goes along with each published factor; writes its tag into the report.

    Those that are listed apart are no family to be corrected for, and have no tag.
    """
    columns, said = columns_of(scored, run.settings)
    scores = pd.DataFrame(scored.obsm[schema.FACTORS], index=scored.obs_names, columns=list(report.obs_names))
    scores = scores.loc[:, report.obs["published"].to_numpy(bool)]
    donor = scored.obs[schema.DONOR].to_numpy() if schema.DONOR in scored.obs else None
    table = associate(scores, own_class(run.embedded[0]), columns, donor)
    tag = tags(table, run.settings.min_association, run.settings.fdr)
    report.obs["tag"] = tag.reindex(report.obs_names).fillna("").to_numpy(dtype=object)
    return table, said


def report_factors(
    embedded: Sequence[AnnData],
    settings: FactorSettings | None = None,
    null: pd.DataFrame | None = None,
    audits: Sequence[pd.DataFrame] = (),
    planted: pd.DataFrame | None = None,
    random_seed: int = 0,
) -> FactorReport:
    """The factor report of a run: what its seeds agree on, and how sure it is.

    Args:
        embedded: what `embed_data` returned, one a seed, all of the same samples, with the same classes and features.
        settings: of the report and of the plantings; the defaults if None.
        null: what `refit_null` found, all refits of all kinds together; None: nothing is called.
        audits: what `audit_labels` returned, one a seed; none: samples are not audited.
        planted: what `plant_and_find` found, all runs together; None: power is not known.
        random_seed: of bootstraps.

    Returns:
        The report, the samples with their scores, what each seed has, and the report in words (docs/outputs.md).

    Raises:
        UserError: nothing given, parts that do not fit together, a class without held-out samples, plantings without
            a null or their settings, or settings that the data do not allow.
    """
    settings = settings or FactorSettings()
    sets = None if settings.report.gene_sets is None else read_gene_sets(Path(settings.report.gene_sets))
    check_seeds(embedded)
    if audits and len(audits) != len(embedded):
        raise UserError(
            f"factors: {len(audits)} audits for {len(embedded)} embedded data sets; give one a seed, or none"
        )
    for audit in audits:
        check_audit(audit, embedded[0])
    seeds = report_seeds(embedded, settings.report, null, random_seed)
    classes = [str(name) for name in embedded[0].uns[schema.MODEL]["classes"]]
    run = _Run(embedded, seeds, classes, held_out_rows(embedded[0].obs, classes), settings.report)
    power = _power(run, settings, null, planted)
    weak = [] if power is None or settings.power is None else under_powered(power, settings.power)
    report, factors = _consensus(run, weak, np.random.default_rng((random_seed, len(embedded))))
    scored = _scored(run, factors, list(report.obs_names), audits)
    tables: dict[str, pd.DataFrame | None] = {schema.POWER: power}
    tables[schema.MEMBERS] = member_table(factors, list(report.obs_names), seeds)
    tables[schema.ASSOCIATIONS], of_columns = _associations(run, report, scored)
    tables[schema.ENRICHMENT], of_sets = _enrichment(report, sets, settings.report)
    tables[schema.LEAKAGE] = pd.concat([leakage_audit(one, settings.report) for one in embedded], ignore_index=True)
    tables[schema.TESTS], tables[schema.NULL] = seeds.uns[schema.MODEL][schema.TESTS], _null_values(null, classes)
    tables[schema.SUSPECTS] = suspect_table(audits, embedded[0].obs[schema.LABEL]) if audits else None
    for column in CATEGORIES:
        report.obs[column] = report.obs[column].astype("category")
    report.uns[schema.MODEL] |= _provenance(run, settings)
    report.uns[schema.MODEL] |= {key: table for key, table in tables.items() if table is not None}
    report.uns[schema.MODEL][schema.CAPACITY] = capacity(report)
    left_open = _notes(run, report, power, has_audits=bool(audits), is_power_on=settings.power is not None)
    notes = [*seeds.uns[schema.MODEL]["notes"], *left_open, *of_columns, *of_sets]
    report.uns[schema.MODEL]["notes"] = np.array(notes, dtype=object)
    return FactorReport(report, scored, seeds, summary(report, settings.power))


def _power(
    run: _Run, settings: FactorSettings, null: pd.DataFrame | None, planted: pd.DataFrame | None
) -> pd.DataFrame | None:
    """How often planted programmes are found; None where none were planted.

    Raises:
        UserError: plantings without their settings, or without a null, with which alone anything is found.
    """
    if planted is None:
        return None
    if settings.power is None or null is None:
        what = "`power` in the settings" if settings.power is None else "a null (--null)"
        raise UserError(f"factors: plantings (--planted) are given without {what}; allowed: both, or neither")
    sizes = training_sizes(run.embedded[0].obs, run.classes)
    return power_table(planted, null, sizes, run.classes, run.settings, settings.power)


def _null_values(null: pd.DataFrame | None, classes: Sequence[str]) -> pd.DataFrame | None:
    """What the tests are compared with: kind, statistic, class and value of every refit."""
    if null is None:
        return None
    table = null[["kind", "statistic", "class", "value"]].reset_index(drop=True)
    return table.assign(**{"class": np.array(classes, dtype=object)[table["class"]]})


def _notes(run: _Run, report: AnnData, power: pd.DataFrame | None, *, has_audits: bool, is_power_on: bool) -> list[str]:
    """What the intervals are over, and what so few seeds, no plantings or no audit leave open."""
    said = []
    over = set(report.obs["resampled"].astype(str))
    if schema.DONOR not in run.embedded[0].obs:
        said.append("no donor key: intervals are over samples, and samples of one donor are no replicates")
    elif any("not estimable" in text for text in over):
        n_donors = run.embedded[0].obs[schema.DONOR].nunique()
        said.append(
            f"donor interval not estimable: {n_donors} donors, and {MIN_DONORS} with held-out samples of the class are "
            "needed, each sample with its own; intervals are over samples"
        )
    if len(run.embedded) == 1:
        said.append("one seed only: whether another would find the same factors is not known; give three or more")
    if not has_audits:
        said.append("no audit was made: no sample was looked at for a wrong label, or for two cells in one")
    if power is None:
        said.append(
            ("power is on in the settings, but no plantings are given; " if is_power_on else "")
            + 'power was not measured: "inactive" says that nothing was called, not that a factor would have been found'
        )
    return said


def _provenance(run: _Run, settings: FactorSettings) -> dict[str, object]:
    """uns of the report, but for its tables."""
    model, of_seeds = run.embedded[0].uns[schema.MODEL], run.seeds.uns[schema.MODEL]
    keys = ("version", "variant", "classes", "fingerprint", "kind", "effect_unit", "n_shared", "n_private", "settings")
    found = {key: model[key] for key in keys} | {key: of_seeds[key] for key in ("n_refits",)}
    found |= {"report": settings.report.model_dump_json(), "seeds": np.array(run.numbers)}
    if settings.power is not None:
        found[schema.POWER_SETTINGS] = settings.power.model_dump_json()
    if "image_shape" in of_seeds:
        found["image_shape"] = of_seeds["image_shape"]
    return found
