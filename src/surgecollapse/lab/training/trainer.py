"""The state of one run between two steps, and what one step does to it."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from surgecollapse.analysis.open_weights import not_finite
from surgecollapse.controller.command_loop import CommandLoop
from surgecollapse.controller.live_settings import LiveSettings
from surgecollapse.events import Measurement
from surgecollapse.lab.config import as_mapping
from surgecollapse.lab.data.streamed import StreamedData
from surgecollapse.lab.training.attachments import attached_to
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.checkpoint_folder import CheckpointFolder
from surgecollapse.lab.training.early_stopping import Stopping
from surgecollapse.lab.training.environment import finish_work, training_device
from surgecollapse.lab.training.evaluator import Evaluator
from surgecollapse.lab.training.event_sink import DIVERGED, EventSink
from surgecollapse.lab.training.feed import feed_of
from surgecollapse.lab.training.labels import LiveLabels, with_own_labels
from surgecollapse.lab.training.loading import load_data, without_test
from surgecollapse.lab.training.optim import LiveLoss, guessed_classes, make_optimizer, rate_factor
from surgecollapse.lab.training.outputs import fitted
from surgecollapse.lab.training.processes import for_rank, own_part
from surgecollapse.lab.training.progress import Snapshot
from surgecollapse.lab.training.recomputing import RecomputedBlocks
from surgecollapse.lab.training.sketch import CountSketch
from surgecollapse.lab.training.traces import PREFIX, Traces
from surgecollapse.lab.training.usage import Usage
from surgecollapse.torch_utils.distributed import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from surgecollapse.controller.rules import Rule
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.training.progress import Progress
    from surgecollapse.record import RunStore

_SKETCHES = 60
_LOSSES = 1_000
_SHOWN = 200


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
        loss: of outputs and labels; like ``feed`` and ``labels``, it may be changed while the run trains.
        feed: gives the training batches.
        labels: of the training samples.
        event_sink: takes every event.
        checkpoints: the folder of checkpoints.
        attached: the controller, if the run has one, and what else is attached to the net.
        seconds: spent on training steps.
        diverged: whether three recorded training losses on end were not finite; at the end, also whether the weights
            or the test loss are not.
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
        self.loss = LiveLoss(config, self.data)
        self.data = with_own_labels(fitted(config, self.model, self.data, self.loss))
        self.labels = LiveLabels(self.data)
        if isinstance(self.data, StreamedData):
            self.data.bad.tell = progress.note
        self._recomputed = (
            RecomputedBlocks(self.model, config.model.label) if config.run.gradient_checkpointing else None
        )
        self.optimizer = make_optimizer(config, self.model)
        self.total = config.run.total_steps(self.data.train_size)
        self.step = 0
        self.stopping = Stopping(config)
        self.event_sink = EventSink(config, progress, self._follow, guessed_classes(config, self.data))
        self.attached = attached_to(
            self.model,
            self.optimizer,
            config,
            total_steps=self.total,
            criterion=self.loss,
            recorder=self.event_sink,
            process_group=self.ranks.group,
        )
        self._called = (
            self.model if self.ranks.alone else DistributedDataParallel(self.model, process_group=self.ranks.group)
        )
        self.controller = self.attached.controller
        self.command_loop = (
            CommandLoop(self.event_sink.record, self.ranks) if self.controller is None else self.controller.command_loop
        )
        self.command_loop.by_hand = True
        self.settings = (
            LiveSettings(self.model, [self.optimizer], where=lambda: (self.step, self.total))
            if self.controller is None
            else self.controller.live_settings
        )
        self.rate_factor = 1.0
        self.to_repeat: frozenset[int] = frozenset()
        self.checkpoints = CheckpointFolder(checkpoints, self.ranks, keep=config.run.keep_checkpoints)
        self._progress = progress
        self._evaluator = Evaluator(config, self.model, self.data, self.loss, self.attached, self.ranks, self._note)
        self.feed = feed_of(config, self.data)
        self._sketch = CountSketch(list(self.model.parameters()))
        self._traces = Traces(self.model) if config.run.gradient_trace_every else None
        self._warned = self.diverged = False
        self.seconds = self._seconds_then = 0.0
        self._step_then, self._share = 0, 1.0
        self._usage = Usage()
        self._evaluated: tuple[int, float] | None = None

    @property
    def store(self) -> RunStore:
        """The record, inside :meth:`recorded`."""
        return self.event_sink.store

    @property
    def mask_is_final(self) -> bool:
        """Whether a good evaluation counts: from the freeze on, or always where nothing is pruned."""
        return self.controller is None or self.config.method.ends_dense or self.controller.frozen

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train: all steps done, stopped, given up, or the goal kept."""
        stopped = self.stopping.early or self.stopping.reached_goal or self.given_up or self.command_loop.stopping
        stopped = stopped or self.diverged
        return self.step >= self.total or stopped

    @property
    def given_up(self) -> bool:
        """Whether the run is to stop as its forecast is that it will not generalize."""
        forecast = self.event_sink.forecast
        return self.config.run.give_up and forecast is not None and forecast.predicts_failure

    @contextmanager
    def recorded(self, store: RunStore) -> Iterator[None]:
        """Record into ``store`` for the length of a block; after it the controller is detached."""
        self.event_sink.open(store)
        self.checkpoints.kept = set(store.get("kept_checkpoints", []))
        try:
            yield
        finally:
            self.feed.close()
            self.attached.remove()
            self.event_sink.close()

    def _follow(self, rule: Rule) -> None:
        """Do what a rule says: at the next boundary, or end the run that has diverged."""
        if rule is DIVERGED:
            self.diverged = True
        elif rule.command is not None:
            self.command_loop.order(rule.command, source="rule")

    def _note(self, name: str, value: float) -> None:
        self.event_sink.record(Measurement(step=self.step, name=name, value=value))

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
        if self.command_loop.boundary(self.step) and self.step in self.checkpoints.steps:
            self.checkpoint()

    def roll_back(self, step: int) -> str:
        """Go back to the checkpoint of a step; what came after it is kept as a branch beside the run.

        Returns:
            The name of the branch; empty on other ranks than the first.

        Raises:
            ValueError: if there is no checkpoint that can be used, or the branch cannot be written.
        """
        state = self.checkpoints.load(step)
        if self.config.run.early_stopping and self.stopping.best_step > step:
            raise ValueError(
                f"the best evaluation was at step {self.stopping.best_step}: early stopping cannot forget it"
            )
        left = ""
        if step < self.step:
            self.store.flush()
            left = self.checkpoints.leave(step, self.step, self.state_dict())
        self.load_state_dict(state)
        self.checkpoints.forget_after(step, best=self.stopping.best is None)
        self.store.truncate_after(step)
        self._note_checkpoints()
        self.event_sink.recall()
        self.command_loop.roll_back(step)
        return left

    def keep_checkpoint(self) -> None:
        """Write a checkpoint that stays until it is deleted."""
        self.checkpoints.kept.add(self.step)
        self.checkpoint()
        self._note_checkpoints()

    def delete_checkpoint(self, step: int) -> None:
        """Delete a checkpoint that is not the newest.

        Raises:
            ValueError: if there is none of that step, or it is the one that a resume needs.
        """
        self.checkpoints.delete(step)
        self._note_checkpoints()

    def _note_checkpoints(self) -> None:
        self.store.set("checkpoints", self.checkpoints.steps)
        self.store.set("kept_checkpoints", sorted(self.checkpoints.kept))

    def _record_loss(self, loss: float) -> None:
        self._note("loss/train", loss)
        if not math.isfinite(loss) and not self._warned:
            self._warned = True
            self._progress.note(f"warning: the training loss is {loss} at step {self.step}: lower --lr or set --clip")

    def _train_step(self) -> Tensor:
        if self.step == 0:
            self.store.put_array(0, "sketch/weights", self._sketch())
        config, (x, labels) = self.config, next(self.feed)
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
        weight = len(labels) / self.feed.batch_size if config.run.scale_partial_batches else 1.0
        x, labels, self._share = own_part(self.ranks, x, labels)
        with self._arithmetic():
            loss = self.loss(self._called(x), labels)
        (loss * (weight * self._share)).backward()  # type: ignore[no-untyped-call]
        self.settings.frozen.before_step()
        if self._traces is not None and self.step % config.run.gradient_trace_every == 0:
            for name, values in self._traces().items():
                self.store.put_array(self.step, f"{PREFIX}{name}", values)
        if config.transforms.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.transforms.clip)
        self.attached.note(loss, None if labels.is_floating_point() else labels)
        with self._own_settings():
            self.optimizer.step()
        self.step += 1
        return loss.detach()

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """In which precision the forward pass of a step computes, and what it keeps."""
        mixed = self.config.run.mixed_precision != "none"
        again = nullcontext() if self._recomputed is None else self._recomputed.applied()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed), again:
            yield

    @contextmanager
    def _own_settings(self) -> Iterator[None]:
        """Have what a person set around one step of the optimizer; a controller sees to that itself."""
        if self.controller is not None:
            yield
            return
        self.settings.frozen.keep_rows(0)
        with self._own_rates():
            yield
        self.settings.frozen.put_back_rows(0)

    @contextmanager
    def _own_rates(self) -> Iterator[None]:
        """Have the rates that a person set, for one step."""
        if not self.settings.rates.changed:
            yield
            return
        groups = self.optimizer.param_groups
        scheduled = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.settings.rates.of_step(scheduled), strict=True):
            group["lr"] = rate
        yield
        for group, rate in zip(groups, scheduled, strict=True):
            group["lr"] = rate

    # what people change

    def evaluate_now(self) -> tuple[float, float]:
        """Accuracy in [0, 1] and loss on the validation data, recorded as ``evaluation/…``: no rule counts them."""
        accuracy, loss = self._evaluator.now()
        for name, value in (("evaluation/accuracy", accuracy), ("evaluation/loss", loss)):
            self.store.record(Measurement(step=self.step, name=name, value=value))
        return accuracy, loss

    # looking at it

    def _over_ranks(self, loss: Tensor) -> Tensor:
        """The mean loss of the whole batch."""
        return loss if self.ranks.alone else self.ranks.totals([loss * self._share])[0] / self.ranks.size

    def _evaluate(self) -> None:
        step = self.step
        accuracy, loss = self._evaluator.recorded("validation")
        self._evaluated = (step, loss)
        train, train_loss = self._evaluator.training()
        self._note("accuracy/train", train)
        self._note("gap/accuracy", train - accuracy)
        self._note("gap/loss", loss - train_loss)
        scheduled = [group["lr"] for group in self.optimizer.param_groups]
        self._note("learning_rate", self.settings.rates.of_step(scheduled)[0])
        self._note("sparsity", 0.0 if self.controller is None else self.controller.sparsity)
        weights = [parameter.detach() for parameter in self.model.parameters()]
        self._note("energy/weights", _squared_norm(weights))
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self._note("gradient_norm", _squared_norm(gradients) ** 0.5)
        if step > self._step_then:
            seconds = (self.seconds - self._seconds_then) / (step - self._step_then)
            self._note("time/step", seconds)
        for name, value in self._usage.read().items():
            self._note(name, value)
        self._seconds_then, self._step_then = self.seconds, step
        if self.stopping.improved(step, accuracy, loss, counts=self.mask_is_final):
            self.checkpoints.save_best(self.state_dict())

    def _show(self, loss: float) -> None:
        controller, state = self.controller, self.event_sink.state
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
        for rule in self.event_sink.rules.unseen if self.step else ():
            self._progress.note(f"rule {rule.when!r} was never checked: this run recorded no {rule.series}")
        averaged = self.attached.averaged
        if self.stopping.early and self.stopping.best is not None:
            best = self.checkpoints.load_best()
            self.model.load_state_dict(best["model"])
            if averaged is not None:
                averaged.load_state_dict(best["averaged"])
        if self.controller is not None and not self.config.method.ends_dense:
            self.controller.finalize()
        if averaged is not None:
            averaged.apply()
        validation, validation_loss = self._evaluator.validation()
        accuracy, loss = self._evaluator.recorded("test")
        if isinstance(self.data, StreamedData):
            self.store.set("bad_samples", dict(self.data.bad.named))
        self.store.put_array(self.step, "sketch/weights", self._sketch())
        broken = not_finite(dict(self.model.named_parameters()))
        self.diverged = self.diverged or not math.isfinite(loss) or bool(broken)
        if self.diverged:
            self._progress.note("the run has diverged: its weights or its losses are not finite")
        return {
            "accuracy": accuracy,
            "loss": loss,
            **self._evaluator.bits(loss),
            "accuracy_validation": validation,
            "loss_validation": validation_loss,
        }

    def checkpoint(self) -> None:
        """Write ``step-N.pt`` and drop the old ones; the record is on the disk before it."""
        self.store.flush()
        self.checkpoints.save(self.step, self.state_dict())
        self.store.set("checkpoints", self.checkpoints.steps)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs of this rank."""
        forecast = self.event_sink.forecast
        return {
            "step": self.step,
            "config": dict(as_mapping(self.config)),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.attached.state_dict(),
            "forecast": None if forecast is None else forecast.state_dict(),
            "batches": self.feed.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            **self.stopping.state_dict(),
            "rules": self.event_sink.rules.state_dict(),
            "asked": {
                "last": self.command_loop.last,
                "to_repeat": self.command_loop.to_repeat,
                "rate_factor": self.rate_factor,
                **({"loss": self.loss.options} if self.loss.options else {}),
                **({"labels": self.labels.changed} if self.labels.changed else {}),
                **({"settings": self.settings.state_dict()} if self.controller is None else {}),
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
        forecast = state.get("forecast", state.get("foresight"))  # the name in version 0.1
        if self.event_sink.forecast is not None and forecast is not None:
            self.event_sink.forecast.load_state_dict(forecast)
        self.feed.load_state_dict(state["batches"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and state.get("device_rng") is not None:
            torch.cuda.set_rng_state(state["device_rng"], self.device)
        self.stopping.load_state_dict(state)
        self.event_sink.rules.load_state_dict(state.get("rules", {}))
        # not in checkpoints of version 0.1.0
        asked = state.get("asked", {"last": 0, "to_repeat": [], "rate_factor": 1.0})
        self.command_loop.last, self.rate_factor = asked["last"], asked["rate_factor"]
        self.to_repeat = frozenset(asked["to_repeat"])
        if asked.get("loss", {}) != self.loss.options:
            self.loss.change(asked.get("loss", {}), self.data)
        self.labels.load(asked.get("labels", {}))
        if self.controller is None:
            self.settings.load_state_dict(asked.get("settings", {}))
        self.seconds = self._seconds_then = state["seconds"]


def _squared_norm(tensors: list[Tensor]) -> float:
    return float(sum(tensor.double().square().sum().item() for tensor in tensors))
