"""A folder with one good record and one that is damaged, foreign or hostile: the good one is listed, nothing hangs."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import tracemalloc
import warnings

import numpy as np
import pytest

from surgecollapse.commands import Pause
from surgecollapse.dashboard.answer import as_json
from surgecollapse.dashboard.feed import Cursor
from surgecollapse.dashboard.runs import Runs
from surgecollapse.dashboard.server import application
from surgecollapse.events import Alarm, Decision, Intervention, LayerChange, Reading, Request
from surgecollapse.record import CommandQueue, RunStore, heartbeat

with warnings.catch_warnings():
    # Newer versions of Starlette would rather have another client than httpx; both do.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN = "a-secret-of-the-test"
HOST = "127.0.0.1:8321"
WITH = {"authorization": f"Bearer {TOKEN}"}
SECONDS = 20.0
"""More than any answer may take, on a machine that is busy."""


def good(folder):
    """A run with a little of everything."""
    folder.mkdir(parents=True)
    with RunStore(folder / "run.db", mode="w") as store:
        store.set("config", {"every": 10, "steps": 100})
        store.set("costs", {"multiplications": {"a": 10}, "rows": 4, "window": 1})
        for step in range(1, 41):
            store.measure(step, "loss/train", 1.0 / step)
        store.record(Reading(step=10, entropy=0.5, loss=0.1))
        store.record(Decision(phase="sparse", reason="because"))
        change = LayerChange(name="a", size=10, live=5, energy_before=2.0, energy_after=1.5)
        store.record(
            Intervention(step=10, kind="collapse", phase="sparse", reason="because", sparsity_before=0.0,
                         sparsity_after=0.5, layers=(change,))
        )  # fmt: skip
        store.record(Request(step=11, kind="stop", body={}, source="page", status="applied", reason=""))
        store.record(Alarm(step=12, detector="d", reason="r"))
        store.put_array(5, "histogram/a", np.arange(30.0).reshape(3, 10))
        store.put_array(5, "matrix", np.eye(3))
        store.set("status", "running")
        store.set("checkpoints", [20])
    return folder / "run.db"


def change(path, *statements):
    connection = sqlite3.connect(path)
    for statement, *rows in statements:
        connection.executemany(statement, rows) if rows else connection.executescript(statement)
    connection.commit()
    connection.close()


def event(kind, body, step=20):
    return ("INSERT INTO events (step, kind, version, body) VALUES (?, ?, 1, ?)", (step, kind, body))


def said(key, value):
    return ("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


DEEP = "[" * 10_000 + "]" * 10_000
READING = '{"step":20,"entropy":NaN,"loss":Infinity,"grad_norm":-Infinity,"finite":true}'
ACT = '{"step":20,"kind":"%s","phase":"p","reason":"r","sparsity_before":0.1,"sparsity_after":%s,"details":%s}'
COMMAND = "INSERT INTO commands (token, created, source, kind, body, status, step) VALUES (?, ?, ?, ?, ?, ?, ?)"
STILL_READ = {
    "text for a step": ("INSERT INTO measurements VALUES (1, 'x', 1.0)",),
    "a blob for a step": ("INSERT INTO measurements VALUES (1, x'0700000000000000', 1.0)",),
    "text for a value": ("INSERT INTO measurements VALUES (1, 50, 'high')",),
    "the largest and the smallest step": (
        "INSERT INTO measurements VALUES (1, 9223372036854775807, 1.0), (1, -9223372036854775808, 2.0)",
    ),
    "infinity": ("INSERT INTO measurements VALUES (1, 50, 9e999), (1, 51, -9e999)",),
    "status is a number": said("status", "3"),
    "status is null": said("status", "null"),
    "status is nested": said("status", DEEP),
    "status is no JSON": said("status", "{"),
    "configuration is a list": said("config", "[1, 2]"),
    "configuration is NaN": said("config", "NaN"),
    "configuration is infinite inside": said("config", '{"max_norm": Infinity, "a": [NaN, {"b": -Infinity}]}'),
    "configuration of text": said("config", '{"every": "often", "steps": null}'),
    "configuration of 400 digits": said("config", f'{{"steps": {10**400}, "every": {10**400}}}'),
    "configuration with a surrogate": said("config", r'{"name": "\ud800"}'),
    "configuration is a blob": said("config", b"\x00\xff"),
    "text that is not UTF-8": ("INSERT INTO series VALUES (7, CAST(x'ff' AS TEXT), '')",),
    "text that is half of a surrogate pair": ("INSERT INTO series VALUES (7, CAST(x'eda080' AS TEXT), '')",),
    "costs of text": said("costs", '{"multiplications": {"a": "many"}, "rows": [], "window": null}'),
    "costs of 400 digits": said("costs", f'{{"multiplications": {{"a": {10**400}}}, "rows": 1, "window": 1}}'),
    "costs is a list": said("costs", "[]"),
    "checkpoints is a table": said("checkpoints", "{}"),
    "modified is text": said("modified_by_user", '"yes"'),
    "a heartbeat of text": said("heartbeat", '{"time": "now", "pid": "me", "place": 3}'),
    "an event that is no JSON": event("Reading", "{"),
    "an event that is a list": event("Intervention", "[]"),
    "an event without values": event("Intervention", "{}"),
    "an event nested deep": event("Intervention", DEEP),
    "an event of text for numbers": event("Intervention", ACT % ("collapse", '"much"', "{}")),
    "an event of 400 digits": event("Reading", f'{{"step": {10**400}, "loss": {10**400}}}'),
    "an event of an unknown class": event("Explosion", "{}"),
    "an event with newer values": event("Reading", '{"step":20,"loss":0.5,"later":[1]}'),
    "an event at a step of text": event("Reading", READING, step="x"),
    "a reading of NaN": event("Reading", READING),
    "a noise of text": event("Intervention", ACT % ("pump", "0.5", '{"noise_std": "loud"}')),
    "details that are infinite": event("Intervention", ACT % ("collapse", "0.5", '{"a": [NaN, {"b": Infinity}]}')),
    "a reason with a surrogate": event("Decision", r'{"phase":"p","reason":"\udfff"}'),
    "a command that is no JSON": (COMMAND, ("t", 1.0, "page", "pump", "{", "queued", None)),
    "a command of NaN": (COMMAND, ("t", 1.0, "page", "pump", '{"noise_std": NaN}', "applied", 3)),
    "a command with a surrogate": (COMMAND, ("t", 1.0, "page", "pump", r'{"a": "\ud800"}', "queued", None)),
    "a command of 400 digits": (COMMAND, ("t", 1.0, "page", "pump", f'{{"a": {10**400}}}', "queued", None)),
    "a command of other types": (COMMAND, ("t", b"1", 3, "pump", "[]", "applied", "x")),
    "a roll-back to nowhere": (COMMAND, ("t", 1.0, "page", "roll-back", "{}", "applied", 3)),
    "a series of other types": ("INSERT INTO series VALUES (9, x'00', 3)",),
    "a series with the largest id": ("INSERT INTO series VALUES (9223372036854775807, 'big', '')",),
    "an array of text for a step": ("INSERT INTO arrays VALUES ('x', 'matrix', '<f4', '[1]', x'00000000')",),
}
DAMAGED_ARRAYS = {
    "a bad shape": ("<f8", "[7, 7]", bytes(8)),
    "a negative shape": ("<f8", "[-1]", bytes(8)),
    "a huge shape": ("<f8", f"[{2**62}, 4]", bytes(8)),
    "no shape": ("<f8", "7", bytes(8)),
    "objects": ("|O", "[1]", bytes(8)),
    "text": ("<U2", "[1]", bytes(8)),
    "no dtype": ("nothing", "[1]", bytes(8)),
    "other bytes": ("<f8", "[1]", "12345678"),
}
ODD_ARRAYS = {
    "NaN in a histogram": ("histogram/a", "<f8", "[3, 4]", np.full((3, 4), np.nan).tobytes()),
    "a flat histogram": ("histogram/a", "<f8", "[12]", np.arange(12.0).tobytes()),
    "a narrow histogram": ("histogram/a", "<f8", "[3, 1]", np.arange(3.0).tobytes()),
    "NaN in a matrix": ("matrix", "<f8", "[1, 2]", np.array([np.nan, np.inf]).tobytes()),
    "nothing": ("matrix", "<f8", "[0]", b""),
    "nothing in two dimensions": ("matrix", "<f8", "[0, 3]", b""),
    "complex": ("matrix", "<c8", "[2]", np.array([1j, 2]).astype("<c8").tobytes()),
    "no finite value": ("matrix", "<f8", "[2]", np.array([np.nan, np.inf]).tobytes()),
}


@pytest.fixture
def root(tmp_path):
    good(tmp_path / "runs" / "good")
    return tmp_path / "runs"


@pytest.fixture
def client(root):
    with TestClient(application(root, TOKEN, {HOST}), base_url=f"http://{HOST}") as client:
        yield client


def get(client, path):
    """An answer of strict JSON, in time."""
    began = time.monotonic()
    answer = client.get(path, headers=WITH)
    assert time.monotonic() - began < SECONDS
    found = json.loads(answer.content.decode("ascii"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    return answer.status_code, found


def listed(client):
    code, found = get(client, "/api/runs")
    assert code == 200
    rows = {row["name"]: row for row in found["runs"]}
    assert rows["good"]["status"] == "live"
    code, lines = get(client, f"/api/lines?runs={','.join(row['id'] for row in found['runs'])}")
    assert code == 200
    assert len(lines[rows["good"]["id"]]) > 30
    return rows


PARTS = ("", "/readings", "/ridges?name=histogram/a", "/series?ids=1",
         "/events?kinds=Intervention,Decision,Reading,Alarm,Request", "/operations",
         "/array?name=matrix", "/array?name=histogram/a")  # fmt: skip


@pytest.mark.parametrize("row", STILL_READ.values(), ids=STILL_READ)
def test_a_run_with_a_damaged_row_is_shown_without_it_and_hurts_no_other(root, client, row):
    path = good(root / "bad")
    cursor = Cursor(path)
    assert cursor.read() is None
    change(path, row)
    rows = listed(client)
    assert rows["bad"]["status"] != "unreadable", rows["bad"].get("why")
    for part in PARTS:
        code, _ = get(client, f"/api/runs/{rows['bad']['id']}{part}")
        assert code == 200, part
    found = get(client, f"/api/runs/{rows['bad']['id']}/series?ids=1")[1]["1"]
    assert set(range(1, 41)) <= set(found["x"])
    json.loads(as_json(cursor.read()))
    answer = client.post(
        f"/api/runs/{rows['bad']['id']}/commands",
        content=json.dumps({"kind": "pause", "body": {}, "token": "0123456789"}),
        headers={"content-type": "application/json", **WITH},
    )
    assert answer.status_code == 202


def test_damaged_rows_are_counted_on_the_page(root, client):
    path = good(root / "bad")
    change(path, event("Intervention", "{"), event("Intervention", "[]"), said("config", "["))
    found = get(client, f"/api/runs/{listed(client)['bad']['id']}")[1]
    assert found["state"]["skipped"] >= 3
    assert get(client, f"/api/runs/{listed(client)['good']['id']}")[1]["state"]["skipped"] == 0


@pytest.mark.parametrize("parts", DAMAGED_ARRAYS.values(), ids=DAMAGED_ARRAYS)
def test_a_damaged_array_is_refused_alone(root, client, parts):
    path = good(root / "bad")
    change(path, ("INSERT INTO arrays VALUES (90, 'matrix', ?, ?, ?)", parts))
    bad = f"/api/runs/{listed(client)['bad']['id']}"
    code, found = get(client, f"{bad}/array?name=matrix")
    assert code == 422
    assert "cannot be read" in found["error"]
    assert get(client, f"{bad}/array?name=histogram/a")[0] == get(client, bad)[0] == 200


@pytest.mark.parametrize("row", ODD_ARRAYS.values(), ids=ODD_ARRAYS)
def test_an_array_of_odd_values_is_served(root, client, row):
    path = good(root / "bad")
    change(path, ("INSERT INTO arrays (step, name, dtype, shape, data) VALUES (90, ?, ?, ?, ?)", row))
    code, found = get(client, f"/api/runs/{listed(client)['bad']['id']}/array?name={row[0]}")
    assert (code, found["step"]) == (200, 90)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def beside(end):
    return lambda path: os.mkfifo(path.with_name(path.name + end))


def link(target):
    def make(path):
        place = target(path)
        path.unlink()
        path.symlink_to(place)

    return make


def outside(path):
    return good(path.parents[2] / "elsewhere")


BESIDE = '{"version": 1, "run": %s, "title": %s, "tags": [%s], "text": [NaN, Infinity, {}]}'.replace("{}", f"{10**400}")
SIDE_FILES = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "too large": lambda path: path.write_bytes(bytes(2**24 + 1)),
    "nested deep": lambda path: path.write_text(DEEP),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "numbers without end": lambda path: path.write_text(BESIDE % ('"../bad"', "NaN", "-Infinity")),
    "surrogates": lambda path: path.write_text(BESIDE % (r'"\ud800"', r'"\ud800"', r'"\udfff"')),
    "a zero byte": lambda path: path.write_text(BESIDE % (r'"a\u0000b"', r'"a\u0000"', r'"\u0000"')),
    "a path without end": lambda path: path.write_text(BESIDE % (f'"{"x/" * 20_000}"', "null", "null")),
}


@pytest.mark.parametrize("name", ["notes.json", "twin.json"])
@pytest.mark.parametrize("make", SIDE_FILES.values(), ids=SIDE_FILES)
def test_what_lies_beside_a_record_hurts_no_run(root, client, name, make):
    make(good(root / "bad").with_name(name))
    rows = listed(client)
    assert rows["bad"]["status"] == "live"
    for part in (*PARTS, "/twins"):
        assert get(client, f"/api/runs/{rows['bad']['id']}{part}")[0] == 200, part
    assert get(client, "/api/settings")[0] == 200


def truncated(path):
    path.write_bytes(path.read_bytes()[:3000])


def noise(path):
    content = bytearray(path.read_bytes())
    content[4096:9000] = bytes(range(256)) * 20
    path.write_bytes(content)


NOT_READ = {
    "a pipe": pipe,
    "a pipe for its log": beside("-wal"),
    "a pipe for its index": beside("-shm"),
    "a pipe for its journal": beside("-journal"),
    "a link to itself": link(lambda path: path),
    "a link to nowhere": link(lambda path: path.with_name("nowhere")),
    "a link to a run outside": link(outside),
    "a link to a device": link(lambda path: "/dev/zero"),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no database at all, only text " * 99),
    "cut short": truncated,
    "another program's": lambda path: change(path, ("PRAGMA application_id = 1",)),
    "of a newer version": lambda path: change(path, ("PRAGMA user_version = 99",)),
    "with a trigger that loops": lambda path: change(
        path,
        (
            "CREATE TRIGGER t AFTER INSERT ON commands BEGIN INSERT INTO meta SELECT hex(randomblob(9)), '1' FROM "
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n); END",
        ),
    ),
    "with a view": lambda path: change(path, ("DROP TABLE arrays; CREATE VIEW arrays AS SELECT 1 AS step",)),
    "with a view that never ends": lambda path: change(
        path,
        (
            "DROP TABLE meta; CREATE VIEW meta AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT i AS key, i AS value FROM n WHERE i < 0",
        ),
    ),
    "with a generated column": lambda path: change(
        path, ("ALTER TABLE meta ADD COLUMN huge AS (hex(zeroblob(300000000)))",)
    ),
    "without a table": lambda path: change(path, ("DROP TABLE events",)),
}


@pytest.mark.parametrize("spoil", NOT_READ.values(), ids=NOT_READ)
def test_a_run_that_cannot_be_read_says_why_in_its_row_and_hurts_no_other(root, client, spoil):
    path = good(root / "bad")
    spoil(path)
    tracemalloc.start()
    row = listed(client)["bad"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000_000
    assert row["status"] == "unreadable"
    assert row["why"]
    for part in (*PARTS, "/stream"):
        code, found = get(client, f"/api/runs/{row['id']}{part}")
        assert code in (422, 503), part
        assert "cannot be read" in found["error"]
    before = os.stat(path).st_mtime_ns if path.is_file() else None
    began = time.monotonic()
    answer = client.post(
        f"/api/runs/{row['id']}/commands",
        content=json.dumps({"kind": "pause", "body": {}, "token": "0123456789"}),
        headers={"content-type": "application/json", **WITH},
    )
    assert time.monotonic() - began < SECONDS
    assert answer.status_code in (400, 404, 422, 503)
    if before is not None:
        assert os.stat(path).st_mtime_ns == before  # nothing was written there


def test_a_huge_value_is_neither_read_nor_in_the_way_of_others(root, client):
    path = good(root / "bad")
    change(path, ("UPDATE meta SET value = zeroblob(100000000) WHERE key = 'status'",))
    tracemalloc.start()
    row = listed(client)["bad"]
    for part in PARTS:
        assert get(client, f"/api/runs/{row['id']}{part}")[0] in (200, 422, 503)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000_000
    assert (row["status"], "too big" in row["why"]) == ("unreadable", True)


def test_pages_that_were_damaged_inside_are_an_error_of_that_run_alone(root, client):
    path = good(root / "bad")
    noise(path)
    row = listed(client)["bad"]
    for part in PARTS:
        assert get(client, f"/api/runs/{row['id']}{part}")[0] in (200, 422, 503)


def test_a_list_of_slow_runs_is_answered_in_time_and_completed_by_the_next(root, monkeypatch):
    from surgecollapse.dashboard import runs

    for number in range(4):
        good(root / f"slow-{number}")
    real, looked = runs.look, []

    def slow(path, seconds):
        looked.append(path)
        time.sleep(0.15)
        return real(path, seconds)

    monkeypatch.setattr(runs, "look", slow)
    monkeypatch.setattr(runs, "_BUDGET", 0.2)
    there = Runs(root)
    for store in root.iterdir():
        change(store / "run.db", said("status", '"complete"'))
    first = [row["status"] for row in there.rows()]
    assert "unread" in first
    for _ in range(4):
        last = [row["status"] for row in there.rows()]
    assert last == ["finished"] * 5
    assert len(looked) == 5


def test_a_run_that_holds_its_lock_is_waited_for_only_a_moment(root, client):
    path = good(root / "bad")
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
    blocker.execute("BEGIN EXCLUSIVE")
    row = listed(client)["bad"]
    assert (row["status"], "locked" in row["why"]) == ("unreadable", True)
    blocker.close()
    os.utime(path)
    assert listed(client)["bad"]["status"] == "live"


def test_commands_to_a_killed_run_are_shown_as_stale(root, client):
    path = good(root / "bad")
    CommandQueue(path).put(Pause(), source="page")
    change(path, (heartbeat.SET_BEAT, (json.dumps({**heartbeat.beat(), "pid": 2**22 + 1}),)))
    row = listed(client)["bad"]
    assert row["status"] == "silent"
    assert "was killed" in row["why"]
    (shown,) = get(client, f"/api/runs/{row['id']}")[1]["commands"]
    assert (shown["status"], "was killed" in shown["reason"]) == ("stale", True)


@pytest.mark.parametrize(
    "query",
    ["series?ids=" + "9" * 30, "series?ids=" + "9" * 5000, "series?ids=1&from=" + "9" * 30, "events?before=" + "9" * 99,
     "series?ids=%00", "series?ids=1&buckets=" + "9" * 30, "series?ids=-" + "9" * 30],
)  # fmt: skip
def test_numbers_of_any_length_are_refused(root, client, query):
    code, found = get(client, f"/api/runs/{listed(client)['good']['id']}/{query}")
    assert code == 400
    assert "whole number" in found["error"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("pump", {"std": 10**400}),
        ("cadence", {"every": 10**400}),
        ("roll-back", {"step": 2**63}),
        ("set-thresholds", {"values": {"floor": 10**400}}),
        ("set-thresholds", {"values": {"\ud800": 1.0}}),
        ("collapse", {"fraction": 0.5, "layers": ["\ud800"]}),
        ("collapse\ud800", {}),
    ],
)
def test_commands_of_huge_numbers_and_lone_surrogates_are_refused_and_nothing_is_queued(root, client, kind, body):
    run = listed(client)["good"]["id"]
    answer = client.post(
        f"/api/runs/{run}/commands",
        content=json.dumps({"kind": kind, "body": body, "token": "0123456789"}),
        headers={"content-type": "application/json", **WITH},
    )
    assert answer.status_code == 400
    assert CommandQueue(root / "good" / "run.db").all() == []
