"""What the filters share: which parameters they act on, which gradients are healthy, where the state is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from surgecollapse.gradients.dense_check import check_dense
from surgecollapse.gradients.flat_buffers import FlatBuffer, all_finite
from surgecollapse.torch_utils.chunking import Run, faster, shared
from surgecollapse.torch_utils.compiled import flattened
from surgecollapse.torch_utils.shards import Shards, local, part_of, whole

SMALLEST = 1 << 16
"""Entries from which on a compiled pass costs no more than plain operations."""
_LARGE = 1 << 16
"""Entries from which on all threads of torch find a sum of squares sooner than one does."""
_REAL = (torch.float32, torch.float64)
State = dict[str, Any]
"""What is kept for one parameter, by name."""


@dataclass
class FlatState:
    """What is kept for all parameters of one device and precision, side by side."""

    rows: FlatBuffer
    place: dict[Tensor, int]
    """Number of each parameter."""
    grads: Tensor
    """Matrix (rows, 256) in the precision of the state: the gradients of this step, changed in place."""
    views: list[Tensor]
    """The parts of that, by parameter."""
    order: list[int]
    """Numbers of the parameters as they came last."""
    numbers: Tensor
    """Those on the device."""
    state: State
    """Matrices (…, rows, 256), and of what is one number a parameter, vectors (parameters,)."""


class SlowGradients(ABC):
    """A filter with state of its own for each parameter; subclasses say what the state is and how it moves.

    Args:
        lamb: amplification of the slow part.
        parameters: those to act on; ``None``: all.

    Raises:
        ValueError: if ``lamb`` is not finite.
    """

    stage = "filter"
    compile = False
    _fields: ClassVar[tuple[str, ...]]

    def __init__(self, lamb: float, parameters: Iterable[Tensor] | None) -> None:
        if not math.isfinite(lamb):
            raise ValueError(f"lamb must be finite, got {lamb}")
        self.lamb = float(lamb)
        self._only = None if parameters is None else dict.fromkeys(parameters)
        self._state: dict[Tensor, State] = {}
        self._together: dict[tuple[torch.device, torch.dtype], FlatState] = {}
        self._numbers: dict[float, Tensor] = {}

    @torch.no_grad()
    def __call__(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Filter ``grads`` in place, once per optimizer step; the two sequences correspond.

        Raises:
            TypeError: if a gradient is sparse.
        """
        on_host: list[tuple[Tensor, Tensor]] = []
        elsewhere: dict[tuple[torch.device, torch.dtype], dict[Tensor, Tensor]] = {}
        for param, grad in self._chosen(params, grads):
            if not self._waits_for(grad):
                if not grad.numel():
                    self._state_of(param, grad)
                else:
                    elsewhere.setdefault((grad.device, grad.dtype), {})[param] = grad
            elif not (self.compile and self._passes_once(param, grad)):
                on_host.append((param, grad))
        if on_host:
            known = len(self._state)
            faster(
                (type(self).__name__, on_host[0][1].dtype),
                on_host,
                lambda pair: pair[1].numel(),
                self._filter_healthy,
                counts=lambda: len(self._state) == known,  # making state takes longer than filtering
            )
        for kind, given in elsewhere.items():
            self._filter_together(kind, given)

    def _chosen(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Parameters with the gradients to filter, or those parts of them that are here.

        One gradient that is not finite anywhere is left out on every process that holds a part of it.
        """
        given = zip(params, grads, strict=True)
        pairs = [(param, grad) for param, grad in given if self._only is None or param in self._only]
        for _, grad in pairs:
            check_dense(self, grad)
        shards = Shards.of([grad for _, grad in pairs])
        if not shards.sharded:
            return pairs
        parts = [local(grad) for _, grad in pairs]
        unsound = [
            ~((part.abs() <= self.largest(part.dtype)).all() & part.isfinite().all()) if part.numel() else False
            for part in parts
        ]
        found = torch.stack([torch.as_tensor(flag, device=parts[0].device, dtype=torch.float64) for flag in unsound])
        counts = shards.total(found).tolist()
        return [(param, part) for (param, _), part, bad in zip(pairs, parts, counts, strict=True) if not bad]

    def _filter_healthy(self, pairs: list[tuple[Tensor, Tensor]], run: Run) -> None:
        """Filter the gradients of which every entry may enter the state; none is filtered in part."""
        if not self._all_are_at_most([grad for _, grad in pairs], run):
            pairs = [(param, grad) for param, grad in pairs if _is_at_most(grad, self.largest(grad.dtype))]
        if pairs:
            self._filter_finite([(self._state_of(param, grad), grad) for param, grad in pairs], run)

    def _all_are_at_most(self, grads: list[Tensor], run: Run) -> bool:
        """Whether sums of squares say so; where not, each gradient has to be looked at."""
        small: dict[torch.dtype, list[Tensor]] = {}
        squares: dict[torch.dtype, float] = {}
        for grad in grads:
            dtype = grad.dtype
            if run is not shared and grad.numel() > _LARGE and dtype in _REAL and (flat := flattened((grad,))):
                if dtype not in squares:  # asked once, since this runs while the threads of torch wait
                    half = self.largest(dtype) / 2
                    squares[dtype] = min(half * half, torch.finfo(dtype).max)
                # Unlike a norm, a product is computed on all threads. If not finite, entries of 2e19 may be the reason.
                if not torch.dot(flat[0], flat[0]).item() <= squares[dtype]:
                    return False
            else:
                small.setdefault(dtype, []).append(grad)
        if not small:
            return True
        healthy: list[bool] = []
        for dtype, alike in small.items():
            largest = self.largest(dtype)

            def look(pieces: Sequence[list[Tensor]], largest: float = largest) -> None:
                healthy.append(all(norm.item() <= largest for norm in torch._foreach_norm(pieces[0])))

            if run is shared:
                run(look, [(grad,) for grad in alike])
            else:
                look([alike])
        return all(healthy)

    def _filter_together(self, kind: tuple[torch.device, torch.dtype], given: dict[Tensor, Tensor]) -> None:
        together = self._together.get(kind)
        if together is None or not given.keys() <= together.place.keys():
            together = self._gathered(kind[1], given, together)
            # What a parameter had on another device, or in another precision, is of the past.
            others = {k: t for k, t in self._together.items() if not (k == kind or given.keys() & t.place.keys())}
            self._together = {**others, kind: together}
        places = [together.place[param] for param in given]
        inside, grads = [together.views[place] for place in places], list(given.values())
        torch._foreach_copy_(inside, grads)
        finite = all_finite(grads, self.largest(kind[1]))
        if places != list(range(len(together.views))):  # in another order, or without some
            if places != together.order:
                together.order, numbers = places, torch.tensor(places)
                together.numbers = numbers.to(finite.device, non_blocking=True)
            finite = finite.new_zeros(len(together.views)).index_copy_(0, together.numbers, finite)
        if self._filter_rows(together, finite):
            torch._foreach_copy_(grads, inside)

    def _gathered(self, dtype: torch.dtype, given: dict[Tensor, Tensor], before: FlatState | None) -> FlatState:
        """Put the state of all parameters side by side, that of new ones with that of known ones."""
        params = [*given, *(param for param in (before.place if before else ()) if param not in given)]
        rows = FlatBuffer([local(param).shape for param in params], params[0].device)
        state = self._new_matrices(rows, dtype)
        parts: list[State] = [{} for _ in params]
        for name, value in state.items():
            views = value.unbind() if value.ndim == 1 else rows.views(value)
            for part, view in zip(parts, views, strict=True):
                part[name] = view
        for param, part in zip(params, parts, strict=True):
            known = self._state.get(param, {})
            for name, value in known.items():
                part[name].copy_(value) if isinstance(value, Tensor) else part[name].fill_(value)
            self._state[param] = part
        grads = rows.zeros(state_dtype(dtype))
        place = {param: number for number, param in enumerate(params)}
        return FlatState(
            rows=rows,
            place=place,
            grads=grads,
            views=rows.views(grads),
            order=[],
            numbers=torch.empty(0, dtype=torch.long),
            state=state,
        )

    @staticmethod
    def _waits_for(grad: Tensor) -> bool:
        # Looking at a number costs nothing on the CPU; on an accelerator the host would wait for all work under way.
        return grad.device.type == "cpu"

    def largest(self, dtype: torch.dtype) -> float:
        """The largest magnitude of an entry that enters the state; a gradient with a larger one counts as not finite.

        Args:
            dtype: of the gradient.

        Returns:
            The largest number of the state, by what the state may add up.
        """
        return torch.finfo(state_dtype(dtype)).max / self._adds_up

    @property
    @abstractmethod
    def _adds_up(self) -> float:
        """How many times as large as the largest gradient a number on the way may become."""

    def _number(self, value: float) -> Tensor:
        # A tensor, so that another value does not compile again; without dimensions, it changes no precision.
        if value not in self._numbers:
            if len(self._numbers) > 64:  # a schedule
                self._numbers.clear()
            self._numbers[value] = torch.tensor(value, dtype=torch.float64, device="cpu")
        return self._numbers[value]

    def _passes_once(self, param: Tensor, grad: Tensor) -> bool:
        """Filter a large gradient in one compiled pass, where there is state and a compiler; else do nothing."""
        if grad.numel() < SMALLEST or param not in self._state or not self.lamb:
            return False
        return self._filter_once(self._state[param], grad)

    def _filter_once(self, state: State, grad: Tensor) -> bool:  # noqa: ARG002
        return False

    def _state_of(self, param: Tensor, grad: Tensor) -> State:
        state = self._state.get(param)
        if state is None:
            state = self._state[param] = self._new_state(grad)
        return state

    @abstractmethod
    def _new_state(self, grad: Tensor) -> State: ...

    @abstractmethod
    def _filter_finite(self, items: list[tuple[State, Tensor]], run: Run) -> None: ...

    @abstractmethod
    def _new_matrices(self, rows: FlatBuffer, dtype: torch.dtype) -> State:
        """The state of new parameters with gradients of ``dtype`` side by side, by the names of :meth:`_new_state`."""

    @abstractmethod
    def _filter_rows(self, together: FlatState, finite: Tensor) -> bool:
        """Filter the gradients of all parameters at once; whether they changed.

        Args:
            together: of these parameters.
            finite: bool (parameters,); the state and the gradients of the others must stay as they are.
        """

    @abstractmethod
    def _restored(self, saved: State, param: Tensor) -> State: ...

    def __getstate__(self) -> dict[str, Any]:
        # A copy puts its parameters side by side anew. Pickle would write the whole matrix for every view of it.
        state = {param: {n: copy_of(value) for n, value in kept.items()} for param, kept in self._state.items()}
        return {**self.__dict__, "_together": {}, "_state": state}

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        """Copies of the state, in lists that correspond to ``params``; ``None`` where a parameter has none."""
        states = [(param, self._state.get(param)) for param in params]
        return {
            name: [None if s is None else copy_of(_whole_state(param, s[name])) for param, s in states]
            for name in self._fields
        }

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        """Restore what :meth:`state_dict` returned, on each parameter's device. Settings are not part of it.

        Raises:
            ValueError: if the state is another transform's, or does not fit the parameters.
        """
        if set(state) != set(self._fields) or any(len(column) != len(params) for column in state.values()):
            found = ", ".join(f"{name} ({len(column)})" for name, column in state.items())
            raise ValueError(
                f"{type(self).__name__} needs {', '.join(self._fields)} for {len(params)} parameters, got {found}: "
                "load the state of the same transform on the same parameters"
            )
        restored: dict[Tensor, State] = {}
        for i, param in enumerate(params):
            saved = {name: state[name][i] for name in self._fields}
            if saved[self._fields[0]] is not None:
                parts = {name: _part_of_state(param, value) for name, value in saved.items()}
                restored[param] = self._restored(parts, local(param))
        given = set(params)
        self._together.clear()
        self._state = {param: kept for param, kept in self._state.items() if param not in given} | restored


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision of the state: float32 for gradients in half precision, else their own."""
    return torch.promote_types(dtype, torch.float32)


def slots_like(count: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros (count, …) for that many tensors, each lying in memory as ``like`` does, whatever the memory format."""
    entries = like.numel()
    stored = torch.zeros(count * entries, dtype=dtype, device=like.device)
    return stored.as_strided((count, *like.shape), (entries, *like.stride()))


def copy_of(value: Any, device: torch.device | None = None) -> Any:
    """A copy of a tensor, on another device if one is given; other values as they are."""
    return value.detach().to(device or value.device, copy=True) if isinstance(value, Tensor) else value


def _whole_state(param: Tensor, value: Any) -> Any:
    """What is kept for a parameter, gathered where it has the shape of one that is split."""
    return whole(param, value) if isinstance(value, Tensor) and value.ndim >= max(1, param.ndim) else value


def _part_of_state(param: Tensor, value: Any) -> Any:
    """The part of it that belongs to the part of the parameter that is here."""
    fits = isinstance(value, Tensor) and value.shape[value.ndim - param.ndim :] == param.shape
    return part_of(param, value) if fits and value.ndim >= max(1, param.ndim) else value


def _is_at_most(grad: Tensor, largest: float) -> bool:
    # No entry is larger than the norm, which is found in one pass. Where that is too large, look at each.
    if torch.linalg.vector_norm(grad).item() <= largest:
        return True
    if grad.dtype is torch.float16:  # whose own largest number is far below
        return bool(torch.isfinite(grad).all())
    return bool((grad.abs() <= largest).all())
