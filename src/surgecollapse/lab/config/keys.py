"""Keys by their own names: which section each belongs to, and which kinds of that section have it.

A key may be given by its own name (``lr``), dotted (``optimizer.lr``) or in its section (``[optimizer]``). All own
names are different; ``model`` and ``optimizer`` stand for the names of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from surgecollapse.errors import ConfigError, unknown
from surgecollapse.lab.config import method, optimizer, transforms
from surgecollapse.lab.config.renamed import RENAMED
from surgecollapse.lab.config.run_section import Run
from surgecollapse.lab.models.project import OTHER_MODELS
from surgecollapse.lab.models.registry import MODELS
from surgecollapse.lab.section import Others
from surgecollapse.lab.tasks.project import OTHER_TASKS
from surgecollapse.lab.tasks.registry import TASKS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from surgecollapse.lab.section import Section


@dataclass(frozen=True)
class Family:
    """One section: its kinds, and the key that says which of them it is."""

    section: str
    tag: str | None
    named: Mapping[str, type[Section]]
    """Kinds by the names that are written down; of a section without kinds, itself by the empty name."""
    others: Others = ()
    """The kinds of other names."""

    def kind(self, name: Any) -> type[Section] | None:
        """The kind of a name; ``None`` if there is none of that name."""
        found = self.named.get("" if self.tag is None else str(name))
        return found or next((kind for kind, is_one in self.others if is_one(str(name))), None)

    @property
    def kinds(self) -> tuple[type[Section], ...]:
        """All kinds, each once."""
        return tuple(dict.fromkeys([*self.named.values(), *(kind for kind, _ in self.others)]))

    def own(self, field: str) -> str:
        """The own name of a field: the section's where it is just called ``name``."""
        return self.section if field == "name" else field

    def fields(self) -> Iterator[tuple[str, FieldInfo]]:
        """Own name and description of every key of any kind, the tag first."""
        for kind in self.kinds:
            for name, field in kind.model_fields.items():
                yield self.own(name), field


def _by_literal(union: Any, tag: str) -> dict[str, type[Section]]:
    kinds: tuple[type[Section], ...] = get_args(get_args(union)[0])
    return {word: kind for kind in kinds for word in get_args(kind.model_fields[tag].annotation)}


FAMILIES = {
    family.section: family
    for family in (
        Family("data", "task", TASKS, OTHER_TASKS),
        Family("model", "name", MODELS, OTHER_MODELS),
        Family("method", "policy", {"none": method.PlainTraining}, ((method.Controlled, method.is_policy),)),
        Family("optimizer", "name", _by_literal(optimizer.Optimizer, "name")),
        Family("transforms", "grokfast", _by_literal(transforms.Transforms, "grokfast")),
        Family("run", None, {"": Run}),
    )
}
"""By section, in the order in which a file has them."""


def _index() -> dict[str, tuple[str, FieldInfo]]:
    found: dict[str, tuple[str, FieldInfo]] = {}
    for section, family in FAMILIES.items():
        for name, field in family.fields():
            owner, _ = found.setdefault(name, (section, field))
            assert owner == section, f"{name} is a key of {owner} and of {section}"
    return found


KEYS = _index()
"""Own name → section and description, of every key that there is."""


def flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by own name, however they were given.

    Raises:
        ConfigError: for an unknown key, or one that is given twice.

    >>> flat({"lr": 0.1, "model": {"name": "cnn"}, "run.seed": 3})
    {'lr': 0.1, 'model': 'cnn', 'seed': 3}
    """
    values: dict[str, Any] = {}
    for name, value in _entries(given):
        if name in values:
            raise ConfigError(f"{name} is given twice: by its own name and in its section. Give it once")
        values[name] = value
    return values


def _entries(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        section, dot, field = str(key).partition(".")
        if section in FAMILIES and hasattr(value, "model_dump"):
            value = value.model_dump()
        if section in FAMILIES and not dot and isinstance(value, Mapping):
            yield from ((_own(section, str(name), f"{section}.{name}"), item) for name, item in value.items())
        elif dot:
            yield _own(section, field, str(key)), value
        elif key in KEYS:
            yield str(key), value
        elif section in FAMILIES:
            raise ConfigError(f"{section} = {value!r}: expected a table of keys, as in [{section}]")
        else:
            raise ConfigError(_unknown(str(key)))


def _own(section: str, field: str, key: str) -> str:
    if section not in FAMILIES:
        raise ConfigError(unknown("section", section, list(FAMILIES)))
    name = FAMILIES[section].own(field)
    if name not in KEYS or KEYS[name][0] != section or (field == section):
        raise ConfigError(_unknown(key))
    return name


def _unknown(key: str) -> str:
    section, _, name = key.rpartition(".")
    if name in RENAMED:
        return f"unknown key {key!r}: since version 0.2 it is called {RENAMED[name]!r}"
    if section in FAMILIES:
        valid = [f"{section}.{field}" for kind in FAMILIES[section].kinds for field in kind.model_fields]
        return unknown("key", key, list(dict.fromkeys(valid)))
    return unknown("key", key, [], unlisted=KEYS, see="one of `surgecollapse list keys`")


def nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by own name, in their sections."""
    found: dict[str, dict[str, Any]] = {section: {} for section in FAMILIES}
    for name, value in values.items():
        section = KEYS[name][0]
        found[section]["name" if name == section else name] = value
    return found


def unfit(values: Mapping[str, Any]) -> dict[str, str]:
    """Keys that the kinds of their sections do not have, each with why, in words.

    >>> unfit({"task": "digits", "model": "cnn", "modulus": 7})
    {'modulus': "has no effect with task = 'digits'"}
    """
    found: dict[str, str] = {}
    for name in values:
        family = FAMILIES[KEYS[name][0]]
        tag = None if family.tag is None else family.own(family.tag)
        if tag is None or tag not in values:
            continue
        kind = family.kind(values[tag])
        if kind is not None and name not in map(family.own, kind.model_fields):
            found[name] = f"has no effect with {tag} = {values[tag]!r}"
    return found
