"""Monitors: one file each. They look at a :class:`~surgecollapse.protocols.MonitorContext` and change nothing."""

from __future__ import annotations

from surgecollapse.observe.monitors.registry import DEFAULT, MONITORS, Monitors, make_monitors, monitor

__all__ = ["DEFAULT", "MONITORS", "Monitors", "make_monitors", "monitor"]
