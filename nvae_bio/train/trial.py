"""A few steps of a training, to see how long they take on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch.utils.flop_counter import FlopCounterMode

from nvae_bio import schema
from nvae_bio.config import FitSettings
from nvae_bio.machine import matmul_precision, pick_device, reproducible
from nvae_bio.train.loop import train_steps
from nvae_bio.train.step import first_layer, read_data, untrained
from nvae_bio.trained import TrainedModel

FEWEST, MOST = 5, 200  # steps of a trial
FREE = 0.25  # quantile of the steps' times that is near that of a free machine: other work makes some steps slower
EPOCHS = 1_000_000  # so that there are always more steps


@dataclass(frozen=True)
class StepTrial:
    """What a training step takes.

    Attributes:
        seconds: of one step on a free machine: of the processor with one thread on a CPU, else of the clock; a low
            quantile.
        busy: how many times as long by the clock as by the processor; about 1 on a free machine.
        flops: floating-point operations of a step's matrix products and convolutions.
        batch_size: samples a step.
        model: the network, with a card as a trained one has it.
    """

    seconds: float
    busy: float
    flops: float
    batch_size: int
    model: TrainedModel


def time_steps(prepared: AnnData, settings: FitSettings, seconds: float) -> StepTrial:
    """Time the steps of a training of some samples, for about so long.

    Args:
        prepared: samples in the form of a prepared file; some more than a batch.
        settings: model and training.
        seconds: that the trial may take; 0: no step is timed.

    Raises:
        UserError: settings that do not fit the data.
    """
    settings = settings.alone.for_kind(str(prepared.uns[schema.DATA]["kind"])).with_training(max_epochs=EPOCHS)
    device = pick_device(settings.training.device)
    data, settings, card = read_data(prepared, settings, device)
    settings = settings.with_training(first_layer=first_layer(data.samples, settings.training, device, 1))
    card = card.model_copy(update={"settings": settings})
    network = untrained(card, data.moments, 0).to(device)
    with reproducible(settings.training.threads), matmul_precision(settings.training.matmul_precision):
        steps = _steps(lambda: train_steps([network], data.samples, data.train, settings, [0], data.unlabelled))
        with FlopCounterMode(display=False) as counter:
            next(steps)
        walls, cpus = _timed(steps, seconds, device)
    by_clock = device.type != "cpu" or settings.training.threads > 1
    busy = sum(walls) / max(sum(cpus), 1e-9) if walls and not by_clock else 1.0
    taken = float(np.quantile(walls if by_clock else cpus, FREE)) if walls else float("nan")
    model = TrainedModel(network.cpu().eval(), card, pd.DataFrame())
    batch = settings.training.batch_size or 1
    return StepTrial(taken, max(busy, 1.0), float(counter.get_total_flops()), batch, model)


def _steps(begin: Callable[[], Iterator[None]]) -> Iterator[None]:
    """Steps without an end: epoch after epoch."""
    while True:
        yield from begin()


def _timed(steps: Iterator[None], seconds: float, device: torch.device) -> tuple[list[float], list[float]]:
    """Seconds of each step by the clock and by the processor."""
    walls: list[float] = []
    cpus: list[float] = []
    end = time.perf_counter() + seconds
    while seconds > 0 and len(walls) < MOST and (len(walls) < FEWEST or time.perf_counter() < end):
        wall, cpu = time.perf_counter(), time.process_time()
        next(steps)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return walls, cpus
