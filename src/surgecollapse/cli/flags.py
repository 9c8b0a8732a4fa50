"""Every key of the configuration as a flag, and what was given on a command line as values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from cyclopts import Group, Parameter
from pydantic_core import PydanticUndefined

from surgecollapse.errors import ConfigError
from surgecollapse.lab.config.keys import FAMILIES
from surgecollapse.lab.config.method import DEFAULT_POLICY
from surgecollapse.lab.config.presets import DEFAULT_TASK_PRESET
from surgecollapse.lab.tasks.registry import TASKS

_TITLES = {
    "data": "Data",
    "model": "Model",
    "method": "Method",
    "optimizer": "Optimizer",
    "transforms": "Transforms",
    "run": "Training",
}
_DOTTED = re.compile(rf"^--({'|'.join(FAMILIES)})\.([\w-]+)")
_DOTTED_OF = {"tune": "workers"}
"""Command → the key whose flag is written with its section, since the command has another flag of that name."""
_TABLES = ("policy_options", "data_options", "model_options")
"""Keys whose values are tables, written as JSON."""
_AS_WORDS = ("widths", "rules", *_TABLES)
"""Keys whose values are written in a form of their own."""


def _flags(dotted: str | None = None) -> type[pydantic.BaseModel]:
    """One optional flag per configuration key; what is not given is left to the file and the presets.

    Args:
        dotted: key whose flag is written with its section.
    """
    varied = {key for preset in (DEFAULT_TASK_PRESET, *(task.preset for task in TASKS.values())) for key in preset}
    fields: dict[str, Any] = {}
    for number, (section, family) in enumerate(FAMILIES.items()):
        group = Group(_TITLES[section], sort_key=number + 1)
        for name, field in family.fields():
            if name in fields or name == "task":
                continue
            kind: Any = str if name in _AS_WORDS or name == family.own(family.tag or "") else field.annotation
            text = str(field.description)
            if name == "widths":
                text += " Comma-separated: 256,256."
            if name in (section, "grokfast"):
                text += f" One of {', '.join(family.named)}"
                text += "; or your own, as file.py:name or package.module:name." if section == "model" else "."
            if name in varied and name != "grokfast":
                text += " Default: the task's." if name != "policy" else f" Default: {DEFAULT_POLICY}."
            elif field.default not in (None, (), PydanticUndefined) and name not in _TABLES:
                text += f" Default: {field.default}."
            flag = Parameter(name=f"--{section}.{name}" if name == dotted else None, group=group)
            fields[name] = (Annotated[kind | None, flag], pydantic.Field(None, description=text))
    return pydantic.create_model("Flags", **fields)


# Made from the configuration, so that flags and TOML keys cannot drift apart; a type checker needs a plain name.
if TYPE_CHECKING:
    from collections.abc import Sequence

    Flags = pydantic.BaseModel
    TuneFlags = pydantic.BaseModel
else:
    Flags, TuneFlags = _flags(), _flags(_DOTTED_OF["tune"])


def values_of(flags: Any) -> dict[str, Any]:
    """The flags that were given, as configuration values."""
    values = {} if flags is None else {k: v for k, v in flags.model_dump().items() if v is not None}
    if "widths" in values:
        try:
            values["widths"] = tuple(int(width) for width in values["widths"].split(",") if width.strip())
        except ValueError as error:
            raise ConfigError(f"widths = {values['widths']!r}: expected whole numbers like 256,256") from error
    if "rules" in values:
        values["rules"] = _rules(values["rules"])
    for name in _TABLES:
        if name in values:
            values[name] = _table(name, values[name])
    return values


def _rules(text: str) -> list[dict[str, str]]:
    """Rules of one flag.

    >>> _rules("loss is nan => stop; entropy < 0.3 for 5 => alert")
    [{'when': 'loss is nan', 'do': 'stop'}, {'when': 'entropy < 0.3 for 5', 'do': 'alert'}]
    """
    found = []
    for part in filter(str.strip, text.split(";")):
        when, arrow, do = part.partition("=>")
        if not arrow:
            raise ConfigError(f"rules = {part.strip()!r}: expected WHEN => DO, as in 'loss is nan => stop'")
        found.append({"when": when.strip(), "do": do.strip()})
    return found


def _table(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f'{name} is no JSON ({error}): expected {{"name": value}}') from error
    except RecursionError as error:
        raise ConfigError(f'{name} are nested too deeply: expected {{"name": value}}') from error


def arguments(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Arguments of a user's own parts, by the key of the configuration that takes them.

    Args:
        settings: each ``data.NAME=VALUE`` or ``model.NAME=VALUE``; a value that is no JSON is a word.

    >>> arguments(["model.width=256", "model.norm=batch", "data.flip=true"])
    {'model_options': {'width': 256, 'norm': 'batch'}, 'data_options': {'flip': True}}
    """
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        part, dot, name = key.partition(".")
        if not equals or not dot or part not in ("data", "model") or not name.isidentifier():
            raise ConfigError(f"--set {setting}: expected data.NAME=VALUE or model.NAME=VALUE")
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            value = text
        found.setdefault(f"{part}_options", {})[name] = value
    return found


def undotted(argv: Sequence[str]) -> list[str]:
    """A command line whose flags have their own names, where some were given with their section.

    >>> undotted(["run", "digits", "--optimizer.lr", "0.1", "--model.name=cnn"])
    ['run', 'digits', '--lr', '0.1', '--model=cnn']
    >>> undotted(["tune", "digits", "--data.workers", "4"])  # its --workers are those of the search
    ['tune', 'digits', '--data.workers', '4']
    """
    kept = _DOTTED_OF.get(argv[0], "") if argv else ""

    def own(found: re.Match[str]) -> str:
        return found[0] if found[2] == kept else f"--{found[1] if found[2] == 'name' else found[2]}"

    return [_DOTTED.sub(own, word) for word in argv]


def words(text: str | None) -> list[str]:
    """The words between the commas of a flag; none if it was not given."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
