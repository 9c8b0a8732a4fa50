"""Does the reference agent help? Runs that it steers, against the same runs left alone and under random commands.

    python benchmarks/agent.py --seeds 10 --minutes 10

Four situations on the digits: a healthy run, a learning rate that is too high, too few samples, and wrong labels. Each
seed trains three arms that are the same run up to the first command. The agent is `scripts/reference_agent.py`, with
its rules as committed. The random arm sends as many commands as the agent may at most (three), of the same kinds, at
random times and with random values. All commands go through the run's queue of commands, and are decided from the
state of the agent protocol at every hundredth of the run. Rows are appended to `results/agent.jsonl`; what is there is
not trained again.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import append_row, described, make_parser, origin, publish, read_rows, single_thread, table

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import reference_agent

STEPS, POLLS = 1000, 100
SITUATIONS: dict[str, dict[str, Any]] = {
    "healthy": {"lr": 1e-3, "optimizer": "adamw"},
    "rate too high": {"lr": 0.9, "optimizer": "sgd"},
    "few samples": {"lr": 1e-3, "optimizer": "adamw", "train_samples": 100},
    "wrong labels": {"lr": 1e-3, "optimizer": "adamw", "train_samples": 500, "label_noise": 0.3},
}
ARMS = ("alone", "agent", "random")
Decide = Callable[[dict[str, Any], int], "list[str] | None"]


def decider(arm: str, seed: str) -> Decide:
    """What an arm sends at a poll: takes the state and the number of the poll."""
    if arm == "agent":
        done: set[str] = set()
        return lambda seen, _poll: reference_agent.decide(seen, done)
    draws = random.Random(seed)
    times = draws.sample(range(1, POLLS), 3) if arm == "random" else []

    def at_random(_seen: dict[str, Any], poll: int) -> list[str] | None:
        if poll not in times:
            return None
        return draws.choice(
            [
                ["learning-rate", f"factor={10 ** draws.uniform(-1, 1):.4g}"],
                ["set", "dropout", f"{draws.uniform(0, 0.5):.4g}"],
                ["set", "loss.label_smoothing", f"{draws.uniform(0, 0.3):.4g}"],
            ]
        )

    return at_random


def steered(situation: str, arm: str, seed: int) -> dict[str, Any]:
    """Train one run under one arm; its row."""
    from surgecollapse.cli.agent import state_of
    from surgecollapse.commands import body_of, command_from
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train
    from surgecollapse.lab.training.trainer import Training
    from surgecollapse.record import CommandQueue

    decide, advance = decider(arm, f"{situation} {seed}"), Training.advance
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"

        def watched(training: Training) -> None:
            if arm != "alone" and training.step and training.step % (STEPS // POLLS) == 0:
                training.store.flush()
                words = decide(state_of(folder), training.step * POLLS // STEPS)
                if words is not None:
                    training.command_loop.request(command_from(*body_of(words[0], words[1:])), source="agent")
            advance(training)

        config = make_config(
            task="digits", policy="none", steps=STEPS, widths=(64,), dropout=0.05, seed=seed, monitors="none",
            evaluate_every=50, checkpoint_every=STEPS, stop_when_diverged=False, **SITUATIONS[situation],
        )  # fmt: skip
        Training.advance = watched  # type: ignore[method-assign]
        try:
            found = train(config, folder).summary
        finally:
            Training.advance = advance  # type: ignore[method-assign]
        sent = [[one.step, one.kind, one.body, one.status] for one in CommandQueue(folder / "run.db").all()]
    return {
        "situation": situation,
        "arm": arm,
        "seed": seed,
        "steps": STEPS,
        "accuracy": found["accuracy"],
        "loss": found["loss"] if math.isfinite(found["loss"]) else None,
        "sent": sent,
    }


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Test accuracy of each arm, and paired differences with the run left alone, with Student's 95% interval."""
    from surgecollapse.compare.paired_statistics import mean_interval

    lines = []
    for situation in SITUATIONS:
        found = {arm: {row["seed"]: row for row in rows if (row["situation"], row["arm"]) == (situation, arm)}
                 for arm in ARMS}  # fmt: skip
        seeds = sorted(set.intersection(*(set(one) for one in found.values())))
        if len(seeds) < 2:
            continue
        shown = []
        for arm in ARMS:
            values = mean_interval([100 * found[arm][seed]["accuracy"] for seed in seeds])
            gains = mean_interval(
                [100 * (found[arm][seed]["accuracy"] - found["alone"][seed]["accuracy"]) for seed in seeds]
            )
            commands = sum(len(found[arm][seed]["sent"]) for seed in seeds) / len(seeds)
            gain = "" if arm == "alone" else f"{gains.mean:+.2f} ± {gains.half:.2f}"
            shown.append([arm, f"{values.mean:.2f} ± {values.half:.2f}", gain, f"{commands:.1f}"])
        lines += ["", f"## {situation.capitalize()} (n = {len(seeds)})", ""]
        lines += table(["arm", "test accuracy, %", "difference with alone, points", "commands a run"], shown)
    return lines


def main() -> None:
    """Run from the command line."""
    parser = make_parser(__doc__, seeds=10)
    parser.add_argument("--minutes", type=float, default=60.0, help="processor time after which no further seed begins")
    given = parser.parse_args()
    single_thread()
    file = given.out / "agent.jsonl"
    there = {(row["situation"], row["arm"], row["seed"]) for row in read_rows(file) if row["steps"] == STEPS}
    for seed in range(given.seeds):
        for situation in SITUATIONS:
            for arm in ARMS:
                if (situation, arm, seed) in there or time.process_time() > 60 * given.minutes:
                    continue
                append_row(file, steered(situation, arm, seed))
    rows = [row for row in read_rows(file) if row["steps"] == STEPS]
    report = {**origin(threads=1), "situations": SITUATIONS, "steps": STEPS, "runs": len(rows)}
    about = "Means with Student's 95% interval over seeds; differences are paired by seed."
    publish(given.out / "agent", report, "\n".join(["# The reference agent", *described(report), about, *tables(rows)]))


if __name__ == "__main__":
    main()
