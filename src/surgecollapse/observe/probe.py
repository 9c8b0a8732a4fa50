"""The probe batch: a fixed set of inputs on which the net can be looked at without disturbing training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from surgecollapse.errors import warn_user
from surgecollapse.observe.dataflow import trace_dataflow
from surgecollapse.observe.stored import NotStorableError, from_plain, to_plain
from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import (
    canonical_name,
    first_axis,
    is_embedding,
    is_norm,
    map_tensors,
    tensors_in,
    undisturbed,
)
from surgecollapse.torch_utils.shards import Shards

logger = logging.getLogger(__name__)
PROBE_ROWS = 64


_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, ArithmeticError)
"""What a model may raise on a batch that it is not made for."""
_SAME = 1e-2
"""Largest difference, relative to the largest output, between rows that pass alone and in their batch."""

Batch = tuple[list[Any], dict[str, Any]]


def _copy(value: Any) -> Any:
    return map_tensors(value, lambda tensor: tensor.detach().clone())


def _first_rows(value: Any, batch: int, rows: int) -> Any:
    """Copy nested inputs, keeping the first ``rows`` of every tensor whose first axis is the batch."""

    def cut(tensor: Tensor) -> Tensor:
        kept = tensor[:rows] if first_axis(tensor) == batch else tensor
        return kept.detach().clone()

    return map_tensors(value, cut)


class Probe:
    """Holds the probe batch and passes it through the model undisturbed.

    Args:
        batch: a tensor or another object (the one argument), a tuple or list (positional arguments) or a mapping
            (keyword arguments), as the model is called. ``None``: the first :data:`PROBE_ROWS` rows of the first batch
            seen are kept, or all of it where the first axis does not hold the samples: where the model fails on the
            first rows, or where they come out differently without the others.
        rows: how many rows are enough.
        shards: tells whether another process needs a pass, where each pass needs all of them.
    """

    def __init__(self, batch: Any = None, *, rows: int = PROBE_ROWS, shards: Shards | None = None) -> None:
        self._rows, self._shards, self._agreed = rows, Shards() if shards is None else shards, False
        self._args: list[Any] = []
        self._kwargs: dict[str, Any] = {}
        self._whole: Batch | None = None
        self._stored: Mapping[str, Any] | None = None
        self._training = False
        self._autocast: torch.dtype | None = None
        self.known = batch is not None
        if isinstance(batch, Mapping):
            self._kwargs = _copy(dict(batch))
        elif isinstance(batch, tuple | list):
            self._args = _copy(list(batch))
        elif isinstance(batch, str | bytes | int | float):
            raise TypeError(
                f"probe must be a tensor, a tuple of arguments or a dict of them, got {type(batch).__name__}"
            )
        elif batch is not None:
            self._args = _copy([batch])

    def capture(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep copies of the first rows of a batch, unless a probe is known already, and the autocast it ran under."""
        first = next(tensors_in([*args, dict(kwargs)]), None)
        kind = "cpu" if first is None else first.device.type
        self._autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if self.known:
            return
        self._args, self._kwargs = _copy(list(args)), _copy(dict(kwargs))
        self.known = True
        # Of packed sequences no rows can be cut off.
        packed = any(isinstance(value, PackedSequence) for value in [*args, *kwargs.values()])
        if packed or (first_axis(first) or 0) <= self._rows:
            return
        self._whole = (self._args, self._kwargs)

    def _settle(self, model: nn.Module) -> None:
        """Choose between the first rows and the whole batch: rows that mean the same without the others are enough."""
        if self._stored is not None:
            self._restore(self._stored)
        if not self._must_choose(model):
            return
        (args, kwargs), self._whole = self._whole or (self._args, self._kwargs), None
        batch = first_axis(next(tensors_in([*args, kwargs]))) or 0
        try:
            expected = self._run(model, args, kwargs)
            rows = _first_rows((args, kwargs), batch, self._rows)
            if _same_rows(self._run(model, *rows), expected, batch, self._rows):
                self._args, self._kwargs = rows
        except _FAILURES:
            return

    def _must_choose(self, model: nn.Module) -> bool:
        """Whether two passes are to say what is kept: here, or where passes are made together, on any rank."""
        if not self._shards.sharded:
            return self._whole is not None
        if self._agreed:
            return False
        self._agreed = True
        return self._shards.anywhere(self._whole is not None, next(model.parameters()).device)

    def forward(self, model: nn.Module, *, training: bool = False) -> Any:
        """Pass the probe through ``model``, without gradient, leaving no trace.

        Args:
            model: the unwrapped model.
            training: leave every module in its own mode, batch norms excepted; otherwise eval mode.

        Raises:
            RuntimeError: if the model fails on it in either mode.
        """
        self._settle(model)
        training = training or self._training
        try:
            return self._run(model, self._args, self._kwargs, training=training)
        except _FAILURES as error:
            failed = error
        cast = self._as_precise_as(model)
        if cast is not None:
            before, (self._args, self._kwargs) = (self._args, self._kwargs), cast
            try:
                return self._run(model, self._args, self._kwargs, training=training)
            except _FAILURES:
                self._args, self._kwargs = before
        if not training and any(module.training for module in model.modules()):
            try:
                result = self._run(model, self._args, self._kwargs, training=True)
            except _FAILURES as error:
                failed = error
            else:
                self._training = True  # a model that cannot be evaluated on what it trains on
                return result
        raise RuntimeError(
            f"the probe batch does not pass through the model ({type(failed).__name__}: {failed}): "
            "pass Readings(probe=<a batch, as the model is called>)"
        ) from failed

    def _as_precise_as(self, model: nn.Module) -> Any:
        """The batch in the precision of a model that was cast since; ``None`` where it has that already."""
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        other = [t for t in tensors_in([*self._args, self._kwargs]) if t.is_floating_point() and t.dtype != dtype]
        if dtype is None or not other:
            return None

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        return map_tensors((list(self._args), dict(self._kwargs)), cast)

    def _run(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, training: bool = False) -> Any:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        # Without the cache: it may hold weights from before they changed, and would keep some without gradient.
        autocast = torch.autocast(
            device.type, dtype=self._autocast, enabled=self._autocast is not None, cache_enabled=False
        )
        with undisturbed(model, training=training), autocast:
            # Copies: a model may write to its inputs.
            own = map_tensors((list(args), dict(kwargs)), lambda tensor: tensor.to(device, copy=True))
            return model(*own[0], **own[1])

    def arguments(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The batch as positional and keyword arguments, on the device of ``model``; not to be changed."""
        self._settle(model)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        args, kwargs = map_tensors((self._args, self._kwargs), lambda tensor: tensor.to(device))
        return tuple(args), kwargs

    def dataflow(self, model: nn.Module) -> Dataflow:
        """Follow the probe through the model: which layers produce its output, which select, what multiplies.

        A model in training passes it in training mode, since some heads run in that alone (auxiliary classifiers);
        where that fails, in eval mode. Where nothing can be followed (an output that foreign code computes), the
        last layer that ran produces the output.
        """
        last: list[nn.Module] = []
        hooks = Hooks()
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim >= 2 and not (is_norm(module) or is_embedding(module)):
                hooks.after(module, lambda m, _a, _out: last.__setitem__(slice(None), [m]))
        try:
            found = self._follow(model)
        finally:
            hooks.remove()
        if found.outputs or not last:
            return found
        own = {id(p) for key, p in last[0].named_parameters() if "." not in key or key.startswith("parametrizations.")}
        names = tuple(canonical_name(name) for name, p in model.named_parameters() if id(p) in own and p.ndim >= 2)
        return replace(found, outputs=names)

    def _follow(self, model: nn.Module) -> Dataflow:
        self._settle(model)
        if model.training and not self._training:
            try:
                return trace_dataflow(model, lambda: self._run(model, self._args, self._kwargs, training=True))
            except _FAILURES:
                logger.info(
                    "the probe batch does not pass through the model in training mode: eval mode shows its heads"
                )
        return trace_dataflow(model, lambda: self.forward(model))

    def output_layers(self, model: nn.Module, dataflow: Dataflow | None = None) -> tuple[str, ...]:
        """Canonical names of the modules that hold the weights of the output layers, see :meth:`dataflow`."""
        found = self.dataflow(model) if dataflow is None else dataflow
        owners = (f".{name}".partition(".parametrizations.")[0] for name in found.outputs)
        modules = {canonical_name(name) for name, _ in model.named_modules()}
        return tuple(dict.fromkeys(o[1:] if o[1:] in modules else o[1:].rpartition(".")[0] for o in owners))

    def state_dict(self) -> dict[str, Any]:
        """The batch itself: resumed readings must see the same rows. Values that ``weights_only`` loading takes."""
        kept = {"autocast": self._autocast, "training": self._training}
        if self._stored is not None:
            return {**self._stored, **kept}
        try:
            batch = to_plain((self._args, self._kwargs))
        except NotStorableError as error:
            warn_user(
                f"the probe batch holds a {error}, which a checkpoint cannot hold: a run that is resumed takes the "
                "first batch that it sees. Pass Readings(probe=<tensors>) for readings that go on exactly"
            )
            return {"known": False, "batch": to_plain(([], {})), "settled": True, **kept}
        return {"known": self.known, "batch": batch, "settled": self._whole is None, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the batch; objects are rebuilt when they are needed, once their classes are imported."""
        if "batch" not in state:  # of version 0.1, which kept tensors alone, and their first rows
            batch = to_plain((list(state["args"]), dict(state["kwargs"])))
            state = {**state, "batch": batch, "settled": True, "training": False}
        self._agreed = False
        self.known, self._autocast, self._training = state["known"], state["autocast"], state["training"]
        if state["known"]:  # otherwise the first batch is still to come: nothing may come back over it
            self._stored = {key: state[key] for key in ("known", "batch", "settled")}
            self._stored = {**self._stored, "batch": _copy(state["batch"])}

    def _restore(self, stored: Mapping[str, Any]) -> None:
        self._args, self._kwargs = from_plain(stored["batch"])
        self._whole = None if stored["settled"] else (self._args, self._kwargs)
        self._stored = None


def _same_rows(rows: Any, whole: Any, batch: int, kept: int) -> bool:
    """Whether outputs of the first rows are the first rows of the outputs; numbers (a loss) are not asked for."""
    pairs = [list(tensors_in(value)) for value in (rows, whole)]
    return len(pairs[0]) == len(pairs[1]) and all(
        _same(few, many, batch, kept) for few, many in zip(*pairs, strict=True) if many.dim()
    )


def _same(few: Tensor, many: Tensor, batch: int, kept: int) -> bool:
    plain = all(tensor.layout is torch.strided and not tensor.is_nested for tensor in (few, many))
    if not plain or few.dim() != many.dim():
        return False
    shorter = [axis for axis in range(many.dim()) if few.shape[axis] != many.shape[axis]]
    if len(shorter) > 1 or any(few.shape[axis] * batch != many.shape[axis] * kept for axis in shorter):
        return False
    for axis in shorter:
        many = many.narrow(axis, 0, few.shape[axis])
    if not few.is_floating_point() or not few.numel():
        return True
    few, many = few.double().nan_to_num(), many.double().nan_to_num()
    return bool((few - many).abs().max() <= _SAME * many.abs().max())
