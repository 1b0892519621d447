"""What every simulation has: random streams, activities of what is planted, and the record of the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, logit

import nvae_bio
from nvae_bio.config import ImagesSimulation, Planted, Simulation
from nvae_bio.data.source import source_names


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


def draw_activities(
    label: np.ndarray, names: pd.Index, planted: Sequence[Planted], settings: Simulation
) -> pd.DataFrame:
    """`draw_activity` of everything planted: a row a sample, a column for each."""
    classes = list(settings.classes)
    columns = {item.name: draw_activity(label, classes, item, settings.seed) for item in planted}
    return pd.DataFrame(columns, index=names, dtype=np.float64)


def provenance(settings: Simulation, in_memory: bool) -> dict[str, object]:
    """What a simulated file may say of itself: nothing of what is planted."""
    return {
        "version": nvae_bio.__version__,
        "kind": settings.kind,
        "source": source_names(settings.source, in_memory),
        "seed": settings.seed,
    }


def truth_record(settings: Simulation, in_memory: bool) -> dict[str, object]:
    """uns of the truth: provenance, settings (JSON), classes, a table of what is planted, and which class has what.

    `in_class` is (planted, classes), booleans.
    """
    planted: Sequence[Planted] = (
        settings.transformations if isinstance(settings, ImagesSimulation) else settings.programmes
    )
    classes = list(settings.classes)
    in_class = np.zeros((len(planted), len(classes)), dtype=bool)
    for row, item in enumerate(planted):
        in_class[row, item.classes_of(classes)] = True
    values = [
        {key: np.nan if value is None else value for key, value in item.model_dump(exclude={"name", "classes"}).items()}
        for item in planted
    ]
    return provenance(settings, in_memory) | {
        "settings": settings.model_dump_json(),
        "classes": np.array(classes, dtype=object),
        "planted": pd.DataFrame(values, index=pd.Index([item.name for item in planted], dtype=object)),
        "in_class": in_class,
    }
