"""Energy of a call, from the processor's own counters where the system lets them be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

_ZONES = Path("/sys/class/powercap")


class EnergyCounters:
    """Energy counters of the processor packages (RAPL), as Linux shows them under ``/sys/class/powercap``.

    A counter ``energy_uj`` counts microjoules up to ``max_energy_range_uj`` and starts again at zero. It counts what
    every program on the package uses. Many systems let only the administrator read it. (Linux kernel documentation,
    *Power Capping Framework*.)

    Args:
        zones: folder of the power zones.

    >>> EnergyCounters(Path("no such folder")).joules(lambda: None) is None
    True
    """

    def __init__(self, zones: Path = _ZONES) -> None:
        packages = [zone for zone in sorted(zones.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self._ranges = {zone / "energy_uj": _number(zone / "max_energy_range_uj") for zone in packages}
        self.available = bool(packages) and all(_number(counter) is not None for counter in self._ranges)
        """Whether there are counters, and all can be read."""

    def joules(self, function: Callable[[], object], seconds: float = 0.2) -> float | None:
        """Joules of a call: energy of all packages while ``function`` is called again and again, over the calls.

        Args:
            function: what to call.
            seconds: how long at least; counters are renewed about every millisecond.

        Returns:
            Joules, with what the idle machine uses in that time; None without readable counters.
        """
        if not self.available:
            return None
        before = {counter: _number(counter) for counter in self._ranges}
        start, calls = time.perf_counter(), 0
        while not calls or time.perf_counter() - start < seconds:
            function()
            calls += 1
        used = 0
        for counter, first in before.items():
            last = _number(counter)
            if first is None or last is None:
                return None
            if last < first:
                span = self._ranges[counter]
                if span is None:
                    return None
                last += span
            used += last - first
        return used / 1e6 / calls


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
