"""What a run of the lab does when a person asks for it, beside what its controller can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgecollapse.controller.command_handlers import cadence, go_on, pause
from surgecollapse.controller.live_settings import handlers_of
from surgecollapse.lab.training.hardest import rank_samples
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

    def evaluate(_: ask.Evaluate) -> str:
        accuracy, loss = training.evaluate_now()
        return f"validation accuracy {accuracy:.2%}, loss {loss:.4g}"

    def set_loss(command: ask.SetLoss) -> str:
        training.change_loss(**command.body)
        return "loss with " + ", ".join(f"{name} {value}" for name, value in command.body.items() if value is not None)

    def set_batch_size(command: ask.SetBatchSize) -> str:
        return f"samples a step {training.set_batch_size(command.size)} → {command.size}"

    def weigh(command: ask.WeighSamples) -> str:
        training.weigh_samples(command.rows, command.weight)
        return f"{len(command.rows)} samples come {command.weight:g} times an epoch"

    def drop(command: ask.DropSamples) -> str:
        training.weigh_samples(command.rows, 0.0)
        return f"{len(command.rows)} samples are left out"

    def relabel(command: ask.RelabelSamples) -> str:
        count = training.relabel_samples(command.rows, command.label)
        return f"{count} samples have the label {command.label} now"

    def mix(command: ask.MixSources) -> str:
        training.mix_sources(command.weights)
        return "a new epoch with " + ", ".join(f"{name} × {weight:g}" for name, weight in command.weights.items())

    def augment(command: ask.SetAugmentation) -> str:
        return f"augmented samples {training.set_augmentation(command.share):.0%} → {command.share:.0%}"

    def rank(command: ask.RankSamples) -> str:
        return rank_samples(training, command.count)

    def seed() -> int:
        return (training.config.run.seed + 1) * 1_000_003 + training.step

    return {
        **handlers_of(training.settings, seed),
        "evaluate": evaluate,
        "set-loss": set_loss,
        "set-batch-size": set_batch_size,
        "weigh-samples": weigh,
        "drop-samples": drop,
        "relabel-samples": relabel,
        "mix-sources": mix,
        "set-augmentation": augment,
        "rank-samples": rank,
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
