"""Batches of any kind in values that ``torch.load(weights_only=True)`` takes, and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgecollapse.torch_utils.modules import attributes_of

_KIND = "surgecollapse.kind"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class NotStorableError(TypeError):
    """A batch holds something that a checkpoint cannot."""


def to_plain(value: Any) -> Any:
    """Write a batch in tensors, numbers, text, lists and dictionaries.

    Of an object (a dataclass, ``BatchEncoding``, ``Data`` of PyTorch Geometric) the name of its class and its
    attributes are kept. A private attribute that cannot be kept becomes ``None``.

    Raises:
        NotStorableError: for anything else; names its type.

    >>> to_plain((torch.ones(2), {"flag": True}))
    (tensor([1., 1.]), {'flag': True})
    """
    return _Writer().write(value)


def from_plain(value: Any) -> Any:
    """Rebuild what :func:`to_plain` wrote.

    Classes are looked up among those that are imported already, and no constructor is called.

    Raises:
        ValueError: if a class is not imported, or is none of a batch.
    """
    return _Reader().read(value)


class _Writer:
    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []

    def write(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, Tensor):
            return value.detach().clone()
        if isinstance(value, np.ndarray | np.generic):
            return {_KIND: "array", "of": torch.from_numpy(np.array(value)), "item": isinstance(value, np.generic)}
        if type(value) is dict:
            return {key: self.write(item) for key, item in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self.write(item) for item in value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {_KIND: "named", "class": _path(type(value)), "items": [self.write(item) for item in value]}
        if isinstance(value, type):
            return {_KIND: "class", "class": _path(value)}
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if id(value) in self._seen:
            return {_KIND: "again", "number": self._seen[id(value)]}
        if not _is_batch(type(value)):
            raise NotStorableError(f"{type(value).__module__}.{type(value).__qualname__}")
        self._seen[id(value)] = len(self._seen)
        self._held.append(value)
        written: dict[str, Any] = {_KIND: "object", "class": _path(type(value))}
        if _found(written["class"]) is not type(value):  # made on the fly, as the batches of PyTorch Geometric are
            written["bases"] = [_path(base) for base in type(value).__bases__]
        state = value.__reduce_ex__(4)
        written["items"] = [] if len(state) < 5 or state[4] is None else [(k, self.write(v)) for k, v in state[4]]
        attributes = state[2] if isinstance(state[2], Mapping) else attributes_of(value)
        written["state"] = {key: self._attribute(key, item) for key, item in attributes.items()}
        return written

    def _attribute(self, key: str, value: Any) -> Any:
        try:
            return self.write(value)
        except NotStorableError:
            if key.startswith("_"):
                return None
            raise


class _Reader:
    def __init__(self) -> None:
        self._objects: list[Any] = []

    def read(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone()
        if isinstance(value, tuple | list):
            return type(value)(self.read(item) for item in value)
        if not isinstance(value, dict):
            return value
        kind = value.get(_KIND)
        if kind is None:
            return {key: self.read(item) for key, item in value.items()}
        if kind == "array":
            array = value["of"].numpy().copy()
            return array[()] if value["item"] else array
        if kind == "again":
            return self._objects[value["number"]]
        if kind == "class":
            return _class(value["class"])
        if kind == "named":
            return _class(value["class"], batch=True)(*(self.read(item) for item in value["items"]))
        return self._object(value)

    def _object(self, value: Mapping[str, Any]) -> Any:
        if "bases" in value:
            first, second = (_class(path) for path in value["bases"])
            made = first(_base_cls=second)
        else:
            cls = _class(value["class"], batch=True)
            made = cls.__new__(cls)
        self._objects.append(made)
        state = {key: self.read(item) for key, item in value["state"].items()}
        restore = getattr(made, "__setstate__", None)
        if restore is not None:
            restore(state)
        else:
            for key, item in state.items():
                object.__setattr__(made, key, item)
        for key, item in value["items"]:
            made[key] = self.read(item)
        return made


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _class(path: str, *, batch: bool = False) -> Any:
    cls = _found(path)
    if not isinstance(cls, type):
        raise ValueError(
            f"the probe batch in this checkpoint holds a {path.replace(':', '.')}, which is not imported: import it "
            "before the first step, or pass Readings(probe=<a batch, as the model is called>)"
        )
    if batch and not _is_batch(cls):
        raise ValueError(f"the probe batch in this checkpoint holds a {path.replace(':', '.')}, which is no batch")
    return cls


def _is_batch(cls: type) -> bool:
    """Whether a class is a container of tensors, rather than anything that might be dangerous to rebuild."""
    named = issubclass(cls, tuple) and hasattr(cls, "_fields")
    return named or is_dataclass(cls) or issubclass(cls, Mapping) or callable(getattr(cls, "to", None))
