"""Parts that several nets share."""

from __future__ import annotations

from torch import nn

from surgecollapse.errors import ConfigError

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def activation_of(name: str) -> nn.Module:
    """The activation module ``relu`` or ``gelu``, so that readings find it."""
    return _ACTIVATIONS[name]()


def dropout_of(rate: float) -> list[nn.Module]:
    """A dropout module, or nothing at rate 0."""
    return [nn.Dropout(rate)] if rate else []


def check_heads(model: str, width: int, heads: int) -> None:
    """Check that attention heads share a width evenly.

    Raises:
        ConfigError: if they do not.
    """
    if width % heads:
        raise ConfigError(f"the width of the {model} must be a multiple of its {heads} heads, got {width}")


def hidden_density(model: nn.Module) -> float:
    """Share of the entries that are not zero in matrices outside of ``head``: output layers stay dense.

    >>> model = nn.ModuleDict({"first": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    >>> _ = nn.init.eye_(model["first"].weight)
    >>> hidden_density(model)
    0.5
    """
    hidden = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith("head")]
    return sum(int((p != 0).sum()) for p in hidden) / sum(p.numel() for p in hidden)
