"""``study``: the questions that this library was made for, each with its answer."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from surgecollapse.cli.comparison import typed
from surgecollapse.cli.output import INTERRUPTED, MISTAKE, fail, say, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from surgecollapse.studies import Study


def study(
    name: str | None = None,
    /,
    *,
    quick: bool = False,
    jobs: int = 1,
    out: Path | None = None,
    data_dir: Path | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    plan: Annotated[bool, Parameter(negative="")] = False,
    budget_minutes: float | None = None,
    full: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run a study and write its page. Without a name: list all studies.

    What is finished is kept: the same command goes on where it stopped, on any machine that has the folder.

    Args:
        name: Which one.
        quick: A small form that takes seconds and shows that everything works; its figures mean nothing.
        jobs: Processes of one thread each; 0 runs all in this one.
        out: Folder of rows, page and plot. Default: runs/study-NAME, or runs/study-NAME-quick. With --all or --plan and
            no name: the folder of one folder for each study.
        data_dir: Folder of data files, for studies whose data no installed package holds. Texts: kjv.txt and
            shakespeare.txt. Tables: u.data (MovieLens-100k), electricity.csv (Elec2). Images: the four IDX files of
            MNIST. Molecules: gdb9.sdf with gdb9.sdf.csv (QM9). Graphs: cora.content with cora.cites, or ind.cora.*.
        all_: Run all studies, one after the other, in the order of their worth.
        plan: Run nothing; say how many runs there are, how many are done, and the minutes of one core that are left.
        budget_minutes: Begin no further run after so many minutes; those under way are finished.
        full: With more seeds, sizes and settings than the published page rests on.
    """
    from surgecollapse.errors import unknown
    from surgecollapse.studies import by_worth, registered
    from surgecollapse.studies.local_data import VARIABLE

    studies = registered()
    if name is not None and name not in studies:
        raise ValueError(unknown("study", name, studies))
    if name is not None and all_:
        return fail(f"--all is of all studies, and {name} is one: leave one of them out", MISTAKE)
    if jobs < 0:
        return fail(f"--jobs must be at least 0, got {jobs}", MISTAKE)
    if quick and full:
        return fail("--quick is the small form and --full the large one: leave one of them out", MISTAKE)
    if budget_minutes is not None and not budget_minutes > 0:
        return fail(f"--budget-minutes must be positive, got {budget_minutes:g}", MISTAKE)
    if data_dir is not None:
        if not data_dir.is_dir():
            return fail(f"--data-dir {data_dir} is not a folder", MISTAKE)
        os.environ[VARIABLE] = str(data_dir.resolve())  # processes of the study inherit it
    chosen = by_worth() if name is None else [studies[name]]
    folders = {each.name: _folder(each.name, out, quick, single=name is not None) for each in chosen}
    if plan:
        return _plan(chosen, folders, quick, full)
    if name is None and not all_:
        for each in studies.values():
            say(f"{each.name:<14} {each.question}")
        return 0
    until = None if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    return _run_all(chosen, folders, {"quick": quick, "full": full, "jobs": jobs, "until": until})


def _folder(name: str, out: Path | None, quick: bool, *, single: bool) -> Path:
    if out is not None:
        return out if single else out / name
    return Path("runs") / f"study-{name}{'-quick' if quick else ''}"


def _plan(chosen: Sequence[Study], folders: Mapping[str, Path], quick: bool, full: bool) -> int:
    from surgecollapse.studies.session import left_of

    lines, unknown, minutes = [], 0, 0.0
    for each in chosen:
        left = left_of(each, folders[each.name], quick=quick, full=full)
        unknown += left.minutes is None
        minutes += left.minutes or 0.0
        estimate = "–" if left.minutes is None else f"{left.minutes:,.0f}"
        lines.append([each.name, f"{left.total:,}", f"{left.done:,}", f"{left.total - left.done:,}", estimate])
    write_table(["study", "runs", "done", "left", "core-minutes left"], lines)
    if len(chosen) > 1:
        rest = f", without the {unknown} that have no run yet" if unknown else ""
        say(f"{minutes:,.0f} core-minutes in all{rest}")
    return 0


def _run_all(chosen: Sequence[Study], folders: Mapping[str, Path], options: Mapping[str, Any]) -> int:
    worst, until = 0, options["until"]
    for each in chosen:
        code = _run(each, folders[each.name], options)
        if code == INTERRUPTED:
            return code
        worst = max(worst, code)
        if until is not None and time.monotonic() >= until:
            break
    return worst


def _run(study: Study, folder: Path, options: Mapping[str, Any]) -> int:
    from surgecollapse.compare.display import for_terminal
    from surgecollapse.studies.session import run_study

    command = shlex.join(["surgecollapse", *typed])
    outcome = run_study(study, folder, command=command, display=for_terminal(), **options)
    say(f"{outcome.done} of {outcome.total} runs done: {outcome.page}")
    if outcome.status == "interrupted":
        say("stopped, what is finished is kept; go on with the same command")
        return INTERRUPTED
    for run, error in outcome.failures.items():
        fail(f"{run}: {error}", 1)
    if outcome.status == "stopped":
        say("the time is up, what is finished is kept; go on with the same command")
    return 1 if outcome.failures else 0
