"""Whether a data set is there and holds what its settings say, without reading a matrix whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nvae_bio import schema
from nvae_bio.config import CountsSettings, Dataset, FeaturesSettings, ImagesSettings
from nvae_bio.data.join import free_name, join_label_table
from nvae_bio.data.look import Look, MatrixLook
from nvae_bio.data.look_files import common_names, look_at
from nvae_bio.data.names import part_names
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.source import read_source
from nvae_bio.errors import UserError, listed
from nvae_bio.prepare.covariates import MADE
from nvae_bio.prepare.step import ChosenSamples, choose_samples

PLACES = {"batch_key": "batch", "donor_key": "donor", "condition_key": "condition"}


@dataclass
class DataFacts:
    """What is known of a data set before it is prepared.

    Attributes:
        name: of the data set.
        kind: of it.
        problems: what has to be mended, a line each.
        notes: what should be known.
        n: samples that are kept, quality control aside; 0 where that is not known.
        obs: of these, as the prepared file will have it, but for what is counted in each; None where not known.
        covariates: the table of what a model may be told.
        n_features: of the model.
        n_values: that the prepared matrix stores, about.
        n_source: values that the source stores.
        rows: some samples × model features; None where none were seen.
        image_shape: channels, height, width of prepared pictures.
        is_stored: whether counts are packed into a store, and read from there.
        names: of the samples of the source, by which a run may ask for some.
    """

    name: str
    kind: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n: int = 0
    obs: pd.DataFrame | None = None
    covariates: pd.DataFrame | None = None
    n_features: int = 0
    n_values: int = 0
    n_source: int = 0
    rows: Any = None
    image_shape: tuple[int, int, int] | None = None
    is_stored: bool = False
    names: pd.Index = field(default_factory=lambda: pd.Index([]))

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each class."""
        if self.obs is None:
            return {}
        return {str(name): int(n) for name, n in self.obs[schema.LABEL].value_counts().sort_index().items()}

    def part(self, split: str) -> int:
        """Labelled samples of a part."""
        if self.obs is None:
            return 0
        return int(((self.obs[schema.SPLIT] == split) & self.obs[schema.LABEL].notna()).sum())

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """A complaint in the block is a problem of the data set."""
        try:
            yield
        except UserError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))


def check_dataset(name: str, settings: Dataset, made_by: str | None = None) -> DataFacts:
    """Open a data set cheaply, and hold what is in it against its settings; every problem is noted.

    Args:
        name: of it.
        settings: of it.
        made_by: the simulation that writes its file, which need not be there yet.
    """
    facts = DataFacts(name, settings.kind, is_stored=getattr(settings, "storage", "memory") == "disk")
    if made_by is not None and not all(Path(path).exists() for path in settings.data_paths):
        facts.notes.append(f"not there yet: simulation {made_by!r} makes it; it is checked once it is there")
        return facts
    if settings.builtin is not None:
        return _built_in(facts, settings)
    labels = list(getattr(settings, "label_paths", []))
    looks = []
    for place, path in enumerate(settings.data_paths):
        with facts.collecting():
            own = Path(labels[place]) if place < len(labels) else None
            looks.append(look_at(Path(path), own, settings.obs_keys))
    if not looks or len(looks) < len(settings.data_paths):
        return facts
    _check_kind(facts, settings, looks)
    if isinstance(settings, ImagesSettings):
        with facts.collecting():
            facts.image_shape = _picture_shape(settings, looks)
            facts.n_features = int(np.prod(facts.image_shape))
    else:
        with facts.collecting():
            _check_matrices(facts, settings, looks)
    with facts.collecting():
        _check_samples(facts, settings, _joined_obs(settings, looks))
    return facts


def _built_in(facts: DataFacts, settings: Dataset) -> DataFacts:
    """Of a data set that needs no file: it is small, and read."""
    source = read_source(settings, RemovalLog())
    is_sparse = sparse.issparse(source.X)
    n_stored = int(source.X.nnz if is_sparse else source.X.size)
    matrix = MatrixLook("X", source.n_vars, n_stored, np.zeros(1), source.X, source.var_names)
    if isinstance(settings, ImagesSettings):
        with facts.collecting():
            axes = [int(source.var[axis].max()) + 1 for axis in (schema.CHANNEL, schema.ROW, schema.COLUMN)]
            facts.image_shape, facts.rows = (axes[0], axes[1], axes[2]), source.X
            facts.n_features, facts.n_source = source.n_vars, n_stored
    else:
        _size(facts, settings, [matrix], source.n_vars, source.n_obs)
    obs = source.obs.drop(columns="__library__", errors="ignore")
    with facts.collecting():
        _check_samples(facts, settings, obs)
    return facts


def _check_kind(facts: DataFacts, settings: Dataset, looks: Sequence[Look]) -> None:
    for look in looks:
        if settings.kind == "images" and look.kind != "images":
            if getattr(settings, "image_shape", None) is None:
                facts.problems.append(f"{look.path}: {look.form}, no pictures; kind: images needs image_shape for it")
        elif settings.kind != "images" and look.kind == "images" and not look.matrices:
            facts.problems.append(f"{look.path}: {look.form}; kind: {settings.kind!r} does not fit; allowed: images")
        facts.notes += [note for note in look.notes if "label_paths" in note]


def _picture_shape(settings: ImagesSettings, looks: Sequence[Look]) -> tuple[int, int, int]:
    """Channels, height and width after grey, crop and resize."""
    shapes = {look.shape or settings.image_shape for look in looks}
    shape = next(iter(shapes))
    if shape is None:
        raise UserError(f"{looks[0].path}: no pictures of a known shape")
    if len(shapes) > 1 and settings.resize is None:
        raise UserError(f"paths: pictures of different shapes ({listed(sorted(map(str, shapes)))}); set resize")
    channels, height, width = shape
    if settings.crop is not None:
        if settings.crop[0] > height or settings.crop[1] > width:
            raise UserError(f"{looks[0].path}: crop: {settings.crop[0]}×{settings.crop[1]} is larger than the image")
        height, width = settings.crop
    height, width = settings.resize or (height, width)
    return (1 if settings.grey else channels, height, width)


def _check_matrices(facts: DataFacts, settings: CountsSettings | FeaturesSettings, looks: Sequence[Look]) -> None:
    """The matrix that is named is there in every file, and what was seen of it fits the kind."""
    chosen = []
    for look in looks:
        existing = [one.name for one in look.matrices]
        is_anndata = look.form.startswith("AnnData")
        wanted = settings.matrix if is_anndata else "X"
        found = next((one for one in look.matrices if one.name == wanted), None)
        if found is None:
            facts.problems.append(f"{look.path}: matrix: no {wanted!r}; allowed: {listed(existing)}")
            continue
        chosen.append(found)
        if isinstance(settings, CountsSettings) and found.wrong:
            others = listed(one.name for one in look.matrices if one.wrong is None)
            hint = f"matrix: {others} could be counts" if others else "pass raw counts, or set kind: features"
            facts.problems.append(f"{look.path}: matrix {wanted!r}: values are {found.wrong}; no counts: {hint}")
        if isinstance(settings, FeaturesSettings) and not np.isfinite(found.values).all():
            facts.problems.append(f"{look.path}: matrix {wanted!r}: values are missing, NaN or infinite")
    if len(chosen) == len(looks):
        name = chosen[0].name
        n_common = common_names(looks, name)
        if not n_common:
            raise UserError(f"paths: the files {listed(settings.data_paths)} have no features in common")
        _size(facts, settings, chosen, n_common, sum(look.n_samples for look in looks))


def _size(facts: DataFacts, settings: Dataset, chosen: Sequence[MatrixLook], n_common: int, n: int) -> None:
    """Features of the model, and values that it will store."""
    facts.n_source = sum(one.n_stored for one in chosen)
    top = settings.n_top_genes if isinstance(settings, CountsSettings) else None
    facts.n_features = n_common if top is None else min(top, n_common)
    rows = chosen[0].rows
    if rows is not None and facts.n_features < rows.shape[1]:
        rows = rows[:, np.sort(np.argsort(-_spread(rows), kind="stable")[: facts.n_features])]
    facts.rows = rows
    if rows is None or not isinstance(settings, CountsSettings):
        share = facts.n_features / max(chosen[0].n_features, 1)
        facts.n_values = int(facts.n_source * share)
    else:
        stored = sparse.csr_matrix(rows).nnz / max(rows.shape[0], 1)  # values a sample
        facts.n_values = int(stored * n)


def _spread(rows: Any) -> np.ndarray:
    """Variance over mean of each feature of some rows, (features,): variable genes, about."""
    dense = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    mean = dense.mean(0)
    spread: np.ndarray = dense.var(0) / np.maximum(mean, 1e-9)
    return spread


def _joined_obs(settings: Dataset, looks: Sequence[Look]) -> pd.DataFrame:
    """obs of all files, with the batch that is made from their names, and the label table."""
    names, parts = part_names(settings.paths), []
    for look, name in zip(looks, names, strict=True):
        obs = look.obs.copy()
        obs.index = obs.index.astype(str)
        if settings.makes_batches:
            if schema.BATCH in obs:
                obs = obs.rename(columns={schema.BATCH: free_name(schema.BATCH, obs.columns)})
            obs[schema.BATCH] = name
        parts.append(obs)
    joined = pd.concat(parts)
    twice = joined.index[joined.index.duplicated()]
    if len(twice) and not settings.make_unique and any(look.form != "IDX images" for look in looks):
        raise UserError(
            f"{listed(settings.data_paths, limit=3)}: sample {twice[0]!r} stands more than once ({len(twice)} such "
            "names); make_unique: true adds a suffix"
        )
    if settings.label_table is None:
        return joined
    table = AnnData(obs=joined)
    join_label_table(table, settings, RemovalLog())
    found: pd.DataFrame = table.obs
    return found


def _check_samples(facts: DataFacts, settings: Dataset, obs: pd.DataFrame) -> None:
    """The columns that are named are there, classes are large enough, and the split can be made as asked for."""
    where = listed(settings.data_paths or [f"built-in {settings.builtin}"], limit=3)
    lacking = _lacking(settings, obs)
    for key, name in lacking:
        facts.problems.append(f"{where}: {key}: no column {name!r}; allowed: {listed(obs.columns) or 'none'}")
    facts.names = obs.index.astype(str)
    if lacking:
        return
    obs = obs.set_axis(pd.Index([f"{place}" for place in range(len(obs))]), axis=0)
    made = [name for name in settings.continuous_covariates if name in MADE and name not in obs]
    update: dict[str, Any] = {
        "continuous_covariates": [name for name in settings.continuous_covariates if name not in made]
    }
    if isinstance(settings, CountsSettings):
        _check_numbers(facts, settings, obs, where)
        update["size_factor_key"] = None
    with _warnings_in(facts.notes):
        chosen = choose_samples(obs, settings.model_copy(update=update), RemovalLog(), [where], from_files=True)
    _note_samples(facts, settings, chosen, len(obs))


def _lacking(settings: Dataset, obs: pd.DataFrame) -> list[tuple[str, str]]:
    """Setting and column of all that are named and not there."""
    named: list[tuple[str, str | None]] = [("label_key", settings.label_key), ("split.key", settings.split.key)]
    named += [(key, getattr(settings, key)) for key in PLACES]
    named += [("library_key", getattr(settings, "library_key", None))]
    named += [("size_factor_key", getattr(settings, "size_factor_key", None))]
    named += [("drop", name) for name in settings.drop] + [("hold_out", name) for name in settings.hold_out]
    named += [("categorical_covariates", name) for name in settings.categorical_covariates]
    made = MADE if isinstance(settings, CountsSettings) else ()
    named += [("continuous_covariates", name) for name in settings.continuous_covariates if name not in made]
    return [(key, name) for key, name in named if name is not None and name not in obs]


def _check_numbers(facts: DataFacts, settings: CountsSettings, obs: pd.DataFrame, where: str) -> None:
    for key, least, said in (
        ("library_key", 0, "numbers of counts"), ("size_factor_key", 0, "numbers above 0")
    ):  # fmt: skip
        name = getattr(settings, key)
        if name is None:
            continue
        values = pd.to_numeric(obs[name], errors="coerce")
        wrong = int((~np.isfinite(values) | (values <= least)).sum())
        if wrong:
            facts.problems.append(f"{where}: {key}: {wrong} values of {name!r} are no {said}")


def _note_samples(facts: DataFacts, settings: Dataset, chosen: ChosenSamples, n_source: int) -> None:
    facts.n, facts.obs = len(chosen.obs), chosen.obs
    facts.covariates = chosen.record.get(schema.COVARIATES)
    facts.n_values = int(facts.n_values * facts.n / max(n_source, 1))
    if facts.kind == "images":
        facts.n_values = facts.n * facts.n_features
    n_unlabelled = int(chosen.obs[schema.LABEL].isna().sum())
    if n_unlabelled:
        facts.notes.append(f"{n_unlabelled:,} of {facts.n:,} samples have no class; they train without one")
    if n_source > facts.n:
        facts.notes.append(f"{n_source - facts.n:,} of {n_source:,} samples are left out by the settings")


@contextmanager
def _warnings_in(notes: list[str]) -> Iterator[None]:
    """What is warned of in the block, as notes instead of lines of the log."""
    logger, handler = logging.getLogger("nvae_bio.prepare"), _Collector(notes.append)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


class _Collector(logging.Handler):
    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.take = take

    def emit(self, record: logging.LogRecord) -> None:
        self.take(record.getMessage())
