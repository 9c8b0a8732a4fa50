"""From keys, or a TOML file of them, to a configuration, and back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from surgecollapse.lab.config.experiments import EXPERIMENTS
from surgecollapse.lab.config.mistakes import ConfigError, explain, unknown
from surgecollapse.lab.config.presets import TASK_PRESETS
from surgecollapse.lab.config.run_config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_config(**values: Any) -> RunConfig:
    """Build a configuration; every mistake is one line.

    Raises:
        ConfigError: for an unknown key or a value that the key does not take.

    >>> make_config(task="digits", sparcity=0.5)
    Traceback (most recent call last):
    surgecollapse.lab.config.ConfigError: unknown key 'sparcity': did you mean 'sparsity'? Valid keys: ...
    """
    for key in values:
        if key not in RunConfig.model_fields:
            raise ConfigError(unknown("key", key, list(RunConfig.model_fields), plural="keys"))
    if "task" not in values:
        raise ConfigError(f"no task given: choose one of {', '.join((*TASK_PRESETS, *EXPERIMENTS))}")
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def read_config(path: str | Path, **overrides: Any) -> RunConfig:
    """Read a TOML file of :class:`RunConfig` keys; ``overrides`` win over the file.

    Raises:
        ConfigError: if the file cannot be read, is no TOML, or holds an unknown key or a bad value.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply: expected flat keys") from error
    try:
        return make_config(**{**values, **overrides})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as TOML that :func:`read_config` reads back equal."""
    lines = [f"{key} = {_toml(value)}" for key, value in config.model_dump(mode="json").items() if value is not None]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_mapping(config: RunConfig) -> Mapping[str, Any]:
    """The configuration as JSON-ready values, by key."""
    return config.model_dump(mode="json")


def _toml(value: Any) -> str:
    """One value in TOML; basic strings of JSON and TOML are written alike."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
