"""``send`` and ``watch``: people see runs while they train, and intervene."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from surgecollapse.cli.agent import as_line, outcome_of, state_of
from surgecollapse.cli.flags import words as split
from surgecollapse.cli.output import say, say_now
from surgecollapse.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgecollapse.record import QueuedCommand

_LOOK = 0.05
"""Seconds between two looks at whether a command is settled."""


def send(
    run: Path,
    kind: str | None = None,
    /,
    *words: str,
    fraction: float | None = None,
    layers: str | None = None,
    noise_std: float | None = None,
    sparsity: float | None = None,
    values: str | None = None,
    factor: float | None = None,
    every: int | None = None,
    step: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    wait: float = 10.0,
) -> int:
    """Send a command to a run that trains; it is carried out, or rejected with a reason, between two steps.

    Args:
        run: Run directory.
        kind: set NAME VALUE (optimizer.OPTION, optimizer.GROUP.OPTION, policy.OPTION, dropout, batch_size, sparsity,
            noise_std, loss.label_smoothing, loss.class_weights), or another command. Weights: collapse or surge
            (--fraction, --layers), pump (--noise-std, 0 stops), set-sparsity (--sparsity), freeze-layers,
            unfreeze-layers or reset-layers (--layers). Policy: set-thresholds (--values), pace of its schedule
            (--factor), pause-policy, resume-policy. Learning rate: learning-rate (--factor), hold-schedule,
            release-schedule. Samples: weigh-samples (rows=, weight=), drop-samples (rows=), rank-samples. Training:
            pause, continue, stop, evaluate, inspect, cadence of the monitors (--every), checkpoint, delete-checkpoint
            (--step), roll-back (--step). Without a kind, with --json: the state of the run.
        words: Values of the command, as in rows=3,17; for set, a name and a value.
        fraction: Share of the open weights to close, or of the closed ones to reopen.
        layers: Comma-separated names of parameters or modules, with wildcards; default: all that the command is for.
        noise_std: Standard deviation of the input noise.
        sparsity: New target.
        values: Numbers of the policy, as in floor=0.3,high=0.9.
        factor: Of the scheduled learning rate, or of the pace of the policy's schedule.
        every: Steps.
        step: Of a checkpoint.
        json: Write the outcome, or the state, as JSON of the agent protocol.
        wait: Seconds to wait for the outcome.
    """
    from surgecollapse.commands import body_of

    if kind is None:
        if not json:
            raise ConfigError(f"no command given: expected a kind, as in `surgecollapse send {run} checkpoint`")
        say(as_line(state_of(run)))
        return 0
    given = {
        "fraction": fraction,
        "noise_std": noise_std,
        "sparsity": sparsity,
        "factor": factor,
        "every": every,
        "step": step,
    }
    kind, body = body_of(kind, words)
    body |= {name: value for name, value in given.items() if value is not None}
    if layers is not None:
        body["layers"] = split(layers)
    if values is not None:
        body["values"] = _numbers(values)
    outcome = send_command(run, kind, body, seconds=wait)
    if json:
        say(as_line(outcome_of(outcome)))
    else:
        at = "" if outcome.step is None else f" after step {outcome.step}"
        reason = outcome.reason or (
            f"not taken within {wait:g} s; a loop of your own takes commands with attach(..., commands=…)"
            if outcome.status == "queued"
            else ""
        )
        say(f"{outcome.status}{at}{': ' if reason else ''}{reason}")
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
    list_: Annotated[bool, Parameter(name="--list", negative="")] = False,
) -> int:
    """Show runs in the browser while they train, and let a person intervene.

    Args:
        folder: Folder of run directories, or one of them.
        port: 0 takes a free one.
        host: Address to listen at; any but this machine's own needs --expose.
        expose: Let other machines that have the token see and change the runs, unencrypted.
        list_: List the pages that you serve on this machine, and end.
    """
    from surgecollapse.dashboard.serve import serve
    from surgecollapse.dashboard.servers import running

    if list_:
        served = running()
        for one in served:
            say(f"{one.address} {one.folder} (process {one.pid})")
        if not served:
            say(f"no page is served: start one with `surgecollapse watch {folder}`")
        return 0
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
            raise ConfigError(f"values = {text!r}: expected names and numbers as in floor=0.3,high=0.9") from None
    return found
