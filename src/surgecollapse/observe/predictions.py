"""Finds the class scores in what a model returns: which tensor, and which of its axes are the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.modules import attributes_of, canonical_name, tensors_in

_NAMES = ("logits", "prediction_logits", "scores", "predictions", "out")
"""Entries that hold class scores, in the order in which they are looked for."""

_MOST = 1 << 24
"""Entries of scores that may be copied; more are taken for logits."""
_ROUNDING = 4
"""Roundings of one probability; those of their sum add up like the root of their number."""
Output = str | Callable[[Any], Tensor] | None


def class_scores(
    output: Any, model: nn.Module, dataflow: Dataflow | None = None, which: Output = None
) -> Tensor | None:
    """Find the class scores of a model's output, as rows.

    Args:
        output: what the model returned.
        model: the unwrapped model: where a convolution produces the scores, the classes are on axis 1 (segmentation).
        dataflow: names the layers that produce the output.
        which: the entry that holds the scores, or a function that takes them out; default: ``logits`` or another usual
            name where there is one, else the first tensor of at least two axes.

    Returns:
        A tensor (rows, classes) in the precision of the output, or ``None`` where there are no scores. Of a model that
        ends in a softmax, whose rows are probabilities, their logarithms: of these, too, they are the softmax.

    Raises:
        ValueError: if ``which`` names an entry that is not there.

    >>> import torch
    >>> class_scores({"features": torch.ones(3, 8), "logits": torch.ones(3, 2)}, nn.Identity()).shape
    torch.Size([3, 2])
    """
    output = which(output) if callable(which) else _entry(output, which)
    scores = next((t for t in tensors_in(output) if t.is_floating_point() and t.dim() >= 2 and not t.is_nested), None)
    if scores is None:
        return None
    rows = scores.movedim(_class_axis(scores, model, dataflow or Dataflow()), -1).flatten(0, -2)
    return _as_logits(rows)


def _as_logits(rows: Tensor) -> Tensor:
    """The logarithms where every row is a distribution, up to rounding; without a host sync."""
    classes = rows.shape[1]
    if classes < 2 or not 0 < rows.numel() <= _MOST:
        return rows
    near = torch.finfo(rows.dtype).eps * (_ROUNDING + classes**0.5)
    sums = rows.sum(1, dtype=torch.promote_types(rows.dtype, torch.float32))
    return torch.where(((sums - 1).abs() <= near).all() & (rows.amin() >= 0), rows.log(), rows)


def _entry(output: Any, which: str | None) -> Any:
    entries = dict(output) if isinstance(output, Mapping) else attributes_of(output)
    if hasattr(output, "_asdict"):
        entries = output._asdict()
    if which is not None:
        if which not in entries:
            raise ValueError(f"output: the model returns no entry {which!r}; it returns {', '.join(entries) or 'none'}")
        return entries[which]
    found = next((entries[name] for name in _NAMES if name in entries), None)
    return output if found is None else found


def _class_axis(scores: Tensor, model: nn.Module, dataflow: Dataflow) -> int:
    """Axis 1 where that is as long as a convolution that produces the output is wide; otherwise the last."""
    if scores.dim() == 2:
        return -1
    channels, units = set[int](), set[int]()
    parameters = {canonical_name(name): p for name, p in model.named_parameters()}
    modules = {canonical_name(path): module for path, module in model.named_modules()}
    for name in dataflow.outputs:
        module = modules.get(f".{name}".partition(".parametrizations.")[0].removeprefix("."))
        module = modules.get(name.rpartition(".")[0]) if module is None else module
        if isinstance(module, nn.modules.conv._ConvNd):
            channels.add(module.out_channels)
        else:
            units.update(parameters[name].shape[-2:])
    if scores.shape[1] in channels:
        return 1
    if not channels and not units:
        return 1 if scores.dim() > 3 else -1
    return 1 if scores.shape[-1] not in channels | units and scores.shape[1] in units else -1
