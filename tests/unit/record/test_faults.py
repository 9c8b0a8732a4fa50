"""The writing thread: every cause of its death is one error in bounded time, and what could be saved is saved."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from surgecollapse.commands import Pause
from surgecollapse.record import CommandQueue, RunStore, RunStoreError, heartbeat, schema
from surgecollapse.record import writer as writer_module

SECONDS = 20.0
"""More than any wait for a dead writer may take."""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "run.db"


def leaving(store):
    """What leaving the ``with`` block raises, and how long it takes."""
    began = time.monotonic()
    with pytest.raises(RunStoreError) as caught:
        store.close()
    assert time.monotonic() - began < SECONDS
    return str(caught.value)


@pytest.mark.parametrize("when", ["before the first row", "while it writes"])
@pytest.mark.parametrize("what", ["folder", "file", "replaced"])
def test_a_record_that_is_deleted_while_it_is_written_is_said(path, what, when):
    store = RunStore(path, mode="w")
    if when == "while it writes":
        store.measure(1, "x", 1.0)
        store.flush()
    if what == "folder":
        shutil.rmtree(path.parent)
    else:
        path.unlink()
    if what == "replaced":
        RunStore(path, mode="w").close()
    store.measure(2, "x", 2.0)
    if what == "replaced" and when == "before the first row":
        store.flush()  # nothing of it was written before: the row goes into the file that is there
        store.close()
        return
    with pytest.raises(RunStoreError, match=r"leave the run's folder alone|choose a folder"):
        store.flush()
    with pytest.raises(RunStoreError):
        store.measure(3, "x", 3.0)
    assert "cannot write" in leaving(store)


def test_with_descriptors_used_up_the_flush_the_exit_and_the_next_try_all_end(path):
    store = RunStore(path, mode="w")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        store.measure(1, "x", 1.0)
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(RunStoreError):
                store.flush()
        assert time.monotonic() - began < SECONDS
    finally:
        for file in taken:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    store.flush()  # a new thread writes what waited
    assert store.measurements("x").values.tolist() == [1.0]
    store.close()


def test_with_descriptors_used_up_leaving_the_block_ends(path):
    script = textwrap.dedent(
        """
        import os, sys
        from surgecollapse.record import RunStore, RunStoreError
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            with RunStore(sys.argv[1], mode="w") as store:
                while True:
                    try: os.open(os.devnull, os.O_RDONLY)
                    except OSError: break
                store.measure(1, "x", 1.0)
        except RunStoreError as error:
            print(error)
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "cannot write" in run.stdout


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        MemoryError(),
        sqlite3.OperationalError("disk I/O error"),
        sqlite3.DatabaseError("database disk image is malformed"),
        RuntimeError("a fault of the library itself"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_ends_the_writing_thread_is_an_error_of_the_flush(path, monkeypatch, error):
    def fails(self, connection):
        raise error

    monkeypatch.setattr(writer_module.Writer, "_write", fails)
    store = RunStore(path, mode="w")
    store.measure(1, "x", 1.0)
    began = time.monotonic()
    with pytest.raises((RunStoreError, ValueError)):
        store.flush()
    assert time.monotonic() - began < SECONDS
    monkeypatch.undo()
    store.flush()
    assert store.measurements("x").values.tolist() == [1.0]
    store.close()


def test_a_row_that_cannot_be_written_is_left_out_once_and_the_others_are_kept(path):
    store = RunStore(path, mode="w")
    store.measure(1, "x", 1.0)
    store._writer.put("INSERT INTO measurements VALUES (1, ?, ?)", (2**70, 1.0))
    store._writer.put("INSERT INTO events (step, kind, version, body) VALUES (?, ?, ?, ?)", (1, "a", 1, "\ud800"))
    store.measure(2, "x", 2.0)
    with pytest.raises(RunStoreError, match="a row was left out"):
        store.flush()
    store.measure(3, "x", 3.0)
    store.flush()
    assert store.measurements("x").steps.tolist() == [1, 2, 3]
    store.close()


def test_a_disk_that_never_answers_is_an_error_in_bounded_time(path, monkeypatch):
    monkeypatch.setattr(writer_module, "PATIENCE", 1.0)
    monkeypatch.setattr(writer_module.Writer, "_write", lambda self, connection: time.sleep(4.0))
    store = RunStore(path, mode="w")
    store.measure(1, "x", 1.0)
    began = time.monotonic()
    with pytest.raises(RunStoreError, match="check the disk"):
        store.flush()
    assert time.monotonic() - began < 3.5
    time.sleep(4.0)
    store.close()


def test_no_more_threads_is_an_error_of_the_call(path, monkeypatch):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    store = RunStore(path, mode="w")
    monkeypatch.setattr(writer_module.threading.Thread, "start", no_more)
    with pytest.raises(RunStoreError, match="can't start new thread"):
        store.measure(1, "x", 1.0)
    assert "can't start new thread" in leaving(store)


# what others write


def test_a_hot_journal_is_never_read_over(path):
    """A transaction that was cut off: its pages are in the file, and only the journal can take them back."""
    with RunStore(path, mode="w") as store:
        for step in range(2000):
            store.measure(step, "x", 0.0)
    script = textwrap.dedent(
        """
        import os, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 5")
        connection.execute("BEGIN")
        connection.execute("UPDATE measurements SET value = 1.0")
        os._exit(0)
        """
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.with_name("run.db-journal").stat().st_size
    try:
        with RunStore(path) as store:
            values = store.measurements("x").values
    except RunStoreError as error:
        assert "journal" in str(error)  # noqa: PT017 (either is right: refused, or what was committed)
    else:
        assert not values.any()
    with RunStore(path, mode="a") as store:
        assert not store.measurements("x").values.any()


@pytest.mark.parametrize("beside", ["wal", "journal"])
def test_a_log_that_cannot_be_applied_is_said_and_not_left_out(path, monkeypatch, beside):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
    path.with_name(f"run.db-{beside}").write_bytes(b"changes")
    real = schema._open

    def sealed(uri, *options):
        if "immutable" in uri:
            raise AssertionError("read without its log")
        real(uri, *options).close()
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN

        class Sealed:
            def execute(self, statement):
                raise error

            def close(self):
                pass

        return Sealed()

    monkeypatch.setattr(schema, "_open", sealed)
    with pytest.raises(RunStoreError, match=rf"run\.db-{beside} holds changes .* copy the whole folder"):
        RunStore(path)


def test_a_locked_file_is_never_read_without_its_lock(path, monkeypatch):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        schema.connect(path, "r", wait=0.1)
    blocker.close()


HOSTILE = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON commands BEGIN UPDATE commands SET reason = 'x'; END",
    "a view in place of a table": "DROP TABLE arrays; CREATE VIEW arrays AS SELECT 1 AS step, 'a' AS name",
    "any view": "CREATE VIEW v AS SELECT 1",
    "a generated column": "ALTER TABLE measurements ADD COLUMN big AS (hex(zeroblob(100000000)))",
    "an index by expression": "CREATE INDEX i ON events (length(hex(zeroblob(100000000))))",
    "another table of the name": "DROP TABLE meta; CREATE TABLE meta (key, value)",
    "a missing table": "DROP TABLE events",
    "a check that computes": "DROP TABLE arrays; CREATE TABLE arrays (step CHECK (length(step) > 0), name)",
    "a newer schema": f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}",
    "another program's file": "PRAGMA application_id = 7",
}


@pytest.mark.parametrize("statements", HOSTILE.values(), ids=HOSTILE)
def test_a_file_with_another_schema_is_neither_read_nor_written(path, statements):
    with RunStore(path, mode="w") as store:
        store.set("status", "running")
    connection = sqlite3.connect(path)
    connection.executescript(statements)
    connection.close()
    before = path.read_bytes()
    message = "no run store|no surgecollapse run store|update surgecollapse"
    for mode in ("r", "a"):
        with pytest.raises(ValueError, match=message):
            RunStore(path, mode=mode)
    with pytest.raises(ValueError, match=message):
        CommandQueue(path).put(Pause(), source="page")
    assert path.read_bytes() == before


def test_a_table_of_somebody_else_beside_ours_is_let_be(path):
    with RunStore(path, mode="w") as store:
        store.measure(1, "x", 1.0)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (line)")
    connection.close()
    with RunStore(path) as store:
        assert store.measurements("x").values.tolist() == [1.0]


@pytest.mark.parametrize("name", ["run.db", "run.db-wal", "run.db-shm", "run.db-journal"])
def test_pipes_in_place_of_files_are_refused_and_do_not_hang(path, name):
    RunStore(path, mode="w").close()
    place = path.with_name(name)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    with pytest.raises(ValueError, match="expected a plain file"):
        schema.connect(path, "r")


def test_a_value_that_is_larger_than_any_of_ours_is_an_error_and_takes_no_memory(path):
    RunStore(path, mode="w").close()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO meta VALUES ('config', zeroblob(200000000))")
    connection.commit()
    connection.close()
    with RunStore(path) as store, pytest.raises(ValueError, match="more than"):
        store.get("config")


def test_a_query_without_end_is_cut_off(path):
    RunStore(path, mode="w").close()
    connection = schema.connect(path, "r", seconds=0.2)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="interrupted") as caught:
        connection.execute(endless).fetchone()
    assert time.monotonic() - began < SECONDS
    assert "takes too long" in str(schema.explain(caught.value, path))
    connection.close()


# the heartbeat


def test_a_store_that_is_written_says_that_its_process_lives_and_a_closed_one_says_nothing(path):
    with RunStore(path, mode="w") as store:
        store.set("status", "running")
        said = store.get("heartbeat")
        assert heartbeat.pid_of(said) == os.getpid()
        assert heartbeat.gone(said) is None
        assert CommandQueue(path).get(CommandQueue(path).put(Pause(), source="page")).status == "queued"
    with RunStore(path) as store:
        assert store.get("heartbeat") is None


def killed(path, **changes):
    """A record as a killed process leaves it."""
    with RunStore(path, mode="w") as store:
        store.set("status", "running")
        queue = CommandQueue(path)
        waiting = queue.put(Pause(), source="page", token="before")
    with RunStore(path, mode="a") as store:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
    connection = sqlite3.connect(path)
    said = {**heartbeat.beat(), "pid": ended.pid, **changes}
    connection.execute(heartbeat.SET_BEAT, (json.dumps(said),))
    connection.commit()
    connection.close()
    return queue, waiting


@pytest.mark.parametrize(
    "changes", [{}, {"place": "another machine", "time": time.time() - 3600}], ids=["killed here", "silent elsewhere"]
)
def test_a_command_to_a_killed_run_is_rejected_at_once_and_one_that_waits_expires(path, changes):
    queue, waiting = killed(path, **changes)
    late = queue.get(queue.put(Pause(), source="terminal"))
    assert late.status == "rejected"
    assert "the run does not train: its process" in late.reason
    assert queue.get(waiting).status == "queued"
    assert queue.expire(waiting).status == "rejected"


@pytest.mark.parametrize(
    "said", [None, 3, [], {}, {"time": "now", "pid": 1}, {"time": 1.0, "pid": -1}, {"time": 1.0, "pid": 2**70}]
)
def test_a_heartbeat_that_cannot_be_read_tells_nothing(said):
    assert heartbeat.gone(said) is None


def test_a_process_that_is_elsewhere_and_was_heard_of_lately_is_not_taken_for_dead():
    assert heartbeat.gone({"time": time.time(), "pid": 2**30, "place": "another machine"}) is None


# copies of a record in other processes, and threads that end by what nobody catches


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_copy_of_a_record_says_who_writes_and_leaves_the_file_alone(path):
    script = textwrap.dedent(
        """
        import os, sys, time
        from surgecollapse.record import RunStore, RunStoreError
        store = RunStore(sys.argv[1], mode="w")
        store.measure(1, "x", 1.0)
        store.flush()
        child = os.fork()
        if child == 0:
            began = time.monotonic()
            for call in (lambda: store.measure(2, "x", 2.0), store.flush, lambda: store.set("a", 1)):
                try:
                    call()
                except RunStoreError as error:
                    assert f"written by process {os.getppid()}" in str(error), error
                else:
                    os._exit(1)
            store.close()
            os._exit(int(time.monotonic() - began > 5.0))
        assert os.waitpid(child, 0)[1] == 0
        store.measure(3, "x", 3.0)
        store.close()
        print(RunStore(sys.argv[1]).measurements("x").steps.tolist())
        """
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.strip() == "[1, 3]", run.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_by_a_fault_of_its_own_is_an_error_of_the_next_row(path, monkeypatch):
    def fails(self, connection):
        raise RuntimeError("a fault of the library itself")

    store = RunStore(path, mode="w")
    with monkeypatch.context() as faulty:
        faulty.setattr(writer_module.Writer, "_write", fails)
        store.measure(1, "x", 1.0)
        store._writer._thread.join(SECONDS)
    with pytest.raises(RunStoreError, match="the thread that writes it ended"):
        store.measure(2, "x", 2.0)
    store.flush()  # a new thread writes what waited
    store.measure(3, "x", 3.0)
    assert store.measurements("x").steps.tolist() == [1, 3]
    store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_thread_is_replaced(path):
    store = RunStore(path, mode="w")
    store.measure(1, "x", 1.0)
    store.flush()
    thread = store._writer._thread
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)) == 1
    thread.join(SECONDS)
    with pytest.raises(RunStoreError, match="the thread that writes it ended"):
        store.measure(2, "x", 2.0)
    store.flush()
    store.measure(3, "x", 3.0)
    store.close()
    with RunStore(path) as found:
        assert found.measurements("x").steps.tolist() == [1, 3]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit of file sizes")
def test_a_file_that_cannot_grow_any_more_ends_the_block_with_what_could_be_saved(path):
    script = textwrap.dedent(
        """
        import resource, signal, sys
        import numpy as np
        from surgecollapse.record import RunStore, RunStoreError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            with RunStore(sys.argv[1], mode="w") as store:
                for step in range(2_000):
                    store.put_array(step, "a", np.ones(1_000))
                    store.flush()
                    print(step)
        except RunStoreError as error:
            print(error)
        """
    )
    command = [sys.executable, "-c", script, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *steps, error = run.stdout.splitlines()
    assert "free disk space" in error
    with RunStore(path) as found:
        assert [str(step) for step, _ in found.arrays("a")][: len(steps)] == steps
    assert len(steps) > 5


def test_a_record_that_another_process_writes_is_not_written_and_is_read(path):
    script = textwrap.dedent(
        """
        import sys
        from surgecollapse.record import RunStore
        with RunStore(sys.argv[1], mode="w") as store:
            store.measure(1, "x", 1.0)
            store.flush()
            print("ready", flush=True)
            sys.stdin.readline()
        """
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(RunStoreError, match=f"process {other.pid} writes .*choose another folder"):
            RunStore(path, mode="a")
        with RunStore(path) as store:
            assert store.measurements("x").steps.tolist() == [1]
        other.communicate("\n", timeout=60)
    assert other.returncode == 0
    with RunStore(path, mode="a") as store:
        store.measure(2, "x", 2.0)


def test_the_record_of_a_killed_process_is_written_on_at_once(path):
    killed(path)
    with RunStore(path, mode="a") as store:
        store.measure(2, "x", 2.0)


@pytest.mark.parametrize(
    "said", ["damaged", "[", '{"time": "now", "pid": 1}', '{"time": 1e300, "pid": true}', "{}",
             '{"time": 1e300, "pid": 1}'],
)  # fmt: skip
def test_a_heartbeat_that_nobody_understands_keeps_nobody_from_writing(path, said):
    RunStore(path, mode="w").close()
    connection = sqlite3.connect(path)
    connection.execute(heartbeat.SET_BEAT, (said,))
    connection.commit()
    connection.close()
    with RunStore(path, mode="a") as store:
        store.measure(2, "x", 2.0)
