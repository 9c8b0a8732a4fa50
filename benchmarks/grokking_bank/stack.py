"""Many perceptrons with one hidden layer, trained as one: a leading dimension for the members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from grokking_bank.members import Problem, rows_of, stream

if TYPE_CHECKING:
    from grokking_bank.members import Member

BETAS, EPS = (0.9, 0.98), 1e-8
"""Of AdamW."""


class Stack:
    """Nets d → hidden → classes (ReLU, biases) of one task, under cross-entropy and AdamW, each with its own settings.

    Each member is, to float rounding, the net that it would be alone: ``nn.Linear``'s initial distribution times
    ``init_scale``, the mean loss over its own training rows, decoupled decay. Members of unequal size are padded with
    rows that weigh nothing. A member that diverges leaves the others alone.

    Args:
        task: the samples.
        members: their settings.
        hidden: units of the hidden layer.
        batch: rows of a mini-batch, drawn with replacement; ``None`` takes all training rows.
    """

    def __init__(self, task: Problem, members: Sequence[Member], hidden: int, batch: int | None = None) -> None:
        self.members, self.classes, self._batch = tuple(members), task.classes, batch
        rows = [rows_of(task, member) for member in members]
        self.x_train, self.y_train, self.w_train = _padded([(r.x_train, r.y_train) for r in rows])
        self.x_validation, self.y_validation, self.w_validation = _padded(
            [(r.x_validation, r.y_validation) for r in rows]
        )
        self.sizes = torch.tensor([len(r.y_train) for r in rows])
        inputs = task.inputs.shape[1]
        self._shapes = ((hidden, inputs), (1, hidden), (task.classes, hidden), (1, task.classes))
        self.flat = torch.stack([self._initial(member) for member in members])
        """All weights, (members, parameters)."""
        self.weights = [view.detach().requires_grad_() for view in self.split(self.flat)]
        """First weight (members, hidden, d), its bias, second weight, its bias: the memory of :attr:`flat`."""
        self.gradient = torch.zeros_like(self.flat)
        """Of the last step."""
        self.moments = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.step = 0
        self.lr, self._decay = (
            torch.tensor([getattr(member, name) for member in members]).unsqueeze(1) for name in ("lr", "weight_decay")
        )
        self._draws = stream(members[0].seed, 3)

    def split(self, flat: Tensor) -> list[Tensor]:
        """View (members, parameters) as the four tensors of the nets."""
        parts = torch.split(flat, [rows * columns for rows, columns in self._shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _initial(self, member: Member) -> Tensor:
        """Uniform in ±1/√(fan in), weights and biases, as ``nn.Linear`` has it."""
        draws = stream(member.seed, 2)
        fans = [self._shapes[0][1]] * 2 + [self._shapes[2][1]] * 2
        parts = [
            (torch.rand(rows * columns, generator=draws) * 2 - 1) * (member.init_scale / fan**0.5)
            for (rows, columns), fan in zip(self._shapes, fans, strict=True)
        ]
        return torch.cat(parts)

    def hidden(self, x: Tensor) -> Tensor:
        """Activations of the hidden layer for rows (members, n, d)."""
        return torch.relu(torch.baddbmm(self.weights[1], x, self.weights[0].mT))

    def logits(self, hidden: Tensor) -> Tensor:
        """Outputs (members, n, classes) for activations of the hidden layer."""
        return torch.baddbmm(self.weights[3], hidden, self.weights[2].mT)

    def losses(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Cross-entropy (members,) over rows that weigh ``weight``."""
        each = F.cross_entropy(self.logits(self.hidden(x)).flatten(0, 1), y.flatten(), reduction="none")
        return (each.view_as(weight) * weight).sum(1)

    def train_step(self) -> None:
        """One step of AdamW on every member."""
        loss = self.losses(*self._rows()).sum()
        grads = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            self.gradient = torch.cat([grad.flatten(1) for grad in grads], 1)
            self._update()

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._batch is None:
            return self.x_train, self.y_train, self.w_train
        drawn = torch.rand(len(self.members), self._batch, generator=self._draws)
        at = (drawn * self.sizes[:, None]).long()
        which = torch.arange(len(self.members))[:, None]
        return self.x_train[which, at], self.y_train[which, at], torch.full(at.shape, 1.0 / self._batch)

    def _update(self) -> None:
        self.step += 1
        first, second = self.moments
        self.flat.mul_(1 - self.lr * self._decay)
        first.lerp_(self.gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(self.gradient, self.gradient, value=1 - BETAS[1])
        self.flat.addcdiv_(first * (-self.lr / (1 - BETAS[0] ** self.step)), self._denominator())

    def _denominator(self) -> Tensor:
        return (self.moments[1] / (1 - BETAS[1] ** self.step)).sqrt_().add_(EPS)

    def step_sizes(self) -> Tensor:
        """Of the next step, entry by entry: η/(√v̂ + ε)."""
        return self.lr / self._denominator()


def _padded(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and weights (1/n on n rows, 0 on padding) with a leading dimension for the parts."""
    most = max(len(y) for _, y in parts)
    x = torch.stack([F.pad(x, (0, 0, 0, most - len(x))) for x, _ in parts])
    y = torch.stack([F.pad(y, (0, most - len(y))) for _, y in parts])
    weight = torch.stack([F.pad(torch.full((len(y),), 1.0 / len(y)), (0, most - len(y))) for _, y in parts])
    return x, y, weight
