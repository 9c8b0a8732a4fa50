"""Plasticity: does a network that exchanges weights for ever keep learning new tasks?"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgecollapse.attaching.attach import attach
from surgecollapse.controller.options import Readings
from surgecollapse.functional import dormancy, effective_rank, singular_values
from surgecollapse.lab.continual.remedies import ContinualBackprop, L2Init, Remedy, ShrinkAndPerturb
from surgecollapse.lab.continual.tasks import permuted_inputs
from surgecollapse.policies import EndlessExchange, Recycle
from surgecollapse.studies.page import grouped, interval, paired_difference
from surgecollapse.studies.registry import Figure, Rows, Settings, Study, Table, study

_BATCH, _PARTS = 16, 20
_METHODS: dict[str, tuple[dict[str, Any], ...]] = {
    "plain": ({},),
    "shrink_and_perturb": ({"shrink": 1e-4, "noise": 1e-3}, {"shrink": 1e-3, "noise": 1e-2}),
    "l2_init": ({"rate": 1e-4}, {"rate": 1e-3}),
    "continual_backprop": ({"rate": 1e-4}, {"rate": 1e-3}),
    "redo": ({"tau": 0.025, "interval": 250}, {"tau": 0.1, "interval": 250}),
    "small_dense": ({"width": 32},),
    "endless_exchange": (
        {"sparsity": 0.5, "interval": 250, "drop_fraction": 0.1},
        {"sparsity": 0.5, "interval": 50, "drop_fraction": 0.1},
    ),
    "endless_exchange_redo": (
        {"sparsity": 0.5, "interval": 250, "drop_fraction": 0.1, "tau": 0.025},
        {"sparsity": 0.5, "interval": 50, "drop_fraction": 0.1, "tau": 0.1},
    ),
}
"""Two settings each, chosen by hand; the better of the two on the first seed is reported beside the other."""


def runs(quick: bool) -> list[Settings]:
    """Seeds outermost."""
    size = {"tasks": 3, "batches": 5} if quick else {"tasks": 200, "batches": 40}
    return [
        {"method": method, "options": dict(options), "seed": seed, **size}
        for seed in range(1 if quick else 10)
        for turn in range(2)
        for method, settings in _METHODS.items()
        for options in settings[turn : turn + 1]
    ]


def measure(config: Settings) -> Mapping[str, Any]:
    """Online accuracy over the tasks, then rank and dormancy of the hidden layers on the last one."""
    from surgecollapse.lab.data.images import digits

    data = digits(config["seed"], True)
    options = dict(config["options"])
    torch.manual_seed(config["seed"])
    model = perceptron(64, options.get("width", 64), 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    remedy = _remedy(config["method"], options, model, optimizer, config["seed"])
    right: list[float] = []
    stream = permuted_inputs(
        data.x_train.flatten(1),
        data.y_train,
        tasks=config["tasks"],
        batches=config["batches"],
        batch_size=_BATCH,
        seed=config["seed"],
    )
    x = torch.empty(0)
    for task, x, y in stream:
        optimizer.zero_grad()
        logits = model(x)
        F.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        remedy()
        if task == len(right):
            right.append(0.0)
        right[task] += float((logits.detach().argmax(1) == y).double().mean()) / config["batches"]
    part = max(1, config["tasks"] // _PARTS)
    parts = [statistics.fmean(right[start : start + part]) for start in range(0, config["tasks"], part)]
    tenth = max(1, config["tasks"] // 10)
    return {
        "first": statistics.fmean(right[:tenth]),
        "last": statistics.fmean(right[-tenth:]),
        "online": statistics.fmean(right),
        "parts": [round(value, 5) for value in parts],
        **hidden_state(model, x),
    }


def perceptron(inputs: int, width: int, classes: int) -> nn.Sequential:
    """Two hidden layers of ReLU units."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def _remedy(
    method: str, options: dict[str, Any], model: nn.Sequential, optimizer: torch.optim.Optimizer, seed: int
) -> Remedy:
    draws = torch.Generator().manual_seed(2000 + seed)
    makers: dict[str, Callable[[], Remedy]] = {
        "shrink_and_perturb": lambda: ShrinkAndPerturb(model, generator=draws, **options),
        "l2_init": lambda: L2Init(model, **options),
        "continual_backprop": lambda: ContinualBackprop(model, optimizer, generator=draws, **options),
    }
    if method in makers:
        return makers[method]()
    if method in ("plain", "small_dense"):
        return lambda: None
    _attach(method, options, model, optimizer, seed)
    return lambda: None


def _attach(
    method: str, options: dict[str, Any], model: nn.Sequential, optimizer: torch.optim.Optimizer, seed: int
) -> None:
    """The library's own, without a known end."""
    sparsity = options.pop("sparsity", 0.0)
    if method == "redo":
        policy: Any = Recycle(**options)
    else:
        tau = options.pop("tau", None)
        policy = EndlessExchange(**options)
        if tau is not None:
            policy = Recycle(tau=tau, interval=options["interval"], over=policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sparsity 0 with ReDo is meant
        attach(
            model,
            optimizer,
            sparsity,
            policy=policy,
            readings=Readings(every=options["interval"]),
            seed=seed,
        )


@torch.no_grad()
def hidden_state(model: nn.Sequential, x: Tensor) -> dict[str, float]:
    """Effective rank of the last hidden layer on a batch, and the share of dormant units (ReDo, τ = 0.025)."""
    hidden, shares = x, []
    for module in list(model)[:-1]:
        hidden = module(hidden)
        if isinstance(module, nn.ReLU):
            shares.append(float((dormancy(hidden) <= 0.025).double().mean()))
    rank = float(effective_rank(singular_values(hidden))) if bool(hidden.any()) else 0.0
    return {"rank": round(rank, 3), "dormant": statistics.fmean(shares)}


def _label(config: Mapping[str, Any]) -> str:
    named = ", ".join(f"{name} {value:g}" for name, value in config["options"].items())
    return str(config["method"]).replace("_", " ") + (f" ({named})" if named else "")


def _groups(rows: Rows) -> list[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(_label(row["config"]), []).append(row)
    return sorted(found.items(), key=lambda item: -statistics.fmean(row["online"] for row in item[1]))


def tables(rows: Rows) -> list[Table]:
    """Every setting, the best online accuracy first."""
    plain = grouped(rows, "method").get(("plain",), [])
    lines = [
        [
            label,
            interval([row["online"] for row in group], 1, 100),
            paired_difference(group, plain, "online", digits=1, scale=100),
            interval([row["first"] for row in group], 1, 100),
            interval([row["last"] for row in group], 1, 100),
            f"{statistics.fmean(row['rank'] for row in group):.1f}",
            f"{100 * statistics.fmean(row['dormant'] for row in group):.0f}",
            str(len(group)),
        ]
        for label, group in _groups(rows)
    ]
    headings = [
        "method",
        "online accuracy, %",
        "minus plain",
        "first tenth",
        "last tenth",
        "rank",
        "dormant, %",
        "seeds",
    ]
    note = (
        "Accuracy of each batch before it is learned. Tenths are of the tasks. Rank and dormant units are those of the "
        "hidden layers after the last task."
    )
    return [Table(title="Input-permuted digits", headings=headings, lines=lines, note=note)]


def plot(rows: Rows) -> Figure:
    """Online accuracy over tasks, the best setting of each method."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.4))
    shown: set[str] = set()
    for label, group in _groups(rows):
        method = group[0]["config"]["method"]
        if method in shown:
            continue
        shown.add(method)
        parts = [statistics.fmean(values) for values in zip(*(row["parts"] for row in group), strict=True)]
        width = group[0]["config"]["tasks"] / len(parts)
        at = [width * (place + 0.5) for place in range(len(parts))]
        axis.plot(at, [100 * value for value in parts], label=label, linewidth=1.2)
    axis.set(xlabel="task", ylabel="online accuracy, %")
    axis.grid(alpha=0.2)
    axis.legend(fontsize=6)
    figure.tight_layout()
    return figure


_SETTING = """
Digits of scikit-learn, 200 tasks. Each task shuffles the 64 pixels in a way of its own and shows 40 batches of 16
digits once (online permuted MNIST of Dohare et al. 2024, in small). Perceptron 64-64-64-10, Adam with a learning rate
of 3e-3, nothing reset between tasks. Rivals: shrink-and-perturb, L2-Init, ReDo, continual backprop, each with two
settings, and a network of half the width. Ours: `endless_exchange` at 50% sparsity, which needs no length of the run,
alone and with dormant units recycled. Seeds are paired.
"""

_CONCLUSION = """
**Exchanging weights did not help so far.** One seed of six methods is run, so that nothing is claimed.

- Plain training loses plasticity here: 52.9% on the first tenth of the tasks, 35.0% on the last.
- `endless_exchange` at 50% sparsity ends lower, at 27.9%, and is 3.5 points below plain training over all tasks.
- ReDo (`redo`) is the best so far, 10.8 points above plain training, with the fewest dormant units. It still loses.
- L2-Init, continual backprop and shrink-and-perturb gain 3.3 to 4.0 points at the first of their two settings.

Recycling whole units helped, exchanging single weights did not. The two together are the next runs.
"""

study(
    Study(
        name="plasticity",
        title="Plasticity: two hundred tasks",
        question="Does exchanging weights for ever keep a network able to learn new tasks?",
        setting=_SETTING,
        runs=runs,
        measure=measure,
        tables=tables,
        plot=plot,
        conclusion=_CONCLUSION,
        limits=(
            "One small perceptron and one kind of task. Label-permuted and class-incremental tasks were not run.",
            "Two settings for each method, chosen by hand. SNR, UPGD and LayerNorm with decay were not run.",
        ),
    )
)
