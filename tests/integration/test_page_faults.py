"""What goes wrong around a run: a full disk, a page server that dies, two pages at once, too many pages."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest
import torch

from surgecollapse.commands import Pump
from surgecollapse.dashboard.access_token import kept_token
from surgecollapse.dashboard.background import page_beside
from surgecollapse.dashboard.server import STREAMS
from surgecollapse.dashboard.servers import noted, running
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training import run as run_module
from surgecollapse.lab.training.checkpoint import load_checkpoint
from surgecollapse.record import CommandQueue, RunStore

PROGRAM = [sys.executable, "-m", "surgecollapse"]
SMALL = ["digits", "--widths", "16,16", "--evaluate-every", "5", "--checkpoint-every", "200", "--monitor-budget", "1"]


def settings(state):
    return {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(state)}


@pytest.fixture
def serve(tmp_path):
    """Starts servers of a folder that keep their tokens in a folder of the test; (process, host, port, token)."""
    servers = []

    def start(root, port=0):
        command = [*PROGRAM, "watch", str(root), "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings(tmp_path / "state"))
        servers.append(process)
        host, port, token = re.fullmatch(r"http://(.+):(\d+)/#(.+)\n", process.stdout.readline()).groups()
        return process, host, int(port), token

    yield start
    for process in servers:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def store(tmp_path):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    with RunStore(tmp_path / "runs" / "one" / "run.db", mode="w") as store:
        store.set("status", "running")
        yield store


def ask(host, port, token, path, body=None):
    """Status, JSON and the open connection of a request."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": "application/json"} if body else {})
    connection.request("POST" if body else "GET", path, body and json.dumps(body), headers)
    return connection.getresponse(), connection


def only_run(host, port, token):
    answer, connection = ask(host, port, token, "/api/runs")
    rows = json.load(answer)["runs"]
    connection.close()
    return rows[0]["id"]


def test_a_server_that_is_restarted_keeps_its_token_and_another_folder_has_another(tmp_path, store, serve):
    process, host, port, token = serve(tmp_path / "runs")
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, _, again, same = serve(tmp_path / "runs", port)
    assert (again, same) == (port, token)
    assert only_run(host, port, token)
    (tmp_path / "others").mkdir()
    assert serve(tmp_path / "others")[3] != token


@pytest.mark.parametrize("fault", ["readable", "link", "short"])
def test_a_kept_token_that_others_could_know_is_replaced(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first = kept_token(tmp_path)
    (kept,) = (tmp_path / "state" / "surgecollapse" / "watch").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept_token(tmp_path) == first
    if fault == "readable":
        kept.chmod(0o644)
    elif fault == "short":
        kept.write_text("x\n")
    else:
        kept.rename(tmp_path / "planted")
        kept.symlink_to(tmp_path / "planted")
    second = kept_token(tmp_path)
    assert second != first
    assert len(second) == len(first) == 32
    assert kept_token(tmp_path) == second
    assert stat.S_IMODE(kept.lstat().st_mode) == 0o600


def test_where_nothing_can_be_kept_a_token_is_drawn_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert len(kept_token(tmp_path)) == 32


def test_more_pages_than_there_is_room_are_refused_until_one_is_closed(tmp_path, store, serve):
    _, *server = serve(tmp_path / "runs")
    path = f"/api/runs/{only_run(*server)}/stream"
    opened = [ask(*server, path) for _ in range(STREAMS)]
    assert {answer.status for answer, _ in opened} == {200}
    assert opened[-1][0].readline() == b"data: {}\n"
    refused, connection = ask(*server, path)
    assert refused.status == 503
    assert "close some" in json.load(refused)["error"]
    connection.close()
    assert only_run(*server)  # everything else is still answered
    answer, connection = opened.pop()
    answer.close()
    connection.close()
    until = time.monotonic() + 15
    while True:
        answer, connection = ask(*server, path)
        opened.append((answer, connection))
        if answer.status == 200:
            break
        assert time.monotonic() < until, "a closed page still counts"
        time.sleep(0.2)
    for answer, connection in opened:
        answer.close()
        connection.close()


def test_two_pages_at_once_lose_nothing_double_nothing_and_keep_their_order(tmp_path, store, serve):
    _, *server = serve(tmp_path / "runs")
    path = f"/api/runs/{only_run(*server)}/commands"
    given = {}

    def page(name):
        for number in range(25):
            body = {"kind": "pump", "body": {"noise_std": number / 100}, "token": f"{name}-{number:07d}"}
            for _ in range(2):  # as a page does that did not hear the answer
                answer, connection = ask(*server, path, body)
                assert answer.status == 202
                given.setdefault(name, []).append(json.load(answer)["id"])
                connection.close()

    pages = [threading.Thread(target=page, args=(name,)) for name in ("left", "right")]
    for each in pages:
        each.start()
    for each in pages:
        each.join()
    asked = CommandQueue(store.path).pending()
    assert len(asked) == 50
    assert [one.id for one in asked] == sorted(one.id for one in asked)
    for name in ("left", "right"):
        ids = given[name]
        assert ids[::2] == ids[1::2] == sorted(ids[::2])
        commands = {one.id: one.command for one in asked}
        assert [commands[id] for id in ids[::2]] == [Pump(noise_std=number / 100) for number in range(25)]
    assert len(set(given["left"]) & set(given["right"])) == 0


def final_weights(folder, step):
    return load_checkpoint(folder / "checkpoints" / f"step-{step}.pt")["model"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run([*PROGRAM, "run", *SMALL, "--steps", "900", "--out", folder], check=True, capture_output=True)
    return final_weights(folder, 900)


def test_a_page_server_that_is_killed_leaves_the_run_as_it_would_have_been(tmp_path, serve, undisturbed):
    folder = tmp_path / "runs" / "live"
    folder.parent.mkdir()
    command = [*PROGRAM, "run", *SMALL, "--steps", "900", "--out", str(folder)]
    trainer = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=settings(tmp_path / "state"))
    try:
        while not (folder / "run.db").exists():
            assert trainer.poll() is None
            time.sleep(0.02)
        process, *server = serve(tmp_path / "runs")
        answer, connection = ask(*server, f"/api/runs/{only_run(*server)}/stream")
        while b"points" not in answer.readline():  # the page follows it
            pass
        assert trainer.poll() is None
        process.send_signal(signal.SIGKILL)
        connection.close()
        assert trainer.wait(60) == 0
    finally:
        trainer.kill()
        trainer.wait()
    with RunStore(folder / "run.db") as store:
        assert (store.get("status"), store.modified_by_user, store.dropped) == ("complete", False, 0)
    found = final_weights(folder, 900)
    assert all(torch.equal(found[name], undisturbed[name]) for name in undisturbed)


def test_a_run_on_a_full_disk_says_so_and_goes_on_where_there_is_room(tmp_path, undisturbed):
    folder, most = tmp_path / "run", 300_000

    def limit():
        # A file that may not grow is what a full disk is to SQLite: its log fills up first.
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    command = [*PROGRAM, "run", *SMALL, "--steps", "900", "--out", str(folder)]
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert full.returncode == 2
    assert "free disk space" in full.stderr
    assert "Traceback" not in full.stderr
    with RunStore(folder / "run.db") as store:
        reached = store.measurements("loss/train").steps
        assert 0 < reached[-1] < 900
        assert (reached[1:] > reached[:-1]).all()
    subprocess.run([*PROGRAM, "run", "--resume", str(folder)], check=True, capture_output=True)
    with RunStore(folder / "run.db") as store:
        assert store.get("status") == "complete"
        assert store.measurements("loss/train").steps[-1] == 900
    found = final_weights(folder, 900)
    assert all(torch.equal(found[name], undisturbed[name]) for name in undisturbed)


def test_a_run_on_a_network_file_system_says_what_that_means(tmp_path, monkeypatch):
    monkeypatch.setattr("surgecollapse.lab.training.run_folder.is_network", lambda place: True)

    class Notes(run_module.Silent):
        def __init__(self):
            self.lines = []

        def note(self, line):
            self.lines.append(line)

    notes = Notes()
    config = make_config(task="digits", policy="none", widths=(4,), steps=2, monitors="none")
    run_module.train(config, tmp_path / "run", progress=notes)
    assert any("network file system" in line and "local disk" in line for line in notes.lines)


def test_a_page_beside_a_run_is_there_for_its_length_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    told = []
    with page_beside(tmp_path / "runs", told.append):
        host, port, token = re.fullmatch(r"http://(.+):(\d+)/#(.+)", told[0]).groups()
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", "/api/runs", headers={"authorization": f"Bearer {token}"})
        assert json.loads(connection.getresponse().read())["runs"] == []
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(host, int(port), timeout=20).request("GET", "/")


def test_of_many_pages_at_once_no_more_are_let_in_than_there_is_room(tmp_path, store, serve):
    _, *server = serve(tmp_path / "runs")
    path = f"/api/runs/{only_run(*server)}/stream"
    codes, opened = [], []

    def page():
        answer, connection = ask(*server, path)
        opened.append((answer, connection))
        codes.append(answer.status)

    pages = [threading.Thread(target=page) for _ in range(STREAMS + 20)]
    for each in pages:
        each.start()
    for each in pages:
        each.join()
    assert (codes.count(200), codes.count(503)) == (STREAMS, 20)
    for answer, connection in opened:
        answer.close()
        connection.close()


def test_connections_that_say_nothing_keep_nobody_out(tmp_path, store, serve):
    _, host, port, token = serve(tmp_path / "runs")
    silent = [socket.create_connection((host, port), timeout=30) for _ in range(210)]
    for half in silent[::7]:
        half.sendall(b"GET /api/runs HTTP/1.1\r\nHost: ")
    began = time.monotonic()
    assert only_run(host, port, token)
    assert time.monotonic() - began < 8  # less than the wait for one silent connection to end
    until = time.monotonic() + 60
    silent[-1].settimeout(60)
    assert silent[-1].recv(1) == b""  # closed by the server
    assert time.monotonic() < until
    for each in silent:
        each.close()


def test_clients_that_leave_in_the_middle_of_a_request_leave_no_traceback(tmp_path, store):
    log = tmp_path / "log"
    command = [*PROGRAM, "watch", str(tmp_path / "runs"), "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=settings(tmp_path / "state")
        )
    try:
        host, port, token = re.fullmatch(r"http://(.+):(\d+)/#(.+)\n", process.stdout.readline()).groups()
        run = only_run(host, int(port), token)
        common = f"Host: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        for _ in range(5):
            with socket.create_connection((host, int(port))) as leaving:
                head = f"POST /api/runs/{run}/commands HTTP/1.1\r\n{common}"
                head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
                leaving.sendall(head.encode())
                time.sleep(0.05)
            with socket.create_connection((host, int(port))) as leaving:
                head = f"GET /api/runs/{run} HTTP/1.1\r\n{common}\r\n"
                leaving.sendall(head.encode())
        assert only_run(host, int(port), token) == run
        time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()
    assert "Traceback" not in log.read_text()


def test_a_page_beside_a_run_that_is_killed_ends_too(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from surgecollapse.dashboard.background import page_beside\n"
        "with page_beside(Path(sys.argv[1]), lambda line: print(line, flush=True)): time.sleep(300)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "runs")]
    runner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings(tmp_path / "state"))
    try:
        host, port = re.fullmatch(r"http://(.+):(\d+)/#.+\n", runner.stdout.readline()).groups()
        socket.create_connection((host, int(port))).close()
    finally:
        runner.kill()
        runner.wait()
        runner.stdout.close()
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() < until, "the page outlives the run"
        time.sleep(0.2)


def list_of_pages(state):
    done = subprocess.run(
        [*PROGRAM, "watch", "--list"], capture_output=True, text=True, env=settings(state), check=True, timeout=120
    )
    return done.stdout.splitlines()


def test_pages_that_are_served_are_listed_and_those_of_ended_and_killed_servers_are_not(tmp_path, serve):
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    started = [serve(folder) for folder in folders]
    expected = [
        f"http://{host}:{port}/#{token} {folder} (process {process.pid})"
        for folder, (process, host, port, token) in zip(folders, started, strict=True)
    ]
    notes = tmp_path / "state" / "surgecollapse" / "servers"
    until = time.monotonic() + 60  # a server tells its address before it notes it
    while len(list(notes.glob("*.json"))) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert list_of_pages(tmp_path / "state") == expected
    assert {stat.S_IMODE(file.stat().st_mode) for file in notes.iterdir()} == {0o600}
    started[0][0].send_signal(signal.SIGTERM)
    started[1][0].send_signal(signal.SIGKILL)
    for process, *_ in started[:2]:
        process.wait(60)
    assert len(list(notes.iterdir())) == 2  # a killed one leaves its note
    assert list_of_pages(tmp_path / "state") == expected[2:]
    assert len(list(notes.iterdir())) == 1
    started[2][0].send_signal(signal.SIGINT)
    started[2][0].wait(60)
    (said,) = list_of_pages(tmp_path / "state")
    assert said.startswith("no page is served")


STRANGE_NOTES = {
    "no JSON": "{",
    "a list": "[]",
    "nested deep": "[" * 30_000,
    "other types": '{"time": "now", "pid": true, "address": 3, "folder": [], "host": null, "port": "x"}',
    "of another machine": '{"time": 1.0, "pid": 1, "place": "elsewhere", "address": "a", "folder": "f", '
    '"host": "127.0.0.1", "port": 1}',
}


@pytest.mark.parametrize("content", STRANGE_NOTES.values(), ids=STRANGE_NOTES)
def test_notes_of_servers_that_cannot_be_believed_are_let_be(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    note = tmp_path / "surgecollapse" / "servers" / "1-1.json"
    note.parent.mkdir(parents=True)
    note.touch(0o600)
    note.write_text(content)
    assert running() == []
    assert note.exists()


def test_a_note_that_others_could_have_written_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with noted("address", tmp_path, "127.0.0.1", port):
            assert [server.address for server in running()] == ["address"]
            (note,) = (tmp_path / "surgecollapse" / "servers").iterdir()
            note.chmod(0o666)
            assert running() == []
        assert not note.exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--port", "70000"), "must lie between 0 and 65535"),
        (("--port=-1",), "must lie between 0 and 65535"),
        (("--host", ""), "must be an address"),
        (("--host", " ", "--expose"), "must be an address"),
        (("--host", "0.0.0.0", "--expose"), "give the one address"),
        (("--host", "0", "--expose"), "give the one address"),
        (("--host", "0x0", "--expose"), "give the one address"),
        (("--host", "::", "--expose"), "give the one address"),
        (("--host", "::0", "--expose"), "give the one address"),
        (("--host", "0:0:0:0:0:0:0:0", "--expose"), "give the one address"),
    ],
)
def test_addresses_that_cannot_be_or_stand_for_all_are_one_clear_error(tmp_path, capsys, words, reason):
    from surgecollapse.cli import main

    (tmp_path / "runs").mkdir()
    assert main(["watch", str(tmp_path / "runs"), *words]) == 2
    assert reason in capsys.readouterr().err


SENDER = """
import http.client, json, sys
host, port, token, path, name = sys.argv[1:]
for number in range(10):
    given = name if number % 2 else "shared"  # every other one is sent by all processes
    body = {"kind": "pump", "body": {"noise_std": number / 100}, "token": f"{given}-{number:07d}"}
    for _ in range(2):
        connection = http.client.HTTPConnection(host, int(port), timeout=120)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        print(answer.status, body["token"], json.load(answer)["id"])
        connection.close()
"""


def test_ten_processes_at_once_put_each_token_once(tmp_path, store, serve):
    _, *server = serve(tmp_path / "runs")
    path = f"/api/runs/{only_run(*server)}/commands"
    words = [sys.executable, "-c", SENDER, *map(str, server), path]
    senders = [subprocess.Popen([*words, f"sender{number}"], stdout=subprocess.PIPE, text=True) for number in range(10)]
    given = {}
    for sender in senders:
        said, _ = sender.communicate(timeout=300)
        assert sender.returncode == 0
        for line in said.splitlines():
            status, token, id = line.split()
            assert status == "202"
            given.setdefault(token, set()).add(int(id))
    asked = CommandQueue(store.path).pending()
    assert len(asked) == 55  # 5 that all share, and 5 of each
    assert {one.token: {one.id} for one in asked} == given
