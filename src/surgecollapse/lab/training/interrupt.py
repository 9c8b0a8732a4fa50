"""Ctrl-C, SIGTERM and a closed terminal as a polite request: finish the step, save, stop."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_SAME = 1.0
"""Seconds."""


class Interrupt:
    """While the block runs, the first SIGINT, SIGTERM or SIGHUP only sets :attr:`requested`; a second one acts as
    usual.

    SIGHUP comes where a terminal or a connection is closed. A process that ignores it (``nohup``) goes on ignoring it.

    What comes within a second of the first is the same request: ``timeout`` signals a process and then its group.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, object] = {}
        self._when = 0.0

    def __enter__(self) -> Interrupt:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            for number in _signals():
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _request(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._when = True, now
        elif now - self._when > _SAME:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._old.clear()


def _signals() -> list[int]:
    """What asks a run to stop, as far as the system has it; Windows has no SIGHUP."""
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
