"""One training run: from a configuration to a run directory, and on from its checkpoints, bit for bit."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.controller.command_loop import effective
from surgecollapse.lab.config import ConfigError
from surgecollapse.lab.references import FAULTS, fault_in, fingerprint
from surgecollapse.lab.training.checkpoint import latest_checkpoint, must_fit
from surgecollapse.lab.training.claim import claimed
from surgecollapse.lab.training.command_handlers import handlers
from surgecollapse.lab.training.evaluation import ENDED
from surgecollapse.lab.training.interrupt import Interrupt
from surgecollapse.lab.training.optim import loss_name
from surgecollapse.lab.training.progress import Progress, Silent
from surgecollapse.lab.training.replay import compare, repeat
from surgecollapse.lab.training.run_folder import (
    config_to_resume,
    explain_place,
    new_folder,
    new_record,
    refuse_changed,
    unwritable,
)
from surgecollapse.lab.training.summary import run_summary
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import CommandQueue, RunStore
from surgecollapse.torch_utils.distributed import Ranks
from surgecollapse.torch_utils.threads import torch_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Around = Callable[[Path], AbstractContextManager[Any]]

    from surgecollapse.lab.config import RunConfig

_ENDED = "ended"
_APART = 1_000_003
"""Between the seeds of two ranks."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended."""

    directory: Path
    status: str
    """``complete``, ``diverged`` (the weights or the test loss are not finite) or ``interrupted``."""
    step: int
    summary: dict[str, Any]
    """Final numbers; empty if the run was interrupted."""

    def __repr__(self) -> str:
        scores = [name for name in ("accuracy", "loss", "sparsity") if name in self.summary]
        known = [f"{name} {self.summary[name]:.4g}" for name in scores]
        return f"<RunResult: {', '.join([f'{self.directory} {self.status} at step {self.step}', *known])}>"


def train(
    config: RunConfig | None,
    out: str | Path,
    *,
    resume: bool = False,
    replay: str | Path | None = None,
    progress: Progress | None = None,
    around: Around = nullcontext,
    ranks: Ranks | None = None,
    test: bool = True,
    until: int | None = None,
) -> RunResult:
    """Train, recording everything in the directory ``out``.

    The run is a function of the configuration alone. It has its own generators, and leaves the global random state and
    the number of threads as they were. Ctrl-C or SIGTERM ends it cleanly after the step; a resumed run is bitwise the
    uninterrupted one.

    Args:
        config: the run; with ``resume``, ``None``, since the directory has it.
        out: the run directory; made if need be, and never one that holds a run already.
        resume: go on from the newest good checkpoint in ``out``.
        replay: a run directory whose configuration is taken, and whose interventions by people are repeated after the
            same steps: the weights become bitwise the same. Progress is told whether they did.
        progress: shows how it goes; by default nothing does.
        around: given the run directory, whose record is there, a context in which the run trains: whoever follows it.
        ranks: the processes that train the run together, see :func:`~surgecollapse.lab.training.processes.launched`;
            each calls this with the same arguments, and the first one records.
        test: ``False``, for tuning: the test set is put away before the first step, and what is called a test is one
            on the validation set. Such a run is not to be resumed.
        until: with ``resume``, a step at which to save and stop, as if interrupted.

    Returns:
        How it ended.

    Raises:
        FileExistsError: if ``out`` holds a run and ``resume`` is not set, or another process trains in it.
        FileNotFoundError: if there is nothing to resume or to replay, or data files are missing.
        ValueError: if the configuration cannot be used, checkpoints are damaged, or code of the user's own fails.
        RunStoreError: if the directory cannot be written.
    """
    folder, progress, ranks = Path(out), progress or Silent(), ranks or Ranks()
    if resume:
        config = config_to_resume(folder)
    if replay is not None:
        config = config_to_resume(Path(replay))
    if config is None:
        raise ConfigError("no configuration given: pass one, or resume a directory that holds a run")
    with _isolated(config, ranks.rank):
        try:
            if not ranks.first:
                return _take_part(config, folder, ranks, resume=resume)
            if not resume:
                return _begin(config, folder, progress, replay, around, ranks, test)
            with claimed(folder, progress.note):
                return _resume(config, folder, progress, around, ranks, until)
        except (MemoryError, *FAULTS) as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
                reason = "not enough memory for this run: make widths, batch_size or the data smaller"
                raise ConfigError(reason) from error
            found = fault_in(error, [config.data.task, config.model.name, config.run.loss])
            if found is None:
                raise
            raise ConfigError(found) from error
        finally:
            progress.stop()


def _begin(
    config: RunConfig,
    folder: Path,
    progress: Progress,
    replay: str | Path | None,
    around: Around,
    ranks: Ranks,
    test: bool,
) -> RunResult:
    """Start a run; one that fails before its first step leaves nothing behind."""
    with new_folder(folder, progress.note) as made:
        training = _training(config, folder, progress, ranks, test)
        with new_record(folder, config, training) as store:
            explain_place(folder, progress.note)
            if replay is not None:
                repeat(Path(replay), folder, store)
            try:
                result = _go_on(training, store, folder, progress, around)
            finally:
                made.kept = training.step > 0
            if replay is not None:
                progress.note(compare(Path(replay), folder, store))
            return result


def _training(config: RunConfig, folder: Path, progress: Progress, ranks: Ranks, test: bool = True) -> Training:
    """The training of a run, which does what people ask for."""
    training = Training(config, folder / "checkpoints", progress, ranks, test=test)
    training.command_loop.handlers.update(handlers(training))
    if config.run.loss == "auto":
        labels = "the labels are numbers" if training.data.y_train.is_floating_point() else "the labels are classes"
        progress.note(f"loss: {loss_name(config, training.data)}, as {labels}")
    return training


def _note_changes(store: RunStore, config: RunConfig, progress: Progress) -> None:
    """Say which files of the user's project have changed since the run began."""
    now = fingerprint([config.data.task, config.model.name, config.run.loss])
    for place, was in store.get("project", {}).items():
        if now.get(place) not in (None, was):
            progress.note(f"note: {place} has changed since the run began: it goes on with what is there now")


def _take_part(config: RunConfig, folder: Path, ranks: Ranks, *, resume: bool) -> RunResult:
    """Train a run that the first rank records; what this one would record is thrown away."""
    state = ranks.from_first(None) if resume else None
    if state == _ENDED:
        return RunResult(directory=folder, status="complete", step=0, summary={})
    training = _training(config, folder, Silent(), ranks)
    if state is not None:
        training.load_state_dict(state)
    with TemporaryDirectory() as place, RunStore(Path(place) / "run.db", mode="w") as store:
        return _go_on(training, store, Path(place), Silent(), nullcontext)


def _resume(
    config: RunConfig, folder: Path, progress: Progress, around: Around, ranks: Ranks, until: int | None
) -> RunResult:
    """Go on from the newest good checkpoint, or from the start if none was written."""
    with RunStore(folder / "run.db", mode="a") as store:
        status = store.get("status")
        if status in ENDED:
            progress.note(f"{folder} is {status} already")
            ranks.from_first(_ENDED)
            summary = store.get("summary", {})
            return RunResult(directory=folder, status=status, step=summary.get("steps", 0), summary=summary)
        _refuse_unfinished(store, folder, until)
        explain_place(folder, progress.note)
        _note_changes(store, config, progress)
        state = latest_checkpoint(folder / "checkpoints", progress.note)
        if state is not None:
            refuse_changed(config, state, folder)
        ranks.from_first(state)
        training = _training(config, folder, progress, ranks)
        if state is None:
            progress.note("no checkpoint was written yet: starting again from the first step")
            store.truncate_after(-1)
        else:
            with must_fit(folder / "checkpoints"):
                training.load_state_dict(state)
            store.truncate_after(training.step)
        return _go_on(training, store, folder, progress, around, until)


def _refuse_unfinished(store: RunStore, folder: Path, until: int | None) -> None:
    """Refuse a branch that was killed before it came to the step at which it leaves."""
    at = store.get("unfinished_branch")
    if at is not None and at != until:
        raise ConfigError(f"{folder} was to branch at step {at} and was cut off before: delete it and fork again")


def _open_queue(training: Training, folder: Path) -> None:
    """Take commands from now on, and repeat those that came after the checkpoint."""
    queue, command_loop = CommandQueue(folder / "run.db"), training.command_loop
    command_loop.step, command_loop.lenient = training.step, bool(training.store.get("lenient_replay"))
    command_loop.open(queue)
    again = [
        asked for asked in effective(queue.applied()) if asked.id > command_loop.last or asked.id in training.to_repeat
    ]
    command_loop.reject_all("the run was cut off before it came to it: ask again")
    command_loop.replay(training.ranks.from_first(again))


def _go_on(
    training: Training,
    store: RunStore,
    folder: Path,
    progress: Progress,
    around: Around,
    until: int | None = None,
) -> RunResult:
    store.set("status", "running")
    with around(folder), training.recorded(store):
        _open_queue(training, folder)
        status = "failed"
        try:
            with Interrupt() as interrupt:
                status = _loop(training, interrupt, progress, until)
        except OSError as error:
            raise unwritable(folder, error, way_out=f"free space, then go on with --resume {folder}") from error
        finally:
            store.set("status", status)
            training.command_loop.reject_all(f"the run is {status}: nothing can be changed")
            training.command_loop.close()
        return RunResult(directory=folder, status=status, step=training.step, summary=store.get("summary", {}))


def _loop(training: Training, interrupt: Interrupt, progress: Progress, until: int | None) -> str:
    progress.start(f"{training.config.data.label} {training.config.method.policy}", training.total, training.step)
    training.command_loop.interrupted = lambda: interrupt.requested
    if training.step:  # what is prunable is known after the first step
        training.answer()
    ended, _ = _agreed(training, interrupt)
    while not ended:
        if until is not None and training.step >= until:
            training.checkpoint()
            return "interrupted"
        training.advance()
        ended, stopped = _agreed(training, interrupt)
        if stopped:
            training.checkpoint()
            return "interrupted"
    scores = training.finish()
    if training.ranks.first:
        training.store.set("summary", run_summary(training, scores))
    training.checkpoint()
    return "diverged" if training.diverged else "complete"


def _agreed(training: Training, interrupt: Interrupt) -> tuple[bool, bool]:
    """Whether training has ended, as the first rank sees it, and whether any rank was interrupted."""
    ranks, ended, stopped = training.ranks, training.ended, interrupt.requested
    if ranks.alone:
        return ended, stopped
    ends, stops = ranks.totals([torch.tensor([float(ended and ranks.first), float(stopped)])])[0].tolist()
    return ends > 0, stops > 0


@contextmanager
def _isolated(config: RunConfig, rank: int) -> Iterator[None]:
    """Pin threads and the global random state (dropout draws from it) to the run, and give both back."""
    gpus = [0] if config.run.device == "cuda" and torch.cuda.is_available() else []
    with torch_threads(config.run.threads), torch.random.fork_rng(devices=gpus):
        seed = (config.run.seed + 0x5C0FFEE + _APART * rank) % 2**63
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed(seed)
        yield
