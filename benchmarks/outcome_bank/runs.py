"""One run of a bank: training, the monitors up to the reading, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outcome_bank.problems import Net, build, problem
from surgecollapse.attaching.monitoring import watch_training
from surgecollapse.events import Measurement
from surgecollapse.lab.continual.tasks import permuted_inputs, permuted_labels
from surgecollapse.observe.monitors import make_monitors

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series

Outcome = Literal["divergence", "dead", "plasticity"]
MONITORS = (
    "entropy",
    "representation",
    "units",
    "weight_rank",
    "predictions",
    "alignment",
    "norms",
    "noise_scale",
    "curvature",
    "update_geometry",
    "correlation_traps",
    "commutator",
    "criticality",
)
"""All monitors that have something to say on a net that is neither pruned nor validated."""
BATCH = 64
WINDOW = 10
"""Steps that a training loss is averaged over."""
LEARNED = 0.9
"""Share of ln K, the loss of a constant guess, below which a run counts as having learned."""
DIES = 0.1
"""Share of the units that were alive at the reading, which must be lost at the end."""
GONE = 0.9
"""Share of dead units at the reading, above which hardly any are left to die."""
FALL = 0.1
"""Accuracy that later tasks must have lost."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a run is made from."""

    outcome: Outcome
    task: str
    net: Net
    optimizer: Literal["sgd", "adam"]
    lr: float
    seed: int
    warmup: int = 0
    """Steps of a linear rise of the rate from 0."""
    weight_decay: float = 0.0
    scale: float = 1.0
    bias: float = 0.0
    activation: Literal["relu", "gelu"] = "relu"
    stream: Literal["", "inputs", "labels", "random"] = ""
    """What changes from one task of a sequence to the next: places, names of classes, or all labels at random."""

    @property
    def group(self) -> str:
        """Runs that are compared with each other."""
        return f"{self.task}, {self.net}" + (f", {self.stream}" if self.stream else "")


@dataclass(frozen=True)
class Schedule:
    """Steps of a run and of the readings."""

    steps: int
    """Of all; of a sequence: of each task."""
    reading: int
    """Of a sequence: the number of tasks before the end of which it is read."""
    tasks: int = 1


SCHEDULES: dict[str, Schedule] = {
    "divergence": Schedule(400, 50),
    "dead": Schedule(400, 50),
    "plasticity": Schedule(100, 2, tasks=10),
}


class Signs:
    """Share of gradients that are exactly 0, of activations above 0, and the mean of each bias."""

    name = "signs"
    needs = ("gradients", "activations")

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Three numbers a layer."""
        return {
            "gradient/zero": {n: (g == 0).float().mean() for n, g in context.gradients.items() if g.ndim > 1},
            "activation/on": {site: (x > 0).float().mean() for site, x in context.activations.items()},
            "bias/mean": {n: w.mean() for n, w in context.weights.items() if w.ndim == 1},
        }


class _Recorder:
    """Keeps measurements by event: mean, largest and least over the layers."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, list[float]]] = {}

    def record(self, event: Measurement) -> None:
        if not event.name.startswith("budget/"):
            self.found.setdefault(event.step, {}).setdefault(event.name, []).append(event.value)

    def readings(self) -> list[dict[str, float]]:
        """In the order of time."""
        rows = []
        for _, series in sorted(self.found.items()):
            row = {name: sum(values) / len(values) for name, values in series.items()}
            for name, values in series.items():
                if len(values) > 1:
                    row |= {f"{name}, largest": max(values), f"{name}, least": min(values)}
            rows.append(row)
        return rows


def train(setting: Setting, schedule: Schedule | None = None) -> dict[str, Any]:
    """Train one run and return its row."""
    schedule = schedule or SCHEDULES[setting.outcome]
    began = time.process_time()
    model = build(
        setting.task,
        setting.net,
        seed=setting.seed,
        scale=setting.scale,
        bias=setting.bias,
        activation=setting.activation,
    )
    run = _Run(setting, model)
    found = run.sequence(schedule) if setting.outcome == "plasticity" else run.single(schedule)
    return {**asdict(setting), **found, "seconds": round(time.process_time() - began, 2)}


class _Run:
    def __init__(self, setting: Setting, model: nn.Module) -> None:
        self.setting, self.model = setting, model
        self.problem = problem(setting.task, setting.net)
        if setting.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                model.parameters(), setting.lr, momentum=0.9, weight_decay=setting.weight_decay
            )
        else:
            self.optimizer = torch.optim.AdamW(model.parameters(), setting.lr, weight_decay=setting.weight_decay)
        self.step = 0
        self.losses: list[float] = []
        self.zeros = float("nan")

    def watched(self, every: int) -> tuple[Any, _Recorder]:
        monitors = [*make_monitors(MONITORS), Signs()]
        for monitor in monitors:
            monitor.period = 1  # type: ignore[attr-defined]
        recorder = _Recorder()
        return watch_training(
            self.model, self.optimizer, monitors=monitors, recorders=[recorder], every=every, budget=None
        ), recorder

    def learn(self, x: Tensor, y: Tensor, watch: Any = None) -> None:
        if self.setting.warmup:
            for group in self.optimizer.param_groups:
                group["lr"] = self.setting.lr * min(1.0, (self.step + 1) / self.setting.warmup)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        if watch is not None:
            watch.note(loss=loss, targets=y)
        self.optimizer.step()
        self.losses.append(loss.item())
        self.step += 1

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        draws = torch.Generator().manual_seed(self.setting.seed)
        while True:
            rows = torch.randint(len(self.problem.y), (BATCH,), generator=draws)
            yield self.problem.x[rows], self.problem.y[rows]

    def single(self, schedule: Schedule) -> dict[str, Any]:
        """Divergence and dead units: one task."""
        batches = self.batches()
        watch, recorder = self.watched(schedule.reading // 2)
        now: dict[str, float] = {}
        with watch:
            for _ in range(schedule.reading):
                self.learn(*next(batches), watch)
            now = self.state()
        early = diverged(self.losses, self.problem.classes)
        for _ in range(schedule.steps - schedule.reading):
            if not math.isfinite(self.losses[-1]):
                break
            self.learn(*next(batches))
        return {
            "now": now,
            "readings": recorder.readings(),
            "early": early,
            "diverged": diverged(self.losses, self.problem.classes),
            "learned": learned(self.losses, self.problem.classes),
            "dead_end": dead_share(self.model, self.problem.x),
            "losses": [_rounded(sum(self.losses[i : i + WINDOW]) / WINDOW) for i in range(0, len(self.losses), WINDOW)],
        }

    def state(self) -> dict[str, float]:
        """What is known at the reading without a monitor: of the loss, its slope and spread; dead units; the rate."""
        last, before = self.losses[-WINDOW:], self.losses[-2 * WINDOW : -WINDOW]
        mean, earlier = sum(last) / len(last), sum(before) / len(before)
        spread = math.sqrt(sum((v - mean) ** 2 for v in last) / len(last))
        return {
            "loss": mean,
            "loss slope": mean - earlier,
            "loss spread": spread / mean if mean else 0.0,
            "dead share": dead_share(self.model, self.problem.x),
            "rate now": float(self.optimizer.param_groups[0]["lr"]),
        }

    def sequence(self, schedule: Schedule) -> dict[str, Any]:
        """Plasticity: tasks one after another."""
        accuracies: list[float] = []
        now: dict[str, float] = {}
        recorder = _Recorder()
        for number, (x, y) in enumerate(self.tasks(schedule)):
            draws = torch.Generator().manual_seed(self.setting.seed * 1_000 + number)
            last_early = number == schedule.reading - 1
            watch: Any = None
            if last_early:
                watch, recorder = self.watched(schedule.steps // 2)
            for _ in range(schedule.steps):
                rows = torch.randint(len(y), (BATCH,), generator=draws)
                self.learn(x[rows], y[rows], watch)
            if watch is not None:
                now = self.state()
                watch.remove()
            with torch.no_grad():
                accuracies.append(float((self.model(x).argmax(1) == y).float().mean()))
            if not math.isfinite(self.losses[-1]):
                break
        if now:
            now |= {
                "accuracy": accuracies[schedule.reading - 1],
                "accuracy change": accuracies[schedule.reading - 1] - accuracies[schedule.reading - 2],
            }
        return {
            "now": now,
            "readings": recorder.readings(),
            "early": len(accuracies) <= schedule.reading,
            "accuracies": [round(value, 4) for value in accuracies],
            "tasks": schedule.tasks,
            "dead_end": dead_share(self.model, self.problem.x),
        }

    def tasks(self, schedule: Schedule) -> Iterator[tuple[Tensor, Tensor]]:
        """512 samples of each task of the sequence; 128 with labels at random, which are harder to learn."""
        x, y, seed = self.problem.x, self.problem.y, self.setting.seed
        size = min(128 if self.setting.stream == "random" else 512, len(y))
        if self.setting.stream == "random":
            draws = torch.Generator().manual_seed(seed)
            rows = torch.randperm(len(y), generator=draws)[:size]
            for _ in range(schedule.tasks):
                yield x[rows], torch.randint(self.problem.classes, (size,), generator=draws)
            return
        stream = permuted_inputs if self.setting.stream == "inputs" else permuted_labels
        for _, inputs, labels in stream(x, y, tasks=schedule.tasks, batches=1, batch_size=size, seed=seed):
            yield inputs, labels


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def means_of(losses: list[float]) -> list[float]:
    """Mean loss of each ten steps."""
    return [sum(losses[i : i + WINDOW]) / WINDOW for i in range(0, len(losses) - WINDOW + 1, WINDOW)]


def learned(losses: list[float], classes: int) -> bool:
    """Whether the mean of some ten steps was at most nine tenths of ln K, the loss of a constant guess.

    >>> learned([0.9] * 10, classes=3), learned([0.9] * 10, classes=2)
    (True, False)
    """
    return any(mean <= LEARNED * math.log(classes) for mean in means_of(losses))


def diverged(losses: list[float], classes: int) -> bool:
    """Whether the loss was lost for good.

    It was not finite; or at its end it was over twice ln K, the loss of a constant guess; or a run that had learned
    (:func:`learned`) had then lost over half of what its best ten steps had gained on ln K. The end is the last tenth
    of the steps, at least ten.

    >>> diverged([0.2] * 20 + [0.9] * 20, classes=3), diverged([0.2] * 20 + [0.5] * 20, classes=3)
    (True, False)
    >>> diverged([1.0] * 10 + [float("nan")], classes=3), diverged([1.1] * 10 + [2.3] * 10, classes=3)
    (True, True)
    """
    if not all(map(math.isfinite, losses)):
        return True
    guess = math.log(classes)
    last = losses[-max(WINDOW, len(losses) // 10) :]
    end, least = sum(last) / len(last), min(means_of(losses))
    return end > 2 * guess or (learned(losses, classes) and end > (guess + least) / 2)


@torch.no_grad()
def dead_share(model: nn.Module, x: Tensor) -> float:
    """Share of units, over all ReLU or GELU layers, that are at most 0 on every one of the first 512 samples.

    Channels of a convolution are units. A net with weights that are not finite has no such share: NaN.
    """
    outputs: list[Tensor] = []
    hooks = [
        part.register_forward_hook(lambda _m, _i, out: outputs.append(out))
        for part in model.modules()
        if isinstance(part, nn.ReLU | nn.GELU)
    ]
    training = model.training
    model.eval()
    try:
        model(x[:512])
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    silent = [(out <= 0).movedim(1, 0).flatten(1).all(1) for out in outputs]
    if not all(bool(out.isfinite().all()) for out in outputs):
        return float("nan")
    return float(torch.cat(silent).float().mean())


def positive(row: Mapping[str, Any]) -> bool | None:
    """What came of a run: whether it had the outcome after the reading; ``None`` where it does not count.

    Runs that had the outcome before the reading do not count. Nor do runs that never learned and did not diverge, and
    sequences whose first two tasks were not learned to half of the accuracy.
    """
    if row["early"] or not row["now"]:
        return None
    if row["outcome"] == "divergence":
        return bool(row["diverged"]) if row["diverged"] or row["learned"] else None
    if row["outcome"] == "dead":
        end, start = row["dead_end"], row["now"]["dead share"]
        if not math.isfinite(end) or not math.isfinite(start) or start > GONE:
            return None
        return bool(end - start >= DIES * (1 - start))
    accuracies = row["accuracies"]
    if min(accuracies[:2]) < 0.5:
        return None
    if len(accuracies) < row["tasks"]:
        return True
    return bool(sum(accuracies[:2]) / 2 - sum(accuracies[-2:]) / 2 >= FALL)
