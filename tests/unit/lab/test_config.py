"""The configuration: presets fill, what is given wins, and every mistake is one line that names the way out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from surgecollapse.functional.entropy import ENTROPY
from surgecollapse.functional.growth import GROWTH
from surgecollapse.functional.saliency import SALIENCY
from surgecollapse.lab.config import ConfigError, RunConfig, make_config, read_config, write_config
from surgecollapse.lab.config.presets import TASK_PRESETS


@pytest.mark.parametrize("task", TASK_PRESETS)
def test_every_task_has_a_preset_that_is_a_whole_configuration(task):
    config = make_config(task=task)
    assert config.task == task
    assert config.total_steps(1_000) == config.steps


def test_what_is_given_wins_over_presets():
    assert make_config(task="digits", lr=0.5).lr == 0.5
    assert make_config(task="digits", widths=(7,)).widths == (7,)


def test_another_model_brings_its_own_widths():
    assert make_config(task="digits", model="cnn").widths == (16, 32)
    assert make_config(task="modular", model="mlp").widths == (256, 256)
    assert make_config(task="digits", model="cnn", widths=(4,)).widths == (4,)


def test_another_optimizer_brings_its_own_rate_and_weight_decay():
    assert (
        make_config(task="modular").weight_decay == make_config(task="modular", optimizer="adamw").weight_decay == 1.0
    )
    assert make_config(task="modular", optimizer="adam").weight_decay == 0.0
    assert make_config(task="digits", optimizer="sgd").lr == 0.05
    assert make_config(task="digits", optimizer="sgd", lr=0.5).lr == 0.5


def test_epochs_take_the_place_of_the_presets_steps():
    config = make_config(task="digits", epochs=2.5, batch_size=30)
    assert config.steps is None
    assert config.total_steps(100) == 10
    assert make_config(task="digits", epochs=3, batch_size=0).total_steps(100) == 3


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        make_config(task="digits").lr = 2.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"task": "digit"}, "unknown task 'digit': did you mean 'digits'? Valid tasks: digits, "),
        ({"task": "digits", "polcy": "none"}, "unknown key 'polcy': did you mean 'policy'? Valid keys: task, "),
        ({"task": "digits", "zzz": 1}, "unknown key 'zzz': Valid keys: "),
        (
            {"task": "digits", "policy": "entropie"},
            "unknown policy 'entropie': did you mean 'entropy'? Valid policies: ",
        ),
        ({"task": "digits", "model": "resnet"}, "Valid models: mlp, cnn, transformer, autoregressive"),
        ({"task": "digits", "sparsity": 1.0}, "sparsity = 1.0: input should be less than 1"),
        ({"task": "digits", "sparsity": -0.1}, "sparsity = -0.1: input should be greater than or equal to 0"),
        ({"task": "digits", "seed": "one"}, "seed = 'one': expected a number, got a str"),
        ({"task": "digits", "sparsity": "0.5"}, "sparsity = '0.5': expected a number, got a str"),
        ({"task": "digits", "seed": True}, "seed = true: expected a number, got a bool"),
        ({"task": "digits", "clip": True}, "clip = true: expected a number"),
        ({"task": "digits", "widths": [8, True]}, "widths = true: expected a number"),
        (
            {"task": "digits", "initial": "zeros"},
            "unknown initial 'zeros': did you mean 'zero'? Valid initials: zero, ",
        ),
        ({"task": "digits", "steps": 1, "epochs": 1}, "either steps or epochs"),
        ({"task": "digits", "widths": (0,)}, "widths must be from 1 to 1000000, got [0]"),
        ({"task": "digits", "widths": (10**20,)}, "widths must be from 1 to 1000000"),
        ({"task": "digits", "lr": float("inf")}, "lr = inf: input should be a finite number"),
        ({"task": "digits", "epochs": float("inf")}, "epochs = inf"),
        ({"task": "digits", "threads": 100_000}, "threads = 100000: input should be less than or equal to 1024"),
        ({"task": "digits", "policy": "none", "policy_options": {"floor": 0.3}}, "takes no policy_options, got floor"),
        ({"task": "digits", "model": "cnn", "widths": ()}, "at least one width"),
        ({"task": "digits", "pattern": "2:4"}, "got sparsity=0.9: give sparsity=0.5"),
        ({"task": "digits", "pattern": "4x4"}, "Did you mean 'block:4x4'"),
        ({"task": "digits", "pattern": "unit", "policy": "none"}, "pattern = 'unit' has no effect with policy 'none'"),
        ({}, "no task given: choose one of digits, "),
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
    assert (config.lr, config.widths, config.policy_options) == (0.25, (8, 4), {"floor": 0.3})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task = ", "is no TOML file"),
        ('task = "digits"\nlearning_rate = 1\n', "unknown key 'learning_rate'"),
        ('[digits]\ntask = "digits"\n', "unknown key 'digits'"),
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
    {"task": st.sampled_from(list(TASK_PRESETS))},
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
    for name, field in RunConfig.model_fields.items():
        assert field.description, name


def test_configuration_imports_no_torch():
    code = "import sys, surgecollapse.lab.config, surgecollapse.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("key", "names"), [("entropy", ENTROPY), ("saliency", SALIENCY), ("growth", GROWTH)])
def test_descriptions_list_every_name_that_a_key_takes(key, names):
    text = str(RunConfig.model_fields[key].description)
    assert [name for name in names if name not in text] == []


def test_a_recipe_sets_policy_and_options_and_what_is_given_comes_first(tmp_path):
    config = make_config(task="digits", recipe="surge-collapse")
    assert (config.policy, config.policy_options) == ("cyclic_pruning", {})
    other = make_config(task="digits", recipe="surge-collapse", policy_options={"floor": 0.2})
    assert other.policy_options == {"floor": 0.2}
    assert make_config(task="digits", recipe="surge-collapse", policy="acdc").policy_options == {}
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config
    config = make_config(task="grokfast-modular", recipe="surge-collapse")
    assert config.policy == "cyclic_pruning"  # not the preset's none
    assert make_config(task="grokfast-modular").policy == "none"
    with pytest.raises(ConfigError, match=r"unknown recipe 'surge'.* Valid recipes: surge-collapse"):
        make_config(task="digits", recipe="surge")
