"""The run store: what goes in comes out, and no kill or full disk loses what was committed."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from surgecollapse.events import Decision, Intervention, LayerChange, LayerReading, Measurement, Prune, Reading
from surgecollapse.record import MemoryRecorder, RunStore, RunStoreError, schema
from surgecollapse.record import writer as writer_module
from surgecollapse.record.filesystem import is_network, way


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


def reading(step: int) -> Reading:
    layer = LayerReading(layer="body.1", entropy=0.5, on_off=0.9, energy=1.25, dead=0.0, units=8, rows=64)
    return Reading(step=step, layers=(layer,), entropy=0.5, on_off=0.9, loss=1.5, sparsity=0.25)


def intervention(step: int) -> Intervention:
    change = LayerChange(name="body.0.weight", size=10, live=5, energy_before=2.0, energy_after=1.5)
    return Intervention(
        step=step,
        kind="collapse",
        phase="sparse",
        reason="because",
        sparsity_before=0.0,
        sparsity_after=0.5,
        pruned=5,
        layers=(change,),
        details={"tries": 2},
    )


def test_events_come_back_equal_and_in_order(path):
    decision = Decision(phase="sparse", reason="plateau", actions=(Prune((0.9, 0.95), floor=0.4),))
    with RunStore(path, mode="w") as store:
        for event in (reading(50), decision, intervention(50), reading(100)):
            store.record(event)
    with RunStore(path) as store:
        assert store.readings() == [reading(50), reading(100)]
        assert store.decisions() == [(50, decision)]
        assert store.interventions() == [intervention(50)]


def test_measurements_are_sorted_by_step_and_kept_apart_by_layer(path):
    with RunStore(path, mode="w") as store:
        store.measure(20, "loss/train", 2.0)
        store.measure(10, "loss/train", 1.0)
        store.measure(10, "loss/train", 9.0, layer="a")
        series = store.measurements("loss/train")
        assert series.steps.tolist() == [10, 20]
        assert series.values.tolist() == [1.0, 2.0]
        assert store.measurements("loss/train", layer="a").values.tolist() == [9.0]
        assert store.names() == [("loss/train", None), ("loss/train", "a")]
        assert len(store.measurements("never").steps) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-310, 0.1 + 0.2])
def test_every_float_comes_back_bitwise(path, value):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", value)
        back = store.measurements("x").values[0]
    assert np.array_equal([back], [value], equal_nan=True)


def test_non_finite_values_in_events_survive(path):
    with RunStore(path, mode="w") as store:
        store.record(Reading(step=1, loss=math.nan, grad_norm=math.inf, finite=False))
        back = store.readings()[0]
    assert math.isnan(back.loss)
    assert back.grad_norm == math.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_, ">f8"])
def test_arrays_come_back_equal_whatever_dtype_and_stride(path, dtype):
    array = np.arange(24).reshape(4, 6).astype(dtype)[:, ::2]
    with RunStore(path, mode="w") as store:
        store.put_array(3, "a", array)
        [(step, back)] = store.arrays("a")
    assert step == 3
    assert back.shape == (4, 3)
    assert np.array_equal(back, array)


TENSORS = {
    "bfloat16": lambda x: x.bfloat16(),
    "8-bit float": lambda x: x.to(torch.float8_e4m3fn),
    "half": lambda x: x.half(),
    "with a gradient": lambda x: x.requires_grad_(),
    "sparse": lambda x: x.to_sparse(),
    "compressed": lambda x: x.to_sparse_csr(),
    "integers": lambda x: x.int(),
    "imaginary part": lambda x: torch.complex(torch.zeros(2, 2), -x).conj().imag,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_any_kind_are_arrays(path, kind):
    with RunStore(path, mode="w") as store:
        store.put_array(3, "a", TENSORS[kind](torch.tensor([[1.0, 0.0], [2.0, 4.0]])))
        assert store.arrays("a")[0][1].tolist() == [[1.0, 0.0], [2.0, 4.0]]


def test_arrays_alias_neither_the_callers_memory_nor_each_other(path):
    array = np.zeros(3)
    with RunStore(path, mode="w") as store:
        store.put_array(0, "a", array)
        array[:] = 7.0
        first = store.arrays("a")[0][1]
        first[:] = 5.0
        assert store.arrays("a")[0][1].tolist() == [0.0, 0.0, 0.0]


def test_a_closed_store_is_one_file_and_stays_one_when_it_is_read(path):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
    with RunStore(path) as store:
        assert store.measurements("x").steps.tolist() == [1]
    assert [entry.name for entry in path.parent.iterdir()] == ["run.db"]


def test_a_writer_may_close_while_a_reader_is_there(path):
    writer = RunStore(path, mode="w")
    writer.measure(1, "x", 1.0)
    writer.flush()
    with RunStore(path) as reader:
        assert reader.measurements("x").steps.tolist() == [1]
        writer.close()
        assert reader.measurements("x").steps.tolist() == [1]


def test_an_array_of_objects_is_refused(path):
    with RunStore(path, mode="w") as store, pytest.raises(ValueError, match="numeric"):
        store.put_array(0, "a", np.array([object()]))


def test_meta_values_alias_nothing(path):
    value = {"list": [1, 2]}
    with RunStore(path, mode="w") as store:
        store.set("config", value)
        value["list"].append(3)
        assert store.get("config") == {"list": [1, 2]}
        assert store.get("missing") is None
        assert store.get("missing", 4) == 4


def test_truncate_drops_exactly_the_later_steps(path):
    with RunStore(path, mode="w") as store:
        for step in (1, 2, 3):
            store.measure(step, "x", step)
            store.record(reading(step))
            store.record(Decision(phase="sparse", reason=str(step)))
            store.put_array(step, "a", np.array([step]))
        store.truncate_after(2)
        assert store.measurements("x").steps.tolist() == [1, 2]
        assert [event.step for event in store.readings()] == [1, 2]
        assert [step for step, _ in store.decisions()] == [1, 2]
        assert [step for step, _ in store.arrays("a")] == [1, 2]


def test_a_decision_is_filed_under_its_own_step_and_dropped_with_it(path):
    with RunStore(path, mode="w") as store:
        store.record(reading(50))
        store.record(Decision(phase="open", reason="requested by a user", step=61))
        store.truncate_after(60)  # a checkpoint of step 60 knows nothing of it
        assert store.decisions() == []
        store.record(Decision(phase="open", reason="requested by a user", step=61))
        assert [step for step, _ in store.decisions()] == [61]


def test_a_store_that_is_opened_again_knows_the_step_of_its_newest_event(path):
    with RunStore(path, mode="w") as store:
        store.record(reading(50))
    with RunStore(path, mode="a") as store:
        store.record(Decision(phase="sparse", reason="without a step"))
        assert [step for step, _ in store.decisions()] == [50]


def test_a_resumed_store_continues_its_series(path):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
        store.measure(1, "y", 2.0)
    with RunStore(path, mode="a") as store:
        store.measure(2, "y", 3.0)
        store.measure(2, "z", 4.0)
    with RunStore(path) as store:
        assert store.measurements("y").values.tolist() == [2.0, 3.0]
        assert store.measurements("z").values.tolist() == [4.0]
        assert store.measurements("x").values.tolist() == [1.0]


def test_an_existing_file_is_never_replaced(path):
    RunStore(path, mode="w").close()
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunStore(path, mode="w")
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_missing_file_is_said_and_not_made(path, mode):
    with pytest.raises(FileNotFoundError, match="no run store"):
        RunStore(path, mode=mode)
    assert not path.exists()


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_file_that_is_no_database_is_refused(path, mode):
    path.write_bytes(b"this is not a database, only some text that is long enough" * 20)
    with pytest.raises(ValueError, match=r"run store|run\.db"):
        RunStore(path, mode=mode)


def test_a_foreign_database_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE meta (key, value)")
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match="no surgecollapse run store"):
        RunStore(path)


def test_a_newer_schema_is_refused_with_the_way_out(path):
    RunStore(path, mode="w").close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(ValueError, match="update surgecollapse"):
        RunStore(path)


def test_an_unknown_mode_is_refused(path):
    with pytest.raises(ValueError, match="'r', 'w' or 'a'"):
        RunStore(path, mode="x")


def test_a_reader_cannot_write(path):
    RunStore(path, mode="w").close()
    with RunStore(path) as store, pytest.raises(RunStoreError, match="opened to read"):
        store.measure(1, "x", 1.0)


def test_a_closed_store_says_so(path):
    store = RunStore(path, mode="w")
    store.close()
    store.close()
    with pytest.raises(RunStoreError, match="closed"):
        store.measure(1, "x", 1.0)


def connecting(monkeypatch, prepare):
    """Let ``prepare`` see the connection of the writing thread."""

    def connect(path, mode):
        connection = schema.connect(path, mode)
        prepare(connection)
        return connection

    monkeypatch.setattr(writer_module, "connect", connect)


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_committed(path, monkeypatch):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
        store.flush()
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    # SQLite says then what it says on a full disk.
    connecting(monkeypatch, lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
    store = RunStore(path, mode="a")
    store.put_array(2, "big", np.zeros(100_000))
    with pytest.raises(RunStoreError, match="free disk space"):
        store.flush()
    with pytest.raises(RunStoreError, match="free disk space"):
        store.measure(2, "x", 1.0)
    with pytest.raises(RunStoreError, match="free disk space"):
        store.close()
    with RunStore(path) as back:
        assert back.measurements("x").values.tolist() == [1.0]


def test_what_could_not_be_written_is_written_by_a_later_flush(path, monkeypatch):
    connecting(monkeypatch, lambda connection: connection.execute("PRAGMA busy_timeout = 10"))
    with RunStore(path, mode="w") as store:
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        store.measure(1, "x", 1.0)
        with pytest.raises(RunStoreError, match="another process writes"):
            store.flush()
        blocker.execute("COMMIT")
        blocker.close()
        store.flush()
        store.measure(2, "x", 2.0)
        assert store.measurements("x").steps.tolist() == [1, 2]


def test_a_slow_disk_drops_live_points_counts_them_and_keeps_every_event(path, monkeypatch):
    monkeypatch.setattr(writer_module, "ROOM", 500)
    with RunStore(path, mode="w") as store:
        store.measure(0, "x", 0.0)
        store.flush()
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for step in range(1, 2001):
            store.measure(step, "x", 0.0)
            if step % 20 == 0:
                store.record(reading(step))
        assert time.monotonic() - began < 2.0  # the writer waits, the loop does not
        blocker.execute("COMMIT")
        blocker.close()
        store.flush()
        assert len(store.readings()) == 100
        kept = len(store.measurements("x").steps)
        assert store.dropped == 2001 - kept > 0
        assert store.get("dropped") == store.dropped
    with RunStore(path, mode="a") as store:
        assert store.dropped == 2001 - kept


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    with pytest.raises(RunStoreError, match="choose a folder"):
        RunStore(tmp_path / "missing" / "run.db", mode="w")


def test_commits_are_bounded_in_rate(path, monkeypatch):
    commits = []
    connecting(
        monkeypatch,
        lambda connection: connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None),
    )
    with RunStore(path, mode="w") as store:
        began = time.monotonic()
        for step in range(500):
            store.record(reading(step))
            time.sleep(0.001)
        assert len(commits) <= (time.monotonic() - began) / 0.1 + 1
        assert len(commits) >= 2


def test_a_store_that_nobody_closes_is_written_when_the_process_ends(path):
    script = "import sys; from surgecollapse.record import RunStore; s = RunStore(sys.argv[1], mode='w'); "
    script += "s.measure(1, 'x', 1.0)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
    with RunStore(path) as store:
        assert store.measurements("x").values.tolist() == [1.0]


def test_another_process_reads_while_this_one_writes(path):
    script = textwrap.dedent(
        """
        import sys
        from surgecollapse.record import RunStore
        with RunStore(sys.argv[1]) as store:
            print(len(store.measurements("x").steps), store.get("status"))
        """
    )
    with RunStore(path, mode="w") as store:
        store.set("status", "running")
        for step in range(100):
            store.measure(step, "x", step)
        store.flush()
        run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        store.measure(100, "x", 1.0)
        store.flush()
        assert run.stdout.split() == ["100", "running"]


def test_a_reader_thread_sees_only_whole_commits(path):
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        with RunStore(path) as store:
            while not stop.is_set():
                seen.append(len(store.measurements("x").steps))

    with RunStore(path, mode="w") as store:
        thread = threading.Thread(target=read)
        thread.start()
        for step in range(500):
            store.measure(step, "x", step)
            if step % 50 == 49:
                store.flush()
                time.sleep(0.005)
        stop.set()
        thread.join()
    assert seen == sorted(seen)


def test_a_killed_writer_leaves_a_readable_store(path):
    script = textwrap.dedent(
        """
        import sys, time
        from surgecollapse.record import RunStore
        store = RunStore(sys.argv[1], mode="w")
        step = 0
        while True:
            step += 1
            store.measure(step, "x", step)
            if step == 1000:
                store.flush()
                print("written", flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with RunStore(path, mode="a") as store:
        steps = store.measurements("x").steps
        assert len(steps) >= 1000
        assert steps.tolist() == list(range(1, len(steps) + 1))
        store.measure(0, "y", 1.0)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_record_never_imports_torch():
    code = "import sys, surgecollapse.record; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_network_mounts_are_told_from_local_ones(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/x /net nfs4 rw 0 0\nx /net/local ext4 rw 0 0\nh /s fuse.sshfs rw\n"
    )
    assert not is_network(tmp_path, mounts)
    assert is_network("/net/home/run.db", mounts)
    assert not is_network("/net/local/run.db", mounts)
    assert is_network("/s/run.db", mounts)
    assert not is_network("/network", mounts)
    assert not is_network("/net/x", tmp_path / "missing")


def test_a_network_place_takes_a_rollback_journal(path, monkeypatch):
    monkeypatch.setattr(schema, "is_network", lambda place: True)
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert store.measurements("x").values.tolist() == [1.0]


def test_memory_recorder_keeps_every_event_in_order():
    recorder = MemoryRecorder()
    events = [
        reading(1),
        Decision(phase="open", reason=""),
        intervention(1),
        Measurement(step=1, name="x", value=1.0),
    ]
    for event in events:
        recorder.record(event)
    assert recorder.events == events
    assert recorder.of(Reading) == [events[0]]


def test_between_drives_the_way_is_the_whole_path(tmp_path, monkeypatch):
    assert way(tmp_path / "a", tmp_path / "b" / "c") == "../../a"

    def refuse(*_):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("os.path.relpath", refuse)
    assert way(tmp_path / "a", tmp_path / "b") == (tmp_path / "a").as_posix()
