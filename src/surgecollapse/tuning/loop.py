"""Tuning of any training loop from Python: thin over Optuna."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import optuna
except ModuleNotFoundError as error:
    message = "tuning needs Optuna: install the extra, pip install 'surgecollapse[tune]'"
    raise ModuleNotFoundError(message, name=error.name) from error

from surgecollapse.errors import one_line
from surgecollapse.events import Measurement, Reading
from surgecollapse.tuning.samplers import directions_of, make_pruner, make_sampler
from surgecollapse.tuning.space import draw, grid, parse_space, points
from surgecollapse.tuning.storage import REASON, counted_trials, open_study, requeue_lost, sign

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from surgecollapse.events import Event

RECORDED = (ValueError, ArithmeticError, RuntimeError, MemoryError, OSError)
"""Errors of one trial's settings, its memory or its files: the trial is recorded as failed, and the study goes on.
Others (``AttributeError``, ``TypeError``, ``KeyError`` …) are mistakes in the objective, and end :func:`tune`."""
MOST_POINTS = 10_000
"""Largest grid."""


def tune(
    objective: Callable[[Trial], float | Sequence[float]],
    space: Mapping[str, Any],
    *,
    trials: int | None = None,
    minutes: float | None = None,
    direction: str | Sequence[str] = "maximize",
    sampler: str | BaseSampler = "tpe",
    pruner: str | BasePruner = "none",
    storage: str | Path | None = None,
    name: str = "tuning",
    start: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
) -> Study:
    """Search for the best settings of any training loop, with Optuna.

    The settings of a trial are drawn before the objective is called, and lie in ``trial.params``. A trial whose value
    is not finite is recorded as pruned, one that raises an error of :data:`RECORDED` as failed. Each has its reason in
    the user attribute ``reason``; the study goes on. Called again with the same storage and name it goes on where it
    stopped, also after a kill: ``trials`` counts those that are there.

    Args:
        objective: trains with ``trial.params`` and returns one number, or one for each direction. It may report and
            stop early as in Optuna, or through :class:`~surgecollapse.tuning.loop.TrialPruning`.
        space: settings by name: ``"0.8..0.98"``, ``"1e-4..1e-2:log"``, ``"0.1..0.5:step=0.1"``, ``"16..256"`` (whole
            numbers), ``"rigl,gmp"`` or a list of choices, or a distribution of Optuna; the grammar is that of
            :mod:`surgecollapse.tuning.space`. A choice that is a list arrives as JSON text.
        trials: how many the study has at the end; by default 50, or without limit where ``minutes`` is given.
        minutes: time after which no trial is begun.
        direction: ``maximize`` or ``minimize``; a sequence for several objectives.
        sampler: ``tpe``, ``gp``, ``cmaes``, ``grid``, ``random``, or a sampler of Optuna.
        pruner: ``none``, ``median``, ``hyperband``, or a pruner of Optuna.
        storage: path of a journal, or the address of a database; by default the study lies in memory.
        name: of the study.
        start: settings to try first.
        seed: of the sampler.

    Returns:
        Optuna's study: ``study.best_params``, ``study.best_trials`` and all else.

    Raises:
        ValueError: for a space, a sampler, a pruner or a storage that cannot be used.

    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study = tune(lambda trial: -((trial.params["x"] - 3) ** 2), {"x": "0.0..10.0:step=1.0"}, sampler="grid")
    >>> study.best_params, len(study.trials)
    ({'x': 3.0}, 11)
    """
    if trials is not None and trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    drawn, directions = parse_space(space), directions_of(direction)
    known = _with_new_draws(storage, name, seed)
    study = open_study(
        storage,
        name,
        directions,
        make_sampler(sampler, drawn, objectives=len(directions), seed=known) if isinstance(sampler, str) else sampler,
        make_pruner(pruner, objectives=len(directions)) if isinstance(pruner, str) else pruner,
    )
    requeue_lost(study)
    enqueue(study, [checked_start(drawn, settings) for settings in start])
    most = trials if trials is not None or minutes is not None else 50
    if sampler == "grid":
        enqueue(study, shuffled_grid(drawn, seed))
        left = len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)))
        whole = len(counted_trials(study)) + left
        most = whole if most is None else min(most, whole)
    remaining = None if most is None else most - len(counted_trials(study))
    if remaining is None or remaining > 0:
        watched = _Watched(objective, drawn, len(directions))
        timeout = None if minutes is None else 60 * minutes
        study.optimize(watched, n_trials=remaining, timeout=timeout, catch=RECORDED)
    return study


def _with_new_draws(storage: str | Path | None, name: str, seed: int) -> int:
    """The sampler's seed: of a study that goes on, another than before, or it would draw the same again."""
    if storage is None or ("://" not in str(storage) and not Path(storage).exists()):
        return seed
    from surgecollapse.tuning.storage import open_storage

    there = {found.study_name: found.n_trials for found in optuna.get_all_study_summaries(open_storage(storage))}
    return seed + there.get(name, 0)


def enqueue(study: Study, settings: Sequence[Mapping[str, Any]]) -> None:
    """Put settings into the queue of a study that were never there."""
    there = {_key(trial.system_attrs.get("fixed_params", trial.params)) for trial in study.get_trials(deepcopy=False)}
    for values in settings:
        if _key(values) not in there:
            study.enqueue_trial(dict(values))


def _key(settings: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((name, repr(value)) for name, value in settings.items())


def shuffled_grid(space: Mapping[str, BaseDistribution], seed: int) -> list[dict[str, Any]]:
    """Every combination, in an order by which the first ones are no corner of the space.

    Raises:
        ValueError: if there are more than :data:`MOST_POINTS`.
    """
    count = math.prod(len(points(domain)) for domain in space.values())
    if count > MOST_POINTS:
        raise ValueError(
            f"the grid has {count:,} points, more than {MOST_POINTS:,}: set wider steps (:step=0.1), or "
            "choose the sampler tpe"
        )
    combinations = grid(space)
    random.Random(seed).shuffle(combinations)
    return combinations


def checked_start(space: Mapping[str, BaseDistribution], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to try first, all of which the space must hold.

    Raises:
        ValueError: for a setting that is not searched, or a value outside its range.
    """
    from surgecollapse.errors import one_of

    for name, value in settings.items():
        domain = space[one_of("searched setting", name, list(space))]
        try:
            inside = domain._contains(domain.to_internal_repr(value))
        except (ValueError, TypeError):
            inside = False
        if not inside:
            raise ValueError(f"start: {name} = {value!r} is outside of what is searched, {domain}")
    return dict(settings)


class _Watched:
    """Draws the settings, calls the objective, and writes down why a trial has no value."""

    def __init__(
        self, objective: Callable[[Trial], Any], space: Mapping[str, BaseDistribution], objectives: int
    ) -> None:
        self._objective, self._space, self._objectives = objective, space, objectives

    def __call__(self, trial: Trial) -> Any:
        sign(trial)
        for name, domain in self._space.items():
            draw(trial, name, domain)
        try:
            values = self._objective(trial)
        except RECORDED as error:
            trial.set_user_attr(REASON, one_line(error))
            raise
        found = values_of(values, self._objectives)
        wrong = [value for value in found if not math.isfinite(value)]
        if wrong:
            trial.set_user_attr(REASON, f"the objective is {wrong[0]}: training diverged, or nothing was measured")
            raise optuna.TrialPruned
        return found


def values_of(values: Any, objectives: int) -> list[float]:
    """What an objective returned, as so many floats.

    Raises:
        TypeError: if it is something else.

    >>> values_of(0.5, 1), values_of((0.9, 0.1), 2)
    ([0.5], [0.9, 0.1])
    """
    found = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    expected = "a number" if objectives == 1 else f"{objectives} numbers"
    try:
        numbers = [float(value) for value in found]
    except (TypeError, ValueError) as error:
        raise TypeError(f"the objective returned {values!r}: expected {expected}; return the value to tune") from error
    if len(numbers) != objectives:
        raise TypeError(f"the objective returned {len(numbers)} values: expected {expected}, one for each direction")
    return numbers


class TrialPruning:
    """Reports to a trial how training goes, and stops a trial that the study's pruner gives up.

    As a recorder of a controller it reports a number of each reading, or a measurement by its name. Called by a loop,
    it reports any number. That may be one of the ``Trainer`` of transformers or of Lightning (see the how-to on
    tuning)::

        controller = attach(model, optimizer, ..., recorders=[TrialPruning(trial, "loss")])  # of each reading
        pruning = TrialPruning(trial)
        pruning(step, accuracy)  # of the loop

    Args:
        trial: Optuna's.
        metric: a field of :class:`~surgecollapse.events.Reading` (``entropy``, ``on_off``, ``loss``, ``grad_norm``,
            ``sparsity``), or the name of a :class:`~surgecollapse.events.Measurement`; ``None`` where only the loop
            reports. It must be what the study's direction is about.

    Raises:
        optuna.TrialPruned: from the optimizer's step or the call, where the pruner says so. Optuna takes it as the end
            of the trial; leave the controller's ``with`` block, or ``detach()``, as at any error.

    >>> study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=1.0))
    >>> pruning = TrialPruning(study.ask(), "loss")
    >>> pruning.record(Reading(step=50, loss=0.5))
    >>> pruning.record(Reading(step=100, loss=2.0))
    Traceback (most recent call last):
    ...
    optuna.exceptions.TrialPruned: stopped by the pruner after step 100 at 2
    """

    def __init__(self, trial: Trial, metric: str | None = None) -> None:
        self._trial, self._metric = trial, metric

    def record(self, event: Event) -> None:
        """Report an event, if it has the number."""
        value: Any = None
        if isinstance(event, Measurement) and event.name == self._metric and event.layer is None:
            value = event.value
        elif isinstance(event, Reading) and self._metric in Reading.__slots__:
            value = getattr(event, self._metric)
        if isinstance(event, Measurement | Reading) and isinstance(value, int | float) and math.isfinite(value):
            self(event.step, value)

    def __call__(self, step: int, value: float) -> None:
        """Report a number after a step."""
        self._trial.report(value, step)
        if self._trial.should_prune():
            reason = f"stopped by the pruner after step {step} at {value:g}"
            self._trial.set_user_attr(REASON, reason)
            raise optuna.TrialPruned(reason)
