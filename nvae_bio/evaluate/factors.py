"""Scores of the factors that a method publishes of simulated counts, against what was planted in them.

A result has factors, and says which classes use each. An item is something planted; it is *private* where few classes
have it (`few`), whatever its kind is called. A *call* is a factor with a class that uses it, where few classes do. What
a factor is of is decided by content alone, as in `nvae_bio.evaluate.planted`: the item whose activity its scores
correlate with most in held-out samples, or none where |r| is below `MIN_CORRELATION`. Samples with a swapped label and
doublets do not count there: they are none of the class that they are labelled as.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import average_precision_score, roc_auc_score

from nvae_bio import schema
from nvae_bio.config import ReportSettings
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import of_seed
from nvae_bio.evaluate.planted import MIN_CORRELATION, Known, correlations, size_name
from nvae_bio.factors.cycle import cycle_genes
from nvae_bio.factors.outcomes import uses_of
from nvae_bio.factors.reading import is_spilled
from nvae_bio.factors.usage import few

MIN_NATS = 0.1  # of `kl-threshold`: a class uses a factor on which its held-out samples spend so much
UNLIKE = "means different things"  # how a certificate begins that denies a factor its classes
TECHNICAL, CELL_CYCLE = "technical", "cell cycle"  # how tags begin
CYCLE_SHARE = 0.5  # of an item's genes, from which on it is of the cell cycle
SUSPICIONS = {"swap_auroc": ("nvae_log_odds", "is_swapped"), "doublet_auroc": ("nvae_doublet_gain", "is_doublet")}


@dataclass(frozen=True)
class Published:
    """The factors of one result.

    Attributes:
        scores: of each sample on each factor, (n, F); NaN where its class cannot have the factor.
        effect: of each factor on each gene, (F, G); its sign and scale are free.
        used: which class uses which factor, (F, C), bool.
        classes: names.
        certificate: of each factor, in words, (F,); None of a method that gives none.
        tag: what else each factor may be, (F,); None of a method that does not say.
    """

    scores: np.ndarray
    effect: np.ndarray
    used: np.ndarray
    classes: list[str]
    certificate: Sequence[str] | None = None
    tag: Sequence[str] | None = None

    @classmethod
    def of_consensus(cls, report: AnnData, embedded: AnnData) -> Published:
        """What the seeds of a run agree on: factors that are published and active.

        Args:
            report: of the run, obs are consensus factors.
            embedded: samples with their consensus scores.

        Raises:
            UserError: a report of one seed, or scores of other factors.
        """
        missing = {"published", "certificate", "tag"} - set(report.obs)
        if missing or schema.OUTCOME_BY_CLASS not in report.obsm or schema.FACTORS not in embedded.obsm:
            raise UserError(
                "evaluate: calls 'consensus' need the report of all seeds and the samples with their consensus scores"
            )
        if list(embedded.uns[schema.MODEL][schema.FACTOR_NAMES]) != list(report.obs_names):
            raise UserError(
                "evaluate: the report and the consensus scores are of different factors; give those of a run"
            )
        rows = (report.obs["published"].astype(bool) & (report.obs["outcome"] == "active")).to_numpy()
        kept = report[rows]
        used = np.asarray(kept.obsm[schema.OUTCOME_BY_CLASS].astype(str) == "active")
        return cls(
            scores=np.asarray(embedded.obsm[schema.FACTORS], dtype=float)[:, rows],
            effect=np.asarray(kept.X, dtype=float),
            used=used | is_spilled(report.obs)[rows, None],
            classes=_classes(report),
            certificate=[str(text) for text in kept.obs["certificate"]],
            tag=[str(text) for text in kept.obs["tag"]],
        )

    @classmethod
    def of_seed(cls, report: AnnData, embedded: AnnData) -> Published:
        """What one seed alone would publish: its active factors, and the classes in which they are significant.

        A shared dim that is "hidden in z_s" is used by the classes that have it for themselves. A private dim whose
        like is in most classes is shared, says the report, and so used by all, as in a report of all seeds.

        Args:
            report: of all seeds, as each has them.
            embedded: of the seed.
        """
        found = _seed_report(report, embedded)
        obs = found.obs
        used = uses_of(found, ReportSettings.model_validate_json(report.uns[schema.MODEL]["report"]))
        shared, alone = (obs["kind"] == "shared").to_numpy(), np.asarray(found.obsm[schema.PRIVATE_TO])
        used = np.where((shared & alone.any(1))[:, None], alone, used)
        used |= ~(shared | alone.any(1))[:, None]
        return _dims(found, embedded, used, (obs["outcome"] == "active").to_numpy())

    @classmethod
    def of_nats(cls, report: AnnData, embedded: AnnData) -> Published:
        """What a plain threshold would publish of one seed: a class uses a factor from 0.1 nats a held-out sample on.

        Args:
            report: of all seeds, as each has them.
            embedded: of the seed.
        """
        found = _seed_report(report, embedded)
        own = np.array([[name in ("", other) for other in _classes(report)] for name in found.obs["class"].astype(str)])
        used = (np.asarray(found.obsm[schema.KL_BY_CLASS]) >= MIN_NATS) & own
        return _dims(found, embedded, used, np.ones(len(used), dtype=bool))


def _classes(report: AnnData) -> list[str]:
    return [str(name) for name in report.uns[schema.MODEL]["classes"]]


def _seed_report(report: AnnData, embedded: AnnData) -> AnnData:
    """The rows of a seed.

    Raises:
        UserError: no report of single seeds, or none of this one.
    """
    seed = int(embedded.uns[schema.MODEL].get("seed", -1))
    found = of_seed(report, seed) if "seed" in report.obs else report[:0]
    if not found.n_obs:
        raise UserError(
            "evaluate: calls of one seed need the report of each seed, and the samples as a seed embeds them"
        )
    return found


def _dims(report: AnnData, embedded: AnnData, used: np.ndarray, active: np.ndarray) -> Published:
    """Latent dims of a seed, as far as they are active."""
    label = embedded.obs[schema.LABEL].astype(str).to_numpy()
    rows = np.flatnonzero(active)
    scores = np.full((embedded.n_obs, len(rows)), np.nan)
    for place, (kind, name, dim) in enumerate(report.obs[["kind", "class", "dim"]].iloc[rows].to_numpy()):
        of_class = np.full(len(label), True) if kind == "shared" else label == name
        key = schema.SHARED if kind == "shared" else schema.SPECIFIC
        scores[of_class, place] = np.asarray(embedded.obsm[key])[of_class, int(dim)]
    effect = np.nan_to_num(np.asarray(report.X, dtype=float)[rows])
    return Published(scores, effect, used[rows], _classes(report))


@dataclass(frozen=True)
class Planting:
    """What is planted, beside the samples in which it is looked for.

    Attributes:
        known: samples with their truth.
        rows: held-out samples that are of the class of their label, (n,), bool.
        genes: which gene is of which item, (G, items), bool, in the order of the data's genes.
        size: of each item: number of genes and fold change, as `30genes_fc1.5`.
        follows: the tag that each item should have.
    """

    known: Known
    rows: np.ndarray
    genes: pd.DataFrame
    size: dict[str, str]
    follows: dict[str, str]

    @classmethod
    def of(cls, samples: AnnData, truth: AnnData) -> Planting:
        """Joined by the names of samples and genes.

        Raises:
            UserError: the truth is not that of these samples and genes, or is not of counts.
        """
        known = Known.of(samples, truth)
        if schema.LOG_FOLD_CHANGE not in truth.varm:
            raise UserError(
                "evaluate: kind 'factors' scores simulated counts alone; the truth has no programmes of genes"
            )
        missing = samples.var_names.difference(truth.var_names)
        if len(missing):
            raise UserError(f"truth: no gene {missing[0]!r}; is it the truth of the data that were embedded?")
        all_genes = truth.varm[schema.LOG_FOLD_CHANGE] != 0
        wrong = suspicious(truth).loc[samples.obs_names].any(axis=1).to_numpy()
        table = truth.uns[schema.TRUTH]["planted"]
        counts = zip(all_genes.columns, all_genes.sum(), table.loc[all_genes.columns, "fold_change"], strict=True)
        return cls(
            known=known,
            rows=known.held_out() & ~wrong,
            genes=all_genes.loc[samples.var_names],
            size={str(item): size_name(int(n), float(change)) for item, n, change in counts},
            follows={str(item): _followed(str(item), table, all_genes[item]) for item in all_genes},
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every private item with each class that has it."""
        table = self.known.in_class
        private = table[(table.sum(axis=1) <= few(table.shape[1])).to_numpy()]
        return [(str(item), str(name)) for item, row in private.iterrows() for name in private.columns[row.to_numpy()]]

    def item_of(self, score: np.ndarray, classes: Sequence[str]) -> str:
        """The item that a factor is of in some classes; empty for none.

        Scores and activities are centred within classes, so that a difference between classes is no content.

        Args:
            score: of each sample, (n,); NaN where there is none.
            classes: of which samples count.
        """
        label, activity = self.known.embedded.obs[schema.LABEL].astype(str).to_numpy(), self.known.activity
        rows = self.rows & np.isin(label, classes) & np.isfinite(score)
        if not rows.any():
            return ""
        values = pd.DataFrame(np.column_stack([score, activity])[rows])
        centred = (values - values.groupby(label[rows]).transform("mean")).to_numpy()
        r = correlations(centred[:, :1], centred[:, 1:])[0]
        return str(activity.columns[r.argmax()]) if r.size and r.max() >= MIN_CORRELATION else ""


def suspicious(truth: AnnData) -> pd.DataFrame:
    """Which samples have a swapped label, and which are doublets, (n, 2), bool; none where none was asked for."""
    columns = {name: truth.obs.get(name, False) for _, name in SUSPICIONS.values()}
    return pd.DataFrame(columns, index=truth.obs_names).astype(bool)


def _followed(item: str, planted: pd.DataFrame, in_item: pd.Series) -> str:
    """The tag that an item should have: of what it follows, or of the cell cycle where its genes are."""
    follows = str(planted["follows"].get(item)) if "follows" in planted else "none"
    if follows in ("condition", "batch", "donor"):
        return follows
    if follows == "depth":
        return TECHNICAL
    genes = in_item.index[in_item.to_numpy()]
    n_cycle = len(set().union(*cycle_genes(genes).values()))
    return CELL_CYCLE if n_cycle >= CYCLE_SHARE * max(len(genes), 1) else ""


def call_scores(published: Published, planting: Planting) -> dict[str, float]:
    """What is said to be private, against what is.

    Returns:
        n_calls: number of calls. fdr: share whose factor is not of a private item of the class, 0 without calls.
        sensitivity[SIZE]: of (private item, class) of each size, the share with a call whose factor is of the item.
    """
    limit, pairs = few(len(published.classes)), set(planting.pairs)
    calls: list[tuple[str, str]] = []
    for score, used in zip(published.scores.T, published.used, strict=True):
        names = [name for name, is_used in zip(published.classes, used, strict=True) if is_used]
        calls += [(planting.item_of(score, [name]), name) for name in names if len(names) <= limit]
    scores = {
        "n_calls": float(len(calls)),
        "fdr": float(np.mean([call not in pairs for call in calls])) if calls else 0.0,
    }
    found = defaultdict(list)
    for item, name in sorted(pairs):
        found[planting.size[item]].append((item, name) in calls)
    return scores | {f"sensitivity[{size}]": float(np.mean(hits)) for size, hits in found.items()}


def content_scores(published: Published, planting: Planting, items: Sequence[str]) -> dict[str, float]:
    """How many factors are of something planted, and whether their genes are the planted ones.

    Args:
        published: the result.
        planting: the truth.
        items: that each factor is of in the classes that use it, empty for none, (F,).

    Returns:
        consensus_precision: share of factors that are of an item; left out without factors. consensus_recall: share of
        items with such a factor. gene_auprc: average precision of |effect| for the genes of the item, mean over factors
        that are of one; gene_auprc_private: the same over factors of private items. Left out where there are none.
    """
    private, all_items = {item for item, _ in planting.pairs}, list(planting.genes.columns)
    auprc = {
        place: float(average_precision_score(planting.genes[item], np.abs(published.effect[place])))
        for place, item in enumerate(items)
        if item and planting.genes[item].any()
    }
    parts: dict[str, list[float]] = {
        "consensus_precision": [float(item != "") for item in items],
        "consensus_recall": [float(item in items) for item in all_items],
        "gene_auprc": list(auprc.values()),
        "gene_auprc_private": [value for place, value in auprc.items() if items[place] in private],
    }
    return _means(parts)


def word_scores(published: Published, planting: Planting, items: Sequence[str]) -> dict[str, float]:
    """Whether certificates and tags are right, of factors that are of an item.

    Args:
        published: the result.
        planting: the truth.
        items: that each factor is of in the classes that use it, empty for none, (F,).

    Returns:
        certificate_accuracy: of factors of an item that two or more classes have, the share of classes of which it is
        said rightly whether they use it; 0 where the certificate denies that the factor is one. tag_accuracy: share of
        factors whose tag is that of what their item follows, or empty where it follows nothing; where some item follows
        something. What a method does not give is left out.
    """
    in_class = planting.known.in_class[published.classes]
    parts: dict[str, list[float]] = {}
    placed = [(place, item) for place, item in enumerate(items) if item]
    if published.certificate is not None:
        parts["certificate_accuracy"] = [
            0.0
            if published.certificate[place].startswith(UNLIKE)
            else float((published.used[place] == in_class.loc[item].to_numpy()).mean())
            for place, item in placed
            if in_class.loc[item].sum() > 1
        ]
    if published.tag is not None and any(planting.follows.values()):
        parts["tag_accuracy"] = [
            float(_is_right(published.tag[place], planting.follows[item])) for place, item in placed
        ]
    return _means(parts)


def _is_right(tag: str, expected: str) -> bool:
    """Of the technical tags any will do: depth shows in the number of detected genes too."""
    return tag.startswith(TECHNICAL) if expected == TECHNICAL else tag == expected


def _means(parts: dict[str, list[float]]) -> dict[str, float]:
    """The mean of each part that is not empty."""
    return {name: float(np.mean(values)) for name, values in parts.items() if values}


def suspect_scores(samples: AnnData, truth: AnnData) -> dict[str, float]:
    """How well the audit ranks the samples that are wrong, each kind against those with nothing wrong.

    Returns:
        swap_auroc: of swapped labels, by how much likelier the best other class is. doublet_auroc: of doublets, by how
        much likelier two classes together are. Left out where the data have none, or no audit was made.
    """
    wrong = suspicious(truth).loc[samples.obs_names]
    scores = {}
    for metric, (column, kind) in SUSPICIONS.items():
        if column not in samples.obs:
            continue
        value, is_wrong = samples.obs[column].to_numpy(dtype=float), wrong[kind].to_numpy()
        rows = np.isfinite(value) & (is_wrong | ~wrong.any(axis=1).to_numpy())
        if 0 < is_wrong[rows].sum() < rows.sum():
            scores[metric] = float(roc_auc_score(is_wrong[rows], value[rows]))
    return scores


def factor_scores(published: Published, samples: AnnData, truth: AnnData) -> dict[str, float]:
    """All scores of one result: metric → value; see the functions that they come from.

    Args:
        published: the result; factors that no class uses do not count.
        samples: prepared or embedded, in the order of its scores.
        truth: of the simulation.

    Raises:
        UserError: the truth is not that of these samples and genes, or lacks a class.
    """
    planting = Planting.of(samples, truth)
    lacking = sorted(set(published.classes) - set(planting.known.in_class))
    if lacking:
        raise UserError(f"truth: no class {lacking[0]!r}; is it the truth of the data that were embedded?")
    kept = _used_somewhere(published)
    names = [[name for name, is_used in zip(kept.classes, row, strict=True) if is_used] for row in kept.used]
    items = [planting.item_of(score, classes) for score, classes in zip(kept.scores.T, names, strict=True)]
    return {
        **call_scores(kept, planting),
        **content_scores(kept, planting, items),
        **word_scores(kept, planting, items),
        **suspect_scores(samples, truth),
    }


def _used_somewhere(published: Published) -> Published:
    """The factors that some class uses."""
    rows = [place for place, used in enumerate(published.used) if used.any()]
    words = [None if said is None else [said[row] for row in rows] for said in (published.certificate, published.tag)]
    return Published(published.scores[:, rows], published.effect[rows], published.used[rows], published.classes, *words)
