"""The page's server in a process of its own, for as long as a run of the same terminal trains."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

PORT = 8321
"""Where the page is unless somebody else is there."""
_SECONDS = 10.0


@contextmanager
def page_beside(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Serve the page of a folder of runs for the length of a block; training pays nothing for it.

    Args:
        folder: of runs; made if it is not there.
        tell: is given the one line with the address, or why there is no page: a run goes on without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(folder), str(PORT if _free(PORT) else 0)]
    server = subprocess.Popen(
        [sys.executable, "-m", "surgecollapse.dashboard.background", *words],
        stdin=subprocess.PIPE,  # closed by the system when this process ends, however it ends
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the run
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        address = server.stdout.readline().strip()
        tell(address or f"the page could not be served: try surgecollapse watch {folder}")
        yield
    finally:
        server.terminate()
        try:
            server.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()
        server.stdin.close()


def _free(port: int) -> bool:
    """Whether nobody listens there."""
    with closing(socket.socket()) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def serve_until_closed(folder: str, port: int) -> None:
    """Serve a folder until the standard input ends: the process that started this one is gone then, even if killed."""
    from surgecollapse.dashboard.serve import serve

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    threading.Thread(target=wait, daemon=True).start()
    serve(folder, port=port, tell=tell)


if __name__ == "__main__":
    serve_until_closed(sys.argv[1], int(sys.argv[2]))
