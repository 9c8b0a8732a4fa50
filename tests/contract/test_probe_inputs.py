"""Whatever a model is called with, it trains as it does without us, and its checkpoint loads with `weights_only`."""

from __future__ import annotations

import io
import warnings
from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse as sc
from surgecollapse.observe.probe import PROBE_ROWS, Probe
from surgecollapse.observe.stored import NotStorableError, from_plain, to_plain

N = 100  # more than the rows that a probe keeps
Graph = namedtuple("Graph", "nodes edges")


@dataclass
class Batch:
    x: torch.Tensor
    lengths: list[int]
    name: str = "batch"


class Tokens(UserDict):
    """What tokenizers return: a mapping whose entries are attributes too."""

    def __getattr__(self, key):
        if key == "data" or key not in self.data:
            raise AttributeError(key)
        return self.data[key]

    def to(self, device):
        return self


class Pairs:
    """A batch class of somebody's own, with a cycle."""

    def __init__(self, x):
        self.x, self.me, self.size = x, self, np.int64(len(x))

    def to(self, device):
        return self


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def hidden(self, x):
        return F.relu(self.body(x))


class Edges(Base):
    def forward(self, nodes, edges):
        h = self.hidden(nodes)
        return self.head(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


class Adjacency(Base):
    def forward(self, x, adjacency):
        return self.head(adjacency @ self.hidden(x))


class Pooled(Base):
    """One number for each graph of a batch of nodes."""

    def forward(self, x, graph):
        return self.head(torch.zeros(5, 16).index_add(0, graph, self.hidden(x)))


class Masked(Base):
    """Attention over the whole first axis, under a square mask."""

    def forward(self, x, mask):
        h = self.hidden(x)
        return self.head((h @ h.T).masked_fill(mask, -torch.inf).softmax(-1) @ h)


class SetNet(Base):
    """Every row sees the mean of all: the first rows alone come out differently, without an error."""

    def forward(self, x):
        h = self.hidden(x)
        return self.head(h - h.mean(0))


class Recurrent(nn.Module):
    """Time first, with the lengths of the sequences."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16), nn.Linear(16, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])[0])


class Packed(Recurrent):
    def forward(self, packed):
        return self.head(self.lstm(packed)[1][0])


class Object(Base):
    def forward(self, batch):
        return self.head(self.hidden(batch.x))


class OfTokens(Base):
    def forward(self, batch):
        return self.head(self.hidden(batch.x * batch["mask"].unsqueeze(-1)))


class Named(Edges):
    def forward(self, graph):
        return super().forward(graph.nodes, graph.edges)


class Nested(Base):
    def forward(self, x):
        return self.head(torch.cat([part.mean(0, keepdim=True) for part in self.hidden(x).unbind()]))


class Single(Base):
    """An unbatched state."""

    def forward(self, x):
        return self.head(self.hidden(x))


class Greedy(Base):
    """Takes its arguments apart and writes to them."""

    def forward(self, batch):
        x = batch.pop("x")
        x.sub_(x.mean())
        return self.head(self.hidden(x))


class Trained(Base):
    """Cannot be evaluated on what it trains on."""

    def forward(self, x, targets=None):
        if not self.training and targets is not None:
            raise ValueError("no targets in evaluation")
        return self.head(self.hidden(x))


def nodes(n=N):
    return torch.randn(n, 8)


def edges():
    return torch.randint(N, (2, 300))


def sparse(layout):
    dense = (torch.rand(N, N) < 0.1).float() / 10
    return dense.to_sparse_csr() if layout == "csr" else dense.to_sparse()


CASES = {
    "graph": lambda: (Edges(), (nodes(), edges())),
    "graph in a named tuple": lambda: (Named(), (Graph(nodes(), edges()),)),
    "graphs pooled": lambda: (Pooled(), (nodes(), torch.arange(5).repeat_interleave(20))),
    "dense adjacency": lambda: (Adjacency(), (nodes(), torch.rand(N, N) / N)),
    "sparse adjacency": lambda: (Adjacency(), (nodes(), sparse("coo"))),
    "csr adjacency": lambda: (Adjacency(), (nodes(), sparse("csr"))),
    "attention mask": lambda: (Masked(), (nodes(), torch.ones(N, N, dtype=torch.bool).triu(1))),
    "a set": lambda: (SetNet(), (nodes(),)),
    "time first with lengths": lambda: (Recurrent(), (torch.randn(N, 6, 8), torch.tensor([100, 90, 80, 70, 60, 50]))),
    "packed": lambda: (Packed(), (nn.utils.rnn.pack_sequence([nodes(5), nodes(3)]),)),
    "dataclass": lambda: (Object(), (Batch(nodes(), [1, 2]),)),
    "tokens": lambda: (OfTokens(), (Tokens({"x": nodes(), "mask": torch.ones(N)}),)),
    "own class with a cycle": lambda: (Object(), (Pairs(nodes()),)),
    "nested": lambda: (Nested(), (torch.nested.nested_tensor([nodes(2), nodes(5)], layout=torch.jagged),)),
    "unbatched": lambda: (Single(), (torch.randn(8),)),
    "taken apart": lambda: (Greedy(), ({"x": nodes()},)),
    "no evaluation": lambda: (Trained(), (nodes(), nodes())),
    "plain rows": lambda: (Single(), (nodes(),)),
}
CUT = {"plain rows", "dataclass", "tokens", "own class with a cycle"}


def train(net, make, steps, attach=None):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    controller = attach(net, optimizer) if attach else None
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net(*make()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, controller


def idle(net, optimizer, probe=None, **options):
    readings = sc.Readings(every=2, probe=probe)
    return sc.attach(net, optimizer, sparsity=0.5, total_steps=100, policy="no_op", readings=readings, **options)


@pytest.fixture(autouse=True)
def _beta_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        yield


def quietly(function, *args):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no activation entropy")  # of a single unbatched sample
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
        return function(*args)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")  # torch 2.14 says what it does
@pytest.mark.parametrize("name", CASES)
def test_it_trains_as_without_us_and_its_state_loads_with_weights_only(name):
    def make():
        return CASES[name]()[1]

    torch.manual_seed(0)
    net = CASES[name]()[0]
    twin = type(net)()
    twin.load_state_dict(net.state_dict())
    expected, _ = quietly(train, twin, make, 4)
    found, controller = quietly(train, net, make, 4, idle)
    assert found == expected
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))
    assert not any(key.startswith("head") for key in controller.masks)
    assert controller.readings[0].layers
    buffer = io.BytesIO()
    torch.save(controller.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    controller.detach()
    again = idle(net, torch.optim.SGD(net.parameters(), lr=0.01))
    again.load_state_dict(state)
    measured = [c._components.observer.activation_energy() for c in (controller, again)]
    assert measured[0] == measured[1] != {}


@pytest.mark.parametrize("name", CASES)
def test_rows_are_cut_only_where_they_mean_the_same_alone(name):
    net, inputs = CASES[name]()
    probe = Probe()
    probe.capture(inputs, {})
    args, _ = quietly(probe.arguments, net)
    from surgecollapse.torch_utils.modules import first_axis, tensors_in

    kept, whole = first_axis(next(tensors_in(args))), first_axis(next(tensors_in(inputs)))
    assert kept == (PROBE_ROWS if name in CUT else whole)


def test_a_batch_that_does_not_pass_names_the_option():
    class Never(Base):
        def forward(self, x):
            if torch.is_grad_enabled():
                return self.head(self.hidden(x))
            raise KeyError("no gradient")

    net = Never()
    optimizer = torch.optim.SGD(net.parameters())
    idle(net, optimizer)
    net(nodes()).sum().backward()
    with pytest.raises(
        RuntimeError, match=r"does not pass through the model \(KeyError: 'no gradient'\): pass Readings\(probe="
    ):
        optimizer.step()


def test_what_a_checkpoint_cannot_hold_is_said_and_left_out():
    class Opaque:
        def __init__(self, x):
            self.x = x

    net = Object()
    optimizer = torch.optim.SGD(net.parameters())
    controller = idle(net, optimizer)
    net(Opaque(nodes())).sum().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"probe batch holds a .*Opaque, which a checkpoint cannot hold.*probe="):
        state = controller.state_dict()
    assert state["probe"]["known"] is False


def test_a_class_that_is_not_imported_is_named():
    stored = to_plain(Batch(torch.ones(2), [1]))
    stored["class"] = "no_such_package.data:Batch"
    with pytest.raises(ValueError, match=r"holds a no_such_package\.data\.Batch, which is not imported"):
        from_plain(stored)


@pytest.mark.parametrize("path", ["builtins:object", "pathlib:Path", "subprocess:Popen"])
def test_only_classes_of_batches_are_rebuilt(path):
    import subprocess  # noqa: F401

    stored = to_plain(Batch(torch.ones(2), [1]))
    stored["class"] = path
    with pytest.raises(ValueError, match="which is no batch"):
        from_plain(stored)


@pytest.mark.parametrize(
    "value",
    [
        (1, 2.5, "text", None, True, b"bytes", torch.float16),
        {"a": [torch.arange(3), {"b": (torch.ones(2),)}]},
        np.arange(4).reshape(2, 2),
        np.float32(2.5),
        Graph(torch.ones(2), torch.zeros(3)),
        Batch(torch.ones(2), [1, 2], "other"),
        Tokens({"x": torch.ones(3)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_batches_survive_being_written(value):
    buffer = io.BytesIO()
    torch.save(to_plain(value), buffer)
    buffer.seek(0)
    again = from_plain(torch.load(buffer, weights_only=True))
    assert type(again) is type(value)
    assert repr(again) == repr(value)


def test_a_lock_cannot_be_written():
    import threading

    with pytest.raises(NotStorableError, match="lock"):
        to_plain([threading.Lock()])


def test_batches_of_tokenizers_and_graph_libraries():
    transformers = pytest.importorskip("transformers")
    data = pytest.importorskip("torch_geometric.data")
    encoding = transformers.BatchEncoding({"x": torch.ones(3, 8), "mask": torch.ones(3)})
    graphs = data.Batch.from_data_list([data.Data(x=nodes(4), edge_index=torch.tensor([[0, 1], [1, 2]]), y=1)] * 2)
    for net, batch in ((OfTokens(), encoding), (Object(), graphs), (Object(), data.Data(x=nodes(60)))):
        optimizer = torch.optim.SGD(net.parameters())
        controller = idle(net, optimizer)
        net(batch).sum().backward()
        optimizer.step()
        buffer = io.BytesIO()
        torch.save(controller.state_dict(), buffer)
        buffer.seek(0)
        probe = Probe()
        probe.load_state_dict(torch.load(buffer, weights_only=True)["probe"])
        ((again,), _) = probe.arguments(net)
        assert type(again) is type(batch)
        assert torch.equal(again["x"], batch["x"])
        assert torch.equal(net.eval()(again), net(batch))
    assert again.num_nodes == 60


def test_graphs_of_a_batch_are_counted_after_a_resume():
    data = pytest.importorskip("torch_geometric.data")
    graphs = data.Batch.from_data_list([data.Data(x=nodes(4)), data.Data(x=nodes(2))])
    again = from_plain(to_plain(graphs))
    assert (again.num_graphs, again.ptr.tolist()) == (2, [0, 4, 6])
    assert torch.equal(again[1].x, graphs[1].x)
