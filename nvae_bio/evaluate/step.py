"""The step: score a run, and write its table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import Calls, ConditionSettings, Evaluated, EvaluationSettings
from nvae_bio.data.files import read_embedded, read_factors, read_h5ad, read_report, write_csv
from nvae_bio.errors import UserError
from nvae_bio.evaluate.common import model_scores, of_seed, score_table
from nvae_bio.evaluate.condition import condition_scores
from nvae_bio.evaluate.evaluation import Evaluation
from nvae_bio.evaluate.factors import Published, factor_scores
from nvae_bio.evaluate.planted import planted_scores, power_scores
from nvae_bio.evaluate.real import real_scores
from nvae_bio.evaluate.response import expected_by, response_scores
from nvae_bio.trained import load_model

logger = logging.getLogger(__name__)
Scored = Iterator[tuple[int, dict[str, float], bool]]  # seed, metric → value, and whether its model saw the labels


@dataclass(frozen=True)
class ScoredRun:
    """Files of a run, and what of it is scored.

    Attributes:
        embedded: one a seed; for calls `consensus` the one of all seeds.
        report: factor report: of each seed, or for calls `consensus` of all.
        truth: what is planted in the data.
        models: weights and card of each seed, in the order of `embedded`.
        calls: of kind `factors`, whose calls are scored.
        number: for calls `consensus`, the seed that the table names, for there are several.
    """

    embedded: Sequence[Path]
    report: Path | None = None
    truth: Path | None = None
    models: Sequence[tuple[Path, Path]] = ()
    calls: Calls = "consensus"
    number: int = 0

    def with_truth(self, kind: Evaluated) -> tuple[Path, Path]:
        """The report and the truth.

        Raises:
            UserError: one of them is not given.
        """
        if self.truth is None or self.report is None:
            raise UserError(
                f"evaluate: kind {kind!r} needs --report, and --truth, which only simulated data have; "
                f"--{'truth' if self.truth is None else 'report'} is not given"
            )
        return self.report, self.truth


def read_truth(path: Path) -> AnnData:
    """Read what is planted in a simulation.

    Raises:
        UserError: unreadable, or not written by `nvae-bio simulate`.
    """
    truth = read_h5ad(path)
    if schema.TRUTH not in truth.uns:
        raise UserError(f"{path}: no uns[{schema.TRUTH!r}]; was it written as --truth by `nvae-bio simulate`?")
    return truth


def _planted(run: ScoredRun) -> Scored:
    """Scores of each seed against the truth."""
    report, truth = run.with_truth("planted")
    factors, known = read_report(report), read_truth(truth)
    for adata in map(read_embedded, run.embedded):
        yield _seed(adata), planted_scores(factors, adata, known), _saw_labels(adata)


def _factors(run: ScoredRun, settings: ConditionSettings | None) -> Scored:
    """Scores of published factors: of all seeds together, of each alone, or of the first by a plain threshold.

    Of data without a truth: what is known of the consensus all the same.
    """
    if run.truth is None and run.report is not None and run.calls == "consensus" and len(run.embedded) == 1:
        scored = read_embedded(run.embedded[0])
        if schema.FACTORS not in scored.obsm:
            raise UserError(f"{run.embedded[0]}: no consensus scores; without --truth it must be `factors --scores`")
        yield run.number, real_scores(read_factors(run.report), scored, settings), _saw_labels(scored)
        return
    report, truth = run.with_truth("factors")
    factors, known = read_report(report), read_truth(truth)
    if run.calls == "consensus":
        if len(run.embedded) != 1:
            raise UserError(f"--embedded: given {len(run.embedded)} times; calls 'consensus' take the one of all seeds")
        samples = read_embedded(run.embedded[0])
        found = factor_scores(Published.of_consensus(factors, samples), samples, known)
        yield run.number, found | power_scores(factors, known), _saw_labels(samples)
        return
    publish = Published.of_seed if run.calls == "one-seed" else Published.of_nats
    files = run.embedded if run.calls == "one-seed" else run.embedded[:1]
    for adata in map(read_embedded, files):
        yield _seed(adata), factor_scores(publish(factors, adata), adata, known), _saw_labels(adata)


def _model(run: ScoredRun, settings: EvaluationSettings | None) -> Scored:
    """Scores of each seed that need neither truth nor condition; with settings those that they name besides."""
    if run.report is None:
        raise UserError("evaluate: kind 'model' needs --report")
    if settings is not None and len(run.models) != len(run.embedded):
        raise UserError(
            f"--weights: given {len(run.models)} times for {len(run.embedded)} --embedded; --settings need one each"
        )
    factors = read_report(run.report)
    for place, path in enumerate(run.embedded):
        adata = read_embedded(path)
        found = model_scores(adata, of_seed(factors, _seed(adata)))
        if settings is not None:
            found |= Evaluation(load_model(*run.models[place]), adata, settings).scores()
        yield _seed(adata), found, _saw_labels(adata)


def _condition(run: ScoredRun, settings: ConditionSettings | None) -> Scored:
    """Scores of each seed: with models of the response of classes held out, else of where the condition is."""
    if settings is None:
        raise UserError("evaluate: kind 'condition' needs --settings, which name control and treated")
    if (run.report is None) == (not run.models):
        raise UserError(
            "evaluate: kind 'condition' needs --report, for where the condition is, or --weights and --card, for the "
            "response of classes held out; give one of both"
        )
    if run.models and len(run.models) != len(run.embedded):
        raise UserError(f"--weights: given {len(run.models)} times for {len(run.embedded)} --embedded; give one each")
    report = None if run.report is None else read_report(run.report)
    for place, path in enumerate(run.embedded):
        adata = read_embedded(path)
        shared, own_block = adata.obsm.get(schema.SHARED), adata.obsm.get(schema.SPECIFIC)
        if report is not None:
            found = condition_scores(adata, settings, shared, own_block, adata.varm.get(schema.EFFECT_SHARED))
            found |= model_scores(adata, of_seed(report, _seed(adata)))
        elif shared is None:
            raise UserError(f"{path}: the model has no z_s, so that no response can be carried over; allowed: one with")
        else:
            found = response_scores(adata, settings, shared, expected_by(load_model(*run.models[place]), adata))
        yield _seed(adata), found, _saw_labels(adata)


def _seed(adata: AnnData) -> int:
    """Which seed an embedded data set is of.

    Raises:
        UserError: of none: it holds the consensus scores of a run.
    """
    if "seed" not in adata.uns[schema.MODEL]:
        raise UserError("evaluate: scores of seeds need the report of each seed, and the samples as a seed embeds them")
    return int(adata.uns[schema.MODEL]["seed"])


def _saw_labels(adata: AnnData) -> bool:
    """Whether the model that embedded the samples was told their classes: all are but `vae`."""
    return str(adata.uns[schema.MODEL]["variant"]) != "vae"


def evaluate(
    kind: Evaluated,
    run: ScoredRun,
    output: Path,
    settings: ConditionSettings | EvaluationSettings | None = None,
    dataset: str = "data",
    variant: str = "model",
) -> None:
    """Score every seed of a run, and write the tidy table of `score_table` as .csv.

    Args:
        kind: what is scored. `planted`: each seed against the truth of a simulation; `factors`: published factors
            against the same; `condition`: where a condition is that the model was never told, or the response of
            classes whose treated samples are held out; `model`: fit, use of the latents and how much of the class z_s
            tells, which any data have, and what an `EvaluationSettings` names.
        run: its files.
        output: the table.
        settings: the condition, or what of a model is scored besides.
        dataset, variant: what the table calls the data and the model.

    Raises:
        UserError: a file that the kind needs is not given, or files that are not of one run.
    """
    condition = settings if isinstance(settings, ConditionSettings) else None
    evaluation = settings if isinstance(settings, EvaluationSettings) else None
    kinds: dict[Evaluated, Callable[[ScoredRun], Scored]] = {
        "planted": _planted,
        "factors": partial(_factors, settings=condition),
        "condition": partial(_condition, settings=condition),
        "model": partial(_model, settings=evaluation),
    }
    scored = list(kinds[kind](run))
    scores, saw_labels = {seed: found for seed, found, _ in scored}, any(saw for *_, saw in scored)
    table = score_table(scores, dataset, variant, saw_labels=saw_labels)
    write_csv(table, output)
    logger.info("%s, %s: %d scores", dataset, variant, len(table))
