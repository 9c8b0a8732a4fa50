"""What every row says of where it is from: the library's version, and everything that the run was asked to do."""

from __future__ import annotations

from typing import Any

import surgecollapse
from surgecollapse.lab.config import RunConfig, as_mapping, flat_values


def provenance(config: RunConfig) -> dict[str, Any]:
    """Version and resolved configuration, by own name: a row without them cannot be told from a mislabeled one.

    >>> from surgecollapse.lab.config import make_config
    >>> provenance(make_config(task="digits"))["config"]["policy"]
    'cyclic_pruning'
    """
    return {"version": surgecollapse.__version__, "config": flat_values(as_mapping(config))}
