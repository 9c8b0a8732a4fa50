"""Shadow weights: closed weights go on learning in a copy, while the model has the thresholded ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from surgecollapse.act.mask_writer import MaskWriter
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.thresholded_values import ThresholdedValues
from surgecollapse.errors import warn_user
from surgecollapse.events import Threshold
from surgecollapse.torch_utils.shards import is_sharded, local, part_of, whole


class ShadowWeights:
    """The weights w that the optimizer steps, where the model has v = s·soft(w; t), zero where the mask is closed.

    Between steps the parameters hold v: forward, backward, evaluation, checkpoints and copies see the sparse net. For
    the length of a step they hold w: their storage is exchanged, and nothing is copied. So decay, momentum and gradient
    transforms act on w. The gradient at v goes straight to w (Bengio et al. 2013, arXiv 1308.3432), times θ where v is
    closed. Then v is written anew.

    The masks hold exactly as many weights open as the sparsity asks, chosen by |w|. Masks, t and s are taken anew every
    ``every`` steps and at readings; in between a weight stays closed, or goes to zero under t.

    A parameter has a shadow from the first step at which it is not fully open.

    Args:
        writer: chooses masks, and forgets the moments of what is closed for good.
    """

    def __init__(self, writer: MaskWriter) -> None:
        self._writer = writer
        self._settings: Threshold | None = None
        self._shadow: dict[str, Tensor] = {}
        self._values = ThresholdedValues(writer)
        self._start, self._count, self._reason = 0.0, 0, ""
        self._before, self._closed, self._opened = 0.0, 0, 0
        self._sparse: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._written: list[str] = []
        self._stale = self._warned = False

    @property
    def _weights(self) -> MaskedWeights:
        return self._writer.weights

    @property
    def _by_name(self) -> tuple[dict[str, Any], ...]:
        return self._shadow, *self._values.by_name, self._versions

    @property
    def active(self) -> bool:
        """Whether the weights are under a threshold now."""
        return self._settings is not None

    @property
    def placed(self) -> bool:
        """Whether the model holds shadows now, for a step under way."""
        return bool(self._sparse)

    @property
    def values(self) -> dict[str, Tensor]:
        """The shadows by name, of the weights that have one. Not to be changed."""
        return dict(self._shadow)

    # ---- what is asked for ------------------------------------------------------------------------------------

    @property
    def sparsity(self) -> float:
        """Sparsity that is asked for at this step: on the way from that of the last request to its own."""
        assert self._settings is not None
        wanted, over = self._settings.sparsity, self._settings.over
        if self._count >= over:
            return wanted
        return self._start + (wanted - self._start) * self._count / over

    @torch.no_grad()
    def aim(self, settings: Threshold, reason: str) -> tuple[float, int, int, str]:
        """Go on to another sparsity from the step that comes.

        Returns:
            What became of the request before: the sparsity that it began at, how many weights were closed and opened
            since, and its reason.

        Raises:
            ValueError: if weights would be judged by a criterion that needs their gradient.
        """
        self._writer.planner.check_without_gradient(settings.saliency)
        done = (self._before, self._closed, self._opened, self._reason)
        self._before, self._closed, self._opened, self._reason = self._weights.sparsity, 0, 0, reason
        self._start, self._count, self._settings = self._weights.sparsity, 0, settings
        if not settings.over:
            self._select()
        return done

    @torch.no_grad()
    def end(self, sparsity: float | None = None) -> None:
        """Make the mask an ordinary one, and forget the shadows and the moments of what is closed.

        Args:
            sparsity: to which the shadows are pruned first.
        """
        if self._settings is None:
            return
        self.settle()
        if sparsity is not None:
            self._select(sparsity)
        self._settings = None
        for held in self._by_name:
            held.clear()
        self._writer.restore_zeros()

    # ---- around a step ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def put(self, names: Iterable[str], *, check: bool = False) -> None:
        """Let the parameters hold their shadows; what was written to them since the last step goes there too.

        Args:
            names: of the parameters that are about to be stepped.
            check: look for writes that torch does not count (through ``.data``).
        """
        params = self._weights.params
        for name in names:
            if name not in self._shadow or name in self._sparse:
                continue
            p = params[name]
            self._move(name)
            if check or self._versions.get(name) != local(p)._version:
                self._absorb(name, warn=True)
            if is_sharded(p):  # its memory is the process group's: values are exchanged instead
                self._sparse[name] = local(p).clone()
                local(p).copy_(self._shadow[name])
            else:
                self._sparse[name] = p.data
                p.data = self._shadow[name]

    @torch.no_grad()
    def scale_gradients(self, names: Iterable[str]) -> None:
        """Multiply the gradients of closed weights by θ, and by zero where they are closed for good."""
        assert self._settings is not None
        theta = self._settings.theta
        for name in names:
            mask, fixed, grad = self._weights.held(name), self._weights.fixed_in(name), self._weights.grad(name)
            if grad is None:
                continue
            if theta != 1.0 and mask is not None:
                grad.mul_(mask.to(grad).mul_(1.0 - theta).add_(theta))
            if fixed is not None:
                grad.masked_fill_(fixed, 0)

    @torch.no_grad()
    def take(self, names: Sequence[str], *, last: bool, check: bool) -> None:
        """Take the shadows out again, as the step left them, and write the thresholded weights.

        Args:
            names: of the parameters that were stepped.
            last: the optimizer step is complete, of all optimizers.
            check: take masks and thresholds anew, whatever the cadence.
        """
        assert self._settings is not None
        params, stepped = self._weights.params, [name for name in names if name in self._sparse]
        for name in stepped:
            if is_sharded(params[name]):
                self._shadow[name].copy_(local(params[name]))
                local(params[name]).copy_(self._sparse.pop(name))
            else:
                self._shadow[name] = params[name].data
                params[name].data = self._sparse.pop(name)
        self._count += last
        over, every = self._settings.over, self._settings.every
        stale = self._stale and not self._weights.shards.sharded  # of parts, one rank alone may know
        if last and (check or stale or self._count % every == 0 or self._count == over):
            self._select()
        else:
            self._write(stepped)

    @torch.no_grad()
    def settle(self) -> None:
        """Take up what was written to the parameters since the last step, at once."""
        if self._settings is None or self.placed:
            return
        for name in self._shadow:
            self._move(name)
            if self._versions.get(name) != self._weights.value(name)._version:
                self._absorb(name)
        if self._shadow and self._weights.shards.anywhere(self._stale, next(iter(self._shadow.values())).device):
            self._select()

    def drop(self, names: Iterable[str]) -> None:
        """Forget the shadows of parameters that are gone or have another shape."""
        for name in names:
            for held in self._by_name:
                held.pop(name, None)

    def found_values(self) -> list[str]:
        """Parameters to which something else wrote since this was asked last."""
        found, self._written = self._written, []
        return found

    # ---- masks, thresholds, values ----------------------------------------------------------------------------

    def _select(self, sparsity: float | None = None) -> None:
        """Take masks, thresholds and scales anew, and write the thresholded weights."""
        assert self._settings is not None
        settings, weights, params = self._settings, self._weights, self._weights.params
        wanted = self._writer.planner.reachable(self.sparsity if sparsity is None else sparsity)
        values = {name: self._shadow.get(name, weights.value(name)) for name in params}
        masks = self._writer.planner.plan(wanted, {}, settings.allocation, settings.saliency, values=values)
        for name, mask in masks.items():
            fixed = weights.fixed_in(name)
            if fixed is not None:
                mask.logical_and_(~fixed)
        live = weights.ranking.counts(masks)
        self._count_flips(masks, live)
        for name, p in params.items():
            if name not in self._shadow and live[name] < p.numel():
                self._shadow[name] = weights.value(name).clone()
        weights.set(masks, live, write=False)
        closed = {name: mask for name, mask in masks.items() if live[name] < params[name].numel()}
        self._values.renew(self._shadow, closed, settings)
        self._write(self._shadow)
        self._stale = False

    def _count_flips(self, masks: Mapping[str, Tensor], live: Mapping[str, int]) -> None:
        """Count what is closed and opened by these masks."""
        before = {name: self._weights.live_in(name) for name in masks}
        both = {name: self._weights.mask(name).logical_and_(mask) for name, mask in masks.items()}
        stay = sum(self._weights.ranking.counts(both).values())
        self._closed += sum(before.values()) - stay
        self._opened += sum(live.values()) - stay

    def _write(self, names: Iterable[str]) -> None:
        """Write the thresholded weights of the shadows as they are now."""
        assert self._settings is not None
        for name in names:
            value = self._weights.value(name)
            self._values.write(name, self._shadow[name], self._settings.p, value)
            self._versions[name] = value._version

    def _absorb(self, name: str, *, warn: bool = False) -> None:
        """Take up what something else wrote to a parameter: its shadow becomes what gives these values."""
        assert self._settings is not None
        changes = self._values.inverse(name, self._shadow[name], self._settings.p)
        self._versions[name] = self._weights.value(name)._version
        if changes is None:
            return
        changed, given = changes
        self._shadow[name] = torch.where(changed, given, self._shadow[name])
        if warn and not self._warned:
            self._warned = True
            warn_user(
                f"something else than its optimizer wrote to {name} (a load of other weights, or a write after the "
                "step): the shadow weights take these values up, and the threshold goes on from them"
            )
        self._written.append(name)
        self._stale = True

    def _move(self, name: str) -> None:
        """Keep the shadow where its parameter is, after the model was moved or cast."""
        p, shadow = self._weights.value(name), self._shadow[name]
        if shadow.device != p.device or shadow.dtype is not p.dtype:
            self._shadow[name] = shadow.to(p.device, p.dtype)
            self._values.move(name)
        if shadow.stride() != p.stride():  # another memory format
            self._shadow[name] = torch.empty_like(p).copy_(self._shadow[name])
            self._values.positions.pop(name, None)

    # ---- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any] | None:
        """Shadows, thresholds and what was asked for; ``None`` where no weight is under a threshold."""
        if self._settings is None:
            return None
        return {
            "settings": asdict(self._settings),
            "values": {name: whole(self._weights.params[name], value) for name, value in self._shadow.items()},
            **self._values.state_dict(),
            "at": [self._start, self._count, self._before, self._closed, self._opened],
            "reason": self._reason,
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore what :meth:`state_dict` returned."""
        if state is None:
            return
        self._settings = Threshold(**state["settings"])
        params = self._weights.params
        self._shadow = {n: part_of(params[n], w).to(params[n].device, copy=True) for n, w in state["values"].items()}
        self._start, self._count, self._before, self._closed, self._opened = state["at"]
        self._reason = state["reason"]
        self._values.load_state_dict(state, self._shadow, self._settings)
        self._versions.clear()  # whether the weights are those of the shadows is looked at before the next step
