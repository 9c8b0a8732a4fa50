"""What the optimizer remembers of weights that were pruned or reopened."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surgecollapse.torch_utils.shards import Shards, is_sharded, local

_SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf"})
_STEP_SIZES = frozenset({"step_size"})
_TORCHS_OWN = frozenset({"state", "param_groups", "defaults"})


def with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it keeps as attributes, at any depth, as Lookahead and SAM keep one.

    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> outer = torch.optim.SGD([p], lr=0.1)
    >>> outer.inner = torch.optim.Adam([p])
    >>> [type(one).__name__ for one in with_inner(outer)]
    ['SGD', 'Adam']
    """
    found = [optimizer]
    for one in found:  # which grows meanwhile
        inner = [value for value in vars(one).values() if isinstance(value, Optimizer)]
        found += [value for value in inner if not any(value is other for other in found)]
    return found


def state_of(optimizer: Optimizer, param: Tensor) -> dict[str, Any]:
    """What an optimizer and those inside of it remember of ``param``; names that several use are numbered."""
    found: dict[str, Any] = {}
    seen: list[Any] = []
    for number, one in enumerate(with_inner(optimizer)):
        state = one.state.get(param, {})
        if not any(state is other for other in seen):
            seen.append(state)
            found |= {f"{number}.{key}" if key in found else key: value for key, value in state.items()}
    return found


def outside_of_state(optimizer: Optimizer, params: Iterable[Tensor]) -> list[str]:
    """Attributes in which an optimizer keeps tensors of the weights' shapes, other than the weights and gradients.

    >>> p = torch.nn.Parameter(torch.ones(2, 3))
    >>> optimizer = torch.optim.SGD([p], lr=0.1)
    >>> optimizer.m = {p: torch.zeros(2, 3)}
    >>> outside_of_state(optimizer, [p])
    ['m']
    """
    params = list(params)
    shapes = {shape for p in params for shape in (p.shape, local(p).shape) if p.numel() > 1}
    known = {id(tensor) for group in optimizer.param_groups for p in group["params"] for tensor in (p, p.grad)}

    def holds(value: object, depth: int) -> bool:
        if isinstance(value, Tensor):
            return value.shape in shapes and id(value) not in known
        if depth == 0 or not isinstance(value, Mapping | list | tuple | set | deque):
            return False
        return any(holds(part, depth - 1) for part in (value.values() if isinstance(value, Mapping) else value))

    return [
        name
        for one in with_inner(optimizer)
        for name, value in vars(one).items()
        if name not in _TORCHS_OWN and not name.startswith("_optimizer_") and holds(value, 4)
    ]


def moment_tensors(optimizer: Optimizer, param: Tensor) -> dict[str, Tensor]:
    """Find the per-weight tensors in the optimizer's state of ``param``, by shape.

    Scalars and numbers (step counts) are passed over. The states of optimizers inside of this one count, too.

    Raises:
        ValueError: if the state holds a tensor of any other shape (factored or packed moments). Which entries belong to
            which weight is then unknown, and guessing would misalign them.
    """
    found: dict[str, Tensor] = {}
    for key, value in state_of(optimizer, param).items():
        if _matches(value, param):
            found[key] = local(value)
        elif (isinstance(value, Tensor) and value.numel() > 1) or isinstance(value, list | tuple | dict):
            kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            if isinstance(value, Tensor) and value.shape == param.shape:
                kind = f"type {value.dtype if type(value) is Tensor else type(value).__name__}"
            raise ValueError(
                f"{type(optimizer).__name__} keeps {key!r} of {kind} for a weight of shape "
                f"{tuple(param.shape)}: its moments cannot be reset weight by weight. Use "
                "updates=Updates(optimizer_state='keep'), or an optimizer whose state has the weights' shape (SGD, "
                "Adam, AdamW, RMSprop, Adagrad, Lion …)"
            )
    return found


def _matches(value: Any, param: Tensor) -> bool:
    """Whether a state has one plain number for each weight: not packed into codes (8-bit), nor factored."""
    if not isinstance(value, Tensor) or value.shape != param.shape or value.numel() == 0:
        return False
    plain = type(value) in (Tensor, torch.nn.Parameter)
    split = is_sharded(value) and is_sharded(param) and local(value).shape == local(param).shape
    return (plain or split) and (value.is_floating_point() or value.is_complex())


@torch.no_grad()
def forget(
    optimizer: Optimizer,
    param: Tensor,
    flipped: Tensor,
    live: Tensor,
    mode: str = "reset",
    *,
    shards: Shards | None = None,
) -> None:
    """Forget the optimizer's moments where the mask of ``param`` flipped.

    * ``reset``: zero. Once bias correction has worn off, Adam's first step from zero moments moves a weight by (1 −
      β₁)/√(1 − β₂) learning rates. That is 3.2 at β = 0.9, 0.999.
    * ``warmup``: as ``reset``, but second moments start at the mean over the weights of the same parameter that stayed
      open. So the first step is an ordinary one.
    * ``ramp``: as ``reset``; :class:`~surgecollapse.act.regrowth_ramp.RegrowthRamp` then shortens the first steps.
    * ``keep``: nothing is touched.

    Args:
        optimizer: the optimizer that owns ``param``.
        param: the parameter.
        flipped: boolean, true where a weight was pruned or reopened.
        live: boolean, true where a weight is open now.
        mode: one of :data:`surgecollapse.events.switches.OPTIMIZER_STATE`.
        shards: sums over the processes that hold parts of the parameter; ``flipped`` and ``live`` are of the part here.

    Raises:
        ValueError: for a state layout that cannot be matched to weights (see :func:`moment_tensors`).
    """
    if mode == "keep":
        return
    for key, tensor in moment_tensors(optimizer, param).items():
        kind = key.rpartition(".")[2]
        if kind in _STEP_SIZES:  # Rprop: a zero step size would hold the weight for ever
            tensor.masked_fill_(flipped, _learning_rate(optimizer, param))
            continue
        tensor.masked_fill_(flipped, 0)
        if mode == "warmup" and kind in _SECOND_MOMENTS:
            stayed = live & ~flipped
            mean = tensor.mul(stayed).sum() / stayed.sum().clamp(min=1)
            if is_sharded(param) and shards is not None:
                found = {"sum": tensor.mul(stayed).sum(), "count": stayed.sum()}
                total = shards.sums(dict.fromkeys(found, param), found)
                mean = tensor.new_tensor(total["sum"] / max(1.0, total["count"]))
            tensor.copy_(torch.where(flipped & live, mean.to(tensor.dtype), tensor))


def momentum_of(optimizer: Optimizer, param: Tensor, default: float = 0.9) -> float:
    """Return the momentum coefficient that the optimizer uses for ``param`` (``betas[0]`` or ``momentum``)."""
    group = _group_of(optimizer, param)
    betas = group.get("betas")
    value = betas[0] if betas else group.get("momentum", default)
    return float(value) if 0.0 < float(value) < 1.0 else default


def _learning_rate(optimizer: Optimizer, param: Tensor) -> float:
    return float(_group_of(optimizer, param)["lr"])


def _group_of(optimizer: Optimizer, param: Tensor) -> dict[str, Any]:
    for group in optimizer.param_groups:
        if any(p is param for p in group["params"]):
            return group
    raise KeyError("the optimizer does not own this parameter")
