"""What a run of the lab does when a person asks for it, beside what its controller can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgecollapse.controller.command_handlers import cadence, go_on, pause
from surgecollapse.controller.live_settings import handlers_of
from surgecollapse.lab.data.streamed import StreamedData
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
        given = {name: value for name, value in command.body.items() if value is not None}
        if not given:
            raise ValueError("nothing to change: give label_smoothing or class_weights")
        training.loss.change({**training.loss.options, **given}, training.data)
        return "loss with " + ", ".join(f"{name} {value}" for name, value in given.items())

    def set_batch_size(command: ask.SetBatchSize) -> str:
        before, size, samples, ranks = training.feed.batch_size, command.size, training.data.train_size, training.ranks
        if size > samples:
            raise ValueError(f"there are {samples} training samples: expected at most as many, got {size}")
        if size < ranks.size:
            raise ValueError(f"{ranks.size} processes share a batch: expected at least as many samples")
        if size == before:
            raise ValueError(f"batches have {size} samples already")
        training.feed.set_batch_size(size)
        return f"samples a step {before} → {size}"

    def weigh(command: ask.WeighSamples) -> str:
        training.feed.weigh(command.rows, command.weight)
        return f"{len(command.rows)} samples come {command.weight:g} times an epoch"

    def drop(command: ask.DropSamples) -> str:
        training.feed.weigh(command.rows, 0.0)
        return f"{len(command.rows)} samples are left out"

    def relabel(command: ask.RelabelSamples) -> str:
        count = training.labels.change(command.rows, command.label)
        return f"{count} samples have the label {command.label} now"

    def mix(command: ask.MixSources) -> str:
        data = training.data
        sources = getattr(data.train, "sources", {}) if isinstance(data, StreamedData) else {}
        if not sources:
            raise ValueError(f"{data.name} has one source: expected a ConcatDataset, or a data set with `sources`")
        if missing := [name for name in command.weights if name not in sources]:
            raise ValueError(f"no source {missing[0]!r}: expected one of {', '.join(sources)}")
        training.feed.weigh_all([(sources[name], weight) for name, weight in command.weights.items()])
        return "a new epoch with " + ", ".join(f"{name} × {weight:g}" for name, weight in command.weights.items())

    def augment(command: ask.SetAugmentation) -> str:
        return f"augmented samples {training.feed.augment(command.share):.0%} → {command.share:.0%}"

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
