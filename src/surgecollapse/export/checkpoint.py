"""Sparse checkpoints: one safetensors file that holds no zeros, checked before it is trusted, without pickle.

Each tensor is stored as :func:`~surgecollapse.export.packing.encode` packs it, under its number. Names, shapes and
dtypes, in the order of the state dict, stand in the file's metadata as JSON. There is a SHA-256 of it all and one of
the whole file, which is checked before anything is used. Files of version 0.1.0 have the first alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.errors import needs
from surgecollapse.export.packing import PARTS, decode, encode, is_nonzero
from surgecollapse.export.plain_check import check_plain
from surgecollapse.functional.masks import unpack
from surgecollapse.record.whole_files import write_whole
from surgecollapse.torch_utils.modules import canonical_name, unwrap_model

FORMAT = "surgecollapse sparse checkpoint"
SPARSE_VERSION = 2
"""Version of the layout of the file."""
_FIRST_SEALED = 2
_SEAL = "file_sha256"
_SEAL_MARK = f'"{_SEAL}":"'.encode()
_UNSEALED = "0" * 64
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
        *(torch.uint64, torch.uint32, torch.uint16),
    )
}


@dataclass(frozen=True, kw_only=True)
class SparseFile:
    """What was written."""

    path: Path
    bytes: int
    """Size of the file."""
    dense: int
    """Bytes of all tensors, tied ones once."""
    bound: int
    """Bytes of the non-zero values and of one bit per entry, tied tensors once."""


def save_sparse(
    model: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    *,
    masks: Mapping[str, Tensor] | None = None,
    signed_zeros: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> SparseFile:
    """Write the tensors of a model without their zeros; the file appears whole or not at all.

    Take N entries with n non-zeros of b bytes. The tensor takes min(N·b, n·b + ⌈N/8⌉, (n + p)·(b + 1)) bytes, where p
    pads runs of zeros longer than 255. Names and shapes add about 200 bytes.

    Args:
        model: a model, whose names lose the prefixes of wrappers, or a state dict.
        path: the file; one that is there is replaced.
        masks: bool masks by name, as in ``Controller.masks``: stored exactly, so that live weights that happen to be
            zero stay live; :func:`load_masks` reads them. Outside its mask everything comes back as 0.0.
        signed_zeros: whether −0.0 comes back as −0.0. A weight that was held at zero by a product with its mask has
            either sign. The signs alone take a bit or more for each. ``False`` drops them, and no value changes.
        metadata: text to keep in the file.

    Returns:
        Sizes: of the file, of the dense tensors, and of non-zeros with one bit per entry.

    Raises:
        ValueError: if an entry is no tensor that can be stored, or a mask does not fit.
        ImportError: without the package safetensors (extra ``export``).
        OSError: if the file cannot be written; one of that name from before stays whole.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/net.safetensors"
    >>> weight = torch.eye(64)
    >>> written = save_sparse({"weight": weight}, file)
    >>> written.dense, written.bound, bool(torch.equal(load_sparse(file)["weight"], weight))
    (16384, 768, True)
    """
    with needs("a sparse file", "export"):
        from safetensors.torch import save

    entries, parts = _pack(_tensors(model), dict(masks or {}), signed_zeros)
    index = json.dumps({"entries": entries, "metadata": dict(metadata or {})}, separators=(",", ":"))
    about = {"format": FORMAT, "version": str(SPARSE_VERSION), "index": index, "sha256": _digest(index, parts)}
    content = _sealed(save(parts, metadata=about | {_SEAL: _UNSEALED}))
    write_whole(Path(path), content, through_links=True)
    dense, bound = sizes(model)
    return SparseFile(path=Path(path), bytes=len(content), dense=dense, bound=bound)


def sizes(model: nn.Module | Mapping[str, Tensor]) -> tuple[int, int]:
    """Bytes of all tensors, and of their non-zero values with one bit per entry; tied tensors count once.

    >>> sizes({"weight": torch.eye(4)})
    (64, 18)
    """
    distinct = {_memory(tensor): tensor for tensor in _tensors(model).values()}.values()
    dense = sum(tensor.numel() * tensor.element_size() for tensor in distinct)
    live = sum(int(torch.count_nonzero(is_nonzero(tensor))) * tensor.element_size() for tensor in distinct)
    return dense, live + sum((tensor.numel() + 7) // 8 for tensor in distinct)


def load_sparse(path: str | Path) -> dict[str, Tensor]:
    """Read a sparse checkpoint back as a dense state dict, bit for bit, in its order; tied tensors are one tensor.

    Args:
        path: a file of :func:`save_sparse`.

    Raises:
        ValueError: if the file is damaged, of another kind or of a newer version.
        ImportError: without the package safetensors (extra ``export``).
        OSError: if it cannot be read.
    """
    return _read(Path(path))[0]


def load_masks(path: str | Path) -> dict[str, Tensor]:
    """The masks that :func:`save_sparse` was given, by name. Raises as :func:`load_sparse` does."""
    return _read(Path(path))[1]


def load_metadata(path: str | Path) -> dict[str, str]:
    """The metadata that :func:`save_sparse` was given. Raises as :func:`load_sparse` does."""
    return _read(Path(path))[2]


def load_sparse_into(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a sparse checkpoint into a model of the same architecture; a file that does not fit changes nothing.

    Args:
        model: the model, wrapped or not.
        path: a file of :func:`save_sparse`.

    Returns:
        The model.

    Raises:
        ValueError: as :func:`load_sparse`, or if names, shapes or dtypes differ.
        ImportError: without the package safetensors (extra ``export``).
        OSError: if the file cannot be read.
    """
    given, inner = load_sparse(path), unwrap_model(model)
    wanted = inner.state_dict()
    names = {canonical_name(name): name for name in wanted}
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{path} does not fit the model: it lacks {', '.join(missing[:5])}")
    if extra := [name for name in given if name not in names]:
        raise ValueError(f"{path} does not fit the model, which has no {', '.join(extra[:5])}")
    for name, tensor in given.items():
        own = wanted[names[name]]
        if (own.dtype, own.shape) != (tensor.dtype, tensor.shape):
            raise ValueError(
                f"{path} does not fit the model: {name} is {tensor.dtype} {tuple(tensor.shape)} in the file and "
                f"{own.dtype} {tuple(own.shape)} in the model"
            )
    inner.load_state_dict({names[name]: tensor for name, tensor in given.items()})
    return model


def _tensors(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict, every entry of which can be stored."""
    if isinstance(model, nn.Module):
        state = {canonical_name(name): value for name, value in unwrap_model(model).state_dict().items()}
    else:
        state = dict(model)
    check_plain((name, value) for name, value in state.items() if isinstance(value, Tensor))
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"entry {name!r} is of {type(value).__name__}: only tensors with text names can be stored")
        if value.layout is not torch.strided or value.is_meta or value.dtype not in _DTYPES.values():
            kind = f"{value.layout} {value.dtype} on {value.device}"
            raise ValueError(f"entry {name!r} is {kind}: expected a strided tensor of {', '.join(_DTYPES)}")
    return state


def _pack(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor], signed_zeros: bool
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Index entries and numbered parts."""
    entries: list[dict[str, Any]] = []
    parts: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for number, (name, tensor) in enumerate(state.items()):
        first = seen.setdefault(_memory(tensor), name) if tensor.numel() else name
        if first != name:
            entries.append({"name": name, "same": first})
            continue
        plain = tensor.detach().cpu().resolve_neg()
        with _named(name):
            mask = masks[name].detach().cpu() if name in masks else None
            packed = encode(plain, mask, signed_zeros=signed_zeros)
        parts |= {f"{number}.{part}": value for part, value in packed.parts.items()}
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append({"name": name, "dtype": dtype, "shape": list(tensor.shape), "encoding": packed.encoding})
        if name in masks:
            entries[-1]["masked"] = True
    if unknown := masks.keys() - {entry["name"] for entry in entries if "same" not in entry}:
        raise ValueError(f"masks of {', '.join(sorted(unknown))}: expected names of {', '.join(state)}, first of tied")
    return entries, parts


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What two entries share if and only if they are one tensor."""
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return *place, tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.is_neg()


def _digest(index: str, parts: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(index.encode())
    for name in sorted(parts):
        digest.update(parts[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sealed(content: bytes) -> bytes:
    """The file with its own checksum in its header: the SHA-256 of the same bytes with 64 zeros in the place of it."""
    start = content.index(_SEAL_MARK + _UNSEALED.encode()) + len(_SEAL_MARK)
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[start + len(_UNSEALED) :]


def _is_sealed(path: Path) -> bool:
    """Whether a file has the checksum that stands in its header; false if none stands there.

    Raises:
        ValueError: if they differ.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("its header is longer than the file")
        header = file.read(length)
        before, mark, rest = header.partition(_SEAL_MARK)
        if not mark:
            return False
        digest = hashlib.sha256(start + before + mark + _UNSEALED.encode() + rest[len(_UNSEALED) :])
        while chunk := file.read(2**20):
            digest.update(chunk)
    if rest[: len(_UNSEALED)] != digest.hexdigest().encode():
        raise ValueError("it does not have the checksum that was written")
    return True


@contextmanager
def _named(name: str) -> Generator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """State dict, masks and metadata of a file, all checked."""
    with needs("a sparse file", "export"):
        from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a file written by save_sparse")
    try:
        sealed = _is_sealed(path)
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise ValueError("its metadata are of another format")
            version = int(about["version"])
            if version > SPARSE_VERSION:
                raise ValueError(f"it has version {version}, this library reads up to {SPARSE_VERSION}: update it")
            if version < 1 or (version >= _FIRST_SEALED and not sealed):
                raise ValueError(f"it has version {version} and no checksum of the whole file")
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        if _digest(about["index"], parts) != about["sha256"]:
            raise ValueError("its contents do not have the checksum that was written")
        return _unpack(json.loads(about["index"]), parts)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise ValueError(f"{path} is damaged or no sparse checkpoint that can be read here: {reason}") from error


def _unpack(
    index: dict[str, Any], parts: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    state: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for number, entry in enumerate(index["entries"]):
        name = entry["name"]
        if name in state:
            raise ValueError(f"{name} comes twice")
        if "same" in entry:
            state[name] = state[entry["same"]]
            continue
        shape, encoding = entry["shape"], entry["encoding"]
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"{name} has the shape {shape}")
        own = {part: parts.pop(f"{number}.{part}") for part in PARTS[encoding]}
        with _named(name):
            state[name] = decode(encoding, own, shape, _DTYPES[entry["dtype"]])
        if entry.get("masked"):
            masks[name] = unpack(own["mask"], shape)
    if parts:
        raise ValueError(f"it has parts that belong to no entry: {', '.join(parts)}")
    return state, masks, dict(index["metadata"])
