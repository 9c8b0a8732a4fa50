"""Each row of the table in docs/limits.md: its message is the one that comes."""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import _StridedShard
from torch.utils.checkpoint import checkpoint

import surgecollapse as sc
from limits_page import promised, rows
from surgecollapse.export import compact_model
from surgecollapse.observe.activations import ActivationReader
from surgecollapse.observe.observer import Observer
from surgecollapse.observe.probe import Probe

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


def rare_steps():
    model = mlp()
    often, rarely = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[:2], model[2:]))
    attach(model, [often, rarely])
    for _ in range(10):
        step(model, often)


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


class Own(torch.optim.SGD):
    """Keeps a memory of its own."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.m = {p: torch.zeros_like(p) for p in self.param_groups[0]["params"]}


def moments_elsewhere():
    model = mlp()
    optimizer, _ = attach(model, Own(model.parameters()))
    step(model, optimizer)


class Recomputed(nn.Module):
    """A whole model within a checkpoint."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False)


def gradients(model, inner, passes):
    """Of some forward passes with input noise and one backward pass."""
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p)
    _, controller = attach(inner, torch.optim.SGD(model.parameters(), lr=0.1), policy="static")
    controller.carry_out(sc.Decision(phase="pump", reason="by hand", actions=(sc.events.SetNoise(0.5),)))
    sum(nn.functional.cross_entropy(model(X), Y) for _ in range(passes)).backward()
    controller.detach()
    return [p.grad for p in model.parameters()]


def checkpointed():
    found = {}
    for passes in (1, 2):
        plain, model = mlp(), Recomputed()
        kept, again = gradients(plain, plain, passes), gradients(model, model.net, passes)
        found[passes] = all(map(torch.allclose, kept, again))
    return found, {1: True, 2: False}


# On one process that calls itself a group: what is refused or gathered does not depend on how many there are.


@contextmanager
def group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


def attach_to_shards(**options):
    with group() as mesh:
        attach(fully_shard(mlp(), mesh=mesh), **options)


def monitored_shards():
    attach_to_shards(monitors="default")


def recycled_shards():
    attach_to_shards(policy="redo")


def equalized_shards():
    with group() as mesh:
        model = fully_shard(mlp(), mesh=mesh)
        optimizer, _ = attach(model, transforms=[sc.EqualizeSpectrum()])
        step(model, optimizer)


def strided_shards():
    with group() as mesh:  # a strided placement that counts splits which are not there
        model = mlp()
        part = DTensor.from_local(torch.ones(24, 10), mesh, [_StridedShard(0, split_factor=2)], run_check=False)
        model[0].weight = nn.Parameter(part)
        attach(model)


def flat_parameters():
    with group():
        attach(FullyShardedDataParallel(mlp(), device_id=torch.device("cpu")))


def sharded_afterwards():
    with group() as mesh:
        model = mlp()
        optimizer, _ = attach(model)
        fully_shard(model, mesh=mesh)
        step(model, optimizer)


def exported_shards():
    with group() as mesh:
        compact_model(fully_shard(mlp(), mesh=mesh), X)


def gathered_by(**options):
    """Which whole weights a decision makes out of parts."""
    gathered, full = [], DTensor.full_tensor

    def counted(tensor, *args, **kwargs):
        gathered.append(tuple(tensor.shape))
        return full(tensor, *args, **kwargs)

    with group() as mesh, pytest.MonkeyPatch.context() as patch:
        model = fully_shard(mlp(), mesh=mesh)
        optimizer, _ = attach(model, **options)
        step(model, optimizer)
        patch.setattr(DTensor, "full_tensor", counted)
        for _ in range(19):
            step(model, optimizer)
    return dict.fromkeys(gathered, True)


def shards_ranked_by_layer():
    plain = gathered_by(updates=sc.Updates(saliency="magnitude"))
    lamp = gathered_by(updates=sc.Updates(saliency="lamp"))
    return {**lamp, "plain": len(plain)}, {(24, 10): True, (24, 24): True, "plain": 0}


def shards_with_a_pattern():
    return gathered_by(sparsity=sc.Target(0.5, pattern="block:2x2")), {(24, 10): True, (24, 24): True}


def numbers_of_filters_on_shards():
    found = {}
    for kind in ("plain", "shards"):
        with group() as mesh:
            memory = sc.MemoryRecorder()
            model = mlp() if kind == "plain" else fully_shard(mlp(), mesh=mesh)
            optimizer, _ = attach(model, transforms=[sc.Grokfast()], recorders=[memory])
            for _ in range(4):
                step(model, optimizer)
            names = {event.name for event in memory.events if isinstance(event, sc.events.Measurement)}
            found[kind] = any(name.startswith("grokfast/") for name in names)
    return found, {"plain": True, "shards": False}


CASES = {
    "`LBFGS`": lbfgs,
    "compiled optimizer step": compiled_step,
    "several optimizers, of which the last": rare_steps,
    "a new optimizer after": another_optimizer,
    "no forward pass in training mode": eval_mode,
    "networks in one module": apart,
    "an output that a later": taken_in,
    "weights that join": joins,
    "compiled parts": compiled_parts,
    "low-rank adapters": adapters,
    '`pattern="unit"`': recurrent_units,
    "batches of one to three vectors": one_vector,
    "a model that fails": probe_that_fails,
    "a probe batch of objects": odd_probe,
    "`model.double()`": cast_after_adam,
    "Adafactor": adafactor,
    "writes through `.data`": written_to,
    "moments outside": moments_elsewhere,
    "two checkpointed passes": checkpointed,
    "sharded weights and `monitors=`": monitored_shards,
    "sharded weights and the policy `redo`": recycled_shards,
    "sharded weights and `EqualizeSpectrum`": equalized_shards,
    "parts of weights that are no slices": strided_shards,
    "`FullyShardedDataParallel`": flat_parameters,
    "a model that is sharded after": sharded_afterwards,
    "sharded training and criteria": shards_ranked_by_layer,
    "sharded training and `pattern=`": shards_with_a_pattern,
    "sharded training and numbers": numbers_of_filters_on_shards,
    "export of a sharded model": exported_shards,
}


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
    for situation, _ in rows():
        assert sum(situation.startswith(start) for start in CASES) == 1, situation
    assert len(rows()) == len(CASES)


@pytest.mark.parametrize("start", CASES)
def test_the_message_of_the_page_is_the_one_that_comes(start):
    (happens,) = [what for situation, what in rows() if situation.startswith(start)]
    messages, returned = told(CASES[start])
    if happens.startswith("no message"):
        assert returned is not None, messages
        found, expected = returned
        assert found | expected == found
        assert not messages
        return
    assert any(re.search(promised(start), message.replace("`", "")) for message in messages), messages
