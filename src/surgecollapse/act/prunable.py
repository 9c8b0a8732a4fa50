"""Which parameters the method may prune: the default choice, and the user's."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from surgecollapse.act.roles import REASONS, Explanation, explain_parameters, with_reason
from surgecollapse.errors import nearest
from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.modules import canonical_name

logger = logging.getLogger(__name__)
UNOWNED = "no attached optimizer steps it"
NOT_INCLUDED = "not named by include"

Pattern = str | Tensor
Patterns = Pattern | Sequence[Pattern] | None


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Map canonical names to parameters; a tied parameter appears once, under its first name."""
    return {canonical_name(name): p for name, p in model.named_parameters()}


def prunable_parameters(
    model: nn.Module,
    *,
    owned: Collection[int],
    dataflow: Dataflow | None = None,
    include: Patterns = None,
    exclude: Patterns = None,
    required: bool = True,
) -> dict[str, nn.Parameter]:
    """Choose the parameters that may be pruned.

    Default: the trainable weights of layers that multiply, see :func:`~surgecollapse.act.roles.explain_parameters`; not
    those of the layers that produce the model's output.

    Args:
        model: the unwrapped model.
        owned: ``id`` of every parameter that an attached optimizer steps.
        dataflow: what a forward pass showed of the model; ``None`` before one is known.
        include: shell patterns on parameter or module names, or parameters: exactly these instead of the default.
        exclude: likewise: never these.
        required: whether it is an error to find nothing.

    Returns:
        Canonical name → parameter, in the model's order.

    Raises:
        ValueError: if a pattern matches nothing, an included parameter has no optimizer, or nothing is left.
    """
    named = named_weights(model)
    table = explain_choice(model, owned=owned, dataflow=dataflow, include=include, exclude=exclude)
    chosen = {row.name: named[row.name] for row in table if row.prunable}
    unowned = [row.name for row in table if row.reason == UNOWNED]
    if unowned:
        logger.info("not pruned, since no attached optimizer steps them: %s", ", ".join(unowned))
    later = dataflow is None and any(row.role == "bare parameter" for row in table)  # a pass may show what they do
    if required and not chosen and not later:
        why = "; ".join(f"{row.name}: {row.reason}" for row in table) or "no parameters"
        raise ValueError(
            "nothing to prune: expected at least one trainable weight of a layer that multiplies and is not an output "
            f"layer; the model has {why}. Name weights with include=…"
        )
    return chosen


def explain_choice(
    model: nn.Module,
    *,
    owned: Collection[int],
    dataflow: Dataflow | None = None,
    include: Patterns = None,
    exclude: Patterns = None,
) -> Explanation:
    """Say of every parameter whether it is pruned, and why; the arguments are those of :func:`prunable_parameters`.

    Raises:
        ValueError: if a pattern matches nothing, or an included parameter has no optimizer.
    """
    named = named_weights(model)
    included = None if include is None else _matching(named, include, "include")
    excluded = {} if exclude is None else _matching(named, exclude, "exclude")
    lost = [name for name, p in (included or {}).items() if id(p) not in owned]
    if lost:
        raise ValueError(f"include names parameters that no attached optimizer steps: {', '.join(lost)}")
    rows = []
    for row in explain_parameters(model, dataflow):
        p = named[row.name]
        if included is not None:
            there = row.name in included and p.numel() > 0
            row = with_reason(row, "named by include" if there else NOT_INCLUDED, prunable=there)
            row = with_reason(row, REASONS["no entries"]) if not p.numel() else row
        if row.prunable and row.name in excluded:
            row = with_reason(row, "named by exclude")
        if row.prunable and included is None and not p.requires_grad:
            row = with_reason(row, "is frozen (requires_grad is False)")
        if row.prunable and id(p) not in owned:
            row = with_reason(row, UNOWNED)
        rows.append(row)
    return Explanation(tuple(rows))


def _matching(named: dict[str, nn.Parameter], patterns: Patterns, option: str) -> dict[str, nn.Parameter]:
    items: Iterable[Any] = [patterns] if isinstance(patterns, str | Tensor) else patterns or ()
    chosen: set[str] = set()
    for item in items:
        if isinstance(item, Tensor):
            hits = [name for name, p in named.items() if p is item]
            label = f"a tensor of shape {tuple(item.shape)}"
        else:
            hits = [name for name in named if fnmatchcase(name, item) or fnmatchcase(name.rpartition(".")[0], item)]
            label = repr(item)
        if not hits:
            near = nearest(item, named, most=3, cutoff=0.3) if isinstance(item, str) else []
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise ValueError(f"{option}: {label} matches no parameter of the model{hint}")
        chosen.update(hits)
    return {name: p for name, p in named.items() if name in chosen}
