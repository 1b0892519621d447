"""What the jobs of a run take: a formula, fitted to measured jobs, in units that a trial measures.

The seconds of a job are a start (libraries, the first compiled kernels) and its work: training steps, samples that are
embedded or audited, each at what the trial found for it; or numbers that are decoded or read, at what measured jobs
took for them. `python -m benchmarks.estimates fit` writes the coefficients.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from nvae_bio.check.data import DataFacts
from nvae_bio.check.trial import Units, passes
from nvae_bio.config import RunSettings, usual_epochs

MB = 1e6
COUNT_BYTES, NUMBER_BYTES = 8, 4  # of a stored count with its column, and of any other number, in memory
COUNT_DISK, NUMBER_DISK = 1.6, 3.2  # the same in files, compressed, about; measured on the default runs
STORE_MB = 3000.0  # of a job that reads from a store, at most: the largest of benchmarks/results/scale_memory.csv
HELD_SHARE = 1 / 3  # of a step's work, per sample, that one without gradients is
EARLY = (
    0.55  # of the way from the first to the last epoch at which patience can end a training: the mean of measured ones
)


@dataclass(frozen=True)
class Epochs:
    """Passes of a training: the fewest, the most, and what is likely."""

    fewest: int
    most: int

    @property
    def likely(self) -> float:
        """Between both, where early stopping ended measured trainings."""
        return self.fewest + EARLY * (self.most - self.fewest)


@dataclass(frozen=True)
class Job:
    """The jobs of a rule for a run.

    Attributes:
        rule: of the workflow.
        n: jobs.
        seconds: of one, as is likely, on a free machine.
        most: of one, where no training stops early.
        peak_mb: memory of one.
        disk_mb: of the files of all.
    """

    rule: str
    n: int
    seconds: float
    most: float
    peak_mb: float
    disk_mb: float = 0.0


@cache
def coefficients() -> dict[str, Any]:
    """The fitted numbers, with what they were fitted to."""
    text = resources.files("nvae_bio.check").joinpath("costs.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def epochs_of(run: RunSettings, n_samples: int) -> Epochs:
    """Passes over the training samples, from the earliest that patience can end them to all."""
    most = run.training.max_epochs or usual_epochs(max(n_samples, 1))
    if run.training.patience is None:
        return Epochs(most, most)
    warmup = math.ceil(run.training.warmup_share * most)
    return Epochs(min(warmup + run.training.patience + 1, most), most)


def unmeasured(units: Units, facts: DataFacts, run: RunSettings) -> Units:
    """The units by the formula: from the operations of a step, where nothing is timed."""
    known = coefficients()["units"]
    values = units.batch_size * facts.n_features
    step = known["step"]["start"] + known["step"]["flops"] * units.flops + known["step"]["values"] * values
    per_sample = step / units.batch_size
    audit = 0.0 if run.audit is None else known["audit"] * per_sample * run.audit.n_steps * (2 + run.audit.n_candidates)
    encode = known["encode"] * per_sample * passes(run)
    return Units(step, encode, audit, 1.0, units.flops, units.batch_size, is_measured=False)


def training_seconds(units: Units, facts: DataFacts, run: RunSettings, epochs: float) -> float:
    """Of one training of so many epochs: its steps, and the validation after each epoch."""
    n = _n_training(facts, run)
    steps = math.ceil(n / units.batch_size)
    held_out = facts.part("validation") * units.step / units.batch_size * HELD_SHARE
    return epochs * (steps * units.step + held_out)


def _n_training(facts: DataFacts, run: RunSettings) -> int:
    n = facts.part("train")
    if facts.obs is None or run.training.unlabeled == "ignore":
        return n
    return n + int(((facts.obs["split"] == "train") & facts.obs["label"].isna()).sum())


def work(units: Units, facts: DataFacts, run: RunSettings, training: float) -> dict[str, dict[str, float]]:
    """Rule -> what one job of it does, each in the unit that its coefficient is for.

    Args:
        units: of the trial, or of the formula.
        facts: of the data set.
        run: of it.
        training: seconds of a training.
    """
    n_classes, model = max(len(facts.sizes), 1), run.model
    dims = model.n_shared + n_classes * model.n_private
    parts = [len(part) for parts in run.refits.values() for part in parts]
    refits = sum(parts) / max(len(parts), 1)  # of a job
    detected = 0.5 * facts.n * units.encode  # held-out and training samples, a part of the draws
    plantings = 0.0
    if run.power is not None:
        plantings = run.power.n_runs * len(run.power.fold_changes) / max(len(run.plantings), 1)
    scored = 0.0
    if run.evaluation is not None:
        n_scored = min(facts.part("test"), run.evaluation.max_samples)
        scored = len(run.seeds) * n_scored * run.evaluation.n_draws * units.encode / passes(run)
    decoded = facts.n_features * dims * n_classes * run.generation.n_steps / MB
    laid_out = min(facts.n, run.embedding.umap_max_samples) / 1000 if run.embedding.umap else 0.0
    effects = n_classes * run.embedding.n_effect_samples * dims * facts.n_features / MB
    return {
        "prepare_data": {"read": facts.n_source / MB},
        "train_model": {"training": training},
        "train_base": {"training": training},
        "embed_data": {
            "encoded": facts.n * units.encode, "umap": float(run.embedding.umap), "laid_out": laid_out,
            "effects": effects,
        },
        "generate_samples": {"decoded": decoded},
        "swap_classes": {"decoded": decoded},
        "audit_labels": {"audited": facts.n * units.audit},
        "refit_null": {"training": refits * training, "detected": refits * detected},
        "plant_programmes": {"training": plantings * training, "detected": plantings * detected},
        "report_factors": {"effects": len(run.seeds) * dims * facts.n_features / MB, "samples": facts.n / 1000},
        "suggest_settings": {},
        "evaluate_run": {"scored": scored, "seeds": float(len(run.seeds))},
        "plot_figures": {"samples": facts.n / 1000},
        "plot_pages": {"pages": float(n_classes + model.n_shared)},
        "plot_embedding": {"samples": facts.n / 1000},
        "plot_images": {},
        "plot_swaps": {},
        "plot_scores": {},
        "export_run": {},
        "describe_model": {},
        "map_query": {},
        "change_samples": {},
        "plot_change": {},
        "build_page": {},
    }  # fmt: skip


def sizes_of(rule: str, facts: DataFacts, run: RunSettings) -> dict[str, float]:
    """What the memory of a job is counted in, MB: the source, or the matrix of the model and tables of the samples."""
    per_value = COUNT_BYTES if facts.kind == "counts" else NUMBER_BYTES
    if rule == "prepare_data":
        return {"source": facts.n_source * per_value / MB}
    found = {"matrix": facts.n_values * per_value / MB}
    return found | ({"tables": _tables_mb(facts, run)} if rule == "embed_data" else {})


def _tables_mb(facts: DataFacts, run: RunSettings) -> float:
    n_classes, model = max(len(facts.sizes), 1), run.model
    columns = 5 * model.n_shared + 4 * model.n_private + 5 * n_classes * model.n_private + n_classes
    return facts.n * columns * NUMBER_BYTES / MB


def predicted(coefs: dict[str, float], amounts: dict[str, float]) -> float:
    """Start and work, by their coefficients."""
    return coefs.get("start", 0.0) + sum(coefs.get(name, 0.0) * amount for name, amount in amounts.items())


def jobs_of(run: RunSettings, is_image: bool, is_evaluated: bool) -> dict[str, int]:
    """Rule -> jobs of a run, its data set aside."""
    n, labelled = len(run.seeds), run.model.variant != "vae"
    stacked = run.training.stack_seeds and n > 1 and (run.training.n_ranks or 1) == 1
    found = {
        "train_model": 1 if stacked else n, "train_base": int(bool(run.refits)),
        "refit_null": sum(map(len, run.refits.values())), "embed_data": n,
        "audit_labels": n * run.is_audited, "plant_programmes": len(run.plantings), "report_factors": 1,
        "suggest_settings": 1, "generate_samples": n, "swap_classes": n * labelled,
        "evaluate_run": int(is_evaluated), "plot_figures": 1, "plot_pages": 1, "plot_embedding": n,
        "plot_images": n * is_image, "plot_swaps": n * (is_image and labelled), "plot_scores": int(is_evaluated),
        "export_run": int(run.export is not None), "describe_model": n * (run.export is not None),
        "map_query": n * len(run.queries), "change_samples": n * len(run.counterfactuals),
        "plot_change": n * len(run.counterfactuals), "build_page": int(run.page is not None),
    }  # fmt: skip
    return {rule: int(count) for rule, count in found.items() if count}


def estimate_run(units: Units, facts: DataFacts, run: RunSettings) -> list[Job]:
    """What each rule of a run takes, one entry a rule, its data set's preparation aside."""
    epochs = epochs_of(run, _n_training(facts, run))
    likely = work(units, facts, run, training_seconds(units, facts, run, epochs.likely))
    most = work(units, facts, run, training_seconds(units, facts, run, epochs.most))
    return [
        _job(rule, n, likely[rule], most[rule], facts, run)
        for rule, n in jobs_of(run, facts.kind == "images", run.evaluation is not None).items()
    ]


def estimate_preparation(facts: DataFacts, run: RunSettings) -> Job:
    """What the preparation of a data set takes."""
    amounts = {"read": facts.n_source / MB}
    return _job("prepare_data", 1, amounts, amounts, facts, run)


def _job(
    rule: str, n: int, likely: dict[str, float], most: dict[str, float], facts: DataFacts, run: RunSettings
) -> Job:
    known = coefficients()
    seconds, memory = known["seconds"].get(rule, {"start": 5.0}), known["peak_mb"].get(rule, {"start": 600.0})
    each = len(run.seeds) if rule == "train_model" and n < len(run.seeds) else 1  # seeds in one job
    peak = predicted(memory, sizes_of(rule, facts, run))
    if facts.is_stored and rule in ("prepare_data", "train_model", "embed_data"):
        peak = min(peak, STORE_MB)
    seconds_of = [each * predicted(seconds, amounts) for amounts in (likely, most)]
    return Job(rule, n, seconds_of[0], seconds_of[1], peak, n * _disk_mb(rule, facts, run))


def _disk_mb(rule: str, facts: DataFacts, run: RunSettings) -> float:
    """Of the files of one job, about: the matrix again in each file of samples, and tables or effects."""
    matrix = facts.n_values * (COUNT_DISK if facts.kind == "counts" else NUMBER_DISK) / MB
    tables = _tables_mb(facts, run) * NUMBER_DISK / NUMBER_BYTES
    n_classes = max(len(facts.sizes), 1)
    effects = 3 * NUMBER_BYTES * facts.n_features * n_classes * 12 / MB
    by_rule = {
        "prepare_data": (2.3 if facts.is_stored else 1) * matrix,
        "embed_data": matrix + tables + effects, "report_factors": matrix + tables + effects,
        "generate_samples": 2.0, "swap_classes": 0.5, "plot_figures": 3.0, "plot_pages": 5.0, "plot_embedding": 1.0,
        "export_run": matrix + tables,
    }  # fmt: skip
    return by_rule.get(rule, 0.3)
