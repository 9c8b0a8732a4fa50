"""Sharpness-aware training in one step: gradients are taken where the last gradient points, in any loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.attaching.handle import Handle
from surgecollapse.controller.ownership import Ownership
from surgecollapse.errors import warn_user
from surgecollapse.torch_utils.carried_state import CarriedState
from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import is_undisturbed, snapshot, unwrap_model
from surgecollapse.torch_utils.step_hooks import StepHooks, overflowed, parameters_of, unscale

CARRIED = "surgecollapse.sharpness"
"""Key in ``optimizer.state_dict()``."""


class SharpnessAware(Handle):
    """Handle of :func:`single_step_sam`; a context manager that removes its hooks on exit.

    Attributes:
        rho: length of the perturbation.
        perturbed: whether the weights are perturbed at this moment, between a forward pass and the step.
    """

    def __init__(self, model: nn.Module, optimizer: Any, rho: float) -> None:
        if not (math.isfinite(rho) and rho > 0):
            raise ValueError(f"rho must be positive and finite, got {rho:g}: without a perturbation, call nothing")
        inner, self._optimizer = unwrap_model(model), StepHooks.chain(optimizer)[-1]
        weights = list(parameters_of(self._optimizer))
        if any(Ownership.holder(p) is not None for p in weights):
            raise ValueError(
                "a controller masks these parameters already, and the weights must be as they were when it looks at "
                "them: call single_step_sam before attach"
            )
        if any(hasattr(p, "to_local") for p in weights):
            raise TypeError("single_step_sam needs whole parameters, got a distributed tensor: leave it out")
        self.rho, self.perturbed = float(rho), False
        self._change: dict[Tensor, Tensor] = {}
        self._kept: dict[Tensor, Tensor] = {}
        self._seen, self._steps, self._aside = False, 0, False
        self._forward = Hooks()
        self._forward.before(inner, self._before_forward, eager=True)
        self._forward.after(inner, self._after_forward, always=True)
        self._hooks = StepHooks(optimizer, self._before_step, lambda: None)
        self._carried = CarriedState(self._optimizer, CARRIED, self.state_dict, self._load_carried)

    def _before_forward(self, module: nn.Module, *_: Any) -> None:
        if is_undisturbed():
            return
        self._after_forward()  # of a pass that failed
        if module.training and torch.is_grad_enabled():
            self._seen = True
            if not self.perturbed:
                self._perturb()
        elif self.perturbed:
            self._exchange()  # for the length of this pass: what follows may be the backward pass of another one
            self._aside = True

    def _after_forward(self, *_: Any) -> None:
        if self._aside:
            self._exchange()
            self._aside = False

    @torch.no_grad()
    def _perturb(self) -> None:
        for p, change in self._change.items():
            self._kept[p] = p.detach().clone()
            p.add_(torch.where(p == 0, 0, change.to(p)))
        self.perturbed = bool(self._kept)

    def _exchange(self) -> None:
        """Swap weights and perturbed weights, unseen by autograd, whose saved tensors are those of the latter."""
        for p, kept in self._kept.items():
            here = p.data.clone()
            p.data.copy_(kept)
            kept.copy_(here)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the weights back their values, bitwise; for whoever saves them between a forward pass and the step."""
        self._after_forward()
        for p, kept in self._kept.items():
            p.copy_(kept)
        self._kept.clear()
        self.perturbed = False

    @torch.no_grad()
    def _before_step(self) -> None:
        self.restore()
        if overflowed(self._optimizer):
            return
        unscale(self._optimizer)
        self._steps += 1
        if not self._seen and self._steps == 2:
            warn_user(
                "single_step_sam has seen no forward pass of the model in training mode, so nothing is perturbed: "
                "pass the module that the loop calls"
            )
        found = {
            p: p.grad for p in parameters_of(self._optimizer) if p.grad is not None and p.grad.layout is torch.strided
        }
        self._change = _of_length(self.rho, found)

    def remove(self) -> None:
        """Give the weights back their values, and perturb nothing any more."""
        self.restore()
        self._forward.remove()
        self._hooks.remove()
        self._carried.remove()

    def state_dict(self) -> dict[str, Any]:
        """The perturbation, by position of the parameters in the optimizer; it travels in the optimizer's state dict.

        Weights that are perturbed at this moment get their values back.
        """
        self.restore()
        changes = {i: self._change[p] for i, p in enumerate(parameters_of(self._optimizer)) if p in self._change}
        return snapshot({"steps": self._steps, "change": changes})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: if a perturbation has another shape than its parameter.
        """
        self.restore()
        weights = list(parameters_of(self._optimizer))
        changes: dict[Tensor, Tensor] = {}
        for i, change in state["change"].items():
            if i >= len(weights) or weights[i].shape != change.shape:
                raise ValueError(f"the saved perturbation is of another model: parameter {i} has another shape")
            changes[weights[i]] = change.clone().to(weights[i].device)
        self._change, self._steps = changes, state["steps"]

    def _load_carried(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.load_state_dict(state)
            return
        self.restore()
        self._change = {}


def _of_length(rho: float, grads: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """ρ·g/‖g‖₂ over all gradients together; zeros where the norm is zero or not finite."""
    if not grads:
        return {}
    norms = [
        torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)).abs().float()
        for g in grads.values()
    ]
    first = norms[0].device
    norm = torch.linalg.vector_norm(torch.stack([x.to(first) for x in norms]))
    usable = norm.isfinite() & (norm > 0)
    scale = torch.where(usable, rho / norm, torch.zeros_like(norm))
    return {
        p: torch.where(usable.to(g.device), g * scale.to(g.device), torch.zeros((), dtype=g.dtype, device=g.device))
        for p, g in grads.items()
    }


def single_step_sam(model: nn.Module, optimizer: Any, *, rho: float = 0.05) -> SharpnessAware:
    """Take each gradient at the weights that the gradient of the last step leads to (S²-SAM).

    Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412) needs two gradients a step; here the first of
    the two is that of the step before::

        g_t = ∇L(w_t + ε_t),    ε_t = ρ·g_{t−1}/‖g_{t−1}‖₂,    ε_1 = 0

    The optimizer then steps w_t with g_t. Weights are perturbed from the model's forward pass in training mode until
    the step. In evaluation, and in passes without gradients, they are w_t. Weights that are exactly zero are not
    perturbed, so that a pruned network stays pruned.

    Args:
        model: the module that the loop calls; ``torch.compile`` and DDP wrappers are looked through.
        optimizer: the optimizer whose ``step()`` the loop calls; its parameters are perturbed.
        rho: ρ, the ℓ₂ length of the perturbation over all parameters together, positive and finite.

    Returns:
        A handle with ``remove`` and ``restore``; its state travels in the optimizer's state dict.

    Raises:
        TypeError: if ``optimizer`` is not an optimizer, or a parameter is a shard.
        ValueError: for ρ out of range, LBFGS, or after ``attach``.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    >>> handle = surgecollapse.single_step_sam(model, optimizer, rho=0.5)
    >>> for _ in range(2):  # L = w²/2, whose gradient is w: 1 at w = 1, then 1.25 at w + ε = 0.75 + 0.5
    ...     optimizer.zero_grad()
    ...     (model(torch.ones(1, 1)) ** 2 / 2).sum().backward()
    ...     optimizer.step()
    >>> model.weight.item()
    0.4375

    When to use:
        A trial for sparse training, whose losses are sharper. Tune ρ.

    Cost:
        No second gradient: two copies of the parameters, and four passes over them a step.

    Deviations:
        The norm is over all parameters of the optimizer, biases and norms too. The gradient is the one that the
        optimizer is given: after clipping and accumulation, before gradient transforms. Sparse gradients perturb
        nothing. In a compiled model, an evaluation between a forward pass and its backward pass takes the perturbation
        away; between steps it does not.

    Source:
        Ji et al. 2024, "A Single-Step, Sharpness-Aware Minimization is All You Need to Achieve Efficient and Accurate
        Sparse Training", NeurIPS.
    """
    return SharpnessAware(model, optimizer, rho)
