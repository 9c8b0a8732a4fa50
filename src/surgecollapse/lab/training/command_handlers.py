"""What a run of the lab does when a person asks for it, beside what its controller can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgecollapse.controller.command_handlers import cadence, go_on, pause
from surgecollapse.lab.training.inspection import inspect

if TYPE_CHECKING:
    from surgecollapse import commands as ask
    from surgecollapse.controller.command_loop import Handler
    from surgecollapse.lab.training.trainer import Training


def handlers(training: Training) -> dict[str, Handler]:
    """Kind of command → what carries it out in this run."""
    command_loop = training.command_loop

    def learning_rate(command: ask.LearningRate) -> str:
        training.rate_factor = command.factor
        return f"learning rate × {command.factor:g}"

    def change_cadence(command: ask.Cadence) -> str:
        watched = training.attached.watched or training.controller
        return cadence(getattr(watched, "watch", None), command.every)

    def checkpoint(_: ask.Checkpoint) -> str:
        training.keep_checkpoint()
        return f"checkpoint of step {training.step}, kept until it is deleted"

    def delete_checkpoint(command: ask.DeleteCheckpoint) -> str:
        training.delete_checkpoint(command.step)
        return f"deleted the checkpoint of step {command.step}"

    def stop(_: ask.Stop) -> str:
        command_loop.stopping = True
        return "the run ends here"

    def roll_back(command: ask.RollBack) -> str:
        before = training.step
        left = training.roll_back(command.step)
        kept = f"; what came after it is kept in {left}" if left else ""
        return f"went back from step {before} to step {command.step}{kept}"

    return {
        "learning-rate": learning_rate,
        "cadence": change_cadence,
        "checkpoint": checkpoint,
        "delete-checkpoint": delete_checkpoint,
        "stop": stop,
        "roll-back": roll_back,
        "inspect": lambda _: inspect(training),
        "pause": lambda _: pause(command_loop),
        "continue": lambda _: go_on(command_loop),
    }
