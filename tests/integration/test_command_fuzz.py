"""Commands of every kind with any values, at any step: a run settles each, ends, and is repeated bit for bit."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

from surgecollapse.commands import COMMANDS, command_from
from surgecollapse.commands.schema import command_schema
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import CommandQueue

SHORT = {"task": "digits", "steps": 36, "widths": (12,), "train_samples": 120, "evaluate_every": 9, "every": 4,
         "checkpoint_every": 9, "keep_checkpoints": 4, "monitors": "none", "dropout": 0.1,
         "batch_size": 16}  # fmt: skip
NUMBERS = (0.0, 0.05, 0.3, 0.5, 0.9, 1.0, 2.0, 7.0, 1e3, -1.0)
WORDS = {
    "layers": ("body.*", "body.1", "head", "*", "body.1.weight", "head.bias", "nothing"),
    "option": ("lr", "weight_decay", "betas", "eps", "momentum", "fused", "nothing"),
}
ALONE = ("pause", "stop", "continue")
"""A pause waits for another command, a stop ends the run: both are sent in their own way."""


def value_of(name, schema, chance):
    """A value that a schema allows, or nearly: ranges and names are often missed."""
    if "anyOf" in schema:
        return value_of(name, chance.choice(schema["anyOf"]), chance)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "number":
        return chance.choice([number for number in NUMBERS if schema.get("minimum", -9) <= number])
    if kind == "integer":
        return chance.choice((0, 1, 2, 3, 5, 9, 11, 18, 27, 200))
    if kind == "array":
        return [value_of(name, schema["items"], chance) for _ in range(chance.randint(1, 3))]
    if kind == "object":
        keys = chance.sample(["floor", "0", "maximum_depth", "nothing"], 1)
        return {key: value_of(name, schema["additionalProperties"], chance) for key in keys}
    return chance.choice(WORDS.get(name, ("nothing",))) if kind == "string" else None


def commands_of(seed):
    """Up to three commands after each of a third of the steps, all valid in form; some cannot be done."""
    chance, plan = random.Random(seed), {}
    for step in range(1, SHORT["steps"] + 1):
        asked = []
        while chance.random() < 0.5 and len(asked) < 3:
            kind = chance.choice([kind for kind in COMMANDS if kind not in ALONE])
            parts = command_schema(COMMANDS[kind])["properties"]["body"]
            names = [name for name in parts["properties"] if name in parts["required"] or chance.random() < 0.4]
            body = {name: value_of(name, parts["properties"][name], chance) for name in names}
            try:
                asked.append(command_from(kind, body))
            except ValueError:
                continue  # the form is wrong: nothing that a run hears of
        plan[step] = asked
    plan[chance.randint(5, 30)] += [command_from("pause", {}), command_from("continue", {})]
    return plan


def weights_of(folder):
    newest = max((folder / "checkpoints").glob("step-*.pt"), key=lambda path: int(path.stem[5:]))
    state = torch.load(newest, weights_only=True)
    return newest.name, {name: value.numpy().tobytes() for name, value in state["model"].items()}


def trained(folder, seed, policy, monkeypatch):
    advance, plan = Training.advance, commands_of(seed)

    def asked(training):
        for command in plan.pop(training.step + 1, ()):
            training.command_loop.request(command)
        advance(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", asked)
        options = {} if policy == "none" else {"sparsity": 0.8}
        return train(make_config(policy=policy, seed=seed, **options, **SHORT), folder)


@pytest.mark.parametrize("policy", ["entropy_cycles", "soft_threshold", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_any_commands_are_settled_and_the_run_is_repeated_bitwise(seed, policy, tmp_path, monkeypatch):
    warnings.simplefilter("ignore")
    result = trained(tmp_path / "run", seed, policy, monkeypatch)
    assert result.status in ("complete", "diverged")
    asked = CommandQueue(tmp_path / "run" / "run.db").all()
    assert len(asked) > 10
    assert {one.status for one in asked} == {"applied", "rejected"}
    assert all(one.reason and "Traceback" not in one.reason for one in asked)
    again = train(None, tmp_path / "again", replay=tmp_path / "run")
    assert (again.status, again.step) == (result.status, result.step)
    assert weights_of(tmp_path / "again") == weights_of(tmp_path / "run")
