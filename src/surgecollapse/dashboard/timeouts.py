"""Connections that say nothing are closed, so that they cannot keep anybody else out."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10.0
"""In which a request must be whole."""
SILENT = 64
"""Connections that may wait with no whole request; of more, the oldest are closed."""


class TimeoutProtocol(H11Protocol):
    """Uvicorn's protocol, which would wait for a first request for ever, with an end to that."""

    _waiting: ClassVar[dict[TimeoutProtocol, asyncio.TimerHandle]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request from now on."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Take what has come; a whole request ends the wait."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._waiting[self] = self.loop.call_later(SECONDS, self._give_up)
        if len(self._waiting) > SILENT:
            next(iter(self._waiting))._give_up()

    def _stop_waiting(self) -> None:
        timer = self._waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self) -> None:
        self._stop_waiting()
        self.transport.close()
