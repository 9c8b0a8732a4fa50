"""Parts that other packages offer by name, through entry points: policies, criteria, monitors, detectors, tasks,
analyses.

A package names them in its ``pyproject.toml``; where a name is asked for, ours come first, then theirs::

    [project.entry-points."surgecollapse.policies"]
    lottery = "my_package.tickets:LotteryTickets"
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

FORMS = {
    "policies": "called with the policy's options, returns an object with start, due, decide, state_dict, "
    "load_state_dict",
    "criteria": "a function of (weight, signal) that returns scores of the weight's shape",
    "monitors": "called without arguments, returns an object with name, needs and measure(scene)",
    "detectors": "called without arguments, returns an object with update(measurement), state_dict, load_state_dict",
    "tasks": "a function of (seed, data_dir) that returns surgecollapse.lab.data.dataset.Data",
    "analyses": "a function of the runs (surgecollapse.report.analyses.loaded_run.Subject) that returns findings",
}
"""What stands behind an entry point of the group ``surgecollapse.<kind>``, by kind."""


def offered(kind: str) -> dict[str, EntryPoint]:
    """The entry points of the group ``surgecollapse.<kind>`` by name, not loaded yet.

    Raises:
        ValueError: for a kind that does not exist.

    >>> sorted(offered("colors"))
    Traceback (most recent call last):
    ...
    ValueError: unknown kind of part 'colors': expected one of policies, criteria, monitors, detectors, tasks, analyses
    """
    if kind not in FORMS:
        raise ValueError(f"unknown kind of part {kind!r}: expected one of {', '.join(FORMS)}")
    return {entry.name: entry for entry in entry_points(group=f"surgecollapse.{kind}")}


def find(kind: str, what: str, name: str, own: Mapping[str, Any], *, also: Collection[str] = ()) -> Any:
    """The part of a name: ours, else what a package offers.

    Args:
        kind: a key of :data:`FORMS`.
        what: one part of this kind in words, for the error.
        name: that was asked for.
        own: the library's own parts by name.
        also: further words that the caller understands, for the error.

    Raises:
        ValueError: for a name that nobody offers, with all valid ones and the nearest.
        TypeError: if what is offered cannot be called.

    >>> find("criteria", "saliency", "magnitud", {"magnitude": abs})
    Traceback (most recent call last):
    ...
    ValueError: unknown saliency 'magnitud': expected one of magnitude. Did you mean 'magnitude'?
    """
    if name in own:
        return own[name]
    theirs = offered(kind)
    if name not in theirs:
        raise ValueError(unknown(what, name, [*also, *own, *theirs]))
    part = theirs[name].load()
    if not callable(part):
        raise misfit(kind, name, part)
    return part


def fitting(kind: str, name: str, part: Any, fits: Callable[[Any], bool]) -> Any:
    """The part itself, if it is what the kind asks for.

    Raises:
        TypeError: if it is not, naming the entry point.
    """
    if not fits(part):
        raise misfit(kind, name, part)
    return part


def misfit(kind: str, name: str, part: Any) -> TypeError:
    """The error for an entry point that offers something else than its group is for."""
    return TypeError(
        f"the entry point {name!r} of the group surgecollapse.{kind} gave {part!r}: expected {FORMS[kind]}"
    )


def unknown(what: str, given: str, valid: Collection[str]) -> str:
    """Say that a word is unknown, list the valid ones, and suggest the nearest.

    >>> unknown("policy", "x", ["classic"])
    "unknown policy 'x': expected one of classic"
    """
    near = difflib.get_close_matches(given, valid, n=1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {given!r}: expected one of {', '.join(valid) or '(it has none)'}{hint}"
