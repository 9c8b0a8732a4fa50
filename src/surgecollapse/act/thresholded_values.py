"""What a model has of its shadow weights: v = s·soft(w; t), zero where the mask is closed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from surgecollapse.act.mask_writer import MaskWriter
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.events import Threshold
from surgecollapse.functional import channel_scale, soft_threshold, soft_threshold_inverse
from surgecollapse.functional.soft_threshold import magnitudes
from surgecollapse.torch_utils.compiled import flattened, in_one_pass
from surgecollapse.torch_utils.shards import local

SPARSE, SPARSE_POWER = 0.125, 0.25
"""Greatest share of open weights whose positions are kept: for p of 0 or 1, and for other powers."""
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def soft_pass(value: Tensor, weight: Tensor, mask: Tensor, threshold: Tensor, scale: Tensor) -> None:
    """Write the thresholded weights for p = 1, to be compiled."""
    value.copy_((weight - torch.maximum(torch.minimum(weight, threshold), -threshold)) * mask * scale)


class ThresholdedValues:
    """Thresholds t and scales s by parameter name, and the values that they give.

    The threshold of a parameter is the greatest |w| that is closed in it. With one ranking by magnitude over all
    parameters, it is the greatest of all. Where that is not below the least open |w| (ties, tiles, a minimum density),
    it is the next number below it. Where few weights of a parameter are open, their positions are kept, and only they
    are written.

    Args:
        writer: chose the masks.

    Attributes:
        threshold: t of each parameter that is not fully open.
        scale: s of each, a number or one a row.
        positions: of the open weights, where they are few.
    """

    def __init__(self, writer: MaskWriter) -> None:
        self._writer = writer
        self.threshold: dict[str, float] = {}
        self.scale: dict[str, float | Tensor] = {}
        self.positions: dict[str, Tensor] = {}

    @property
    def _weights(self) -> MaskedWeights:
        return self._writer.weights

    @property
    def by_name(self) -> tuple[dict[str, Any], ...]:
        """All that is kept of each parameter."""
        return self.threshold, self.scale, self.positions

    def renew(self, shadow: Mapping[str, Tensor], masks: Mapping[str, Tensor], settings: Threshold) -> None:
        """Take thresholds, scales and positions anew, and put what is not written one by one to zero.

        Args:
            shadow: the weights w.
            masks: of the parameters that are not fully open.
            settings: what was asked for.
        """
        self.positions = {name: _positions(mask) for name, mask in masks.items() if self._is_sparse(name, settings)}
        self._take_thresholds(shadow, masks, settings)
        self._take_scales(shadow, masks, settings)
        for name in self.positions:
            self._weights.value(name).zero_()

    def _is_sparse(self, name: str, settings: Threshold) -> bool:
        """Whether writing the open weights one by one is faster than a pass over all."""
        p = self._weights.params[name]
        limit = SPARSE if settings.p in (0, 1) else SPARSE_POWER
        few = self._weights.live_in(name) <= limit * p.numel()
        return few and local(p).is_contiguous() and settings.rescale != "channel"

    def _open_values(self, name: str, weight: Tensor, mask: Tensor) -> Tensor:
        """The shadows that are open, in one dimension."""
        places = self.positions.get(name)
        return weight[mask] if places is None else weight.view(-1).index_select(0, places)

    def _take_thresholds(self, shadow: Mapping[str, Tensor], masks: Mapping[str, Tensor], settings: Threshold) -> None:
        self.threshold.clear()
        if not settings.p or not masks:
            return
        greatest, least = {}, {}
        for name, mask in masks.items():
            scratch = self._weights.value(name)  # written anew afterwards
            closed = torch.abs(shadow[name], out=scratch).masked_fill_(mask, 0)
            greatest[name] = closed.amax() if closed.numel() else closed.new_zeros(())
            opened = self._open_values(name, shadow[name], mask).abs()
            least[name] = -opened.amin() if opened.numel() else opened.new_tensor(-torch.inf)
        shards, params = self._weights.shards, self._weights.params
        found = shards.greatest(params, greatest)
        if self._writer.planner.one_ranking(settings.allocation, settings.saliency):
            found = dict.fromkeys(masks, max(found.values()))
        for name, bound in ((n, -value) for n, value in shards.greatest(params, least).items()):
            self.threshold[name] = found[name] if found[name] < bound else _before(bound, shadow[name].dtype)

    def _take_scales(self, shadow: Mapping[str, Tensor], masks: Mapping[str, Tensor], settings: Threshold) -> None:
        """The factor that gives the open weights their magnitude back: one a parameter, or one a row."""
        self.scale.clear()
        if not settings.rescale or not settings.p:
            return
        if settings.rescale == "channel":
            self.scale |= {name: channel_scale(shadow[name], mask) for name, mask in masks.items()}
            return
        before, after = {}, {}
        for name, mask in masks.items():
            opened = self._open_values(name, shadow[name], mask)
            kept = soft_threshold(opened, self.threshold[name], settings.p)
            before[name], after[name] = magnitudes(opened, kept)
        shards, params = self._weights.shards, self._weights.params
        sums = shards.sums(params, before), shards.sums(params, after)
        for name in masks:  # divided in the precision of the sums, as one process does
            whole_before, whole_after = (after[name].new_tensor(total[name]) for total in sums)
            self.scale[name] = float(whole_before / whole_after) if whole_after > 0 else 1.0

    def write(self, name: str, weight: Tensor, p: float, out: Tensor) -> None:
        """Write into ``out`` what the model has of one shadow.

        Args:
            name: of the parameter.
            weight: its shadow.
            p: power of the threshold.
            out: of its shape; where positions are kept, all else in it is zero.
        """
        mask = self._weights.held(name)
        threshold, scale, places = self.threshold.get(name, 0.0), self.scale.get(name, 1.0), self.positions.get(name)
        if mask is None:
            out.copy_(weight)
            return
        if places is not None:  # the others are zero since the masks were taken
            opened = soft_threshold(weight.view(-1).index_select(0, places), threshold, p)
            out.view(-1).index_copy_(0, places, opened.mul_(scale))
            return
        if p == 1 and mask.dtype is torch.uint8 and not isinstance(scale, Tensor):
            flat, numbers = flattened((out, weight, mask)), weight.new_tensor([threshold, scale], dtype=torch.float32)
            if flat is not None and in_one_pass(soft_pass, *flat, numbers[0].to(weight.dtype), numbers[1]):
                return
        if p == 1:
            torch.clamp(weight, -threshold, threshold, out=out)
            torch.sub(weight, out, out=out)
        else:
            out.copy_(soft_threshold(weight, threshold, p) if threshold else weight)
        self._weights.multiply({name: out})
        if isinstance(scale, Tensor) or scale != 1.0:
            out.mul_(scale)

    def inverse(self, name: str, weight: Tensor, p: float) -> tuple[Tensor, Tensor] | None:
        """Where a parameter has other values than its shadow gives, and the shadow that would give those.

        Returns:
            The mask of changes and the shadow; ``None`` if nothing changed.
        """
        here, threshold, scale = self._weights.value(name), self.threshold.get(name, 0.0), self.scale.get(name, 1)
        expected = torch.zeros_like(here)
        self.write(name, weight, p, expected)
        near = 8 * torch.finfo(here.dtype).eps
        room = near * threshold * float(scale.max() if isinstance(scale, Tensor) else scale)
        changed = ~torch.isclose(here, expected, rtol=near, atol=room, equal_nan=True)
        if not bool(changed.any()):
            return None
        return changed, soft_threshold_inverse(here / scale, threshold, p)

    def move(self, name: str) -> None:
        """Keep what belongs to a parameter on its device, after the model was moved or cast."""
        p, scale = self._weights.params[name], self.scale.get(name)
        if name in self.positions:
            self.positions[name] = self.positions[name].to(p.device)
        if isinstance(scale, Tensor):
            self.scale[name] = scale.to(p.device, p.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Thresholds and scales."""
        return {"threshold": dict(self.threshold), "scale": dict(self.scale)}

    def load_state_dict(self, state: Mapping[str, Any], names: Iterable[str], settings: Threshold) -> None:
        """Restore what :meth:`state_dict` returned, and the positions of these parameters."""
        self.threshold = dict(state["threshold"])
        self.scale = {
            name: scale.to(self._weights.params[name].device, copy=True) if isinstance(scale, Tensor) else scale
            for name, scale in state["scale"].items()
        }
        for name in names:
            if self._is_sparse(name, settings):
                self.positions[name] = _positions(self._weights.mask(name))


def _positions(mask: Tensor) -> Tensor:
    """Where a mask is true, in logical order."""
    return mask.reshape(-1).nonzero().squeeze(1)


def _before(value: float, dtype: torch.dtype) -> float:
    """The next smaller number of a dtype, of one that is at least 0; 0 of 0 and of what is not finite."""
    number = torch.tensor(value, dtype=dtype)
    if not bool(number > 0) or not bool(number.isfinite()):
        return 0.0
    return float((number.view(_BITS[number.element_size()]) - 1).view(dtype))
