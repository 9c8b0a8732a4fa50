"""Weights with two zeros in every four, for the sparse tensor cores of NVIDIA GPUs (2:4 sparsity).

The check of the pattern and of the shapes runs anywhere. The conversion needs a GPU, and has not been run on one by us
yet. On the CPU its form is tested with PyTorch's own packing functions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from surgecollapse.export.measure import caller, largest_difference
from surgecollapse.export.plain_check import check_plain
from surgecollapse.torch_utils.modules import map_tensors, tensors_in, unwrap_model

MULTIPLES = (32, 64)
"""Rows and columns of a weight must be multiples of these: what both of PyTorch's kernels take (cuSPARSELt: 16, 16)."""
DTYPES = (torch.float16, torch.bfloat16)
"""In float32 the hardware keeps one of *two* values: PyTorch's packing then drops values of a 2:4 matrix silently."""


@dataclass(frozen=True, kw_only=True)
class TwoFourLayer:
    """Whether one linear layer can run on sparse tensor cores."""

    name: str
    shape: tuple[int, ...]
    reason: str
    """Why it cannot; empty if it can."""

    @property
    def qualifies(self) -> bool:
        """Whether it can."""
        return not self.reason


@dataclass(frozen=True, kw_only=True)
class SemiStructuredResult:
    """A copy of the model for inference on a GPU, and what was measured there."""

    model: nn.Module
    layers: tuple[TwoFourLayer, ...]
    """Linear layers in the model's order; those that qualify were converted."""
    max_difference: float
    """Largest absolute difference of the outputs, to the dense model in the same dtype on the same device."""


def is_two_four(weight: Tensor) -> bool:
    """Whether each four consecutive values along the last axis, from a multiple of four on, hold two zeros or more.

    Args:
        weight: (…, in), with a last axis that is a multiple of four.

    >>> is_two_four(torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 3.0]]))
    True
    >>> is_two_four(torch.tensor([[1.0, 0.0, 0.0, 2.0, 0.0, 4.0, 5.0, 6.0]]))
    False
    """
    if not weight.ndim or weight.shape[-1] % 4:
        return False
    fours = weight.detach().reshape(-1, 4)
    return bool(((fours != 0).sum(1) <= 2).all())


def two_four_layers(model: nn.Module, *, dtype: torch.dtype = torch.float16) -> tuple[TwoFourLayer, ...]:
    """List the linear layers of a model, and why one does not qualify for 2:4 kernels. Runs on any device.

    Args:
        model: any model.
        dtype: float16 or bfloat16, in which it will run.

    Raises:
        ValueError: for another dtype.

    >>> net = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10))
    >>> _ = nn.init.zeros_(net[0].weight)
    >>> for layer in two_four_layers(net):
    ...     print(layer.name, layer.reason or "qualifies")
    0 qualifies
    1 rows and columns must be multiples of (32, 64)
    """
    if dtype not in DTYPES:
        raise ValueError(f"2:4 kernels compute exactly in {' or '.join(map(str, DTYPES))}, got {dtype}")
    plain = unwrap_model(model)
    return tuple(
        TwoFourLayer(name=name, shape=tuple(module.weight.shape), reason=_obstacle(plain, name, module, dtype))
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear)
    )


def _obstacle(model: nn.Module, name: str, module: nn.Linear, dtype: torch.dtype) -> str:
    parent = model.get_submodule(name.rpartition(".")[0])
    if type(module) is not nn.Linear or isinstance(parent, nn.TransformerEncoderLayer):
        return "its weight is read by more than its own forward"
    sharing = [other for other in model.modules() if any(p is module.weight for p in other._parameters.values())]
    if len(sharing) > 1:
        return "its weight is shared with another module"
    rows, columns = module.weight.shape
    if not rows or not columns or rows % MULTIPLES[0] or columns % MULTIPLES[1]:
        return f"rows and columns must be multiples of {MULTIPLES}"
    if not is_two_four(module.weight):
        return "more than two of four consecutive weights of a row are not zero"
    # A value too small for the dtype becomes a zero: that cannot break the pattern. One too large becomes infinite.
    return "" if bool(module.weight.detach().to(dtype).isfinite().all()) else f"it has values that {dtype} cannot hold"


def to_semi_structured(
    model: nn.Module,
    example_inputs: Any,
    *,
    dtype: torch.dtype = torch.float16,
    device: str | torch.device = "cuda",
    tolerance: float = 1e-2,
) -> SemiStructuredResult:
    """Copy a model for inference on a GPU, with 2:4 kernels in the linear layers whose weights have that pattern.

    Train with ``attach(…, pattern="2:4")`` to have such weights. PyTorch's ``to_sparse_semi_structured`` does the
    packing: half of the values, and two bits each to say where they are. It is not always faster: measure it.

    Args:
        model: a trained model; it is left as it is.
        example_inputs: a tensor, a tuple of arguments or a dict of them, as the model is called.
        dtype: float16 or bfloat16.
        device: a CUDA device of compute capability 8.0 or more.
        tolerance: largest difference allowed, times the largest output of the dense copy or 1, whichever is more.

    Returns:
        The copy in eval mode on the device, what became of each linear layer, and the largest difference.

    Raises:
        RuntimeError: without such a GPU.
        ValueError: for another dtype, or if the outputs differ by more than the tolerance.
        TypeError: if ``example_inputs`` are no inputs.
    """
    check_plain(model.named_parameters())
    layers = two_four_layers(model, dtype=dtype)
    place = torch.device(device)
    if reason := missing_hardware(place):
        raise RuntimeError(f"{reason}; two_four_layers(model) tells on any machine which layers qualify")
    cast: Callable[[Tensor], Tensor] = lambda x: x.to(place, dtype if x.is_floating_point() else x.dtype)  # noqa: E731
    call = caller(map_tensors(example_inputs, cast))
    result = copy.deepcopy(unwrap_model(model)).to(place, dtype).eval()
    with torch.inference_mode():
        expected = [tensor.clone() for tensor in tensors_in([call(result)])]
    pack(result, layers)
    with torch.inference_mode():
        given = list(tensors_in([call(result)]))
    difference = largest_difference(expected, given)
    largest = max((float(tensor.abs().max()) for tensor in expected if tensor.numel()), default=0.0)
    if not difference <= tolerance * max(1.0, largest):
        raise ValueError(f"outputs with 2:4 kernels differ by {difference:.3g}, where the largest is {largest:.3g}")
    return SemiStructuredResult(model=result, layers=layers, max_difference=difference)


def pack(
    model: nn.Module, layers: tuple[TwoFourLayer, ...], packer: Callable[[Tensor], Tensor] = to_sparse_semi_structured
) -> None:
    """Pack the weights of the layers that qualify, in place.

    Args:
        model: on its device and in its dtype.
        layers: of :func:`two_four_layers`.
        packer: what makes a packed tensor of a dense one.
    """
    for layer in layers:
        if layer.qualifies:
            module = model.get_submodule(layer.name)
            assert isinstance(module, nn.Linear)
            module.weight = nn.Parameter(packer(module.weight.detach()), requires_grad=False)


def missing_hardware(device: torch.device) -> str:
    """Why 2:4 kernels cannot run on a device; empty if they can.

    >>> missing_hardware(torch.device("cpu"))
    '2:4 kernels need an NVIDIA GPU, got the device cpu'
    """
    if device.type != "cuda":
        return f"2:4 kernels need an NVIDIA GPU, got the device {device}"
    if not torch.cuda.is_available() or torch.version.hip:
        return "2:4 kernels need an NVIDIA GPU, and this PyTorch finds none"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"2:4 kernels need compute capability 8.0 or more, and this GPU has {capability[0]}.{capability[1]}"
    return ""
