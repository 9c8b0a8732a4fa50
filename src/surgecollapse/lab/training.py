"""The state of one run between two steps, and what one step does to it."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.events import Measurement
from surgecollapse.lab.asked import handlers
from surgecollapse.lab.batches import batches_of
from surgecollapse.lab.checkpoint import (
    checkpoint_path,
    drop_old_checkpoints,
    load_checkpoint,
    save_checkpoint,
    step_checkpoints,
)
from surgecollapse.lab.config import ConfigError, as_mapping
from surgecollapse.lab.costs import cost_summary
from surgecollapse.lab.data import load_data
from surgecollapse.lab.dataset import training_sample
from surgecollapse.lab.evaluate import predict, right_share
from surgecollapse.lab.foresight import Foresight, certainty
from surgecollapse.lab.grokking import GENERALISE, IN_A_ROW, grokking_summary
from surgecollapse.lab.models import build_model
from surgecollapse.lab.objective import make_loss, make_optimizer, make_transforms, rate_factor
from surgecollapse.lab.progress import Snapshot
from surgecollapse.lab.sketch import CountSketch
from surgecollapse.lab.summary import weight_summary
from surgecollapse.state import REMEMBERED, StateReader
from surgecollapse.steering import Steering

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from surgecollapse.attaching import TransformedGradients
    from surgecollapse.averaging import AveragedWeights
    from surgecollapse.controller import Controller
    from surgecollapse.events import Alarm, Event
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.progress import Progress
    from surgecollapse.record import RunStore
    from surgecollapse.watching import WatchedTraining

_SKETCHES = 60
_LOSSES = 1_000
_FORESEEN = ("train", "validation")


class Training:
    """Everything that a run consists of; :meth:`state_dict` is its checkpoint.

    Args:
        config: the run.
        checkpoints: folder of its checkpoints.
        progress: who is shown how it goes.
    """

    def __init__(self, config: RunConfig, checkpoints: Path, progress: Progress) -> None:
        self.config = config
        self.data = load_data(config)
        self.model = build_model(config, self.data)
        self.optimizer = make_optimizer(config, self.model)
        self.total = config.total_steps(len(self.data.x_train))
        self.step = 0
        self.stopped_early = False
        self._loss = make_loss(config, self.data)
        self.transforms: TransformedGradients | None = None
        self.watched: WatchedTraining | None = None
        self.controller = self._attach()
        self.averaged = self._average()
        self.steering = Steering(self.record) if self.controller is None else self.controller.steering
        self.steering.by_hand = True
        self.steering.handlers.update(handlers(self))
        self.rate_factor = 1.0
        self.to_repeat: frozenset[int] = frozenset()
        self._store: RunStore | None = None
        self._state = StateReader(config.every)
        self._checkpoints = checkpoints
        self._progress = progress
        self._loss = make_loss(config, self.data)
        self._batches = batches_of(config, len(self.data.x_train))
        self._sketch = CountSketch(list(self.model.parameters()))
        self._best: list[float] | None = None
        self._best_step = 0
        self._worse = 0
        self._accuracy: float | None = None
        self._at_goal = 0
        self._diverged = False
        self.foresight = None if config.forecast == "none" else Foresight(config.forecast, self._alarm)
        self._seconds = 0.0
        self._seconds_then, self._step_then = 0.0, 0

    @property
    def store(self) -> RunStore:
        """The record, inside :meth:`recorded`."""
        if self._store is None:
            raise RuntimeError("no store: use `with training.recorded(store)`")
        return self._store

    @property
    def mask_is_final(self) -> bool:
        """Whether a good evaluation counts: from the freeze on, or always where nothing is pruned."""
        return self.controller is None or self.config.ends_dense or self.controller.frozen

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train: all steps done, stopped, given up, or the goal kept."""
        stopped = self.stopped_early or self.reached_goal or self.given_up or self.steering.stopping
        return self.step >= self.total or stopped

    @property
    def given_up(self) -> bool:
        """Whether the run is to stop as its forecast is that it will not generalise."""
        return self.config.give_up and self.foresight is not None and self.foresight.hopeless

    @property
    def reached_goal(self) -> bool:
        """Whether enough evaluations on end had the accuracy at which the run is to stop."""
        return self._at_goal >= IN_A_ROW

    @contextmanager
    def recorded(self, store: RunStore) -> Iterator[None]:
        """Record into ``store`` for the length of a block; after it the controller is detached."""
        self._store = store
        self._recall()
        try:
            yield
        finally:
            if self.controller is not None:
                self.controller.detach()
            if self.transforms is not None:
                self.transforms.remove()
            if self.watched is not None:
                self.watched.remove()
            if self.averaged is not None:
                self.averaged.remove()
            self._store = None

    def _attach(self) -> Controller | None:
        config = self.config
        from surgecollapse import attach, transform_gradients, watch_training
        from surgecollapse.decide import make_policy

        transforms = make_transforms(config)
        names = [name.strip() for name in config.monitors.split(",")]
        monitors = [] if names == ["none"] else names
        budget = config.monitor_budget if config.monitor_budget < 1 else None
        if config.policy == "none":
            if monitors:
                self.watched = watch_training(
                    self.model,
                    self.optimizer,
                    monitors=monitors,
                    recorders=(self,),
                    every=config.every,
                    budget=budget,
                    criterion=self._loss,
                )
            if transforms:
                self.transforms = transform_gradients(self.optimizer, transforms, recorders=(self,), every=config.every)
            return None

        try:
            policy = make_policy(config.policy, **config.policy_options)
        except TypeError as error:
            raise ConfigError(f"policy_options of {config.policy!r} have a value of the wrong type: {error}") from error
        return attach(
            self.model,
            self.optimizer,
            sparsity=0.0 if config.ends_dense else config.sparsity,
            total_steps=self.total,
            policy=policy,
            transforms=transforms,
            every=config.every,
            seed=config.seed,
            moments=config.moments,
            entropy=config.entropy,
            saliency=config.saliency,
            growth=config.growth,
            initial=config.initial,
            rho=config.rho,
            distribution=config.distribution,
            minimum_density=config.minimum_density,
            pattern=config.pattern,
            recorders=(self,),
            monitors=monitors,
            monitor_budget=budget,
            criterion=self._loss,
        )

    def _average(self) -> AveragedWeights | None:
        from surgecollapse import average_weights

        if not self.config.average_decay:
            return None
        return average_weights(self.model, self.optimizer, decay=self.config.average_decay, controller=self.controller)

    def record(self, event: Event) -> None:
        """Pass an event on to the store, which is made after everything else is in order, and to the detectors."""
        self.store.record(event)
        self._state.take(event)
        if self.foresight is not None and isinstance(event, Measurement):
            self.foresight.take(event)

    def _recall(self) -> None:
        """Judge the state by what the record has, after a resume or a roll-back."""
        self._state, store = StateReader(self.config.every), self.store
        known: list[Any] = [*store.readings()[-REMEMBERED:], *store.interventions(), *store.alarms()]
        for event in sorted(known, key=lambda event: event.step):
            self._state.take(event)

    def _alarm(self, alarm: Alarm) -> None:
        self.store.record(alarm)
        self._state.take(alarm)
        self._progress.note(f"step {alarm.step}: {alarm.detector}: {alarm.forecast} ({alarm.reason})")

    def _note(self, name: str, value: float) -> None:
        self.record(Measurement(step=self.step, name=name, value=value))

    # one step

    def advance(self) -> None:
        """Train one step, and do what is due after it: record, evaluate, checkpoint, show."""
        began = time.perf_counter()
        loss = self._train_step()
        self._seconds += time.perf_counter() - began
        last = self.step == self.total
        if last or self.step % max(1, self.total // _LOSSES) == 0:
            self._record_loss(loss.item())
        if last or self.step % max(1, self.total // _SKETCHES) == 0:
            self.store.put_array(self.step, "sketch/weights", self._sketch())
        evaluated = last or self.step % self.config.evaluate_every == 0
        if evaluated:
            self._evaluate()
        if evaluated or self.step % max(1, self.total // 200) == 0:
            self._show(loss.item())
        if not last:
            self.answer()
        # The last state is saved by `finish`, when it is final.
        if self.step % self.config.checkpoint_every == 0 and not last:
            self.checkpoint()

    def answer(self) -> None:
        """Do what people ask for; a checkpoint of this very step takes it in."""
        if self.steering.boundary(self.step) and checkpoint_path(self._checkpoints, self.step).exists():
            self.checkpoint()

    def roll_back(self, step: int) -> None:
        """Go back to the checkpoint of a step, and forget what came after it.

        Raises:
            ValueError: if there is none that can be used.
        """
        path = checkpoint_path(self._checkpoints, step)
        if not path.is_file():
            there = ", ".join(str(at) for at in self.checkpoint_steps) or "none yet"
            raise ValueError(f"no checkpoint of step {step}: there are {there}")
        state = load_checkpoint(path)
        if self.config.early_stopping and self._best_step > step:
            raise ValueError(f"the best evaluation was at step {self._best_step}: early stopping cannot forget it")
        self.load_state_dict(state)
        if self._best is None:
            (self._checkpoints / "best.pt").unlink(missing_ok=True)
        for later in self.checkpoint_steps:
            if later > step:
                checkpoint_path(self._checkpoints, later).unlink()
        self.store.truncate_after(step)
        self._recall()
        self.steering.roll_back(step)

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps of which there are checkpoints, ascending."""
        return sorted(int(path.stem.removeprefix("step-")) for path in step_checkpoints(self._checkpoints))

    def _record_loss(self, loss: float) -> None:
        self._note("loss/train", loss)
        if not math.isfinite(loss) and not self._diverged:
            self._diverged = True
            self._progress.note(f"warning: the training loss is {loss} at step {self.step}: lower --lr or set --clip")

    def _train_step(self) -> Tensor:
        if self.step == 0:
            self.store.put_array(0, "sketch/weights", self._sketch())
        config, rows = self.config, next(self._batches)
        rate = config.lr * rate_factor(
            self.step, self.total, schedule=config.schedule, warmup=config.warmup, hold=config.hold
        )
        rate *= self.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad()
        labels = self.data.y_train[rows]
        loss = self._loss(self.model(self.data.x_train[rows]), labels)
        weight = len(rows) / self._batches.batch_size if config.weigh_batches else 1.0
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        if config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        classes = None if labels.is_floating_point() else labels
        if self.controller is not None:
            self.controller.note(loss=loss, targets=classes)
        elif self.watched is not None:
            self.watched.note(loss=loss, targets=classes)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    # looking at it

    def _evaluate(self) -> None:
        data, step = self.data, self.step
        accuracy, loss = self._measure("validation", data.x_validation, data.y_validation)
        some = training_sample(data)
        train, train_loss = self._score(data.x_train[some], data.y_train[some], "train")
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
            seconds = (self._seconds - self._seconds_then) / (step - self._step_then)
            self._note("time/step", seconds)
        self._seconds_then, self._step_then = self._seconds, step
        self._accuracy = accuracy
        goal = GENERALISE if self.config.until == "grokked" else self.config.stop_at_accuracy
        self._at_goal = self._at_goal + 1 if goal is not None and accuracy >= goal else 0
        self._keep_best(accuracy, loss)

    def _keep_best(self, accuracy: float, loss: float) -> None:
        """Keep the best checkpoint and count evaluations without improvement, once the mask is final."""
        if not self.mask_is_final:
            return
        score = [accuracy, -loss]
        if self._best is None or score > self._best:
            self._best, self._best_step, self._worse = score, self.step, 0
            save_checkpoint(self._checkpoints / "best.pt", self.state_dict())
            return
        self._worse += 1
        patience = self.config.early_stopping
        self.stopped_early = bool(patience) and self._worse >= patience

    def _measure(self, part: str, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Accuracy in [0, 1] and loss, recorded; where the loss is in nats per character, also in bits."""
        accuracy, loss = self._score(x, y, part)
        self._note(f"accuracy/{part}", accuracy)
        self._note(f"loss/{part}", loss)
        if self._in_bits:
            self._note(f"bits_per_character/{part}", loss / math.log(2))
        return accuracy, loss

    @property
    def _in_bits(self) -> bool:
        return self.data.kind == "text" and self.config.loss.startswith("cross_entropy")

    def _score(self, x: Tensor, y: Tensor, part: str = "") -> tuple[float, float]:
        """Accuracy in [0, 1], over all positions of text, and loss."""
        with nullcontext() if self.averaged is None else self.averaged.applied():
            logits = predict(self.model, x)
        if self.foresight is not None and part in _FORESEEN:
            for name, value in certainty(logits, part).items():
                self._note(name, value)
        return right_share(logits, y, self.data.tolerance), self._loss(logits, y).item()

    def _show(self, loss: float) -> None:
        controller = self.controller
        readings = controller.readings if controller is not None else ()
        snapshot = Snapshot(
            step=self.step,
            phase="plain" if controller is None else controller.phase,
            sparsity=0.0 if controller is None else controller.sparsity,
            entropy=readings[-1].entropy if readings else None,
            loss=loss,
            accuracy=self._accuracy,
            state=self._state.state,
            next_step=self._state.next_step,
        )
        self._progress.update(snapshot)

    # the end

    def finish(self) -> None:
        """Make the mask exact, test once, write the summary and the last checkpoint."""
        if self.stopped_early and self._best is not None:
            best = load_checkpoint(self._checkpoints / "best.pt")
            self.model.load_state_dict(best["model"])
            if self.averaged is not None:
                self.averaged.load_state_dict(best["averaged"])
        if self.controller is not None and not self.config.ends_dense:
            self.controller.finalize()
        if self.averaged is not None:
            self.averaged.apply()
        step, store = self.step, self.store
        validation, _ = self._score(self.data.x_validation, self.data.y_validation)
        accuracy, loss = self._measure("test", self.data.x_test, self.data.y_test)
        store.put_array(step, "sketch/weights", self._sketch())
        interventions = [event.kind for event in store.interventions() if event.kind != "skip"]
        summary = {
            "task": self.config.task,
            "policy": self.config.policy,
            "seed": self.config.seed,
            "steps": step,
            "stopped_early": self.stopped_early,
            "stopped_by_hand": self.steering.stopping,
            "touched": store.get("touched", False),
            "reached_goal": self.reached_goal,
            "given_up": self.given_up,
            "accuracy": accuracy,
            "loss": loss,
            **({"bits_per_character": loss / math.log(2)} if self._in_bits else {}),
            "accuracy_validation": validation,
            "best_validation": None if self._best is None else self._best[0],
            "best_step": None if self._best is None else self._best_step,
            "seconds": self._seconds,
            "grokking": self._grokking(),
            "interventions": len(interventions),
            "interventions_by_kind": {kind: interventions.count(kind) for kind in sorted(set(interventions))},
            **weight_summary(self.model, self.controller),
            **cost_summary(self.config, self.model, self.data.x_test, self.controller, store, step),
        }
        store.set("summary", summary)
        self.checkpoint()

    def _grokking(self) -> dict[str, Any]:
        """When the run fitted and generalised, from its evaluations."""
        steps, validation = self.store.measurements("accuracy/validation")
        _, train = self.store.measurements("accuracy/train")
        return grokking_summary(steps.tolist(), train.tolist(), validation.tolist(), self._seconds / max(1, self.step))

    def checkpoint(self) -> None:
        """Write ``step-N.pt`` and drop the old ones; the record is on the disk before it."""
        self.store.flush()
        save_checkpoint(checkpoint_path(self._checkpoints, self.step), self.state_dict())
        drop_old_checkpoints(self._checkpoints, keep=self.config.keep_checkpoints)
        self.store.set("checkpoints", self.checkpoint_steps)

    def describe_data(self) -> dict[str, Any]:
        """What the run learns from, for its record."""
        data = self.data
        return {
            "name": data.name,
            "kind": data.kind,
            "description": data.description,
            "source": data.source,
            "num_classes": data.num_classes,
            "input_shape": list(data.input_shape),
            "samples": {
                "train": len(data.y_train),
                "validation": len(data.y_validation),
                "test": len(data.y_test),
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs."""
        return {
            "step": self.step,
            "config": dict(as_mapping(self.config)),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "controller": None if self.controller is None else self.controller.state_dict(),
            "transforms": None if self.transforms is None else self.transforms.state_dict(),
            "watched": None if self.watched is None else self.watched.state_dict(),
            "foresight": None if self.foresight is None else self.foresight.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "batches": self._batches.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "best": self._best,
            "best_step": self._best_step,
            "worse": self._worse,
            "accuracy": self._accuracy,
            "at_goal": self._at_goal,
            "asked": {
                "last": self.steering.last,
                "to_repeat": self.steering.to_repeat,
                "rate_factor": self.rate_factor,
            },
            "stopped_early": self.stopped_early,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.step = self._step_then = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        if self.transforms is not None:
            self.transforms.load_state_dict(state["transforms"])
        if self.watched is not None and state.get("watched") is not None:
            self.watched.load_state_dict(state["watched"])
        if self.foresight is not None and state.get("foresight") is not None:
            self.foresight.load_state_dict(state["foresight"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self._batches.load_state_dict(state["batches"])
        torch.set_rng_state(state["torch_rng"])
        self._best, self._best_step, self._worse = state["best"], state["best_step"], state["worse"]
        self._accuracy, self.stopped_early = state["accuracy"], state["stopped_early"]
        self._at_goal = state.get("at_goal", 0)  # not in checkpoints of version 0.1.0
        asked = state.get("asked", {"last": 0, "to_repeat": [], "rate_factor": 1.0})  # neither
        self.steering.last, self.rate_factor = asked["last"], asked["rate_factor"]
        self.to_repeat = frozenset(asked["to_repeat"])
        self._seconds = self._seconds_then = state["seconds"]


def _squared_norm(tensors: list[Tensor]) -> float:
    return float(sum(tensor.double().square().sum().item() for tensor in tensors))
