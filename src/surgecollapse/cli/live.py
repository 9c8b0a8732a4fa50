"""``send`` and ``watch``: people see runs while they train, and intervene."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.cli.flags import words
from surgecollapse.cli.output import say, say_now
from surgecollapse.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgecollapse.record import QueuedCommand

_LOOK = 0.05
"""Seconds between two looks at whether a command is settled."""


def send(
    run: Path,
    kind: str,
    /,
    *,
    fraction: float | None = None,
    layers: str | None = None,
    noise_std: float | None = None,
    sparsity: float | None = None,
    values: str | None = None,
    factor: float | None = None,
    every: int | None = None,
    step: int | None = None,
    wait: float = 10.0,
) -> int:
    """Send a command to a run that trains; it is carried out, or rejected with a reason, between two steps.

    Args:
        run: Run directory.
        kind: collapse or surge (--fraction, --layers), pump (--noise-std, 0 stops), set-sparsity (--sparsity),
            set-thresholds (--values), learning-rate (--factor), cadence of the monitors (--every), pause-policy,
            resume-policy (the policy decides again), pause or continue training, checkpoint, inspect, stop, roll-back
            (--step).
        fraction: Share of the open weights to close, or of the closed ones to reopen.
        layers: Comma-separated names of parameters, with wildcards; default: all prunable ones.
        noise_std: Standard deviation of the input noise.
        sparsity: New target.
        values: Numbers of the policy, as in floor=.3,high=.9.
        factor: Of the scheduled learning rate.
        every: Steps.
        step: Of a checkpoint.
        wait: Seconds to wait for the outcome.
    """
    given = {
        "fraction": fraction,
        "noise_std": noise_std,
        "sparsity": sparsity,
        "factor": factor,
        "every": every,
        "step": step,
    }
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if layers is not None:
        body["layers"] = words(layers)
    if values is not None:
        body["values"] = _numbers(values)
    outcome = send_command(run, kind, body, seconds=wait)
    at = "" if outcome.step is None else f" after step {outcome.step}"
    say(f"{outcome.status}{at}{': ' if outcome.reason else ''}{outcome.reason or ''}")
    return 1 if outcome.status == "rejected" else 0


def send_command(
    run: Path, kind: str, body: Mapping[str, Any], *, source: str = "terminal", seconds: float = 10.0
) -> QueuedCommand:
    """Put a command into a run's queue and wait until it is settled.

    Args:
        run: run directory.
        kind: a key of :data:`surgecollapse.commands.COMMANDS`.
        body: its values.
        source: who asks.
        seconds: how long to wait; then it is returned as it is, still queued.

    Raises:
        FileNotFoundError: if the directory holds no run.
        ValueError: if there is no such command, or a value is out of range.
    """
    from surgecollapse.commands import command_from
    from surgecollapse.record import CommandQueue

    command = command_from(kind, body)
    queue = CommandQueue(run / "run.db")
    try:
        number, end = queue.put(command, source=source), time.monotonic() + seconds
        while True:
            asked = queue.get(number)
            assert asked is not None
            if asked.status != "queued":
                return asked
            if time.monotonic() >= end:
                return queue.expire(number) or asked
            time.sleep(_LOOK)
    finally:
        queue.close()


def watch(
    folder: Path = Path("runs"),
    /,
    *,
    port: int = 8321,
    host: str = "127.0.0.1",
    expose: bool = False,
) -> int:
    """Show runs in the browser while they train, and let a person intervene.

    Args:
        folder: Folder of run directories, or one of them.
        port: 0 takes a free one.
        host: Address to listen at; any but this machine's own needs --expose.
        expose: Let other machines that have the token see and change the runs, unencrypted.
    """
    from surgecollapse.dashboard.serve import serve

    serve(folder, port=port, host=host, exposed=expose, tell=say_now)
    return 0


def _numbers(text: str) -> dict[str, float]:
    """Read ``name=number,name=number``."""
    found = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise ConfigError(f"values = {text!r}: expected names and numbers as in floor=.3,high=.9") from None
    return found
