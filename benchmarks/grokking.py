"""Steps until a net generalizes: methods × seeds on one task, side by side in single-thread processes.

    python benchmarks/grokking.py                                   # experiment 1: Grokfast's modular multiplication
    python benchmarks/grokking.py --arm division --methods adamw muon
    python benchmarks/grokking.py --methods-file candidates.json --first-seed 1000   # for tuning: seeds of its own
    python benchmarks/grokking.py --arm parity --stacked --seeds 10                  # all seeds as one batched model
    python benchmarks/sweep.py --arm parity                                          # what that gains

A finished run is one row in ``rows.jsonl`` and is never repeated; one that was interrupted goes on from its newest
checkpoint; stacked ones start again. Tables and plots are made from the rows that are there. A file of methods is JSON,
keys of ``RunConfig`` by method name:
``{"muon, small embeddings": {"task": "grokfast-modular-muon", "embedding_scale": 0.1}}``.

Goal (the record): median of ten seeds ≤ 100 steps to 95% validation accuracy, sustained over three evaluations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import RESULTS, command, listed, make_parser, single_thread, versions

if TYPE_CHECKING:
    from surgecollapse.compare.rows import Rows

Missing = dict[str, tuple[str, int, dict[str, Any]]]
"""Runs without a row: method, seed and configuration by key."""
GOAL, SMOOTH = 100, 5
PUBLISHED = {
    "multiplication": {"baseline": "39,890", "ema": "910", "ma": "790"},
    "mlp": {
        "plain": "stalls",
        "float64": "overfits",
        "stablemax": "within 80,000",
        "⊥AdamW": "within 300",
        "⊥SGD": "within 400",
    },
    "product": {"stablemax": "within 100,000"},
    "parity": {"stablemax": "within 100,000"},
    "mnist": {"baseline": "44,022", "ema": "2,001"},
    "imdb": {"baseline": ".517, 84%", "ema": ".412, 90%"},
    "qm9": {"baseline": ".00659", "ema": ".00348"},
}
"""Steps to generalize that the papers report, by arm and method (arXiv 2405.20233, 2501.04697); MNIST at their 95%."""
_FINE = {"evaluate_every": 5, "stop_at_accuracy": 0.95}
_TENS = {"evaluate_every": 10, "stop_at_accuracy": 0.95}
_ON_TOP = {
    "with Grokfast (α .9, λ .5)": {"grokfast": "ema", "grokfast_alpha": 0.9, "grokfast_lamb": 0.5},
    "with StableMax": {"loss": "stablemax"},
    "with ⊥Grad": {"orthograd": "rescaled"},
    "with entropy_cycles, 50% sparse": {"policy": "entropy_cycles", "sparsity": 0.5},
    "with cyclic_pruning, 50% sparse": {"policy": "cyclic_pruning", "sparsity": 0.5},
}
_TRANSFORMER = {
    "baseline": {"task": "grokfast-modular-baseline", "evaluate_every": 50, "stop_at_accuracy": 0.95},
    "ema": {"task": "grokfast-modular", **_TENS},
    "ma": {"task": "grokfast-modular-ma", **_TENS},
    "ema's weight decay, no filter": {
        "task": "grokfast-modular-baseline",
        "weight_decay": 0.005,
        **_TENS,
        "steps": 5_000,
    },
    "adamw": {"task": "grokfast-modular-adamw", **_TENS},
    "muon": {"task": "grokfast-modular-muon", **_FINE},
    "record": {"task": "grokfast-modular-record", **_FINE},
    "record with Grokfast": {"task": "grokfast-modular-record", **_FINE, **_ON_TOP["with Grokfast (α .9, λ .5)"]},
    "record-125": {"task": "grokfast-modular-record-125", **_FINE},
}
_NEW = {
    "the record": {},
    "no average of the weights": {"ema_decay": 0.0},
    "short batches count in full": {"scale_partial_batches": False},
    "positions as the tokens": {"position_scale": 1.0, "position_lr": 1.0},
    "all rates × 2/3": {"lr": 6e-3},
    "rates fall from step 60 to none at 120": {"schedule": "linear", "lr_hold_steps": 60, "steps": 120},
    **_ON_TOP,
}
_OLD = {
    "the record": {},
    "tokens by AdamW": {"muon_tokens": False},
    "norms and biases decay": {"decay_vectors": True},
    "momentum .95": {"momentum": 0.95},
    "first beta .9": {"muon_beta1": 0.9},
    "embeddings at scale 1": {"embedding_scale": 1.0},
    "embeddings at the base rate": {"embedding_lr": 1.0},
    "hidden matrices at the base rate": {"muon_lr": 1.0},
    "weight decay 1": {"weight_decay": 1.0},
    "weight decay 0": {"weight_decay": 0.0},
    **_ON_TOP,
}
_ABLATIONS = {
    name: {**_TRANSFORMER["record"], **({"steps": 200} | change if change else {})} for name, change in _NEW.items()
}
_ABLATIONS_125 = {name: {**_TRANSFORMER["record-125"], "steps": 200, **change} for name, change in _OLD.items()}
"""One change each of the record and of the one before it: what is taken away, then what is laid on top."""
_SHORT = {"evaluate_every": 25, "stop_at_accuracy": 0.95, "steps": 3_000}
_LONG = {"evaluate_every": 100, "stop_at_accuracy": 0.95}
_MLP = {
    "plain": {"task": "prieto-modular", **_LONG},
    "float64": {"task": "prieto-modular-float64", **_LONG},
    "stablemax": {"task": "prieto-modular-stablemax", **_LONG},
    "⊥AdamW": {"task": "prieto-modular-orthograd", **_FINE, "steps": 2_000},
    "⊥SGD": {"task": "prieto-modular-orthosgd", **_FINE, "steps": 800},
    "muon": {"task": "prieto-modular", **_FINE, "optimizer": "muon", "weight_decay": 1.0, "steps": 2_000},
    "record": {"task": "prieto-modular-record", **_FINE},
    "record without ⊥Grad": {"task": "prieto-modular-record", **_FINE, "orthograd": "none"},
}
_PRODUCT = {
    "plain": {"task": "prieto-product", **_SHORT},
    "float64": {"task": "prieto-product-float64", **_SHORT},
    "stablemax": {"task": "prieto-product-stablemax", **_LONG},
    "⊥AdamW": {"task": "prieto-product-orthograd", **_FINE, "steps": 2_000},
    "⊥SGD": {"task": "prieto-product-orthosgd", **_FINE, "steps": 2_000},
    "record": {"task": "prieto-modular-record", "operation": "mul", **_FINE},
}
_ATTENTION = {
    "plain": {"task": "prieto-transformer", **_TENS},
    "decay 1.5": {"task": "prieto-transformer-decay", **_TENS},
    "stablemax": {"task": "prieto-transformer-stablemax", **_TENS, "steps": 20_000},
    "stablemax, longer": {"task": "prieto-transformer-stablemax", **_LONG},
    "⊥AdamW": {"task": "prieto-transformer-orthograd", **_TENS, "steps": 10_000},
}
_PARITY = {
    "plain": {"task": "prieto-parity", **_LONG},
    "float64": {"task": "prieto-parity-float64", **_LONG},
    "stablemax": {"task": "prieto-parity-stablemax", "precision": "float32", **_SHORT, "steps": 100_000},
    "⊥AdamW": {"task": "prieto-parity-orthograd", **_LONG, "steps": 20_000},
    "AdamW, weight decay 3": {"task": "prieto-parity", "weight_decay": 3.0, "eps": 1e-8, **_FINE, "steps": 1_000},
    "record": {"task": "prieto-parity-record", **_FINE},
    "record without ⊥Grad": {"task": "prieto-parity-record", "orthograd": "none", **_FINE, "steps": 1_000},
}
_DIGITS = {"evaluate_every": 250, "stop_at_accuracy": 0.85, "steps": 50_000}
_MNIST = {
    "baseline": {"task": "grokfast-mnist-baseline", **_DIGITS},
    "ema": {"task": "grokfast-mnist", **_DIGITS, "steps": 4_000},
    "its weight decay, no filter": {"task": "grokfast-mnist-baseline", "weight_decay": 2.0, **_DIGITS, "steps": 4_000},
    "filter, weight decay .01": {"task": "grokfast-mnist", "weight_decay": 0.01, **_DIGITS, "steps": 4_000},
    "record": {"task": "grokfast-mnist-record", "stop_at_accuracy": 0.85},
}
_IMDB = {
    "baseline": {"task": "grokfast-imdb-small-baseline"},
    "ema": {"task": "grokfast-imdb-small"},
    "its weight decay, no filter": {"task": "grokfast-imdb-small-baseline", "weight_decay": 10.0},
}
_IMDB_FULL = {
    "baseline": {"task": "grokfast-imdb-baseline"},
    "ema": {"task": "grokfast-imdb"},
}
_QM9 = {
    "baseline": {"task": "grokfast-qm9-baseline"},
    "ema": {"task": "grokfast-qm9"},
    "its weight decay, no filter": {"task": "grokfast-qm9-baseline", "weight_decay": 0.01},
}
_NANDA = {
    "weight decay 1": {"task": "nanda-modular", **_LONG},
    "loss in float32": {"task": "nanda-modular", "loss": "cross_entropy", **_LONG},
}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "multiplication": _TRANSFORMER,
    "division": {name: {**settings, "operation": "div"} for name, settings in _TRANSFORMER.items()},
    "mlp": _MLP,
    "product": _PRODUCT,
    "transformer": _ATTENTION,
    "transformer-product": {name: {**settings, "operation": "mul"} for name, settings in _ATTENTION.items()},
    "parity": _PARITY,
    "nanda": _NANDA,
    "mnist": _MNIST,
    "imdb": _IMDB,
    "imdb-full": _IMDB_FULL,
    "qm9": _QM9,
    "ablations": _ABLATIONS,
    "ablations-125": _ABLATIONS_125,
}
"""Methods by task: Grokfast's transformer on x·y and on x/y mod 97; Prieto et al.'s perceptron and transformer on x+y
and x·y mod 113, and sparse parity; Nanda et al.; 1,000 digits of MNIST with initial weights × 8; film reviews, the
smaller version and the paper's; 50 molecules of QM9; and the record on x·y with one thing changed. Some end sooner than
in the papers."""


def train_one(values: dict[str, Any], folder: Path, data_dir: Path | None) -> dict[str, Any] | None:
    """Train, or go on with, one configuration; ``None`` if it was interrupted."""
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train
    from surgecollapse.record import RunStore

    begun = (folder / "run.db").is_file()
    if not begun and folder.is_dir():  # stopped before there was a record: nothing to lose
        shutil.rmtree(folder)
    result = (
        train(None, folder, resume=True) if begun else train(make_config(**{**values, "data_dir": data_dir}), folder)
    )
    if result.status == "interrupted":
        return None
    with RunStore(folder / "run.db") as store:
        curves = {name: store.measurements(f"accuracy/{name}") for name in ("train", "validation")}
        loss = store.measurements("loss/validation")
    facts = result.summary
    return {
        "grokking": facts["grokking"],
        "steps": facts["steps"],
        "seconds": round(facts["seconds"], 3),
        "accuracy": facts["accuracy"],
        "curve": {
            "steps": curves["train"].steps.tolist(),
            **{name: [round(value, 4) for value in curve.values.tolist()] for name, curve in curves.items()},
            "loss": [float(f"{value:.5g}") for value in loss.values.tolist()],
        },
    }


def train_stack(configs: list[dict[str, Any]], data_dir: Path | None, show: Callable[[int], None]) -> list[dict]:
    """Rows of configurations that differ in their seed, trained as one batched model; as :func:`train_one` has them."""
    from grokking_bank.stacked import train_stacked

    from surgecollapse.forecast.times import grokking_summary
    from surgecollapse.lab.config import make_config

    runs = train_stacked([make_config(**{**values, "data_dir": data_dir}) for values in configs], show)
    return [
        {
            "grokking": grokking_summary(
                run.steps, run.accuracy_train, run.accuracy_validation, run.seconds / run.steps[-1]
            ),
            "steps": run.steps[-1],
            "seconds": round(run.seconds, 3),
            "accuracy": run.accuracy,
            "curve": {
                "steps": run.steps,
                "train": [round(value, 4) for value in run.accuracy_train],
                "validation": [round(value, 4) for value in run.accuracy_validation],
                "loss": [float(f"{value:.5g}") for value in run.loss_validation],
            },
            "stacked": len(configs),
        }
        for run in runs
    ]


def chosen(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Methods by name, as the command line asks for them."""
    known = dict(ARMS[options.arm])
    if options.methods_file is not None:
        known = json.loads(options.methods_file.read_text())
    unknown = [name for name in options.methods or () if name not in known]
    if unknown:
        raise SystemExit(f"unknown method {unknown[0]!r}: expected {', '.join(known)}")
    picked = {name: known[name] for name in options.methods or known}
    common = {"device": options.device, **({} if options.steps is None else {"steps": options.steps})}
    return {name: {**settings, **common} for name, settings in picked.items()}


def run_all(methods: dict[str, dict[str, Any]], options: argparse.Namespace) -> tuple[dict[str, list[dict]], float]:
    """Train what has no row yet; return the rows of every method and the seconds that it took."""
    from surgecollapse.compare.plan import key_of
    from surgecollapse.compare.rows import Rows
    from surgecollapse.lab.config import as_mapping, flat_values, make_config

    rows, wanted = Rows(options.out), {}
    missing: Missing = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name, settings in methods.items():
            config = flat_values(as_mapping(make_config(**settings, seed=seed)))
            key = key_of(config)
            wanted[name, seed] = key
            if key not in rows:
                missing[key] = (name, seed, config)
    began = time.perf_counter()
    if not options.show:
        (run_stacked if options.stacked else run_apart)(missing, rows, options)
    there = {at: rows.get(key) or rows.earlier(key) for at, key in wanted.items()}
    found = {name: [there[at] for at in there if at[0] == name] for name in methods}
    return {name: [dict(row) for row in given if row] for name, given in found.items()}, time.perf_counter() - began


def keep(row: dict[str, Any], name: str, config: dict[str, Any], rows: Rows, options: argparse.Namespace) -> None:
    """Write a finished run down, and say when it generalized."""
    from surgecollapse.compare.plan import version

    facts = {"version": version(), "arm": options.arm, "method": name, "config": config, "hardware": hardware(options)}
    row = {**facts, **row}
    rows.append(dict(row))
    t_gen = times_of(row)["t_gen_sustained"]
    print(f"{name}, seed {config['seed']}: {t_gen or '–'} steps, {row['seconds']:.0f} s", flush=True)


def run_apart(missing: Missing, rows: Rows, options: argparse.Namespace) -> None:
    """Each run in a process of its own, which goes on where it stopped."""
    work = options.out / "work"
    pool = ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=single_thread)
    try:
        jobs = {
            pool.submit(train_one, config, work / key, options.data_dir): key for key, (_, _, config) in missing.items()
        }
        for job in as_completed(jobs):
            key = jobs[job]
            name, _, config = missing[key]
            row = job.result()
            if row is None:
                raise KeyboardInterrupt
            keep(row, name, config, rows, options)
            shutil.rmtree(work / key)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on, also within the runs in {work}", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)


def run_stacked(missing: Missing, rows: Rows, options: argparse.Namespace) -> None:
    """All seeds of a method at once, in this process and on one thread; what cannot be stacked, apart."""
    from surgecollapse.lab.config import ConfigError

    single_thread()
    methods: dict[str, Missing] = {}
    for key, run in missing.items():
        methods.setdefault(run[0], {})[key] = run
    for name, runs in methods.items():
        configs = [config for _, _, config in runs.values()]
        try:
            found = train_stack(configs, options.data_dir, lambda _: None)
        except ConfigError as error:
            print(f"{name}: {error}; its seeds are trained apart", flush=True)
            run_apart(runs, rows, options)
            continue
        for row, config in zip(found, configs, strict=True):
            keep(row, name, config, rows, options)


def times_of(row: dict[str, Any]) -> dict[str, Any]:
    """When a run fitted, and when it was at the accuracy to stop at (95%, and 85% of MNIST), from its evaluations."""
    from surgecollapse.forecast.times import FIT, GROKKED, IN_A_ROW, first_at

    curve, goal = row["curve"], row["config"]["stop_at_accuracy"] or math.inf
    t_fit = first_at(curve["steps"], curve["train"], FIT)
    t_gen = first_at(curve["steps"], curve["validation"], goal)
    sustained = first_at(curve["steps"], curve["validation"], goal, in_a_row=IN_A_ROW)
    return {
        "t_fit": t_fit,
        "t_gen": t_gen,
        "t_gen_sustained": sustained,
        "delay": None if t_fit is None or t_gen is None else t_gen - t_fit,
        "seconds": None if t_gen is None else row["seconds"] * t_gen / row["steps"],
        "grokked": sustained is not None and t_fit is not None and sustained >= GROKKED * t_fit,
    }


def middle(values: list[float | None], most: float) -> str:
    """Median with the range; what did not happen counts as later than all steps."""
    known = sorted(math.inf if value is None else value for value in values)
    low, high, mid = known[0], known[-1], statistics.median(known)

    def shown(value: float) -> str:
        return f"> {most:,.0f}" if math.isinf(value) or math.isnan(value) else f"{value:,.0f}"

    return shown(mid) if low == high else f"{shown(mid)} ({shown(low)}–{shown(high)})"


def level(rows: dict[str, list[dict]]) -> float | None:
    """The validation accuracy that counts as generalized, where there is one."""
    goals = [row["config"]["stop_at_accuracy"] for given in rows.values() for row in given]
    return None if None in goals else min(goals)


def table_of_losses(rows: dict[str, list[dict]]) -> Iterator[str]:
    """One line a method, where no accuracy counts as generalized."""
    yield "| method | seeds | steps | least validation loss | at step | best validation accuracy | published |"
    yield "|---|---|---|---|---|---|---|"
    for name, given in rows.items():
        if not given:
            yield f"| {name} | 0 | | | | | |"
            continue
        curves = [row["curve"] for row in given]
        least = [min(curve["loss"]) for curve in curves]
        at = [curve["steps"][curve["loss"].index(low)] for curve, low in zip(curves, least, strict=True)]
        best = [max(curve["validation"]) for curve in curves]
        cells = [name, str(len(given)), f"{max(row['steps'] for row in given):,}"]
        cells.append(f"{statistics.median(least):.4g} ({min(least):.4g}–{max(least):.4g})")
        cells.append(middle(at, math.inf))
        cells.append(f"{statistics.median(best):.1%} ({min(best):.1%}–{max(best):.1%})")
        cells.append(PUBLISHED.get(given[0]["arm"], {}).get(name, ""))
        yield "| " + " | ".join(cells) + " |"


def table(rows: dict[str, list[dict]]) -> Iterator[str]:
    """One line a method."""
    reached = level(rows)
    if reached is None:
        yield from table_of_losses(rows)
        return
    goal = f"{reached:.0%}"
    yield f"| method | seeds | fitted | {goal} first | {goal} sustained | delay | seconds to it | grokked | published |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, given in rows.items():
        if not given:
            yield f"| {name} | 0 | | | | | | | |"
            continue
        most = max(row["steps"] for row in given)
        times = [times_of(row) for row in given]
        cells = [name, str(len(given))]
        cells += [middle([t[key] for t in times], most) for key in ("t_fit", "t_gen", "t_gen_sustained")]
        delays = [t["delay"] for t in times if t["delay"] is not None]
        cells.append(f"{statistics.median(delays):,.0f}" if delays else "–")
        seconds = [t["seconds"] for t in times if t["seconds"] is not None]
        cells.append(f"{statistics.median(seconds):,.1f}" if seconds else "–")
        cells.append(f"{sum(t['grokked'] for t in times)} of {len(times)}")
        cells.append(PUBLISHED.get(given[0]["arm"], {}).get(name, ""))
        yield "| " + " | ".join(cells) + " |"


def as_markdown(rows: dict[str, list[dict]], facts: list[str], picture: str | None) -> str:
    """The page of an arm."""
    lines = ["# Steps until it generalizes", "", *facts, "", *table(rows), ""]
    lines += [
        "Median over seeds, least–most in brackets. Fitted: first evaluation with training accuracy ≥ 99%; first and",
        "sustained: first of one and of three evaluations with that validation accuracy; grokked: sustained at twice",
        f"the steps of fitting or later. Goal of the record: sustained ≤ {GOAL} in the median of ten seeds.",
        "",
    ]
    return "\n".join([*lines, f"![Accuracy of every seed by step]({picture})", ""] if picture else lines)


def means(values: list[float]) -> list[float]:
    """Of each value and the few before it."""
    return [statistics.fmean(values[max(0, i + 1 - SMOOTH) : i + 1]) for i in range(len(values))]


def draw(rows: dict[str, list[dict]], path: Path) -> bool:
    """Accuracy of every seed by step, with the least loss so far where none counts; ``False`` without matplotlib."""
    reached = level(rows)
    try:
        from surgecollapse.report.style import RUNS, canvas, legend_above, save_png, styled
    except ModuleNotFoundError:
        return False

    def lines(ax: Any, key: Callable[[dict], list[float]], **style: Any) -> None:
        for (color, _), (name, given) in zip(RUNS * len(rows), rows.items(), strict=False):
            for i, row in enumerate(given):
                label = name if i == 0 and style.get("linestyle") is None else None
                ax.plot(row["curve"]["steps"], key(row["curve"]), color=color, label=label, **style)
        ax.set_xscale("log")
        ax.set_xlabel("optimizer step (logarithmic)")

    @styled
    def picture() -> Any:
        figure = canvas(7.4, 4.4)
        if reached is None:
            loss, accuracy = figure.subplots(1, 2)
            lines(loss, lambda curve: list(itertools.accumulate(curve["loss"], min)), linewidth=1.1, alpha=0.8)
            loss.set_yscale("log")
            loss.set_ylabel("least validation loss so far (logarithmic)")
            lines(accuracy, lambda curve: means(curve["validation"]), linewidth=1.1, alpha=0.8)
            accuracy.set_ylabel(f"validation accuracy, mean of {SMOOTH} evaluations")
            legend_above(figure, [loss], columns=4)
            return figure
        ax = figure.add_subplot()
        lines(ax, lambda curve: curve["validation"], linewidth=1.1, alpha=0.8)
        lines(ax, lambda curve: curve["train"], linewidth=0.8, alpha=0.5, linestyle=":")
        ax.set_ylabel("accuracy: validation (solid), training (dotted)")
        ax.axhline(reached, color="#5f6872", linewidth=0.8)
        legend_above(figure, [ax], columns=4)
        return figure

    save_png(picture(), path)
    return True


def hardware(options: argparse.Namespace) -> str:
    """What the runs of this call train on."""
    from surgecollapse.record.machine import processor

    place = gpu_name() if options.device == "cuda" else ""
    return f"{place or processor()}, {options.jobs} process(es) of one thread"


def gpu_name() -> str:
    """Name of the GPU, if torch sees one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def main() -> None:
    """Run what is missing, write table and plot, print the table."""
    parser = make_parser(__doc__, out=RESULTS / "grokking", seeds=10)
    parser.add_argument("--arm", choices=list(ARMS), default="multiplication", help="task and net")
    parser.add_argument("--methods", nargs="*", help="names of the arm's methods, or of the file's; default: all")
    parser.add_argument("--methods-file", type=Path, help="JSON with methods instead of the arm's")
    parser.add_argument("--first-seed", type=int, default=0, help="tuning takes others than the report: 1000 and on")
    parser.add_argument("--steps", type=int, help="end runs after that many steps")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where nets train")
    parser.add_argument("--stacked", action="store_true", help="train the seeds of a method as one batched model")
    parser.add_argument("--show", action="store_true", help="train nothing: table and plot of the rows that are there")
    parser.add_argument("--data-dir", type=Path, help="folder with the four files of MNIST")
    parser.add_argument("--table", type=Path, help="stem of table and plot; default: OUT/ARM")
    parser.add_argument("--picture", type=Path, help="file of the plot; default: beside the table")
    options = parser.parse_args()
    if options.device == "cuda" and not (options.show or gpu_name()):
        raise SystemExit("torch sees no GPU here: train with --device cpu")
    if options.seeds < 1 or options.jobs < 1:
        raise SystemExit("--seeds and --jobs must be at least 1")
    rows, elapsed = run_all(chosen(options), options)
    if not any(rows.values()):
        raise SystemExit("no run has finished yet: nothing to tell")
    stem = options.table or options.out / options.arm
    picture = options.picture or stem.with_suffix(".png")
    drawn = draw(rows, picture)
    trained = sum(row["seconds"] for given in rows.values() for row in given)

    places = {row.get("hardware", hardware(options)) for given in rows.values() for row in given}
    facts = [
        f"`{command()}`",
        "",
        f"{' and '.join(sorted(places))}; {listed(versions())}. "
        f"Training seconds of all rows: {trained:,.0f}; this call took {elapsed:,.0f}.",
    ]
    text = as_markdown(rows, facts, os.path.relpath(picture, stem.parent) if drawn else None)
    stem.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
