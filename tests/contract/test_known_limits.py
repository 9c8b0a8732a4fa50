"""Each row of the table in docs/limits.md: its message is the one that comes."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.observe.activations import ActivationReader
from surgecollapse.observe.observer import Observer
from surgecollapse.observe.probe import Probe

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
X, Y = torch.randn(64, 10), torch.randint(3, (64,))


def mlp():
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))


def attach(model, optimizer=None, sparsity=0.5, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    options = {"policy": "one_shot", "readings": sc.Readings(every=2), **options}
    return optimizer, sc.attach(model, optimizer, sparsity, 20, **options)


def step(model, optimizer, x=X, y=Y):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def lbfgs():
    model = mlp()
    attach(model, torch.optim.LBFGS(model.parameters()))


def compiled_step():
    model = mlp()
    optimizer, _ = attach(model, readings=sc.Readings(every=2, probe=X))
    nn.functional.cross_entropy(model(X), Y).backward()
    torch.compile(optimizer.step, backend="eager", fullgraph=True)()


def another_optimizer():
    model = mlp()
    optimizer, _ = attach(model, policy="static")
    step(model, optimizer)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1))


def eval_mode():
    model = mlp()
    optimizer, _ = attach(model)
    step(model.eval(), optimizer)


class Apart(nn.Module):
    """Two networks, of which ``forward`` runs one."""

    def __init__(self):
        super().__init__()
        self.body, self.other = mlp(), mlp()

    def forward(self, x):
        return self.body(x)


def apart():
    model = Apart()
    optimizer, controller = attach(model)
    step(model, optimizer)
    return {row.name: row.prunable for row in controller.explain()}, {"body.4.weight": False, "other.4.weight": True}


class Critic(nn.Module):
    """An output that a later output layer takes in, after ReLU."""

    def __init__(self):
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(10, 24), nn.Linear(24, 3), nn.Linear(3, 1)

    def forward(self, x):
        action = self.actor(torch.relu(self.body(x))).relu()
        return action, self.critic(action)


def taken_in():
    model = Critic()
    optimizer, controller = attach(model)
    action, value = model(X)
    (action.sum() + value.sum()).backward()
    optimizer.step()
    return {row.name: row.prunable for row in controller.explain()}, {"actor.weight": True, "critic.weight": False}


class Joining(nn.Module):
    """Small layers, each with a minimum of open weights, are first without an optimizer."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 3)), nn.Linear(3, 3)
        self.small = nn.ModuleList(nn.Linear(3, 3) for _ in range(60))

    def forward(self, x):
        h = self.body(x).relu()
        for layer in self.small:
            h = h + layer(h).relu()
        return self.head(h)


def joins():
    model = Joining()
    first = [p for name, p in model.named_parameters() if not name.startswith("small")]
    target = sc.Target(0.97, allocation="layer", exclude="head.weight")
    optimizer, _ = attach(model, torch.optim.SGD(first, lr=0.01), target, policy="gmp")
    step(model, optimizer)
    optimizer.add_param_group({"params": list(model.small.parameters())})
    for _ in range(3):
        step(model, optimizer)


def compiled_parts():
    block = torch.compile(nn.Sequential(nn.Linear(24, 24), nn.ReLU()), backend="eager")
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), block, nn.Linear(24, 3))
    model(X).sum().backward()
    sites = {"0": model[0], "2.0": block._orig_mod[0]}
    observer = Observer(model, ActivationReader(model, sites), Probe(None), torch.Generator())
    observer.arm()
    model(X)
    observer.read(1, 0.0)


def adapters():
    class Lora(nn.Linear):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs)
            self.lora_A, self.lora_B = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

        def forward(self, x):
            return super().forward(x) + self.lora_B(self.lora_A(x))

    model = nn.Sequential(Lora(10, 24), nn.ReLU(), nn.Linear(24, 3))
    attach(model, readings=sc.Readings(probe=X))


def recurrent_units():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(10, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    attach(Net(), sparsity=sc.Target(0.5, pattern="unit"), readings=sc.Readings(probe=torch.randn(4, 6, 10)))


def one_vector():
    model = mlp()
    optimizer, _ = attach(model, readings=sc.Readings(every=1), policy="entropy_thresholds")
    step(model, optimizer, X[:1], Y[:1])


def probe_that_fails():
    attach(mlp(), readings=sc.Readings(probe=torch.randn(4, 7)))


class Graph:
    def __init__(self, nodes):
        self.nodes = nodes
        self.look = lambda: None  # nothing that weights_only loading takes


class Nodes(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, graph):
        return self.net(graph.nodes)


def odd_probe():
    model = Nodes()
    optimizer, controller = attach(model)
    step(model, optimizer, Graph(X))
    controller.state_dict()


def cast_after_adam():
    model = mlp()
    optimizer, _ = attach(model, torch.optim.Adam(model.parameters(), foreach=False))
    step(model, optimizer)
    step(model.double(), optimizer, X.double())


def adafactor():
    model = mlp()
    optimizer, _ = attach(model, torch.optim.Adafactor(model.parameters()))
    step(model, optimizer)


def written_to():
    model = mlp()
    optimizer, controller = attach(model, policy="static")
    for _ in range(2):
        step(model, optimizer)
    model[0].weight.data.add_(1.0)
    for _ in range(2):
        step(model, optimizer)
    raise Said(next(event.reason for event in controller.events if event.kind == "zeros"))


class Said(Exception):
    """Carries the reason of an event."""


CASES = {
    "`LBFGS`": lbfgs,
    "compiled optimizer step": compiled_step,
    "a new optimizer after": another_optimizer,
    "no forward pass in training mode": eval_mode,
    "networks in one module": apart,
    "an output that a later": taken_in,
    "weights that join": joins,
    "compiled parts": compiled_parts,
    "low-rank adapters": adapters,
    '`pattern="unit"`': recurrent_units,
    "batches of one vector": one_vector,
    "a model that fails": probe_that_fails,
    "a probe batch of objects": odd_probe,
    "`model.double()`": cast_after_adam,
    "Adafactor": adafactor,
    "writes through `.data`": written_to,
}
ELSEWHERE = {
    "checkpointing around the whole model": "no message, and nothing to see",
    "sharded weights and `monitors=`": "test_refusals.py, which has a process group",
    "`fully_shard` on a tensor-parallel": "test_refusals.py",
    "`FullyShardedDataParallel`": "test_refusals.py",
    "a model that is sharded after": "test_refusals.py",
    "export of a sharded model": "test_refusals.py",
    "sharded weights and `EqualizeSpectrum`": "test_transforms.py",
    "sharded training and criteria": "no message; test_sharded.py trains with lamp",
    "sharded training and `pattern=`": "no message; test_sharded.py trains with two",
    "sharded training and numbers": "no message, and nothing to see",
}


def rows():
    """First and second cell of the table of training loops."""
    table = PAGE.read_text(encoding="utf-8").split("## Training loops")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| situation")]
    return [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]


def told(case):
    """What it raises or warns of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            returned = case()
        except Exception as error:  # noqa: BLE001 (the message is what is asked for)
            return [str(error)], None
    return [str(warning.message) for warning in said], returned


def test_every_row_of_the_table_has_a_case():
    known = {**CASES, **ELSEWHERE}
    for situation, _ in rows():
        assert sum(situation.startswith(start) for start in known) == 1, situation
    assert len(rows()) == len(known)


@pytest.mark.parametrize("start", CASES)
def test_the_message_of_the_page_is_the_one_that_comes(start):
    (happens,) = [what for situation, what in rows() if situation.startswith(start)]
    messages, returned = told(CASES[start])
    if happens.startswith("no message"):
        found, expected = returned
        assert found | expected == found
        assert not messages
        return
    quoted = re.findall(r"`([^`]+)`", happens)[-1]
    pattern = ".*".join(re.escape(part.strip()) for part in quoted.split("…"))
    assert any(re.search(pattern, message.replace("`", ""), re.DOTALL) for message in messages), messages
