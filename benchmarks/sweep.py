"""What ten seeds cost together: as one batched model, and side by side in pinned processes, beside ten single runs.

    python benchmarks/sweep.py --arm parity --methods record --seeds 10
    python benchmarks/sweep.py --arm mnist --methods ema --steps 500 --seeds 10 --data-dir FOLDER

Three ways to the same runs, without monitors. *Single*: a fresh interpreter for every seed, one after the other, with
torch's own number of threads, as ``surgecollapse run`` has it. *Side by side*: what ``benchmarks/grokking.py`` and
``surgecollapse compare`` do, ``--jobs`` processes of one thread each that take seed after seed. *Stacked*: all seeds as
one batched model on one thread; ``single_thread`` is the time of the same runs one by one on one thread, against which
it is to be held. Seconds of one call on one machine: read the ratios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _harness import make_parser, seconds, single_thread
from grokking import ARMS, chosen

Config = dict[str, Any]
ALONE = "import json, sys; from sweep import train_here; train_here(json.loads(sys.argv[1]))"


def train_here(values: Config) -> None:
    """One run in this process, its record thrown away."""
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train

    with TemporaryDirectory() as folder:
        train(make_config(**values), Path(folder) / "run")


def single(configs: list[Config]) -> None:
    """A fresh interpreter a run, with the threads that torch takes."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [env.get("PYTHONPATH")])])
    for values in configs:
        subprocess.run([sys.executable, "-c", ALONE, json.dumps(values)], env=env, check=True)


def flat_buffers(configs: list[Config], jobs: int) -> None:
    """Processes of one thread each."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=single_thread) as pool:
        list(pool.map(train_here, configs))


def stacked(configs: list[Config]) -> None:
    """One batched model on one thread."""
    from grokking_bank.stacked import train_stacked

    from surgecollapse.lab.config import make_config

    train_stacked([make_config(**values) for values in configs])


def main() -> None:
    """Measure every method that is asked for: a table line each."""
    parser = make_parser(__doc__, out=None, seeds=10)
    parser.add_argument("--arm", choices=list(ARMS), default="parity", help="task and net")
    parser.add_argument("--methods", nargs="*", help="names of the arm's methods; default: all")
    parser.add_argument("--steps", type=int, help="end runs after that many steps")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread")
    parser.add_argument("--data-dir", type=Path, help="folder with the four files of MNIST")
    options = parser.parse_args()
    options.methods_file, options.device = None, "cpu"
    single_thread()
    from surgecollapse.lab.config import ConfigError

    print("| runs | single, s | side by side, s | ratio | single_thread, s | stacked, s | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, settings in chosen(options).items():
        shared = {"stop_at_accuracy": None, "monitors": "none"}
        if options.data_dir:
            shared["data_dir"] = str(options.data_dir)
        configs = [{**settings, **shared, "seed": seed} for seed in range(options.seeds)]
        apart, together = seconds(partial(single, configs)), seconds(partial(flat_buffers, configs, options.jobs))
        one_by_one = seconds(lambda configs=configs: [train_here(values) for values in configs])
        cells = [f"{options.arm}, {name}, {options.seeds} seeds"]
        cells += [f"{apart:.1f}", f"{together:.1f}", f"{apart / together:.2f}", f"{one_by_one:.1f}"]
        try:
            in_a_stack = seconds(partial(stacked, configs))
            cells += [f"{in_a_stack:.1f}", f"{one_by_one / in_a_stack:.2f}"]
        except ConfigError as error:
            cells += [str(error), "–"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
