"""Grokfast (Lee et al. 2024, arXiv 2405.20233): amplify the slow part of each parameter's gradient.

Both filters add to the gradient what a low-pass filter over past steps leaves of it. That is ĝ_t = g_t + λ·(f ∗ g)_t,
with f an exponential (:class:`Grokfast`) or a windowed mean (:class:`GrokfastMA`).

What they share:

* State is made for a parameter when its first gradient comes, and holds copies only. Gradients zeroed in place
  (``zero_grad(set_to_none=False)``) and gradients made anew give the same results.
* A gradient with a non-finite entry leaves its parameter's state as it is, and is left as it is. So does one with an
  entry so large that sums of such could overflow. On the CPU such parameters are left out; elsewhere a flag on the
  device selects, and the host does not wait for it.
* On an accelerator the state of all parameters lies side by side, and nearly every operation is launched once for all
  of them. That keeps one more copy of the gradients, and makes two or three more for the length of a step.
* With ``lamb=0`` gradients are not touched at all.
* With ``compile=True`` large tensors are filtered in one compiled pass each, which is what memory asks for and no more.
  With ``torch.compile`` the first steps take seconds. Results differ by float rounding. On the CPU non-finite values
  are dealt with entry by entry, since looking at all of them first would be another pass. Such an entry passes as it is
  and leaves its own state alone, while its neighbors are filtered. Without a compiler there is one warning, and plain
  operations do the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgecollapse.functional.projections import widest
from surgecollapse.gradients.fused_kernels import ema_pass, ema_rows, ma_pass, ma_rows
from surgecollapse.gradients.slow_gradients import FlatState, SlowGradients, State, copy_of, slots_like, state_dtype
from surgecollapse.torch_utils.chunking import BLOCK, SERIAL, Run, share, shared
from surgecollapse.torch_utils.compiled import flattened, in_one_pass

if TYPE_CHECKING:
    from surgecollapse.gradients.flat_buffers import FlatBuffer


_ROWS = 16
"""Gradients of a window that are summed at once where they are of another precision than the sum."""
_READS = 1 << 17
"""Stored gradients that are summed afresh at a time, at least."""


class Grokfast(SlowGradients):
    """Grokfast-EMA: amplify the exponential mean of each gradient, h ← α h + (1 − α) g, ĝ = g + λ h.

    On a constant gradient g the result is (1 + λ) g from the first step on. With ``start="zero"`` it is (1 + λ(1 − αᵗ))
    g at step t. The mean is kept in float32 for half precision, else in the gradient's precision.

    Args:
        alpha: decay α of the mean, in [0, 1); about 1/(1 − α) steps are averaged.
        lamb: amplification λ of the mean; 0 leaves every gradient as it is.
        start: ``gradient``: h₀ = g₁, as the published code does; ``zero``: h₀ = 0, the unbiased reading of the paper.
        compile: filter large tensors in one compiled pass each, see above.
        parameters: filter these parameters only, so that groups can have settings of their own; default: all.

    Raises:
        ValueError: for options out of range.

    >>> import torch
    >>> param, gradient = torch.zeros(1), torch.ones(1)
    >>> grokfast = Grokfast(alpha=0.5, lamb=2.0, start="zero")
    >>> for _ in range(2):
    ...     given = gradient.clone()
    ...     grokfast([param], [given])
    ...     print(given.item())
    2.0
    2.5

    When to use:
        The network fits its training data long before it generalizes, and tuning the optimizer and its weight decay
        was not enough. Start with this filter rather than :class:`GrokfastMA`. A larger λ usually wants more weight
        decay. Published settings for modular multiplication: ``alpha=0.98, lamb=2.0``, weight decay 0.005.

    Cost:
        One more copy of the gradients. On a CPU it takes about the time of a plain ``lerp_`` and ``add_`` over them,
        two thirds of it with ``compile=True`` on large tensors. On one H200, no effect on a training step exceeds its
        noise.

    Deviations:
        The paper's listing starts the mean at the weights, which is no gradient. The published code starts it at
        the first gradient, and so does this class. State holds copies, where the published code filters what it
        amplified itself if gradients are zeroed in place.

    Source:
        Lee, Kang, Kim, Lee 2024, arXiv 2405.20233, Grokfast-EMA.
    """

    _fields = ("average", "started")

    def __init__(
        self,
        alpha: float = 0.98,
        lamb: float = 2.0,
        *,
        start: str = "gradient",
        compile: bool = False,
        parameters: Iterable[Tensor] | None = None,
    ) -> None:
        if not 0.0 <= alpha < 1.0:
            raise ValueError(f"alpha must lie in [0, 1), got {alpha}")
        if start not in ("gradient", "zero"):
            raise ValueError(f"start must be 'gradient' or 'zero', got {start!r}")
        super().__init__(lamb, parameters)
        self.alpha, self.start, self.compile = float(alpha), start, bool(compile)

    def __repr__(self) -> str:
        return f"Grokfast(alpha={self.alpha}, lamb={self.lamb}, start={self.start!r})"

    @property
    def _adds_up(self) -> float:
        return 2.0  # the difference of two gradients

    def _new_state(self, grad: Tensor) -> State:
        average = torch.zeros_like(grad, dtype=state_dtype(grad.dtype))
        return {"average": average, "started": torch.tensor(self.start == "zero", device=grad.device)}

    def _filter_finite(self, items: list[tuple[State, Tensor]], run: Run) -> None:
        alike: list[tuple[Tensor, Tensor]] = []
        mixed: list[tuple[Tensor, Tensor]] = []
        for state, grad in items:
            average = state["average"]
            if not state["started"]:
                average.copy_(grad)
                state["started"].fill_(True)
            (alike if average.dtype is grad.dtype else mixed).append((average, grad))
        if alike:
            run(partial(self._move, True), alike)
        if mixed:
            run(partial(self._move, False), mixed)

    def _move(self, alike: bool, pieces: tuple[list[Tensor], ...]) -> None:
        averages, grads = pieces
        if alike:
            torch._foreach_lerp_(averages, grads, 1.0 - self.alpha)
        else:  # lerp takes no mixed precision
            torch._foreach_mul_(averages, self.alpha)
            torch._foreach_add_(averages, grads, alpha=1.0 - self.alpha)
        if self.lamb:
            torch._foreach_add_(grads, averages, alpha=self.lamb)

    def _filter_once(self, state: State, grad: Tensor) -> bool:
        flat = flattened((state["average"], grad))
        if flat is None or not in_one_pass(
            ema_pass,
            *flat,
            state["started"],
            self._number(1.0 - self.alpha),
            self._number(self.lamb),
            self._number(self.largest(grad.dtype)),
        ):
            return False
        state["started"].fill_(True)
        return True

    def _new_matrices(self, rows: FlatBuffer, dtype: torch.dtype) -> State:
        average = rows.zeros(state_dtype(dtype))
        started = torch.full((len(rows.shapes),), self.start == "zero", device=average.device)
        return {"average": average, "started": started}

    def _filter_rows(self, together: FlatState, finite: Tensor) -> bool:
        average, started = together.state["average"], together.state["started"]
        wide = widest(started.device)
        weight = torch.full(started.shape, 1.0 - self.alpha, dtype=wide, device=started.device)
        numbers = [weight.where(started, 1.0), finite.to(wide) * self.lamb]
        weights, scales = (together.rows.each_row(number).to(average.dtype) for number in numbers)
        arguments = average, together.grads, together.rows.each_row(finite), weights, scales
        if not (self.compile and in_one_pass(ema_rows, *arguments)):
            ema_rows(*arguments)
        started.logical_or_(finite)
        return bool(self.lamb)

    def _restored(self, saved: State, param: Tensor) -> State:
        if saved["average"].shape != param.shape:
            found = tuple(saved["average"].shape)
            raise ValueError(f"the saved mean has the shape {found}, the parameter {tuple(param.shape)}")
        return {name: copy_of(value, param.device) for name, value in saved.items()}


class GrokfastMA(SlowGradients):
    """Grokfast-MA: amplify the mean (or sum) of the last w gradients, the present one included, at O(1) a step.

    ĝ_t = g_t + λ · mean(g_{t−w+1} … g_t). On a constant gradient g that is (1 + λ) g, with ``filter="sum"``
    (1 + λw) g, from step w on. The code waits for a full window, the paper filters at once: ``warmup`` chooses.

    **Cost.** A step adds the new gradient to a running sum and takes off the one that leaves. It sums one 2w-th of the
    entries afresh over their whole window: w · N/2w = N/2 reads. Nothing depends on w but the memory of w gradients.

    **Drift.** Each entry's sum is formed afresh every 2w steps, so it carries the rounding of at most 2w steps, however
    long the training. There are w − 1 additions afresh, then two a step. Let u be the unit roundoff of the sum, and let
    S bound Σ|g| over any window of the last 2w steps. Then |error| ≤ (5w + 1)·u·S, to first order. A plain running sum
    has no such bound, since 2u·S may be added at each step for ever. The sum is that of the *stored* entries: with
    ``buffer_dtype=torch.bfloat16`` what is added is what will be taken off.

    Args:
        window: number w of gradients, ≥ 1.
        lamb: amplification λ of the mean or sum; 0 leaves every gradient as it is.
        warmup: act only when the window is full (published code); ``False``: at once, on what is there (paper).
        filter: ``mean`` or ``sum``.
        buffer_dtype: precision of the stored gradients; default: their own. ``torch.bfloat16`` halves the memory.
        compile: filter large tensors in one compiled pass each, see above.
        parameters: filter these parameters only, so that groups can have settings of their own; default: all.

    Raises:
        ValueError: for options out of range.

    >>> import torch
    >>> grokfast, param = GrokfastMA(window=2, lamb=1.0), torch.zeros(1)
    >>> for value in (1.0, 3.0, 5.0):
    ...     gradient = torch.tensor([value])
    ...     grokfast([param], [gradient])
    ...     print(gradient.item())  # 1, then 3 + (1 + 3)/2, then 5 + (3 + 5)/2
    1.0
    5.0
    9.0

    When to use:
        To repeat published results with a window. :class:`Grokfast` needs less memory and time. Published settings
        for modular multiplication: ``window=100, lamb=5.0``, weight decay 0.01.

    Cost:
        ``window`` + 1 copies of the gradients; ``buffer_dtype=torch.bfloat16`` halves that for float32. About twice
        the time of :class:`Grokfast`, whatever the window.

    Deviations:
        The paper filters from the first step on, the published code waits until the window is full. The default
        follows the code; ``warmup=False`` follows the paper.

    Source:
        Lee, Kang, Kim, Lee 2024, arXiv 2405.20233, Grokfast-MA.
    """

    _fields = ("gradients", "total", "seen", "turn")

    def __init__(
        self,
        window: int = 100,
        lamb: float = 5.0,
        *,
        warmup: bool = True,
        filter: str = "mean",
        buffer_dtype: torch.dtype | None = None,
        compile: bool = False,
        parameters: Iterable[Tensor] | None = None,
    ) -> None:
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"window must be a whole number of gradients, at least 1, got {window!r}")
        if filter not in ("mean", "sum"):
            raise ValueError(f"filter must be 'mean' or 'sum', got {filter!r}")
        if buffer_dtype not in (None, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"buffer_dtype must be bfloat16, float32, float64 or None, got {buffer_dtype}")
        super().__init__(lamb, parameters)
        self.window, self.warmup, self.filter, self.buffer_dtype = window, bool(warmup), filter, buffer_dtype
        self.compile = bool(compile)

    @property
    def _adds_up(self) -> float:
        return 1.001 * max(self.window, 2)

    @property
    def _period(self) -> int:
        """Steps in which every running sum is formed afresh."""
        return 2 * self.window

    def __repr__(self) -> str:
        return f"GrokfastMA(window={self.window}, lamb={self.lamb}, warmup={self.warmup}, filter={self.filter!r})"

    def _new_state(self, grad: Tensor) -> State:
        total = torch.zeros_like(grad, dtype=state_dtype(grad.dtype))
        seen = torch.zeros((), dtype=torch.long, device=grad.device)
        slots = slots_like(self.window, total, self.buffer_dtype or grad.dtype)
        # Parameters begin their turns apart, so that their fresh sums do not all fall on the same steps.
        return {"gradients": slots, "total": total, "seen": seen, "turn": 7919 * len(self._state) % self._period}

    def _filter_finite(self, items: list[tuple[State, Tensor]], run: Run) -> None:
        by_scale: dict[float, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for state, grad in items:
            seen = int(state["seen"])
            scale = self._scale(seen + 1)
            leaving = state["gradients"][seen % self.window]
            by_scale.setdefault(scale, []).append((grad, state["total"], leaving))
        for scale, chosen in by_scale.items():
            run(partial(_slide, scale), chosen)
        for state, _ in items:
            state["seen"].add_(1)
        pieces = [piece for state, _ in items for piece in self._to_sum_afresh(state, split=run is shared)]
        if run is shared:
            share(_sum, pieces)
        else:
            for piece in pieces:
                _sum(piece)

    def _filter_once(self, state: State, grad: Tensor) -> bool:
        seen = int(state["seen"])
        scale = self._scale(seen + 1)
        flat = flattened((state["total"], state["gradients"][seen % self.window], grad))
        if not scale or flat is None:
            return False
        if not in_one_pass(ma_pass, *flat, self._number(scale), self._number(self.largest(grad.dtype))):
            return False
        state["seen"].add_(1)
        share(_sum, self._to_sum_afresh(state, split=torch.get_num_threads() > 1))
        return True

    def _scale(self, seen: int) -> float:
        if self.warmup and seen < self.window:
            return 0.0
        return self.lamb / min(seen, self.window) if self.filter == "mean" else self.lamb

    def largest(self, dtype: torch.dtype) -> float:
        """As of every filter, and of the stored gradients, too."""
        stored = dtype if self.buffer_dtype is None or dtype.is_complex else self.buffer_dtype
        return min(super().largest(dtype), super().largest(stored))

    def _new_matrices(self, rows: FlatBuffer, dtype: torch.dtype) -> State:
        total, slots = rows.zeros(state_dtype(dtype)), rows.zeros(self.buffer_dtype or dtype, self.window)
        seen = torch.zeros(len(rows.shapes), dtype=torch.long, device=total.device)
        turn = torch.zeros(len(rows.shapes), dtype=torch.long)  # the host must know it
        return {"gradients": slots, "total": total, "seen": seen, "turn": turn}

    def _filter_rows(self, together: FlatState, finite: Tensor) -> bool:
        slots, total, seen = (together.state[name] for name in ("gradients", "total", "seen"))
        place = together.rows.each_row(seen % self.window).squeeze(1)
        seen.add_(finite)
        ready = finite & (seen >= self.window) if self.warmup else finite
        divisor = seen.clamp(1, self.window) if self.filter == "mean" else 1
        scales = together.rows.each_row(ready.to(widest(total.device)) * self.lamb / divisor).to(total.dtype)
        row = torch.arange(len(total), device=total.device)
        arguments = total, slots, together.grads, place, row, together.rows.each_row(finite), scales
        if not (self.compile and in_one_pass(ma_rows, *arguments)):
            ma_rows(*arguments)
        self._sum_rows_afresh(together)
        return bool(self.lamb)

    def _gathered(self, dtype: torch.dtype, given: dict[Tensor, Tensor], before: FlatState | None) -> FlatState:
        together = super()._gathered(dtype, given, before)
        turn = together.state["turn"]
        turn.fill_(turn.max())  # one for all, whoever comes first
        return together

    def _sum_rows_afresh(self, together: FlatState) -> None:
        """As :meth:`_to_sum_afresh`, for a share of the rows of every parameter."""
        total, slots, rows = together.state["total"], together.state["gradients"], together.rows
        turns = together.state["turn"]
        share = rows.turns(self._period)[int(turns[0])]
        turns.add_(1).remainder_(self._period)
        if len(share):
            total.index_copy_(0, share, slots.index_select(1, share).sum(0, dtype=total.dtype))

    def _to_sum_afresh(self, state: State, *, split: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Columns of the window, and the running sums that theirs replace; every entry has come after 2w calls.

        With ``split`` there are so few columns each that torch takes one thread for them.
        """
        total, turn = state["total"], state["turn"]
        state["turn"] = (turn + 1) % self._period
        count = total.numel()
        # A slice has a thousand entries and a hundred thousand reads at least: smaller tensors have it whole, at times.
        length = max(-(-count // self._period), _READS // self.window, 1024)
        pause = self._period // max(-(-count // length), 1)
        first = turn // pause * length
        if turn % pause or first >= count:
            return
        columns = state["gradients"].as_strided((self.window, count), (count, 1))[:, first : first + length]
        sums = total.as_strided((count,), (1,))[first : first + length]
        if columns.dtype != sums.dtype:
            width = BLOCK // _ROWS
        else:
            width = max(SERIAL // self.window // 16 * 16, 16) if split else length
        yield from zip(columns.split(width, 1), sums.split(width), strict=True)

    def _restored(self, saved: State, param: Tensor) -> State:
        wanted = (self.window, *param.shape)
        if saved["gradients"].shape != wanted:
            found = tuple(saved["gradients"].shape)
            raise ValueError(f"the saved window has the shape {found}, expected {wanted}: keep window= as it was")
        state = {name: copy_of(value, param.device) for name, value in saved.items() if name != "gradients"}
        state["turn"] = int(saved["turn"])
        state["gradients"] = slots_like(self.window, state["total"], saved["gradients"].dtype)
        state["gradients"].copy_(saved["gradients"])
        return state


def _slide(scale: float, pieces: tuple[list[Tensor], ...]) -> None:
    grads, totals, slots = pieces
    torch._foreach_sub_(totals, slots)
    torch._foreach_copy_(slots, grads)
    torch._foreach_add_(totals, slots)
    if scale:
        torch._foreach_add_(grads, totals, alpha=scale)


def _sum(piece: tuple[Tensor, Tensor]) -> None:
    columns, sums = piece
    if columns.dtype == sums.dtype:
        torch.sum(columns, 0, dtype=sums.dtype, out=sums)
        return
    # The CPU casts before it sums: block by block, or the cast would be as large as the parameter.
    sums.zero_()
    for rows in columns.split(_ROWS):  # type: ignore[no-untyped-call]
        sums.add_(rows.sum(0, dtype=sums.dtype))
