"""The bank of runs: hundreds of small nets, of which some grok, each with its settings and all its readings.

    python benchmarks/bank.py                        # everything; what is finished is never repeated
    python benchmarks/bank.py --blocks s4 s5
    python benchmarks/bank.py --second --out runs/bank-2   # deeper nets and transformers
    python benchmarks/bank.py --ratio                # a stack over as many separate runs, interleaved
    python benchmarks/bank.py --slice tests/data/bank    # a few runs of three tasks, thinned, for the tests

Goal: at least 100 runs that grok and 100 that do not, within four core-hours; a stack of 16 in less time than 16 runs.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from _harness import RESULTS, listed, make_parser, single_thread, versions
from grokking_bank.members import problem
from grokking_bank.plan import BLOCKS, FIRST_BANK, SECOND_BANK, block
from grokking_bank.stack import BETAS, EPS, NETS, Stack
from grokking_bank.store import cut, facts_of, read_bank, write_stack
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_NETS, _SECOND = tuple(NETS), "## The second bank"
SLICED = ("add-23-02", "div-23-01", "s4-03")
"""Files of the slice."""


def generate(names: list[str], out: Path) -> None:
    """Train the stacks that have no file yet."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (name, i, members, out / f"{name}-{i:02d}.npz")
        for name in names
        for i, members in enumerate(block(name).stacks())
    ]
    missing = [job for job in jobs if not job[3].exists()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=1) as bar:
        shown = bar.add_task("", total=sum(block(name).steps * len(members) for name, _, members, _ in missing))
        done = 0
        for name, i, members, path in missing:
            bar.update(shown, description=f"{name}, stack {i}")
            if path.exists():  # another process works on the same folder
                done += block(name).steps * len(members)
                continue

            def tell(step: int, done: int = done, members: tuple = members) -> None:
                bar.update(shown, completed=done + step * len(members))

            write_stack(path, members, block(name), tell)
            done += block(name).steps * len(members)


def table(out: Path, second: bool = False) -> str:
    """Counts of classes by kind of net and task."""
    runs = read_bank(out)
    facts = [facts_of(path) for path in sorted(out.glob("*.npz"))]
    size = sum(path.stat().st_size for path in out.glob("*.npz"))
    spent = sum(float(str(f["seconds"])) for f in facts)
    lines = [
        _SECOND if second else "# The bank of runs",
        "",
        f"`python benchmarks/bank.py{' --second --out runs/bank-2' if second else ''}`",
        "",
        f"{len(runs)} runs, {spent:,.0f} s of one thread in all by the wall clock, {size / 1e6:.1f} MB; "
        f"{listed(versions())}.",
        "",
        "| net | task | runs | grokked | at once | not, fitted | not, never fitted | median t_fit "
        "| median t_gen of grokked | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = sorted({(run.net, run.task) for run in runs}, key=lambda key: (_NETS.index(key[0]), key[1]))
    for net in dict.fromkeys(net for net, _ in keys):
        for task in [*(task for other, task in keys if other == net), "all"]:
            given = [run for run in runs if run.net == net and task in ("all", run.task)]
            counts = Counter(run.outcome for run in given)
            unfitted = sum(run.outcome == "not" and run.times.t_fit is None for run in given)
            fits = [run.times.t_fit for run in given if run.times.t_fit is not None]
            gens = [run.times.t_gen_sustained for run in given if run.outcome == "grokked"]
            seconds = sum(float(str(f["seconds"])) for f in facts if f["net"] == net and task in ("all", f["task"]))
            cells = [net, task, len(given), counts["grokked"], counts["at once"], counts["not"] - unfitted, unfitted]
            cells += [f"{statistics.median(values):,.0f}" if values else "–" for values in (fits, gens)]
            lines.append("| " + " | ".join(map(str, [*cells, f"{seconds:,.0f}"])) + " |")
    if not second:
        lines += [
            "",
            "Grokked: validation accuracy ≥ 95% (MNIST: 85%) at three evaluations on end, at twice t_fit or later.",
        ]
    return "\n".join([*lines, ""])


def joined(page: str, text: str, second: bool) -> str:
    """A page of both banks with one of them anew."""
    first, _, rest = page.partition(_SECOND)
    if second:
        return f"{first.rstrip()}\n\n{text}".lstrip()
    return f"{text.rstrip()}\n\n{_SECOND}{rest}" if rest else text


def write_slice(bank: Path, out: Path) -> None:
    """Of three tasks two runs that grokked and two that fitted and did not, at every second evaluation."""
    out.mkdir(parents=True, exist_ok=True)
    for name in SLICED:
        runs = read_bank(bank, f"{name}.npz")
        fitted = [i for i, run in enumerate(runs) if run.times.t_fit is not None]
        grokked, not_yet = ([i for i in fitted if runs[i].outcome == outcome][:2] for outcome in ("grokked", "not"))
        cut(bank / f"{name}.npz", out / f"{name}.npz", [*grokked, *not_yet], every=2)


def ratio(task: str = "add-23", count: int = 16, steps: int = 200, repeats: int = 7) -> str:
    """Time of separate runs over that of one stack of them; both in turn, medians."""
    samples, members, hidden = problem(task), block(task).stacks()[1][:count], block(task).hidden

    def stacked() -> None:
        stack = Stack(samples, members, hidden)
        for _ in range(steps):
            stack.train_step()

    def separate() -> None:
        from grokking_bank.members import rows_of

        for member in members:
            torch.manual_seed(member.seed)
            inputs = samples.inputs.shape[1]
            net = torch.nn.Sequential(
                torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, samples.classes)
            )
            optimizer = torch.optim.AdamW(net.parameters(), member.lr, BETAS, EPS, member.weight_decay)
            rows = rows_of(samples, member)
            for _ in range(steps):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(rows.x_train), rows.y_train).backward()
                optimizer.step()

    times: dict[str, list[float]] = {"stacked": [], "separate": []}
    for _ in range(repeats):
        for name, work in (("stacked", stacked), ("separate", separate)):
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(times["stacked"], times["separate"], strict=True)]
    each = {name: statistics.median(values) / steps / count * 1e3 for name, values in times.items()}
    return (
        f"{task}, {count} members, {steps} steps, one thread: separate runs take {statistics.median(ratios):.2f} "
        f"times as long as the stack ({min(ratios):.2f}–{max(ratios):.2f} in {repeats} repeats); "
        f"{each['stacked']:.3f} and {each['separate']:.3f} ms for a step of one member"
    )


def main() -> None:
    """Generate what is missing, write and print the table."""
    parser = make_parser(__doc__, out=Path("runs/bank"))
    parser.add_argument("--blocks", nargs="*", choices=BLOCKS, metavar="NAME", help="train these")
    parser.add_argument("--second", action="store_true", help="the blocks of deeper nets and transformers")
    parser.add_argument("--table", type=Path, default=RESULTS / "bank.md")
    parser.add_argument("--slice", type=Path, help="only write a slice for the tests into this folder")
    parser.add_argument("--ratio", action="store_true", help="only measure what stacking gains")
    options = parser.parse_args()
    single_thread()
    torch.set_flush_denormal(True)  # gradients that vanish would cost twice the time
    if options.ratio:
        print(ratio())
        return
    if options.slice:
        write_slice(options.out, options.slice)
        return
    generate(options.blocks or list(SECOND_BANK if options.second else FIRST_BANK), options.out)
    text = table(options.out, options.second)
    page = options.table.read_text(encoding="utf-8") if options.table.exists() else ""
    options.table.write_text(joined(page, text, options.second), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
