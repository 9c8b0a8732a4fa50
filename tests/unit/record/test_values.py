"""What may be recorded, and what is believed of a record: NumPy and torch scalars, and rows that are damaged."""

from __future__ import annotations

import json
import math
import sqlite3

import numpy as np
import pytest
import torch

from surgecollapse.events import (
    Decision,
    Intervention,
    Measurement,
    Reading,
    Request,
    SetNoise,
    to_dict,
)
from surgecollapse.record import CommandQueue, RunStore, RunStoreError, Tail, load_run
from surgecollapse.record.schema import connect

NUMBERS = {
    "int": 7,
    "float": 7.0,
    "np.int8": np.int8(7),
    "np.uint16": np.uint16(7),
    "np.int32": np.int32(7),
    "np.int64": np.int64(7),
    "np.uint64": np.uint64(7),
    "np.float16": np.float16(7),
    "np.float32": np.float32(7),
    "np.float64": np.float64(7),
    "np.longdouble": np.longdouble(7),
    "np 0-d int": np.array(7),
    "np 0-d float": np.array(7.0, dtype=np.float32),
    "torch int32": torch.tensor(7, dtype=torch.int32),
    "torch int64": torch.tensor(7),
    "torch float32": torch.tensor(7.0),
    "torch bfloat16": torch.tensor(7.0, dtype=torch.bfloat16),
    "torch with gradient": torch.tensor(3.5, requires_grad=True) * 2,
}
NOT_STEPS = {
    "NaN": math.nan,
    "np NaN": np.float32("nan"),
    "infinity": math.inf,
    "half": 0.5,
    "2**63": 2**63,
    "-2**63 - 1": -(2**63) - 1,
    "2**64 - 1": np.uint64(2**64 - 1),
    "400 digits": 10**400,
    "5000 digits": 10**5000,
    "text": "7",
    "None": None,
    "array": np.arange(2),
    "tensor": torch.arange(2),
    "complex": 7j,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


def act(step, **details):
    return Intervention(step=step, kind="collapse", phase="sparse", reason="", sparsity_before=0.0, sparsity_after=0.5,
                        details=details)  # fmt: skip


RECORDERS = {
    "measure": lambda store, step: store.measure(step, "x", 1.0),
    "reading": lambda store, step: store.record(Reading(step=step)),
    "intervention": lambda store, step: store.record(act(step)),
    "request": lambda store, step: store.record(
        Request(step=step, kind="stop", body={}, source="page", status="applied", reason="")
    ),
    "array": lambda store, step: store.put_array(step, "a", np.zeros(2)),
    "truncate": lambda store, step: store.truncate_after(step),
}


@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
def test_steps_and_values_of_any_kind_of_number_come_back_as_numbers(path, value):
    with RunStore(path, mode="w") as store:
        store.measure(value, "x", value)
        store.record(Reading(step=value, loss=value, sparsity=value))
        store.record(act(value, noise_std=value, spread=[value, value]))
        store.record(Decision(phase="sparse", reason="", actions=(SetNoise(value),)))
        store.put_array(value, "a", np.zeros(2))
        store.set("config", {"lr": value, "widths": (value,)})
    with RunStore(path) as store:
        series = store.measurements("x")
        assert (series.steps.tolist(), series.values.tolist()) == ([7], [7.0])
        assert store.readings() == [Reading(step=7, loss=7.0, sparsity=7.0)]
        assert store.interventions() == [act(7, noise_std=7.0, spread=[7.0, 7.0])]
        assert [(step, decision.actions) for step, decision in store.decisions()] == [(7, (SetNoise(7.0),))]
        assert [step for step, _ in store.arrays("a")] == [7]
        assert store.get("config") == {"lr": 7, "widths": [7]}
        assert store.skipped == 0
    with RunStore(path, mode="a") as store:
        store.truncate_after(value)
        assert len(store.measurements("x").steps) == 1
        store.truncate_after(NUMBERS["np.int64"] - 1)
        assert len(store.measurements("x").steps) == len(store.readings()) == 0


@pytest.mark.parametrize("recorder", RECORDERS.values(), ids=RECORDERS)
@pytest.mark.parametrize("step", NOT_STEPS.values(), ids=NOT_STEPS)
def test_a_step_that_cannot_be_stored_is_refused_at_the_call_and_nothing_else_is_lost(path, recorder, step):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
        with pytest.raises(ValueError, match="step must"):
            recorder(store, step)
        store.measure(2, "x", 2.0)
        assert store.measurements("x").steps.tolist() == [1, 2]


@pytest.mark.parametrize("value", ["0.5", None, 1j, np.zeros(2), torch.zeros(3), 10**400], ids=str)
def test_a_value_that_is_no_number_is_refused_at_the_call(path, value):
    with RunStore(path, mode="w") as store, pytest.raises(ValueError, match="value must"):
        store.measure(1, "x", value)


@pytest.mark.parametrize("bad", ["a\ud800b", "\udfff"])
@pytest.mark.parametrize(
    "write",
    [
        lambda store, text: store.measure(1, text, 1.0),
        lambda store, text: store.measure(1, "x", 1.0, layer=text),
        lambda store, text: store.put_array(1, text, np.zeros(1)),
        lambda store, text: store.set(text, 1),
        lambda store, text: store.set("config", {"name": text}),
        lambda store, text: store.set("config", {text: 1}),
        lambda store, text: store.record(Decision(phase="sparse", reason=text)),
        lambda store, text: store.record(act(1, note=[text])),
    ],
)
def test_a_lone_surrogate_is_refused_at_the_call_and_the_store_goes_on(path, write, bad):
    with RunStore(path, mode="w") as store:
        with pytest.raises(ValueError, match="lone surrogates"):
            write(store, bad)
        store.measure(1, "ünï😀", 1.0)
        assert store.names() == [("ünï😀", None)]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", lambda: 0], ids=["object", "set", "bytes", "function"])
def test_what_json_cannot_hold_is_refused_at_the_call(path, value):
    with RunStore(path, mode="w") as store:
        for write in (lambda: store.set("config", {"a": value}), lambda: store.record(act(1, a=value))):
            with pytest.raises(ValueError, match="cannot be recorded"):
                write()


def test_what_is_nested_too_deep_is_refused_at_the_call(path):
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    with RunStore(path, mode="w") as store, pytest.raises(ValueError, match="nested"):
        store.set("config", deep)


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array([b"x"]), np.zeros(1, dtype="M8[s]"), np.zeros(2, dtype=[("a", int)])]
)
def test_arrays_without_numbers_are_refused_at_the_call(path, array):
    with RunStore(path, mode="w") as store, pytest.raises(ValueError, match="numeric"):
        store.put_array(0, "a", array)


READING = json.dumps(to_dict(Reading(step=3))["event"])
BAD_EVENTS = {
    "no JSON": "{",
    "a list": "[]",
    "no values": "{}",
    "deep": "[" * 10_000 + "]" * 10_000,
    "text for a number": READING.replace('"loss": null', '"loss": "high"'),
    "a huge step": READING.replace('"step": 3', f'"step": {10**400}'),
    "a list of layers that are none": READING.replace('"layers": []', '"layers": [3]'),
    "a blob": b"\x00\xff",
    "NULL in its place": 7,
}
BAD_ARRAYS = {
    "a bad shape": ("<f4", "[3, 3]", b"\0" * 8),
    "a negative shape": ("<f4", "[-1, -2]", b"\0" * 8),
    "a huge shape": ("<f4", f"[{2**70}]", b"\0" * 8),
    "a shape that overflows": ("<f4", "[4294967296, 4294967296, 0]", b"\0" * 8),
    "no shape": ("<f4", "{}", b"\0" * 8),
    "objects": ("|O", "[1]", b"\0" * 8),
    "text": ("<U2", "[1]", b"\0" * 8),
    "a dtype that is none": ("f4,i4", "[1]", b"\0" * 8),
    "a dtype of commas": ("),(", "[1]", b"\0" * 8),
    "text for bytes": ("<f4", "[2]", "12345678"),
}


def spoilt(path, statement, *rows):
    """A good store with a few rows that no store of this library writes."""
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
        store.record(Reading(step=1))
        store.put_array(1, "a", np.arange(3.0))
        store.set("status", "running")
    connection = sqlite3.connect(path)
    connection.executemany(statement, rows)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("body", BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_damaged_events_are_skipped_and_counted(path, body):
    spoilt(path, "INSERT INTO events (step, kind, version, body) VALUES (2, 'Reading', 1, ?)", (body,))
    with RunStore(path) as store:
        assert store.readings() == [Reading(step=1)]
        assert store.skipped == 1
    tail = Tail(path)
    assert [event for _, event in tail.read().events] == [Reading(step=1)]
    assert tail.skipped == 1


@pytest.mark.parametrize("parts", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_damaged_arrays_are_skipped_and_counted(path, parts):
    spoilt(path, "INSERT INTO arrays (step, name, dtype, shape, data) VALUES (2, 'a', ?, ?, ?)", parts)
    with RunStore(path) as store:
        [(step, values)] = store.arrays("a")
        assert (step, values.tolist(), store.skipped) == (1, [0.0, 1.0, 2.0], 1)
    tail = Tail(path)
    assert [step for step, _, _ in tail.read().arrays] == [1]
    assert tail.skipped == 1


@pytest.mark.parametrize(
    "row", [("text", 1.0), (2, "text"), (2, b"blob"), (b"\7\0\0\0\0\0\0\0", 1.0), (2.5, 1.0)], ids=str
)
def test_measurements_of_the_wrong_type_are_skipped_and_counted(path, row):
    spoilt(path, "INSERT INTO measurements VALUES (1, ?, ?)", row)
    with RunStore(path) as store:
        series = store.measurements("x")
        assert (series.steps.tolist(), series.values.tolist(), store.skipped) == ([1], [1.0], 1)
    tail = Tail(path)
    assert tail.read().measurements == [Measurement(step=1, name="x", value=1.0)]
    assert tail.skipped == 1


@pytest.mark.parametrize("value", ["{", "[" * 10_000, "1" * 5_000, b"\0", None], ids=lambda v: ascii(v)[:12])
def test_damaged_run_level_values_are_named_and_left_out(path, value):
    spoilt(path, "INSERT OR REPLACE INTO meta VALUES ('config', coalesce(?, x'00'))", (value,))
    with RunStore(path) as store:
        assert store.meta() == {"status": "running"}
        with pytest.raises(ValueError, match="the value 'config' is damaged"):
            store.get("config")


BAD_COMMANDS = {
    "400 digits": ("pump", f'{{"noise_std": {10**400}}}', "queued"),
    "no JSON": ("pump", "{", "queued"),
    "a list": ("pump", "[]", "queued"),
    "NaN": ("pump", '{"noise_std": NaN}', "queued"),
    "deep": ("pump", "[" * 10_000, "queued"),
    "a blob": (b"pump", "{}", "queued"),
    "a number": (3.5, "{}", "queued"),
}


@pytest.mark.parametrize("row", BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_damaged_commands_are_rejected_and_the_good_ones_taken(path, row):
    from surgecollapse.commands import Pause
    from surgecollapse.controller.command_loop import CommandLoop

    columns = "token, created, source, kind, body, status"
    spoilt(path, f"INSERT INTO commands ({columns}) VALUES ('t', 1.0, 'page', ?, ?, ?)", row)
    queue = CommandQueue(path)
    good = queue.put(Pause(), source="page")
    done = []
    command_loop = CommandLoop(done.append)
    command_loop.handlers["pause"] = lambda command: "waits"
    command_loop.handlers["pump"] = lambda command: "noise"
    command_loop.open(queue)
    assert command_loop.boundary(3)
    assert queue.pending() == []
    assert queue.get(good).status == "applied"
    connection = connect(path, "r")
    assert connection.execute("SELECT status FROM commands WHERE token = 't'").fetchone() == ("rejected",)
    connection.close()


def test_a_run_with_damaged_rows_is_still_read_as_tables(path):
    pytest.importorskip("pandas")
    spoilt(path, "INSERT INTO events (step, kind, version, body) VALUES (2, 'Reading', 1, ?)", ("{",), ("[]",))
    with load_run(path) as run:
        assert run.readings()["step"].tolist() == [1]
        assert run.measurements()["value"].tolist() == [1.0]
        assert run.store.skipped == 2


def test_a_token_used_for_another_command_is_refused(path):
    from surgecollapse.commands import Pause, Pump

    spoilt(path, "INSERT OR REPLACE INTO meta VALUES (?, ?)", ("note", "1"))
    queue = CommandQueue(path)
    first = queue.put(Pump(noise_std=0.1), source="page", token="click")
    assert queue.put(Pump(noise_std=0.1), source="page", token="click") == first
    for other in (Pump(noise_std=0.2), Pause()):
        with pytest.raises(ValueError, match="used for another command"):
            queue.put(other, source="page", token="click")
    assert len(queue.all()) == 1


def test_a_file_that_is_there_is_never_taken_over_by_two(path):
    RunStore(path, mode="w").close()
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunStore(path, mode="w")
    with pytest.raises(RunStoreError, match="choose a folder"):
        RunStore(path.parent / "none" / "run.db", mode="w")
