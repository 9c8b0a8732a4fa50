"""Everything that decides how a run goes, as one frozen, flat, checked value.

The same keys serve as TOML keys, command line flags and Python arguments. Never imports torch, so that help
and error messages come at once.
"""

from surgecollapse.lab.config.making import as_mapping, make_config, read_config, write_config
from surgecollapse.lab.config.mistakes import ConfigError, explain, nearest
from surgecollapse.lab.config.run_config import RunConfig

__all__ = [
    "ConfigError",
    "RunConfig",
    "as_mapping",
    "explain",
    "make_config",
    "nearest",
    "read_config",
    "write_config",
]
