"""No command looks a host up, connects to one, or leaves a device id for one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.run import train

HOOKED = textwrap.dedent("""
    import sys

    def refuse(event, args):
        if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto"):
            raise SystemExit(f"LOOKED UP {event} {args}")
        if event == "socket.connect" and not isinstance(args[1], (str, bytes)):  # those are of this machine
            raise SystemExit(f"CONNECTED {args}")

    sys.addaudithook(refuse)
    import json
    import os

    from surgecollapse.cli import main

    codes = {}
    for name, words in json.loads(sys.argv[1]).items():
        os.environ["LOOKED_UP"] = os.path.join(sys.argv[2], name)  # which code below Python reads too
        codes[name] = main(words)
    print("\\nCODES", json.dumps(codes))
""")
PRELOADED = r"""
#define _GNU_SOURCE
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void tell(const char *what) {
    FILE *log = fopen(getenv("LOOKED_UP"), "a");
    if (log) { fprintf(log, "%s\n", what); fclose(log); }
}
int getaddrinfo(const char *n, const char *s, const struct addrinfo *h, struct addrinfo **r) {
    tell(n ? n : "no host"); return EAI_FAIL;
}
struct hostent *gethostbyname(const char *n) { tell(n); return NULL; }
int connect(int fd, const struct sockaddr *a, socklen_t l) {
    if (a->sa_family != AF_UNIX) tell("connect");
    return -1;
}
"""
COMMANDS = {
    "run": ["run", "digits", "--steps", "60", "--out", "{new}"],
    "report": ["report", "{run}"],
    "analyze": ["analyze", "{run}", "--what", "heavy_tails", "--samples", "20"],
    "doctor": ["doctor"],
    **{f"export {form}": ["export", "{run}", "--format", form] for form in ("sparse", "onnx")},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(make_config(task="digits", steps=10, widths=(64,), policy="one_shot", evaluate_every=5), folder)
    return folder


@pytest.fixture(scope="module")
def below(tmp_path_factory):
    """A library that notes whom code below Python looks up, where there is a compiler."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    folder = tmp_path_factory.mktemp("below")
    (folder / "below.c").write_text(PRELOADED)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "below.so", folder / "below.c"], check=True)
    return folder / "below.so"


@pytest.mark.timeout(900)
def test_no_command_asks_anyone(run, below, tmp_path):
    """In one process, since what is asked depends on the command and not on the process."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    home, log = tmp_path / "home", tmp_path / "looked-up"
    home.mkdir()
    log.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    if below is not None:
        environment |= {"LD_PRELOAD": str(below), "LOOKED_UP": str(log / "start")}
    words = {name: [word.format(run=run, new=tmp_path / "new") for word in line] for name, line in COMMANDS.items()}
    done = subprocess.run(
        [sys.executable, "-c", HOOKED, json.dumps(words), str(log)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.rpartition("CODES")[2]) == dict.fromkeys(COMMANDS, 0), done.stderr
    assert {path.name: path.read_text() for path in log.iterdir()} == {}
    assert [str(path) for path in home.rglob("deviceid")] == []


def test_a_look_up_would_be_noticed(below, tmp_path):
    """By both nets: that of Python and that below it."""
    by_python = f"{HOOKED.split('import json')[0]}\nimport socket\nsocket.getaddrinfo('localhost', 80)"
    done = subprocess.run([sys.executable, "-c", by_python], capture_output=True, text=True, check=False)
    assert "LOOKED UP socket.getaddrinfo" in done.stderr
    if below is not None:
        environment = {**os.environ, "LD_PRELOAD": str(below), "LOOKED_UP": str(tmp_path / "log")}
        code = "import socket\ntry:\n    socket.getaddrinfo('localhost', 80)\nexcept OSError: pass"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        assert (tmp_path / "log").read_text() == "localhost\n"
