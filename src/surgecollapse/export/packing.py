"""One tensor without its zeros, bit for bit: dense, a bit mask with values, or gaps with values, whichever is smallest.

A zero is a pattern of zero bits alone: −0.0 and every NaN are values like others, unless the caller drops the signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from surgecollapse.functional.masks import pack, unpack

Encoding = Literal["dense", "mask", "gaps"]
PARTS: dict[str, tuple[str, ...]] = {"dense": ("values",), "mask": ("values", "mask"), "gaps": ("values", "gaps")}
"""The parts that each encoding stores."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STRIDE = 256
"""Entries that one byte of a gap can skip, its own included."""


@dataclass(frozen=True)
class Packed:
    """A tensor in one of three forms."""

    encoding: Encoding
    parts: dict[str, Tensor]
    """``values`` in the tensor's dtype; ``mask`` or ``gaps`` in uint8."""

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.numel() * part.element_size() for part in self.parts.values())


def bit_view(tensor: Tensor) -> Tensor:
    """The same memory as integers of the same width, flat.

    Raises:
        ValueError: for elements wider than 8 bytes.
    """
    width = tensor.element_size()
    if width not in _BITS:
        raise ValueError(f"a tensor of {tensor.dtype} cannot be packed: expected elements of 1, 2, 4 or 8 bytes")
    return tensor.contiguous().view(-1).view(_BITS[width])


def is_nonzero(tensor: Tensor) -> Tensor:
    """Which entries are not zero, flat, by their bits: neither 0.0 nor −0.0.

    >>> is_nonzero(torch.tensor([[0.0, -0.0], [torch.nan, 1.0]])).tolist()
    [False, False, True, True]
    """
    bits = bit_view(tensor)
    return (bits != 0) & (bits != _sign(bits.dtype)) if tensor.is_floating_point() else bits != 0


def encode(tensor: Tensor, mask: Tensor | None = None, *, signed_zeros: bool = True) -> Packed:
    """Pack one tensor.

    Take N entries of b bytes, of which n are not zero. A mask takes n·b + ⌈N/8⌉ bytes, and gaps take (n + p)·(b + 1).
    Here p counts the zeros that are stored because a run of more than 255 zeros has no gap of one byte. A gap is the
    number of zeros before an entry.

    Args:
        tensor: any strided tensor on the CPU.
        mask: store exactly the entries that are ``True`` here, by mask, so that it can be read back. All others must be
            zero, and come back as 0.0.
        signed_zeros: whether −0.0 is stored as the value that it is; otherwise it comes back as 0.0.

    Returns:
        New tensors, flat, except for ``values`` of a dense one, which keep the shape.

    Raises:
        ValueError: if the dtype cannot be packed, or ``mask`` does not fit.

    >>> encode(torch.tensor([0.0, 0.0, -0.0, 0.0, 7.0])).parts
    {'values': tensor([-0., 7.]), 'mask': tensor([20], dtype=torch.uint8)}
    >>> encode(torch.cat([torch.zeros(300), torch.ones(1)])).parts["gaps"]
    tensor([255,  44], dtype=torch.uint8)
    """
    bits = bit_view(tensor)
    live = bits != 0 if signed_zeros else is_nonzero(tensor)
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != tensor.shape:
            raise ValueError(
                f"expected a bool mask of shape {tuple(tensor.shape)}, got {mask.dtype} {tuple(mask.shape)}"
            )
        if bool((is_nonzero(tensor) & ~mask.reshape(-1)).any()):
            raise ValueError("a weight outside its mask is not zero: collapse it first (Controller.finalize)")
        chosen = mask.reshape(-1)
        return Packed("mask", {"values": _values(bits, chosen, tensor.dtype), "mask": pack(chosen)})
    width, size, count = tensor.element_size(), tensor.numel(), int(torch.count_nonzero(live))
    dense, masked = size * width, count * width + (size + 7) // 8
    if count * (width + 1) < min(dense, masked):
        packed = _encode_gaps(bits, live, tensor.dtype)
        if packed.bytes < min(dense, masked):
            return packed
    if masked < dense:
        return Packed("mask", {"values": _values(bits, live, tensor.dtype), "mask": pack(live)})
    if not signed_zeros:
        bits = torch.where(live, bits, torch.zeros_like(bits))
        return Packed("dense", {"values": bits.view(tensor.dtype).view(tensor.shape)})
    return Packed("dense", {"values": tensor.detach().clone(memory_format=torch.contiguous_format)})


def decode(encoding: str, parts: Mapping[str, Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Unpack what :func:`encode` packed; memory is taken only for shapes that the parts can fill.

    Args:
        encoding: a key of :data:`PARTS`.
        parts: its parts.
        shape: shape of the tensor.
        dtype: dtype of the tensor.

    Returns:
        A new tensor.

    Raises:
        ValueError: if the parts do not belong together.
    """
    values, size = parts["values"], prod(shape)
    _expect(values.dtype == dtype, f"values of {values.dtype} for a tensor of {dtype}")
    if encoding == "dense":
        _expect(tuple(values.shape) == tuple(shape), f"values of shape {tuple(values.shape)} for {tuple(shape)}")
        return values.clone()
    _expect(values.ndim == 1, "values that are not flat")
    places = parts[encoding]
    _expect(places.dtype == torch.uint8 and places.ndim == 1, f"a part {encoding} that is no row of bytes")
    source = bit_view(values)
    if encoding == "mask":
        _expect(len(places) == (size + 7) // 8, f"{len(places)} bytes of mask for {size} entries")
        live = unpack(places, (size,))
        count = int(torch.count_nonzero(live))
        _expect(count == len(source), f"{len(source)} values for the {count} live entries of the mask")
        bits = torch.zeros(size, dtype=source.dtype)
        bits[live] = source
    else:
        bits = _decode_gaps(places, source, size)
    return bits.view(dtype).view(tuple(shape))


def _sign(dtype: torch.dtype) -> int:
    """The pattern that has the sign bit alone."""
    return 128 if dtype == torch.uint8 else torch.iinfo(dtype).min


def _values(bits: Tensor, live: Tensor, dtype: torch.dtype) -> Tensor:
    return bits[live].view(dtype)


def _encode_gaps(bits: Tensor, live: Tensor, dtype: torch.dtype) -> Packed:
    places = torch.nonzero(live).view(-1)
    ends = torch.tensor([-1]), torch.tensor([len(bits)])
    zeros = torch.diff(torch.cat([ends[0], places, ends[1]])) - 1  # before each entry, and after the last
    padding = zeros // _STRIDE
    own = torch.arange(len(places)) + padding[:-1].cumsum(0)
    count = len(places) + int(padding.sum())
    gaps = torch.full((count,), _STRIDE - 1, dtype=torch.uint8)
    gaps[own] = (zeros[:-1] % _STRIDE).to(torch.uint8)
    values = torch.zeros(count, dtype=bits.dtype)
    values[own] = bits[places]
    return Packed("gaps", {"values": values.view(dtype), "gaps": gaps})


def _decode_gaps(gaps: Tensor, source: Tensor, size: int) -> Tensor:
    _expect(len(gaps) == len(source), f"{len(gaps)} gaps for {len(source)} values")
    places = (gaps.to(torch.int64) + 1).cumsum(0) - 1
    covered = int(places[-1]) + 1 if len(places) else 0
    # Zeros at the end are padded too: a small file cannot claim a huge tensor.
    _expect(covered <= size < covered + _STRIDE, f"gaps that cover {covered} of {size} entries")
    bits = torch.zeros(size, dtype=source.dtype)
    bits[places] = source
    return bits


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
