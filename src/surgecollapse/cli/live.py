"""``tell`` and ``watch``: people see runs while they train, and intervene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgecollapse.cli.flags import words
from surgecollapse.cli.output import say, say_now
from surgecollapse.lab.config import ConfigError


def tell(
    run: Path,
    kind: str,
    /,
    *,
    fraction: float | None = None,
    layers: str | None = None,
    sigma: float | None = None,
    sparsity: float | None = None,
    values: str | None = None,
    factor: float | None = None,
    every: int | None = None,
    step: int | None = None,
    wait: float = 10.0,
) -> int:
    """Ask a run that trains for something; it is done, or rejected with a reason, between two steps.

    Args:
        run: Run directory.
        kind: collapse or surge (--fraction, --layers), pump (--sigma, 0 stops), set-sparsity (--sparsity),
            set-thresholds (--values), learning-rate (--factor), cadence of the monitors (--every), hold or resume the
            policy, pause or continue training, checkpoint, inspect, stop, roll-back (--step).
        fraction: Share of the open weights to close, or of the closed ones to reopen.
        layers: Comma-separated names of parameters, with wildcards; default: all prunable ones.
        sigma: Standard deviation of the input noise.
        sparsity: New target.
        values: Numbers of the policy, as in floor=.3,high=.9.
        factor: Of the scheduled learning rate.
        every: Steps.
        step: Of a checkpoint.
        wait: Seconds to wait for the outcome.
    """
    from surgecollapse.cli.send import tell as ask

    given = {"fraction": fraction, "sigma": sigma, "sparsity": sparsity, "factor": factor, "every": every, "step": step}
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if layers is not None:
        body["layers"] = words(layers)
    if values is not None:
        body["values"] = _numbers(values)
    outcome = ask(run, kind, body, seconds=wait)
    at = "" if outcome.step is None else f" after step {outcome.step}"
    say(f"{outcome.status}{at}{': ' if outcome.reason else ''}{outcome.reason or ''}")
    return 1 if outcome.status == "rejected" else 0


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
