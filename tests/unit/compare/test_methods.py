"""The methods of a comparison: equal budgets, and settings that the loop accepts."""

from __future__ import annotations

import pytest

from surgecollapse.compare.methods import ABLATIONS, METHODS
from surgecollapse.compare.plan import merged
from surgecollapse.events import Plan
from surgecollapse.lab.config import make_config
from surgecollapse.policies import make_policy


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.longer is None])
def test_every_method_has_eight_different_trials_that_can_be_run(name):
    method = METHODS[name]
    assert method.name == name
    assert len({repr(trial) for trial in method.trials}) == 8
    for trial in method.trials:
        config = make_config(task="mnist1d", **merged(method.settings, trial))
        assert (config.method.policy == "none") == (not method.sparse or method.target_key == "shrink_to_sparsity")
        if config.method.policy != "none":
            make_policy(config.method.policy, **config.method.policy_options).start(
                Plan(sparsity=0.9, total_steps=4_000, every=50)
            )


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.longer is not None])
def test_a_longer_method_is_another_one_with_its_tuning(name):
    longer = METHODS[name]
    base = METHODS[longer.longer]
    assert (longer.settings, longer.sparse, longer.target_key) == (base.settings, base.sparse, base.target_key)
    assert (longer.trials, name) == ((), f"{base.name}_equal_flops")


def test_dropout_is_tuned_over_a_range_that_its_best_value_is_inside_of():
    rates = [trial["dropout"] for trial in METHODS["dropout"].trials]
    assert (min(rates), max(rates)) == (0.1, 0.5)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_can_be_run_and_differs_from_the_recipe(name):
    config = make_config(task="mnist1d", **ABLATIONS[name].settings)
    policy = make_policy(config.method.policy, **config.method.policy_options)
    policy.start(Plan(sparsity=0.9, total_steps=4_000, every=50))
    recipe = make_config(task="mnist1d", **ABLATIONS["default"].settings)
    found, plain = (
        (repr(policy), config.method.growth),
        (repr(make_policy(recipe.method.policy, **recipe.method.policy_options)), None),
    )
    assert (found == plain) == (name == "default")
    assert (config.model.dropout, config.method.allocation) == (recipe.model.dropout, recipe.method.allocation)


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_label_of_an_ablation_says_the_policy_that_it_runs(name):
    method = ABLATIONS[name]
    policy = method.settings["policy"]
    assert method.title.startswith(f"{name}: {policy}(")
    assert method.runs.startswith(f"{policy}(")
    assert f"Runs {method.runs}." in method.description
    for option, value in method.settings["policy_options"].items():
        assert f"{option}={value!r}" in method.runs


def test_a_new_method_stands_after_ours_and_cannot_take_a_name(monkeypatch):
    from surgecollapse.compare.methods import registry

    monkeypatch.setattr(registry, "_REGISTERED", registry.Registry("methods", "method"))
    for name, place in (("late", 60), ("early", 0)):
        registry.method(
            registry.Method(name=name, title=name, description="", settings={"policy": "gmp"}, trials=(), place=place)
        )
    assert list(registry.registered()) == ["early", "late"]
