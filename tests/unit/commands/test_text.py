"""Commands as words, and the schema of the agent protocol."""

from __future__ import annotations

import json
from dataclasses import fields

import agent_schema
import pytest
import reference_agent

from surgecollapse.commands import (
    COMMANDS,
    Collapse,
    DropSamples,
    MixSources,
    Pump,
    RelabelSamples,
    ReplaceSchedule,
    ResetLayers,
    SetAugmentation,
    SetBatchSize,
    SetDropout,
    SetLoss,
    SetOptimizer,
    SetSparsity,
    SetThresholds,
    command_from_text,
)
from surgecollapse.commands.schema import command_schema


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("set optimizer.0.weight_decay 0.1", SetOptimizer(option="weight_decay", value=0.1, group=0)),
        ("set optimizer.lr 1e-4", SetOptimizer(option="lr", value=1e-4)),
        ("set optimizer.*.betas 0.9,0.95", SetOptimizer(option="betas", value=(0.9, 0.95))),
        ("set policy.floor 0.2", SetThresholds(values={"floor": 0.2})),
        ("set dropout 0.2", SetDropout(rate=0.2)),
        ("set batch_size 32", SetBatchSize(size=32)),
        ("set sparsity 0.8", SetSparsity(sparsity=0.8)),
        ("set loss.label_smoothing 0.1", SetLoss(label_smoothing=0.1)),
        ("set loss.class_weights balanced", SetLoss(class_weights="balanced")),
        ("pump noise-std=0.1", Pump(noise_std=0.1)),
        ("collapse fraction=0.5 layers='body.*,head'", Collapse(fraction=0.5, layers=("body.*", "head"))),
        ("drop-samples rows=1,2,30", DropSamples(rows=(1, 2, 30))),
        ("drop-samples rows=7", DropSamples(rows=(7,))),
        ("set schedule cosine", ReplaceSchedule(shape="cosine")),
        ("replace-schedule shape=linear steps=30", ReplaceSchedule(shape="linear", steps=30)),
        ("set mixture.web 0.5", MixSources(weights={"web": 0.5})),
        ("set mixture.0 2", MixSources(weights={"0": 2.0})),
        ("set augmentation 0.5", SetAugmentation(share=0.5)),
        ("relabel-samples rows=1,2 label=3", RelabelSamples(rows=(1, 2), label=3)),
        ("reset-layers layers=body.1 units=3,4", ResetLayers(layers=("body.1",), units=(3, 4))),
    ],
)
def test_words_become_the_command(text, command):
    assert command_from_text(text) == command


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("set lr 0.1", "unknown setting 'lr': expected one of optimizer.OPTION"),
        ("set optimizer.first.lr 0.1", "expected the number of a group"),
        ("set dropout", "set takes a name and a value, got 1 words"),
        ("pump 0.1", "expected KEY=VALUE"),
        ("sparsity 0.8", "for a value alone: set sparsity 0.8"),
        ("pump noise_std=0.1 noise_std=0.2", "once for each key"),
        ("pump noise_std=much", "noise_std must be a number"),
        ("jump", "unknown command 'jump'"),
        ("pump 'noise", "is not a command"),
        ("", "is not a command"),
        ("set-batch-size size=0", "a whole number of at least 1"),
        ("mix-sources weights={}", "a table of names and numbers"),
        ("set mixture.web -1", r"numbers in \[0, 100\]"),
        ("set schedule steps", "one of constant, linear, cosine"),
        ("drop-samples rows=a", "whole numbers"),
        ("set-loss class_weights=some", "one of none, balanced"),
    ],
)
def test_words_that_are_no_command_say_what_was_expected(text, reason):
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        command_from_text(text)


def test_the_committed_schema_is_that_of_the_commands():
    assert agent_schema.PLACE.read_text(encoding="utf-8") == agent_schema.text(), "python scripts/agent_schema.py"


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_schema_of_a_command_takes_what_the_command_takes(kind):
    cls, schema = COMMANDS[kind], command_schema(COMMANDS[kind])
    json.dumps(schema)
    assert schema["properties"]["kind"] == {"const": kind}
    body = schema["properties"]["body"]
    assert set(body["required"]) <= set(body["properties"]) == {part.name for part in fields(cls)}
    assert schema["description"].endswith((".", ","))


def seen(train=(), validation=(), step=10, total=100):
    curves = {"loss/train": train, "loss/validation": validation}
    return {
        "state": {"step": step, "total": total},
        "curves": {name: {"x": list(range(len(y))), "y": list(y)} for name, y in curves.items()},
    }


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (seen([1.0] * 10), None),
        (seen([1.0] * 5 + [1.6] * 5), ["learning-rate", "factor=0.5"]),
        (seen([1.0] * 5 + [None, 1.6, 1.6, 1.6, 1.6, 1.6]), ["learning-rate", "factor=0.5"]),
        (seen(validation=[1.0, 1.1, 1.2]), ["set", "dropout", "0.2"]),
        (seen([0.1], [1.0], step=51), ["set", "loss.label_smoothing", "0.1"]),
        (seen([0.1], [1.0], step=50), None),
        (seen(), None),
    ],
)
def test_the_reference_agent_sends_commands_that_exist_and_each_once(state, words):
    done: set[str] = set()
    assert reference_agent.decide(state, done) == words
    if words is not None:
        command_from_text(" ".join(words))
        assert reference_agent.decide(state, done) is None
