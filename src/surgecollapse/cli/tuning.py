"""``tune``: search for the settings of a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from surgecollapse.cli import comparison
from surgecollapse.cli.flags import TuneFlags, arguments, values_of
from surgecollapse.cli.output import INTERRUPTED, fail, say
from surgecollapse.cli.training import with_task
from surgecollapse.errors import ConfigError
from surgecollapse.lab.config import read_layer
from surgecollapse.lab.config.experiments import experiments

if TYPE_CHECKING:
    from surgecollapse.tuning.search import Outcome, Search

_FIRST = Group("Search", sort_key=0)


def tune(
    task: str | None = None,
    /,
    *,
    search: Annotated[list[str] | None, Parameter(group=_FIRST, consume_multiple=True, negative="")] = None,
    space: Annotated[Path | None, Parameter(group=_FIRST)] = None,
    objective: Annotated[str, Parameter(group=_FIRST)] = "accuracy",
    trials: Annotated[int | None, Parameter(group=_FIRST)] = None,
    minutes: Annotated[float | None, Parameter(group=_FIRST)] = None,
    flops: Annotated[float | None, Parameter(group=_FIRST)] = None,
    seeds: Annotated[int, Parameter(group=_FIRST)] = 1,
    fresh: Annotated[int, Parameter(group=_FIRST)] = 5,
    sampler: Annotated[str, Parameter(group=_FIRST)] = "tpe",
    pruner: Annotated[str, Parameter(group=_FIRST)] = "none",
    workers: Annotated[int | None, Parameter(group=_FIRST)] = None,
    storage: Annotated[str | None, Parameter(group=_FIRST)] = None,
    sampler_seed: Annotated[int, Parameter(group=_FIRST)] = 0,
    config: Annotated[Path | None, Parameter(group=_FIRST)] = None,
    out: Annotated[Path | None, Parameter(group=_FIRST)] = None,
    data: Annotated[str | None, Parameter(group=_FIRST)] = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", group=_FIRST, negative="")] = None,
    flags: Annotated[TuneFlags | None, Parameter(name="*")] = None,
) -> int:
    """Search for the best settings of a run, and train them again on fresh seeds.

    The search sees training and validation data alone. What is finished is kept: the same command goes on where it
    stopped, also after a kill.

    Args:
        task: What to learn, a published experiment, or a Python file of your own, as in `surgecollapse run`.
        search: What is searched: NAME=LOW..HIGH, with :log or :step=S behind it, NAME=A,B,C, or a NAME alone, whose
            range is the library's. Example: --search sparsity=0.8..0.98 lr=1e-4..1e-2:log policy=rigl,gmp policy.floor.
        space: TOML file of the same.
        objective: Comma-separated: accuracy, loss, bits_per_character, robust_accuracy, latency, density, mean_density,
            flops_training, flops_inference, bytes, seconds, steps_to_grok; of the validation set. NAME:min or NAME:max
            turns one round.
        trials: How many the study has at the end. Default: 50, or no limit with --minutes or --flops.
        minutes: Time after which no trial is begun.
        flops: Floating-point operations of training after which no trial is begun, as in 1e15.
        seeds: Runs of each trial, on the same seeds for all trials; the objective is their mean.
        fresh: Seeds on which the best settings and the untuned ones are trained at the end; 0: none.
        sampler: tpe, gp (Gaussian process), cmaes, grid or random.
        pruner: none, median or hyperband (on the first seed's evaluations), or wilcoxon (over five seeds or more).
        workers: Processes of one thread each. Default: the cores that may be used.
        storage: Address of a database that several hosts share, as in postgresql://user@host/name or
            sqlite:///study.db. Default: a journal in the folder.
        sampler_seed: Seed of the sampler.
        config: TOML file with any of the keys below, and `task`.
        out: Folder of the study, its rows and its page. Default: runs/tune-TASK.
        data: Your own data, as file.py:name or package.module:name.
        set_: Argument of your own data or model that stays as it is, as in --set model.width=256.
        flags: Keys of the configuration that stay as they are.
    """
    from surgecollapse.compare.display import for_terminal
    from surgecollapse.record.machine import cores
    from surgecollapse.tuning.objectives import choose_objectives
    from surgecollapse.tuning.search import Budget, Search
    from surgecollapse.tuning.settings import RunSpace

    import optuna  # isort: skip

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values = {**values_of(flags), **arguments(set_ or []), **({} if data is None else {"data": data})}
    layers = [*([] if config is None else [read_layer(config)]), with_task(task, values, config)]
    found = RunSpace(layers, _domains(search or [], space))
    name = task if task in experiments() else found.base.data.label
    bounded = trials is not None or minutes is not None or flops is not None
    made = Search(
        found,
        choose_objectives(objective),
        out or Path("runs") / f"tune-{name}",
        budget=Budget(trials=trials if bounded else 50, minutes=minutes, flops=flops),
        seeds=seeds,
        fresh=fresh,
        sampler=sampler,
        pruner=pruner,
        workers=workers or cores(),
        storage=storage,
        name=name,
        seed=sampler_seed,
    )
    return _tell(made, made.run(for_terminal()))


def _domains(words: list[str], space: Path | None) -> dict[str, Any]:
    """What is searched: a file's settings under those of the command line, whose ranges may be the library's."""
    from surgecollapse.tuning.priors import prior
    from surgecollapse.tuning.space import parse_words, read_space

    given: dict[str, Any] = {} if space is None else read_space(space)
    given |= parse_words(words)
    if not given:
        raise ConfigError("nothing to search: give --search NAME=LOW..HIGH, as in --search lr=1e-4..1e-2:log")
    return {name: prior(name) if domain is None else domain for name, domain in given.items()}


def _tell(search: Search, outcome: Outcome) -> int:
    from surgecollapse.tuning.page import run_command, verdict, write_result
    from surgecollapse.tuning.storage import REASON

    if outcome.status == "interrupted":
        say("stopped, what is finished is kept; go on with the same command")
        return INTERRUPTED
    command = shlex.join(["surgecollapse", *comparison.typed])
    written = write_result(search, outcome, command)
    default = next((finalist for finalist in outcome.finalists if finalist.number is None), None)
    for finalist in outcome.finalists:
        for objective in search.objectives:
            said = verdict(finalist, default, objective)
            test = f", test {_shown(said.test)}" if said.test else ""
            say(f"{finalist.name}: {objective.title} {_shown(said.validation)}{test} on {said.seeds} fresh seeds")
    for name, path in written.items():
        say(f"page: {path}" if name == "page" else f"{name}: {run_command(path)}")
    if outcome.status == "waiting":
        say("other processes are still at trials of this study: repeat the command when they are done, for the page")
    if not outcome.study.get_trials(deepcopy=False):
        return fail("no trial was begun: raise --trials, --minutes or --flops", 1)
    for error in dict.fromkeys(outcome.failures.values()):
        count = sum(other == error for other in outcome.failures.values())
        fail(f"{count} failed: {error}", 1)
    if outcome.status == "complete" and not any(t.state.name == "COMPLETE" for t in outcome.study.get_trials(False)):
        reasons = [t.user_attrs.get(REASON, "no reason") for t in outcome.study.get_trials(False)]
        return fail(f"no trial is complete, so there is nothing to choose from; the last one: {reasons[-1]}", 1)
    return 0 if outcome.finalists or search.fresh == 0 or outcome.status == "waiting" else 1


def _shown(interval: Any) -> str:
    from surgecollapse.compare.table import plus_minus

    return "–" if interval is None else plus_minus(interval, digits=4)
