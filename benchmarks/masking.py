"""Where a controller's time goes on every step of a 25-million-parameter transformer.

    python benchmarks/masking.py

Eight decoder blocks of width 512 (25.2 M prunable weights) on batches of 1,024 tokens, one thread, Adam. A step with
its masks multiplies the gradient by them before the optimizer, with plain operations or, with
``attach(compile=True)``, in one compiled pass. The weights stay zero by themselves in such an optimizer, which costs
a look at their versions; they are multiplied after steps that could have moved them (the first after an event; every
one of Muon and others). While a surge may be near, a step also takes the gradient into the growth average. Each part
is timed alone, against the plain step and against the machine's limit: copying as many bytes as the plain multiply
must move (gradient or weight in and out, mask in: three passes over the weights). The parts and the step are timed in
turn, so that a slower minute of the machine is one for all. Goal: re-masking ≤ 1% of a step.

Under a soft threshold (``policy="soft_threshold"``) nothing is masked in a step; the thresholded weights are written
after it, and every few steps the masks, thresholds and scales are taken anew. Goal: at most 10% more than a plain step,
5% with ``compile=True``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _harness import facts, make_parser, publish, shown, verdict
from overhead import Decoder, Scripted, stepper
from torch import Tensor

import surgecollapse
from surgecollapse import Decision, Reading
from surgecollapse.act.zero_preservation import ZeroPreservation
from surgecollapse.events import Threshold
from surgecollapse.policies import SoftThreshold

GOAL = 0.01
SOFT_GOALS = {"": 0.10, "_compiled": 0.05}
EVERY = SoftThreshold().threshold_every


class Held(Scripted):
    """Holds 90% under a soft threshold from the second step on."""

    growth = "random"

    def __init__(self, p: float) -> None:
        super().__init__(2)
        self.p = p

    def decide(self, reading: Reading) -> Decision:
        """Whatever the reading says."""
        action = Threshold(0.9, every=EVERY, p=self.p)
        return Decision(phase="sparse", reason=f"held from step {reading.step} on", actions=(action,))


def masked(compile: bool, x: Tensor, y: Tensor) -> tuple[surgecollapse.Controller, Callable[[], object]]:
    """A controller whose masks leave a tenth open, and a step of its net."""
    torch.manual_seed(0)
    model = Decoder(width=512, layers=8, length=128)
    step, optimizer = stepper(model, x, y)
    controller = surgecollapse.attach(
        model, optimizer, sparsity=surgecollapse.Target(0.9, min_density=0.0), policy=Scripted(2), compile=compile
    )
    for _ in range(3):
        step()
    assert controller.sparsity > 0.4, "the collapse was not carried out"
    controller._components.signal.update(controller._components.weights.params)
    step()  # as one that follows a growth average
    return controller, step


def rest(zero_preservation: ZeroPreservation, names: list[str]) -> None:
    """What a step does about weights that stay zero by themselves."""
    zero_preservation.before_step(0, names)
    assert zero_preservation.skips(0), "weights are multiplied: this would time something else"
    zero_preservation.after_step(0, names, check=False)


def soft(compile: bool, p: float, x: Tensor, y: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """What a step under a soft threshold adds, and what taking masks, thresholds and scales anew does."""
    torch.manual_seed(0)
    model = Decoder(width=512, layers=8, length=128)
    step, optimizer = stepper(model, x, y)
    target = surgecollapse.Target(0.9, min_density=0.0)
    controller = surgecollapse.attach(model, optimizer, target, policy=Held(p), compile=compile)
    for _ in range(3):
        step()
    assert controller.sparsity > 0.8, "the threshold was not set"
    controller.detach()
    shadow, names = controller._components.actor.shadow, controller._components.groups[0]

    def around() -> None:
        shadow.put(names)
        shadow.scale_gradients(names)
        shadow.take(names, last=False, check=False)

    def anew() -> None:
        with torch.no_grad():
            shadow._select()

    around()  # compiles
    return around, anew


def measure(repeats: int) -> dict[str, Any]:
    """Median times of the step and of the parts, in milliseconds of the processor, taken in turn."""
    x, y = torch.randint(0, 99, (128, 8)), torch.randint(0, 97, (8,))
    (plain, step), (compiled, _) = masked(False, x, y), masked(True, x, y)
    engine, weights = plain._components, compiled._components.weights
    names = engine.groups[0]
    size = engine.weights.size
    source = torch.zeros(3 * size // 2)  # read and written: as many bytes as three passes over the weights
    target = torch.zeros_like(source)
    parts: dict[str, Callable[[], object]] = {
        "mask_gradients": engine.weights.mask_gradients,
        "rest": partial(rest, engine.zero_preservation, names),
        "mask_weights": engine.weights.apply,
        "mask_gradients_compiled": weights.mask_gradients,
        "mask_weights_compiled": weights.apply,
        "growth_average": lambda: engine.signal.update(engine.weights.params),
        "copy": lambda: target.copy_(source),
    }
    for kind, compile in (("", False), ("_compiled", True)):
        parts["soft" + kind], parts["soft_anew" + kind] = soft(compile, 1.0, x, y)
    parts["soft_cubed"], _ = soft(False, 3.0, x, y)
    times: dict[str, list[float]] = {name: [] for name in [*parts, "step"]}
    plain.detach()
    for turn in shown(range(repeats), "Timing"):
        for name, part in [*parts.items(), *([("step", step)] if turn % 3 == 0 else [])]:
            if name == "rest":  # the multiplies timed here are writes that it would have to undo
                engine.zero_preservation.after_step(0, names, check=False)
            began = time.process_time()
            part()
            times[name].append(1e3 * (time.process_time() - began))
    return {"weights": size} | {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    """Measure, print and write ``benchmarks/results/masking.{json,md}``."""
    options = make_parser(__doc__, repeats=45, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.repeats)
    softly = {kind: found["soft" + kind] + found["soft_anew" + kind] / EVERY for kind in SOFT_GOALS}
    masking = {kind: found["mask_gradients" + kind] + found["rest"] for kind in ("", "_compiled")}
    record = {
        **facts(threads=options.threads, goal=GOAL),
        **found,
    }
    rows = [
        f"| {title} | {found[name]:.1f} ms | {found[name] / found['step']:.2%} | {found[name] / found['copy']:.2f} |"
        for name, title in (
            ("mask_gradients", "gradient × mask, every step"),
            ("mask_gradients_compiled", "the same with `compile=True`"),
            ("rest", "weights at rest: what a step does about them"),
            ("mask_weights", "weight × mask, the first step after an event; every step of other optimizers"),
            ("mask_weights_compiled", "the same with `compile=True`"),
            ("growth_average", "growth average, the last 22 steps before a reading of a sparse phase"),
            ("soft", "soft threshold, p = 1: every step"),
            ("soft_compiled", "the same with `compile=True`"),
            ("soft_cubed", "soft threshold, p = 3: every step"),
            ("soft_anew", f"masks, thresholds and scales anew, every {EVERY} steps"),
            ("soft_anew_compiled", "the same with `compile=True`"),
        )
    ]
    told = {
        kind: f"{cost / found['step']:.2%} of a step ({verdict(cost, GOAL * found['step'])})"
        for kind, cost in masking.items()
    }
    text = "\n".join(
        [
            f"# Masks on a transformer with {found['weights']:,} prunable weights, 1,024 tokens a batch",
            "",
            f"`{record['command']}`",
            "",
            f"{record['cores']} cores, {options.threads} thread(s); python {record['python']}, torch {record['torch']}.",  # noqa: E501
            f"Medians of processor time over {options.repeats} turns. A plain step takes {found['step']:.0f} ms;",
            f"a copy of the bytes that a plain multiply moves takes {found['copy']:.1f} ms.",
            "",
            "| part | time | share of a plain step | in copies of its bytes |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Re-masking: {told['_compiled']} in compiled passes, {told['']} in plain operations; goal ≤ {GOAL:.0%}.",
            "In dense phases there is no mask and nothing of this is done.",
            "",
            "Soft threshold, p = 1, on average: "
            + ", ".join(
                f"{softly[kind] / found['step']:.1%} of a step {how} "
                f"({verdict(softly[kind], goal * found['step'])}; goal ≤ {goal:.0%})"
                for (kind, goal), how in zip(SOFT_GOALS.items(), ("in plain operations", "compiled"), strict=True)
            )
            + ".",
        ]
    )
    publish(options.out / "masking", record, text)


if __name__ == "__main__":
    main()
