"""Surge-collapse in the ``Trainer`` of Hugging Face transformers: one callback."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from surgecollapse.attaching.attach import attach
from surgecollapse.controller.carried import CARRIED
from surgecollapse.controller.controller import Controller
from surgecollapse.controller.options import Target
from surgecollapse.errors import warn_user

logger = logging.getLogger(__name__)

FOLDER = "surgecollapse"
"""Key in ``TrainerState.stateful_callbacks``: where the run's checkpoints lie, for a resume from another folder."""


class SurgeCollapseCallback(TrainerCallback):
    """Prune the model that a ``Trainer`` trains: ``Trainer(..., callbacks=[SurgeCollapseCallback(sparsity=0.8)])``.

    It attaches when training begins, with the trainer's number of steps. Accumulation, clipping, mixed precision and
    gradient checkpointing work as they are. The state lies in the trainer's own ``optimizer.pt``, so that
    ``resume_from_checkpoint`` goes on bitwise. ``sparsity`` and ``activation_entropy`` join what the trainer logs and
    ``state.log_history``; trackers of ``report_to`` get them after :meth:`before_trackers`. At the end the mask is
    exact, and the controller is detached.

    With ``recorders=[store]`` and ``commands=store.path`` a run is on the live page and takes commands. The trainer
    itself carries out ``stop``, ``checkpoint`` and, where it evaluates, ``evaluate``.

    With ``load_best_model_at_end`` only evaluations under the final mask count: what came before is denser, and pruning
    it at the end would cost accuracy. If there was none, the last weights stay, with a warning.

    Every loss that the trainer logs is told to the controller, which warns where training does not recover. A policy
    that reads prediction confidence itself goes by that.

    Args:
        sparsity: share of the prunable weights that end at zero, or a :class:`~surgecollapse.Target`.
        **options: of :func:`surgecollapse.attach`, except ``total_steps``, which the trainer knows.

    Attributes:
        controller: the controller, from the beginning of training on.

    Raises:
        TypeError: if ``total_steps`` is given.
    """

    def __init__(self, sparsity: float | Target = 0.9, **options: Any) -> None:
        if "total_steps" in options:
            raise TypeError("total_steps is the trainer's: set max_steps or num_train_epochs of TrainingArguments")
        self._target = sparsity if isinstance(sparsity, Target) else Target(sparsity)
        self._options = options
        self.controller: Controller | None = None
        self._judged = False
        self._asked: list[str] = []

    def before_trackers(self, trainer: Trainer) -> Trainer:
        """Have this callback run before all others, so that trackers of ``report_to`` get our numbers.

        A trainer calls its trackers before the callbacks that it was given.

        Args:
            trainer: one that has this callback.

        Returns:
            The trainer.

        Raises:
            ValueError: if it does not have it.
        """
        callbacks: list[TrainerCallback] = trainer.callback_handler.callbacks
        if self not in callbacks:
            raise ValueError("this is not a callback of this trainer: pass it as Trainer(..., callbacks=[...]) first")
        callbacks.remove(self)
        callbacks.insert(0, self)
        return trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Attach; load the state of the checkpoint that the trainer resumed from."""
        if self.controller is not None:  # a further trial of a hyper-parameter search, with another model
            self.controller.detach()
        self._judged = False
        self.controller = attach(parts["model"], parts["optimizer"], self._target, state.max_steps, **self._options)
        if state.global_step:
            self.controller.load_state_dict(_saved_state(args, state, parts["optimizer"]))
        self._asked = []
        self.controller.command_loop.handlers |= {"checkpoint": self._save, "evaluate": self._evaluator(args)}
        stored: Any = state.stateful_callbacks  # a dict of what is written as JSON, typed as callbacks
        stored[FOLDER] = {"output_dir": str(Path(args.output_dir or ".").absolute())}

    def _save(self, _: Any) -> str:
        self._asked.append("should_save")
        return "the trainer saves a checkpoint after this step"

    def _evaluator(self, args: TrainingArguments) -> Callable[[Any], str]:
        def evaluate(_: Any) -> str:
            if args.eval_strategy == "no":
                raise ValueError("this trainer does not evaluate: set eval_strategy of TrainingArguments")
            self._asked.append("should_evaluate")
            return "the trainer evaluates after this step"

        return evaluate

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add our numbers to the trainer's."""
        if self.controller is None or logs is None:
            return
        numbers: dict[str, float] = {"sparsity": self.controller.sparsity}
        entropy = self.controller.readings[-1].entropy if self.controller.readings else None
        if entropy is not None:
            numbers["activation_entropy"] = entropy
        logs.update(numbers)
        if state.log_history:
            state.log_history[-1].update(numbers)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Give the next reading the trainer's last logged loss, once; it is a mean over ``logging_steps``."""
        controller = self.controller
        if controller is None or "prediction_confidence" in getattr(controller.policy, "measures", ()):
            return  # such a policy knows more often how well training does
        last = next((entry for entry in reversed(state.log_history) if "loss" in entry), None)
        read = controller.readings[-1].step if controller.readings else 0
        if last is not None and last["step"] >= read and isfinite(last["loss"]):
            controller.note(float(last["loss"]))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget the best evaluation so far unless it was made under the final mask."""
        if self.controller is not None and not self._judged:
            state.best_metric = state.best_model_checkpoint = None
            self._judged = self.controller.frozen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have the trainer do what people asked for; at the end, have it evaluate under the final mask."""
        for asked in self._asked:
            setattr(control, asked, True)
        self._asked.clear()
        if self.controller is not None and self.controller.stopping:
            control.should_training_stop = True
        if args.load_best_model_at_end and not self._judged and state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Make the mask exact, and detach the controller."""
        if self.controller is None:
            return
        if args.load_best_model_at_end and not self._judged:
            warn_user(
                "no evaluation fell after the mask was final, so the best checkpoint is of denser weights: evaluate in "
                "the last part of training (eval_steps) for load_best_model_at_end"
            )
        self.controller.finalize()
        self.controller.detach()
        logger.info("%s", self.controller)


def _saved_state(args: TrainingArguments, state: TrainerState, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The controller's state in the checkpoint from which the trainer resumed.

    Callbacks do not get its folder. It is ``resume_from_checkpoint`` of the arguments, or lies in the output folder
    of this run or of the run that saved it. Only a file whose optimizer state is the one that was loaded counts.

    Raises:
        ValueError: if there is none.
    """
    named = args.resume_from_checkpoint
    folders = [Path(named)] if isinstance(named, str) and Path(named).is_dir() else []
    stored: Any = state.stateful_callbacks
    earlier = stored.get(FOLDER, {}).get("output_dir")
    outputs = [args.output_dir or "."] + ([earlier] if earlier else [])
    folders += [Path(output) / f"checkpoint-{state.global_step}" for output in outputs]
    for folder in folders:
        file = folder / "optimizer.pt"
        if file.is_file():
            saved = torch.load(file, map_location="cpu", weights_only=True)
            if saved.get(CARRIED) and _is_loaded(saved, optimizer):
                found: dict[str, Any] = saved[CARRIED][0]
                return found
    raise ValueError(
        f"the trainer resumed at step {state.global_step}, but no controller's state was found beside the loaded "
        f"optimizer state in optimizer.pt of {' or '.join(map(str, folders))}: set resume_from_checkpoint of "
        "TrainingArguments to the folder, or train from the start"
    )


def _is_loaded(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's tensors are those of ``saved``: another run may have a checkpoint of the same step."""
    loaded = optimizer.state_dict()["state"]
    return all(
        torch.equal(value.to(now.dtype), now.cpu())
        for index, entries in saved["state"].items()
        for key, value in entries.items()
        if isinstance(value, torch.Tensor) and isinstance(now := loaded.get(index, {}).get(key), torch.Tensor)
    )
