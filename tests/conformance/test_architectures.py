"""One line of code prunes every architecture: the right weights, exactly, at every step, resumable."""

from __future__ import annotations

import copy
import re
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import surgecollapse as sc
from conformance.architectures import ARCHITECTURES, Architecture, called, loss_of
from surgecollapse.functional import kept

SPARSITY, STEPS, EVERY, HALF = 0.8, 40, 4, 17
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@dataclass
class Run:
    """A net that is trained for some steps, and what was seen on the way."""

    net: nn.Module
    batch: Any
    optimizer: torch.optim.Optimizer
    controller: sc.Controller
    revived: list[tuple[int, str]] = field(default_factory=list)
    closed: int = 0
    seconds: dict[int, float] = field(default_factory=dict)
    saved: tuple[Any, ...] = ()

    def train(self, first: int, last: int) -> None:
        """Train from one step to another; every step has its own random numbers."""
        for step in range(first, last):
            torch.manual_seed(step)
            began = time.perf_counter()
            self.optimizer.zero_grad()
            loss_of(called(self.net, self.batch)).backward()
            self.optimizer.step()
            self.seconds[step + 1] = time.perf_counter() - began
            weights = dict(self.net.named_parameters())
            masks = self.controller.masks
            self.revived += [(step, name) for name, mask in masks.items() if weights[name].detach()[~mask].any()]
            self.closed = max(self.closed, sum(int((~mask).sum()) for mask in masks.values()))


def begun(kind: Architecture, **options: Any) -> Run:
    """A new net with the controller attached."""
    pytest.importorskip(kind.needs)
    torch.manual_seed(0)
    net, batch = kind.build(), kind.batch()
    net.train()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-3)
    controller = sc.attach(net, optimizer, SPARSITY, STEPS, readings=sc.Readings(every=EVERY), **options)
    return Run(net, batch, optimizer, controller)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trained(request: pytest.FixtureRequest) -> tuple[Architecture, Run]:
    """Each net, trained to the end."""
    kind = ARCHITECTURES[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = begun(kind)
        run.train(0, HALF)
        run.saved = copy.deepcopy((run.net.state_dict(), run.optimizer.state_dict()))
        run.train(HALF, STEPS)
    run.controller.finalize()
    return kind, run


@pytest.mark.conformance("heads right")
def test_exactly_the_weights_of_layers_are_pruned_and_heads_stay_dense(trained):
    kind, run = trained
    names = [name for name, _ in run.net.named_parameters()]
    table = run.controller.explain()
    assert set(run.controller.masks) == {name for name in names if re.fullmatch(kind.pruned, name)}
    assert {row.name for row in table if row.prunable} == set(run.controller.masks)
    for pattern, role in kind.dense.items():
        found = [name for name in names if re.fullmatch(pattern, name)]
        assert found, pattern
        assert {table[name].role for name in found} == {role}, pattern


@pytest.mark.conformance("masks held")
def test_a_closed_weight_is_zero_after_every_step(trained):
    _, run = trained
    assert run.revived == []
    assert run.closed > 0


@pytest.mark.conformance("target reached")
def test_as_many_weights_are_open_as_the_target_says(trained):
    _, run = trained
    weights = dict(run.net.named_parameters())
    total = sum(mask.numel() for mask in run.controller.masks.values())
    assert sum(int(mask.sum()) for mask in run.controller.masks.values()) == kept(total, SPARSITY)
    assert sum(int((weights[name] != 0).sum()) for name in run.controller.masks) <= kept(total, SPARSITY)
    assert run.controller.frozen


@pytest.mark.conformance("entropy read")
def test_every_reading_has_an_entropy(trained, record_property):
    _, run = trained
    readings = run.controller.readings
    assert len(readings) >= STEPS // EVERY - 1
    assert all(reading.entropy is not None and 0.0 <= reading.entropy <= 1.0 for reading in readings)
    read = {reading.step for reading in readings}
    plain = statistics.median(seconds for step, seconds in run.seconds.items() if step not in read)
    cost = statistics.median(run.seconds[step] for step in read) / plain
    record_property("conformance", ("step with a reading, in plain steps", f"{cost:.0f}"))


@pytest.mark.conformance("resume bitwise")
def test_a_run_resumed_from_the_states_of_net_and_optimizer_is_the_same(trained):
    kind, run = trained
    again = begun(kind)
    again.net.load_state_dict(run.saved[0])
    again.optimizer.load_state_dict(run.saved[1])
    again.train(HALF, STEPS)
    again.controller.finalize()
    for (name, one), other in zip(run.net.named_parameters(), again.net.parameters(), strict=True):
        assert torch.equal(one, other), name
    for name, mask in run.controller.masks.items():
        assert torch.equal(mask, again.controller.masks[name]), name


@pytest.mark.parametrize("name", [name for name, kind in ARCHITECTURES.items() if kind.says])
def test_what_pruning_cannot_reach_is_said(name):
    kind = ARCHITECTURES[name]

    def first_step():
        begun(kind, policy="no_op").train(0, 1)

    with pytest.warns(UserWarning, match=kind.says):
        first_step()


def oriented(name: str, key: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """How a weight's rows become its output units."""
    return (lambda weight: weight.T) if name == "GPT-2" and key.endswith("weight") else lambda weight: weight


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "T5", "Mixtral", "Mamba"])
def test_two_of_four_run_along_the_inputs_of_each_layer(name):
    kind = ARCHITECTURES[name]
    pytest.importorskip(kind.needs)
    torch.manual_seed(0)
    net, batch = kind.build(), kind.batch()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    controller = sc.attach(net, optimizer, sc.Target(0.5, pattern="2:4"), policy="one_shot", total_steps=2)
    loss_of(called(net, batch)).backward()
    optimizer.step()
    controller.finalize()
    for key, mask in controller.masks.items():
        rows = oriented(name, key)(mask).flatten(0, -2)
        whole = rows.shape[-1] // 4 * 4
        assert bool((rows[:, :whole].reshape(-1, 4).sum(1) == 2).all()), key
