"""Who may talk to the page's server: this machine's own page, with the token, and nobody else."""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from surgecollapse.record.values import depth

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 16_384
"""Bytes of a request's body."""
DEEPEST_BODY = 6
"""Levels of nesting in it."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Checks Host, Origin and, under ``/api/``, the token; adds headers that confine the page.

    A foreign page can reach a loopback address through the browser. It may use a name that resolves to it (DNS
    rebinding, hence the check of Host) or go across origins (hence Origin). Starlette's ``TrustedHostMiddleware``
    leaves out the port and answers in plain text, so that the check is made here.

    Args:
        app: what it protects.
        token: must come as ``Authorization: Bearer TOKEN``.
        hosts: values of Host that are answered, with the port.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str]) -> None:
        self._app, self._token = app, f"Bearer {token}".encode()
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own),
                ]
            await send(message)

        refused = self._refuse(scope)
        if refused is None:
            await self._app(scope, receive, confined)
        else:
            code, reason = refused
            await JSONResponse({"error": reason}, code)(scope, receive, confined)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        host = headers.get(b"host", [])
        if len(host) != 1 or host[0].decode("latin-1") not in self._hosts:
            return 421, "this server is not known by that name"
        for origin in headers.get(b"origin", []):
            if origin.decode("latin-1").removeprefix("http://") not in self._hosts:
                return 403, "requests from other origins are refused"
        if headers.get(b"sec-fetch-site", [b"same-origin"])[0] not in (b"same-origin", b"none"):
            return 403, "requests from other sites are refused"
        if scope["path"].startswith("/api/"):
            given = headers.get(b"authorization", [])
            if len(given) != 1 or not hmac.compare_digest(given[0], self._token):
                return 401, "the token is missing or wrong: open the address that the terminal shows"
        return None


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON table in a request's body.

    Raises:
        ValueError: if it is too large, too deep, or no JSON table.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise ValueError("expected a body of type application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_BODY:
            raise ValueError(f"the body is larger than {LARGEST_BODY} bytes")
    try:
        found = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a table, got {type(found).__name__}")
    if depth(found) > DEEPEST_BODY:
        raise ValueError(f"the body is nested more than {DEEPEST_BODY} deep")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
