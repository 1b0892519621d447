"""Scores of a run on simulated data, against what was planted in them.

An item is something planted; it is private to its classes, or shared by all. A *call* is a factor that the report
names private to a class: one of the class's own block, or a shared dim "hidden in z_s". What a factor is of is decided
by content alone: in the held-out samples of a class, the item whose activity its posterior means correlate with most
(|r|), or none where |r| is below `MIN_CORRELATION`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from nvae_bio import schema
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import labelled, model_scores, of_seed
from nvae_bio.factors.usage import HIDDEN, OWN_BLOCK

MIN_CORRELATION = 0.3  # |r| below which a factor is of no item
LEVEL = 0.05  # of null_p_below_05
WHERE_NULL = {"null_p": OWN_BLOCK, "null_hidden_p": HIDDEN}


@dataclass(frozen=True)
class Known:
    """One embedded data set beside the truth of its samples.

    Attributes:
        embedded: of a seed.
        activity: of each item, (n, items).
        in_class: which class has which item, (items, C).
        is_private: whether an item is private, (items,).
        classes: names.
    """

    embedded: AnnData
    activity: pd.DataFrame
    in_class: pd.DataFrame
    is_private: pd.Series

    @classmethod
    def of(cls, embedded: AnnData, truth: AnnData) -> Known:
        """Joined by the names of samples.

        Raises:
            UserError: the truth is not that of these samples.
        """
        missing = embedded.obs_names.difference(truth.obs_names)
        if len(missing):
            raise UserError(f"truth: no sample {missing[0]!r}; is it the truth of the data that were embedded?")
        record, activity = truth.uns[schema.TRUTH], truth[embedded.obs_names].obsm[schema.ACTIVITY]
        in_class = pd.DataFrame(record["in_class"], index=activity.columns, columns=list(map(str, record["classes"])))
        return cls(embedded, activity, in_class.astype(bool), record["planted"]["kind"] == "private")

    @property
    def has_private(self) -> pd.Series:
        """Whether a private item is planted in a class, by its name."""
        return self.in_class[self.is_private].any()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every private item with each class that has it."""
        private = self.in_class[self.is_private]
        return [(str(item), name) for item, row in private.iterrows() for name in private.columns[row.to_numpy()]]

    def held_out(self, name: str | None = None) -> np.ndarray:
        """Held-out samples, of one class or of all, (n,), bool."""
        rows = labelled(self.embedded, "test")
        return rows if name is None else rows & (self.embedded.obs[schema.LABEL] == name).to_numpy()

    def means(self, kind: str) -> np.ndarray:
        """Posterior means of z_s or of the own block, (n, dims)."""
        key = schema.SHARED if kind == "shared" else schema.SPECIFIC
        return np.asarray(self.embedded.obsm.get(key, np.zeros((self.embedded.n_obs, 0))))

    def item_of(self, kind: str, dim: int, name: str) -> str:
        """The item that a factor is of in a class; empty for none."""
        rows = self.held_out(name)
        r = correlations(self.means(kind)[rows][:, [dim]], self.activity.to_numpy()[rows])[0]
        return str(self.activity.columns[r.argmax()]) if r.size and r.max() >= MIN_CORRELATION else ""


def correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|r| of each column of `left` with each of `right`, (columns, columns); 0 where a column is constant.

    >>> correlations(np.array([[0.0], [1.0], [2.0]]), np.array([[4.0, 1.0], [2.0, 1.0], [0.0, 1.0]])).round(6).tolist()
    [[1.0, 0.0]]
    """
    scaled = []
    for part in (left, right):
        centred = (part - part.mean(0)).astype(float)
        norm = np.linalg.norm(centred, axis=0)
        scaled.append(np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0))
    return np.asarray(np.minimum(np.abs(scaled[0].T @ scaled[1]), 1.0))


def calls(report: AnnData) -> list[tuple[str, int, str]]:
    """Every call of a seed: kind and dim of the factor, and the class.

    Of private factors with like effects in several classes, each speaks for its own class.
    """
    found, obs = [], report.obs
    classes, private_to = report.uns[schema.MODEL]["classes"], np.asarray(report.obsm[schema.PRIVATE_TO])
    for kind, own, dim, having in zip(obs["kind"], obs["class"], obs["dim"], private_to, strict=True):
        named = [str(name) for name, is_having in zip(classes, having, strict=True) if is_having]
        found += [(str(kind), int(dim), name) for name in named if kind == "shared" or name == own]
    return found


def call_scores(known: Known, report: AnnData) -> dict[str, float]:
    """What was called, against what is there, for one seed.

    Returns:
        private_calls: their number. private_fdr: share of calls whose factor is not of a private item of the class,
        0 without calls. private_sensitivity: share of (private item, class) with a call for the class whose factor is
        of the item. class_fdr and class_sensitivity: the same of classes, whatever the factor is of: share of classes
        with a call that have no private item, share of classes with a private item that have a call. Sensitivities
        are left out where nothing private is planted.
    """
    made = calls(report)
    items = [(known.item_of(kind, dim, name), name) for kind, dim, name in made]
    pairs, called = set(known.pairs), {name for _, _, name in made}
    truly = {name for _, name in pairs}
    scores = {
        "private_calls": float(len(made)),
        "private_fdr": float(np.mean([item not in pairs for item in items])) if items else 0.0,
        "class_fdr": len(called - truly) / len(called) if called else 0.0,
    }
    if pairs:
        scores["private_sensitivity"] = len(pairs & set(items)) / len(pairs)
        scores["class_sensitivity"] = len(called & truly) / len(truly)
    return scores


def evidence(tests: pd.DataFrame) -> pd.DataFrame:
    """The evidence that each class has a factor of its own, for one seed.

    Args:
        tests: `uns["nvae"][schema.TESTS]` of the report.

    Returns:
        A row a class: p, the smaller one of its own block and its most exclusive shared dim; kl, the larger of the
        two statistics (nats).
    """
    chosen = tests[tests["statistic"].isin([OWN_BLOCK, HIDDEN])]
    return chosen.groupby("class", observed=True).agg(p=("p", "min"), kl=("value", "max"))


def rank_scores(known: Known, tests: pd.DataFrame) -> dict[str, float]:
    """How evidence ranks the classes, and how p-values are spread where nothing private is planted; one seed.

    Returns:
        private_auroc: of classes with a private item against those without, a smaller p first, and of equal ones that
        with the larger kl (`evidence`); left out where all classes have one or none has. null_p_below_05 and
        null_hidden_p_below_05: share of p-values ≤ .05 among own blocks, and most exclusive shared dims, of classes
        without a private item; null_p_count and null_hidden_p_count: how many these are, the weights with which shares
        of several sets are pooled. Nothing where nothing was tested.
    """
    scores: dict[str, float] = {}
    table, truly = evidence(tests), known.has_private
    if len(table) and table["p"].notna().all() and truly.nunique() == 2:
        order = table.sort_values(["p", "kl"], ascending=[False, True]).index
        rank = pd.Series(np.arange(len(order)), index=order)
        scores["private_auroc"] = float(roc_auc_score(truly[rank.index], rank))
    for name, statistic in WHERE_NULL.items():
        p = tests.loc[(tests["statistic"] == statistic) & ~tests["class"].map(truly).astype(bool), "p"].dropna()
        if len(p):
            scores |= {f"{name}_below_05": float((p <= LEVEL).mean()), f"{name}_count": float(len(p))}
    return scores


def content_scores(known: Known, report: AnnData) -> dict[str, float]:
    """How well the latent dims follow what is planted, in held-out samples of one seed.

    Returns:
        factor_correlation[ITEM]: the largest |r| of a dim with the activity; of a shared item over the dims of z_s in
        all classes together, of a private one over the own block and the shared dims called private to the class,
        averaged over its classes. factor_correlation: mean over items. factor_multiple_r[ITEM], and its mean: of shared
        items, r of the activity with its linear regression on z_s, fitted on training samples: axes within z_s are free
        to turn.
    """
    best: dict[str, float] = {}
    multiple: dict[str, float] = {}
    hidden = [(dim, name) for kind, dim, name in calls(report) if kind == "shared"]
    shared, own, rows = known.means("shared"), known.means("private"), known.held_out()
    for item in known.activity.columns[~known.is_private.to_numpy()] if shared.shape[1] else []:
        activity, train = known.activity[item].to_numpy(), labelled(known.embedded, "train")
        best[item] = float(correlations(shared[rows], activity[rows, None]).max())
        fitted = LinearRegression().fit(shared[train], activity[train]).predict(shared[rows])
        multiple[item] = float(np.corrcoef(fitted, activity[rows])[0, 1])
    for item in known.activity.columns[known.is_private.to_numpy()]:
        found = []
        for name in (name for of, name in known.pairs if of == item):
            rows = known.held_out(name)
            dims = np.hstack([own, shared[:, [dim for dim, c in hidden if c == name]]])[rows]
            found.append(correlations(dims, known.activity[item].to_numpy()[rows, None]).max(initial=0.0))
        best[item] = float(np.mean(found))
    scores = {f"factor_correlation[{item}]": value for item, value in best.items()}
    scores |= {f"factor_multiple_r[{item}]": value for item, value in multiple.items()}
    for name, values in (("factor_correlation", best), ("factor_multiple_r", multiple)):
        scores |= {name: float(np.mean(list(values.values())))} if values else {}
    return scores


def oracle_scores(known: Known, truth: AnnData) -> dict[str, float]:
    """What one could know of private programmes at best, who knew their genes: a ceiling, in held-out samples.

    The score of a cell is Σ_g λ_g x_g / L over the programme's genes, λ their log fold change at activity 1.

    Returns:
        oracle_auroc: of samples in which the programme is on against those in which it is off; oracle_correlation: |r|
        of the score with the activity. Means over private programmes and their classes; nothing for images.
    """
    if schema.LOG_FOLD_CHANGE not in truth.varm or not known.pairs:
        return {}
    embedded = known.embedded
    effect = truth[:, embedded.var_names].varm[schema.LOG_FOLD_CHANGE]
    library = embedded.obs[schema.LIBRARY].to_numpy(dtype=float)
    auroc, r = [], []
    for item, name in known.pairs:
        rows = known.held_out(name)
        score = np.asarray(embedded.X[rows] @ effect[item].to_numpy()).ravel() / library[rows]
        activity = known.activity[item].to_numpy()[rows]
        r.append(correlations(score[:, None], activity[:, None])[0, 0])
        is_on = activity != 0
        auroc += [float(roc_auc_score(is_on, score))] if 0 < is_on.sum() < len(is_on) else []
    scores = {"oracle_correlation": float(np.mean(r))}
    return scores | ({"oracle_auroc": float(np.mean(auroc))} if auroc else {})


def planted_scores(report: AnnData, embedded: AnnData, truth: AnnData) -> dict[str, float]:
    """All scores of one seed: metric → value; see the functions that they come from.

    Args:
        report: of the run, all seeds.
        embedded: of the seed.
        truth: of the simulation.

    Raises:
        UserError: the truth is not that of these samples.
    """
    seed = int(embedded.uns[schema.MODEL]["seed"])
    known, factors = Known.of(embedded, truth), of_seed(report, seed)
    tests = report.uns[schema.MODEL][schema.TESTS]
    return {
        **rank_scores(known, tests[tests["seed"] == seed]),
        **call_scores(known, factors),
        **content_scores(known, factors),
        **oracle_scores(known, truth),
        **model_scores(embedded, factors),
    }


def size_name(n_genes: int, fold_change: float) -> str:
    """A programme's size, as metrics name it.

    >>> size_name(30, 1.5)
    '30genes_fc1.5'
    """
    return f"{n_genes}genes_fc{fold_change:g}"


def power_scores(report: AnnData, truth: AnnData) -> dict[str, float]:
    """How often the report finds programmes planted on top: what `sensitivity` of that size should be.

    Returns:
        power[SIZE]: mean over classes that have nothing of their own; nothing where power was not measured.
    """
    record, table = truth.uns[schema.TRUTH], report.uns[schema.MODEL].get(schema.POWER)
    if table is None:
        return {}
    has_own = np.asarray(record["in_class"])[(record["planted"]["kind"] == "private").to_numpy()].any(axis=0)
    free = table[~table["class"].astype(str).isin(np.asarray(record["classes"], dtype=str)[has_own])]
    sizes = [size_name(int(n), float(change)) for n, change in free[["n_genes", "fold_change"]].to_numpy()]
    return {f"power[{size}]": float(value) for size, value in free["power"].groupby(sizes).mean().items()}
