"""Branches that the page asks for: what is started, what is refused, and what the list of runs says of them."""

from __future__ import annotations

import json
import sys
import warnings

import pytest

from surgecollapse.dashboard.launch import Launcher
from surgecollapse.dashboard.server import application
from surgecollapse.record import RunStore

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN = "a-secret-of-the-test"
HOST = "127.0.0.1:8321"
WITH = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
# Stands in for the command line: notes its words, and makes what the page waits for.
PROGRAM = """
import json, pathlib, sys
words = sys.argv[1:]
if "400" in words:
    sys.exit("surgecollapse: --at 400: it is at step 100")
place = pathlib.Path(words[1]).with_name(words[words.index("--name") + 1])
place.mkdir()
(place / "words.json").write_text(json.dumps(words))
(place / "run.db").write_text("")
"""


@pytest.fixture
def root(tmp_path):
    for name in ("run", "child", "stray"):
        (tmp_path / name).mkdir()
        with RunStore(tmp_path / name / "run.db", mode="w") as store:
            store.set("status", "complete")
            if name != "run":
                store.set("parent", "../run" if name == "child" else "../../../etc/passwd")
                store.set("forked_at", 33)
                store.set("forked_by", "fork")
                store.set("fork_changes", {"optimizer.lr": 0.1})
    return tmp_path


@pytest.fixture
def client(root):
    app = application(root, TOKEN, {HOST}, launcher=Launcher((sys.executable, "-c", PROGRAM)))
    with TestClient(app, base_url=f"http://{HOST}") as client:
        rows = client.get("/api/runs", headers=WITH).json()["runs"]
        client.ids = {row["name"]: row["id"] for row in rows}
        client.rows = {row["name"]: row for row in rows}
        yield client


def post(client, body, run="run", where="forks", **headers):
    place = f"/api/runs/{client.ids.get(run, run)}/{where}"
    return client.post(place, content=json.dumps(body), headers={**WITH, **headers})


def test_the_list_says_of_a_branch_where_it_comes_from(client):
    assert "branch" not in client.rows["run"]
    assert client.rows["child"]["branch"] == {"parent": client.ids["run"], "name": "run", "at": 33, "by": "fork",
                                              "changes": {"optimizer.lr": 0.1}}  # fmt: skip
    assert client.rows["stray"]["branch"]["parent"] is None


def test_a_fork_starts_the_command_line_once_for_each_token(client, root):
    body = {"at": 33, "changes": {"lr": 0.001, "until": "grokked"}, "seed": 4, "token": "a-click-of-mine"}
    answers = [post(client, body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert {answer.json()["name"] for answer in answers} == {"run-fork-at-33"}
    words = json.loads((root / "run-fork-at-33" / "words.json").read_text())
    assert words == ["fork", str(root / "run"), "--at", "33", "--set", "lr=0.001", "--set", 'until="grokked"',
                     "--seed", "4", "--name", "run-fork-at-33"]  # fmt: skip
    second = post(client, {"at": 33, "token": "another-click"})
    assert second.json() == {"name": "run-fork-at-33-2"}


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ({"at": 33}, 400, "token must be"),
        ({"at": 33, "token": "short"}, 400, "token must be"),
        ({"at": -1, "token": "click-number-1"}, 400, "whole numbers"),
        ({"at": True, "token": "click-number-1"}, 400, "whole numbers"),
        ({"at": "33; rm -rf /", "token": "click-number-1"}, 400, "whole numbers"),
        ({"token": "click-number-1"}, 400, "whole numbers"),
        ({"at": 33, "token": "click-number-1", "out": "/etc"}, 400, "expected token and any of at, changes"),
        ({"at": 33, "token": "click-number-1", "name": "../x"}, 400, "name must be"),
        ({"at": 33, "token": "click-number-1", "name": "-x"}, 400, "name must be"),
        ({"at": 33, "token": "click-number-1", "name": "child"}, 400, "is there already"),
        ({"at": 33, "token": "click-number-1", "changes": {"loss": "evil.py:loss"}}, 400, "not on the page"),
        ({"at": 33, "token": "click-number-1", "changes": {"--out x": 1}}, 400, "table of keys"),
        ({"at": 33, "token": "click-number-1", "changes": [1]}, 400, "table of keys"),
        ({"at": 400, "token": "click-number-1"}, 400, "--at 400: it is at step 100"),
    ],
)
def test_what_is_no_branch_is_refused_and_starts_nothing(client, root, body, code, reason):
    before = sorted(path.name for path in root.iterdir())
    answer = post(client, body)
    assert answer.status_code == code
    assert reason in answer.json()["error"]
    assert sorted(path.name for path in root.iterdir()) == before


def test_a_twin_is_started_and_its_result_listed(client, root):
    answer = post(client, {"intervention": 3, "seeds": 2, "token": "a-click-of-mine"}, where="twins")
    assert (answer.status_code, answer.json()) == (202, {"name": "run-twin"})
    words = json.loads((root / "run-twin" / "words.json").read_text())
    assert words == ["twin", str(root / "run"), "--seeds", "2", "--intervention", "3", "--name", "run-twin"]
    assert client.get(f"/api/runs/{client.ids['run']}/twins", headers=WITH).json() == {"twins": []}
    (root / "run-twin" / "twin.json").write_text(json.dumps({"version": 1, "run": "../run", "final": []}))
    listed = client.get(f"/api/runs/{client.ids['run']}/twins", headers=WITH).json()["twins"]
    assert listed == [{"version": 1, "run": "../run", "final": [], "name": "run-twin"}]
    for wrong in ({"seeds": 0}, {"seeds": 1e9}, {"intervention": "3"}, {"at": 3}):
        assert post(client, {**wrong, "token": "click-number-1"}, where="twins").status_code == 400


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"authorization": "Bearer wrong"}, 401), ({"host": "evil.example"}, 421), ({"origin": "http://x.example"}, 403)],
)
def test_strangers_start_nothing(client, root, headers, code):
    assert post(client, {"at": 33, "token": "click-number-1"}, **headers).status_code == code
    assert not (root / "run-fork-at-33").exists()


def test_no_more_processes_are_started_than_there_is_room_for(root, monkeypatch):
    monkeypatch.setattr(sys.modules[Launcher.__module__], "MOST", 0)
    app = application(root, TOKEN, {HOST}, launcher=Launcher((sys.executable, "-c", PROGRAM)))
    with TestClient(app, base_url=f"http://{HOST}") as client:
        client.ids = {row["name"]: row["id"] for row in client.get("/api/runs", headers=WITH).json()["runs"]}
        answer = post(client, {"at": 33, "token": "click-number-1"})
        assert (answer.status_code, post(client, {"at": 33}, run="nowhere").status_code) == (503, 400)
        assert post(client, {"at": 3, "token": "click-number-2"}, run="nowhere").status_code == 404
