"""What simulations draw: random streams, levels of batch, donor and treatment, activities; and the record of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import expit, logit

import nvae_bio
from nvae_bio import schema
from nvae_bio.config import Change, CountsSimulation, Levels, Planted, Programme, Simulation
from nvae_bio.data.source import source_names
from nvae_bio.errors import UserError

SYNTHESISED = "synthesised"  # the source of a simulation that no real samples are in


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers of one purpose, so that a change of one setting leaves other draws as they are."""
    return np.random.default_rng([seed, *purpose.encode()])


def named(index: np.ndarray, names: Sequence[str]) -> pd.Categorical:
    """The name at each index, all names as categories in their order."""
    return pd.Categorical(np.array(names, dtype=object)[index], categories=list(names))


def draw_activity(label: np.ndarray, classes: Sequence[str], planted: Planted, seed: int) -> np.ndarray:
    """How active something planted is in each sample.

    In a class that has it, it is on in round(share × n) samples, at least one. There the activity is 1 (`binary`) or
    drawn; elsewhere it is 0.

    Args:
        label: index of the class, (n,).
        classes: names of the classes.
        planted: what is planted; `activity`, `share`, `class_shift`.
        seed: of the simulation.

    Returns:
        (n,) float64.
    """
    rng = stream(seed, f"activity {planted.name}")
    shifts = planted.class_shift * rng.permutation(np.linspace(-1, 1, len(classes)))
    activity = np.zeros(len(label))
    for index in planted.classes_of(classes):
        members, is_binary = np.flatnonzero(label == index), planted.activity == "binary"
        share = float(expit(logit(planted.share) + shifts[index])) if is_binary else planted.share
        on = rng.permutation(members)[: max(1, round(share * len(members)))]
        if is_binary:
            activity[on] = 1
        elif planted.activity == "normal":
            activity[on] = shifts[index] + rng.normal(size=len(on))
        else:
            activity[on] = shifts[index] + rng.uniform(-1, 1, len(on))
    return activity


def spread(groups: np.ndarray, n_levels: int, rng: np.random.Generator) -> np.ndarray:
    """A level of each sample, (n,): as many samples of each group in each level, as far as that goes, at random."""
    level = np.zeros(len(groups), dtype=np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        level[members] = rng.permutation((np.arange(len(members)) + rng.integers(n_levels)) % n_levels)
    return level


@dataclass(frozen=True)
class Drawn:
    """What is drawn for cells from the levels of a batch or donor.

    Attributes:
        names: of the levels.
        level: of each cell, (n,).
        effect: of each level on the log of each gene, (levels, G).
        depth: factor of each level on the library, (levels,).
    """

    names: list[str]
    level: np.ndarray
    effect: np.ndarray
    depth: np.ndarray

    @property
    def column(self) -> pd.Categorical:
        """The name of the level of each cell."""
        return named(self.level, self.names)

    def take(self, rows: np.ndarray) -> Drawn:
        """The same of some cells."""
        return replace(self, level=self.level[rows])


def draw_levels(label: np.ndarray, levels: Levels, name: str, n_genes: int, seed: int) -> Drawn:
    """Batches or donors: as many cells of each class in each, as far as that goes, at random."""
    rng = stream(seed, name)
    level = spread(label, levels.n, rng)
    effect = rng.normal(0, levels.effect_sd, (levels.n, n_genes))
    depth = levels.depth_ratio ** np.linspace(-0.5, 0.5, levels.n)
    return Drawn([f"{name}{i}" for i in range(levels.n)], level, effect, depth)


def draw_arms(label: np.ndarray, donor: Drawn, settings: CountsSimulation) -> np.ndarray:
    """Number of the arm of each cell, (n,): spread over the cells of each class and donor, or over donors."""
    rng, conditions = stream(settings.seed, schema.CONDITION), settings.conditions
    if conditions is None:
        return np.zeros(len(label), dtype=np.int64)
    n_donors, n_arms = len(donor.names), len(conditions.names)
    if conditions.design == "paired":
        return spread(label * n_donors + donor.level, n_arms, rng)
    arm: np.ndarray = spread(np.zeros(n_donors), n_arms, rng)[donor.level]
    return arm


def standardised(values: np.ndarray) -> np.ndarray:
    """With mean 0 and standard deviation 1; the values must differ.

    >>> standardised(np.array([3.0, 5.0])).tolist()
    [-1.0, 1.0]
    """
    scaled: np.ndarray = (values - values.mean()) / values.std()
    return scaled


def follow_activity(
    label: np.ndarray, classes: Sequence[str], programme: Programme, known: np.ndarray, n_levels: int, seed: int
) -> np.ndarray:
    """Activity of a programme that follows something known of each sample, plus normal noise of its own.

    Args:
        label: index of the class, (n,).
        classes: names of the classes; in those that do not have the programme the activity is 0.
        programme: what is planted; `follows`, `follows_noise`.
        known: what it follows, (n,): the number of the arm, batch or donor, or the log of the library.
        n_levels: number of batches or donors.
        seed: of the simulation.

    Returns:
        (n,) float64; before noise the number of the arm, the value of the level, or the standardised log library.

    Raises:
        UserError: a log library that is the same in all cells.
    """
    rng = stream(seed, f"activity {programme.name}")
    members = np.isin(label, programme.classes_of(classes))
    value = known[members].astype(np.float64)
    if programme.follows in ("batch", "donor"):
        value = standardised(rng.normal(size=n_levels))[known[members]]
    elif programme.follows == "depth":
        if np.ptp(value) == 0:
            raise UserError(
                f"programmes: {programme.name}: follows 'depth', but all cells have the same library; depth_sd above 0 "
                "makes them differ"
            )
        value = standardised(value)
    activity = np.zeros(len(label))
    activity[members] = value + programme.follows_noise * rng.normal(size=len(value))
    return activity


def swap_labels(label: np.ndarray, n_classes: int, share: float, seed: int) -> np.ndarray:
    """Labels, (n,), of which round(share × n) in each class of n samples are those of another class, at random."""
    rng = stream(seed, "label swaps")
    given = label.copy()
    for index in range(n_classes):
        members = np.flatnonzero(label == index)
        swapped = rng.permutation(members)[: round(share * len(members))]
        given[swapped] = (index + rng.integers(1, n_classes, len(swapped))) % n_classes
    return given


def draw_activities(
    label: np.ndarray, names: pd.Index, planted: Sequence[Planted], settings: Simulation
) -> pd.DataFrame:
    """`draw_activity` of everything planted: a row a sample, a column for each."""
    classes = list(settings.classes)
    columns = {item.name: draw_activity(label, classes, item, settings.seed) for item in planted}
    return pd.DataFrame(columns, index=names, dtype=np.float64)


def amounts(activity: np.ndarray, changes: Sequence[Change]) -> dict[str, np.ndarray]:
    """How much of each change each sample gets: activity × amount, added up over items that change the same.

    Args:
        activity: (n, changes).
        changes: what the columns are.

    Returns:
        What changes → (n,); the logarithm where amounts are factors.
    """
    total: dict[str, np.ndarray] = {}
    for column, item in enumerate(changes):
        amount = np.log(item.amount) if item.what in item.factors else item.amount
        total[item.what] = total.get(item.what, 0) + activity[:, column] * amount
    return total


def provenance(settings: Simulation, in_memory: bool) -> dict[str, object]:
    """What a simulated file may say of itself: nothing of what is planted."""
    source = settings.source_settings
    return {
        "version": nvae_bio.__version__,
        "kind": settings.kind,
        "source": [SYNTHESISED] if source is None else source_names(source, in_memory),
        "seed": settings.seed,
    }


def truth_record(settings: Simulation, in_memory: bool) -> dict[str, object]:
    """uns of the truth: provenance, settings (JSON), classes, a table of what is planted, and which class has what.

    `in_class` is (planted, classes), booleans. The names of genes are in the settings alone.
    """
    planted = settings.planted
    classes = list(settings.classes)
    in_class = np.zeros((len(planted), len(classes)), dtype=bool)
    for row, item in enumerate(planted):
        in_class[row, item.classes_of(classes)] = True
    elsewhere = {"name", "classes", "genes"}
    values = [
        {key: np.nan if value is None else value for key, value in item.model_dump(exclude=elsewhere).items()}
        for item in planted
    ]
    return provenance(settings, in_memory) | {
        "settings": settings.model_dump_json(),
        "classes": np.array(classes, dtype=object),
        "planted": pd.DataFrame(values, index=pd.Index([item.name for item in planted], dtype=object)),
        "in_class": in_class,
    }
