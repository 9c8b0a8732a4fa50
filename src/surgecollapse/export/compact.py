"""Compaction: neurons, channels and attention heads without effect are cut out; what is left is a smaller dense net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.export.compaction.cut import cut, judge
from surgecollapse.export.compaction.heads import FewerHeads, dead_heads, obstacle
from surgecollapse.export.compaction.model_graph import differ, trace
from surgecollapse.export.compaction.propagate import Propagation, propagate
from surgecollapse.export.csr import replace_module
from surgecollapse.export.measure import caller, largest_difference
from surgecollapse.export.plain_check import check_plain
from surgecollapse.torch_utils.modules import tensors_in, unwrap_model


@dataclass(frozen=True, kw_only=True)
class CompactLayer:
    """What became of one layer."""

    name: str
    kind: str
    """Type of the module; ``heads`` of an attention module."""
    units: tuple[int, int]
    """Neurons, channels or heads before and after."""
    inputs: tuple[int, int]
    """What it reads, before and after."""
    reason: str
    """Why units must stay whatever their weights are; empty where nothing but the weights decides."""


@dataclass(frozen=True, kw_only=True)
class CompactResult:
    """A smaller copy of a model, and what was measured."""

    model: nn.Module
    """In eval mode; an ordinary module: it can be saved, trained and exported."""
    layers: tuple[CompactLayer, ...]
    """In the order of the model's modules."""
    parameters: tuple[int, int]
    """Before and after, as are the next two."""
    multiplications: tuple[int, int]
    """By weights, in one call with the example inputs; two floating-point operations each."""
    bytes: tuple[int, int]
    """Of parameters and buffers."""
    max_difference: float
    """Largest absolute difference of the outputs on the example inputs."""

    @property
    def units_cut(self) -> int:
        """Neurons, channels and heads that were cut out."""
        return sum(layer.units[0] - layer.units[1] for layer in self.layers)


def compact_model(
    model: nn.Module, example_inputs: Any, *, opaque: Sequence[str] = (), multiple_of: int = 1
) -> CompactResult:
    """Copy a model without the units that have no effect on its outputs.

    A neuron or channel is cut out if everything that reads it has zero weights on it, or is itself cut out. It is also
    cut out if its own weights are zero, so that the biases of its readers can hold its constant. That is carried
    through elementwise functions, batch norm, pooling, sums, products, concatenation and views, to a fixed point.
    Channels that a skip connection ties are cut where no branch needs them. Zero padding hides a constant at the
    borders: there, only the constant zero counts. What a LayerNorm, an attention, a softmax or an output of the model
    reads stays, and so do tied weights. The outputs stay the same but for float rounding, in eval mode.

    A layer whose units are all dead keeps one.

    Args:
        model: a trained model; it is left as it is. Detach a controller first: modules with hooks are left alone.
        example_inputs: a tensor, a tuple of arguments or a dict of them, as the model is called.
        opaque: names of modules whose inside is not to be looked at; all that they read and give stays.
        multiple_of: keep idle units too, until the width of a layer is a multiple of this. Matrix kernels are slower at
            odd widths. Where few units are dead, that can cost more than they did.

    Returns:
        The smaller copy, what became of each layer, sizes, and the largest difference of the outputs.

    Raises:
        ValueError: if the model's forward pass depends on its input's values, so that units cannot be followed. Also if
            the smaller model would compute something else, or if ``multiple_of`` is less than 1.
        TypeError: if ``example_inputs`` are no inputs.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[0].zero_(), net[0].bias[0].fill_(2.0), net[2].weight[:, 1].zero_()
    >>> result = compact_model(net, torch.ones(5, 4))
    >>> result.model[0], result.parameters, result.max_difference < 1e-6
    (Linear(in_features=4, out_features=1, bias=True), (23, 9), True)
    """
    check_plain(model.named_parameters())
    if multiple_of < 1:
        raise ValueError(f"multiple_of must be at least 1, got {multiple_of}")
    call = caller(example_inputs)
    smaller = copy.deepcopy(unwrap_model(model)).eval()
    names = [name for name, _ in smaller.named_modules()]
    hidden = frozenset(_named(smaller, name) for name in opaque)
    propagated = propagate(smaller, trace(smaller, example_inputs, hidden))
    groups, verdict = propagated.groups, judge(propagated.groups, multiple_of)
    before, expected = _measure(smaller, call)
    sizes = _sizes(smaller)
    report = _layer_reports(propagated, verdict, smaller)
    cut(groups, verdict)
    smaller, heads = _cut_heads(smaller, propagated)
    try:
        after, given = _measure(smaller, call)
    except RuntimeError as error:
        raise ValueError(f"the smaller model does not run: {error}. {_ADVICE}") from error
    difference = largest_difference(expected, given)
    if any(differ(a, b) for a, b in zip(expected, given, strict=True)):
        raise ValueError(f"the smaller model's outputs differ by {difference:.3g}. {_ADVICE}")
    parameters, size = _sizes(smaller)
    return CompactResult(
        model=smaller,
        layers=tuple(sorted([*report, *heads], key=lambda layer: names.index(layer.name))),
        parameters=(sizes[0], parameters),
        multiplications=(before, after),
        bytes=(sizes[1], size),
        max_difference=difference,
    )


_ADVICE = "Its forward pass reads sizes or weights of its modules in a way that was not followed: name these in opaque="


def _named(model: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        raise ValueError(f"opaque: {name!r} is none of {', '.join(filter(None, modules))}")
    return modules[name]


def _layer_reports(propagated: Propagation, verdict: Any, model: nn.Module) -> list[CompactLayer]:
    found = []
    for layer in propagated.groups.layers:
        weight = layer.module.weight
        assert isinstance(weight, Tensor)
        inputs = weight.shape[1]
        found.append(
            CompactLayer(
                name=layer.name,
                kind=type(layer.module).__name__,
                units=(len(layer.makes), int(verdict.kept(layer.makes).sum())),
                inputs=(inputs, inputs if layer.reads is None else int(verdict.kept(layer.reads).sum())),
                reason=propagated.groups.reason(verdict.roots, layer.makes),
            )
        )
    for name, (units, inputs, kind) in _weighted(model, propagated.left).items():
        found.append(
            CompactLayer(
                name=name, kind=kind, units=(units, units), inputs=(inputs, inputs), reason=propagated.left[name]
            )
        )
    return found


def _weighted(model: nn.Module, names: Any) -> dict[str, tuple[int, int, str]]:
    """Outputs, inputs and type of those modules that have a matrix or kernel of their own."""
    found = {}
    for name in names:
        module = model.get_submodule(name)
        shapes = [parameter.shape for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
        if shapes:
            found[name] = (shapes[0][0], shapes[0][1], type(module).__name__)
    return found


def _cut_heads(model: nn.Module, propagated: Propagation) -> tuple[nn.Module, list[CompactLayer]]:
    report = []
    for name, attention in propagated.attention.items():
        reason = obstacle(attention) or _nested(model, name)
        dead, shift = ([], None) if reason else dead_heads(attention)
        heads = attention.num_heads
        width = attention.embed_dim
        report.append(
            CompactLayer(
                name=name, kind="heads", units=(heads, heads - len(dead)), inputs=(width, width), reason=reason
            )
        )
        if dead:
            live = [head for head in range(heads) if head not in dead]
            model = replace_module(model, name, FewerHeads(attention, live, shift))
    return model, report


def _nested(model: nn.Module, name: str) -> str:
    """Whether an encoder reads the weights of this attention itself, to pack padded sequences."""
    above = name
    while above:
        above = above.rpartition(".")[0]
        encoder = model.get_submodule(above)
        if isinstance(encoder, nn.TransformerEncoder) and encoder.use_nested_tensor:
            return "its encoder packs padded sequences: build it with enable_nested_tensor=False"
    return ""


def _sizes(model: nn.Module) -> tuple[int, int]:
    """Parameters, and bytes with the buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(p.numel() for p in model.parameters()), sum(tensor.nbytes for tensor in tensors)


@torch.no_grad()
def _measure(model: nn.Module, call: Callable[[nn.Module], Any]) -> tuple[int, list[Tensor]]:
    """Multiplications by weights in one call, and the outputs."""
    total = 0

    def count(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal total
        total += _multiplications(module, list(tensors_in([args, kwargs])), next(tensors_in([output]), None))

    hooks = [module.register_forward_hook(count, with_kwargs=True) for module in model.modules()]
    try:
        outputs = list(tensors_in([call(model)]))
    finally:
        for hook in hooks:
            hook.remove()
    return total, outputs


def _multiplications(module: nn.Module, inputs: list[Tensor], output: Tensor | None) -> int:
    """A weight is used once for every place of the output; look-ups multiply nothing."""
    weights = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
    if isinstance(module, nn.MultiheadAttention):
        query, key, value = inputs[:3]
        return int(module.embed_dim) * (2 * query.numel() + key.numel() + value.numel())
    if output is None or not weights or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return 0
    channels = isinstance(module, nn.modules.conv._ConvNd) and output.ndim == len(module.kernel_size) + 2
    units = output.shape[1 if channels else -1]
    return sum(weight.numel() for weight in weights) * (output.numel() // max(units, 1))
