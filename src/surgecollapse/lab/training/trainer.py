"""The state of one run between two steps, and what one step does to it."""

from __future__ import annotations

import math
import sqlite3
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.parallel import DistributedDataParallel

from surgecollapse.analysis.open_weights import not_finite
from surgecollapse.controller.command_loop import CommandLoop
from surgecollapse.events import Measurement
from surgecollapse.lab.config import as_mapping
from surgecollapse.lab.data.dataset import training_sample
from surgecollapse.lab.data.streamed import StreamedData
from surgecollapse.lab.training.attachments import attached_to
from surgecollapse.lab.training.branch_folders import BEST, keep_left
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.checkpoint import (
    checkpoint_path,
    drop_old_checkpoints,
    load_checkpoint,
    save_checkpoint,
    step_checkpoints,
)
from surgecollapse.lab.training.early_stopping import Stopping
from surgecollapse.lab.training.environment import finish_work, training_device
from surgecollapse.lab.training.evaluation import predict, score_stream
from surgecollapse.lab.training.event_sink import EventSink
from surgecollapse.lab.training.feed import feed_of
from surgecollapse.lab.training.forecasts import prediction_confidence
from surgecollapse.lab.training.loading import load_data, without_test
from surgecollapse.lab.training.optim import loss_name, make_loss, make_optimizer, rate_factor
from surgecollapse.lab.training.outputs import fitted, right_share
from surgecollapse.lab.training.processes import for_rank, own_part, own_states
from surgecollapse.lab.training.progress import Snapshot
from surgecollapse.lab.training.sketch import CountSketch
from surgecollapse.lab.training.traces import PREFIX, Traces
from surgecollapse.torch_utils.distributed import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.training.progress import Progress
    from surgecollapse.record import RunStore

_SKETCHES = 60
_LOSSES = 1_000
_SHOWN = 200
_FORESEEN = ("train", "validation")


class Training:
    """Everything that a run consists of; :meth:`state_dict` is its checkpoint.

    Args:
        config: the run.
        checkpoints: folder of its checkpoints.
        progress: who is shown how it goes.
        ranks: the processes that train it together; each has its part of every batch, the first one evaluates and
            writes checkpoints.
        test: ``False``: the test set is put away, and the validation set stands in its place.

    Attributes:
        step: completed optimizer steps, of ``total``.
        device: where the net and the samples lie.
        stopping: what the evaluations so far say.
        journal: takes every event.
        attached: the controller, if the run has one, and what else is attached to the net.
        kept: steps of checkpoints that a person asked for, which stay until they are deleted.
        seconds: spent on training steps.
        diverged: at the end, whether the weights or the test loss are not finite.
    """

    def __init__(
        self,
        config: RunConfig,
        checkpoints: Path,
        progress: Progress,
        ranks: Ranks | None = None,
        *,
        test: bool = True,
    ) -> None:
        self.config, self.ranks = config, Ranks() if ranks is None else ranks
        self.device = training_device(config)
        data = load_data(config)
        self.data = (data if test else without_test(data)).to(self.device)
        self.model = build_model(config, self.data).to(self.device)
        self._loss = make_loss(config, self.data)
        self.data = fitted(config, self.model, self.data, self._loss)
        if isinstance(self.data, StreamedData):
            self.data.bad.tell = progress.note
        self.optimizer = make_optimizer(config, self.model)
        self.total = config.run.total_steps(self.data.train_size)
        self.step = 0
        self.stopping = Stopping(config)
        self.journal = EventSink(config, progress)
        self.attached = attached_to(
            self.model,
            self.optimizer,
            config,
            total_steps=self.total,
            criterion=self._loss,
            recorder=self.journal,
            process_group=self.ranks.group,
        )
        self._called = (
            self.model if self.ranks.alone else DistributedDataParallel(self.model, process_group=self.ranks.group)
        )
        self.controller = self.attached.controller
        self.command_loop = (
            CommandLoop(self.journal.record, self.ranks) if self.controller is None else self.controller.command_loop
        )
        self.command_loop.by_hand = True
        self.rate_factor = 1.0
        self.to_repeat: frozenset[int] = frozenset()
        self.kept: set[int] = set()
        self._checkpoints = checkpoints
        self._progress = progress
        self._feed = feed_of(config, self.data)
        self._sketch = CountSketch(list(self.model.parameters()))
        self._traces = Traces(self.model) if config.run.gradient_trace_every else None
        self._warned = self.diverged = False
        self.seconds = self._seconds_then = 0.0
        self._step_then, self._share = 0, 1.0
        self._evaluated: tuple[int, float] | None = None

    @property
    def store(self) -> RunStore:
        """The record, inside :meth:`recorded`."""
        return self.journal.store

    @property
    def mask_is_final(self) -> bool:
        """Whether a good evaluation counts: from the freeze on, or always where nothing is pruned."""
        return self.controller is None or self.config.method.ends_dense or self.controller.frozen

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train: all steps done, stopped, given up, or the goal kept."""
        stopped = self.stopping.early or self.stopping.reached_goal or self.given_up or self.command_loop.stopping
        return self.step >= self.total or stopped

    @property
    def given_up(self) -> bool:
        """Whether the run is to stop as its forecast is that it will not generalize."""
        foresight = self.journal.foresight
        return self.config.run.give_up and foresight is not None and foresight.predicts_failure

    @contextmanager
    def recorded(self, store: RunStore) -> Iterator[None]:
        """Record into ``store`` for the length of a block; after it the controller is detached."""
        self.journal.open(store)
        self.kept = set(store.get("kept_checkpoints", []))
        try:
            yield
        finally:
            self._feed.close()
            self.attached.remove()
            self.journal.close()

    def _note(self, name: str, value: float) -> None:
        self.journal.record(Measurement(step=self.step, name=name, value=value))

    # one step

    def advance(self) -> None:
        """Train one step, and do what is due after it: record, evaluate, checkpoint, show."""
        began = time.perf_counter()
        loss = self._train_step()
        last = self.step == self.total

        def due(every: int) -> bool:
            return last or self.step % max(1, every) == 0

        recorded, sketched = due(self.total // _LOSSES), due(self.total // _SKETCHES)
        evaluated = due(self.config.run.evaluate_every)
        shown = evaluated or due(self.total // _SHOWN)
        if recorded or sketched or shown or self.step % self.config.run.checkpoint_every == 0:
            finish_work(self.device)
        self.seconds += time.perf_counter() - began
        if recorded or shown:
            loss = self._over_ranks(loss)
        if recorded:
            self._record_loss(loss.item())
        if sketched:
            self.store.put_array(self.step, "sketch/weights", self._sketch())
        if evaluated:
            self._evaluate()
        if shown:
            self._show(loss.item())
        if not last:
            self.answer()
        # The last state is saved by `finish`, when it is final.
        if self.step % self.config.run.checkpoint_every == 0 and not last:
            self.checkpoint()

    def answer(self) -> None:
        """Do what people ask for; a checkpoint of this very step takes it in."""
        if self.command_loop.boundary(self.step) and checkpoint_path(self._checkpoints, self.step).exists():
            self.checkpoint()

    def roll_back(self, step: int) -> str:
        """Go back to the checkpoint of a step; what came after it is kept as a branch beside the run.

        Returns:
            The name of the branch; empty on other ranks than the first.

        Raises:
            ValueError: if there is no checkpoint that can be used, or the branch cannot be written.
        """
        path = checkpoint_path(self._checkpoints, step)
        if not path.is_file():
            there = ", ".join(str(at) for at in self.checkpoint_steps) or "none yet"
            raise ValueError(f"no checkpoint of step {step}: there are {there}")
        state = load_checkpoint(path)
        if self.config.run.early_stopping and self.stopping.best_step > step:
            raise ValueError(
                f"the best evaluation was at step {self.stopping.best_step}: early stopping cannot forget it"
            )
        left = self._leave(step) if step < self.step else ""
        self.load_state_dict(state)
        if self.ranks.first and self.stopping.best is None:
            (self._checkpoints / BEST).unlink(missing_ok=True)
        self.ranks.from_first(None)
        self.store.truncate_after(step)
        self.kept = {at for at in self.kept if at <= step}
        self._note_checkpoints()
        self.journal.recall()
        self.command_loop.roll_back(step)
        return left

    def _leave(self, step: int) -> str:
        """Keep what comes after a step as a branch; all ranks have read the checkpoint by then."""
        left, fault = "", ""
        self.store.flush()
        self._save(checkpoint_path(self._checkpoints, self.step))
        if self.ranks.first:
            try:
                left = keep_left(self._checkpoints.parent, since=step, now=self.step).name
            except (OSError, sqlite3.Error) as error:
                fault = f"what would be left cannot be kept as a branch ({error}): free space, or fork instead"
        fault = self.ranks.from_first(fault)
        if fault:
            raise ValueError(fault)
        return left

    def delete_checkpoint(self, step: int) -> None:
        """Delete a checkpoint that is not the newest.

        Raises:
            ValueError: if there is none of that step, or it is the one that a resume needs.
        """
        there = self.checkpoint_steps
        if step not in there:
            raise ValueError(f"no checkpoint of step {step}: there are {', '.join(map(str, there)) or 'none yet'}")
        if step == there[-1]:
            raise ValueError(f"the checkpoint of step {step} is the newest, which a resume needs")
        self.ranks.from_first(None)  # all have looked
        if self.ranks.first:
            checkpoint_path(self._checkpoints, step).unlink()
        self.kept.discard(step)
        self._note_checkpoints()

    def _note_checkpoints(self) -> None:
        self.store.set("checkpoints", self.checkpoint_steps)
        self.store.set("kept_checkpoints", sorted(self.kept))

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps of which there are checkpoints, ascending."""
        return sorted(int(path.stem.removeprefix("step-")) for path in step_checkpoints(self._checkpoints))

    def _record_loss(self, loss: float) -> None:
        self._note("loss/train", loss)
        if not math.isfinite(loss) and not self._warned:
            self._warned = True
            self._progress.note(f"warning: the training loss is {loss} at step {self.step}: lower --lr or set --clip")

    def _train_step(self) -> Tensor:
        if self.step == 0:
            self.store.put_array(0, "sketch/weights", self._sketch())
        config, (x, labels) = self.config, next(self._feed)
        chosen = config.optimizer
        rate = chosen.lr * rate_factor(
            self.step, self.total, schedule=chosen.schedule, warmup=chosen.warmup, hold=chosen.lr_hold_steps
        )
        rate *= self.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad()
        weight = len(labels) / self._feed.batch_size if config.run.scale_partial_batches else 1.0
        x, labels, self._share = own_part(self.ranks, x, labels)
        loss = self._loss(self._called(x), labels)
        (loss * (weight * self._share)).backward()  # type: ignore[no-untyped-call]
        if self._traces is not None and self.step % config.run.gradient_trace_every == 0:
            for name, values in self._traces().items():
                self.store.put_array(self.step, f"{PREFIX}{name}", values)
        if config.transforms.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.transforms.clip)
        self.attached.note(loss, None if labels.is_floating_point() else labels)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    # looking at it

    def _over_ranks(self, loss: Tensor) -> Tensor:
        """The mean loss of the whole batch."""
        return loss if self.ranks.alone else self.ranks.totals([loss * self._share])[0] / self.ranks.size

    def _agreed(self, scores: Callable[[], tuple[float, float]]) -> tuple[float, float]:
        """Scores that the first rank measures for all."""
        found: tuple[float, float] = self.ranks.from_first(scores() if self.ranks.first else None)
        return found

    def _evaluate(self) -> None:
        data, step = self.data, self.step
        accuracy, loss = self._measure("validation")
        self._evaluated = (step, loss)
        some = training_sample(data)
        train, train_loss = self._agreed(lambda: self._score(data.x_train[some], data.y_train[some], "train"))
        self._note("accuracy/train", train)
        self._note("gap/accuracy", train - accuracy)
        self._note("gap/loss", loss - train_loss)
        self._note("learning_rate", self.optimizer.param_groups[0]["lr"])
        self._note("sparsity", 0.0 if self.controller is None else self.controller.sparsity)
        weights = [parameter.detach() for parameter in self.model.parameters()]
        self._note("energy/weights", _squared_norm(weights))
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self._note("gradient_norm", _squared_norm(gradients) ** 0.5)
        if step > self._step_then:
            seconds = (self.seconds - self._seconds_then) / (step - self._step_then)
            self._note("time/step", seconds)
        self._seconds_then, self._step_then = self.seconds, step
        if self.stopping.improved(step, accuracy, loss, counts=self.mask_is_final):
            self._save(self._checkpoints / BEST)

    def _measure(self, part: Literal["validation", "test"]) -> tuple[float, float]:
        """Accuracy in [0, 1] and loss, recorded; where the loss is in nats per character, also in bits."""
        accuracy, loss = self._agreed(lambda: self._score_part(part, whole=part == "test"))
        self._note(f"accuracy/{part}", accuracy)
        self._note(f"loss/{part}", loss)
        if self._in_bits:
            self._note(f"bits_per_character/{part}", loss / math.log(2))
        return accuracy, loss

    @property
    def _in_bits(self) -> bool:
        return self.data.kind == "text" and loss_name(self.config, self.data).startswith("cross_entropy")

    def _score_part(self, part: Literal["validation", "test"], *, whole: bool) -> tuple[float, float]:
        """Accuracy and loss on a held-out part; of data that is streamed, on some of it unless the whole is asked."""
        data, averaged = self.data, self.attached.averaged
        if not isinstance(data, StreamedData):
            watched = "" if part == "validation" and whole else part
            return self._score(getattr(data, f"x_{part}"), getattr(data, f"y_{part}"), watched)
        with nullcontext() if averaged is None else averaged.applied():
            most = None if whole else data.validation_samples
            return score_stream(self.model, data, part, self._loss, self.config.run.batch_size, most)

    def _score(self, x: Tensor, y: Tensor, part: str = "") -> tuple[float, float]:
        """Accuracy in [0, 1], over all positions of text, and loss."""
        averaged = self.attached.averaged
        with nullcontext() if averaged is None else averaged.applied():
            logits = predict(self.model, x)
        if self.journal.foresight is not None and part in _FORESEEN:
            for name, value in prediction_confidence(logits, part).items():
                self._note(name, value)
        return right_share(logits, y, self.data.tolerance), self._loss(logits, y).item()

    def _show(self, loss: float) -> None:
        controller, state = self.controller, self.journal.state
        readings = controller.readings if controller is not None else ()
        snapshot = Snapshot(
            step=self.step,
            phase="plain" if controller is None else controller.phase,
            sparsity=0.0 if controller is None else controller.sparsity,
            entropy=readings[-1].entropy if readings else None,
            loss=loss,
            accuracy=self.stopping.accuracy,
            validation_loss=None if self._evaluated is None else self._evaluated[1],
            evaluated_at=None if self._evaluated is None else self._evaluated[0],
            state=state.state,
            next_step=state.next_step,
        )
        self._progress.update(snapshot)

    # the end

    def finish(self) -> dict[str, Any]:
        """Make the mask exact and test once; what comes after is up to the run.

        Returns:
            The scores on the held-out samples, for :func:`~surgecollapse.lab.training.summary.run_summary`.
        """
        averaged = self.attached.averaged
        if self.stopping.early and self.stopping.best is not None:
            best = load_checkpoint(self._checkpoints / BEST)
            self.model.load_state_dict(best["model"])
            if averaged is not None:
                averaged.load_state_dict(best["averaged"])
        if self.controller is not None and not self.config.method.ends_dense:
            self.controller.finalize()
        if averaged is not None:
            averaged.apply()
        validation, validation_loss = self._agreed(lambda: self._score_part("validation", whole=True))
        accuracy, loss = self._measure("test")
        if isinstance(self.data, StreamedData):
            self.store.set("bad_samples", dict(self.data.bad.named))
        self.store.put_array(self.step, "sketch/weights", self._sketch())
        self.diverged = not math.isfinite(loss) or bool(not_finite(dict(self.model.named_parameters())))
        if self.diverged:
            self._progress.note("the run has diverged: its weights or its test loss are not finite")
        return {
            "accuracy": accuracy,
            "loss": loss,
            **({"bits_per_character": loss / math.log(2)} if self._in_bits else {}),
            "accuracy_validation": validation,
            "loss_validation": validation_loss,
        }

    def checkpoint(self) -> None:
        """Write ``step-N.pt`` and drop the old ones; the record is on the disk before it."""
        self.store.flush()
        self._save(checkpoint_path(self._checkpoints, self.step))
        if self.ranks.first:
            drop_old_checkpoints(self._checkpoints, keep=self.config.run.keep_checkpoints, asked=self.kept)
        self.store.set("checkpoints", self.checkpoint_steps)

    def _save(self, path: Path) -> None:
        """Write a checkpoint, on the first rank; the others wait for it."""
        state = self.state_dict()
        if not self.ranks.alone:
            state["ranks"] = own_states(self.ranks, state)
        if self.ranks.first:
            save_checkpoint(path, state)
        self.ranks.from_first(None)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs of this rank."""
        foresight = self.journal.foresight
        return {
            "step": self.step,
            "config": dict(as_mapping(self.config)),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.attached.state_dict(),
            "foresight": None if foresight is None else foresight.state_dict(),
            "batches": self._feed.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            **self.stopping.state_dict(),
            "asked": {
                "last": self.command_loop.last,
                "to_repeat": self.command_loop.to_repeat,
                "rate_factor": self.rate_factor,
            },
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        state = for_rank(self.ranks, state)
        self.step = self._step_then = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.attached.load_state_dict(state)
        if self.journal.foresight is not None and state.get("foresight") is not None:
            self.journal.foresight.load_state_dict(state["foresight"])
        self._feed.load_state_dict(state["batches"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and state.get("device_rng") is not None:
            torch.cuda.set_rng_state(state["device_rng"], self.device)
        self.stopping.load_state_dict(state)
        # not in checkpoints of version 0.1.0
        asked = state.get("asked", {"last": 0, "to_repeat": [], "rate_factor": 1.0})
        self.command_loop.last, self.rate_factor = asked["last"], asked["rate_factor"]
        self.to_repeat = frozenset(asked["to_repeat"])
        self.seconds = self._seconds_then = state["seconds"]


def _squared_norm(tensors: list[Tensor]) -> float:
    return float(sum(tensor.double().square().sum().item() for tensor in tensors))
