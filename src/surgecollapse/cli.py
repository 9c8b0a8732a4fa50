"""The command line: ``surgecollapse run | tell | watch | report | compare | analyse | export | demo | doctor``.

Whatever is slow to import (torch, plots) is imported by the command that needs it, so that help comes at once.
Every mistake of a user is one line on standard error and exit code 2; an interrupted run exits with 130.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from surgecollapse.lab.config import ConfigError, RunConfig, explain, make_config, read_config
from surgecollapse.lab.experiments import EXPERIMENTS
from surgecollapse.lab.presets import DEFAULT_TASK_PRESET, TASK_PRESETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgecollapse.lab.deploy import Exported
    from surgecollapse.lab.run import RunResult

INTERRUPTED = 130
"""Exit code of a run that was stopped by Ctrl-C or SIGTERM, as shells have it."""
MISTAKE = 2
"""Exit code of anything that the user can put right."""

app = App(
    name="surgecollapse",
    help="Train sparse nets with Surge-Collapse: a control loop driven by activation entropy.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

_GROUPS = {
    "Data": "data_dir train_samples label_noise standardise smallest operation modulus train_fraction parity_bits "
    "noise_bits noise vocabulary text_length",
    "Model": "model widths readout activation dropout bias init_scale embedding_scale position_scale precision",
    "Method": "recipe policy policy_options sparsity every moments entropy saliency growth initial rho distribution "
    "minimum_density pattern",
    "Training": "seed steps epochs batch_size optimizer lr embedding_lr position_lr eps weight_decay momentum beta2 "
    "schedule muon_lr muon_tokens muon_beta1 decay_vectors warmup hold average_decay weigh_batches clip "
    "grokfast grokfast_alpha grokfast_window grokfast_lamb orthograd loss "
    "class_weights early_stopping stop_at_accuracy until forecast give_up monitors monitor_budget "
    "evaluate_every checkpoint_every keep_checkpoints threads",
}


def _flags() -> type[pydantic.BaseModel]:
    """One optional flag per configuration key; what is not given is left to the file and the presets."""
    varied = {key for preset in (DEFAULT_TASK_PRESET, *TASK_PRESETS.values()) for key in preset}
    fields: dict[str, Any] = {}
    for number, (title, names) in enumerate(_GROUPS.items()):
        group = Group(title, sort_key=number + 1)
        for name in names.split():
            field = RunConfig.model_fields[name]
            kind: Any = str if name in ("widths", "policy_options") else field.annotation
            text = str(field.description)
            if name == "widths":
                text += " Comma-separated: 256,256."
            if name in varied:
                text += " Default: the task's."
            elif field.default is not None and name != "policy_options":
                text += f" Default: {field.default}."
            fields[name] = (Annotated[kind | None, Parameter(group=group)], pydantic.Field(None, description=text))
    return pydantic.create_model("Flags", **fields)


# Made from the configuration, so that flags and TOML keys cannot drift apart; a type checker needs a plain name.
if TYPE_CHECKING:
    Flags = pydantic.BaseModel
else:
    Flags = _flags()
_FIRST = Group("Run", sort_key=0)
_command: list[str] = []
"""The words of the command line, for records of how something was run."""


@app.command
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
    flags: Annotated[Flags | None, Parameter(name="*")] = None,
) -> int:
    """Train one net and record everything in a run directory.

    The same keys may stand in a TOML file (with underscores) and as flags; flags win.

    Args:
        task: What to learn: digits, mnist1d, mnist5k, mnist, fashion-mnist, modular, parity, dummy, imdb, kjv, qm9;
            or a published experiment with its settings: grokfast-modular, prieto-modular, nanda-modular and others.
        config: TOML file with any of the keys below, and `task`.
        out: Run directory, one that holds no run yet. Default: runs/TASK-POLICY-sSEED, numbered if that is taken.
        resume: Go on with the run in this directory, bit for bit as if it had never stopped. Takes no other flags.
        replay: Train again as this run was trained, with the same interventions by people after the same steps, to
            bitwise the same weights. Takes no other flags but --out.
        watch: Serve the live page of the run's folder while it trains, and print its address.
        to: Comma-separated trackers that follow the run while it trains: tensorboard, trackio, wandb (offline), mlflow.
        flags: Keys of the configuration.
    """
    from surgecollapse.dashboard.beside import page_beside
    from surgecollapse.lab.progress import for_terminal
    from surgecollapse.lab.run import train

    values = _given(flags)
    kept = {"task": task, "config": config, "out": out, "resume": resume}
    settled: RunConfig | None = None
    if replay is not None:
        _refuse("--replay takes the run as it was", values, kept, "task", "config", "resume")
        folder = out or _free(replay.with_name(f"{replay.name}-replay"))
    elif resume is not None:
        _refuse("--resume takes the run as it was begun", values, kept, "task", "config", "out")
        folder = resume
    else:
        if task is not None:
            values["task"] = task
        settled = read_config(config, **values) if config is not None else make_config(**values)
        name = task if task in EXPERIMENTS else f"{settled.task}-{settled.policy}"
        folder = out or _free(Path("runs") / f"{name}-s{settled.seed}")
    trackers = [name.strip() for name in (to or "").split(",") if name.strip()]
    with page_beside(folder.parent, _note) if watch else nullcontext():
        result = train(
            settled, folder, resume=resume is not None, replay=replay, progress=for_terminal(), trackers=trackers
        )
    return _tell(result)


def _refuse(reason: str, values: dict[str, Any], given: dict[str, Any], *names: str) -> None:
    """Say which of the words of a command line do not go together."""
    others = [*values, *(name for name in names if given[name])]
    if others:
        raise ConfigError(f"{reason}: drop {', '.join(others)}")


@app.command
def tell(
    run: Path,
    kind: str,
    /,
    *,
    fraction: float | None = None,
    layers: str | None = None,
    sigma: float | None = None,
    sparsity: float | None = None,
    values: str | None = None,
    factor: float | None = None,
    every: int | None = None,
    step: int | None = None,
    wait: float = 10.0,
) -> int:
    """Ask a run that trains for something; it is done, or rejected with a reason, between two steps.

    Args:
        run: Run directory.
        kind: collapse or surge (--fraction, --layers), pump (--sigma, 0 stops), set-sparsity (--sparsity),
            set-thresholds (--values), learning-rate (--factor), cadence of the monitors (--every), hold or resume the
            policy, pause or continue training, checkpoint, inspect, stop, roll-back (--step).
        fraction: Share of the open weights to close, or of the closed ones to reopen.
        layers: Comma-separated names of parameters, with wildcards; default: all prunable ones.
        sigma: Standard deviation of the input noise.
        sparsity: New target.
        values: Numbers of the policy, as in floor=.3,high=.9.
        factor: Of the scheduled learning rate.
        every: Steps.
        step: Of a checkpoint.
        wait: Seconds to wait for the outcome.
    """
    from surgecollapse.lab.tell import tell as ask

    given = {"fraction": fraction, "sigma": sigma, "sparsity": sparsity, "factor": factor, "every": every, "step": step}
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if layers is not None:
        body["layers"] = [name.strip() for name in layers.split(",") if name.strip()]
    if values is not None:
        body["values"] = _numbers(values)
    outcome = ask(run, kind, body, seconds=wait)
    at = "" if outcome.step is None else f" after step {outcome.step}"
    _say(f"{outcome.status}{at}{': ' if outcome.reason else ''}{outcome.reason or ''}")
    return 1 if outcome.status == "rejected" else 0


@app.command
def watch(
    folder: Path = Path("runs"),
    /,
    *,
    port: int = 8321,
    host: str = "127.0.0.1",
    expose: bool = False,
) -> int:
    """Show runs in the browser while they train, and let a person intervene.

    Args:
        folder: Folder of run directories, or one of them.
        port: 0 takes a free one.
        host: Address to listen at; any but this machine's own needs --expose.
        expose: Let other machines that have the token see and change the runs, unencrypted.
    """
    from surgecollapse.dashboard.serve import serve

    serve(folder, port=port, host=host, exposed=expose, tell=_now)
    return 0


def _now(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _numbers(text: str) -> dict[str, float]:
    """Read ``name=number,name=number``."""
    found = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise ConfigError(f"values = {text!r}: expected names and numbers as in floor=.3,high=.9") from None
    return found


@app.command
def report(
    *runs: Path,
    out: Path | None = None,
    to: Literal["html", "tensorboard", "trackio", "wandb", "mlflow"] = "html",
    follow: bool = False,
    touched: bool = False,
) -> int:
    """Write the report of one run, or of several to compare, as one HTML page and PNGs, or for a tracker.

    Args:
        runs: Run directories.
        out: Folder of the report. Default: report/ in the run, or beside the runs if there are several.
        to: html, or a tracker: tensorboard (event files in the run), trackio (its local project surgecollapse), wandb
            (offline files beside the run) or mlflow (mlruns beside the run).
        follow: Go on telling the tracker until the run ends.
        touched: Compare also runs that a person changed while they trained.
    """
    from surgecollapse.lab.report import write_report

    if not runs:
        raise ConfigError(
            "no run given: name one or more run directories, as in `surgecollapse report runs/demo/plain`"
        )
    for folder in runs:
        if not (folder / "run.db").is_file():
            raise ConfigError(f"{folder} holds no run: expected a directory made by `surgecollapse run`")
    if to != "html":
        return _to_tracker(to, runs, out, follow=follow)
    if follow:
        raise ConfigError("--follow is for trackers: a report is written once; `surgecollapse watch` shows a run live")
    if len(runs) > 1 and not touched:
        runs = _untouched(runs)
    place = out or (runs[0] / "report" if len(runs) == 1 else runs[0].parent / "report")
    _say(f"report: {write_report(runs, place)}")
    return 0


def _to_tracker(name: str, runs: Sequence[Path], out: Path | None, *, follow: bool) -> int:
    """Write every run for a tracker; follow one until it ends, or whoever started this is gone."""
    from surgecollapse.lab.exporters import export_to

    if follow and len(runs) > 1:
        raise ConfigError("--follow takes one run: start one command for each")
    parent = os.getppid()
    for folder in runs:
        own = name == "tensorboard" and len(runs) > 1 and out is not None
        place = out / folder.name if own and out is not None else out
        _now(export_to(name, folder, place, until=(lambda: os.getppid() != parent) if follow else None))
    return 0


def _untouched(runs: Sequence[Path]) -> tuple[Path, ...]:
    """The runs that nobody changed while they trained; says which are left out."""
    from surgecollapse.record import RunStore

    kept = []
    for folder in runs:
        with RunStore(folder / "run.db") as store:
            if not store.get("touched", False):
                kept.append(folder)
                continue
        _say(f"left out, as a person changed it while it trained (--touched takes it in): {folder}")
    if not kept:
        raise ConfigError("a person changed each of these runs while it trained: compare them with --touched")
    return tuple(kept)


@app.command
def compare(
    suite: str,
    /,
    *,
    methods: str | None = None,
    entries: str | None = None,
    sparsities: str | None = None,
    seeds: int = 10,
    budget: str = "equal",
    tune_at: float | None = None,
    jobs: int | None = None,
    reference: str | None = None,
    out: Path | None = None,
    work: Path | None = None,
    data_dir: Path | None = None,
    dry_run: bool = False,
) -> int:
    """Train many methods on the same tasks with paired seeds, and write tables and plots.

    What is finished is kept: the same command goes on where it stopped, on any machine that has the folder.

    Args:
        suite: What to train: smoke, quick, quick-mlp, quick-cnn, noise, full or long-text.
        methods: Comma-separated; default: all (dense, weight-decay, dropout, one-shot, gmp, static, set, rigl, granet,
            dsd, acdc, surge-collapse).
        entries: Comma-separated labels of the nets to train now, as in mnist-mlp,kjv-gpt; default: all of the suite.
            The tables show all that have rows.
        sparsities: Comma-separated, as in .9,.95; default: those of the suite.
        seeds: Seeds 0, 1, … of every method; no claim is made under 10.
        budget: equal: every method is tuned over its eight trials, on validation data only; a number: over that many of
            them, spread evenly; none: untuned.
        tune_at: Sparsity at which methods are tuned; default: .9, or the nearest that a net has.
        jobs: Processes of one thread each; default: the cores that may be used.
        reference: The method that the others are compared with; default: surge-collapse, or else the first.
        out: Folder of rows, tables and plots. Default: runs/compare-SUITE.
        work: Folder for temporary files; default: the system's.
        data_dir: Folder with the folders mnist and fashion-mnist, which hold their data files, and if need be kjv and
            imdb.
        dry_run: Only say how many runs are to do, and how long they will take.
    """
    from surgecollapse.lab.compare.command import failures, outlook, prepare
    from surgecollapse.lab.compare.display import for_terminal

    folder = out or Path("runs") / f"compare-{suite}"
    comparison = prepare(
        suite,
        folder,
        methods=methods,
        entries=entries,
        sparsities=sparsities,
        seeds=seeds,
        budget=budget,
        tune_at=tune_at,
        jobs=jobs,
        reference=reference,
        work=work,
        data_dir=data_dir,
        command=shlex.join(["surgecollapse", *_command]),
    )
    if dry_run:
        _say("\n".join(outlook(comparison)))
        return 0
    outcome = comparison.run(for_terminal())
    _say(f"{outcome.done} of {outcome.total} runs done: {folder / 'table.md'}")
    if not comparison.drawn:
        _say("for plots beside the tables: pip install 'surgecollapse[plots]'")
    if outcome.status == "interrupted":
        _say("stopped, what is finished is kept; go on with the same command")
        return INTERRUPTED
    for line in failures(outcome):
        _fail(line, 1)
    return 1 if outcome.failures else 0


@app.command
def export(
    run: Path,
    /,
    *,
    form: Annotated[Literal["sparse", "csr", "compact", "onnx", "2:4"], Parameter(name="--format")],
    out: Path | None = None,
    batch: int = 128,
) -> int:
    """Write the net of a finished run as a file for use elsewhere, load it back and compare.

    Args:
        run: Run directory.
        form: sparse: a small file with the same values; csr: linear layers as sparse rows where that is measured
            faster here; compact: a smaller dense net without its dead neurons, channels and heads; onnx: a file for
            onnxruntime and others; 2:4: in half precision, if layers have the pattern of sparse tensor cores.
        out: The file. Default: in the folder export of the run.
        batch: Samples in the batch that speed is measured with.
    """
    from surgecollapse.lab.deploy import export_run

    outcome = export_run(run, form, out=out, batch=batch)
    _export_table(form, outcome)
    for note in outcome.notes:
        _say(note)
    _say(f"export: {outcome.path}")
    return 0


@app.command
def analyse(
    *runs: Path,
    what: str | None = None,
    out: Path | None = None,
    samples: int = 512,
    times: int = 40,
) -> int:
    """Analyse runs from their checkpoints; write results, pictures and one page.

    For analyses over time, train with `--keep-checkpoints 0` and a small `--checkpoint-every`.

    Args:
        runs: Run directories. What compares nets compares the first with the others.
        what: Comma-separated analyses: cka, collapse, tails, dimension, fourier, progress, information,
            universality, connectivity, surface, density, llc.
            Default: all that have something to say.
        out: Folder of the page. Default: analysis/ in the run, or beside the runs if there are several.
        samples: Rows of the data that nets are shown.
        times: Most checkpoints of a run that are looked at.
    """
    from surgecollapse.lab.analyse import analyse as analyse_runs
    from surgecollapse.lab.analyse.display import for_terminal, table

    names = [name.strip() for name in (what or "").split(",") if name.strip()]
    with for_terminal() as tell:
        outcome = analyse_runs(runs, names, out=out, samples=samples, times=times, tell=tell)
    table(outcome)
    _say(f"analysis: {outcome.page}")
    return 0


@app.command
def demo(*, out: Path | None = None, seed: int = 0, sparsity: float = 0.9) -> int:
    """Train a digit classifier twice on the same seed, plain and with surge-collapse, and write a report.

    Half a minute of one core.

    Args:
        out: Folder of both runs and the report. Default: runs/demo, numbered if that is taken.
        seed: Seed of both runs.
        sparsity: Share of the prunable weights that end at zero.
    """
    from surgecollapse.lab.progress import for_terminal
    from surgecollapse.lab.run import train

    folder = out or _free(Path("runs") / "demo")
    # `hold` is bitwise plain training, with readings, so that both entropies can be compared.
    plans = {
        "plain": make_config(task="digits", policy="hold", seed=seed),
        "surge-collapse": make_config(task="digits", policy="entropy", seed=seed, sparsity=sparsity),
    }
    results: dict[str, RunResult] = {}
    for name, plan in plans.items():
        results[name] = train(plan, folder / name, progress=for_terminal())
        if results[name].status == "interrupted":
            return _tell(results[name])
    from surgecollapse.lab.report import write_report

    sys.stderr.write("writing the report\n")
    page = write_report([folder / name for name in plans], folder / "report")
    _table(results)
    _say(f"report: {page}")
    return 0


@app.command
def doctor() -> int:
    """Check torch, threads, optimizer hooks and exact masks, and measure what a controller costs here."""
    from rich.console import Console
    from rich.table import Table

    from surgecollapse.lab.doctor import examine

    table = Table("check", "result", "", box=None)
    checks = examine()
    for check in checks:
        mark = {True: "[green]ok", False: "[red]not as expected", None: ""}[check.good]
        table.add_row(check.name, check.value, mark)
    Console().print(table)
    return 0 if all(check.good is not False for check in checks) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the words after the program's name; by default those of the process.
    """
    _command[:] = sys.argv[1:] if argv is None else argv
    try:
        outcome = app(argv, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (CycloptsError, ValueError, OSError, ImportError) as error:
        if os.environ.get("SURGECOLLAPSE_TRACEBACK"):
            raise
        return _fail(_one_line(error), MISTAKE)
    return int(outcome or 0)


def _given(flags: Any) -> dict[str, Any]:
    """The flags that were given, as configuration values."""
    values = {} if flags is None else {k: v for k, v in flags.model_dump().items() if v is not None}
    if "widths" in values:
        try:
            values["widths"] = tuple(int(width) for width in values["widths"].split(",") if width.strip())
        except ValueError as error:
            raise ConfigError(f"widths = {values['widths']!r}: expected whole numbers like 256,256") from error
    if "policy_options" in values:
        try:
            values["policy_options"] = json.loads(values["policy_options"])
        except json.JSONDecodeError as error:
            raise ConfigError(f'policy_options is no JSON ({error}): expected {{"name": value}}') from error
        except RecursionError as error:
            raise ConfigError('policy_options are nested too deeply: expected {"name": value}') from error
    return values


def _free(folder: Path) -> Path:
    """The folder itself if it is not there yet, else the first free one of its numbered names."""
    number = 2
    candidate = folder
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate


def _tell(result: RunResult) -> int:
    if result.status == "interrupted":
        _say(f"stopped after step {result.step}, nothing is lost; go on with:")
        _say(f"  surgecollapse run --resume {result.directory}")
        return INTERRUPTED
    _table({result.directory.name: result})
    _say(f"run: {result.directory}")
    _say(f"for the report: surgecollapse report {result.directory}")
    return 0


def _table(results: dict[str, RunResult]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    from surgecollapse.lab.report.summary import readable_bytes

    # Without vertical lines it fits 80 columns.
    headings = ("test accuracy", "sparsity", "mean\ndensity", "size", "time", "inter-\nventions")
    table = Table(Column("run", overflow="fold"), *headings, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, result in results.items():
        facts = result.summary
        table.add_row(
            name,
            f"{facts['accuracy']:.2%}",
            f"{facts['sparsity']:.1%}",
            f"{facts['mean_density']:.3f}" if "mean_density" in facts else "–",
            readable_bytes(facts["bytes_sparse"]),
            f"{facts['seconds']:.1f} s",
            str(facts["interventions"]),
        )
    Console().print(table)


def _export_table(form: str, outcome: Exported) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from surgecollapse.lab.report.summary import readable_bytes

    headings = ("dense", "written", "non-zeros\n+ 1 bit each", "largest\ndiff.", "accuracy\nbefore", "after")
    table = Table("format", *headings, "speed-up", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    sizes = [readable_bytes(size) for size in (outcome.dense, outcome.bytes, outcome.bound)]
    accuracies = [f"{accuracy:.2%}" for accuracy in outcome.accuracy]
    speedup = "–" if outcome.speedup is None else f"{outcome.speedup:.2f}×"
    table.add_row(form, *sizes, f"{outcome.max_difference:.1e}", *accuracies, speedup)
    Console().print(table)


def _one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error.__cause__, pydantic.ValidationError):
        return explain(error.__cause__)
    if isinstance(error, ModuleNotFoundError):
        from surgecollapse.lab.exporters import TRACKERS

        extras = {"safetensors": "export", **{package: name for name, package in TRACKERS.items()}}
        extra = extras.get(str(error.name), "onnx" if str(error.name).startswith("onnx") else "plots")
        return f"{error.name} is not installed: pip install 'surgecollapse[{extra}]'"
    if isinstance(error, UnusedCliTokensError):
        return f"nothing is known to do with {' '.join(error.unused_tokens or [])}: see --help"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _note(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _fail(line: str, code: int) -> int:
    sys.stderr.write(f"surgecollapse: {line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
