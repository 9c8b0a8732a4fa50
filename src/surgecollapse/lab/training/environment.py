"""What a run runs on: its device, and versions and hardware for its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.errors import ConfigError
from surgecollapse.record.machine import machine

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig


def training_device(config: RunConfig) -> torch.device:
    """Where a run trains.

    Raises:
        ConfigError: if it asks for a GPU and torch sees none.
    """
    if config.run.device == "cuda" and not torch.cuda.is_available():
        build = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build for CPUs"
        raise ConfigError(
            f"device = 'cuda': torch sees no GPU here (torch {torch.__version__} {build}): see `surgecollapse doctor`, "
            "or train with device = 'cpu' (a run that is resumed or replayed has it in its config.toml)"
        )
    return torch.device(config.run.device)


def finish_work(device: torch.device) -> None:
    """Wait for all that is queued on a device, so that a clock read after it has counted it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment() -> dict[str, Any]:
    """Versions, threads and hardware as JSON-ready values.

    >>> sorted(environment())[:3]
    ['cores', 'cores_usable', 'cuda']
    """
    cuda = torch.cuda.is_available()
    return {
        **machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
    }
