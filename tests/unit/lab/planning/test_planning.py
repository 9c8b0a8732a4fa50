"""Plans: operations against torch's own counter and by hand, times against published and measured ones."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from surgecollapse.cli import MISTAKE, main
from surgecollapse.errors import ConfigError
from surgecollapse.lab.config import make_config
from surgecollapse.lab.nets.gpt import GPT
from surgecollapse.lab.nets.mlp import MLP
from surgecollapse.lab.nets.resnet import ResNet
from surgecollapse.lab.planning.clock import _least_value, called_operations, timed
from surgecollapse.lab.planning.estimate import estimated, modeled_times
from surgecollapse.lab.planning.hardware import HARDWARE, hardware
from surgecollapse.lab.planning.plan import plan_run, shapes_only
from surgecollapse.lab.planning.step_trace import traced
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import RunStore

CROSS_ENTROPY = nn.functional.cross_entropy


def of_text(logits, labels):
    return CROSS_ENTROPY(logits.flatten(0, 1), labels.flatten())


def trace_of(make, x, y, loss=CROSS_ENTROPY):
    with torch.device("meta"):
        return traced(make(), torch.empty_like(x, device="meta"), torch.empty_like(y, device="meta"), loss)


def planned(trace, model, processor, *, batch, gpus=1, steps=1, mixed=True, optimizer="sgd"):
    parameters = sum(p.numel() for p in model.parameters())
    times = modeled_times(trace, processor, parameters=parameters, optimizer=optimizer, mixed=mixed)
    return estimated(
        trace, times, memory=processor.memory, link=processor.link, parameters=parameters, prunable=0, sparsity=0.0,
        prunable_share=0.0, optimizer=optimizer, batch=batch, gpus=gpus, steps=steps, mixed=mixed,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: MLP(12, (7, 5), 3), torch.zeros(4, 12)),
        (lambda: ResNet(3, 10, 18, 4), torch.zeros(2, 3, 32, 32)),
        (lambda: ResNet(3, 10, 50, 4), torch.zeros(2, 3, 32, 32)),
    ],
    ids=["mlp", "resnet-18", "resnet-50"],
)
def test_operations_are_those_that_torch_counts_over_real_numbers(make, x):
    y = torch.zeros(len(x), dtype=torch.int64)
    trace, model = trace_of(make, x, y), make()
    with FlopCounterMode(display=False) as counter:
        loss = CROSS_ENTROPY(model(x), y)
        forward = counter.get_total_flops()
        loss.backward()
    assert trace.flops(forward=True) == forward
    assert trace.flops(forward=False) == counter.get_total_flops() - forward


def test_fused_attention_costs_what_its_two_products_do():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            q = (x * self.scale).reshape(2, 5, 3, 4).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(q, q, q).mean((1, 3))

    trace = trace_of(Attention, torch.zeros(2, 5, 12), torch.zeros(2, dtype=torch.int64))
    assert trace.flops(forward=True) == 2 * (2 * 2 * 3 * 5 * 5 * 4)  # two products, a multiplication and an addition
    assert trace.flops(forward=False) == 2.5 * trace.flops(forward=True)


def test_an_mlp_keeps_its_inputs_and_activations():
    x = torch.zeros(8, 12)
    trace = trace_of(lambda: nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3)), x, torch.zeros(8).long())
    values = 8 * (12 + 7 + 3)  # inputs, hidden activations (ReLU's output is kept once), log-probabilities
    assert values <= trace.saved <= values + 8 * 2 + 2  # labels, and the weight of the loss


RESNET = (lambda: ResNet(3, 1000), torch.empty(256, 3, 224, 224, device="meta"), 256)
PUBLISHED = {
    # Images a second of one GPU, github.com/NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5
    "resnet-50, one A100, mixed": ("a100", True, 2470),
    "resnet-50, one V100, mixed": ("v100", True, 1200),
    "resnet-50, one V100, float32": ("v100", False, 367),
}


@pytest.fixture(scope="module")
def resnet():
    make, x, batch = RESNET
    return trace_of(make, x, torch.empty(batch, dtype=torch.int64, device="meta")), make()


@pytest.mark.parametrize("case", PUBLISHED)
def test_resnet_50_takes_what_nvidia_published(resnet, case):
    name, mixed, images = PUBLISHED[case]
    trace, model = resnet
    plan = planned(trace, model, hardware(name), batch=256, mixed=mixed)
    assert plan.samples_per_second == pytest.approx(images, rel=0.2)
    assert trace.flops(forward=True) / 256 == pytest.approx(2 * 4.09e9, rel=0.01)


def test_gpt_2_takes_what_nanogpt_published():
    """About four days on eight A100 of 40 GB (github.com/karpathy/nanoGPT): 600,000 updates of 8 × 5 × 12 rows."""
    tokens = torch.empty(12, 1024, dtype=torch.int64)

    def make():
        return GPT(50_257, 1_024, width=768, hidden=3_072, layers=12, heads=12)

    trace = trace_of(make, tokens, tokens, of_text)
    with torch.device("meta"):
        model = make()
    plan = planned(trace, model, hardware("a100-40gb"), batch=12, gpus=8, steps=600_000 * 5, optimizer="adamw")
    assert plan.hours / 24 == pytest.approx(4, rel=0.2)


PROJECT = """
import torch
from torch import nn


def vectors():
    return pair(torch.randn(552, 784))


def images():
    return pair(torch.randn(200, 3, 32, 32))


def rows():
    return pair(torch.randint(50, (232, 48)))


def pair(x):
    y = torch.arange(len(x)) % 10
    return (x[:-40], y[:-40]), (x[-40:], y[-40:])


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def cnn():
    def layer(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())

    body = nn.Sequential(layer(3, 32), layer(32, 32), nn.MaxPool2d(2), layer(32, 64))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def transformer():
    layer = nn.TransformerEncoderLayer(96, 4, 384, dropout=0.1, batch_first=True, activation=nn.GELU())
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(50, 96), body, Mean(), nn.Linear(96, 10))


class lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.body, self.head = nn.Embedding(50, 64), nn.LSTM(64, 128, batch_first=True), nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.body(self.tokens(x))[0][:, -1])
"""
# The last 40 samples are held out; whole batches remain.
KINDS = {"mlp": ("vectors", 256), "cnn": ("images", 32), "transformer": ("rows", 48), "lstm": ("rows", 64)}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "nets.py"
    path.write_text(PROJECT)
    return path


def of_kind(project, kind, **changes):
    data, batch = KINDS[kind]
    keys = {"task": f"{project}:{data}", "model": f"{project}:{kind}", "policy": "none", "monitors": "none"}
    return make_config(**{**keys, "batch_size": batch, "steps": 1_000, **changes})


def steps_of_a_run(config, folder, count=6):
    """Seconds of this thread that each step of a real run takes, without evaluations."""
    found = []
    folder.mkdir()
    training = Training(config, folder / "checkpoints", Silent())
    with RunStore(folder / "run.db", mode="w") as store, training.recorded(store):
        for _ in range(count):
            began = time.thread_time()
            training._train_step()
            found.append(time.thread_time() - began)
    return found[1:]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "cyclic_pruning"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_a_run_takes_here_what_is_planned(project, kind, policy, tmp_path):
    """Plan and run in turn: the least time of each is what the processor needs when no other process slows it down."""
    config, threads = of_kind(project, kind, policy=policy), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data, planned, taken, ratio = load_data(config), [], [], 0.0
        for number in range(8):
            planned.append(plan_run(config, None, data=data).step_seconds)
            taken += steps_of_a_run(config, tmp_path / str(number))
            ratio = min(taken) / min(planned)
            if number and abs(ratio - 1) < 0.2:
                break
        print(f"{kind} {policy}: {ratio:.3f} of {1e3 * min(planned):.2f} ms after {number + 1} rounds")
        assert ratio == pytest.approx(1, abs=0.2)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("layer", "least"), [(torch.relu, -0.9), (torch.log, 0.1), (torch.bernoulli, 0.1), (torch.sqrt, 0.1)]
)
def test_operations_are_timed_on_both_signs_where_they_are_defined(layer, least):
    class Net(nn.Module):
        def forward(self, x):
            return layer(x)

    calls, _ = called_operations(Net(), torch.empty(4, 8), torch.empty(4), lambda out, _: out)
    assert [_least_value(one) for one in calls] == [least]


def test_a_plan_for_this_cpu_is_the_sum_of_its_operations(project):
    config = of_kind(project, "mlp")
    data = load_data(config)
    x, y = torch.empty(256, 784), torch.empty(256, dtype=torch.int64)
    operations, sums = called_operations(config.model.build(data), x, y, make_loss(config, data))
    names = [str(one.function) for one in operations]
    assert names.count("aten.addmm.default") == 3
    assert names.count("aten.relu.default") == 2
    assert sums == []  # nothing is used twice
    forward, backward, again = timed(operations, sums)
    assert 0 < forward < backward  # of three products the backward pass makes five
    assert again == 0  # no blocks
    one = [it for it in operations if "addmm" in str(it.function)]
    assert timed(one, [])[0] > forward / 2


def test_a_tensor_that_is_used_twice_has_its_gradients_summed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5))

        def forward(self, x):
            h = x * self.weight
            return h * h.sin() + h

    _, sums = called_operations(Twice(), torch.empty(3, 5), torch.empty(3, 5), lambda out, y: (out - y).mean())
    assert [tuple(one.args[0].shape) for one in sums] == [(3, 5), (3, 5)]  # h is used three times


def test_recurrent_layers_are_timed_as_the_cpu_runs_them(project):
    config = of_kind(project, "lstm")
    data = load_data(config)
    x, y = torch.empty(64, 48, dtype=torch.int64), torch.empty(64, dtype=torch.int64)
    operations, _ = called_operations(config.model.build(data), x, y, make_loss(config, data))
    forward, backward, _ = timed(operations, [])
    assert forward > 0
    assert backward > 0


def test_gradient_checkpointing_costs_the_blocks_again_and_keeps_their_inputs():
    data = shapes_only((3, 64, 64), classes=10)
    plain, again = (
        plan_run(
            make_config(task="image-folder", model="resnet", batch_size=32, steps=10, gradient_checkpointing=given),
            hardware("a100"), data=data, samples=1_000,
        )
        for given in (False, True)
    )  # fmt: skip
    assert again.memory["activations"] < 0.6 * plain.memory["activations"]
    assert again.forward == plain.forward
    assert plain.backward + 0.9 * plain.forward < again.backward < plain.backward + plain.forward
    assert again.step_seconds > plain.step_seconds


def test_mixed_precision_is_what_the_run_says(project):
    config = of_kind(project, "mlp", mixed_precision="bfloat16")
    found = plan_run(config, hardware("a100"))
    assert found.memory["activations"] == plan_run(config, hardware("a100"), mixed=False).memory["activations"] / 2
    assert plan_run(config, None).step_seconds > 0
    with pytest.raises(ConfigError, match="planned for one process"):
        plan_run(config, None, gpus=2)


def test_ranks_share_the_batch_and_send_their_gradients():
    config = make_config(task="digits", batch_size=64, policy="cyclic_pruning", sparsity=0.9)
    data = shapes_only((1, 8, 8), classes=10)
    one, four = (plan_run(config, hardware("a100"), gpus=n, data=data, samples=1_000) for n in (1, 4))
    parameters = 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
    assert one.parameters == four.parameters == parameters
    assert one.prunable == 64 * 256 + 256 * 256
    assert (one.batch, four.batch) == (64, 16)
    assert one.communicated == 0
    assert four.communicated == 2 * 3 / 4 * 4 * parameters
    assert one.forward == 2 * 64 * (one.prunable + 2560)
    assert one.sparse_forward == pytest.approx(2 * 64 * (0.1 * one.prunable + 2560))
    assert one.memory["optimizer"] == 2 * 4 * parameters
    assert one.memory["masks and growth signal"] == 5 * one.prunable
    assert one.steps == four.steps == 2_000
    assert one.cost is None
    assert dataclasses.replace(four, price=2.0).cost == pytest.approx(2.0 * 4 * four.hours)


def test_a_plain_run_has_no_masks():
    data = shapes_only((1, 8, 8), classes=10)
    plan = plan_run(make_config(task="digits", policy="none"), hardware("h100"), data=data, samples=9)
    assert "masks and growth signal" not in plan.memory
    assert plan.sparse_forward == plan.forward


@pytest.mark.parametrize("name", HARDWARE)
def test_every_processor_has_a_source(name):
    assert "data sheet" in HARDWARE[name].source


def test_a_model_whose_shapes_depend_on_values_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class model(nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.a = nn.Linear(4, 2)\n"
        "    def forward(self, x):\n        return self.a(x) * (2 if x.sum().item() > 0 else 1)\n"
    )
    config = make_config(task="digits", model=f"{tmp_path / 'mine.py'}:model")
    with pytest.raises(ConfigError, match="cannot be traced without computing"):
        plan_run(config, hardware("h100"), data=shapes_only((4,), classes=2), samples=100)


def test_the_command_shows_a_plan_without_data(capsys, tmp_path):
    (tmp_path / "r.toml").write_text(
        'task = "image-folder"\nmodel = "resnet"\nwidths = [64]\nepochs = 90\nbatch_size = 2048\n'
    )
    shape = ["--input-shape", "3,64,64", "--classes", "1000", "--samples", "1281167"]
    assert main(["plan", str(tmp_path / "r.toml"), "--gpus", "8", "--gpu", "a100", "--price", "1.5", *shape]) == 0
    said = capsys.readouterr().out
    for word in ("25,557,032", "56,340 of 2,048 samples, 256 a rank", "a rank", "minutes", "cost", "data sheet"):
        assert word in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["digits", "--gpu", "h10"], "unknown gpu 'h10': expected one of v100"),
        (["digits", "--gpus", "65"], "gpus = 65: expected from 1 to the batch of 64"),
        (["digits", "--precision", "float8"], "expected mixed or float32"),
        (["digits", "--classes", "3"], "go with --input-shape"),
        (["digits", "--input-shape", "a,b", "--samples", "3"], "expected whole numbers"),
        (["digits", "--input-shape", "3,4"], "and --samples beside it"),
        (["digit"], "unknown task 'digit'"),
    ],
)
def test_every_mistake_is_one_line(argv, words, capsys):
    assert main(["plan", *argv]) == MISTAKE
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert words in captured.err
