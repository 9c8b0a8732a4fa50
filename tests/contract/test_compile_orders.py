"""``torch.compile`` in every order: before attach, after it, in place, by regions, the optimizer, the step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.observe.activations import ActivationReader
from surgecollapse.observe.observer import Observer
from surgecollapse.observe.probe import Probe

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*record function.*", "ignore:The .grad attribute", "ignore:`torch.jit.script_method` is deprecated"
)
X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def compiled(part, **options):
    return torch.compile(part, backend="eager", **options)


def regions(model):
    return nn.Sequential(*(compiled(part) if isinstance(part, nn.Linear) else part for part in model))


ORDERS = ["eager", "before", "after", "in place", "regions", "optimizer", "step"]


class Trained:
    """A net in one of these orders; closed weights are looked at after every step."""

    def __init__(self, how, policy):
        self.model = regions(net()) if how == "regions" else net()
        given = compiled(self.model) if how == "before" else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.5)
        self.controller = sc.attach(given, self.optimizer, 0.8, 40, policy=policy, readings=sc.Readings(every=4))
        called = compiled(self.model) if how == "after" else given
        if how == "in place":
            self.model.compile(backend="eager")

        def step():
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(called(X), Y).backward()
            self.optimizer.step()

        if how == "optimizer":
            self.optimizer.step = compiled(self.optimizer.step)
        self.step = compiled(step) if how == "step" else step

    def go_on(self, first, last):
        for _ in range(first, last):
            self.step()
            weights = [self.model.get_submodule(name[:1]) for name in self.controller.masks]
            weights = [getattr(part, "_orig_mod", part).weight for part in weights]
            closed = zip(weights, self.controller.masks.values(), strict=True)
            assert not any(weight.detach()[~mask].any() for weight, mask in closed)


@pytest.fixture(autouse=True)
def _afresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.conformance("heads right", place="torch.compile: before, after, in place, by regions, the step")
@pytest.mark.conformance("masks held", place="torch.compile: before, after, in place, by regions, the step")
@pytest.mark.conformance("target reached", place="torch.compile: before, after, in place, by regions, the step")
@pytest.mark.conformance("entropy read", place="torch.compile: before, after, in place, by regions, the step")
@pytest.mark.parametrize("how", ORDERS)
def test_every_order_trains_the_same_net(how):
    run, plain = Trained(how, "gmp"), Trained("eager", "gmp")
    run.go_on(0, 40)
    plain.go_on(0, 40)
    controller = run.controller
    assert controller.step == 40
    assert controller.frozen
    assert sorted(controller.masks) == sorted(plain.controller.masks) == ["0.weight", "2.weight"]
    assert controller.sparsity == plain.controller.sparsity
    assert all(reading.entropy is not None for reading in controller.readings)
    assert "none" not in {reading.source for reading in controller.readings}
    for a, b in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.conformance("resume bitwise", place="torch.compile: before, after, in place, by regions, the step")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "soft_threshold"])
@pytest.mark.parametrize("how", ORDERS)
def test_every_order_resumes_bitwise(how, policy):
    whole = Trained(how, policy)
    whole.go_on(0, 19)  # the reading of step 20 is armed
    states = copy.deepcopy([whole.model.state_dict(), whole.optimizer.state_dict()])
    whole.go_on(19, 40)
    again = Trained(how, policy)
    again.model.load_state_dict(states[0])
    again.optimizer.load_state_dict(states[1])
    assert again.controller.step == 19
    again.go_on(19, 40)
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))
    assert all(torch.equal(mask, again.controller.masks[name]) for name, mask in whole.controller.masks.items())
    runs = [[(e.step, e.kind) for e in run.controller.events] for run in (whole, again)]
    assert runs[0] == runs[1] != []


def test_with_a_probe_the_graph_stays_whole():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.8, 20, policy="gmp", readings=sc.Readings(every=4, probe=X))
    whole = compiled(model, fullgraph=True)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(whole(X), Y).backward()
        optimizer.step()
    assert controller.frozen
    assert {reading.source for reading in controller.readings} == {"probe"}


@pytest.mark.parametrize("where", ["wrapped", "in place"])
@pytest.mark.parametrize("probe", [None, X])
def test_layers_that_a_compiled_part_hides_are_read_on_the_probe(where, probe):
    block = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    if where == "wrapped":
        block = compiled(block)
    else:
        block.compile(backend="eager")
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), block, nn.Linear(32, 3))
    model(X).sum().backward()  # compiled before anything hooks it
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.5, 40, policy="gmp", readings=sc.Readings(every=4, probe=probe))
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    (reading,) = controller.readings
    assert [layer.layer for layer in reading.layers] == ["0", "2.0", "2.2"]
    assert reading.source == "probe"
    assert all(layer.entropy is not None for layer in reading.layers)


def test_layers_that_are_hidden_without_a_probe_are_named_once():
    block = compiled(nn.Sequential(nn.Linear(32, 32), nn.ReLU()))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), block, nn.Linear(32, 3))
    model(X).sum().backward()
    sites = {"0": model[0], "2.0": block._orig_mod[0]}
    observer = Observer(model, ActivationReader(model, sites), Probe(None), torch.Generator())

    def read():
        observer.arm()
        model(X)
        reading = observer.read(1, 0.0)
        assert (reading.source, [layer.layer for layer in reading.layers]) == ("batch", ["0"])

    with pytest.warns(UserWarning, match=r"2\.0 were not read. Pass Readings\(probe="):
        read()
    read()  # without a second warning
