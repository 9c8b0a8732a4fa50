"""Many perceptrons, trained as one: a leading dimension for the members."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
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
        hidden: units of a hidden layer.
        batch: rows of a mini-batch, drawn with replacement; ``None`` takes all training rows.
    """

    depth = 1
    """Hidden layers."""

    def __init__(self, task: Problem, members: Sequence[Member], hidden: int, batch: int | None = None) -> None:
        self.members, self.classes, self._batch = tuple(members), task.classes, batch
        rows = [rows_of(task, member) for member in members]
        self.x_train, self.y_train, self.w_train = _padded([(self.seen(r.x_train), r.y_train) for r in rows])
        self.x_validation, self.y_validation, self.w_validation = _padded(
            [(self.seen(r.x_validation), r.y_validation) for r in rows]
        )
        self.sizes = torch.tensor([len(r.y_train) for r in rows])
        self._layout = self.layout(task, hidden)
        self.flat = torch.stack([self._initial(member) for member in members])
        """All weights, (members, parameters)."""
        self.weights = [view.detach().requires_grad_() for view in self.split(self.flat)]
        """In the order of :meth:`layout`, each (members, rows, columns): the memory of :attr:`flat`."""
        self.gradient = torch.zeros_like(self.flat)
        """Of the last step."""
        self.moments = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.step = 0
        self.lr, self._decay = (
            torch.tensor([getattr(member, name) for member in members]).unsqueeze(1) for name in ("lr", "weight_decay")
        )
        self._draws = stream(members[0].seed, 3)

    def seen(self, inputs: Tensor) -> Tensor:
        """Inputs of the task (n, d) as the net takes them."""
        return inputs

    def layout(self, task: Problem, hidden: int) -> list[tuple[int, int, float]]:
        """Rows, columns and bound of the initial values of each tensor: weight and bias of each layer, as ``nn.Linear``
        has them.
        """
        sizes = [task.inputs.shape[1], *[hidden] * self.depth, task.classes]
        found = []
        for inputs, outputs in pairwise(sizes):
            found += [(outputs, inputs, inputs**-0.5), (1, outputs, inputs**-0.5)]
        return found

    @property
    def matrices(self) -> list[int]:
        """Which of the tensors are weight matrices."""
        return [i for i, (rows, columns, _) in enumerate(self._layout) if rows > 1 and columns > 1]

    def split(self, flat: Tensor) -> list[Tensor]:
        """View (members, parameters) as the tensors of the nets."""
        parts = torch.split(flat, [rows * columns for rows, columns, _ in self._layout], dim=1)
        return [part.view(-1, *shape[:2]) for part, shape in zip(parts, self._layout, strict=True)]

    def _initial(self, member: Member) -> Tensor:
        """Uniform within the bounds."""
        draws = stream(member.seed, 2)
        parts = [
            (torch.rand(rows * columns, generator=draws) * 2 - 1) * (member.init_scale * bound)
            for rows, columns, bound in self._layout
        ]
        return torch.cat(parts)

    def hidden(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer for rows (members, n, d)."""
        for layer in range(self.depth):
            x = torch.relu(torch.baddbmm(self.weights[2 * layer + 1], x, self.weights[2 * layer].mT))
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Outputs (members, n, classes) for activations of the last hidden layer."""
        return torch.baddbmm(self.weights[-1], hidden, self.weights[-2].mT)

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


class DeepStack(Stack):
    """The same with three hidden layers."""

    depth = 3


class AttentionStack(Stack):
    """Transformers of one layer without norms: four heads, ReLU, four times the width inside; the last token answers.

    Tokens are the two things and ``=``, or the bits and ``=``. Only the last position asks, since only it answers.
    Tables of tokens and positions start uniform with variance 1/width, matrices as ``nn.Linear``.
    """

    heads = 4

    def seen(self, inputs: Tensor) -> Tensor:
        """Two one-hots, or bits ±1, as numbers of tokens, ``=`` last."""
        if (inputs < 0).any():
            return F.pad((inputs > 0).long(), (0, 1), value=2)
        half = inputs.shape[1] // 2
        tokens = torch.stack([inputs[:, :half].argmax(1), inputs[:, half:].argmax(1)], 1)
        return F.pad(tokens, (0, 1), value=half)

    def layout(self, task: Problem, hidden: int) -> list[tuple[int, int, float]]:
        """Tokens, positions, query, key, value, output; two layers with biases; the head."""
        tokens = self.seen(task.inputs)
        table, linear, wide = (3 / hidden) ** 0.5, hidden**-0.5, (4 * hidden) ** -0.5
        return [
            (int(tokens.max()) + 1, hidden, table),
            (tokens.shape[1], hidden, table),
            *[(hidden, hidden, linear)] * 4,
            (4 * hidden, hidden, linear),
            (1, 4 * hidden, linear),
            (hidden, 4 * hidden, wide),
            (1, hidden, wide),
            (task.classes, hidden, linear),
        ]

    def hidden(self, x: Tensor) -> Tensor:
        """The residual stream at the last position, for tokens (members, n, length)."""
        table, places, query, key, value, out, rise, rise_bias, fall, fall_bias, _ = self.weights
        members, tokens, width = table.shape
        offset = tokens * torch.arange(members).view(-1, 1, 1)
        stream = F.embedding(x + offset, table.reshape(-1, width)) + places.unsqueeze(1)
        last = stream[:, :, -1]
        shape = (*x.shape, self.heads, width // self.heads)
        keys, values = (torch.bmm(stream.flatten(1, 2), part.mT).view(shape) for part in (key, value))
        asked = torch.bmm(last, query.mT).view(*x.shape[:2], 1, self.heads, -1)
        weight = ((asked * keys).sum(-1) / shape[-1] ** 0.5).softmax(2)
        heard = (weight.unsqueeze(-1) * values).sum(2).flatten(2)
        last = last + torch.bmm(heard, out.mT)
        return last + torch.baddbmm(fall_bias, torch.relu(torch.baddbmm(rise_bias, last, rise.mT)), fall.mT)

    def logits(self, hidden: Tensor) -> Tensor:
        """Outputs (members, n, classes) for the residual stream."""
        return torch.bmm(hidden, self.weights[-1].mT)


NETS = {"perceptron": Stack, "deep": DeepStack, "attention": AttentionStack}
"""By name."""


def _padded(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and weights (1/n on n rows, 0 on padding) with a leading dimension for the parts."""
    most = max(len(y) for _, y in parts)
    x = torch.stack([F.pad(x, (0, 0, 0, most - len(x))) for x, _ in parts])
    y = torch.stack([F.pad(y, (0, most - len(y))) for _, y in parts])
    weight = torch.stack([F.pad(torch.full((len(y),), 1.0 / len(y)), (0, most - len(y))) for _, y in parts])
    return x, y, weight
