"""Optional parts as trials for every method."""

from __future__ import annotations

import pytest

from comparisons import prepare
from surgecollapse.compare.methods import METHODS
from surgecollapse.compare.methods.parts import PARTS, with_parts
from surgecollapse.compare.plan import merged
from surgecollapse.lab.config import ConfigError, make_config


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trials])
def test_every_method_can_have_every_part_that_fits_it(name):
    method = with_parts(METHODS[name], list(PARTS.values()))
    dense = METHODS[name].settings["policy"] == "none"
    assert len(method.trials) == 8 * (3 if dense else 4)
    assert method.trials[:8] == METHODS[name].trials
    for trial in method.trials[8:]:
        config = make_config(task="mnist1d", **merged(method.settings, trial))
        if trial.get("ema_decay"):
            assert config.transforms.ema_decay == 0.99
        elif trial.get("sam_rho"):
            assert config.transforms.sam_rho == 0.05
        else:
            assert config.method.optimizer_state == "ramp"


def test_parts_are_chosen_by_tuning(tmp_path):
    made = prepare("smoke", tmp_path, methods="gmp,rigl", parts="average,ramp", seeds=1)
    assert made.counts()["tuning"] == 48
    made = prepare("smoke", tmp_path, methods="gmp,rigl", parts="average,ramp", seeds=1, budget="8")
    assert made.counts()["tuning"] == 16
    with pytest.raises(ConfigError, match="parts ramp are chosen by tuning: drop --budget none"):
        prepare("smoke", tmp_path, methods="gmp", parts="ramp", budget="none")
    with pytest.raises(ConfigError, match=r"unknown part 'averag'.*Did you mean 'average'"):
        prepare("smoke", tmp_path, methods="gmp", parts="averag")
