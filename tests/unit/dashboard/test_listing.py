"""What the list of runs says, what people note about runs, and how runs are thrown away."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
import warnings
from contextlib import closing

import pytest

from surgecollapse.dashboard.documents import CONFINED
from surgecollapse.dashboard.notes import TRASH, checked_notes, read_notes
from surgecollapse.dashboard.readings import MOST, reading_lines
from surgecollapse.dashboard.ridges import BINS
from surgecollapse.dashboard.rows import varying
from surgecollapse.dashboard.runs import Runs
from surgecollapse.dashboard.server import application
from surgecollapse.events import Intervention, LayerReading, Reading
from surgecollapse.record import RunStore
from surgecollapse.record.schema import connect

with warnings.catch_warnings():
    # Newer versions of Starlette would rather have another client than httpx; both do.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN = "a-secret-of-the-test"
HOST = "127.0.0.1:8321"
WITH = {"authorization": f"Bearer {TOKEN}"}


def write(root, name, *, policy="gmp", seed=0, accuracy=0.9, status="complete", **config):
    """A finished run of one configuration."""
    folder = root / name
    folder.mkdir(parents=True)
    with RunStore(folder / "run.db", mode="w") as store:
        method = {"policy": policy, "sparsity": 0.8}
        store.set(
            "config", {"data": {"task": "digits"}, "method": method, "run": {"seed": seed, "steps": 100, **config}}
        )
        store.set("data", {"samples": {"test": 1000}})
        store.set("started", 1.0e9)
        if status == "complete":
            sizes = {"bytes_sparse": 100 if policy == "gmp" else 400, "seconds": 3.0 if policy == "gmp" else 2.0}
            store.set("summary", {"task": "digits", "policy": policy, "seed": seed, "steps": 100, "accuracy": accuracy,
                                  "sparsity": 0.8 if policy == "gmp" else 0.0, **sizes})  # fmt: skip
        store.measure(100, "loss/train", 0.5)
        store.set("status", status)
    return folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def client(root):
    root.mkdir(exist_ok=True)
    with TestClient(application(root, TOKEN, {HOST}), base_url=f"http://{HOST}") as client:
        yield client


def listed(client):
    return {row["name"]: row for row in client.get("/api/runs", headers=WITH).json()["runs"]}


def post(client, run, what, body):
    return client.post(f"/api/runs/{run}/{what}", json=body, headers=WITH)


def test_a_row_has_the_figures_of_the_record(root, client):
    write(root, "one", accuracy=0.925, seed=3)
    row = listed(client)["one"]
    expected = {"accuracy": 0.925, "part": "test", "sparsity": 0.8, "target": 0.8, "policy": "gmp", "seed": 3,
                "step": 100, "total": 100, "started": 1e9, "duration": 3.0, "status": "finished"}  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_a_run_without_a_summary_shows_its_newest_validation(root, client):
    folder = write(root, "one", status="interrupted")
    with RunStore(folder / "run.db", mode="a") as store:
        store.measure(50, "accuracy/validation", 0.5)
        store.measure(100, "accuracy/validation", 0.75)
    row = listed(client)["one"]
    assert (row["accuracy"], row["part"]) == (0.75, "validation")


def test_seeds_are_one_group_and_only_settings_that_differ_are_listed(root, client):
    write(root, "a", seed=0)
    write(root, "b", seed=1)
    write(root, "c", seed=0, lr=0.1)
    answer = client.get("/api/runs", headers=WITH).json()
    rows = {row["name"]: row for row in answer["runs"]}
    assert rows["a"]["group"] == rows["b"]["group"] != rows["c"]["group"]
    full = client.get("/api/settings", headers=WITH).json()
    assert answer["varying"] == full["varying"] == []  # a has no such key: nothing that both have differs
    write(root, "d", seed=0, lr=0.2)
    time.sleep(2.1)  # a folder is looked through every two seconds at most
    assert client.get("/api/settings", headers=WITH).json()["varying"] == ["run.lr"]
    assert listed(client)["d"]["settings"] == {"run.lr": 0.2}


def test_varying_ignores_seeds_and_places():
    rows = [{"settings": {"run.seed": seed, "run.device": str(seed), "run.lr": seed}} for seed in (0, 1)]
    assert varying(rows) == ["run.lr"]


def test_a_page_that_has_the_list_is_told_only_that(root, client):
    write(root, "one")
    first = client.get("/api/runs", headers=WITH).json()
    again = client.get(f"/api/runs?mark={first['mark']}", headers=WITH).json()
    assert again == {"mark": first["mark"], "same": True}


def test_notes_change_one_by_one_and_empty_ones_go(root, client):
    folder = write(root, "one")
    run = listed(client)["one"]["id"]
    assert post(client, run, "notes", {"title": "best", "tags": ["a", "b"]}).status_code == 200
    assert post(client, run, "notes", {"text": "x", "tags": []}).json() == {"title": "best", "text": "x"}
    assert json.loads((folder / "notes.json").read_text()) == {"title": "best", "text": "x"}
    assert listed(client)["one"]["title"] == "best"


@pytest.mark.parametrize(
    "body",
    [
        {"title": 3}, {"title": "x" * 121}, {"text": "x" * 8001}, {"tags": "a"}, {"tags": ["x" * 41]}, {"tags": [1]},
        {"tags": ["a"] * 21}, {"archived": 1}, {"status": "live"}, {"id": "x"},
    ],
)  # fmt: skip
def test_notes_of_other_kinds_are_refused(root, client, body):
    folder = write(root, "one")
    answer = post(client, listed(client)["one"]["id"], "notes", body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert not (folder / "notes.json").exists()


@pytest.mark.parametrize(
    "content", ["", "[", "[1]", '{"id": "x", "status": "y"}', '{"title": 3}', '{"tags": {}}', "1" * 70000]
)
def test_damaged_notes_are_no_notes(root, content):
    folder = write(root, "one")
    (folder / "notes.json").write_text(content)
    assert read_notes(folder) == {}
    (row,) = Runs(root).rows()
    assert row["status"] == "finished"


def test_notes_that_are_a_link_are_neither_read_nor_written(root, client, tmp_path):
    folder = write(root, "one")
    (tmp_path / "secret.json").write_text('{"title": "secret"}')
    (folder / "notes.json").symlink_to(tmp_path / "secret.json")
    row = listed(client)["one"]
    assert "title" not in row
    assert post(client, row["id"], "notes", {"title": "x"}).status_code == 400
    assert "secret" in (tmp_path / "secret.json").read_text()


def test_a_lone_surrogate_in_a_note_is_kept_as_a_question_mark():
    assert checked_notes({"text": "\ud800"}) == {"text": "?"}


def test_a_run_goes_to_the_trash_only_by_its_name_and_out_of_the_list(root, client):
    folder = write(root, "deep/one")
    write(root, "two")
    run = listed(client)["deep/one"]["id"]
    assert post(client, run, "trash", {"name": "two"}).status_code == 400
    assert post(client, run, "trash", {}).status_code == 400
    assert folder.exists()
    assert post(client, run, "trash", {"name": "one"}).json() == {"trash": f"{TRASH}/deep-one"}
    assert not folder.exists()
    assert (root / TRASH / "deep-one" / "run.db").is_file()
    assert set(listed(client)) == {"two"}
    assert client.get(f"/api/runs/{run}", headers=WITH).status_code == 404
    shutil.copytree(root / TRASH / "deep-one", folder)
    time.sleep(2.1)
    assert post(client, run, "trash", {"name": "one"}).json() == {"trash": f"{TRASH}/deep-one-2"}


@pytest.mark.parametrize("why", ["live", "locked", "link", "root"])
def test_a_run_that_must_not_go_stays(root, why, tmp_path):
    from filelock import FileLock

    folder = write(root, "one", status="running" if why == "live" else "complete")
    watched = folder if why == "root" else root
    if why == "link":
        folder.rename(root / "real")
        folder.symlink_to(root / "real")
    with TestClient(application(watched, TOKEN, {HOST}), base_url=f"http://{HOST}") as client:
        rows = listed(client)
        run = rows["one" if "one" in rows else next(iter(rows))]["id"]
        if why == "locked":
            with FileLock(folder / "run.lock"):
                answer = post(client, run, "trash", {"name": "one"})
        else:
            answer = post(client, run, "trash", {"name": "one"})
    if why == "link":  # os.walk follows no link to a folder, so that only the real folder is listed
        assert set(rows) == {"real"}
    assert answer.status_code == 400
    assert (folder / "run.db").is_file()


@pytest.mark.parametrize("what", ["notes", "trash"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [({}, 401), ({**WITH, "origin": "http://evil.example"}, 403), ({**WITH, "host": "evil.example"}, 421)],
)
def test_strangers_change_nothing(root, client, what, headers, code):
    folder = write(root, "one")
    run = listed(client)["one"]["id"]
    answer = client.post(f"/api/runs/{run}/{what}", json={"name": "one"}, headers=headers)
    assert answer.status_code == code
    assert folder.is_dir()
    assert client.get(f"/api/runs/{run}/{what}", headers=WITH).status_code == 405


def test_the_story_compares_pairs_of_seeds_with_the_plain_run(root, client):
    for seed, (ours, plain) in enumerate([(0.9, 0.95), (0.91, 0.95), (0.89, 0.95)]):
        write(root, f"gmp-{seed}", seed=seed, accuracy=ours)
        write(root, f"plain-{seed}", policy="none", seed=seed, accuracy=plain)
    write(root, "other", policy="none", seed=0, accuracy=0.1, lr=0.5)  # not on the same terms
    rows = listed(client)
    found = client.get(f"/api/runs/{rows['gmp-0']['id']}", headers=WITH).json()
    assert found["baseline"] == rows["plain-0"]["id"]
    # Differences −5, −4 and −6 points: mean −5, s = 1, t(2) = 4.303, half = 4.303/√3 = 2.48.
    said = " ".join(found["sentences"])
    assert "Accuracy is 5.00 points lower than that of plain-0 (95% interval −7.48 to −2.52, 3 seeds)." in said
    assert "The net is 4.0 times smaller and took 1.5 times as long to train." in said


def test_without_a_plain_run_the_story_says_so(root, client):
    write(root, "one")
    found = client.get(f"/api/runs/{listed(client)['one']['id']}", headers=WITH).json()
    assert found["baseline"] is None
    assert found["sentences"][-1] == "There is no plain run of the same settings and seed here to compare it with."


@pytest.mark.parametrize(
    "summary", [{"steps": "x", "task": {}}, {"accuracy": float("nan")}, {"grokking": [1]}, {"steps": 2}]
)
def test_a_story_survives_any_summary(root, client, summary):
    folder = write(root, "one")
    with RunStore(folder / "run.db", mode="a") as store:
        store.set("summary", summary)
    answer = client.get(f"/api/runs/{listed(client)['one']['id']}", headers=WITH)
    assert answer.status_code == 200
    assert answer.json()["sentences"]


def layer(name, entropy):
    return LayerReading(layer=name, entropy=entropy, on_off=0.5, energy=1.0, dead=0.25, units=4, rows=8)


def test_readings_are_lines_of_layers_and_of_the_net(root):
    folder = write(root, "one")
    with RunStore(folder / "run.db", mode="a") as store:
        for step in (10, 20):
            layers = (layer("a", step / 100), layer("b", None))
            store.record(Reading(step=step, layers=layers, entropy=step / 100, target_entropy=0.5))
        for step, before, after in ((10, 0.0, 0.5), (15, 0.5, 0.5), (20, 0.5, 0.75)):
            store.record(Intervention(step=step, kind="collapse", phase="x", reason="y", sparsity_before=before,
                                      sparsity_after=after))  # fmt: skip
    connection = connect(folder / "run.db", "r")
    lines = {(line["name"], line["layer"]): (line["x"], line["y"]) for line in reading_lines(connection)}
    assert lines["entropy/activation", "a"] == ([10, 20], [0.1, 0.2])
    assert ("entropy/activation", "b") not in lines  # it has none
    assert lines["entropy/activation", "mean of layers"] == ([10, 20], [0.1, 0.2])
    assert lines["units/dead", "b"] == ([10, 20], [0.25, 0.25])
    assert lines["entropy/target", ""] == ([10, 20], [0.5, 0.5])
    assert lines["sparsity", ""] == ([0, 10, 20], [0.0, 0.5, 0.75])
    later = {(line["name"], line["layer"]): line["x"] for line in reading_lines(connection, after=10)}
    assert later["entropy/activation", "a"] == later["sparsity", ""] == [20]
    connection.close()


def test_of_many_readings_evenly_many_are_sent_and_both_ends(root):
    folder = write(root, "one")
    with RunStore(folder / "run.db", mode="a") as store:
        for step in range(3 * MOST):
            store.record(Reading(step=step, layers=(layer("a", 0.5),)))
    connection = connect(folder / "run.db", "r")
    (steps,) = [line["x"] for line in reading_lines(connection) if line["name"] == "entropy/activation"]
    connection.close()
    assert (len(steps), steps[0], steps[-1]) == (MOST, 0, 3 * MOST - 1)


def test_histograms_over_time_keep_their_mass_on_common_edges(root, client):
    import numpy as np

    folder = write(root, "one")
    with RunStore(folder / "run.db", mode="a") as store:
        for step, edge in ((10, 1.0), (20, 2.0)):
            values = np.zeros((3, 5))
            values[0] = np.linspace(-edge, edge, 5)
            values[1, :-1] = [1, 2, 3, 4]
            store.put_array(step, "histogram/weights/w", values)
    run = listed(client)["one"]["id"]
    found = client.get(f"/api/runs/{run}/ridges?name=histogram/weights/w", headers=WITH).json()
    assert found["steps"] == [10, 20]
    assert (found["edges"][0], found["edges"][-1], len(found["edges"])) == (-2.0, 2.0, BINS + 1)
    for row in found["rows"]:
        # One rounding per bin and operation: at most a few times BINS·ε.
        assert sum(row) * 4 / BINS == pytest.approx(1.0, abs=8 * BINS * np.finfo(float).eps)
    assert client.get(f"/api/runs/{run}/ridges?name=confusion/x", headers=WITH).json()["steps"] == []


def test_a_report_is_shown_without_scripts_and_leads_back(root, client):
    folder = write(root, "one")
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("<!doctype html><body><script>alert(1)</script>words")
    (folder / "report" / "loss.png").write_bytes(b"\x89PNG")
    (folder / "report" / "notes.txt").write_text("no")
    run = listed(client)["one"]["id"]
    (document,) = client.get(f"/api/runs/{run}", headers=WITH).json()["documents"]
    answer = client.get(document["address"])  # a link carries no token
    assert answer.status_code == 200
    assert answer.headers.get_list("content-security-policy") == [CONFINED]
    assert "script-src" not in CONFINED
    assert "default-src 'none'" in CONFINED
    assert "allow-scripts" not in CONFINED
    assert f'<a href="/#/{run}">' in answer.text
    picture = client.get(document["address"].replace("index.html", "loss.png"))
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    for wrong in ("notes.txt", "..%2Frun.db", "../../run.db", "missing.png"):
        assert client.get(document["address"].replace("index.html", wrong)).status_code == 404
    parts = document["address"].split("/")
    for changed in ("0" * 40, parts[4][:-1], "ü"):
        assert client.get("/".join([*parts[:4], changed, "index.html"])).status_code == 404
    assert client.get(document["address"].replace("report-run", "analysis-run")).status_code == 404


def test_a_report_that_leads_out_of_the_folder_is_not_shown(root, client, tmp_path):
    folder = write(root, "one")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "index.html").write_text("secret")
    (folder / "report").symlink_to(tmp_path / "outside")
    found = client.get(f"/api/runs/{listed(client)['one']['id']}", headers=WITH).json()
    assert found["documents"] == []


def test_a_list_that_nobody_has_read_yet_costs_a_few_times_what_opening_its_files_costs(root):
    for number in range(60):
        write(root, f"run-{number}")

    def opened():
        for number in range(60):
            with closing(sqlite3.connect(root / f"run-{number}" / "run.db")) as connection:
                connection.execute("SELECT count(*) FROM meta").fetchone()

    def seconds(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    Runs(root).listing()  # what is imported and remembered at first is no cost of a list
    plain = min(seconds(opened) for _ in range(5))
    # About 5 where it was measured: checks, a dozen queries and the settings of each run.
    assert min(seconds(Runs(root).listing) for _ in range(5)) < 20 * plain


def test_a_list_that_is_known_costs_a_small_part_of_reading_it(root):
    for number in range(60):
        write(root, f"run-{number}")
    runs = Runs(root)

    def seconds():
        began = time.process_time()
        assert len(runs.listing()["runs"]) == 60
        return time.process_time() - began

    first = seconds()
    assert min(seconds() for _ in range(3)) < first / 3


def test_a_loop_of_ones_own_is_listed_with_the_sparsity_of_its_last_reading(tmp_path):
    (tmp_path / "own").mkdir()
    with RunStore(tmp_path / "own" / "run.db", mode="w") as store:
        for step, sparsity in ((5, 0.25), (10, 0.75)):
            store.record(Reading(step=step, sparsity=sparsity))
    (row,) = Runs(tmp_path).rows()
    assert row["sparsity"] == 0.75
