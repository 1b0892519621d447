"""What a config for some files should say, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nvae_bio.config import CountsSettings
from nvae_bio.data.look import Look
from nvae_bio.data.look_files import common_names
from nvae_bio.data.look_tables import FEW_COLUMNS
from nvae_bio.data.names import part_names, stem
from nvae_bio.errors import UserError, listed
from nvae_bio.guard import free_memory
from nvae_bio.init.columns import (
    ROLES,
    STRONG,
    Candidate,
    Column,
    Role,
    candidates,
    is_nested,
    look_at_columns,
    nesting,
)

BYTES_PER_COUNT, COPIES = 8, 3  # in memory, as values and columns; and how many of all genes `prepare` holds at a time
MEMORY_SHARE = 0.5  # of the free memory from which on counts are read from the disk
FEW, MANY = 1_500, 20_000  # samples below which networks are small, and from which on batches are large
RAW_LAYERS = ("counts", "raw_counts", "raw", "umi", "umis")
LARGEST_SIDE = 96  # pixels of a side that the convolutions take
SMALL_PICTURE = 400  # pixels below which the default of `independence` is too much
TOP_GENES = int(CountsSettings.model_fields["n_top_genes"].default)


@dataclass
class Proposal:
    """A data set and a run as a config says them, and what is said beside.

    Attributes:
        name: of both.
        dataset: keys of `datasets.NAME`.
        run: keys of `runs.NAME`.
        why: key of the data set or `model.…` of the run -> lines that say why it is so.
        offers: key that is left out -> a value that could be given, as a comment.
        ranked: of each role the columns that could have it.
        undecided: what the user has to decide.
        said: what was seen, in lines for the terminal.
    """

    name: str
    dataset: dict[str, Any]
    run: dict[str, Any]
    why: dict[str, list[str]] = field(default_factory=dict)
    offers: dict[str, Any] = field(default_factory=dict)
    ranked: dict[Role, list[Candidate]] = field(default_factory=dict)
    undecided: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def because(self, key: str, *lines: str) -> None:
        """Add lines to what is said of a key."""
        self.why.setdefault(key, []).extend(lines)


def propose(looks: Sequence[Look], memory: int | None = None) -> Proposal:
    """A config for files that were looked at.

    Args:
        looks: of files of one data set, at least one.
        memory: free, in bytes; None for what is free now.

    Raises:
        UserError: pictures beside matrices, or no matrix that all files have.
    """
    kinds = {look.kind for look in looks}
    if len(kinds) > 1:
        raise UserError(f"{looks[0].path}, {looks[1].path}: pictures beside matrices; allowed: files of one kind")
    paths = [str(look.path) for look in looks]
    name = _name_of([look.path for look in looks])
    proposal = Proposal(name, {"kind": "images", "paths": paths[0] if len(paths) == 1 else paths}, {"dataset": name})
    n = sum(look.n_samples for look in looks)
    for look in looks:
        proposal.dataset |= look.settings
        proposal.because("paths", *look.notes)
    if kinds == {"images"}:
        _pictures(proposal, looks, n)
    else:
        _matrix(proposal, looks, n, free_memory() if memory is None else memory)
    _columns(proposal, looks)
    _sizes(proposal, n)
    return proposal


def _name_of(paths: Sequence[Path]) -> str:
    """A name for the data set: of its file, or of the folder of several."""
    path = paths[0].resolve()
    name = stem(path) if len(paths) == 1 else path.parent.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-") or "data"


def _pictures(proposal: Proposal, looks: Sequence[Look], n: int) -> None:
    channels, height, width = looks[0].shape or (1, 0, 0)
    proposal.said.append(f"{n:,} pictures of {height} × {width} pixels, {channels} channel{'s' * (channels > 1)}")
    proposal.because("kind", f"{looks[0].form}: {n:,} pictures of {height} × {width} pixels")
    if max(height, width) > LARGEST_SIDE and "resize" not in proposal.dataset:
        factor = 64 / max(height, width)
        proposal.dataset["resize"] = [max(round(height * factor), 8), max(round(width * factor), 8)]
        proposal.because(
            "resize", f"{height} × {width} pixels are more than the {LARGEST_SIDE} that networks here take"
        )
    height, width = proposal.dataset.get("resize", (height, width))
    if min(height, width) >= 32:
        proposal.run["model"] = {"backbone": "conv"}
        proposal.because("model.backbone", f"convolutions, for pictures of {height} × {width} pixels")
    if height * width < SMALL_PICTURE or n < FEW:
        proposal.run.setdefault("model", {})["independence"] = "none"
        proposal.because(
            "model.independence",
            "the weight that pictures have by default is for those of MNIST's size and thousands of them; it would "
            "leave z_s little here",
        )
    if any("label_paths" in note for look in looks for note in look.notes):
        proposal.undecided.append("label_paths: the labels of IDX files are not beside them; name their files")


def _matrix(proposal: Proposal, looks: Sequence[Look], n: int, memory: int | None) -> None:
    name, reason = _counts_in(looks)
    kind = "counts" if name is not None else "features"
    matrix = name or looks[0].matrices[0].name
    own = [one for look in looks for one in look.matrices if one.name == matrix]
    n_features, n_stored = common_names(looks, matrix), sum(one.n_stored for one in own)
    proposal.dataset["kind"] = kind
    proposal.because("kind", *reason)
    proposal.said.append(f"{n:,} samples × {n_features:,} features; {kind}: {'; '.join(reason)}")
    if matrix != "X":
        proposal.dataset["matrix"] = matrix
    if kind == "features":
        proposal.dataset.pop("transpose", None)
        proposal.because("kind", "if these are log-normalised counts, look for a file with the raw ones: kind counts")
        if looks[0].form != "a table":
            proposal.undecided.append(
                "kind: no matrix holds counts; log-normalised ones will not do, find the raw ones"
            )
        return
    if n_features <= 1.5 * TOP_GENES:
        proposal.dataset["n_top_genes"] = None
        proposal.because("n_top_genes", f"all {n_features:,} genes: no more than a choice would leave")
    needed = n_stored * BYTES_PER_COUNT * COPIES
    if memory is not None and needed > MEMORY_SHARE * memory:
        proposal.dataset["storage"] = "disk"
        proposal.because(
            "storage",
            f"{n_stored:,} counts take about {needed / 1e9:.1f} GB while they are prepared; {memory / 1e9:.1f} GB are "
            "free",
        )
    if any(look.n_samples and not look.obs.index.is_unique for look in looks):
        proposal.dataset["make_unique"] = True
        proposal.because("make_unique", "some barcodes stand more than once")
    if any(not one.names.is_unique for one in own):
        proposal.dataset["make_unique"] = True
        proposal.because("make_unique", "some genes stand more than once")


def _counts_in(looks: Sequence[Look]) -> tuple[str | None, list[str]]:
    """The matrix that holds counts in every file, if there is one, and why it is that one."""
    shared = [one.name for one in looks[0].matrices]
    shared = [name for name in shared if all(name in [one.name for one in look.matrices] for look in looks)]
    if not shared:
        raise UserError(
            f"{looks[0].path}: no matrix that all files have; found {listed(m.name for m in looks[0].matrices)}"
        )
    order = sorted(shared, key=lambda name: (name != "X", name.removeprefix("layers/").lower() not in RAW_LAYERS))
    reasons = []
    for name in order:
        wrong = next((one.wrong for look in looks for one in look.matrices if one.name == name and one.wrong), None)
        is_table = looks[0].form == "a table" and looks[0].matrices[0].n_features < FEW_COLUMNS
        if wrong is None and is_table:
            reasons.append(
                f"all values of {name} that were seen are whole, but of {looks[0].matrices[0].n_features} columns they "
                "are taken for measurements; counts of genes take kind: counts"
            )
        elif wrong is None:
            seen = sum(len(one.values) for look in looks for one in look.matrices if one.name == name)
            return name, [*reasons, f"{name} holds whole numbers from 0 on ({seen:,} values seen)"]
        else:
            reasons.append(f"values of {name} are {wrong}")
    return None, reasons


def _columns(proposal: Proposal, looks: Sequence[Look]) -> None:
    """Which columns are the class, the donor, the condition and the batch."""
    obs = pd.concat([look.obs for look in looks], ignore_index=True)
    columns = look_at_columns(obs)
    split = next((column.name for column in columns if column.is_split and not column.n_missing), None)
    if split is not None:
        proposal.dataset["split"] = {"key": split}
        proposal.because("split", f"the source's own split, {split}; without it samples are split at random")
    taken: dict[Role, Column] = {}
    for role in ROLES:
        ranked = [one for one in candidates(columns, role) if one.column not in taken.values()]
        ranked = [_weighed(one, role, taken, obs) for one in ranked]
        proposal.ranked[role] = ranked
        best = next((one for one in ranked if not one.against), None)
        if best is not None and (role == "label" or best.score >= STRONG - 1):
            taken[role] = best.column
    _class(proposal, taken.get("label"), looks)
    for role in ROLES[1:]:
        key = f"{role}_key"
        if role in taken:
            proposal.dataset[key] = taken[role].name
        elif proposal.ranked[role]:
            proposal.offers[key] = proposal.ranked[role][0].column.name
    for line in nesting(obs, list(taken.values())):
        proposal.because("label_key", line)


def _weighed(one: Candidate, role: Role, taken: dict[Role, Column], obs: pd.DataFrame) -> Candidate:
    """A candidate with what speaks against it: a batch that is told hides what lies between batches."""
    if role != "batch":
        return one
    for other in ("condition", "label"):
        if other in taken and is_nested(obs, one.column.name, taken[other].name):
            why = f"each of its levels has one {taken[other].name} alone, which the model would not be free to find"
            return Candidate(one.column, one.score, one.by_name, why)
    return one


def _class(proposal: Proposal, column: Column | None, looks: Sequence[Look]) -> None:
    if column is None:
        proposal.dataset["label_key"] = "label"
        found = listed(str(name) for name in looks[0].obs.columns) or "none"
        proposal.undecided.append(f"label_key: no column of obs looks like a class (columns: {found})")
        if not looks[0].obs.shape[1]:
            proposal.offers["label_table"] = "labels.csv"
        return
    proposal.dataset["label_key"] = column.name
    ranked = proposal.ranked["label"]
    rivals = [one for one in ranked[1:] if ranked and ranked[0].score - one.score < 0.5]
    if not ranked[0].by_name:
        proposal.undecided.append(
            f"label_key: {column.name} was taken for what it holds, not for its name; is it the class?"
        )
    elif rivals:
        others = listed(str(one.column) for one in rivals)
        proposal.undecided.append(f"label_key: {column.name} was taken, but others are as likely: {others}")
    if column.unknown:
        proposal.dataset["unlabeled_values"] = column.unknown
        proposal.because(
            "unlabeled_values", "these seem to say that nothing is known; their samples train without a class"
        )
    if column.rare:
        few = listed((f"{level} ({n})" for level, n in column.rare.items()), limit=8)
        proposal.dataset["rare_classes"] = "unlabeled"
        proposal.because("rare_classes", f"too few samples for a class: {few}")


def _sizes(proposal: Proposal, n: int) -> None:
    """Settings that the number of samples asks for."""
    proposal.run["training"] = {"max_epochs": None}
    if n < FEW:
        proposal.run.setdefault("model", {})["hidden"] = [32]
        proposal.run["training"]["batch_size"] = 64
        proposal.because("model.hidden", f"small, for {n:,} samples: a larger network fits noise")
    elif n > MANY:
        proposal.run["training"]["batch_size"] = 256
        proposal.because("training.batch_size", f"for {n:,} samples")


def names_of(looks: Sequence[Look]) -> list[str]:
    """What the files are called where they are joined."""
    return part_names([str(look.path) for look in looks])
