"""From keys, or a TOML file of them, to a configuration, and back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from surgecollapse.errors import ConfigError
from surgecollapse.lab.config.filling import filled
from surgecollapse.lab.config.keys import nested
from surgecollapse.lab.config.mistakes import explain
from surgecollapse.lab.config.root import RunConfig
from surgecollapse.lab.config.stored import current, is_of_version_1
from surgecollapse.lab.section import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_config(**values: Any) -> RunConfig:
    """Build a configuration; every mistake is one line.

    Args:
        **values: keys by their own names, dotted, or as sections.

    Raises:
        ConfigError: for an unknown key or a value that the key does not take.

    >>> make_config(task="digits", optimizer={"name": "sgd", "lr": 0.1}, **{"run.seed": 3}).optimizer.lr
    0.1
    >>> make_config(task="digits", sparcity=0.5)
    Traceback (most recent call last):
    surgecollapse.lab.config.ConfigError: unknown key 'sparcity': expected one of ... Did you mean 'sparsity'?
    """
    return layered(values)


def layered(*layers: Mapping[str, Any]) -> RunConfig:
    """Build a configuration from layers of keys, of which the later override the earlier ones.

    Raises:
        ConfigError: as :func:`make_config` does.
    """
    try:
        return RunConfig.model_validate(nested(filled(*layers)))
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def read_config(path: str | Path, **overrides: Any) -> RunConfig:
    """Read a TOML file of keys, also one that version 0.1 wrote; ``overrides`` win over the file.

    Raises:
        ConfigError: if the file cannot be read, is not TOML, or holds an unknown key or a bad value.
    """
    values = read_layer(path)
    try:
        return layered(values, overrides) if overrides else layered(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_layer(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of keys, also one that version 0.1 wrote, as a layer that others may override.

    Raises:
        ConfigError: if the file cannot be read, or is not TOML.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply: expected sections of keys") from error
    return current(values) if is_of_version_1(values) else values


def write_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as TOML that :func:`read_config` reads back equal."""
    path.write_text(as_toml(config), encoding="utf-8")


def as_toml(config: RunConfig) -> str:
    """The resolved configuration as TOML: every key of every section, so that no preset fills anything."""
    parts = []
    for section, values in as_mapping(config).items():
        lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
        parts.append("\n".join([f"[{section}]", *lines]) + "\n")
    return "\n".join(parts)


def as_mapping(config: RunConfig) -> Mapping[str, Any]:
    """The configuration as JSON-ready values, by section and key."""
    return config.model_dump(mode="json")


def _toml(value: Any) -> str:
    """One value in TOML; basic strings of JSON and TOML are written alike."""
    if value is None:
        return _toml(NONE)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
