"""The monitors by name. A new monitor is a new file in this package, with ``@monitor("its-name")``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from surgecollapse.plugins import Registry, fitting
from surgecollapse.protocols import Monitor

monitor: Registry[Callable[[], Monitor]] = Registry("monitors", "monitor", "surgecollapse.observe.monitors")
"""Decorator that gives a monitor its name, and the mapping of all named ones."""
MONITORS = monitor
"""The monitors that have a name, on the command line and in ``attach(monitors=…)``."""

DEFAULT = (
    "entropy",
    "representation",
    "units",
    "weight_rank",
    "predictions",
    "alignment",
    "norms",
    "noise_scale",
    "gap",
    "masks",
)
"""What ``monitors="default"`` stands for: the cheap ones."""

Monitors = str | Monitor | Sequence[str | Monitor]


def make_monitors(monitors: Monitors) -> list[Monitor]:
    """Turn names and objects into monitors.

    Args:
        monitors: ``"default"``, a key of :data:`MONITORS`, an object of the protocol, or a sequence of these. Further
            names are those that packages registered under the entry-point group ``surgecollapse.monitors``. ``()`` is
            none.

    Returns:
        New monitors for the names, the objects as they are.

    Raises:
        ValueError: for an unknown name, or two monitors of one name.
        TypeError: for something that is neither a name nor a monitor.

    >>> [monitor.name for monitor in make_monitors(["norms", "entropy"])]
    ['norms', 'entropy']
    >>> make_monitors("norm")
    Traceback (most recent call last):
    ...
    ValueError: unknown monitor 'norm': expected one of default, alignment, ... Did you mean 'norms'?
    """
    made: list[Monitor] = []
    for item in [monitors] if isinstance(monitors, str | Monitor) else monitors:
        if isinstance(item, str):
            made += [_made(name) for name in (DEFAULT if item == "default" else [item])]
        elif isinstance(item, Monitor) and not isinstance(item, type):
            made.append(item)
        else:
            raise TypeError(
                f"a monitor must be a name or an object with name, needs and measure(context), got {item!r}"
            )
    names = [monitor.name for monitor in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two monitors are called {', '.join(twice)}: name each once")
    return made


def _made(name: str) -> Monitor:
    made: Monitor = MONITORS.find(name, also=("default",))()
    return made if name in MONITORS else fitting("monitors", name, made, lambda part: isinstance(part, Monitor))
