"""From bounds to suspects: which samples have another label, another content, or two cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import logit

from nvae_bio.config import AuditSettings
from nvae_bio.errors import UserError

if TYPE_CHECKING:
    from nvae_bio.audit.readings import FirstLook, Readings

DOUBLET, MISLABEL, BORROWED = "doublet", "mislabel", "borrowed"
UNLIKE, DISAGREES = "unlike every class", "classifier disagrees"
OTHER_CLASS = {  # the column that says which other class a suspicion is about
    DOUBLET: "doublet_with", MISLABEL: "bound_class", BORROWED: "borrowed_from", DISAGREES: "classifier_class"
}  # fmt: skip
COLUMNS = (  # of an audit, whatever the model; `borrowed_…` and `doublet_…` come with blocks and counts
    "bound_own", "bound_class", "bound_best", "log_odds", "classifier_class", "classifier_probability", "unlike",
    "suspicion",
)  # fmt: skip
UNLABELED_NAME = "unlabeled"  # in the table of suspects
CERTAIN = 1 - 1e-7  # a probability in float32 can be no nearer to 1


def audit_columns(
    look: FirstLook, readings: Readings, log_prior: np.ndarray, classes: Sequence[str], index: pd.Index
) -> pd.DataFrame:
    """The readings of each sample as a table, without what is concluded from them.

    Args:
        look: of all samples.
        readings: of the same.
        log_prior: log p(y), (C,).
        classes: names.
        index: names of the samples.
    """
    names, rows = np.array(classes, dtype=object), np.arange(len(index))
    joint = readings.class_bound + log_prior[readings.candidate]
    best = joint.argmax(1)
    probability = look.class_probability.numpy()
    columns = {
        "bound_own": readings.class_bound[:, 0],
        "bound_class": names[readings.candidate[rows, best]],
        "bound_best": readings.class_bound[rows, best],
        "log_odds": joint[:, 1:].max(1) - joint[:, 0],
        "classifier_class": names[probability.argmax(1)],
        "classifier_probability": probability.max(1),
    }
    if readings.lender.shape[1]:
        place = readings.block_bound.argmax(1)
        columns["borrowed_from"] = names[readings.lender[rows, place]]
        columns["borrowed_gain"] = readings.block_bound[rows, place] - readings.class_bound[:, 0]
    if not np.isnan(readings.doublet_gain).all():
        columns["doublet_with"] = names[readings.partner]
        columns["doublet_gain"] = readings.doublet_gain
    return pd.DataFrame(columns, index=index)


def adjusted_bound(bound: np.ndarray, log_library: np.ndarray | None, reference: np.ndarray) -> np.ndarray:
    """A bound without what the depth of a sample does to it: the residual of a line in the log library, nats, (n,).

    The more counts, the lower log p(x). The line is Huber's, which a few odd samples do not pull.

    Args:
        bound: nats, (n,).
        log_library: (n,); None where samples have no depth: the bound stays as it is.
        reference: samples the line is fitted to, (n,), bool.

    Reference: Huber (1964), doi:10.1214/aoms/1177703732; sklearn.linear_model.HuberRegressor.
    """
    if log_library is None or np.ptp(log_library[reference]) == 0 or np.ptp(bound[reference]) == 0:
        return bound
    from sklearn.linear_model import HuberRegressor

    center, scale = bound[reference].mean(), bound[reference].std()
    depth = (log_library - log_library[reference].mean())[:, None]
    line = HuberRegressor(max_iter=1000).fit(depth[reference], (bound[reference] - center) / scale)
    return np.asarray(bound - center - scale * line.predict(depth))


def unlikeness(
    bound: np.ndarray, label: np.ndarray, own: np.ndarray, own_bound: np.ndarray, log_library: np.ndarray | None
) -> np.ndarray:
    """How unlike its best class a sample is: the share of the class's reference samples that fit it as badly, (n,).

    (1 + reference samples with a lower `adjusted_bound`) / (1 + reference samples), without the sample itself: a
    p-value for samples that are like the references (Vovk et al. 2005, doi:10.1007/b106715). NaN where the class has
    none. A class of n reference samples cannot tell below 1 / n.

    Args:
        bound: of the best class, nats, (n,).
        label: that class, (n,).
        own: class of the reference samples, (n,); -1 of all others.
        own_bound: bound of the own class, nats, (n,).
        log_library: (n,), or None.
    """
    share = np.full(len(bound), np.nan)
    for y in np.unique(label):
        reference, asked = own == y, label == y
        if reference.any():
            adjusted = adjusted_bound(np.where(asked, bound, own_bound), log_library, reference)
            known = np.sort(adjusted[reference])
            lower = np.searchsorted(known, adjusted[asked], side="left")
            share[asked] = (1 + lower) / (1 + len(known) - reference[asked])
    return share


def suspicions(table: pd.DataFrame, own_name: np.ndarray, n_classes: int, settings: AuditSettings) -> np.ndarray:
    """The first suspicion of each sample, or "", (n,): a doublet, else what has most nats, else what is odd at all.

    A borrowed block is one of C − 1 that might have been, so that log(C − 1) is taken off its gain; a doublet's second
    cell likewise.

    Args:
        table: of one seed, without its suspicion.
        own_name: label of each sample, None where it has none, (n,).
        n_classes: C.
        settings: thresholds.
    """
    none, fee = np.full(len(table), -np.inf), np.log(n_classes - 1)
    labelled = pd.notna(own_name)
    doublet = table["doublet_gain"].to_numpy() - fee if "doublet_gain" in table else none
    borrowed = table["borrowed_gain"].to_numpy() - fee if "borrowed_gain" in table else none
    mislabel = np.where(labelled, table["log_odds"], -np.inf)
    differs = labelled & (table["classifier_class"].to_numpy() != own_name)
    least = settings.min_log_odds
    chosen = [
        (DOUBLET, doublet >= least),
        (MISLABEL, (mislabel >= least) & (mislabel >= borrowed)),
        (BORROWED, borrowed >= least),
        (UNLIKE, (table["unlike"] <= settings.tail).to_numpy()),
        (DISAGREES, differs & (_logit(table["classifier_probability"]) >= least)),
    ]
    return np.select([mask for _, mask in chosen], [name for name, _ in chosen], "").astype(object)


def _logit(probability: pd.Series) -> np.ndarray:
    return np.asarray(logit(np.minimum(probability.to_numpy(float), CERTAIN)))


def strength(table: pd.DataFrame) -> np.ndarray:
    """How far each suspicion goes, nats, (n,); NaN where there is none.

    The gain of a doublet or a borrowed block, the log odds of another label, the classifier's log odds, and −log of how
    unlike a sample is.
    """
    values = {
        DOUBLET: table.get("doublet_gain"), MISLABEL: table["log_odds"], BORROWED: table.get("borrowed_gain"),
        UNLIKE: -np.log(table["unlike"]), DISAGREES: _logit(table["classifier_probability"]),
    }  # fmt: skip
    known = {name: value for name, value in values.items() if value is not None}
    return np.select([(table["suspicion"] == name).to_numpy() for name in known], list(known.values()), np.nan)


def _most_common(words: np.ndarray) -> np.ndarray:
    """The most common word of each row that is not "", of (n, seeds); of equally common ones the first by alphabet."""
    names, codes = np.unique(words.astype(str), return_inverse=True)
    counts = np.stack([(codes.reshape(words.shape) == place).sum(1) for place in range(len(names))], axis=1)
    counts[:, names == ""] = 0
    return np.where(counts.any(1), names.astype(object)[counts.argmax(1)], "")


def consensus_audit(audits: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """What the audits of several seeds say together.

    Args:
        audits: what `audit_labels` returned, one a seed, of the same samples.

    Returns:
        The same columns: the mean of each number, and of words the most common; and n_seeds, the seeds that suspect the
        sample. A sample is suspected where more than half of the seeds do, of what most of these name.

    Raises:
        UserError: no audit, or audits of different samples or models.
    """
    if not audits:
        raise UserError("suspects: no audit is given; give one a seed")
    first = audits[0]
    for table in audits[1:]:
        if not table.index.equals(first.index) or list(table.columns) != list(first.columns):
            raise UserError("suspects: the audits are of different samples or variants; give those of one run")
    merged = pd.DataFrame(index=first.index)
    for name in first.columns:
        values = np.stack([table[name].to_numpy() for table in audits], axis=1)
        merged[name] = values.mean(1) if pd.api.types.is_numeric_dtype(first[name]) else _most_common(values)
    n_seeds = np.sum([table["suspicion"].to_numpy() != "" for table in audits], axis=0)
    merged["suspicion"] = np.where(2 * n_seeds > len(audits), merged["suspicion"], "")
    return merged.assign(n_seeds=n_seeds)


def suspect_table(audits: Sequence[pd.DataFrame], label: pd.Series) -> pd.DataFrame:
    """The samples that most seeds suspect, the strongest first.

    Args:
        audits: what `audit_labels` returned, one a seed, of the same samples.
        label: class of each sample, by its name; missing where it has none.

    Returns:
        Columns sample, label (`unlabeled` where missing), suspicion, other_class (the one that it is about; "" where
        the sample is unlike every class), nats (`strength` of the mean over seeds) and n_seeds.

    Raises:
        UserError: no audit, or audits of different samples or models.
    """
    merged = consensus_audit(audits)
    merged["nats"] = strength(merged)
    merged["label"] = label.astype(object).reindex(merged.index).fillna(UNLABELED_NAME).astype(str)
    found = merged[(merged["suspicion"] != "").to_numpy()].copy()
    found["other_class"] = ""
    for suspicion, column in OTHER_CLASS.items():
        rows = (found["suspicion"] == suspicion).to_numpy()
        if rows.any():
            found.loc[rows, "other_class"] = found.loc[rows, column]
    found = found.sort_values("nats", ascending=False, kind="stable").rename_axis("sample").reset_index()
    return found[["sample", "label", "suspicion", "other_class", "nats", "n_seeds"]]
