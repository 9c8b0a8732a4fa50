"""``report``, ``export`` and ``analyze``: what becomes of a finished run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from surgecollapse.cli.flags import words
from surgecollapse.cli.output import say, say_now, write_table
from surgecollapse.errors import ConfigError
from surgecollapse.lab.references import parts_beside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgecollapse.report.export_run import Exported


def report(
    *runs: Path,
    out: Path | None = None,
    to: str = "html",
    follow: bool = False,
    include_modified: bool = False,
) -> int:
    """Write the report of one run, or of several to compare, as one HTML page and PNGs, or for a tracker.

    Args:
        runs: Run directories.
        out: Folder of the report. Default: report/ in the run, or beside the runs if there are several.
        to: html, tensorboard (event files in the run), trackio (its local project surgecollapse), wandb (offline files
            beside the run) or mlflow (mlruns beside the run). A package may offer further trackers.
        follow: Go on telling the tracker until the run ends.
        include_modified: Compare also runs that a user changed while they trained.
    """
    from surgecollapse.report import write_report

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
    if len(runs) > 1 and not include_modified:
        runs = _unmodified(runs)
    place = out or (runs[0] / "report" if len(runs) == 1 else runs[0].parent / "report")
    say(f"report: {write_report(runs, place)}")
    return 0


def export(
    run: Path,
    /,
    *,
    form: Annotated[Literal["sparse", "csr", "compact", "onnx", "2:4"], Parameter(name="--format")],
    out: Path | None = None,
    batch: int = 128,
    model: str | None = None,
    data: str | None = None,
    even_diverged: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write the net of a finished run as a file for use elsewhere, load it back and compare.

    Args:
        run: Run directory.
        form: sparse is a small file with the same values. With csr, linear layers are sparse rows where that is
            measured faster here. The form compact is a smaller dense net without its dead neurons, channels and heads,
            and onnx a file for onnxruntime and others. The form 2:4 is in half precision, if layers have the pattern of
            sparse tensor cores.
        out: The file. Default: in the folder export of the run.
        batch: Samples in the batch that speed is measured with.
        model: Of a run of a loop of your own, which has no config.toml: its net, as file.py:name. Its weights are the
            newest checkpoints/step-N.pt of the run.
        data: Its data, as file.py:name. Default: what the file of the model calls data.
        even_diverged: Export a run that has diverged, as long as its weights are finite.
    """
    from surgecollapse.report.export_run import export_run

    outcome = export_run(run, form, out=out, batch=batch, parts=parts_beside(model, data), even_diverged=even_diverged)
    _export_table(form, outcome)
    for note in outcome.notes:
        say(note)
    say(f"export: {outcome.path}")
    return 0


def analyze(
    *runs: Path,
    what: str | None = None,
    out: Path | None = None,
    samples: int = 512,
    times: int = 40,
    model: str | None = None,
    data: str | None = None,
) -> int:
    """Analyze runs from their checkpoints; write results, pictures and one page.

    For analyses over time, train with `--keep-checkpoints 0` and a small `--checkpoint-every`.

    Args:
        runs: Run directories. What compares nets compares the first with the others.
        what: Comma-separated analyses: cka, neural_collapse, heavy_tails, dimension, fourier, progress, information,
            universality, connectivity, surface, density, llc.
            Default: all that have something to say.
        out: Folder of the page. Default: analysis/ in the run, or beside the runs if there are several.
        samples: Rows of the data that nets are shown.
        times: Most checkpoints of a run that are looked at.
        model: Of runs of a loop of your own, which have no config.toml: their net, as file.py:name.
        data: Their data, as file.py:name. Default: what the file of the model calls data.
    """
    from surgecollapse.report.analyses import analyze as analyze_runs
    from surgecollapse.report.analyses.display import for_terminal, table

    parts = parts_beside(model, data)
    with for_terminal() as tell:
        outcome = analyze_runs(runs, words(what), out=out, samples=samples, times=times, tell=tell, parts=parts)
    table(outcome)
    say(f"analysis: {outcome.page}")
    return 0


def _to_tracker(name: str, runs: Sequence[Path], out: Path | None, *, follow: bool) -> int:
    """Write every run for a tracker; follow one until it ends, or whoever started this is gone."""
    from surgecollapse.trackers import export_to
    from surgecollapse.trackers.registry import check_tracker

    check_tracker(name, also=("html",))
    if follow and len(runs) > 1:
        raise ConfigError("--follow takes one run: start one command for each")
    parent = os.getppid()
    for folder in runs:
        own = name == "tensorboard" and len(runs) > 1 and out is not None
        place = out / folder.name if own and out is not None else out
        say_now(export_to(name, folder, place, until=(lambda: os.getppid() != parent) if follow else None))
    return 0


def _unmodified(runs: Sequence[Path]) -> tuple[Path, ...]:
    """The runs that no user changed while they trained; says which are left out."""
    from surgecollapse.record import RunStore

    kept = []
    for folder in runs:
        with RunStore(folder / "run.db") as store:
            if not store.modified_by_user:
                kept.append(folder)
                continue
        say(f"left out, since a user changed it while it trained (--include-modified takes it in): {folder}")
    if not kept:
        raise ConfigError("a user changed each of these runs while it trained: compare them with --include-modified")
    return tuple(kept)


def _export_table(form: str, outcome: Exported) -> None:
    from surgecollapse.report.summary import readable_bytes

    headings = (
        "dense",
        "written",
        "non-zeros\n+ 1 bit each",
        "largest\ndiff.",
        "accuracy\nbefore",
        "after",
        "speed-up",
    )
    sizes = [readable_bytes(size) for size in (outcome.dense, outcome.bytes, outcome.bound)]
    accuracies = [f"{accuracy:.2%}" for accuracy in outcome.accuracy]
    speedup = "–" if outcome.speedup is None else f"{outcome.speedup:.2f}×"
    write_table(("format", *headings), [(form, *sizes, f"{outcome.max_difference:.1e}", *accuracies, speedup)])
