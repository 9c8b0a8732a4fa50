"""``run`` and ``demo``: nets are trained."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from surgecollapse.cli.flags import Flags, arguments, values_of, words
from surgecollapse.cli.output import INTERRUPTED, note, say, write_table
from surgecollapse.lab.config import ConfigError, RunConfig, make_config, read_config
from surgecollapse.lab.config.experiments import experiments
from surgecollapse.lab.references import FORM, is_reference, missing_parts, parts_of
from surgecollapse.record.outcome import grokking_words, why_it_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from surgecollapse.lab.training.run import RunResult


_FIRST = Group("Run", sort_key=0)


def run(
    task: str | None = None,
    /,
    *,
    config: Annotated[Path | None, Parameter(group=_FIRST)] = None,
    out: Annotated[Path | None, Parameter(group=_FIRST)] = None,
    resume: Annotated[Path | None, Parameter(group=_FIRST)] = None,
    replay: Annotated[Path | None, Parameter(group=_FIRST)] = None,
    to: Annotated[str | None, Parameter(group=_FIRST)] = None,
    watch: Annotated[bool, Parameter(group=_FIRST, negative="")] = False,
    data: Annotated[str | None, Parameter(group=_FIRST)] = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", group=_FIRST, negative="")] = None,
    flags: Annotated[Flags | None, Parameter(name="*")] = None,
) -> int:
    """Train one net and record everything in a run directory.

    Under torchrun the processes train it together, each on its part of every batch; the first one records.

    The same keys may stand in a TOML file (with underscores) and as flags; flags override the file. A flag may also be
    written with the section of its key, as in --optimizer.lr.

    Args:
        task: What to learn: digits, mnist1d, mnist5k, mnist, fashion-mnist, modular, parity, dummy, imdb, kjv, qm9. It
            may be a published experiment with its settings: grokfast-modular, prieto-modular, nanda-modular and others.
            It may be files in --data-dir: image-folder, webdataset, parquet, coco-detection, coco-captions, text-files,
            token-files. It may be a Python file of your own that defines data, model (or net) and, if need be, loss.
        config: TOML file with any of the keys below, in sections or not, and `task`.
        out: Run directory, one that holds no run yet. Default: runs/TASK-POLICY-sSEED, numbered if that is taken.
        resume: Go on with the run in this directory, bit for bit as if it had never stopped. Takes no other flags.
        replay: Train again as this run was trained, with the same interventions by people after the same steps, to
            bitwise the same weights. Takes no other flags but --out.
        watch: Serve the live page of the run's folder while it trains, and print its address.
        to: Comma-separated trackers that follow the run while it trains: tensorboard, trackio, wandb (offline), mlflow.
        data: Your own data, as file.py:name or package.module:name.
        set_: Argument of your own data or model, as in --set model.width=256; may be given many times.
        flags: Keys of the configuration.
    """
    from surgecollapse.dashboard.background import page_beside
    from surgecollapse.lab.training.processes import launched
    from surgecollapse.lab.training.progress import for_terminal
    from surgecollapse.lab.training.run import train
    from surgecollapse.trackers import check_tracker, exporting

    names = words(to)
    for name in names:
        check_tracker(name)
    values = {**values_of(flags), **arguments(set_ or [])}
    values |= {} if data is None else {"data": data}
    kept = {"task": task, "config": config, "out": out, "resume": resume}
    settled: RunConfig | None = None
    if replay is not None:
        _refuse("--replay takes the run as it was", values, kept, "task", "config", "resume")
        wanted = replay.with_name(f"{replay.name}-replay")
    elif resume is not None:
        _refuse("--resume takes the run as it was begun", values, kept, "task", "config", "out")
        wanted = out = resume
    else:
        values = with_task(task, values, config)
        settled = read_config(config, **values) if config is not None else make_config(**values)
        name = task if task in experiments() else f"{settled.data.label}-{settled.method.policy}"
        wanted = Path("runs") / f"{name}-s{settled.run.seed}"
    with (
        launched() as ranks,
        _free(wanted) if out is None and ranks.first else nullcontext(out) as free,
        page_beside((free or wanted).parent, note) if watch and ranks.first else nullcontext(),
    ):
        folder = ranks.from_first(free)
        progress = for_terminal() if ranks.first else None
        around = nullcontext if progress is None else partial(exporting, trackers=names, tell=progress.note)
        result = train(
            settled, folder, resume=resume is not None, replay=replay, progress=progress, around=around, ranks=ranks
        )
    return tell_result(result) if progress is not None else 0


def with_task(task: str | None, values: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """The values of a command line with its task: a name, or the parts that a project file defines."""
    data = values.pop("data", None)
    if data is not None and not is_reference(data):
        raise ConfigError(f"--data {data}: expected {FORM}; the library's own tasks are named without --data")
    if task is not None and task.endswith(".py"):
        values = {**parts_of(Path(task)), **({} if data is None else {"task": data}), **values}
        if config is None and (missing := missing_parts(Path(task), values)):
            raise ConfigError(missing)
        return values
    if task is not None and data is not None:
        raise ConfigError(f"two tasks: {task} and --data {data}; give one")
    name = task if data is None else data
    return values if name is None else {**values, "task": name}


def demo(*, out: Path | None = None, seed: int = 0, sparsity: float = 0.9) -> int:
    """Train a digit classifier twice on the same seed, plain and with surge-collapse, and write a report.

    Half a minute of one core.

    Args:
        out: Folder of both runs and the report. Default: runs/demo, numbered if that is taken.
        seed: Seed of both runs.
        sparsity: Share of the prunable weights that end at zero.
    """
    with _free(Path("runs") / "demo") if out is None else nullcontext(out) as folder:
        return _demo(folder, seed, sparsity)


def _demo(folder: Path, seed: int, sparsity: float) -> int:
    from surgecollapse.lab.training.progress import for_terminal
    from surgecollapse.lab.training.run import train
    from surgecollapse.report import write_report

    # `no_op` is bitwise plain training, with readings, so that both entropies can be compared.
    plans = {
        "plain": make_config(task="digits", policy="no_op", seed=seed),
        "surge-collapse": make_config(task="digits", seed=seed, sparsity=sparsity),
    }
    results: dict[str, RunResult] = {}
    for number, (name, plan) in enumerate(plans.items(), 1):
        sys.stderr.write(f"{number} of {len(plans)}: {name}\n")
        results[name] = train(plan, folder / name, progress=for_terminal())
        if results[name].status == "interrupted":
            return tell_result(results[name])
    sys.stderr.write("writing the report\n")
    page = write_report([folder / name for name in plans], folder / "report")
    _show({name: result.summary for name, result in results.items()})
    say(f"report: {page}")
    return 0


def _refuse(reason: str, values: dict[str, Any], given: dict[str, Any], *names: str) -> None:
    """Say which of the words of a command line do not go together."""
    others = [*values, *(name for name in names if given[name])]
    if others:
        raise ConfigError(f"{reason}: drop {', '.join(others)}")


@contextmanager
def _free(folder: Path) -> Iterator[Path]:
    """The folder, or the first of its numbered names that is free, made at once; it goes again if it stays empty."""
    missing = [place for place in folder.parents if not place.exists()]
    number, candidate = 2, folder
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            candidate = folder.with_name(f"{folder.name}-{number}")
            number += 1
        else:
            break
    try:
        yield candidate
    finally:
        for place in (candidate, *missing):
            with suppress(OSError):
                place.rmdir()


def tell_result(result: RunResult) -> int:
    """Write how a run ended; returns the exit code."""
    if result.status == "interrupted":
        say(f"stopped after step {result.step}, nothing is lost; go on with:")
        say(f"  surgecollapse run --resume {result.directory}")
        return INTERRUPTED
    _show({result.directory.name: result.summary})
    if result.status == "diverged":
        say("diverged: the weights or the test loss are not finite; lower --lr or set --clip")
    elif why := why_it_stopped(result.summary):
        say(why)
    for line in grokking_words(result.summary):
        say(line)
    say(f"run: {result.directory}")
    say(f"for the report: surgecollapse report {result.directory}")
    return 0


def _show(summaries: dict[str, dict[str, Any]]) -> None:
    from rich.table import Column

    from surgecollapse.report.summary import readable_bytes

    headings = ("test accuracy", "sparsity", "mean\ndensity", "size", "time", "inter-\nventions")
    rows = [
        (
            name,
            f"{facts['accuracy']:.2%}",
            f"{facts['sparsity']:.1%}",
            f"{facts['mean_density']:.3f}" if "mean_density" in facts else "–",
            readable_bytes(facts["bytes_sparse"]),
            f"{facts['seconds']:.1f} s",
            str(facts["interventions"]),
        )
        for name, facts in summaries.items()
    ]
    write_table((Column("run", overflow="fold"), *headings), rows)
