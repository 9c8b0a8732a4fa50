"""What people may ask of a run, and the queue of it in the run's file."""

from __future__ import annotations

import json
import math
import sqlite3
import threading

import pytest

from surgecollapse.commands import COMMANDS, Collapse, Pause, Pump, RollBack, SetThresholds, command_from
from surgecollapse.events import Measurement
from surgecollapse.record import CommandQueue, RunStore, RunStoreError
from surgecollapse.record.schema import COMMANDS as TABLE

GOOD = {
    "collapse": {"fraction": 0.5, "layers": ["body.*"]},
    "surge": {"fraction": 1.0},
    "pump": {"noise_std": 0.0},
    "set-sparsity": {"sparsity": 0.8},
    "set-thresholds": {"values": {"floor": 0.5}},
    "learning-rate": {"factor": 0.5},
    "cadence": {"every": 10},
    "pace": {"factor": 0.5},
    "roll-back": {"step": 0},
    "delete-checkpoint": {"step": 0},
    "set-optimizer": {"option": "betas", "value": [0.8, 0.95], "group": 1},
    "set-dropout": {"rate": 0.2, "layers": ["body.*"]},
    "set-loss": {"label_smoothing": 0.1},
    "freeze-layers": {"layers": ["body.*"], "units": [3]},
    "unfreeze-layers": {"layers": ["body.*"]},
    "reset-layers": {"layers": ["body.*"], "units": [0, 2]},
    "replace-schedule": {"shape": "cosine", "steps": 100},
    "set-batch-size": {"size": 32},
    "weigh-samples": {"rows": [0, 5], "weight": 2.0},
    "drop-samples": {"rows": [3]},
    "relabel-samples": {"rows": [3, 4], "label": 1},
    "mix-sources": {"weights": {"web": 0.5, "books": 2.0}},
    "set-augmentation": {"share": 0.5},
}
BAD = [
    ("collapse", {}, "needs fraction"),
    ("collapse", {"fraction": 1.0}, r"\[0, 1\)"),
    ("collapse", {"fraction": "0.5"}, "a number"),
    ("collapse", {"fraction": True}, "a number"),
    ("collapse", {"fraction": math.nan}, "a number"),
    ("collapse", {"fraction": 0.5, "layers": "all"}, "a list of names"),
    ("collapse", {"fraction": 0.5, "layers": ["x" * 201]}, "a list of names"),
    ("collapse", {"fraction": 0.5, "layers": [1]}, "a list of names"),
    ("surge", {"fraction": 0.0}, r"\(0, 1\]"),
    ("pump", {"noise_std": -1.0}, "a number"),
    ("pump", {"noise_std": math.inf}, "a number"),
    ("set-thresholds", {"values": {}}, "a table"),
    ("set-thresholds", {"values": {"floor": "high"}}, "a table"),
    ("cadence", {"every": 0}, "whole number"),
    ("cadence", {"every": 2.5}, "whole number"),
    ("pace", {"factor": 0.0}, r"\[0.01, 100\]"),
    ("roll-back", {"step": 2**63}, "whole number"),
    ("replace-schedule", {"shape": "steps"}, "constant, linear, cosine"),
    ("relabel-samples", {"rows": [1], "label": -1}, "whole number"),
    ("mix-sources", {"weights": {"web": -1.0}}, "a table"),
    ("set-augmentation", {"share": 1.5}, r"\[0, 1\]"),
    ("pause-policy", {"now": True}, "has no value 'now': expected none"),
    ("pump", [0.1], "as a table, got list"),
    ("explode", {}, "unknown command 'explode': expected one of collapse, surge"),
    (3, {}, "unknown command 3"),
]


@pytest.fixture
def path(tmp_path):
    with RunStore(tmp_path / "run.db", mode="w") as store:
        store.set("status", "running")
    return tmp_path / "run.db"


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_command_survives_json(kind):
    command = command_from(kind, GOOD.get(kind, {}))
    assert command_from(kind, json.loads(json.dumps(command.body))) == command


@pytest.mark.parametrize(("kind", "body", "message"), BAD)
def test_what_is_malformed_is_refused_with_what_was_expected(kind, body, message):
    with pytest.raises(ValueError, match=message):
        command_from(kind, body)


def test_whole_numbers_are_taken_for_real_ones():
    assert command_from("pump", {"noise_std": 1}).noise_std == 1.0
    assert isinstance(command_from("set-thresholds", {"values": {"floor": 1}}).values["floor"], float)


def test_requests_come_in_order_and_are_settled_once(path):
    queue = CommandQueue(path)
    ids = [queue.put(Pump(noise_std=s), source="page") for s in (0.1, 0.2, 0.3)]
    assert [asked.id for asked in queue.pending()] == ids == sorted(ids)
    assert [asked.command for asked in queue.pending()] == [
        Pump(noise_std=0.1),
        Pump(noise_std=0.2),
        Pump(noise_std=0.3),
    ]
    queue.settle(ids[0], "applied", step=7, reason="done")
    queue.settle(ids[1], "rejected", step=7, reason="no")
    assert [asked.id for asked in queue.pending()] == [ids[2]]
    assert [(asked.status, asked.step, asked.reason) for asked in queue.all()] == [
        ("applied", 7, "done"), ("rejected", 7, "no"), ("queued", None, None)
    ]  # fmt: skip
    assert [asked.id for asked in queue.applied()] == ids[:1]
    assert queue.applied(after=ids[0]) == []
    with pytest.raises(ValueError, match="does not wait"):
        queue.settle(ids[0], "applied", step=8, reason="again")
    with pytest.raises(ValueError, match="'applied' or 'rejected'"):
        queue.settle(ids[2], "queued", step=8, reason="")


def test_the_same_token_asks_once_even_after_it_is_settled(path):
    queue = CommandQueue(path)
    first = queue.put(Pause(), source="page", token="click")
    queue.settle(first, "applied", step=1, reason="waits")
    assert queue.put(Pause(), source="page", token="click") == first
    assert len(queue.all()) == 1


@pytest.mark.parametrize("status", ["complete", "interrupted", "failed"])
def test_a_run_that_does_not_train_rejects_at_once(path, status):
    with RunStore(path, mode="a") as store:
        store.set("status", status)
    queue = CommandQueue(path)
    asked = queue.get(queue.put(Pause(), source="terminal"))
    assert (asked.status, asked.reason) == ("rejected", f"the run is {status}: nothing can be changed")
    assert queue.pending() == []


def test_a_flood_is_refused(path):
    queue = CommandQueue(path)
    for _ in range(100):
        queue.put(Pause(), source="page")
    with pytest.raises(ValueError, match="100 commands wait already"):
        queue.put(Pause(), source="page")
    assert len(queue.pending()) == 100


def test_two_pages_at_once_lose_nothing_and_double_nothing(path):
    def click(page):
        for i in range(20):
            CommandQueue(path).put(RollBack(step=i), source=page, token=f"{page}-{i}")

    threads = [threading.Thread(target=click, args=(page,)) for page in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = CommandQueue(path).all()
    assert sorted(asked.token for asked in found) == sorted(f"{page}-{i}" for page in "ab" for i in range(20))
    for page in "ab":  # the order of each page is kept
        assert [asked.body["step"] for asked in found if asked.source == page] == list(range(20))


def _click(path):
    CommandQueue(path).put(Collapse(fraction=0.1), source="page")


def _resume(path):
    RunStore(path, mode="a").close()


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
@pytest.mark.parametrize("open_it", [_click, _resume])
def test_a_file_that_another_process_writes_just_now_is_waited_for(path, open_it, journal, begin):
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute(f"PRAGMA journal_mode = {journal}")
    other.execute(begin)
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    open_it(path)  # raises if it does not wait
    release.join()
    other.close()


def test_commands_wait_while_the_run_writes_its_record(path):
    queue = CommandQueue(path)
    with RunStore(path, mode="a") as store:
        for step in range(500):
            store.record(Measurement(step=step, name="loss/train", value=1.0))
            if step % 100 == 0:
                queue.put(SetThresholds(values={"floor": 0.5}), source="page")
        store.flush()
        assert len(queue.pending()) == 5
        assert len(store.measurements("loss/train").steps) == 500


def test_a_change_is_seen_once_and_only_by_what_others_write(path):
    reader, writer = CommandQueue(path), CommandQueue(path)
    assert reader.changed()
    assert not reader.changed()
    writer.put(Collapse(fraction=0.1), source="page")
    assert reader.changed()
    assert not reader.changed()
    reader.close()
    assert reader.pending()


def test_a_store_of_the_first_schema_reads_takes_none_and_is_brought_up_to_date(path):
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE commands; PRAGMA user_version = 1;")
    connection.close()
    assert "CREATE TABLE commands" in TABLE
    queue = CommandQueue(path)
    assert queue.all() == []
    with pytest.raises(RunStoreError, match="before runs took commands"):
        queue.put(Pause(), source="page")
    with RunStore(path) as store:
        assert store.get("status") == "running"
    with RunStore(path, mode="a") as store:
        assert store.get("status") == "running"
    queue.put(Pause(), source="page")
    assert len(queue.pending()) == 1
    with RunStore(path, mode="a"):  # twice changes nothing
        assert len(queue.pending()) == 1


def test_no_run_no_queue(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the run\.db"):
        CommandQueue(tmp_path / "run.db")
