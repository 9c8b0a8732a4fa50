"""Everything that decides how a run goes, as frozen, checked sections: data, model, method, optimizer, transforms, run.

The same keys serve as TOML keys, command line flags and Python arguments. Never imports torch, so that help
and error messages come at once.
"""

from surgecollapse.errors import ConfigError
from surgecollapse.lab.config.making import (
    as_mapping,
    as_toml,
    layered,
    make_config,
    read_config,
    read_layer,
    write_config,
)
from surgecollapse.lab.config.mistakes import explain
from surgecollapse.lab.config.root import RunConfig
from surgecollapse.lab.config.stored import flat_values

__all__ = [
    "ConfigError",
    "RunConfig",
    "as_mapping",
    "as_toml",
    "explain",
    "flat_values",
    "layered",
    "make_config",
    "read_config",
    "read_layer",
    "write_config",
]
