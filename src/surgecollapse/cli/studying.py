"""``study``: the questions that this library was made for, each with its answer."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from surgecollapse.cli.comparison import typed
from surgecollapse.cli.output import INTERRUPTED, MISTAKE, fail, say


def study(
    name: str | None = None,
    /,
    *,
    quick: bool = False,
    jobs: int = 1,
    out: Path | None = None,
    data_dir: Path | None = None,
) -> int:
    """Run a study and write its page. Without a name: list all studies.

    What is finished is kept: the same command goes on where it stopped, on any machine that has the folder.

    Args:
        name: Which one.
        quick: A small form that takes seconds and shows that everything works; its figures mean nothing.
        jobs: Processes of one thread each; 0 runs all in this one.
        out: Folder of rows, page and plot. Default: runs/study-NAME, or runs/study-NAME-quick.
        data_dir: Folder of data files, for studies whose data no installed package holds: kjv.txt, shakespeare.txt,
            u.data (MovieLens-100k), electricity.csv (Elec2).
    """
    from surgecollapse.compare.display import for_terminal
    from surgecollapse.errors import unknown
    from surgecollapse.studies import registered
    from surgecollapse.studies.local_data import VARIABLE
    from surgecollapse.studies.session import run_study

    studies = registered()
    if name is None:
        for each in studies.values():
            say(f"{each.name:<14} {each.question}")
        return 0
    if name not in studies:
        raise ValueError(unknown("study", name, studies))
    if jobs < 0:
        return fail(f"--jobs must be at least 0, got {jobs}", MISTAKE)
    if data_dir is not None:
        if not data_dir.is_dir():
            return fail(f"--data-dir {data_dir} is not a folder", MISTAKE)
        os.environ[VARIABLE] = str(data_dir.resolve())  # processes of the study inherit it
    folder = out or Path("runs") / f"study-{name}{'-quick' if quick else ''}"
    command = shlex.join(["surgecollapse", *typed])
    outcome = run_study(studies[name], folder, quick=quick, jobs=jobs, command=command, display=for_terminal())
    say(f"{outcome.done} of {outcome.total} runs done: {outcome.page}")
    if outcome.status == "interrupted":
        say("stopped, what is finished is kept; go on with the same command")
        return INTERRUPTED
    for run, error in outcome.failures.items():
        fail(f"{run}: {error}", 1)
    return 1 if outcome.failures else 0
