"""Where a study lies, and how one that was killed goes on: nothing lost, nothing twice.

By default it is a journal, one file that Optuna appends to. A process that is killed in the middle may leave behind a
line that is cut off and trials that no process runs. The line is removed before the file is read. The trials are
recorded as failed, and enqueued again with the same settings.
"""

from __future__ import annotations

import math
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from surgecollapse.record import heartbeat
from surgecollapse.record.whole_files import drop_cut_off

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

LOCK_SECONDS = 5
"""Age at which the lock of a journal is taken to be that of a process that was killed; an entry takes milliseconds."""
STALE_SECONDS = 300.0
"""Age of the last sign of a process on another machine at which its trials are given to others."""
PROCESS, REASON, RETRY = "process", "reason", "retry_of"
"""User attributes of a trial: who runs it, why it has no value, and which lost trial it repeats."""
LOST = "its process was killed; its settings are enqueued again"


def open_storage(where: str | Path | None) -> BaseStorage:
    """The storage that a path or an address names.

    Args:
        where: a path of a journal; an address with ``://`` of a database (``sqlite:///study.db``,
            ``postgresql://user@host/name``); ``None`` for the memory of this process.

    Raises:
        ValueError: if a file is not a journal, or a database cannot be reached.
        ModuleNotFoundError: if the database's driver is not installed.
    """
    if where is None:
        return optuna.storages.InMemoryStorage()
    if "://" in str(where):
        return _database(str(where))
    path = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(str(path), grace_period=LOCK_SECONDS)
    if path.exists():
        lock.acquire()
        try:
            with path.open("rb+") as file:
                drop_cut_off(file)
        finally:
            lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a journal of a study ({error}): choose another file, or remove it") from error


def _database(address: str) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    shown = address.rpartition("@")[2]  # without a password
    if address.startswith("postgresql://") and find_spec("psycopg") is not None:
        # SQLAlchemy before 2.1 would look for the predecessor of psycopg 3.
        address = address.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
    except SQLAlchemyError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ValueError(f"cannot open the storage {shown} ({reason}): start it, or correct the address") from error
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the storage {shown} needs {error.name}: pip install 'surgecollapse[postgresql]'", name=error.name
        ) from error


def open_study(
    where: str | Path | BaseStorage | None,
    name: str,
    directions: Sequence[StudyDirection],
    sampler: BaseSampler,
    pruner: BasePruner,
) -> Study:
    """Make a study, or go on with the one of that name.

    Raises:
        ValueError: if the study there has other objectives.
    """
    storage = open_storage(where) if where is None or isinstance(where, str | Path) else where
    study = optuna.create_study(
        storage=storage, study_name=name, directions=list(directions), sampler=sampler, pruner=pruner,
        load_if_exists=True,
    )  # fmt: skip
    if study.directions != list(directions):
        there, wanted = (", ".join(d.name.lower() for d in found) for found in (study.directions, directions))
        raise ValueError(
            f"study {name!r} is there with the directions {there}, not {wanted}: choose another name or storage"
        )
    return study


def sign(trial: Trial) -> None:
    """Say in a trial which process runs it."""
    trial.set_user_attr(PROCESS, heartbeat.beat())


def give_sign(study: Study) -> None:
    """Say in the study that this process lives; to be repeated well within :data:`STALE_SECONDS`."""
    beat = heartbeat.beat()
    study.set_user_attr(_key(beat), beat)


def _key(beat: dict[str, Any]) -> str:
    return f"{PROCESS} {beat.get('place')} {beat.get('pid')}"


def requeue_lost(study: Study, mine: Collection[int] | None = None, *, alone: bool = False) -> int:
    """Record trials that no process runs any more as failed, and enqueue them again.

    A trial is lost if its process is gone from this machine, or has not been heard of for :data:`STALE_SECONDS` on
    another. It is enqueued first and failed second: whenever this is cut off, it is repeated once and not twice.

    Args:
        study: the study.
        mine: numbers of the trials that this process is at, so that others that it began are lost; ``None`` if it does
            not know.
        alone: whether no other process can use the study, so that all trials but ``mine`` are lost.

    Returns:
        How many were lost.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    lost = [
        trial
        for trial in running
        if _is_lost(study, trial) or (mine is not None and trial.number not in mine and (alone or _is_own(trial)))
    ]
    for trial in lost:
        repeat(study, trial)
    return len(lost)


def repeat(study: Study, trial: FrozenTrial) -> None:
    """Enqueue the settings of a running trial again, unless that was done before, and record it as failed."""
    if trial.number not in {other.user_attrs.get(RETRY) for other in study.get_trials(deepcopy=False)}:
        again = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(again, user_attrs={RETRY: trial.number})
    fail(study, trial, LOST)


def fail(study: Study, trial: FrozenTrial, reason: str) -> None:
    """Record that a trial has no value, and why."""
    study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _is_lost(study: Study, trial: FrozenTrial) -> bool:
    beat = trial.user_attrs.get(PROCESS)
    if not isinstance(beat, dict):
        # Killed between two writes, or begun a moment ago by another process that is about to sign it.
        begun = trial.datetime_start
        return begun is None or (time.time() - begun.timestamp()) > LOCK_SECONDS
    later = study.user_attrs.get(_key(beat))
    return heartbeat.gone(later or beat, STALE_SECONDS if later else math.inf) is not None


def _is_own(trial: FrozenTrial) -> bool:
    """Whether this process began a trial."""
    beat, own = trial.user_attrs.get(PROCESS), heartbeat.beat()
    return isinstance(beat, dict) and all(beat.get(key) == own[key] for key in ("pid", "place"))


def counted_trials(study: Study) -> list[FrozenTrial]:
    """Trials that count against a budget: all that ended, but for those that were lost and are repeated."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=ended)
    return [trial for trial in trials if trial.user_attrs.get(REASON) != LOST]


def reached(trial: FrozenTrial, place: int = 0) -> float:
    """One value of a complete trial."""
    assert trial.values is not None
    return float(trial.values[place])
