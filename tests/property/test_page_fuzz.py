"""Requests drawn from the schema of the commands and against it: every endpoint answers, and never with a fault."""

from __future__ import annotations

import json
import sys
import uuid
import warnings
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgecollapse.commands import COMMANDS, command_from
from surgecollapse.commands.schema import command_schema
from surgecollapse.dashboard.launch import Launcher
from surgecollapse.dashboard.server import application
from surgecollapse.record import CommandQueue, RunStore

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN, HOST = "a-secret-of-the-test", "127.0.0.1:8321"
WITH = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
READS = ["", "/series", "/events", "/readings", "/array", "/ridges", "/operations", "/twins"]
WRITES = ["/commands", "/notes", "/trash", "/forks", "/twins"]
ALL = [
    "/api/runs",
    "/api/lines",
    "/api/settings",
    "/api/commands",
    *(f"/api/runs/RUN{part}" for part in READS + WRITES),
]
KEYS = ["ids", "from", "to", "buckets", "before", "after", "kinds", "name", "mark", "runs"]
# A few examples in each run of the suite: the time is bounded by their number.
bounded = settings(max_examples=40, suppress_health_check=list(HealthCheck), derandomize=True)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
texts = st.text(max_size=40) | st.sampled_from(["../../etc/passwd", "%2e%2e%2f", "\x00", "9" * 400, "-1", "1,2", "NaN"])


FIELDS = {
    "token": st.just("fuzz-token") | anything,
    **dict.fromkeys(["kind", "body", "at", "changes", "name", "seed", "intervention", "seeds"], anything),
    **dict.fromkeys(["title", "tags", "notes", "archived"], anything),
}


def fitting(schema):
    """Values that a schema allows; of the keywords that the commands use."""
    if "anyOf" in schema:
        return st.one_of(*map(fitting, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "null":
        return st.none()
    if schema["type"] == "string":
        return st.from_regex(schema.get("pattern", r"\A[a-z0-9.*]{1,9}\Z"), fullmatch="pattern" in schema).filter(
            lambda word: "\n" not in word and word.isascii() and len(word) <= schema.get("maxLength", 99)
        )
    if schema["type"] == "integer":
        return st.integers(schema.get("minimum", 0), 2**62 - 1)
    if schema["type"] == "number":
        low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
        top = schema.get("exclusiveMaximum", high)
        return st.floats(
            low, top, allow_nan=False, allow_infinity=False,
            exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema,
        )  # fmt: skip
    if schema["type"] == "array":
        most = min(4, schema.get("maxItems", 4))
        return st.lists(fitting(schema["items"]), min_size=schema.get("minItems", 0), max_size=most)
    if "properties" in schema:
        needed = {name: fitting(part) for name, part in schema["properties"].items()}
        return st.fixed_dictionaries(
            {name: part for name, part in needed.items() if name in schema["required"]},
            optional={name: part for name, part in needed.items() if name not in schema["required"]},
        )
    words = st.text("abcdefgh_", min_size=1, max_size=8)
    return st.dictionaries(words, fitting(schema["additionalProperties"]), min_size=1, max_size=3)


def ticket():
    """A token of its own for each command."""
    return uuid.uuid4().hex


def emptied(client):
    """Settle what waits, as only so many may."""
    queue = CommandQueue(client.record)
    for asked in queue.pending():
        queue.settle(asked.id, "rejected", step=1, reason="test")
    queue.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    (root / "one").mkdir()
    with RunStore(root / "one" / "run.db", mode="w") as store:
        store.set("status", "running")
        store.set("config", {"every": 10, "steps": 100})
        for step in range(1, 31):
            store.measure(step, "loss/train", 1.0 / step)
        store.flush()
        app = application(root, TOKEN, {HOST}, launcher=Launcher((sys.executable, "-c", "raise SystemExit('no')")))
        # With `raise_server_exceptions` an exception in the server is the failure of the test, with its traceback.
        with TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=True) as client:
            client.run = client.get("/api/runs", headers=WITH).json()["runs"][0]["id"]
            client.record = root / "one" / "run.db"
            yield client


def sent(client, path, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path.replace("RUN", client.run), content=content, headers=WITH)


@pytest.mark.parametrize("kind", COMMANDS)
@settings(bounded, max_examples=8)
@given(data=st.data())
def test_what_the_schema_allows_is_taken_and_what_is_changed_in_it_is_refused_or_taken(client, kind, data):
    body = data.draw(fitting(command_schema(COMMANDS[kind])["properties"]["body"]))
    assert command_from(kind, body).kind == kind
    answer = sent(client, "/api/runs/RUN/commands", {"kind": kind, "body": body, "token": ticket()})
    assert answer.status_code == 202, answer.text
    emptied(client)
    spoiled = {**body, data.draw(st.sampled_from([*body, "unknown"])): data.draw(anything)}
    try:
        command_from(kind, spoiled)
    except ValueError:
        expected = 400
    else:
        expected = 202
    assert (
        sent(client, "/api/runs/RUN/commands", {"kind": kind, "body": spoiled, "token": ticket()}).status_code
        == expected
    )


@pytest.mark.parametrize("path", WRITES)
@bounded
@given(body=anything | st.binary(max_size=200) | st.fixed_dictionaries({}, optional=FIELDS))
def test_no_body_is_a_fault(client, path, body):
    answer = sent(client, f"/api/runs/RUN{path}", body)
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", ALL)
@bounded
@given(query=st.dictionaries(st.sampled_from(KEYS), texts, max_size=4), run=st.none() | texts)
def test_no_query_and_no_name_is_a_fault(client, path, query, run):
    address = path.replace("RUN", client.run if run is None else quote(run, safe="") or "x")
    answer = client.get(address, params=query, headers=WITH)
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "POST", "GET"])
@pytest.mark.parametrize("path", ALL)
def test_a_wrong_method_is_refused(client, path, method):
    address = path.replace("RUN", client.run)
    writes, reads = (
        path.removeprefix("/api/runs/RUN") in WRITES,
        path.removeprefix("/api/runs/RUN") not in (set(WRITES) - set(READS)),
    )
    if (method == "POST" and writes) or (method == "GET" and reads):
        return
    assert client.request(method, address, headers=WITH).status_code in (400, 405)


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"authorization": "Bearer wrong"}, 401),
        ({"host": "evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
    ],
)
def test_strangers_get_nothing_from_any_endpoint(client, path, change, code):
    method = "POST" if path.removeprefix("/api/runs/RUN") in WRITES else "GET"
    answer = client.request(method, path.replace("RUN", client.run), headers={**WITH, **change}, content=b"{}")
    assert answer.status_code == code


@pytest.mark.parametrize("path", WRITES)
def test_a_body_that_is_too_large_is_refused(client, path):
    answer = sent(client, f"/api/runs/RUN{path}", b'{"x": "' + b"a" * 3_000_000 + b'"}')
    assert 400 <= answer.status_code < 500
    assert len(answer.text) < 1000
