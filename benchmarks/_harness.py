"""What the benchmarks share. Torch is imported late, since the number of threads must be set before."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig

RESULTS = Path(__file__).parent / "results"
PAGE_WIDTH = 84  # characters of a line of code on a page of the documentation, as docs/ruff.toml has it
Turn = dict[str, float]  # seconds by action, all taken right after each other


def make_parser(about: str | None, *, out: Path | None = RESULTS, **defaults: int) -> argparse.ArgumentParser:
    """A parser with the script's docstring as help, ``--out``, and those of the options below that have a default."""
    told = {"repeats": "turns; medians are reported", "seeds": "how many seeds", "threads": "torch threads"}
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=told[name])
    if out is not None:
        parser.add_argument("--out", type=Path, default=out, help="where the results are written")
    return parser


def single_thread() -> None:
    """One thread for this process and its children; effective before or after torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def command() -> str:
    """The command line of this call, as typed at the root of the repository."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def versions(**others: str) -> dict[str, str]:
    """Versions of Python, torch and this library, then of what is added."""
    import torch

    import surgecollapse

    own = {"python": platform.python_version(), "torch": torch.__version__, "surgecollapse": surgecollapse.__version__}
    return own | others


def listed(found: Mapping[str, str]) -> str:
    """Versions in words."""
    return ", ".join(f"{name} {version}" for name, version in found.items())


def origin(threads: int | None = None, **others: str) -> dict[str, Any]:
    """How and where a result was measured: command line, versions, machine."""
    from surgecollapse.record.machine import processor

    place = {"processor": processor(), "cores": os.cpu_count()}
    return {
        "command": command(),
        "versions": versions(**others),
        "machine": place if threads is None else {**place, "threads": threads},
    }


def facts(**others: Any) -> dict[str, Any]:
    """Command line, versions and machine, one level deep, then what is added."""
    from surgecollapse.record.machine import machine

    return {"command": command(), **machine(), **others}


def described(report: Mapping[str, Any]) -> list[str]:
    """Lines that say how and where something was measured, from its :func:`origin`."""
    machine = report["machine"]
    place = f"{machine['processor']}, {machine['cores']} cores"
    place += f", {machine['threads']} thread(s)" if "threads" in machine else ""
    return ["", f"`{report['command']}`", "", f"{place}; {listed(report['versions'])}", ""]


def provenance(config: RunConfig) -> dict[str, Any]:
    """Version and resolved configuration, by own name: a row without them cannot be told from a mislabeled one.

    >>> from surgecollapse.lab.config import make_config
    >>> provenance(make_config(task="digits"))["config"]["policy"]
    'cyclic_pruning'
    """
    import surgecollapse
    from surgecollapse.lab.config import as_mapping, flat_values

    return {"version": surgecollapse.__version__, "config": flat_values(as_mapping(config))}


def _packed(parts: Sequence[str], width: int, *, ending: str = "", indent: int) -> list[str]:
    """Parts one after another, as many to a line as it holds; ``ending`` closes all lines but the last."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) + len(ending) <= width:
            lines[-1] += f" {part}"
        else:
            lines[-1] += ending
            lines.append(" " * indent + part)
    return lines


def json_lines(value: Mapping[str, Any], width: int = PAGE_WIDTH) -> list[str]:
    """A mapping as JSON, its keys sorted, in lines that fit a page of the documentation.

    >>> json_lines({"steps": 300, "lr": 0.1, "task": "modular, small"}, width=24)
    ['{"lr": 0.1,', ' "steps": 300,', ' "task": "modular, small"}']
    """
    text = json.dumps(dict(value), sort_keys=True, default=str)
    parts = re.findall(r'(?:"(?:\\.|[^"\\])*"|[^",])+,?', text)  # after every comma that is not inside of a string
    return _packed([part.strip() for part in parts], width, indent=1)


def command_lines(command: str, width: int = PAGE_WIDTH) -> list[str]:
    r"""A command line in lines that fit a page of the documentation, broken before its options.

    >>> print(*command_lines("python run.py --track s5 --seeds 10", width=26), sep="\n")
    python run.py --track s5 \
        --seeds 10
    """
    return _packed(re.split(r" (?=--)", command), width, ending=" \\", indent=4)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines, none if there is no file yet."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def append_row(file: Path, row: Mapping[str, Any]) -> None:
    """Write a finished run down."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def publish(stem: Path, record: Mapping[str, Any], text: str) -> None:
    """Write the record beside ``stem`` as JSON and the page as Markdown, and print the page."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = text.rstrip("\n") + "\n"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    return [lines[0], "|" + "---|" * len(headings), *lines[1:]]


def seconds(action: Callable[[], object], number: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of a call, the mean of ``number`` in a row."""
    began = clock()
    for _ in range(number):
        action()
    return (clock() - began) / number


def in_turn(
    actions: Mapping[str, Callable[[], object]],
    turns: int,
    *,
    warm: int = 0,
    clock: Callable[[Callable[[], object]], float] = seconds,
) -> list[Turn]:
    """Time every action once a turn, so that all see the same machine; the first ``warm`` turns are not returned."""
    return [{name: clock(action) for name, action in actions.items()} for _ in range(warm + turns)][warm:]


def over(turns: Sequence[Turn], name: str, base: str) -> dict[str, float]:
    """Median, least and most of one action's time over another's within a turn.

    >>> over([{"a": 3.0, "b": 1.0}, {"a": 4.0, "b": 2.0}, {"a": 4.0, "b": 1.0}], "a", "b")
    {'median': 3.0, 'least': 2.0, 'most': 4.0}
    """
    ratios = [turn[name] / turn[base] for turn in turns]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def medians(turns: Sequence[Turn]) -> Turn:
    """Median time of every action."""
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def compared(turns: Sequence[Turn], base: str) -> dict[str, dict[str, float]]:
    """Of every action: its median time, and median, least and most ratio to the base within a turn."""
    found = {}
    for name, taken in medians(turns).items():
        ratio = over(turns, name, base)
        found[name] = {"seconds": taken, "ratio": ratio["median"], "least": ratio["least"], "most": ratio["most"]}
    return found


def quartiles(ratios: Iterable[float]) -> dict[str, float]:
    """Median and quartiles of ratios."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"ratio": middle, "quarter": low, "three_quarters": high}


def spread(found: Mapping[str, float] | Sequence[float], digits: int = 2) -> str:
    """A middle value with its range: of :func:`over`, of :func:`quartiles`, or any three (middle, low, high).

    >>> spread({"ratio": 1.0, "quarter": 0.9, "three_quarters": 1.1})
    '1.00 (0.90–1.10)'
    """
    middle, low, high = found.values() if isinstance(found, Mapping) else found
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def shown(items: Sequence[Any], what: str) -> Iterable[Any]:
    """The items, with a progress line on the error stream."""
    from rich.console import Console
    from rich.progress import track

    return track(items, description=what, console=Console(stderr=True))


def verdict(value: float, goal: float) -> str:
    """Whether a value is within its goal."""
    return "met" if value <= goal else "missed"
