"""What a method of a comparison is. A new method is a new file in this package that calls :func:`method`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgecollapse.plugins import Registry

Settings = Mapping[str, Any]
"""Keys of :class:`~surgecollapse.lab.config.RunConfig`; ``policy_options`` of a trial add to those of the method."""


_EARLIER = {"surge-collapse": "cyclic_pruning"}
"""Names of version 0.1 that differ in more than their hyphens."""


def current_name(name: str) -> str:
    """The name of a method today; version 0.1 wrote hyphens, in rows and on command lines.

    >>> current_name("one-shot"), current_name("surge-collapse"), current_name("rigl")
    ('one_shot', 'cyclic_pruning', 'rigl')
    """
    return _EARLIER.get(name, name.replace("-", "_"))


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of a comparison."""

    name: str
    """That of the policy that it runs, where there is one."""
    title: str
    """As tables name it."""
    description: str
    settings: Settings
    trials: tuple[Settings, ...] = field(repr=False)
    """What tuning may choose from; empty for an ablation, which is not tuned."""
    sparse: bool = True
    """``False``: ends dense, and so is the same at every target sparsity."""
    target_key: str = "sparsity"
    """The key of the configuration that takes the target sparsity."""
    longer: str | None = None
    """Name of a method that this one is, trained for as many steps as cost the training FLOPs of the reference. It has
    that method's settings and tuning, and no trials of its own."""
    place: int = 50
    """Where it stands in tables: lower ones first, then by name."""

    @property
    def runs(self) -> str:
        """The policy that it runs, with the options that it sets; the label of a row cannot say anything else.

        >>> Method(name="x", title="x", description="", settings={"policy": "gmp"}, trials=()).runs
        'gmp()'
        """
        policy = self.settings.get("policy", "none")
        options = {**self.settings.get("policy_options", {})}
        if self.settings.get("growth") is not None:
            options["growth"] = self.settings["growth"]
        return f"{policy}({', '.join(f'{name}={value!r}' for name, value in options.items())})"


_REGISTERED: Registry[Method] = Registry("methods", "method", "surgecollapse.compare.methods")


def method(new: Method) -> Method:
    """Make a method known under its name.

    Raises:
        ValueError: if another one has that name.
    """
    return _REGISTERED(new.name)(new)


def registered() -> dict[str, Method]:
    """All methods by name, in the order of tables."""
    return dict(sorted(_REGISTERED.load().items(), key=lambda item: (item[1].place, item[0])))
