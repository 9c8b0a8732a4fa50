"""A disk that fails at any one call, or from one call on, and a process that is killed in any one of them.

There is an error in bounded time, and nothing that was committed is lost.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#define KILLED 9

static long calls = 0, first = 0, last = -1;
static int reason = EIO;
long calls_so_far(void) { return calls; }
void fail(long from, long to, int why) { calls = 0; first = from; last = to; reason = why; }

static int ours(const char *path) { return path && strstr(path, "run.db") != NULL; }
static int ours_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return ours(path);
}
static int fails(void) {
    long call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (call < first || call > last) return 0;
    if (!reason) _exit(KILLED);
    errno = reason;
    return 1;
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define OPEN(name) int name(const char *path, int flags, ...) { \
    REAL(name); mode_t mode = 0; \
    if (flags & O_CREAT) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
    if (ours(path) && fails()) return -1; \
    return real(path, flags, mode); }
#define MOVE(name, type, bytes, offset) ssize_t name(int fd, type b, size_t n, offset o) { \
    REAL(name); if (ours_fd(fd) && fails()) return -1; return real(fd, b, n, o); }
#define PLAIN(name) int name(int fd) { REAL(name); if (ours_fd(fd) && fails()) return -1; return real(fd); }
#define CUT(name, offset) int name(int fd, offset n) { \
    REAL(name); if (ours_fd(fd) && fails()) return -1; return real(fd, n); }
OPEN(open) OPEN(open64)
MOVE(pread, void *, n, off_t) MOVE(pread64, void *, n, off64_t)
MOVE(pwrite, const void *, n, off_t) MOVE(pwrite64, const void *, n, off64_t)
PLAIN(fsync) PLAIN(fdatasync)
CUT(ftruncate, off_t) CUT(ftruncate64, off64_t)
int unlink(const char *path) { REAL(unlink); if (ours(path) && fails()) return -1; return real(path); }
"""
CHILD = textwrap.dedent("""
    import ctypes, json, os, sqlite3, sys, time
    from pathlib import Path

    import numpy as np

    from surgecollapse.events import Reading
    from surgecollapse.record import RunStore, load_run

    disk = ctypes.CDLL(None)
    place, job, length, reason = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    RIGHT = (OSError, ValueError)  # RunStoreError is one of the former
    first, second = list(range(30)), list(range(30, 60))


    def steps(path):
        with RunStore(path) as store:
            return store.measurements("x").steps.tolist()


    def write(path, mode="w", more=()):
        done = []
        with RunStore(path, mode=mode) as store:
            for part in more or (first, second):
                for step in part:
                    store.measure(step, "x", step / 7)
                store.record(Reading(step=part[-1], entropy=0.5))
                store.put_array(part[-1], "a", np.full(3000, part[-1], dtype=float))
                store.flush()
                done += part
                kept.extend(part)
                if told is not None:
                    os.write(told, bytes(part))
        return done


    def writes(at):
        path = place / f"{at}" / "run.db"
        path.parent.mkdir()
        return path, lambda: write(path)


    def goes_on(at):
        path, begin = writes(at)
        begin()
        return path, lambda: write(path, "a", [list(range(60, 90))])


    def reads(at):
        path, begin = writes(at)
        begin()

        def read():
            with load_run(path.parent) as run:
                found = run.series("x").steps.tolist()
                assert found == first + second, found
                assert [event.step for event in run.store.readings()] == [29, 59]
                assert [step for step, _ in run.arrays("a")] == [29, 59]
                assert run.store.skipped == 0

        return path, read


    def lists(at):
        from surgecollapse.dashboard.runs import Runs

        path, begin = writes(at)
        begin()

        def rows():
            runs = Runs(place / f"{at}")
            (row,) = runs.rows()
            if row["status"] == "unreadable":
                raise ValueError(row["why"])
            assert row["step"] == 59, row

        return path, rows


    def killed(act, at):
        # Act in a process that ends within its call of that number; what it was told of is committed.
        global told
        reads, told = os.pipe()
        if not (child := os.fork()):
            disk.fail(ctypes.c_long(at), ctypes.c_long(at), 0)
            act()
            os._exit(0)
        os.close(told)
        told = None
        with open(reads, "rb") as pipe:
            committed = list(pipe.read())
        return committed, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


    found, told = [], None
    for at in range(1, 100_000, 1 if length == "once" and reason == 5 or length == "killed" else 4):
        kept = []
        path, act = {"write": writes, "go on": goes_on, "read": reads, "list": lists}[job](at)
        kept = [] if job == "write" else kept
        began, said = time.monotonic(), None
        if length == "killed":
            kept, code = killed(act, at)
            assert code in (0, 9), code
            said, calls = ("killed", at) if code else (None, 0)
        else:
            disk.fail(ctypes.c_long(at), ctypes.c_long(at if length == "once" else 2**40), reason)
            try:
                act()
            except RIGHT as error:
                said = f"{type(error).__name__}: {error}"
            calls = disk.calls_so_far()
            disk.fail(ctypes.c_long(0), ctypes.c_long(-1), 0)
        seconds, kept_then = time.monotonic() - began, list(kept)
        try:
            with RunStore(path, mode="a") as store:  # which finishes or undoes what was cut off
                there = store.measurements("x").steps.tolist()
                store.measure(1000, "x", 1.0)
            assert steps(path) == there + [1000]
        except (FileNotFoundError, ValueError) as error:
            # The file was not made. Where the disk fails for good, or the process was killed, what was begun stays.
            assert isinstance(error, FileNotFoundError) or (job == "write" and length != "once"), error
            there = None
            path.unlink(missing_ok=True)
            write(path)
            assert steps(path) == first + second
        found.append({"at": at, "said": said, "seconds": seconds, "kept": kept_then, "there": there})
        if calls < at:
            break
    print(json.dumps(found))
""")
EIO, ENOSPC = 5, 28


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A library under which calls for ``run.db`` and what lies beside it fail when they are told to."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("failing")
    (folder / "disk.c").write_text(FAILING)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "disk.so", folder / "disk.c", "-ldl"], check=True)
    return folder / "disk.so"


@pytest.mark.parametrize("job", ["write", "go on", "read", "list"])
@pytest.mark.parametrize(
    ("length", "reason"),
    [("once", EIO), ("for good", EIO), ("once", ENOSPC), ("for good", ENOSPC)],
    ids=["one I/O error", "I/O errors", "full for once", "full"],
)
def test_a_call_that_fails_is_an_error_in_bounded_time_and_loses_nothing_that_was_committed(
    failing, tmp_path, job, length, reason
):
    found = on_a_failing_disk(failing, tmp_path, job, length, reason)
    for one in found:
        assert one["seconds"] < 20.0
        if one["there"] is None:
            assert one["said"]
            assert not one["kept"]
            continue
        assert one["there"][: len(one["kept"])] == one["kept"], one
        if one["said"] is None and job in ("write", "go on"):
            assert one["there"] == one["kept"], one


@pytest.mark.parametrize("job", ["write", "go on"])
def test_a_process_that_is_killed_in_any_of_its_calls_loses_nothing_that_was_committed(failing, tmp_path, job):
    before = [] if job == "write" else list(range(60))
    for one in on_a_failing_disk(failing, tmp_path, job, "killed", 0):
        there = one["there"] or []
        wanted = before + one["kept"]
        assert there[: len(wanted)] == wanted, one
        assert len(there) % 30 == 0, "half of a commit"


def on_a_failing_disk(failing, folder, job, length, reason):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILD, str(folder), job, length, str(reason)],
        env={**os.environ, "LD_PRELOAD": str(failing)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 3, "the calls were not seen"
    assert found[-1]["said"] is None
    assert any(one["said"] for one in found)
    return found
