"""Muon on hidden matrices, AdamW on everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Bring all singular values near 1: X ← aX + (bA + cA²)X with A = XXᵀ, from X = M/‖M‖ (Newton–Schulz, degree 5).

    With the usual coefficients, which are fast and not exact, they end between about .7 and 1.2.

    Args:
        matrix: (rows, columns), float32 or float64.
        iterations: steps of the iteration.

    Returns:
        A matrix of the same shape; zero for zero.

    Reference: Jordan et al. 2024, Muon; the iteration after Bernstein and Newhouse 2024, arXiv 2409.20325.

    >>> singular = torch.linalg.svdvals(orthogonalized(torch.diag(torch.tensor([1.0, 0.5, 2.0]))))
    >>> bool(((singular > 0.6) & (singular < 1.3)).all())
    True
    """
    a, b, c = _COEFFICIENTS
    x: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / torch.linalg.vector_norm(x).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon(Optimizer):
    """Muon for matrices, AdamW for the rest.

    Matrices move along the orthogonalized Nesterov momentum. It is scaled so that the root mean square of its entries
    is about 1, as Adam's steps have it. So m ← βm + g, W ← (1 − ηλ)W − η √max(rows, columns) · orth(g + βm).
    ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"`` is the same at 0.2 of this rate, in bfloat16. Here
    one optimizer takes both kinds of parameters, so that schedules, hooks and checkpoints see one.

    Args:
        matrices: parameters with two dimensions.
        others: all other parameters, or groups of them; a group of ``kind`` ``muon`` moves as the matrices do.
        lr: learning rate η of both kinds.
        weight_decay: decoupled decay λ of both kinds.
        momentum: β of the matrices.
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        ValueError: if a matrix has not two dimensions.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> weight.grad = torch.eye(2)
    >>> Muon([weight], [], lr=0.1, weight_decay=0.0).step()
    >>> weight.detach().square().mean().sqrt().item()  # near the rate, whatever the size of the gradient
    0.11...
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor | dict[str, Any]],
        lr: float,
        *,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        chosen, rest = list(matrices), list(others)
        further = [p for item in rest if isinstance(item, dict) and item.get("kind") == "muon" for p in item["params"]]
        wrong = [tuple(matrix.shape) for matrix in (*chosen, *further) if matrix.ndim != 2]
        if wrong:
            raise ValueError(f"Muon takes matrices, got a parameter of shape {wrong[0]}: put it among the others")
        groups: list[dict[str, Any]] = [{"params": chosen, "kind": "muon"}] if chosen else []
        alone = [item for item in rest if isinstance(item, Tensor)]
        groups += [{"params": alone, "kind": "adamw"}] if alone else []
        groups += [{"kind": "adamw", **item} for item in rest if isinstance(item, dict)]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                (self._muon if group["kind"] == "muon" else self._adamw)(params, group)
        return loss

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        rate = group["lr"]
        for param in params:
            state, grad = self.state[param], param.grad
            assert grad is not None
            buffer = state.setdefault("momentum_buffer", torch.zeros_like(param))
            buffer.mul_(group["momentum"]).add_(grad)
            update = orthogonalized(grad.add(buffer, alpha=group["momentum"]))
            param.mul_(1 - rate * group["weight_decay"])
            param.add_(update, alpha=-rate * max(param.shape) ** 0.5)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """The step of ``torch.optim.AdamW``, by its functional form, with its state."""
        for param in params:
            if not self.state[param]:
                zeros = {name: torch.zeros_like(param) for name in ("exp_avg", "exp_avg_sq")}
                self.state[param].update(step=torch.tensor(0.0), **zeros)
        states = [self.state[param] for param in params]
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [param.grad for param in params if param.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
