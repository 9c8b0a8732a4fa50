"""Which parameters the method may prune: the default choice, and the user's."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from surgecollapse.torch_utils.modules import canonical_name, is_embedding, is_norm

logger = logging.getLogger(__name__)
_EMBEDDING_WORDS = ("embed", "pos_", "position", "cls_token", "mask_token", "class_token")

Pattern = str | Tensor
Patterns = Pattern | Sequence[Pattern] | None


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Map canonical names to parameters; a tied parameter appears once, under its first name."""
    return {canonical_name(name): p for name, p in model.named_parameters()}


def prunable_parameters(
    model: nn.Module,
    *,
    owned: Collection[int],
    heads: Collection[str] = (),
    include: Patterns = None,
    exclude: Patterns = None,
) -> dict[str, nn.Parameter]:
    """Choose the parameters that may be pruned.

    Default: floating-point, trainable, ``ndim >= 2``; no embeddings (nor heads tied to them), norms or biases; not the
    layer that produces the model's output.

    Args:
        model: the unwrapped model.
        owned: ``id`` of every parameter that an attached optimizer steps.
        heads: canonical names of the modules that produce the output (found on a probe pass).
        include: shell patterns on parameter or module names, or parameters: exactly these instead of the default.
        exclude: likewise: never these.

    Returns:
        Canonical name → parameter, in the model's order.

    Raises:
        ValueError: if a pattern matches nothing, an included parameter has no optimizer, or nothing is left.
    """
    named = named_weights(model)
    if include is None:
        off_limits = _off_limits(model, set(heads))
        chosen = {
            name: p
            for name, p in named.items()
            if p.ndim >= 2 and p.is_floating_point() and p.requires_grad and id(p) not in off_limits
        }
        chosen = {name: p for name, p in chosen.items() if not _looks_like_embedding(name)}
    else:
        chosen = _matching(named, include, "include")
        lost = [name for name, p in chosen.items() if id(p) not in owned]
        if lost:
            raise ValueError(f"include names parameters that no attached optimizer steps: {', '.join(lost)}")
    if exclude is not None:
        for name in _matching(named, exclude, "exclude"):
            chosen.pop(name, None)
    unowned = [name for name, p in chosen.items() if id(p) not in owned]
    if unowned:
        logger.info("not pruned, since no attached optimizer steps them: %s", ", ".join(unowned))
    chosen = {name: p for name, p in chosen.items() if id(p) in owned}
    if not sum(p.numel() for p in chosen.values()):
        raise ValueError(
            "nothing to prune: expected at least one trainable weight with ndim >= 2 that is no embedding, norm or "
            f"output layer; the model has {', '.join(named) or 'no parameters'}. Name weights with include=…"
        )
    return chosen


def _off_limits(model: nn.Module, heads: set[str]) -> set[int]:
    """Ids of parameters that sit, under any of their names, in an embedding, a norm or a head."""
    found: set[int] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if is_embedding(module) or is_norm(module) or canonical_name(name) in heads:
            found.update(id(p) for key, p in module.named_parameters() if _is_own(key))
        found.update(id(p) for p in _computed_from(module))
    return found


def _is_own(key: str) -> bool:
    """Whether a parameter belongs to its module itself: directly, or as the original of a parametrized one."""
    return "." not in key or key.startswith("parametrizations.")


def _computed_from(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters from which a weight is computed in a way that zeros do not survive.

    ``weight_norm`` divides each unit's weights by their length, which is NaN for a unit without any; ``orthogonal``
    mixes all entries. Spectral normalisation only scales, and is no obstacle.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield from (getattr(module, f"{hook.name}_{part}") for part in ("g", "v"))
    for steps in getattr(module, "parametrizations", {}).values():
        if any(type(step).__name__ != "_SpectralNorm" for step in steps):
            yield from steps.parameters()


def _looks_like_embedding(name: str) -> bool:
    """Whether a bare parameter's own name (not its module's) says that it is a table of positions or tokens."""
    return any(word in name.rpartition(".")[2].lower() for word in _EMBEDDING_WORDS)


def _matching(named: dict[str, nn.Parameter], patterns: Patterns, option: str) -> dict[str, nn.Parameter]:
    items: Iterable[Any] = [patterns] if isinstance(patterns, str | Tensor) else patterns or ()
    chosen: set[str] = set()
    for item in items:
        if isinstance(item, Tensor):
            hits = [name for name, p in named.items() if p is item]
            label = f"a tensor of shape {tuple(item.shape)}"
        else:
            hits = [name for name in named if fnmatchcase(name, item) or fnmatchcase(name.rpartition(".")[0], item)]
            label = repr(item)
        if not hits:
            near = difflib.get_close_matches(str(item), named, n=3, cutoff=0.3) if isinstance(item, str) else []
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise ValueError(f"{option}: {label} matches no parameter of the model{hint}")
        chosen.update(hits)
    return {name: p for name, p in named.items() if name in chosen}
