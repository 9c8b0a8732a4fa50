"""An agent of three rules behind the agent protocol: ``python scripts/reference_agent.py RUN``.

It reads ``surgecollapse send RUN --json`` and sends commands until the run has ended:

1. the training loss rises over the last ten points by more than half: halve the learning rate;
2. the validation loss has risen twice in a row: more dropout, once;
3. the training loss is far under the validation loss at the end of the schedule: label smoothing, once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

WORDS = (sys.executable, "-m", "surgecollapse", "send")
PAUSE = 1.0


def decide(seen: dict[str, Any], done: set[str]) -> list[str] | None:
    """The words of a command, or nothing.

    Args:
        seen: the state, as the protocol has it.
        done: what was done already; what is decided is added.
    """
    curves = {name: [y for y in part["y"] if y is not None] for name, part in seen["curves"].items()}
    train, validation = curves.get("loss/train", []), curves.get("loss/validation", [])
    if len(train) >= 10 and min(train[-5:]) > 1.5 * min(train[-10:-5]) and "rate" not in done:
        done.add("rate")
        return ["learning-rate", "factor=0.5"]
    if len(validation) >= 3 and validation[-3] < validation[-2] < validation[-1] and "dropout" not in done:
        done.add("dropout")
        return ["set", "dropout", "0.2"]
    step, total = seen["state"]["step"] or 0, seen["state"]["total"] or 0
    late = total and step > 0.5 * total
    if late and train and validation and train[-1] < 0.2 * validation[-1] and "smoothing" not in done:
        done.add("smoothing")
        return ["set", "loss.label_smoothing", "0.1"]
    return None


def asked(run: str, *words: str) -> dict[str, Any]:
    """What the command line answers."""
    said = subprocess.run([*WORDS, run, *words, "--json"], capture_output=True, text=True, check=False)
    if not said.stdout:
        sys.exit(said.stderr.strip())
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def main(run: str) -> None:
    """Steer a run until it has ended."""
    done: set[str] = set()
    while (seen := asked(run))["state"]["status"] == "live":
        words = decide(seen, done)
        if words is not None:
            sys.stdout.write(json.dumps(asked(run, *words)["command"]) + "\n")
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
