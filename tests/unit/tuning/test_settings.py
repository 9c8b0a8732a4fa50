from __future__ import annotations

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from surgecollapse.errors import ConfigError
from surgecollapse.lab.config.keys import KEYS
from surgecollapse.policies import POLICIES
from surgecollapse.tuning.objectives import OBJECTIVES, choose_objectives, values_of_rows
from surgecollapse.tuning.priors import prior, priors
from surgecollapse.tuning.settings import RunSpace, _options, resolve
from surgecollapse.tuning.space import parse_domain

DIGITS = [{"task": "digits", "steps": 10}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lr", ("lr", None)),
        ("optimizer.lr", ("lr", None)),
        ("optimizer.name", ("optimizer", None)),
        ("grokfast.lamb", ("grokfast_lamb", None)),
        ("transforms.grokfast_lamb", ("grokfast_lamb", None)),
        ("transforms.grokfast.lamb", ("grokfast_lamb", None)),
        ("policy.floor", ("policy_options", "floor")),
        ("policy_options.floor", ("policy_options", "floor")),
        ("method.policy_options.floor", ("policy_options", "floor")),
        ("method.policy", ("policy", None)),
    ],
)
def test_name_stands_for_a_key(name, expected):
    assert resolve(name) == expected


@pytest.mark.parametrize("name", sorted(KEYS))
def test_every_key_of_a_run_can_be_named(name):
    assert resolve(name) == (name, None)


def config_of(layers, space, **drawn):
    return RunSpace(layers, space).config(drawn)


def test_drawn_values_are_laid_over_the_experiment():
    space = {"lr": "1e-3..1e-1:log", "policy.drop_fraction": "0.1..0.5", "widths": "[8],[16,16]"}
    layers = [{**DIGITS[0], "policy": "rigl", "policy_options": {"interval": 7}}]
    config = config_of(layers, space, lr=0.01, **{"policy.drop_fraction": 0.25, "widths": "[16, 16]"})
    assert config.optimizer.lr == 0.01
    assert config.method.policy_options == {"interval": 7, "drop_fraction": 0.25}
    assert config.model.widths == (16, 16)


def test_options_of_another_policy_are_not_mixed_in():
    layers = [{**DIGITS[0], "policy": "rigl", "policy_options": {"interval": 7}}]
    space = {"policy": "rigl,set", "policy.drop_fraction": "0.1..0.5"}
    config = config_of(layers, space, policy="set", **{"policy.drop_fraction": 0.25})
    assert config.method.policy_options == {"drop_fraction": 0.25}


@pytest.mark.parametrize(
    ("space", "chosen", "names"),
    [
        ({"policy": "rigl,gmp", "policy.drop_fraction": "0.1..0.5"}, {"policy": "gmp"}, {"policy"}),
        (
            {"policy": "rigl,gmp", "policy.drop_fraction": "0.1..0.5"},
            {"policy": "rigl"},
            {"policy", "policy.drop_fraction"},
        ),
        ({"grokfast": "none,ema", "grokfast.alpha": "0.8..0.99"}, {"grokfast": "none"}, {"grokfast"}),
        ({"grokfast": "none,ema", "grokfast.alpha": "0.8..0.99"}, {"grokfast": "ema"}, {"grokfast", "grokfast.alpha"}),
        ({"policy": "none,gmp", "sparsity": "0.8..0.9"}, {"policy": "none"}, {"policy"}),
    ],
)
def test_setting_without_effect_is_not_drawn(space, chosen, names):
    found = RunSpace(DIGITS, space)
    trial = optuna.trial.FixedTrial({**{s.name: getattr(s.domain, "low", None) for s in found.settings}, **chosen})
    values = found.draw(trial)
    assert set(values) == names
    found.config(values)


def test_range_of_whole_numbers_is_real_where_the_setting_is():
    found = RunSpace(
        DIGITS, {"weight_decay": "0..1", "warmup": "0..100", "policy": "rigl,set", "policy.drop_fraction": "0..1"}
    )
    assert found.distributions["weight_decay"] == FloatDistribution(0.0, 1.0)
    assert found.distributions["warmup"] == IntDistribution(0, 100)
    assert found.distributions["policy.drop_fraction"] == FloatDistribution(0.0, 1.0)


def test_untuned_settings_are_a_trial_where_the_space_holds_them():
    (values,) = RunSpace(DIGITS, {"lr": "1e-4..1e-1:log", "sparsity": "0.5..0.95"}).defaults()
    assert values == {"lr": 1e-3, "sparsity": 0.9}
    assert RunSpace(DIGITS, {"lr": "1e-2..1e-1:log"}).defaults() == []


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"sparcity": "0.8..0.9"}, "unknown setting 'sparcity'.*Did you mean 'sparsity'"),
        ({"optimizer.lrr": "0.8..0.9"}, "unknown key 'optimizer.lrr'"),
        ({"sparsity": "0.8..1.2"}, r"search sparsity = 1\.2: sparsity must be in \[0, 1\), got 1\.2"),
        ({"lr": "-1..1"}, "search lr = -1"),
        ({"seed": "0..9"}, "say how many with --seeds"),
        ({"task": "digits,mnist"}, "search task"),
        ({"policy": "rigl,gpm"}, "unknown policy 'gpm'.*Did you mean 'gmp'"),
        (
            {"policy": "rigl,gmp", "policy.dorp_fraction": "0.1..0.5"},
            "is not an option of policy.*Did you mean 'drop_fraction'",
        ),
        ({"grokfast.alpha": "0.8..0.99"}, "search grokfast.alpha has no effect with grokfast = 'none'; drop it"),
        ({"modulus": "7..97"}, "has no effect with task = 'digits'"),
        ({"lr": "1e-3..1e-2", "optimizer.lr": "1e-3..1e-2"}, "given twice, under two names"),
        ({"model": "mlp,cnnn"}, "unknown model 'cnnn'"),
        ({"widths": "[8],[0]"}, "search widths"),
    ],
)
def test_space_that_no_run_takes_is_refused_at_once(space, said):
    with pytest.raises(ConfigError, match=said) as caught:
        RunSpace(DIGITS, space)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acuracy", "unknown objective 'acuracy'.*Did you mean 'accuracy'"),
        ("test_accuracy", "the test set is not used for tuning; take accuracy"),
        ("test", "take accuracy"),
        ("accuracy,accuracy", "given twice"),
        ("accuracy:up", "expected accuracy:min or accuracy:max"),
        ("", "no objective given"),
    ],
)
def test_bad_objective_is_one_line(text, said):
    with pytest.raises(ConfigError, match=said):
        choose_objectives(text)


def test_objectives_of_rows_are_means():
    rows = [{"accuracy": 0.5, "sparsity": 0.9, "steps": 10, "t_gen_sustained": 4},
            {"accuracy": 0.7, "sparsity": 0.8, "steps": 10, "t_gen_sustained": None}]  # fmt: skip
    found = values_of_rows(choose_objectives("val_accuracy,density,steps_to_grok"), rows)
    # Steps: 4 where it generalized, and twice the 10 steps of the run where it did not.
    assert found == pytest.approx([0.6, 0.15, 12.0], rel=1e-12)
    for bad in ({"accuracy": None}, {"accuracy": math.nan}, {"accuracy": 0.5, "diverged": True}):
        with pytest.raises(ArithmeticError):
            values_of_rows(choose_objectives("accuracy"), [bad])


def test_no_objective_reads_the_test_set():
    class Row(dict):
        def get(self, key, default=None):
            assert not key.startswith("test")
            return super().get(key, default)

        __getitem__ = get

    row = Row(steps=10, sparsity=0.5)
    for objective in OBJECTIVES.values():
        objective.value(row)


@pytest.mark.parametrize("name", priors())
def test_prior_is_a_domain_of_a_setting_and_has_a_source(name):
    key, option = resolve(name)
    assert key in KEYS
    domain = parse_domain(name, prior(name))
    assert set(priors()[name]) == {"domain", "source"}
    base = {"grokfast": "ema"} if key.startswith("grokfast_") else {}
    having = [name for name in POLICIES if option in _options(name)] if option else ["gmp"]
    assert having, f"no policy has the option {option}"
    for policy in having:
        if option == "high" and policy == "entropy_thresholds":
            continue  # there it is an entropy, which depends on the net
        if not isinstance(domain, CategoricalDistribution):
            RunSpace([{**DIGITS[0], **base, "policy": policy}], {name: prior(name)})


def test_missing_prior_says_what_to_write():
    with pytest.raises(ConfigError, match=r"write steps=LOW\.\.HIGH"):
        prior("steps")
