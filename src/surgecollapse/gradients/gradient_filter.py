"""Any linear filter on the sequence of each parameter's gradients: ĝ = g + λ (h ∗ g) with h(z) = B(z)/A(z)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgecollapse.functional.filters import is_stable, largest_pole
from surgecollapse.gradients.slow_gradients import FlatState, SlowGradients, State, slots_like, state_dtype
from surgecollapse.torch_utils.chunking import Run

if TYPE_CHECKING:
    from surgecollapse.gradients.flat_buffers import FlatBuffer


class GradientFilter(SlowGradients):
    """Amplify what a linear filter leaves of the gradient history, or put it in the gradient's place.

    a₀ h_t = b₀ g_t + b₁ g_{t−1} + … − a₁ h_{t−1} − a₂ h_{t−2} − …. Then ĝ = g + λ h, or ĝ = λ h with ``replace``.
    Computed in direct form II transposed, y = b₀x + z₁, zᵢ = b_i x − a_i y + z_{i+1}. As many values are kept for each
    entry as the filter's order n = max(len(b), len(a)) − 1. A step costs O(n). They are kept in float32 for half
    precision, else in the gradient's precision.

    :class:`~surgecollapse.gradients.grokfast.Grokfast` is the case ``*ema_coefficients(alpha)``, and
    :class:`~surgecollapse.gradients.grokfast.GrokfastMA` the case ``*ma_coefficients(window)``, once the window is
    full. Both cost less there, the latter at long windows very much less. Filters of SciPy's design functions
    (``scipy.signal.butter`` and others) can be given as they are.

    A gradient with a non-finite entry passes as it is and leaves the filter as it was. With ``lamb=0`` no gradient is
    touched.

    Args:
        b: numerator coefficients b₀, b₁, …
        a: denominator coefficients a₀, a₁, …; all poles must lie inside the unit circle.
        lamb: amplification λ.
        replace: ``True``: ĝ = λ h, the filtered gradient alone.
        start: ``zero``: nothing before the first gradient. ``gradient``: as if the first had been there for ever, so
            that a constant gradient gives its final value at once.
        parameters: filter these parameters only, so that groups can have settings of their own; default: all.

    Raises:
        ValueError: for coefficients that are missing, not finite or of an unstable filter, or options out of range.

    >>> transform, param = GradientFilter([0.5, 0.5], lamb=1.0), torch.zeros(1)  # the mean of the last two
    >>> for value in (1.0, 3.0, 5.0):
    ...     gradient = torch.tensor([value])
    ...     transform([param], [gradient])
    ...     print(gradient.item())  # 1 + 1/2, then 3 + (1 + 3)/2, then 5 + (3 + 5)/2
    1.5
    5.0
    9.0

    When to use:
        You want a sharper cut-off than an exponential mean has, or a filter of your own design. Look at its
        response with :func:`surgecollapse.functional.frequency_response` first.

    Cost:
        As many values for each gradient entry as the filter has orders, and one pass over the gradients for each
        order.

    Deviations:
        The paper proposes the exponential and the windowed mean only; this class generalizes them.

    Source:
        After Lee, Kang, Kim, Lee 2024, arXiv 2405.20233; filters in direct form II transposed, as in SciPy's
        ``lfilter``.
    """

    _fields = ("memory", "started")

    def __init__(
        self,
        b: Sequence[float],
        a: Sequence[float] = (1.0,),
        lamb: float = 1.0,
        *,
        replace: bool = False,
        start: str = "zero",
        parameters: Iterable[Tensor] | None = None,
    ) -> None:
        numerator, denominator = [float(value) for value in b], [float(value) for value in a]
        _check_coefficients(numerator, denominator)
        if start not in ("gradient", "zero"):
            raise ValueError(f"start must be 'gradient' or 'zero', got {start!r}")
        super().__init__(lamb, parameters)
        if replace and self.lamb == 0.0:
            raise ValueError("lamb = 0 with replace=True would make every gradient zero: give another lamb")
        order = max(len(numerator), len(denominator)) - 1
        first = denominator[0]
        self.b = tuple(value / first for value in numerator) + (0.0,) * (order + 1 - len(numerator))
        self.a = tuple(value / first for value in denominator) + (0.0,) * (order + 1 - len(denominator))
        self.replace, self.start = bool(replace), start

    def __repr__(self) -> str:
        return (
            f"GradientFilter({list(self.b)}, {list(self.a)}, lamb={self.lamb}, replace={self.replace}, "
            f"start={self.start!r})"
        )

    @property
    def _adds_up(self) -> float:
        return 2.0**20  # not worked out: far more than any useful filter does

    @property
    def order(self) -> int:
        """Values kept for each entry."""
        return len(self.b) - 1

    def _steady(self) -> list[float]:
        """What the memory holds once a constant gradient of 1 has settled: zᵢ = Σ_{k ≥ i} (b_k − a_k H(0))."""
        gain = math.fsum(self.b) / math.fsum(self.a)
        return [
            math.fsum(b - a * gain for b, a in zip(self.b[i:], self.a[i:], strict=True)) for i in range(1, len(self.b))
        ]

    def _new_state(self, grad: Tensor) -> State:
        like = torch.empty_like(grad, dtype=state_dtype(grad.dtype))
        memory = slots_like(self.order, like, like.dtype)
        return {"memory": memory, "started": torch.tensor(self.start == "zero", device=grad.device)}

    def _filter_finite(self, items: list[tuple[State, Tensor]], run: Run) -> None:
        chosen = []
        for state, grad in items:
            if not state["started"]:
                for held, value in zip(state["memory"], self._steady(), strict=True):
                    held.copy_(grad).mul_(value)
                state["started"].fill_(True)
            chosen.append((grad, *state["memory"]))
        run(self._filter_block, chosen, streams=self.order + 3)

    def _filter_block(self, pieces: tuple[list[Tensor], ...]) -> None:
        grads, *memory = pieces
        precise = [state_dtype(grad.dtype) for grad in grads]
        given = [grad.to(dtype) for grad, dtype in zip(grads, precise, strict=True)]  # no copy where it is the same
        results = torch._foreach_mul(given, self.b[0])
        if memory:
            torch._foreach_add_(results, memory[0])
        for i, held in enumerate(memory, start=1):
            if i < self.order:
                torch._foreach_copy_(held, memory[i])
            else:
                torch._foreach_zero_(held)
            if self.b[i]:
                torch._foreach_add_(held, given, alpha=self.b[i])
            if self.a[i]:
                torch._foreach_add_(held, results, alpha=-self.a[i])
        if self.replace:
            torch._foreach_mul_(results, self.lamb)
            torch._foreach_copy_(grads, results)
        elif self.lamb:
            torch._foreach_add_(grads, results, alpha=self.lamb)

    def _new_matrices(self, rows: FlatBuffer, dtype: torch.dtype) -> State:
        memory = rows.zeros(state_dtype(dtype), self.order)
        started = torch.full((len(rows.shapes),), self.start == "zero", device=memory.device)
        return {"memory": memory, "started": started}

    def _filter_rows(self, together: FlatState, finite: Tensor) -> bool:
        memory, started, grads = together.state["memory"], together.state["started"], together.grads
        here, old = together.rows.each_row(finite), list(memory.unbind(0))
        if self.start == "gradient":
            begun = together.rows.each_row(started)
            old = [torch.where(begun, z, grads * value) for z, value in zip(old, self._steady(), strict=True)]
        result = grads * self.b[0] + old[0] if old else grads * self.b[0]
        for i, held in enumerate(memory.unbind(0), start=1):
            moved = old[i] if i < self.order else torch.zeros_like(result)
            moved = moved + grads * self.b[i] - result * self.a[i]
            held.copy_(torch.where(here, moved, held))
        started.logical_or_(finite)
        if not self.replace:
            result = torch.add(grads, result, alpha=self.lamb)
        grads.copy_(torch.where(here, result * self.lamb if self.replace else result, grads))
        return bool(self.lamb)

    def _restored(self, saved: State, param: Tensor) -> State:
        wanted = (self.order, *param.shape)
        if saved["memory"].shape != wanted:
            found = tuple(saved["memory"].shape)
            raise ValueError(f"the saved memory has the shape {found}, expected {wanted}: keep the coefficients")
        dtype = saved["memory"].dtype
        memory = slots_like(self.order, torch.empty_like(param, dtype=dtype), dtype)
        memory.copy_(saved["memory"])
        return {"memory": memory, "started": saved["started"].detach().to(param.device, copy=True)}


def _check_coefficients(b: Sequence[float], a: Sequence[float]) -> None:
    if not b or not a or not all(map(math.isfinite, (*b, *a))):
        raise ValueError(f"b and a must each name finite coefficients, at least one; got b={list(b)}, a={list(a)}")
    if a[0] == 0:
        raise ValueError(f"a[0] must not be zero: the present output needs a weight; got a={list(a)}")
    if not is_stable(a):
        raise ValueError(
            f"this filter is unstable: it has a pole of magnitude {largest_pole(a):.6g}, and all must lie inside the "
            f"unit circle, or what it remembers grows without end; got a={list(a)}"
        )
