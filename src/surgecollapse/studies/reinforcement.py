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
_KINDS: dict[str, type[Environment]] = {"cartpole": CartPole, "acrobot": Acrobot}
_STEPS = {("dqn", "cartpole"): 24_000, ("ppo", "cartpole"): 24_064, ("ppo", "acrobot"): 61_440}
_LONG = {("dqn", "cartpole"): 96_000, ("ppo", "cartpole"): 99_840, ("ppo", "acrobot"): 102_400}
_PUBLISHED = {("dqn", "cartpole"): (475, 489), ("ppo", "cartpole"): (475, 489), ("ppo", "acrobot"): (-100, -82)}
"""Gymnasium's threshold of a solved task, and the mean of CleanRL's runs of 500,000 steps."""
_GROUPS = (
    ("dqn", "cartpole", 1),
    ("ppo", "cartpole", 1),
    ("ppo", "acrobot", 1),
    ("dqn", "cartpole", 4),
    ("ppo", "cartpole", 4),
)


def runs(quick: bool) -> list[Settings]:
    """Seeds outermost; then dense networks that learn for longer, as a check of the agents."""
    if quick:
        return [
            {"agent": agent, "task": task, "width": 1, "method": method, "seed": 0, "steps": 1024, "check": False}
            for agent, task in _STEPS
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
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    plan = _schedule(config) if agent == "dqn" else _rounds(config)
    curve: list[float] = []
    stops = plan.updates if isinstance(plan, Schedule) else plan.rounds
    looks = {round(stops * (place + 1) / _POINTS) for place in range(_POINTS)}

    def choose(states: Tensor) -> Tensor:
        return greedy(actor, states)

    def look(at: int) -> None:
        if at in looks:
            curve.append(float(returns(choose, episodes=16, seed=700 + seed, kind=kind).mean()))

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
        "density": sum(int((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights),
        **hidden_state(actor, seen),
    }


def _schedule(config: Settings) -> Schedule:
    if config["check"]:
        return Schedule(updates=config["steps"] // 8, copies=8, anneal=True)
    return Schedule(updates=config["steps"] // 16)


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
    """Return while learning, and every seed's final return in the same colors; a row for each table."""
    import matplotlib.pyplot as plt

    parts = grouped([row for row in rows if not row["config"]["check"]], "agent", "task", "width")
    figure, axes = plt.subplots(len(parts), 2, figsize=(7.6, 2.6 * len(parts)), squeeze=False)
    for (left, right), (key, part) in zip(axes, parts.items(), strict=True):
        groups = grouped(part, "method")
        for (method,), group in groups.items():
            place = _METHODS.index(method)
            curves = torch.tensor([row["curve"] for row in group], dtype=torch.float64)
            steps = group[0]["config"]["steps"]
            at = [steps * (turn + 1) / curves.shape[1] / 1000 for turn in range(curves.shape[1])]
            left.plot(at, interquartile_mean(curves.T).tolist(), color=f"C{place}", linewidth=1.2)
            scores = [row["score"] for row in group]
            right.plot(scores, [-place] * len(scores), "o", color=f"C{place}", markersize=4, alpha=0.8)
        right.set_yticks([-_METHODS.index(m) for (m,) in groups], [method_name(m) for (m,) in groups])
        left.set(title=_title(*key), xlabel="thousand steps", ylabel="return, interquartile mean")
        right.set(xlabel="final return of every seed")
        for axis in (left, right):
            axis.grid(alpha=0.2)
    figure.tight_layout()
    return figure


_SETTING = """
Two tasks of classic control, CartPole-v1 and Acrobot-v1, are written anew and checked against Gymnasium's. Networks
have two hidden layers of 128 units, or of 512 (*width × 4*). Adam has a learning rate of 1e-3. Sparse networks end at
90%, output layers are dense. The small dense network has as many weights. The final return is that of the greedy rule
over 32 episodes. Noise of σ = 0.05 on all that is observed is added after training only.

- *DQN* is double deep Q-learning with 1,500 updates of 128 transitions. Between two updates, 16 copies of the task are
  stepped once (24,000 steps). The memory holds 30,000, and the target network is copied every 100 updates. Exploration
  goes from 1 to 0.05 over 30%, the discount is 0.99.
- *PPO* has the clipped objective (ε = 0.2), one network for the policy and one for the values. Its learning rate falls
  to zero. CartPole takes 94 rounds of 8 × 32 steps with 20 passes, discount 0.98, λ = 0.8. Acrobot takes 60 rounds of
  16 × 64 steps with 8 passes, discount 0.99, λ = 0.94.
- *Check of the agents*: DQN takes 12,000 updates with 8 steps between two, and its learning rate falls to zero. PPO
  takes 390 rounds on CartPole and 100 on Acrobot. All else is as above.
"""

_CONCLUSION = """
**Gradual pruning lost nothing; networks that are sparse from the start did.** Five seeds of DQN are run, so that no
claim is made.

- GMP ended at 302 (254–401), dense training at 246 (230–290): 62 ± 109 more.
- `cyclic_pruning` ended level with dense training, at 242 (192–315). It learned later: 134 on the way against 216.
- Of the methods that are sparse throughout, RigL ended 135 ± 45 below dense training, and below static random masks.
  SET ended at 192 (136–263), static masks at 155 (127–276): exchanging weights showed no clear gain over random masks.
- A small dense network with as many weights, at 131 (84–292), was no better than static masks.
- Noise on the observations cost 3 to 14% of the return. No sparse form stood out.
- Static masks and SET had the highest effective rank, and lower returns than dense training.
- **Check of the agents**, one seed: PPO holds the pole for all 500 steps of 100 episodes, after 99,840 steps. DQN does
  not pass. It fell from 266 after 16,000 steps to 94 after 96,000, far below the published 489.
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
            "Two small tasks. LunarLander and MinAtar were not run.",
            "DQN is judged while it still learns. Longer runs got worse, so that these returns depend on the schedule.",
            "PPO, Acrobot and a width of 4 are planned with all methods. Only the check of dense PPO was run.",
            "Nothing was tuned for any sparse method. Rates were chosen by hand on dense networks.",
        ),
    )
)
