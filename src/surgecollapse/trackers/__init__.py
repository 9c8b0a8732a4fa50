"""Runs in the trackers that people already use; each is one file and one optional package.

An exporter is a reader of the run store: it tells afterwards, or follows a run while it trains, from a process of its
own. The record is the truth, and no tracker can stop training or make it wait.
"""

from __future__ import annotations

from surgecollapse.trackers.live import exporting
from surgecollapse.trackers.registry import TRACKERS, check_tracker, export_to

__all__ = ["TRACKERS", "check_tracker", "export_to", "exporting"]
