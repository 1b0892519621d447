"""The response of a class of which no treated sample was trained on, foretold from the responses of the others.

The shift of z_s is the mean over the other classes of (mean of treated − mean of control). Every control sample of the
class, whatever its split, is decoded as it is and with the shift added to its z_s, its own block unchanged, both at its
own library. What is foretold is the log fold change between these two; that the decoder is off in a gene then cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from nvae_bio import schema
from nvae_bio.config import ConditionSettings
from nvae_bio.data.samples import class_index, sizes_of
from nvae_bio.errors import UserError
from nvae_bio.evaluate.condition import Treated
from nvae_bio.trained import TrainedModel

# z_s of some samples (m, S) and their rows (m,) -> expected counts at their own library, (m, G)
Expected = Callable[[np.ndarray, np.ndarray], np.ndarray]
SCALE = 10_000.0  # counts: the field's scale of log1p(CP10k)


def log_mean(counts: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Mean expression of some samples: log(1 + 10,000 · Σ counts / Σ library), (G,).

    The same of observed and of expected counts. The samples are summed before the logarithm, for that of a sample's own
    counts depends on how many of them were drawn, which an expected count knows nothing of.

    Args:
        counts: (m, G).
        library: all counts of each sample, (m,).

    >>> log_mean(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([10.0, 20.0])).round(3).tolist()
    [6.909, 0.0]
    """
    return np.asarray(np.log1p(SCALE * counts.sum(0) / library.sum()))


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Coefficient of determination, 1 − Σ (t − p)² / Σ (t − mean t)².

    >>> r_squared(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 3.0]))
    0.5
    """
    return float(1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def squared_correlation(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Squared Pearson correlation; 0 where nothing is foretold to change."""
    return float(np.corrcoef(truth, predicted)[0, 1] ** 2) if predicted.std() > 0 else 0.0


@dataclass(frozen=True)
class Observed:
    """Counts of each class, treated and control.

    Attributes:
        treated: which sample is which.
        counts: (n, G).
        library: (n,).
    """

    treated: Treated
    counts: np.ndarray
    library: np.ndarray

    @classmethod
    def of(cls, adata: AnnData, settings: ConditionSettings) -> Observed:
        """Of prepared or embedded counts."""
        counts = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
        library = adata.obs[schema.LIBRARY].to_numpy(dtype=float)
        return cls(Treated.of(adata, settings), np.asarray(counts, dtype=float), library)

    def rows(self, name: str, *, is_treated: bool) -> np.ndarray:
        """Rows of a class in one condition, whatever their split, (m,)."""
        of_class = self.treated.known & (self.treated.label == name)
        return np.flatnonzero(of_class & (self.treated.is_treated == is_treated))

    def mean(self, name: str, *, is_treated: bool) -> np.ndarray:
        """Mean expression, (G,), as `log_mean` has it."""
        rows = self.rows(name, is_treated=is_treated)
        return log_mean(self.counts[rows], self.library[rows])

    def change(self, name: str) -> np.ndarray:
        """Log fold change from control to treated, (G,)."""
        return np.asarray(self.mean(name, is_treated=True) - self.mean(name, is_treated=False))

    def shift(self, name: str, shared: np.ndarray) -> np.ndarray:
        """Mean z_s of treated − that of control, (S,)."""
        means = [shared[self.rows(name, is_treated=is_treated)].mean(0) for is_treated in (True, False)]
        return np.asarray(means[0] - means[1])


def response_scores(
    adata: AnnData, settings: ConditionSettings, shared: np.ndarray, expected: Expected
) -> dict[str, float]:
    """Scores of every class whose treated samples are all held out.

    Args:
        adata: prepared or embedded counts.
        settings: the condition.
        shared: z_s, or the embedding of a method that has no other, (n, S).
        expected: the method's decoder.

    Returns:
        r2_lfc_heldout[CLASS] of the foretold log fold change against that of the observed samples, over genes, and
        r2_lfc_heldout_pearson[CLASS], the squared correlation; r2_lfc_mean[CLASS] of the plain mean over the other
        classes of their log fold changes; r2_mean_heldout[CLASS] of the foretold mean expression.

    Raises:
        UserError: no class is held out, or no other class has both conditions.
    """
    seen = Observed.of(adata, settings)
    held_out = seen.treated.held_out
    if not held_out:
        raise UserError("condition: no class is without treated training samples; set hold_out of the data set")
    others = [name for name in seen.treated.with_both if name not in held_out]
    if not others:
        raise UserError("condition: no other class has both conditions, to take the response from; allowed: at least 1")
    shift = np.mean([seen.shift(name, shared) for name in others], axis=0)
    plain = np.mean([seen.change(name) for name in others], axis=0)
    scores: dict[str, float] = {}
    for name in held_out:
        rows, truth = seen.rows(name, is_treated=False), seen.change(name)
        before, after = (log_mean(expected(z, rows), seen.library[rows]) for z in (shared[rows], shared[rows] + shift))
        scores |= {
            f"r2_lfc_heldout[{name}]": r_squared(truth, after - before),
            f"r2_lfc_heldout_pearson[{name}]": squared_correlation(truth, after - before),
            f"r2_lfc_mean[{name}]": r_squared(truth, plain),
            f"r2_mean_heldout[{name}]": r_squared(seen.mean(name, is_treated=True), after),
        }
    return scores


def expected_by(trained: TrainedModel, embedded: AnnData) -> Expected:
    """The decoder of a model, for samples that it has embedded: own block and covariates are their own.

    Raises:
        UserError: the model is not that of the embedded data.
    """
    if str(embedded.uns[schema.MODEL]["fingerprint"]) != trained.card.fingerprint:
        raise UserError("the model was trained on other data than those that were embedded")
    if int(embedded.uns[schema.MODEL]["seed"]) != trained.card.seed:
        raise UserError(
            f"the model has seed {trained.card.seed}, the embedded data {embedded.uns[schema.MODEL]['seed']}; "
            "give them in the same order"
        )
    trained.check_data(embedded)
    network, told = trained.network, trained.card.covariates
    own_block = embedded.obsm.get(schema.SPECIFIC, np.zeros((embedded.n_obs, network.n_private)))
    label = torch.from_numpy(class_index(embedded.obs, trained.card.classes))
    size = sizes_of(embedded.obs, trained.card.settings.model.size).to_numpy(dtype=np.float32)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    @torch.no_grad()
    def expected(shared: np.ndarray, rows: np.ndarray) -> np.ndarray:
        covariates = told.read(embedded.obs.iloc[rows]) if told else None
        decoded = network.decode(tensor(shared), tensor(own_block[rows]), label[rows], tensor(size[rows]), covariates)
        return decoded.mean.numpy().astype(float)

    return expected
