"""The configuration: presets fill, what is given wins, and every mistake is one line that names the way out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from surgecollapse.functional import GROWTH, SALIENCY
from surgecollapse.functional.entropy import ENTROPY
from surgecollapse.lab.config import (
    ConfigError,
    as_mapping,
    flat_values,
    layered,
    make_config,
    read_config,
    write_config,
)
from surgecollapse.lab.config.keys import FAMILIES, KEYS
from surgecollapse.lab.config.optimizer import SGDOptimizer
from surgecollapse.lab.config.renamed import RENAMED
from surgecollapse.lab.tasks.registry import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_preset_that_is_a_whole_configuration(task):
    config = make_config(task=task)
    assert config.data.task == task
    assert config.run.total_steps(1_000) == config.run.steps


def test_what_is_given_wins_over_presets():
    assert make_config(task="digits", lr=0.5).optimizer.lr == 0.5
    assert make_config(task="digits", widths=(7,)).model.widths == (7,)


def test_another_model_brings_its_own_widths():
    assert make_config(task="digits", model="cnn").model.widths == (16, 32)
    assert make_config(task="modular", model="mlp").model.widths == (256, 256)
    assert make_config(task="digits", model="cnn", widths=(4,)).model.widths == (4,)


def test_another_optimizer_brings_its_own_rate_and_weight_decay():
    assert (
        make_config(task="modular").optimizer.weight_decay
        == make_config(task="modular", optimizer="adamw").optimizer.weight_decay
        == 1.0
    )
    assert make_config(task="modular", optimizer="adam").optimizer.weight_decay == 0.0
    assert make_config(task="digits", optimizer="sgd").optimizer.lr == 0.05
    assert make_config(task="digits", optimizer="sgd", lr=0.5).optimizer.lr == 0.5


def test_epochs_take_the_place_of_the_presets_steps():
    config = make_config(task="digits", epochs=2.5, batch_size=30)
    assert config.run.steps is None
    assert config.run.total_steps(100) == 10
    assert make_config(task="digits", epochs=3, batch_size=0).run.total_steps(100) == 3


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        make_config(task="digits").optimizer.lr = 2.0
    with pytest.raises(ValidationError):
        make_config(task="digits").optimizer = make_config(task="kjv").optimizer


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"task": "digit"}, "unknown task 'digit': expected one of coco-captions, "),
        ({"task": "digit"}, "Did you mean 'digits'?"),
        ({"task": "digits", "polcy": "none"}, "unknown key 'polcy': expected one of `surgecollapse list keys`. Did"),
        ({"task": "digits", "polcy": "none"}, "Did you mean 'policy'?"),
        ({"task": "digits", "zzz": 1}, "unknown key 'zzz': expected one of "),
        ({"task": "digits", "minimum_density": 0}, "since version 0.2 it is called 'min_density'"),
        ({"task": "digits", "policy": "entropie"}, "unknown policy 'entropie': expected one of none, "),
        (
            {"task": "digits", "policy": "waves"},
            "since version 0.2 it is called 'cyclic_pruning'",
        ),
        ({"task": "digits", "policy": "gmp", "optimizer": {"nam": 1}}, "Did you mean 'optimizer.name'?"),
        ({"task": "digits", "optimzer.lr": 1}, "unknown section 'optimzer': expected one of data, model, "),
        ({"task": "digits", "optimizer.modulus": 1}, "unknown key 'optimizer.modulus': expected one of optimizer.name"),
        ({"task": "digits", "data": 3}, "data = 3: expected a table of keys, as in [data]"),
        ({"task": "digits", "lr": 1, "optimizer.lr": 1}, "lr is given twice"),
        ({"task": "digits", "optimizer": {"name": "sgdd"}}, "unknown optimizer 'sgdd': expected one of adamw, "),
        ({"task": "digits", "modulus": 7}, "modulus = 7 has no effect with task = 'digits': drop it"),
        ({"task": "digits", "policy": "none", "sparsity": 0.5}, "sparsity = 0.5 has no effect with policy = 'none'"),
        ({"task": "digits", "optimizer": "sgd", "eps": 1e-5}, "eps = 1e-05 has no effect with optimizer = 'sgd'"),
        ({"task": "kjv", "label_noise": 0.2}, "label_noise = 0.2 has no effect with task = 'kjv'"),
        ({"task": "kjv", "class_weights": "balanced"}, "the labels of kjv are characters"),
        ({"task": "qm9", "loss": "cross_entropy"}, "loss = 'cross_entropy': the labels of qm9 are numbers"),
        ({"task": "digits", "give_up": True}, "give_up = true needs a forecast"),
        ({"task": "digits", "forecast": "trian"}, "unknown forecast 'trian'"),
        ({"task": "grokfast-modular", "until": "grokked", "stop_at_accuracy": 0.9}, "are two goals: drop one"),
        ({"task": "digits", "model": "resnext"}, "expected one of autoregressive, cnn, decoder, gnn"),
        ({"task": "digits", "sparsity": 1.0}, "sparsity must be in [0, 1), got 1"),
        ({"task": "digits", "sparsity": -0.1}, "sparsity must be in [0, 1), got -0.1"),
        ({"task": "digits", "sparsity": 90}, "sparsity must be in [0, 1), got 90. Did you mean 0.9?"),
        ({"task": "digits", "seed": "one"}, "seed = 'one': expected a number, got a str"),
        ({"task": "digits", "sparsity": "0.5"}, "sparsity = '0.5': expected a number, got a str"),
        ({"task": "digits", "seed": True}, "seed = true: expected a number, got a bool"),
        ({"task": "digits", "clip": True}, "clip = true: expected a number"),
        ({"task": "digits", "widths": [8, True]}, "widths = true: expected a number"),
        (
            {"task": "digits", "regrow_init": "zeros"},
            "unknown regrow_init 'zeros': expected one of zero, noise, last. Did you mean 'zero'?",
        ),
        ({"task": "digits", "steps": 1, "epochs": 1}, "either steps or epochs"),
        ({"task": "digits", "widths": (0,)}, "widths must be from 1 to 1000000, got [0]"),
        ({"task": "digits", "widths": (10**20,)}, "widths must be from 1 to 1000000"),
        ({"task": "digits", "lr": float("inf")}, "lr = inf: input should be a finite number"),
        ({"task": "digits", "epochs": float("inf")}, "epochs = inf"),
        ({"task": "digits", "threads": 100_000}, "threads = 100000: input should be less than or equal to 1024"),
        ({"task": "digits", "policy": "no_op", "policy_options": {"floor": 0.3}}, "takes no policy_options, got floor"),
        ({"task": "digits", "model": "cnn", "widths": ()}, "at least one width"),
        ({"task": "digits", "pattern": "2:4"}, "got sparsity=0.9: give sparsity=0.5"),
        ({"task": "digits", "pattern": "4x4"}, "Did you mean 'block:4x4'"),
        (
            {"task": "digits", "pattern": "unit", "policy": "none"},
            "has no effect with policy = 'none': drop it",
        ),
        ({}, "no task given: choose one of coco-captions, "),
        ({}, "webdataset, or a published experiment (`surgecollapse list experiments`)"),
    ],
)
def test_every_mistake_is_one_line_that_says_what_would_do(values, words):
    with pytest.raises(ConfigError) as caught:
        make_config(**values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_and_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('task = "digits"\nlr = 0.5\nwidths = [8, 4]\npolicy_options = { floor = 0.3 }\n')
    config = read_config(path, lr=0.25)
    assert (config.optimizer.lr, config.model.widths, config.method.policy_options) == (0.25, (8, 4), {"floor": 0.3})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task = ", "is not a TOML file"),
        ('task = "digits"\nlearning_rate = 1\n', "unknown key 'learning_rate'"),
        ('[digits]\ntask = "digits"\n', "unknown key 'digits'"),
        ('[data]\ntask = "digits"\n[optimizer]\nlearning_rate = 1\n', "unknown key 'optimizer.learning_rate'"),
        ("widths = " + "[" * 5_000, "nested too deeply"),
    ],
)
def test_a_bad_file_is_named_in_one_line(text, words, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nope\.toml: No such file"):
        read_config(tmp_path / "nope.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(tmp_path / "binary.toml")


values = st.fixed_dictionaries(
    {"task": st.sampled_from(list(TASKS))},
    optional={
        "data_dir": st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text),
        "sparsity": st.floats(0, 1, exclude_max=True),
        "widths": st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
        "clip": st.floats(1e-300, 1e300),
        "policy_options": st.dictionaries(
            st.text(max_size=5), st.one_of(st.booleans(), st.integers(-9, 9), st.floats(0, 1), st.text(max_size=9))
        ),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@given(values)
def test_a_written_configuration_reads_back_equal(tmp_path_factory, given_values):
    config = make_config(**given_values)
    path = tmp_path_factory.mktemp("config") / "config.toml"
    write_config(config, path)
    assert read_config(path) == config


def test_every_key_says_what_it_is():
    for name, (_, field) in KEYS.items():
        assert field.description, name


def test_configuration_imports_no_torch():
    code = "import sys, surgecollapse.lab.config, surgecollapse.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("key", "names"), [("entropy", ENTROPY), ("saliency", SALIENCY), ("growth", GROWTH)])
def test_descriptions_list_every_name_that_a_key_takes(key, names):
    text = str(KEYS[key][1].description)
    assert [name for name in names if name not in text] == []


GIVEN = [
    {"task": "digits", "optimizer": "sgd", "lr": 0.1, "seed": 3},
    {"task": "digits", "optimizer.name": "sgd", "optimizer.lr": 0.1, "run.seed": 3},
    {"data": {"task": "digits"}, "optimizer": {"name": "sgd", "lr": 0.1}, "run": {"seed": 3}},
    {"task": "digits", "optimizer": {"name": "sgd"}, "lr": 0.1, "run.seed": 3},
]


@pytest.mark.parametrize("given_values", GIVEN)
def test_a_key_is_given_by_its_own_name_dotted_or_in_its_section(given_values, tmp_path):
    config = make_config(**given_values)
    assert config == make_config(**GIVEN[0])
    assert (config.optimizer.name, config.optimizer.lr, config.run.seed) == ("sgd", 0.1, 3)


def test_a_file_may_have_sections_dotted_or_flat_keys(tmp_path):
    texts = (
        'task = "digits"\noptimizer = "sgd"\nlr = 0.1\nseed = 3\n',
        'data.task = "digits"\noptimizer.name = "sgd"\noptimizer.lr = 0.1\nrun.seed = 3\n',
        '[data]\ntask = "digits"\n[optimizer]\nname = "sgd"\nlr = 0.1\n[run]\nseed = 3\n',
    )
    for text in texts:
        (tmp_path / "run.toml").write_text(text)
        assert read_config(tmp_path / "run.toml") == make_config(**GIVEN[0])


def test_own_names_are_unique_and_every_section_has_only_its_own_keys():
    for name, (section, _) in KEYS.items():
        assert name == section or name not in FAMILIES, name
    assert {section for section, _ in KEYS.values()} == set(FAMILIES)


def test_another_kind_drops_what_only_the_old_one_had(tmp_path):
    config = make_config(task="prieto-modular", optimizer="sgd")
    assert isinstance(config.optimizer, SGDOptimizer)
    assert config.optimizer.lr == make_config(task="prieto-modular").optimizer.lr
    path = tmp_path / "run.toml"
    write_config(make_config(task="digits", grokfast="ema", grokfast_alpha=0.5), path)
    assert read_config(path, grokfast="none").transforms.grokfast == "none"
    with pytest.raises(ConfigError, match=r"eps = 0.1 has no effect"):
        read_config(path, optimizer="sgd", eps=0.1)


def test_what_is_left_out_is_written_and_read_as_none(tmp_path):
    config = make_config(task="imdb", train_samples=None, clip=None)
    assert (config.data.train_samples, config.transforms.clip) == (None, None)
    assert make_config(task="imdb").data.train_samples == 3_000, "the preset of the task"
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config


def test_the_default_policy_is_cyclic_pruning_with_its_own_defaults():
    config = make_config(task="digits")
    assert (config.method.policy, config.method.policy_options) == ("cyclic_pruning", {})


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in RENAMED.items() if old != "standardise"])
def test_a_file_of_version_1_opens_under_the_new_names(old, new, tmp_path):
    values = {"hold": 5, "smallest": True, "content_words": True, "weigh_batches": True, "average_decay": 0.5,
              "trace_every": 7, "moments": "keep", "initial": "last", "rho": 0.2, "distribution": "erk",
              "minimum_density": 0.25}  # fmt: skip
    task = {"smallest": "qm9", "content_words": "imdb"}.get(old, "digits")
    text = str(values[old]).lower() if not isinstance(values[old], str) else f'"{values[old]}"'
    (tmp_path / "run.toml").write_text(f'task = "{task}"\npolicy = "entropy"\n{old} = {text}\n')
    config = read_config(tmp_path / "run.toml")
    assert flat_values(as_mapping(config))[new] == values[old]
    assert config.method.policy == "entropy_cycles"


def test_a_run_of_version_1_is_read_as_it_was_trained(tmp_path):
    """Its file left out what was not set, and had every key, of other tasks and optimizers, too."""
    old = json.loads((Path(__file__).parents[3] / "data" / "experiments-0.1.json").read_text())["grokfast-imdb"]
    old |= {"train_samples": None, "recipe": "surge-collapse", "policy": "waves", "policy_options": {"waves": 4}}
    lines = [f"{key} = {json.dumps(value)}" for key, value in old.items() if value not in (None, {"waves": 4})]
    (tmp_path / "config.toml").write_text("\n".join(lines) + "\npolicy_options = {waves = 4}\n")
    config = read_config(tmp_path / "config.toml")
    assert config == layered(flat_values(old))
    assert config.data.train_samples is None, "not the preset of the task"
    assert (config.method.policy, config.method.policy_options) == (
        "cyclic_pruning",
        {"cycles": 4, "dense_until": 0.1, "last_cycle_start": 0.45, "surge": 0.5},
    )


def test_a_record_is_read_by_own_name_whoever_wrote_it():
    config = make_config(task="digits", optimizer="muon")
    values = flat_values(as_mapping(config))
    assert (values["task"], values["model"], values["optimizer"], values["lr"]) == ("digits", "mlp", "muon", 1e-3)
    assert layered(values) == config
    assert flat_values({"mine": {"a": 1}, "lr": 0.1}) == {"mine": {"a": 1}, "lr": 0.1}


@pytest.mark.parametrize(
    ("given", "goal"),
    [
        ({}, (0.95, "end")),
        ({"until": "grokked"}, (None, "grokked")),
        ({"until": "end"}, (0.95, "end")),
        ({"stop_at_accuracy": 0.9}, (0.9, "end")),
    ],
)
def test_a_goal_that_is_given_takes_the_place_of_that_of_a_published_experiment(given, goal):
    run = make_config(task="grokfast-modular", **given).run
    assert (run.stop_at_accuracy, run.until) == goal
