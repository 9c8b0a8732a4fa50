"""Linear layers that go over to compressed sparse rows (CSR) where that was measured to be faster."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.export.csr_linear import CsrLinear
from surgecollapse.export.measure import caller, interleaved_ratios, largest_difference
from surgecollapse.export.plain_check import check_plain
from surgecollapse.torch_utils.modules import tensors_in, unwrap_model


@dataclass(frozen=True, kw_only=True)
class CsrLayer:
    """What became of one layer, and why."""

    name: str
    sparsity: float
    form: str
    """``csr``, ``dense``, or ``both``: then each call takes the faster one for its number of rows."""
    speedup: dict[int, float]
    """Number of rows → seconds dense over seconds with CSR, median; empty if it was not measured."""
    reason: str
    faster: dict[int, bool] = field(default_factory=dict)
    """Number of rows → whether CSR is taken there."""


@dataclass(frozen=True, kw_only=True)
class CsrResult:
    """A copy of the model for inference, and what was measured."""

    model: nn.Module
    layers: tuple[CsrLayer, ...]
    """Linear layers and convolutions, in the model's order."""
    max_difference: float
    """Largest absolute difference of the outputs on the example inputs."""
    speedup: float
    """Seconds of the whole model on the example inputs, before over after, median."""
    threads: int
    """Threads that the figures hold for."""

    @property
    def converted(self) -> int:
        """Number of layers that hold CSR."""
        return sum(layer.form != "dense" for layer in self.layers)


def to_csr(
    model: nn.Module,
    example_inputs: Any,
    *,
    layers: str | Sequence[str] | None = None,
    rows: Sequence[int] = (),
    min_speedup: float = 1.05,
    repeats: int = 25,
) -> CsrResult:
    """Copy a model for inference, with CSR in place of those linear layers that it makes faster, here and now.

    Each linear layer is timed on the inputs that it gets, dense and CSR in turn, with the present number of threads.
    It goes over to CSR if the median ratio reaches ``min_speedup`` and three ratios in four are above 1. If the whole
    model is not faster in the end, it stays dense. Convolutions stay dense: there is no such kernel for them. CPU only,
    float32 and float64.

    Args:
        model: a trained model; it is left as it is.
        example_inputs: a tensor, a tuple of arguments or a dict of them, as the model is called: the batch size that
            counts.
        layers: names or shell patterns of the layers to consider; all by default.
        rows: further numbers of rows of a layer's input (samples, or samples × positions) to measure at, such as (1,
            16, 128). A layer that is faster only at some holds both forms and chooses in each call.
        min_speedup: least ratio of dense to CSR time at which a layer goes over.
        repeats: timings of each.

    Returns:
        The copy in eval mode, what became of each layer, the largest difference of the outputs, and the speed-up.

    Raises:
        ValueError: if ``layers`` matches nothing, or the arguments are out of range.
        TypeError: if ``example_inputs`` are no inputs.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> result = to_csr(net, torch.ones(2, 4), min_speedup=1e9, repeats=3)
    >>> result.layers[0].form, result.max_difference
    ('dense', 0.0)
    """
    check_plain(model.named_parameters())
    if repeats < 3 or not min_speedup > 0 or any(number < 1 for number in rows):
        raise ValueError(f"expected repeats ≥ 3, min_speedup > 0 and rows ≥ 1, got {repeats}, {min_speedup}, {rows}")
    call = caller(example_inputs)
    dense = copy.deepcopy(unwrap_model(model)).eval()
    sparse = _sharing_copy(dense)
    chosen = _considered(dense, layers)
    inputs = _inputs_of(dense, chosen, call)
    report = []
    for name, module in chosen.items():
        verdict = _verdict(dense, name, module, inputs[name], rows, min_speedup, repeats)
        report.append(verdict)
        if verdict.form != "dense" and isinstance(module, nn.Linear):
            sparse = replace_module(sparse, name, CsrLinear(module.weight, module.bias, verdict.faster))
    difference, speedup = 0.0, 1.0
    if any(layer.form != "dense" for layer in report):
        difference, speedup = _compare(dense, sparse, call, repeats)
    if speedup < 1:
        reason = f"the whole model would have been slower ({speedup:.2f})"
        report = [replace(layer, form="dense", reason=reason) if layer.form != "dense" else layer for layer in report]
        sparse, difference, speedup = dense, 0.0, 1.0
    return CsrResult(
        model=sparse,
        layers=tuple(report),
        max_difference=difference,
        speedup=speedup,
        threads=torch.get_num_threads(),
    )


def _sharing_copy(model: nn.Module) -> nn.Module:
    """New modules over the same tensors."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def replace_module(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put ``new`` at every place where the module called ``name`` is."""
    if not name:
        return new
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child, module in list(parent._modules.items()):  # named_children gives each module once
            if module is old:
                setattr(parent, child, new)
    return model


def _considered(model: nn.Module, layers: str | Sequence[str] | None) -> dict[str, nn.Module]:
    """Linear layers and convolutions by name, those that the patterns name."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    found: dict[str, nn.Module] = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    if layers is None:
        return found
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise ValueError(f"layers: {pattern!r} matches none of {', '.join(found)}")
    return {name: m for name, m in found.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


@torch.inference_mode()
def _inputs_of(
    model: nn.Module, layers: Mapping[str, nn.Module], call: Callable[[nn.Module], Any]
) -> dict[str, dict[int, Tensor]]:
    """For each layer, number of rows → input (rows, in), of every call with another number of rows."""
    seen: dict[str, dict[int, Tensor]] = {name: {} for name in layers}

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(module, nn.Linear):
            x = (args[0] if args else kwargs["input"]).reshape(-1, module.in_features)
            seen[name][len(x)] = x.clone()

    handles = [
        module.register_forward_pre_hook(partial(note, name), with_kwargs=True) for name, module in layers.items()
    ]
    try:
        call(model)
    finally:
        for handle in handles:
            handle.remove()
    return {name: {rows: x for rows, x in found.items() if rows} for name, found in seen.items()}


def _verdict(
    model: nn.Module,
    name: str,
    module: nn.Module,
    inputs: Mapping[int, Tensor],
    rows: Sequence[int],
    min_speedup: float,
    repeats: int,
) -> CsrLayer:
    """Measure one layer, if it can be CSR at all, and decide."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    sparsity = 1 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)
    obstacle = _obstacle(model, name, module, sparsity) or ("" if inputs else "this model never calls it")
    if obstacle:
        return CsrLayer(name=name, sparsity=sparsity, form="dense", speedup={}, reason=obstacle)
    assert isinstance(module, nn.Linear)
    speedup, faster = {}, {}
    for number in sorted({*rows, *inputs}):
        ratios = _layer_ratios(module, inputs, number, repeats)
        speedup[number] = statistics.median(ratios)
        faster[number] = speedup[number] >= min_speedup and sorted(ratios)[len(ratios) // 4] > 1
    form = "csr" if all(faster.values()) else "both" if any(faster.values()) else "dense"
    found = {"csr": "faster with every number of rows", "both": "faster with some numbers of rows"}
    reason = found.get(form, f"not {min_speedup:g} times as fast")
    return CsrLayer(name=name, sparsity=sparsity, form=form, speedup=speedup, reason=reason, faster=faster)


def _obstacle(model: nn.Module, name: str, module: nn.Module, sparsity: float) -> str:
    """Why a layer must stay dense, before anything is measured; empty if it need not."""
    weight, parent = module.weight, model.get_submodule(name.rpartition(".")[0])
    assert isinstance(weight, Tensor)
    if not isinstance(module, nn.Linear):
        return "a convolution: there is no kernel for it"
    if type(module) is not nn.Linear or isinstance(parent, nn.TransformerEncoderLayer):
        return "its weight is read by more than its own forward"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "it has hooks: detach them first"
    if weight.dtype not in (torch.float32, torch.float64) or weight.device.type != "cpu":
        return f"{weight.dtype} on {weight.device}: CSR runs in float32 or float64 on the CPU"
    return "" if sparsity else "it has no zeros"


@torch.inference_mode()
def _layer_ratios(linear: nn.Linear, inputs: Mapping[int, Tensor], rows: int, repeats: int) -> list[float]:
    most = inputs[max(inputs)]
    x = inputs.get(rows, most[torch.arange(rows) % len(most)])
    candidate = CsrLinear(linear.weight, linear.bias)
    return interleaved_ratios(lambda: linear(x), lambda: candidate(x), repeats)


@torch.inference_mode()
def _compare(
    dense: nn.Module, sparse: nn.Module, call: Callable[[nn.Module], Any], repeats: int
) -> tuple[float, float]:
    """Largest absolute difference of the outputs, and the median of the ratios of time."""
    expected = list(tensors_in(call(dense)))
    try:
        given = list(tensors_in(call(sparse)))
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"the model does not run with CSR layers ({error}): leave those out of layers= whose weights it reads"
        ) from error
    difference = largest_difference(expected, given)
    ratios = interleaved_ratios(lambda: call(dense), lambda: call(sparse), repeats)
    return difference, statistics.median(ratios)
