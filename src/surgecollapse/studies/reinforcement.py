"""Reinforcement learning: sparse networks of values and policies on two tasks of classic control."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from surgecollapse.attaching.attach import attach
from surgecollapse.lab.reinforcement.acrobot import Acrobot
from surgecollapse.lab.reinforcement.cartpole import CartPole
from surgecollapse.lab.reinforcement.dqn import Schedule, greedy, learn
from surgecollapse.lab.reinforcement.environment import Environment
from surgecollapse.lab.reinforcement.lunar_lander import LunarLander
from surgecollapse.lab.reinforcement.ppo import ActorCritic, Rounds, learn_policy
from surgecollapse.lab.reinforcement.reliability import interquartile_mean, stratified_bootstrap
from surgecollapse.lab.reinforcement.returns import returns
from surgecollapse.studies.page import grouped, interval, method_name, paired_difference
from surgecollapse.studies.plasticity import hidden_state, perceptron
from surgecollapse.studies.registry import Figure, Rows, Settings, Study, Table, study

_WIDTH, _SPARSITY, _POINTS, _NOISE, _CHECKED = 128, 0.9, 6, 0.05, 3
_SMALL = {1: 41, 4: 163}
"""Width of the small dense network, which has as many weights as one of 128 or 512 units at 90%, on both tasks."""
_METHODS = ("dense", "small_dense", "static", "set", "rigl", "gmp", "cyclic_pruning")
_KINDS: dict[str, type[Environment]] = {"cartpole": CartPole, "acrobot": Acrobot, "lunarlander": LunarLander}
_STEPS = {
    ("dqn", "cartpole"): 100_000,
    ("ppo", "cartpole"): 24_064,
    ("ppo", "acrobot"): 61_440,
    ("dqn", "lunarlander"): 100_000,
}
_LONG = {("dqn", "cartpole"): 250_000, ("ppo", "cartpole"): 99_840, ("ppo", "acrobot"): 102_400}
_PUBLISHED = {("dqn", "cartpole"): (475, 489), ("ppo", "cartpole"): (475, 489), ("ppo", "acrobot"): (-100, -82)}
"""Gymnasium's threshold of a solved task, and the mean of CleanRL's runs of 500,000 steps."""
_RATE = {"dqn": 2.5e-4, "ppo": 1e-3}
_PROBED = 512
"""Observations of random actions, on which rank and dormancy are followed."""
_GROUPS = (
    ("dqn", "cartpole", 1),
    ("ppo", "cartpole", 1),
    ("ppo", "acrobot", 1),
    ("dqn", "cartpole", 4),
    ("ppo", "cartpole", 4),
    ("dqn", "lunarlander", 1),
)


def runs(quick: bool) -> list[Settings]:
    """Seeds outermost; then dense networks that learn for longer, as a check of the agents."""
    if quick:
        return [
            {"agent": agent, "task": task, "width": 1, "method": method, "seed": 0, "steps": 1024, "check": False}
            for agent, task in _LONG
            for method in ("dense", "small_dense", "gmp")
        ]
    compared: list[Settings] = [
        {
            "agent": agent,
            "task": task,
            "width": width,
            "method": method,
            "seed": seed,
            "steps": _STEPS[agent, task],
            "check": False,
        }
        for seed in range(10)
        for agent, task, width in _GROUPS
        for method in _METHODS
    ]
    checks: list[Settings] = [
        {"agent": agent, "task": task, "width": 1, "method": "dense", "seed": seed, "steps": steps, "check": True}
        for seed in range(_CHECKED)
        for (agent, task), steps in _LONG.items()
    ]
    first = len(_METHODS)
    return [*compared[:first], *checks, *compared[first:]]


def measure(config: Settings) -> Mapping[str, Any]:
    """Learn once; returns of the final greedy rule, without and with noise on what it observes, and along the way."""
    agent, method, seed, check = config["agent"], config["method"], config["seed"], config["check"]
    kind, width = _KINDS[config["task"]], config["width"]
    torch.manual_seed(seed)
    hidden = _SMALL[width] if method == "small_dense" else _WIDTH * width
    actor = perceptron(kind.observed, hidden, kind.actions)
    model = actor if agent == "dqn" else ActorCritic(actor, perceptron(kind.observed, hidden, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE[agent])
    plan = _schedule(config) if agent == "dqn" else _rounds(config)
    curve: list[float] = []
    states: list[dict[str, float]] = []
    probe = observed(kind, _PROBED, 600 + seed)
    stops = plan.updates if isinstance(plan, Schedule) else plan.rounds
    looks = {round(stops * (place + 1) / _POINTS) for place in range(_POINTS)}

    def choose(states: Tensor) -> Tensor:
        return greedy(actor, states)

    def look(at: int) -> None:
        if at in looks:
            curve.append(float(returns(choose, episodes=16, seed=700 + seed, kind=kind).mean()))
            states.append(hidden_state(actor, probe))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        controller = None
        if method not in ("dense", "small_dense"):
            controller = attach(model, optimizer, _SPARSITY, plan.updates, policy=method, seed=seed)
        if isinstance(plan, Schedule):
            memory = learn(model, optimizer, plan, seed=seed, kind=kind, each=look)
            seen = memory.states[: min(512, len(memory))]
        else:
            assert isinstance(model, ActorCritic)
            seen = learn_policy(model, optimizer, plan, seed=seed, kind=kind, each=look)
        if controller is not None:
            controller.finalize()
    weights = [p for p in model.parameters() if p.ndim > 1]
    episodes = 100 if check else 32
    return {
        "score": float(returns(choose, episodes=episodes, seed=900 + seed, kind=kind).mean()),
        "noisy": float(returns(choose, episodes=32, seed=900 + seed, noise=_NOISE, kind=kind).mean()),
        "curve": curve,
        "area": statistics.fmean(curve),
        "rank_curve": [state["rank"] for state in states],
        "dormant_curve": [state["dormant"] for state in states],
        "density": sum(int((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights),
        **hidden_state(actor, seen),
    }


def observed(kind: type[Environment], count: int, seed: int) -> Tensor:
    """What random actions get to see, of 16 copies: ``(count, observed)`` with ``count`` a multiple of 16."""
    draws = torch.Generator().manual_seed(seed)
    worlds, found = kind(16, draws), []
    for _ in range(count // 16):
        found.append(worlds.observations.float())
        _, ended, cut = worlds.step(torch.randint(0, kind.actions, (16,), generator=draws))
        worlds.reset(ended | cut)
    return torch.cat(found)


def _schedule(config: Settings) -> Schedule:
    """CleanRL's: ten steps for each update, and a copy to the target network every 500 steps."""
    memory = 10_000 if config["task"] == "cartpole" else 50_000
    return Schedule(updates=config["steps"] // 10, copies=10, memory=memory, copy_every=50, explore_until=0.5)


def _rounds(config: Settings) -> Rounds:
    if config["task"] == "cartpole":
        return Rounds(rounds=config["steps"] // 256)
    return Rounds(rounds=config["steps"] // 1024, copies=16, horizon=64, passes=8, discount=0.99, trace=0.94)


def _scores(group: Rows, value: str) -> Tensor:
    return torch.tensor([float(row[value]) for row in group], dtype=torch.float64)


def _middle(group: Rows, value: str) -> str:
    """The interquartile mean and its interval, as a cell."""
    scores = _scores(group, value)
    if len(scores) == 1:
        return f"{float(scores):.0f}"
    low, high = stratified_bootstrap([scores])
    return f"{float(interquartile_mean(scores)):.0f} ({low:.0f}–{high:.0f})"


def _title(agent: str, task: str, width: int) -> str:
    """What a table is of.

    >>> _title("dqn", "cartpole", 4)
    'DQN on CartPole, width × 4'
    """
    return f"{agent.upper()} on {_KINDS[task].__name__}, width × {width}"


def tables(rows: Rows) -> list[Table]:
    """One table for each agent, task and width; then the check of the agents."""
    compared = [row for row in rows if not row["config"]["check"]]
    found = [
        Table(title=f"{_title(*key)}, 90% sparse", headings=_HEADINGS, lines=_lines(group))
        for key, group in grouped(compared, "agent", "task", "width").items()
    ]
    if found:
        found[-1] = replace(found[-1], note=_NOTE)
    checks = grouped([row for row in rows if row["config"]["check"]], "agent", "task")
    return [*found, *([_check(checks)] if checks else [])]


_HEADINGS = ["method", "final", "with noise", "while learning", "final minus dense", "rank", "dormant, %", "seeds"]
_NOTE = (
    "All of these tables have the interquartile mean over seeds with its 95% stratified bootstrap interval. Where "
    "there is one seed, they have its value. Returns are at most 500 on CartPole, and between −500 and 0 on Acrobot. "
    "The difference is paired, with Student's interval. Rank and dormant units are those of the hidden layers at the "
    "end, of the policy for PPO."
)


def _lines(rows: Rows) -> list[list[str]]:
    groups = grouped(rows, "method")
    dense = groups.get(("dense",), [])
    return [
        [
            method_name(method),
            _middle(group, "score"),
            _middle(group, "noisy"),
            _middle(group, "area"),
            paired_difference(group, dense, "score", digits=0),
            interval([row["rank"] for row in group], 1),
            f"{100 * statistics.fmean(row['dormant'] for row in group):.0f}",
            str(len(group)),
        ]
        for (method,), group in groups.items()
    ]


def _check(checks: Mapping[tuple[Any, ...], Rows]) -> Table:
    lines = []
    for (agent, task), group in checks.items():
        solved, published = _PUBLISHED[agent, task]
        every = ", ".join(f"{row['score']:.0f}" for row in group)
        steps = f"{group[0]['config']['steps']:,}"
        lines.append([agent.upper(), _KINDS[task].__name__, steps, every, str(solved), str(published)])
    note = (
        "Dense networks that learn for longer. Mean return of the final greedy rule over 100 episodes, each seed. "
        "Solved: the threshold of Gymnasium. Published: mean of [CleanRL](https://docs.cleanrl.dev) over 500,000 steps."
    )
    return Table(
        title="Check of the agents",
        headings=["agent", "task", "steps", "return of each seed", "solved", "published"],
        lines=lines,
        note=note,
    )


def plot(rows: Rows) -> Figure:
    """Return, rank and dormancy while learning, and every seed's final return in the same colors; a row each table."""
    import matplotlib.pyplot as plt

    compared = [row for row in rows if not row["config"]["check"]]
    parts = grouped(compared or rows, "agent", "task", "width")
    figure, axes = plt.subplots(len(parts), 4, figsize=(13, 2.6 * len(parts)), squeeze=False)
    for line, (key, part) in zip(axes, parts.items(), strict=True):
        groups = grouped(part, "method")
        left, right, *inner = line
        for (method,), group in groups.items():
            place = _METHODS.index(method)
            _line(left, group, "curve", place)
            for axis, value in zip(inner, _CURVES, strict=True):
                _line(axis, [row for row in group if value in row], value, place)
            scores = [row["score"] for row in group]
            right.plot(scores, [-place] * len(scores), "o", color=f"C{place}", markersize=4, alpha=0.8)
        right.set_yticks([-_METHODS.index(m) for (m,) in groups], [method_name(m) for (m,) in groups])
        left.set(title=_title(*key), xlabel="thousand steps", ylabel="return, interquartile mean")
        right.set(xlabel="final return of every seed")
        for axis, label in zip(inner, _CURVES.values(), strict=True):
            axis.set(xlabel="thousand steps", ylabel=label)
        for axis in line:
            axis.grid(alpha=0.2)
    figure.tight_layout()
    return figure


_CURVES = {"rank_curve": "effective rank", "dormant_curve": "share of dormant units"}


def _line(axis: Any, group: Rows, value: str, place: int) -> None:
    """Interquartile mean over the seeds, along the steps."""
    if group:
        curves = torch.tensor([row[value] for row in group], dtype=torch.float64)
        steps = group[0]["config"]["steps"]
        at = [steps * (turn + 1) / curves.shape[1] / 1000 for turn in range(curves.shape[1])]
        axis.plot(at, interquartile_mean(curves.T).tolist(), color=f"C{place}", linewidth=1.2)


_SETTING = """
Two tasks of classic control, CartPole-v1 and Acrobot-v1, are written anew and checked against Gymnasium's. Networks
have two hidden layers of 128 units, or of 512 (*width × 4*), trained by Adam. Sparse networks end at
90%, output layers are dense. The small dense network has as many weights. The final return is that of the greedy rule
over 32 episodes. Noise of σ = 0.05 on all that is observed is added after training only.

- *DQN* is double deep Q-learning in the setting of CleanRL: squared errors, a learning rate of 2.5e-4, and batches of
  128. Between two updates, 10 copies of the task are stepped once: 10,000 updates are 100,000 steps. The memory holds
  10,000, and the target network is copied every 50 updates. Exploration goes from 1 to 0.05 over half of the run.
- *LunarLander* is Gymnasium's, with the extra `reinforcement`. DQN keeps 50,000 transitions there.
- *PPO* has the clipped objective (ε = 0.2), one network for the policy and one for the values. Its learning rate falls
  from 1e-3 to zero. CartPole takes 94 rounds of 8 × 32 steps with 20 passes, discount 0.98, λ = 0.8. Acrobot takes 60
  rounds of 16 × 64 steps with 8 passes, discount 0.99, λ = 0.94.
- *Check of the agents*: DQN takes 250,000 steps. PPO takes 390 rounds on CartPole and 100 on Acrobot. All else is as
  above.
- *Rank and dormancy* are followed on 512 observations of random actions.
"""

_CONCLUSION = """
**The agents pass their check; sparse networks are not compared yet.** Rows of DQN from before were of an agent with a
fault, and are not shown.

- **The fault.** The Huber loss does not fit returns of up to 100. Nearly every error exceeds its bound of 1, so that
  values follow the median of their targets. The rare ends of episodes then do not count, and values run away: to
  2·10⁷ in CleanRL's setting after 500,000 steps. With squared errors the same agent holds the pole for 489 of 500
  steps, after 250,000 (one seed; published: 489 after 500,000).
- PPO holds the pole for all 500 steps of 100 episodes, after 99,840 steps.
"""

study(
    Study(
        name="reinforcement",
        title="Reinforcement learning",
        question="Do sparse networks learn values and policies as well as dense ones, and better than random masks?",
        setting=_SETTING,
        runs=runs,
        measure=measure,
        tables=tables,
        plot=plot,
        conclusion=_CONCLUSION,
        limits=(
            "Two small tasks, of which few runs are done. LunarLander and a width of 4 are planned with all methods.",
            "MinAtar is under the GPL, so neither the library nor its extras contain it.",
            "Nothing was tuned for any sparse method. Rates were chosen by hand on dense networks.",
        ),
    )
)
