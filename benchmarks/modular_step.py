"""A training step of Grokfast's modular arithmetic, computed no further than its loss needs, over the published step.

    python benchmarks/modular_step.py

Goal: at most 0.7 times the straightforward step. The three economies of ``Decoder`` compute the same logits and
gradients but for float rounding; how far their losses part within some steps is shown beside the times.
"""

from __future__ import annotations

import torch
from _harness import RESULTS, compared, described, in_turn, make_parser, origin, publish, spread, verdict

from surgecollapse.lab.config import make_config
from surgecollapse.lab.nets.decoder import ECONOMIES, Decoder
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_optimizer
from surgecollapse.lab.training.sampler import Batches

GOAL = 0.7


class Trainee:
    """One way of computing, with an optimizer of its own."""

    def __init__(self, economy: str, precision: torch.dtype) -> None:
        self.config = make_config(task="grokfast-modular-baseline")
        self.data = load_data(self.config)
        torch.manual_seed(0)
        self.model = Decoder(self.data.vocabulary, 4, economy=economy).to(precision)
        self.optimizer = make_optimizer(self.config, self.model)
        self.batches = Batches(len(self.data.x_train), self.config.run.batch_size, seed=0)

    def step(self) -> float:
        """One step; returns its loss."""
        rows = next(self.batches)
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(self.data.x_train[rows]), self.data.y_train[rows])
        loss.backward()
        self.optimizer.step()
        return loss.item()


def time_steps(repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of a step of each economy, in turn, so that all see the same machine; ratios are within a turn."""
    trainees = {economy: Trainee(economy, torch.float32) for economy in ECONOMIES}
    turns = in_turn({economy: trainee.step for economy, trainee in trainees.items()}, repeats, warm=5)
    turns = [turn for number, turn in enumerate(turns, start=6) if number % 10]  # every tenth batch is a short one
    return compared(turns, "all")


def part(steps: int, precision: torch.dtype) -> dict[str, float]:
    """Largest relative difference of the losses from the straightforward ones within some steps."""
    curves = {}
    for economy in ECONOMIES:
        trainee = Trainee(economy, precision)
        curves[economy] = [trainee.step() for _ in range(steps)]
    return {
        economy: max(abs(one - two) / two for one, two in zip(curve, curves["all"], strict=True))
        for economy, curve in curves.items()
    }


def as_markdown(report: dict) -> str:
    """The report as a table."""
    lines = [
        "# A step of Grokfast's modular arithmetic, computed no further than its loss needs",
        *described(report),
        f"Forward, backward and Adam on 512 questions, medians of {report['repeats']} turns, least–most in brackets.",
        f"Goal: ≤ {GOAL} of the straightforward step. Losses: largest relative difference from the straightforward",
        f"ones within {report['compared']} steps.",
        "",
        "| computed | ms | over all | goal | loss, float32 | loss, float64 |",
        "|---|---|---|---|---|---|",
    ]
    words = {
        "all": "every position (published)",
        "last": "the last position where the loss needs no other",
        "prefixes": "also each prefix of a batch once",
    }
    for economy, found in report["steps"].items():
        ratio = spread([found[key] for key in ("ratio", "least", "most")])
        goal = "" if economy == "all" else verdict(found["ratio"], GOAL)
        parted = ["" if economy == "all" else f"{report[key][economy]:.0e}" for key in ("float32", "float64")]
        cells = [words[economy], f"{found['seconds'] * 1e3:.1f}", ratio, goal, *parted]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write JSON and Markdown, print the table."""
    parser = make_parser(__doc__, out=RESULTS / "modular-step", repeats=100, threads=1)
    parser.add_argument("--compared", type=int, default=50, help="steps over which losses are compared")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = {
        **origin(options.threads),
        "repeats": options.repeats,
        "compared": options.compared,
        "steps": time_steps(options.repeats),
        "float32": part(options.compared, torch.float32),
        "float64": part(options.compared, torch.float64),
    }
    publish(options.out, report, as_markdown(report))


if __name__ == "__main__":
    main()
