"""A card of a trained model in words, with figures of its own files and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.card import ModelCard
from nvae_bio.citation import CITATION
from nvae_bio.data.files import named_with_package
from nvae_bio.errors import listed
from nvae_bio.factors.capacity import is_active

ABSENT = "not among the files that this card was made from"
MOST_SCORES = 40
HISTORY = {  # of the best epoch: column -> what it is
    "elbo": "bound on log p(x\\|y), nats a sample", "log_likelihood": "log p(x\\|y, z), nats a sample",
    "kl_shared": "KL of z_s, nats a sample", "kl_private": "KL of the own block, nats a sample",
}  # fmt: skip


def describe_model(
    card: ModelCard,
    data: AnnData | None = None,
    history: pd.DataFrame | None = None,
    evaluation: pd.DataFrame | None = None,
    report: AnnData | None = None,
) -> str:
    """A model card in Markdown, after Mitchell et al. 2019 (doi:10.1145/3287560.3287596).

    Args:
        card: of the model.
        data: prepared or embedded samples that it was trained on.
        history: of its training.
        evaluation: scores of its run; those of its seed are shown.
        report: factor report of its run.

    Returns:
        The text. What a figure would be taken from and is not given is said to be absent.
    """
    parts: list[tuple[str, Iterator[str]]] = [
        ("Model details", _details(card)), ("Intended use", _use(card)), ("Data", _data(card, data)),
        ("Training", _training(card, history)), ("Evaluation", _evaluation(card, evaluation)),
        ("Factors", _factors(card, report)), ("Limits", _limits(card, data, report)), ("How to load it", _loading()),
        ("Licence and citation", _licence(card)),
    ]  # fmt: skip
    head = [*_front_matter(card), f"# N-VAE of {len(card.classes)} classes, seed {card.seed}"]
    for title, lines in parts:
        head += ["", f"## {title}", "", *lines]
    return "\n".join(head) + "\n"


def _front_matter(card: ModelCard) -> list[str]:
    """What registries of models read."""
    tags = ["nvae-bio", "variational-autoencoder", card.kind, card.settings.model.variant]
    return ["---", "library_name: nvae-bio", f"tags: {json.dumps(tags)}", "---", ""]


def _table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(_cell(one) for one in row) + " |"


def _cell(value: object) -> str:
    text = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.replace("|", "\\|").replace("\\\\|", "\\|").split())


def _details(card: ModelCard) -> Iterator[str]:
    model = card.settings.model
    yield (
        "A variational autoencoder with a latent z_s that all classes share and a private block of z_c for each class "
        "(N-VAE, Antorán & Miguel 2019)."
    )
    yield ""
    rows = [
        ("variant", model.variant), ("likelihood", card.likelihood), ("kind of data", card.kind),
        ("features", len(card.features)), ("classes", len(card.classes)), ("shared dims, S", model.n_shared),
        ("private dims of a class, K", model.n_private), ("β_c", model.beta_private), ("backbone", model.backbone),
        ("hidden layers", ", ".join(map(str, model.hidden))), ("seed", str(card.seed)),
        ("told besides the class", listed(card.covariates.names) or "nothing"),
        ("made by", f"nvae-bio {card.version}"), ("sha256 of the weights", f"`{card.weights_sha256}`"),
    ]  # fmt: skip
    yield from _table(rows, ("what", "value"))


def _use(card: ModelCard) -> Iterator[str]:
    yield "To embed samples of the same features, to see what varies within all classes and within one, and to draw"
    yield "samples. Labels are given; the classifier is beside the model. It is not made for diagnosis, nor for"
    yield "decisions about people, and no cause follows from a factor."
    n = len(card.features)
    yield f"Other data must be of kind {card.kind}, with the {n:,} features of `model.json` in that order."


def _data(card: ModelCard, data: AnnData | None) -> Iterator[str]:
    yield f"Fingerprint (sha256 of values, names, labels and split): `{card.fingerprint}`"
    if data is None:
        yield ""
        yield f"Samples: {ABSENT}."
        return
    told = data.uns.get(schema.DATA, {})
    source = listed(map(str, np.ravel(told.get("source", []))))
    yield ""
    yield f"Source: {source or 'not told'}. {data.n_obs:,} samples are in the prepared file."
    yield ""
    counts = pd.crosstab(data.obs[schema.LABEL].astype(object).fillna("(unlabeled)"), data.obs[schema.SPLIT])
    parts = [part for part in schema.SPLITS if part in counts]
    rows = [(str(name), *(int(row[part]) for part in parts)) for name, row in counts.iterrows()]
    yield from _table(rows, ("class", *parts))
    removed = told.get("removed")
    if isinstance(removed, pd.DataFrame) and len(removed):
        lost = removed[pd.to_numeric(removed["n_removed"]) > 0]
        rows_lost = [(row["what"], row["reason"], int(row["n_removed"])) for _, row in lost.iterrows()]
        if rows_lost:
            yield ""
            yield "Left out before training:"
            yield ""
            yield from _table(rows_lost, ("what", "why", "how many"))


def _training(card: ModelCard, history: pd.DataFrame | None) -> Iterator[str]:
    training = card.settings.training
    yield (
        f"Adam, step size {training.learning_rate:g}, {training.batch_size} samples a step, at most "
        f"{training.max_epochs} epochs, on {card.device}. The weights are those of epoch {card.best_epoch}, with the "
        "highest validation bound."
    )
    yield ""
    if history is None or not len(history):
        yield f"History: {ABSENT}."
        return
    best = history[history["epoch"] == card.best_epoch].set_index("split")
    yield f"{int(history['epoch'].max()) + 1} epochs were trained. At epoch {card.best_epoch}:"
    yield ""
    shown = [(name, said) for name, said in HISTORY.items() if name in best]
    rows = [(said, *(float(best.loc[split, name]) for split in best.index)) for name, said in shown]
    yield from _table(rows, ("", *map(str, best.index)))


def _evaluation(card: ModelCard, evaluation: pd.DataFrame | None) -> Iterator[str]:
    if card.calibration is not None:
        found = card.calibration
        yield (
            f"Classifier q(y|x) on {found.n:,} validation samples, at temperature {found.temperature:.3g}: "
            f"cross-entropy {found.cross_entropy:.3g} nats ({found.cross_entropy_before:.3g} without), expected "
            f"calibration error {found.calibration_error:.3g} ({found.calibration_error_before:.3g})."
        )
        yield ""
    own = None if evaluation is None else evaluation[evaluation["seed"] == card.seed]
    if own is None or not len(own):
        yield f"Scores on held-out samples: {ABSENT} (`evaluation: on` makes them)."
        return
    told = "was" if own["saw_labels"].all() else "was not"
    yield f"Scores on held-out samples; docs/studies/README.md says what each is. The model {told} told the classes."
    yield ""
    shown = own.head(MOST_SCORES)
    rows = list(zip(named_with_package(shown, "`{}`"), shown["value"].astype(float), strict=True))
    yield from _table(rows, ("score", "value"))
    if len(own) > MOST_SCORES:
        yield ""
        yield f"And {len(own) - MOST_SCORES} more in `scores.csv`."


def _factors(card: ModelCard, report: AnnData | None) -> Iterator[str]:
    if report is None:
        yield f"Factor report: {ABSENT}."
        return
    told, obs = report.uns[schema.MODEL], report.obs
    seeds = np.ravel(told["seeds"])
    n_shared, n_private = (int(is_active(report, kind).sum()) for kind in ("shared", "private"))
    yield (
        f"The report is of {len(seeds)} seed{'s' * (len(seeds) > 1)} together. Active: {n_shared} shared and "
        f"{n_private} private factors."
    )
    yield ""
    shown = obs[obs["published"].to_numpy(dtype=bool)]
    rows = [
        (
            name,
            row["outcome"],
            f"{row['n_found']} of {row['n_seeds']}",
            float(row["kl"]),
            row["tag"] or "",
            row["top_up"],
        )
        for name, row in shown.iterrows()
    ]
    yield from _table(rows, ("factor", "outcome", "found in seeds", "KL (nats)", "goes along with", "rises most"))


def _limits(card: ModelCard, data: AnnData | None, report: AnnData | None) -> Iterator[str]:
    yield "- Private axes of different classes are unrelated; the joint embedding separates classes by construction."
    yield "- Private factors can hide in z_s where it has room to spare, and shared ones spill into blocks where it has"
    yield "  too little."
    yield "- One seed is one answer: what several seeds agree on is in the factor report."
    if card.likelihood == "cross_entropy":
        yield "- The likelihood is cross_entropy: its bound is a score, no bound on log p(x)."
    if card.calibration is None:
        yield "- The class probabilities are not calibrated."
    if data is not None:
        sizes = data.obs.loc[data.obs[schema.SPLIT] == "train", schema.LABEL].value_counts()
        least = sizes[sizes > 0]
        if len(least):
            yield f"- The smallest class has {int(least.min()):,} training samples ({least.idxmin()})."
    if report is not None:
        weak = [str(name) for name in np.ravel(report.uns[schema.MODEL].get(schema.UNDER_POWERED, []))]
        if weak:
            yield f"- Under-powered, whether they have a private factor cannot be told: {listed(weak)}."
        for note in np.ravel(report.uns[schema.MODEL].get("notes", [])):
            yield f"- {_cell(str(note))}"


def _loading() -> Iterator[str]:
    yield "```python"
    yield "from pathlib import Path"
    yield ""
    yield "import nvae_bio"
    yield ""
    yield 'trained = nvae_bio.load_model(Path("model.safetensors"), Path("model.json"))'
    yield "# prepared: of nvae_bio.prepare_data, with the same features"
    yield "embedded = nvae_bio.embed_data(prepared, trained)"
    yield "```"
    yield ""
    yield "No code in the files is run. `nvae-bio embed --weights model.safetensors --card model.json` does the same."


def _licence(card: ModelCard) -> Iterator[str]:
    yield "The software is under the BSD-3-Clause licence. None is set for this model or its data: who made it has to"
    yield "say."
    yield ""
    yield "Cite the software and the model:"
    yield ""
    yield from (f"- {work}" for work in CITATION)
