"""Which runs the banks have: settings drawn at random, as many for every group."""

from __future__ import annotations

import math

import torch

from outcome_bank.problems import TASKS
from outcome_bank.runs import Outcome, Setting

RUNS: dict[str, int] = {"divergence": 20, "dead": 20, "plasticity": 12}
"""Of each group."""
SEQUENCES = ("digits", "mnist", "mnist1d", "sensors", "prototypes")
"""Tasks whose inputs or labels are permuted."""
RATES: dict[str, dict[str, tuple[float, float]]] = {
    "divergence": {"sgd": (0.04, 1.0), "adam": (0.005, 0.2)},
    "dead": {"sgd": (0.03, 0.6), "adam": (0.003, 0.15)},
    "plasticity": {"sgd": (0.02, 0.4), "adam": (0.002, 0.03)},
}
"""Least and largest learning rate, between which its logarithm is uniform."""


def groups(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Task, net and stream of each group."""
    if outcome != "plasticity":
        return [(task, net, "") for task, nets in TASKS.items() for net in nets]
    found: list[tuple[str, str, str]] = []
    for task in SEQUENCES:
        for net in TASKS[task]:
            streams = ("inputs", "labels", "random") if net == "mlp" else ("labels", "random")
            found += [(task, net, stream) for stream in streams]
    return found


def settings(outcome: Outcome, runs: int | None = None, first: int = 0) -> list[Setting]:
    """All runs of a bank, round after round over the groups, so that a bank that is cut short has all groups.

    Args:
        outcome: of the bank.
        runs: of each group.
        first: number of the first run; another one gives other runs.

    >>> len(settings("dead", 2)), settings("dead", 2)[0] == settings("dead", 1)[0]
    (30, True)
    """
    found = []
    for number in range(first, first + (RUNS[outcome] if runs is None else runs)):
        draws = torch.Generator().manual_seed(number * len(RUNS) + list(RUNS).index(outcome))

        def pick(*values: float, draws: torch.Generator = draws) -> float:
            return values[int(torch.randint(len(values), (), generator=draws))]

        for task, net, stream in groups(outcome):
            optimizer = "adam" if pick(0, 1) else "sgd"
            low, high = map(math.log, RATES[outcome][optimizer])
            rate = math.exp(low + (high - low) * float(torch.rand((), generator=draws)))
            warmup = int(pick(75, 150, 300)) if outcome == "divergence" else 0
            found.append(
                Setting(
                    outcome=outcome,
                    task=task,
                    net=net,  # type: ignore[arg-type]
                    optimizer=optimizer,  # type: ignore[arg-type]
                    lr=float(f"{rate:.4g}"),
                    seed=number,
                    warmup=warmup,
                    weight_decay=pick(0.0, 0.01) if outcome == "plasticity" else 0.0,
                    scale=pick(1.0, 1.5, 2.0),
                    bias=pick(0.0, 0.0, -0.2) if outcome == "dead" else 0.0,
                    activation="gelu" if outcome != "dead" and pick(0, 0, 1) else "relu",
                    stream=stream,  # type: ignore[arg-type]
                )
            )
    return found
