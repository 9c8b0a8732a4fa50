"""The study of reinforcement learning: its plan, its networks, and what its tables compute."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from surgecollapse.studies import registered, reinforcement
from surgecollapse.studies.reinforcement import middle, network


def prunable_and_all(layers):
    counts = [layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    return sum(counts[:-1]), sum(counts)


@pytest.mark.parametrize("task", ["cartpole", "acrobot", "harvest"])
@pytest.mark.parametrize("width", [1, 4])
def test_the_small_dense_network_has_as_many_weights_as_the_sparse_one(task, width):
    kind = reinforcement._KINDS[task]
    prunable, every = prunable_and_all(network(task, width, kind.actions))
    sparse = 0.1 * prunable + every - prunable
    _, small = prunable_and_all(network(task, width, kind.actions, small=True))
    assert small == pytest.approx(sparse, rel=0.05)
    assert tuple(network(task, width, kind.actions)(torch.zeros(2, kind.observed)).shape) == (2, kind.actions)


def test_the_page_has_every_method_in_each_group_and_full_adds_to_it():
    study = registered()["reinforcement"]

    def counted(runs):
        compared = [config for config in runs if not config["check"]]
        return Counter((c["agent"], c["task"], c["width"], c["method"]) for c in compared)

    page, full = counted(study.listed()), counted(study.listed(full=True))
    for (agent, task, width), seeds in reinforcement._GROUPS.items():
        assert [page[agent, task, width, method] for method in reinforcement._METHODS] == [seeds] * 7
    assert len(page) == 7 * len(reinforcement._GROUPS)
    assert page <= full
    assert full["ppo", "harvest", 4, "rigl"] == full["dqn", "cartpole", 4, "gmp"] == 10


def row(method, seed, **values):
    config = {"agent": "dqn", "task": "cartpole", "width": 1, "method": method, "seed": seed, "check": False}
    found = {"score": 0.0, "noisy": 0.0, "area": 0.0, "rank": 1.0, "dormant": 0.0, "under_noise": [0.0] * 4}
    return {"config": config, **found, **values}


def test_tables_have_interquartile_means_and_paired_differences():
    rows = [row("dense", seed, score=100.0) for seed in range(4)]
    rows += [
        row("gmp", seed, score=score, under_noise=[5.0, 5.0, 5.0, 9.0]) for seed, score in enumerate([0, 90, 110, 500])
    ]
    compared, noisy = reinforcement.tables(rows)
    lines = {line[0]: line for line in compared.lines}
    assert lines["dense"][1] == "100 (100 to 100)"
    assert lines["GMP"][1].startswith("100 (")  # 0 and 500 are left out
    assert lines["GMP"][4].startswith("+75 ±")  # the mean of −100, −10, +10 and +400
    assert {line[1]: line[2:] for line in noisy.lines}["GMP"] == [*["5 (5 to 5)"] * 3, "9 (9 to 9)", "4"]


def test_one_run_is_its_value_and_rows_without_noise_have_no_table_of_it():
    assert middle([3.26], 1) == "3.3"
    plain = row("dense", 0)
    del plain["under_noise"]
    assert [table.title for table in reinforcement.tables([plain])] == ["DQN on CartPole, width × 1, 90% sparse"]


def test_a_run_on_pixels_prunes_both_layers_and_has_its_curves():
    found = reinforcement.measure(
        {"agent": "dqn", "task": "harvest", "width": 1, "method": "static", "seed": 0, "steps": 640, "check": False}
    )
    assert found["density"] == pytest.approx((0.1 * 32984 + 192) / 33176, abs=1e-3)
    assert [len(found[name]) for name in ("curve", "rank_curve", "dormant_curve")] == [reinforcement._POINTS] * 3
    assert "under_noise" not in found
