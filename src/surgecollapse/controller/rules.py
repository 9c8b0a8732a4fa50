"""Rules: what is to be done once a reading has been so for a while, written as two short texts.

``when`` names a series and a condition, ``do`` a command, ``stop``, or ``alert`` (say it, and nothing else)::

    when = "loss is nan for 3 readings"             do = "stop"
    when = "prediction_confidence < 0.5 for 5"      do = "pace factor=0.5"
    when = "accuracy/validation >= 0.9"             do = "checkpoint"
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgecollapse.commands import Command, command_from_text
from surgecollapse.errors import unknown
from surgecollapse.events import Alarm, Measurement, Reading

if TYPE_CHECKING:
    from surgecollapse.events import Event

_FORM = re.compile(
    r"(?P<name>[\w./-]+)(?:\s+is\s+(?P<state>nan|not\s+finite)|\s*(?P<sign><=|>=|<|>)\s*(?P<number>\S+))"
    r"(?:\s+for\s+(?P<readings>\d+)(?:\s+readings?)?)?"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ALIASES = {"loss": "loss/train", "accuracy": "accuracy/validation"}
_OF_READINGS = ("entropy", "prediction_confidence", "sparsity", "grad_norm", "target_entropy")
_PLAIN = ("learning_rate", "gradient_norm")
"""Series without a slash in their name."""
_EXPECTED = "expected a series and a condition, as in 'loss is nan for 3 readings' or 'entropy < 0.3 for 5 readings'"
ALERT = "alert"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Raises:
        ValueError: in one line, if a text cannot be read.

    >>> rule = Rule("loss is nan for 3 readings", "stop")
    >>> rule.series, rule.readings, rule.holds(float("nan")), rule.holds(0.5)
    ('loss/train', 3, True, False)
    >>> Rule("loss is huge", "stop")
    Traceback (most recent call last):
    ValueError: when = 'loss is huge': expected a series and a condition, as in ...
    """

    when: str
    do: str
    series: str = field(init=False, repr=False, compare=False)
    readings: int = field(init=False, repr=False, compare=False)
    command: Command | None = field(init=False, repr=False, compare=False)
    """``None``: only say it."""
    _sign: str = field(init=False, repr=False, compare=False)
    _number: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read both texts."""
        found = _FORM.fullmatch(" ".join(self.when.split()))
        if found is None:
            raise ValueError(f"when = {self.when!r}: {_EXPECTED}")
        name = _ALIASES.get(found["name"], found["name"])
        if "/" not in name and name not in (*_OF_READINGS, *_PLAIN):
            known = [*_ALIASES, *_OF_READINGS, *_PLAIN]
            raise ValueError(f"when = {self.when!r}: {unknown('series', name, known)}, or one with a slash in its name")
        sign, number = found["state"] or found["sign"], 0.0
        if found["number"] is not None:
            try:
                number = float(found["number"])
            except ValueError:
                raise ValueError(f"when = {self.when!r}: expected a number, got {found['number']!r}") from None
            if not math.isfinite(number):
                raise ValueError(f"when = {self.when!r}: expected a finite number, or 'is nan' or 'is not finite'")
        readings = 1 if found["readings"] is None else int(found["readings"])
        if not 1 <= readings <= 10_000:
            raise ValueError(f"when = {self.when!r}: expected 1 to 10000 readings, got {readings}")
        try:
            command = None if self.do.strip() == ALERT else command_from_text(self.do)
        except ValueError as error:
            raise ValueError(f"do = {self.do!r}: {error}; or {ALERT!r} to say it and do nothing") from None
        for key, value in (("series", name), ("readings", readings), ("command", command), ("_sign", sign)):
            object.__setattr__(self, key, value)
        object.__setattr__(self, "_number", number)

    def holds(self, value: float) -> bool:
        """Whether the condition is true of a value; of one that is not a number, no comparison is."""
        if self._sign == "nan":
            return math.isnan(value)
        if self._sign in _SIGNS:
            return _SIGNS[self._sign](value, self._number)
        return not math.isfinite(value)


class RuleWatch:
    """Counts for how many readings on end each rule holds, and says when one is to be followed.

    A rule is followed once, and again after its condition has been false.

    Args:
        rules: in the order in which they are followed.
        follow: given a rule and the alarm that says why.

    >>> followed = []
    >>> watch = RuleWatch([Rule("loss > 2 for 2 readings", "stop")], lambda rule, alarm: followed.append(alarm.step))
    >>> for step, loss in enumerate([3.0, 1.0, 3.0, 3.0, 3.0, 1.0, 3.0, 3.0]):
    ...     watch.take(Measurement(step=step, name="loss/train", value=loss))
    >>> followed
    [3, 7]
    """

    def __init__(self, rules: Sequence[Rule], follow: Callable[[Rule, Alarm], None]) -> None:
        self.rules, self._follow = tuple(rules), follow
        self._counts: dict[Rule, int] = {}

    @property
    def unseen(self) -> tuple[Rule, ...]:
        """Rules whose series has never come."""
        return tuple(rule for rule in self.rules if rule not in self._counts)

    def take(self, event: Event) -> None:
        """Learn of an event."""
        if isinstance(event, Measurement) and event.layer is None and event.name not in _OF_READINGS:
            self._see(event.step, event.name, event.value)
        elif isinstance(event, Reading):
            for name in _OF_READINGS:
                value = getattr(event, name, None)
                if value is not None:
                    self._see(event.step, name, float(value))

    def _see(self, step: int, name: str, value: float) -> None:
        for rule in self.rules:
            if rule.series != name:
                continue
            self._counts[rule] = self._counts.get(rule, 0) + 1 if rule.holds(value) else 0
            if self._counts[rule] == rule.readings:
                reason = f"{rule.series} is {value:g}" + (f", {rule.readings} readings on end" * (rule.readings > 1))
                self._follow(rule, Alarm(step=step, detector=f"rule {rule.when!r}", reason=reason, forecast=rule.do))

    def state_dict(self) -> dict[str, int]:
        """For how many readings on end each rule holds."""
        return {f"{rule.when} => {rule.do}": count for rule, count in self._counts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; a rule that the state does not know starts at none."""
        known = {rule: state.get(f"{rule.when} => {rule.do}") for rule in self.rules}
        self._counts = {rule: count for rule, count in known.items() if count is not None}
