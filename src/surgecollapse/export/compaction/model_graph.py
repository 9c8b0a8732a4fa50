"""The graph of a model: which operation reads what, with the shapes that its example inputs give."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn

from surgecollapse.export.measure import max_difference, refuse_nan
from surgecollapse.torch_utils.modules import map_tensors, tensors_in

_TRACING_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, NotImplementedError)
"""What a forward pass raises where it cannot go on with a stand-in for a tensor."""
_OWN_LEAVES = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.modules.batchnorm._BatchNorm)

_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Difference that counts as rounding, relative to the largest output."""


class _Root(nn.Module):
    """A model as a function of the list of the tensors in its inputs; whatever else is in them stays as it is."""

    def __init__(self, inner: nn.Module, example_inputs: Any) -> None:
        super().__init__()
        self.inner = inner
        self._examples = example_inputs

    def forward(self, tensors: Any) -> Any:
        """Call the model."""
        numbers = iter(range(sum(1 for _ in tensors_in(self._examples))))
        given = map_tensors(self._examples, lambda _tensor: tensors[next(numbers)])
        if isinstance(given, Mapping):
            return self.inner(**given)
        return self.inner(*given) if isinstance(given, tuple | list) else self.inner(given)


class _Tracer(fx.Tracer):
    """Modules of ``torch.nn`` are single operations, but for encoder layers, which are taken apart."""

    def __init__(self, opaque: frozenset[nn.Module]) -> None:
        super().__init__()
        self._opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` is one operation."""
        return m in self._opaque or isinstance(m, _OWN_LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record the call of a module."""
        if m not in self._opaque and not has_hooks(m):
            if type(m) is nn.TransformerEncoderLayer:
                return _encoder_layer(m, *args, **kwargs)
            if type(m) is nn.TransformerEncoder and len(args) <= 2 and set(kwargs) <= {"mask", "is_causal"}:
                return _encoder(m, *args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _encoder(encoder: nn.TransformerEncoder, src: Any, mask: Any = None, is_causal: Any = None) -> Any:
    del is_causal  # a hint: the mask is what counts
    x = src
    for layer in encoder.layers:
        x = layer(x, src_mask=mask)
    return x if encoder.norm is None else encoder.norm(x)


def _encoder_layer(
    layer: nn.TransformerEncoderLayer,
    src: Any,
    src_mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool = False,
) -> Any:
    """What an encoder layer computes, as modules and sums; its own forward branches on masks."""

    def attended(x: Any) -> Any:
        options = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
        return layer.dropout1(layer.self_attn(x, x, x, need_weights=False, **options)[0])

    def widened(x: Any) -> Any:
        hidden = layer.activation(layer.linear1(x))
        return layer.dropout2(layer.linear2(layer.dropout(hidden)))

    if layer.norm_first:
        src = src + attended(layer.norm1(src))
        return src + widened(layer.norm2(src))
    src = layer.norm1(src + attended(src))
    return layer.norm2(src + widened(src))


class _Recorder(fx.Interpreter):
    """Runs the graph and notes the shape of every tensor and the value of every number."""

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = tuple(value.shape)
        elif isinstance(value, int | float):
            n.meta["number"] = value
        return value


def has_hooks(module: nn.Module) -> bool:
    """Whether more happens in a call of ``module`` than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@torch.no_grad()
def trace(model: nn.Module, example_inputs: Any, opaque: frozenset[nn.Module] = frozenset()) -> fx.Graph:
    """Trace a model in eval mode; the names of its modules begin with ``inner``.

    Args:
        model: in eval mode.
        example_inputs: a tensor, a tuple of arguments or a dict of them; what is no tensor counts as fixed.
        opaque: modules to be taken as single operations of which nothing is known.

    Returns:
        The graph; nodes carry ``meta["shape"]`` (tensors) or ``meta["number"]``.

    Raises:
        ValueError: if the model branches on values, or the graph computes something else than the model.
    """
    root = _Root(model, example_inputs).eval()
    try:
        graph = _Tracer(opaque).trace(root)
    except _TRACING_ERRORS as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced: {error} ({_culprit(error.__traceback__)}). Units can be "
            "followed only through a forward pass that is the same for all inputs. Rewrite this, or name the module "
            "that does it in opaque=, which leaves all that it reads and gives as it is"
        ) from error
    tensors = list(tensors_in(example_inputs))
    expected = list(tensors_in(root(tensors)))
    for output in expected:
        refuse_nan(output)
    given = list(tensors_in(_Recorder(root, graph=graph).run(tensors)))
    if len(given) != len(expected) or any(differ(a, b) for a, b in zip(expected, given, strict=True)):
        raise ValueError(
            f"tracing {type(model).__name__} gave a graph that computes something else: its forward pass is random in "
            "eval mode, or asks what kind of object its input is"
        )
    return graph


def differ(expected: Tensor, given: Tensor) -> bool:
    """Whether two outputs differ by more than float rounding."""
    if expected.shape != given.shape:
        return True
    if not expected.is_floating_point():
        return not torch.equal(expected, given)
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return not max_difference(expected, given) <= _ROUNDING.get(expected.dtype, 5e-2) * max(scale, 1e-2)


def _culprit(trace: TracebackType | None) -> str:
    """The innermost line that is not PyTorch's own."""
    frames = [frame for frame in traceback.extract_tb(trace) if "/torch/" not in frame.filename.replace("\\", "/")]
    if not frames:
        return "in PyTorch itself"
    last = frames[-1]
    return f"`{last.line}` in {last.name}, {last.filename.replace(chr(92), '/').rpartition('/')[2]}:{last.lineno}"
