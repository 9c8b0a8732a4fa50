"""Runs for the trackers that people already use; each exporter is one file and one optional package."""

from __future__ import annotations

from surgecollapse.lab.exporters.tensorboard import to_tensorboard

__all__ = ["EXPORTERS", "to_tensorboard"]

EXPORTERS = {"tensorboard": to_tensorboard}
"""Name of a tracker → what writes a run for it: (run directory, folder) → where it lies."""
