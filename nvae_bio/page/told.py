"""What a page tells of data and training, and with what it was made."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

import nvae_bio
from nvae_bio import schema
from nvae_bio.data.files import named_with_package
from nvae_bio.factors.capacity import is_active
from nvae_bio.factors.reading import is_spilled
from nvae_bio.page.results import RunResults
from nvae_bio.page.tables import Cell, Mark, Table, count, flattened, make_table, number, small

LIBRARIES = ("torch", "anndata", "scanpy", "numpy", "scikit-learn", "matplotlib", "bokeh", "jinja2")
KINDS = {"counts": ("cells", "genes"), "images": ("images", "pixels"), "features": ("samples", "features")}


def nouns(results: RunResults) -> tuple[str, str]:
    """What samples and features of this kind of data are called."""
    return KINDS[results.kind]


def facts(results: RunResults) -> list[tuple[str, str]]:
    """The numbers that a reader sees first: value and what it is."""
    report, obs = results.factors, results.factors.obs
    published = obs["published"].to_numpy(bool) & ~is_spilled(obs)
    samples, features = nouns(results)
    found = [
        (count(results.prepared.n_obs), samples),
        (count(results.prepared.n_vars), features),
        (count(len(results.classes)), "classes"),
        (count(len(results.cards)), "seed" + "s" * (len(results.cards) > 1)),
    ]
    for kind in ("shared", "private"):
        of_kind = published & (obs["kind"] == kind).to_numpy()
        found.append((f"{int(is_active(report, kind).sum())} of {int(of_kind.sum())}", f"{kind} factors active"))
    return found


def removed_table(results: RunResults) -> Table:
    """What was filtered, and why."""
    removed = results.prepared.uns[schema.DATA]["removed"]
    rows = [[str(row["reason"]), str(row["what"]), str(row["step"]), count(row["n_removed"]), count(row["n_left"])]
            for _, row in removed.iterrows()]  # fmt: skip
    return make_table("Filters, in order", ("filter", "of", "setting", "removed", "left"), rows, (3, 4))


def class_table(results: RunResults) -> Table:
    """Samples of each class by split, and of counts their libraries."""
    obs = results.prepared.obs
    label = obs[schema.LABEL].astype(object).where(obs[schema.LABEL].notna(), "unlabeled").astype(str)
    names = results.classes + sorted(set(label) - set(results.classes))
    has_library = results.kind == "counts" and schema.LIBRARY in obs
    head = ["class", *schema.SPLITS, "all", *(["median library", "5 % – 95 %"] if has_library else [])]
    rows = []
    for name, own in [*((name, (label == name).to_numpy()) for name in names), ("all", np.ones(len(obs), bool))]:
        cells = [name, *(count((own & (obs[schema.SPLIT] == split).to_numpy()).sum()) for split in schema.SPLITS)]
        cells.append(count(own.sum()))
        if has_library:
            library = obs[schema.LIBRARY].to_numpy(float)[own]
            low, middle, high = np.quantile(library, [0.05, 0.5, 0.95]) if len(library) else [np.nan] * 3
            cells += [f"{middle:,.0f}", f"{low:,.0f} – {high:,.0f}"] if len(library) else ["–", "–"]
        rows.append(cells)
    return make_table("Classes and splits", head, rows, range(1, len(head)))


def told_of_data(results: RunResults) -> list[str]:
    """Where the data come from, in sentences."""
    data, (samples, features) = results.prepared.uns[schema.DATA], nouns(results)
    settings = json.loads(str(data["settings"]))
    source = ", ".join(str(path) for path in np.ravel(data["source"]))
    split = settings["split"]
    by = f"by {split['by']}" + (f" ({split['key']})" if split.get("key") else "")
    shape = f"{count(results.prepared.n_obs)} {samples} × {count(results.prepared.n_vars)} {features}"
    said = [
        f"Read from {source}: {shape} are "
        f"left after the filters below. They are split {by}; factors are judged on what the models did not train on."
    ]
    keys = {name: settings[f"{name}_key"] for name in ("label", "batch", "donor", "condition")}
    named = [f"{name}: {key}" for name, key in keys.items() if key]
    lacking = [name for name, key in keys.items() if not key and name != "label"]
    said.append(f"Columns named in the settings: {', '.join(named) or 'none'}" + (
        f"; no {', no '.join(lacking)}." if lacking else "."
    ))  # fmt: skip
    covariates = data.get(schema.COVARIATES)
    if isinstance(covariates, pd.DataFrame) and len(covariates):
        told = [f"{row.iloc[0]} ({row.iloc[1]})" for _, row in covariates.iterrows()]
        said.append(f"The models are told: {', '.join(told)}.")
    return said


def training_table(results: RunResults) -> Table:
    """A row a seed: which epoch was kept, and whether the KL weight was 1 there."""
    rows: list[list[Cell]] = []
    for card, history in zip(results.cards, results.histories, strict=True):
        held = history[(history["split"] == "validation").to_numpy()]
        kept = held[(held["epoch"] == card.best_epoch).to_numpy()].iloc[-1]
        before = history.loc[history["kl_weight"] < 1, "epoch"]
        weight = float(kept["kl_weight"])
        reached = Mark("1, reached", "pass") if weight == 1 else Mark(f"{weight:.3g}, not 1", "fail")
        temperature = "–" if card.calibration is None else number(card.calibration.temperature)
        rows.append([
            str(card.seed), count(card.best_epoch), count(history["epoch"].max() + 1),
            count(before.max() + 1 if len(before) else 0), reached, *(number(kept[c]) for c in TERMS), temperature,
            card.device,
        ])  # fmt: skip
    head = ["seed", "kept epoch", "epochs trained", "epochs of warm-up", "KL weight there", *TERMS.values(),
            "temperature of q(y|x)", "device"]  # fmt: skip
    return make_table("Each seed at the epoch that was kept (validation samples)", head, rows, (1, 2, 3, *range(5, 11)))


TERMS = {
    "elbo": "ELBO (nats)", "log_likelihood": "log p(x|y,z) (nats)", "kl_shared": "KL of z_s (nats)",
    "kl_private": "KL of the own block (nats)", "accuracy": "accuracy of q(y|x)",
}  # fmt: skip


def told_of_training(results: RunResults) -> list[tuple[str, Mark | None]]:
    """Whether the KL weight was 1 wherever weights were kept; and what was kept."""
    below = []
    for card, history in zip(results.cards, results.histories, strict=True):
        if float(history.loc[(history["epoch"] == card.best_epoch).to_numpy(), "kl_weight"].min()) < 1:
            below.append(card.seed)
    kept = ", ".join(f"{card.best_epoch} of seed {card.seed}" for card in results.cards)
    said: list[tuple[str, Mark | None]] = [
        (f"Kept are the weights of the epoch with the best validation ELBO at the full KL weight: epoch {kept}.", None)
    ]
    if below:
        seeds = ", ".join(map(str, below))
        text = f"The KL weight did not reach 1 in seed {seeds}: its KL and its ELBO are not of the model."
        return [*said, (text, Mark("fail", "fail"))]
    return [*said, ("The KL weight had reached 1 at the kept epoch of every seed.", Mark("pass", "pass"))]


def settings_tables(results: RunResults) -> list[Table]:
    """Every setting of the data set, the run, its report and its power."""
    model, data = results.factors.uns[schema.MODEL], results.prepared.uns[schema.DATA]
    texts = {"data set": data["settings"], "model and training": model["settings"], "report": model["report"],
             "power": model.get(schema.POWER_SETTINGS)}  # fmt: skip
    return [
        make_table(f"Settings: {name}", ("key", "value"), [list(line) for line in flattened(json.loads(str(text)))])
        for name, text in texts.items()
        if text is not None
    ]


def versions_table(results: RunResults) -> Table:
    """What the files were made with, and what was installed where the page was made."""
    model = results.factors.uns[schema.MODEL]
    rows = [[f"nvae-bio, model of seed {card.seed}", card.version] for card in results.cards]
    rows += [["nvae-bio, factor report", str(model["version"])], ["nvae-bio, this page", nvae_bio.__version__]]
    rows += [[f"{name}, where this page was made", version(name)] for name in LIBRARIES]
    return make_table("Versions", ("of", "version"), rows)


def provenance_table(results: RunResults) -> Table:
    """Fingerprints: of the data, and of each model."""
    rows = [["data set (sha256)", str(results.factors.uns[schema.MODEL]["fingerprint"])]]
    rows += [
        [f"weights of seed {card.seed} (sha256)", card.weights_sha256] for card in results.cards if card.weights_sha256
    ]
    return make_table("Fingerprints", ("of", "fingerprint"), rows)


def evaluation_table(results: RunResults) -> Table | None:
    """Scores of the models on held-out samples, a row a metric; None where they were not evaluated."""
    found = results.evaluation
    if found is None or found.empty:
        return None
    found = found.assign(metric=named_with_package(found))
    wide = found.pivot_table(index="metric", columns="seed", values="value", sort=False, dropna=False)
    rows = [
        [str(metric), *(_score(value) for value in row)]
        for metric, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    head = ("metric", *(f"seed {seed}" for seed in wide.columns))
    told = "which were told the classes" if found["saw_labels"].all() else "which were not told the classes"
    return make_table(f"Scores of the models, {told}, on held-out samples", head, rows, range(1, len(head)))


def _score(value: Any) -> str:
    return small(value) if abs(float(value)) < 0.01 else number(value, 3)
