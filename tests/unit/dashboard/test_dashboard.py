"""The page's server: what it reads, and whom it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

from surgecollapse.commands import Pump
from surgecollapse.dashboard import run_state
from surgecollapse.dashboard.feed import Cursor
from surgecollapse.dashboard.guard import LARGEST_BODY
from surgecollapse.dashboard.serve import serve
from surgecollapse.dashboard.server import application, page_files
from surgecollapse.events import Decision, Intervention, Reading
from surgecollapse.record import CommandQueue, RunStore
from surgecollapse.record.schema import connect

with warnings.catch_warnings():
    # Newer versions of Starlette would rather have another client than httpx; both do.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN = "a-secret-of-the-test"
HOST = "127.0.0.1:8321"
WITH = {"authorization": f"Bearer {TOKEN}"}
SCRIPT = "<img src=x onerror=alert(1)>"


@pytest.fixture
def store(tmp_path):
    (tmp_path / SCRIPT).mkdir()
    with RunStore(tmp_path / SCRIPT / "run.db", mode="w") as store:
        store.set("status", "running")
        store.set("config", {"every": 10, "steps": 1000})
        for step in range(1, 101):
            store.measure(step, "loss/train", float("nan") if step == 50 else 1.0 / step)
        store.measure(10, "entropy/activation", 0.5, layer=SCRIPT)
        store.record(Reading(step=90, entropy=0.5, loss=0.1))
        store.record(Decision(phase="sparse", reason="because"))
        store.record(
            Intervention(
                step=90, kind="collapse", phase="sparse", reason="because", sparsity_before=0.0, sparsity_after=0.9
            )
        )
        store.flush()
        yield store


@pytest.fixture
def client(store, tmp_path):
    with TestClient(application(tmp_path, TOKEN, {HOST}), base_url=f"http://{HOST}") as client:
        client.run = client.get("/api/runs", headers=WITH).json()["runs"][0]["id"]
        yield client


def post(client, body, **headers):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    headers = {"content-type": "application/json", **WITH, **headers}
    return client.post(f"/api/runs/{client.run}/commands", content=content, headers=headers)


def test_a_run_shows_its_state_with_the_reason_and_the_next_decision(client):
    found = client.get(f"/api/runs/{client.run}", headers=WITH).json()
    state = found["state"]
    shown = {
        name: state[name]
        for name in ("status", "phase", "why", "step", "total", "next", "sparsity", "modified_by_user")
    }
    assert shown == {"status": "live", "phase": "sparse", "why": "because", "step": 100, "total": 1000, "next": 100,
                     "sparsity": 0.9, "modified_by_user": False}  # fmt: skip
    assert [event["kind"] for event in found["events"]] == ["collapse"]


@pytest.mark.parametrize(
    ("said", "shown"), [("complete", "finished"), ("failed", "failed"), ("interrupted", "interrupted")]
)
def test_a_run_that_ended_says_how(client, store, said, shown):
    store.set("status", said)
    assert client.get("/api/runs", headers=WITH).json()["runs"][0]["status"] == shown


def test_a_series_is_sent_whole_or_as_extremes_and_nan_as_null(client, store):
    (id,) = [
        row["id"]
        for row in client.get(f"/api/runs/{client.run}", headers=WITH).json()["series"]
        if row["name"] == "loss/train"
    ]
    address = f"/api/runs/{client.run}/series?ids={id}"
    whole = client.get(address, headers=WITH).json()[str(id)]
    assert (len(whole["x"]), whole["y"][49]) == (100, None)
    thin = client.get(f"{address}&buckets=4", headers=WITH).json()[str(id)]
    assert len(thin["x"]) == 8
    assert (min(thin["y"]), max(thin["y"])) == (0.01, 1.0)


def test_the_page_is_whole_small_and_asks_for_nothing_outside(client):
    names = ["/" + name.replace("index.html", "") for name in page_files()]
    assert {"/", "/app.js", "/charts.js", "/style.css", "/uPlot.iife.min.js", "/uPlot.min.css"} <= set(names)
    answers = [client.get(name) for name in names]
    assert [answer.status_code for answer in answers] == [200] * len(names)
    assert sum(len(answer.content) for answer in answers) <= 150_000
    for name, answer in zip(names, answers, strict=True):
        assert "innerHTML" not in answer.text or "uPlot" in name
        assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": TOKEN}, 401),
        ({**WITH, "host": "evil.example"}, 421),
        ({**WITH, "host": "127.0.0.1:9999"}, 421),
        ({**WITH, "origin": "http://evil.example"}, 403),
        ({**WITH, "origin": "null"}, 403),
        ({**WITH, "origin": f"https://{HOST}.evil.example"}, 403),
        ({**WITH, "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_strangers_are_refused(client, headers, code):
    answer = client.get("/api/runs", headers=headers)
    assert answer.status_code == code
    assert "error" in answer.json()
    assert "access-control-allow-origin" not in answer.headers


def test_a_preflight_of_another_origin_gets_no_leave(client):
    answer = client.options("/api/runs", headers={"origin": "http://evil.example", **WITH})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/api/runs/..%2f..%2fetc", "/api/runs/../../etc/passwd",
     "/page/index.html", "/uPlot.LICENSE", "/api/runs/000000000000"],
)  # fmt: skip
def test_no_path_opens_a_file(client, path):
    assert client.get(path, headers=WITH).status_code == 404


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"x" * (LARGEST_BODY + 1), "larger than"),
        (b"{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"kind": NaN}', "NaN"),
        (b"[" * 10_000, "no JSON"),
        ([1], "expected a table"),
        ({"kind": "pump"}, "kind, body and token"),
        ({"kind": "pump", "body": {"noise_std": [[[[[[1]]]]]]}, "token": "12345678"}, "nested"),
        ({"kind": "pump", "body": {"noise_std": -1}, "token": "12345678"}, "noise_std must be a number in"),
        ({"kind": "rm -rf", "body": {}, "token": "12345678"}, "unknown command"),
        ({"kind": "pump", "body": {"noise_std": 0.1}, "token": "../../etc"}, "token must be"),
        ({"kind": ["pump"], "body": {}, "token": "12345678"}, "unknown command"),
    ],
)
def test_a_body_that_is_no_command_is_refused_and_queues_nothing(client, store, body, reason):
    answer = post(client, body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    assert CommandQueue(store.path).all() == []


def test_a_body_that_a_plain_form_could_send_is_refused(client):
    assert post(client, {}, **{"content-type": "text/plain"}).status_code == 400


def test_a_command_is_queued_once_however_often_it_is_sent(client, store):
    body = {"kind": "pump", "body": {"noise_std": 0.1}, "token": "0123456789"}
    assert [post(client, body).status_code for _ in range(2)] == [202, 202]
    (asked,) = CommandQueue(store.path).all()
    assert (asked.command, asked.source, asked.status) == (Pump(noise_std=0.1), "page", "queued")


def test_pages_that_look_cannot_write(store):
    with pytest.raises(Exception, match="readonly"):
        connect(store.path, "r").execute("DELETE FROM events")


def test_a_cursor_gives_each_point_once_and_notices_that_a_run_went_back(store):
    cursor = Cursor(store.path)
    assert cursor.read() is None
    store.measure(101, "loss/train", 0.25)
    store.flush()
    message = cursor.read()
    assert list(message["points"].values()) == [{"x": [101], "y": [0.25]}]
    assert cursor.read() is None
    store.truncate_after(80)
    assert cursor.read()["reset"]


def test_a_damaged_file_is_a_row_that_says_so(client, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.db").write_text("no database", encoding="utf-8")
    rows = reading_rows(tmp_path)
    assert {row["status"] for row in rows} == {"live", "unreadable"}


def reading_rows(root):
    from surgecollapse.dashboard.runs import Runs

    return Runs(root).rows()


def test_a_silent_run_is_not_called_live(store):
    with RunStore(store.path) as reader:
        assert reader.get("status") == "running"
    connection = connect(store.path, "r")
    assert run_state.status_of(connection, changed=0.0)["status"] == "silent"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5"])
def test_other_machines_are_let_in_only_when_that_is_said(tmp_path, host):
    with pytest.raises(ValueError, match="--expose"):
        serve(tmp_path, host=host, port=0)


def test_the_page_needs_no_torch():
    code = (
        "import surgecollapse.dashboard.server, surgecollapse.dashboard.serve, sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
