"""Ranges of settings for which a search gives none: data of this package, each with where it comes from."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from surgecollapse.errors import ConfigError, unknown
from surgecollapse.tuning.settings import resolve

_FILE = Path(__file__).with_name("priors.toml")


@cache
def priors() -> dict[str, dict[str, Any]]:
    """All of them, by name: ``domain`` in the grammar of :mod:`surgecollapse.tuning.space`, and ``source``."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def prior(name: str) -> str:
    """The range of a setting.

    Raises:
        ConfigError: if the setting is unknown, or has none.

    >>> prior("lr"), prior("optimizer.lr") == prior("lr")
    ('1e-4..3e-2:log', True)
    """
    key, option = resolve(name)
    own = key if option is None else f"{key.removesuffix('_options')}.{option}"
    if own not in priors():
        what = unknown("range of", name, list(priors()))
        raise ConfigError(f"search {name}: the library has no range for it; write {name}=LOW..HIGH. {what}")
    return str(priors()[own]["domain"])
