"""Parts that have a name: ours by decorator, those of other packages by entry point.

Each kind of part lives in a *room*, a package of one file each. A new part is a new file there, with a decorator::

    @policy("lottery")
    @dataclass(frozen=True, kw_only=True, eq=False)
    class LotteryTickets(ScheduledPolicy): ...

Another package names its parts in its ``pyproject.toml``. Where a name is asked for, ours come first, then theirs::

    [project.entry-points."surgecollapse.policies"]
    lottery = "my_package.tickets:LotteryTickets"
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from surgecollapse.errors import unknown

Part = TypeVar("Part")
Own = TypeVar("Own")

FORMS = {
    "policies": "called with the policy's options, returns an object with start, due, decide, state_dict, "
    "load_state_dict",
    "criteria": "a function of (weight, signal) that returns scores of the weight's shape",
    "monitors": "called without arguments, returns an object with name, needs and measure(context)",
    "detectors": "called without arguments, returns an object with update(measurement), state_dict, load_state_dict",
    "trackers": "called with a run's name, its configuration and a folder, returns an object of "
    "surgecollapse.trackers.protocol.Tracker",
    "tasks": "a function of (seed, data_dir) that returns surgecollapse.lab.data.dataset.Data",
    "analyses": "a function of the runs (surgecollapse.report.analyses.loaded_run.LoadedRun) that returns findings",
}
"""What stands behind an entry point of the group ``surgecollapse.<kind>``, by kind."""


class Registry(MutableMapping[str, Part], Generic[Part]):
    """The parts of one kind by name, in alphabetical order. Used as a decorator, it gives a part its name.

    The modules of the room are imported at the first look-up, so that a new file there is found without being listed.

    Args:
        kind: a key of :data:`FORMS`, or another word where packages cannot offer parts of this kind.
        what: one part of it, for errors.
        room: package in which the parts are, one module each; ``None``: nothing is imported.

    >>> tickets = Registry("policies", "policy")
    >>> @tickets("lottery")
    ... class Lottery: ...
    >>> tickets["lottery"] is Lottery, list(tickets)
    (True, ['lottery'])
    """

    def __init__(self, kind: str, what: str, room: str | None = None) -> None:
        self.kind, self.what, self._room = kind, what, room
        self._parts: dict[str, Part] = {}

    def __call__(self, name: str) -> Callable[[Own], Own]:
        """Register what is decorated under a name.

        Raises:
            ValueError: if another part has that name.
        """

        def register(part: Own) -> Own:
            known = self._parts.get(name)
            if known is not None and _origin(known) != _origin(part):
                raise ValueError(f"two parts are called {name!r} ({self.what}): {_origin(known)} and {_origin(part)}")
            self._parts[name] = part  # type: ignore[assignment]
            return part

        return register

    def load(self) -> dict[str, Part]:
        """Import the room, once, and return its parts by name."""
        room, self._room = self._room, None
        if room is not None:
            for module in pkgutil.iter_modules(import_module(room).__path__):
                import_module(f"{room}.{module.name}")
            self._parts = dict(sorted(self._parts.items()))
        return self._parts

    def __getitem__(self, name: str) -> Part:
        return self.load()[name]

    def __setitem__(self, name: str, part: Part) -> None:
        self.load()[name] = part

    def __delitem__(self, name: str) -> None:
        del self.load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.load())

    def __len__(self) -> int:
        return len(self.load())

    def find(self, name: str, *, also: Collection[str] = ()) -> Any:
        """The part of a name: ours, else what a package offers.

        Args:
            name: that was asked for.
            also: further words that the caller understands, for the error.

        Raises:
            ValueError: for an unknown name, with all valid ones and the nearest.
            TypeError: if what is offered cannot be called.
        """
        return find(self.kind, self.what, name, self, also=also)

    def names(self) -> list[str]:
        """Ours, then those that packages offer."""
        return [*self, *(name for name in offered(self.kind) if name not in self)]


def _origin(part: Any) -> str:
    return f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', repr(part))}"


def offered(kind: str) -> dict[str, EntryPoint]:
    """The entry points of the group ``surgecollapse.<kind>`` by name, not loaded yet.

    Raises:
        ValueError: for a kind that does not exist.

    >>> offered("colors")
    Traceback (most recent call last):
    ...
    ValueError: unknown kind of part 'colors': expected one of policies, criteria, monitors, detectors, trackers, ...
    """
    if kind not in FORMS:
        raise ValueError(unknown("kind of part", kind, FORMS))
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
        ValueError: for an unknown name, with all valid ones and the nearest.
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
