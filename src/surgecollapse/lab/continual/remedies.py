"""Remedies against the loss of plasticity that act on a perceptron after each step, each after its definition.

A remedy is made from the network and called once after each optimizer step. Networks are a ``Sequential`` of linear
layers with an activation between two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Remedy = Callable[[], None]


def linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    """The linear layers from input to output."""
    return [module for module in model if isinstance(module, nn.Linear)]


def fresh(layer: nn.Linear, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """New first values: weights uniform within 1/√inputs, as torch draws them, and a bias of zero."""
    bound = layer.in_features**-0.5
    weight = torch.empty_like(layer.weight).uniform_(-bound, bound, generator=generator)
    return weight, torch.zeros_like(layer.bias)


@torch.no_grad()
def renew(
    into: nn.Linear, out: nn.Linear, chosen: Tensor, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Make hidden units new: incoming weights anew, bias, outgoing weights and the optimizer's moments of all zero.

    Args:
        into: the layer whose outputs the units are.
        out: the layer that reads them.
        chosen: numbers of the units.
        optimizer: that steps both layers.
        generator: for new weights; a whole layer is drawn, so that what is drawn depends on no choice.
    """
    weight, bias = fresh(into, generator)
    into.weight[chosen], into.bias[chosen] = weight[chosen], bias[chosen]
    out.weight[:, chosen] = 0
    parts: tuple[tuple[Tensor, Any], ...] = (
        (into.weight, (chosen,)),
        (into.bias, (chosen,)),
        (out.weight, (slice(None), chosen)),
    )
    for parameter, part in parts:
        for moment in optimizer.state.get(parameter, {}).values():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                moment[part] = 0


class ShrinkAndPerturb:
    """θ ← (1 − shrink)·θ + noise·θ′ with θ′ new first values, after every step.

    Ash and Adams 2020 (arXiv 1910.08475) do so once for each new data set; at each step as Dohare et al. 2024 (Nature
    632, 768) do.

    Args:
        model: a perceptron.
        shrink: share of the weights that is lost.
        noise: factor of the new values.
        generator: for the new values.
    """

    def __init__(self, model: nn.Sequential, *, shrink: float, noise: float, generator: torch.Generator) -> None:
        self.layers, self.shrink, self.noise, self.generator = linear_layers(model), shrink, noise, generator

    @torch.no_grad()
    def __call__(self) -> None:
        """Shrink and perturb."""
        for layer in self.layers:
            weight, _ = fresh(layer, self.generator)
            layer.weight.mul_(1 - self.shrink).add_(weight, alpha=self.noise)
            layer.bias.mul_(1 - self.shrink)


class L2Init:
    """Decay toward the first values: θ ← θ − rate·(θ − θ₀), the gradient step of (rate/2)·‖θ − θ₀‖², decoupled.

    Kumar, Marklund and Van Roy 2023 (arXiv 2308.11958) add the term to the loss, so that Adam rescales it. Here the
    step is taken beside the optimizer's.

    Args:
        model: a perceptron, with its first values.
        rate: of the decay, for each step.
    """

    def __init__(self, model: nn.Sequential, *, rate: float) -> None:
        self.rate = rate
        self.pairs = [(p, p.detach().clone()) for p in model.parameters()]

    @torch.no_grad()
    def __call__(self) -> None:
        """Step toward the first values."""
        for parameter, first in self.pairs:
            parameter.lerp_(first, self.rate)


@dataclass
class _Units:
    """What is kept of the units of one hidden layer."""

    into: nn.Linear
    out: nn.Linear
    utility: Tensor
    age: Tensor
    owed: float = 0.0


class ContinualBackprop:
    """The mature unit of least utility of each hidden layer is replaced, at a rate.

    Dohare et al. 2024 (Nature 632, 768, algorithm 1): utility u ← η·u + (1 − η)·|h|·Σ|w_out|, with h the mean |output|
    of the batch. Of the units older than ``maturity`` a share ``rate`` is replaced for each step (fractions are saved
    up). Incoming weights are drawn anew. Bias, outgoing weights, utility and age become zero, and so do the optimizer's
    moments of all of them.

    Args:
        model: a perceptron; its activations are observed.
        optimizer: that steps it, for its moments.
        rate: ρ, share of the mature units that is replaced in a step.
        maturity: steps in which a new unit is left alone.
        decay: η.
        generator: for new weights.
    """

    def __init__(
        self,
        model: nn.Sequential,
        optimizer: torch.optim.Optimizer,
        *,
        rate: float = 1e-4,
        maturity: int = 100,
        decay: float = 0.99,
        generator: torch.Generator,
    ) -> None:
        self.optimizer, self.rate, self.maturity, self.decay = optimizer, rate, maturity, decay
        self.generator, self.replaced = generator, 0
        self.seen: dict[int, Tensor] = {}
        layers = linear_layers(model)
        self.units = [
            _Units(into, out, torch.zeros(into.out_features), torch.zeros(into.out_features))
            for into, out in itertools.pairwise(layers)
        ]
        for number, units in enumerate(self.units):
            units.out.register_forward_pre_hook(self._observe(number))

    def _observe(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[number] = inputs[0].detach().abs().mean(0)

        return observe

    @torch.no_grad()
    def __call__(self) -> None:
        """Update utilities, and replace what is due."""
        for number, units in enumerate(self.units):
            units.age += 1
            now = self.seen[number] * units.out.weight.abs().sum(0)
            units.utility.mul_(self.decay).add_(now, alpha=1 - self.decay)
            mature = units.age > self.maturity
            units.owed += self.rate * int(mature.sum())
            count = min(int(units.owed), int(mature.sum()))
            if count:
                units.owed -= count
                least = torch.where(mature, units.utility, torch.inf).topk(count, largest=False).indices
                self._replace(units, least)

    def _replace(self, units: _Units, chosen: Tensor) -> None:
        renew(units.into, units.out, chosen, self.optimizer, self.generator)
        units.utility[chosen] = 0
        units.age[chosen] = 0
        self.replaced += len(chosen)
