"""Servers of their own on free ports of the loopback, for tests and benchmarks that kill them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
SERVERS = PROGRAMS[-1].parent if PROGRAMS else Path(shutil.which("initdb") or "/nowhere/initdb").parent


class Server:
    """A server on a free port, with a database that anybody on this machine may use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # It refuses to run as root.
        self._user = {"user": "postgres"} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "postgres")
        self._call("initdb", "-A", "trust", "-U", "tuner", "-N")
        self.start()

    @staticmethod
    def installed() -> bool:
        """Whether it can be started here."""
        return (SERVERS / "initdb").exists()

    def _call(self, program: str, *words: str) -> None:
        command = [str(SERVERS / program), "-D", str(self.folder), *words]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder.parent, timeout=120, **self._user)

    def start(self) -> None:
        """Start it, also after a kill."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        for _ in range(40):  # the children of a server that was killed hold its memory until they see it
            with contextlib.suppress(subprocess.CalledProcessError):
                self._call("pg_ctl", "-w", "-l", str(self.folder.parent / "log"), "-o", options, "start")
                return
            time.sleep(0.5)
        raise AssertionError((self.folder.parent / "log").read_text())

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        os.kill(int((self.folder / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        if (self.folder / "postmaster.pid").exists():
            self._call("pg_ctl", "-m", "immediate", "stop")

    @property
    def address(self) -> str:
        """For ``--storage``."""
        return f"postgresql://tuner@127.0.0.1:{self.port}/postgres"


class Cluster:
    """A scheduler on a free port of the loopback, and workers."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._folder = folder
        self.scheduler, self.workers = self._scheduler(), [self._worker(), self._worker()]

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False"}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log, env=environment)

    def _scheduler(self) -> subprocess.Popen[bytes]:
        here = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        return self._start("distributed.cli.dask_scheduler", *here)

    def _worker(self) -> subprocess.Popen[bytes]:
        how = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self._folder))
        return self._start("distributed.cli.dask_worker", self.address, *how)

    def kill_worker(self, number: int = 0, *, replace: bool = False) -> None:
        """Kill a worker with SIGKILL; start another in its place if asked to."""
        self.workers[number].kill()
        self.workers[number].wait()
        if replace:
            self.workers[number] = self._worker()

    def restart_all(self) -> None:
        """Kill all of it, and start it anew."""
        self.stop()
        self.scheduler, self.workers = self._scheduler(), [self._worker(), self._worker()]

    def stop(self) -> None:
        """Kill all of it."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
