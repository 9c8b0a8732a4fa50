"""What a report knows about one run: host numbers only, whatever they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgecollapse.analysis.colors import plain
from surgecollapse.events import Intervention, Reading

Array = NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """One measured quantity over training.

    >>> Curve(np.array([0, 50]), np.array([2.3, 0.7])).last
    0.7
    """

    steps: Array
    values: Array

    @property
    def last(self) -> float | None:
        """The last finite value, ``None`` where there is none."""
        finite = self.values[np.isfinite(self.values)]
        return float(finite[-1]) if finite.size else None

    def thinned(self, most: int = 600) -> Curve:
        """At most about ``most`` points, each the mean of equally many neighbors (a page need not carry all).

        >>> Curve(np.arange(4), np.array([1.0, 3.0, 5.0, 7.0])).thinned(2).values
        array([2., 6.])
        """
        size = -(-len(self.steps) // most)
        if size <= 1:
            return self
        starts = np.arange(0, len(self.steps), size)
        counts = np.diff(np.append(starts, len(self.steps)))
        means = np.add.reduceat(self.values.astype(float), starts) / counts
        return Curve(self.steps[starts + counts - 1], means)


@dataclass(frozen=True)
class Predictions:
    """The final model's answers on held-out data of a classification task."""

    labels: Array
    """True classes, shape ``(rows,)``, integers in ``[0, K)``."""
    scores: Array
    """Class probabilities, shape ``(rows, K)``."""
    names: tuple[str, ...]
    """Name of each class."""
    split: str
    """Which part of the data: ``test`` or ``validation``."""

    @property
    def predicted(self) -> Array:
        """The class of highest probability for each row."""
        return np.asarray(self.scores.argmax(axis=1))


@dataclass(frozen=True)
class RunData:
    """One run, ready to be drawn. Anything may be missing; ``notes`` says why."""

    name: str
    directory: Path
    policy: str = "none"
    task: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    finished: bool = True
    diverged: bool = False
    """Whether the weights or the test loss are not finite."""
    steps: int = 0
    readings: tuple[Reading, ...] = ()
    interventions: tuple[Intervention, ...] = ()
    phases: tuple[tuple[int, str], ...] = ()
    """Step from which on training was in a phase, and its name; ascending."""
    floors: tuple[tuple[int, float], ...] = ()
    """Step and value of each on/off entropy floor (bits) that bounded a collapse."""
    measurements: Mapping[str, Curve] = field(default_factory=dict)
    sketch: tuple[Array, Array] | None = None
    """Steps ``(n,)`` and count sketches of all weights ``(n, 1024)``."""
    traces: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    """Steps ``(n,)``, and weights and gradients ``(n, 2, entries)`` of a few entries, by parameter."""
    predictions: Predictions | None = None
    parameters: Mapping[str, Array] = field(default_factory=dict)
    gradients: Mapping[str, Array] = field(default_factory=dict)
    prunable: frozenset[str] = frozenset()
    """Names of the parameters that masks apply to; empty for plain training."""
    modulus: int | None = None
    """The modulus of a modular task."""
    vocabulary: int = 0
    """Number of different tokens, where the inputs are tokens."""
    image: tuple[int, int] | None = None
    """Height and width of the inputs, where they are images."""
    notes: tuple[str, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    """What the run recorded at its end."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    test_samples: int | None = None

    @property
    def label(self) -> str:
        """The name as figures take it."""
        return plain(self.name)

    @property
    def end(self) -> int:
        """The last step that anything is known of, at least 1."""
        steps = [self.steps, *(e.step for e in self.interventions), *(r.step for r in self.readings)]
        return max(1, *steps)

    @property
    def layers(self) -> tuple[str, ...]:
        """Sites that were read, in the order of the forward pass."""
        seen: dict[str, None] = {}
        for reading in self.readings:
            for layer in reading.layers:
                seen.setdefault(layer.layer)
        return tuple(seen)
