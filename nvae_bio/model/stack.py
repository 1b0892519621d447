"""Several models of one form side by side: their parameters are stacked, and each operation serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from nvae_bio.config import ModelSettings
from nvae_bio.data.batch import Covariates
from nvae_bio.model.decoders import log_prior
from nvae_bio.model.likelihoods import Likelihood
from nvae_bio.model.nvae import NVAE, Pass
from nvae_bio.model.rotation import LINEAR, TURNED, turn_axes

LIKELIHOOD = "likelihood."
WITH_PRIOR = ("shared_weight", "class_weight", "class_bias")


class Stack(nn.Module):
    """R models that differ in their weights alone; every tensor has a leading R.

    Args:
        models: at least one, all of the same form.
    """

    def __init__(self, models: Sequence[NVAE]) -> None:
        super().__init__()
        weights, buffers = stack_module_state(list(models))
        state = weights | buffers
        self.likelihood: Likelihood = deepcopy(models[0].likelihood)
        for name, value in state.items():
            if name.startswith(LIKELIHOOD):
                _set(self.likelihood, name.removeprefix(LIKELIHOOD), value.detach().clone())
        self.names = [name for name in state if not name.startswith(LIKELIHOOD)]
        self.weights = nn.ParameterList(
            [nn.Parameter(state[name].detach(), requires_grad=name in weights) for name in self.names]
        )
        self.has_prior = models[0].has_prior
        self._form = [deepcopy(models[0]).to("meta")]  # in a list: its parameters are not this module's

    def __len__(self) -> int:
        return len(self.weights[0])

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def inputs(self, x: Tensor, library: Tensor | None) -> Tensor:
        """What the encoders and the classifiers read of x, (R, batch, features): never sparse."""
        return self.likelihood.encoder_input(x, library)

    def forward(
        self, inputs: Tensor, label: Tensor, noise: Tensor, covariates: Covariates | None = None, n_likeliest: int = 1
    ) -> Pass:
        """What `NVAE.forward` makes of (R, batch, …), model by model."""
        shared = {"n_likeliest": n_likeliest}

        def one(weights: dict[str, Tensor], *arguments: Tensor | Covariates) -> Pass:
            return functional_call(self._form[0], weights, arguments, shared)  # type: ignore[no-any-return]

        told = () if covariates is None else (covariates,)  # vmap maps no None
        return vmap(one)(dict(zip(self.names, self.weights, strict=True)), inputs, label, noise, *told)

    def log_prior(self, settings: ModelSettings) -> Tensor:
        """What `NVAE.log_prior` gives for each model, (R,)."""
        weights = dict(zip(self.names, self.weights, strict=True))
        shared, private, bias = (weights[f"decoder.composition.{name}"] for name in WITH_PRIOR)
        return log_prior(shared, private, bias, settings.loading_sd, settings.intercept_sd)

    def turn_axes(self) -> list[Tensor]:
        """What `NVAE.turn_axes` does to each model."""
        weights = {name: value for name, value in zip(self.names, self.weights, strict=True) if name in TURNED}
        if LINEAR not in weights:
            return []
        for index in range(len(self)):
            turn_axes({name: value[index] for name, value in weights.items()})
        return list(weights.values())

    def state_of(self, index: int) -> dict[str, Tensor]:
        """A copy of the state of one model, as its `state_dict` has it."""
        likelihood = {LIKELIHOOD + name: value for name, value in self.likelihood.state_dict().items()}
        weights = dict(zip(self.names, self.weights, strict=True))
        return {name: value[index].detach().clone() for name, value in (weights | likelihood).items()}


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    if name in dict(module.named_buffers()):
        module.register_buffer(name, value)
    else:
        module.register_parameter(name, nn.Parameter(value))


@torch.no_grad()
def keep_models(stack: Stack, optimizer: torch.optim.Optimizer, index: Tensor) -> None:
    """Drop all models but those at `index` from the stack, and their moments from the optimiser."""
    for parameter in stack.parameters():
        parameter.data, parameter.grad = parameter.data[index], None
        for name, value in optimizer.state.get(parameter, {}).items():
            if value.dim():
                optimizer.state[parameter][name] = value[index]
    for name, buffer in list(stack.likelihood.named_buffers()):
        stack.likelihood.register_buffer(name, buffer[index])
