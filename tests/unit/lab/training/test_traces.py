"""What is traced of weights and gradients, and what the report makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.traces import ENTRIES, PREFIX, Traces
from surgecollapse.record import RunStore
from surgecollapse.report.collect import collect
from surgecollapse.report.rundata import RunData
from surgecollapse.report.spectrum import slow_and_fast, slow_gradients, traces_of

SHORT = {"task": "digits", "policy": "none", "widths": (8,), "steps": 40, "clip": 1e-3, "grokfast": "ema"}


def test_entries_are_those_of_the_weights_and_of_their_gradients():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 100))
    model[1].weight.grad = torch.arange(300.0).reshape(100, 3)
    found = Traces(model)()
    assert list(found) == ["0.weight", "1.weight"]
    weights, gradients = found["1.weight"]
    assert len(set(gradients)) == ENTRIES
    assert np.array_equal(weights, model[1].weight.detach().reshape(-1)[gradients.astype(int)])
    assert found["0.weight"].shape == (2, 12)
    assert not found["0.weight"][1].any()
    # Another net with the same names and sizes is followed at the same places, whatever the generators do.
    torch.rand(3)
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 100))
    other[1].weight.grad = torch.arange(300.0).reshape(100, 3)
    assert np.array_equal(Traces(other)()["1.weight"][1], gradients)


def traces(folder):
    with RunStore(folder / "run.db") as store:
        return {name: store.arrays(f"{PREFIX}{name}") for name in ("body.1.weight", "head.weight")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced") / "run"
    train(make_config(**SHORT, gradient_trace_every=2, checkpoint_every=10), folder)
    return folder


def test_gradients_are_recorded_as_the_backward_pass_left_them(folder, tmp_path):
    recorded = traces(folder)["head.weight"]
    assert [step for step, _ in recorded] == list(range(0, 40, 2))
    # Clipped and filtered they would be a thousandth as large.
    assert np.abs(recorded[0][1][1]).max() > 1e-3
    plain = tmp_path / "plain"
    train(make_config(**SHORT, checkpoint_every=10), plain)
    with RunStore(folder / "run.db") as store, RunStore(plain / "run.db") as other:
        assert np.array_equal(store.measurements("loss/train").values, other.measurements("loss/train").values)
    assert traces(plain) == {"body.1.weight": [], "head.weight": []}


def test_a_resumed_run_has_the_same_traces(folder, tmp_path):
    from surgecollapse.lab.training.progress import Silent

    class Stop(Silent):
        def update(self, snapshot):
            if snapshot.step == 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_config(**SHORT, gradient_trace_every=2, checkpoint_every=10), tmp_path / "run", progress=Stop())
    train(None, tmp_path / "run", resume=True)
    for name, recorded in traces(folder).items():
        again = traces(tmp_path / "run")[name]
        assert [step for step, _ in again] == [step for step, _ in recorded]
        assert all(np.array_equal(one, two) for (_, one), (_, two) in zip(again, recorded, strict=True))


def test_the_report_shows_the_traces_of_a_run(folder):
    run = collect(folder)
    assert [trace.name for trace in traces_of(run)] == ["body.1.weight", "head.weight"]
    picture = slow_gradients(run)
    assert picture.name == "slow-gradients-1"
    assert "every 2 steps" in picture.caption
    assert "not determined: a record of" in picture.caption  # the run is shorter than the cut-off of the paper's filter
    assert "trace_every" not in picture.caption
    longer = replace(run, config={**run.config, "grokfast": "ema", "grokfast_alpha": 0.5})
    assert "`body.1.weight`" in slow_gradients(longer).caption
    assert slow_gradients(replace(run, traces={})) is None


def run_of(spacing: int, alpha: float, traced: bool = True) -> RunData:
    steps = np.arange(60) * spacing
    wave = np.cos(np.pi * (np.arange(60) + 0.5) * 3 / 60)[:, None]
    values = np.stack([wave * np.ones(16), wave * np.arange(1, 17)], 1)
    return RunData(
        "run", Path(), config={"grokfast": "ema", "grokfast_alpha": alpha}, sketch=(steps, wave * np.ones(4)),
        traces={"w": (steps, values)} if traced else {},
    )  # fmt: skip


def test_a_wave_is_slow_or_fast_by_the_cut_off():
    (trace,) = traces_of(run_of(2, alpha=0.9))  # cut-off .0168, the wave .0125 cycles per step
    assert trace.slow(0) == pytest.approx(1.0)
    assert trace.slow(1) == pytest.approx(1.0)
    (trace,) = traces_of(run_of(1, alpha=0.9))  # the wave .025
    assert trace.slow(1) == pytest.approx(0.0, abs=1e-12)


def test_records_too_far_apart_for_the_cut_off_are_not_said_to_be_slow():
    far = run_of(100, alpha=0.9)
    caption = slow_gradients(far).caption
    undetermined = (
        "not determined: records 100 steps apart show nothing faster than the cut-off; train with `gradient_trace_every"
    )
    assert f"{undetermined} = 14`" in caption
    assert "%" not in caption
    assert f"run {undetermined} = 14`" in slow_and_fast([far]).caption
    assert "100.0 %" not in slow_and_fast([far]).caption
    near = run_of(10, alpha=0.98)
    assert "run 100.0 %" in slow_and_fast([near]).caption


def test_a_run_shorter_than_the_cut_off_is_not_said_to_be_fast():
    short = run_of(1, alpha=0.98)
    for caption in (slow_gradients(short).caption, slow_and_fast([short]).caption):
        assert "not determined: a record of 60 steps is shorter than half a period of the cut-off, 1" in caption
        assert "%" not in caption


def test_what_does_not_move_or_is_not_finite_is_left_out():
    run = run_of(2, alpha=0.9)
    steps, values = run.traces["w"]
    still, broken = np.zeros_like(values), values.copy()
    broken[3] = np.nan
    more = {**run.traces, "still": (steps, still), "broken": (steps, broken), "few": (steps[:5], values[:5])}
    assert [trace.name for trace in traces_of(replace(run, traces=more))] == ["w"]
