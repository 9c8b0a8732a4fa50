"""``fork`` and ``twin``: a run branches off from another, and is trained again without an intervention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from surgecollapse.cli.output import say, write_table
from surgecollapse.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def fork(
    run: Path,
    /,
    *,
    at: int,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    name: str | None = None,
    seed: int | None = None,
) -> int:
    """Train a branch of a run: the same up to a step, then on with other settings. The run itself is left alone.

    Without --set and --seed, the branch is bitwise the run's own continuation.

    Args:
        run: Run directory, of a run that has ended or still trains.
        at: Completed steps at which the branch leaves. The nearest checkpoint before it is taken, and the steps between
            are trained again.
        set_: Key of the configuration that the branch has otherwise, as in --set lr=0.001; may be given many times.
        name: Name of the branch's directory, beside the run. Default: RUN-fork-at-STEP, numbered if that is taken.
        seed: Draw what is random from there on with this seed. Default: the run's own draws go on.
    """
    from surgecollapse.cli.training import tell_result
    from surgecollapse.lab.training.branching import fork as fork_run
    from surgecollapse.lab.training.progress import for_terminal

    out = None if name is None else beside(run, name)
    result = fork_run(run, at, out=out, changes=settings(set_ or []), seed=seed, progress=for_terminal())
    return tell_result(result)


def twin(run: Path, /, *, intervention: int | None = None, seeds: int = 1, name: str | None = None) -> int:
    """Train a run again without one intervention of a person, and say what that intervention bought.

    The twin starts from the state before the intervention, bit for bit; the other commands are repeated.

    Args:
        run: Run directory, of a run that a person changed while it trained.
        intervention: Id of the command that is left out, as the page and `send --json` show it. Default: the last one
            that is not a stop.
        seeds: Pairs of runs with and without it. The first is on the run's own random draws; with more, differences
            have a 95% interval.
        name: Name of the directory of the new runs and of twin.json, beside the run. Default: RUN-twin-ID.
    """
    from surgecollapse.compare.twin import RESULT
    from surgecollapse.compare.twin import twin as twin_of
    from surgecollapse.lab.training.progress import for_terminal

    out = None if name is None else beside(run, name)
    found = twin_of(run, intervention=intervention, seeds=seeds, out=out, progress=for_terminal())
    rows = [
        (
            part.name.replace("_", " "),
            f"{part.with_it:.4g}",
            f"{part.without:.4g}",
            f"{part.difference:+.4g}" + ("" if part.half is None else f" ± {part.half:.2g}"),
        )
        for part in found.final
    ]
    write_table(("at the end", "with it", "without it", "difference"), rows)
    for line in found.skipped:
        say(f"not repeated without it: {line}")
    say(found.sentence)
    say(f"twin: {found.directory / RESULT}")
    return 0


def settings(given: Sequence[str]) -> dict[str, Any]:
    """Keys and values of ``KEY=VALUE`` words; a value that is no JSON is a word.

    >>> settings(["lr=0.001", "run.until=grokked"])
    {'lr': 0.001, 'run.until': 'grokked'}
    """
    found: dict[str, Any] = {}
    for word in given:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {word}: expected KEY=VALUE, as in --set lr=0.001")
        if key in found:
            raise ConfigError(f"--set {key} is given twice: give it once")
        try:
            found[key] = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            found[key] = text
    return found


def beside(run: Path, name: str) -> Path:
    """The directory of a name beside a run."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(f"--name {name}: expected the name of a directory beside the run, without slashes")
    return (run if run.name not in ("", "..") else run.resolve()).with_name(name)
