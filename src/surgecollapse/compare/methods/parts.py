"""Optional parts that go with any method: with ``--parts``, the trials of every method are repeated with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from surgecollapse.compare.methods.registry import Method, Settings


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that a method may have or not."""

    name: str
    description: str
    settings: Settings
    regrows: bool = False
    """Whether it is about weights that are regrown, so that dense methods cannot have it."""


_PARTS = (
    Part(
        name="average",
        description="The end is an exponential average of the weights, under the final mask.",
        settings={"ema_decay": 0.99},
    ),
    Part(
        name="ramp",
        description="Regrown weights have a step count of their own and small first steps, arXiv 2606.00888.",
        settings={"optimizer_state": "ramp"},
        regrows=True,
    ),
    Part(
        name="sam",
        description="Gradients are taken where the last gradient leads to, S²-SAM (Ji et al. 2024).",
        settings={"sam_rho": 0.05},
    ),
)
PARTS: Mapping[str, Part] = {part.name: part for part in _PARTS}
"""By name."""


def with_parts(method: Method, parts: Sequence[Part]) -> Method:
    """The method with its trials, and once more for each part that it can have.

    >>> base = Method(name="x", title="x", description="", settings={"policy": "gmp"}, trials=({"lr": 0.1},))
    >>> with_parts(base, [PARTS["ramp"]]).trials
    ({'lr': 0.1}, {'lr': 0.1, 'optimizer_state': 'ramp'})
    """
    dense = method.settings.get("policy") == "none"
    fitting = [part for part in parts if not (dense and part.regrows)]
    more = ({**trial, **part.settings} for part in fitting for trial in method.trials)
    return replace(method, trials=(*method.trials, *more))
