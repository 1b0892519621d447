"""Whether drawn counts are like real ones, gene by gene."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from nvae_bio.evaluate.samples import from_prior
from nvae_bio.evaluate.subject import Subject

MIN_CELLS = 20  # held out, of a class


def count_scores(subject: Subject, seed: int) -> dict[str, float]:
    """Mean, variance and zeros of each gene in ancestral samples beside held-out cells, class by class.

    Cells that are drawn have the library of a random training cell of their class, and each class has as many drawn
    cells as held-out ones.

    Args:
        subject: a model of counts.
        seed: of the draws.

    Returns:
        Means over classes with 20 held-out cells of: gene_mean_error and gene_variance_error, the median over genes
        (of those with a count in the held-out cells) of |log2 ratio| of drawn to held-out; gene_zeros_error, the mean
        |difference| of the share of cells without a count; and gene_mean_correlation, gene_variance_correlation,
        gene_zeros_correlation (Spearman over genes). Each is also given between two random halves of the held-out
        cells, as `NAME_halves`: as near as it can be told. Left out where no class has as many.
    """
    rows, label = subject.rows("test"), subject.label
    found: list[dict[str, float]] = []
    for index in np.unique(label[rows]):
        own = rows[label[rows] == index]
        if len(own) < MIN_CELLS:
            continue
        real, classes = subject.raw(own), np.full(len(own), index)
        rng = np.random.default_rng((seed, int(index)))
        made = subject.decoded(from_prior(subject.n_latent)(classes, rng), classes, seed, drawn=True)
        halves = np.array_split(rng.permutation(len(own)), 2)
        scores = _differences(real, made)
        scores |= {f"{name}_halves": value for name, value in _differences(*(real[half] for half in halves)).items()}
        found.append(scores)
    return {name: float(np.mean([scores[name] for scores in found])) for name in (found[0] if found else {})}


def _differences(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """How two sets of cells, (cells, genes), differ gene by gene."""
    there, scores = real.any(0), {}
    least = 0.5 / len(real)  # as if half a count had been seen
    parts = [part[:, there].astype(float) for part in (real, made)]
    moments = {"mean": [part.mean(0) for part in parts], "variance": [part.var(0) for part in parts]}
    for name, (one, other) in moments.items():
        scores[f"gene_{name}_error"] = float(np.median(np.abs(np.log2((other + least) / (one + least)))))
        scores[f"gene_{name}_correlation"] = float(spearmanr(one, other).statistic)
    one, other = ((part == 0).mean(0) for part in parts)
    scores["gene_zeros_error"] = float(np.abs(one - other).mean())
    scores["gene_zeros_correlation"] = float(spearmanr(one, other).statistic)
    return scores
