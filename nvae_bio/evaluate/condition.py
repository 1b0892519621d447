"""Where a model keeps a condition that it was never told: in the latent that all classes share, or in each one's own.

A shared response is one that is the same in every class. So a probe of z_s is fitted on the other classes and scored
on a class that it has not seen; a probe of the own block, of which each class has another, on the class itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from sklearn.metrics import roc_auc_score

from nvae_bio import schema
from nvae_bio.config import ConditionSettings
from nvae_bio.errors import UserError, listed
from nvae_bio.evaluate.common import labelled
from nvae_bio.evaluate.probes import leakage
from nvae_bio.factors.probes import make_probe

N_TOP = 20  # genes of NAME_top20


@dataclass(frozen=True)
class Treated:
    """Which samples are treated; those that have no class, or neither condition, are left out of all.

    Attributes:
        label: class, (n,), text.
        is_treated: (n,), bool.
        known: with a class and one of the two conditions, (n,), bool.
        train, test: those of a part of the split, (n,), bool.
    """

    label: np.ndarray
    is_treated: np.ndarray
    known: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, adata: AnnData, settings: ConditionSettings) -> Treated:
        """Of prepared or embedded data.

        Raises:
            UserError: no condition, or a value that no sample has.
        """
        if schema.CONDITION not in adata.obs:
            raise UserError(f"the data have no obs[{schema.CONDITION!r}]; set condition_key and prepare them again")
        condition = adata.obs[schema.CONDITION].astype(object).to_numpy()
        for key, value in (("control", settings.control), ("treated", settings.treated)):
            if value not in condition:
                there = listed(sorted(adata.obs[schema.CONDITION].dropna().unique()))
                raise UserError(f"condition.{key}: no sample has {value!r}; allowed: {there}")
        is_treated = condition == settings.treated
        known = (is_treated | (condition == settings.control)) & adata.obs[schema.LABEL].notna().to_numpy()
        label = adata.obs[schema.LABEL].astype(str).to_numpy()
        return cls(label, is_treated, known, known & labelled(adata, "train"), known & labelled(adata, "test"))

    @property
    def classes(self) -> list[str]:
        """All of them, sorted."""
        return sorted(set(self.label[self.known]))

    @property
    def held_out(self) -> list[str]:
        """Classes with treated samples, of which none is trained on, but controls are."""
        trained = {name: self.is_treated[self.train & (self.label == name)] for name in self.with_both}
        return [name for name, treated in trained.items() if len(treated) and not treated.any()]

    @property
    def with_both(self) -> list[str]:
        """Classes with treated samples and controls."""
        return [name for name in self.classes if self.has_both(self.known & (self.label == name))]

    def has_both(self, rows: np.ndarray) -> bool:
        """Whether some of these samples are treated and some are not."""
        return len(set(self.is_treated[rows])) == 2


def probe_auroc(embedding: np.ndarray, treated: Treated, fit: np.ndarray, score: np.ndarray) -> float:
    """AUROC of a logistic regression (L2, C = 1) on standardised dims, fitted and scored on given rows, (n,), bool."""
    probe = make_probe("linear", int(fit.sum())).fit(embedding[fit], treated.is_treated[fit])
    return float(roc_auc_score(treated.is_treated[score], probe.decision_function(embedding[score])))


def shared_auroc(shared: np.ndarray, treated: Treated) -> Iterator[tuple[str, float]]:
    """condition_auroc_shared[CLASS]: fitted on training samples of the other classes, scored on test ones of the class.

    A class without both conditions among its test samples has none.
    """
    for name in treated.classes:
        own = treated.label == name
        if treated.has_both(treated.test & own) and treated.has_both(treated.train & ~own):
            score = probe_auroc(shared, treated, treated.train & ~own, treated.test & own)
            yield f"condition_auroc_shared[{name}]", score


def private_auroc(own_block: np.ndarray, treated: Treated) -> Iterator[tuple[str, float]]:
    """condition_auroc_private[CLASS]: fitted on training samples of the class itself, scored on its test ones."""
    for name in treated.classes:
        own = treated.label == name
        if treated.has_both(treated.test & own) and treated.has_both(treated.train & own):
            score = probe_auroc(own_block, treated, treated.train & own, treated.test & own)
            yield f"condition_auroc_private[{name}]", score


def factor_of_condition(shared: np.ndarray, treated: Treated) -> tuple[int, int]:
    """The dim that tells treated training samples best, and its sign.

    The AUROC of a dim is the mean over classes of that within the class, so that no difference between classes counts.

    Returns:
        Index of the dim, and 1 where it rises with the treatment or −1 where it falls.
    """
    found = []
    for name in treated.classes:
        rows = treated.train & (treated.label == name)
        if treated.has_both(rows):
            found.append([roc_auc_score(treated.is_treated[rows], dim) for dim in shared[rows].T])
    lean = np.mean(found, axis=0) - 0.5
    dim = int(np.abs(lean).argmax())
    return dim, 1 if lean[dim] >= 0 else -1


def gene_set_scores(
    effect: np.ndarray, genes: np.ndarray, gene_sets: dict[str, list[str]]
) -> Iterator[tuple[str, float]]:
    """How far up the known genes stand when all are ranked by an effect, those that rise first.

    Args:
        effect: of each gene, (G,), positive where it rises with the treatment.
        genes: their names, (G,).
        gene_sets: name -> known genes; those that are not in the data do not count.

    Returns:
        NAME_auroc of the known genes against all others, and NAME_top20: known ones among the first 20, as a share.

    Raises:
        UserError: a set of which no gene, or every gene, is in the data.
    """
    for name, known in gene_sets.items():
        is_known = np.isin(genes, known)
        if is_known.all() or not is_known.any():
            raise UserError(
                f"condition.gene_sets.{name}: {int(is_known.sum())} of the data's {len(genes)} genes are in it; "
                "allowed: at least 1, and not all"
            )
        yield f"{name}_auroc", float(roc_auc_score(is_known, effect))
        yield f"{name}_top{N_TOP}", float(is_known[np.argsort(-effect, kind="stable")[:N_TOP]].mean())


def condition_scores(
    adata: AnnData,
    settings: ConditionSettings,
    shared: np.ndarray | None,
    own_block: np.ndarray | None,
    effects: np.ndarray | None,
) -> dict[str, float]:
    """Scores of one embedding.

    Args:
        adata: prepared or embedded data.
        settings: the condition and what is known of it.
        shared: z_s, or the embedding of a method that has no other, (n, S); None without.
        own_block: of the sample's class, (n, K); None without.
        effects: of each dim of `shared` on each gene, (G, S); None without.

    Returns:
        condition_auroc_shared[CLASS], condition_auroc_private[CLASS], NAME_auroc and NAME_top20 of each gene set, as
        far as there is what they need.

    Raises:
        UserError: as `Treated.of` and `gene_set_scores`; or no training samples of both conditions in any class.
    """
    treated = Treated.of(adata, settings)
    if not any(treated.has_both(treated.train & (treated.label == name)) for name in treated.classes):
        raise UserError("condition: no class has training samples of both conditions; allowed: at least one that has")
    scores: dict[str, float] = {}
    if shared is not None:
        scores |= dict(shared_auroc(shared, treated))
    if own_block is not None:
        scores |= dict(private_auroc(own_block, treated))
    if shared is not None and effects is not None:
        dim, sign = factor_of_condition(shared, treated)
        scores |= dict(gene_set_scores(sign * effects[:, dim], adata.var_names.to_numpy(), settings.gene_sets))
    return scores


def leakage_of(adata: AnnData, shared: np.ndarray) -> dict[str, float]:
    """Leakage of the class from an embedding of all samples, (n, d)."""
    label = adata.obs[schema.LABEL].astype(str).to_numpy()
    return leakage(shared, label, labelled(adata, "train"), labelled(adata, "test"))
