"""Published experiments by name: each is one complete TOML file, a task with every setting that its paper names.

The files lie in ``experiments/`` of the repository, and in the wheel beside the lab. What is given beside an experiment
overrides it: ``surgecollapse run grokfast-modular --seed 3``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_LAB = Path(__file__).resolve().parents[1]
_PLACES = (_LAB / "experiments", _LAB.parents[2] / "experiments")
"""In the wheel; in a checkout, beside ``src``."""


@cache
def experiments() -> dict[str, Path]:
    """The file of every experiment, by name.

    >>> experiments()["grokfast-modular"].name
    'grokfast-modular.toml'
    """
    for place in _PLACES:
        found = {path.stem: path for path in sorted(place.glob("*.toml"), key=lambda path: path.stem)}
        if found:
            return found
    return {}
