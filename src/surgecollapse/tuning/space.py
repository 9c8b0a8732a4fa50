"""Search spaces: text, lists or Optuna's distributions, to Optuna's distributions.

The grammar of one setting::

    0.8..0.98              a real number between two ends
    1e-4..1e-2:log         the same, uniform in its logarithm
    0.1..0.5:step=0.1      the points 0.1, 0.2, … of that range
    16..256                whole numbers, since both ends are whole
    rigl,gmp,static        one of these; [64,64],[128,128] for values that hold commas
"""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from surgecollapse.errors import unknown

if TYPE_CHECKING:
    from pathlib import Path

    from optuna import Trial

Space = dict[str, BaseDistribution]
"""Distributions by the name of the setting, in the order in which they are drawn."""

_RANGE = re.compile(r"(?P<low>[^:,\s]+?)\.\.(?P<high>[^:,\s]+)(?P<options>(?::[^:]*)*)")
_WHOLE = re.compile(r"[+-]?\d[\d_]*")
_OPTIONS = ("log", "step")
GRID_POINTS = 5
"""Values that a grid takes of a range without a step, ends included."""
_FORMS = "expected a range like 0.8..0.98 or 1e-4..1e-2:log, or choices like rigl,gmp"


def parse_space(given: Mapping[str, Any]) -> Space:
    """Read a whole space.

    Args:
        given: by the name of the setting: text in the grammar of this module, a sequence of choices, a mapping, or a
            distribution of Optuna. A mapping has ``low``, ``high`` and perhaps ``log`` and ``step``.

    Raises:
        ValueError: for an empty space, or a setting that cannot be read.

    >>> parse_space({"lr": "1e-4..1e-2:log", "policy": ["rigl", "gmp"]})["lr"]
    FloatDistribution(high=0.01, log=True, low=0.0001, step=None)
    """
    if not given:
        raise ValueError(f"the search space is empty: name at least one setting; {_FORMS}")
    return {name: parse_domain(name, value) for name, value in given.items()}


def parse_words(words: Sequence[str]) -> dict[str, str | None]:
    """Split ``name=domain`` at the first ``=``; ``None`` where only a name is given.

    Raises:
        ValueError: for a word without a name, or a name that comes twice.

    >>> parse_words(["lr=1e-4..1e-2:log", "sparsity"])
    {'lr': '1e-4..1e-2:log', 'sparsity': None}
    """
    found: dict[str, str | None] = {}
    for word in words:
        name, sign, domain = word.partition("=")
        if not name.strip():
            raise ValueError(f"search {word!r}: expected NAME=DOMAIN, as in lr=1e-4..1e-2:log")
        if name.strip() in found:
            raise ValueError(f"search: {name.strip()} is given twice; give it once")
        found[name.strip()] = domain.strip() if sign else None
    return found


def read_space(path: Path) -> dict[str, Any]:
    """Read a TOML file of domains by name; a table without ``low`` and ``high`` is a section, its keys are dotted.

    Raises:
        ValueError: if it cannot be read, or is not TOML.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ValueError(f"cannot read the search space {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    return dict(_flat(values, ""))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and not {"low", "high"} & set(value):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parse_domain(name: str, given: Any) -> BaseDistribution:
    """Read what one setting may be.

    Raises:
        ValueError: if it cannot be read, in one line with the setting's name.

    >>> parse_domain("widths", "[64,64],[128,128]")
    CategoricalDistribution(choices=('[64, 64]', '[128, 128]'))
    >>> parse_domain("lr", "1e-2..1e-4")
    Traceback (most recent call last):
    ...
    ValueError: search lr='1e-2..1e-4': the lower end must be below the upper one; write 1e-4..1e-2
    """
    if isinstance(given, BaseDistribution):
        return given
    if isinstance(given, str):
        found = _RANGE.fullmatch(given.strip())
        return _range_of(name, given, found) if found else _choice(name, given, [_value(w) for w in _split(given)])
    if isinstance(given, Mapping):
        return _table(name, given)
    if isinstance(given, Sequence):
        return _choice(name, given, list(given))
    raise ValueError(f"search {name}={given!r}: {_FORMS}")


def _range_of(name: str, text: str, found: re.Match[str]) -> BaseDistribution:
    options: dict[str, Any] = {}
    for word in found["options"].split(":")[1:]:
        key, sign, value = word.strip().partition("=")
        if key not in _OPTIONS:
            raise ValueError(f"search {name}={text!r}: {unknown('option', key, _OPTIONS)}")
        if (key == "step") != bool(sign):
            raise ValueError(f"search {name}={text!r}: write {'step=0.1' if key == 'step' else 'log'}")
        options[key] = _number(name, text, value) if sign else True
    return _interval(name, text, _number(name, text, found["low"]), _number(name, text, found["high"]), options)


def _table(name: str, given: Mapping[str, Any]) -> BaseDistribution:
    for key in given:
        if key not in ("low", "high", *_OPTIONS):
            raise ValueError(f"search {name}: {unknown('key', key, ('low', 'high', *_OPTIONS))}")
    numbers = {key: value for key, value in given.items() if key != "log"}
    wrong = [key for key, value in numbers.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    if wrong or not {"low", "high"} <= set(numbers):
        raise ValueError(f"search {name}: expected numbers under low and high, as in {{low = 0.8, high = 0.98}}")
    options = {key: given[key] for key in _OPTIONS if given.get(key)}
    return _interval(name, dict(given), given["low"], given["high"], options)


def _interval(name: str, text: Any, low: float, high: float, options: Mapping[str, Any]) -> BaseDistribution:
    where, log, step = f"search {name}={text!r}", bool(options.get("log")), options.get("step")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{where}: both ends must be finite")
    if low >= high:
        hint = "" if low == high or not isinstance(text, str) else f"; write {'..'.join(text.split('..')[::-1])}"
        raise ValueError(f"{where}: the lower end must be below the upper one{hint}")
    if log and low <= 0:
        raise ValueError(f"{where}: a logarithmic range must lie above 0; raise the lower end or drop :log")
    if log and step is not None:
        raise ValueError(f"{where}: log and step exclude each other; drop one")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"{where}: the step must be above 0 and at most the width of the range")
    if all(isinstance(value, int) for value in (low, high, 1 if step is None else step)):
        whole = 1 if step is None else int(step)
        return IntDistribution(int(low), int(high) - (int(high) - int(low)) % whole, log=log, step=whole)
    if step is not None:
        # The last point of the range; the small share takes up rounding, as in 0.1..0.5:step=0.1.
        high = low + math.floor((high - low) / step + 1e-9) * step
    return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))


def _choice(name: str, given: Any, values: Sequence[Any]) -> BaseDistribution:
    if not values or (isinstance(given, str) and not given.strip()):
        raise ValueError(f"search {name}: nothing is given; {_FORMS}")
    if len(values) == 1:
        what = "one value is nothing to search"
        raise ValueError(f"search {name}={given!r}: {what}; {_FORMS}, or set {name} in the experiment")
    choices = [
        value if value is None or isinstance(value, str | int | float) else json.dumps(value) for value in values
    ]
    if len({(type(choice), choice) for choice in choices}) < len(choices):
        raise ValueError(f"search {name}={given!r}: a choice is given twice; give each once")
    return CategoricalDistribution(choices)


def _number(name: str, text: str, word: str) -> float:
    try:
        return int(word) if _WHOLE.fullmatch(word) else float(word)
    except ValueError as error:
        raise ValueError(f"search {name}={text!r}: {word!r} is not a number; {_FORMS}") from error


def _split(text: str) -> list[str]:
    """Words between the commas that stand outside of brackets.

    >>> _split("[64,64],[128,128]")
    ['[64,64]', '[128,128]']
    """
    words, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            words.append("")
        else:
            words[-1] += letter
    return [word.strip() for word in words if word.strip()]


def _value(word: str) -> Any:
    """A number, a truth value or a list as JSON writes it; else the word itself."""
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def decoded(value: Any) -> Any:
    """What a drawn choice stands for: a list or a table is stored as JSON, since storages hold plain values alone.

    >>> decoded("[64, 64]"), decoded("rigl"), decoded(0.5)
    ([64, 64], 'rigl', 0.5)
    """
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


def draw(trial: Trial, name: str, domain: BaseDistribution) -> Any:
    """Let a trial draw one setting."""
    if isinstance(domain, FloatDistribution):
        return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
    if isinstance(domain, IntDistribution):
        return trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
    assert isinstance(domain, CategoricalDistribution)
    return trial.suggest_categorical(name, list(domain.choices))


def points(domain: BaseDistribution) -> list[Any]:
    """The values that a grid has of one setting: all choices and steps, or :data:`GRID_POINTS` even ones of a range.

    >>> points(parse_domain("x", "0.1..0.5:step=0.2")), points(parse_domain("x", "1e-4..1:log"))
    ([0.1, 0.3, 0.5], [0.0001, 0.001, 0.01, 0.1, 1.0])
    >>> points(parse_domain("x", "1..3")), points(parse_domain("x", "1..1000:log"))
    ([1, 2, 3], [1, 6, 32, 178, 1000])
    """
    if isinstance(domain, CategoricalDistribution):
        return list(domain.choices)
    assert isinstance(domain, FloatDistribution | IntDistribution)
    whole = isinstance(domain, IntDistribution)
    step = domain.step
    if step is not None and not domain.log and (not whole or step > 1 or domain.high - domain.low < GRID_POINTS):
        count = round((domain.high - domain.low) / step) + 1
        values = [round(domain.low + place * step, 12) for place in range(count)]
    else:
        shares = [place / (GRID_POINTS - 1) for place in range(GRID_POINTS)]
        low, high = (math.log(domain.low), math.log(domain.high)) if domain.log else (domain.low, domain.high)
        values = [low + share * (high - low) for share in shares]
        values = [float(f"{math.exp(value):.12g}") if domain.log else value for value in values]
    values = [min(max(value, domain.low), domain.high) for value in values]
    return list(dict.fromkeys(round(value) for value in values)) if whole else values


def grid(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Every combination of :func:`points`."""
    return [
        dict(zip(space, combination, strict=True)) for combination in itertools.product(*map(points, space.values()))
    ]
