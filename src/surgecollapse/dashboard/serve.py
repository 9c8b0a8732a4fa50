"""Run the page's server until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from surgecollapse.dashboard.access_token import kept_token
from surgecollapse.dashboard.feed import Feeds
from surgecollapse.dashboard.servers import noted

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(root: str | Path, *, port: int = 8321, host: str = "127.0.0.1", exposed: bool = False,
          token: str | None = None, tell: Callable[[str], None] = lambda _: None) -> None:  # fmt: skip
    """Serve the page of a folder of runs; returns after Ctrl-C or SIGTERM.

    Args:
        root: a folder of run directories.
        port: 0 takes a free one.
        host: the address to listen at.
        exposed: must be set for any address that other machines can reach.
        token: by default the folder's own, drawn at random and kept (:mod:`~surgecollapse.dashboard.access_token`), so
            that an open page still works after a restart at the same port.
        tell: is given the address with the token, and warnings.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if ``host`` is not loopback and ``exposed`` is not set, or the port is taken.
    """
    import uvicorn

    from surgecollapse.dashboard.server import STREAMS, application
    from surgecollapse.dashboard.timeouts import TimeoutProtocol

    feeds, noting = Feeds(STREAMS), ExitStack()

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            feeds.close()  # or it would wait for pages that never close
            noting.close()  # here, since SIGTERM ends the process right after the shutdown
            await super().shutdown(sockets)

    if not 0 <= port < 2**16:
        raise ValueError(f"--port must lie between 0 and 65535, got {port}")
    if not host.strip():
        raise ValueError(f"--host must be an address or a name, got {host!r}")
    if host not in _LOOPBACK:
        if not exposed:
            raise ValueError(f"--host {host} lets other machines reach this page: add --expose if you mean that")
        if _is_everywhere(host):
            raise ValueError(f"--host {host} has no name to check requests against: give the one address to listen at")
        tell(f"warning: whoever reaches {host} and has the token can change these runs; nothing is encrypted")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # before the address is told, so that nobody who has it comes too soon
    except OSError as error:
        listening.close()
        raise ValueError(f"cannot listen at {host} port {port} ({error.strerror}): choose another --port") from error
    port = listening.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    names = {f"{name}:{port}"} | ({f"{part}:{port}" for part in ("127.0.0.1", "localhost", "[::1]")})
    token = token or kept_token(Path(root))
    app = application(root, token, names, feeds=feeds)
    address = f"http://{name}:{port}/#{token}"
    tell(address)
    config = uvicorn.Config(
        app, http=TimeoutProtocol, log_level="error", lifespan="off", timeout_graceful_shutdown=1,
        limit_concurrency=200, server_header=False,
    )  # fmt: skip
    with noting:
        noting.enter_context(noted(address, Path(root), host, port))
        Server(config).run(sockets=[listening])


def _is_everywhere(host: str) -> bool:
    """Whether this is any way to write the address that stands for all addresses.

    Raises:
        ValueError: if nobody knows the host.
    """
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise ValueError(f"--host {host} is not known ({error.strerror}): give an address of this machine") from error
    return any(ipaddress.ip_address(str(place[4][0]).partition("%")[0]).is_unspecified for place in found)
