"""Which monitor foretells divergence, dead units or loss of plasticity? Small banks, on tasks held out.

    python benchmarks/outcomes.py                       # all three banks, then the tables and the plot
    python benchmarks/outcomes.py --outcome dead        # one
    python benchmarks/outcomes.py --table               # only tables and plot, of the runs that are there

A reading comes after 50 of 400 steps, or at the end of the second of ten tasks. *Divergence*: the loss is not finite,
ends above twice ln K, or has lost over half of its best gain on ln K. *Dead units*: units that are silent on 512
training samples are, at the end, more than at the reading by a tenth or more of those that were alive. *Plasticity*:
training accuracy at the end of the last two tasks is ten points below that of the first two, or the sequence broke off.
Runs that had diverged before the reading do not count, nor those that never learned.

Every score, sign, form and threshold comes from the other tasks; pairs are of one task, net, stream
and optimizer. Intervals come from tasks drawn with replacement. A finished run is a row in ``runs/outcomes`` and is not
repeated.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from _harness import RESULTS, append_row, described, make_parser, origin, publish, read_rows, single_thread

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "study-monitors.svg"
TITLES = {"divergence": "Divergence", "dead": "Dead units", "plasticity": "Loss of plasticity"}
SHOWN = 8
"""Single monitors that the plot shows."""


def generate(outcome: str, file: Path, runs: int | None) -> None:
    """Train what has no row yet."""
    from dataclasses import asdict

    from outcome_bank.plan import settings
    from outcome_bank.runs import train
    from rich.console import Console
    from rich.progress import track

    file.parent.mkdir(parents=True, exist_ok=True)
    wanted = [asdict(setting) for setting in settings(outcome, runs)]  # type: ignore[arg-type]
    done = [{key: row[key] for key in wanted[0]} for row in read_rows(file)]
    todo = [s for s in settings(outcome, runs) if asdict(s) not in done]  # type: ignore[arg-type]
    for setting in track(todo, description=outcome, console=Console(stderr=True)):
        append_row(file, train(setting))


def cells(found: dict[str, Any], name: str) -> list[str]:
    """One line of a table."""
    value, low, high = found["auroc"]
    task, least = found["least_task"]
    return [
        name,
        f"{value:.2f}",
        f"{low:.2f}–{high:.2f}",
        f"{least:.2f} ({task})",
        "{:.2f} ({:.2f}–{:.2f})".format(*found["auroc_near"]),
        f"{found['recall'][0]:.0%}",
        f"{found['false'][0]:.0%}",
        signed(found["auroc_minus_control"], 2),
        signed([100 * part for part in found["recall_minus_control"]], 0),
    ]


def signed(parts: Sequence[float], digits: int) -> str:
    """A difference with its interval."""
    value, low, high = (f"{part:+.{digits}f}" for part in parts)
    return f"{value} ({low} to {high})"


def lines_of(outcome: str, found: dict[str, Any]) -> list[str]:
    """The table of one outcome."""
    from _harness import table

    entries = found["entries"]
    order = sorted(entries, key=lambda name: -entries[name]["auroc"][0])
    tasks = ", ".join(f"{task} {yes}/{no}" for task, (yes, no) in found["tasks"].items())
    head = ["reading", "AUROC", "interval", "least (task)", "at similar rates", "recall", "false alarms"]
    head += ["AUROC − control", "recall − control"]
    every, near = found["pairs"]
    return [
        f"## {TITLES[outcome]}",
        "",
        f"{found['positive']} runs with it, {found['negative']} without, in {found['groups']} groups; left out: "
        f"{found['early']} that had diverged before the reading, {found['unused']} that never learned or had no units "
        f"left. With/without by task: {tasks}. {every:,} pairs, {near:,} of rates that differ by a factor of at "
        f"most 1.5. {found['seconds']:,.0f} s of one core. Control of the last two columns: "
        f"{found['control'].removeprefix('control: ')}; recall in points.",
        "",
        *table(head, [cells(entries[name], name) for name in order]),
        "",
    ]


def draw(results: dict[str, dict[str, Any]], file: Path) -> None:
    """AUROC with its interval: controls, the best single monitors, combinations."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt
    from outcome_bank.ranking import ALL, BOTH, CHOSEN

    mpl.rcParams |= {"svg.hashsalt": "outcomes", "svg.fonttype": "none", "font.family": "sans-serif"}
    figure, axes = plt.subplots(1, len(results), figsize=(6.0 * len(results), 5.5), squeeze=False)
    for axis, (outcome, found) in zip(axes[0], results.items(), strict=True):
        entries = found["entries"]
        special = (ALL, BOTH, CHOSEN)
        singles = [name for name in entries if not name.startswith("control") and name not in special]
        best = sorted(singles, key=lambda name: -entries[name]["auroc"][0])[:SHOWN]
        names = [*(n for n in entries if n.startswith("control")), *(n for n in special if n in entries), *best]
        for place, name in enumerate(reversed(names)):
            value, low, high = entries[name]["auroc"]
            color = "C3" if name.startswith("control") else "C2" if name in special else "C0"
            axis.plot([low, high], [place, place], color=color, linewidth=2)
            axis.plot([value], [place], "o", color=color)
        axis.set_yticks(range(len(names)), list(reversed(names)))
        axis.axvline(0.5, color="gray", linewidth=0.8, linestyle=":")
        axis.axvline(entries[found["control"]]["auroc"][0], color="C3", linewidth=0.8, linestyle="--")
        axis.set_xlim(0.3, 1.0)
        axis.set_xlabel("AUROC, task held out")
        axis.set_title(f"{TITLES[outcome]}: {found['positive']} of {found['positive'] + found['negative']} runs")
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def main() -> int:
    """Train what is missing, write tables and plot."""
    parser = make_parser(__doc__, out=RESULTS / "outcomes")
    parser.add_argument("--bank", type=Path, default=Path("runs/outcomes"), help="folder of the rows")
    parser.add_argument("--outcome", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--runs", type=int, help="of each group; default: those of the plan")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--no-table", action="store_true", help="only train")
    parser.add_argument("--image", type=Path, default=IMAGE)
    given = parser.parse_args()
    single_thread()
    import torch
    from outcome_bank.ranking import reads, summary
    from outcome_bank.runs import Outcome

    assert set(TITLES) == set(get_args(Outcome))
    torch.set_flush_denormal(True)  # gradients that vanish would cost twice the time
    warnings.filterwarnings("ignore", message="The number of unique classes")
    if not given.table:
        for outcome in given.outcome:
            generate(outcome, given.bank / f"{outcome}.jsonl", given.runs)
    if given.no_table:
        return 0
    results = {}
    for outcome in given.outcome:
        rows = read_rows(given.bank / f"{outcome}.jsonl")
        used = reads(rows)
        early = sum(row["early"] for row in rows)
        facts = {
            "early": early,
            "unused": len(rows) - len(used) - early,
            "seconds": sum(row["seconds"] for row in rows),
        }
        results[outcome] = {**summary(used), **facts}
    record = {**origin(1), "results": results}
    text = ["# Which monitor foretells which outcome", *described(record)]
    for outcome, found in results.items():
        text += lines_of(outcome, found)
    publish(given.out, record, "\n".join(text))
    draw(results, given.image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
