"""Reinforcement learning: sparse networks of values and policies on two tasks of classic control."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.attaching.attach import attach
from surgecollapse.lab.hidden_state import hidden_state
from surgecollapse.lab.reinforcement.acrobot import Acrobot
from surgecollapse.lab.reinforcement.cartpole import CartPole
from surgecollapse.lab.reinforcement.dqn import Schedule, greedy, learn
from surgecollapse.lab.reinforcement.environment import Environment
from surgecollapse.lab.reinforcement.harvest import SIDE, Harvest
from surgecollapse.lab.reinforcement.lunar_lander import LunarLander
from surgecollapse.lab.reinforcement.ppo import ActorCritic, Rounds, learn_policy
from surgecollapse.lab.reinforcement.reliability import interquartile_mean, stratified_bootstrap
from surgecollapse.lab.reinforcement.returns import returns
from surgecollapse.studies.page import grouped, interval, method_name, paired_difference
from surgecollapse.studies.plasticity import perceptron
from surgecollapse.studies.registry import Figure, Rows, Settings, Study, Table, study

_WIDTH, _SPARSITY, _POINTS, _CHECKED = 128, 0.9, 6, 3
_SMALL = {1: 41, 4: 163}
"""Width of the small dense perceptron, which has as many weights as one of 128 or 512 units at 90%."""
_CHANNELS, _SMALL_CHANNELS = {1: (8, 64), 4: (32, 256)}, {1: (3, 18), 4: (10, 82)}
"""Channels and hidden units of the convolutional network, and of the small dense one."""
_METHODS = ("dense", "small_dense", "static", "set", "rigl", "gmp", "cyclic_pruning")
_KINDS: dict[str, type[Environment]] = {
    "cartpole": CartPole,
    "acrobot": Acrobot,
    "harvest": Harvest,
    "lunarlander": LunarLander,
}
_STEPS = {
    ("dqn", "cartpole"): 100_000,
    ("ppo", "cartpole"): 49_920,
    ("dqn", "acrobot"): 100_000,
    ("ppo", "acrobot"): 61_440,
    ("dqn", "harvest"): 100_000,
    ("ppo", "harvest"): 153_600,
    ("dqn", "lunarlander"): 100_000,
}
_LONG = {
    ("dqn", "cartpole"): 250_000,
    ("ppo", "cartpole"): 99_840,
    ("ppo", "acrobot"): 102_400,
    ("dqn", "acrobot"): 250_000,
}
_PUBLISHED = {
    ("dqn", "cartpole"): (475, 489),
    ("ppo", "cartpole"): (475, 489),
    ("ppo", "acrobot"): (-100, -82),
    ("dqn", "acrobot"): (-100, -92),
}
"""Gymnasium's threshold of a solved task, and the mean of CleanRL's runs of 500,000 steps."""
_RATE = {"dqn": 2.5e-4, "ppo": 1e-3}
_PROBED = 512
"""Observations of random actions, on which rank and dormancy are followed."""
_NOISE = {"harvest": 0.1}
"""σ of the noise on what is observed after training; 0.05 for the others."""
_NOISES, _NOISY_TASK = (0.05, 0.1, 0.2, 0.4), "cartpole"
"""σ of the table of noise, and the task that it is of."""
_GROUPS = {
    ("dqn", "cartpole", 1): 10,
    ("ppo", "cartpole", 1): 10,
    ("dqn", "acrobot", 1): 10,
    ("ppo", "acrobot", 1): 10,
    ("dqn", "harvest", 1): 5,
    ("ppo", "harvest", 1): 5,
    ("dqn", "cartpole", 4): 5,
}
"""Agents, tasks and widths of the page, with the number of seeds."""
_FURTHER = {
    ("dqn", "harvest", 1): 10,
    ("ppo", "harvest", 1): 10,
    ("dqn", "cartpole", 4): 10,
    ("ppo", "cartpole", 4): 10,
    ("dqn", "harvest", 4): 10,
    ("ppo", "harvest", 4): 10,
    ("dqn", "lunarlander", 1): 10,
}
"""Those that the page leaves out, as they take too long."""


def runs(quick: bool) -> list[Settings]:
    """Seeds outermost; dense networks that learn for longer, as a check of the agents, after the first seed."""
    if quick:
        return [
            {"agent": agent, "task": task, "width": 1, "method": method, "seed": 0, "steps": 1024, "check": False}
            for agent, task in (*_LONG, ("dqn", "harvest"), ("ppo", "harvest"))
            for method in ("dense", "small_dense", "gmp")
        ]
    checks: list[Settings] = [
        {"agent": agent, "task": task, "width": 1, "method": "dense", "seed": seed, "steps": steps, "check": True}
        for seed in range(_CHECKED)
        for (agent, task), steps in _LONG.items()
    ]
    compared = _compared(_GROUPS)
    first = len(_GROUPS) * len(_METHODS)
    return [*compared[:first], *checks, *compared[first:]]


def further() -> list[Settings]:
    """More seeds of what is costly, a width of 4 on the other tasks, and LunarLander."""
    return _compared(_FURTHER)


def _compared(groups: Mapping[tuple[str, str, int], int]) -> list[Settings]:
    return [
        {
            "agent": agent,
            "task": task,
            "width": width,
            "method": method,
            "seed": seed,
            "steps": _STEPS[agent, task],
            "check": False,
        }
        for seed in range(max(groups.values()))
        for (agent, task, width), seeds in groups.items()
        if seed < seeds
        for method in _METHODS
    ]


def measure(config: Settings) -> Mapping[str, Any]:
    """Learn once; returns of the final greedy rule, without and with noise on what it observes, and along the way."""
    agent, task, method, seed = config["agent"], config["task"], config["method"], config["seed"]
    kind = _KINDS[task]
    torch.manual_seed(seed)
    actor = network(task, config["width"], kind.actions, small=method == "small_dense")
    model: nn.Sequential | ActorCritic = actor
    if agent == "ppo":
        model = ActorCritic(actor, network(task, config["width"], 1, small=method == "small_dense"))
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

    @cache
    def judged(noise: float, episodes: int = 32) -> float:
        return float(returns(choose, episodes=episodes, seed=900 + seed, noise=noise, kind=kind).mean())

    return {
        "score": judged(0.0, 100 if config["check"] else 32),
        "noisy": judged(_NOISE.get(task, 0.05)),
        **({"under_noise": [judged(noise) for noise in _NOISES]} if task == _NOISY_TASK else {}),
        "curve": curve,
        "area": statistics.fmean(curve),
        "rank_curve": [state["rank"] for state in states],
        "dormant_curve": [state["dormant"] for state in states],
        "density": sum(int((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights),
        **hidden_state(actor, seen),
    }


def network(task: str, width: int, outputs: int, *, small: bool = False) -> nn.Sequential:
    """A perceptron of two hidden layers; on pixels, a convolution of 3 × 3 and one hidden layer.

    >>> def prunable_and_all(layers):
    ...     counts = [layer.weight.numel() for layer in layers if hasattr(layer, "weight")]
    ...     return sum(counts[:-1]), sum(counts)
    >>> prunable_and_all(network("harvest", 1, 3)), prunable_and_all(network("harvest", 1, 3, small=True))
    ((32984, 33176), (3537, 3591))
    """
    if task != "harvest":
        return perceptron(_KINDS[task].observed, _SMALL[width] if small else _WIDTH * width, outputs)
    channels, hidden = (_SMALL_CHANNELS if small else _CHANNELS)[width]
    return nn.Sequential(
        nn.Unflatten(1, (3, SIDE, SIDE)),
        nn.Conv2d(3, channels, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * (SIDE - 2) ** 2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


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
    rounds = Rounds(rounds=config["steps"] // 1024, copies=16, horizon=64)
    if config["task"] == "harvest":
        return replace(rounds, passes=6, batch=128, discount=0.98, trace=0.9, entropy=0.01)
    return replace(rounds, passes=8, discount=0.99, trace=0.94)


def middle(scores: Sequence[float], digits: int = 0) -> str:
    """The interquartile mean and its interval, as a cell; the value where there is one.

    >>> middle([1.0, 1.0, 1.0]), middle([-2.0], 1)
    ('1 (1 to 1)', '-2.0')
    """
    values = torch.tensor(scores, dtype=torch.float64)
    if len(values) == 1:
        return f"{float(values):.{digits}f}"
    low, high = stratified_bootstrap([values])
    return f"{float(interquartile_mean(values)):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _title(agent: str, task: str, width: int) -> str:
    """What a table is of.

    >>> _title("dqn", "cartpole", 4)
    'DQN on CartPole, width × 4'
    """
    return f"{agent.upper()} on {_KINDS[task].__name__}, width × {width}"


def tables(rows: Rows) -> list[Table]:
    """One table for each agent, task and width; what noise does; the check of the agents."""
    compared = [row for row in rows if not row["config"]["check"]]
    found = [
        Table(title=f"{_title(*key)}, 90% sparse", headings=_HEADINGS, lines=_lines(group, key[1]))
        for key, group in grouped(compared, "agent", "task", "width").items()
    ]
    if found:
        found[-1] = replace(found[-1], note=_NOTE)
    noisy = [row for row in compared if "under_noise" in row]
    checks = grouped([row for row in rows if row["config"]["check"]], "agent", "task")
    return [*found, *([_under_noise(noisy)] if noisy else []), *([_check(checks)] if checks else [])]


_HEADINGS = ["method", "final", "with noise", "while learning", "final minus dense", "rank", "dormant, %", "seeds"]
_NOTE = (
    "All of these tables have the interquartile mean over seeds with its 95% stratified bootstrap interval. Where "
    "there is one seed, they have its value. Returns are at most 500 on CartPole, between −500 and 0 on Acrobot, and "
    "at most 50 on Harvest, where random actions earn 1.0. The difference is paired, with Student's interval. Rank and "
    "dormant units are those of the hidden layers at the end, of the policy for PPO."
)


def _lines(rows: Rows, task: str) -> list[list[str]]:
    groups = grouped(rows, "method")
    dense = groups.get(("dense",), [])
    digits = 1 if task == "harvest" else 0
    return [
        [
            method_name(method),
            *(middle([row[value] for row in group], digits) for value in ("score", "noisy", "area")),
            paired_difference(group, dense, "score", digits=digits),
            interval([row["rank"] for row in group], 1),
            f"{100 * statistics.fmean(row['dormant'] for row in group):.0f}",
            str(len(group)),
        ]
        for (method,), group in groups.items()
    ]


def _under_noise(rows: Rows) -> Table:
    lines = [
        [
            f"{agent.upper()}, × {width}",
            method_name(method),
            *(middle([row["under_noise"][place] for row in group]) for place in range(len(_NOISES))),
            str(len(group)),
        ]
        for (agent, width, method), group in grouped(rows, "agent", "width", "method").items()
    ]
    return Table(
        title=f"{_KINDS[_NOISY_TASK].__name__} with noise on what is observed",
        headings=["agent and width", "method", *(f"σ = {noise:g}" for noise in _NOISES), "seeds"],
        lines=lines,
        note="Final return, as above. The noise is added after training only.",
    )


def _check(checks: Mapping[tuple[Any, ...], Rows]) -> Table:
    lines = []
    for (agent, task), group in checks.items():
        solved, published = _PUBLISHED[agent, task]
        every = ", ".join(f"{row['score']:.0f}" for row in group)
        steps = f"{group[0]['config']['steps']:,}"
        lines.append([agent.upper(), _KINDS[task].__name__, steps, every, str(solved), str(published)])
    note = (
        "Dense networks that learn for longer. Mean return of the final greedy rule over 100 episodes, each seed. "
        "Solved: the threshold of Gymnasium. Published: mean of [CleanRL](https://docs.cleanrl.dev) over 500,000 "
        "steps. Versions of its page have 489 to 492 and −82 to −90 for PPO."
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
CartPole-v1 and Acrobot-v1 are written anew and checked against Gymnasium's. *Harvest* is a game of our own on 10 × 10
pixels with three channels: a basket, falling fruit, and falling stones. Fruit that is caught earns 1, a stone that is
met ends the episode. Random actions earn 1.0, a perfect rule 50.

Networks have two hidden layers of 128 units, or of 512 (*width × 4*), trained by Adam. On Harvest they have a 3 × 3
convolution of 8 channels and 64 hidden units, or 32 and 256. Sparse networks end at 90%, output layers are dense. The
small dense network has as many weights, within 5%. The final return is that of the greedy rule over 32 episodes.
Noise on all that is observed is added after training only: σ = 0.05, on Harvest 0.1.

- *DQN* is double deep Q-learning in the setting of CleanRL: squared errors, a learning rate of 2.5e-4, and batches of
  128. Between two updates, 10 copies of the task are stepped once: 10,000 updates are 100,000 steps. The memory holds
  10,000 transitions, 50,000 on the other tasks. The target network is copied every 50 updates. Exploration goes from
  1 to 0.05 over half of the run.
- *PPO* has the clipped objective (ε = 0.2), one network for the policy and one for the values. Its learning rate
  falls from 1e-3 to zero. CartPole takes 195 rounds of 8 × 32 steps with 20 passes, discount 0.98, λ = 0.8. Acrobot
  takes 60 rounds of 16 × 64 steps with 8 passes, discount 0.99, λ = 0.94. Harvest takes 150 rounds of 16 × 64 steps
  with 6 passes over batches of 128, discount 0.98, λ = 0.9, and an entropy of weight 0.01.
- *Check of the agents*: DQN takes 250,000 steps on either task. PPO takes 390 rounds on CartPole and 100 on Acrobot.
  All else is as above.
- *Rank and dormancy* are followed on 512 observations of random actions.
- `--full` adds a width of 4 on the other tasks, ten seeds where there are five, and LunarLander of Gymnasium with DQN
  (extra `reinforcement`).
"""

_CONCLUSION = """
**The agents pass their check. Of ten seeds two are run, so that nothing is claimed of sparse networks yet.**

- **On Harvest pruned networks came near dense ones**: GMP and `cyclic_pruning` lost 2 to 6 points of 44. A static
  random mask lost 36 to 38, SET, RigL and the small dense network 20 to 36.
- On CartPole and Acrobot the two seeds differ too much to compare.

- **The check.** PPO holds the pole for all 500 steps of 100 episodes in each of three seeds, after 99,840 steps. On
  Acrobot it has −80 to −83 after 102,400. DQN holds the pole for 489 and 500 steps, after 250,000. Published are 489,
  −82 and 489 after 500,000.
- **Squared errors.** Rows of DQN from before were of an agent with a fault, and are not shown. The Huber loss does
  not fit returns of up to 100. Nearly every error exceeds its bound of 1, so that values follow the median of their
  targets. The rare ends of episodes then do not count, and values run away: to 2·10⁷ in CleanRL's setting after
  500,000 steps. Squared errors do not have it.
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
        further=further,
        limits=(
            "Small tasks, and two seeds. A width of 4 is compared on CartPole with DQN only, with one or two seeds.",
            "Harvest stands in for MinAtar, which is under the GPL. No published returns are there to compare with.",
            "Nothing was tuned for any sparse method. Rates were chosen by hand on dense networks.",
        ),
    )
)
