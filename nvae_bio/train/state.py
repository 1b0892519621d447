"""All that the rest of a training depends on besides data and settings: it can be saved at any step and taken up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nvae_bio.config import TrainingSettings
from nvae_bio.data.samples import make_generator
from nvae_bio.model import NVAE, Stack, keep_models

CHUNK = 2048  # samples a pass without gradients
N_TERMS = 8  # of `Averages`
N_SUMS = N_TERMS + 2  # and the bound of unlabelled samples, and the penalty


@dataclass(frozen=True)
class Averages:
    """Means over samples, in nats but for `accuracy`; what the history has for each epoch and split.

    Attributes:
        objective: eq. 7 with the full KL weight.
        elbo: bound on log p(x|y).
        log_likelihood: log p(x|y,z).
        kl_shared: KL of z_s.
        kl_private: KL of the sample's own block.
        kl_off_block: KL of all other blocks.
        log_class: log q(y|x).
        accuracy: share of samples whose class is the likeliest.
    """

    objective: float
    elbo: float
    log_likelihood: float
    kl_shared: float
    kl_private: float
    kl_off_block: float
    log_class: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples.

    Attributes:
        number: 0, 1, …
        kl_weight: weight of the KL terms in its last step.
        train: averages over the labelled training samples, each at the weights of its step.
        validation: averages over the validation samples, after the epoch.
        is_best: whether its weights are the best so far.
        elbo_unlabeled: bound on log p(x) of the unlabelled training samples, nats; NaN where there are none.
        independence: penalty on z_s in the batches, without its weight; NaN where the model has none.
    """

    number: int
    kl_weight: float
    train: Averages
    validation: Averages
    is_best: bool
    elbo_unlabeled: float
    independence: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Epoch:
        """From what `asdict` made of one."""
        parts = {name: Averages(**values[name]) for name in ("train", "validation")}
        return cls(**{**values, **parts})


@dataclass
class Progress:
    """Of one model: its best weights so far, and epochs since then."""

    best: float = -float("inf")
    n_worse: int = 0
    weights: dict[str, Tensor] | None = None

    def is_patient(self, settings: TrainingSettings) -> bool:
        """Whether training goes on."""
        return settings.patience is None or self.n_worse < settings.patience


@dataclass
class State:
    """Where a training is.

    Attributes:
        stack: one model, or those of `active` as a stack.
        optimizer: of all parameters.
        active: seeds of the models that are still trained.
        progress: of every model, by its seed.
        epoch: the epoch that runs, or is to begin.
        step: steps that are done in it.
        kl_weight: weight of the KL terms in the last of them.
        sums: over the samples of these steps, (N_SUMS, active): of `Averages`, the bound on log p(x) of unlabelled
            samples, and the penalty times the labelled ones.
        generators: of the draws of z in this epoch, one an active model; empty before its first step.
        is_turned: whether the latent axes have been turned after the warm-up.
        is_done: whether training has ended.
        history: of each finished epoch, that of every model which was trained in it, by its seed.
    """

    stack: NVAE | Stack
    optimizer: torch.optim.Optimizer
    active: list[int]
    progress: dict[int, Progress]
    sums: Tensor
    epoch: int = 0
    step: int = 0
    kl_weight: float = 1.0
    generators: list[torch.Generator] = field(default_factory=list)
    is_turned: bool = False
    is_done: bool = False
    history: list[dict[int, Epoch]] = field(default_factory=list)

    @classmethod
    def start(cls, models: Sequence[NVAE], seeds: Sequence[int], settings: TrainingSettings) -> State:
        """Before the first step of models of one form: one as it is, several as a stack."""
        stack: NVAE | Stack = models[0] if len(models) == 1 else Stack(models)
        optimizer = torch.optim.Adam(stack.parameters(), lr=settings.learning_rate, fused=True)
        sums = torch.zeros(N_SUMS, len(seeds), device=stack.device)
        return cls(stack, optimizer, list(seeds), {seed: Progress() for seed in seeds}, sums)

    def begin_epoch(self) -> None:
        """Make the generators of this epoch, unless they are there and in use."""
        if not self.generators:
            device = self.stack.device
            self.generators = [make_generator(device, seed, self.epoch) for seed in self.active]

    def keep_best(self, seed: int, elbo: float) -> bool:
        """Whether an epoch is the best of a model so far; its weights are kept then."""
        progress, place = self.progress[seed], self.active.index(seed)
        if elbo > progress.best:
            weights = self.stack.state_of(place) if isinstance(self.stack, Stack) else deepcopy(self.stack.state_dict())
            self.progress[seed] = Progress(elbo, 0, weights)
            return True
        progress.n_worse += 1
        return False

    def end_epoch(self, epochs: dict[int, Epoch], settings: TrainingSettings) -> None:
        """Note a finished epoch; models that stop early leave the stack."""
        self.history.append(epochs)
        going = [place for place, seed in enumerate(self.active) if self.progress[seed].is_patient(settings)]
        self.epoch, self.step, self.generators = self.epoch + 1, 0, []
        self.is_done = self.epoch == settings.epochs or not going
        if going and len(going) < len(self.active):
            self._keep(going)
        self.sums = self.sums.new_zeros(N_SUMS, len(self.active))

    def _keep(self, going: Sequence[int]) -> None:
        assert isinstance(self.stack, Stack)  # a single model that stops ends the training
        keep_models(self.stack, self.optimizer, torch.tensor(going, device=self.stack.device))
        self.active = [self.active[place] for place in going]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: weights, moments of the optimiser, best weights, sums, generators."""
        found = {f"weights.{name}": value for name, value in self.stack.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        for seed, progress in self.progress.items():
            found |= {f"best.{seed}.{name}": value for name, value in (progress.weights or {}).items()}
        found |= {f"generator.{place}": one.get_state() for place, one in enumerate(self.generators)}
        return found | {"sums": self.sums}

    def position(self) -> dict[str, Any]:
        """All else, for JSON; with `tensors` it is what `restore` takes."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "kl_weight": self.kl_weight,
            "active": self.active,
            "is_turned": self.is_turned,
            "is_done": self.is_done,
            "progress": {str(seed): [one.best, one.n_worse] for seed, one in self.progress.items()},
            "history": [{str(seed): asdict(one) for seed, one in epochs.items()} for epochs in self.history],
        }

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Make this state, fresh from `start`, the one that was saved: what follows has the same bits."""
        going = [self.active.index(seed) for seed in position["active"]]
        if len(going) < len(self.active):
            self._keep(going)
        self.stack.load_state_dict(dict(_under("weights.", tensors)))
        self._restore_optimizer(dict(_under("optimizer.", tensors)))
        for seed, (best, n_worse) in position["progress"].items():
            weights = dict(_under(f"best.{seed}.", tensors))
            self.progress[int(seed)] = Progress(best, n_worse, weights or None)
        self.epoch, self.step, self.kl_weight = position["epoch"], position["step"], position["kl_weight"]
        self.is_turned, self.is_done = position["is_turned"], position["is_done"]
        self.history = [{int(seed): Epoch.of(one) for seed, one in epochs.items()} for epochs in position["history"]]
        self.sums = tensors["sums"].to(self.sums.device, copy=True)
        states = dict(_under("generator.", tensors))
        if states:
            self.begin_epoch()
            for place, generator in enumerate(self.generators):
                generator.set_state(states[str(place)])

    def _restore_optimizer(self, moments: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), value) for name, value in tensors.items() if name.startswith(prefix))
