"""Any body and any query, on every endpoint: an answer that says what was expected, and never an error of ours."""

from __future__ import annotations

import json
import random
import sys
import warnings

import pytest

from surgecollapse.commands import COMMANDS
from surgecollapse.dashboard.launch import Launcher
from surgecollapse.dashboard.server import application
from surgecollapse.record import CommandQueue, RunStore

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN = "a-secret-of-the-test"
HOST = "127.0.0.1:8321"
WITH = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
ODD = [None, True, 0, -1, 1.5, 1e308, 2**70, "", "x", "../..", "é", "\ud800", "a" * 300, [], [1], ["x"], {}, {"a": 1}]
SERIOUS = 500


def value(chance, depth=0):
    """Anything that JSON can hold, a few levels deep."""
    kind = chance.random()
    if depth < 3 and kind < 0.15:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    if depth < 3 and kind < 0.3:
        return {chance.choice(["kind", "at", "lr", "", "x" * 90]): value(chance, depth + 1) for _ in range(2)}
    return chance.choice(ODD)


def body(chance, where):
    """Nearly what an endpoint expects: each part is there, right, odd or missing."""
    right = {
        "commands": {"kind": chance.choice(list(COMMANDS)), "body": value(chance), "token": f"token-{chance.random()}"},
        "forks": {"at": 3, "changes": {"lr": 0.1}, "name": "made", "seed": 1, "token": f"token-{chance.random()}"},
        "twins": {"intervention": 1, "seeds": 1, "name": "made", "token": f"token-{chance.random()}"},
        "notes": {"title": "one", "tags": ["a"], "notes": "text", "archived": True},
        "trash": {"name": "another"},
    }[where]
    for name in list(right):
        if chance.random() < 0.35:
            right[name] = value(chance)
        elif chance.random() < 0.15:
            del right[name]
    if chance.random() < 0.1:
        right["more"] = 1
    return right if chance.random() < 0.9 else value(chance)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    with RunStore(tmp_path / "runs" / "run" / "run.db", mode="w") as store:
        store.set("status", "running")
        store.measure(1, "loss/train", 1.0)
        store.flush()
        yield tmp_path / "runs" / "run"


@pytest.fixture
def client(run):
    nothing = Launcher((sys.executable, "-S", "-c", "raise SystemExit('surgecollapse: refused')"))
    app = application(run.parent, TOKEN, {HOST}, launcher=nothing)
    with TestClient(app, base_url=f"http://{HOST}") as client:
        yield client


@pytest.mark.parametrize("where", ["commands", "forks", "twins", "notes", "trash"])
def test_any_body_is_answered(client, run, where):
    id = client.get("/api/runs", headers=WITH).json()["runs"][0]["id"]
    chance, codes = random.Random(where), set()
    for _ in range(60 if where in ("forks", "twins") else 200):
        answer = client.post(f"/api/runs/{id}/{where}", content=json.dumps(body(chance, where)), headers=WITH)
        codes.add(answer.status_code)
        assert answer.status_code < SERIOUS or answer.status_code == 503, answer.text
        assert answer.is_success or answer.json()["error"]
    assert 400 in codes
    queue = CommandQueue(run / "run.db")
    assert all(one.command for one in queue.all())  # what was queued is a command
    queue.close()
    assert sorted(place.name for place in run.parent.iterdir()) == ["run"]


def test_any_query_is_answered(client):
    id = client.get("/api/runs", headers=WITH).json()["runs"][0]["id"]
    chance = random.Random(0)
    odd = ["", "x", "-1", "1e9", "9" * 40, "1,2", "%00", "../../etc", "é", "1" * 500]
    wanted = {
        "series": ["ids", "from", "to", "buckets"], "events": ["kinds", "before"], "readings": ["after"],
        "array": ["name"], "ridges": ["name"], "operations": ["x"], "": ["x"], "twins": ["x"],
    }  # fmt: skip
    for _ in range(150):
        where, names = chance.choice(list(wanted.items()))
        query = "&".join(f"{name}={chance.choice(odd)}" for name in names if chance.random() < 0.8)
        run = id if chance.random() < 0.9 else chance.choice(["nothing", "..", "%2e%2e", "0" * 12])
        answer = client.get(f"/api/runs/{run}/{where}?{query}".replace("/?", "?"), headers=WITH)
        assert answer.status_code < SERIOUS, (where, query, answer.text)
        assert answer.headers["content-type"].startswith(("application/json", "text/plain"))
