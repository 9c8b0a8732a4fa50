"""Energy of a call from counters in files."""

from __future__ import annotations

from itertools import count

import pytest

from surgecollapse.lab import energy
from surgecollapse.lab.energy import EnergyCounters


@pytest.fixture
def zones(tmp_path):
    for name, joules in (("intel-rapl:0", 900), ("intel-rapl:1", 100), ("intel-rapl:0:0", 5), ("dtpm", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{joules}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
    return tmp_path


def use(zones, *microjoules):
    for package, amount in enumerate(microjoules):
        file = zones / f"intel-rapl:{package}" / "energy_uj"
        file.write_text(str((int(file.read_text()) + amount) % 1000))


def test_packages_are_summed_and_a_counter_that_starts_again_goes_on(zones):
    # 900 + 150 wraps to 50 of 1000; parts of a package and other zones are not counted twice.
    assert EnergyCounters(zones).joules(lambda: use(zones, 150, 30), seconds=0) == pytest.approx(180e-6)


def test_energy_is_of_one_call(zones, monkeypatch):
    tenths = count()
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(tenths) / 10)
    calls = []

    def call():
        calls.append(1)
        use(zones, 7 if len(calls) == 1 else 1, 0)

    # Clock: 0 at the start, then .1, .2, .3 after one, two and three calls.
    assert EnergyCounters(zones).joules(call, seconds=0.25) == pytest.approx(9e-6 / 3)
    assert len(calls) == 3


@pytest.mark.parametrize("broken", ["gone", "text"])
def test_without_readable_counters_there_is_no_figure(zones, broken):
    file = zones / "intel-rapl:1" / "energy_uj"
    file.unlink() if broken == "gone" else file.write_text("?")
    counters = EnergyCounters(zones)
    assert not counters.available
    assert counters.joules(lambda: None) is None
