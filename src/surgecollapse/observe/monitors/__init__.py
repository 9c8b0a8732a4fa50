"""Monitors: one file each. They look at a :class:`~surgecollapse.protocols.MonitorContext` and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from surgecollapse.observe.monitors.alignment import Alignment
from surgecollapse.observe.monitors.criticality import Criticality
from surgecollapse.observe.monitors.curvature import Curvature
from surgecollapse.observe.monitors.entropy import Entropies
from surgecollapse.observe.monitors.gap import GeneralisationGap
from surgecollapse.observe.monitors.masks import Masks
from surgecollapse.observe.monitors.noise_scale import NoiseScale
from surgecollapse.observe.monitors.norms import Norms
from surgecollapse.observe.monitors.predictions import Predictions
from surgecollapse.observe.monitors.representation import Representation
from surgecollapse.observe.monitors.units import Units
from surgecollapse.observe.monitors.weight_rank import WeightRank
from surgecollapse.plugins import find, fitting
from surgecollapse.protocols import Monitor

MONITORS: dict[str, Callable[[], Monitor]] = {
    "entropy": Entropies,
    "representation": Representation,
    "units": Units,
    "weight_rank": WeightRank,
    "predictions": Predictions,
    "alignment": Alignment,
    "norms": Norms,
    "noise_scale": NoiseScale,
    "gap": GeneralisationGap,
    "masks": Masks,
    "curvature": Curvature,
    "criticality": Criticality,
}
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
        monitors: ``"default"``, a key of :data:`MONITORS`, a name that a package registered under the entry-point group
            ``surgecollapse.monitors``, an object of the protocol, or a sequence of these; ``()`` is none.

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
    ValueError: unknown monitor 'norm': expected one of default, entropy, ... Did you mean 'norms'?
    """
    made: list[Monitor] = []
    for item in [monitors] if isinstance(monitors, str | Monitor) else monitors:
        if isinstance(item, str):
            made += [_made(name) for name in (DEFAULT if item == "default" else [item])]
        elif isinstance(item, Monitor) and not isinstance(item, type):
            made.append(item)
        else:
            raise TypeError(f"a monitor must be a name or an object with name, needs and measure(scene), got {item!r}")
    names = [monitor.name for monitor in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two monitors are called {', '.join(twice)}: name each once")
    return made


def _made(name: str) -> Monitor:
    made: Monitor = find("monitors", "monitor", name, MONITORS, also=("default",))()
    return made if name in MONITORS else fitting("monitors", name, made, lambda part: isinstance(part, Monitor))
