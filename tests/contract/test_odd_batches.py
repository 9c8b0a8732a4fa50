"""One sample, batches that change, class scores of every kind, starved layers, frozen and empty parameters."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse as sc
from surgecollapse.observe.activations import ActivationReader
from surgecollapse.observe.monitor_context import MonitorContexts
from surgecollapse.observe.monitors import MONITORS
from surgecollapse.observe.observer import Observer
from surgecollapse.observe.predictions import class_scores
from surgecollapse.observe.probe import Probe


def train(net, batches, **options):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    settings = {"sparsity": 0.5, "policy": "no_op", "readings": sc.Readings(every=1)} | options
    controller = sc.attach(net, optimizer, **settings)
    for x in batches:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return controller


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def segmenter():
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def encoder():
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), nn.ReLU(), nn.Linear(8, 3))


# ---- one sample ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shape"), [(segmenter, (1, 2, 12, 12)), (encoder, (1, 40, 8)), (segmenter, (3, 2, 12, 12))]
)
def test_few_samples_with_positions_are_read(build, shape):
    torch.manual_seed(0)
    controller = train(build(), [torch.randn(shape)] * 2)
    assert all(reading.entropy is not None for reading in controller.readings)
    assert all(layer.rows >= 32 for reading in controller.readings for layer in reading.layers)


@pytest.mark.parametrize("policy", ["no_op", "cyclic_pruning", "entropy_thresholds", "soft_threshold_entropy"])
@pytest.mark.parametrize(
    ("shape", "rows"),
    [((1, 6), "is a single sample"), ((6,), "is a single sample"), ((2, 6), "has 2"), ((3, 6), "has 3")],
)
def test_few_rows_warn_once_and_train(shape, rows, policy):
    with pytest.warns(
        UserWarning, match=rf"no activation entropy at step 1.*the batch {rows}.*without positions"
    ) as said:
        controller = train(mlp(), [torch.randn(shape) for _ in range(4)], policy=policy, total_steps=400)
    assert len([w for w in said if "no activation entropy" in str(w.message)]) == 1
    assert controller.step == 4
    assert {layer.units for layer in controller.readings[0].layers} == {16}


class Frozen(nn.BatchNorm2d):
    """Statistics that training leaves alone, as in detectors that are fine-tuned on one image a batch."""

    def train(self, mode=True):
        return super().train(False)


ONE_SAMPLE = {
    "batch norm with fixed statistics": (lambda: Frozen(8), (1, 2, 9, 9)),
    "batch norm of the one image": (lambda: nn.BatchNorm2d(8), (1, 2, 9, 9)),
    "instance norm": (lambda: nn.InstanceNorm2d(8), (1, 2, 9, 9)),
    "group norm": (lambda: nn.GroupNorm(2, 8), (1, 2, 9, 9)),
    "no batch axis": (nn.Identity, (2, 9, 9)),
}


@pytest.mark.parametrize("name", ONE_SAMPLE)
def test_one_image_a_batch_is_read_whatever_normalizes_it(name):
    norm, shape = ONE_SAMPLE[name]
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3), norm().train(), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1)
    )
    statistics = [value.clone() for value in net[1].buffers()] if isinstance(net[1], Frozen) else []
    controller = train(net, [torch.randn(shape) for _ in range(4)])
    assert all(reading.entropy is not None for reading in controller.readings)
    assert all(map(torch.equal, statistics, net[1].buffers()))


class Steps(nn.Module):
    """A cell that is called once a time step."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(16, 3)

    def forward(self, x):
        state = None
        for row in x:
            state = self.cell(row, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.RNNCell, nn.LSTMCell])
def test_cells_that_a_loop_calls_are_read(kind):
    controller = train(Steps(kind(6, 16)), [torch.randn(5, 7, 6) for _ in range(4)])
    assert set(controller.masks) == {"cell.weight_ih", "cell.weight_hh"}
    assert all(reading.entropy is not None for reading in controller.readings)


def test_a_reading_without_a_source_warns_once():
    net = mlp()
    reader = ActivationReader(net, {"0": net[0]})
    observer = Observer(net, reader, Probe(), torch.Generator())
    with pytest.warns(UserWarning, match=r"no layer was seen to run.*Pass Readings\(probe="):
        assert observer.read(1, 0.0).source == "none"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observer.read(2, 0.0)


@pytest.mark.filterwarnings("ignore:no activation entropy")
def test_shapes_may_change_from_batch_to_batch():
    sizes = [(70, 6), (1, 6), (3, 6), (200, 6), (64, 6)]
    controller = train(mlp(), [torch.randn(size) for size in sizes])
    # The first step's reading is of the probe batch, since only that step shows which layers there are to read.
    assert [reading.layers[0].rows for reading in controller.readings] == [64, 1, 3, 128, 64]
    lengths = [(2, 9, 8), (5, 3, 8), (40, 1, 8)]
    assert train(encoder(), [torch.randn(size) for size in lengths]).step == 3


# ---- class scores -------------------------------------------------------------------------------------------------


class Returns(nn.Module):
    """A classifier of images or sequences that returns its logits in some form."""

    def __init__(self, head, form):
        super().__init__()
        self.head, self.form = head, form

    def forward(self, x):
        return self.form(self.head(x), x)


K = 5
SCORES = {
    "rows": (nn.Linear(4, K), (7, 4), lambda z, _: z, -1),
    "sequences": (nn.Linear(4, K), (7, 9, 4), lambda z, _: z, -1),
    "sequences, classes first": (nn.Linear(4, K), (7, 9, 4), lambda z, _: z.transpose(1, 2), 1),
    "segmentation": (nn.Conv2d(4, K, 1), (7, 4, 6, 8), lambda z, _: z, 1),
    "volumes": (nn.Conv3d(4, K, 1), (2, 4, 3, 6, 8), lambda z, _: z, 1),
    "signals": (nn.Conv1d(4, K, 1), (7, 4, 9), lambda z, _: z, 1),
    "upsampled": (nn.Conv2d(4, K, 1), (2, 4, 3, 3), lambda z, _: F.interpolate(z, scale_factor=2), 1),
    "channels last": (nn.Conv2d(4, K, 1), (2, 4, 6, 8), lambda z, _: z.permute(0, 2, 3, 1), -1),
    "features beside logits": (nn.Linear(4, K), (7, 4), lambda z, x: {"features": x * 9, "logits": z}, -1),
    "out beside aux": (nn.Conv2d(4, K, 1), (2, 4, 6, 8), lambda z, x: {"aux": x, "out": z}, 1),
    "loss first": (nn.Linear(4, K), (7, 4), lambda z, _: (z.mean(), z), -1),
}


def expected_confidence(z, axis):
    """1 − H(softmax)/ln K, of logits; the mean over everything but the classes."""
    z = z.get("logits", z.get("out")) if isinstance(z, dict) else z[1] if isinstance(z, tuple) else z
    assert z.shape[axis] == K
    log_p = z.double().log_softmax(axis)
    return 1 + float((log_p.exp() * log_p).sum(axis).mean()) / math.log(K)


PROBABILITIES = {"softmax": lambda z, axis: z.softmax(axis), "log softmax": lambda z, axis: z.log_softmax(axis)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ending", PROBABILITIES)
@pytest.mark.parametrize("name", ["rows", "segmentation", "signals", "sequences"])
def test_the_confidence_of_a_model_that_ends_in_a_softmax_is_that_of_its_logits(name, ending, dtype):
    torch.manual_seed(0)
    head, shape, _, axis = copy.deepcopy(SCORES[name])
    net, x = Returns(head, lambda z, _: PROBABILITIES[ending](z, axis)).to(dtype), 9 * torch.randn(shape).to(dtype)
    probe = Probe(x)
    observer = Observer(net, ActivationReader(net, {}), probe, torch.Generator(), dataflow=probe.dataflow(net))
    with torch.no_grad():
        expected = expected_confidence(head(x), axis)
    rounding = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)  # entropies are in float32
    assert observer.measure("prediction_confidence") == pytest.approx(expected, abs=16 * rounding)


@pytest.mark.parametrize("scores", [torch.rand(4, K) + 0.01, torch.full((4, K), 1.0), torch.eye(K)[:4] - 0.1])
def test_scores_that_are_no_distributions_stay_as_they_are(scores):
    assert torch.equal(class_scores(scores, nn.Identity()), scores)


@pytest.mark.parametrize("name", SCORES)
def test_the_monitor_of_predictions_reads_the_classes_too(name):
    torch.manual_seed(0)
    head, shape, form, axis = SCORES[name]
    net, x = Returns(head, form), torch.randn(shape)
    contexts = MonitorContexts(net, Probe(x))
    found = MONITORS["predictions"]().measure(contexts.build(1, (), {}, ("outputs",)))
    with torch.no_grad():
        expected = expected_confidence(form(head(x), x), axis)
    assert 1 - found["entropy/predictive"].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_confidence_is_taken_over_the_classes(name):
    torch.manual_seed(0)
    head, shape, form, axis = SCORES[name]
    net, x = Returns(head, form), torch.randn(shape)
    probe = Probe(x)
    observer = Observer(net, ActivationReader(net, {}), probe, torch.Generator(), dataflow=probe.dataflow(net))
    with torch.no_grad():
        expected = expected_confidence(form(head(x), x), axis)
    assert observer.measure("prediction_confidence") == pytest.approx(expected, abs=1e-5)


def test_the_entry_with_the_scores_can_be_named():
    output = {"logits": torch.zeros(3, 2), "other": torch.ones(3, 4)}
    assert class_scores(output, nn.Identity(), which="other").shape == (3, 4)
    assert class_scores(output, nn.Identity(), which=lambda out: out["other"][:2]).shape == (2, 4)
    assert class_scores(torch.ones(3), nn.Identity()) is None
    with pytest.raises(ValueError, match="no entry 'missing'; it returns logits, other"):
        class_scores(output, nn.Identity(), which="missing")


# ---- starved layers -----------------------------------------------------------------------------------------------


def uneven():
    """A net whose middle layer has far smaller weights than the others."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)
    )
    with torch.no_grad():
        net[2].weight.mul_(1e-4)
    return net


def test_a_layer_at_its_minimum_is_an_event_and_one_warning():
    controller = train(uneven(), [torch.randn(8, 6)] * 2, sparsity=sc.Target(0.8, min_density=0.01))
    with pytest.warns(UserWarning, match=r"one global threshold.*density of 1\.00%: 2\.weight.*allocation=") as said:
        controller.finalize()
    assert len(said) == 1
    (event,) = [event for event in controller.events if event.kind == "starved"]
    assert event.details["parameters"] == {"2.weight": 16}  # 1% of 1,600
    assert controller.state_dict()["engine"]["rewiring"]["starved"] == ["2.weight"]


@pytest.mark.parametrize("allocation", ["layer", "erk"])
def test_no_layer_starves_where_each_has_its_own_share(allocation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        controller = train(uneven(), [torch.randn(8, 6)] * 2, sparsity=sc.Target(0.8, allocation=allocation))
        controller.finalize()
    assert not [event for event in controller.events if event.kind == "starved"]


# ---- frozen and empty parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (), (1,)])
def test_parameters_without_entries_or_axes_are_left_alone(shape):
    net = mlp()
    net.extra = nn.Parameter(torch.zeros(shape))
    controller = train(net, [torch.randn(8, 6)] * 3, sparsity=0.5, policy="acdc", total_steps=100)
    controller.finalize()
    assert set(controller.masks) == {"0.weight", "2.weight"}
    assert controller.sparsity == 0.5
    assert "extra" in {row.name for row in controller.explain() if not row.prunable}


def test_a_parameter_without_entries_cannot_be_included():
    net = mlp()
    net.extra = nn.Parameter(torch.zeros(0, 4))
    controller = train(net, [], sparsity=sc.Target(0.5, include=["extra", "0.weight"]))
    assert set(controller.masks) == {"0.weight"}
    assert controller.explain()["extra"].reason == "has no entries"


def test_state_and_pickle_survive_when_all_prunable_weights_are_frozen():
    net, x = mlp(), torch.randn(8, 6)
    controller = train(net, [x] * 2, sparsity=sc.Target(0.5))
    controller.finalize()
    for layer in (net[0], net[2]):
        layer.weight.requires_grad_(False)
    state = controller.state_dict()
    controller.load_state_dict(state)
    again = pickle.loads(pickle.dumps(controller))
    assert controller.sparsity == again.sparsity == 0.5
    assert all(torch.equal(mask, again.masks[name]) for name, mask in controller.masks.items())
